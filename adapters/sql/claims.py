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
from threadledger.domain.limits import CLAIM_RENEWAL_SECONDS, CLAIM_SECONDS

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


def lease(until: datetime) -> str:
    """Return the time to store for a claim that is held until a moment at the latest."""
    return to_iso(min(until, now() + timedelta(seconds=CLAIM_SECONDS)))


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


EXTEND_THREAD = "UPDATE mirror_heads SET held_until = ? WHERE stream = ? AND mirror = ? AND holder = ?"
EXTEND_ITEMS = "UPDATE job_items SET held_until = ? WHERE job = ? AND holder = ?"

Claim = tuple[str, ...]
"""Statement that extends a claim, or several of one owner, and its values after the new time."""


class _KeptClaim(NamedTuple):
    end: float
    """Time until which it is extended, by a clock that nobody sets."""
    lacking: float | None = None
    """Time since which it is not found; None if it was."""

    def is_wanted(self, moment: float) -> bool:
        return self.end > moment and (self.lacking is None or self.lacking > moment - CLAIM_SECONDS)

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
    `CLAIM_SECONDS` is not looked for any longer: the append that was to store it was rolled back, or somebody else has it.
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

        Without a thread, because the system or an interpreter that is ending allows none, it lasts `CLAIM_SECONDS`.
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
        moment = time.monotonic()
        with self._lock:
            self._claims = {claim: kept for claim, kept in self._claims.items() if kept.is_wanted(moment)}
            claims = [
                (claim, lease(now() + timedelta(seconds=kept.end - moment))) for claim, kept in self._claims.items()
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
        for claim, until in claims:
            statement, *values = claim
            if transaction.execute(statement, (until, *values)).rowcount > 0:
                found.add(claim)

    def _run(self, ended: threading.Event) -> None:
        try:
            while not ended.wait(CLAIM_RENEWAL_SECONDS):
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

    def name(self) -> str:
        """Return a new holder name: machine, process id, and a unique id within the process."""
        return holder_of(new_id())

    def take(self, job_id: str, items: Sequence[int], holder: str, until: datetime) -> TakenItems:
        if not items:
            return TakenItems()
        places = ", ".join("?" * len(items))
        query = f"SELECT item, ended, holder, held_until FROM job_items WHERE job = ? AND item IN ({places})"
        claim = (
            "INSERT INTO job_items (job, item, ended, holder, held_until) VALUES (?, ?, 0, ?, ?) "
            "ON CONFLICT (job, item) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until"
        )

        def work(transaction: Transaction) -> TakenItems:
            if not self._database.kind.locks_when_writing:
                transaction.execute("LOCK TABLE job_items IN EXCLUSIVE MODE")
            moment = to_iso(now())
            rows = transaction.execute(query, (job_id, *items)).fetchall()
            ended = {item for item, has_ended, _, _ in rows if has_ended}
            others = {
                item: (other, held_until)
                for item, has_ended, other, held_until in rows
                if not has_ended and other not in {None, holder}
            }
            held = {item: other for item, (other, held_until) in others.items() if is_held(other, held_until, moment)}
            taken = [item for item in items if item not in ended and item not in held]
            transaction.execute_many(claim, [(job_id, item, holder, lease(until)) for item in taken])
            return TakenItems(taken, others.keys() - held.keys(), held)

        found = self._database.write(work)
        if found.taken:
            renewal_of(self._database).keep((EXTEND_ITEMS, job_id, holder), until)
        return found

    def end(self, job_id: str, items: Sequence[int], holder: str) -> None:
        statement = (
            "UPDATE job_items SET ended = 1, holder = NULL, held_until = NULL WHERE job = ? AND item = ? AND holder = ?"
        )
        ended = [(job_id, item, holder) for item in items]
        if ended:
            self._database.write(lambda transaction: transaction.execute_many(statement, ended))

    def renew(self, job_id: str, holder: str, until: datetime) -> None:
        self._database.execute(EXTEND_ITEMS, (lease(until), job_id, holder))
        renewal_of(self._database).keep((EXTEND_ITEMS, job_id, holder), until)

    def give_back(self, job_id: str, holder: str) -> None:
        renewal_of(self._database).drop((EXTEND_ITEMS, job_id, holder))
        statement = "UPDATE job_items SET holder = NULL, held_until = NULL WHERE job = ? AND holder = ?"
        self._database.execute(statement, (job_id, holder))

    def reopen(self, job_id: str, items: Sequence[int]) -> None:
        statement = "UPDATE job_items SET ended = 0 WHERE job = ? AND item = ?"
        if items:
            reopened = [(job_id, item) for item in items]
            self._database.write(lambda transaction: transaction.execute_many(statement, reopened))

    def holders(self, job_id: str, first: int = 0) -> Mapping[str, str]:
        query = (
            "SELECT holder, max(held_until) FROM job_items "
            "WHERE job = ? AND item >= ? AND holder IS NOT NULL GROUP BY holder"
        )
        moment, found = to_iso(now()), self._database.query(query, (job_id, first))
        return {holder: described(holder, until) for holder, until in found if is_held(holder, until, moment)}
