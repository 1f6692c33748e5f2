"""Maintain the view of conversations: the state of each, and the position of its last change.

The heads of the streams contain the same state for decisions. This second copy allows listing and sorting without extra
work in appends. It is copied from the heads by SQL, so building it reads no events, except of streams whose head has
no usable state: their events are folded. Of a conversation with a description, the events that the head names are read; the
heads of earlier versions name none, and the first event may have metadata. A copy may be newer than the position of the view,
which is repeated later. Tables and queries are in `listing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
from threadledger.domain.conversation.description import NOT_DESCRIBED, Description, described_by, versions_of
from threadledger.domain.conversation.tenants import tenant_of
from threadledger.domain.errors import CorruptEvent
from threadledger.domain.journal import Row, restore

from ..connections import MARKS
from ..database import Database
from ..recorder import Recorder, rows_of
from . import catching_up, listing
from .catching_up import Batch, Generation, LogHead, Poison, Projection, View, logger, refusal
from .listing import (
    ARCHIVED,
    CLASSES,
    DELETED,
    PENDING,
    UNANSWERED,
    class_of,
    described_values,
    labels_of,
    state_of,
)
from .transaction import ViewTransaction, pair_columns, pairs_of, values_of

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

_WAS_DELETED, _LATER = '{"deleted":true', '{"generation":'
"""Beginnings of the states of deleted conversations, and of those whose key was deleted before."""

_IS_DELETED = f"substr({_HEAD_STATE}, 1, {len(_WAS_DELETED)}) = '{_WAS_DELETED}'"
"""Condition that a conversation was deleted."""

_NOT_DESCRIBED, _DESCRIBED = '{"described":{}', '{"described":{"'
"""Beginnings of the states of conversations without and with a description; heads of earlier versions have neither."""
_USUAL = f'{_NOT_DESCRIBED},"unanswered":0,"key":'
"""Beginning of most states: to compare it takes a tenth of the time of a look into the JSON."""

_IS_UNANSWERED, _IS_ARCHIVED, _IS_PENDING = (
    {
        "sqlite": f"json_extract({_HEAD_STATE}, '$.{path}') {is_so}",
        "postgresql": f"strpos({_HEAD_STATE}, '{text}') {found}",
    }
    for path, is_so, text, found in (
        ("unanswered", "> 0", '"unanswered":0,', "= 0"),
        ("described.archived", "= 1", '"archived":true', "> 0"),
        ("pending", "> 0", '"pending":', "> 0"),
    )
)
"""Conditions for the class of a conversation. PostgreSQL looks at the text of its state, of which it does not know whether it
is JSON: inside a text, each quotation mark would follow a backslash."""


def _class(kind: str) -> str:
    """Return an expression for the class of a conversation, with `TO_DESCRIBE` if it may have a description, or has a tenant."""
    begins = " OR ".join(f"substr({_HEAD_STATE}, 1, {len(each)}) = '{each}'" for each in (_DESCRIBED, _LATER))
    is_tenants = listing.IS_TENANTS.format("s.name")
    return (
        f"CASE WHEN substr({_HEAD_STATE}, 1, {len(_USUAL)}) = '{_USUAL}' AND NOT {is_tenants} THEN 0 "
        f"WHEN {_IS_DELETED} THEN {DELETED} ELSE "
        f"CASE WHEN {_IS_UNANSWERED[kind]} THEN {UNANSWERED} ELSE 0 END + "
        f"CASE WHEN {_IS_PENDING[kind]} THEN {PENDING} ELSE 0 END + "
        f"CASE WHEN substr({_HEAD_STATE}, 1, {len(_NOT_DESCRIBED)}) = '{_NOT_DESCRIBED}' AND NOT {is_tenants} THEN 0 "
        f"WHEN ({begins}) AND {_IS_ARCHIVED[kind]} THEN {TO_DESCRIBE + ARCHIVED} ELSE {TO_DESCRIBE} END END"
    )


_IS_CONVERSATION = "substr(s.name, 1, ?) = ?"
_CONVERSATIONS = (len(CONVERSATION), CONVERSATION)

_PAGE = "s.stream > ? AND s.stream <= ?"
"""Condition for a page of streams, by number."""

_CHANGED = "s.stream IN (SELECT stream FROM events WHERE position > ? AND position <= ?)"
"""Condition for the streams that have events between two positions."""

_WRITTEN_AT = '"written_at":'
"""Text in the payload of every imported message whose time is known."""

_POSITION_IN = {"sqlite": "instr", "postgresql": "strpos"}

_NOT_DELETED = f"v.class <> {DELETED}"

_IS_CURRENT = (
    "NOT EXISTS (SELECT 1 FROM events d WHERE d.stream = m.stream AND d.version > m.version "
    f"AND d.topic = 'ConversationDeleted' AND ({MARKS.replace('topic', 'd.topic')}))"
)
"""Condition that a message `m` does not belong to a deleted conversation, by the index of marks."""

_NEWEST_MESSAGES = (
    "SELECT s.stream, {} FROM streams s JOIN events m ON m.stream = s.stream AND m.version = (SELECT n.version "
    "FROM events n WHERE n.stream = s.stream AND n.topic = 'MessageJournaled' ORDER BY n.version DESC LIMIT 1) "
    f"WHERE {_PAGE} AND {_IS_CONVERSATION} AND {{marked}}(m.state, ?) > 0 AND {_IS_CURRENT}"
)
_ANY_IMPORTED = f"SELECT 1 FROM idempotency_keys WHERE substr(key, 1, {len(IMPORTED)}) = '{IMPORTED}' LIMIT 1"
"""Query for an imported message. Without one, no message has a time of its own: forks copy only those of this ledger."""

_NEW_MESSAGES = (
    "SELECT s.stream, {} FROM events m JOIN streams s ON s.stream = m.stream "
    f"WHERE m.topic = 'MessageJournaled' AND m.position > ? AND m.position <= ? AND {_IS_CURRENT} ORDER BY m.position"
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
TO_DESCRIBE = 8
"""Added to the class of a conversation that was copied, until its description is, at the end of the same transaction."""

_CLASSES_TO_DESCRIBE = tuple(TO_DESCRIBE + number for number in CLASSES)
_TO_BE_DESCRIBED = (
    f"SELECT v.number, v.class - {TO_DESCRIBE}, v.position, v.stream, "
    "CASE WHEN substr(v.state, 1, ?) = ? OR substr(v.state, 1, ?) = ? THEN v.state WHEN substr(v.state, 1, ?) = ? THEN '' END "
    f"FROM {{}} v WHERE v.class IN {_CLASSES_TO_DESCRIBE}"
)
_FIRST_METADATA = (
    "SELECT m.stream, m.state FROM {} JOIN events m ON m.stream = wanted.value AND m.version = 1 "
    "WHERE m.topic = 'ConversationStarted' AND {}(m.state, '\"metadata\":') > 0"
)
_DESCRIPTIONS = (
    "SELECT e.stream, {columns} FROM {source} JOIN events e ON e.stream = {number} AND e.version = {version} "
    "JOIN streams s ON s.stream = e.stream"
)

POSITION_MAX = listing.POSITION_MAX


class _Written(msgspec.Struct):
    written_at: Any = None


class _Described(msgspec.Struct):
    described: dict[str, Any] = {}


class _Began(msgspec.Struct):
    metadata: dict[str, Any] = {}


_written_in = msgspec.json.Decoder(_Written).decode
_described_in = msgspec.json.Decoder(_Described).decode
_began_in = msgspec.json.Decoder(_Began).decode


@dataclass
class FoldedStreams:
    """Hold the rows of streams whose heads have no usable state, and the events that could not be processed."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    labels: list[tuple[Any, ...]] = field(default_factory=list)
    poison: list[tuple[int, Poison]] = field(default_factory=list)


Unusable = dict[int, tuple[str, int]]
"""Name and version of streams whose heads have no usable state, by number."""


class ConversationsView(View[Any, Any]):
    """Store the state of every conversation."""

    name = "conversations"
    version = 500 + STATE_SCHEMA  # 100 times our own number: a new state schema also rebuilds the view
    topics = ()

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        for statement in listing.TABLES:
            transaction.execute(statement.format(begin=self.prefix(generation), **listing.differing(transaction.kind)))
        # Their number, because counting the rows would read all of them.
        transaction.execute(f"CREATE TABLE {self.prefix(generation)}total (conversations BIGINT NOT NULL)")
        transaction.execute(f"INSERT INTO {self.prefix(generation)}total VALUES (0)")

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Any]) -> None:
        """Do nothing: see `HeadsProjection`."""

    def fold(self, taken: Iterable[Row], known: Mapping[str, int] | None) -> FoldedStreams:
        """Fold all events of streams, given as rows in the order of streams and versions; `known` has their numbers."""
        folded = FoldedStreams()
        for stream, rows in groupby(taken, key=lambda row: str(row[1])):
            state, last, written_at = ConversationState(), 0, None
            describing: list[events.Event] = []
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
                    elif isinstance(event, events.ConversationDeleted):
                        written_at = None
                    elif isinstance(event, (events.ConversationStarted, events.ConversationDescribed)):
                        describing.append(event)
            description, number = described_by(state.described, describing), (known or {}).get(stream, 0)
            values = (class_of(state), state.as_json(), written_at, *described_values(description))
            folded.rows.append((number, stream, last, *values))
            labels = labels_of(description, tenant_of(key_of(stream)))
            folded.labels += [(label, values[0], last, number) for label in labels]
        return folded

    def apply(self, transaction: ViewTransaction, generation: int, changes: FoldedStreams) -> None:
        transaction.put(self.table(generation), ("number",), listing.COLUMNS, changes.rows)
        transaction.insert(f"{self.prefix(generation)}labels", listing.LABEL_COLUMNS, changes.labels)

    def unusable(self, transaction: ViewTransaction, where: str, values: Sequence[Any]) -> Unusable:
        """Return the conversations whose heads have no usable state, or whose last event is missing."""
        usable = f"{_USABLE[transaction.kind]} AND {_HAS_EVENT}"
        query = (
            f"SELECT s.stream, s.name, s.version FROM streams s WHERE {where} AND {_IS_CONVERSATION} AND NOT ({usable})"
        )
        found = transaction.rows(query, (*values, *_CONVERSATIONS, STATE_SCHEMA))
        return {number: (name, version) for number, name, version in found}

    def copy(
        self,
        transaction: ViewTransaction,
        generation: int,
        where: str,
        values: Sequence[Any],
        expected: int | None = None,
    ) -> int:
        """Copy the heads of conversations that have a usable state, and count those that are new; return their number.

        `expected` is the number of conversations of a page that is copied for the first time, as a rule.
        """
        table, here = self.table(generation), where.replace("s.stream", "number")
        # Sorted, because PostgreSQL would read the whole table for any row.
        one = f"SELECT number FROM {table} WHERE {here} ORDER BY number LIMIT 1"
        is_first = expected is not None and not transaction.rows(one, values)
        if not is_first:
            self._count(transaction, generation, f"- ({self._live(generation, where)})", values)
        transaction.execute(f"DELETE FROM {self.prefix(generation)}labels WHERE {here}", values)
        copied = transaction.execute(
            f"INSERT INTO {table} (number, stream, position, class, state) "
            f"SELECT s.stream, s.name, e.position, {_class(transaction.kind)}, {_HEAD_STATE} FROM streams s "
            f"JOIN events e ON e.stream = s.stream AND e.version = s.version WHERE {where} AND {_IS_CONVERSATION} "
            f"AND {_USABLE[transaction.kind]} "
            "ON CONFLICT (number) DO UPDATE SET position = excluded.position, class = excluded.class, "
            "state = excluded.state, owner = NULL, description = NULL",
            (*values, *_CONVERSATIONS, STATE_SCHEMA),
        )
        return copied

    def count_copied(
        self, transaction: ViewTransaction, generation: int, where: str, values: Sequence[Any], rows: int | None = None
    ) -> None:
        """Add the number of conversations that are there now to the total; `rows` is the number of rows, if it is known."""
        if rows is None:
            self._count(transaction, generation, f"+ ({self._live(generation, where)})", values)
        else:  # counting them takes a twentieth of the time
            deleted = self._live(generation, where).replace(_NOT_DELETED, f"v.class = {DELETED}")
            self._count(transaction, generation, f"+ ? - ({deleted})", (rows, *values))

    def _count(self, transaction: ViewTransaction, generation: int, change: str, values: Sequence[Any]) -> None:
        total = f"{self.prefix(generation)}total"
        transaction.execute(f"UPDATE {total} SET conversations = conversations {change}", values)

    def _live(self, generation: int, where: str) -> str:
        """Return a query for the number of rows of conversations that were not deleted."""
        here = where.replace("s.stream", "v.number")
        return f"SELECT count(*) FROM {self.table(generation)} v WHERE {here} AND {_NOT_DELETED}"

    def copy_descriptions(self, transaction: ViewTransaction, generation: int) -> None:
        """Store the descriptions of the conversations that were copied in this transaction, their labels and their true class."""
        table = self.table(generation)
        ((greatest,),) = transaction.rows(f"SELECT max(class) FROM {table}")
        if greatest is None or greatest < TO_DESCRIBE:
            return
        values = [value for each in (_DESCRIBED, _LATER, _NOT_DESCRIBED) for value in (len(each), each)]
        copied = transaction.rows(_TO_BE_DESCRIBED.format(table), values)
        known = {number: _described_in(head).described for number, _, _, _, head in copied if head}
        wanted = {(number, version) for number, each in known.items() for version in versions_of(each).values()}
        at = self._events_at(transaction, sorted(wanted))
        found = {number: described_by(each, at.get(number, ())) for number, each in known.items()}
        found |= self._first_metadata(transaction, [number for number, _, _, _, head in copied if head is None])
        update = f"UPDATE {table} SET owner = ?, description = ? WHERE number = ?"
        transaction.update(update, [(*described_values(each), number) for number, each in found.items()])
        transaction.execute(f"UPDATE {table} SET class = class - {TO_DESCRIBE} WHERE class IN {_CLASSES_TO_DESCRIBE}")
        labels = [
            (label, of_class, position, number)
            for number, of_class, position, stream, _ in copied
            for label in labels_of(found.get(number, NOT_DESCRIBED), tenant_of(key_of(stream)))
        ]
        transaction.insert(f"{self.prefix(generation)}labels", listing.LABEL_COLUMNS, labels)

    def _first_metadata(self, transaction: ViewTransaction, numbers: Sequence[int]) -> dict[int, Description]:
        """Return the descriptions of conversations that may only have the metadata with which they started."""
        if not numbers:
            return {}
        source, wanted = values_of(transaction.kind, numbers)
        query = _FIRST_METADATA.format(source, _POSITION_IN[transaction.kind])
        starts = transaction.rows(query, (wanted,))
        return {number: described_by({"metadata": 1}, [_start(payload)]) for number, payload in starts}

    def _events_at(
        self, transaction: ViewTransaction, places: Sequence[tuple[int, int]]
    ) -> dict[int, list[events.Event]]:
        """Return the events at (stream, version) places, by stream; those that cannot be read are left out."""
        found: dict[int, list[events.Event]] = {}
        if places:
            source, value = pairs_of(transaction.kind, places)
            number, version = pair_columns(transaction.kind)
            query = _DESCRIPTIONS.format(columns=transaction.row_columns, source=source, number=number, version=version)
            for stream, *row in transaction.rows(query, (value,)):
                with suppress(CorruptEvent):  # the list leaves it out; `db check` reports it
                    found.setdefault(stream, []).append(restore(tuple(row)))
        return found

    def copy_times(self, transaction: ViewTransaction, generation: int, query: str, values: Sequence[Any]) -> None:
        """Store when imported messages were written, which the heads do not know.

        The query returns the stream and the payload of messages, of which the last one of a stream counts.
        """
        marked = _POSITION_IN[transaction.kind]
        found = transaction.rows(
            query.format(f"CASE WHEN {marked}(m.state, ?) > 0 THEN m.state END", marked=marked), values
        )
        times = {number: _written_at(payload) if payload is not None else None for number, payload in found}
        changed = [(written_at, number, written_at) for number, written_at in times.items()]
        update = (
            f"UPDATE {self.table(generation)} SET written_at = ? WHERE number = ? AND written_at IS DISTINCT FROM ?"
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
            query = f"SELECT count(*) FROM streams s WHERE {_IS_CONVERSATION} AND NOT {_IS_DELETED}"
        else:
            # As a value, because PostgreSQL expects a third of all events after a position that it has to look up.
            place = "SELECT position FROM tracking WHERE view = ? AND version = ? AND generation = ?"
            found = database.query(place, (self.name, self.version, generation))
            where = "s.stream IN (SELECT e.stream FROM events e WHERE e.position > ?)"
            now = f"SELECT count(*) FROM streams s WHERE {where} AND {_IS_CONVERSATION} AND NOT {_IS_DELETED}"
            known = self._live(generation, where)
            query = f"SELECT conversations + ({now}) - ({known}) FROM {self.prefix(generation)}total"
            position = found[0][0] if found else 0
            values = (position, *_CONVERSATIONS, position)
        return int(database.query(query, values)[0][0])

    def listing(self, transaction: ViewTransaction, generation: int) -> listing.Listing:
        """Return the list of a generation."""
        return listing.Listing(transaction, self.prefix(generation))

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find those that cannot be read."""
        for row in transaction.each(f"SELECT {listing.STATE} FROM {self.table(generation)} v ORDER BY v.number"):
            state_of(*row)

    def table(self, generation: int) -> str:
        """Return the table of the states."""
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
            copied = self._heads.copy(transaction, generation, _PAGE, (last, upto), conversations)
            if copied != conversations and not searched:
                raise _Unusable
            self._heads.copy_descriptions(transaction, generation)
            if self._any_imported:
                values = (_WRITTEN_AT, last, upto, *_CONVERSATIONS, _WRITTEN_AT)
                self._heads.copy_times(transaction, generation, _NEWEST_MESSAGES, values)
            self._put(transaction, place, folded)
            rows = None if searched else conversations
            self._heads.count_copied(transaction, generation, _PAGE, (last, upto), rows)
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
            self._heads.copy_descriptions(transaction, place.generation)
            self._heads.copy_times(transaction, place.generation, _NEW_MESSAGES, (_WRITTEN_AT, after, end))
            self._put(transaction, place, folded)
            self._heads.count_copied(transaction, place.generation, _CHANGED, (after, end))
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
        numbers = {name: number for number, (name, _) in unusable.items()}
        folded = self._heads.fold(self._events(unusable, upto), numbers)
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


def _start(payload: str | bytes) -> events.ConversationStarted:
    """Return a start with the metadata of a payload; without any, if it cannot be read."""
    try:
        began = _began_in(payload)
    except msgspec.MsgspecError:  # a lone surrogate, which only the standard library reads
        try:
            found = json.loads(payload).get("metadata")
            began = _Began(found if isinstance(found, dict) else {})
        except (ValueError, TypeError, AttributeError, RecursionError):
            began = _Began()
    return events.ConversationStarted(key="", metadata=began.metadata, originator_version=1)
