"""No call and no command costs more as a ledger grows, except for each of its results.

Counted are SQL statements, steps of SQLite's virtual machine, and calls in Python: no clock is read. Steps do not see a
`count(*)`, so the plan of each statement is read too: none scans a table that grows. What still grows is in `known.py`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from threadledger.domain import ledger as ledger_room
from threadledger.domain.ledger import AsyncChat, AsyncLedger, Chat, Ledger
from threadledger.domain.ledger.api_keys import ApiKeys
from threadledger.domain.ledger.audit import FailureGroups
from threadledger.domain.ledger.awaited import AsyncReplay
from threadledger.domain.memory import Memory
from threadledger.domain.replay import Replay

from .calls import (
    AWAITED,
    BOTH,
    CALLS,
    CONVERSATIONS,
    EXCEPTIONS,
    FIRST,
    Call,
    Place,
    name_of,
    public_names,
    results_of,
)
from .commands import COMMANDS, READING
from .conftest import (
    FEW,
    FIVE_THOUSAND,
    MOST,
    TEN,
    THOUSAND,
    TWICE_FEW,
    TWO_THOUSAND,
    WITH_THREADS,
    WITHOUT_THREADS,
    Places,
)
from .known import KNOWN, SCANS_BY_NATURE
from .metering import RATIO_MAX, Cost, growth

TABLES = {"": CALLS, "first ": FIRST, "threadledger ": COMMANDS}
"""All calls, by what is put before their names."""

CASES = [
    (f"{begin}{name}", axis)
    for begin, table in TABLES.items()
    for name, call in table.items()
    for axis in sorted(call.axes)
]

AWAITED_CASES = [(name, axis) for name in AWAITED for axis in sorted(BOTH)]

CHANGED = 4.0
"""Times by which a known growth may differ from the table before the table must be changed."""


def call_of(name: str) -> Call:
    return next(
        table[name.removeprefix(begin)]
        for begin, table in TABLES.items()
        if name.startswith(begin) and name.removeprefix(begin) in table
    )


def sizes(call: Call, axis: str, *, known: bool) -> tuple[int, int]:
    """Return the sizes to compare. A call that works on everything, or is known to grow, is not made on the largest."""
    if axis in call.whole_on:
        return (FEW, TWICE_FEW) if call.brief else (THOUSAND, TWO_THOUSAND)
    small = THOUSAND if axis == CONVERSATIONS or call.paged or call.branches or call.searches else TEN
    if known or call.searches:
        return small, FIVE_THOUSAND if small == THOUSAND else TWO_THOUSAND
    return small, MOST


class Measured:
    """Hold the costs of one call on a small and on a large ledger."""

    def __init__(self) -> None:
        self.costs: list[tuple[Cost, int]] = []
        """Cost and number of results."""
        self.scans: set[tuple[str, str]] = set()
        """Tables that were scanned, with the statements."""

    @property
    def scanned(self) -> set[str]:
        return {table for table, _ in self.scans}

    def growth(self) -> dict[str, float]:
        return growth(*self.costs[0], *self.costs[1])

    def __str__(self) -> str:
        counted = ", then ".join(f"{cost} for {rows} results" for cost, rows in self.costs)
        return "\n".join([f"grows by {self.growth()}: {counted}", *(f"scans {each}" for each in sorted(self.scans))])


def measure(places: Places, name: str, axis: str, call: Call, *, known: bool) -> Measured:
    """Measure a call on two ledgers.

    What only a first call does (a statement is prepared, a view is a little behind) is not counted.
    """
    found, is_first = Measured(), name.startswith("first ")
    threads = WITH_THREADS if call.threads else WITHOUT_THREADS
    is_whole = is_first or axis in call.whole_on
    for size in sizes(call, axis, known=known):
        with places.meter.installed():
            place = (
                places.fresh(axis, size)
                if is_first
                else places.place(axis, size, changes=call.changes, threads=threads)
            )
            if not is_whole:
                call.do(call.given(place))
            cost, results = places.meter.measure(partial(_results, call, call.given(place)))
            found.scans |= places.meter.scans()
            if not is_whole and not known:  # once more, without what happens now and then, such as a cache that is full
                cost = cost.least(places.meter.measure(partial(_results, call, call.given(place)))[0])
            found.costs.append((cost, call.per(place) if call.per is not None and is_whole else results))
            if is_first:
                place.ledger.close()
    return found


def _results(call: Call, given: Any) -> int:
    return results_of(call.do(given))


@pytest.fixture
def settings(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the commands."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", places.provider.base_url)
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "chat")


@pytest.mark.parametrize(("name", "axis"), CASES)
@pytest.mark.usefixtures("settings")
def test_it_costs_no_more_in_a_larger_ledger(name: str, axis: str, places: Places) -> None:
    known = KNOWN.get((name, axis))
    found = measure(places, name, axis, call_of(name), known=known is not None)
    grown, scanned = found.growth(), found.scanned - SCANS_BY_NATURE.get(name, frozenset())
    if known is None:
        assert (grown, scanned) == ({}, set()), f"{name} on {axis} {found}"
        return
    better = [each for each, factor in known.factors.items() if grown.get(each, 0.0) < factor / CHANGED]
    assert not better, f"{name} on {axis} got better ({better}): say so in known.py; it {found}"
    worse = [each for each, factor in grown.items() if factor > known.factors.get(each, RATIO_MAX) * CHANGED]
    assert not worse, f"{name} on {axis} got worse ({worse}) than in known.py; it {found}"
    assert scanned == known.scans, f"{name} on {axis} scans other tables than in known.py; it {found}"


@pytest.mark.parametrize(("name", "axis"), AWAITED_CASES)
def test_an_asynchronous_twin_costs_no_more_in_a_larger_ledger(name: str, axis: str, places: Places) -> None:
    """Calls in Python are not compared: they are made in several threads."""
    known = KNOWN.get((name, axis))
    branches = CALLS[name.removeprefix("Async")].branches if name.removeprefix("Async") in CALLS else False
    call = Call(lambda place: asyncio.run(_awaited(AWAITED[name], place)), writes=True, branches=branches)
    found = measure(places, name, axis, call, known=known is not None)
    grown = {metric for metric in found.growth() if metric != "calls"}
    assert (grown, found.scanned) == (set(known.factors) if known else set(), set()), f"{name} on {axis} {found}"


async def _awaited(call: Callable[[Any, Place], Any], place: Place) -> None:
    awaited = AsyncLedger(place.ledger)
    try:
        await call(awaited, place)
    finally:
        await awaited.driver.close()
        awaited._pool.shutdown()
        awaited._tools.shutdown()


def test_every_public_call_is_in_the_table_or_has_a_reason_not_to_be() -> None:
    functions = {each for each in ledger_room.__all__ if each not in {"AsyncChat", "AsyncLedger", "Chat", "Ledger"}}
    public = {*public_names(Ledger, Chat, Replay, Memory, FailureGroups, ApiKeys), *functions}
    assert public == {*map(name_of, CALLS), *(each for each in EXCEPTIONS if not each.startswith("Async"))}


def test_every_asynchronous_twin_written_for_itself_is_in_the_table_or_has_a_reason_not_to_be() -> None:
    written = {
        f"{face.__name__}.{name}"
        for face in (AsyncLedger, AsyncChat, AsyncReplay)
        for name, member in vars(face).items()
        if not name.startswith("_") and _is_written_in(face, member)
    }
    assert written == {*AWAITED, *(each for each in EXCEPTIONS if each.startswith("Async"))}


def _is_written_in(face: type, member: Any) -> bool:
    function = inspect.unwrap(member.fget if isinstance(member, property) else member)
    return bool(function.__qualname__.startswith(f"{face.__name__}."))


def test_every_reading_command_is_in_the_table() -> None:
    assert {tuple(word for word in name.split() if not word.startswith("-")) for name in COMMANDS} == READING


def test_every_known_growth_is_that_of_a_call() -> None:
    assert KNOWN.keys() <= {*CASES, *AWAITED_CASES}
    assert SCANS_BY_NATURE.keys() <= {name for name, _ in CASES}
