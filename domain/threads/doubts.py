"""Represent unconfirmed writes to a thread; `late_copies.py` finds the copies that they leave there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from ..ids import now, to_iso
from ..limits import DOUBT_SECONDS, DOUBTS_KEPT_MAX
from .thread import ThreadItem, digest


@dataclass(frozen=True, slots=True)
class DoubtedItem:
    """Identify an entry of an unconfirmed write by its `digest` and by the id of our message.

    `digest` is the SHA-256 (hex) of kind, name, content and call id.
    """

    digest: str
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Describe an unconfirmed write: it was sent to a thread, had no response, and may still arrive."""

    items: tuple[DoubtedItem, ...]
    asked: bool = False
    """Whether a model was called with these items as its input, so that its output may directly follow them in the
    thread."""
    at: str = ""
    """Time at which it was sent (ISO 8601)."""
    whole: bool = False
    """Whether the provider applies such a write completely or not at all; otherwise only its first items may have
    arrived."""
    again: bool = False
    """Whether it was sent a second time, so that it may appear in the thread twice."""
    exchange_id: str = ""
    run_id: str = ""
    """Id of our run that called a model with these items, in `exchange_id`; empty if no model was called."""

    @classmethod
    def of(cls, items: Sequence[ThreadItem], at: str, *, asked: bool = False, whole: bool = False) -> Self:
        """Create the record of an unconfirmed write of these items, in the order in which they were sent."""
        return cls(tuple(DoubtedItem(digest([item]), item.message_id) for item in items), asked, at, whole or asked)

    def as_json(self) -> dict[str, Any]:
        """Return the stored form: about 120 bytes per item, however long its text."""
        items = [[item.digest, item.message_id] for item in self.items]
        flags = {"asked": self.asked, "at": self.at, "whole": self.whole, "again": self.again}
        return {"items": items, **flags, "exchange_id": self.exchange_id, "run_id": self.run_id}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Create the record from its stored form; keys of a newer version are ignored."""
        items = tuple(DoubtedItem(*item[:2]) for item in stored["items"])
        known = ("asked", "at", "whole", "again", "exchange_id", "run_id")
        return cls(items, **{name: stored[name] for name in known if name in stored})


def recent_doubts(doubts: Sequence[Doubt]) -> tuple[Doubt, ...]:
    """Return the newest unconfirmed writes that are recent enough to arrive, at most `DOUBTS_KEPT_MAX`."""
    oldest = to_iso(now() - timedelta(seconds=DOUBT_SECONDS))
    return tuple(doubt for doubt in doubts if doubt.at > oldest)[-DOUBTS_KEPT_MAX:]
