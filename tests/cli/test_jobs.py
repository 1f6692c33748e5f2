"""Mass work in the terminal: plans over many conversations, jobs that are stopped, resumed and cancelled."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from itertools import count

import pytest

import threadledger
from threadledger.domain.ids import now

from .terminal import in_this_process


def journal(*keys):
    with threadledger.open(threads="none") as ledger:
        for key in keys:
            ledger.conversation(key).extend([{"role": "user", "content": f"hello from {key}"}])


MANY = [f"k{number:03}" for number in range(60)]


def job_of(command):
    return command("replay", "jobs", "-o", "json").json[0]


def test_a_plan_says_what_how_many_requests_and_that_no_model_is_called(command, provider):
    journal("a", "b")
    done = command("replay", "rebuild", "--all")
    assert done.code == 0
    assert "plan: 2 threads with 2 messages, about 6 requests" in done.err
    assert "no model is called" in done.err
    assert "nothing was done; pass --apply to execute the plan" in done.err
    assert provider.requests == []


def test_a_table_of_many_items_shows_some_and_json_lines_show_all(command, provider):
    journal(*MANY)
    table = command("replay", "rebuild", "--all")
    assert table.out.count("planned") == 50
    assert "… and 10 more; -o jsonl shows all" in table.err
    lines = command("replay", "rebuild", "--all", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["key"] for line in lines] == MANY


def test_a_plan_of_more_conversations_than_its_table_shows_reads_the_messages_of_those_alone(
    command, provider, monkeypatch
):
    from threadledger.domain.journal import Journal

    journal(*MANY)
    read = []
    memory = Journal.memory
    monkeypatch.setattr(Journal, "memory", lambda self, key, *rest: read.append(key) or memory(self, key, *rest))
    table = command("replay", "rebuild", "--all")
    assert read == MANY[:50]
    assert "plan: 60 threads with about 60 messages, about 180 requests" in table.err
    assert "messages that are no longer in memory are counted too" in table.err
    assert "nothing was done; pass --apply to execute the plan" in table.err


def test_an_array_of_json_is_whole_also_when_it_is_empty(command, provider):
    journal("a", "b")
    assert [row["key"] for row in command("replay", "rebuild", "--all", "-o", "json").json] == ["a", "b"]
    assert command("replay", "jobs", "-o", "json").out == "[]\n"


def test_what_failed_is_in_the_table_wherever_it_stands(command, provider):
    journal(*MANY)
    provider.add_fault("POST /threads", after=58, refuse={"status": 401, "code": "invalid_api_key"})
    done = command("replay", "rebuild", "--all", "--apply", "--yes")
    assert done.code == 3
    assert "k058" in done.out
    assert "1 failed" in done.err
    assert "threadledger replay resume" in done.err


def test_keys_come_from_a_file_or_from_stdin(command, provider, tmp_path):
    journal("a", "b", "c")
    (tmp_path / "keys").write_text("a\n\nc\n")
    by_file = command("replay", "rebuild", "--keys-from", "keys", "-o", "json").json
    by_stdin = command("replay", "rebuild", "--keys-from", "-", "-o", "json", stdin=b"a\nc\n").json
    assert [row["key"] for row in by_file] == [row["key"] for row in by_stdin] == ["a", "c"]


def test_the_conversations_of_a_search_are_meant(command, provider):
    journal("a", "b")
    assert [row["key"] for row in command("replay", "rebuild", "--search", "hello a", "-o", "json").json] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name conversations, or pass exactly one"),
        (("a", "--all"), "pass exactly one of --all"),
        (("a", "--search", "x"), "pass exactly one of --all"),
        (("a", "--to", "file"), "--to file and --output FILE require each other"),
        (("a", "--output", "x"), "--to file and --output FILE require each other"),
        (("a", "--concurrency", "0"), "--concurrency"),
        (("a", "--rps", "0"), "--rps"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(command, provider, arguments, told):
    journal("a")
    done = command("replay", "rebuild", *arguments)
    assert done.code == 2
    assert told in done.err


def test_memory_goes_into_a_file_by_plan_and_apply(command, provider, tmp_path):
    journal("a")
    arguments = ("replay", "rebuild", "a", "--to", "file", "--output", "m.jsonl")
    assert "nothing was done" in command(*arguments).err
    assert not (tmp_path / "m.jsonl").exists()
    done = command(*arguments, "--apply", "--yes", "-o", "json")
    assert (done.code, done.json[0]["state"], done.json[0]["verified"]) == (0, "done", True)
    line = json.loads((tmp_path / "m.jsonl").read_text())
    assert line == {"id": "a", "messages": [{"role": "user", "content": "hello from a"}]}


def test_jobs_are_listed_with_what_became_of_their_items(command, provider):
    journal("a", "b")
    assert "no jobs" in command("replay", "jobs").err
    command("replay", "rebuild", "--all", "--apply", "--yes")
    job = job_of(command)
    expected = {"kind": "rebuild", "state": "done", "items": 2, "done": 2, "skipped": 0, "failed": 0, "left": 0}
    assert {name: job[name] for name in expected} == expected
    assert job["options"] == {"to": "assistants", "at": None, "fresh": False}
    table = command("replay", "jobs")
    assert job["job"][-8:] in table.out
    items = command("replay", "jobs", job["job"][-8:], "-o", "json").json
    assert [(item["key"], item["state"]) for item in items] == [("a", "done"), ("b", "done")]


def test_resume_tries_what_failed_again_and_then_has_nothing_left(command, provider):
    journal("a", "b")
    provider.add_fault("POST /threads", refuse={"status": 401, "code": "invalid_api_key"})
    assert command("replay", "rebuild", "--all", "--apply", "--yes").code == 3
    job = job_of(command)["job"][-8:]
    assert command("replay", "jobs", job).code == 3
    done = command("replay", "resume", job, "--yes")
    assert done.code == 0
    assert "1 done, 0 skipped, 0 failed" in done.err
    again = command("replay", "resume", job)
    assert (again.code, again.err) == (0, "nothing left to do\n0 done, 0 skipped, 0 failed\n")


@pytest.mark.parametrize("yes", [(), ("--yes",)])
def test_resume_needs_no_confirmation_because_the_plan_was_confirmed_when_it_was_applied(command, provider, yes):
    journal("a")
    provider.add_fault("POST /threads", refuse={"status": 401, "code": "invalid_api_key"})
    assert command("replay", "rebuild", "--all", "--apply", "--yes").code == 3
    assert command("replay", "resume", job_of(command)["job"][-8:], *yes).code == 0
    assert job_of(command)["state"] == "done"


def test_resume_on_a_terminal_does_not_ask_either(command, provider):
    journal("a")
    provider.add_fault("POST /threads", refuse={"status": 401, "code": "invalid_api_key"})
    command("replay", "rebuild", "--all", "--apply", "--yes")
    code, shown = in_this_process(["replay", "resume", job_of(command)["job"][-8:]])
    assert code == 0
    assert "to continue" not in shown


def test_a_job_says_which_process_works_on_it_and_until_when(command, provider):
    journal(*MANY[:3])
    asked = count()
    with threadledger.open() as ledger:
        plan = ledger.replay.plan_rebuild()
        plan.apply(stop=lambda: next(asked) > 2)
        claims = ledger.journal.job_claims
        claims.take(plan.job.job_id, [2], claims.name(), now() + timedelta(minutes=2))
        by = f"process {os.getpid()} on '{socket.gethostname()}' until 20"
        assert [text.startswith(by) for text in job_of(command)["held_by"]] == [True]
        assert job_of(command)["state"] == "running"
        assert by in command("doctor").err + command("doctor").out


def test_an_unknown_job_is_not_found_and_a_done_one_cannot_be_cancelled(command, provider):
    journal("a")
    assert command("replay", "resume", "nosuchjob").code == 6
    command("replay", "rebuild", "--all", "--apply", "--yes")
    assert command("replay", "cancel", job_of(command)["job"][-8:]).code == 7


STOPPING = """
import os, signal, sys
from threadledger.cli import main
from threadledger.domain.replay.rebuild import Rebuilder

step, seen = Rebuilder.rebuilding, []
def rebuilding(self, *given, **named):
    seen.append(given)
    if len(seen) == 5:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, *given, **named)
Rebuilder.rebuilding = rebuilding
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_ends_the_step_in_hand_and_leaves_a_job_that_is_resumed(command, provider):
    journal(*MANY[:20])
    arguments = ["replay", "rebuild", "--all", "--apply", "--yes"]
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPING, *arguments], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert stopped.returncode == 130
    assert "finishing the current step" in stopped.stderr
    assert "interrupted; 15 items left: threadledger replay resume" in stopped.stderr
    job = job_of(command)
    assert (job["state"], job["done"], job["left"]) == ("stopped", 5, 15)
    resumed = command("replay", "resume", job["job"][-8:], "--yes", "--concurrency", "3")
    assert resumed.code == 0
    assert job_of(command)["state"] == "done"
    assert len(provider.provider.threads) == 20


def test_a_job_that_was_cancelled_is_not_resumed(command, provider):
    journal(*MANY[:20])
    arguments = ["replay", "rebuild", "--all", "--apply", "--yes"]
    subprocess.run([sys.executable, "-c", STOPPING, *arguments], capture_output=True, env=dict(os.environ), check=False)
    job = job_of(command)["job"][-8:]
    cancelled = command("replay", "cancel", job)
    assert cancelled.code == 0
    assert "15 items not processed" in cancelled.err
    assert job_of(command)["state"] == "cancelled"
    refused = command("replay", "resume", job, "--yes")
    assert refused.code == 7
    assert "was cancelled" in refused.err


def test_on_a_terminal_the_number_of_items_has_to_be_typed(command, provider):
    journal("a", "b")
    code, shown = in_this_process(["replay", "rebuild", "--all", "--apply"], typed=b"3\n")
    assert code == 1
    assert "This will write 2 threads with 2 messages. Type 2 to continue" in shown
    assert provider.requests == []
    assert in_this_process(["replay", "rebuild", "--all", "--apply"], typed=b"2\n")[0] == 0
    assert len(provider.provider.threads) == 2


def test_without_a_terminal_what_would_be_done_is_said_and_nothing_is_done(command, provider):
    journal("a", "b")
    refused = command("replay", "rebuild", "--all", "--apply")
    assert refused.code == 8
    assert "this would write 2 threads, but there is no terminal for the confirmation: add --yes" in refused.err
    assert provider.requests == []


def test_on_a_terminal_a_bar_shows_how_many_are_done_and_the_rate(command, provider):
    journal(*MANY[:20])
    code, shown = in_this_process(["replay", "rebuild", "--all", "--apply", "--yes"])
    assert code == 0
    assert "rebuilding" in shown
    assert "/20" in shown
    assert "/s" in shown


def test_replay_is_a_command_of_its_own(provider, capsys):
    from threadledger.cli import replay_main

    journal("a")
    assert replay_main(["rebuild", "--all", "--apply", "--yes", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
