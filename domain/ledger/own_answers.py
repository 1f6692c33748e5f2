"""Read the answer of an app's own model call: text, parts, a message or tool calls, as dicts or as objects of any SDK."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..conversation import Completion, parse_message, text_message
from ..conversation.messages import Message, Role, Text, ToolCall, Usage
from ..errors import InvalidMessage
from ..ids import new_id

KEPT_FIELDS = ("content", "refusal", "name", "audio", "annotations", "function_call")
"""Fields of an answer that are stored; an SDK's object also has the facts of its request."""

HIDDEN_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Types of content parts that are not part of the answer."""

TOKENS_MAX = 2**53
"""Largest number of tokens that is believed: JSON readers keep whole numbers up to here."""

_COUNTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "input_tokens": (("input_tokens",), ("prompt_tokens",), ("prompt_token_count",), ("inputTokens",)),
    "output_tokens": (("output_tokens",), ("completion_tokens",), ("candidates_token_count",), ("outputTokens",)),
    "cached_tokens": (
        ("cached_tokens",),
        ("input_tokens_details", "cached_tokens"),
        ("prompt_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
        ("cached_content_token_count",),
    ),
    "reasoning_tokens": (
        ("reasoning_tokens",),
        ("output_tokens_details", "reasoning_tokens"),
        ("completion_tokens_details", "reasoning_tokens"),
        ("thoughts_token_count",),
    ),
}
"""Where each count is: in Responses, Chat Completions, Anthropic's Messages, Gemini and Bedrock."""


def completion_of(answer: object, tool_calls: Iterable[object] | None, usage: object, **facts: Any) -> Completion:
    """Return what the app's model answered; a message with tool calls continues the exchange.

    Raises:
        InvalidMessage: the answer is empty, or cannot be stored.
    """
    message = _message(answer, tool_calls)
    if message.role is not Role.ASSISTANT:
        raise InvalidMessage(
            f"the answer has the role {message.role.value!r}: complete a run with the assistant's message"
        )
    calls = bool(message.calls())
    if not (calls or message.text.strip() or _has_other_parts(message)):
        raise InvalidMessage("the answer is empty: complete the run with a non-empty text, or let it fail")
    return Completion((message,), usage=usage_of(usage), goes_on=calls, **facts)


def usage_of(given: object) -> Usage:
    """Return the token counts as the provider counts them; 0 for each that is missing or no number."""
    if given is None or isinstance(given, Usage):
        return given or Usage()
    return Usage(**{name: _count(given, paths) for name, paths in _COUNTS.items()})


def _message(answer: object, tool_calls: Iterable[object] | None) -> Message:
    if isinstance(answer, Message) and tool_calls is None:
        return answer
    if isinstance(answer, str) and tool_calls is None:
        return text_message(Role.ASSISTANT.value, answer)
    given = _fields(answer)
    calls = [_call(each) for each in (given.pop("tool_calls", None) if tool_calls is None else tool_calls) or ()]
    content = given.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        calls += [_call(each) for each in content if _get(each, "type") == "tool_use"]
        parts = list(_parts(content))
        given["content"] = parts[0]["text"] if len(parts) == 1 and parts[0].get("type") == "text" else parts or None
    if not calls and not given.get("content") and not given.get("refusal"):
        given["content"] = ""  # refused below, as an empty answer
    return parse_message(given | ({"tool_calls": calls} if calls else {}))


def _fields(answer: object) -> dict[str, Any]:
    """Return the fields of a message from text, parts, a dict, or an object with these attributes."""
    if answer is None or isinstance(answer, str):
        return {"role": Role.ASSISTANT.value, "content": answer}
    if isinstance(answer, Message):
        return answer.as_chat_message()
    if isinstance(answer, Sequence):
        return {"role": Role.ASSISTANT.value, "content": answer}
    if isinstance(answer, Mapping) and "content" not in answer and "tool_calls" not in answer and "type" in answer:
        return {"role": Role.ASSISTANT.value, "content": [answer]}
    kept = {name: _get(answer, name) for name in KEPT_FIELDS}
    role = _get(answer, "role") or Role.ASSISTANT.value
    carried = {name: _plain(value) for name, value in kept.items() if value or name == "content"}
    return {"role": role, "tool_calls": _get(answer, "tool_calls")} | carried


def _parts(content: Sequence[object]) -> Iterator[dict[str, Any]]:
    for part in content:
        kind, text = _get(part, "type"), _get(part, "text")
        if kind in HIDDEN_PARTS or kind == "tool_use":
            continue
        is_text = kind in {"text", "output_text"} and isinstance(text, str)
        yield {"type": "text", "text": text} if is_text else _plain(part)


def _call(given: object) -> dict[str, Any]:
    """Return a tool call in the format of Chat Completions; one without an id gets a new one."""
    if isinstance(given, ToolCall):
        return given.as_json()
    function = _get(given, "function") or given
    name, arguments = _get(function, "name"), _get(function, "arguments")
    if not isinstance(name, str) or not name:
        raise InvalidMessage("a tool call has no name: pass id, type, and function with name and arguments")
    if arguments is None:
        arguments = _get(given, "input")
    if not isinstance(arguments, str):
        arguments = json.dumps(_plain(arguments) or {}, ensure_ascii=False, default=str)
    call_id = _get(given, "call_id") or _get(given, "id") or f"call_{new_id()}"
    return ToolCall(str(call_id), name, arguments).as_json()


def _plain(value: Any) -> Any:
    """Return an object of an SDK as JSON types, without its empty fields."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(exclude_none=True)
    return dict(value) if isinstance(value, Mapping) else value


def _has_other_parts(message: Message) -> bool:
    return isinstance(message.content, tuple) and any(not isinstance(part, Text) for part in message.content)


def _count(given: object, paths: tuple[tuple[str, ...], ...]) -> int:
    for path in paths:
        found: Any = given
        for name in path:
            found = _get(found, name) if found is not None else None
        if isinstance(found, str) and found.isdecimal() and len(found) < len(str(TOKENS_MAX)):
            found = int(found)
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= TOKENS_MAX:
            return found
    return 0


def _get(holder: object, name: str) -> Any:
    """Return a field of a dict or object; None if it is missing or cannot be read."""
    try:
        return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - the object is any SDK's, and an odd field must not cost an answer that was paid for
        return None
