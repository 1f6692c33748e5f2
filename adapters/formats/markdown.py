"""Export conversations as Markdown for people to read.

Each conversation has a heading, each message its role and timestamp, and tool calls are fenced JSON. Message text is
escaped (CommonMark), so it cannot be interpreted as a heading, a fence or HTML of the document.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from threadledger.domain.conversation.attachments import described
from threadledger.domain.conversation.messages import JournaledMessage, Message, ToolCall
from threadledger.domain.ledger import Ledger

from .attachments import Attach
from .jsonl import keys_in_order, metadata_of
from .repairs import by_reference

LATER_HEADING = "\n---\n\n"
"""Separator between two conversations."""


def export_markdown(ledger: Ledger, keys: Iterable[str] | None = None, attach: Attach | None = None) -> Iterator[str]:
    """Yield one transcript per conversation, ordered by creation. `attach` is called with each message.

    Raises:
        ConversationNotFound: there is no conversation with one of the keys.
    """
    for index, key in enumerate(keys if keys is not None else keys_in_order(ledger)):
        ledger.state(key)
        yield (LATER_HEADING if index else "") + conversation_as_markdown(ledger, key, attach)


def conversation_as_markdown(ledger: Ledger, key: str, attach: Attach | None = None) -> str:
    """Return the transcript of one conversation's memory. `attach` is called with each message."""
    blocks = [f"# {escaped_line(key)}"]
    metadata = metadata_of(ledger, key)
    if metadata:
        blocks.append(fenced(_pretty(metadata), "json"))
    for each in ledger.memory(key).messages:
        blocks.append(f"## {each.message.role.value} · {_clock(each)}")
        blocks += _blocks(each.message)
        if attach is not None:
            attach(each.message, {})
    ledger.journal.wait_until_durable()
    return "\n\n".join(blocks) + "\n"


def _clock(each: JournaledMessage) -> str:
    return escaped_line(each.written_at[:19].replace("T", " ") + " UTC")


def _blocks(message: Message) -> Iterator[str]:
    if message.tool_call_id is not None:
        yield f"result of {escaped_line(message.tool_call_id)}:"
        yield from _result(message)
    refusal = message.extra().get("refusal")
    if message.tool_call_id is None and refusal != message.content:
        for part in _parts(message):
            yield from _part(part)
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


_KINDS = {"image_url": "image", "file": "file", "input_audio": "audio"}
"""Names of the parts that may have an attachment, by their type."""


def _part(part: Mapping[str, Any]) -> Iterator[str]:
    match part:
        case {"type": str(kind), **rest} if kind in _KINDS and _is_attachment(rest.get(kind)):
            yield f"{_KINDS[kind]}: {_facts(_attachment(rest[kind]))}"
        case {"type": "text", "text": str(text)}:
            if text.strip():
                yield escaped(text)
        case {"type": "refusal", "refusal": str(refusal)}:
            yield f"refused: {escaped(refusal)}"
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            data = _data_by_reference(url)
            yield f"image: {as_link(url) if data is None else _facts(data)}"
        case {"type": "file", "file": {"file_id": str()} as file}:
            yield f"file: {_facts(file)}"
        case {"type": "image_file", "image_file": {"file_id": str()} as file}:
            yield f"image: {_facts(file)}"
        case {"type": "reasoning", "text": str(text)}:
            yield f"reasoning: {escaped(text)}"
        case {"type": "hosted_call", "name": str()} | {"type": "unknown", "was": str()}:
            yield f"call: {escaped_line(described(part))}"
        case _:
            yield fenced(_pretty(by_reference(part)), "json")


def _is_attachment(inner: object) -> bool:
    return isinstance(inner, dict) and isinstance(inner.get("blob"), str)


def _attachment(inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about an attachment: its name, type, size and address."""
    facts = {"filename": inner.get("filename"), "type": inner.get("media_type") or inner.get("format")}
    return {**facts, "bytes": inner.get("size"), "address": inner["blob"]}


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
    facts = []
    for name, value in by_reference(reference).items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            facts.append(f"{escaped_line(str(name))}: {escaped_line(text)}")
    return ", ".join(facts)


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


_NEW_LINE = re.compile(r"\r\n|\r|\n")
_MEANING = re.compile(r"([\\`*_\[\]<>#|~!&$])")
"""Characters with a special meaning at any position."""
_AT_THE_BEGINNING = re.compile(r"^([-+=:])|^(\d+)([.)])")
"""Characters with a special meaning at the beginning of a line: list markers and heading underlines."""
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)|(@)")
"""Text that Markdown renderers turn into links automatically."""

LINKED_SCHEMES = frozenset({"http", "https"})
"""URL schemes that become links; other URLs (`javascript:`, `file:`) are shown as text."""

SAFE_IN_A_LINK = "/:?&=%+,;@#!$'*~-._"


def escaped(text: str) -> str:
    """Return multi-line text, escaped, with its line breaks and blank lines preserved."""
    lines = [_line(line) for line in _NEW_LINE.split(text)]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    shown_lines = []
    for index, line in enumerate(lines):
        goes_on = line and index + 1 < len(lines) and lines[index + 1]
        shown_lines.append(line + "\\" if goes_on else line)  # a trailing backslash is a hard line break
    return "\n".join(shown_lines)


def escaped_line(text: str) -> str:
    """Return text escaped on one line; line breaks are shown as symbols."""
    return _line(_NEW_LINE.sub("\u2424", text))


def fenced(text: str, language: str) -> str:
    """Return text in a code block whose fences are longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = _NEW_LINE.sub("\n", text)
    return f"{fence}{language}\n{_printable(shown)}\n{fence}"


def as_link(url: str) -> str:
    """Return a URL as a link if its scheme is http or https, else as escaped text."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return escaped_line(url)
    if parts.scheme.lower() not in LINKED_SCHEMES:
        return escaped_line(url)
    return f"[{escaped_line(url)}](<{quote(url, safe=SAFE_IN_A_LINK)}>)"


def _line(line: str) -> str:
    shown = _printable(line)
    indented = len(shown) - len(shown.lstrip(" \t"))
    indent = shown[:indented].replace("\t", "    ").replace(" ", "\u00a0")  # plain indentation would start a code block
    rest = shown[indented:].rstrip(" \t")
    if not rest.strip():  # a line of spaces of any kind would leave the break before it visible
        return ""
    rest = _ADDRESS.sub(_unlinked, _MEANING.sub(r"\\\1", rest))
    return indent + (rest if indent else _AT_THE_BEGINNING.sub(_kept, rest))


def _kept(match: re.Match[str]) -> str:
    return f"\\{match[1]}" if match[1] else f"{match[2]}\\{match[3]}"


def _unlinked(match: re.Match[str]) -> str:
    word, mark = match[1] or match[3] or "", match[2] or match[4] or match[5]
    return f"{word}\\{mark}"


def _printable(text: str) -> str:
    """Replace control characters with symbols, because transcripts are also read on terminals."""
    return "".join(
        _symbol(each) if each not in "\n\t" and unicodedata.category(each) == "Cc" else each for each in text
    )


def _symbol(character: str) -> str:
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\ufffd"


def _data_by_reference(url: str) -> dict[str, Any] | None:
    """Return the media type, size and hash of a `data:` URL, or None for any other URL."""
    if url[:5].lower() != "data:":
        return None
    head, _, data = url[5:].partition(",")
    try:
        content = base64.b64decode(data, validate=True) if head.endswith(";base64") else unquote_to_bytes(data)
    except ValueError:
        content = data.encode(errors="surrogatepass")
    kind = head.removesuffix(";base64") or "text/plain"
    return {"type": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
