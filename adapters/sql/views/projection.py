"""Update a view from the log in batches; each batch and its new position are written in one transaction.

No process owns a view. Each reader brings it up to date before reading. If several readers do so at once, one of them
writes each batch, and the others check the position again. A view that does not exist in this program's version is
built next to the existing one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from threadledger.domain import CONVERSATION, CorruptEvent, Row, StoreError, events, key_of, limits, redact, restore

from ..engine import Database
from ..recorder import Recorder
from .places import Place, Places
from .view import Taken, View

logger = logging.getLogger("threadledger")

BATCH_EVENTS_MAX = 4_000
"""Maximum number of events processed in one transaction."""

BATCH_CHARS_MAX = 2_000_000
"""Number of payload characters after which a batch is closed, because appends wait while it is written."""

Progress = Callable[[str, int, int], None]
"""Callback with the name of a view, the position it has reached, and the last position of the log."""


class Poison(Exception):
    """Raised when a view cannot process an event. The text names the event and the reason, without any message content."""

    def __init__(self, stream: str, version: int, topic: str, why: str) -> None:
        reason = f"event {version} of {key_of(stream)!a} ({topic}): {why}"
        super().__init__(redact(reason, limits.REASON_CHARS_MAX))


class Moved(Exception):
    """Raised when another process advanced the view, so the prepared changes are outdated."""


@dataclass(frozen=True)
class Batch:
    """Represent events to process together, and the position of the view afterwards."""

    taken: Sequence[Taken]
    upto: int
    poison: Poison | None = None
    """Reason why the event at `upto`, the only one in the batch, cannot be processed."""


class Projection:
    """Keep one view up to date with the log."""

    def __init__(self, database: Database, log: Recorder, view: View[Any, Any]) -> None:
        self.view = view
        self._database = database
        self._log = log
        self._places = Places(database, view)

    def caught_up(self) -> int:
        """Bring the view up to the current end of the log and return its live generation.

        An event that cannot be processed is parked, and the view continues with the next one.
        """
        target, size = None, BATCH_EVENTS_MAX
        while True:
            end, places = self._places.look()
            target = end if target is None else target
            live = _live(places)
            if live is not None and live.position >= target:
                return live.generation
            place = live or (places[-1] if places else Place())
            size = self._step(place, target, size, self._written)

    def live(self) -> int | None:
        """Return the live generation, or None."""
        place = _live(self._places.look()[1])
        return place.generation if place is not None else None

    def status(self) -> dict[str, Any]:
        """Return the status of the view without updating it."""
        end, places = self._places.look()
        place = _live(places) or Place()
        return {
            "name": self.view.name,
            "version": self.view.version,
            "position": place.position,
            "lag": max(end - place.position, 0),
            "parked": len(self._places.parked(place.generation)) if place.live else 0,
        }

    def rebuild(self, progress: Progress) -> None:
        """Build a new generation next to the live one, then switch to it.

        Raises:
            CorruptEvent: an event cannot be processed; the previous generation remains live.
        """
        end, places = self._places.look()
        own = Place(generation=places[-1].generation + 1 if places else 1)
        place, size = own, BATCH_EVENTS_MAX
        progress(self.view.name, 0, end)
        while not any(each.live and each.generation >= own.generation for each in places):
            size = self._step(place, end, size, self._refused)
            places = self._places.look()[1]
            place = next((each for each in places if each.generation == own.generation), own)
            progress(self.view.name, min(place.position, end), end)
        # If there was no live generation, a reader may have helped to build this one and parked an event that rebuild refuses.
        for position, reason in self._places.parked(own.generation):
            raise _refusal(self.view, position, reason)

    def _step(self, place: Place, target: int, size: int, ended: Callable[[Place, Batch, Any, bool], None]) -> int:
        """Process one batch, unless another process was first; return the maximum size of the next one."""
        batch = self._batch(place.position, target, size)
        changes: Any = None
        if batch.poison is None:
            try:
                changes = self._changes(place, batch)
            except Moved:
                return size
            except Poison as poison:
                if len(batch.taken) > 1:
                    return len(batch.taken) // 2
                batch = replace(batch, taken=(), upto=batch.taken[0][0], poison=poison)
        ended(place, batch, changes, place.live or batch.upto >= target)
        # After a poisoned event, the batch size grows slowly again, because more of them may follow.
        return min(size * 2, BATCH_EVENTS_MAX)

    def _batch(self, after: int, target: int, size: int) -> Batch:
        """Return the next events. An unreadable event ends the batch before it, and then forms its own batch."""
        taken: list[Taken] = []
        chars = seen = 0
        for row in self._log.rows(after, target, self.view.topics):
            if seen == size or chars > BATCH_CHARS_MAX:
                return Batch(taken, after)
            if row[1].startswith(CONVERSATION):
                try:
                    taken.append((row[0], restore(row)))
                except CorruptEvent as error:
                    return Batch(taken, row[0] - 1) if seen else Batch((), row[0], _unreadable(row, error))
            after, seen, chars = row[0], seen + 1, chars + len(row[4])
        return Batch(taken, max(after, target))

    def _changes(self, place: Place, batch: Batch) -> Any:
        """Compute the changes of a batch.

        Raises:
            Moved: the place has changed.
            Poison: an event cannot be processed.
        """

        def load(connection: Any) -> Any:
            if not self._places.holds(connection, place):
                raise Moved
            return self.view.load(connection, place.generation, batch.taken)

        try:
            known = self._database.read(load) if place.claimed and batch.taken else None
            return self.view.fold(batch.taken, known)
        except Moved:
            raise
        except (StoreError, SQLAlchemyError) as error:
            if isinstance(error, CorruptEvent):
                raise _unfolded(batch, error) from error
            if place not in self._places.look()[1]:  # its tables were dropped: another process built a newer generation
                raise Moved from error
            raise
        except Exception as error:
            raise _unfolded(batch, error) from error

    def _written(self, place: Place, batch: Batch, changes: Any, live: bool) -> None:
        """Write the rows, the position and its effects in one transaction; write nothing if another process was first."""

        def write(connection: Any) -> bool:
            if not self._places.advance(connection, place, batch.upto, live):
                return False
            if not place.claimed:
                self.view.create(connection, place.generation)
            if batch.poison is not None:
                self._places.park(connection, place.generation, batch.upto, str(batch.poison))
            else:
                self.view.apply(connection, place.generation, changes)
            if live and not place.live:
                self._places.drop_older(connection, place.generation)
            return True

        if self._database.write(write) and batch.poison is not None:
            logger.warning("the view %s skipped one event: %s", self.view.name, batch.poison)

    def _refused(self, place: Place, batch: Batch, changes: Any, live: bool) -> None:
        """Write the batch, but raise an error instead of parking an event."""
        if batch.poison is not None:
            self._database.write(lambda connection: self._places.drop(connection, place.generation))
            raise _refusal(self.view, batch.upto, str(batch.poison)) from batch.poison
        self._written(place, batch, changes, live)


def _live(places: Sequence[Place]) -> Place | None:
    return next((each for each in reversed(places) if each.live), None)


def _unreadable(row: Row, error: CorruptEvent) -> Poison:
    return Poison(row[1], row[2], row[3], str(error.__cause__))


def _unfolded(batch: Batch, error: Exception) -> Poison:
    """Describe an error in folding by its type only, because its text may contain message content."""
    event = batch.taken[0][1]
    return Poison(event.originator_id, event.originator_version, events.topic_of(event), type(error).__name__)


def _refusal(view: View[Any, Any], position: int, reason: str) -> CorruptEvent:
    return CorruptEvent(
        f"the view {view.name} was not rebuilt and is unchanged: at position {position}, {reason}; "
        "restore the event from a backup, or upgrade threadledger, then rebuild again"
    )
