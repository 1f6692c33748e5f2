"""Render a history, in the format of Chat Completions, as a request of the Messages API that the API accepts.

The API refuses what Chat Completions accept: empty texts, two messages of one role in a row, a history that begins or ends
with the model, arguments that are no object, tool calls without a result right behind them, an id that is used twice, and
tool calls if no tools are offered. Everything here is pure, and only the request is changed, never the journal.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from threadledger.domain.conversation.messages import ToolCall, loose_call
from threadledger.domain.memory.sending import not_shown

from ..openai import INSTRUCTIONS, whole

Block = dict[str, Any]

BEGINS_WITH_THE_MODEL = "[the conversation begins with your message]"
ENDS_WITH_THE_MODEL = "[continue]"
NOTHING_SAID = "[empty message]"
NO_RESULT = "[no result of this call was recorded]"
"""Texts in the place of messages that the API requires and the history does not have."""

THINKING = frozenset({"thinking", "redacted_thinking"})
"""Types of blocks that have to come back with the calls of the same turn. Source: Anthropic's guide to extended thinking."""

NAME_CHARS_MAX = 64
"""Maximum length of a tool's name. Source: Anthropic's documentation of tool definitions, `^[a-zA-Z0-9_-]{1,64}$`."""

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""Media types of images. Source: `Base64ImageSourceParam` of the SDK (anthropic 2.14)."""

DOCUMENT_TYPES = frozenset({"application/pdf", "text/plain"})
"""Media types of documents. Source: `Base64PDFSourceParam` and `PlainTextSourceParam` of the SDK (anthropic 2.14)."""

_FOREIGN = re.compile(r"[^a-zA-Z0-9_-]")
_FILE_DATA = re.compile(r"data:([^,;]+);base64,(.+)", re.DOTALL)
_DATA_URL = re.compile(r"data:(image/[a-z]+);base64,(.+)", re.DOTALL | re.IGNORECASE)


def request_of(messages: Iterable[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return `system`, `messages`, `tools` and `tool_choice` of a request, each if it is needed.

    Args:
        messages: messages in the format of Chat Completions, instructions included.
        tools: the offered functions in the format of Chat Completions.
    """
    given = list(messages)
    system = [text for each in given if each.get("role") in INSTRUCTIONS for text in _texts(each.get("content"))]
    turns = _turns([each for each in given if each.get("role") not in INSTRUCTIONS])
    request: dict[str, Any] = {"messages": turns}
    if system:
        request["system"] = "\n\n".join(system)
    offered = [_tool(tool["function"]) for tool in tools if tool.get("type") == "function"]
    if offered:
        return request | {"tools": offered}
    used = {block["name"]: None for turn in turns for block in turn["content"] if block["type"] == "tool_use"}
    if used:  # the API accepts no tool calls in the history unless their tools are defined
        request["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in used]
        request["tool_choice"] = {"type": "none"}
    return request


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with alternating roles, from a first to a last message of the user."""
    turns: list[dict[str, Any]] = []
    for role, blocks in _spoken(messages):
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
            continue
        if not turns and role != "user":
            turns.append({"role": "user", "content": [_text(BEGINS_WITH_THE_MODEL)]})
        turns.append({"role": role, "content": blocks})
    if not turns or turns[-1]["role"] != "user":
        turns.append({"role": "user", "content": [_text(ENDS_WITH_THE_MODEL if turns else NOTHING_SAID)]})
    return turns


def _spoken(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Block]]]:
    """Yield the role and the content blocks of each message; results follow the message with their calls."""
    taken: set[str] = set()
    for index, message in enumerate(messages):
        content = message.get("content")
        if message.get("role") == "assistant":
            texts = [_text(text) for text in _texts(content or message.get("refusal"), others=True)]
            calls = [loose_call(each) for each in _objects(message.get("tool_calls"))]
            used, results = _exchanged(calls, _results_behind(messages, index), taken)
            yield "assistant", _in_place(_objects(message.get("native")), texts, used)
            yield "user", results
        elif message.get("role") != "tool":
            yield "user", _blocks(content)


def _in_place(native: Sequence[Block], texts: list[Block], calls: list[Block]) -> list[Block]:
    """Return texts and calls with the thinking that the API wants back unchanged, in the places where the model had it.

    Stubs in `native` say where texts and calls were: the first of texts stands for all of them, which were joined.
    """
    placed: list[Block] = []
    for block in native:
        if block.get("type") in THINKING:
            placed.append(block)
        elif block.get("type") == "text":
            placed += texts
            texts = []
        elif block.get("type") == "tool_use":
            placed += calls[:1]
            calls = calls[1:]
    return [*placed, *texts, *calls]


def _results_behind(messages: Sequence[Mapping[str, Any]], index: int) -> dict[str, list[Any]]:
    """Return the contents of the tool messages right behind a message, by the id of their call."""
    found: dict[str, list[Any]] = {}
    for message in messages[index + 1 :]:
        if message.get("role") != "tool":
            break
        found.setdefault(str(message.get("tool_call_id")), []).append(message.get("content"))
    return found


def _exchanged(
    calls: Sequence[ToolCall], results: Mapping[str, list[Any]], taken: set[str]
) -> tuple[list[Block], list[Block]]:
    """Return the blocks of tool calls and of their results, with ids that are not yet in `taken`."""
    used: list[Block] = []
    given: list[Block] = []
    for call in calls:
        call_id = wanted = _FOREIGN.sub("_", call.id) or "call"
        number = 1
        while call_id in taken:
            number += 1
            call_id = f"{wanted}_{number}"
        taken.add(call_id)
        name = _FOREIGN.sub("_", call.name)[:NAME_CHARS_MAX] or "unknown"
        used.append({"type": "tool_use", "id": call_id, "name": name, "input": _input_of(call.arguments)})
        contents = results.get(call.id)
        blocks = _blocks(contents.pop(0)) if contents else [_text(NO_RESULT)]
        result: Block = {"type": "tool_result", "tool_use_id": call_id}
        given.append(result | ({"content": blocks} if blocks else {}))
    return used, given


def _input_of(arguments: str) -> dict[str, Any]:
    """Return arguments as an object: anything else becomes the value of its only field."""
    try:
        value = whole(json.loads(arguments or "{}"))
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}


def _blocks(content: Any) -> list[Block]:
    """Return the content of a user's message or of a tool's result; parts that the API has no place for become text."""
    if not isinstance(content, list):
        return [_text(text) for text in _texts(content)]
    found: list[Block] = []
    for part in _objects(content):
        match part:
            case {"type": "image_url", "image_url": {"url": str(url)}} if source := _source_of(url):
                found.append({"type": "image", "source": source})
            case {"type": "file", "file": dict(file)} if source := _document_of(file):
                title = file.get("filename")
                found.append({"type": "document", "source": source} | ({"title": title} if title else {}))
            case _:
                found += [_text(text) for text in _texts([part], others=True)]
    return found


def _source_of(url: str) -> dict[str, str] | None:
    """Return an image's source; None if the address is neither a URL of the web nor an image in base64."""
    if re.match(r"https?://\S+$", url, re.IGNORECASE):
        return {"type": "url", "url": url}
    found = _DATA_URL.fullmatch(url)
    if found is None or found[1].lower() not in IMAGE_TYPES:
        return None
    data = "".join(found[2].split())
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:  # also text that is not ASCII
        return None
    return {"type": "base64", "media_type": found[1].lower(), "data": data} if data else None


def _document_of(file: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a document's source; None if it is neither a URL of the web, nor a PDF or a text as data."""
    if isinstance(file.get("url"), str):
        return {"type": "url", "url": file["url"]}
    found = _FILE_DATA.fullmatch(str(file.get("file_data")))
    if found is None or found[1] not in DOCUMENT_TYPES:
        return None
    if found[1] == "application/pdf":
        return {"type": "base64", "media_type": found[1], "data": found[2]}
    try:
        text = binascii.a2b_base64(found[2], strict_mode=True).decode("utf-8", "replace")
    except ValueError:
        return None
    return {"type": "text", "media_type": found[1], "data": text} if text.strip() else None


def _texts(content: Any, *, others: bool = False) -> list[str]:
    """Return the texts that are not blank; with `others`, also a text for each part of another type."""
    if isinstance(content, str):
        return [content] if content.strip() else []
    found = []
    for part in _objects(content):
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                found.append(text)
            case _ if others:
                found.append(not_shown(part))
    return [text for text in found if text.strip()]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    described = {"description": function["description"]} if function.get("description") else {}
    return {"name": function["name"], **described, "input_schema": {"type": "object"} | schema}


def _objects(given: Any) -> list[dict[str, Any]]:
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
