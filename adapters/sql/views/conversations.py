"""Maintain the view of conversations: the state of each, and the position of its last change.

The heads of the streams contain the same state for decisions. This second copy allows listing and sorting without extra
work in appends. It is copied from the heads by SQL, so building it reads no events, except of streams whose head has
no usable state: their events are folded. A copy may be newer than the position of the view, which is repeated later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import msgspec

from threadledger.domain.conversation import (
    CONVERSATION,
    IMPORTED,
    STATE_SCHEMA,
    ConversationState,
    events,
    evolve,
    key_of,
)
from threadledger.domain.errors import CorruptEvent
from threadledger.domain.journal import Row, restore

from ..database import Database
from ..recorder import Recorder, rows_of
from . import catching_up
from .catching_up import Batch, Generation, LogHead, Poison, Projection, View, logger, refusal
from .transaction import ViewTransaction, values_of

COLUMNS = {"stream": "text", "position": "bigint", "state": "text", "written_at": "text"}
"""Columns of a row, in the order of its values, with their types in PostgreSQL."""

CATCH_UP_EVENTS_MAX = 20_000
"""Maximum number of events passed in one transaction once the view is filled, because appends wait meanwhile."""

ROWS_READ_AT_ONCE = 1_000
"""Number of rows read per query by a check."""

FOLDED_EVENTS_MAX = 4_000
"""Maximum number of events read per query to fold streams whose heads have no usable state."""

_HEAD_STATE = "s.snapshot"
"""Column of the snapshot in a stream's row."""

_HAS_OUR_SCHEMA = "s.state_schema = ?"
_USABLE = {
    "sqlite": f"{_HAS_OUR_SCHEMA} AND json_valid({_HEAD_STATE})",
    "postgresql": f"{_HAS_OUR_SCHEMA} AND left({_HEAD_STATE}, 1) = '{{' AND right({_HEAD_STATE}, 1) = '}}'",
}
"""Condition that a head has a state of our `STATE_SCHEMA`. Older versions of PostgreSQL cannot check JSON in a query."""

_IS_CONVERSATION = "substr(s.name, 1, ?) = ?"
_CONVERSATIONS = (len(CONVERSATION), CONVERSATION)

_PAGE = "s.stream > ? AND s.stream <= ?"
"""Condition for a page of streams, by number."""

_CHANGED = "s.stream IN (SELECT stream FROM events WHERE position > ? AND position <= ?)"
"""Condition for the streams that have events between two positions."""

_WRITTEN_AT = '"written_at":'
"""Text in the payload of every imported message whose time is known."""

_NEWEST_MESSAGES = (
    "SELECT s.name, {} FROM streams s JOIN events m ON m.stream = s.stream AND m.version = (SELECT n.version "
    "FROM events n WHERE n.stream = s.stream AND n.topic = 'MessageJournaled' ORDER BY n.version DESC LIMIT 1) "
    f"WHERE {_PAGE} AND {_IS_CONVERSATION} AND {{marked}}(m.state, ?) > 0"
)
_ANY_IMPORTED = f"SELECT 1 FROM idempotency_keys WHERE substr(key, 1, {len(IMPORTED)}) = '{IMPORTED}' LIMIT 1"
"""Query for an imported message. Without one, no message has a time of its own: forks copy only those of this ledger."""

_NEW_MESSAGES = (
    "SELECT s.name, {} FROM events m JOIN streams s ON s.stream = m.stream "
    "WHERE m.topic = 'MessageJournaled' AND m.position > ? AND m.position <= ? ORDER BY m.position"
)
_HAS_EVENT = "EXISTS (SELECT 1 FROM events e WHERE e.stream = s.stream AND e.version = s.version)"
_EVENTS = (
    "SELECT {columns} FROM {} JOIN streams s ON s.stream = wanted.value JOIN events e ON e.stream = s.stream "
    "WHERE e.position <= ? ORDER BY e.stream, e.version"
)
_END = "SELECT position, leaf FROM events WHERE position <= ? ORDER BY position DESC LIMIT 1"
_PAGE_END = (
    f"SELECT max(s.stream), count(CASE WHEN {_IS_CONVERSATION} THEN 1 END) "
    "FROM (SELECT stream, name FROM streams WHERE stream > ? ORDER BY stream LIMIT ?) s"
)

POSITION_MAX = 2**63 - 1


class _Written(msgspec.Struct):
    written_at: Any = None


_written_in = msgspec.json.Decoder(_Written).decode


@dataclass
class FoldedStreams:
    """Hold the rows of streams whose heads have no usable state, and the events that could not be processed."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    poison: list[tuple[int, Poison]] = field(default_factory=list)


Unusable = dict[int, tuple[str, int]]
"""Name and version of streams whose heads have no usable state, by number."""


class ConversationsView(View[Any, Any]):
    """Store the state of every conversation."""

    name = "conversations"
    version = 300 + STATE_SCHEMA  # 100 times our own number: a new state schema also rebuilds the view
    topics = ()

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        table, plain = self._table(generation), "" if transaction.kind == "sqlite" else ' COLLATE "C"'
        transaction.execute(
            f"CREATE TABLE {table} (stream TEXT{plain} NOT NULL PRIMARY KEY, position BIGINT NOT NULL, "
            "state TEXT NOT NULL, written_at TEXT)"
        )
        transaction.execute(f"CREATE INDEX {self.prefix(generation)}by_position ON {table} (position)")
        # Their number, because counting the rows would read all of them.
        transaction.execute(f"CREATE TABLE {self.prefix(generation)}total (conversations BIGINT NOT NULL)")
        transaction.execute(f"INSERT INTO {self.prefix(generation)}total VALUES (0)")

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Any]) -> None:
        """Do nothing: see `HeadsProjection`."""

    def fold(self, taken: Iterable[Row], known: None) -> FoldedStreams:
        """Fold all events of streams, given as rows in the order of streams and versions."""
        folded = FoldedStreams()
        for stream, rows in groupby(taken, key=lambda row: str(row[1])):
            state, last, written_at = ConversationState(), 0, None
            for row in rows:
                last = row[0]
                try:
                    event = restore(row)
                    evolve(state, event)
                except CorruptEvent as error:
                    folded.poison.append((last, Poison(stream, row[2], row[3], str(error.__cause__))))
                except Exception as error:  # noqa: BLE001 - any error parks the event; its text may contain message content
                    folded.poison.append((last, Poison(stream, row[2], row[3], type(error).__name__)))
                else:
                    if isinstance(event, events.MessageJournaled):
                        written_at = event.written_at
            folded.rows.append((stream, last, state.as_json(), written_at))
        return folded

    def apply(self, transaction: ViewTransaction, generation: int, changes: FoldedStreams) -> None:
        transaction.put(self._table(generation), ("stream",), COLUMNS, changes.rows)

    def unusable(self, transaction: ViewTransaction, where: str, values: Sequence[Any]) -> Unusable:
        """Return the conversations whose heads have no usable state, or whose last event is missing."""
        usable = f"{_USABLE[transaction.kind]} AND {_HAS_EVENT}"
        query = (
            f"SELECT s.stream, s.name, s.version FROM streams s WHERE {where} AND {_IS_CONVERSATION} AND NOT ({usable})"
        )
        found = transaction.rows(query, (*values, *_CONVERSATIONS, STATE_SCHEMA))
        return {number: (name, version) for number, name, version in found}

    def copy(self, transaction: ViewTransaction, generation: int, where: str, values: Sequence[Any]) -> int:
        """Copy the heads of conversations that have a usable state, and count those that are new; return their number."""
        transaction.execute(
            f"UPDATE {self.prefix(generation)}total SET conversations = conversations + ({self._new(generation, where)})",
            (*values, *_CONVERSATIONS),
        )
        return transaction.execute(
            f"INSERT INTO {self._table(generation)} (stream, position, state) "
            f"SELECT s.name, e.position, {_HEAD_STATE} FROM streams s "
            f"JOIN events e ON e.stream = s.stream AND e.version = s.version WHERE {where} AND {_IS_CONVERSATION} "
            f"AND {_USABLE[transaction.kind]} "
            "ON CONFLICT (stream) DO UPDATE SET position = excluded.position, state = excluded.state",
            (*values, *_CONVERSATIONS, STATE_SCHEMA),
        )

    def copy_times(self, transaction: ViewTransaction, generation: int, query: str, values: Sequence[Any]) -> None:
        """Store when imported messages were written, which the heads do not know.

        The query returns the stream and the payload of messages, of which the last one of a stream counts.
        """
        marked = "instr" if transaction.kind == "sqlite" else "strpos"
        found = transaction.rows(
            query.format(f"CASE WHEN {marked}(m.state, ?) > 0 THEN m.state END", marked=marked), values
        )
        times = {name: _written_at(payload) if payload is not None else None for name, payload in found}
        changed = [(written_at, name, written_at) for name, written_at in times.items()]
        update = (
            f"UPDATE {self._table(generation)} SET written_at = ? WHERE stream = ? AND written_at IS DISTINCT FROM ?"
        )
        if transaction.kind == "sqlite":
            update = update.replace("IS DISTINCT FROM", "IS NOT")
        transaction.update(update, changed)

    def count(self, database: Database, generation: int | None) -> int:
        """Return the number of conversations, including those that began after the position of a generation.

        Without a generation, the streams are counted one by one.
        """
        if generation is None:
            values: tuple[Any, ...] = _CONVERSATIONS
            query = f"SELECT count(*) FROM streams s WHERE {_IS_CONVERSATION}"
        else:
            # As a value, because PostgreSQL expects a third of all events after a position that it has to look up.
            place = "SELECT position FROM tracking WHERE view = ? AND version = ? AND generation = ?"
            found = database.query(place, (self.name, self.version, generation))
            where = "s.stream IN (SELECT e.stream FROM events e WHERE e.position > ?)"
            query = f"SELECT conversations + ({self._new(generation, where)}) FROM {self.prefix(generation)}total"
            values = (found[0][0] if found else 0, *_CONVERSATIONS)
        return int(database.query(query, values)[0][0])

    def _new(self, generation: int, where: str) -> str:
        """Return a query for the number of conversations that have no row yet."""
        return (
            f"SELECT count(*) FROM streams s WHERE {where} AND {_IS_CONVERSATION} "
            f"AND NOT EXISTS (SELECT 1 FROM {self._table(generation)} v WHERE v.stream = s.name)"
        )

    def conversations(
        self,
        transaction: ViewTransaction,
        generation: int,
        limit: int | None,
        among: tuple[str, Any] | None = None,
    ) -> list[ConversationState]:
        """Return conversations, last changed first; `among` is a query for the streams to return, and its value."""
        found = self._newest_first(transaction, generation, "stream, state, written_at", limit, among)
        return [_state(*row) for row in found]

    def streams(self, transaction: ViewTransaction, generation: int, among: tuple[str, Any] | None = None) -> list[str]:
        """Return the streams of conversations, last changed first; see `conversations`."""
        return [name for (name,) in self._newest_first(transaction, generation, "stream", None, among)]

    def _newest_first(
        self,
        transaction: ViewTransaction,
        generation: int,
        columns: str,
        limit: int | None,
        among: tuple[str, Any] | None,
    ) -> list[Any]:
        query, values = f"SELECT {columns} FROM {self._table(generation)}", []
        if among is not None:
            query += f" WHERE stream IN ({among[0]})"
            values.append(among[1])
        query += " ORDER BY position DESC"
        if limit is not None:
            query += " LIMIT ?"
            values.append(max(limit, 0))
        return transaction.rows(query, values)

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find those that cannot be read."""
        for row in transaction.each(
            f"SELECT stream, state, written_at FROM {self._table(generation)} ORDER BY position"
        ):
            _state(*row)

    def _table(self, generation: int) -> str:
        return f"{self.prefix(generation)}states"


class _Unusable(Exception):
    """Raised when a page has heads that were not copied: they are searched for only then."""


class HeadsProjection(Projection):
    """Keep the view of conversations up to date with the heads of the streams.

    A new generation is filled page by page, each page in one transaction, at position 0; it is not read meanwhile. The
    last step copies what has changed since the first page, sets the position and makes the generation live. After that,
    each step copies the heads of the streams that have events after the position, in the transaction that moves it.
    """

    def __init__(self, database: Database, log: Recorder, view: ConversationsView) -> None:
        super().__init__(database, log, view)
        self._heads = view
        self._filling = (0, 0, 0)
        """Generation that is being filled, position that the log had when this began, and the last stream copied."""
        self._any_imported = True
        """Whether the log had imported messages then; later ones are found when the view catches up."""

    def _step(
        self, place: Generation, target: LogHead, size: int, ended: Callable[[Generation, Batch, Any, bool], None]
    ) -> int:
        refuses = ended == self._refused
        if not place.claimed:
            self._written(place, Batch((), 0, None), FoldedStreams(), live=False)
        elif place.position or place.live:
            self._catch_up(place, place.position, target, refuses)
        elif not self._fill_page(place, target, size, refuses):
            self._catch_up(place, self._filling[1], target, refuses)
        return catching_up.BATCH_EVENTS_MAX

    def _reached(self, place: Generation, end: int) -> int:
        if place.live or place.generation != self._filling[0]:
            return super()._reached(place, end)
        last = self._database.query("SELECT coalesce(max(stream), 0) FROM streams")[0][0]
        return int(end * self._filling[2] / (last + 1))

    def _fill_page(self, place: Generation, target: LogHead, size: int, refuses: bool) -> bool:
        """Copy the heads of the next streams to a generation that is not live; return False after the last one."""
        if self._filling[0] != place.generation:
            self._filling = (place.generation, target.position, 0)
            self._any_imported = bool(self._database.query(_ANY_IMPORTED))
        generation, begin, last = self._filling
        upto, conversations = self._database.query(_PAGE_END, (*_CONVERSATIONS, last, size))[0]
        if upto is None:
            return False
        folded = FoldedStreams()

        def write(transaction: ViewTransaction) -> bool:
            _alone(transaction)
            if not self._places.holds(transaction, place):
                return False
            if self._heads.copy(transaction, generation, _PAGE, (last, upto)) != conversations and not searched:
                raise _Unusable
            if self._any_imported:
                values = (_WRITTEN_AT, last, upto, *_CONVERSATIONS, _WRITTEN_AT)
                self._heads.copy_times(transaction, generation, _NEWEST_MESSAGES, values)
            self._put(transaction, place, folded)
            return True

        searched = False
        try:
            is_written = ViewTransaction.writing(self._database, write)
        except _Unusable:
            unusable, end = self._unusable(_PAGE, (last, upto))
            folded, searched = self._folded(place, unusable, end, refuses), True
            is_written = ViewTransaction.writing(self._database, write)
        if is_written:
            self._filling = (generation, begin, upto)
        return True

    def _catch_up(self, place: Generation, after: int, target: LogHead, refuses: bool) -> None:
        """Copy the heads of the streams that have events after a position, and move the place, unless it has moved."""
        unusable, _ = self._unusable(_CHANGED, (after, after + CATCH_UP_EVENTS_MAX))
        end = after
        folded = self._folded(place, unusable, after + CATCH_UP_EVENTS_MAX, refuses)

        def write(transaction: ViewTransaction) -> bool:
            nonlocal end
            _alone(transaction)
            found = transaction.rows(_END, (after + CATCH_UP_EVENTS_MAX,))
            end, leaf = found[0] if found else (0, None)
            last = transaction.rows(_END, (POSITION_MAX,))
            is_last = not last or last[0][0] == end
            if self._heads.unusable(transaction, _CHANGED, (after, end)) != unusable:
                return False
            if place.live or is_last:
                if not self._places.move(transaction, place, end, leaf, place.live or is_last):
                    return False
            elif not self._places.holds(transaction, place):
                return False
            self._heads.copy(transaction, place.generation, _CHANGED, (after, end))
            self._heads.copy_times(transaction, place.generation, _NEW_MESSAGES, (_WRITTEN_AT, after, end))
            self._put(transaction, place, folded)
            if is_last and not place.live:
                self._places.drop_older(transaction, place.generation)
            return True

        if ViewTransaction.writing(self._database, write):
            self._filling = (self._filling[0], end, self._filling[2])
            for position, poison in folded.poison:
                if position > after or not place.live:
                    logger.warning("the view %s skipped one event: %s", self.view.name, poison)

    def _unusable(self, where: str, values: Sequence[Any]) -> tuple[Unusable, int]:
        """Return the streams whose heads have no usable state, and the end of the log in the same snapshot."""

        def read(transaction: ViewTransaction) -> tuple[Unusable, int]:
            found = transaction.rows(_END, (POSITION_MAX,))
            return self._heads.unusable(transaction, where, values), found[0][0] if found else 0

        return ViewTransaction.reading(self._database, read)

    def _folded(self, place: Generation, unusable: Unusable, upto: int, refuses: bool) -> FoldedStreams:
        """Fold the events of these streams up to a position, a few thousand at a time.

        Raises:
            CorruptEvent: an event cannot be processed, and the rebuild refuses it; the generation is dropped.
        """
        folded = self._heads.fold(self._events(unusable, upto), None)
        if refuses and folded.poison:
            position, poison = folded.poison[0]
            ViewTransaction.writing(
                self._database, lambda transaction: self._places.drop(transaction, place.generation)
            )
            raise refusal(self.view, position, str(poison)) from poison
        return folded

    def _events(self, unusable: Unusable, upto: int) -> Iterator[Row]:
        numbers: list[int] = []
        size = 0
        for number, (name, version) in unusable.items():
            if version > FOLDED_EVENTS_MAX:
                yield from (row for row in self._log.stream_rows(name, 0, version) if row[0] <= upto)
                continue
            if size + version > FOLDED_EVENTS_MAX:
                yield from self._events_of(numbers, upto)
                numbers, size = [], 0
            numbers.append(number)
            size += version
        if numbers:
            yield from self._events_of(numbers, upto)

    def _events_of(self, numbers: Sequence[int], upto: int) -> Sequence[Row]:
        source, wanted = values_of(self._database.kind.name, numbers)
        return rows_of(self._database, _EVENTS.format(source, columns=self._database.kind.row_columns), (wanted, upto))

    def _put(self, transaction: ViewTransaction, place: Generation, folded: FoldedStreams) -> None:
        self._heads.apply(transaction, place.generation, folded)
        for position, poison in folded.poison:
            self._places.park(transaction, place.generation, position, str(poison))


def _alone(transaction: ViewTransaction) -> None:
    """Keep other writers of views out of the transaction, and let all its queries see one snapshot of the heads."""
    if transaction.kind == "postgresql":  # SQLite's write transactions are alone anyway
        transaction.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        transaction.execute("LOCK TABLE tracking IN SHARE ROW EXCLUSIVE MODE")


def _written_at(payload: str | bytes) -> str | None:
    try:
        found = _written_in(payload)
    except msgspec.MsgspecError:  # a lone surrogate, which only the standard library reads
        try:
            found = _Written(json.loads(payload).get("written_at"))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None
    return found.written_at if isinstance(found.written_at, str) else None


def _state(stream: str, stored: str, written_at: str | None) -> ConversationState:
    state = ConversationState.from_json(stored)
    state.written_at = written_at
    state.key = state.key or key_of(stream)  # its first event may be one that could not be processed
    return state
