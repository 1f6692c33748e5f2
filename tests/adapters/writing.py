"""Processes that write to a ledger until they are told to stop, or killed; and what has to be true of its rows afterwards.

Run as a script it is the parent of the writers: it imports once, opens nothing, and forks as many as it is told.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from uuid import UUID

import sqlalchemy

from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.connections import leaf_hash
from threadledger.domain.conversation import Completion, Conversation, ConversationState, RunPlan, evolve, text_message
from threadledger.domain.journal import Journal, Row, StoredRow, restore
from threadledger.domain.ledger import Ledger

SHARED = 2
"""Conversations that all writers append to."""

EVENTS_BETWEEN = {"x": 0, "abc": 2, "qa": 3}
"""Kinds of commits, by their messages; how far apart the first and the last of them stand: a run has two events more."""


def open_at(url: str, **options: Any) -> Ledger:
    """A ledger that knows nobody outside."""
    return Ledger(Journal(Factory(database=Database(url, **options))))


# The rows, read without any code of the store's


@dataclass(frozen=True)
class Stored:
    """An event's row."""

    position: int
    stream: str
    version: int
    event_id: str
    topic: str
    schema: int
    at: str
    state: str
    leaf: bytes

    @property
    def row(self) -> Row:
        """The row as the store reads it."""
        state = self.state.encode()
        return (self.position, self.stream, self.version, self.topic, state, self.event_id, self.at, self.schema)

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.state)
        return data


def query(url: str, statement: str) -> list[Any]:
    """All rows of a query, on a connection of its own."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


def execute(url: str, *statements: str) -> None:
    """Statements behind the ledger's back, in one transaction."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rewind(url: str, position: int) -> None:
    """Lose the events after a position, as a failover or a restored backup does; the next one gets their positions."""
    if url.startswith("sqlite"):
        triggers = [f"DROP TRIGGER IF EXISTS events_are_not_{what}" for what in ("changed", "deleted")]
        head = f"UPDATE sqlite_sequence SET seq = {position} WHERE name = 'events'"
    else:
        triggers = ["ALTER TABLE events DISABLE TRIGGER USER"]
        head = f"UPDATE log_head SET position = {position}"
    execute(
        url,
        *triggers,
        f"DELETE FROM events WHERE position > {position}",
        head,
        "DELETE FROM streams WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.stream = streams.stream)",
        "UPDATE streams SET state_schema = 0, due_at = NULL, "
        "version = (SELECT max(e.version) FROM events e WHERE e.stream = streams.stream)",
    )


def stored_events(url: str) -> list[Stored]:
    """The whole log, by position."""
    found = query(
        url,
        "SELECT e.position, s.name, e.version, e.id, e.text_id, e.topic, e.schema, e.at, e.state, e.leaf "
        "FROM events e LEFT JOIN streams s USING (stream) ORDER BY e.position",
    )
    return [Stored(*row[:3], _id(*row[3:5]), *row[5:-1], bytes(row[-1])) for row in found]


def _id(value: bytes | UUID | None, text: str | None) -> str:
    return str(text if value is None else UUID(bytes=value) if isinstance(value, bytes) else value)


def stored_texts(url: str) -> list[Any]:
    """What was said, in the order of positions."""
    return [each.data.get("content") for each in stored_events(url) if each.topic == "MessageJournaled"]


def assert_sound(url: str) -> list[Stored]:
    """Positions and versions have no gaps, each event has its leaf, each head follows from its events."""
    events = stored_events(url)
    assert [each.position for each in events] == list(range(1, len(events) + 1))
    versions: dict[str, list[int]] = {}
    for each in events:
        versions.setdefault(each.stream, []).append(each.version)
        row = StoredRow(each.stream, each.version, each.topic, each.state.encode(), each.event_id, each.at, each.schema)
        assert each.leaf == leaf_hash(row, each.position), each
    heads = {
        name: (version, state) for name, version, state in query(url, "SELECT name, version, snapshot FROM streams")
    }
    assert heads.keys() == versions.keys()
    for stream, found in versions.items():
        assert found == list(range(1, len(found) + 1)), stream
        assert heads[stream][0] == len(found), stream
    folded: dict[str, ConversationState] = {}
    for each in events:
        event = restore(each.row)
        evolve(folded.setdefault(each.stream, ConversationState()), event)
    for stream, state in folded.items():
        assert not stream.startswith("conversation:") or json.loads(heads[stream][1]) == json.loads(state.as_json())
    return events


# What the writers write


def said(events: Sequence[Stored]) -> dict[str, list[str]]:
    """What each writer's commits left, by position, once it is clear that each commit is whole: see `write_one`."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for each in events:
        if each.topic == "MessageJournaled":
            commit, _, part = each.data["content"].rpartition("/")
            parts.setdefault(commit, []).append((each.position, part))
    by_writer: dict[str, list[str]] = {}
    for commit, found in parts.items():
        writer, _, kind = commit.split()
        assert "".join(part for _, part in found) == kind, f"{commit} was stored in part, or twice"
        assert found[-1][0] - found[0][0] == EVENTS_BETWEEN[kind], f"something stands between the events of {commit}"
        by_writer.setdefault(writer, []).append(commit)
    runs = Counter(each.data["run_id"] for each in events if each.topic in {"RunStarted", "RunCompleted"})
    assert set(runs.values()) <= {2}, "a run was stored in part"
    return by_writer


def write_one(ledger: Ledger, writer: str, index: int, rng: random.Random) -> str:
    """One commit: a message, three messages at once, or a question with its run and answer. Returns what it is known by.

    That is `WRITER INDEX KIND`, where KIND is the parts that it consists of; each message is `WRITER INDEX KIND/PART`.
    """
    key = f"shared {rng.randrange(SHARED)}" if rng.random() < 0.6 else f"own {writer}"
    kind = rng.choice(["x", *EVENTS_BETWEEN])
    commit = f"{writer} {index} {kind}"
    chat = ledger.conversation(key)
    if kind == "x":
        chat.append("user", f"{commit}/x")
    elif kind == "abc":
        chat.extend([{"role": "user", "content": f"{commit}/{part}"} for part in kind])
    else:

        def exchange(conversation: Conversation) -> None:
            exchange_id = conversation.ask(text_message("user", f"{commit}/q"))
            run_id = conversation.start_run(exchange_id, RunPlan("chat", "m"))
            conversation.complete_run(run_id, Completion((text_message("assistant", f"{commit}/a"),)))

        ledger.journal.commit(key, exchange, create=True)
    return commit


def write(url: str, writer: str, commits: int | None, seed: int) -> None:
    """Append, and print what is acknowledged once it is, unbuffered: in one piece, for the writers share their output."""
    rng = random.Random(f"{seed} {writer}")
    with open_at(url) as ledger:
        index = 0
        while commits is None or index < commits:
            os.write(1, f"{write_one(ledger, writer, index, rng)}\n".encode())
            index += 1


# Their parent


class Writers:
    """A process that forks writers. What they acknowledge comes in the order in which it was acknowledged."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands: IO[str] = process.stdin
        self._output: IO[str] = process.stdout

    def start(self, url: str, names: Sequence[str], commits: int | None = None, seed: int = 0, **more: Any) -> None:
        """Let each write this many commits, or without end; `more` are further arguments of their function."""
        self._say({"do": "start", "url": url, "names": list(names), "commits": commits, "seed": seed, **more})

    def acknowledged(self, count: int) -> list[str]:
        """Wait for so many acknowledgements."""
        return [self._output.readline().rstrip("\n") for _ in range(count)]

    def kill(self) -> list[str]:
        """SIGKILL to all of them; what they acknowledged before that and was not yet read."""
        self._say({"do": "kill"})
        return self._until_the_end()

    def wait(self) -> list[str]:
        """Wait until all have written what they were told to; what they acknowledged."""
        self._say({"do": "wait"})
        return self._until_the_end()

    def _say(self, command: dict[str, Any]) -> None:
        self._commands.write(json.dumps(command) + "\n")
        self._commands.flush()

    def _until_the_end(self) -> list[str]:
        found: list[str] = []
        for line in self._output:
            if line.startswith("ended"):
                assert line == "ended well\n", line
                return found
            found.append(line.rstrip("\n"))
        raise AssertionError("the parent of the writers ended")


@contextmanager
def writers(script: str = __file__) -> Iterator[Writers]:
    """The parent of writers, with everything imported and nothing open; `script` calls `serve`."""
    command = [sys.executable, script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Writers(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(timeout=30)


def serve(write: Callable[..., None] = write) -> None:
    """Do as standard input says, line by line; at its end, no writer is left."""
    sqlalchemy.create_engine("postgresql+psycopg://")  # imports the driver, connects to nobody
    running: list[int] = []
    for line in sys.stdin:
        command = json.loads(line)
        match command.pop("do"):
            case "start":
                running = [_fork(write, name, **command) for name in command.pop("names")]
            case "kill":
                _end(running, kill=True)
            case "wait":
                _end(running, kill=False)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _fork(write: Callable[..., None], name: str, **command: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        write(writer=name, **command)
        status = 0
    finally:
        sys.stderr.flush()
        if status:
            import traceback

            traceback.print_exc()
        os._exit(status)


def _end(running: list[int], *, kill: bool) -> None:
    """Where they are killed, none may have ended by itself."""
    if kill:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in running]
    running.clear()
    wanted = -signal.SIGKILL if kill else 0
    os.write(1, (b"ended well\n" if set(ends) <= {wanted} else f"ended with {ends}\n".encode()))


if __name__ == "__main__":
    serve()
