"""Implement `Upkeep` for one database: check it, back it up, and copy it.

The check verifies that the log is complete and that stored states match its events; it is read-only. A copy may go into
a database of the other kind. Backups and copies pass the same check before they are complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr as set_field

from threadledger.domain.conversation import CONVERSATION, STATE_SCHEMA, ConversationState, evolve, key_of
from threadledger.domain.conversation.events import EVENTS, Event
from threadledger.domain.errors import ChangedEvent, Conflict, CorruptEvent, NewerSchema, StoreError, StoreUnavailable
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import Finding, NotedThread, noted_row, quietly, restore
from threadledger.domain.journal.outcomes import NotedStream, ThreadOutcome

from .blobs import check_blobs, copy_file, kept_in_files, unreferenced
from .connections import ConnectionLost, Transaction, leaves_of, split_id
from .damage import form_of, is_undecodable, replacing_characters
from .database import Database
from .kind_upkeep import upkeep_of
from .notebooks import noted_threads, unsettled_threads
from .notes import noted
from .schema import EVENTS_REWRITTEN_BY, open_schema, schema_version


class SqlUpkeep:
    """Implement the maintenance operations of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def schema_before(self) -> int | None:
        return self._database.schema_before

    def check(self, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        return check(self._database, progress)

    def back_up(self, path: Path, progress: Callable[[int, int], None]) -> int:
        return back_up(self._database, path, progress)

    def copy_to(self, url: str, progress: Callable[[int, int], None]) -> int:
        target = Database(url)
        try:
            return copy_ledger(self._database, target, progress)
        finally:
            target.close()

    def noted_threads(self, streams: Sequence[str]) -> Sequence[NotedThread]:
        return noted_threads(self._database, streams)

    def unsettled_threads(self, limit: int) -> Sequence[NotedThread]:
        return unsettled_threads(self._database, limit)

    def note_outcome(self, stream: str, mirror: str, outcome: ThreadOutcome) -> None:
        from .outcomes import note_outcome

        note_outcome(self._database, stream, mirror, outcome)

    def noted_streams(
        self,
        number_max: int,
        limit: int,
        *,
        state: str | None = None,
        mirror: str | None = None,
        stream: str | None = None,
    ) -> Sequence[NotedStream]:
        from .outcomes import noted_streams

        return noted_streams(self._database, number_max, limit, wanted=state, mirror=mirror, stream=stream)


CHECK_PAGE_EVENTS = 2_000
"""Number of events read per query."""

CLOCK_AHEAD_MINUTES_MAX = 5
"""Maximum minutes that the time of an event may be ahead of the clock of the checking machine."""

GAPS_REPORTED_MAX = 20
"""Maximum number of gaps in the positions that are reported."""

_GAPS = (
    "SELECT e.position + 1, (SELECT min(n.position) FROM events n WHERE n.position > e.position) - 1 FROM events e "
    "WHERE e.position < ? AND NOT EXISTS (SELECT 1 FROM events n WHERE n.position = e.position + 1) "
    f"ORDER BY e.position LIMIT {GAPS_REPORTED_MAX}"
)
_EVENTS = (
    "SELECT e.stream, {columns}, e.leaf FROM events e LEFT JOIN streams s USING (stream) WHERE (e.stream, e.version) > (?, ?) "
    f"ORDER BY e.stream, e.version LIMIT {CHECK_PAGE_EVENTS}"
)

_STORED_HEADS = (
    "SELECT s.stream, s.version, s.state_schema, s.snapshot, s.due_at, "
    "(SELECT max(e.version) FROM events e WHERE e.stream = s.stream) FROM streams s WHERE s.stream BETWEEN ? AND ?"
)

Query = Callable[[str, Sequence[Any]], Sequence[Any]]
"""Function that returns the rows of a query; `?` is the placeholder for a value."""


def check(database: Database, progress: Callable[[int, int], None]) -> Iterator[Finding]:
    """Yield each problem found; call `progress` with the number of events checked and the total."""

    def query(statement: str, values: Sequence[Any]) -> Sequence[Any]:
        return database.read(lambda transaction: _query_on(database, transaction)(statement, values))

    try:
        yield from database.read(
            lambda transaction: [
                *_database_itself(database, transaction),
                *_positions(database, transaction),
                *_ahead_of_the_log(transaction),
            ]
        )
        yield from _streams(database, query, progress)
        yield from check_blobs(database, database.read)
    except NewerSchema:  # it was upgraded meanwhile, and is not damaged
        raise
    except StoreError as error:
        yield Finding("database", f"it cannot be read to its end: {error}")


def _database_itself(database: Database, transaction: Transaction) -> Iterator[Finding]:
    for problem in upkeep_of(database).integrity(transaction):
        yield Finding("database", problem)
    for table, every, _ in NOTES:
        columns = _columns_in(database, transaction, table, every)
        try:
            for _page in transaction.pages(f"SELECT {', '.join(columns)} FROM {table}", PAGE_ROWS) if columns else ():
                pass
        except database.driver.Error as error:
            if not is_undecodable(error):
                raise
            yield Finding("database", f"{table} has a row that cannot be read: {error}")


def _query_on(database: Database, transaction: Transaction) -> Query:
    """Return a function that queries in the transaction of a connection."""

    def query(statement: str, values: Sequence[Any]) -> Sequence[Any]:
        found: Sequence[Any] = transaction.execute(statement, values).fetchall()
        return found

    def query_leniently(statement: str, values: Sequence[Any]) -> Sequence[Any]:
        try:
            return query(statement, values)
        except database.driver.Error as error:
            if not is_undecodable(error):
                raise
        with replacing_characters(transaction.driver_connection):  # several times as slow
            return query(statement, values)

    return query_leniently if database.kind.name == "sqlite" else query


def _positions(database: Database, transaction: Transaction) -> Iterator[Finding]:
    """Check that each position from 1 to the last assigned one has an event."""
    last = upkeep_of(database).last_position(transaction)
    first, newest, count = transaction.execute("SELECT min(position), max(position), count(*) FROM events").fetchone()
    gaps = [(1, first - 1)] if first not in {None, 1} else []
    if count and newest - first + 1 != count:
        gaps += transaction.execute(_GAPS, (newest,)).fetchall()
    if (newest or 0) < last:
        gaps.append(((newest or 0) + 1, last))
    for begin, end in gaps:
        missing = f"{begin}" if begin == end else f"{begin} to {end}"
        yield Finding("position", f"the events at {missing} are missing", position=begin)
    if newest is not None and newest > last:
        yield Finding("position", f"it is after the last assigned position ({last})", position=newest)


_REWOUND_VIEWS = (
    "SELECT t.view, t.position FROM tracking t LEFT JOIN events e ON e.position = t.position "
    "WHERE t.version > 0 AND t.live = 1 AND t.position > 0 AND (e.leaf IS NULL OR e.leaf <> t.leaf) ORDER BY t.view"
)
_REWOUND_THREADS = (
    "SELECT m.stream, m.mirror, m.version, coalesce(s.version, 0) FROM mirror_heads m "
    "LEFT JOIN streams s ON s.name = m.stream WHERE m.version > coalesce(s.version, 0) ORDER BY m.stream, m.mirror"
)


def _ahead_of_the_log(transaction: Transaction) -> Iterator[Finding]:
    """Report views and states of threads that are based on events which the log no longer has."""
    for view, position in transaction.execute(_REWOUND_VIEWS):
        problem = f"{view} contains events that are no longer in the log: it is rebuilt when it is read"
        yield Finding("view", problem, position=position)
    for stream, mirror, version, journaled in transaction.execute(_REWOUND_THREADS):
        problem = (
            f"the thread of {mirror} is at version {version}, the journal at {journaled}: the log was rewound; compare "
            "them with: threadledger replay verify"
        )
        yield Finding("thread", problem, key=key_of(stream), version=version)


def _streams(database: Database, query: Query, progress: Callable[[int, int], None]) -> Iterator[Finding]:
    """Check the versions of each stream, their order in the log, their leaf hashes, and the stored state."""
    try:
        yield from _each_stream(database, query, progress)
    except (TypeError, ValueError, AttributeError) as error:
        problem = f"it cannot be read to its end: a column has a value of another type ({type(error).__name__})"
        yield Finding("database", problem)


def _each_stream(database: Database, query: Query, progress: Callable[[int, int], None]) -> Iterator[Finding]:
    columns, heads = database.kind.row_columns, _STORED_HEADS
    if not database.schema_is_open and database.read(lambda it: schema_version(it, "")) < EVENTS_REWRITTEN_BY:
        columns, heads = columns.replace(database.kind.event_id, "e.event_id"), heads.replace("snapshot", "state")
    events = _EVENTS.format(columns=columns)
    ((total,),) = query("SELECT count(*) FROM events", ())
    seen, after = 0, (0, -1)
    stream: _CheckedStream | None = None
    latest = to_iso(now() + timedelta(minutes=CLOCK_AHEAD_MINUTES_MAX))
    while page := query(events, after):
        rows = [row[1:] for row in page]
        is_same = leaves_of(rows) == [row[8] for row in rows]
        first = stream.number if stream is not None else page[0][0]
        stored = {row[0]: row[1:] for row in query(heads, (first, page[-1][0]))}
        begin = 0
        for number, each in groupby(page, key=itemgetter(0)):
            end = begin + len(list(each))
            if stream is None or stream.number != number:
                yield from stream.end(stored) if stream is not None else ()
                stream = _CheckedStream(number, rows[begin][1], latest)
            while begin < end:
                begin += stream.follow(rows[begin:end]) if is_same else 0
                if begin < end:
                    yield from stream.take(rows[begin])
                    begin += 1
        yield from unreferenced(query, page)
        seen += len(page)
        progress(seen, total)
        if len(page) < CHECK_PAGE_EVENTS:
            break  # and not at an empty page: a damaged number of a stream may be after every other
        after = (page[-1][0], page[-1][3])
    if stream is not None:
        yield from stream.end({row[0]: row[1:] for row in query(heads, (stream.number, stream.number))})
    empty = "SELECT name, version FROM streams s WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.stream = s.stream)"
    for name, version in query(empty, ()):
        yield Finding("stream", f"its {version} events are missing", key=key_of(str(name)))


class _CheckedStream:
    """Check one stream, event by event."""

    def __init__(self, number: int, name: str | None, latest: str) -> None:
        self.number = number
        self.name = str(name or f"stream {number}, which has no name")
        self.version = 0
        self.position = 0
        self.at = ""
        self.latest = latest
        """Latest time that is not in the future."""
        self.state: ConversationState | None = ConversationState()

    def follow(self, rows: Sequence[Sequence[Any]]) -> int:
        """Apply events whose leaves match, up to the first one that has another problem; return their number."""
        expected, position, at, latest, state = self.version, self.position, self.at, self.latest, self.state
        count, moment = 0, None
        for row in rows:  # written out, because it runs for each event of the log
            before = position
            expected += 1
            position, _, version, topic, payload, _, time, schema, _ = row
            if version != expected or position < before or not at <= time <= latest:
                break
            if state is not None:
                try:
                    if moment is None or time != at:
                        moment = from_iso(time)
                    event = _decoded(topic, schema, payload)
                    set_field(event, "originator_version", version)  # that and the time are all that `evolve` reads
                    set_field(event, "timestamp", moment)
                except (ValueError, TypeError, RecursionError):
                    try:
                        event = restore((position, self.name, version, *row[3:8]))
                    except CorruptEvent:
                        break
                evolve(state, event)
            count += 1
            self.version, self.position, self.at = version, position, time
            at = time
        return count

    def take(self, row: Sequence[Any]) -> Iterator[Finding]:
        """Check the next event, and name its problems."""
        position, _, version, topic, state, event_id, at, schema, _ = row
        where = {"key": key_of(self.name), "position": position, "version": version}
        if version != self.version + 1:
            missing = (
                f"version {self.version + 1}" if version == self.version + 2 else f"{self.version + 1} to {version - 1}"
            )
            yield Finding("version", f"{missing} before it is missing", **where)
        if position < self.position:
            yield Finding("order", f"the earlier version {self.version} is stored later, at {self.position}", **where)
        self.version, self.position = version, max(position, self.position)
        if form_of(row) is None:
            yield Finding("leaf", f"the {topic} was changed or moved after it was stored", **where)
            self.state = None  # it contains a hash of what was said
        try:
            event = restore((position, self.name, version, topic, state, event_id, str(at), schema))
        except CorruptEvent as error:
            yield Finding("payload", str(error.__cause__ or error), **where)
            self.state = None  # the state after an unreadable event is unknown
        else:
            yield from self._check_time(str(at), where)
            if self.state is not None:
                evolve(self.state, event)

    def _check_time(self, at: str, where: dict[str, Any]) -> Iterator[Finding]:
        """Check that a time is neither in the future nor before that of the previous event of a conversation."""
        if at > self.latest:
            yield Finding("time", f"it is {at}, in the future: check the clocks of the machines that write", **where)
        if at < self.at and self.name.startswith(CONVERSATION):
            yield Finding("time", f"it is {at}, earlier than the event before it ({self.at})", **where)
        self.at = max(at, self.at)

    def end(self, stored: Mapping[int, Sequence[Any]]) -> Iterator[Finding]:
        """Compare the stored head with the head computed from the events."""
        found, key = stored.get(self.number), key_of(self.name)
        if found is None:
            yield Finding("stream", "the stream's own row is missing", key=key)
            return
        version, schema, state, due_at, newest = found
        if version != newest:
            problem = f"the events end at version {newest}; {version} were stored"
            yield Finding("version", problem, key=key, version=version)
        settled = version == self.version and schema == STATE_SCHEMA and self.name.startswith(CONVERSATION)
        if settled and self.state is not None and not _matches(state, due_at, self.state):
            yield Finding("state", "the stored state of the stream does not match its events", key=key)


def _decoded(topic: str, schema: int, payload: bytes) -> Event:
    """Return the event of a payload, without the fields that are columns.

    Raises:
        ValueError: the general way has to read it.
    """
    decode = _DECODERS.get(topic)
    if decode is None:
        if topic not in EVENTS:
            raise ValueError(topic)
        decode = _DECODERS[topic] = msgspec.json.Decoder(EVENTS[topic]).decode
    if schema > Event.SCHEMA:
        raise ValueError(topic)
    return decode(payload)


_DECODERS: dict[str, Callable[[bytes | str], Event]] = {}


def _matches(stored: str, due_at: str | None, state: ConversationState) -> bool:
    """Return whether a stored state equals this one; fields added after it was stored have their defaults."""
    try:
        # What cannot be decoded was replaced, and is not ASCII.
        if not stored.isascii() or due_at != state.next_deadline:
            return False
        return stored == state.as_json() or ConversationState.from_json(stored).agrees_with(state)
    except (ValueError, TypeError, AttributeError):
        return False


PAGE_ROWS = 2_000
"""Number of rows copied per statement."""

PAGE_CHUNKS = 2
"""Number of chunks of attachments copied per statement; each has up to 1 MiB."""

TABLES: Sequence[tuple[str, str, str]] = (
    ("streams", "stream, name, version, state_schema, snapshot, due_at", "stream"),
    ("events", "position, stream, version, topic, schema, at, id, text_id, leaf, state", "position"),
    ("idempotency_keys", "stream, generation, key, version, fingerprint", "stream, generation, key"),
    ("addresses", "address, stream, version", "address, stream, version"),
    ("blobs", "address, size, complete, at", "address"),
    ("blob_chunks", "address, n, data", "address, n"),
    ("blob_refs", "blob, stream, version", "blob, stream, version"),
    ("mirror_heads", "stream, mirror, thread_id, version, settled, holder, held_until, doubts", "stream, mirror"),
    ("assistants", "endpoint, profile_hash, assistant_id", "endpoint, profile_hash"),
    ("unfinished_threads", "stream, mirror, thread_id, digest", "stream, mirror"),
    ("job_items", "job, item, ended, holder, held_until", "job, item"),
    ("thread_creations", "creation, stream, mirror, endpoint, thread_id, at", "creation"),
    ("exchange_claims", "stream, exchange, holder, held_until", "stream, exchange"),
    ("unsent_responses", "request, fingerprint, at", "request"),
    ("duties", "duty, holder, held_until, due_at, state", "duty"),
    ("failed_work", "kind, subject, attempts, failed_at, next_at, reason", "kind, subject"),
    (
        "webhook_messages",
        "message, failure_group, kind, occurrence, body, created_at, attempts, next_at, sent_at, answer",
        "message",
    ),
)
"""Table name, columns and sort order. Views are not copied: they are rebuilt from the events."""

NOTES = tuple(each for each in TABLES if each[0] not in {"streams", "events", "blob_chunks"})
"""Tables of notes about events, threads, assistants, jobs and requests, which no hash protects."""

Progress = Callable[[int, int], None]


def _findings(database: Database, transaction: Transaction, progress: Progress) -> Iterator[Finding]:
    """Check a copy like `db check` does."""
    yield from _positions(database, transaction)
    yield from _streams(database, _query_on(database, transaction), progress)
    yield from check_blobs(database, lambda work: work(transaction))


def refuse_damage(found: Iterable[Finding]) -> None:
    """Raise an error for the first finding in a copy.

    An event that cannot be read although its leaf hash matches is copied: it is what was stored. So are wrong times.

    Raises:
        ChangedEvent: something differs from what was stored.
    """
    for finding in found:
        if finding.subject not in {"payload", "time"}:
            raise ChangedEvent(
                f"no copy was made, because the ledger is damaged ({_place(finding)}{finding.problem}): list all damage "
                "with threadledger db check; to keep the damaged database as it is, close all programs that use it and "
                "copy its files; threadledger export --all --unchecked writes its texts",
                finding.key,
                finding.version,
                finding.position,
            )


def _place(finding: Finding) -> str:
    """Return where a finding is, followed by a colon; empty for one about the whole database."""
    version = f"event {finding.version}" if finding.version is not None else ""
    key = f"of {finding.key!r}" if version else f"conversation {finding.key!r}"
    position = f"at position {finding.position}" if finding.position is not None else ""
    place = " ".join(filter(None, (version, key if finding.key is not None else "", position)))
    return f"{place}: " if place else ""


def back_up(database: Database, path: Path, progress: Progress) -> int:
    """Write a snapshot of the ledger into a new SQLite file, itself a ledger; return its number of events.

    The file appears under its name only when it is complete. Other processes may keep writing to the ledger.

    Raises:
        ChangedEvent: the ledger is damaged; no file was written.
        Conflict: the file exists already.
        StoreUnavailable: the file cannot be written.
    """
    from ..private_files import create_private, rename_to_new, to_disk

    if path.exists():
        raise Conflict(f"{path} exists already: choose a new file, or move this one away")
    if not path.parent.is_dir():
        raise StoreUnavailable(f"{path} cannot be written: create the folder {path.parent} first")
    unfinished = path.with_name(f"{path.name}.unfinished")
    with suppress(FileNotFoundError):  # no earlier copy was interrupted
        unfinished.unlink()
    try:
        os.close(create_private(unfinished))
        copied = _write(database, unfinished, progress)
        to_disk(unfinished)
        rename_to_new(unfinished, path)
    except FileExistsError:
        raise Conflict(f"{path} exists already: choose a new file, or move this one away") from None
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be written ({error.strerror}): check the disk and the permissions"
        ) from error
    finally:
        for leftover in (unfinished, Path(f"{unfinished}-wal"), Path(f"{unfinished}-shm")):
            with suppress(FileNotFoundError):  # it has its final name, or was never made
                leftover.unlink()
    return copied


def copy_ledger(source: Database, target: Database, progress: Progress) -> int:
    """Copy a snapshot of a ledger into an empty database; return its number of events.

    Raises:
        ChangedEvent: the ledger is damaged; nothing was copied.
        Conflict: the target is not empty.
        StoreError: one of the databases cannot be used.
    """
    open_schema(target)

    def copy(reading: Transaction) -> int:
        refuse_damage(_positions(source, reading))
        return target.write(lambda writing: _copy(source, reading, target, writing, progress))

    try:
        return source.read(copy)
    except target.driver.IntegrityError as error:
        refuse_damage([Finding("database", f"rows contradict each other: {error}")])
        raise


def _write(database: Database, path: Path, progress: Progress) -> int:
    if database.kind.name == "sqlite":
        with database.cursor() as cursor:
            cursor.execute("VACUUM INTO ?", (str(path),))
    copy = Database(str(path.absolute()), synchronous="NORMAL")
    try:
        if database.kind.name == "sqlite":  # VACUUM also copies an index that does not match its table
            for address in copy.read(_kept_in_files):
                copy.write(partial(copy_file, address, database.blob_files))
            copy.read(lambda transaction: refuse_damage([*_database_itself(copy, transaction)]))
            copy.read(lambda transaction: refuse_damage(_findings(copy, transaction, progress)))
        else:
            copy_ledger(database, copy, progress)
        ((count,),) = copy.query("SELECT count(*) FROM events")
        with copy.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.fetchall()
            cursor.execute("PRAGMA journal_mode = DELETE")
        return int(count)
    finally:
        copy.close()


def _kept_in_files(transaction: Transaction) -> list[str]:
    return kept_in_files(transaction) if "blobs" in transaction.tables() else []  # a copy of an earlier schema


def _copy(source: Database, reading: Transaction, target: Database, writing: Transaction, progress: Progress) -> int:
    if writing.execute("SELECT count(*) FROM streams").fetchone()[0]:
        raise Conflict(f"{target.shown_url} already contains a ledger: copy into an empty database")
    with _named_of(source):
        events = int(reading.execute("SELECT count(*) FROM events").fetchone()[0])
        columns_of = {table: _columns_in(source, reading, table, columns) for table, columns, _ in TABLES}
        named = _columns_in(source, reading, "threadledger", "ledger_id")
        name = reading.execute("SELECT ledger_id FROM threadledger").fetchone()[0] if named else None
    kind = upkeep_of(target)
    for table, _, order in TABLES:
        columns = columns_of[table]
        copied = 0
        for page in _pages(source, reading, table, columns, order):
            kind.insert(writing, table, list(columns), page)
            copied += len(page)
            if table == "events":
                progress(copied, events)
                if columns["id"] == "event_id":
                    _collect(target, writing, columns, page)
    for address in kept_in_files(writing):
        copy_file(address, source.blob_files, writing)
    kind.number_streams(writing)
    if name is not None:
        writing.execute("UPDATE threadledger SET ledger_id = ?", (name,))
    refuse_damage(_findings(target, writing, quietly))
    source.wait_until_durable()
    return events


_EARLIER_NAMES = {"snapshot": "state", "id": "event_id", "text_id": "event_id"}
"""Names of columns before schema 6, which split the ids of events into two columns."""


def _columns_in(source: Database, reading: Transaction, table: str, columns: str) -> dict[str, str]:
    """Return the columns that the source has, with their names there; those that an older schema lacks get their defaults."""
    chosen = columns.split(", ")
    if source.schema_is_open:  # of this version's schema: a table that is missing is damage
        return dict(zip(chosen, chosen, strict=True))
    found = reading.columns(table)
    names = {each: each if each in found else _EARLIER_NAMES.get(each, each) for each in chosen}
    return {each: name for each, name in names.items() if name in found}


def _pages(
    source: Database, reading: Transaction, table: str, columns: Mapping[str, str], order: str
) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Yield the rows of a table of the source, page by page; nothing if it has none of the columns.

    Events that cannot be decoded are read as far as possible, so that the check of the copy names them.
    """
    if not columns:
        return
    query = f"SELECT {', '.join(columns.values())} FROM {table} ORDER BY {order}"
    is_lenient = table == "events" and source.kind.name == "sqlite"
    leniently = replacing_characters(reading.driver_connection) if is_lenient else nullcontext()
    page_rows = PAGE_CHUNKS if table == "blob_chunks" else PAGE_ROWS
    at = list(columns).index("id") if "id" in columns else None
    with _named_of(source), leniently:
        for page in reading.pages(query, page_rows):
            yield [tuple(row) if at is None else (*row[:at], *_ids(*row[at : at + 2]), *row[at + 2 :]) for row in page]


def _ids(value: Any, text: str | None) -> tuple[bytes | None, str | None]:
    """Return the two ids of an event as SQLite stores them; before schema 6, `value` and `text` are both the only one."""
    if isinstance(value, UUID):
        return value.bytes, text
    return (value, text) if value is None or isinstance(value, bytes) else split_id(value)


def _collect(target: Database, writing: Transaction, columns: Mapping[str, str], page: Iterable[Sequence[Any]]) -> None:
    """Note the idempotency keys and addresses of events of an earlier schema, which has no tables for them."""
    found = [dict(zip(columns, row, strict=True)) for row in page]
    rows = [
        noted_row(
            (
                *(each["position"], str(each["stream"]), each["version"], each["topic"], each["state"].encode()),
                *(each["id"] or each["text_id"], each["at"], each["schema"]),
            )
        )
        for each in found
        if each["topic"] == "MessageJournaled"
    ]
    for statement, values in noted(rows, {str(row.originator_id): int(str(row.originator_id)) for row in rows}):
        writing.execute_many(f"{statement} ON CONFLICT DO NOTHING", values)


@contextmanager
def _named_of(source: Database) -> Iterator[None]:
    """Name errors of the source as its own, although its rows are read inside a transaction of the target.

    Raises:
        StoreUnavailable: the connection was lost. The target alone must not repeat its transaction.
    """
    try:
        with source.named_errors():
            yield
    except ConnectionLost as lost:
        raise StoreUnavailable(str(lost)) from lost
