"""Define views, and update them from the log in batches; a batch and its new position are written in one transaction.

A view is a set of tables built from events, which can be rebuilt at any time.

No process owns a view. Each reader brings it up to date before reading. If several readers do so at once, one of them
writes each batch, and the others check the position again. A view that does not exist in this program's version is
built next to the existing one, and so is one that was built from events that the log no longer has.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from threadledger.domain import limits
from threadledger.domain.conversation import CONVERSATION, events, key_of
from threadledger.domain.errors import CorruptEvent, DatabaseReadOnly, StoreError
from threadledger.domain.failures import redact
from threadledger.domain.journal import Row, restore

from ..connections import split_id
from ..database import Database
from ..kind_upkeep import upkeep_of
from ..recorder import Recorder, rows_of
from .transaction import ViewTransaction

if TYPE_CHECKING:
    from ..replica import Replica

logger = logging.getLogger("threadledger")
stale = logging.getLogger("threadledger.views")
"""Logger of views that cannot be updated, which the commands show."""

BATCH_EVENTS_MAX = 4_000
"""Maximum number of events processed in one transaction."""

BATCH_CHARS_MAX = 2_000_000
"""Number of payload characters after which a batch is closed, because appends wait while it is written."""

EventId = str | bytes
"""Id of an event as it is read from its column."""

Progress = Callable[[str, int, int], None]
"""Callback with the name of a view, the position it has reached, and the last position of the log."""


class Poison(Exception):
    """Raised when a view cannot process an event. The text names the event and the reason, without any message content."""

    def __init__(self, stream: str, version: int, topic: str, why: str) -> None:
        reason = f"event {version} of {key_of(stream)!a} ({topic}): {why}"
        super().__init__(redact(reason, limits.REASON_CHARS_MAX))


class NotBuilt(DatabaseReadOnly):
    """Raised when a view has no live generation and cannot be built in the ledger's database."""


class Moved(Exception):
    """Raised when another process advanced the view, so the prepared changes are outdated."""


@dataclass(frozen=True)
class Batch:
    """Represent events to process together, and the position of the view afterwards."""

    taken: Sequence[Any]
    """Events, each in the form in which the view reads it."""
    upto: int
    event_id: EventId | None
    """Id of the event at `upto` when the batch was read; None if no event was read, or if its id cannot be decoded."""
    first: Row | None = None
    """Row of the first event of `taken`."""
    poison: Poison | None = None
    """Reason why the event at `upto`, the only one in the batch, cannot be processed."""


class Projection:
    """Keep one view up to date with the log."""

    def __init__(self, database: Database, log: Recorder, view: View[Any, Any]) -> None:
        self.view = view
        self._database = database
        self._log = log
        self._places = Generations(database, view)
        self._unread: tuple[int, LogHead, Iterator[Row]] | None = None
        """Position and target of the last batch if it left rows of its page, and those rows."""

    def caught_up(self) -> int:
        """Bring the view up to the current end of the log and return its live generation.

        An event that cannot be processed is parked, and the view continues with the next one. If the database cannot be
        written, the view is read as it is, and the log says how far behind it is.

        Raises:
            NotBuilt: the view has no live generation, and the database cannot be written.
        """
        target, size, before, writable = LogHead(), BATCH_EVENTS_MAX, None, False
        while True:
            end, places = self._places.look()
            if places == before or before is None:  # nothing was written: the log may have lost the target
                target = end
            live = _live(places)
            if live is not None and live.position >= target.position:
                return live.generation
            if not writable and self._is_left(live):
                before = None
                continue
            writable = writable or self._can_be_written(live, target.position)
            if live is not None and not writable:
                return live.generation
            if before is None and any(each.lost for each in places):
                logger.warning("rebuilding the view %s: the log no longer has its last event", self.view.name)
            size = self._step(live or _unfinished(places), target, size, self._written)
            before = places

    def _is_left(self, live: Generation | None) -> bool:
        """Return whether another database answers from now on, because this one is a replica whose view lacks too much."""
        if not self._database.is_replica:
            return False
        return cast("Replica", self._database).leave_for_view(self.view.name, live.position if live else None)

    def _can_be_written(self, live: Generation | None, target: int) -> bool:
        reason = upkeep_of(self._database).why_read_only()
        if reason is None:
            return True
        if live is None:
            raise NotBuilt(
                f"the view {self.view.name} was never built, and cannot be built here because {reason}: run "
                "threadledger db rebuild-views where the database can be written, then try again"
            )
        if (self.view.name, live.position) not in self._database.stale_views:  # a replica has reported it by itself
            self._database.stale_views.add((self.view.name, live.position))
            behind = target - live.position
            events = f"{behind:,} event{'' if behind == 1 else 's'}"
            stale.warning("the view %s is %s behind and is read as it is: %s", self.view.name, events, reason)
        return False

    def live(self) -> int | None:
        """Return the live generation, or None."""
        place = _live(self._places.look()[1])
        return place.generation if place is not None else None

    def status(self) -> dict[str, Any]:
        """Return the status of the view without updating it."""
        end, places = self._places.look()
        place = _live(places) or Generation()
        return {
            "name": self.view.name,
            "version": self.view.version,
            "position": place.position,
            "lag": max(end.position - place.position, 0),
            "parked": len(self._places.parked(place.generation)) if place.live else 0,
        }

    def rebuild(self, progress: Progress) -> None:
        """Build a new generation next to the live one, then switch to it.

        Raises:
            CorruptEvent: an event cannot be processed; the previous generation remains live.
        """
        end, places = self._places.look()
        own = Generation(generation=places[-1].generation + 1 if places else 1)
        place, size = own, BATCH_EVENTS_MAX
        progress(self.view.name, 0, end.position)
        while not any(each.live and not each.lost and each.generation >= own.generation for each in places):
            before = places
            size = self._step(place, end, size, self._refused)
            newest, places = self._places.look()
            end = newest if places == before else end
            place = next((each for each in places if each.generation == own.generation), own)
            if place.lost:
                own = place = _unfinished(places)
            progress(self.view.name, self._reached(place, end.position), end.position)
        # If there was no live generation, a reader may have helped to build this one and parked an event that rebuild refuses.
        for position, reason in self._places.parked(own.generation):
            raise refusal(self.view, position, reason)

    def discard(self, generation: int) -> None:
        """Drop a generation whose rows cannot be read, even if it is live; the next reader builds the view again."""
        ViewTransaction.writing(self._database, lambda transaction: self._places.discard(transaction, generation))

    def _step(
        self, place: Generation, target: LogHead, size: int, ended: Callable[[Generation, Batch, Any, bool], None]
    ) -> int:
        """Process a batch, unless another process advanced the view; return the maximum size of the next batch."""
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
                position, event_id = (batch.first[0], batch.first[5]) if batch.first else (batch.upto, batch.event_id)
                batch = Batch((), position, _decoded(event_id), poison=poison)
        ended(place, batch, changes, place.live or batch.upto >= target.position)
        # After a poisoned event, the batch size grows slowly again, because more of them may follow.
        return min(size * 2, BATCH_EVENTS_MAX)

    def _reached(self, place: Generation, end: int) -> int:
        """Return the position that a rebuild has reached, to show its progress."""
        return min(place.position, end)

    def _batch(self, after: int, target: LogHead, size: int) -> Batch:
        """Return the next events. An unreadable event ends the batch before it, and then forms its own batch."""
        taken: list[Any] = []
        read, first = self.view.read, None
        event_id, chars, seen = None, 0, 0
        rows = self._rows(after, target)
        for row in rows:
            if seen == size or chars > BATCH_CHARS_MAX:
                self._unread = after, target, chain((row,), rows)
                return Batch(taken, after, _decoded(event_id), first)
            if str(row[1]).startswith(self.view.stream_prefix):  # a damaged name may be a number
                try:
                    event = read(row)
                except CorruptEvent as error:
                    if seen:
                        return Batch(taken, after, _decoded(event_id), first)
                    return Batch((), row[0], _decoded(row[5]), poison=_unreadable(row, error))
                if event is not None:
                    taken.append(event)
                    first = first or row
                    chars += len(row[4]) + self.view.weight(event)
            after, event_id, seen = row[0], row[5], seen + 1
        if after <= target.position:
            return Batch(taken, target.position, target.event_id, first)
        return Batch(taken, after, _decoded(event_id), first)

    def _rows(self, after: int, target: LogHead) -> Iterator[Row]:
        """Return the rows after a position: those that the last batch left, if it ended there."""
        unread, self._unread = self._unread, None
        if unread is not None and unread[:2] == (after, target):
            return unread[2]
        return self._log.rows(after, target.position, self.view.topics)

    def _changes(self, place: Generation, batch: Batch) -> Any:
        """Compute the changes of a batch.

        Raises:
            Moved: the place has changed.
            Poison: an event cannot be processed.
        """

        def load(transaction: ViewTransaction) -> Any:
            if not self._places.holds(transaction, place):
                raise Moved
            return self.view.load(transaction, place.generation, batch.taken)

        try:
            known = ViewTransaction.reading(self._database, load) if place.claimed and batch.taken else None
            return self.view.fold(batch.taken, known)
        except Moved:
            raise
        except StoreError as error:
            if isinstance(error, CorruptEvent):
                raise _unfolded(batch, error) from error
            if place not in self._places.look()[1]:  # its tables were dropped: another process built a newer generation
                raise Moved from error
            raise
        except Exception as error:
            raise _unfolded(batch, error) from error

    def _written(self, place: Generation, batch: Batch, changes: Any, live: bool) -> None:
        """Write rows, position and effects in one transaction, or nothing if another process has advanced the view."""

        def write(transaction: ViewTransaction) -> bool:
            if not self._places.advance(transaction, place, batch, live):
                return False
            if not place.claimed:
                self.view.create(transaction, place.generation)
            if batch.poison is not None:
                self._places.park(transaction, place.generation, batch.upto, str(batch.poison))
            else:
                self.view.apply(transaction, place.generation, changes)
            if live and not place.live:
                self._places.drop_older(transaction, place.generation)
            return True

        if ViewTransaction.writing(self._database, write) and batch.poison is not None:
            logger.warning("the view %s skipped one event: %s", self.view.name, batch.poison)

    def _refused(self, place: Generation, batch: Batch, changes: Any, live: bool) -> None:
        """Write the batch, but raise an error instead of parking an event."""
        if batch.poison is not None:
            ViewTransaction.writing(
                self._database, lambda transaction: self._places.drop(transaction, place.generation)
            )
            raise refusal(self.view, batch.upto, str(batch.poison)) from batch.poison
        self._written(place, batch, changes, live)


def _decoded(event_id: EventId | None) -> EventId | None:
    """Return the id of an event, or None if it could not be decoded and is therefore not found in the log."""
    return None if isinstance(event_id, str) and "\ufffd" in event_id else event_id


def _live(places: Sequence[Generation]) -> Generation | None:
    return next((each for each in reversed(places) if each.live and not each.lost), None)


def _unfinished(places: Sequence[Generation]) -> Generation:
    """Return the newest generation if it is being built, or a new one."""
    last = places[-1] if places else Generation(generation=0, lost=True)
    return Generation(generation=last.generation + 1) if last.live or last.lost else last


def _unreadable(row: Row, error: CorruptEvent) -> Poison:
    return Poison(row[1], row[2], row[3], str(error.__cause__))


def _unfolded(batch: Batch, error: Exception) -> Poison:
    """Describe an error in folding by its type only, because its text may contain message content."""
    _, stream, version, topic = batch.first[:4] if batch.first else (0, "", 0, "")
    return Poison(stream, version, topic, type(error).__name__)


def refusal(view: View[Any, Any], position: int, reason: str) -> CorruptEvent:
    """Create the error of a rebuild that met an event that it cannot process."""
    return CorruptEvent(
        f"the view {view.name} was not rebuilt and is unchanged: at position {position}, {reason}; "
        "restore the event from a backup, or upgrade threadledger, then rebuild again"
    )


_LOOK = (
    "SELECT log.position, log.event_id, t.generation, t.position, t.live, t.leaf, e.leaf FROM (SELECT 1) one "
    "LEFT JOIN (SELECT e.position, {event_id} AS event_id FROM events e ORDER BY e.position DESC LIMIT 1) log ON 1 = 1 "
    "LEFT JOIN tracking t ON t.view = ? AND t.version = ? LEFT JOIN events e ON e.position = t.position "
    "ORDER BY t.generation"
)
_CLAIM = (
    "INSERT INTO tracking (view, version, generation, position, live, leaf) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (view, version, generation) DO NOTHING"
)
_ADVANCE = (
    "UPDATE tracking SET position = ?, live = ?, leaf = ? "
    "WHERE view = ? AND version = ? AND generation = ? AND position = ? AND live = ? "
    "AND coalesce(leaf = (SELECT e.leaf FROM events e WHERE e.position = tracking.position), leaf IS NULL)"
)
_LEAF = "SELECT {event_id}, e.leaf FROM events e WHERE e.position = ?"
_FIND = "SELECT 1 FROM tracking WHERE view = ? AND version = ? AND generation = ? AND position = ?"
_PARK = "INSERT INTO parked (view, version, generation, position, reason) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_PARKED = "SELECT position, reason FROM parked WHERE view = ? AND version = ? AND generation = ? ORDER BY position"


# Version 0 is used by the projections of other applications, which share the table.
_OLDER = (
    "SELECT version, generation FROM tracking "
    "WHERE view = ? AND version > 0 AND (version < ? OR (version = ? AND generation < ?)) ORDER BY version, generation"
)
_FORGET = "WHERE view = ? AND version = ? AND generation = ?"


@dataclass(frozen=True, slots=True)
class LogHead:
    """Represent the last event of the log at one moment."""

    position: int = 0
    event_id: EventId | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Represent the position of one generation in the log."""

    generation: int = 1
    position: int = 0
    live: bool = False
    """Whether this generation is read; otherwise it is being built, or was left by a process that died."""
    claimed: bool = False
    """Whether the generation has a row in `tracking`."""
    lost: bool = False
    """Whether the log no longer has the event at the position: it was rewound, and the generation must not be read."""


# A generation is claimed and advanced by compare-and-set, in the transaction that writes the rows of the view. If
# several processes advance it from the same position, only one succeeds. Every process locks the rows of `tracking`
# before the tables of the view.
class Generations:
    """Store the places of one view in its current version."""

    def __init__(self, database: Database, view: View[Any, Any]) -> None:
        self._database = database
        self._view = view
        self._named = (view.name, view.version)

    def look(self) -> tuple[LogHead, Sequence[Generation]]:
        """Return the last event of the log and the places of all generations, oldest first."""
        rows = rows_of(self._database, _LOOK.format(event_id=self._database.kind.event_id), self._named)
        head, places = LogHead(rows[0][0] or 0, _decoded(rows[0][1])), []
        for _, _, generation, position, live, leaf, found in rows if rows[0][2] is not None else ():
            # Earlier versions stored no leaf: a position after the end of the log is noticed all the same.
            lost = position > head.position if leaf is None else leaf != found
            places.append(Generation(generation, position, bool(live), claimed=True, lost=lost))
        return head, places

    def holds(self, transaction: ViewTransaction, place: Generation) -> bool:
        """Return whether the stored position of a place is unchanged."""
        return bool(transaction.rows(_FIND, (*self._named, place.generation, place.position)))

    def advance(self, transaction: ViewTransaction, place: Generation, batch: Batch, live: bool) -> bool:
        """Advance a place to the end of a batch, or claim it if it does not exist.

        Returns False if another process has advanced it first, or if the log lost the batch after it was read.
        """
        leaf = None
        if batch.event_id is not None:
            stored = transaction.rows(_LEAF.format(event_id=self._database.kind.event_id), (batch.upto,))
            if not stored or split_id(stored[0][0]) != split_id(batch.event_id):
                return False
            leaf = stored[0][1]
        return self.move(transaction, place, batch.upto, leaf, live)

    def move(self, transaction: ViewTransaction, place: Generation, upto: int, leaf: bytes | None, live: bool) -> bool:
        """Set the position and leaf of a place, or claim it; return False if another process has moved it."""
        if not place.claimed:
            return transaction.execute(_CLAIM, (*self._named, place.generation, upto, int(live), leaf)) == 1
        before = (*self._named, place.generation, place.position, int(place.live))
        return transaction.execute(_ADVANCE, (upto, int(live), leaf, *before)) == 1

    def park(self, transaction: ViewTransaction, generation: int, position: int, reason: str) -> None:
        """Record an event that could not be processed."""
        transaction.execute(_PARK, (*self._named, generation, position, reason))

    def parked(self, generation: int) -> Sequence[tuple[int, str]]:
        """Return (position, reason) of the events that could not be processed."""
        return [(row[0], row[1]) for row in self._database.query(_PARKED, (*self._named, generation))]

    def drop_older(self, transaction: ViewTransaction, generation: int) -> None:
        """Drop older generations and older versions of the view; newer versions are kept."""
        name, version = self._named
        for each in transaction.rows(_OLDER, (name, version, version, generation)):
            self._drop(transaction, *each)

    def drop(self, transaction: ViewTransaction, generation: int) -> None:
        """Drop a generation that was not completed; a live one is kept."""
        unfinished = f"DELETE FROM tracking {_FORGET} AND live = 0"
        if transaction.execute(unfinished, (*self._named, generation)) == 1:
            self._drop(transaction, self._view.version, generation)

    def discard(self, transaction: ViewTransaction, generation: int) -> None:
        """Drop a generation, even if it is live."""
        self._drop(transaction, self._view.version, generation)

    def _drop(self, transaction: ViewTransaction, version: int, generation: int) -> None:
        for notes in ("tracking", "parked"):
            transaction.execute(f"DELETE FROM {notes} {_FORGET}", (self._view.name, version, generation))
        # Sorted, a full-text index precedes its internal tables, which are dropped with it.
        for name in transaction.tables(prefix(self._view.name, version, generation)):
            transaction.execute(f'DROP TABLE IF EXISTS "{name}"')


Taken = tuple[int, events.Event]
"""Event to process, with its position in the log: what `View.read` returns, unless a view has a form of its own."""

K = TypeVar("K")
C = TypeVar("C")


class View(ABC, Generic[K, C]):
    """Define one view. The names of its tables contain its name, version and generation; each rebuild creates a generation.

    Processing a batch of events has three steps: `load`, `fold` and `apply`. The write lock is held only in the last
    step, and errors in the second step are caused by the events, not by the database.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Version of the view. Increase it when the tables or their contents change: the view is then rebuilt automatically."""
    topics: ClassVar[Sequence[str]]
    """Types of events that the view processes; all if empty."""
    stream_prefix: ClassVar[str | tuple[str, ...]] = CONVERSATION
    """Beginning of the names of the streams whose events it processes."""

    def read(self, row: Row) -> Any:
        """Return the event of a row in the form in which the view processes it; None if it has no effect.

        Raises:
            CorruptEvent: the row cannot be read.
        """
        return row[0], restore(row)

    def weight(self, event: Any) -> int:
        """Return the number of characters that `read` has added to an event; they count in the size of a batch."""
        return 0

    @abstractmethod
    def create(self, transaction: ViewTransaction, generation: int) -> None:
        """Create the tables of a generation."""

    @abstractmethod
    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Any]) -> K:
        """Return the existing data that these events affect. Read-only."""

    @abstractmethod
    def fold(self, taken: Sequence[Any], known: K | None) -> C:
        """Compute the changes to write, without database access; `known` is None if the view is empty.

        Raises:
            Exception: an event cannot be processed; any type of exception is allowed.
        """

    @abstractmethod
    def apply(self, transaction: ViewTransaction, generation: int, changes: C) -> None:
        """Write the changes, without reading."""

    @abstractmethod
    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""

    def prefix(self, generation: int) -> str:
        """Return the prefix of the table names of a generation."""
        return prefix(self.name, self.version, generation)


def prefix(name: str, version: int, generation: int) -> str:
    """Return the prefix of the table names of one generation of a view."""
    return f"view_{name}_{version}_{generation}_"
