"""`threadledger show` says which questions have no answer, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time

import threadledger
from threadledger.domain.conversation import Completion, Conversation, RunPlan, text_message
from threadledger.domain.failures import Failure
from threadledger.domain.ids import from_iso
from threadledger.domain.ledger import Ledger

from .conftest import Done

Command = Callable[..., Done]

NOON = from_iso("2026-11-01T12:00:00Z")
OVERLOADED = Failure("failed", code="server_error", message="The server is overloaded.")


@pytest.fixture
def ledger(db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    with freeze_time(NOON) as frozen, threadledger.open(db_url) as opened:
        opened.frozen = frozen  # type: ignore[attr-defined] - tests move the clock
        yield opened


def asked(it: Conversation) -> tuple[str, str]:
    exchange_id = it.ask(text_message("user", "Where is it?"))
    return exchange_id, it.start_run(exchange_id, RunPlan("chat", "gpt-4o"))


def failed(it: Conversation) -> str:
    exchange_id, run_id = asked(it)
    it.fail_run(run_id, OVERLOADED)
    it.abandon(exchange_id, "provider_error: The server is overloaded.")
    return run_id


def said(done: Done) -> list[str]:
    return [line.strip() for line in done.out.splitlines() if line.strip()]


def test_an_abandoned_question_is_followed_by_cause_advice_and_command(ledger: Ledger, command: Command) -> None:
    run_id = ledger.journal.commit("k", failed, create=True)
    ledger.conversation("k").append("user", "Hello?")
    lines = said(command("show", "k"))
    question = lines.index("Where is it?")
    assert lines[question + 1] == "not answered: provider_error (server_error: The server is overloaded.)"
    assert f"threadledger replay rerun {run_id[-8:]} --apply" in lines[question + 2]
    assert lines[question + 3] == f"see: threadledger audit show {run_id[-8:]}"
    assert lines[question + 4].startswith("user")
    (told,) = command("show", "k", "-o", "json").json["unanswered"]
    assert (told["state"], told["run_id"], told["cause"], told["version"]) == (
        "abandoned",
        run_id,
        "provider_error",
        2,
    )


def test_an_open_question_is_being_answered_until_its_run_is_overdue(ledger: Ledger, command: Command) -> None:
    _, run_id = ledger.journal.commit("k", asked, create=True)
    waiting = said(command("show", "k"))
    assert f"not answered yet: run {run_id} on chat is open until " in " ".join(waiting)
    assert waiting[-1] == "see: threadledger show k --view timeline"
    ledger.frozen.tick(timedelta(hours=1))  # type: ignore[attr-defined] - see the fixture
    left = said(command("show", "k"))
    assert "not answered: interrupted (the process stopped before the run ended)" in left
    assert left[-1] == f"see: threadledger audit show {run_id[-8:]}"


def test_a_question_that_a_process_left_before_its_first_run_is_named(ledger: Ledger, command: Command) -> None:
    ledger.journal.commit("it's k", lambda it: it.ask(text_message("user", "Where is it?")), create=True)
    assert said(command("show", "it's k"))[-2:] == [
        "not answered yet: no run was started",
        "see: threadledger show 'it'\"'\"'s k' --view timeline",
    ]


def test_the_failed_run_of_an_app_is_shown_behind_the_message_that_it_was_to_answer(
    ledger: Ledger, command: Command
) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Where is it?")
    with pytest.raises(RuntimeError), chat.run("own", "llama"):
        raise RuntimeError("out of memory")
    assert "not answered: unknown (RuntimeError: out of memory)" in said(command("show", "k"))
    with chat.run("own", "llama") as run:
        run.complete("In Bern.")
    assert "unanswered" not in command("show", "k", "-o", "json").json


def test_as_of_an_earlier_version_the_question_has_no_answer_yet(ledger: Ledger, command: Command) -> None:
    def answered(it: Conversation) -> Any:
        _, run_id = asked(it)
        it.complete_run(run_id, Completion((text_message("assistant", "In Bern."),)))

    ledger.journal.commit("k", answered, create=True)
    assert "unanswered" not in command("show", "k", "-o", "json").json
    (told,) = command("show", "k", "--at", "3", "-o", "json").json["unanswered"]
    assert (told["state"], told["version"]) == ("open", 2)


def test_what_is_not_shown_is_not_missed(ledger: Ledger, command: Command) -> None:
    ledger.journal.commit("k", failed, create=True)
    ledger.conversation("k").append("user", "Hello?")
    assert "unanswered" not in command("show", "k", "--last", "1", "-o", "json").json
    ledger.conversation("k").clear()
    assert "unanswered" not in command("show", "k", "-o", "json").json
