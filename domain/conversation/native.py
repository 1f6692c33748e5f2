"""Keep what a provider's items hold beyond the content of a message, word for word: `MessageJournaled.native`.

It is `{"dialect": …, "items": [...]}`, and `at`, the provider's address, if that is known. Where a message or a call stands
among the items, a stub of it does. Long texts are stored as blobs, with a reference in their place, and come back equal.
Only requests in the dialect that the items came from use them.

This is a storage format: it is only ever extended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidMessage
from .parsing import plain_json

if TYPE_CHECKING:
    from .attachments import Keep, Read
    from .messages import Message

JSON = dict[str, Any]

RESPONSES, CHAT, ANTHROPIC, ASSISTANTS = "responses", "chat", "anthropic", "assistants"
AGENTS = "agents"
"""Dialects of items. The last one is that of a session of the Agents SDK: see `session_items.py`."""

NATIVE_BYTES_MAX = 64 * 1024
"""Maximum size of what is kept of one message, in bytes of JSON, without the texts that are stored as blobs."""

NATIVE_TEXT_CHARS_MAX = 4_096
"""Length in characters above which a text inside is stored as a blob."""

BLOB, ENCODING = "threadledger_blob", "encoding"
"""Keys of the object in the place of a long text: the address of its bytes, and whether they are its UTF-8 or its base64."""

NATIVE_TEXT_BYTES_MAX = 64 * 1024 * 1024
"""Maximum size of one text, in bytes of UTF-8: what one blob may have."""

LOSS = "native:"
"""Beginning of the name of a loss: what follows is the type of the items."""

_STUB_BYTES, _STUBS_BYTES = 128, 1_024
"""Size of a stub of an item that is lost, in bytes, and what is reserved for them."""

_ADDRESS_NOMINAL = "a" * 128
"""An address as long as any is expected to be, by which the size is computed before a text is stored."""


def native_of(dialect: str, items: Iterable[JSON], lost: Counter[str]) -> str:
    """Return the items as JSON text, for `Message.native_json`; empty if there are none.

    Items that cannot be stored, or are too large, are counted in `lost` and leave a stub.
    """
    kept: list[JSON] = []
    size = 0
    for item in items:
        kind = str(item.get("type") or "field")
        own = stored_size(item)
        fits = own is not None and size + own <= NATIVE_BYTES_MAX - _STUBS_BYTES
        if not fits:
            lost[f"{LOSS}{kind[:64]}"] += 1
            own = _STUB_BYTES
            if size + own > NATIVE_BYTES_MAX:
                continue
        kept.append(item if fits else {"type": "unknown", "was": kind[:64]})
        size += own or 0
    return plain_json({"dialect": dialect, "items": kept}, "an item") if kept else ""


def at_place(message: Message, place: str) -> Message:
    """Return a message whose items, if it has any, say where they came from: they are sent again only there."""
    if not message.native_json:
        return message
    return message.replaced(native_json=plain_json(json.loads(message.native_json) | {"at": place}, "an item"))


def with_texts_kept(native_json: str, keep: Keep) -> str:
    """Return the items with long texts stored as blobs, and without secrets that are known: the server of a tool may repeat
    the one that it was sent."""
    from ..failures import Redacting

    if Redacting.without_known(native_json) != native_json:
        native_json = json.dumps(without_known(json.loads(native_json)), ensure_ascii=False)
    if len(native_json) <= NATIVE_TEXT_CHARS_MAX:
        return native_json
    return json.dumps(_replaced(json.loads(native_json), lambda text: _kept(text, keep)), ensure_ascii=False)


def blobs_in_native(native: Any) -> list[str]:
    """Return the addresses that items refer to, each once."""
    return list(dict.fromkeys(str(each[BLOB]) for each in _objects_in(native) if each.keys() == {BLOB, ENCODING}))


def items_in(native_json: str, dialect: str, place: str, read: Read) -> list[JSON]:
    """Return the items with their texts in place; none if they are of another dialect, or came from elsewhere.

    Raises:
        BlobMissing, ChangedBlob: a text cannot be read.
    """
    native = json.loads(native_json) if native_json else {}
    items = native.get("items")
    if native.get("dialect") != dialect or native.get("at") != place or not isinstance(items, list):
        return []
    return [_restored(item, read) for item in items if isinstance(item, dict)]


def with_texts_in_place(native: Mapping[str, Any], read: Read) -> JSON:
    """Return items, as they are stored, with their long texts in place of the addresses.

    Raises:
        BlobMissing, ChangedBlob: a text cannot be read.
    """
    whole: JSON = _restored(dict(native), read)
    return whole


def is_native(given: Any) -> bool:
    """Return whether a value has the form of `MessageJournaled.native`."""
    return (
        isinstance(given, dict)
        and isinstance(given.get("dialect"), str)
        and isinstance(given.get("items"), list)
        and all(isinstance(item, dict) for item in given["items"])
    )


def stored_native(given: Any) -> JSON | None:
    """Return what a file says of a message's items if it can be stored, and else None."""
    if not is_native(given):
        return None
    nominal = {BLOB: _ADDRESS_NOMINAL, ENCODING: "base64"}
    try:
        plain_json(given, "an item")
        size = len(json.dumps(_replaced(given, lambda _: nominal), ensure_ascii=False, separators=(",", ":")).encode())
    except InvalidMessage:
        return None
    references = [each for each in _objects_in(given) if each.keys() == {BLOB, ENCODING}]
    are_known = all(isinstance(each[BLOB], str) and each[ENCODING] in ("utf-8", "base64") for each in references)
    return given if are_known and size <= NATIVE_BYTES_MAX else None


def stored_size(item: JSON) -> int | None:
    """Return the size of an item once its long texts are stored; None if it cannot be stored.

    An item that has our reference inside cannot: it would be taken for one.
    """
    nominal = {BLOB: _ADDRESS_NOMINAL, ENCODING: "base64"}
    longest = 0

    def short(text: str) -> JSON:
        nonlocal longest
        longest = max(longest, len(text) if text.isascii() else len(text.encode()))
        return nominal

    try:
        text = plain_json(item, "an item")
        if f'"{BLOB}"' in text:
            return None
        if len(text) > NATIVE_TEXT_CHARS_MAX:
            text = json.dumps(_replaced(item, short), ensure_ascii=False, separators=(",", ":"))
    except (InvalidMessage, RecursionError):
        return None
    return len(text.encode()) if longest <= NATIVE_TEXT_BYTES_MAX else None


def _replaced(value: Any, long_text: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return long_text(value) if len(value) > NATIVE_TEXT_CHARS_MAX else value
    if isinstance(value, dict):
        return {name: _replaced(each, long_text) for name, each in value.items()}
    return [_replaced(each, long_text) for each in value] if isinstance(value, list) else value


def without_known(value: Any) -> Any:
    """Return a JSON value whose texts have no known secret; only texts, so that a number stays one."""
    from ..failures import Redacting

    if isinstance(value, str):
        return Redacting.without_known(value)
    if isinstance(value, dict):
        return {name: without_known(each) for name, each in value.items()}
    return [without_known(each) for each in value] if isinstance(value, list) else value


def _kept(text: str, keep: Keep) -> JSON:
    from .attachments import chunks_of, decoded

    data = decoded(text)
    encoding = "utf-8" if data is None else "base64"
    return {BLOB: keep(chunks_of(text.encode() if data is None else data)).address, ENCODING: encoding}


def _restored(value: Any, read: Read) -> Any:
    from .attachments import as_base64

    if isinstance(value, dict):
        if value.keys() == {BLOB, ENCODING}:
            address = str(value[BLOB])
            if value[ENCODING] == "base64":
                return as_base64(address, read)
            return b"".join(read(address)).decode(errors="replace")  # a file may name any bytes
        return {name: _restored(each, read) for name, each in value.items()}
    return [_restored(each, read) for each in value] if isinstance(value, list) else value


def _objects_in(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _objects_in(each)
