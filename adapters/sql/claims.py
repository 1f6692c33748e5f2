"""Claim threads and items of jobs for one process at a time.

A claim names its owner: machine, process with its start time, and an id that is unique within the process. It ends when
it is released. If the owner's process has ended, the claim ends at once on the same machine, and elsewhere when its time is
over, which the owner extends while it works (`Renewal`). A forked child is another process: it owns none of its parent's
claims.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from threadledger.domain.errors import StoreError
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import TakenItems
from threadledger.domain.limits import (
    CLAIM_RENEWAL_SECONDS,
    CLAIM_SECONDS,
    FILE_CLAIM_RENEWAL_SECONDS,
    FILE_CLAIM_SECONDS,
)

from .connections import Transaction
from .database import Database

logger = logging.getLogger("threadledger.claims")


def holder_of(unique: str) -> str:
    """Return the stored text of a claim's owner: `MACHINE/PID@START/UNIQUE`; `unique` names a claim of this process."""
    return f"{_own_process(os.getpid())}/{unique}"


def unique_of(holder: str) -> str:
    """Return the part of a stored owner that is unique within its process; earlier versions stored only this part."""
    owner = _Owner.of(holder)
    return holder if owner is None else owner.unique


def is_held(holder: str | None, until: str | None, moment: str) -> bool:
    """Return whether a stored claim is in force: its time is not over, and its owner is not known to have ended.

    For an owner that an earlier version stored, only the time counts.
    """
    if holder is None or (until or "") <= moment:
        return False
    owner = _Owner.of(holder)
    return owner is None or owner.machine != _machine() or _is_running(owner.pid, owner.started)


def described(holder: str, until: str | None) -> str:
    """Return who holds a claim and until when, as shown to users. Host and time are replaced in ids of failure groups."""
    owner = _Owner.of(holder)
    who = f"process {owner.pid} on {owner.machine.rpartition('#')[0]!r}" if owner is not None else "another process"
    return f"{who} until {(until or '')[:19]}Z"


def claim_seconds(database: Database) -> float:
    """Return how long a claim lasts unless it is extended, in seconds."""
    return FILE_CLAIM_SECONDS if database.kind.locks_when_writing else CLAIM_SECONDS


def renewal_seconds(database: Database) -> float:
    """Return the interval at which claims are extended, in seconds."""
    return FILE_CLAIM_RENEWAL_SECONDS if database.kind.locks_when_writing else CLAIM_RENEWAL_SECONDS


def lease(database: Database, until: datetime, at: datetime | None = None) -> str:
    """Return the time to store for a claim that is held until a moment at the latest, and taken or extended now."""
    return to_iso(min(until, (at or now()) + timedelta(seconds=claim_seconds(database))))


class _Owner(NamedTuple):
    machine: str
    pid: int
    started: str
    unique: str

    @classmethod
    def of(cls, holder: str) -> _Owner | None:
        """Return the parts of a stored owner, or None if an earlier version stored it."""
        machine, _, rest = holder.partition("/")
        process, _, unique = rest.partition("/")
        pid, at, started = process.partition("@")
        return cls(machine, int(pid), started, unique) if at and pid.isdecimal() and int(pid) > 0 else None


@cache
def _own_process(pid: int) -> str:
    found = _process(pid)
    return f"{_machine()}/{pid}@{found.started if found is not None else ''}"


@cache
def _machine() -> str:
    """Return the host name and a hash of what makes a process id unique: the boot, and the namespaces of the container.

    Two machines may have the same name. Where the boot has no id, the address of a network card is hashed.
    """
    parts = []
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    except OSError:
        from uuid import getnode

        parts.append(str(getnode()))  # a random number where it is unknown: then only the time of a claim counts
    for kind in ("pid", "time"):
        with suppress(OSError):  # Linux before 5.6 has no namespaces of time
            parts.append(str(Path(f"/proc/self/ns/{kind}").readlink()))
    return f"{socket.gethostname().replace('/', '-')}#{hashlib.sha256(''.join(parts).encode()).hexdigest()[:12]}"


if hasattr(os, "register_at_fork"):  # a child is another process, perhaps in other namespaces
    os.register_at_fork(after_in_child=_own_process.cache_clear)
    os.register_at_fork(after_in_child=_machine.cache_clear)


class _Process(NamedTuple):
    started: str
    """Start time in clock ticks since the boot: a process id is reused, but not with the same start."""
    has_ended: bool
    """Whether it has ended, and only its parent has not asked for its exit status yet."""


def _process(pid: int) -> _Process | None:
    """Return what Linux reports about a process, or None where this cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may contain anything
    state, threads, started = fields[0], fields[17], fields[19]
    return _Process(started, has_ended=state in {"Z", "X"} and int(threads) <= 1)


def _is_running(pid: int, started: str) -> bool:
    """Return whether a process of this machine runs; without its start time, the process id alone counts."""
    if os.name != "posix":
        return True  # sending signal 0 would stop it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        pass
    found = _process(pid)
    return found is None or not started or (found.started == started and not found.has_ended)


CLAIMS_AT_ONCE = 100
"""Maximum number of claims that one statement extends."""


class ClaimTable(NamedTuple):
    """Describe a table of claims, with the columns `holder` and `held_until`."""

    name: str
    key: str
    """Columns of its primary key."""
    columns: tuple[str, ...]
    """Columns whose values name a claim, or several of one owner."""

    def having(self, claims: int) -> str:
        """Return the condition for the rows of a number of claims."""
        each = " AND ".join(f"{column} = ?" for column in self.columns)
        return " OR ".join([f"({each})"] * claims)

    def extension(self, database: Database, claims: int = 1) -> str:
        """Return the statement that extends a number of claims; its values are the new time, and those of each claim.

        On a server, it waits for nobody: a row that is locked is extended the next time. So it takes part in no deadlock, and
        one transaction that does not end keeps no other claim from being extended.
        """
        update, rows = f"UPDATE {self.name} SET held_until = ? WHERE", self.having(claims)
        if database.kind.locks_when_writing:
            return f"{update} {rows}"
        return f"{update} ({self.key}) IN (SELECT {self.key} FROM {self.name} WHERE {rows} FOR UPDATE SKIP LOCKED)"


THREADS = ClaimTable("mirror_heads", "stream, mirror", ("stream", "mirror", "holder"))
ITEMS = ClaimTable("job_items", "job, item", ("job", "holder"))


class Claim(NamedTuple):
    """Name a claim, or several of one owner, by the values of the columns of its table."""

    table: ClaimTable
    values: tuple[str, ...]


class _KeptClaim(NamedTuple):
    end: float
    """Time until which it is extended, by a clock that nobody sets."""
    lacking: float | None = None
    """Time since which it is not found; None if it was."""

    def is_wanted(self, moment: float, seconds: float) -> bool:
        return self.end > moment and (self.lacking is None or self.lacking > moment - seconds)

    def after(self, moment: float, *, was_found: bool) -> _KeptClaim:
        return self._replace(lacking=None if was_found else moment if self.lacking is None else self.lacking)


def renewal_of(database: Database) -> Renewal:
    """Return what extends the claims of this process in a database."""
    try:
        return database.renewal
    except AttributeError:  # one for all threads, whichever of them is first
        found: Renewal = vars(database).setdefault("renewal", Renewal(database))
        return found


class Renewal:
    """Extend the claims of this process in the background, so that a slow call of their owner does not end them.

    A thread runs while there are claims. Each claim is extended for the time that its owner has set at the latest:
    an owner that hangs loses it then. This time is measured by a clock that nobody sets. A claim that is not found for
    `claim_seconds` is not looked for any longer: the append that was to store it was rolled back, or somebody else has it.
    """

    def __init__(self, database: Database) -> None:
        self.writing = threading.Lock()
        """Held during a write; a fork waits for it, because a child cannot use a file that its parent is writing."""
        self._database = database
        self._lock = threading.Lock()
        self._claims: dict[Claim, _KeptClaim] = {}
        self._ended = threading.Event()
        self._ended.set()
        self._thread: threading.Thread | None = None

    def keep(self, claim: Claim, until: datetime) -> None:
        """Extend a claim from now on, until `until` at the latest.

        Without a thread, because the system or an interpreter that is ending allows none, it lasts `claim_seconds`.
        """
        with self._lock:
            self._claims[claim] = _KeptClaim(time.monotonic() + (until - now()).total_seconds())
            if not self._ended.is_set():
                return
            self._ended = threading.Event()
            given = (self._ended,)
            self._thread = threading.Thread(target=self._run, args=given, name="threadledger-claims", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                logger.debug("the claims are not extended: %s", error)
                self._thread = None
                self._ended.set()

    def drop(self, claim: Claim) -> None:
        """Remove a claim, so that it is not extended any longer."""
        with self._lock:
            self._claims.pop(claim, None)
            if not self._claims:
                self._ended.set()

    def stop(self) -> None:
        """End the extension of all claims; wait for a write in progress."""
        with self._lock:
            self._claims.clear()
            self._ended.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    def extend(self) -> None:
        """Extend every claim once."""
        moment, at, seconds = time.monotonic(), now(), claim_seconds(self._database)
        with self._lock:
            self._claims = {claim: kept for claim, kept in self._claims.items() if kept.is_wanted(moment, seconds)}
            claims = [
                (claim, lease(self._database, at + timedelta(seconds=kept.end - moment), at))
                for claim, kept in self._claims.items()
            ]
            if not claims:
                self._ended.set()
        if not claims:
            return
        found: set[Claim] = set()
        with self.writing:
            self._database.write(partial(self._extended, claims, found))
        looked_for = {claim for claim, _ in claims}
        with self._lock:
            for claim in looked_for & self._claims.keys():
                self._claims[claim] = self._claims[claim].after(moment, was_found=claim in found)

    def _extended(self, claims: Sequence[tuple[Claim, str]], found: set[Claim], transaction: Transaction) -> None:
        """Extend the claims in a transaction, and note those that were found."""
        alike: dict[tuple[ClaimTable, str], list[Claim]] = {}
        for claim, until in claims:
            alike.setdefault((claim.table, until), []).append(claim)
        for (table, until), some in alike.items():
            for start in range(0, len(some), CLAIMS_AT_ONCE):
                page = some[start : start + CLAIMS_AT_ONCE]
                values = [value for claim in page for value in claim.values]
                extended = transaction.execute(table.extension(self._database, len(page)), (until, *values)).rowcount
                if extended and len(page) == 1:
                    found.update(page)
                    continue
                query = f"SELECT DISTINCT {', '.join(table.columns)} FROM {table.name} WHERE {table.having(len(page))}"
                stored = {tuple(row) for row in transaction.execute(query, values)}
                found.update(claim for claim in page if claim.values in stored)

    def _run(self, ended: threading.Event) -> None:
        try:
            while not ended.wait(renewal_seconds(self._database)):
                try:
                    self.extend()
                except StoreError as error:  # the next attempt comes before the claims end
                    logger.debug("the claims could not be extended: %s", error)
        finally:
            ended.set()  # after an unforeseen error, the next claim starts another thread


class SqlJobClaims:
    """Implement `JobClaims` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def _locked(self) -> str:
        """Return the end of a query that locks the items it finds, always in the same order, so that nobody waits in a circle."""
        return "" if self._database.kind.locks_when_writing else " ORDER BY item FOR UPDATE"

    def name(self) -> str:
        """Return a new holder name: machine, process id, and a unique id within the process."""
        return holder_of(new_id())

    def take(self, job_id: str, items: Sequence[int], holder: str, until: datetime) -> TakenItems:
        if not items:
            return TakenItems()
        wanted = sorted(set(items))
        places = ", ".join("?" * len(wanted))
        query = (
            f"SELECT item, ended, holder, held_until FROM job_items WHERE job = ? AND item IN ({places}){self._locked}"
        )
        begun = "INSERT INTO job_items (job, item, ended) VALUES (?, ?, 0) ON CONFLICT (job, item) DO NOTHING"
        claim = (
            "INSERT INTO job_items (job, item, ended, holder, held_until) VALUES (?, ?, 0, ?, ?) "
            "ON CONFLICT (job, item) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until"
        )

        def work(transaction: Transaction) -> TakenItems:
            if self._locked:  # a row that is not there cannot be locked
                transaction.execute_many(begun, [(job_id, item) for item in wanted])
            moment = to_iso(now())
            rows = transaction.execute(query, (job_id, *wanted)).fetchall()
            ended = {item for item, has_ended, _, _ in rows if has_ended}
            others = {
                item: (other, held_until)
                for item, has_ended, other, held_until in rows
                if not has_ended and other not in {None, holder}
            }
            held = {item: other for item, (other, held_until) in others.items() if is_held(other, held_until, moment)}
            taken = [item for item in items if item not in ended and item not in held]
            ends = lease(self._database, until)
            transaction.execute_many(claim, [(job_id, item, holder, ends) for item in taken])
            return TakenItems(taken, others.keys() - held.keys(), held)

        found = self._database.write(work)
        if found.taken:
            renewal_of(self._database).keep(Claim(ITEMS, (job_id, holder)), until)
        return found

    def end(self, job_id: str, items: Sequence[int], holder: str) -> None:
        statement = (
            "UPDATE job_items SET ended = 1, holder = NULL, held_until = NULL WHERE job = ? AND item = ? AND holder = ?"
        )
        ended = [(job_id, item, holder) for item in sorted(items)]
        if ended:
            self._database.write(lambda transaction: transaction.execute_many(statement, ended))

    def renew(self, job_id: str, holder: str, until: datetime) -> None:
        self._database.execute(ITEMS.extension(self._database), (lease(self._database, until), job_id, holder))
        renewal_of(self._database).keep(Claim(ITEMS, (job_id, holder)), until)

    def give_back(self, job_id: str, holder: str) -> None:
        renewal_of(self._database).drop(Claim(ITEMS, (job_id, holder)))
        held = f"SELECT item FROM job_items WHERE job = ? AND holder = ?{self._locked}"
        statement = f"UPDATE job_items SET holder = NULL, held_until = NULL WHERE job = ? AND item IN ({held})"
        self._database.execute(statement, (job_id, job_id, holder))

    def reopen(self, job_id: str, items: Sequence[int]) -> None:
        statement = "UPDATE job_items SET ended = 0 WHERE job = ? AND item = ?"
        if items:
            reopened = [(job_id, item) for item in sorted(items)]
            self._database.write(lambda transaction: transaction.execute_many(statement, reopened))

    def holders(self, job_id: str, first: int = 0) -> Mapping[str, str]:
        query = (
            "SELECT holder, max(held_until) FROM job_items "
            "WHERE job = ? AND item >= ? AND holder IS NOT NULL GROUP BY holder"
        )
        moment, found = to_iso(now()), self._database.query(query, (job_id, first))
        return {holder: described(holder, until) for holder, until in found if is_held(holder, until, moment)}
