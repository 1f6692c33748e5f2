"""Test the export of failures: an exchange that failed on a simulator is exported, and the exported test passes unchanged.

It expects the same causes in the same order and the same answer. By default every kind of fault is tested once, on the
backends in rotation. To test all faults on every backend, at the question and at the tool outputs:

    THREADLEDGER_WHOLE_MATRIX=1 pytest tests/story/test_audit_export.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import Script, export_run, load_settings
from threadledger.adapters.simulator.faults import ACTIONS
from threadledger.domain.conversation import Profile
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange import recorded_answer
from threadledger.domain.ledger import Ledger

from .matrix import (
    ACTIVE,
    CHAT,
    EVERYWHERE,
    LOCKED,
    OF_MODELS,
    OF_STREAMS,
    OF_THREADS,
    OUTPUTS,
    RESPONSE,
    RESPONSES,
    RUN,
    RUNS,
    SETUPS,
    Action,
    Cell,
    faults_at,
    refusing,
)
from .playing import CALL, FIRST, SECOND, WEATHER, Waits, World

pytestmark = [
    # The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
    pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning"),
    pytest.mark.matrix,
]

RunExported = Callable[[Path], int]

WHOLE = not {"THREADLEDGER_SOAK", "THREADLEDGER_WHOLE_MATRIX"}.isdisjoint(os.environ)
BY_NAME = {setup.name: setup for setup in SETUPS}
ASKED = {"assistants": RUNS, "responses": RESPONSES, "chat": CHAT}

SAID: Mapping[str, Action] = {
    "no such assistant": refusing(404, message="No assistant found with id 'asst_abcdef0123456789'."),
    "instructions": refusing(400, param="instructions", code="string_above_max_length"),
    "too many tools": refusing(400, param="tools", message="Invalid 'tools': array too long."),
    "tool not supported": refusing(400, param="tools[0].type", message="Invalid value."),
    "too long": refusing(400, code="context_length_exceeded"),
    "filtered": refusing(400, code="content_policy_violation"),
    "no such model": refusing(404, code="model_not_found", message="The model `gpt-0` does not exist."),
}
"""Refusals whose cause is recognized by their message."""

CHAT_ALONE = {name for name in OF_STREAMS if name.startswith("error_event flat")}
"""Faults that Chat Completions streams do not have; their errors always come in an envelope."""


ALIKE = {
    *("refuse 403", "refuse 422", "refuse 503", "refuse 429 retry-after 1", "land_late 1", "land_late 2"),
    *("incomplete max_completion_tokens", "slow", "hang"),
}
"""Faults that an export treats as others here: they have the cause of another, and only a number or a word differs.

A 403 is played at the reading of a run, a hanging request at the tool outputs; one that is slow alone is no failure.
"""


def cases() -> Iterator[Cell]:
    """Yield each kind of fault once, on the backends in rotation, once or always; every third of those within streams."""
    names, often = cycle(ASKED), cycle((1, None))
    some = dict(list(OF_STREAMS.items())[::3])
    faults = {**EVERYWHERE, **OF_MODELS, **SAID, **some}
    for name, action in ((name, action) for name, action in faults.items() if name not in ALIKE):
        setup = next(each for each in names if fits(each, name, action))
        mode = "sync stream" if name in OF_STREAMS else "sync"
        times = 1 if "hang" in action or "slow" in action else next(often)
        yield Cell(BY_NAME[setup], ASKED[setup], name, action, 0, times, mode)
    for setup, route, faults in (
        ("assistants", RUNS, {**OF_THREADS, **ACTIVE}),
        ("responses", RESPONSES, {**OF_THREADS, **LOCKED}),
        ("assistants", OUTPUTS, {"refuse 400": refusing(400), "fail": {"fail": True}, "hang": {"hang": 30}}),
        ("assistants", RUN, {"refuse 500": refusing(500), "refuse 403": refusing(403)}),
        ("background", RESPONSE, {"refuse 500": refusing(500), "end": refusing(404)}),
        ("stateless", RESPONSES, {"refuse 429": refusing(429), "fail": {"fail": True}}),
    ):
        for name, action in faults.items():
            yield Cell(BY_NAME[setup], route, name, action, 0, 1 if "hang" in action else None)


def fits(backend: str, name: str, action: Action) -> bool:
    """Return whether a fault is possible on a backend and counts as a failure."""
    if backend == "chat":
        return "end" not in action and name not in CHAT_ALONE
    return name != "end expired" or backend == "assistants"


def everywhere() -> Iterator[Cell]:
    """Yield every fault at every step on every backend."""
    for setup in SETUPS:
        for route in setup.routes:
            for name, action in faults_at(setup, route):
                for times in (1, None):
                    mode = "sync stream" if name in OF_STREAMS else "sync"
                    yield Cell(setup, route, name, action, 0, times, mode)


@dataclass(frozen=True)
class Exported:
    """Hold the recorded result of an exchange, and its exported script and test."""

    failures: Sequence[tuple[str, str]]
    answer: tuple[str, str] | None
    script: Mapping[str, Any]
    test: str
    notes: Sequence[str]
    name: str

    def expected(self) -> Mapping[str, Any]:
        """Return the constants that the exported test expects."""
        names: dict[str, Any] = {"__file__": str(Path.cwd() / "test_exported.py")}
        exec(self.test, names)
        return names


class Stage:
    """Play exchanges that fail, and export them."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.count = 0

    def played(self, cell: Cell) -> Exported | None:
        """Return the first of two exchanges that had a failure, or None."""
        self.count += 1
        self.world.simulator.reset()
        key, waits = f"k{self.count}", Waits(self.world.simulator.provider)
        ledger = self.world.ledger(cell, key, waits)
        self.world.simulator.answer(CALL, "It is sunny in Bern.", "It will rain.")
        self.world.simulator.add_faults(cell.faults)
        settings = load_settings(**cell.setup.settings, retries=1)
        first = None
        for number, question in enumerate((FIRST, SECOND)):
            self.world.hear(ledger, cell, key, question, str(number), waits)
            exchanges = ledger.exchanges(key).by_id.values()
            first = next((each for each in exchanges if any(run.failure is not None for run in each.runs)), None)
            if first is not None and cell.times is None:
                break  # the second question would meet the same fault
        return exported(ledger, key, first.exchange_id, settings) if first is not None else None


def exported(ledger: Ledger, key: str, exchange_id: str, settings: Any) -> Exported:
    """Export an exchange by its first run."""
    exchange = ledger.exchanges(key).by_id[exchange_id]
    failures = [
        (each.backend, each.cause.value)
        for each in ledger.conversation(key).failures()
        if each.exchange_id == exchange_id
    ]
    answered = recorded_answer(ledger.journal, key, exchange_id)
    answer = (answered.backend, answered.text) if answered is not None else None
    made = export_run(ledger.journal, exchange.runs[0].run_id, settings)
    return Exported(failures, answer, made.script, made.test, made.notes, made.name)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    running = Stage(tmp_path_factory.mktemp("exported"))
    with running.world:
        yield running


def write_all(folder: Path, written: Sequence[Exported]) -> None:
    for each in written:
        (folder / f"{each.name}.json").write_text(json.dumps(each.script), encoding="utf-8")
        (folder / f"test_{each.name}.py").write_text(each.test, encoding="utf-8")


ALL = list(everywhere() if WHOLE else cases())
SIZE = 35
PARTS = {f"{start}-{start + SIZE - 1}": ALL[start : start + SIZE] for start in range(0, len(ALL), SIZE)}


@pytest.mark.parametrize("part", PARTS)
def test_what_failed_fails_the_same_way_in_the_exported_test(
    part: str, stage: Stage, tmp_path: Path, run_exported: RunExported
) -> None:
    written: list[Exported] = []
    for cell in PARTS[part]:
        each = stage.played(cell)
        if each is not None:
            names = each.expected()
            assert names["FAILURES"] == each.failures, (cell.id, each.notes)
            assert names.get("ANSWER") == each.answer, (cell.id, each.notes)
            Script.parse(each.script)
            written.append(each)
    assert written or WHOLE  # there are steps at which no fault makes a run fail
    write_all(tmp_path, written)
    assert run_exported(tmp_path) == len({each.name for each in written})


# Cases that a single fault does not cover


@pytest.fixture
def kept(tmp_path: Path, run_exported: RunExported) -> Any:
    """Return a function that exports a conversation's last exchange, and checks that its test passes and matches the record."""

    def keep(ledger: Ledger, key: str, **settings: Any) -> Exported:
        *_, last = ledger.exchanges(key).by_id
        each = exported(ledger, key, last, load_settings(**settings))
        names = each.expected()
        assert (names["FAILURES"], names.get("ANSWER")) == (each.failures, each.answer), each.notes
        folder = tmp_path / "kept"
        folder.mkdir()
        write_all(folder, [each])
        assert run_exported(folder) == 1
        return each

    return keep


def ask(ledger: Ledger, key: str, question: str = FIRST) -> None:
    with suppress(AllBackendsFailed):
        ledger.conversation(key).ask(question)


def with_weather(ledger: Ledger, tools: Mapping[str, Any]) -> Ledger:
    profile = Profile("John", "Be kind.", tools_json=json.dumps([WEATHER]))
    return Ledger(ledger.journal, replace(ledger.services, profile=profile, tools=tools))


def test_a_backend_that_was_passed_over_is_passed_over_again(open_ledger, simulator, kept):
    settings = {"backends": ("responses", "chat"), "retries": 0}
    ledger = open_ledger(**settings)
    simulator.add_fault(RESPONSES, refuse={"status": 500}, times=None)
    for number in range(6):
        ask(ledger, f"k{number}")
    each = kept(ledger, "k5", **settings)
    assert each.failures == [("responses", "provider_error")]
    assert each.script["faults"] == []
    assert "UNWELL" in each.test


def test_a_tool_that_was_not_bound_is_not_bound_again(open_ledger, simulator, kept):
    settings = {"backends": ("assistants",), "threads": "assistants", "retries": 0}
    ledger = with_weather(open_ledger(**settings), {})
    simulator.answer(CALL)
    ask(ledger, "k")
    each = kept(ledger, "k", **settings)
    assert each.failures == [("assistants", "tool_failed")]
    assert each.script["answers"] == [CALL]


def test_what_tools_gave_is_given_again_and_the_fault_happens_after_it(open_ledger, simulator, kept):
    settings = {"backends": ("responses", "chat"), "retries": 0}
    asked = []
    ledger = with_weather(open_ledger(**settings), {"weather": lambda city: asked.append(city) or "sunny"})
    simulator.answer(CALL, "It is sunny.")
    simulator.add_fault(RESPONSES, refuse={"status": 429, "headers": {"retry-after": "90"}}, after=1)
    ask(ledger, "k")
    each = kept(ledger, "k", **settings)
    assert (each.failures, each.answer) == ([("responses", "rate_limited")], ("chat", "It is sunny."))
    assert each.expected()["RESULTS"] == {"weather": ["sunny"]}
    assert [(fault["on"], fault["after"]) for fault in each.script["faults"]] == [(RESPONSES, 1)]
    assert each.script["faults"][0]["refuse"]["headers"] == {"retry-after": "90"}


def test_a_model_that_asks_for_tools_without_end_does_so_again(open_ledger, simulator, kept):
    settings = {"backends": ("chat",), "retries": 0}
    ledger = with_weather(open_ledger(**settings), {"weather": lambda city: "sunny"})
    simulator.answer(*[CALL] * 25)
    ask(ledger, "k")
    assert kept(ledger, "k", **settings).failures == [("chat", "tool_failed")]


def test_an_answer_that_was_lost_on_the_way_and_found_later_is_found_again(open_ledger, simulator, kept):
    settings = {"backends": ("responses",), "retries": 1}
    ledger = open_ledger(**settings)
    simulator.answer("It rains.")
    simulator.add_fault(RESPONSES, lose_answer=True)
    ask(ledger, "k")
    each = kept(ledger, "k", **settings)
    assert (each.failures, each.answer) == ([("responses", "network")], ("responses", "It rains."))
    assert [name for fault in each.script["faults"] for name in fault if name in ACTIONS] == ["lose_answer"]
    assert each.script["answers"] == ["It rains."]


def test_the_memory_is_that_of_the_first_run_word_for_word(open_ledger, simulator, kept):
    settings = {"backends": ("chat",), "retries": 0, "memory_last": 3}
    ledger = open_ledger(**settings)
    parts = [
        {"type": "text", "text": "Look: \u2028\x01"},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    chat = ledger.conversation("k")
    chat.append("user", parts)
    chat.append("assistant", None, tool_calls=[call])
    chat.append("tool", "sunny", tool_call_id="c1")
    gone = chat.append("user", "Forget this.")
    chat.retract(gone.message_id)
    simulator.add_fault(CHAT, refuse={"status": 500})
    ask(ledger, "k")
    each = kept(ledger, "k", **settings)
    (exchange,) = ledger.exchanges("k").by_id.values()
    assert exchange.runs[0].memory_hash == each.expected()["MEMORY_HASH"]
    assert "Forget this." not in each.test


@pytest.mark.parametrize("size", [2_000, 70_000])
def test_attachments_of_the_memory_are_in_the_test_unless_they_are_too_large(open_ledger, simulator, kept, size):
    settings = {"backends": ("chat",), "threads": "none", "retries": 0}
    ledger = open_ledger(**settings)
    image = b"\x89PNG\r\n\x1a\n" + bytes(size)
    parts = [ledger.attach(image), ledger.attach(b"%PDF-1.7 small", filename="small.pdf")]
    ledger.conversation("k").append("user", [{"type": "text", "text": "Look:"}, *parts])
    simulator.add_fault(CHAT, refuse={"status": 500})
    ask(ledger, "k")
    each = kept(ledger, "k", **settings)
    (exchange,) = ledger.exchanges("k").by_id.values()
    is_whole = exchange.runs[0].memory_hash == each.expected()["MEMORY_HASH"]
    assert is_whole == (size == 2_000) == (not each.notes)
    assert all("in its place" in note and "70,008 bytes" in note for note in each.notes)


def test_a_process_that_was_stopped_is_said_to_be_something_else_here(open_ledger, simulator, tmp_path, run_exported):
    ledger = open_ledger(backends=("chat",), retries=0)

    tools = {"weather": lambda city: (_ for _ in ()).throw(KeyboardInterrupt)}
    simulator.answer(CALL)
    with pytest.raises(KeyboardInterrupt):
        with_weather(ledger, tools).conversation("k").ask(FIRST)
    (exchange_id,) = ledger.exchanges("k").by_id
    each = exported(ledger, "k", exchange_id, load_settings(backends=("chat",), retries=0))
    assert each.failures == [("chat", "interrupted")]
    assert each.expected()["FAILURES"] == [("chat", "network")]
    assert any("the process stopped" in note for note in each.notes)
    write_all(tmp_path, [each])
    assert run_exported(tmp_path) == 1
