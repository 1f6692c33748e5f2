"""Generate large ledgers of real rows quickly: payloads, leaves and snapshots, so that `db check` finds nothing.

The product makes the rows of one conversation of each kind: its events, its mapper, its fold of the state. The other
conversations are copies of these texts with other ids and times, and are stored by the statements of the product
(`Kind.append`), many thousands in one transaction. Nothing here names a table or a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import msgspec

from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.connections import Move
from threadledger.domain.conversation import STATE_SCHEMA, ConversationState, events, evolve, stream_of
from threadledger.domain.ids import to_iso
from threadledger.domain.journal import Journal, StoredRow, StreamHead
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.ledger import Ledger

from ..cli.auditing import JOHN
from ..cli.command_table import ATTACHMENT

Text = TypeVar("Text", str, bytes)

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 1
"""Length of the period in which all conversations were written, whatever their number: counts by hour do not grow."""

NUMBER = "4815162"
"""Text that stands for the number of a conversation in the rows of its kind."""

LONG = "long"
"""Key of the only conversation of a ledger of messages."""

BATCH = 10_000
"""Number of conversations, or of messages, inserted at once."""

RUN_EVERY, FAILED_EVERY = 10, 20
"""One conversation of this many has a run, and one has a failed run."""

NAMED_MAX, ACTOR = 20, "ann"
"""Number of failed runs that this actor caused, whatever the size of the ledger, and its name."""

SHOWN = 5
"""Number of messages that a run was shown, as by the setting THREADLEDGER_MEMORY_LAST."""

LAST_EXCHANGES = 4
"""Number of exchanges at the end of the long conversation; every second one failed. Before them are plain messages."""


def key_of_number(number: int) -> str:
    """Return the key of a conversation by its number, from 0."""
    return f"customer-{number:07d}"


def run_of_number(number: int) -> str:
    """Return the id of the run in a conversation."""
    return f"run-0000-{number:07d}"


def fill_conversations(url: str, conversations: int) -> int:
    """Create a ledger of this many short conversations and return its number of events."""
    filler = _Filler(url)
    for begin in range(0, conversations, BATCH):
        moves, rows = [], []
        for number in range(begin, min(begin + BATCH, conversations)):
            at = to_iso(BEGIN + timedelta(days=DAYS) * number / conversations)
            head, pattern = _pattern(_kind(number))
            moves.append(Move(f"conversation:{key_of_number(number)}", None, _head_like(head, number, at)))
            rows += [_row_like(row, number, each, at) for each, row in enumerate(pattern)]
        filler.store(moves, rows)
    return filler.close()


def fill_messages(url: str, messages: int) -> int:
    """Create a ledger of one conversation of this many messages and return its number of events."""
    filler = _Filler(url)
    state = ConversationState()
    stored: StreamHead | None = None
    for batch in _batches(_long_events(messages)):
        for event in batch:
            evolve(state, event)
        head = StreamHead(stream_of(LONG), state.version, STATE_SCHEMA, state.as_json(), state.next_deadline)
        filler.store([Move(head.stream, filler.found(stored), head)], [_MAPPER.to_stored_event(each) for each in batch])
        stored = head
    return filler.close()


class _Filler:
    """Stores rows in a new database."""

    def __init__(self, url: str) -> None:
        self._ledger = Ledger(Journal(Factory(database=Database(url, synchronous="OFF"))))
        recorder: Any = self._ledger.journal.recorder
        self._database = recorder._database
        self._connection = self._database.check_out()
        self.events = 0

    def store(self, moves: Sequence[Move], rows: Sequence[StoredRow]) -> None:
        kind, cursor = self._database.kind, self._connection.cursor()
        cursor.execute(kind.begin_write)
        kind.append(cursor, moves, rows)
        cursor.execute("COMMIT")
        cursor.close()
        self.events += len(rows)

    def found(self, head: StreamHead | None) -> Any:
        """Return the stored row of the stream, as an append reads it."""
        if head is None:
            return None
        return self._database.group._heads(self._connection.cursor(), [head.stream], "")[head.stream]

    def close(self) -> int:
        self._connection.close()
        self._ledger.journal.blobs.add([ATTACHMENT])
        self._ledger.journal.define_profile(JOHN)
        self.events += 1
        self._ledger.close()
        return self.events


_MAPPER = EventMapper(PlainJSON())


@cache
def _pattern(kind: str) -> tuple[StreamHead, Sequence[StoredRow]]:
    """Return the head and the rows of a conversation of one kind; `NUMBER` and `BEGIN` stand for its number and time."""
    state = ConversationState()
    rows = []
    for event in _short_events(kind):
        evolve(state, event)
        rows.append(_MAPPER.to_stored_event(event))
    state.path_hash = None  # unknown: the texts of the copies differ
    return StreamHead("", state.version, STATE_SCHEMA, state.as_json(), state.next_deadline), rows


def _kind(number: int) -> str:
    if number % FAILED_EVERY == 0 and number < NAMED_MAX * FAILED_EVERY:
        return "named"
    return "failed" if number % FAILED_EVERY == 0 else "answered" if number % RUN_EVERY == 0 else "plain"


def _head_like(head: StreamHead, number: int, at: str) -> StreamHead:
    return msgspec.structs.replace(head, state=_stamped(head.state, number, at))


def _row_like(row: StoredRow, number: int, each: int, at: str) -> StoredRow:
    copy = object.__new__(StoredRow)
    vars(copy).update(
        vars(row),
        originator_id=f"conversation:{key_of_number(number)}",
        state=_stamped(row.state, number, at),
        event_id=_event_id(number, each),
        at=at,
    )
    return copy


def _stamped(text: Text, number: int, at: str) -> Text:
    if isinstance(text, bytes):
        return text.replace(NUMBER.encode(), b"%07d" % number).replace(_BEGIN_TEXT.encode(), at.encode())
    return text.replace(NUMBER, f"{number:07d}").replace(_BEGIN_TEXT, at)


_BEGIN_TEXT = to_iso(BEGIN)


def _event_id(number: int, each: int) -> str:
    """Return a UUID of version 7, as the product makes them: it grows with the number."""
    return f"019a0000-{number >> 16 & 0xFFFF:04x}-7{each:03x}-8{number >> 4 & 0xFFF:03x}-{number:012x}"


def _short_events(kind: str) -> Iterator[events.Event]:
    write = _Writer(f"customer-{NUMBER}")
    exchange, run = f"exchange-{NUMBER}", f"run-0000-{NUMBER}"
    yield write(events.ConversationStarted, key=write.key)
    question = {"exchange_id": exchange} if kind != "plain" else {}
    yield write.message("user", f"Where is parcel number {NUMBER}? It was to come on Monday.", **question)
    if kind != "plain":
        write.actor = ACTOR if kind == "named" else None
        yield from write.run(exchange, run, failed=kind in {"failed", "named"}, version=2)
    if kind == "answered":
        said = {"title": "A parcel", "owner": "owner-1", "tags": ["odd"], "metadata": {"desk": 3}}
        yield write(events.ConversationDescribed, **said)
    elif kind == "failed":
        yield write(events.ConversationDescribed, owner="owner-0", archived=True)


def _long_events(messages: int) -> Iterator[events.Event]:
    """Yield a conversation that ends with `LAST_EXCHANGES` exchanges; before them, plain messages of two roles."""
    write = _Writer(LONG)
    yield write(events.ConversationStarted, key=LONG)
    asked = min(LAST_EXCHANGES, messages // 2)
    answers = asked // 2
    for each in range(messages - asked - answers):
        role = "assistant" if each % 2 else "user"
        yield write.message(role, f"Message {each} of a long conversation about a parcel that does not come.")
    for each in range(asked):
        exchange, run = f"exchange-{each:07d}", run_of_number(each)
        yield write.message("user", f"Where is parcel number {each} now?", exchange_id=exchange)
        yield from write.run(exchange, run, failed=each % 2 == 0, version=write.version)


class _Writer:
    """Makes the events of one conversation, all at one time, with versions that count up."""

    def __init__(self, key: str) -> None:
        self.key, self.version = key, 0
        self.actor: str | None = None

    def __call__(self, event_class: type[events.Event], **fields: Any) -> events.Event:
        self.version += 1
        common = {"originator_id": stream_of(self.key), "originator_version": self.version, "timestamp": BEGIN}
        common["actor"] = self.actor
        return event_class(**fields, **common, event_id=_event_id(self.version, 0))

    def message(self, role: str, text: str, **fields: Any) -> events.Event:
        message_id = f"message-{self.version:07d}-of-{self.key}"
        return self(events.MessageJournaled, message_id=message_id, role=role, content=text, **fields)

    def run(self, exchange: str, run: str, *, failed: bool, version: int) -> Iterator[events.Event]:
        started = {"backend": "chat" if failed else "assistants", "model": "gpt-4o", "memory_version": version}
        started["memory_rule"] = f"2;last={SHOWN}"
        yield self(events.RunStarted, run_id=run, exchange_id=exchange, attempt=1, **started)
        if failed:
            facts = {"status": "failed", "code": "server_error", "message": "Sorry, something went wrong."}
            yield self(events.RunFailed, run_id=run, duration_seconds=1.5, **facts)
            yield self(events.ExchangeAbandoned, exchange_id=exchange, run_ids=[run], reason="every backend failed")
        else:
            usage = {"input_tokens": 120, "output_tokens": 30, "total_tokens": 150}
            yield self(events.RunCompleted, run_id=run, usage=usage, duration_seconds=1.5)
            yield self.message("assistant", "Tomorrow, with the morning post.", exchange_id=exchange, run_id=run)


def _batches(all_events: Iterator[events.Event]) -> Iterator[list[events.Event]]:
    batch: list[events.Event] = []
    for event in all_events:
        batch.append(event)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
