"""Check the items of conversations and of responses' input, and convert them to the provider's form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Protocol

from .errors import ApiError, bad_request, missing, wrong_type, wrong_value
from .item_shapes import ANSWERED_WITH, ID_PREFIXES, ITEMS
from .limits import CALL_ID_MAX_CHARS, ITEM_ID_MAX_CHARS, ITEM_ROLES, ITEM_TEXT_MAX_CHARS
from .objects import text_of
from .parts import ITEM_PARTS, stored_part
from .validation import (
    Json,
    an_object,
    array,
    function_arguments,
    function_name,
    identifier,
    one_of,
    only_known,
    required_string,
    string,
)

ITEM_TYPES = ("message", "function_call", "function_call_output", *ITEMS)
INPUT_PARTS = ("input_text", "input_image", "input_file")
OUTPUT_PARTS = ("output_text", "refusal")
PREFIXED = ("message", "function_call", "reasoning", "custom_tool_call")
"""Types of items whose ids must have the beginning of their kind, as public reports show."""

PHASES = ("commentary", "final_answer")
STATUSES = ("in_progress", "completed", "incomplete")

_EVERY = {"id", "type", "status"}
_MESSAGE = frozenset(_EVERY | {"role", "content", "phase"})
_CALL = frozenset(_EVERY | {"call_id", "name", "arguments", "namespace", "caller"})
_OUTPUT = frozenset(_EVERY | {"call_id", "name", "output", "namespace", "caller"})


class IdSource(Protocol):
    """Generate ids that are never used again."""

    def short(self, prefix: str) -> str:
        """Return a new id in the form of the Assistants API and of tool calls."""
        ...

    def long(self, prefix: str) -> str:
        """Return a new id in the form of conversations, responses and their items."""
        ...


def stored_item(given: Any, where: str, ids: IdSource) -> Json:
    """Return an item from a request with its id, in the form in which it is stored.

    `where` names the item in error messages, such as `items[0]` or `input[3]`.
    """
    item = an_object(given, where)
    kind = one_of(item.get("type", "message" if "role" in item else None), f"{where}.type", ITEM_TYPES)
    if item.get("id") is not None:
        item_id = string(item["id"], f"{where}.id", ITEM_ID_MAX_CHARS)
        if kind in PREFIXED:
            identifier(item_id, f"{where}.id", id_prefix(kind))
    match kind:
        case "message":
            return _message(item, where, ids)
        case "function_call":
            return _function_call(item, where, ids)
        case "function_call_output":
            return _function_call_output(item, where, ids)
        case _:
            return _other(item, kind, where, ids)


def answer_message(item_id: str, text: str, status: str = "completed") -> Json:
    """Return a message item with a model's text."""
    content = [_output_text(text)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def id_prefix(kind: str) -> str:
    """Return the beginning of the ids of items of a type."""
    return {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_"}.get(
        kind, ID_PREFIXES.get(kind, "item_")
    )


def function_call(item_id: str, call_id: str, name: str, arguments: str) -> Json:
    """Return an item that calls one of the app's functions."""
    item: Json = {"id": item_id, "type": "function_call", "status": "completed"}
    return item | {"call_id": call_id, "name": name, "arguments": arguments}


def require_paired_calls(context: list[Json]) -> None:
    """Raise a 400 unless every tool call has exactly one output, every output its call, and every call its own id.

    OpenAI refuses a second output of a call; Anthropic refuses an id that is used twice.
    """
    for output_kind, call_kind in ANSWERED_WITH.items():
        _require_pairs(context, call_kind, output_kind)


def _require_pairs(context: list[Json], call_kind: str, output_kind: str) -> None:
    for kind in (call_kind, output_kind):
        for call_id, count in Counter(item["call_id"] for item in context if item["type"] == kind).items():
            if count > 1:
                raise bad_request(f"Duplicate {kind} with call_id {call_id}: call ids must be unique.", "input")
    called = {item["call_id"] for item in context if item["type"] == call_kind}
    answered = {item["call_id"] for item in context if item["type"] == output_kind}
    words = call_kind.replace("_", " ")
    for item in context:
        kind, call_id = item["type"], item.get("call_id")
        if kind == call_kind and call_id not in answered:
            raise bad_request(f"No tool output found for {words} {call_id}.", "input")
        if kind == output_kind and call_id not in called:
            raise bad_request(f"No tool call found for {words} output with call_id {call_id}.", "input")


def require_followed_reasoning(context: list[Json]) -> None:
    """Raise a 400 for a reasoning item that no other output of the model follows."""
    for item, following in zip(context, [*context[1:], None], strict=True):
        if item["type"] == "reasoning" and not _is_output(following):
            problem = f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
            raise bad_request(problem, "input")


def _is_output(item: Json | None) -> bool:
    if item is None:
        return False
    return bool(item["role"] == "assistant") if item["type"] == "message" else not item["type"].endswith("_output")


def require_known_reasoning(given: Any, outputs: Iterable[list[Json]], added: Iterable[Json]) -> None:
    """Raise the provider's refusal for the items of a request that name reasoning it cannot read.

    Reasoning without its encrypted content must be in one of the kept `outputs` of responses, or among the items that were
    `added` to conversations. An item that followed reasoning in an output is refused without it.
    """
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    if not any(item.get("id") for item in items):
        return
    lists = list(outputs)
    known = {item["id"] for listed in [*lists, added] for item in listed if item["type"] == "reasoning"}
    needed = {
        following["id"]: item["id"]
        for listed in lists
        for item, following in pairwise(listed)
        if item["type"] == "reasoning"
    }
    for before, item in zip([{}, *items], items, strict=False):
        item_id, kind = item.get("id"), item.get("type", "message")
        if kind == "reasoning" and not item.get("encrypted_content") and item_id not in known:
            problem = f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false. "
            raise ApiError(
                404, f"{problem}Try again with `store` set to true, or remove this item from your input.", param="input"
            )
        wanted = needed.get(item_id)
        if wanted is not None and before.get("id") != wanted:
            problem = (
                f"Item '{item_id}' of type '{kind}' was provided without its required 'reasoning' item: '{wanted}'."
            )
            raise bad_request(problem, "input")


def require_own_ids(context: list[Json], param: str) -> None:
    """Raise a 400 for two items with one id."""
    for item_id, count in Counter(item["id"] for item in context).items():
        if count > 1:
            problem = f"Duplicate item found with id {item_id}. Remove duplicate items from your input and try again."
            raise bad_request(problem, param)


def item_text(item: Json) -> str:
    """Return the text of an item, for counting tokens."""
    if item["type"] in ("function_call", "mcp_call"):
        return f"{item['name']} {item['arguments']}"
    return text_of(item.get("output", item.get("content", item.get("summary"))))


def last_user_text(context: list[Json]) -> str:
    """Return the text of the last user message, or an empty string."""
    messages = (item for item in reversed(context) if item["type"] == "message" and item["role"] == "user")
    return next((text_of(item["content"]) for item in messages), "")


def _require_fields(item: Json, where: str, known: frozenset[str]) -> None:
    """Check the fields that every item may have; a long history has many, so this is no table."""
    if not item.keys() <= known:
        only_known(item, known, f"{where}.")
    if item.get("status") is not None:
        one_of(item["status"], f"{where}.status", STATUSES)


def _message(item: Json, where: str, ids: IdSource) -> Json:
    role = one_of(required_string(item, "role", f"{where}.role"), f"{where}.role", ITEM_ROLES)
    _require_fields(item, where, _MESSAGE)
    content = item.get("content")
    if content is None:
        raise missing(f"{where}.content")
    if isinstance(content, str):
        text = string(content, f"{where}.content", ITEM_TEXT_MAX_CHARS)
        parts = [_output_text(text) if role == "assistant" else {"type": "input_text", "text": text}]
    elif isinstance(content, list):
        parts = [_part(part, role, f"{where}.content[{index}]") for index, part in enumerate(content)]
    else:
        raise wrong_type(f"{where}.content", "one of a string or array of objects", content)
    stored: Json = {"id": ids.long("msg_"), "type": "message", "status": item.get("status") or "completed"}
    stored |= {"role": role, "content": parts}
    if role == "assistant" and item.get("phase") is not None:
        stored["phase"] = one_of(item["phase"], f"{where}.phase", PHASES)
    return stored


def _part(part: Any, role: str, where: str) -> Json:
    supported = OUTPUT_PARTS if role == "assistant" else INPUT_PARTS
    kind = an_object(part, where).get("type")
    if not isinstance(kind, str) or kind not in supported:
        # In this error the provider names the part, not its type field.
        raise wrong_value(where, kind, supported)
    ITEM_PARTS[kind](part, where)
    return stored_part(part)


def _output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function_call(item: Json, where: str, ids: IdSource) -> Json:
    call_id = required_string(item, "call_id", f"{where}.call_id", CALL_ID_MAX_CHARS)
    if not call_id:
        raise bad_request(f"Invalid '{where}.call_id': empty string.", f"{where}.call_id", "invalid_value")
    name = function_name(item.get("name"), f"{where}.name")
    arguments = function_arguments(item.get("arguments"), f"{where}.arguments")
    _require_fields(item, where, _CALL)
    return function_call(ids.long("fc_"), call_id, name, arguments)


def _function_call_output(item: Json, where: str, ids: IdSource) -> Json:
    call_id = required_string(item, "call_id", f"{where}.call_id", CALL_ID_MAX_CHARS)
    output = item.get("output")
    if output is None:
        raise missing(f"{where}.output")
    if isinstance(output, list):
        output = [_part(part, "tool", f"{where}.output[{index}]") for index, part in enumerate(output)]
    else:
        output = string(output, f"{where}.output", ITEM_TEXT_MAX_CHARS)
    _require_fields(item, where, _OUTPUT)
    stored: Json = {"id": ids.long("fco_"), "type": "function_call_output", "status": "completed"}
    return stored | {"call_id": call_id, "output": output}


def _other(item: Json, kind: str, where: str, ids: IdSource) -> Json:
    """Return a reasoning item, a call of a tool of the provider, or another item that is stored as it was given."""
    ITEMS[kind](item, where)
    if kind == "custom_tool_call_output" and isinstance(item["output"], list):
        for index, part in enumerate(array(item["output"], f"{where}.output")):
            _part(part, "tool", f"{where}.output[{index}]")
    given = {name: value for name, value in item.items() if value is not None or name in _KEPT_NULLS}
    return {"id": ids.long(id_prefix(kind)), **given}


_KEPT_NULLS = ("code", "outputs", "result", "error", "output")
"""Fields of items in which null has a meaning, or which the description requires."""
