"""Read conversations from ChatGPT's data export: `conversations.json`, or the zip that contains it.

Each conversation is a tree of messages: a `mapping` of nodes with parent and children, and a `current_node`, the last
node of the branch that ChatGPT shows. That branch is the memory; the others are imported as branches. Hidden messages are left
out and counted. Reasoning is kept with the message that follows.

Each message becomes a Chat Completions message. An assistant's message to a tool (`recipient`) becomes a tool call with
the node's id, and the tool's first message after it becomes the result. Content types with text become text (transcripts,
quotes, errors); others are kept as parts of their own type.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, Self, cast

from threadledger.domain.conversation.items import objects, reasoning_part, text_in
from threadledger.domain.errors import InvalidInput, ThreadledgerError

from .compressed import FileInZip, Inflated, files_in_zip, opened_in_zip
from .json_values import Value, values_of
from .reading import (
    TREE_RULE,
    Found,
    Imported,
    MessageReader,
    SourcePlace,
    conversation_key,
    json_of,
    made_keys,
    moment,
    seconds_of,
    source_id,
    with_repeated,
)
from .repairs import is_empty, simplest
from .trees import in_order, read_branches

CONVERSATIONS = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")
"""Names of conversation files in the zip; a large export has several."""

KEPT = ("title", "create_time", "gizmo_id", "default_model_slug")
"""Fields of an exported conversation that are imported as metadata."""

ROLES = ("system", "user", "assistant", "tool")

Node = Mapping[str, Any]


Reading = Callable[[Iterable[Value], str], Iterator[Found | Imported]]
"""Function that reads the values of a conversation file; its second argument is the file's name."""


def found_in_zip(stream: BinaryIO, read: Reading, file: str) -> Iterator[Found | Imported]:
    """Yield the conversations of an exported zip, numbered consecutively across its files.

    Raises:
        InvalidInput: the zip contains no conversations, or cannot be read.
    """
    begin = number = unpacked = 0
    files, problem = _conversation_files(stream)
    for each_file in files:
        content = opened_in_zip(stream, each_file, unpacked)
        for each in read(_shifted(_values(content), begin), file):
            number = each.line
            yield each
        problem = problem or content.problem
        unpacked = content.unpacked
        begin = number
    if problem:
        reason = f"the zip is damaged ({problem}): download it again; what can be read of it was read"
        yield Imported(number + 1, "", "failed", reason=reason)


def first_values_in_zip(stream: BinaryIO) -> Iterator[Value]:
    """Yield the values of the first conversation file of a zip.

    Raises:
        InvalidInput: the zip contains no conversations, or cannot be read.
    """
    files, _ = _conversation_files(stream)
    yield from _values(opened_in_zip(stream, files[0]))


def _conversation_files(stream: BinaryIO) -> tuple[list[FileInZip], str]:
    """Return the conversation files of a zip by name, and the problem if the zip is damaged."""
    found, problem = files_in_zip(stream)
    files = sorted((each for each in found if CONVERSATIONS.fullmatch(each.name)), key=lambda each: each.name)
    if not files and problem:
        raise InvalidInput(f"the zip is damaged before its conversations.json ({problem}): download it again")
    ordered = sorted(files, key=lambda each: each.begin)
    if any(one.begin + (one.packed or 0) > other.begin for one, other in pairwise(ordered)):
        raise InvalidInput("the files in the zip overlap, as in no data export: download it again")
    if not files:
        raise InvalidInput("the zip has no conversations.json: pass the zip file of the data export")
    return files, problem


def _values(content: Inflated) -> Iterator[Value]:
    return values_of(cast("BinaryIO", io.BufferedReader(content)))


def _shifted(values: Iterator[Value], by: int) -> Iterator[Value]:
    return ((number + by, text) for number, text in values)


def found_in_export(values: Iterable[Value], file: str = "chatgpt") -> Iterator[Found | Imported]:
    """Yield the conversation of each JSON value; `file` names the file in keys that are made."""
    return found_by(conversation_of, values, file)


def found_by(
    convert: Callable[[Any, int, str], Found | Imported], values: Iterable[Value], file: str
) -> Iterator[Found | Imported]:
    """Yield the conversation of each JSON value, or of each element if the value is a list."""
    key_of = made_keys(file)
    for number, text in values:
        repeated: list[str] = []
        try:
            value = json_of(text, "conversation", repeated)
        except ThreadledgerError as error:
            yield Imported(number, "", "failed", reason=str(error))
            continue
        values_given = value if isinstance(value, list) else [value]
        size = len(text) // max(len(values_given), 1) if isinstance(text, bytes) else 0
        for each in values_given:
            yield with_repeated(convert(each, number, key_of(number)), repeated, size)


def conversation_of(given: Any, number: int, made: str, rule: int = TREE_RULE) -> Found | Imported:
    """Return a conversation that shows the branch which ends at its `current_node`; `made` is the key if it has none."""
    key = ""
    try:
        if not isinstance(given, Mapping) or not isinstance(given.get("mapping"), Mapping):
            raise InvalidInput('it has no object "mapping": pass a conversation in the form of ChatGPT\'s data export')
        reader = MessageReader("chatgpt", rule)
        key = conversation_key(given.get("conversation_id") or given.get("id"), made, reader.left_out)
        others = _read(given["mapping"], given.get("current_node"), key, reader)
        reader.check()
        metadata = {name: given[name] for name in KEPT if given.get(name) is not None}
        places = frozenset(_place(node_id) for node_id in others)
        entries = in_order(reader.entries)
        found = Found(number, key, metadata, entries, reader.left_out, places, rule=rule)
        again = partial(conversation_of, given, number, made)
        by_rule_2 = partial(again, rule=2) if entries and any(each.is_aside for each in entries) else None
        return replace(found, by_rule_1=partial(again, rule=1) if rule > 1 else None, by_rule_2=by_rule_2)
    except ThreadledgerError as error:
        return Imported(number, key, "failed", reason=str(error))


Branch = list[tuple[str, Node]]
"""Nodes from the root to the end of a branch, as (id, node)."""


def branch_of(
    mapping: Mapping[str, Any], current: Any, has_message: Callable[[Any], bool], left_out: Counter[str]
) -> tuple[Branch, list[str]]:
    """Return the branch that ends at the current node, and the ids of the nodes with messages that are not on it.

    See `line_of`.
    """
    branch = line_of(mapping, _parents(mapping), current, left_out)
    on_it = {name for name, _ in branch}
    others = [
        name
        for name, node in mapping.items()
        if name not in on_it and isinstance(node, Mapping) and has_message(node.get("message"))
    ]
    if others:
        left_out["messages_on_other_branches"] += len(others)
    return branch, others


def line_of(mapping: Mapping[str, Any], parents: Mapping[str, Any], current: Any, left_out: Counter[str]) -> Branch:
    """Return the branch that ends at the current node.

    Without a current node that is in the mapping, the newest leaf is the end. A node without a parent is the child of the
    node that lists it in `children`. A missing parent, or a cycle, is the beginning.
    """
    node_id: Any = (
        current if isinstance(current, str) and current in parents else _newest_leaf(mapping, parents, left_out)
    )
    branch: dict[str, Node] = {}
    while node_id is not None:
        node = mapping.get(node_id) if isinstance(node_id, str) else None
        if not isinstance(node, Mapping) or node_id in branch:
            left_out["broken_parents"] += 1
            break
        branch[node_id] = node
        node_id = parents[node_id]
    return list(branch.items())[::-1]


def _parents(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parent of each node: the one that it names, or else the one that lists it as a child."""
    nodes = {name: node for name, node in mapping.items() if isinstance(node, Mapping)}
    listed: dict[str, str] = {}
    for name, node in nodes.items():
        children = node.get("children")
        for child in children if isinstance(children, list) else ():
            if isinstance(child, str):
                listed.setdefault(child, name)
    found = {name: node.get("parent") for name, node in nodes.items()}
    return {
        name: parent if isinstance(parent, str) and parent in nodes else listed.get(name, parent)
        for name, parent in found.items()
    }


def _newest_leaf(mapping: Mapping[str, Any], parents: Mapping[str, Any], left_out: Counter[str]) -> str | None:
    """Return the id of the newest node that is not a parent, or the last node if there is none."""
    named = {parent for parent in parents.values() if isinstance(parent, str)}
    leaves = [name for name in parents if name not in named] or list(parents)[-1:]
    if len(leaves) > 1:
        left_out["guessed_branches"] += 1
    return max(leaves, key=lambda name: _written(mapping[name]), default=None)


def _written(node: Node) -> tuple[float, str]:
    """Return a value that is greater for a newer node. Only the times of one export are compared."""
    message = node.get("message")
    found = message.get("create_time", message.get("created_at")) if isinstance(message, Mapping) else None
    return (seconds_of(found) or 0.0, found if isinstance(found, str) else "")


def _read(mapping: Mapping[str, Any], current: Any, key: str, reader: MessageReader) -> Collection[str]:
    """Read the nodes of the branches that the rule reads; return the nodes on other branches that have messages."""
    nodes = _NodeReader(mapping, key, reader, Turn())
    if reader.rule < TREE_RULE:
        branch, others = branch_of(mapping, current, is_said, reader.left_out)
        for node_id, _ in branch:
            nodes.read(node_id)
        return others
    parents = _parents(mapping)
    following: dict[str | None, list[str]] = {}
    for node_id, parent in parents.items():
        following.setdefault(parent if isinstance(parent, str) and parent in parents else None, []).append(node_id)
    line = [node_id for node_id, _ in line_of(mapping, parents, current, reader.left_out)]
    met = read_branches(line, lambda node_id: following.get(node_id, ()), nodes)
    unread = sum(node_id not in met and is_said(mapping[node_id].get("message")) for node_id in parents)
    if unread:
        reader.left_out["messages_on_other_branches"] += unread
    return ()


@dataclass
class _NodeReader:
    """Read the nodes of one branch."""

    mapping: Mapping[str, Any]
    key: str
    reader: MessageReader
    turn: Turn
    number: int = 0
    """Number of nodes that were read so far."""

    def branched(self) -> Self:
        return replace(self, reader=self.reader.branched(), turn=replace(self.turn))

    def end(self) -> None:
        self.reader.end()

    def read(self, node_id: str) -> None:
        self.number += 1
        reader, name = self.reader, f"node {self.number}"
        message: Any = self.mapping[node_id].get("message")
        if not is_said(message):
            if message is not None:
                reader.leave_out(f"{name}: it has no author or no content")
            return
        if is_hidden(message):
            role = message["author"].get("role")
            reader.left_out[f"hidden_{role if role in ROLES else 'other'}_messages"] += 1
            return
        try:
            given = chat_message(source_id(node_id, name), message, self.turn, reader.left_out)
        except InvalidInput as error:
            reader.leave_out(str(error))
            return
        created_at = message.get("create_time")
        origin = {"message_id": node_id, "thread_id": self.key, "created_at": created_at}
        at = SourcePlace(_place(node_id), name, moment(created_at), origin)
        if given is not None:
            reader.add(given, at)
        elif _kind(message["content"]) in REASONING:
            thoughts = message["content"] | {"type": _kind(message["content"])}
            reader.keep(thoughts, reasoning_part(_text_of(thoughts)), at)


def _text_of(thoughts: Mapping[str, Any]) -> str:
    return "\n\n".join(text for each in objects(thoughts.get("thoughts")) if (text := text_in(each.get("content"))))


def _place(node_id: str) -> str:
    return f"chatgpt:{node_id}"


REASONING = frozenset({"thoughts", "reasoning_recap"})
"""Content types of reasoning, which is kept with the next message."""

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
