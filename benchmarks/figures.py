"""Measure work in pairs, and print the figures with their limits as a table, in plain text or Markdown."""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

COLUMNS = ("work", "ours", "floor", "ratio (range)", "other", "limit")
WIDTHS = (62, 16, 13, 26, 8, 18)
"""Widths of the columns in plain text, in characters."""


MEMORY_LIMIT_MB = 150
"""Maximum memory of a process, however large the ledger is, in megabytes."""


class Sample(NamedTuple):
    wall: float
    cpu: float


def once(work: Callable[[], object]) -> Sample:
    """Return the wall time and the CPU time of this process for one call, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def measured(works: Sequence[Callable[[int], object]], samples: int) -> list[list[Sample]]:
    """Call each function `samples` times with the number of the round, alternating; a first warm-up round is not counted."""
    taken: list[list[Sample]] = [[] for _ in works]
    for number in range(samples + 1):
        # Alternate which one runs first, so that neither always benefits from caches filled by the other.
        order = list(range(len(works)))
        if number % 2:
            order[:2] = reversed(order[:2])
        for index in order:
            taken[index].append(once(lambda index=index, number=number: works[index](number)))
    return [each[1:] for each in taken]


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a call in a new process, so that its memory and imports are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_megabytes() -> float:
    """Return the peak memory of this process; Linux inherits `ru_maxrss` from the parent, so VmHWM is read instead."""
    with suppress(OSError):
        return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class Table:
    """Print rows of figures as they are measured, and collect the names of those that miss their limit.

    Limits with `at_most` and `at_least` apply to the median ratio of `pairs` and `rates`, and to the value of `value`.
    `floor` and `other` name the second and the fifth column.
    """

    def __init__(self, markdown: bool, floor: str = "floor", other: str = "–") -> None:
        self.markdown = markdown
        self.missed: list[str] = []
        self._columns = tuple({"floor": floor, "other": other}.get(name, name) for name in COLUMNS)
        self._print(self._columns)
        if markdown:
            print("|" + "---|" * len(COLUMNS))

    def pairs(
        self, name: str, taken: Sequence[Sequence[Sample]], figure: str, at_most: float | None = None, per: int = 1
    ) -> float:
        """Print the medians, and the median and range of the ratios within pairs; return the median ratio.

        `figure` is `wall` or `cpu`; each sample consists of `per` operations. A third list of samples is the other column.
        """
        times = [[getattr(sample, figure) / per for sample in each] for each in taken]
        ours, floor = (f"{statistics.median(each) * 1000:,.3f} ms" for each in times[:2])
        ratios = _ratios(times[0], times[1])
        others = _ratios(times[2], times[1]) if len(times) > 2 else []
        return self._ratio(name, ours, floor, ratios, others, at_most, None)

    def added(
        self, name: str, taken: Sequence[Sequence[Sample]], figure: str, at_most: float | None = None, per: int = 1
    ) -> None:
        """Print the medians, and the median and range of the differences within pairs, in milliseconds."""
        ours, floor = ([getattr(sample, figure) / per * 1000 for sample in each] for each in taken)
        added = sorted(mine - theirs for mine, theirs in zip(ours, floor, strict=True))
        middle = statistics.median(added)
        spread = f"{middle:+.2f} ms ({added[0]:.2f} to {added[-1]:.2f})"
        middles = [f"{statistics.median(each):,.3f} ms" for each in (ours, floor)]
        self._print((name, *middles, spread, "", self._limit(name, middle, at_most, None)))

    def rates(
        self,
        name: str,
        ours: Sequence[float],
        floor: Sequence[float],
        other: Sequence[float] = (),
        at_least: float | None = None,
    ) -> None:
        """Print rates, of which more is better, and their ratios within pairs."""
        middles = [f"{statistics.median(each):,.0f}/s" for each in (ours, floor)]
        self._ratio(name, *middles, _ratios(ours, floor), _ratios(other, floor), None, at_least)

    def value(
        self,
        name: str,
        values: float | Sequence[float],
        unit: str,
        at_most: float | None = None,
        at_least: float | None = None,
        floor: str = "",
    ) -> None:
        """Print the median of absolute values, with their range if there are several."""
        each = sorted(values) if isinstance(values, Sequence) else [values]
        middle = statistics.median(each)
        spread = f"({_short(each[0])} to {_short(each[-1])})" if len(each) > 1 else ""
        limit = self._limit(name, middle, at_most, at_least)
        self._print((name, f"{_short(middle)} {unit}", floor, spread, "", limit))

    def compared(
        self,
        name: str,
        ours: float,
        floor: float,
        unit: str,
        others: Sequence[float] = (),
        at_most: float | None = None,
    ) -> None:
        """Print two values and their ratio."""
        values = [f"{_short(value)} {unit}" for value in (ours, floor)]
        self._ratio(name, *values, [ours / floor], [other / floor for other in others], at_most, None)

    def _ratio(
        self,
        name: str,
        ours: str,
        floor: str,
        ratios: Sequence[float],
        others: Sequence[float],
        at_most: float | None,
        at_least: float | None,
    ) -> float:
        middle = statistics.median(ratios)
        spread = f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else f"{middle:.2f}"
        limit = self._limit(name, middle, at_most, at_least)
        self._print((name, ours, floor, spread, f"{statistics.median(others):.2f}" if others else "", limit))
        return middle

    def _limit(self, name: str, value: float, at_most: float | None, at_least: float | None) -> str:
        is_met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        if not is_met:
            self.missed.append(name)
        limit = (
            f"≤ {_short(at_most)}" if at_most is not None else f"≥ {_short(at_least)}" if at_least is not None else ""
        )
        return limit if is_met else f"{limit} missed"

    def _print(self, cells: Sequence[str]) -> None:
        if self.markdown:
            print(f"| {' | '.join(cells)} |", flush=True)
            return
        name, *others = (f"{cell:{'' if i == 0 else '>'}{WIDTHS[i]}}" for i, cell in enumerate(cells))
        print(" ".join([name, *others]).rstrip(), flush=True)


def arguments(description: str | None, only: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use small sizes and few samples, as a smoke test")
    parser.add_argument("--disk", metavar="DIR", help="directory of the databases")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    if only:
        parser.add_argument("--only", choices=only)
    return parser


def _ratios(ours: Sequence[float], floor: Sequence[float]) -> list[float]:
    # Divide within pairs. The coarse clock of CPU time may show nothing at all for a very short floor.
    return sorted(mine / max(theirs, 1e-9) for mine, theirs in zip(ours, floor, strict=bool(ours)))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
