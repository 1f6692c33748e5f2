"""Read conversations from Claude's data export: `conversations.json`, or the zip that contains it.

Each conversation is a list of messages (`chat_messages`) with a `sender`, a plain `text` and blocks of `content`. The
blocks are read if there are any: text, calls of tools and their results. Thinking is kept, and shown to no model. Messages name
their parent in newer exports: then the branch that ends at the current message, or at the newest one, is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from threadledger.domain.conversation.items import cited
from threadledger.domain.conversation.native import ANTHROPIC
from threadledger.domain.errors import InvalidInput, ThreadledgerError

from .chatgpt import Branch, branch_of, found_by
from .json_values import Value
from .reading import NEWEST_RULE, Found, Imported, MessageReader, SourcePlace, conversation_key, moment, source_id
from .repairs import simplest

KEPT = ("name", "summary", "created_at", "updated_at", "model", "project")
"""Fields of an exported conversation that are imported as metadata."""

ROLES = {"human": "user", "assistant": "assistant"}

ROOT = "00000000-0000-4000-8000-000000000000"
"""Parent of the first message."""


def found_in_claude_export(values: Iterable[Value], file: str = "claude") -> Iterator[Found | Imported]:
    """Yield the conversation of each JSON value; `file` names the file in keys that are made."""
    return found_by(conversation_of, values, file)


def conversation_of(given: Any, number: int, made: str, rule: int = NEWEST_RULE) -> Found | Imported:
    """Return a conversation; `made` is its key if it has no id."""
    key = ""
    try:
        if not isinstance(given, Mapping) or not isinstance(given.get("chat_messages"), list):
            raise InvalidInput(
                'it has no list "chat_messages": pass a conversation in the form of Claude\'s data export'
            )
        reader = MessageReader(ANTHROPIC, rule)
        key = conversation_key(given.get("uuid"), made, reader.left_out)
        branch, others = _branch(given, reader)
        for node_id, node in branch:
            _read(node_id, node["message"], node["name"], key, reader)
        reader.check()
        metadata = {name: given[name] for name in KEPT if given.get(name)}
        places = frozenset(map(_place, others))
        again = partial(conversation_of, given, number, made, rule=1) if rule > 1 else None
        return Found(number, key, metadata, reader.entries, reader.left_out, places, rule=rule, by_rule_1=again)
    except ThreadledgerError as error:
        return Imported(number, key, "failed", reason=str(error))


def _branch(given: Mapping[str, Any], reader: MessageReader) -> tuple[Branch, list[str]]:
    nodes: dict[str, dict[str, Any]] = {}
    has_parents = False
    for number, message in enumerate(given["chat_messages"], 1):
        name = f"message {number}"
        try:
            if not isinstance(message, Mapping):
                raise InvalidInput(f"it is {type(message).__name__}: an object with sender and text is expected")
            node_id = source_id(message.get("uuid"), name)
        except InvalidInput as error:
            reader.leave_out(f"{name}: {error}")
            continue
        if node_id in nodes:
            reader.leave_out(f"{name}: its uuid is that of an earlier message")
            continue
        parent = message.get("parent_message_uuid")
        has_parents = has_parents or parent is not None
        nodes[node_id] = {"message": message, "name": name, "parent": None if parent == ROOT else parent}
    if not has_parents:
        return list(nodes.items()), []
    return branch_of(
        nodes, given.get("current_leaf_message_uuid"), lambda message: message is not None, reader.left_out
    )


def _read(node_id: str, message: Mapping[str, Any], name: str, key: str, reader: MessageReader) -> None:
    blocks, text = message.get("content"), message.get("text")
    said = (_plain(block, reader.rule) for block in blocks) if isinstance(blocks, list) else ()
    content: list[Any] = [block for block in said if block]
    content = content or ([text] if text else [])
    for attachment in _objects(message.get("attachments")):
        if isinstance(attachment.get("extracted_content"), str):
            reader.left_out["attachments_as_text"] += 1
            shown = f"[attachment {attachment.get('file_name') or 'without a name'}]\n{attachment['extracted_content']}"
            content.append({"type": "text", "text": shown})
    sender = message.get("sender")
    given: dict[str, Any] = {"role": ROLES.get(sender, sender) if isinstance(sender, str) else sender}
    given["content"] = simplest(content) if all(isinstance(each, dict) for each in content) else content
    files = [each for name in ("files", "files_v2") for each in _objects(message.get(name))]
    if files:
        reader.left_out["files_by_name"] += len(files)
    if not content and not files:
        reader.left_out["empty_messages"] += 1
        return
    created_at = message.get("created_at")
    origin = {"message_id": node_id, "thread_id": key, "created_at": created_at, "files": files}
    reader.add(given, SourcePlace(_place(node_id), name, moment(created_at), origin))


def _plain(block: Any, rule: int) -> Any:
    """Return a text block without times, or None if it is empty; any other block unchanged.

    The first rule leaves citations out. Those of the data export are stored as they are, without places in the text.
    """
    match block:
        case {"type": "text", "text": str(text)}:
            noted = cited(block, text) if rule > 1 else []
            return {"type": "text", "text": text} | ({"annotations": noted} if noted else {}) if text else None
    return block


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _place(message_id: str) -> str:
    return f"claude:{message_id}"
