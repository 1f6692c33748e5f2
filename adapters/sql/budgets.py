"""Keep what runs cost, by conversation and by owner and day, in tables next to the log that are made when a budget is set.

A row of `budget_runs` holds what one run has reserved or spent, so that nothing is counted twice and a crash leaves no
unknown reservation: the run is closed after its deadline like any other. `budget_totals` holds the sums. All of it is in
the log too (`RunStarted.cost_reserved`, usage, owners, deletions): `budget_position` is the position up to which the log
was read, and what other processes stored without a budget is counted when the next process starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from threadledger.domain.conversation import key_of
from threadledger.domain.conversation.events import Event, RunCompleted, RunFailed, RunStarted
from threadledger.domain.errors import CorruptEvent
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import restore
from threadledger.domain.journal.budgets import (
    PER_CONVERSATION,
    PER_OWNER_DAY,
    BudgetLimits,
    OverBudget,
    Payer,
    Price,
    billionths,
    cost_of,
    is_free,
)

from .connections import MARKS, Cursor, Transaction
from .database import Database
from .schema import open_schema

logger = logging.getLogger("threadledger")

Execute = Callable[..., Cursor]
"""Function that executes a statement with `?` for its values in the current transaction."""

PAGE_POSITIONS = 10_000
"""Number of positions of the log that one transaction reads."""

DAY_CHARS = 10
"""Number of characters of a time (ISO 8601) that name its day."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS budget_totals (scope TEXT NOT NULL PRIMARY KEY, spent BIGINT NOT NULL, reserved BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS budget_runs (run TEXT NOT NULL PRIMARY KEY, conversation TEXT NOT NULL, owner_day TEXT, "
    "reserved BIGINT NOT NULL, spent BIGINT, deadline TEXT, version BIGINT NOT NULL, backend TEXT NOT NULL, "
    "model TEXT NOT NULL, started_at TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS budget_position (position BIGINT NOT NULL)",
)
_NAMES = ("budget_totals", "budget_runs", "budget_position")

_LOCK = "LOCK TABLE budget_totals IN EXCLUSIVE MODE"
"""The lock of what is counted with an append, after the rows of its conversations. The threads' states, whose rows an append
may lock before or after it, are those of the same conversations: no other append waits for them with this lock."""

_ADD = (
    "INSERT INTO budget_totals (scope, spent, reserved) VALUES (?, ?, ?) ON CONFLICT (scope) DO UPDATE SET "
    "spent = budget_totals.spent + excluded.spent, reserved = budget_totals.reserved + excluded.reserved"
)
_START = (
    "INSERT INTO budget_runs (run, conversation, owner_day, reserved, deadline, version, backend, model, started_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run) DO NOTHING"
)
_OPEN = (
    "SELECT conversation, owner_day, reserved, version, backend, model, started_at FROM budget_runs "
    "WHERE run = ? AND spent IS NULL"
)
_OF_LOG = (
    "FROM events e JOIN streams s USING (stream) WHERE e.position > ? AND e.position <= ? "
    "AND e.topic IN ('RunStarted', 'RunCompleted', 'RunFailed', 'ConversationDescribed', 'ConversationDeleted') "
    "ORDER BY e.position"
)
_DELETED = (
    "SELECT coalesce(max(version), 0) FROM events WHERE stream = (SELECT stream FROM streams WHERE name = ?) "
    f"AND version < ? AND topic = 'ConversationDeleted' AND ({MARKS})"
)
"""Query for the version of the newest deletion before another version, by the index of marks."""
_DESCRIBED = (
    "FROM events e JOIN streams s USING (stream) WHERE s.name = ? AND e.version > ? AND e.version < ? "
    "AND e.topic = 'ConversationDescribed' ORDER BY e.version"
)

_COUNTED = (RunStarted, RunCompleted, RunFailed)
"""Events that change what is spent or reserved."""


class SqlBudgets:
    """Implement `Budgets` in the ledger's database."""

    def __init__(self, database: Database, limits: BudgetLimits, price: Price) -> None:
        self._database = database
        self.limits = limits
        self.price = price
        self._limit = {
            setting: billionths(dollars)
            for setting, dollars in ((PER_CONVERSATION, limits.conversation), (PER_OWNER_DAY, limits.owner_day))
            if dollars is not None
        }
        self._is_ready = False

    def prepare(self) -> None:
        if self._is_ready or self._database.read_only:
            return
        open_schema(self._database)
        self._database.write(self._create)
        while self._database.write(self._read_page):
            pass
        self._is_ready = True

    def note(self, cursor: Cursor, payer: Payer, decided: Sequence[Event]) -> None:
        if not any(isinstance(event, _COUNTED) for event in decided):
            return

        def execute(statement: str, values: Sequence[Any] = ()) -> Cursor:
            return cursor.execute(self._database.sql(statement), values)

        self._lock(execute)
        for event in decided:
            payer = payer.after(event)
            self._take(execute, event, payer, self._limit)

    def rebuild(self) -> None:
        def again(transaction: Transaction) -> None:
            self._create(transaction)
            self._lock(transaction.execute)
            self._empty(transaction.execute)
            while self._read_page(transaction):
                pass

        self._database.write(again)

    def used(self, scope: str) -> tuple[int, int]:
        """Return what is spent and what is reserved in a scope, in billionths.

        A scope is `owner:ID:DAY`, `conversation:KEY`, or `conversation@VERSION:KEY` after a deletion at that version.
        """
        found = self._database.query("SELECT spent, reserved FROM budget_totals WHERE scope = ?", (scope,))
        return (int(found[0][0]), int(found[0][1])) if found else (0, 0)

    def _create(self, transaction: Transaction) -> None:
        if transaction.tables() >= set(_NAMES):
            return
        self._database.kind.lock_schema(transaction)
        for statement in _TABLES:
            transaction.execute(statement)

    def _lock(self, execute: Execute) -> None:
        if not self._database.kind.locks_when_writing:
            execute(_LOCK)

    def _empty(self, execute: Execute) -> None:
        for name in _NAMES:
            execute(f"DELETE FROM {name}")

    def _read_page(self, transaction: Transaction) -> bool:
        """Count what the log holds after the noted position; return whether there is more.

        An event that was counted with its commit changes nothing.
        """
        execute = transaction.execute
        self._lock(execute)
        position = next((int(at) for (at,) in execute("SELECT position FROM budget_position").fetchall()), None)
        last = int(execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])
        if position is not None and position > last:  # the log was rewound
            self._empty(execute)
            position = None
        upto = min((position or 0) + PAGE_POSITIONS, last)
        if position is not None and upto <= position:
            return False
        columns = self._database.kind.row_columns
        payers: dict[str, Payer] = {}
        for row in execute(f"SELECT {columns} {_OF_LOG}", (position or 0, upto)).fetchall():
            try:
                event = restore(row)
                stream, version = event.originator_id, event.originator_version
                if stream in payers:
                    payers[stream] = payers[stream].after(event)
                elif isinstance(event, RunStarted) and not self._is_counted(execute, event.run_id):
                    payers[stream] = self._payer_before(execute, stream, version)
                self._take(execute, event, payers.get(stream, Payer()))
            except (CorruptEvent, TypeError, ValueError) as error:
                logger.warning("event %s is counted in no budget, because it cannot be read: %s", row[0], error)
                payers.pop(row[1], None)  # it may have changed the payer: the next run looks for it
        statement = "INSERT INTO budget_position" if position is None else "UPDATE budget_position SET"
        execute(f"{statement} {'(position) VALUES (?)' if position is None else 'position = ?'}", (upto,))
        return upto < last

    def _is_counted(self, execute: Execute, run_id: str) -> bool:
        return execute("SELECT 1 FROM budget_runs WHERE run = ?", (run_id,)).fetchone() is not None

    def _payer_before(self, execute: Execute, stream: str, version: int) -> Payer:
        """Return the payer of the events of a stream from a version on."""
        payer = Payer(int(execute(_DELETED, (stream, version)).fetchone()[0]))
        described = f"SELECT {self._database.kind.row_columns} {_DESCRIBED}"
        for row in execute(described, (stream, payer.deleted_version, version)).fetchall():
            with suppress(CorruptEvent):  # its payer stays the one before; `db check` reports the event
                payer = payer.after(restore(row))
        return payer

    def _take(self, execute: Execute, event: Event, payer: Payer, limits: dict[str, int] | None = None) -> None:
        """Count a run that starts for its payer, or one that ends in the scopes in which it started.

        With limits, a reservation must fit.
        """
        if isinstance(event, RunStarted):
            self._start(execute, event, payer, limits or {})
        elif isinstance(event, (RunCompleted, RunFailed)):
            self._settle(execute, event)

    def _start(self, execute: Execute, event: RunStarted, payer: Payer, limits: dict[str, int]) -> None:
        at, reserved = to_iso(event.timestamp), event.cost_reserved or 0
        generation = f"@{payer.deleted_version}" if payer.deleted_version else ""
        conversation = f"conversation{generation}:{key_of(event.originator_id)}"
        owner_day = f"owner:{payer.owner}:{at[:DAY_CHARS]}" if payer.owner else None
        for setting, scope in ((PER_CONVERSATION, conversation), (PER_OWNER_DAY, owner_day)):
            if event.cost_reserved is not None and scope is not None and setting in limits:
                found = execute("SELECT spent + reserved FROM budget_totals WHERE scope = ?", (scope,)).fetchone()
                used = int(found[0]) if found is not None else 0
                if used + reserved > limits[setting]:
                    raise OverBudget(setting, limits[setting], used)
        place = (event.run_id, conversation, owner_day, reserved, event.deadline, event.originator_version)
        stored = execute(_START, (*place, event.backend, event.model, at)).rowcount
        if stored == 1 and reserved:
            self._add(execute, conversation, owner_day, 0, reserved)

    def _settle(self, execute: Execute, event: RunCompleted | RunFailed) -> None:
        """Count what a run cost: by its usage, or all that it had reserved if that is unknown."""
        found = execute(_OPEN, (event.run_id,)).fetchone()
        if found is None:
            return
        conversation, owner_day, reserved, version, backend, model, started_at = found
        spent = None
        if isinstance(event, RunCompleted):
            spent = cost_of(self.price, backend, (event.model, model), event.usage, from_iso(started_at))
        elif is_free(event, int(version)):
            spent = 0
        spent = int(reserved) if spent is None else spent
        execute("UPDATE budget_runs SET spent = ? WHERE run = ?", (spent, event.run_id))
        if spent or reserved:
            self._add(execute, conversation, owner_day, spent, -int(reserved))

    def _add(self, execute: Execute, conversation: str, owner_day: str | None, spent: int, reserved: int) -> None:
        for scope in (conversation, owner_day):
            if scope is not None:
                execute(_ADD, (scope, spent, reserved))
