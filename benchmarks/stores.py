"""Define the stores that `store.py` compares: threadledger, a hand-written one, and eventsourcing's own recorders."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate

import threadledger
from threadledger.domain.conversation import Completion, Conversation, RunPlan, stream_of, text_message
from threadledger.domain.conversation.messages import Usage

Text = tuple[str, str]
"""Role and content of a message."""

FILL = 50
"""Number of exchanges per commit while a store is filled, outside of measurements."""

FILL_MESSAGES = 500
"""Number of messages per commit while a store is filled."""

IN_MEMORY = Path("/dev/shm")
LATIN, CYRILLIC = "abdefgiklmnoprstuvz", "абвгдежзиклмнопрстуя"
AT = "2026-01-01T00:00:00.000000Z"


class Exchange(NamedTuple):
    """Hold one question with its answer, as text and as the four rows that threadledger stores."""

    question: str
    answer: str
    rows: list[tuple[Any, ...]]


EXCHANGES: list[Exchange] = []
"""Exchanges generated once from a fixed seed, so that every store gets the same bytes."""


class Ours:
    """Use threadledger through its public API."""

    def __init__(self, url: str, synchronous: str) -> None:
        self.ledger = threadledger.open(url, threads="none", synchronous=synchronous)

    def exchange(self, conversation: int, number: int) -> None:
        given = EXCHANGES[number % len(EXCHANGES)]
        self.ledger.journal.commit(key(conversation), lambda each: decide(each, given), create=True)

    def say(self, conversation: int, said: Sequence[Text]) -> None:
        self.ledger.conversation(key(conversation)).extend([{"role": role, "content": text} for role, text in said])

    def run(self, conversation: int, said: Sequence[Text]) -> None:
        """Record a question, and the app's own model call that answers it."""
        (role, question), (_, answer) = said
        chat = self.ledger.conversation(key(conversation))
        chat.append(role, question)
        with chat.run("chat", "some-model") as run:
            run.complete(answer)

    def fill(self, conversation: int, exchanges: int) -> None:
        for start in range(0, exchanges, FILL):
            part = [EXCHANGES[number % len(EXCHANGES)] for number in range(start, min(start + FILL, exchanges))]
            self.ledger.journal.commit(
                key(conversation), lambda each, part=part: [decide(each, given) for given in part], create=True
            )

    def fill_messages(self, conversation: int, said: Sequence[Text]) -> None:
        for part in batches(said, FILL_MESSAGES):
            self.say(conversation, part)

    def load(self, conversation: int, last: int | None = None) -> list[Any]:
        return self.ledger.conversation(key(conversation)).memory(last=last).as_chat_messages()

    def state(self, conversation: int) -> Any:
        return self.ledger.state(key(conversation))

    def events(self) -> Iterator[Any]:
        for logged in self.ledger.events():
            yield logged.key, logged.type

    def close(self) -> None:
        self.ledger.close()


class Hand:
    """Use sqlite3 directly, with one table for rows like those of threadledger and one for plain messages."""

    def __init__(self, url: str, synchronous: str) -> None:
        path = url.removeprefix("sqlite:///")
        self.connection: Any = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode = WAL").fetchall()
        self.connection.execute(f"PRAGMA synchronous = {synchronous}")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, "
            "version INTEGER NOT NULL, event_id TEXT NOT NULL, topic TEXT NOT NULL, schema INTEGER NOT NULL, "
            "at TEXT NOT NULL, state TEXT NOT NULL, leaf BLOB NOT NULL, UNIQUE (stream, version))"
        )
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (position INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, "
            "number INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, at TEXT NOT NULL, "
            "UNIQUE (conversation, number))"
        )

    def exchange(self, conversation: int, number: int) -> None:
        self._append(conversation, EXCHANGES[number % len(EXCHANGES)].rows)

    def fill(self, conversation: int, exchanges: int) -> None:
        for start in range(0, exchanges, FILL):
            rows = (EXCHANGES[i % len(EXCHANGES)].rows for i in range(start, min(start + FILL, exchanges)))
            self._append(conversation, [row for four in rows for row in four])

    def say(self, conversation: int, said: Sequence[Text]) -> None:
        with self._writing():
            query = "SELECT coalesce(max(number), 0) FROM messages WHERE conversation = ?"
            number = self.connection.execute(query, (conversation,)).fetchone()[0]
            self.connection.executemany(
                "INSERT INTO messages (conversation, number, role, content, at) VALUES (?, ?, ?, ?, ?)",
                [(conversation, number + i, *one, AT) for i, one in enumerate(said, 1)],
            )

    def fill_messages(self, conversation: int, said: Sequence[Text]) -> None:
        self.say(conversation, said)

    def load(self, conversation: int, last: int | None = None) -> list[Any]:
        query, values = "SELECT role, content FROM messages WHERE conversation = ? ORDER BY number", [conversation]
        if last is None:
            return [{"role": role, "content": text} for role, text in self._read(query, values)]
        rows = self._read(f"{query} DESC LIMIT ?", [*values, last])
        return [{"role": role, "content": text} for role, text in reversed(rows)]

    def events(self) -> Iterator[Any]:
        rows = self.connection.execute("SELECT stream, topic, state FROM events ORDER BY position")
        for stream, topic, state in rows:
            json.loads(state)
            yield stream, topic

    def close(self) -> None:
        self.connection.close()

    def _read(self, query: str, values: list[Any]) -> list[Any]:
        return self.connection.execute(query, values).fetchall()

    def _append(self, stream: int, rows: list[tuple[Any, ...]]) -> None:
        with self._writing():
            query = "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?"
            version = self.connection.execute(query, (stream,)).fetchone()[0]
            self.connection.executemany(
                "INSERT INTO events (stream, version, event_id, topic, schema, at, state, leaf) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(stream, version + i, *row) for i, row in enumerate(rows, 1)],
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise


class HandOnPostgres(Hand):
    """Use psycopg directly: an append is one statement, one transaction and one round trip."""

    APPEND = (
        "INSERT INTO events (stream, version, event_id, topic, schema, at, state, leaf) SELECT %(stream)s::bigint, "
        "(SELECT coalesce(max(version), 0) FROM events WHERE stream = %(stream)s::bigint) + o, a, b, c, d, e, f FROM "
        "unnest(%(a)s::text[], %(b)s::text[], %(c)s::int[], %(d)s::text[], %(e)s::text[], %(f)s::bytea[]) "
        "WITH ORDINALITY AS given (a, b, c, d, e, f, o)"
    )

    SAY = (
        "INSERT INTO messages (conversation, number, role, content, at) SELECT %(conversation)s::bigint, "
        "(SELECT coalesce(max(number), 0) FROM messages WHERE conversation = %(conversation)s::bigint) + o, r, t, "
        "%(at)s FROM unnest(%(roles)s::text[], %(texts)s::text[]) WITH ORDINALITY AS given (r, t, o)"
    )

    def __init__(self, url: str, synchronous: str) -> None:
        import psycopg

        self.taken = psycopg.errors.UniqueViolation
        self.connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True, prepare_threshold=0)
        self.connection.execute("SET client_min_messages = warning")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS events (position bigserial PRIMARY KEY, stream bigint NOT NULL, "
            "version bigint NOT NULL, event_id text NOT NULL, topic text NOT NULL, schema int NOT NULL, "
            "at text NOT NULL, state text NOT NULL, leaf bytea NOT NULL, UNIQUE (stream, version))"
        )
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (position bigserial PRIMARY KEY, conversation bigint NOT NULL, "
            "number bigint NOT NULL, role text NOT NULL, content text NOT NULL, at text NOT NULL, "
            "UNIQUE (conversation, number))"
        )

    def say(self, conversation: int, said: Sequence[Text]) -> None:
        roles, texts = map(list, zip(*said, strict=True))
        self.connection.execute(self.SAY, {"conversation": conversation, "roles": roles, "texts": texts, "at": AT})

    def fill_messages(self, conversation: int, said: Sequence[Text]) -> None:
        copy = "COPY messages (conversation, number, role, content, at) FROM STDIN"
        with self.connection.cursor() as cursor, cursor.copy(copy) as rows:
            for i, (role, text) in enumerate(said):
                rows.write_row((conversation, i, role, text, AT))
        self.connection.execute("ANALYZE messages")

    def events(self) -> Iterator[Any]:
        with self.connection.transaction(), self.connection.cursor(name="fold") as cursor:
            cursor.itersize = 2_000
            cursor.execute("SELECT stream, topic, state FROM events ORDER BY position")
            for stream, topic, state in cursor:
                json.loads(state)
                yield stream, topic

    def _read(self, query: str, values: list[Any]) -> list[Any]:
        return self.connection.execute(query.replace("?", "%s"), values, binary=True).fetchall()

    def _append(self, stream: int, rows: list[tuple[Any, ...]]) -> None:
        columns = dict(zip("abcdef", map(list, zip(*rows, strict=True)), strict=True))
        while True:
            try:
                self.connection.execute(self.APPEND, {"stream": stream, **columns})
                return
            except self.taken:  # another thread used these versions first
                continue


class Talk(Aggregate):
    """Represent a conversation as a minimal eventsourcing aggregate."""

    class Recorded(Aggregate.Event):
        topic: str
        fields: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            """Keep only the aggregate's version."""


class Library:
    """Use eventsourcing's own recorder and mapper, and keep aggregates in memory so that an append loads nothing."""

    def __init__(self, url: str, synchronous: str) -> None:
        self.app: Application[uuid.UUID] = Application(env=library_settings(url))
        self.talks: dict[int, Talk] = {}

    def exchange(self, conversation: int, number: int) -> None:
        self._save(conversation, [EXCHANGES[number % len(EXCHANGES)]])

    def fill(self, conversation: int, exchanges: int) -> None:
        for part in batches([EXCHANGES[number % len(EXCHANGES)] for number in range(exchanges)], FILL):
            self._save(conversation, part)

    def say(self, conversation: int, said: Sequence[Text]) -> None:
        talk = self._talk(conversation)
        for role, text in said:
            talk.trigger_event(Talk.Recorded, topic="MessageJournaled", fields={"role": role, "content": text})
        self.app.save(talk)

    def fill_messages(self, conversation: int, said: Sequence[Text]) -> None:
        for part in batches(said, FILL_MESSAGES):
            self.say(conversation, part)

    def load(self, conversation: int, last: int | None = None) -> list[Any]:
        backwards: dict[str, Any] = {"desc": True, "limit": last} if last is not None else {}
        stored: Iterable[Any] = self.app.events.get(self._talk(conversation).id, **backwards)
        shown = [
            {"role": each.fields["role"], "content": each.fields["content"]}
            for each in stored
            if isinstance(each, Talk.Recorded)
        ]
        return shown[::-1] if last is not None else shown

    def events(self) -> Iterator[Any]:
        after = 0
        while page := self.app.recorder.select_notifications(after + 1, 1_000):
            for notification in page:
                event: Any = self.app.mapper.to_domain_event(notification)
                yield event.originator_id, notification.topic
            after = page[-1].id

    def close(self) -> None:
        self.app.close()

    def _talk(self, conversation: int) -> Talk:
        return self.talks.setdefault(conversation, self.talks.get(conversation) or Talk())

    def _save(self, conversation: int, exchanges: Sequence[Exchange]) -> None:
        talk = self._talk(conversation)
        for given in exchanges:
            for _, topic, _, _, state, _ in given.rows:
                talk.trigger_event(Talk.Recorded, topic=topic, fields=json.loads(state))
        self.app.save(talk)


Store = Ours | Hand | Library


class Places:
    """Create the databases of one run, and delete them afterwards."""

    def __init__(self, disk: str | None, postgres: str | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="threadledger-bench-", dir=disk))
        self.memory = (
            Path(tempfile.mkdtemp(prefix="threadledger-bench-", dir=IN_MEMORY)) if IN_MEMORY.is_dir() else None
        )
        self.postgres = re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql+psycopg:", postgres) if postgres else None
        self.made: list[str] = []

    def new(self, in_memory: bool = False) -> str:
        """Create an empty database, and return its URL."""
        name = f"threadledger_bench_{uuid.uuid4().hex[:12]}"
        if self.postgres is None:
            folder = self.memory if in_memory and self.memory is not None else self.folder
            return f"sqlite:///{folder / name}.db"
        self.made.append(name)
        self._administer(f"CREATE DATABASE {name}")
        return urlsplit(self.postgres)._replace(path=f"/{name}").geturl()

    def bytes_of(self, url: str) -> int:
        """Return the size of the tables and indexes on disk, in bytes."""
        if self.postgres is None:
            path = url.removeprefix("sqlite:///")
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.close()
            return Path(path).stat().st_size
        size = (
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return int(self._administer(size, url))

    def close(self) -> None:
        for name in self.made:
            self._administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        for folder in (self.folder, self.memory):
            if folder is not None:
                shutil.rmtree(folder)

    def _administer(self, statement: Any, url: str | None = None) -> Any:
        import psycopg

        with psycopg.connect((url or self.postgres or "").replace("+psycopg", ""), autocommit=True) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row is not None else None


def key(conversation: int) -> str:
    return f"customer-{conversation}"


def decide(conversation: Conversation, given: Exchange) -> None:
    """Record a whole exchange: question, run started, run completed, answer."""
    exchange_id = conversation.ask(text_message("user", given.question))
    plan = RunPlan("chat", "some-model", memory_version=conversation.version, memory_hash="0" * 64)
    run_id = conversation.start_run(exchange_id, plan)
    answer = (text_message("assistant", given.answer),)
    completion = Completion(answer, "stop", request_id=f"req_{'0' * 32}", model="some-model", usage=Usage(1_234, 567))
    conversation.complete_run(run_id, completion, duration_seconds=2.5)


def make_exchanges(count: int = 200) -> Iterator[Exchange]:
    """Generate exchanges, with rows read back from a ledger for the hand-written store."""
    said = texts(count * 2)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Ours(f"sqlite:///{folder}/scratch.db", "NORMAL")
        for number in range(count):
            (_, question), (_, answer) = said[number * 2 : number * 2 + 2]
            scratch.ledger.journal.commit(
                key(number), lambda c, q=question, a=answer: decide(c, Exchange(q, a, [])), create=True
            )
            stored: Sequence[Any] = scratch.ledger.journal.recorder.select_events(stream_of(key(number)), gt=1)
            yield Exchange(
                question,
                answer,
                [
                    (
                        row.event_id,
                        row.topic,
                        row.schema,
                        row.at,
                        row.state.decode(),
                        hashlib.sha256(row.state).digest(),
                    )
                    for row in stored
                ],
            )
        scratch.close()


def texts(count: int, letters: str = LATIN, characters: int | None = None) -> list[Text]:
    """Return messages in turn from user and assistant; of 30 to 400 words, or of exactly this many characters.

    400 texts from a fixed seed are repeated.
    """
    random_ = random.Random(11)
    words = ["".join(random_.choices(letters, k=random_.randint(2, 9))) for _ in range(4_000)]

    def text() -> str:
        if characters is None:
            return " ".join(random_.choices(words, k=random_.randint(30, 400)))
        return " ".join(random_.choices(words, k=characters))[:characters]

    said = [(("user", "assistant")[i % 2], text()) for i in range(400)]
    return list(islice(cycle(said), count))


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def library_settings(url: str) -> dict[str, str]:
    """Return the environment variables that configure eventsourcing for a database."""
    if url.startswith("sqlite:///"):
        place = {"SQLITE_DBNAME": url.removeprefix("sqlite:///"), "SQLITE_LOCK_TIMEOUT": "60"}
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", **place}
    parts = urlsplit(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.lstrip("/"),
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port or 5432),
        "POSTGRES_USER": unquote(parts.username or ""),
        "POSTGRES_PASSWORD": unquote(parts.password or "none"),
    }
