"""Name the streams of assistants, and read what their events say about them."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from ..errors import InvalidInput
from ..ids import from_iso
from ..limits import KEY_CHARS_MAX
from .events import AssistantDefined, ProfileDefined

ASSISTANT = "assistant:"
"""Prefix of the streams of assistants."""


class DefinedAssistant(NamedTuple):
    """Hold the newest definition of an assistant and its profile; None if that is not stored."""

    defined: AssistantDefined
    profile: ProfileDefined | None


def assistant_stream(tenant: str, assistant_id: object) -> str:
    """Return the name of the stream of an assistant.

    Raises:
        InvalidInput: the id does not have 1 to 200 characters, or contains characters that no database stores.
    """
    if not isinstance(assistant_id, str) or not 1 <= len(assistant_id) <= KEY_CHARS_MAX:
        raise InvalidInput(
            f"{assistant_id!a:.80} is not the id of an assistant: use a text of 1 to {KEY_CHARS_MAX} characters"
        )
    if "\0" in assistant_id or any("\ud800" <= each <= "\udfff" for each in assistant_id):
        raise InvalidInput(
            f"the id {assistant_id!a} of an assistant contains a NUL or a lone surrogate: use valid Unicode text"
        )
    return f"{ASSISTANT}{tenant}/{assistant_id}"


def created_at(defined: AssistantDefined) -> datetime:
    """Return when an assistant was created: at its source, or when its first event was stored."""
    if defined.written_at is not None:
        with suppress(ValueError):  # of another program; shown as the time of the event
            return from_iso(defined.written_at)
    return defined.timestamp
