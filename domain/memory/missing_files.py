"""Replace files and images that a provider could not read by a text, so that they do not make it refuse every request.

Which ones they are is recorded with the run that failed because of them (`details.missing_files`), and where
(`details.missing_at`): another provider may be able to read them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..conversation.messages import JournaledMessage, Role

if TYPE_CHECKING:  # every memory needs this module, few have parts
    from ..conversation.parts import Part

MISSING_FILES = "missing_files"
"""Key in a failure's details for the references of the files and images that the provider could not read."""

MISSING_AT = "missing_at"
"""Key in a failure's details for the place where they could not be read (`Memory.missing_files`)."""

THREADS = "threads"
"""Place of all threads, which are at one endpoint; other places are backends without threads, by name."""

EVERYWHERE = ""
"""Place of the files that were missing when a run failed that does not say where."""

UPLOADS_GONE = "uploads_gone"
"""Key in a failure's details for the ids of uploaded attachments that the provider no longer has: a retry uploads them."""

MISSING_FILES_MAX = 50
"""Maximum number of references in one failure."""


@dataclass(frozen=True)
class Attached:
    """Describe the file, image or recording that a part contains or refers to."""

    kind: str
    """`file`, `image` or `audio`."""
    reference: str
    """Id of a file, a hash of its address or data, because these may contain secrets and are long, or the address of a blob."""
    name: str = ""
    """Id or address under which a provider may name it; empty for data inside the message."""


def add_missing(details: Mapping[str, Any], to: dict[str, frozenset[str]]) -> None:
    """Add the references in a failure's details to those of the place where it happened. Never raises."""
    missing, at = details.get(MISSING_FILES), details.get(MISSING_AT)
    place = at if isinstance(at, str) else EVERYWHERE
    if isinstance(missing, list):
        to[place] = to.get(place, frozenset()).union(each for each in missing if isinstance(each, str))


def missing_at(missing: Mapping[str, frozenset[str]], place: str) -> dict[str, frozenset[str]]:
    """Return the references that concern a place."""
    return {name: references for name, references in missing.items() if name in {place, EVERYWHERE}}


def missing_files_in(messages: Sequence[JournaledMessage], said: str, known: Collection[str] = ()) -> list[str]:
    """Return references to the files and images that a provider no longer has, according to its words.

    These are the ones that it names. If it names none, they are those before the newest question, which may have expired,
    or, if there are none, those of the question. Data inside a message is never missing.

    Args:
        messages: what the provider was given.
        said: its words.
        known: references that it was not given any more.
    """
    return _blamed([(place, each) for place, each in _attached(messages, known) if each.name], said)


def unusable_files_in(
    messages: Sequence[JournaledMessage], said: str, kind: str, known: Collection[str] = ()
) -> list[str]:
    """Return references to the files, images or recordings (`kind`) that a provider cannot read, chosen in the same way.

    Data inside a message counts too: it is not missing, but may be damaged, too large, or of a type that is refused.
    """
    return _blamed([(place, each) for place, each in _attached(messages, known) if each.kind == kind], said)


def _blamed(found: Sequence[tuple[int, Attached]], said: str) -> list[str]:
    named = [each.reference for _, each in found if each.name and each.name in said]
    earlier = [each.reference for place, each in found if place < 0]
    every = named or earlier or [each.reference for _, each in found]
    return list(dict.fromkeys(every))[:MISSING_FILES_MAX]


def _attached(messages: Sequence[JournaledMessage], known: Collection[str]) -> Iterator[tuple[int, Attached]]:
    """Yield what messages have attached, and their distance from the newest question: negative before it."""
    asked = max((place for place, each in enumerate(messages) if each.message.role is Role.USER), default=0)
    for place, message in enumerate(messages):
        content = message.message.content
        for part in content if isinstance(content, tuple) else ():
            each = _attached_by(part)
            if each is not None and each.reference not in known:
                yield place - asked, each


def without_files(messages: Iterable[JournaledMessage], missing: Collection[str]) -> list[JournaledMessage]:
    """Return the messages with a text in place of each missing file or image."""
    return [_without(each, missing) for each in messages]


def _without(each: JournaledMessage, missing: Collection[str]) -> JournaledMessage:
    content = each.message.content
    if not isinstance(content, tuple):
        return each
    return each.showing(each.message.replaced(content=tuple(_present(part, missing) for part in content)))


def _present(part: Part, missing: Collection[str]) -> Part:
    each = _attached_by(part)
    if each is None or each.reference not in missing:
        return part
    from ..conversation.parts import Text

    if not each.name:
        return Text(f"[{each.kind} not shown: it could not be read]")
    shown = each.name if each.kind == "file" and len(each.name) <= 100 else ""
    return Text(f"[{each.kind} {shown} is no longer available]".replace("  ", " "))


def _attached_by(part: Part) -> Attached | None:
    given: Any = part.as_json() if not hasattr(part, "text") else {}  # a text
    match given:
        case {"image_url": {"blob": str(address)}}:
            return Attached("image", f"image {address}")
        case {"input_audio": {"blob": str(address)}}:
            return Attached("audio", f"audio {address}")
        case {"file": {"blob": str(address)}}:
            return Attached("file", f"file {address}")
        case {"file": {"url": str(url)}} if url:
            return Attached("file", _digest(url), url)
        case (
            {"file": {"file_id": str(file_id)}} | {"image_file": {"file_id": str(file_id)}} | {"file_id": str(file_id)}
        ) if file_id:
            return Attached("file", file_id, file_id)
        case {"image_url": {"url": str(url)} | str(url)} | {"source": {"url": str(url)}} if url:
            return Attached("image", _digest(url), "" if url[:5].lower() == "data:" else url)
        case {"file_url": str(url)} if url:
            return Attached("image", _digest(url), url)
        case {"type": "image", "source": {"data": str(data)}}:
            return Attached("image", _digest(data))
        case {"input_audio": {"data": str(data)}}:
            return Attached("audio", _digest(data))
        case {"file": {"file_data": str(data)}} | {"file_data": str(data)} | {"source": {"data": str(data)}}:
            return Attached("file", _digest(data))
    return None


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"
