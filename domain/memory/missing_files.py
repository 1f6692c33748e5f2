"""Replace files and images that a provider no longer has by a text, so that they do not make it refuse every request.

Which ones they are is recorded with the run that failed because of them (`details.missing_files`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..conversation.messages import JournaledMessage, Part, Role, Text

MISSING_FILES = "missing_files"
"""Key in a failure's details for the references of the files and images that the provider could not read."""

MISSING_FILES_MAX = 50
"""Maximum number of references in one failure."""


def missing_files_in(messages: Sequence[JournaledMessage], said: str) -> list[str]:
    """Return references to the files and images that a provider's words are about.

    These are the ones that it names. If it names none, they are those before the newest question, which may have expired,
    or, if there are none, those of the question.
    """
    found = [(place, name, reference) for place, each in enumerate(messages) for name, reference in _addresses(each)]
    named = [reference for _, name, reference in found if name in said]
    asked = max((place for place, each in enumerate(messages) if each.message.role is Role.USER), default=0)
    earlier = [reference for place, _, reference in found if place < asked]
    every = named or earlier or [reference for _, _, reference in found]
    return list(dict.fromkeys(every))[:MISSING_FILES_MAX]


def without_files(messages: Iterable[JournaledMessage], missing: Collection[str]) -> list[JournaledMessage]:
    """Return the messages with a text in place of each missing file or image."""
    return [_without(each, missing) for each in messages]


def _without(each: JournaledMessage, missing: Collection[str]) -> JournaledMessage:
    content = each.message.content
    if not isinstance(content, tuple):
        return each
    return each.showing(replace(each.message, content=tuple(_present(part, missing) for part in content)))


def _present(part: Part, missing: Collection[str]) -> Part:
    for kind, name, reference in _address(part):
        if reference in missing:
            shown = name if kind == "file" and len(name) <= 100 else ""
            return Text(f"[{kind} {shown} is no longer available]".replace("  ", " "))
    return part


def _addresses(each: JournaledMessage) -> Iterator[tuple[str, str]]:
    content = each.message.content
    for part in content if isinstance(content, tuple) else ():
        yield from ((name, reference) for _, name, reference in _address(part))


def _address(part: Part) -> Iterator[tuple[str, str, str]]:
    """Yield the kind, the name and the reference of the file or image that a part refers to, if it does.

    An image's reference is a hash of its address, because addresses may contain secrets and data.
    """
    given: Any = part.as_json() if not isinstance(part, Text) else {}
    match given:
        case (
            {"file": {"file_id": str(file_id)}} | {"image_file": {"file_id": str(file_id)}} | {"file_id": str(file_id)}
        ):
            yield "file", file_id, file_id
        case {"image_url": {"url": str(url)} | str(url)} | {"file_url": str(url)} | {"source": {"url": str(url)}}:
            yield "image", url, f"sha256:{hashlib.sha256(url.encode(errors='surrogatepass')).hexdigest()[:32]}"
        case _:
            pass
