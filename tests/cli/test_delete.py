"""`threadledger delete`: it shows what would be deleted, and does it only with --apply and a confirmation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import threadledger

from .conftest import Done

Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def one_database(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands use the database that a test opens itself."""
    monkeypatch.setenv("THREADLEDGER_DB", db_url)


@pytest.fixture
def two(command: Command) -> None:
    for key in ("a", "b"):
        command("append", key, "user", f"hello {key}")
    command("describe", "a", "--title", "Old title")


@pytest.mark.usefixtures("two")
def test_without_apply_nothing_is_deleted(command: Command) -> None:
    planned = command("delete", "a", "b", "a", "-o", "json")
    assert [(each["key"], each["title"], each["state"]) for each in planned.json] == [
        ("a", "Old title", "planned"),
        ("b", None, "planned"),
    ]
    assert "nothing was deleted: add --apply" in planned.err
    refused = command("delete", "a", "--apply")
    assert (refused.code, "delete 1 conversation" in refused.err) == (8, True)
    assert len(command("list", "-o", "json").json) == 2


@pytest.mark.usefixtures("two")
def test_what_is_deleted_is_in_the_log_alone(command: Command) -> None:
    done = command("delete", "a", "--apply", "--yes", "--reason", "asked for", "-o", "json")
    assert (done.code, [(each["key"], each["state"]) for each in done.json]) == (0, [("a", "done")])
    for arguments in (
        ("show", "a"),
        ("events", "a"),
        ("delete", "a"),
        ("export", "a"),
        ("fork", "a", "c"),
        ("diff", "a", "1.."),
    ):
        refused = command(*arguments)
        assert (refused.code, "no conversation 'a'" in refused.err) == (6, True), arguments
    assert [each["key"] for each in command("list", "-o", "json").json] == ["b"]
    assert [each["key"] for each in command("search", "hello", "-o", "json").json] == ["b"]
    assert "hello a" not in command("export", "--all").out
    last = command("events", "-o", "json").json[-1]
    assert (last["key"], last["type"], last["data"]["reason"]) == ("a", "ConversationDeleted", "asked for")
    assert command("db", "status", "-o", "json").json["conversations"] == 1
    assert command("db", "check").code == 0
    command("append", "a", "user", "again")
    shown = command("show", "a", "-o", "json").json
    assert [each["content"] for each in shown["messages"]] == ["again"]
    refused = command("show", "a", "--at", "2")
    assert (refused.code, "which was deleted: give a version from 5 on" in refused.err) == (2, True)


def test_one_unknown_key_deletes_nothing(command: Command) -> None:
    command("append", "a", "user", "hello")
    assert command("delete", "a", "nobody", "--apply", "--yes").code == 6
    assert len(command("list", "-o", "json").json) == 1


def test_a_conversation_that_is_being_answered_is_reported_and_the_others_are_deleted(
    command: Command, db_url: str
) -> None:
    assert command("append", "a", "user", "hello").code == 0
    with threadledger.open(db_url, threads="none") as ledger, ledger.conversation("busy").run("mine", "llama") as run:
        done = command("delete", "busy", "a", "--apply", "--yes", "-o", "json")
        assert (done.code, [each["state"] for each in done.json]) == (3, ["failed", "done"])
        assert "is being answered" in done.json[0]["reason"]
        run.complete("yes")
    assert [each["key"] for each in command("list", "-o", "json").json] == ["busy"]


def test_threads_that_remain_and_failures_are_named(command: Command, db_url: str) -> None:
    with threadledger.open(db_url, threads="none") as ledger:
        chat = ledger.conversation("k")
        chat.append("user", "hello")
        ledger.journal.commit("k", lambda it: it.link_thread("conversations", "conv_123", "https://api.openai.com/v1"))
        with pytest.raises(TimeoutError), chat.run("mine", "llama") as run:
            raise TimeoutError("too late")
    assert "these threads would remain at the provider: conv_123" in command("delete", "k").err
    done = command("delete", "k", "--apply", "--yes")
    assert "these threads remain at the provider: conv_123" in done.err
    assert [each["run_id"] for each in command("audit", "failures", "-o", "json").json] == [run.run_id]
    assert command("audit", "show", run.run_id, "-o", "json").json["key"] == "k"
    rerun = command("replay", "rerun", run.run_id)
    assert (rerun.code, "was deleted: it cannot be run again" in rerun.err) == (6, True)
