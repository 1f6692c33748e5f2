"""Measure appends of many threads and processes to one database, with a commit that takes a known time on PostgreSQL.

python benchmarks/concurrency.py [--quick] [--disk DIR] [--commit-ms 10 ...] [--writers 1x1 1x64 16x1 ...] [--only postgres]

Each append stores a question and its answer in a conversation of the writer's own. Writers are PROCESSESxTHREADS. SQLite runs
with `synchronous` FULL in DIR (default: the temporary directory; if that is in memory, fsync costs nothing), with the writers
that are of one process. PostgreSQL is started for this run,
with `commit_delay` and `commit_siblings = 0`: the process that flushes the write-ahead log first waits for that time, and
commits that arrive meanwhile share its flush, as they share the fsync of a slow disk. The floor is a hand-written
statement per append that orders nothing: its rows have positions of a sequence, which has gaps.

Printed are appends a second, the time of one append (p50, p99), and on PostgreSQL how many appends a transaction stored:
median of the rounds, and range.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import threadledger

MESSAGES = [{"role": "user", "content": "How are you? " * 12}, {"role": "assistant", "content": "Fine. " * 50}]

TABLE = """CREATE TABLE message (
    position bigserial PRIMARY KEY, conversation text NOT NULL, seq bigint NOT NULL, role text NOT NULL, content text NOT NULL,
    UNIQUE (conversation, seq)
)"""
INSERT = """INSERT INTO message (conversation, seq, role, content)
SELECT %(key)s, (SELECT coalesce(max(seq), 0) FROM message WHERE conversation = %(key)s) + o, role, content
FROM unnest(%(roles)s::text[], %(contents)s::text[]) WITH ORDINALITY AS each (role, content, o)"""


class Measured(NamedTuple):
    rate: float
    p50_ms: float
    p99_ms: float
    group: float = 1.0
    """Appends of one transaction."""


Append = Callable[[str], object]


def ours(url: str) -> tuple[Append, Callable[[], None]]:
    ledger = threadledger.open(url, threads="none")
    return lambda key: ledger.conversation(key).extend(MESSAGES), ledger.close


def floor(url: str) -> tuple[Append, Callable[[], None]]:
    import psycopg

    local = threading.local()

    def append(key: str) -> None:
        if not hasattr(local, "connection"):
            local.connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        roles, contents = [each["role"] for each in MESSAGES], [each["content"] for each in MESSAGES]
        local.connection.execute(INSERT, {"key": key, "roles": roles, "contents": contents})

    return append, lambda: None


def work(store: Any, url: str, threads: int, seconds: float, gate: Any = None) -> list[float]:
    """Return the time of each append of these threads, in milliseconds."""
    append, close = store(url)
    append(f"warm {os.getpid()}")
    taken: list[list[float]] = [[] for _ in range(threads)]
    stop = threading.Event()

    def write(number: int) -> None:
        while not stop.is_set():
            began = time.perf_counter()
            append(f"{os.getpid()} {number}")
            taken[number].append((time.perf_counter() - began) * 1000)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    if gate is not None:
        gate.wait()
    for each in writers:
        each.start()
    time.sleep(seconds)
    stop.set()
    for each in writers:
        each.join()
    close()
    return [each for one in taken for each in one]


def _send(connection: Any, *given: Any) -> None:
    connection.send(work(*given))
    connection.close()


def measured(store: Any, url: str, seconds: float, threads: int = 1, processes: int = 1) -> Measured:
    context = get_context("spawn")
    gate = context.Barrier(processes)
    ends, started = [], []
    for _ in range(processes):
        here, there = context.Pipe(duplex=False)
        started.append(context.Process(target=_send, args=(there, store, url, threads, seconds, gate)))
        started[-1].start()
        there.close()
        ends.append(here)
    taken = sorted(each for here in ends for each in here.recv())
    for process in started:
        process.join()
    return Measured(len(taken) / seconds, statistics.median(taken), taken[int(len(taken) * 0.99)])


@contextmanager
def server(commit_ms: float) -> Iterator[Callable[[], str]]:
    """Provide a function that creates an empty database on a private server whose commits take this long."""
    import psycopg

    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True) + (
        [Path(on_path).parent] if on_path else []
    )
    programs = next((each for each in found if (each / "initdb").exists()), None)
    if programs is None:
        raise SystemExit("initdb was not found: install PostgreSQL's server")
    names = {each.pw_name for each in pwd.getpwall()}
    user = next((each for each in ("postgres", "nobody") if each in names), None) if os.geteuid() == 0 else None
    place = Path(tempfile.mkdtemp(prefix="threadledger-bench-"))
    if user is not None:
        shutil.chown(place, user)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, settings = place / "data", {"port": port, "commit_delay": int(commit_ms * 1000), "commit_siblings": 0}
    settings |= {"unix_socket_directories": place, "listen_addresses": "127.0.0.1", "max_connections": 200}
    run: dict[str, Any] = {"user": user, "cwd": place}
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "bench", "-E", "UTF8"],
        check=True,
        capture_output=True,
        **run,
    )
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen([programs / "postgres", "-D", data, *options], stderr=subprocess.DEVNULL, **run)
    address, count = f"postgresql://bench@127.0.0.1:{port}", 0

    def make() -> str:
        nonlocal count
        count += 1
        with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE bench{count}".encode())
        return f"{address}/bench{count}"

    try:
        for _ in range(100):
            time.sleep(0.1)
            try:
                psycopg.connect(f"{address}/postgres").close()
                break
            except psycopg.OperationalError:
                continue
        yield make
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(place, ignore_errors=True)


def show(name: str, rounds: Sequence[Measured]) -> None:
    columns = []
    for label, values in zip(Measured._fields, zip(*rounds, strict=True), strict=True):
        columns.append(f"{label} {statistics.median(values):9.1f} ({min(values):.1f} to {max(values):.1f})")
    print(f"{name:52} {'   '.join(columns)}", flush=True)


class Writers(NamedTuple):
    processes: int
    threads: int

    @classmethod
    def parsed(cls, given: str) -> Writers:
        processes, _, threads = given.partition("x")
        return cls(int(processes), int(threads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--disk", type=Path)
    parser.add_argument("--commit-ms", type=float, nargs="+", default=[10.0])
    parser.add_argument(
        "--writers", type=Writers.parsed, nargs="+", default=[Writers(1, 1), Writers(1, 64), Writers(16, 1)]
    )
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--no-floor", action="store_true", help="leave the floor out")
    args = parser.parse_args()
    seconds, rounds = (2.0, 2) if args.quick else (5.0, 5)
    if args.only != "postgres":
        on_sqlite(args.writers if args.only else [Writers(1, each) for each in (1, 8, 64)], args.disk, seconds, rounds)
    for commit_ms in args.commit_ms if args.only != "sqlite" else ():
        with server(commit_ms) as make:
            on_postgres(make, commit_ms, args.writers, seconds, rounds, with_floor=not args.no_floor)


def on_sqlite(writers: Sequence[Writers], disk: Path | None, seconds: float, rounds: int) -> None:
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        for processes, threads in writers:
            urls = [f"sqlite:///{folder}/{processes}-{threads}-{number}.db" for number in range(rounds)]
            for url in urls:
                threadledger.open(url, threads="none").close()
            show(f"SQLite, {processes} x {threads}", [measured(ours, url, seconds, threads, processes) for url in urls])


def on_postgres(
    make: Callable[[], str], commit_ms: float, writers: Sequence[Writers], seconds: float, rounds: int, with_floor: bool
) -> None:
    stores = {"threadledger": (ours, None)} | ({"floor, unordered": (floor, TABLE)} if with_floor else {})
    for processes, threads in writers:
        taken: dict[str, list[Measured]] = {name: [] for name in stores}
        for _ in range(rounds):
            for name, (store, table) in stores.items():
                url = _prepared(make(), table)
                found = measured(store, url, seconds, threads, processes)
                if table is None:
                    found = found._replace(group=found.rate * seconds / max(1, _transactions(url)))
                taken[name].append(found)
        for name, measures in taken.items():
            show(f"commit of {commit_ms:g} ms, {processes} x {threads}, {name}", measures)


def _transactions(url: str) -> int:
    """Return how many transactions appended to the ledger: each moves the head of the log once."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT coalesce(sum(n_tup_upd), 0) FROM pg_stat_user_tables WHERE relname = 'log_head'"
        (count,) = connection.execute(query).fetchone() or (0,)
    return int(count)


def _prepared(url: str, table: str | None) -> str:
    """Create the tables, so that no process waits for another one that does."""
    import psycopg

    if table is None:
        threadledger.open(url, threads="none").close()
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(table.encode())
    return url


if __name__ == "__main__":
    sys.exit(main())
