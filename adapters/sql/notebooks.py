"""Store data outside the event log: the state of each thread, the assistant of each profile, and the claims of jobs.

The state of a thread is the journal version that it contains, and the unconfirmed writes to it. Everything except those
writes can be read again from the provider.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import NotedThread
from threadledger.domain.threads import Doubt, MirrorHead

from .database import Database

T = TypeVar("T")


FINISHED = "DELETE FROM unfinished_threads WHERE stream = ? AND mirror = ?"


class SqlMirrorHeads:
    """Implement `MirrorHeads` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, stream: str, mirror: str, thread_id: str, holder: str, until: datetime, given_up: Collection[str] = ()
    ) -> MirrorHead | None:
        query = self._database.sql(
            "SELECT thread_id, version, settled, holder, held_until, doubts FROM mirror_heads WHERE stream = ? AND mirror = ?"
        )

        def take(connection: Connection) -> MirrorHead | None:
            row = connection.exec_driver_sql(query, (stream, mirror)).one_or_none()
            if row is not None and row.holder not in {None, holder, *given_up} and row.held_until > to_iso(now()):
                return None
            head = MirrorHead(thread_id, 0, settled=False)
            if row is not None and row.thread_id == thread_id:
                doubts = tuple(Doubt.from_json(doubt) for doubt in json.loads(row.doubts))
                head = MirrorHead(thread_id, row.version, bool(row.settled), doubts)
            self._write(connection, stream, mirror, replace(head, settled=False), holder, to_iso(until))
            return replace(head, left_by=row.holder) if row is not None else head

        return self._database.write(lambda connection: self._alone(connection, take))

    def release(self, stream: str, mirror: str, holder: str, doubts: Sequence[Doubt] | None = None) -> None:
        statement = (
            "UPDATE mirror_heads SET holder = NULL, held_until = NULL, doubts = COALESCE(?, doubts) "
            "WHERE stream = ? AND mirror = ? AND holder = ?"
        )
        self._database.execute(statement, (None if doubts is None else _stored(doubts), stream, mirror, holder))

    def put(self, stream: str, mirror: str, head: MirrorHead, holder: str | None = None) -> None:
        query = self._database.sql("SELECT holder FROM mirror_heads WHERE stream = ? AND mirror = ?")
        finished = self._database.sql(FINISHED)

        def note(connection: Connection) -> None:
            held_by = connection.exec_driver_sql(query, (stream, mirror)).scalar()
            if holder is None:
                connection.exec_driver_sql(finished, (stream, mirror))
            if holder is None or held_by in {None, holder}:
                self._write(connection, stream, mirror, head, None, None)

        self._database.write(lambda connection: self._alone(connection, note))

    def begin(self, stream: str, mirror: str, thread_id: str) -> None:
        query = self._database.sql("SELECT thread_id, holder FROM mirror_heads WHERE stream = ? AND mirror = ?")

        def note(connection: Connection) -> None:
            row = connection.exec_driver_sql(query, (stream, mirror)).one_or_none()
            if row is None or (row.holder is None and row.thread_id != thread_id):
                self._write(connection, stream, mirror, MirrorHead(thread_id, 0, settled=True), None, None)

        self._database.write(lambda connection: self._alone(connection, note))

    def note_unfinished(self, stream: str, mirror: str, thread_id: str | None, digest: str) -> None:
        if thread_id is None:
            self._database.execute(FINISHED, (stream, mirror))
            return
        statement = (
            "INSERT INTO unfinished_threads (stream, mirror, thread_id, digest) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (stream, mirror) DO UPDATE SET thread_id = excluded.thread_id, digest = excluded.digest"
        )
        self._database.execute(statement, (stream, mirror, thread_id, digest))

    def unfinished(self, stream: str, mirror: str, digest: str) -> str | None:
        query = "SELECT thread_id FROM unfinished_threads WHERE stream = ? AND mirror = ? AND digest = ?"
        found = self._database.query(query, (stream, mirror, digest))
        return str(found[0][0]) if found else None

    def _alone(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        """Run `work` as the only writer of `mirror_heads`; lock the table if the database allows several writers."""
        if not self._database.kind.locks_when_writing:
            connection.exec_driver_sql("LOCK TABLE mirror_heads IN EXCLUSIVE MODE")
        return work(connection)

    def _write(
        self,
        connection: Connection,
        stream: str,
        mirror: str,
        head: MirrorHead,
        holder: str | None,
        held_until: str | None,
    ) -> None:
        statement = (
            "INSERT INTO mirror_heads (stream, mirror, thread_id, version, settled, holder, held_until, doubts) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stream, mirror) DO UPDATE SET "
            "thread_id = excluded.thread_id, version = excluded.version, settled = excluded.settled, "
            "holder = excluded.holder, held_until = excluded.held_until, doubts = excluded.doubts"
        )
        place = (stream, mirror, head.thread_id, head.version, int(head.settled), holder, held_until)
        connection.exec_driver_sql(self._database.sql(statement), (*place, _stored(head.doubts)))


def _stored(doubts: Sequence[Doubt]) -> str:
    return json.dumps([doubt.as_json() for doubt in doubts], separators=(",", ":"))


class RememberedAssistants:
    """Store the ids of assistants created from profiles, by endpoint and profile hash."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, endpoint: str, profile_hash: str) -> str | None:
        query = "SELECT assistant_id FROM assistants WHERE endpoint = ? AND profile_hash = ?"
        found = self._database.query(query, (endpoint, profile_hash))
        return str(found[0][0]) if found else None

    def put(self, endpoint: str, profile_hash: str, assistant_id: str) -> None:
        statement = (
            "INSERT INTO assistants (endpoint, profile_hash, assistant_id) VALUES (?, ?, ?) "
            "ON CONFLICT (endpoint, profile_hash) DO UPDATE SET assistant_id = excluded.assistant_id"
        )
        self._database.execute(statement, (endpoint, profile_hash, assistant_id))

    def forget(self, assistant_id: str) -> None:
        """Remove an assistant that no longer exists; the next run creates a new one."""
        self._database.execute("DELETE FROM assistants WHERE assistant_id = ?", (assistant_id,))


STREAMS_AT_ONCE = 200
"""Number of conversations per query. SQLite accepts at least 999 values, but a longer statement is not faster."""

_HEADS = "SELECT stream, mirror, thread_id, version, settled, holder, held_until, doubts FROM mirror_heads"


# `doctor` reads the stored state of threads without calling the provider.
def noted_threads(database: Database, streams: Sequence[str]) -> list[NotedThread]:
    """Return the stored state of the threads of these conversations."""
    found: list[NotedThread] = []
    for start in range(0, len(streams), STREAMS_AT_ONCE):
        some = streams[start : start + STREAMS_AT_ONCE]
        places = ", ".join("?" * len(some))
        found += _read(database.query(f"{_HEADS} WHERE stream IN ({places})", tuple(some)))
    return found


def unsettled_threads(database: Database, limit: int) -> list[NotedThread]:
    """Return up to `limit` threads that must be read before anything is written to them."""
    return list(_read(database.query(f"{_HEADS} WHERE settled = 0 OR doubts <> '[]' LIMIT ?", (limit,))))


def _read(rows: Sequence[Any]) -> Iterator[NotedThread]:
    moment = to_iso(now())
    for stream, mirror, thread_id, version, settled, holder, held_until, doubts in rows:
        held = holder is not None and (held_until or "") > moment
        yield NotedThread(stream, mirror, thread_id, version, bool(settled), len(json.loads(doubts)), held)


# Claims say which worker holds which items of a bulk job. The claims of a killed process are released: on this
# machine, its process id shows that it no longer runs; on another machine, its claims end when the lease expires.
class SqlJobClaims:
    """Implement `JobClaims` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def name(self) -> str:
        """Return a new holder name: machine, process id, and a unique id within the process."""
        return f"{_machine()}/{os.getpid()}/{new_id()}"

    def take(self, job_id: str, items: Sequence[int], holder: str, until: datetime) -> Sequence[int]:
        if not items:
            return ()
        query = self._database.sql(
            "SELECT item, ended, holder, held_until FROM job_items WHERE job = ? AND item BETWEEN ? AND ?"
        )
        claim = self._database.sql(
            "INSERT INTO job_items (job, item, ended, holder, held_until) VALUES (?, ?, 0, ?, ?) "
            "ON CONFLICT (job, item) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until"
        )

        def work(connection: Connection) -> Sequence[int]:
            if not self._database.kind.locks_when_writing:
                connection.exec_driver_sql("LOCK TABLE job_items IN EXCLUSIVE MODE")
            moment = to_iso(now())
            found = connection.exec_driver_sql(query, (job_id, min(items), max(items)))
            taken = {
                row.item for row in found if row.ended or _is_held(row.holder, row.held_until, moment, besides=holder)
            }
            free = [item for item in items if item not in taken]
            if free:
                connection.exec_driver_sql(claim, [(job_id, item, holder, to_iso(until)) for item in free])
            return free

        return self._database.write(work)

    def end(self, job_id: str, items: Sequence[int], holder: str) -> None:
        statement = self._database.sql(
            "UPDATE job_items SET ended = 1, holder = NULL, held_until = NULL WHERE job = ? AND item = ? AND holder = ?"
        )
        ended = [(job_id, item, holder) for item in items]
        if ended:
            self._database.write(lambda connection: connection.exec_driver_sql(statement, ended))

    def renew(self, job_id: str, holder: str, until: datetime) -> None:
        statement = "UPDATE job_items SET held_until = ? WHERE job = ? AND holder = ?"
        self._database.execute(statement, (to_iso(until), job_id, holder))

    def give_back(self, job_id: str, holder: str) -> None:
        statement = "UPDATE job_items SET holder = NULL, held_until = NULL WHERE job = ? AND holder = ?"
        self._database.execute(statement, (job_id, holder))

    def reopen(self, job_id: str, items: Sequence[int]) -> None:
        statement = self._database.sql("UPDATE job_items SET ended = 0 WHERE job = ? AND item = ?")
        if items:
            reopened = [(job_id, item) for item in items]
            self._database.write(lambda connection: connection.exec_driver_sql(statement, reopened))

    def holders(self, job_id: str) -> Sequence[str]:
        query = "SELECT holder, max(held_until) FROM job_items WHERE job = ? AND holder IS NOT NULL GROUP BY holder"
        moment = to_iso(now())
        return [holder for holder, until in self._database.query(query, (job_id,)) if _is_held(holder, until, moment)]


def _is_held(holder: str | None, until: str | None, moment: str, besides: str = "") -> bool:
    if holder is None or holder == besides or (until or "") <= moment:
        return False
    machine, process, _ = holder.rsplit("/", 2)
    return machine != _machine() or _is_running(int(process))


def _is_running(process: int) -> bool:
    """Return whether a process with this id runs.

    The id may have been reused by another process; the claims then last until their lease expires.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True


def _machine() -> str:
    """Return a name for the namespace of process ids: the host name and, on Linux, the pid namespace of the container."""
    numbers = ""
    with suppress(OSError):
        numbers = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()}{numbers}"
