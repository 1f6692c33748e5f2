"""Check request bodies in ways that several APIs share; each check raises the provider's 400."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .answers import text_of
from .call import Json
from .errors import (
    CALL_ID_MAX_CHARS,
    ITEM_ROLES,
    ITEM_TEXT_MAX_CHARS,
    METADATA_KEY_MAX_CHARS,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_MAX_CHARS,
    bad_request,
    missing,
    wrong_type,
    wrong_value,
)
from .ids import Seeded


def only_known(body: Json, known: Iterable[str]) -> None:
    """Raise a 400 for a top-level field that the API does not have."""
    allowed = frozenset(known)
    for name in body:
        if name not in allowed:
            raise bad_request(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def metadata_of(body: Json) -> dict[str, str]:
    """Return the `metadata` field, or {} if it is absent or null."""
    pairs = body.get("metadata")
    if pairs is None:
        return {}
    if not isinstance(pairs, dict):
        raise wrong_type("metadata", "an object", pairs)
    if len(pairs) > METADATA_PAIRS_MAX:
        raise bad_request(
            f"Invalid 'metadata': too many properties. Expected an object with at most {METADATA_PAIRS_MAX} "
            f"properties, but got an object with {len(pairs)} properties instead.",
            "metadata",
            "object_above_max_properties",
        )
    for key, value in pairs.items():
        if len(key) > METADATA_KEY_MAX_CHARS:
            raise bad_request(
                f"Invalid property name in 'metadata': string too long. Expected a string with maximum length "
                f"{METADATA_KEY_MAX_CHARS}, but got a string with length {len(key)} instead.",
                "metadata",
                "string_above_max_length",
            )
        string(value, f"metadata.{key}", METADATA_VALUE_MAX_CHARS)
    return dict(pairs)


def string(value: Any, param: str, maximum: int | None = None) -> str:
    """Return `value` if it is a string of at most `maximum` characters."""
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    if maximum is not None and len(value) > maximum:
        raise bad_request(
            f"Invalid '{param}': string too long. Expected a string with maximum length {maximum}, "
            f"but got a string with length {len(value)} instead.",
            param,
            "string_above_max_length",
        )
    return value


def flag(body: Json, name: str) -> bool:
    """Return a boolean field, or False if it is absent or null."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def stream_options(body: Json, known: Iterable[str]) -> Json:
    """Return the `stream_options` field, or {} if it is absent or null.

    The field is refused if `stream` is not true.
    """
    given = body.get("stream_options")
    if given is None:
        return {}
    options = an_object(given, "stream_options")
    if not flag(body, "stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise bad_request(message, "stream_options")
    for name in options:
        if name not in known:
            raise bad_request(
                f"Unknown parameter: 'stream_options.{name}'.", f"stream_options.{name}", "unknown_parameter"
            )
    return {name: flag(options, name) for name in options}


def optional_string(body: Json, name: str, maximum: int | None = None) -> str | None:
    """Return a string field, or None if it is absent or null."""
    return None if body.get(name) is None else string(body[name], name, maximum)


def required_string(body: Json, name: str, param: str | None = None, maximum: int | None = None) -> str:
    """Return a string field that must be present; `param` is its full name in error messages."""
    if body.get(name) is None:
        raise missing(param or name)
    return string(body[name], param or name, maximum)


def one_of(value: Any, param: str, supported: Sequence[str]) -> str:
    """Return `value` if it is one of the supported strings."""
    if not isinstance(value, str) or value not in supported:
        raise wrong_value(param, value, supported)
    return value


def array(value: Any, param: str, maximum: int | None = None) -> list[Any]:
    """Return `value` if it is an array of at most `maximum` elements."""
    if not isinstance(value, list):
        raise wrong_type(param, "an array of objects", value)
    if maximum is not None and len(value) > maximum:
        raise bad_request(
            f"Invalid '{param}': array too long. Expected an array with maximum length {maximum}, "
            f"but got an array with length {len(value)} instead.",
            param,
            "array_above_max_length",
        )
    return value


def an_object(value: Any, param: str) -> Json:
    """Return `value` if it is an object."""
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    return value


def identifier(value: str, param: str, prefix: str) -> str:
    """Return `value` if it has the prefix of its kind of id; this does not check that the object exists."""
    if not value.startswith(prefix):
        message = f"Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix.rstrip('_')}'."
        raise bad_request(message, param, "invalid_value")
    return value


ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
INPUT_PARTS = ("input_text", "input_image", "input_file")
OUTPUT_PARTS = ("output_text", "refusal")


def normalised(given: Any, where: str, seeded: Seeded) -> Json:
    """Return an item with its id, in the form in which it is stored.

    `where` names the item in error messages, such as `items[0]` or `input[3]`.
    """
    item = an_object(given, where)
    kind = one_of(item.get("type", "message" if "role" in item else None), f"{where}.type", ITEM_TYPES)
    match kind:
        case "message":
            return _message(item, where, seeded)
        case "function_call":
            return _function_call(item, where, seeded)
        case "function_call_output":
            return _function_call_output(item, where, seeded)
        case _:
            return _reasoning(item, where)


def answer_message(seeded: Seeded, text: str, status: str = "completed") -> Json:
    """Return a message item with a model's text."""
    content = [_output_text(text)]
    return {"id": seeded.long("msg_"), "type": "message", "status": status, "role": "assistant", "content": content}


def function_call(seeded: Seeded, name: str, arguments: str, call_id: str | None = None) -> Json:
    """Return an item that calls one of the app's functions."""
    item: Json = {"id": seeded.long("fc_"), "type": "function_call", "status": "completed"}
    return item | {"call_id": call_id or seeded.short("call_"), "name": name, "arguments": arguments}


def require_paired_calls(context: list[Json]) -> None:
    """Raise a 400 unless every tool call has its output and every output its call."""
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
    said = (item for item in reversed(context) if item["type"] == "message" and item["role"] == "user")
    return next((text_of(item["content"]) for item in said), "")


def _message(item: Json, where: str, seeded: Seeded) -> Json:
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
    stored: Json = {"id": seeded.long("msg_"), "type": "message", "status": "completed", "role": role, "content": parts}
    if role == "assistant" and item.get("phase") is not None:
        stored["phase"] = one_of(item["phase"], f"{where}.phase", ("commentary", "final_answer"))
    return stored


def _part(part: Any, role: str, where: str) -> Json:
    supported = OUTPUT_PARTS if role == "assistant" else INPUT_PARTS
    # In this error the provider names the part, not its type field.
    kind = one_of(an_object(part, where).get("type"), where, supported)
    if kind in ("input_image", "input_file"):
        return dict(part)
    field = "refusal" if kind == "refusal" else "text"
    text = required_string(part, field, f"{where}.{field}", ITEM_TEXT_MAX_CHARS)
    if kind == "output_text":
        return _output_text(text, part.get("annotations"))
    return {"type": kind, field: text}


def _output_text(text: str, annotations: list[Any] | None = None) -> Json:
    return {"type": "output_text", "text": text, "annotations": annotations or [], "logprobs": []}


def _function_call(item: Json, where: str, seeded: Seeded) -> Json:
    call_id = required_string(item, "call_id", f"{where}.call_id", CALL_ID_MAX_CHARS)
    name = required_string(item, "name", f"{where}.name")
    return function_call(seeded, name, required_string(item, "arguments", f"{where}.arguments"), call_id)


def _function_call_output(item: Json, where: str, seeded: Seeded) -> Json:
    call_id = required_string(item, "call_id", f"{where}.call_id", CALL_ID_MAX_CHARS)
    output = item.get("output")
    if output is None:
        raise missing(f"{where}.output")
    if isinstance(output, list):
        output = [_part(part, "tool", f"{where}.output[{index}]") for index, part in enumerate(output)]
    else:
        output = string(output, f"{where}.output", ITEM_TEXT_MAX_CHARS)
    stored: Json = {"id": seeded.long("fco_"), "type": "function_call_output", "status": "completed"}
    return stored | {"call_id": call_id, "output": output}


def _reasoning(item: Json, where: str) -> Json:
    stored: Json = {"id": required_string(item, "id", f"{where}.id"), "type": "reasoning"}
    if "summary" not in item:
        raise missing(f"{where}.summary")
    stored["summary"] = array(item["summary"], f"{where}.summary")
    return stored | {name: item[name] for name in ("content", "encrypted_content", "status") if name in item}
