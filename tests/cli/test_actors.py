"""Every command that writes events does so in the name of its user, and the audit shows and filters by actors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time

import threadledger
from threadledger.domain.conversation import RunPlan
from threadledger.domain.ids import now

from .command_table import TABLE

pytestmark = pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning")

USER = "cli:tester"

LINE = json.dumps({"id": "imported", "messages": [{"role": "user", "content": "Hello."}]}).encode()

WRITING: dict[tuple[str, ...], tuple[tuple[str, ...], bytes]] = {
    ("append",): (("k", "user", "Hello."), b""),
    ("ask",): (("k", "Where is it?"), b""),
    ("chat",): (("k",), b"And the other one?\n"),
    ("describe",): (("k", "--title", "A parcel"), b""),
    ("message", "pin"): (("k", "MESSAGE"), b""),
    ("message", "rate"): (("k", "MESSAGE", "1"), b""),
    ("message", "edit"): (("k", "MESSAGE", "Where is the other one?"), b""),
    ("message", "regenerate"): (("k",), b""),
    ("branch", "select"): (("k", "MESSAGE"), b""),
    ("compact",): (("k", "--keep-last", "1"), b""),
    ("message", "retract"): (("k", "MESSAGE"), b""),
    ("fork",): (("k", "copy"), b""),
    ("import",): (("-",), LINE),
    ("audit", "resolve"): (("GROUP",), b""),
    ("audit", "mute"): (("GROUP",), b""),
    ("audit", "reopen"): (("GROUP",), b""),
    ("replay", "rebuild"): (("--all", "--fresh", "--apply", "--yes"), b""),
    ("replay", "rerun"): (("--failed", "--max-runs", "1", "--apply", "--yes"), b""),
    ("replay", "resume"): (("JOB", "--max-runs", "1", "--yes"), b""),
    ("replay", "cancel"): (("JOB",), b""),
    ("replay", "reconcile"): (("--all", "--apply", "--yes"), b""),
    ("delete",): (("k", "--apply", "--yes"), b""),
    ("serve", "keys", "add"): (("app", "--tenant", "acme"), b""),
    ("serve", "keys", "revoke"): (("app",), b""),
}
"""Commands that write events, in an order in which each has something to write, with arguments and standard input."""

WITHOUT_EVENTS = {
    *(("call", "approve"), ("call", "reject")),  # `test_calls.py` has a call that waits
    *(("init",), ("db", "restore"), ("db", "upgrade"), ("db", "rebuild-views"), ("blobs", "prune"), ("serve",)),
    *(("worker",), ("worker", "retry")),  # what a worker writes is tested with workers
}
"""Commands that change the database, but write no event of their own here."""


def written_since(url: str, position: int) -> list[Any]:
    with threadledger.open(url, read_only=True) as ledger:
        return list(ledger.events(after=position))


def leave_a_run_open(url: str, key: str) -> None:
    """Leave a run of an app whose deadline has passed, as a process does that was killed."""
    with freeze_time(now() - timedelta(hours=2)), threadledger.open(url, threads="none") as ledger:
        journal = ledger.journal
        ledger.conversation(key).append("user", "Where?")
        journal.commit(key, lambda conversation: conversation.start_run("x", RunPlan("mine", "llama")))


def leave_questions_unanswered(command: Callable[..., Any], provider: Any) -> None:
    """Leave three exchanges that every backend failed to answer."""
    provider.add_fault("*", refuse={"status": 400, "message": "no"}, times=100)
    assert [command("ask", key, "Why?").code for key in ("a", "b", "c")] == [1, 1, 1]
    provider.clear_faults()


def forget_a_message(command: Callable[..., Any], provider: Any) -> None:
    """Delete a message of a thread at the provider."""
    from openai import OpenAI

    thread_id = command("show", "k", "-o", "json").json["threads"]["assistants"]["thread_id"]
    with OpenAI(api_key="k", base_url=provider.base_url) as sdk:
        listed = sdk.beta.threads.messages.list(thread_id, order="asc").data
        sdk.beta.threads.messages.delete(listed[0].id, thread_id=thread_id)


def test_the_commands_that_write_are_in_the_table() -> None:
    writing = {path for path, entry in TABLE.items() if not entry.reads and not entry.without_ledger}
    assert writing <= WRITING.keys() | WITHOUT_EVENTS


def test_every_command_writes_its_events_in_the_name_of_its_user(
    command: Callable[..., Any], provider: Any, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    position, named = 0, {}
    for path, (arguments, stdin) in WRITING.items():
        if path == ("ask",):
            provider.add_fault("POST /threads/{thread_id}/runs", fail={})
        if path == ("replay", "rerun"):
            leave_questions_unanswered(command, provider)
        if path == ("replay", "reconcile"):
            forget_a_message(command, provider)
        if path == ("message", "pin"):
            named["MESSAGE"] = command("show", "k", "-o", "json").json["messages"][0]["message_id"]
        if path == ("audit", "resolve"):
            named["GROUP"] = command("audit", "groups", "-o", "json").json[0]["group"]
        if path == ("replay", "resume"):
            named["JOB"] = command("replay", "jobs", "-o", "json").json[0]["job"]
        done = command(*path, *(named.get(each, each) for each in arguments), stdin=stdin)
        written = written_since(db_url, position)
        assert {event.actor for event in written} <= {USER}, (path, done.err)
        assert written, (path, done)
        position = written[-1].position


def test_a_command_that_reads_closes_overdue_runs_in_the_name_of_its_user(
    command: Callable[..., Any], db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    leave_a_run_open(db_url, "k")
    position = written_since(db_url, 0)[-1].position
    assert len(command("audit", "failures", "-o", "json").json) == 1
    assert {(event.type, event.actor) for event in written_since(db_url, position)} >= {("RunFailed", USER)}


def fail_as(url: str, actor: str | None, key: str) -> None:
    with threadledger.open(url, threads="none") as ledger:
        chat = ledger.conversation(key)
        with suppress(TimeoutError), chat.run("mine", "llama", actor=actor):
            raise TimeoutError("too late")


@pytest.fixture
def audited(db_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger with failed runs of two actors and of nobody."""
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    for actor, key in (("support:anna", "a"), ("support:anna", "b"), ("bob", "a"), (None, "c")):
        fail_as(db_url, actor, key)
    return db_url


@pytest.mark.usefixtures("audited")
def test_the_audit_filters_by_actor(command: Callable[..., Any]) -> None:
    def read(*arguments: str) -> Any:
        return command(*arguments, "-o", "json").json

    found = read("audit", "failures", "--actor", "support:anna")
    assert [(each["key"], each["actor"]) for each in found] == [("a", "support:anna"), ("b", "support:anna")]
    assert read("audit", "failures", "--actor", "anna") == []
    (group,) = read("audit", "groups", "--actor", "support:anna")
    assert (group["runs"], group["conversations"]) == (2, 2)
    assert [(row["value"], row["failed"]) for row in read("audit", "summary", "--actor", "bob")] == [("timed_out", 1)]
    rows = read("audit", "summary", "--by", "actor")
    assert [(row["value"], row["failed"]) for row in rows] == [("support:anna", 2), (None, 1), ("bob", 1)]
    events = read("events", "--actor", "bob")
    assert {each["type"] for each in events} == {"RunStarted", "RunFailed", "ExchangeAbandoned"}
    assert {each["data"]["actor"] for each in events} == {"bob"}
    assert "support:anna" in command("audit", "summary", "--by", "actor").out


@pytest.mark.usefixtures("audited")
def test_tables_show_the_actor_only_where_there_is_one(command: Callable[..., Any]) -> None:
    (failure,) = command("audit", "failures", "--actor", "bob", "-o", "json").json
    assert failure["actor"] == command("audit", "show", failure["run_id"], "-o", "json").json["actor"] == "bob"
    assert "actor" in command("audit", "show", failure["run_id"]).out
    for arguments in (("show", "KEY", "--view", "timeline"), ("events", "KEY")):
        heads = [
            command(*(key if each == "KEY" else each for each in arguments)).out.split("type")[1].split("\n")[0]
            for key in ("a", "c")
        ]
        assert ["actor" in head for head in heads] == [True, False]


@pytest.mark.usefixtures("audited")
def test_failures_are_listed_in_pages(command: Callable[..., Any]) -> None:
    first = command("audit", "failures", "--limit", "2", "--cursor", "-o", "json").json
    assert [each["key"] for each in first["items"]] == ["a", "c"]
    second = command(
        "audit", "failures", "--limit", "2", "--cursor", "-o", "json", "--after", first["next_cursor"]
    ).json
    assert [each["actor"] for each in second["items"]] == ["support:anna", "support:anna"]
    assert second["next_cursor"] is None
    table = command("audit", "failures", "--limit", "2", "--since", "24h")
    assert table.err.splitlines()[-1].startswith("more: threadledger audit failures --limit 2 --since 24h --after p1.")
    rest = command("audit", "failures", "--since", "23h", "--after", first["next_cursor"], "-o", "json")
    assert rest.json == second["items"]
    assert "more:" not in command("audit", "failures").err


@pytest.mark.usefixtures("audited")
def test_a_cursor_that_does_not_fit_is_refused_in_one_sentence(command: Callable[..., Any]) -> None:
    cursor = command("audit", "failures", "--limit", "2", "--cursor", "-o", "json").json["next_cursor"]
    for arguments, said in (
        (("--after", cursor, "--actor", "bob"), "the cursor belongs to a list with other filters"),
        (("--after", "p1.x"), "'p1.x' is not a cursor of this list"),
        (("--cursor",), "--cursor needs -o json"),
        (("--after", cursor, "--follow"), "--follow never ends"),
    ):
        done = command("audit", "failures", *arguments)
        assert (done.code, done.out) == (2, ""), arguments
        assert said in done.err


@pytest.mark.parametrize("named", ["anna", "ann\udce9", None])
def test_a_user_without_a_storable_name_is_named_too(
    command: Callable[..., Any], db_url: str, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    if named is None:
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])  # a container's user has no entry
    else:
        monkeypatch.setenv("USER", named)
    assert command("append", "k", "user", "Hello.").code == 0
    expected = {"anna": "cli:anna", "ann\udce9": "cli:ann?", None: f"cli:{os.getuid()}"}[named]
    assert {event.actor for event in written_since(db_url, 0)} == {expected}
