"""Keep the notes of workers in three tables: worker processes, duties that one of them has at a time, and failed work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from threadledger.domain.failures import redact
from threadledger.domain.ids import from_iso, new_id, now, to_iso
from threadledger.domain.journal.worker_notes import RETURNS_BY, Duty, FailedWork, WorkerRow
from threadledger.domain.limits import (
    CLAIM_SECONDS,
    REASON_CHARS_MAX,
    WORK_RETRY_FIRST_SECONDS,
    WORK_RETRY_MAX_SECONDS,
    WORKERS_GONE_SECONDS,
)

from .claims import Claim, ClaimTable, described, holder_of, is_held, lease, renewal_of
from .connections import Transaction
from .database import Database

DUTIES = ClaimTable("duties", "duty", ("holder",))
"""All duties of a process are extended as one."""

_FOUND = "SELECT holder, held_until, due_at, state FROM duties WHERE duty = ?"
_TAKE_NEW = (
    "INSERT INTO duties (duty, holder, held_until, due_at, state) VALUES (?, ?, ?, NULL, '{}') "
    "ON CONFLICT (duty) DO NOTHING"
)
_TAKE_OVER = (
    "UPDATE duties SET holder = ?, held_until = ? "
    "WHERE duty = ? AND coalesce(holder, '') = ? AND coalesce(held_until, '') = ?"
)
"""Statement that takes a duty which is still as it was read."""

_SEEN = (
    "INSERT INTO workers (worker, started_at, seen_at, facts) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (worker) DO UPDATE SET seen_at = excluded.seen_at, facts = excluded.facts"
)
_FAIL = (
    "INSERT INTO failed_work (kind, subject, attempts, failed_at, next_at, reason) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (kind, subject) DO UPDATE SET attempts = excluded.attempts, failed_at = excluded.failed_at, "
    "next_at = excluded.next_at, reason = excluded.reason"
)
_FAILED = "SELECT kind, subject, attempts, failed_at, next_at, reason FROM failed_work"


class SqlWorkerNotes:
    """Implement `WorkerNotes` in the ledger's database. Threads share an instance, and hold its duties together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unique = new_id()
        self._started_at = to_iso(now())

    @property
    def _holder(self) -> str:
        return holder_of(self._unique)  # that of a forked child differs

    def hold(self, duty: str) -> Duty | None:
        holder, moment = self._holder, to_iso(now())
        for known, held_until, due_at, state in self._database.query(
            _FOUND, (duty,)
        ):  # usually nothing is to be written
            if known is not None and is_held(known, held_until, moment):
                return _duty((duty, known, held_until, due_at, state)) if known == holder else None

        def work(transaction: Transaction) -> Duty | None:
            found = transaction.execute(_FOUND, (duty,)).fetchone()
            if found is not None and found[0] not in {None, holder} and is_held(found[0], found[1], to_iso(now())):
                return None
            until = self._renewed()
            if found is None:
                taken = transaction.execute(_TAKE_NEW, (duty, holder, until))
            else:
                taken = transaction.execute(_TAKE_OVER, (holder, until, duty, found[0] or "", found[1] or ""))
            if taken.rowcount != 1:
                return None
            return Duty(duty) if found is None else _duty((duty, *found))

        return self._database.write(work)

    def keep(self, duty: str, state: Mapping[str, Any], due_at: datetime | None = None) -> bool:
        statement = "UPDATE duties SET state = ?, due_at = ? WHERE duty = ? AND holder = ?"
        values = (json.dumps(state, separators=(",", ":")), to_iso(due_at) if due_at is not None else None)

        def work(transaction: Transaction) -> bool:
            return bool(transaction.execute(statement, (*values, duty, self._holder)).rowcount == 1)

        return self._database.write(work)

    def release(self, duty: str | None = None) -> None:
        holder = self._holder
        if duty is not None:
            statement = "UPDATE duties SET holder = NULL, held_until = NULL WHERE holder = ? AND duty = ?"
            self._database.execute(statement, (holder, duty))
            return
        renewal_of(self._database).drop(Claim(DUTIES, (holder,)))
        self._database.execute("UPDATE duties SET holder = NULL, held_until = NULL WHERE holder = ?", (holder,))

    def duties(self) -> list[Duty]:
        rows = self._database.query("SELECT duty, holder, held_until, due_at, state FROM duties ORDER BY duty")
        return [_duty(row) for row in rows]

    def seen(self, facts: Mapping[str, Any]) -> None:
        values = (self._holder, self._started_at, to_iso(now()), json.dumps(facts, separators=(",", ":")))
        self._database.execute(_SEEN, values)

    def leave(self) -> None:
        self._database.execute("DELETE FROM workers WHERE worker = ?", (self._holder,))

    def workers(self) -> list[WorkerRow]:
        moment = now()
        gone = to_iso(moment - timedelta(seconds=WORKERS_GONE_SECONDS))
        query = (
            "SELECT worker, started_at, seen_at, facts FROM workers WHERE seen_at > ? ORDER BY started_at DESC, worker"
        )
        found = []
        for worker, started_at, seen_at, facts in self._database.query(query, (gone,)):
            known = json.loads(facts)
            until = max(to_iso(from_iso(seen_at) + timedelta(seconds=CLAIM_SECONDS)), known.get(RETURNS_BY, ""))
            is_alive = is_held(worker, until, to_iso(moment))
            name = described(worker, until).rpartition(" until ")[0]
            found.append(WorkerRow(name, from_iso(started_at), from_iso(seen_at), is_alive, known))
        return found

    def fail(self, kind: str, subject: str, reason: str, *, most: int) -> FailedWork:
        moment, short = now(), redact(reason)[:REASON_CHARS_MAX]
        query = "SELECT attempts FROM failed_work WHERE kind = ? AND subject = ?"

        def work(transaction: Transaction) -> FailedWork:
            row = transaction.execute(query, (kind, subject)).fetchone()
            attempts = (row[0] if row is not None else 0) + 1
            pause = min(WORK_RETRY_FIRST_SECONDS * 2.0 ** min(attempts - 1, 32), WORK_RETRY_MAX_SECONDS)
            next_at = None if attempts >= most else moment + timedelta(seconds=pause)
            noted = to_iso(next_at) if next_at is not None else None
            transaction.execute(_FAIL, (kind, subject, attempts, to_iso(moment), noted, short))
            return FailedWork(kind, subject, attempts, moment, next_at, short)

        return self._database.write(work)

    def succeed(self, kind: str, subject: str) -> None:
        query = "SELECT 1 FROM failed_work WHERE kind = ? AND subject = ?"
        if self._database.query(query, (kind, subject)):  # nearly always none: that costs no write
            self._database.execute("DELETE FROM failed_work WHERE kind = ? AND subject = ?", (kind, subject))

    def due(self, limit: int) -> list[FailedWork]:
        moment = now()
        later = to_iso(moment + timedelta(seconds=CLAIM_SECONDS))
        found = self._database.query(
            f"{_FAILED} WHERE next_at <= ? ORDER BY next_at, kind, subject LIMIT ?", (to_iso(moment), limit)
        )
        if found:
            statement = "UPDATE failed_work SET next_at = ? WHERE kind = ? AND subject = ? AND next_at = ?"
            values = [(later, row[0], row[1], row[4]) for row in found]
            self._database.write(lambda transaction: transaction.execute_many(statement, values))
        return [_failed(row) for row in found]

    def failed(self, limit: int, *, parked: bool | None = None) -> list[FailedWork]:
        which = {None: "", True: "WHERE next_at IS NULL ", False: "WHERE next_at IS NOT NULL "}[parked]
        query = f"{_FAILED} {which}ORDER BY failed_at DESC, kind, subject LIMIT ?"
        return [_failed(row) for row in self._database.query(query, (limit,))]

    def retry(self, kind: str | None = None, subject: str | None = None) -> int:
        chosen = [(name, given) for name, given in (("kind", kind), ("subject", subject)) if given is not None]
        which = "".join(f" AND {name} = ?" for name, _ in chosen)
        statement = f"UPDATE failed_work SET next_at = ?, attempts = 0 WHERE next_at IS NULL{which}"
        values = (to_iso(now()), *(given for _, given in chosen))
        return self._database.write(lambda transaction: int(transaction.execute(statement, values).rowcount))

    def counts(self) -> Mapping[str, int]:
        query = "SELECT count(next_at), count(*) FROM failed_work"
        ((waiting, every),) = self._database.query(query)
        return {"failed": int(waiting), "parked": int(every) - int(waiting)}

    def _renewed(self) -> str:
        """Have the duties of this process extended from now on, and return until when a new one lasts without that."""
        until = now() + timedelta(days=36_500)  # until they are released: the process itself shows whether it is alive
        renewal_of(self._database).keep(Claim(DUTIES, (self._holder,)), until)
        return lease(self._database, until)


def _duty(row: Sequence[Any]) -> Duty:
    name, holder, held_until, due_at, state = row
    held = is_held(holder, held_until, to_iso(now()))
    due = from_iso(due_at) if due_at is not None else None
    return Duty(name, json.loads(state), due, described(holder, held_until) if held else "")


def _failed(row: Sequence[Any]) -> FailedWork:
    kind, subject, attempts, failed_at, next_at, reason = row
    then = from_iso(next_at) if next_at is not None else None
    return FailedWork(kind, subject, int(attempts), from_iso(failed_at), then, reason)
