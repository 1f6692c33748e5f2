"""The `conversations.json` of ChatGPT's data export, or the zip with it: trees of messages, of which one branch is shown.

Each conversation has a `mapping` of nodes with parent and children, and a `current_node`, the end of the branch that is the
conversation. What stands on other branches, is hidden or is reasoning is left out and counted.
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
"""What a zip begins with."""

CONVERSATIONS = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")
"""The files of conversations in it; a large export has several."""

KEPT = ("title", "create_time", "gizmo_id", "default_model_slug")
"""Fields of a conversation that become its metadata."""

ROLES = ("system", "user", "assistant", "tool")

Node = Mapping[str, Any]


def found_in_zip(stream: BinaryIO) -> Iterator[Found | Imported]:
    """The conversations of the export's zip, numbered through.

    Raises:
        InvalidInput: there are none in it, or it cannot be read.
    """
    try:
        with ZipFile(stream) as archive:
            names = sorted(name for name in archive.namelist() if CONVERSATIONS.fullmatch(name))
            if not names:
                raise InvalidInput("the zip has no conversations.json: give the one that ChatGPT's data export sent")
            begin = number = 0
            for name in names:
                with archive.open(name) as file:
                    for each in found_in_export(_shifted(_values(file), begin)):
                        number = each.line
                        yield each
                begin = number
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise InvalidInput(f"the zip cannot be read ({error}): fetch it anew") from error


def _values(file: IO[bytes]) -> Iterator[Value]:
    stream: Any = file  # it reads and seeks
    return values_of(stream)


def _shifted(values: Iterator[Value], by: int) -> Iterator[Value]:
    return ((number + by, text) for number, text in values)


def found_in_export(values: Iterable[Value]) -> Iterator[Found | Imported]:
    """The conversation of each value."""
    for number, text in values:
        try:
            value = json_of(text, "conversation")
        except ThreadledgerError as error:
            yield Imported(number, "", "failed", reason=str(error))
            continue
        for each in value if isinstance(value, list) else [value]:
            yield conversation_of(each, number)


def conversation_of(given: Any, number: int) -> Found | Imported:
    """The branch of a conversation that its `current_node` ends."""
    key = ""
    try:
        if not isinstance(given, Mapping) or not isinstance(given.get("mapping"), Mapping):
            raise InvalidInput('it has no object "mapping": give conversations as ChatGPT\'s data export has them')
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
    """(id, node) from the root to the current node.

    Raises:
        InvalidInput: there is no current node, or the parents go round in a circle.
    """
    branch: dict[str, Node] = {}
    node_id = current
    while node_id is not None:
        node = mapping.get(node_id) if isinstance(node_id, str) else None
        if not isinstance(node, Mapping):
            what = "its current_node" if node_id is current else f"the parent of node {len(branch)} from its end"
            raise InvalidInput(f"{what} is not in its mapping: fetch the whole export anew")
        if node_id in branch:
            raise InvalidInput("the parents of its nodes go round in a circle: fetch the export anew")
        branch[node_id] = node
        node_id = node.get("parent")
    if not branch:
        raise InvalidInput("it has no current_node, so that its branch cannot be told: fetch the export anew")
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
