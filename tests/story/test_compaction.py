"""A summary takes the place of older messages: nothing is lost, no call is separated from its result, and secrets stay away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.conversation import events as e
from threadledger.domain.errors import AllBackendsFailed, ConversationChanged, InvalidInput
from threadledger.domain.ledger import Ledger

Open = Callable[..., Ledger]
NOTES = "The customer has five parcels."
TURNS, EXCHANGES = (2_300, 50) if "THREADLEDGER_SOAK" in os.environ else (250, 8)
"""Length of a long conversation: 5,061 messages in the long form."""
CHAT = {"backends": ("chat",), "threads": "none", "retries": 0}


@pytest.fixture
def ledger(open_ledger: Open) -> Ledger:
    return open_ledger(**CHAT)


def texts(chat: Any, **view: Any) -> list[str]:
    return [each.message.text for each in chat.memory(**view).messages]


def filled(ledger: Ledger, turns: int) -> Any:
    """Return a conversation that begins with a system message; every tenth turn calls a tool."""
    chat = ledger.conversation("k")
    said: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    for turn in range(turns):
        said.append({"role": "user", "content": f"question {turn}"})
        if turn % 10 == 0:
            call = {"id": f"c{turn}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            said += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": f"result {turn}", "tool_call_id": f"c{turn}"},
            ]
        said.append({"role": "assistant", "content": f"answer {turn}"})
    chat.extend(said)
    return chat


def no_orphans(sent: list[dict[str, Any]]) -> bool:
    called = [call["id"] for each in sent for call in each.get("tool_calls") or ()]
    return sorted(called) == sorted(each["tool_call_id"] for each in sent if each["role"] == "tool")


def test_memory_begins_with_the_system_message_and_the_summary(ledger: Ledger, simulator: Any) -> None:
    chat = filled(ledger, 20)
    simulator.answer(NOTES)
    summary = chat.compact(4)
    assert texts(chat) == [
        *("Be brief.", f"Summary of the conversation so far:\n\n{NOTES}"),
        *("question 18", "answer 18", "question 19", "answer 19"),
    ]
    assert len(texts(chat, full=True)) == 45
    [shown] = [each for each in simulator.requests if each.template == "POST /chat/completions"]
    assert shown.body["messages"][-1]["content"] == "Write the notes of the conversation so far."
    assert shown.body["messages"][-2]["content"] == "answer 17"
    assert no_orphans(shown.body["messages"])
    assert chat.memory(last=20).messages[1].message_id == summary.message_id
    started = next(event for event in chat.events() if isinstance(event, e.RunStarted))
    memory = ledger.journal.memory("k", started.memory_version, leaf=started.memory_leaf_version)
    assert (started.shadow, memory.digest()) == (True, started.memory_hash)
    assert list(ledger.check()) == []


def test_a_question_that_a_summary_covers_is_run_again_with_the_messages_before_it(ledger: Ledger) -> None:
    chat = filled(ledger, 3)
    chat.ask("one more")
    chat.compact(1)
    assert texts(chat)[2:] == ["one more", "You said: one more"], "a question stays with its answer"
    chat.compact(1)
    chat.regenerate(
        next(each.message_id for each in chat.memory(full=True).messages if each.message.text == "answer 1")
    )
    assert texts(chat)[-3:] == ["answer 0", "question 1", "You said: question 1"]


def test_a_question_in_whose_place_a_summary_stands_is_edited_before_it_is_run_again(ledger: Ledger) -> None:
    chat = filled(ledger, 3)
    asked = chat.append("user", "one")
    chat.append("user", "two")
    chat.compact(1)
    with pytest.raises(InvalidInput, match="ends with the question"):
        chat.regenerate(asked.message_id)
    chat.edit(asked.message_id, "one, again")
    chat.regenerate()
    assert texts(chat)[-3:] == ["answer 2", "one, again", "You said: one, again"]


def test_a_summary_is_neither_edited_nor_selected_nor_pinned_and_search_says_that_it_is_shown(
    ledger: Ledger, simulator: Any
) -> None:
    chat = filled(ledger, 20)
    simulator.answer(NOTES)
    summary = chat.compact(4)
    for refused in (
        lambda: chat.edit(summary.message_id, "other"),
        lambda: chat.select_branch(summary.message_id),
        lambda: chat.pin(summary.message_id),
        lambda: chat.regenerate(summary.message_id),
    ):
        with pytest.raises(InvalidInput, match="is a summary"):
            refused()
    assert [each.in_memory for each in ledger.search("parcels")] == [True]
    assert [(each.in_memory, each.selected) for each in ledger.search("question 7")] == [(False, True)]
    assert [each.in_memory for each in ledger.search("question 19")] == [True]
    simulator.answer(NOTES)
    chat.ask("And now?")
    chat.compact(1)
    assert [each.in_memory for each in ledger.search("parcels")] == [True, False]


def test_a_summary_that_failed_leaves_no_question_waiting_and_is_not_rerun_as_an_answer(
    ledger: Ledger, simulator: Any
) -> None:
    chat = filled(ledger, 20)
    chat.ask("once more")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(
        AllBackendsFailed, match=r"no summary of 'k' was written: .*; memory is unchanged. Try again with"
    ):
        chat.compact(4)
    (failure,) = ledger.failures()
    assert (ledger.failures(unanswered=True), ledger.exchanges(unanswered=True)) == ([], [])
    assert [row.unanswered for row in ledger.summary("cause") if row.failed] == [0]
    assert ledger.replay.plan_rerun(failed=True).items == []
    for into in ("tail", "fork", "shadow"):
        (item,) = ledger.replay.plan_rerun([failure.run_id], into=into).items
        assert (item.state, item.kind) == ("skipped", "summary")


def test_a_long_conversation_with_a_pending_call_goes_on_without_an_orphan(
    open_ledger: Open, simulator: Any, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[[tools]]\nname = "pay"\napproval = true\n', encoding="utf-8")
    ledger = open_ledger({"pay": lambda: "paid"}, profile=profile, **CHAT)
    chat = filled(ledger, TURNS)
    simulator.answer({"tool_calls": [{"name": "pay", "arguments": {}}]})
    pending = chat.ask("Pay.").pending
    simulator.answer(NOTES)
    chat.compact()
    shown = chat.memory().messages
    assert shown[-1].message.calls()[0].id == pending[0].id
    assert shown[-2].message.text == "Pay."
    assert chat.approve(pending[0].id).text
    for number in range(EXCHANGES):
        chat.ask(f"And {number}?")
        sent = simulator.requests[-1].body["messages"]
        assert no_orphans(sent)
        assert len(sent) < 200
    [hit] = ledger.search(f'"answer {TURNS - 100}"')
    assert hit.snippet == f"answer {TURNS - 100}"


def test_pinned_messages_stay_and_a_second_summary_stands_for_the_first(ledger: Ledger, simulator: Any) -> None:
    chat = filled(ledger, 20)
    pinned = chat.memory().messages[4]
    chat.pin(pinned.message_id)
    simulator.answer("first notes", "second notes")
    chat.compact(10)
    chat.compact(2)
    assert texts(chat) == [
        *("Be brief.", pinned.message.text, "Summary of the conversation so far:\n\nsecond notes"),
        *("question 19", "answer 19"),
    ]
    sent = simulator.requests[-1].body["messages"]
    assert "Summary of the conversation so far:\n\nfirst notes" in [each["content"] for each in sent]
    chat.pin(pinned.message_id, False)
    assert pinned.message.text not in texts(chat)


def test_a_retracted_secret_does_not_come_back_through_a_summary(ledger: Ledger, simulator: Any) -> None:
    chat = filled(ledger, 20)
    secret = chat.memory().messages[1].message_id
    simulator.answer(NOTES)
    chat.compact(4)
    chat.retract(secret)
    assert texts(chat) == [text for text in texts(chat, full=True) if text != "question 0"]
    assert not any(NOTES in text for text in texts(chat))


def test_a_message_that_is_retracted_while_the_summary_is_written_prevents_it(
    open_ledger: Open, simulator: Any
) -> None:
    ledger = open_ledger(**CHAT)
    chat = filled(ledger, 20)
    secret = chat.memory().messages[1].message_id
    simulator.answer(NOTES)
    asked = ledger.services.backends["chat"].answer

    def meanwhile(request: Any) -> Any:
        chat.retract(secret)
        return asked(request)

    ledger.services.backends["chat"].answer = meanwhile  # type: ignore[method-assign] # what another process does
    with pytest.raises(ConversationChanged, match="nothing was compacted"):
        chat.compact(4)
    assert not any(isinstance(event, e.MemoryCompacted) for event in chat.events())


def test_nothing_is_summed_up_twice_or_if_there_is_too_little(ledger: Ledger, simulator: Any) -> None:
    chat = filled(ledger, 3)
    assert chat.compact() is None
    chat = filled(ledger, 20)
    simulator.answer(NOTES)
    chat.compact(4)
    assert chat.compact(4) is None
    with pytest.raises(InvalidInput, match="keep_last=0"):
        chat.compact(0)
    assert Counter(type(event).__name__ for event in chat.events())["MemoryCompacted"] == 1


def test_a_summary_that_no_backend_writes_changes_nothing(ledger: Ledger, simulator: Any) -> None:
    chat = filled(ledger, 20)
    before = texts(chat)
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.compact(4)
    assert texts(chat) == before
    assert ledger.state("k").unanswered == 0


def test_a_conversation_that_becomes_too_long_is_compacted_before_a_question(open_ledger: Open, simulator: Any) -> None:
    ledger = open_ledger(**CHAT, compact_at_tokens=300, compact_keep_last=4)
    chat = filled(ledger, 5)
    simulator.answer("Here.")
    chat.ask("Short enough?")
    assert not any(isinstance(event, e.MemoryCompacted) for event in chat.events())
    chat = filled(ledger, 60)
    simulator.answer(NOTES, "Here again.")
    assert chat.ask("And now?").text == "Here again."
    assert any(NOTES in text for text in texts(chat))
    assert len(texts(chat)) < 12
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    filled(ledger, 60)
    assert chat.ask("Even if the summary fails?").text


@pytest.mark.parametrize("kind", ["conversations", "assistants"])
def test_the_thread_is_written_again_from_the_shortened_memory(open_ledger: Open, simulator: Any, kind: str) -> None:
    backends = ("responses",) if kind == "conversations" else ("assistants", "chat")
    ledger = open_ledger(backends=backends, threads=kind)
    chat = ledger.conversation("k")
    for number in range(8):
        chat.ask(f"question {number}")
    before = ledger.state("k").links[kind].thread_id
    simulator.answer(NOTES)
    chat.compact(4)
    assert ledger.state("k").links[kind].thread_id != before
    assert [each.as_json()["state"] for each in ledger.replay.verify(["k"])] == ["same"]
    chat.ask("and now?")
    assert [each.as_json()["state"] for each in ledger.replay.verify(["k"])] == ["same"]


def test_a_fork_has_the_full_path_and_the_summary(ledger: Ledger, simulator: Any) -> None:
    chat = filled(ledger, 20)
    simulator.answer(NOTES)
    chat.compact(4)
    copy = ledger.fork("k", "copy")
    assert texts(copy) == texts(chat)
    assert texts(copy, full=True) == texts(chat, full=True)
    assert texts(copy, last=3) == texts(chat, last=3)


KILLED = """
import os, sys, threadledger
given = {"openai_api_key": "k", "openai_base_url": sys.argv[2], "backends": ("chat",), "threads": "none"}
chat = threadledger.open(sys.argv[1], **given).conversation("k")
import threadledger.domain.exchange.runs as runs, threadledger.domain.exchange.compacting as compacting
def kill(*_): os.kill(os.getpid(), 9)
if sys.argv[3] == "before": runs.Runs.call = kill
if sys.argv[3] == "answered": compacting.SummaryRecords.complete = kill
if sys.argv[3] == "after": compacting.Conversing = None; chat._conversing.__class__.mirror = kill
chat.compact(4)
"""


@pytest.mark.parametrize("where", ["before", "answered", "after"])
def test_a_killed_compaction_happened_whole_or_not_at_all(
    where: str, ledger: Ledger, db_url: str, simulator: Any
) -> None:
    chat = filled(ledger, 20)
    before = texts(chat)
    simulator.answer(NOTES)
    arguments = [sys.executable, "-c", KILLED, db_url, simulator.base_url, where]
    killed = subprocess.run(arguments, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    if where == "after":
        assert len(texts(chat)) == 6
    else:
        assert texts(chat) == before
        simulator.answer(NOTES)
        assert chat.compact(4) is not None
    assert list(ledger.check()) == []
