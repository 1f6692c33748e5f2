"""Run the examples and check their output."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import threadledger

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the tests run against the wheel, without the tree")


def test_an_app_records_the_runs_of_its_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_model.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "failed: the model did not answer in time",
        "answer: I have read 1 message(s).",
        "audit:  timed_out - TimeoutError: the model did not answer in time",
    ]


def test_the_same_request_twice_is_answered_and_paid_once(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    runpy.run_path(str(EXAMPLES / "support_chat.py"), run_name="__main__")
    first, second, count = capsys.readouterr().out.splitlines()
    assert first == second == "{'status': 200, 'text': 'You said: Where is my parcel?', 'fallback': False}"
    assert count == "messages journaled: 2"
    assert len(simulator.provider.responses) == 1


def test_an_app_with_a_loop_of_its_own_has_its_calls_recorded(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    simulator.answer({"tool_calls": [{"name": "find_parcel", "arguments": {"id": 7}}]}, "It is in Lyon.")
    simulator.add_fault("POST /chat/completions", refuse={"status": 503, "headers": {"retry-after-ms": "1"}})
    runpy.run_path(str(EXAMPLES / "own_loop.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "answer: It is in Lyon.",
        "run:    chat failed attempt 1",
        "run:    chat completed attempt 2",
        "run:    chat completed attempt 1",
        "audit:  provider_error - retried",
        "memory: user, assistant, tool, assistant",
    ]


def test_an_app_that_falls_back_and_posts_into_its_thread_has_one_question_one_answer_and_a_fallback(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    simulator.answer("It is in Lyon.")
    error = {"code": "server_error", "message": "Sorry, something went wrong."}
    simulator.add_fault("POST /threads/{thread_id}/runs", fail=error)
    runpy.run_path(str(EXAMPLES / "assistants_app.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "run failed: Sorry, something went wrong.",
        "answer:     It is in Lyon.",
        "audit:      provider_error - fallback",
        "memory:     user, assistant",
        "rebuilt:    same",
    ]
    with threadledger.open("sqlite:///assistants_app.db") as ledger:
        names = [type(event).__name__ for event in ledger.conversation("customer-42").events()]
        (fallback,) = [event.event for event in ledger.events(types=["FallbackUsed"])]
        assert names.count("RunFailed") == names.count("FallbackUsed") == names.count("RunCompleted") == 1
        assert (fallback.from_backend, fallback.to_backend) == ("assistants", "chat")
        assert fallback.reason == "provider_error: server_error: Sorry, something went wrong."
        assert [failure.answered_by is not None for failure in ledger.failures()] == [True]
        assert ledger.state("customer-42").unanswered == 0


def test_an_app_that_edits_and_regenerates_has_the_memory_that_its_user_sees(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    simulator.answer("In Lyon.", "In Oslo.", "In Rome.", "Tomorrow.", "On Friday.", "You are welcome.")
    runpy.run_path(str(EXAMPLES / "edit_and_regenerate.py"), run_name="__main__")
    begin = "Where is my parcel? | In Lyon."
    edited = f"{begin} | And the blue one? | In Rome. | When does it arrive?"
    seen, aside = "  as the user sees it; threads: same", "  the answer is aside; threads: same"
    assert capsys.readouterr().out.splitlines() == [
        *(f"asked: {begin} | And the other one? | In Oslo.", seen),
        *(f"edited: {begin} | And the other one? | In Oslo.", aside),
        *(f"continued: {edited} | Tomorrow.", seen),
        *(f"regenerated: {edited} | Tomorrow.", aside),
        *(f"continued: {edited} | On Friday. | Thank you. | You are welcome.", seen),
        "variants: And the other one? / And the blue one?",
        "variants: Tomorrow. / On Friday.",
    ]
    with threadledger.open("sqlite:///edit_and_regenerate.db") as ledger:
        assert {each.found.state.value for each in ledger.replay.verify()} == {"same"}
        assert len(ledger.replay.verify()) == 2
        assert ledger.state("customer-42").messages == 11
