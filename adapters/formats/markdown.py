"""Export conversations as Markdown for people to read.

Each conversation has a heading, each message its role and timestamp, and tool calls are fenced JSON. Message text is
escaped (CommonMark), so it cannot be interpreted as a heading, a fence or HTML of the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from threadledger.domain import JournaledMessage, Ledger, Message, ToolCall

from .jsonl import keys_in_order, metadata_of
from .markdown_text import as_link, escaped, escaped_line, fenced
from .parts import by_reference, data_by_reference

LATER_HEADING = "\n---\n\n"
"""Separator between two conversations."""


def export_markdown(ledger: Ledger, keys: Sequence[str] | None = None) -> Iterator[str]:
    """Yield one transcript per conversation, ordered by creation.

    Raises:
        ConversationNotFound: there is no conversation with one of the keys.
    """
    for index, key in enumerate(keys if keys is not None else keys_in_order(ledger)):
        ledger.state(key)
        yield (LATER_HEADING if index else "") + conversation_as_markdown(ledger, key)


def conversation_as_markdown(ledger: Ledger, key: str) -> str:
    """Return the transcript of one conversation's memory."""
    blocks = [f"# {escaped_line(key)}"]
    metadata = metadata_of(ledger, key)
    if metadata:
        blocks.append(fenced(_pretty(metadata), "json"))
    for each in ledger.memory(key).messages:
        blocks.append(f"## {each.message.role.value} · {_clock(each)}")
        blocks += _blocks(each.message)
    return "\n\n".join(blocks) + "\n"


def _clock(each: JournaledMessage) -> str:
    return escaped_line(each.written_at[:19].replace("T", " ") + " UTC")


def _blocks(message: Message) -> Iterator[str]:
    if message.tool_call_id is not None:
        yield f"result of {escaped_line(message.tool_call_id)}:"
        yield from _result(message)
    else:
        for part in _parts(message):
            yield from _part(part)
    refusal = message.extra().get("refusal")
    if isinstance(refusal, str) and refusal:
        yield f"refused: {escaped(refusal)}"
    for call in message.calls():
        yield f"call of {escaped_line(call.name)}:"
        yield fenced(_pretty(_call(call)), "json")
    attachments = message.extra().get("attachments")
    if isinstance(attachments, list) and attachments:
        yield "\n".join(f"- attachment: {_facts(each)}" for each in attachments)


def _parts(message: Message) -> Sequence[Any]:
    content = message.content_as_json()
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def _part(part: Mapping[str, Any]) -> Iterator[str]:
    match part:
        case {"type": "text", "text": str(text)}:
            if text.strip():
                yield escaped(text)
        case {"type": "refusal", "refusal": str(refusal)}:
            yield f"refused: {escaped(refusal)}"
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            data = data_by_reference(url)
            yield f"image: {as_link(url) if data is None else _facts(data)}"
        case {"type": "file", "file": {"file_id": str()} as file}:
            yield f"file: {_facts(file)}"
        case {"type": "image_file", "image_file": {"file_id": str()} as file}:
            yield f"image: {_facts(file)}"
        case _:
            yield fenced(_pretty(by_reference(part)), "json")


def _result(message: Message) -> Iterator[str]:
    if not isinstance(message.content, str):
        for part in _parts(message):
            yield from _part(part)
        return
    try:
        yield fenced(_pretty(json.loads(message.content)), "json")
    except (ValueError, RecursionError):
        yield fenced(message.content, "text")


def _call(call: ToolCall) -> dict[str, Any]:
    """Return a tool call for display, with its arguments parsed if they are JSON."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = call.arguments
    return {"id": call.id, "name": call.name, "arguments": arguments}


def _facts(reference: Any) -> str:
    """Describe a reference, such as `file_id: file-1, bytes: 120, sha256: …`; large values are replaced by size and hash."""
    if not isinstance(reference, Mapping):
        return escaped_line(json.dumps(reference, ensure_ascii=False))
    told = []
    for name, value in by_reference(reference).items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            told.append(f"{escaped_line(str(name))}: {escaped_line(text)}")
    return ", ".join(told)


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
