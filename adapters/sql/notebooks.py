"""Store data outside the event log: the state of each thread, and the assistant of each profile.

The state of a thread is the journal version that it contains, and the unconfirmed writes to it. Everything except those
writes can be read again from the provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import Also, NotedThread
from threadledger.domain.threads import Doubt, MirrorHead, ThreadCreation

from .connections import Transaction
from .database import Database

T = TypeVar("T")


AHEAD = "version > (SELECT s.version FROM streams s WHERE s.name = mirror_heads.stream)"
"""Condition of a thread's state that is ahead of the journal: the log was rewound, so the thread must be read."""

FINISHED = "DELETE FROM unfinished_threads WHERE stream = ? AND mirror = ?"


class SqlMirrorHeads:
    """Implement `MirrorHeads` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Claims are imported on first use: a conversation without threads does not need them.
    def claim(
        self, stream: str, mirror: str, thread_id: str, holder: str, until: datetime, given_up: Collection[str] = ()
    ) -> MirrorHead | None:
        from .claims import THREADS, Claim, holder_of, is_held, lease, renewal_of, unique_of

        owner = holder_of(holder)
        query = (
            f"SELECT thread_id, CASE WHEN {AHEAD} THEN 0 ELSE version END, CASE WHEN {AHEAD} THEN 0 ELSE settled END, "
            "holder, held_until, doubts FROM mirror_heads WHERE stream = ? AND mirror = ?"
        )

        def take(transaction: Transaction) -> MirrorHead | None:
            row = transaction.execute(query, (stream, mirror)).fetchone()
            head, left_by = MirrorHead(thread_id, 0, settled=False), None
            if row is not None:
                known, version, settled, held_by, held_until, doubts = row
                left_by = unique_of(held_by) if held_by is not None else None
                is_others = held_by != owner and left_by not in given_up
                if is_others and is_held(held_by, held_until, to_iso(now())):
                    return None
                if known == thread_id:
                    noted = tuple(Doubt.from_json(doubt) for doubt in json.loads(doubts))
                    head = MirrorHead(thread_id, version, bool(settled), noted)
            self._write(transaction, stream, mirror, replace(head, settled=False), owner, lease(self._database, until))
            return replace(head, left_by=left_by)

        taken = self._database.write(lambda transaction: self._alone(transaction, stream, mirror, take))
        if taken is not None:
            renewal_of(self._database).keep(Claim(THREADS, (stream, mirror, owner)), until)
        return taken

    def holder(self, stream: str, mirror: str) -> str:
        from .claims import described, is_held

        query = "SELECT holder, held_until FROM mirror_heads WHERE stream = ? AND mirror = ?"
        moment, found = to_iso(now()), self._database.query(query, (stream, mirror))
        return "".join(described(holder, until) for holder, until in found if is_held(holder, until, moment))

    def release(self, stream: str, mirror: str, holder: str, doubts: Sequence[Doubt] | None = None) -> None:
        owner = self._dropped(stream, mirror, holder)
        statement = (
            "UPDATE mirror_heads SET holder = NULL, held_until = NULL, doubts = COALESCE(?, doubts) "
            "WHERE stream = ? AND mirror = ? AND holder = ?"
        )
        self._database.execute(statement, (None if doubts is None else _stored(doubts), stream, mirror, owner))

    def put(self, stream: str, mirror: str, head: MirrorHead, holder: str) -> None:
        query = "SELECT holder, thread_id, version, doubts FROM mirror_heads WHERE stream = ? AND mirror = ?"
        owner = self._dropped(stream, mirror, holder)

        def note(transaction: Transaction) -> None:
            row = transaction.execute(query, (stream, mirror)).fetchone()
            kept = head
            if row is not None and row[0] is None and row[1] == head.thread_id:
                # The claim was over, and another process has had the thread since: what it knows of it must not be lost.
                if row[2] > head.version:
                    return
                others = (Doubt.from_json(doubt) for doubt in json.loads(row[3]))
                kept = replace(head, doubts=(*head.doubts, *(each for each in others if each not in head.doubts)))
            if row is None or row[0] in {None, owner}:
                self._write(transaction, stream, mirror, kept, None, None)

        self._database.write(lambda transaction: self._alone(transaction, stream, mirror, note))

    def begun(self, stream: str, mirror: str, thread_id: str) -> Also:
        head = MirrorHead(thread_id, 0, settled=True)
        return self._linked(stream, mirror, head, _UNLESS_KNOWN_OR_HELD)

    def written(self, stream: str, mirror: str, head: MirrorHead) -> Also:
        linked = self._linked(stream, mirror, head)

        def note(cursor: Any) -> None:
            cursor.execute(self._database.sql(FINISHED), (stream, mirror))
            linked(cursor)

        return note

    def note_creation(self, creation: ThreadCreation) -> None:
        statement = (
            "INSERT INTO thread_creations (creation, stream, mirror, endpoint, thread_id, at) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (creation) DO UPDATE SET thread_id = excluded.thread_id"
        )
        place = (creation.creation, creation.stream, creation.mirror, creation.endpoint)
        self._database.execute(statement, (*place, creation.thread_id, to_iso(creation.at)))

    def forget_creation(self, creation: str) -> None:
        self._database.execute("DELETE FROM thread_creations WHERE creation = ?", (creation,))

    def creations(self, before: datetime, unfinished_before: datetime) -> Sequence[ThreadCreation]:
        query = (
            "SELECT creation, stream, mirror, endpoint, thread_id, at FROM thread_creations c WHERE at <= ? AND (at <= ? OR "
            "NOT EXISTS (SELECT 1 FROM unfinished_threads u WHERE u.thread_id = c.thread_id)) ORDER BY at, creation"
        )
        rows = self._database.query(query, (to_iso(before), to_iso(unfinished_before)))
        return [
            ThreadCreation(creation, stream, mirror, endpoint, thread_id, from_iso(at))
            for creation, stream, mirror, endpoint, thread_id, at in rows
        ]

    def _linked(self, stream: str, mirror: str, head: MirrorHead, unless: str = "") -> Also:
        """Return what stores the head of a newly linked thread and removes the record of its creation."""
        noted = self._database.sql(f"{_NOTE}{unless}")
        created = self._database.sql("DELETE FROM thread_creations WHERE thread_id = ?")

        def note(cursor: Any) -> None:
            cursor.execute(noted, _values(stream, mirror, head, None, None))
            cursor.execute(created, (head.thread_id,))

        return note

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

    def _dropped(self, stream: str, mirror: str, holder: str) -> str:
        """Stop renewing a claim of this process and return its owner as stored."""
        from .claims import THREADS, Claim, holder_of, renewal_of

        owner = holder_of(holder)
        renewal_of(self._database).drop(Claim(THREADS, (stream, mirror, owner)))
        return owner

    def _alone(self, transaction: Transaction, stream: str, mirror: str, work: Callable[[Transaction], T]) -> T:
        """Run `work` as the only writer of a thread's state; lock its row if the database allows several writers.

        It writes the row in any case, unless another process has it. The lock is a statement of its own, so that `work` sees
        what was committed while this process waited.
        """
        if not self._database.kind.locks_when_writing:
            transaction.execute(_BEGIN, (stream, mirror))
            transaction.execute(_LOCK, (stream, mirror))
        return work(transaction)

    def _write(
        self,
        transaction: Transaction,
        stream: str,
        mirror: str,
        head: MirrorHead,
        holder: str | None,
        held_until: str | None,
    ) -> None:
        values = _values(stream, mirror, head, holder, held_until)
        transaction.execute(_NOTE, values)


_NOTE = (
    "INSERT INTO mirror_heads (stream, mirror, thread_id, version, settled, holder, held_until, doubts) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stream, mirror) DO UPDATE SET "
    "thread_id = excluded.thread_id, version = excluded.version, settled = excluded.settled, "
    "holder = excluded.holder, held_until = excluded.held_until, doubts = excluded.doubts"
)
_UNLESS_KNOWN_OR_HELD = " WHERE mirror_heads.holder IS NULL AND mirror_heads.thread_id <> excluded.thread_id"
_BEGIN = (
    "INSERT INTO mirror_heads (stream, mirror, thread_id, version, settled) VALUES (?, ?, '', 0, 0) "
    "ON CONFLICT (stream, mirror) DO NOTHING"
)
"""Statement that stores a row to lock, of no thread, if there is none: a row that is not there cannot be locked."""
_LOCK = "SELECT 1 FROM mirror_heads WHERE stream = ? AND mirror = ? FOR UPDATE"


def _values(
    stream: str, mirror: str, head: MirrorHead, holder: str | None, held_until: str | None
) -> tuple[str | int | None, ...]:
    place = (stream, mirror, head.thread_id, head.version, int(head.settled))
    return (*place, holder, held_until, _stored(head.doubts))


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

_HEADS = (
    f"SELECT stream, mirror, thread_id, version, CASE WHEN {AHEAD} THEN 0 ELSE settled END, holder, held_until, doubts "
    "FROM mirror_heads"
)


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
    from .claims import described, is_held

    moment = to_iso(now())
    for stream, mirror, thread_id, version, settled, holder, held_until, doubts in rows:
        held_by = described(holder, held_until) if is_held(holder, held_until, moment) else ""
        noted = NotedThread(stream, mirror, thread_id, version, bool(settled), len(json.loads(doubts)), bool(held_by))
        yield replace(noted, held_by=held_by)
