"""Define the content parts of messages: text, images, files and recordings, in the stored shapes of Chat Completions.

These shapes are a storage format: they are only extended, inside themselves. The bytes of an attachment are stored once, as
a blob, and a part refers to them by their address, which is opaque; `attachments.py` is the way there and back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """Represent a piece of text; `annotations_json` is a JSON list of what the provider says about it, such as citations."""

    text: str
    annotations_json: str = ""

    def as_json(self) -> JSON:
        noted = {"annotations": json.loads(self.annotations_json)} if self.annotations_json else {}
        return {"type": "text", "text": self.text} | noted


@dataclass(frozen=True, slots=True)
class Image:
    """Represent an image by its URL, or by its bytes: the address of a blob, their type, number, and the id that named them."""

    url: str = ""
    detail: str | None = None
    blob: str = ""
    media_type: str = ""
    size: int = 0
    file_id: str = ""

    def as_json(self) -> JSON:
        return {"type": "image_url", "image_url": _place(self, "url", _STORED_DATA) | _given(self, "detail", "file_id")}


@dataclass(frozen=True, slots=True)
class File:
    """Represent a file by the id under which the provider stores it, by its URL, or as an `Image` by its bytes."""

    file_id: str = ""
    url: str = ""
    blob: str = ""
    filename: str = ""
    media_type: str = ""
    size: int = 0

    def as_json(self) -> JSON:
        named = _given(self, "filename")
        if self.blob:
            return {"type": "file", "file": _given(self, *_STORED_DATA, "file_id") | named}
        return {
            "type": "file",
            "file": _place(self, "file_id" if self.file_id else "url", ("media_type", "size")) | named,
        }


@dataclass(frozen=True, slots=True)
class Audio:
    """Represent a recording by its bytes: the address of a blob, their format (`wav`, `mp3`) and their number."""

    blob: str
    format: str
    size: int = 0
    file_id: str = ""

    def as_json(self) -> JSON:
        given = {"blob": self.blob, "format": self.format} | _given(self, "size", "file_id")
        return {"type": "input_audio", "input_audio": given}


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Represent a content part of any other type or shape by its original JSON."""

    json: str

    blob: ClassVar[str] = ""

    def as_json(self) -> JSON:
        part: JSON = json.loads(self.json)
        return part


Part = Text | Image | File | Audio | Verbatim

_STORED_DATA = ("blob", "media_type", "size")


def _given(part: Any, *names: str) -> JSON:
    """Return those of these fields of a part that have a value."""
    return {name: value for name in names if (value := getattr(part, name))}


def _place(part: Any, name: str, others: Iterable[str]) -> JSON:
    """Return where the content of a part is: an address of its own, even an empty one, or a blob."""
    return _given(part, *others) if part.blob else {name: getattr(part, name)} | _given(part, *others)


def part_of(given: Mapping[str, Any], to_text: Callable[[Any], str]) -> Part:
    """Return a content part; one of an unknown shape is kept as the JSON text that `to_text` returns."""
    if len(given) == 2 and given.get("type") == "text" and type(given.get("text")) is str:
        return Text(given["text"])  # as most are
    part: Part | None = None
    match given:
        case {"type": "text", "text": str(text), **rest}:
            annotations = rest.get("annotations")
            part = Text(text, to_text(annotations) if annotations and isinstance(annotations, list) else "")
        case {"type": "image_url", "image_url": dict(inner)}:
            part = _made(Image, inner)
        case {"type": "file", "file": dict(inner)}:
            part = _made(File, inner)
        case {"type": "input_audio", "input_audio": {"blob": str(), "format": str(), **rest}}:
            part = _made(Audio, given["input_audio"])
        case _:
            pass
    return part if part is not None and part.as_json() == given else Verbatim(to_text(given))


def _made(kind: Callable[..., Part], inner: Mapping[str, Any]) -> Part | None:
    """Return the part with these fields; None if one of them is unknown, or of another type."""
    known = _FIELDS[kind]
    if not all(type(value) is known.get(name) for name, value in inner.items()):
        return None
    return kind(**inner)


_TEXTS = {"blob": str, "media_type": str, "size": int, "file_id": str}
_FIELDS: Mapping[Any, Mapping[str, type]] = {
    Image: {"url": str, "detail": str, **_TEXTS},
    File: {"url": str, "filename": str, **_TEXTS},
    Audio: {"format": str, "blob": str, "size": int, "file_id": str},
}


def text_of(content: Iterable[Part]) -> str:
    """Return the text of parts, joined by blank lines."""
    return "\n\n".join(part.text for part in content if isinstance(part, Text))


MEDIA_TYPE = re.compile(r"[!-+\--:<-~]{1,200}", re.ASCII)
"""What may be the media type of stored bytes: it is written into addresses of data and into headers of uploads."""


def problem_of(part: Part) -> str:
    """Return why a part that a caller gives cannot refer to stored bytes as it does; empty if nothing is wrong.

    A part of a shape that is not known would be kept as it is, and not count as a reference: its bytes could be removed.
    """
    if not isinstance(part, Verbatim):
        media_type = part.media_type if isinstance(part, (Image, File)) and part.blob else ""
        return f"has the media type {media_type[:100]!a}" if media_type and not MEDIA_TYPE.fullmatch(media_type) else ""
    inner = _inner_of(part)
    if inner is None or "blob" not in inner:
        return ""
    known = sorted({"blob", *_FIELDS_WITH_BLOB[part.as_json()["type"]]} - {"size"})
    return (
        f"refers to stored bytes in another shape than that of {', '.join(known)} and size, whose values are not empty"
    )


def _inner_of(part: Verbatim) -> Mapping[str, Any] | None:
    """Return what a part of unknown shape says of an attachment; None if it is about none."""
    if '"blob"' not in part.json:
        return None
    given = part.as_json()
    inner = given.get(given.get("type", ""), None) if given.get("type") in _FIELDS_WITH_BLOB else None
    return inner if isinstance(inner, dict) else None


_FIELDS_WITH_BLOB = {
    "image_url": ("media_type", "detail", "file_id"),
    "file": ("media_type", "filename", "file_id"),
    "input_audio": ("format", "file_id"),
}
"""Fields of a part that refers to stored bytes, besides their address and size."""


def reference_of(part: Part) -> str:
    """Return the address of the bytes that a part needs, also one in a shape of a newer version; empty if it needs none."""
    if not isinstance(part, Verbatim):
        return blob_of(part)
    address = (_inner_of(part) or {}).get("blob")
    return address if isinstance(address, str) else ""


def blob_of(part: Part) -> str:
    """Return the address of the bytes that a part refers to; empty if it refers to none."""
    return part.blob if isinstance(part, (Image, File, Audio)) else ""
