"""A process is killed in the middle of an exchange, at every point of it; another one goes on."""

import json
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from freezegun import freeze_time

from threadledger.domain import Cause, ConversationBusy, ThreadState, now

pytestmark = [
    pytest.mark.crash,
    pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning"),
]

SCRIPT = Path(__file__).with_name("crashing.py")
RUNS = "POST /threads/{thread_id}/runs"

# fmt: off
# How often each point is passed in an exchange that nobody kills; a test sees to it that these are right.
PASSED = {
    "fallback": {"commit": 7, "step": 6, "assistants thread": 1, "claim": 2, "note": 2, "assistants messages": 2, "run made": 1,
                 "run followed": 1},
    "assistants": {"commit": 5, "step": 3, "assistants thread": 1, "claim": 2, "note": 3, "assistants messages": 1, "run made": 1,
                   "run followed": 1},
    "responses": {"commit": 5, "step": 3, "conversation": 1, "claim": 2, "note": 3},
}
# fmt: on


def points():
    """Before every pass of every point, and after the last; after the first pass of what writes to the provider, too."""
    for scenario, passed in PASSED.items():
        for point, times in passed.items():
            for number in range(1, times + 1):
                yield scenario, point, number, "before"
            writes = range(1, times + 1) if point not in {"step", "commit", "claim", "note"} else [times]
            for number in writes:
                yield scenario, point, number, "after"


# Where the provider has answered into the thread and the process dies before the answer is recorded, the thread holds an
# answer that the journal does not know: verify says so, and a rebuild mends it.
FOREIGN_ANSWER = {
    ("assistants", "step", 3, "before"),
    ("assistants", "commit", 5, "before"),
    ("assistants", "run followed", 1, "after"),
    ("responses", "step", 3, "before"),
    ("responses", "commit", 5, "before"),
}
# Where the process dies while a run is under way at the provider, the thread takes no messages until that run has ended.
RUN_UNDER_WAY = {
    (scenario, point, 1, moment)
    for scenario in ("fallback", "assistants")
    for point, moment in (("run made", "after"), ("run followed", "before"))
}


def run_script(db_url, simulator, scenario, point="count", number=0, moment="before"):
    if scenario == "fallback":
        simulator.add_fault(RUNS, fail=True)
    command = [sys.executable, str(SCRIPT), db_url, simulator.base_url, scenario, point, str(number), moment]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def reopen(open_ledger):
    """The ledger of a scenario, as the next process opens it."""
    settings = {
        "fallback": {"backends": ("assistants", "chat"), "threads": "assistants"},
        "assistants": {"backends": ("assistants", "chat"), "threads": "assistants"},
        "responses": {"backends": ("responses", "chat"), "threads": "conversations"},
    }
    return lambda scenario: open_ledger(retries=0, **settings[scenario])


@pytest.mark.parametrize("scenario", PASSED)
def test_the_points_that_are_killed_at_are_all_there_are(db_url, simulator, scenario):
    done = run_script(db_url, simulator, scenario)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == PASSED[scenario]


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


def texts(ledger):
    return [each.message.text for each in ledger.memory("k").messages]


def later():
    """Past every deadline. Only our own clock moves: connections and their timeouts keep the real one."""
    ignored = ["asyncio", "uvicorn", "httpx", "httpx2", "httpcore", "anyio", "h11", "openai", "threading", "queue"]
    return freeze_time(now() + timedelta(hours=2), tick=True, ignore=ignored)


@pytest.mark.parametrize(("scenario", "point", "number", "moment"), list(points()))
def test_after_a_kill_nothing_is_lost_or_doubled_and_the_conversation_goes_on(
    db_url, tmp_path, simulator, reopen, scenario, point, number, moment
):
    place = (scenario, point, number, moment)
    killed = run_script(db_url, simulator, *place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    simulator.clear_faults()
    assert_sound(tmp_path / "ledger.db")
    ledger = reopen(scenario)
    begun = ledger.journal.load("k") is not None
    assert texts(ledger) in ([["hello"], ["hello", "You said: hello"]] if begun else [[]])
    answered = len(texts(ledger)) == 2
    still_open = begun and bool(ledger.state("k").open_runs)
    assert not (answered and still_open)
    if still_open:
        with pytest.raises(ConversationBusy):
            ledger.conversation("k").ask("too early")
    with later():
        closed = [f for f in ledger.failures() if f.cause is Cause.INTERRUPTED]
        assert len(closed) == still_open
        answer = ledger.conversation("k").ask("next")
        assert answer.text == "You said: next"
        expected = ["hello"] * begun + ["You said: hello"] * answered + ["next", "You said: next"]
        assert texts(ledger) == expected
        if begun and not answered:
            assert ledger.state("k").unanswered == 1
        _assert_thread(ledger, simulator, place)
    assert_sound(tmp_path / "ledger.db")


def _assert_thread(ledger, simulator, place):
    (found,) = ledger.replay.verify()
    if place in RUN_UNDER_WAY:
        assert found.found.state is not ThreadState.SAME
    elif place in FOREIGN_ANSWER:
        assert (found.found.state, found.found.extra, found.found.missing) == (ThreadState.DRIFTED, 1, 0)
    else:
        assert found.found.state is ThreadState.SAME, found
        return
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (item.state, item.verified) == ("done", True)
    (found,) = ledger.replay.verify()
    assert found.found.state is ThreadState.SAME


@pytest.mark.parametrize("scenario", PASSED)
def test_the_next_ask_closes_the_run_that_was_left_open_as_interrupted(db_url, simulator, reopen, scenario):
    assert run_script(db_url, simulator, scenario, "step", 2, "before").returncode == -signal.SIGKILL
    simulator.clear_faults()
    ledger = reopen(scenario)
    (left,) = ledger.state("k").open_runs
    with later():
        assert ledger.conversation("k").ask("next").failures == []
        (failure,) = ledger.failures()
    assert (failure.run_id, failure.cause, failure.next) == (left, Cause.INTERRUPTED, "abandoned")
    assert texts(ledger) == ["hello", "next", "You said: next"]


@pytest.mark.parametrize("scenario", PASSED)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_running_the_exchange_again_answers_what_the_killed_process_left_with_one_question(
    db_url, simulator, reopen, scenario, step
):
    assert run_script(db_url, simulator, scenario, "step", step, "before").returncode == -signal.SIGKILL
    simulator.clear_faults()
    ledger = reopen(scenario)
    with later():
        (exchange_id,) = ledger.state("k").open_exchanges
        answer = ledger.conversation("k").rerun(exchange_id)
        assert answer.text == "You said: hello"
        assert texts(ledger) == ["hello", "You said: hello"]
        assert (ledger.state("k").open_runs, ledger.state("k").open_exchanges) == ({}, {})


def test_a_rerun_of_what_a_killed_process_left_is_planned_and_answers_it(db_url, simulator, reopen):
    assert run_script(db_url, simulator, "assistants", "step", 2, "before").returncode == -signal.SIGKILL
    ledger = reopen("assistants")
    with later():
        (item,) = ledger.replay.plan_rerun(failed=True).apply()
        assert (item.state, item.answer) == ("answered", "You said: hello")
        assert ledger.replay.verify()[0].found.state is ThreadState.SAME


WRITER = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
with Ledger(Journal(Factory(database=Database(sys.argv[1])))) as ledger:
    index = 0
    while True:
        message = ledger.conversation(f"k{index % 3}").append("user", f"{sys.argv[2]} {index}")
        print(f"{sys.argv[2]} {index}", flush=True)
        index += 1
"""


def test_four_writers_killed_at_any_moment_lose_nothing_that_was_acknowledged(db_url, tmp_path, open_ledger):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, db_url, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    acknowledged = []
    try:
        for writer in writers:
            acknowledged += [writer.stdout.readline().strip() for _ in range(20)]
    finally:
        for writer in writers:
            writer.kill()
    for writer in writers:
        rest, _ = writer.communicate()
        acknowledged += [line for line in rest.splitlines() if line]
    assert_sound(tmp_path / "ledger.db")
    ledger = open_ledger(threads="none")
    found = [each.message.text for key in ("k0", "k1", "k2") for each in ledger.memory(key).messages]
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) - len(acknowledged) <= len(writers)
