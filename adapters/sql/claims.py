"""Store which worker holds which items of a bulk job.

The claims of a killed process are released. On this machine, its process id shows that it no longer runs; on another
machine, its claims end when the lease expires.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from threadledger.domain import new_id, now, to_iso

from .engine import Database


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
