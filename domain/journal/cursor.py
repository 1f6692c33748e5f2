"""Define the cursor of a follower: a position of the log with the leaf of its event, so that a rewound log is noticed.

A log is rewound when a backup is restored, or when a failover loses the last events: other events may then have the same
positions. `ReadTrail` remembers what a follower has read, to find the last event that it has in common with the log.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidInput

if TYPE_CHECKING:
    from .rows import Place

LEAF_BYTES = 8
"""Number of bytes of a leaf hash that a cursor keeps: enough to tell two events at one position apart."""

POSITION_MAX = 2**63 - 1
"""Last position that the databases can store."""

TRAIL_RECENT_EVENTS = 1_000
"""Number of newest events that a follower remembers, so that the last common position is exact if it is among them."""

TRAIL_OLDER_EVENTS = 64
"""Maximum number of older events that a follower remembers, at growing distances."""

_FORM = re.compile(rf"v1\.([0-9A-Za-z-]+)\.([0-9]{{1,19}})\.([0-9a-f]{{{2 * LEAF_BYTES}}})")
_POSITION = re.compile("[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class LogCursor:
    """Represent a place in the log; its text is stable. A plain position has no ledger and no leaf: it is not checked."""

    position: int
    leaf: bytes | None = None
    """First bytes of the leaf hash of the event at the position."""
    ledger_id: str | None = None

    @classmethod
    def parse(cls, given: int | str | None) -> LogCursor:
        """Return the place that a cursor's text or a position names; None is the beginning.

        Raises:
            InvalidInput: it is neither a cursor nor a position.
        """
        text = str(0 if given is None else given)
        found = _FORM.fullmatch(text)
        if found is not None:
            cursor = cls(int(found[2]), bytes.fromhex(found[3]), found[1])
        else:
            cursor = cls(int(text)) if _POSITION.fullmatch(text) else cls(-1)
        if not 0 <= cursor.position <= POSITION_MAX:
            shown = text if len(text) <= 80 else f"{text[:79]}…"
            raise InvalidInput(
                f"{shown!r} is neither a cursor nor a position: pass the `cursor` of an event unchanged, "
                "or a position from 0, which is the beginning"
            )
        return cursor

    @staticmethod
    def short(leaf: object) -> bytes:
        """Return the part of a leaf hash that a cursor keeps; nothing of a damaged one, which the check of its row names."""
        return leaf[:LEAF_BYTES] if isinstance(leaf, bytes) else b""

    def __str__(self) -> str:
        if self.leaf is None or self.ledger_id is None:
            return str(self.position)
        return self.text(self.ledger_id, self.position, self.leaf)

    @staticmethod
    def text(ledger_id: str, position: int, leaf: bytes) -> str:
        """Return the text of a cursor."""
        return f"v1.{ledger_id}.{position}.{leaf.hex()}"

    @classmethod
    def at(cls, position: int, place: Place) -> str:
        """Return the text of the cursor of an event."""
        ledger_id, leaf = place
        return cls.text(ledger_id, position, cls.short(leaf))


class ReadTrail:
    """Store the positions that a follower has passed, with their leaves: all of the newest, few of the older ones."""

    recent = TRAIL_RECENT_EVENTS
    """Number of newest events that are needed of those read at once."""

    def __init__(self) -> None:
        self._older: list[tuple[int, object]] = []
        self._recent: list[tuple[int, object]] = []

    def extend(self, events: Iterable[tuple[int, object]]) -> None:
        """Add the events (position and leaf hash, whole or short) that were read last."""
        self._recent += events
        while len(self._recent) >= 2 * TRAIL_RECENT_EVENTS:
            self._older.append(self._recent[0])
            del self._recent[:TRAIL_RECENT_EVENTS]
        if len(self._older) > TRAIL_OLDER_EVENTS:
            del self._older[1::2]

    @property
    def last(self) -> tuple[int, bytes] | None:
        """Return the event that was read last, or None."""
        if not self._recent:
            return None
        position, leaf = self._recent[-1]
        return position, LogCursor.short(leaf)

    def common(self, holds: Callable[[int, bytes], bool]) -> int | None:
        """Return the last remembered position that the log still has, or None.

        `holds` says whether the log has this event. It is called few times: once an event is lost, so are all after it.
        """
        passed = [*self._older, *self._recent]
        number = bisect_left(passed, True, key=lambda each: not holds(each[0], LogCursor.short(each[1])))
        if number:
            return passed[number - 1][0]
        return 0 if passed and passed[0][0] == 1 else None
