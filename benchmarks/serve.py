"""Measure what `threadledger serve` adds to the provider's own answer, in pairs.

python benchmarks/serve.py [--quick] [--only runs|responses|pages] [--disk DIR]

The server and the provider (a simulator that answers at once) run in processes of their own; the client is the SDK. A run on
the server, from its creation until the app has seen it completed (by the SDK's own helper, or as a stream), is paired with one
completion of the same question, asked of the provider directly. It may add the time of four commits and 8 ms; a commit is
measured in the same rounds, as one INSERT into a SQLite database of the same directory with the same durability. All times are
wall times, and not comparable between machines.

A response may add three commits and 5 ms; the first event and the first text of a stream two commits and 3 ms to the first text
of the provider's own stream.
Eight connections have to be answered at least 100 times a second together: OGX 1.x, a server of the same APIs, answers 14 to 20
(measured in November 2026 on two cores, with the same provider).

The page of the last 20 messages of a long thread may take twice as long as that of a short one.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import openai
from elsewhere import elsewhere, simulator_elsewhere
from figures import Sample, Table, arguments, measured
from stores import FILL_MESSAGES, batches, texts

import threadledger
from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.server import open_server
from threadledger.adapters.server.limits import SWITCH_SECONDS

COMMITS, ADDED_LIMIT_MS = 4, 8.0
"""What a run may add: the time of this many commits, and further milliseconds."""

RESPONSE_COMMITS, RESPONSE_LIMIT_MS = 3, 5.0
FIRST_COMMITS, FIRST_LIMIT_MS = 2, 3.0
"""What a response may add, and what the first text of a stream may add."""

CONNECTIONS, RATE_MIN = 8, 100.0
"""Number of clients at the same time, and the responses that they get per second at least."""

LONG_LIMIT = 2.0
"""Maximum ratio of a page of a long thread to that of a short one."""

PAGE = 20
MODEL = "gpt-bench"
QUESTION = "Where is my parcel? I have been waiting for it since Monday, and the tracking page says nothing. " * 2


def served(told: Connection, db: str, upstream: str) -> None:
    """Serve a ledger until a stop message arrives; this is the main function of the separate process."""
    settings = load_settings(
        db=db, backends=("chat",), threads="none", openai_base_url=upstream, openai_api_key="bench", retries=0
    )
    sys.setswitchinterval(SWITCH_SECONDS)  # as the command does
    with open_ledger(settings) as ledger, open_server(ledger, settings, port=0) as server:
        told.send(server.base_url)
        told.recv()


@contextmanager
def committing(path: Path) -> Iterator[Callable[[], object]]:
    """Yield a function that commits one row to a new database, as durably as the ledger does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE said (text TEXT)")
    try:
        yield lambda: connection.execute("INSERT INTO said VALUES (?)", (QUESTION,))
    finally:
        connection.close()


def client_of(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key="bench", max_retries=0)


class Bench:
    """Measure and print the rows of the table."""

    def __init__(self, place: Path, upstream: str, *, quick: bool, markdown: bool) -> None:
        self.table = Table(markdown, floor="provider alone")
        self._place, self._upstream = place, upstream
        self._samples = 10 if quick else 100
        self._lengths = (100, 2_000) if quick else (100, 100_000)

    def run(self, only: str | None) -> None:
        for name in ("runs", "responses", "pages"):
            if only in {None, name}:
                getattr(self, name)()

    def runs(self) -> None:
        """Measure runs and completions, each against the same question to the provider."""
        with (
            elsewhere(served, self._db("runs"), self._upstream) as base_url,
            client_of(base_url) as app,
            client_of(self._upstream) as direct,
            committing(self._place / "floor.db") as commit,
        ):
            assistant_id = app.beta.assistants.create(model=MODEL).id
            threads = [app.beta.threads.create().id for _ in range(self._samples + 1)]
            for number, thread_id in enumerate(threads):
                app.beta.threads.messages.create(thread_id, role="user", content=f"{number}: {QUESTION}")

            def polled(number: int) -> None:
                run = app.beta.threads.runs.create_and_poll(thread_id=threads[number], assistant_id=assistant_id)
                assert run.status == "completed", run

            def streamed(number: int) -> None:
                given: dict[str, Any] = {"assistant_id": assistant_id, "stream": True}
                with app.beta.threads.runs.create(threads[number], **given) as events:
                    assert [each.event for each in events][-1] == "thread.run.completed"

            def alone(_: int) -> None:
                direct.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": QUESTION}])

            def alone_streamed(_: int) -> None:
                said: Any = [{"role": "user", "content": QUESTION}]
                with direct.chat.completions.create(model=MODEL, messages=said, stream=True) as chunks:
                    for _chunk in chunks:
                        pass

            for name, ours, theirs in (("run", polled, alone), ("run, streamed", streamed, alone_streamed)):
                *pairs, commits = measured([ours, theirs, lambda _: commit()], self._samples)
                floor = statistics.median(each.wall for each in commits) * 1000
                self.table.value(f"commit, next to: {name}", [each.wall * 1000 for each in commits], "ms")
                self.table.added(f"{name}, created to completed", pairs, "wall", ADDED_LIMIT_MS + COMMITS * floor)

    def responses(self) -> None:
        """Measure responses, each against the same question to the provider, and how many eight clients get."""
        with (
            elsewhere(served, self._db("responses"), self._upstream) as base_url,
            client_of(base_url) as app,
            client_of(self._upstream) as direct,
            committing(self._place / "floor-responses.db") as commit,
        ):
            firsts: dict[str, list[Sample]] = {name: [] for name in ("event", "text", "theirs")}

            def whole(_: int) -> None:
                assert app.responses.create(model=MODEL, input=QUESTION).status == "completed"

            def alone(_: int) -> None:
                direct.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": QUESTION}])

            def streamed(_: int) -> None:
                began = time.perf_counter()
                with app.responses.create(model=MODEL, input=QUESTION, stream=True) as events:
                    times = [(time.perf_counter() - began, each.type) for each in events]
                texts = (when for when, kind in times if kind == "response.output_text.delta")
                firsts["event"].append(Sample(times[0][0], 0.0))
                firsts["text"].append(Sample(next(texts), 0.0))

            def alone_streamed(_: int) -> None:
                began = time.perf_counter()
                said: Any = [{"role": "user", "content": QUESTION}]
                with direct.chat.completions.create(model=MODEL, messages=said, stream=True) as chunks:
                    times = [time.perf_counter() for each in chunks if each.choices[0].delta.content]
                firsts["theirs"].append(Sample(times[0] - began, 0.0))

            *wholes, commits = measured([whole, alone, lambda _: commit()], self._samples)
            floor = statistics.median(each.wall for each in commits) * 1000
            self.table.value("commit, next to: response", [each.wall * 1000 for each in commits], "ms")
            self.table.added("response", wholes, "wall", RESPONSE_LIMIT_MS + RESPONSE_COMMITS * floor)
            *whole_streams, commits = measured([streamed, alone_streamed, lambda _: commit()], self._samples)
            floor = statistics.median(each.wall for each in commits) * 1000
            for name in ("event", "text"):
                pairs = [firsts[name][1:], firsts["theirs"][1:]]
                limit = FIRST_LIMIT_MS + FIRST_COMMITS * floor
                self.table.added(f"response, first {name} of a stream", pairs, "wall", limit)
            self.table.added("response, whole stream", whole_streams, "wall")
            self._rate(base_url)

    def _rate(self, base_url: str) -> None:
        clients = [client_of(base_url) for _ in range(CONNECTIONS)]

        def answered(client: openai.OpenAI) -> None:
            for _ in range(self._samples):
                client.responses.create(model=MODEL, input=QUESTION)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            began = time.perf_counter()
            deque(pool.map(answered, clients), maxlen=0)
            rate = CONNECTIONS * self._samples / (time.perf_counter() - began)
        self.table.value(f"responses a second, {CONNECTIONS} connections", [rate], "", at_least=RATE_MIN)
        for client in clients:
            client.close()

    def pages(self) -> None:
        """Measure the last messages of a short and of a long thread."""
        db = self._db("pages")
        keys = [f"thread_{length}" for length in self._lengths]
        with threadledger.open(db, threads="none", synchronous="NORMAL") as ledger:
            for key, length in zip(keys, self._lengths, strict=True):
                for part in batches(texts(length), FILL_MESSAGES):
                    ledger.conversation(key).extend([{"role": role, "content": text} for role, text in part])
        with elsewhere(served, db, self._upstream) as base_url, client_of(base_url) as app:
            short, long = (lambda _, key=key: self._page(app, key) for key in keys)
            name = f"last {PAGE} messages of {self._lengths[1]:,} against {self._lengths[0]}"
            self.table.pairs(name, measured([long, short], self._samples), "wall", LONG_LIMIT)

    def _page(self, app: openai.OpenAI, key: str) -> None:
        assert len(app.beta.threads.messages.list(key, limit=PAGE).data) == PAGE

    def _db(self, name: str) -> str:
        return f"sqlite:///{self._place / f'{name}.db'}"


def main() -> int:
    """Print the table, and return 1 if an aim is missed."""
    args = arguments(__doc__, ["runs", "responses", "pages"]).parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK warns at each call of the Assistants API
    with tempfile.TemporaryDirectory(dir=args.disk) as place, simulator_elsewhere() as upstream:
        bench = Bench(Path(place), upstream, quick=args.quick, markdown=args.markdown)
        bench.run(args.only)
    return int(bool(bench.table.missed))


if __name__ == "__main__":
    sys.exit(main())
