"""Note which files and images a provider could not read, so that the next run shows a text in their place."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..failures import Cause, Failure, diagnose
from ..memory import MISSING_AT, MISSING_FILES, THREADS, UPLOADS_GONE, missing_files_in, unusable_files_in

if TYPE_CHECKING:
    from ..memory import Memory
    from .backend import Backend

_UNUSABLE = {
    "audio": r"input_audio|\b(unsupported|invalid|malformed)\ audio|support\ audio|\bvalid\ (wav|mp3)\b",
    "image": r"""
        (unsupported|invalid|malformed|corrupt\w*|empty)[ _](base64[ _])?image | valid\ image | process\ (input\ )?image
        | image[ _](parse_error|too_|file_too_|media_type)
        | image\b.{0,60}\b(exceeds?|too\ (large|small|big|many)|not\ (supported|match|valid)|unsupported|invalid|corrupt)
        | image\ dimensions | too\ many\ images | at\ most\ \d+\ image
        | image_url.{0,40}\b(not|only|unknown|invalid)
        | support\ image\ input | (not|n't)\ support\ (image|vision|multimodal)
        | not\ a\ (multimodal|vision)\ model
    """,
    "file": r"missing\ required\ file|(invalid|unsupported|malformed|empty)\ file|valid\ (pdf|file)\b|file_data",
}
"""The words and codes in which providers refuse a part that they cannot read, by the kind of the part."""

_KINDS = {kind: re.compile(words, re.IGNORECASE | re.VERBOSE | re.DOTALL) for kind, words in _UNUSABLE.items()}

_MAY_CONCERN_A_PART = frozenset(
    {
        *(Cause.FILE_MISSING, Cause.CONTENT_FILTERED, Cause.HISTORY_REFUSED, Cause.CONTEXT_TOO_LONG),
        *(Cause.ASSISTANT_MISCONFIGURED, Cause.MODEL_UNAVAILABLE, Cause.UNKNOWN),
    }
)
"""Causes of refusals that may be about one part."""


def place_of(backend: Backend) -> str:
    """Return the place whose missing files concern a backend: all threads are one, every other backend is its own."""
    return THREADS if backend.thread is not None else backend.name


def with_missing_files(failure: Failure, memory: Memory, place: str) -> Failure:
    """Return the failure with references to the files and images that it is about, if it is about any.

    Args:
        failure: the failure.
        memory: what the failed run was given.
        place: where it was given it.
    """
    cause = diagnose(failure)
    if cause not in _MAY_CONCERN_A_PART or UPLOADS_GONE in failure.details:
        return failure
    said = f"{failure.code} {failure.type} {failure.message} {failure.param} {failure.details.get('body')}"
    shown = [each for each in memory.messages if each.message.role.value != "unknown"]
    known = frozenset[str]().union(*memory.for_place(place).missing_files.values())
    kind = next((name for name, words in _KINDS.items() if words.search(said)), None)
    is_gone = cause is Cause.FILE_MISSING and kind in {None, "image"}  # an unusable image has another cause
    missing = missing_files_in(shown, said, known) if is_gone else []
    if not missing and kind is not None:
        missing = unusable_files_in(shown, said, kind, known)
    found = {MISSING_FILES: missing, MISSING_AT: place}
    return replace(failure, details=dict(failure.details) | found) if missing else failure
