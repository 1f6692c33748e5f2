"""What was read is durable before it leaves the ledger: an event that others see and a crash takes away would be a lie.

PostgreSQL shows an event before it is durable. Here SQLite pretends to do the same; each place that waits is named, so
that none of them can be lost without a test that fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import export_lines, export_markdown
from threadledger.adapters.sql.connections import Connections
from threadledger.adapters.sql.sqlite import SQLite


class Waits:
    """Record the functions that wait, without those that only pass the call on."""

    def __init__(self) -> None:
        self.places: set[str] = set()

    def note(self) -> None:
        frame = sys._getframe(2)
        while frame.f_code.co_name in {"wait_until_durable", "<lambda>"}:
            assert frame.f_back is not None
            frame = frame.f_back
        self.places.add(frame.f_code.co_qualname)

    def during(self, act: Callable[[], Any]) -> set[str]:
        self.places.clear()
        act()
        return set(self.places)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    found = Waits()
    wait = Connections.wait_until_durable

    def noted(database: Connections) -> None:
        found.note()
        wait(database)

    monkeypatch.setattr(SQLite, "flush", "SELECT 1")
    monkeypatch.setattr(Connections, "wait_until_durable", noted)
    yield found


EFFECT = "performed"
"""Function of the driver that performs an effect: the one that waits has yielded it."""


def test_every_reader_whose_events_leave_the_ledger_waits_until_they_are_durable(
    story_ledger: Callable[..., Any], waits: Waits, simulator: Any, tmp_path: Path
) -> None:
    ledger = story_ledger()
    chat, recorder, replay = ledger.conversation("k"), ledger.journal.recorder, ledger.replay
    answer = chat.ask("Where is my parcel?")
    readers: dict[str, Callable[[], Any]] = {
        "LinkedThread.newer_items": lambda: chat.append("user", "And the other one?"),
        "LogPages._wait_until_durable": lambda: list(ledger.events()),
        "LogPages.last_cursor": ledger.journal.last_cursor,
        "Recorder.select_notifications": lambda: recorder.select_notifications(1, 10),
        "conversation_as_line": lambda: list(export_lines(ledger, ["k"])),
        "conversation_as_markdown": lambda: list(export_markdown(ledger, ["k"])),
        "_copy": lambda: ledger.copy_to(str(tmp_path / "copy.db")),
        "FileRebuildPlan._messages": lambda: replay.plan_rebuild_file(tmp_path / "memory.jsonl").apply(),
        "Reconciler._look": lambda: replay.plan_reconcile(["k"]).apply(),
    }
    for place, read in readers.items():
        assert place in waits.during(read)
    assert "LogPages._wait_until_durable" in waits.during(lambda: next(ledger.events(follow=True)))
    assert EFFECT in waits.during(lambda: chat.rerun(answer.exchange_id))  # its answer is returned, not run again
    assert EFFECT in waits.during(lambda: replay.plan_rebuild(["k"], fresh=True).apply())
    simulator.add_fault("POST /threads/{thread_id}/messages", lose_answer=True)
    assert "LinkedThread.items" in waits.during(lambda: chat.append("user", "Is anybody there?"))


def test_a_backup_of_a_server_is_a_copy_and_waits(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from threadledger.adapters.sql import Database, Factory
    from threadledger.domain.journal import Journal
    from threadledger.domain.ledger import Ledger

    waits = Waits()
    monkeypatch.setattr(Connections, "wait_until_durable", lambda _: waits.note())
    with Ledger(Journal(Factory(database=Database(postgres_url)))) as ledger:
        ledger.conversation("k").append("user", "hi")
        assert waits.during(lambda: ledger.back_up(tmp_path / "backup.db")) == {"_copy"}
