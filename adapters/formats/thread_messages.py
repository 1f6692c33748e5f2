"""Convert messages and tool call steps of an Assistants thread to entries of a conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from threadledger.domain import InvalidInput, from_iso, to_iso

from .found import Entry, message_of, moment, source_id
from .parts import hosted_call, is_empty, simplest

MESSAGE_ID = "threadledger_message"
WRITTEN_AT = "threadledger_written_at"
"""Metadata fields in which a message written by a ledger has its message id and its original timestamp."""

CARRIED = ("attachments", "incomplete_details")
"""Fields of a message that are kept with its content. Attachments are file ids, with size and hash if the dump has them."""


def entries_of(thing: Mapping[str, Any], number: int, left_out: Counter[str]) -> Iterator[Entry]:
    """Yield the entries of a message or step; count in `left_out` what cannot be converted."""
    name = f"message {number}"
    if thing.get("type") == "tool_calls":
        yield from _of_step(thing, name, left_out)
        return
    given = _chat_message(thing, name, left_out)
    if given is not None:
        metadata = _mapping(thing.get("metadata"))
        ours = metadata.get(MESSAGE_ID)
        yield Entry(
            message_of(given, name),
            thing["id"],
            name,
            _iso(metadata.get(WRITTEN_AT)) or moment(thing.get("created_at")),
            ours if isinstance(ours, str) and ours else None,
        )


def _chat_message(message: Mapping[str, Any], name: str, left_out: Counter[str]) -> dict[str, Any] | None:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidInput(f"{name}: its content is {type(content).__name__}: a list of parts is expected")
    annotations: list[Any] = []
    parts = [_part(part, annotations, name) for part in content]
    extra = {field: message[field] for field in CARRIED if message.get(field)}
    if is_empty(parts) and "attachments" not in extra:
        left_out["empty_messages"] += 1
        return None
    if annotations:
        extra["annotations"] = annotations
    foreign = {
        field: value
        for field, value in _mapping(message.get("metadata")).items()
        if field not in {MESSAGE_ID, WRITTEN_AT}
    }
    if foreign:
        extra["metadata"] = foreign
    return {"role": message.get("role"), "content": simplest(parts) if parts else "", **extra}


def _part(part: Any, annotations: list[Any], name: str) -> dict[str, Any]:
    """Convert a content part and collect its annotations in `annotations`.

    Parts without an equivalent in Chat Completions (image_file, refusal) are kept unchanged.
    """
    match part:
        case {"type": "text", "text": {"value": str(text)}}:
            if isinstance(part["text"].get("annotations"), list):
                annotations += part["text"]["annotations"]
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url), "detail": "auto"}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case Mapping():
            return dict(part)
    raise InvalidInput(f"{name}: a part of its content is {type(part).__name__}: an object with a type is expected")


def _of_step(step: Mapping[str, Any], name: str, left_out: Counter[str]) -> Iterator[Entry]:
    """Yield the function calls of a step as one message, then their results; calls of hosted tools become text."""
    calls = _mapping(step.get("step_details")).get("tool_calls")
    functions: list[dict[str, Any]] = []
    others: list[tuple[str, dict[str, Any]]] = []
    for call in calls if isinstance(calls, list) else ():
        match call:
            case {"type": "function", "id": str(call_id), "function": {"name": str(function), "arguments": str(wish)}}:
                asked = {"name": function, "arguments": wish}
                functions.append({"id": call_id, "type": "function", "function": asked})
                output = call["function"].get("output")
                if output is None:
                    left_out["calls_without_result"] += 1
                else:
                    others.append((call_id, {"role": "tool", "tool_call_id": call_id, "content": output}))
            case {"type": str(kind)}:
                told = hosted_call(kind, _mapping(call.get(kind)), left_out)
                others.append((str(call.get("id", len(others))), told))
            case _:
                left_out["other_calls"] += 1
    calling = [("calls", {"role": "assistant", "content": None, "tool_calls": functions})] if functions else []
    for call_id, given in [*calling, *others]:
        place = source_id(f"{step['id']}/{call_id}", name)
        yield Entry(message_of(given, name), place, name, moment(step.get("created_at")))


def _iso(text: Any) -> str | None:
    try:
        return to_iso(from_iso(text))
    except (TypeError, ValueError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
