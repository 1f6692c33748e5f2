"""Convert items of the Responses API, as stored by Agents SDK sessions and Conversations, to messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from threadledger.domain import InvalidInput

from .parts import hosted_call, is_empty, simplest

CARRIED = ("phase",)
"""Fields of a message that are kept with its content, because models need them again."""


def chat_message(item: Any, left_out: Counter[str]) -> dict[str, Any] | None:
    """Return an item as a Chat Completions message, or None for one that is left out and counted in `left_out`.

    Raises:
        InvalidInput: the value is not an item of the Responses API.
    """
    if not isinstance(item, Mapping):
        raise InvalidInput(f"it is {type(item).__name__}, not an object: an item of the Responses API is expected")
    match item:
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            function = {"name": name, "arguments": arguments}
            return _calling({"id": call_id, "type": "function", "function": function})
        case {"type": "custom_tool_call", "call_id": str(call_id), "name": str(name), "input": str(given)}:
            return _calling({"id": call_id, "type": "custom", "custom": {"name": name, "input": given}})
        case {"type": "function_call_output" | "custom_tool_call_output", "call_id": str(call_id), "output": output}:
            content = simplest([_part(part, []) for part in output]) if isinstance(output, list) else output
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        case {"type": "reasoning"}:
            left_out["reasoning"] += 1
            return None
        case {"type": "message"} | {"role": _}:
            return _message(item, left_out)
        case {"type": str(kind)}:
            record = {name: value for name, value in item.items() if name not in {"type", "id", "status"}}
            return hosted_call(kind, record, left_out)
    raise InvalidInput("it has neither a role nor a type: an item of the Responses API is expected")


def _calling(call: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _message(item: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any] | None:
    content = item.get("content")
    extra = {name: item[name] for name in CARRIED if item.get(name) is not None}
    if not isinstance(content, list):
        return {"role": item.get("role"), "content": content, **extra}
    annotations: list[Any] = []
    parts = [_part(part, annotations) for part in content]
    if is_empty(parts):
        left_out["empty_messages"] += 1
        return None
    if annotations:
        extra["annotations"] = annotations
    return {"role": item.get("role"), "content": simplest(parts), **extra}


def _part(part: Any, annotations: list[Any]) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            if isinstance(part.get("annotations"), list):
                annotations += part["annotations"]
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = {"detail": part["detail"]} if part.get("detail") not in {None, "auto"} else {}
            return {"type": "image_url", "image_url": {"url": url} | detail}
        case {"type": "input_file", "file_id": str(file_id)}:
            rest = {name: value for name, value in part.items() if name != "type" and value is not None}
            return {"type": "file", "file": rest or {"file_id": file_id}}
        case Mapping():
            return dict(part)
    raise InvalidInput(f"a part of its content is {type(part).__name__}: an object with a type is expected")
