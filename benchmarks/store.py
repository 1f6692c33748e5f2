"""Compare the store with a hand-written one and with eventsourcing's own recorders, in pairs.

Each sample of threadledger is paired with the same work on the floor (the hand-written store), on a separate database.
Ratios are comparable between machines; times are not.

python benchmarks/store.py [--quick] [--only append] [--postgres URL] [--synchronous NORMAL] [--disk DIR]

The floor is minimal code written by hand: a table of plain messages with one index by conversation, which checks nothing.
threadledger checks every row that it reads against its leaf hash. For the rows "an exchange", the floor inserts the
prepared rows of one exchange instead (question, run started, run completed, answer; our columns). Without `--disk` the
databases are in the temporary directory. If that directory is in memory, fsync costs nothing, so name a directory on a
real disk. With `--postgres` the user in the URL must be allowed to create databases; they are dropped at the end. A
full run writes about 3 GB. The column "library" is the ratio of eventsourcing to the floor; its SQLite recorder always
runs with `synchronous` FULL.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any

from figures import Sample, Table, apart, arguments, measured, once, peak_megabytes
from stores import CYRILLIC, EXCHANGES, LATIN, Hand, HandOnPostgres, Library, Ours, Places, Store, make_exchanges, texts

THREADS = 8

FOLD_LIMIT = 300_000
"""Minimum rate of reading the whole log, in events a second of CPU time."""

FOLD_GROWTH_MB = 10
"""Maximum growth of memory while the log is read, in megabytes."""

MEMORY_LIMITS = {320: 2.8, 1_700: 2.2}
"""Maximum ratio of loading a memory of 1,000 or 10,000 messages, by characters a message."""

LAST_LIMIT = 4.0
"""Maximum ratio of loading the last 20 of 10,000 messages."""

DISK_LIMITS = {"English": (LATIN, 1.12), "Russian": (CYRILLIC, 1.15)}
"""Letters, and the maximum ratio of bytes on disk."""


class Bench:
    """Measure and print the rows of the table."""

    def __init__(self, args: argparse.Namespace, places: Places) -> None:
        self.places = places
        self.quick = args.quick
        self.synchronous = args.synchronous
        self.samples = 8 if args.quick else 30
        self.fold_events = args.events or (50_000 if args.quick else 1_000_000)
        self.hand = HandOnPostgres if args.postgres else Hand
        # eventsourcing requires psycopg_pool on PostgreSQL; without it, its column is empty.
        library = not args.postgres or find_spec("psycopg_pool") is not None
        self.kinds: tuple[Any, ...] = (Ours, self.hand, Library) if library else (Ours, self.hand)
        self.urls: dict[Store, str] = {}
        # The client's CPU time excludes the server's work, so with a server wall time is measured.
        self.figure = "wall" if args.postgres else "cpu"
        self.table = Table(args.markdown, other="library")

    def run(self, only: str | None) -> None:
        for name in PARTS:
            if only is None or only == name:
                getattr(self, name)()

    def append(self) -> None:
        """Measure appending two messages, or one exchange, in one commit."""
        batch = 5 if self.quick else 20
        said = texts(400)

        def say(store: Store, first: int) -> None:
            for number in range(first, first + batch):
                at = 2 * number % len(said)
                store.say(1, said[at : at + 2])

        for in_memory in [False] if self.places.postgres else [True, False]:
            for what, work in (("2 messages", say), ("an exchange", lambda store, n: self._exchanges(store, n, batch))):
                stores = self.stores(in_memory)
                taken = measured(
                    [lambda n, work=work, store=store: work(store, n * batch) for store in stores], self.samples
                )
                limited = what == "2 messages"
                if in_memory:
                    self.row(f"append {what}, CPU, no fsync", taken, "cpu", 2.5 if limited else None, batch)
                elif self.places.postgres:
                    self.row(f"append {what}, wall", taken, "wall", 1.25 if limited else None, batch)
                    self.row(f"append {what}, CPU of the client", taken, "cpu", 1.6 if limited else None, batch)
                else:
                    self.row(
                        f"append {what}, wall, {self.synchronous}", taken, "wall", 1.15 if limited else None, batch
                    )
                close(stores)

    def growth(self) -> None:
        """Compare a long conversation with a short one in the same store; both columns are threadledger."""
        long, url = 5_000 if self.quick else 50_000, self.places.new()
        filling = Ours(url, self.synchronous)
        filling.fill(1, long)
        filling.fill(2, 5)
        label = f"{long * 2:,} messages against 10"
        batch = 5 if self.quick else 20
        taken = measured([lambda number, i=i: self._exchanges(filling, number, batch, i) for i in (1, 2)], self.samples)
        self.row(f"append an exchange, {label}", taken, self.figure, 1.1, batch)
        filling.close()
        for what in ("append", "state"):
            fresh: list[list[Sample]] = [[], []]
            for number in range(self.samples):
                for index in (0, 1) if number % 2 else (1, 0):
                    ledger = Ours(url, self.synchronous)  # a new ledger has empty caches
                    work = (
                        (lambda c=index + 1, of=ledger: of.exchange(c, 0))
                        if what == "append"
                        else (lambda c=index + 1, of=ledger: of.state(c))
                    )
                    fresh[index].append(once(work))
                    ledger.close()
            self.row(f"cold {what}, {label}", fresh, self.figure, 1.1)

    def memory(self) -> None:
        """Measure loading all messages in the form that a model is shown."""
        sizes = [100, 1_000] if self.quick else [1_000, 10_000]
        for characters, limit in MEMORY_LIMITS.items():
            stores = self.stores()
            for store in stores:
                for size in sizes:
                    store.fill_messages(size, texts(size, characters=characters))
            for size in sizes:
                taken = measured([lambda _, each=each, size=size: each.load(size) for each in stores], self.samples)
                self.row(
                    f"memory of {size:,} messages of {characters:,} characters",
                    taken,
                    self.figure,
                    self.unless_on_server(limit),
                )
            close(stores)
        ours, floor, *others = self.stores()
        ours.fill(1, 500)
        floor.fill_messages(1, texts(1_000))
        taken = measured([lambda _: ours.load(1), lambda _: floor.load(1)], self.samples)
        self.row("memory of 1,000 messages, with runs between", taken, self.figure)
        close([ours, floor, *others])

    def last(self) -> None:
        """Measure loading the newest messages; the cost must not depend on the number of older ones."""
        stores, sizes = self.stores(), [100, 1_000] if self.quick else [100, 10_000]
        for store in stores:
            for size in sizes:
                store.fill_messages(size, texts(size))
        for size in sizes:
            taken = measured(
                [lambda _, each=each, size=size: [each.load(size, last=20) for _ in range(10)] for each in stores],
                self.samples,
            )
            self.row(f"last 20 of {size:,} messages", taken, self.figure, self.unless_on_server(LAST_LIMIT), 10)
        works = [lambda _, size=size: [stores[0].load(size, last=20) for _ in range(10)] for size in reversed(sizes)]
        self.row(f"last 20 of {sizes[1]:,}, against of {sizes[0]}", measured(works, self.samples), self.figure, 1.1, 10)
        close(stores)

    def fold(self) -> None:
        """Measure reading every event of the log once; each pass runs in a separate process to isolate its memory."""
        urls = []
        for kind in self.kinds:
            # The library is slow to fill, and its rate does not depend on the number of events.
            exchanges = self.fold_events // (400 if kind is not Library else 4_000)
            urls.append(self.places.new())
            store = kind(urls[-1], self.synchronous)
            for conversation in range(1, 101):
                store.fill(conversation, exchanges)
            store.close()
        rates: list[list[float]] = [[], [], []]
        grown = [0.0, 0.0, 0.0]
        for _ in range(3):
            for i, (kind, url) in enumerate(zip(self.kinds, urls, strict=True)):
                count, seconds, growth = apart(folded, kind, url, self.synchronous)
                rates[i].append(count / seconds)
                grown[i] = max(grown[i], growth)
        name, floor = f"fold over {self.fold_events:,} events, CPU", f"{statistics.median(rates[1]):,.0f}/s"
        self.table.value(name, rates[0], "events/s", at_least=FOLD_LIMIT, floor=floor)
        self.table.value("  memory grown by", grown[0], "MB", at_most=FOLD_GROWTH_MB, floor=f"{grown[1]:.1f} MB")

    def threads(self) -> None:
        """Measure exchanges per second with eight threads; the floor has one connection per thread."""
        count = 10 if self.quick else 50
        cases = [("one conversation", [1] * THREADS), (f"{THREADS} conversations", list(range(1, THREADS + 1)))]
        for where, numbers in cases:
            stores = self.stores()
            hands = [stores[1], *(self.hand(self.urls[stores[1]], self.synchronous) for _ in range(THREADS - 1))]
            alone = in_turns(hands[0].exchange)
            rates: list[list[float]] = [[], [], [], []]
            for _ in range(self.samples // 2):
                rates[0].append(rate([stores[0].exchange] * THREADS, numbers, count))
                rates[1].append(rate([hand.exchange for hand in hands], numbers, count))
                rates[2].append(rate([alone] * THREADS, numbers, count))
                if Library in self.kinds and numbers[0] != numbers[1]:  # aggregates are not thread-safe
                    rates[3].append(rate([stores[2].exchange] * THREADS, numbers, count))
            limit = 3.0 if where == "one conversation" else 1.0
            self.table.rates(f"{THREADS} threads, {where}, exchanges", rates[0], rates[1], rates[3], limit)
            self.table.rates("  the floor on one connection, its threads taking turns", rates[0], rates[2])
            close([*stores, *hands[1:]])

    def disk(self) -> None:
        """Compare bytes on disk for the same messages, and for the same exchanges; threadledger also stores their runs."""
        conversations, each = (4, 50) if self.quick else (20, 200)
        for language, (letters, limit) in DISK_LIMITS.items():
            stores = self.stores()
            for store in stores:
                for conversation in range(1, conversations + 1):
                    store.fill_messages(conversation, texts(each, letters))
            self._sizes(f"disk, a message in {language}", stores, conversations * each, self.unless_on_server(limit))
        stores = self.stores()
        for store in stores:
            for conversation in range(1, conversations + 1):
                store.fill(conversation, each // 2)
        self._sizes("disk, a message of an exchange; floor: the same rows", stores, conversations * each)

    def _sizes(self, name: str, stores: Sequence[Store], messages: int, limit: float | None = None) -> None:
        close(stores)
        ours, floor, *others = [self.places.bytes_of(self.urls[store]) / messages for store in stores]
        self.table.compared(name, ours, floor, "B", others, limit)

    def stores(self, in_memory: bool = False) -> list[Store]:
        """Create the stores in column order: threadledger, the floor, and the library if it is usable."""
        stores = []
        for kind in self.kinds:
            url = self.places.new(in_memory)
            stores.append(kind(url, self.synchronous))
            self.urls[stores[-1]] = url
        return stores

    def row(
        self, name: str, taken: list[list[Sample]], figure: str, at_most: float | None = None, per: int = 1
    ) -> None:
        self.table.pairs(name, taken, figure, at_most, per)

    def unless_on_server(self, limit: float) -> float | None:
        """Return a limit that holds on SQLite, where a read is no round trip; a server has none."""
        return None if self.places.postgres else limit

    @staticmethod
    def _exchanges(store: Store, first: int, count: int, conversation: int = 1) -> None:
        for number in range(first, first + count):
            store.exchange(conversation, number)


def folded(kind: type[Any], url: str, synchronous: str) -> tuple[int, float, float]:
    """Read all events; return (events, CPU seconds, growth of peak memory in megabytes). Runs in a separate process."""
    store = kind(url, synchronous)
    for _ in islice(store.events(), 2_000):  # exclude modules loaded on first use
        pass
    before, began = peak_megabytes(), time.process_time()
    counts = Counter(store.events())
    took = time.process_time() - began
    store.close()
    return sum(counts.values()), took, peak_megabytes() - before


def rate(works: Sequence[Callable[[int, int], object]], numbers: Iterable[int], count: int) -> float:
    """Return exchanges per second with one thread per function, each on its own conversation."""
    start = threading.Barrier(len(works) + 1)

    def run(work: Callable[[int, int], object], conversation: int) -> None:
        start.wait()
        for number in range(count):
            work(conversation, number)

    running = [threading.Thread(target=run, args=each) for each in zip(works, numbers, strict=True)]
    for thread in running:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    return len(works) * count / (time.perf_counter() - began)


def in_turns(work: Callable[[int, int], object]) -> Callable[[int, int], None]:
    turns = threading.Lock()

    def alone(conversation: int, number: int) -> None:
        with turns:
            work(conversation, number)

    return alone


def close(stores: Iterable[Store]) -> None:
    for store in stores:
        store.close()


PARTS = ("append", "growth", "memory", "last", "fold", "threads", "disk")


def main() -> None:
    parser = arguments(__doc__, PARTS)
    parser.add_argument("--postgres", metavar="URL", help="measure on PostgreSQL, compared with psycopg")
    parser.add_argument(
        "--synchronous", choices=["FULL", "NORMAL"], default="FULL", help="SQLite durability of both stores"
    )
    parser.add_argument("--events", type=int, metavar="N", help="number of events in the fold benchmark")
    args = parser.parse_args()
    EXCHANGES.extend(make_exchanges())
    places = Places(args.disk, args.postgres)
    try:
        Bench(args, places).run(args.only)
    finally:
        places.close()


if __name__ == "__main__":
    main()
