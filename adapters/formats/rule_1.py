"""Convert items and messages of providers as the first rule of imports does. It is frozen: nothing here is ever changed.

Conversations that were imported by it are compared and continued by it; `reading.py` says how a conversation's rule is found.
Under this rule, what has no place in a message of Chat Completions is left out or said in words, citations are a field of the
message, and each item is a message of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from threadledger.domain.conversation.items import CALLS
from threadledger.domain.errors import InvalidInput

from .repairs import COMPACTION_TYPES, REASONING_TYPES, by_reference, is_empty, simplest

JSON = dict[str, Any]

_CARRIED = ("phase",)


def item_message(item: Mapping[str, Any], left_out: Counter[str]) -> JSON | None:
    """Return an item of Responses as a message of Chat Completions; None for one that is left out and counted.

    Raises:
        InvalidInput: it is no item of the Responses API.
    """
    match item:
        case {"type": "function_call", "name": str(name)}:
            function = {"name": name, "arguments": item.get("arguments")}
            return _calling({"id": item.get("call_id"), "type": "function", "function": function})
        case {"type": "custom_tool_call", "call_id": str(call_id), "name": str(name), "input": str(given)}:
            return _calling({"id": call_id, "type": "custom", "custom": {"name": name, "input": given}})
        case {"type": "function_call_output" | "custom_tool_call_output", "output": output}:
            content = (
                simplest([_item_part(part, []) for part in output]) if isinstance(output, list) and output else output
            )
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
        case {"type": str(kind)} if kind in REASONING_TYPES or kind in COMPACTION_TYPES:
            left_out["reasoning" if kind in REASONING_TYPES else "compaction_items"] += 1
            return None
        case {"type": "message"} | {"role": _}:
            return _message(item, left_out)
        case {"type": str(kind)}:
            record = {name: value for name, value in item.items() if name not in {"type", "id", "status"}}
            return hosted_call(kind, record, left_out)
    raise InvalidInput("it has neither a role nor a type: an item of the Responses API is expected")


def is_kept_whole(item: Mapping[str, Any]) -> bool:
    """Return whether an item is left out of messages, or said in words, so that it is kept as it is besides."""
    if not isinstance(item.get("type"), str) or "role" in item:
        return False
    return item["type"] not in {"message", *CALLS} and not item["type"].endswith("_call_output")


def _calling(call: JSON) -> JSON:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _message(item: Mapping[str, Any], left_out: Counter[str]) -> JSON | None:
    content = item.get("content")
    extra = {name: item[name] for name in _CARRIED if item.get(name) is not None}
    if not isinstance(content, list):
        return {"role": item.get("role"), "content": content, **extra}
    annotations: list[Any] = []
    parts = [_item_part(part, annotations) for part in content]
    if is_empty(parts):
        left_out["empty_messages"] += 1
        return None
    if annotations:
        extra["annotations"] = annotations
    return {"role": item.get("role"), "content": simplest(parts), **extra}


def _item_part(part: Any, annotations: list[Any]) -> Any:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            if isinstance(part.get("annotations"), list):
                annotations += part["annotations"]
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = {"detail": part["detail"]} if part.get("detail") not in (None, "auto") else {}
            return {"type": "image_url", "image_url": {"url": url} | detail}
        case {"type": "input_file", "file_id": str(file_id)}:
            rest = {name: value for name, value in part.items() if name != "type" and value is not None}
            return {"type": "file", "file": rest or {"file_id": file_id}}
        case Mapping():
            return dict(part)
    return part


def hosted_call(name: str, record: Mapping[str, Any], left_out: Counter[str]) -> JSON:
    """Return a call of a tool that the provider ran as an assistant's message with text."""
    left_out["hosted_calls_as_text"] += 1
    return {
        "role": "assistant",
        "content": f"[tool call {name} {json.dumps(by_reference(record), ensure_ascii=False)}]",
    }


def thread_content(content: Any, extra: JSON) -> Any:
    """Return the content of a thread's message; what the provider says about its texts is added to `extra`."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return "" if content is None else content
    annotations: list[Any] = []
    parts = [_thread_part(part, annotations) for part in content]
    if annotations:
        extra["annotations"] = annotations
    return simplest(parts) if parts else ""


def _thread_part(part: Any, annotations: list[Any]) -> Any:
    match part:
        case {"type": "text", "text": {"value": str(text)}}:
            if isinstance(part["text"].get("annotations"), list):
                annotations += part["text"]["annotations"]
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url), "detail": "auto"}}:
            return {"type": "image_url", "image_url": {"url": url}}
    return part
