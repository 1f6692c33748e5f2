"""Read conversations from ChatGPT's data export: `conversations.json`, or the zip that contains it.

Each conversation is a tree of messages: a `mapping` of nodes with parent and children, and a `current_node`, the last
node of the branch that ChatGPT shows. Only that branch is imported. Messages on other branches, hidden messages and
reasoning are left out and counted.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from threadledger.domain import InvalidInput, ThreadledgerError

from .chatgpt_messages import Turn, chat_message, is_hidden, is_said
from .found import Entry, Found, Imported, json_of, message_of, moment, source_id
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
