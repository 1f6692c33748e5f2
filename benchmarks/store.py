"""Compare the store with a hand-written one and with eventsourcing's own recorders, in pairs.

Each sample of threadledger is paired with the same work on the floor (the hand-written store), on a separate database.
Ratios are comparable between machines; times are not.

python benchmarks/store.py [--quick] [--only append] [--postgres URL] [--synchronous NORMAL] [--disk DIR]

The floor is minimal code written by hand. Appends insert the prepared rows of one exchange (question, run started, run
completed, answer; our columns, one index by conversation); reads use a table of plain messages. Without `--disk` the
databases are in the temporary directory. If that directory is in memory, fsync costs nothing, so name a directory on a
real disk. With `--postgres` the user in the URL must be allowed to create databases; they are dropped at the end. A
full run writes about 3 GB. The column "library" is the ratio of eventsourcing to the floor; its SQLite recorder always
runs with `synchronous` FULL.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from stores import EXCHANGES, Hand, HandOnPostgres, Library, Ours, Places, Store, make_exchanges

THREADS = 8

FOLD_AIM = 150_000
"""Minimum rate of reading the whole log, in events per second."""


class Sample(NamedTuple):
    wall: float
    cpu: float


def measured(works: Sequence[Callable[[int], object]], samples: int) -> list[list[Sample]]:
    """Run each function `samples` times, alternating; a first warm-up round is not counted."""
    taken: list[list[Sample]] = [[] for _ in works]
    for number in range(samples + 1):
        # Alternate which one runs first, so that neither always benefits from caches filled by the other.
        order = list(range(len(works)))
        if number % 2:
            order[:2] = reversed(order[:2])
        for index in order:
            wall, cpu = time.perf_counter(), time.process_time()
            works[index](number)
            taken[index].append(Sample(time.perf_counter() - wall, time.process_time() - cpu))
    return [each[1:] for each in taken]


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

    def run(self, only: str | None) -> None:
        print(f"{'':57} {'ours':>11} {'floor':>11}   {'ratio (range)':22} {'library':>7}  aim")
        for name in ("append", "growth", "memory", "last", "fold", "threads", "disk"):
            if only is None or only == name:
                getattr(self, name)()

    def append(self) -> None:
        """Measure appending one exchange in one commit."""
        batch = 5 if self.quick else 20
        for in_memory in [False] if self.places.postgres else [True, False]:
            stores = self.stores(in_memory)
            works = [lambda number, store=store: self._exchanges(store, number * batch, batch) for store in stores]
            taken = measured(works, self.samples)
            if in_memory:
                self.row("append an exchange, CPU, no fsync", taken, "cpu", aim=2.0, per=batch)
            elif self.places.postgres:
                self.row("append an exchange, wall", taken, "wall", aim=1.5, per=batch)
            else:
                self.row(f"append an exchange, wall, {self.synchronous}", taken, "wall", aim=1.15, per=batch)
                self.row(f"append an exchange, CPU, {self.synchronous}", taken, "cpu", per=batch)
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
        self.row(f"append, {label}", taken, self.figure, aim=1.1, per=batch)
        filling.close()
        for what in ("append", "state"):
            fresh: list[list[Sample]] = [[], []]
            for number in range(self.samples):
                for index in (0, 1) if number % 2 else (1, 0):
                    ledger = Ours(url, self.synchronous)  # a new ledger has empty caches
                    work = (
                        (lambda _, c=index + 1, of=ledger: of.exchange(c, 0))
                        if what == "append"
                        else (lambda _, c=index + 1, of=ledger: of.state(c))
                    )
                    fresh[index].append(once(work))
                    ledger.close()
            self.row(f"cold {what}, {label}", fresh, self.figure, aim=1.1)

    def memory(self) -> None:
        """Measure loading all messages in the form that a model is shown."""
        sizes = [10, 100, 1_000] if self.quick else [10, 100, 1_000, 10_000]
        stores = self.stores()
        for store in stores:
            for size in sizes:
                store.fill_messages(size, size)
        stores[0].fill(1, 500)
        for size in sizes:
            taken = measured([lambda _, each=each, size=size: each.load(size) for each in stores], self.samples)
            self.row(f"memory of {size:,} messages", taken, self.figure, aim=1.5 if size == 1_000 else None)
        works = [lambda _: stores[0].load(1), lambda _: stores[1].load(1_000)]
        taken = measured(works, self.samples)
        self.row("memory of 1,000 messages, with runs between", taken, self.figure)
        close(stores)

    def last(self) -> None:
        """Measure loading the newest messages; the cost must not depend on the number of older ones."""
        stores, sizes = self.stores(), [100, 1_000] if self.quick else [100, 10_000]
        for store in stores:
            for size in sizes:
                store.fill_messages(size, size)
        for size in sizes:
            taken = measured(
                [lambda _, each=each, size=size: [each.load(size, last=20) for _ in range(10)] for each in stores],
                self.samples,
            )
            self.row(f"last 20 of {size:,} messages", taken, self.figure, aim=2.0, per=10)
        works = [lambda _, size=size: [stores[0].load(size, last=20) for _ in range(10)] for size in reversed(sizes)]
        self.row(
            f"last 20 of {sizes[1]:,}, against of {sizes[0]}",
            measured(works, self.samples),
            self.figure,
            aim=1.1,
            per=10,
        )
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
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    count, seconds, growth = pool.submit(folded, kind, url, self.synchronous).result()
                rates[i].append(count / seconds)
                grown[i] = max(grown[i], growth)
        self.rates(f"fold over {self.fold_events:,} events, events/s", *rates)
        met = "" if statistics.median(rates[0]) >= FOLD_AIM else " (missed)"
        print(f"{'':114}aim: ≥ {FOLD_AIM:,} per second{met}")
        print(f"{'  memory grown by, MB':57} {grown[0]:11.1f} {grown[1]:11.1f}   {'':22} {grown[2]:7.1f}  flat")

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
            self.rates(f"{THREADS} threads, {where}, exchanges/s", rates[0], rates[1], rates[3], aim=1.0)
            self.rates("  the floor on one connection, its threads taking turns", rates[0], rates[2], [])
            close([*stores, *hands[1:]])

    def disk(self) -> None:
        """Compare bytes on disk for the same exchanges with a table of plain messages; threadledger also stores runs."""
        conversations, each = (4, 25) if self.quick else (20, 100)
        *stores, text = [*self.stores(), self.hand(url := self.places.new(), self.synchronous)]
        for conversation in range(1, conversations + 1):
            text.fill_messages(conversation, each * 2)
            for number in range(each):
                for store in stores:
                    store.exchange(conversation, number)
        close([*stores, text])
        taken = [self.places.bytes_of(self.urls[store]) / (conversations * each * 2) for store in stores]
        floors = [("messages alone", self.places.bytes_of(url) / (conversations * each * 2), 1.3)]
        for name, floor, aim in [*floors, ("the same rows", taken[1], None)]:
            ratio, library = taken[0] / floor, [size / floor for size in taken[2:]]
            print(
                f"{f'disk, bytes a message; floor: {name}':57} {taken[0]:11,.0f} {floor:11,.0f}   {f'{ratio:5.2f}':22} "
                f"{median_or_nothing(library)}  {verdict(ratio, aim)}"
            )

    def stores(self, in_memory: bool = False) -> list[Store]:
        """Create the stores in column order: threadledger, the floor, and the library if it is usable."""
        stores = []
        for kind in self.kinds:
            url = self.places.new(in_memory)
            stores.append(kind(url, self.synchronous))
            self.urls[stores[-1]] = url
        return stores

    def row(self, name: str, taken: list[list[Sample]], figure: str, aim: float | None = None, per: int = 1) -> None:
        """Print the medians, and the median and range of the ratios within pairs."""
        times = [[getattr(sample, figure) / per for sample in each] for each in taken]
        ratios = sorted(ours / floor for ours, floor in zip(times[0], times[1], strict=True))
        middle = statistics.median(ratios)
        library = [mine / floor for mine, floor in zip(times[2], times[1], strict=True)] if len(times) > 2 else []
        print(
            f"{name:57} {milliseconds(times[0])} {milliseconds(times[1])}   {spread(ratios):22} "
            f"{median_or_nothing(library)}  {verdict(middle, aim)}",
            flush=True,
        )

    def rates(
        self, name: str, ours: list[float], floor: list[float], library: list[float], aim: float | None = None
    ) -> None:
        ratios = sorted(mine / theirs for mine, theirs in zip(ours, floor, strict=True))
        theirs = [mine / floors for mine, floors in zip(library, floor, strict=False)]
        print(
            f"{name:57} {statistics.median(ours):11,.0f} {statistics.median(floor):11,.0f}   {spread(ratios):22} "
            f"{median_or_nothing(theirs)}  {verdict(statistics.median(ratios), aim, more_is_better=True)}",
            flush=True,
        )

    @staticmethod
    def _exchanges(store: Store, first: int, count: int, conversation: int = 1) -> None:
        for number in range(first, first + count):
            store.exchange(conversation, number)


def folded(kind: type[Any], url: str, synchronous: str) -> tuple[int, float, float]:
    """Read all events; return (events, seconds, growth of peak memory in megabytes). Runs in a separate process."""
    store = kind(url, synchronous)
    for _ in islice(store.events(), 2_000):  # exclude modules loaded on first use
        pass
    before, began = peak_megabytes(), time.perf_counter()
    counts = Counter(store.events())
    took = time.perf_counter() - began
    store.close()
    return sum(counts.values()), took, peak_megabytes() - before


def peak_megabytes() -> float:
    """Return the peak memory of this process; Linux inherits `ru_maxrss` from the parent, so VmHWM is read instead."""
    with suppress(OSError):
        return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def once(work: Callable[[int], object]) -> Sample:
    wall, cpu = time.perf_counter(), time.process_time()
    work(0)
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


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


def milliseconds(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1000:8.3f} ms"


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def median_or_nothing(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):7.2f}" if ratios else f"{'–':>7}"


def verdict(ratio: float, aim: float | None, more_is_better: bool = False) -> str:
    if aim is None:
        return ""
    met = ratio >= aim if more_is_better else ratio <= aim
    return f"{'≥' if more_is_better else '≤'} {aim:g}{'' if met else ' (missed)'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use small sizes and few samples, as a smoke test")
    parser.add_argument("--only", choices=["append", "growth", "memory", "last", "fold", "threads", "disk"])
    parser.add_argument("--postgres", metavar="URL", help="measure on PostgreSQL, compared with psycopg")
    parser.add_argument(
        "--synchronous", choices=["FULL", "NORMAL"], default="FULL", help="SQLite durability of both stores"
    )
    parser.add_argument("--disk", metavar="DIR", help="directory of the databases")
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
