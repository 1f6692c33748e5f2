"""A session of the Agents SDK costs the same however long it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import threadledger
from threadledger.contrib.agents import Session

from .metering import Cost, Meter, growth

SMALL, LARGE = 300, 3_000
TURN = [
    {"role": "user", "content": "Where is it?"},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "in Lyon"},
    {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "In Lyon."}]},
]
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "in Lyon"}

CALLS: dict[str, Callable[[Session], Any]] = {
    "get_items": lambda session: asyncio.run(session.get_items(10)),
    "get_items of nothing new": lambda session: asyncio.run(session.get_items(1)),
    "add_items": lambda session: [asyncio.run(session.add_items([RESULT]))],
    "pop_item": lambda session: [asyncio.run(session.pop_item())],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Cost, int]]]:
    found = []
    for size in (SMALL, LARGE):
        meter, costs = Meter(), dict[str, tuple[Cost, int]]()
        with (
            meter.installed(),
            threadledger.open(tmp_path_factory.mktemp("sessions") / "s.db", threads="none") as ledger,
        ):
            session = Session("k", ledger)
            asyncio.run(session.add_items(TURN * (size // len(TURN))))
            for name, call in CALLS.items():
                call(session)
                cost, result = meter.measure(partial(call, session))
                costs[name] = cost, len(result)
                assert meter.scans() == set()
        found.append(costs)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_call_costs_the_same_in_a_long_session(name: str, measured: list[dict[str, tuple[Cost, int]]]) -> None:
    small, large = (each[name] for each in measured)
    in_event_loops = {"calls"}  # how often they look depends on time
    assert growth(*small, *large).keys() - in_event_loops == set()
