"""Parse messages from outside: check and freeze them, or raise an error that says in one sentence what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidMessage
from ..limits import JSON_LEVELS_MAX, MESSAGE_BYTES_MAX
from .messages import Content, Message, Role, ToolCall, is_short_text, plain_message


def text_message(role: str, text: str) -> Message:
    """Create a message of plain text.

    Raises:
        InvalidMessage: the role is unknown, or the text cannot be stored.
    """
    return plain_message(role, text) or parse_message({"role": role, "content": text})


def parse_message(given: Mapping[str, Any]) -> Message:
    """Parse a message in the Chat Completions format.

    Raises:
        InvalidMessage: a field is invalid; the error says which one, why, and what is expected.
    """
    if type(given) is not dict and not isinstance(given, Mapping):  # the first is faster
        raise InvalidMessage(f"a message has type {type(given).__name__}: give a dict with role and content")
    role = _role(given.get("role"))
    if given.keys() == _PLAIN and role is not Role.TOOL and is_short_text(given["content"]):
        return Message(role, given["content"])
    calls, loose_calls = _tool_calls(given.get("tool_calls"))
    content = _content(given["content"]) if "content" in given else ()
    call_id = given.get("tool_call_id")
    if role is Role.TOOL and not (isinstance(call_id, str) and call_id):
        raise InvalidMessage("a tool result has no tool_call_id: give the id of the call that it answers")
    if role is not Role.TOOL and call_id is not None:
        raise InvalidMessage(f"a message of role {role.value!r} has a tool_call_id: only role 'tool' answers a call")
    if role is not Role.ASSISTANT and (calls or loose_calls):
        raise InvalidMessage(f"a message of role {role.value!r} has tool_calls: only role 'assistant' calls tools")
    said_otherwise = role is Role.ASSISTANT and any(given.get(name) for name in _OTHER_WAYS_TO_SPEAK)
    if content in (None, ()) and not (calls or loose_calls or said_otherwise):
        raise InvalidMessage(f"a message of role {role.value!r} has no content: give text, parts or tool calls")
    known = {"role", "content", *(["tool_call_id"] if call_id is not None else []), *(["tool_calls"] if calls else [])}
    extra = {name: value for name, value in given.items() if name not in known}
    message = Message(role, content, calls, call_id, plain_json(extra, "the message"))
    size = len(plain_json(message.as_chat_message(), "the message").encode())
    if isinstance(content, tuple):  # data is stored apart, and has a limit of its own
        from .attachments import inline_bytes

        size -= sum(map(inline_bytes, content))
    if size > MESSAGE_BYTES_MAX:
        raise InvalidMessage(
            f"a message of {size:,} bytes is over the limit of {MESSAGE_BYTES_MAX:,} bytes for one message: "
            "split it, or keep the content in a file and journal a reference to it"
        )
    return message


def plain_json(value: Any, what: str) -> str:
    """Return `value` as JSON text that can be encoded as UTF-8.

    Raises:
        InvalidMessage: the value is not JSON, or its text contains a lone surrogate.
    """
    try:
        refuse_what_json_would_change(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(
            f"{what} contains half a character (a lone surrogate, {error.object[error.start]!a}): "
            "decode the original bytes as UTF-8 and pass the complete text"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(
            f"{what} cannot be stored as JSON ({error}): use strings, numbers, lists and dicts"
        ) from None
    return text


def refuse_what_json_would_change(value: Any, levels_max: int = JSON_LEVELS_MAX) -> None:
    """Reject keys that JSON would convert to strings, and nesting that could be written but not always read again.

    Raises:
        TypeError, ValueError: with the reason.
    """
    level = [value]
    for _ in range(levels_max):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                for key in each:
                    if not isinstance(key, str):
                        raise TypeError(f"the key {key!r} is not a string")
                inner += each.values()
            elif isinstance(each, (list, tuple)):
                inner += each
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {levels_max} levels")


_OTHER_WAYS_TO_SPEAK = ("refusal", "audio", "function_call")
"""Fields that can replace the content of an assistant's message."""


_PLAIN = {"role", "content"}
"""The fields of most messages."""


_ROLES = {role.value: role for role in Role}


def _role(value: object) -> Role:
    role = _ROLES.get(value, Role.UNKNOWN) if isinstance(value, str) else Role.UNKNOWN
    if role is not Role.UNKNOWN:
        return role
    known = ", ".join(role.value for role in Role if role is not Role.UNKNOWN)
    raise InvalidMessage(f"unknown role {value!r}: a message is from one of {known}")


def _content(value: object) -> Content:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and all(isinstance(part, Mapping) for part in value):
        from .parts import part_of, problem_of

        parts = tuple(part_of(part, lambda part: plain_json(part, "a content part")) for part in value)
        problem = next(filter(None, map(problem_of, parts)), "")
        if problem:
            raise InvalidMessage(
                f"a content part {problem}: nothing was written; give the part as it was returned for the attachment"
            )
        return parts
    raise InvalidMessage(
        f"a message's content is {type(value).__name__}: give a string, or a list of parts like "
        '{"type": "text", "text": "…"}'
    )


def _tool_calls(value: object) -> tuple[tuple[ToolCall, ...], bool]:
    """Return the calls, and whether some have a shape that only `extra_json` can store."""
    if value is None or value == []:
        return (), False
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidMessage(f"tool_calls is {type(value).__name__}: give a list of calls")
    calls = []
    for given in value:
        match given:
            case {"id": str(call_id), "type": "function", "function": {"name": str(name), "arguments": str(arguments)}}:
                call = ToolCall(call_id, name, arguments)
                if call.as_json() != given:
                    return (), True
                calls.append(call)
            case {"id": str()}:
                return (), True
            case _:
                raise InvalidMessage("a tool call has no id: pass id, type, and function with name and arguments")
    return tuple(calls), False
