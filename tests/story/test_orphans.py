"""Threads that a process created and that a crash kept from being linked are recorded, found and deleted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters.sql import SqlMirrorHeads
from threadledger.domain.conversation.events import ThreadLost
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger
from threadledger.domain.replay import OrphanItem
from threadledger.domain.threads import ThreadState

KINDS = {"assistants": "POST /threads", "conversations": "POST /conversations"}
EVERY = pytest.mark.parametrize("kind", KINDS)


class Killed(BaseException):
    """Raised where a process is killed."""


def threads_at(simulator: Any, kind: str) -> set[str]:
    return set(simulator.provider.threads if kind == "assistants" else simulator.provider.conversations)


def linked(ledger: Ledger, kind: str) -> str:
    return ledger.state("k").links[kind].thread_id


def killed_before_the_link(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Append the first message, and stop the process after the thread was created."""
    commit = Journal.commit

    def stop_at_the_link(journal: Journal, key: str, decide: Any, create: bool = False, also: Any = None) -> Any:
        if also is not None:
            raise Killed
        return commit(journal, key, decide, create)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "commit", stop_at_the_link)
        ledger.conversation("k").append("user", "Hello")


def later() -> Any:
    return freeze_time(now() + timedelta(minutes=11), ignore=["eventsourcing.persistence"])


@EVERY
def test_a_thread_that_a_crash_kept_from_being_linked_is_deleted_and_recorded_as_lost(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(threads=kind)
    killed_before_the_link(ledger, monkeypatch)
    (orphan,) = threads_at(simulator, kind)
    ledger.conversation("k").append("user", "Hello again")
    assert ledger.replay.plan_orphans().items == []  # its process may still be about to link it
    with later():
        (planned,) = ledger.replay.plan_orphans().items
        assert (planned.key, planned.backend, planned.thread_id, planned.state) == ("k", kind, orphan, "planned")
        assert threads_at(simulator, kind) == {orphan, linked(ledger, kind)}
        (item,) = ledger.replay.plan_orphans().apply()
        assert item.state == "done"
        assert threads_at(simulator, kind) == {linked(ledger, kind)}
        assert ledger.replay.plan_orphans().items == []
    (lost,) = [each.event for each in ledger.events(types=["ThreadLost"])]
    assert isinstance(lost, ThreadLost)
    assert (lost.thread_id, lost.endpoint) == (orphan, simulator.base_url)
    assert [each.found.state for each in ledger.replay.verify()] == [ThreadState.SAME]


@EVERY
def test_a_creation_that_was_not_acknowledged_is_reported_and_forgotten(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str
) -> None:
    ledger = open_ledger(threads=kind)
    simulator.add_fault(KINDS[kind], lose_answer=True)
    ledger.conversation("k").append("user", "Hello")
    with later():
        (item,) = ledger.replay.plan_orphans().apply()
        assert (item.state, item.thread_id) == ("done", None)
        assert "its creation was not acknowledged" in item.reason
        assert ledger.replay.plan_orphans().items == []


@EVERY
def test_a_refused_creation_leaves_no_record(open_ledger: Callable[..., Ledger], simulator: Any, kind: str) -> None:
    ledger = open_ledger(threads=kind)
    simulator.add_fault(KINDS[kind], refuse={"status": 401})
    ledger.conversation("k").append("user", "Hello")
    with later():
        assert ledger.replay.plan_orphans().items == []


@EVERY
def test_a_thread_is_deleted_at_once_if_another_process_linked_one_first(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, other = open_ledger(threads=kind), open_ledger(threads=kind)
    note = SqlMirrorHeads.note_creation

    def other_is_first(heads: SqlMirrorHeads, creation: Any) -> None:
        note(heads, creation)
        if creation.thread_id is not None:
            monkeypatch.setattr(SqlMirrorHeads, "note_creation", note)
            other.conversation("k").append("user", "And mine?")

    monkeypatch.setattr(SqlMirrorHeads, "note_creation", other_is_first)
    ledger.conversation("k").append("user", "Hello")
    assert threads_at(simulator, kind) == {linked(ledger, kind)}
    with later():
        assert ledger.replay.plan_orphans().items == []
    assert [each.found.state for each in ledger.replay.verify()] == [ThreadState.SAME]


def test_a_thread_that_the_log_names_is_never_deleted_whatever_its_record_says(
    open_ledger: Callable[..., Ledger], simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(threads="conversations")
    monkeypatch.setattr(SqlMirrorHeads, "_linked", lambda *arguments: lambda cursor: None)  # the record stays
    ledger.conversation("k").append("user", "Hello")
    with later():
        (item,) = ledger.replay.plan_orphans().apply()
        assert (item.state, item.reason) == ("done", "it is linked: only its record was removed")
    assert threads_at(simulator, "conversations") == {linked(ledger, "conversations")}


def test_threads_of_another_provider_and_of_one_that_refuses_are_kept_with_their_records(
    open_ledger: Callable[..., Ledger], simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(threads="conversations")
    killed_before_the_link(ledger, monkeypatch)
    elsewhere = open_ledger(threads="conversations", openai_base_url="http://127.0.0.1:9/v1")
    with later():
        (item,) = elsewhere.replay.plan_orphans().apply()
        assert item.state == "skipped"
        simulator.add_fault("DELETE /conversations/{conversation_id}", refuse={"status": 500})
        (item,) = ledger.replay.plan_orphans().apply()
        assert item.state == "failed"
        assert [each.state for each in ledger.replay.plan_orphans().apply()] == ["done"]


def test_a_rebuild_and_the_note_of_its_thread_are_one_commit(
    open_ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(threads="conversations")
    ledger.conversation("k").append("user", "Hello")
    before = linked(ledger, "conversations")

    def killed(cursor: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SqlMirrorHeads, "written", lambda *arguments: killed)
        ledger.replay.plan_rebuild(["k"], fresh=True).apply()
    assert [each.event for each in ledger.events(types=["ThreadRebuilt"])] == []
    assert linked(ledger, "conversations") == before
    with later():
        (item,) = ledger.replay.plan_rebuild(["k"], fresh=True).apply()
        assert item.state == "done"
        assert ledger.replay.plan_orphans().items == []
    assert [each.found.state for each in ledger.replay.verify()] == [ThreadState.SAME]


@pytest.mark.parametrize("goes_on", [True, False])
def test_the_thread_of_a_rebuild_that_was_killed_is_resumed_within_a_day_and_deleted_after_it(
    open_ledger: Callable[..., Ledger], simulator: Any, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    ledger = open_ledger(threads="conversations")
    ledger.conversation("k").append("user", "Hello")
    note = SqlMirrorHeads.note_unfinished

    def stop(*arguments: Any) -> None:
        note(*arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SqlMirrorHeads, "note_unfinished", stop)
        ledger.replay.plan_rebuild(["k"], fresh=True).apply()
    (unfinished,) = threads_at(simulator, "conversations") - {linked(ledger, "conversations")}
    if goes_on:
        ledger.conversation("k").append("user", "Hello again")
    with later():
        assert ledger.replay.plan_orphans().items == []
    with freeze_time(now() + timedelta(hours=25), ignore=["eventsourcing.persistence"]):
        (item,) = ledger.replay.plan_orphans().apply()
        assert (item.thread_id, item.state) == (unfinished, "done")
        (rebuilt,) = ledger.replay.plan_rebuild(["k"], fresh=True).apply()  # it may look for the deleted thread
        assert rebuilt.state == "done"
        assert ledger.replay.plan_orphans().items == []
    assert [each.found.state for each in ledger.replay.verify()] == [ThreadState.SAME]


def test_the_command_shows_the_plan_and_deletes_when_it_is_applied(
    open_ledger: Callable[..., Ledger],
    simulator: Any,
    monkeypatch: pytest.MonkeyPatch,
    db_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from threadledger.cli import main

    killed_before_the_link(open_ledger(threads="conversations"), monkeypatch)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    command = ("--db", db_url, "replay", "reconcile", "--orphans")
    with later():
        assert main([*command]) == 0
        assert "delete 1 thread without a link; nothing was done; pass --apply" in capsys.readouterr().err
        assert main([*command, "--apply"]) == 8
        assert main([*command, "--apply", "--yes"]) == 0
        assert "1 deleted" in capsys.readouterr().err
        assert main([*command, "-o", "json"]) == 0
        assert capsys.readouterr().out.strip() == "[]"
        assert main([*command, "k"]) == 2
    assert threads_at(simulator, "conversations") == set()


def test_an_orphan_is_shown_as_json_with_its_fields_in_their_order() -> None:
    item = OrphanItem("k", "conversations", "conv_1", "http://127.0.0.1/v1", "2026-11-29T12:00:00.000000Z")
    assert list(item.as_json()) == ["key", "backend", "thread_id", "endpoint", "created_at", "state", "reason"]
