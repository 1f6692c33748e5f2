"""Convert content parts to what each API accepts, count what it is not shown, and put attachments in place.

A valid view (`rendering.py`) contains the addresses of blobs in place of attachments. Before a request is sent, each address is
replaced by the data, or by the id under which the provider has the file (`Attachments`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..conversation.attachments import data_url, inline
from ..conversation.items import is_aside
from ..conversation.messages import Role
from ..conversation.parts import Audio, File, Image, Part, Text, Verbatim, blob_of, part_of
from ..errors import InvalidInput

if TYPE_CHECKING:
    from .memory import Memory

JSON = dict[str, Any]
Read = Callable[[str], Iterable[bytes]]
"""Function that returns the bytes of an attachment by its address; see `BlobStore.read`."""

PART = "part:"
"""Beginning of the name of a loss: what follows is the type of the parts."""

RESULT_LEFT_OUT = "message:tool"
"""Name of the loss of a tool's result whose call is not among the messages of a request."""


@dataclass(frozen=True)
class Attachments:
    """Describe how the attachments of a request are sent: as data, or by the id under which the provider has them."""

    given: Read | None = None
    """Function that reads an attachment; None if the memory was not read from a ledger."""
    file_ids: Mapping[str, str] = field(default_factory=dict)
    """Ids at the provider, by address."""

    def read(self, address: str) -> Iterable[bytes]:
        """Return the bytes of an attachment.

        Raises:
            InvalidInput: the memory was not read from a ledger.
            BlobMissing, ChangedBlob: they cannot be read.
        """
        if self.given is None:
            raise InvalidInput(f"the attachment {address} cannot be read: this memory was not read from a ledger")
        return self.given(address)


def resolved(entries: Iterable[JSON], dialect: str, sent: Attachments) -> list[JSON]:
    """Return messages or items with what the API accepts in place of each attachment that is a blob, or a file by its URL."""
    return [_resolved(entry, dialect, sent) for entry in entries]


def _resolved(entry: JSON, dialect: str, sent: Attachments) -> JSON:
    for name in _WITH_PARTS:
        content = entry.get(name)
        if isinstance(content, list) and any(map(_is_stored, content)):
            placed = [_in_place(part, dialect, sent) if _is_stored(part) else part for part in content]
            return {**entry, name: placed}
    return entry


_WITH_PARTS = ("content", "output")
"""Fields of messages and items that may have parts; the second is that of a tool's result in Responses."""


def has_parts(entry: Mapping[str, Any]) -> bool:
    """Return whether a message or an item has a list of parts."""
    return any(isinstance(entry.get(name), list) for name in _WITH_PARTS)


def _is_stored(part: Any) -> bool:
    """Return whether a part has a stored shape that no API has."""
    inner = part.get(part.get("type")) if isinstance(part, dict) else None
    return isinstance(inner, dict) and ("blob" in inner or (part["type"] == "file" and "url" in inner))


def _in_place(part: JSON, dialect: str, sent: Attachments) -> JSON:
    found = wire_part(part, dialect, sent)
    if found is not None:
        return found
    if (
        dialect == THREADS and part["type"] == "image_url"
    ):  # not uploaded: the thread is compared by this text all the same
        return {"type": "text", "text": f"[image {part['image_url'].get('blob')}]"}
    return {"type": "input_text" if dialect == RESPONSES else "text", "text": not_shown(part)}


CHAT, RESPONSES, ANTHROPIC, THREADS = "chat", "responses", "anthropic", "assistants"
"""Names of the forms in which parts are sent: those of three APIs, and of the messages of Assistants threads."""

# Source: the unions of content parts in OpenAI's OpenAPI description distributed with openai-python 3.3.1, and
# `Base64ImageSourceParam`, `Base64PDFSourceParam` and `PlainTextSourceParam` of anthropic 2.14. November 2026.
ANTHROPIC_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
ANTHROPIC_FILES = frozenset({"application/pdf", "text/plain"})


def wire_part(part: JSON, dialect: str, sent: Attachments) -> JSON | None:
    """Return a stored part of a valid view in the form of an API; None if the API has no place for it."""
    match part:
        case {"type": "image_url", "image_url": {"blob": str(address), **rest}}:
            return _image(part, address, rest, dialect, sent)
        case {"type": "file", "file": {"blob": str(address), **rest}}:
            return _file(part, address, rest, dialect, sent)
        case {"type": "file", "file": {"url": str(url)}}:
            if dialect == RESPONSES:
                return {"type": "input_file", "file_url": url}
            return part if dialect == ANTHROPIC else None
        case {"type": "input_audio", "input_audio": {"blob": str()}} if dialect == CHAT:
            return inline(part, sent.read)
    return None


def _image(part: JSON, address: str, rest: Mapping[Any, Any], dialect: str, sent: Attachments) -> JSON | None:
    file_id, detail = sent.file_ids.get(address), rest.get("detail")
    if dialect == THREADS:
        known = {"detail": detail} if detail else {}
        return {"type": "image_file", "image_file": {"file_id": file_id} | known} if file_id else None
    if dialect == RESPONSES:
        place = (
            {"file_id": file_id} if file_id else {"image_url": data_url(rest.get("media_type", ""), address, sent.read)}
        )
        return {"type": "input_image", "detail": detail or "auto"} | place
    if dialect == ANTHROPIC and rest.get("media_type", "").lower() not in ANTHROPIC_IMAGES:
        return None
    return inline(part, sent.read)


def _file(part: JSON, address: str, rest: Mapping[Any, Any], dialect: str, sent: Attachments) -> JSON | None:
    file_id = sent.file_ids.get(address)
    media_type = rest.get("media_type", "")
    if dialect == THREADS or (dialect == ANTHROPIC and media_type not in ANTHROPIC_FILES):
        return None
    if file_id:
        return {"type": "input_file", "file_id": file_id} if dialect == RESPONSES else _chat_file(file_id=file_id)
    named = rest.get("filename") or default_name(media_type)  # without a name, no API knows the type
    whole = inline(part, sent.read)["file"] | {"filename": named}
    return {"type": "input_file", **whole} if dialect == RESPONSES else _chat_file(**whole)


def _chat_file(**file: str) -> JSON:
    return {"type": "file", "file": file}


_NAMES = {"application/pdf": "file.pdf", "text/plain": "file.txt"} | {
    f"image/{kind}": f"image.{ending}"
    for kind, ending in (("png", "png"), ("jpeg", "jpg"), ("gif", "gif"), ("webp", "webp"))
}


def default_name(media_type: str) -> str:
    """Return the name under which a file without one is sent: providers take its type from its name."""
    return _NAMES.get(media_type, "file")


def not_shown(part: Mapping[str, Any]) -> str:
    """Return the text in the place of a part that is not shown: its type, and the name of a file."""
    kind = part.get("type")
    inner = part.get(kind) if isinstance(kind, str) else None
    name = inner.get("filename") if isinstance(inner, dict) else None
    named = f" {name}" if isinstance(name, str) and name.strip() and len(name) <= 100 else ""
    return f"[{kind if isinstance(kind, str) and kind.strip() else 'content'}{named} not shown]"


# What an API is not shown

_TAKEN: Mapping[str, frozenset[str]] = {
    CHAT: frozenset({"image_url", "file", "input_audio"}),
    RESPONSES: frozenset({"image_url", "file"}),
    ANTHROPIC: frozenset({"image_url", "file"}),
}
"""Types of parts with data, an id or an address inside that each API takes in a user's message."""


def losses_in_words(losses: Mapping[str, int]) -> str:
    """Return what was lost in words, such as `1 image, 2 recordings`; the kinds are those of a run's `losses`."""
    return ", ".join(_loss_in_words(kind, count) for kind, count in sorted(losses.items()))


def _loss_in_words(kind: str, count: int) -> str:
    what, _, name = kind.partition(":")
    if what == "option":
        return f"the option {name}"
    known = _LOST.get(kind)
    number = f"{count:,} {known or ('part' if what == 'part' else 'item')}{'s' if count != 1 else ''}"
    return number if known else f"{number} of type {name or kind}"


_LOST = {
    f"{PART}image_url": "image",
    f"{PART}file": "file",
    f"{PART}input_audio": "recording",
    RESULT_LEFT_OUT: "tool result",
}


def lost_parts(
    memory: Memory, dialect: str, unknown: Callable[[JSON], bool] | None = None
) -> tuple[Counter[str], list[str]]:
    """Return how many parts an API is not shown, and the names of those of which it is shown none in users' messages.

    A loss is named `part:TYPE`. Parts that say something in words are shown as these words; those that are `unknown` to
    the provider are not shown. No attachment is read.
    """
    lost: Counter[str] = Counter()
    asked: dict[str, bool] = {}
    for before, after in zip(memory.messages, memory.available(), strict=True):
        given, content = before.message.content, after.message.content
        if not isinstance(given, tuple) or not isinstance(content, tuple):
            continue
        is_users = before.role_name == Role.USER.value
        has_parts = is_users or (before.role_name == Role.TOOL.value and dialect in _RESULTS_HAVE_PARTS)
        for part, left in zip(given, content, strict=True):
            if not isinstance(part, Text) and (is_users or not is_aside(part)):
                name = f"{PART}{part.as_json().get('type', 'content')}"
                is_known = left is part and not (unknown is not None and unknown(part.as_json()))
                is_shown = is_known and _is_shown(part, has_parts, dialect)
                lost[name] += not is_shown
                if is_users:
                    asked[name] = asked.get(name, False) or is_shown or not is_known
    return +lost, sorted(name for name, is_shown in asked.items() if not is_shown) if dialect in _TAKEN else []


_RESULTS_HAVE_PARTS = frozenset({RESPONSES, ANTHROPIC})
"""APIs in which the result of a tool may have images and files."""


def _is_shown(part: Part, has_parts: bool, dialect: str) -> bool:
    from .rendering import shown_part

    valid = shown_part(part)
    if isinstance(valid, Text):
        return valid.text != not_shown(part.as_json())
    return has_parts and takes(valid, dialect)


def takes(part: Part, dialect: str) -> bool:
    """Return whether an API takes a part of a valid view that is not text. Its attachment is not read."""
    if dialect == THREADS:  # an image is uploaded; other files are accepted only together with a tool that reads them
        return isinstance(part, Image) and (bool(part.blob) or part.url[:5].lower() != "data:")
    if blob_of(part) or (isinstance(part, File) and part.url):
        return wire_part(part.as_json(), dialect, _NOTHING) is not None
    kind = "input_audio" if isinstance(part, Audio) else str(part.as_json()["type"])
    if dialect == ANTHROPIC and isinstance(part, Image) and part.url[:5].lower() == "data:":
        return part.url[5:].partition(";")[0].lower() in ANTHROPIC_IMAGES
    if dialect == ANTHROPIC and isinstance(part, Verbatim):
        data = part.as_json()["file"]["file_data"] if kind == "file" else ""
        return bool(data[5:].partition(";")[0] in ANTHROPIC_FILES) and data.startswith("data:")
    if dialect == ANTHROPIC and isinstance(part, File):
        return False  # an id of another provider
    return kind in _TAKEN.get(dialect, frozenset())


_NOTHING = Attachments(lambda _: ())
"""Sends no attachment; it only tells whether one could be sent."""


def parts_in(entries: Iterable[JSON]) -> list[Part]:
    """Return the parts of messages or items that are not text and have a stored shape, or data inside."""
    found: list[Part] = []
    for entry in entries:
        contents = (entry.get(name) for name in _WITH_PARTS)
        for part in (part for content in contents if isinstance(content, list) for part in content):
            each = part_of(part, _text_of)
            if not isinstance(each, Text) and part.get("type") != "input_text":
                found.append(each)
    return found


def _text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
