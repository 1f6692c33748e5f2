"""Test `[schedules]`: our own commands at fixed times, one run at a time over all workers, and a missed one once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters import load_settings
from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.workers import ScheduledRun, ScheduledRuns, WorkItem, parse_schedules
from threadledger.adapters.workers.scheduled_runs import BROKEN_OFF, PREFIX
from threadledger.adapters.workers.schedules import WELL_KNOWN
from threadledger.cli import main
from threadledger.cli.schedules import check_command
from threadledger.domain.errors import InvalidSettings
from threadledger.domain.ids import now, to_iso
from threadledger.domain.journal import Journal
from threadledger.domain.journal.worker_notes import WorkerNotes

from .performing import wait_until

PATH = Path("threadledger.toml")

# The table


def parsed(**table: Any) -> Any:
    return parse_schedules(table, PATH)


@pytest.mark.parametrize(
    ("name", "moment", "expected"),
    [
        ("hourly", "2026-12-01T12:00:00", "2026-12-01T13:00:00"),
        ("daily", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("nightly", "2026-12-01T02:59:59", "2026-12-01T03:00:00"),
        ("nightly", "2026-12-01T03:00:00", "2026-12-02T03:00:00"),
        ("weekly", "2026-12-01T12:00:00", "2026-12-07T03:00:00"),
        ("monthly", "2026-12-01T03:00:00", "2027-01-01T03:00:00"),
    ],
)
def test_a_well_known_name_says_when_it_runs(name: str, moment: str, expected: str) -> None:
    schedule = parsed(**{name: "db check"})[name]
    assert schedule.next_after(datetime.fromisoformat(moment).replace(tzinfo=UTC)) == datetime.fromisoformat(
        expected
    ).replace(tzinfo=UTC)


@given(st.sampled_from(sorted(WELL_KNOWN)), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_a_well_known_name_runs_at_the_times_that_cron_says(name: str, moment: datetime) -> None:
    from threadledger.adapters.workers.cron import next_after

    at = moment.replace(tzinfo=UTC)
    assert parsed(**{name: "db check"})[name].next_after(at) == next_after(WELL_KNOWN[name], at)


def test_a_table_names_its_times_in_fields_of_cron_or_by_an_interval() -> None:
    found = parsed(
        early={"run": "threadledger audit summary --since 7d", "at": "30 4 * * 1-5"},
        often={"run": "db check", "every": "15m"},
    )
    friday = datetime(2026, 12, 4, 5, tzinfo=UTC)
    assert found["early"].next_after(friday) == datetime(2026, 12, 7, 4, 30, tzinfo=UTC)
    assert found["often"].next_after(friday) == friday + timedelta(minutes=15)
    assert found["early"].command == ("audit", "summary", "--since", "7d")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("x", "is not a table"),
        ({"sometimes": "db check"}, "does not say when it runs"),
        ({"nightly": 3}, "neither a command nor a table"),
        ({"nightly": ""}, "the command is empty"),
        ({"nightly": "db 'check"}, "close its quotes"),
        ({"a b": "db check"}, "no name of a schedule"),
        ({"x": {"run": "db check"}}, "needs run"),
        ({"x": {"at": "* * * * *"}}, "needs run"),
        ({"x": {"run": "db check", "at": "* * * * *", "every": "1h"}}, "needs run"),
        ({"x": {"run": "db check", "at": "61 * * * *"}}, "at cannot be used"),
        ({"x": {"run": "db check", "at": "* * * *"}}, "4 fields"),
        ({"x": {"run": "db check", "every": "1s"}}, "at least 10s"),
        ({"x": {"run": "db check", "every": "often"}}, "at least 10s"),
        ({"x": {"run": ["db", "check"], "every": "1h"}}, "run is not a text"),
        ({"x": {"run": "db check", "every": "1h", "shell": "true"}}, "unknown key 'shell'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(table: Any, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        parse_schedules(table, PATH)


# The commands


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("nothing", "no command 'nothing'"),
        ("db nothing", "no command 'nothing'"),
        ("db", "no command that a worker can run"),
        ("worker", "no command that a worker can run"),
        ("serve", "no command that a worker can run"),
        ("chat k", "no command that a worker can run"),
        ("events --follow", "--follow never ends"),
        ("list --nothing", "No such option"),
        ("list --limit many", "not a valid integer"),
        ("list --db other.db", "--db is that of the worker"),
        ("--version", "no command that a worker can run"),
        ("list --help", "only prints help"),
        ("list; rm x", "no command 'list;'"),
    ],
)
def test_a_command_that_no_worker_can_run_is_refused_in_one_sentence(words: str, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        check_command("threadledger.toml: [schedules] 'nightly'", words.split())


def test_a_command_that_would_prompt_is_answered_because_its_file_is_trusted() -> None:
    words = ("replay", "reconcile", "--all", "--apply")
    assert check_command("x", words) == (*words, "--yes")
    assert check_command("x", (*words, "--yes")) == (*words, "--yes")
    assert check_command("x", ("audit", "summary")) == ("audit", "summary")


# The runs


class Engine:
    """Keep what is queued."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    def defer(self, items: list[WorkItem]) -> None:
        self.subjects += [item.subject for item in items]


@pytest.fixture
def opened(any_db_url: str) -> Iterator[Callable[[], WorkerNotes]]:
    journals: list[Journal] = []

    def open_one() -> WorkerNotes:
        journals.append(Journal(Factory(database=Database(any_db_url))))
        return journals[-1].worker_notes

    yield open_one
    for each in journals:
        each.close()


def runs_of(notes: WorkerNotes, table: dict[str, Any], url: str = "sqlite:///x.db") -> ScheduledRuns:
    return ScheduledRuns(notes, parse_schedules(table, PATH), threading.Event(), {**os.environ, "THREADLEDGER_DB": url})


def test_a_command_is_queued_when_it_is_due_and_missed_runs_are_made_up_once(opened: Callable[[], WorkerNotes]) -> None:
    engine = Engine()
    look = runs_of(opened(), {"hourly": "db check"}).look(engine)  # type: ignore[arg-type]
    with freeze_time("2026-12-01T12:30:00Z") as clock:
        state = look({})
        assert look(state) is state and engine.subjects == []
        clock.move_to("2026-12-01T13:00:00Z")
        state = look(state)
        assert engine.subjects == ["hourly@2026-12-01T13:00:00.000000Z"]
        clock.move_to("2026-12-01T12:10:00Z")  # the clock was set back
        state = look(state)
        clock.move_to("2026-12-02T09:10:00Z")  # nineteen runs were missed
        state = look(state)
        assert look(state) is state
    assert engine.subjects[1:] == ["hourly@2026-12-01T14:00:00.000000Z"]


def test_a_schedule_that_was_changed_waits_for_its_next_time(opened: Callable[[], WorkerNotes]) -> None:
    engine, notes = Engine(), opened()
    with freeze_time("2026-12-01T12:30:00Z") as clock:
        state = runs_of(notes, {"hourly": "db check"}).look(engine)({})  # type: ignore[arg-type]
        clock.move_to("2026-12-01T13:30:00Z")
        state = runs_of(notes, {"hourly": "db status"}).look(engine)(state)  # type: ignore[arg-type]
        assert runs_of(notes, {}).look(engine)(state) == {"due": {}}  # type: ignore[arg-type]
    assert engine.subjects == []


def due(name: str, minutes: int = 0) -> str:
    return f"{name}@{to_iso(datetime(2026, 12, 1, 12, minutes, tzinfo=UTC))}"


def last_run(notes: WorkerNotes, name: str = "nightly") -> ScheduledRun:
    return next(run for run in map(ScheduledRun.of, notes.duties()) if run is not None and run.name == name)


def test_a_run_is_recorded_and_not_repeated(opened: Callable[[], WorkerNotes], any_db_url: str) -> None:
    notes = opened()
    runs = runs_of(notes, {"nightly": "db check"}, any_db_url)
    assert runs.run(due("nightly")).startswith("ended with exit code 0")
    first = last_run(notes)
    assert first.code == 0 and first.ended_at is not None
    assert "it was begun before" in runs_of(opened(), {"nightly": "db check"}, any_db_url).run(due("nightly"))
    assert last_run(notes) == first
    runs.run(due("nightly", 1))
    assert last_run(notes).due_at != first.due_at


def test_a_command_that_fails_is_recorded_with_its_exit_code(
    opened: Callable[[], WorkerNotes], any_db_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    notes = opened()
    assert "exit code 6" in runs_of(notes, {"nightly": "show nobody"}, any_db_url).run(due("nightly"))
    assert last_run(notes).code == 6
    assert "schedule nightly ended with exit code 6" in caplog.text


def test_two_runs_of_a_schedule_do_not_overlap(opened: Callable[[], WorkerNotes], any_db_url: str) -> None:
    one, other = opened(), opened()
    held = one.hold(PREFIX + "nightly")
    assert held is not None
    one.keep(PREFIX + "nightly", ScheduledRun("nightly", now(), started_at=now()).state())
    for notes in (one, other):
        assert "still in progress" in runs_of(notes, {"nightly": "db check"}, any_db_url).run(due("nightly", 1))


@pytest.mark.crash
def test_a_run_whose_worker_is_killed_ends_with_it_and_is_not_repeated(
    opened: Callable[[], WorkerNotes], any_db_url: str
) -> None:
    notes = opened()
    program = [sys.executable, str(Path(__file__).with_name("killed_schedule.py")), any_db_url, due("nightly")]
    killed = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    pid = int(killed.stdout)
    ticks = threading.Event()
    for _ in range(1_000):
        if not Path(f"/proc/{pid}").exists() or "Z (" in Path(f"/proc/{pid}/status").read_text(errors="replace"):
            break
        ticks.wait(0.01)
    else:
        raise AssertionError("the command outlives its worker")
    assert last_run(notes).code == BROKEN_OFF
    said = runs_of(notes, {"nightly": "db check"}, any_db_url).run(due("nightly"))
    assert said == "it was begun before, and ended with its worker"


def test_a_worker_that_stops_ends_its_command(opened: Callable[[], WorkerNotes], any_db_url: str) -> None:
    notes = opened()
    runs = runs_of(notes, {"nightly": "events --follow"}, any_db_url)
    said: list[str] = []
    running = threading.Thread(target=lambda: said.append(runs.run(due("nightly"))))
    running.start()
    wait_until(lambda: any(duty.name == PREFIX + "nightly" and duty.state for duty in notes.duties()))
    runs._is_stopping.set()
    running.join(30)
    assert said[0].startswith("ended with exit code")


# Trust


def test_schedules_of_a_folder_are_run_only_if_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "threadledger.toml").write_text('[schedules]\nnightly = "db check"\n', encoding="utf-8")
    assert list(load_settings().schedules) == ["nightly"]
    assert main(["worker", "--port", "0"]) == 2
    said = capfd.readouterr().err
    assert "[schedules]" in said and "threadledger trust" in said
    assert main(["trust", "-o", "json"]) == 0
    assert json.loads(capfd.readouterr().out)


def test_a_schedule_that_cannot_be_run_keeps_a_worker_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "threadledger.toml").write_text('[schedules]\nnightly = "db chek"\n', encoding="utf-8")
    assert main(["trust"]) == 0
    assert main(["worker", "--port", "0"]) == 2
    assert "threadledger.toml: [schedules] 'nightly': there is no command 'chek'" in capfd.readouterr().err
