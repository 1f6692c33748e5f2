"""Kill a process at random points of exchanges and mirroring, and continue in another process.

In journal and thread, nothing may be lost or duplicated, and the order must be kept.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random

import pytest
from openai import OpenAI

from threadledger.adapters import Simulator, open_ledger
from threadledger.domain import ids
from threadledger.domain.conversation import events
from threadledger.domain.errors import ConversationBusy
from threadledger.domain.failures import Cause
from threadledger.domain.threads import ThreadState

from .crashing import KEY, NOBODY, RESPONSES, RUNS, SCENARIOS, TOOLS, Behind, go_through, settings_of

pytestmark = pytest.mark.crash

SEED = 4
KILLS = 1_000 if "THREADLEDGER_SOAK" in os.environ else 2 * len(SCENARIOS)
"""Number of tests; each draws a random crash point and the next process's first action."""

GOING_ON = ("ask", "append", "repeat", "rerun")
"""First action of the next process: ask another question, append, repeat all steps under the same idempotency keys, or
rerun the open exchange."""


class Crasher:
    """Run scenarios in separate processes against one simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        command = [sys.executable, str(Path(__file__).with_name("crashing.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._points: dict[str, list[str]] = {}

    def warm_up(self, folder: Path) -> None:
        """Let the process import the modules of the scenarios before it forks."""
        for number, scenario in enumerate(("assistants, streamed", "responses, streamed", "chat")):
            self._order(scenario, f"sqlite:///{folder / str(number)}.db", here=True)

    def points(self, scenario: str, db_url: str) -> list[str]:
        """Return the points of a scenario without a kill, in order."""
        if scenario not in self._points:
            ended = self.go_through(scenario, db_url.replace("ledger.db", "counted.db"))
            assert ended["status"] == 0
            assert [number for number, _ in ended["done"]] == list(range(len(SCENARIOS[scenario].steps)))
            self._points[scenario] = ended["points"]
        return self._points[scenario]

    def go_through(self, scenario: str, db_url: str, killed_at: int = NOBODY) -> dict[str, list]:
        """Run a scenario on a reset provider, and return the result."""
        self.simulator.reset()
        self.simulator.answer(*SCENARIOS[scenario].answers)
        self.simulator.add_faults(SCENARIOS[scenario].faults)
        return self._order(scenario, db_url, killed_at=killed_at)

    def kill(self, scenario: str, db_url: str, at: int) -> dict[int, str | None]:
        """Kill a process at one point, and return the steps that it reported as finished, with their answers."""
        ended = self.go_through(scenario, db_url, at)
        assert ended["status"] == -signal.SIGKILL
        self.simulator.clear_faults()
        self._pass_time()
        return dict(ended["done"])

    def _pass_time(self) -> None:
        """Poll background responses until they end, because the simulator only advances them when they are polled."""
        client = OpenAI(base_url=self.simulator.base_url, api_key="sk-test", max_retries=0)
        for response_id in self.simulator.provider.responses:
            while client.responses.retrieve(response_id).status in {"queued", "in_progress"}:
                pass

    def close(self) -> None:
        self._process.communicate()

    def _order(self, scenario: str, db_url: str, *, killed_at: int = NOBODY, here: bool = False) -> dict[str, list]:
        place = {"scenario": scenario, "db_url": db_url, "base_url": self.simulator.base_url}
        self._process.stdin.write(json.dumps(place | {"killed_at": killed_at, "here": here}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def crasher(tmp_path_factory) -> Iterator[Crasher]:
    with Simulator(seed=7, poll_after_ms=0) as simulator:
        crasher = Crasher(simulator)
        crasher.warm_up(tmp_path_factory.mktemp("warm"))
        yield crasher
        crasher.close()


@pytest.fixture
def reopen(crasher, db_url):
    """Yield a function that opens the ledger of a scenario as the next process would."""
    opened = []

    def reopened(scenario):
        settings = settings_of(scenario, db_url, crasher.simulator.base_url)
        opened.append(open_ledger(settings, tools=TOOLS, wait=lambda _: None))
        return opened[-1]

    yield reopened
    for ledger in opened:
        ledger.close()


@pytest.mark.parametrize("draw", range(KILLS))
def test_after_a_kill_at_any_point_nothing_is_lost_or_doubled_and_the_order_is_kept(
    crasher, reopen, db_url, tmp_path, draw
):
    random = Random(f"{SEED} {draw}")
    scenario = list(SCENARIOS)[draw % len(SCENARIOS)]
    points = crasher.points(scenario, db_url)
    at, going_on = random.randrange(len(points)), random.choice(GOING_ON)
    print(f"{scenario}: killed at {at} ({points[at]}), then {going_on}")
    assert_goes_on_after_a_kill(crasher, reopen, db_url, scenario, at, going_on)
    assert_sound(tmp_path / "ledger.db")


def assert_goes_on_after_a_kill(crasher, reopen, db_url, scenario, at, going_on):
    done = crasher.kill(scenario, db_url, at)
    ledger = reopen(scenario)
    asked = [text for _, text in SCENARIOS[scenario].steps]
    said = [text for _, text in conversation(ledger, "user")]
    assert said == asked[: len(said)]
    assert len(said) - len(done) in {0, 1}
    assert_answers(ledger, scenario, done)
    goes_on(reopen, ledger, scenario, going_on)
    expected = asked if going_on == "repeat" else [*said, *(["next"] if going_on != "append" else [])]
    assert [text for _, text in conversation(ledger, "user")] == [*expected, "the end"]
    assert_answers(ledger, scenario, done)
    if going_on == "repeat":
        answered = [("user",) if verb == "append" else ("user", "assistant") for verb, _ in SCENARIOS[scenario].steps]
        assert [role for role, _ in conversation(ledger)] == [*chain(*answered), "user"]
    assert_journal(ledger)
    assert_thread(ledger, crasher.simulator)


def goes_on(reopen, ledger, scenario, going_on):
    chat = ledger.conversation(KEY)
    if going_on == "repeat":
        go_through(reopen(scenario), scenario, lambda _: None)
    if going_on == "rerun" and ledger.journal.load(KEY) is not None:
        for exchange_id in list(ledger.state(KEY).open_exchanges):
            chat.rerun(exchange_id)
    if going_on in {"ask", "rerun"}:
        chat.ask("next")
    chat.append("user", "the end")


def conversation(ledger, *roles):
    """Return (role, text) of user and assistant messages from the events, without tool calls."""
    history = ledger.journal.history(KEY) if ledger.journal.load(KEY) is not None else ()
    said = [event for event in history if isinstance(event, events.MessageJournaled)]
    return [(m.role, m.content) for m in said if m.content and m.role in (roles or ("user", "assistant"))]


def assert_answers(ledger, scenario, done):
    """Check that every returned answer follows its question."""
    said = conversation(ledger)
    for number, answer in done.items():
        if answer is not None:
            question = said.index(("user", SCENARIOS[scenario].steps[number][1]))
            assert said[question + 1] == ("assistant", answer)


def assert_journal(ledger):
    """Check that messages, runs, calls and results are unique, each run ends once, and each exchange has at most one answer."""
    history = list(ledger.journal.history(KEY))
    said = [event for event in history if isinstance(event, events.MessageJournaled)]
    started = [event.run_id for event in history if isinstance(event, events.RunStarted)]
    ended = [event.run_id for event in history if isinstance(event, events.RunCompleted | events.RunFailed)]
    calls = [call["id"] for message in said for call in message.tool_calls]
    results = [message.tool_call_id for message in said if message.role == "tool"]
    answers = [m.exchange_id for m in said if m.role == "assistant" and m.content]
    for each in ([m.message_id for m in said], started, ended, calls, results, answers):
        assert max(Counter(each).values(), default=1) == 1
    assert sorted(started) == sorted(ended)
    assert set(results) <= set(calls)


def assert_thread(ledger, simulator):
    """Check that the thread holds exactly the messages of the journal, once and in order."""
    (found,) = ledger.replay.verify()
    assert found.found.state is ThreadState.SAME, (found, held(simulator, found.thread_id))
    expected = [(m.message.role.value, m.message.text) for m in ledger.memory(KEY).messages if m.message.role != "tool"]
    assert held(simulator, found.thread_id) == [each for each in expected if each[1]]


def held(simulator, thread_id):
    """Return (role, text) of the provider's thread, without tool calls and their results."""
    messages = simulator.provider.messages.get(thread_id)
    if messages is not None:
        texts = [(each["role"], each["content"][0]["text"]["value"]) for each in messages]
        return [each for each in texts if not each[1].startswith("[tool ")]
    items = [item for item in simulator.provider.items[thread_id] if item["type"] == "message"]
    return [(item["role"], item["content"][0]["text"]) for item in items]


def models_asked(simulator):
    return sum(simulator.provider.request_counts.get(route, 0) for route in (RUNS, RESPONSES))


def assert_sound(path):
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        positions = [p for (p,) in connection.execute("SELECT position FROM events ORDER BY position")]
        streams = connection.execute("SELECT stream, version FROM streams").fetchall()
        assert positions == list(range(1, len(positions) + 1))
        for stream, version in streams:
            found = connection.execute("SELECT version FROM events WHERE stream = ? ORDER BY position", (stream,))
            assert [v for (v,) in found] == list(range(1, version + 1))
    finally:
        connection.close()


ONE_OF_EACH = ("assistants", "responses", "responses in the background", "chat")


@pytest.fixture
def killed_in_a_tool(crasher, db_url):
    """Kill the process of a scenario while the app's function runs."""
    return lambda scenario: crasher.kill(scenario, db_url, crasher.points(scenario, db_url).index("after Use"))


@pytest.fixture
def killed_before_its_answer_was_journaled(crasher, db_url):
    """Kill the process of a scenario just after the provider answered its last question."""

    def kill(scenario):
        points = crasher.points(scenario, db_url)
        crasher.kill(scenario, db_url, len(points) - 1 - points[::-1].index("after Call"))

    return kill


@pytest.mark.parametrize("scenario", ONE_OF_EACH)
def test_a_run_left_open_by_a_kill_keeps_the_conversation_busy_until_its_deadline_and_ends_as_interrupted(
    killed_in_a_tool, reopen, monkeypatch, scenario
):
    killed_in_a_tool(scenario)
    ledger = reopen(scenario)
    (left,) = ledger.state(KEY).open_runs
    with monkeypatch.context() as at_that_time:
        at_that_time.setattr(ids, "datetime", Behind)
        with pytest.raises(ConversationBusy):
            ledger.conversation(KEY).ask("too early")
    assert ledger.conversation(KEY).ask("next").failures == []
    (failure,) = ledger.failures()
    assert (failure.run_id, failure.cause, failure.next) == (left, Cause.INTERRUPTED, "abandoned")


@pytest.mark.parametrize("scenario", ONE_OF_EACH)
def test_a_call_that_was_journaled_before_the_kill_is_not_journaled_again_when_the_exchange_is_rerun(
    killed_in_a_tool, reopen, crasher, scenario
):
    killed_in_a_tool(scenario)
    ledger = reopen(scenario)
    (left,) = ledger.replay.plan_rerun(failed=True).apply()
    assert left.state == "skipped"
    assert "it is unknown whether the tool has done its work" in left.reason
    (item,) = ledger.replay.plan_rerun(failed=True, include=("tools", "interrupted")).apply()
    assert item.state == "answered"
    assert_journal(ledger)
    assert_thread(ledger, crasher.simulator)


@pytest.mark.parametrize("scenario", ["assistants", "responses", "responses in the background", "responses, streamed"])
def test_an_answer_that_was_never_journaled_is_taken_over_when_its_exchange_is_run_again(
    killed_before_its_answer_was_journaled, reopen, crasher, scenario
):
    killed_before_its_answer_was_journaled(scenario)
    ledger = reopen(scenario)
    (exchange_id,) = ledger.state(KEY).open_exchanges
    counted = models_asked(crasher.simulator)
    assert ledger.conversation(KEY).rerun(exchange_id).text == "You said: four"
    assert models_asked(crasher.simulator) == counted
    assert_journal(ledger)
    assert_thread(ledger, crasher.simulator)


@pytest.mark.parametrize("scenario", ["assistants", "responses", "responses in the background", "responses, streamed"])
def test_an_answer_that_was_never_journaled_is_found_in_the_thread_before_another_question_is_asked(
    killed_before_its_answer_was_journaled, reopen, crasher, scenario
):
    killed_before_its_answer_was_journaled(scenario)
    ledger = reopen(scenario)
    counted = models_asked(crasher.simulator)
    ledger.conversation(KEY).ask("next")
    assert models_asked(crasher.simulator) == counted + 1
    said = conversation(ledger)
    assert said[-3:] == [("assistant", "You said: four"), ("user", "next"), ("assistant", "You said: next")]
    assert not [event for event in ledger.journal.history(KEY) if isinstance(event, events.ExchangeAbandoned)]
    assert_journal(ledger)
    assert_thread(ledger, crasher.simulator)


@pytest.mark.parametrize("scenario", ["responses", "responses in the background", "responses, streamed, awaited"])
def test_a_call_that_was_never_journaled_is_taken_out_of_the_thread_and_keeps_no_later_question_from_its_answer(
    crasher, reopen, db_url, scenario
):
    points = crasher.points(scenario, db_url)
    until_asked_for_the_tool = points[: points.index("before Use")]
    crasher.kill(
        scenario, db_url, len(until_asked_for_the_tool) - 1 - until_asked_for_the_tool[::-1].index("after Call")
    )
    ledger = reopen(scenario)
    ledger.conversation(KEY).ask("next")
    (mended,) = [event for event in ledger.journal.history(KEY) if isinstance(event, events.ThreadReconciled)]
    assert len(mended.deleted) == 1
    assert_thread(ledger, crasher.simulator)
