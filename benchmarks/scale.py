"""Compare a large ledger with a small one: appends and commands. This takes minutes, and is run by hand.

python benchmarks/scale.py [--conversations 10000 200000] [--rounds 6] [--postgres URL] [--disk DIR]

The ledgers have about 23 events a conversation, inserted by SQL. Appends alternate between the two ledgers, each to a
conversation that was not used before. A command is a process of its own, once on each ledger in turn: the first round
updates the views and is printed as "first"; the ratio is that of the other rounds. `rebuild` plans every conversation,
so its ratio is per conversation. "disk" is what the log, its indexes and the views take for each conversation. Time is
CPU time of the client on SQLite, and wall time on PostgreSQL. Peak memory is that of the command on the large ledger, in
any round. "all found" searches a word of every conversation.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from random import Random
from typing import NamedTuple

from figures import MEMORY_LIMIT_MB, Table, apart, arguments, once
from ledgers import fill, key_of
from stores import Places

import threadledger

FLAT_LIMIT = 1.2
"""Maximum ratio of a figure of the large ledger to that of the small one."""

COMMANDS = {
    "list": "list --limit 50",
    "search, all found": "list --search parcel --limit 20",
    "search, few found": "list --search customer-4242 --limit 20",
    "audit failures": "audit failures --limit 50",
    "audit groups": "audit groups",
    "audit summary": "audit summary",
    "db status": "db status",
    "doctor": "doctor",
    "rebuild": "replay rebuild --all",
}
ENVIRONMENT = {
    "OPENAI_API_KEY": "bench",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "THREADLEDGER_THREADS": "conversations",
}
PROGRAM = """
import json, re, sys, time
from pathlib import Path
from threadledger.cli import main
code = 0
try:
    main()
except SystemExit as error:
    code = error.code
peak = int(re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0]) / 1024
print(json.dumps([time.process_time(), peak, code or 0]), file=sys.stderr)
"""


class Figures(NamedTuple):
    cpu: float
    wall: float
    megabytes: float


def ran(url: str, command: str) -> Figures:
    """Run a command on a ledger in a process of its own.

    Raises:
        RuntimeError: the command failed.
    """
    began = time.perf_counter()
    called = [sys.executable, "-c", PROGRAM, "--db", url, *command.split()]
    process = subprocess.run(called, check=False, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    wall = time.perf_counter() - began
    *_, last = process.stderr.splitlines() or [""]
    if not last.startswith("["):
        raise RuntimeError(f"{command}: {process.stderr[-2_000:]}")
    cpu, megabytes, code = json.loads(last)
    if code not in {0, 1}:  # 1: found problems
        raise RuntimeError(f"{command} ended with {code}: {process.stderr[-2_000:]}")
    return Figures(cpu, wall, megabytes)


def appended(urls: list[str], sizes: list[int], appends: int) -> list[list[tuple[float, float]]]:
    """Append to conversations of each ledger in turn; return (wall, CPU) seconds. Runs in a separate process."""
    ledgers = [threadledger.open(url, threads="none") for url in urls]
    numbers = [iter(Random(3).sample(range(1, size + 1), appends)) for size in sizes]
    taken: list[list[tuple[float, float]]] = [[] for _ in urls]
    for _ in range(appends):
        for i, ledger in enumerate(ledgers):
            chat = ledger.conversation(key_of(next(numbers[i])))
            taken[i].append(once(lambda chat=chat: chat.append("user", "Where is my parcel? " * 10)))
    for ledger in ledgers:
        ledger.close()
    return taken


LOG = ("events", "streams", "idempotency_keys", "addresses")
"""Tables of the log; all others hold views and notes, which can be built again."""

PARTS_ON_SERVER = """SELECT relname, pg_table_size(relid), pg_indexes_size(relid) FROM pg_statio_user_tables"""
PARTS_IN_FILE = """SELECT m.tbl_name, coalesce(sum(s.pgsize) FILTER (WHERE m.type = 'table'), 0),
    coalesce(sum(s.pgsize) FILTER (WHERE m.type = 'index'), 0)
    FROM dbstat('main', 1) AS s JOIN sqlite_master AS m ON m.name = s.name GROUP BY m.tbl_name"""


def stored_bytes(url: str) -> dict[str, int]:
    """Return the bytes of the log's rows, of its indexes, and of the views with theirs."""
    if url.startswith("postgres"):
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            rows = connection.execute(PARTS_ON_SERVER).fetchall()
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            rows = file.execute(PARTS_IN_FILE).fetchall()
    log = [row for row in rows if row[0] in LOG]
    views = sum(table + indexes for name, table, indexes in rows if name not in LOG)
    return {"log": sum(row[1] for row in log), "indexes of the log": sum(row[2] for row in log), "views": int(views)}


class Bench:
    """Measure appends and commands on two ledgers: the small and the large one."""

    def __init__(self, table: Table, urls: list[str], sizes: list[int], on_server: bool) -> None:
        self.table, self.urls, self.sizes, self.on_server = table, urls, sizes, on_server

    def appends(self) -> None:
        """Compare appends to conversations that were not used before."""
        small, large = apart(appended, self.urls, self.sizes, min(2_000, *self.sizes))
        for name, percent in (("median", 50), ("99th percentile", 99)):
            times = [statistics.quantiles([wall for wall, _ in each], n=100)[percent - 1] for each in (large, small)]
            self.table.compared(f"append, wall, {name}", *(t * 1_000 for t in times), "ms", at_most=FLAT_LIMIT)
        times = [statistics.median(cpu for _, cpu in each) for each in (large, small)]
        self.table.compared("append, CPU, median", *(t * 1_000 for t in times), "ms", at_most=FLAT_LIMIT)

    def disk(self) -> None:
        """Compare what a conversation takes on disk, after the commands have built the views."""
        taken = [stored_bytes(url) for url in self.urls]
        for part in taken[0]:
            small, large = (each[part] / size / 1_024 for each, size in zip(taken, self.sizes, strict=True))
            self.table.compared(f"disk, {part}", large, small, "KiB a conversation", at_most=FLAT_LIMIT)

    def commands(self, rounds: int) -> None:
        """Compare commands."""
        figure = "wall" if self.on_server else "cpu"
        for name, command in COMMANDS.items():
            taken = [[ran(url, command) for url in self.urls] for _ in range(rounds)]
            first, *warm = taken
            parts = [size if name == "rebuild" else 1 for size in self.sizes]
            small, large = (statistics.median(getattr(each[i], figure) for each in warm) / parts[i] for i in (0, 1))
            unit = "ms a conversation" if name == "rebuild" else "ms"
            self.table.compared(name, large * 1_000, small * 1_000, unit, at_most=FLAT_LIMIT)
            self.table.value("  first", getattr(first[1], figure), "s", floor=f"{getattr(first[0], figure):.3g} s")
            peaks = [max(each[i].megabytes for each in taken) for i in (1, 0)]
            self.table.value("  peak memory", peaks[0], "MB", at_most=MEMORY_LIMIT_MB, floor=f"{peaks[1]:.3g} MB")


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--conversations", nargs=2, type=int, default=[10_000, 200_000], metavar="N")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="how often each command runs")
    parser.add_argument("--postgres", metavar="URL", help="use new databases of this server instead of SQLite")
    args = parser.parse_args()
    sizes = [200, 2_000] if args.quick else args.conversations
    places = Places(args.disk, args.postgres)
    try:
        urls = [places.new().replace("+psycopg", "") for _ in sizes]
        for url, size in zip(urls, sizes, strict=True):
            began = time.perf_counter()
            events = apart(fill, url, size)
            print(f"{size:,} conversations with {events:,} events in {time.perf_counter() - began:.0f} s", flush=True)
        table = Table(args.markdown, floor=f"{sizes[0]:,}")
        bench = Bench(table, urls, sizes, args.postgres is not None)
        bench.appends()
        bench.commands(3 if args.quick else args.rounds)
        bench.disk()
    finally:
        places.close()
    return 1 if table.missed and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
