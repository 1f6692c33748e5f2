"""Store the bytes inside messages as blobs, and put them back: a message in the ledger has only their addresses.

What comes back is equal to what was there, byte for byte. So data is moved only if its base64 is the canonical one of its
bytes; any other text stays in the message as it is.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..errors import InvalidMessage
from ..limits import MESSAGE_BYTES_MAX
from .messages import Message, Role
from .parts import Audio, File, Image, Part, Text, Verbatim, reference_of

JSON = dict[str, Any]
Read = Callable[[str], Iterable[bytes]]
"""Function that returns the bytes of an address in chunks; it raises an error if they are not there, or were changed."""


class Kept(Protocol):
    """Describe a stored blob."""

    @property
    def address(self) -> str: ...

    @property
    def size(self) -> int: ...


Keep = Callable[[Iterable[bytes]], Kept]
"""Function that stores bytes given in chunks, once however often they are given, and returns their address."""

_DATA_URL = re.compile(r"data:([!-+\--:<-~]{1,200});base64,", re.ASCII)  # of a `MEDIA_TYPE`
_CHUNK_BYTES = 1024 * 1024


SizeOf = Callable[[str], int | None]
"""Function that returns the size of the bytes at an address; None if they are not there."""


def with_blobs(message: Message, keep: Keep, size_of: SizeOf | None = None) -> Message:
    """Return a message whose data was stored as blobs; a message without data is returned unchanged.

    With `size_of`, a part that refers to stored bytes gets their size, which decides how they are sent.

    Raises:
        InvalidMessage: a part gives another size, or there is too much data that cannot be stored apart.
    """
    if message.native_json:
        from .native import with_texts_kept

        message = message.replaced(native_json=with_texts_kept(message.native_json, keep))
    content = message.content
    if not isinstance(content, tuple):
        return message
    shown = map(_without_known, content) if message.role is Role.ASSISTANT else content
    parts = tuple(_with_blob(part, keep, size_of) for part in shown)
    left = sum(map(inline_bytes, parts))
    if left > MESSAGE_BYTES_MAX:
        raise InvalidMessage(
            f"a message has {left:,} bytes of data that is no canonical base64, over the limit of {MESSAGE_BYTES_MAX:,} for "
            "what is stored inside a message: nothing was written; encode the data again"
        )
    return message if parts == content else message.replaced(content=parts)


def _without_known(part: Part) -> Part:
    """Return a part of a model's message without known secrets in what the server of a tool may have said in it."""
    from ..failures import Redacting

    said = part.json if isinstance(part, Verbatim) else part.annotations_json if isinstance(part, Text) else ""
    if not said or Redacting.without_known(said) == said:
        return part
    from .native import without_known

    clean = json.dumps(without_known(json.loads(said)), ensure_ascii=False, separators=(",", ":"))
    return Text(part.text, clean) if isinstance(part, Text) else Verbatim(clean)


def blobs_in(content: Iterable[Part]) -> list[str]:
    """Return the addresses that parts refer to, each once."""
    return list(dict.fromkeys(filter(None, map(reference_of, content))))


def _with_size(part: Image | File | Audio, size_of: SizeOf) -> Part:
    size = size_of(part.blob)
    if size is None or size == part.size:  # what is not there is refused when it is appended
        return part
    if part.size:
        raise InvalidMessage(
            f"a content part says that the attachment {part.blob} has {part.size:,} bytes, but it has {size:,}: nothing was "
            "written; leave the size out"
        )
    return replace(part, size=size)


def blobs_of(message: Message) -> list[str]:
    """Return the addresses that a message refers to, each once."""
    found = blobs_in(message.content) if isinstance(message.content, tuple) else []
    if message.native_json:
        from .native import blobs_in_native

        found += blobs_in_native(message.native())
    return list(dict.fromkeys(found))


def inline_bytes(part: Part) -> int:
    """Return the size of the data in a part in characters of base64; 0 if it has none that `with_blobs` would move."""
    data = _data_in(part)
    return len(data[1]) if data is not None else 0


def _with_blob(part: Part, keep: Keep, size_of: SizeOf | None) -> Part:
    if isinstance(part, (Image, File, Audio)) and part.blob:
        return part if size_of is None else _with_size(part, size_of)
    found = _data_in(part)
    data = decoded(found[1]) if found is not None else None
    if found is None or data is None:
        return part
    blob, media_type = keep(chunks_of(data)), found[0]
    if isinstance(part, Image):
        return Image(detail=part.detail, blob=blob.address, media_type=media_type, size=blob.size)
    given = part.as_json()
    if given["type"] == "input_audio":
        return Audio(blob.address, given["input_audio"]["format"], blob.size)
    name = given["file"].get("filename") or ""
    return File(filename=name, blob=blob.address, media_type=media_type, size=blob.size)


def _data_in(part: Part) -> tuple[str, str] | None:
    """Return the media type of the data in a part, as it is written there, and the data; None if there is none."""
    if isinstance(part, Image) and part.url.startswith("data:"):
        return _of_url(part.url)
    if not isinstance(part, Verbatim) or not part.json.startswith(_WITH_DATA):
        return None
    match part.as_json():
        case {"type": "file", "file": {"file_data": str(data), **rest}, **more} if not more:
            if rest.keys() <= {"filename"} and all(isinstance(each, str) and each for each in rest.values()):
                return _of_url(data) if data.startswith("data:") else ("", data)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind), **rest}, **more}:
            if not rest and not more and kind:
                return "", data
    return None


_WITH_DATA = ('{"type":"file"', '{"type":"input_audio"', '{"file"', '{"input_audio"')
"""Beginnings of the JSON of parts that may have data."""


def _of_url(url: str) -> tuple[str, str] | None:
    found = _DATA_URL.match(url)
    return (found[1], url[found.end() :]) if found is not None else None


def decoded(data: str) -> bytes | None:
    """Return the bytes of base64; None if it is not canonical, or empty."""
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except ValueError:  # also text that is not ASCII
        return None
    return decoded if decoded and b64encode(decoded).decode() == data else None


def chunks_of(data: bytes) -> Iterable[bytes]:
    view = memoryview(data)
    return (bytes(view[start : start + _CHUNK_BYTES]) for start in range(0, len(data), _CHUNK_BYTES))


# The way back

UNKNOWN_TYPE = "application/octet-stream"
"""Media type of bytes of which nothing is known (RFC 2046, section 4.5.1)."""


def inlined(message: Mapping[str, Any], read: Read) -> JSON:
    """Return a message in the format of Chat Completions with its data in place of addresses of blobs.

    Raises:
        StoreError: a blob is missing.
        CorruptEvent: the bytes of a blob were changed.
    """
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return dict(message)
    return {**message, "content": [inline(part, read) for part in content]}


def inline(part: Mapping[str, Any], read: Read) -> JSON:
    """Return a content part with its data in place of the address of a blob; any other part is returned unchanged.

    Raises:
        StoreError: the blob is missing.
        CorruptEvent: the bytes of the blob were changed.
    """
    match part:
        case {"type": "image_url", "image_url": {"blob": str(address), **rest}}:
            url = data_url(_text(rest.get("media_type")), address, read)
            return {"type": "image_url", "image_url": {"url": url} | _only(rest, "detail")}
        case {"type": "file", "file": {"blob": str(address), **rest}}:
            media_type = _text(rest.get("media_type"))
            data = data_url(media_type, address, read) if media_type else as_base64(address, read)
            return {"type": "file", "file": _only(rest, "filename") | {"file_data": data}}
        case {"type": "input_audio", "input_audio": {"blob": str(address), "format": kind}}:
            return {"type": "input_audio", "input_audio": {"data": as_base64(address, read), "format": kind}}
    return dict(part)


def data_url(media_type: str, address: str, read: Read) -> str:
    """Return the bytes of a blob as a `data:` URL."""
    return f"data:{media_type or UNKNOWN_TYPE};base64,{as_base64(address, read)}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _only(given: Mapping[Any, Any], name: str) -> JSON:
    return {name: given[name]} if name in given else {}


def as_base64(address: str, read: Read) -> str:
    """Return the bytes of a blob as base64."""
    return b64encode(b"".join(read(address))).decode("ascii")


# Attachments as people see them


def described(part: Mapping[str, Any]) -> str:
    """Return what a part is in one line for people: its kind, name, type, size or address, without its data."""
    match part:
        case {"type": "reasoning", "text": str(text)}:
            return f"reasoning: {text}"
        case {"type": "hosted_call", "name": str(name), **rest}:
            ended = rest.get("status") in (None, "completed")
            return ": ".join(
                filter(None, (name, _text(rest.get("detail")), "" if ended else _text(rest.get("status"))))
            )
        case {"type": "unknown", "was": str(was)}:
            return was
        case _:
            pass
    kind = str(part.get("type", "content"))
    inner = part.get(kind)
    if not isinstance(inner, Mapping):
        return kind
    known = {"image_url": "image", "file": "file", "input_audio": "recording"}.get(kind, kind)
    facts = [inner.get("filename"), inner.get("media_type") or inner.get("format"), _size(inner.get("size"))]
    if "blob" not in inner:
        facts.append(inner.get("file_id") or _address(inner.get("url")))
    return ", ".join([known, *(str(fact) for fact in facts if fact)])


def _size(size: object) -> str:
    return f"{size:,} bytes" if isinstance(size, int) else ""


def _address(url: object) -> str:
    return url if isinstance(url, str) and not url.startswith("data:") else ""


# Attachments that an app makes of a file

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
)
"""First bytes of common files. Source: the formats' own specifications."""

_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}
"""Formats of recordings that Chat Completions have, by media type."""


def media_type_of(begin: bytes, filename: str = "") -> str:
    """Return the media type of a file by its first bytes (at least 12, if it has so many), else by its name."""
    for signature, media_type in _SIGNATURES:
        if begin.startswith(signature):
            return media_type
    if begin[:4] == b"RIFF" and begin[8:12] in {b"WEBP", b"WAVE"}:
        return "image/webp" if begin[8:12] == b"WEBP" else "audio/wav"
    import mimetypes

    return mimetypes.guess_type(filename)[0] or UNKNOWN_TYPE


def part_for(blob: Kept, media_type: str, filename: str = "") -> JSON:
    """Return the content part for a stored file: an image, a recording that a model can hear, or any other file."""
    if media_type.startswith("image/"):
        return Image(blob=blob.address, media_type=media_type, size=blob.size).as_json()
    if media_type in _AUDIO_FORMATS:
        return Audio(blob.address, _AUDIO_FORMATS[media_type], blob.size).as_json()
    return File(blob=blob.address, filename=filename, media_type=media_type, size=blob.size).as_json()
