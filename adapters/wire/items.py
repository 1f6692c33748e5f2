"""Check the items of conversations and of responses' input, and convert them to the provider's form."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from .errors import bad_request, missing, wrong_type
from .limits import CALL_ID_MAX_CHARS, ITEM_ROLES, ITEM_TEXT_MAX_CHARS
from .objects import text_of
from .validation import (
    Json,
    an_object,
    array,
    function_arguments,
    function_name,
    image_address,
    image_detail,
    one_of,
    optional_string,
    required_string,
    string,
)

ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
INPUT_PARTS = ("input_text", "input_image", "input_file")
OUTPUT_PARTS = ("output_text", "refusal")


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
    match kind:
        case "message":
            return _message(item, where, ids)
        case "function_call":
            return _function_call(item, where, ids)
        case "function_call_output":
            return _function_call_output(item, where, ids)
        case _:
            return _reasoning(item, where)


def answer_message(item_id: str, text: str, status: str = "completed") -> Json:
    """Return a message item with a model's text."""
    content = [_output_text(text)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def function_call(item_id: str, call_id: str, name: str, arguments: str) -> Json:
    """Return an item that calls one of the app's functions."""
    item: Json = {"id": item_id, "type": "function_call", "status": "completed"}
    return item | {"call_id": call_id, "name": name, "arguments": arguments}


def require_paired_calls(context: list[Json]) -> None:
    """Raise a 400 unless every tool call has exactly one output, every output its call, and every call its own id.

    OpenAI refuses a second output of a call; Anthropic refuses an id that is used twice.
    """
    for kind in ("function_call", "function_call_output"):
        for call_id, count in Counter(item["call_id"] for item in context if item["type"] == kind).items():
            if count > 1:
                raise bad_request(f"Duplicate {kind} with call_id {call_id}: call ids must be unique.", "input")
    called = {item["call_id"] for item in context if item["type"] == "function_call"}
    answered = {item["call_id"] for item in context if item["type"] == "function_call_output"}
    for item in context:
        kind, call_id = item["type"], item.get("call_id")
        if kind == "function_call" and call_id not in answered:
            raise bad_request(f"No tool output found for function call {call_id}.", "input")
        if kind == "function_call_output" and call_id not in called:
            raise bad_request(f"No tool call found for function call output with call_id {call_id}.", "input")


def item_text(item: Json) -> str:
    """Return the text of an item, for counting tokens."""
    if item["type"] == "function_call":
        return f"{item['name']} {item['arguments']}"
    return text_of(item.get("output", item.get("content")))


def last_user_text(context: list[Json]) -> str:
    """Return the text of the last user message, or an empty string."""
    messages = (item for item in reversed(context) if item["type"] == "message" and item["role"] == "user")
    return next((text_of(item["content"]) for item in messages), "")


def _message(item: Json, where: str, ids: IdSource) -> Json:
    role = one_of(required_string(item, "role", f"{where}.role"), f"{where}.role", ITEM_ROLES)
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
    stored: Json = {"id": ids.long("msg_"), "type": "message", "status": "completed", "role": role, "content": parts}
    if role == "assistant" and item.get("phase") is not None:
        stored["phase"] = one_of(item["phase"], f"{where}.phase", ("commentary", "final_answer"))
    return stored


def _part(part: Any, role: str, where: str) -> Json:
    supported = OUTPUT_PARTS if role == "assistant" else INPUT_PARTS
    # In this error the provider names the part, not its type field.
    kind = one_of(an_object(part, where).get("type"), where, supported)
    if kind == "input_image":
        if optional_string(part, "file_id") is None:
            image_address(part.get("image_url"), f"{where}.image_url")
        image_detail(part.get("detail"), f"{where}.detail")
        return dict(part)
    if kind == "input_file":
        if not any(optional_string(part, name) for name in ("file_id", "file_data", "file_url")):
            raise missing(f"{where}.file_id")
        return dict(part)
    field = "refusal" if kind == "refusal" else "text"
    text = required_string(part, field, f"{where}.{field}", ITEM_TEXT_MAX_CHARS)
    if kind == "output_text":
        return _output_text(text, part.get("annotations"))
    return {"type": kind, field: text}


def _output_text(text: str, annotations: list[Any] | None = None) -> Json:
    return {"type": "output_text", "text": text, "annotations": annotations or [], "logprobs": []}


def _function_call(item: Json, where: str, ids: IdSource) -> Json:
    call_id = required_string(item, "call_id", f"{where}.call_id", CALL_ID_MAX_CHARS)
    if not call_id:
        raise bad_request(f"Invalid '{where}.call_id': empty string.", f"{where}.call_id", "invalid_value")
    name = function_name(item.get("name"), f"{where}.name")
    arguments = function_arguments(item.get("arguments"), f"{where}.arguments")
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
    stored: Json = {"id": ids.long("fco_"), "type": "function_call_output", "status": "completed"}
    return stored | {"call_id": call_id, "output": output}


def _reasoning(item: Json, where: str) -> Json:
    stored: Json = {"id": required_string(item, "id", f"{where}.id"), "type": "reasoning"}
    if "summary" not in item:
        raise missing(f"{where}.summary")
    stored["summary"] = array(item["summary"], f"{where}.summary")
    return stored | {name: item[name] for name in ("content", "encrypted_content", "status") if name in item}
