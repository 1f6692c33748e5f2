"""Read the answer of an app's own model call: text, parts, a message or tool calls, as dicts or as objects of any SDK."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from ..conversation import Completion, parse_message, text_message
from ..conversation.items import CALLS, block_message, output_messages, with_fields
from ..conversation.messages import Message, Role, ToolCall, Usage
from ..conversation.parts import Text
from ..errors import InvalidMessage
from ..failures import whole_text
from ..ids import new_id

KEPT_FIELDS = ("content", "refusal", "name", "function_call")
"""Fields of an answer that are read; an SDK's object also has the facts of its request."""

NATIVE_FIELDS: dict[str, type] = {
    "annotations": list,
    "audio": dict,
    "reasoning_content": str,
    "reasoning": str,
    "reasoning_details": list,
    "images": list,
}
"""Fields of an answer of Chat Completions, or of a server that imitates it, that are kept as the provider sent them, with
the type of each."""

TOKENS_MAX = 2**53
"""Largest number of tokens that is believed: JSON readers keep whole numbers up to here."""

FACT_CHARS_MAX = 500
"""Maximum length of a fact about a call, such as the model's name, in characters."""

_CALLS = frozenset({"tool_use", "function_call", "custom_tool_call"})
"""Types of content parts, or items of Responses, that are tool calls."""

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
    said = answer
    if not isinstance(answer, str):
        said = _said(answer)
        facts["model"] = facts.get("model") or _get(answer, "model")
        facts["finish_reason"] = facts.get("finish_reason") or _get(_first(answer, "choices"), "finish_reason")
    lost: Counter[str] = Counter()
    try:
        *before, message = _messages(said, tool_calls, lost)
    except InvalidMessage:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise InvalidMessage(f"the answer cannot be read ({kind}): pass its text, its parts or a message") from error
    if message.role is not Role.ASSISTANT:
        raise InvalidMessage(
            f"the answer has the role {message.role.value!r}: complete a run with the assistant's message"
        )
    calls = bool(message.calls())
    if not (calls or before or message.text.strip() or _has_other_parts(message)):
        raise InvalidMessage("the answer is empty: complete the run with a non-empty text, or let it fail")
    tokens = usage_of(_get(answer, "usage") if usage is None else usage)
    known: dict[str, Any] = {name: _fact(value) for name, value in facts.items() if value is not None}
    return Completion((*before, message), usage=tokens, goes_on=calls, losses=lost, **known)


def usage_of(given: object) -> Usage:
    """Return the token counts as the provider counts them; 0 for each that is missing or no number."""
    return Usage(**{name: _count(given, paths) for name, paths in _COUNTS.items()}) if given is not None else Usage()


def _messages(answer: object, tool_calls: Iterable[object] | None, lost: Counter[str]) -> Sequence[Message]:
    """Return the messages of an answer: the items of Responses may have several, anything else is one."""
    if isinstance(answer, str):
        return [_message(answer, tool_calls)]
    content = answer if isinstance(answer, list | tuple) else _get(answer, "content")
    parts: Sequence[object] = content if isinstance(content, list | tuple) else ()
    kinds = {kind for each in parts if isinstance(kind := _get(each, "type"), str)}
    if tool_calls is None and parts and not isinstance(answer, Message):
        is_items = bool(kinds & {"message", "reasoning", *CALLS}) or any(kind.endswith("_call") for kind in kinds)
        is_blocks = bool(kinds & {"thinking", "redacted_thinking", "tool_use"}) or any(
            _get(each, "citations") for each in parts
        )
        if is_items or is_blocks or any(kind.endswith("_tool_use") for kind in kinds):
            for each in parts:
                if _get(each, "type") in _CALLS:
                    _call(each)  # one without a name is refused
            read = [_plain(each) for each in parts]
            return output_messages(read, lost) if is_items else [block_message(read, lost)]
    message = _message(answer, tool_calls)
    if isinstance(answer, Message | Sequence):
        return [message]
    given = {name: _plain(_get(answer, name)) for name in NATIVE_FIELDS}
    others = {name: value for name, value in given.items() if value and isinstance(value, NATIVE_FIELDS[name])}
    return [with_fields(message, others, lost)] if others else [message]


def _message(answer: object, tool_calls: Iterable[object] | None) -> Message:
    if isinstance(answer, Message) and tool_calls is None:
        return parse_message(answer.as_chat_message())  # its fields may hold anything: only parsing checks them
    if isinstance(answer, str) and tool_calls is None:
        return text_message(Role.ASSISTANT.value, answer)
    given = _fields(answer)
    calls = [_call(each) for each in _listed(given.pop("tool_calls", None) if tool_calls is None else tool_calls)]
    legacy = given.pop("function_call", None)
    calls += [_call(legacy)] if legacy and not calls else []
    content = given.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        if tool_calls is None:
            calls += [_call(each) for each in content if _get(each, "type") in _CALLS]
        parts = list(_parts(content))
        is_text = len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text"
        given["content"] = parts[0]["text"] if is_text else parts or None
    spoken = _get(_get(answer, "audio"), "transcript")
    if not given.get("content") and isinstance(spoken, str):
        given["content"] = spoken
    if not calls and not given.get("content") and not given.get("refusal"):
        given["content"] = ""  # refused below, as an empty answer
    return parse_message(given | ({"tool_calls": calls} if calls else {}))


def _listed(given: object) -> Iterable[object]:
    """Return the tool calls of an answer; a single one may be passed alone.

    Raises:
        InvalidMessage: they are neither calls nor a list of them.
    """
    if isinstance(given, Mapping) or _get(given, "function") is not None or _get(given, "name") is not None:
        return [given]
    if given and (isinstance(given, str | bytes) or not isinstance(given, Iterable)):
        raise InvalidMessage(f"the tool calls of the answer are {type(given).__name__}: give a list of calls")
    return given if isinstance(given, Iterable) else ()


def _first(answer: object, name: str) -> object:
    """Return the first item of a list in an answer, else the answer itself."""
    found = _get(answer, name)
    return found[0] if isinstance(found, list | tuple) and found else answer


def _said(answer: object) -> object:
    """Return the message, items or text of a complete Chat Completion, of one of its choices, or of a response."""
    chosen = _first(answer, "choices")
    if _get(chosen, "content") is not None:
        return chosen
    message, items = _get(chosen, "message"), _get(chosen, "output")
    if message is not None:
        return message
    return items if isinstance(items, list | tuple) and items else chosen


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
    text = _get(answer, "text")
    kept["content"] = text if kept["content"] is None and isinstance(text, str) else kept["content"]
    others = {name: _plain(value) for name, value in kept.items() if name != "content"}
    carried = {name: value for name, value in others.items() if value}
    return {"role": role, "tool_calls": _get(answer, "tool_calls"), "content": kept["content"]} | carried


def _parts(content: Iterable[object]) -> Iterator[dict[str, Any]]:
    """Yield the content parts of an answer that has no items or blocks of the APIs."""
    for part in content:
        kind, text = _get(part, "type"), _get(part, "text")
        if kind in _CALLS:
            continue
        if isinstance(part, str) or (kind in {"text", "output_text"} and isinstance(text, str)):
            noted = _plain(_get(part, "annotations"))
            yield {"type": "text", "text": part if isinstance(part, str) else text} | (
                {"annotations": noted} if isinstance(noted, list) and noted else {}
            )
        elif isinstance(plain := _plain(part), dict):
            refusal = plain.get("refusal")
            yield {"type": "text", "text": refusal} if kind == "refusal" and isinstance(refusal, str) else plain


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
        arguments = json.dumps(_plain(arguments) or {}, ensure_ascii=False)
    call_id = _get(given, "call_id") or _get(given, "id") or f"call_{new_id()}"
    return ToolCall(str(call_id), name, arguments).as_json()


def _plain(value: object) -> Any:
    """Return a value of any SDK as JSON types, without the empty fields of its objects; None if that is not possible."""
    try:
        return json.loads(whole_text(json.dumps(value, ensure_ascii=False, default=_opened)), parse_constant=str)
    except Exception:  # noqa: BLE001 - the value is any SDK's, and an odd field must not cost an answer that was paid for
        return None


def _opened(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(exclude_none=True)
    if isinstance(value, Enum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else vars(value) if hasattr(value, "__dict__") else str(value)


def _fact(given: object) -> str | None:
    """Return a fact of a call as text of bounded length; None if there is none, or if it cannot be represented."""
    plain = _plain(given)
    text = plain if plain is None or isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return text[:FACT_CHARS_MAX] if text else None


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
