"""Name the actor of a journal: who causes the events that it stores."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from ..errors import InvalidInput

if TYPE_CHECKING:
    from .journal import Journal

ACTOR_CHARS_MAX = 200
"""Maximum length of an actor's name, in characters."""

RESERVED = ("key:", "cli:")
"""Beginnings of names that only threadledger gives: to callers of its servers, and to users of its commands."""


def acting(journal: Journal, name: str, *, reserved: bool = False) -> Journal:
    """Return a journal of the same database whose events carry this actor; see `Journal.as_actor`."""
    actor = name if reserved else checked_actor(name)
    copied = copy(journal)
    copied.copied, copied.actor = journal, actor
    return copied


def checked_actor(name: object) -> str:
    """Return the name of an actor that an app gives.

    Raises:
        InvalidInput: it is no text, empty, too long, cannot be stored, or reserved.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"actor has type {type(name).__name__}: nothing was written; pass a text")
    if not name.strip() or len(name) > ACTOR_CHARS_MAX:
        raise InvalidInput(f"an actor of {len(name)} characters is invalid: pass a name of 1 to {ACTOR_CHARS_MAX}")
    if "\0" in name or any("\ud800" <= each <= "\udfff" for each in name):
        raise InvalidInput(f"the actor {name!a} contains a NUL or a lone surrogate: pass valid Unicode text")
    if name.startswith(RESERVED):
        raise InvalidInput(
            f"actors that start with {' or '.join(map(repr, RESERVED))} are reserved for threadledger's own servers and "
            "commands: choose another name"
        )
    return name
