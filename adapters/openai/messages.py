"""Convert messages on the wire, in the formats of the three APIs, to our messages in the format of Chat Completions.

Instructions (roles `system` and `developer`) belong to the app and are not part of memory: they are omitted. Items that
only the provider can use again (reasoning, item references, calls of hosted tools) are omitted too.

Compatible servers send fields of other types than documented. A field of the wrong type never costs an answer: it is
converted if its meaning is clear, and ignored otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.conversation.parts import Text
from threadledger.domain.errors import InvalidMessage
from threadledger.domain.failures import whole_text
from threadledger.domain.ids import new_id

INSTRUCTIONS = frozenset({"system", "developer"})

_OF_THE_PROVIDER = frozenset({"reasoning", "item_reference", "compaction", "mcp_list_tools", "mcp_approval_request"})
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Item types that call a tool of the app, and the field that contains its arguments."""

_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})


def whole(value: Any) -> Any:
    """Return a JSON value with storable text: unpaired surrogates become U+FFFD."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [whole(each) for each in value]
    return {whole_text(str(name)): whole(each) for name, each in value.items()} if isinstance(value, dict) else value


def chat_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of a Chat Completions request."""
    return tuple(kept(each) for each in _objects(given) if each.get("role") not in INSTRUCTIONS)


def thread_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of an Assistants thread, as they are in requests and responses."""
    return tuple(
        kept({"role": each.get("role"), "content": _thread_content(each.get("content"))}) for each in _objects(given)
    )


def response_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages in the input or output of the Responses API; consecutive items of the model become one message."""
    if isinstance(given, str):
        return (kept({"role": "user", "content": given}),)
    found: list[Message] = []
    for message in _of_items(_objects(given)):
        if found and message.role is Role.ASSISTANT and found[-1].role is Role.ASSISTANT:
            found[-1] = replace(
                found[-1],
                content=(found[-1].text + message.text) or None,
                tool_calls=found[-1].tool_calls + message.tool_calls,
            )
        else:
            found.append(message)
    return tuple(found)


def answer_message(given: Mapping[str, Any]) -> Message:
    """Return a model's message of Chat Completions; one without any content becomes an empty message.

    Every tool call gets an id of its own and arguments as text. If other fields cannot be stored, they are left out.
    """
    said = {name: given[name] for name in _SAID if given.get(name)}
    if not said:
        return Message(Role.ASSISTANT, "")
    message = {**given, "role": Role.ASSISTANT.value, "content": _storable_content(given.get("content"))}
    message["tool_calls"] = made_whole(given.get("tool_calls"))
    message["refusal"] = text_in(given.get("refusal"))
    try:
        return parse_message({name: value for name, value in _without_nothing(message).items() if value != ""})
    except InvalidMessage:
        text = whole_text(text_in(given.get("content") or given.get("refusal")))
        return Message(Role.ASSISTANT, text or ("" if not said else None), function_calls(message["tool_calls"]))


def output_message(output: Any) -> Message:
    """Return the output items of a response as one message: the text of all messages, and all calls of the app's tools."""
    items = _objects(output)
    spoken = (item for item in items if item.get("type", "message") == "message" and item.get("role") != "user")
    text = whole_text("".join(text_in(item.get("content")) for item in spoken))
    called = [
        {
            "id": item.get("call_id") or item.get("id"),
            "function": {"name": item.get("name"), "arguments": item.get(_CALLS[item["type"]])},
        }
        for item in items
        if text_in(item.get("type")) in _CALLS
    ]
    return Message(Role.ASSISTANT, text or (None if called else ""), function_calls(called))


def function_calls(calls: Any) -> tuple[ToolCall, ...]:
    """Return the calls of functions among a model's tool calls, each with an id of its own and arguments as text."""
    return tuple(each for each in map(_function_call, made_whole(calls)) if each is not None)


def text_of_parts(message: Message) -> str:
    """Return the text of an answer that is not one string: its parts joined, its refusal, or its transcript."""
    if isinstance(message.content, tuple) and message.content:
        return "".join(part.text for part in message.content if isinstance(part, Text))
    audio = message.extra().get("audio") if not message.text else None
    return message.text or (text_in(audio.get("transcript")) if isinstance(audio, dict) else "")


def made_whole(calls: Any) -> list[dict[str, Any]]:
    """Return a model's tool calls with arguments as text and an id each: a missing or repeated id is replaced.

    A call of no function, nor of another kind of tool, is left out: it cannot be made.
    """
    found: list[dict[str, Any]] = []
    ids: set[str] = set()
    for given in _objects(calls):
        kind = text_in(given.get("type")) or "function"
        function = given.get("function") or (given if kind == "function" else None)
        name = text_in(function.get("name")) if isinstance(function, Mapping) else ""
        if not name and (kind == "function" or not isinstance(given.get(kind), Mapping)):
            continue
        call_id = given.get("id")
        if not isinstance(call_id, str) or not call_id or call_id in ids:
            call_id = f"call_{new_id()}"
        ids.add(call_id)
        if name and isinstance(function, Mapping):
            arguments = arguments_text(function.get("arguments"))
            found.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        else:
            found.append({**given, "id": call_id})
    return found


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a call as text; JSON of another type than a string is written as JSON."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def text_in(content: Any) -> str:
    """Return the text in a content of any shape: a string, a number, a part, or a list of them. Other content has none."""
    match content:
        case str():
            return content
        case bool():
            return ""
        case int() | float():
            return str(content)
        case list():
            return "".join(text_in(part) for part in content)
        case {"type": str(kind)} if kind not in _TEXT_TYPES:
            return ""
        case {"text": text} | {"refusal": text} | {"value": text}:
            return text_in(text)
    return ""


_SAID = ("content", "tool_calls", "refusal", "audio", "function_call")
"""Fields that can contain what a model said."""

_TEXT_TYPES = frozenset({"text", "output_text", "input_text", "refusal"})
"""Types of content parts that are text."""


def _storable_content(content: Any) -> Any:
    """Return content as text or a list of parts. Text has many shapes; parts that are not text are kept as they are."""
    if not isinstance(content, list):
        return text_in(content) or None
    texts = [text_in(part) for part in content]
    parts = [{"type": "text", "text": text} if text else part for text, part in zip(texts, content, strict=True)]
    return [part for part in parts if isinstance(part, dict)] or None


def _without_nothing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name == "content" or value not in (None, [])}


def _function_call(call: Mapping[str, Any]) -> ToolCall | None:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return None
    return ToolCall(whole_text(str(call["id"])), whole_text(function["name"]), whole_text(function["arguments"]))


def kept(given: Mapping[str, Any]) -> Message:
    """Return the message, or a placeholder with the reason if the message cannot be stored. Never raises `InvalidMessage`."""
    try:
        return parse_message(_without_nothing(given))
    except InvalidMessage as refusal:
        role = Role.ASSISTANT if given.get("role") == Role.ASSISTANT.value else Role.USER
        return Message(role, f"[a message was not kept: {whole_text(str(refusal))}]")


def _of_items(items: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    for item in items:
        kind = text_in(item.get("type")) or "message"
        if kind in _CALLS:
            call_id, written = text_in(item.get("call_id")), arguments_text(item.get(_CALLS[kind]))
            yield Message(Role.ASSISTANT, None, (ToolCall(call_id, text_in(item.get("name")), written),))
        elif kind in _RESULTS:
            output = item.get("output")
            text = output if isinstance(output, str) else _text(output)
            yield kept({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        elif kind == "message":
            if item.get("role") not in INSTRUCTIONS:
                yield kept({"role": item.get("role"), "content": _item_content(item)})
        elif kind not in _OF_THE_PROVIDER and not kind.endswith("_call"):
            yield Message(Role.USER, f"[{whole_text(str(kind))} not shown]")


def _item_content(item: Mapping[str, Any]) -> Any:
    content = item.get("content")
    if isinstance(content, str) or content is None:
        return content
    if item.get("role") == Role.ASSISTANT.value:
        return _text(content)
    parts = [_part(part) for part in _objects(content)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}
        case {"type": "input_file", "file_id": str(file_id)}:
            return {"type": "file", "file": {"file_id": file_id}}
    return {"type": "text", "text": f"[{part.get('type', 'content')} not shown]"}


def _text(parts: Any) -> str:
    """Return the joined text of parts, as the SDK's `output_text` does."""
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in _objects(parts))


def _thread_content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts: list[dict[str, Any]] = []
    for part in _objects(content):
        text = part.get("text") or part.get("refusal")
        value = text.get("value") if isinstance(text, Mapping) else text
        parts.append({"type": "text", "text": value} if isinstance(value, str) else dict(part))
    plain = [part["text"] for part in parts if part.get("type") == "text"]
    return "\n\n".join(plain) if len(plain) == len(parts) else parts


def _objects(given: Any) -> list[dict[str, Any]]:
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
