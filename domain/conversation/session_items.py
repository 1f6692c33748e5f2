"""Keep the items of an SDK's session with the messages that say the same, so that each comes back exactly.

An item is JSON in the shapes of Responses. Its message says it in the shapes of every API, and `native` has the item itself
(dialect `agents`), unless the message alone gives it back. What the message says is not stored twice: where an item repeats a
text or the arguments of a call, it has a reference to them. Items that cannot be stored as they are, because they are large or
have half characters, are stored as one text of JSON.

This is a storage format: it is only ever extended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..errors import InvalidMessage
from ..failures import whole_text
from .items import CALLS, REASONING, RESULTS, app_message, is_of_the_model, output_messages, unknown_part
from .messages import Message, Role
from .native import AGENTS, NATIVE_BYTES_MAX, stored_size, with_texts_in_place
from .parsing import parse_message, plain_json, refuse_what_json_would_change
from .parts import Text

if TYPE_CHECKING:
    from .attachments import Read

JSON = dict[str, Any]

TEXT, WHOLE = "threadledger_text", "threadledger_items"
"""Keys of the object in the place of a text that the message has, with the number of that text, and of the one in the place of
all items, with their JSON text."""

REFERENCE_CHARS_MIN = 40
"""Length in characters from which a text is replaced by a reference, which is about as long."""

RESERVED_BYTES = 256
"""What is reserved for the object around the items, in bytes."""

ITEM_LEVELS_MAX = 200
"""Maximum levels of lists and dicts in an item: those of which all can be stored and read again."""

_SPEAKERS = frozenset(role.value for role in Role if role not in {Role.TOOL, Role.UNKNOWN})


def json_items(items: object) -> list[JSON]:
    """Return a copy of items as JSON has them.

    Raises:
        InvalidMessage: they are no list of dicts, or have a value that JSON does not have.
    """
    if not isinstance(items, list | tuple):
        raise InvalidMessage(f"the items are {type(items).__name__}: nothing was stored; give a list of dicts")
    copied: list[JSON] = []
    for number, item in enumerate(cast("Sequence[object]", items), 1):
        if not isinstance(item, dict):
            why = f"is {type(item).__name__}"
            raise InvalidMessage(f"item {number} of the session {why}: nothing was stored; give the items as dicts")
        try:
            copied.append(json.loads(json.dumps(item)))
            refuse_what_json_would_change(copied[-1], ITEM_LEVELS_MAX)
        except (TypeError, ValueError, RecursionError) as error:
            why = f"cannot be stored as JSON ({error})"
            raise InvalidMessage(
                f"item {number} of the session {why}: nothing was stored; use strings, numbers, lists and dicts"
            ) from error
    return copied


def messages_of(items: Sequence[JSON]) -> list[tuple[Message, list[JSON]]]:
    """Return the messages that say what items say, in their order, each with its items, which it holds exactly.

    What the model did before a message or a call belongs to it, as in an answer; every other item is a message of its own.
    """
    found: list[tuple[Message, list[JSON]]] = []
    of_the_model: list[JSON] = []

    def close() -> None:
        for group in _groups(of_the_model):
            found.append((with_items(_said_by_the_model(group), group), group))
        of_the_model.clear()

    for item in items:
        if is_output(item):
            of_the_model.append(item)
            continue
        close()
        found.append((with_items(_said_by_the_app(item), [item]), [item]))
    close()
    return found


def kind_of_item(item: JSON) -> str:
    """Return the type of an item; one with a role alone is a message."""
    kind = item.get("type")
    if "role" in item and not (isinstance(kind, str) and (kind in CALLS or kind in RESULTS or kind in REASONING)):
        return "message"
    return kind if isinstance(kind, str) and kind else "unknown"


def is_output(item: JSON) -> bool:
    """Return whether an item is what a model said or did."""
    return is_of_the_model(item, kind_of_item(item))


def text_of_item(item: JSON) -> str:
    """Return the text of a model's message."""
    return _said_by_the_model([item]).text


def call_id_of(item: JSON) -> str | None:
    """Return the id of the call that an item is, or is the result of; None if it is neither."""
    kind = kind_of_item(item)
    call_id = item.get("call_id") or item.get("id") if kind in CALLS else item.get("call_id")
    return call_id if isinstance(call_id, str) and call_id else None


def _groups(items: Sequence[JSON]) -> list[list[JSON]]:
    """Return what a model did in a row, one list for each message: `output_messages` makes one of each."""
    groups: list[list[JSON]] = []
    has_message = True
    for item in items:
        is_message = kind_of_item(item) == "message"
        if has_message:
            groups.append([])
        has_message = is_message
        groups[-1].append(item)
    if len(groups) > 1 and not has_message:  # calls after the last message belong to it
        last = groups.pop()
        groups[-1] += last
    return groups


def _said_by_the_model(items: Sequence[JSON]) -> Message:
    said = output_messages(_whole([*items]), Counter())
    message = said[-1] if len(said) == 1 else Message(Role.ASSISTANT, (unknown_part(kind_of_item(items[0])),))
    try:
        return parse_message(message.as_chat_message())
    except InvalidMessage as refusal:
        return _placeholder(Role.ASSISTANT, refusal)


def _said_by_the_app(item: JSON) -> Message:
    kind = kind_of_item(item)
    said = app_message(_whole(item), kind)
    role = said["role"] if said is not None else None
    if said is None or not isinstance(role, str) or (kind == "message" and role not in _SPEAKERS):
        return Message(Role.ASSISTANT, (unknown_part(kind),))
    if said["content"] in (None, []):
        said["content"] = ""
    try:
        return parse_message(said)
    except InvalidMessage as refusal:
        is_result = kind != "message"
        return (
            Message(Role.ASSISTANT, (unknown_part(kind),))
            if is_result and call_id_of(item) is None
            else (_placeholder(Role(said["role"]), refusal, said.get("tool_call_id")))
        )


def _placeholder(role: Role, refusal: InvalidMessage, call_id: object = None) -> Message:
    """Return a message in the place of one that cannot be stored; its item is kept all the same."""
    text = f"[a message was not kept: {whole_text(str(refusal))}]"
    return Message(role, text, tool_call_id=str(call_id) if role is Role.TOOL else None)


def _whole(value: Any) -> Any:
    """Return a JSON value with texts that can be stored: half a character becomes U+FFFD, and NaN a text."""
    return json.loads(whole_text(json.dumps(value, ensure_ascii=False)), parse_constant=str)


# How items are stored


def plain_items(message: Message) -> list[JSON]:
    """Return the items that a message of plain text, calls, or the result of a call stands for, without any kept ones."""
    if message.role is Role.TOOL:
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}]
    text = message.text
    items: list[JSON] = [{"role": message.role.value, "content": text}] if text or not message.calls() else []
    return items + [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.calls()
    ]


def with_items(message: Message, items: Sequence[JSON]) -> Message:
    """Return a message that holds these items."""
    is_plain = message.content is None or isinstance(message.content, str)
    if is_plain and plain_items(message) == [*items]:
        return message.replaced(native_json="")
    return message.replaced(native_json=native_items(message, items))


def native_items(message: Message, items: Sequence[JSON]) -> str:
    """Return items as JSON text in the form of `native`, relative to the message that they are kept with.

    Raises:
        InvalidMessage: they are no JSON.
    """
    texts = _texts_of(message)
    kept = [_with_references(item, texts) for item in items]
    sizes = [
        None if _has_key(item, {TEXT, WHOLE}) else stored_size(each) for item, each in zip(items, kept, strict=True)
    ]
    if None in sizes or sum(size or 0 for size in sizes) > NATIVE_BYTES_MAX - RESERVED_BYTES:
        kept = [{WHOLE: json.dumps([*items], separators=(",", ":"))}]
    return plain_json({"dialect": AGENTS, "items": kept}, "an item")


def items_in_native(message: Message, native_json: str, read: Read) -> list[JSON] | None:
    """Return the items that a message is kept with, exactly as they were; None if it has none of a session.

    Raises:
        BlobMissing, ChangedBlob: a text cannot be read.
    """
    native = json.loads(native_json) if native_json else {}
    if native.get("dialect") != AGENTS or not isinstance(native.get("items"), list):
        return None
    found = with_texts_in_place(native, read)["items"]
    match found:
        case [{"threadledger_items": str(text)}]:
            whole: list[JSON] = json.loads(text)
            return whole
    texts = _texts_of(message)
    return [_resolved(item, texts) for item in found]


def _texts_of(message: Message) -> list[str]:
    content = message.content
    said = [content] if isinstance(content, str) else [each.text for each in content or () if isinstance(each, Text)]
    return [*said, *(call.arguments for call in message.tool_calls)]


def _with_references(value: Any, texts: Sequence[str]) -> Any:
    if isinstance(value, str):
        return {TEXT: texts.index(value)} if len(value) >= REFERENCE_CHARS_MIN and value in texts else value
    return _mapped(value, lambda each: _with_references(each, texts))


def _resolved(value: Any, texts: Sequence[str]) -> Any:
    match value:
        case {"threadledger_text": int(number)} if 0 <= number < len(texts):
            return texts[number]
    return _mapped(value, lambda each: _resolved(each, texts))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: change(each) for name, each in value.items()}
    return [change(each) for each in value] if isinstance(value, list) else value


def _has_key(value: Any, names: set[str]) -> bool:
    if isinstance(value, dict):
        return not names.isdisjoint(value) or any(_has_key(each, names) for each in value.values())
    return isinstance(value, list) and any(_has_key(each, names) for each in value)
