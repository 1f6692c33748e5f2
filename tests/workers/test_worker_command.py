"""Test `threadledger worker` as a command: it serves its health, hands over at SIGTERM, and shows and retries what failed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.workers import WorkerOptions, open_worker
from threadledger.cli import main
from threadledger.domain.errors import InvalidSettings
from threadledger.domain.ledger import Ledger

from .performing import wait_until

PROGRAM = "import sys; from threadledger.cli import main; sys.exit(main())"


@pytest.fixture
def ledger(db_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ledger]:
    """Open a ledger whose threads are written by workers; the environment of the commands names the same."""
    monkeypatch.chdir(tmp_path)
    given = {"THREADLEDGER_DB": db_url, "OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": simulator.base_url}
    for name, value in {**given, "THREADLEDGER_MIRROR_BY": "worker"}.items():
        monkeypatch.setenv(name, value)
    with open_ledger(load_settings()) as opened:
        yield opened


class Running:
    """Represent a worker in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", PROGRAM, "worker", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def end(self, how: signal.Signals) -> tuple[int, str]:
        self._process.send_signal(how)
        _, errors = self._process.communicate(timeout=60)
        return self._process.returncode, errors


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start_one(*arguments: str) -> Running:
        running.append(Running(*arguments))
        return running[-1]

    yield start_one
    for each in running:
        each._process.kill()
        each._process.communicate()


@pytest.mark.crash
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_in_the_middle_of_an_item_hands_over_and_ends_in_order(
    ledger: Ledger, simulator: Simulator, start: Callable[..., Running], how: signal.Signals
) -> None:
    simulator.add_fault("POST /conversations", hang=600, times=1)
    ledger.conversation("k").append("user", "Hello.")
    running = start("--port", "0", "--concurrency", "1")
    with urlopen(f"{running.url}/health") as reply:
        assert json.load(reply)["status"] == "ok"
    assert len(ledger.journal.worker_notes.workers()) == 1
    code, errors = running.end(how)
    assert code == 0, errors
    assert "Traceback" not in errors
    assert ledger.journal.worker_notes.workers() == []


@pytest.mark.crash
def test_a_worker_writes_one_line_for_each_item(
    ledger: Ledger, simulator: Simulator, start: Callable[..., Running]
) -> None:
    for number in range(3):
        ledger.conversation(f"k{number}").append("user", "Hello.")
    running = start("--port", "0")
    wait_until(lambda: len([each for each in simulator.requests if each.template == "POST /conversations"]) == 3)
    code, errors = running.end(signal.SIGTERM)
    lines = errors.splitlines()
    assert code == 0
    for number in range(3):
        (line,) = [line for line in lines if f"'k{number}'" in line]
        assert line.startswith(f"INFO mirror 'k{number}': ")


def test_a_port_that_is_in_use_is_refused_in_one_sentence(
    ledger: Ledger, simulator: Simulator, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "--port", simulator.base_url.rpartition(":")[2].partition("/")[0]]) == 1
    assert "choose another" in capfd.readouterr().err


def test_a_job_is_handed_over_and_printed(ledger: Ledger, capfd: pytest.CaptureFixture[str]) -> None:
    ledger.conversation("k").append("user", "Hello.")
    assert main(["replay", "rebuild", "--all", "--apply", "--yes", "--detach", "-o", "json"]) == 0
    printed = capfd.readouterr()
    job = json.loads(printed.out)
    assert (job["kind"], job["items"], job["left"], job["state"]) == ("rebuild", 1, 1, "stopped")
    assert "no worker is running" in printed.err
    assert ledger.replay.job(job["job"]).is_detached


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "rebuild", "--all", "--detach"],
        ["replay", "rebuild", "--all", "--apply", "--detach", "--rps", "2"],
        ["replay", "rebuild", "--all", "--apply", "--detach", "--concurrency", "2"],
        ["replay", "rebuild", "--all", "--apply", "--detach", "--to", "file", "--output", "x"],
        ["replay", "reconcile", "--orphans", "--apply", "--detach"],
        ["replay", "rerun", "--failed", "--apply", "--detach", "--max-cost", "1"],
        ["replay", "rerun", "--failed", "--detach"],
    ],
)
def test_what_holds_for_one_process_alone_is_not_handed_over(
    ledger: Ledger, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "--detach hands over" in (said := capfd.readouterr().err) or "workers are several" in said
    assert ledger.replay.jobs() == []


def test_failed_work_is_listed_and_parked_work_is_retried(ledger: Ledger, capfd: pytest.CaptureFixture[str]) -> None:
    notes = ledger.journal.worker_notes
    notes.fail("mirror", "parked", "the key is wrong", most=1)
    notes.fail("mirror", "failed", "the provider is away", most=5)
    assert main(["worker", "status", "-o", "json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    assert {row["subject"]: row["state"] for row in rows} == {"parked": "parked", "failed": "failed"}
    assert main(["worker", "status", "--parked", "-o", "json"]) == 0
    assert [row["reason"] for row in json.loads(capfd.readouterr().out)] == ["the key is wrong"]
    assert main(["worker", "retry", "mirror", "other"]) == 6
    assert main(["worker", "retry"]) == 0
    assert notes.counts() == {"failed": 2, "parked": 0}


def test_doctor_shows_work_that_nobody_does(ledger: Ledger, capfd: pytest.CaptureFixture[str]) -> None:
    def found() -> list[str]:
        main(["doctor", "-o", "json"])
        rows = json.loads(capfd.readouterr().out)
        return [row["message"] for row in rows if row["check"] == "workers"]

    (nobody,) = found()
    assert "no worker is running" in nobody
    notes = ledger.journal.worker_notes
    notes.fail("mirror", "k", "the key is wrong", most=1)
    assert any("the key is wrong" in each for each in found())
    notes.retry()
    notes.seen({"concurrency": 8, "waiting": 3})
    assert found() == ["1 worker with 8 items at a time; 3 waiting, 1 tried again later"]
    notes.seen({"concurrency": 8, "behind_seconds": 300})
    assert found() == ["the workers are 300 s behind the log"]


def test_a_worker_behind_a_pooler_is_refused(postgres_url: str) -> None:
    with open_ledger(load_settings(db=f"{postgres_url}&pgbouncer=true")) as ledger:
        _ = ledger.status()
        with pytest.raises(InvalidSettings, match="a connection of its own"):
            open_worker(ledger, load_settings(), WorkerOptions())


@pytest.mark.parametrize("concurrency", [0, 65, -1])
def test_a_concurrency_out_of_range_is_refused(concurrency: int) -> None:
    with pytest.raises(InvalidSettings, match="1 to 64"):
        WorkerOptions(concurrency)
