"""Read conversations from ChatGPT's data export: `conversations.json`, or the zip that contains it.

Each conversation is a tree of messages: a `mapping` of nodes with parent and children, and a `current_node`, the last
node of the branch that ChatGPT shows. Only that branch is imported. Messages on other branches, hidden messages and
reasoning are left out and counted.

Each message becomes a Chat Completions message. An assistant's message to a tool (`recipient`) becomes a tool call with
the node's id, and the tool's first message after it becomes the result. Content types without an equivalent in Chat
Completions are kept as parts of their own type.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from threadledger.domain.errors import InvalidInput, ThreadledgerError

from .agents_sqlite import is_empty, simplest
from .importing import Entry, Found, Imported, json_of, message_of, moment, source_id
from .json_values import Value, values_of

ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of a zip file."""

CONVERSATIONS = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")
"""Names of conversation files in the zip; a large export has several."""

KEPT = ("title", "create_time", "gizmo_id", "default_model_slug")
"""Fields of an exported conversation that are imported as metadata."""

ROLES = ("system", "user", "assistant", "tool")

Node = Mapping[str, Any]


def found_in_zip(stream: BinaryIO) -> Iterator[Found | Imported]:
    """Yield the conversations of an exported zip, numbered consecutively across its files.

    Raises:
        InvalidInput: the zip contains no conversations, or cannot be read.
    """
    try:
        with ZipFile(stream) as archive:
            names = sorted(name for name in archive.namelist() if CONVERSATIONS.fullmatch(name))
            if not names:
                raise InvalidInput("the zip has no conversations.json: pass the zip file of ChatGPT's data export")
            begin = number = 0
            for name in names:
                with archive.open(name) as file:
                    for each in found_in_export(_shifted(_values(file), begin)):
                        number = each.line
                        yield each
                begin = number
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise InvalidInput(f"the zip cannot be read ({error}): download it again") from error


def _values(file: IO[bytes]) -> Iterator[Value]:
    stream: Any = file  # a binary stream that can read and seek
    return values_of(stream)


def _shifted(values: Iterator[Value], by: int) -> Iterator[Value]:
    return ((number + by, text) for number, text in values)


def found_in_export(values: Iterable[Value]) -> Iterator[Found | Imported]:
    """Yield the conversation of each JSON value."""
    for number, text in values:
        try:
            value = json_of(text, "conversation")
        except ThreadledgerError as error:
            yield Imported(number, "", "failed", reason=str(error))
            continue
        for each in value if isinstance(value, list) else [value]:
            yield conversation_of(each, number)


def conversation_of(given: Any, number: int) -> Found | Imported:
    """Return the branch of a conversation that ends at its `current_node`."""
    key = ""
    try:
        if not isinstance(given, Mapping) or not isinstance(given.get("mapping"), Mapping):
            raise InvalidInput('it has no object "mapping": pass a conversation in the form of ChatGPT\'s data export')
        key = source_id(given.get("conversation_id") or given.get("id"), "the conversation")
        mapping: Mapping[str, Any] = given["mapping"]
        branch = _branch(mapping, given.get("current_node"))
        shown = dict(branch)
        left_out: Counter[str] = Counter()
        entries = list(_entries(branch, left_out))
        others = [
            node_id
            for node_id, node in mapping.items()
            if node_id not in shown and isinstance(node, Mapping) and is_said(node.get("message"))
        ]
        if others:
            left_out["messages_on_other_branches"] = len(others)
        metadata = {name: given[name] for name in KEPT if given.get(name) is not None}
        places = frozenset(_place(node_id) for node_id in others)
        return Found(number, key, metadata, entries, left_out, places)
    except ThreadledgerError as error:
        return Imported(number, key, "failed", reason=str(error))


def _branch(mapping: Mapping[str, Any], current: Any) -> list[tuple[str, Node]]:
    """Return the nodes from the root to the current node, as (id, node).

    Raises:
        InvalidInput: there is no current node, a node is missing, or the parents form a cycle.
    """
    branch: dict[str, Node] = {}
    node_id = current
    while node_id is not None:
        node = mapping.get(node_id) if isinstance(node_id, str) else None
        if not isinstance(node, Mapping):
            what = "its current_node" if node_id is current else f"the parent of node {len(branch)} from its end"
            raise InvalidInput(f"{what} is not in its mapping: download the complete export again")
        if node_id in branch:
            raise InvalidInput("the parents of its nodes form a cycle: download the export again")
        branch[node_id] = node
        node_id = node.get("parent")
    if not branch:
        raise InvalidInput("it has no current_node, so its branch is unknown: download the export again")
    return list(branch.items())[::-1]


def _entries(branch: list[tuple[str, Node]], left_out: Counter[str]) -> Iterator[Entry]:
    turn = Turn()
    for number, (node_id, node) in enumerate(branch, 1):
        message: Any = node.get("message")
        if not is_said(message):
            continue
        name = f"node {number}"
        if is_hidden(message):
            role = message["author"].get("role")
            left_out[f"hidden_{role if role in ROLES else 'other'}_messages"] += 1
            continue
        given = chat_message(source_id(node_id, name), message, turn, left_out)
        if given is not None:
            yield Entry(message_of(given, name), _place(node_id), name, moment(message.get("create_time")))


def _place(node_id: str) -> str:
    return f"chatgpt:{node_id}"


REASONING = frozenset({"thoughts", "reasoning_recap"})
"""Content types of reasoning, which are not imported."""

TO_ALL = frozenset({None, "", "all", "assistant", "user"})
"""Values of `recipient` for messages that do not go to a tool."""

NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
TOOL_NAME_CHARS_MAX = 64
"""Maximum length of a function name that providers accept."""

CARRIED = ("attachments", "model_slug")
"""Metadata fields of a message that are kept with its content. Attachments are references with name, size and type."""


@dataclass
class Turn:
    """Hold the id of the tool call that still waits for its result."""

    open_call: str | None = None


def is_said(message: Any) -> bool:
    """Return whether a node contains a message; roots and placeholders contain none."""
    return (
        isinstance(message, Mapping)
        and isinstance(message.get("author"), Mapping)
        and isinstance(message.get("content"), Mapping)
    )


def is_hidden(message: Mapping[str, Any]) -> bool:
    """Return whether ChatGPT hides the message: its system messages, custom instructions and stored facts about the user."""
    metadata = message.get("metadata")
    flagged = isinstance(metadata, Mapping) and bool(metadata.get("is_visually_hidden_from_conversation"))
    return flagged or (message["author"].get("role") == "system" and is_empty(_parts(message["content"])))


def chat_message(node_id: str, message: Mapping[str, Any], turn: Turn, left_out: Counter[str]) -> dict[str, Any] | None:
    """Return a Chat Completions message, or None for one that is left out and counted in `left_out`."""
    role, content = message["author"].get("role"), message["content"]
    if role != "tool":
        turn.open_call = None  # the call has no result
    if _kind(content) in REASONING:
        left_out["reasoning"] += 1
        return None
    parts = _parts(content)
    recipient = message.get("recipient")
    if role == "assistant" and isinstance(recipient, str) and recipient not in TO_ALL:
        turn.open_call = node_id
        return _call(node_id, recipient, parts)
    if role == "tool":
        return _result(message, parts, turn, left_out)
    if is_empty(parts):
        left_out["empty_messages"] += 1
        return None
    return {"role": role, "content": simplest(parts), **_extra(message)}


def _parts(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content parts: text as text, an image by its asset pointer, anything else as a part of its own type."""
    kind = _kind(content)
    if kind in {"text", "multimodal_text"} and isinstance(content.get("parts"), list):
        return [part for given in content["parts"] if (part := _part(given)) is not None]
    if kind in {"code", "execution_output"} and isinstance(content.get("text"), str):
        return [{"type": "text", "text": content["text"]}]
    return [_verbatim(content)]


def _part(given: Any) -> dict[str, Any] | None:
    if isinstance(given, str):
        return {"type": "text", "text": given} if given else None
    if isinstance(given, Mapping):
        return _verbatim(given)
    return None if given is None else {"type": "unknown", "value": given}


def _verbatim(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with a `type`, which threads and exports use to name parts that they cannot show."""
    return {**given, "type": _kind(given) or "unknown"}


def _kind(given: Mapping[str, Any]) -> str:
    kind = given.get("content_type")
    return kind if isinstance(kind, str) else ""


def _call(node_id: str, recipient: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [text for part in parts if part["type"] == "text" and isinstance(text := part.get("text"), str)]
    function = {"name": NOT_IN_A_NAME.sub("_", recipient)[:TOOL_NAME_CHARS_MAX], "arguments": "\n\n".join(texts)}
    rest = [part for part in parts if part["type"] != "text"]
    return {
        "role": "assistant",
        "content": rest or None,
        "tool_calls": [{"id": node_id, "type": "function", "function": function}],
    }


def _result(
    message: Mapping[str, Any], parts: list[dict[str, Any]], turn: Turn, left_out: Counter[str]
) -> dict[str, Any] | None:
    """Return a tool's message as the result of the open call.

    A call has one result: further messages of the tool become assistant messages with text.
    """
    if turn.open_call is not None:
        call_id, turn.open_call = turn.open_call, None
        return {"role": "tool", "tool_call_id": call_id, "content": simplest(parts) if parts else "", **_extra(message)}
    if is_empty(parts):
        left_out["empty_messages"] += 1
        return None
    left_out["tool_results_as_text"] += 1
    intro = {"type": "text", "text": f"[tool result {message['author'].get('name') or 'tool'}]"}
    return {"role": "assistant", "content": [intro, *parts], **_extra(message)}


def _extra(message: Mapping[str, Any]) -> dict[str, Any]:
    metadata = message.get("metadata")
    return {name: metadata[name] for name in CARRIED if metadata.get(name)} if isinstance(metadata, Mapping) else {}
