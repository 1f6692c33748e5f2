"""An app edits and regenerates: memory is what the user sees, every variant is kept, and each answer belongs to its question."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.conversation import events as e
from threadledger.domain.errors import (
    AllBackendsFailed,
    ConversationBusy,
    ConversationChanged,
    IdempotencyConflict,
    InvalidInput,
    InvalidMessage,
    MessageNotFound,
    RunNotOpen,
)
from threadledger.domain.ledger import Ledger

Open = Callable[..., Ledger]


def said(chat: Any) -> list[str]:
    return [each.message.text.removeprefix("You said: ") for each in chat.memory().messages]


@pytest.fixture
def chat(open_ledger: Open) -> Any:
    return open_ledger(backends=("chat",), threads="none", retries=0).conversation("k")


def asked(chat: Any, *questions: str) -> list[Any]:
    return [chat.ask(question) for question in questions]


def question_of(chat: Any, text: str) -> str:
    return next(each.message_id for each in chat.memory().messages if each.message.text == text)


def test_an_edit_ends_memory_with_the_new_question_and_regenerate_answers_it(chat: Any) -> None:
    asked(chat, "one", "two")
    edited = chat.edit(question_of(chat, "one"), "uno")
    assert said(chat) == ["uno"]
    answer = chat.regenerate()
    assert (said(chat), answer.selected) == (["uno", "uno"], True)
    assert chat.memory().messages[0].message_id == edited.message_id


def test_a_regenerated_answer_takes_the_place_of_the_old_one_which_stays_a_variant(chat: Any) -> None:
    first, second = asked(chat, "one", "two")
    again = chat.regenerate()
    assert [each.message_id for each in chat.memory().messages[-1:]] == [again.message_id]
    assert said(chat) == ["one", "one", "two", "two"]
    variants = chat.variants(again.message_id)
    assert [(each.message_id, each.selected) for each in variants] == [
        (second.message_id, False),
        (again.message_id, True),
    ]
    assert chat.variants(first.message_id)[0].selected


def test_any_earlier_answer_can_be_regenerated_and_what_followed_it_is_left(chat: Any) -> None:
    first, _ = asked(chat, "one", "two")
    again = chat.regenerate(first.message_id)
    assert said(chat) == ["one", "one"]
    assert again.exchange_id != first.exchange_id
    assert chat.select_branch(first.message_id).message.text == "You said: two"
    assert said(chat) == ["one", "one", "two", "two"]


def test_selecting_a_message_brings_back_the_newest_end_of_its_branch_or_just_the_message(chat: Any) -> None:
    asked(chat, "one", "two")
    original = question_of(chat, "two")
    chat.edit(original, "zwei")
    chat.regenerate()
    assert chat.select_branch(original).message.text == "You said: two"
    assert said(chat) == ["one", "one", "two", "two"]
    chat.select_branch(original, here=True)
    assert said(chat) == ["one", "one", "two"]
    chat.ask("and more")
    assert said(chat) == ["one", "one", "two", "and more", "and more"]


def test_the_branches_of_a_conversation_are_listed_with_the_message_at_which_they_part(chat: Any) -> None:
    asked(chat, "one", "two")
    shared = chat.memory().messages[1].message_id
    chat.edit(question_of(chat, "two"), "zwei")
    branches = chat.branches()
    assert [(each.end.message.text, each.selected, each.messages) for each in branches] == [
        ("You said: two", False, 4),
        ("zwei", True, 3),
    ]
    assert [each.forked_from for each in branches] == [shared, None]


def test_a_question_without_an_answer_is_answered_in_its_own_exchange(chat: Any, simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed) as refused:
        chat.ask("one")
    answer = chat.regenerate()
    assert answer.exchange_id == refused.value.exchange_id
    assert said(chat) == ["one", "one"]
    assert chat._journal.require("k").state.unanswered == 0


def test_an_edited_question_that_no_backend_answered_is_answered_by_regenerating_again(
    chat: Any, simulator: Any
) -> None:
    asked(chat, "one")
    chat.edit(question_of(chat, "one"), "uno")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed) as refused:
        chat.regenerate()
    assert said(chat) == ["uno"]
    assert chat._journal.require("k").state.unanswered == 1
    answer = chat.regenerate()
    assert answer.exchange_id == refused.value.exchange_id
    assert said(chat) == ["uno", "uno"]
    assert chat._journal.require("k").state.unanswered == 0


def test_a_regeneration_that_fails_leaves_the_old_answer_and_counts_nobody_as_waiting(
    chat: Any, simulator: Any
) -> None:
    asked(chat, "one")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.regenerate()
    assert said(chat) == ["one", "one"]
    assert waiting(chat) == (0, 0, 0, 0)
    chat.ask("two")
    assert said(chat) == ["one", "one", "two", "two"]


def waiting(chat: Any) -> tuple[int, ...]:
    """Return how many exchanges wait for an answer, as each part of the product counts them."""
    ledger = Ledger(chat._journal, chat._services)
    rows = [row.unanswered for row in ledger.summary("backend")]
    return (
        chat._journal.require("k").state.unanswered,
        len(ledger.failures(unanswered=True)),
        len(ledger.exchanges(unanswered=True)),
        sum(rows),
    )


@pytest.fixture
def failed_again(chat: Any, simulator: Any) -> str:
    """A conversation of two questions; return the exchange that failed to answer the second once more."""
    asked(chat, "one", "two")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed) as refused:
        chat.regenerate()
    return refused.value.exchange_id


def test_a_regeneration_that_is_rerun_brings_the_new_answer_and_no_other_question_is_taken_for_answered(
    chat: Any, failed_again: str, simulator: Any
) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.ask("three")
    assert waiting(chat) == (1, 1, 1, 1)
    assert not chat.rerun(failed_again).selected
    assert (waiting(chat), said(chat)) == ((1, 1, 1, 1), ["one", "one", "two", "two", "three"])


@pytest.mark.parametrize("how", ["chat", "plan"])
def test_a_regeneration_that_is_rerun_at_once_is_selected(chat: Any, failed_again: str, how: str) -> None:
    if how == "chat":
        chat.rerun(failed_again)
    else:
        ledger = Ledger(chat._journal, chat._services)
        assert ledger.replay.plan_rerun(failed=True).items == []
        (failure,) = ledger.failures()
        (item,) = ledger.replay.plan_rerun([failure.run_id]).apply()
        assert item.state == "answered", item.reason
    assert said(chat) == ["one", "one", "two", "two"]
    assert [each.selected for each in chat.variants(chat.memory().messages[-1].message_id)] == [False, True]


def test_a_regeneration_that_newer_messages_overtook_is_rerun_aside_where_that_is_asked_for(
    chat: Any, failed_again: str
) -> None:
    ledger = Ledger(chat._journal, chat._services)
    (failure,) = ledger.failures()
    chat.ask("three")
    (item,) = ledger.replay.plan_rerun([failure.run_id]).items
    assert (item.state, item.kind) == ("skipped", "overtaken")
    (item,) = ledger.replay.plan_rerun([failure.run_id], include=["overtaken"]).apply()
    assert item.state == "answered", item.reason
    assert said(chat) == ["one", "one", "two", "two", "three", "three"]
    assert [each.selected for each in chat.variants(chat.memory().messages[3].message_id)] == [True, False]


def test_a_question_on_a_branch_that_was_left_is_not_asked_again_before_it_is_selected(
    chat: Any, simulator: Any
) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.ask("one")
    left = question_of(chat, "one")
    chat.edit(left, "uno")
    chat.regenerate()
    plan = Ledger(chat._journal, chat._services).replay.plan_rerun
    (item,) = plan(failed=True).items
    assert (item.state, item.kind) == ("skipped", "gone")
    assert "is on another branch" in item.reason
    chat.select_branch(left)
    (item,) = plan(failed=True).apply()
    assert (item.state, said(chat)) == ("answered", ["one", "one"])


def test_a_conversation_with_branches_is_reproduced_run_by_run(chat: Any) -> None:
    first, _ = asked(chat, "one", "two")
    again = chat.regenerate(first.message_id)
    chat.ask("three")
    chat.edit(question_of(chat, "three"), "drei")
    chat.regenerate()
    journal = chat._journal
    for event in list(journal.history("k")):
        if isinstance(event, e.RunStarted):
            memory = journal.memory("k", event.memory_version, leaf=event.memory_leaf_version)
            assert memory.by_rule(event.memory_rule, event.memory_first_version).digest() == event.memory_hash
            assert event.path_hash == memory.digest()
    assert again.selected


def test_while_a_run_is_open_edit_regenerate_and_select_are_refused(open_ledger: Open) -> None:
    chat = open_ledger(backends=("chat",), threads="none").conversation("k")
    answer = chat.ask("one")
    question = question_of(chat, "one")
    chat.edit(question, "uno")
    with chat.run("mine", "m") as run:
        for refused in (
            lambda: chat.edit(question, "eins"),
            chat.regenerate,
            lambda: chat.select_branch(answer.message_id),
        ):
            with pytest.raises(ConversationBusy):
                refused()
        run.complete("mine")
    assert said(chat) == ["uno", "mine"]


def test_with_interrupt_the_run_is_closed_and_its_late_answer_is_a_variant_of_its_own_question(
    open_ledger: Open,
) -> None:
    chat = open_ledger(backends=("chat",), threads="none", while_running="interrupt").conversation("k")
    asked(chat, "one")
    question = question_of(chat, "one")
    chat.append("user", "two")
    with pytest.raises(RunNotOpen), chat.run("mine", "m") as run:
        chat.edit(question, "uno")
        run.complete("too late")
    assert said(chat) == ["uno"]


def test_an_answer_that_arrives_after_another_branch_was_selected_belongs_to_its_question(open_ledger: Open) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    chat, journal = ledger.conversation("k"), ledger.journal
    asked(chat, "one", "two")
    first = chat.memory().messages[0].message_id
    chat.append("user", "three")
    with chat.run("mine", "m") as run:
        end = journal.places("k").find(first)
        journal.commit("k", lambda it: it.select(end.message_id, end.version, "another process"))
        run.complete("the late answer")
    assert said(chat) == ["one"]
    chat.select_branch(
        question_id := next(b.end.parent_id for b in chat.branches() if b.end.message.text == "the late answer")
    )
    assert question_id
    assert said(chat) == ["one", "one", "two", "two", "three", "the late answer"]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Create a profile with one function."""
    path = tmp_path / "profile.toml"
    path.write_text('name = "John"\n[[tools]]\nname = "weather"\n', encoding="utf-8")
    return path


CALLS = {"tool_calls": [{"name": "weather", "arguments": {}}]}


def test_tool_calls_of_a_regenerated_answer_are_aside_with_it(open_ledger: Open, simulator: Any, profile: Path) -> None:
    ledger = open_ledger({"weather": lambda: "sunny"}, backends=("chat",), threads="none", profile=profile)
    chat = ledger.conversation("k")
    first = chat.ask("one")
    simulator.answer(CALLS, "It is sunny.")
    chat.regenerate()
    assert [each.role_name for each in chat.memory().messages] == ["user", "assistant", "tool", "assistant"]
    assert [each.message.text for each in chat.memory().messages][-1] == "It is sunny."
    chat.select_branch(first.message_id)
    assert said(chat) == ["one", "one"]


def test_an_answer_is_a_variant_if_the_end_moved_while_it_was_made(
    open_ledger: Open, simulator: Any, profile: Path
) -> None:
    from threadledger.domain.conversation import parse_message

    def weather() -> str:
        message = parse_message({"role": "user", "content": "somebody else"})
        ledger.journal.commit("k", lambda it: it.journal(message))
        return "sunny"

    ledger = open_ledger({"weather": weather}, backends=("chat",), threads="none", profile=profile)
    chat = ledger.conversation("k")
    chat.ask("one")
    simulator.answer(CALLS, "It is sunny.")
    answer = chat.regenerate(idempotency_key="r1")
    assert not answer.selected
    assert not chat.regenerate(idempotency_key="r1").selected
    assert said(chat) == ["one", "one", "somebody else"]
    chat.select_branch(answer.message_id)
    assert [each.role_name for each in chat.memory().messages] == ["user", "assistant", "tool", "assistant"]


def test_a_question_that_another_branch_left_is_still_answered_with_its_own_memory(
    open_ledger: Open, simulator: Any, profile: Path
) -> None:
    def weather() -> str:
        end = ledger.journal.places("k").find(first)
        ledger.journal.commit("k", lambda it: it.select(end.message_id, end.version, "another process"))
        return "sunny"

    ledger = open_ledger({"weather": weather}, backends=("chat",), threads="none", profile=profile, retries=1)
    chat = ledger.conversation("k")
    chat.ask("one")
    first = chat.memory().messages[0].message_id
    simulator.answer(CALLS, "It is sunny.")
    simulator.add_fault("POST /chat/completions", refuse={"status": 500}, after=2, times=1)
    answer = chat.ask("two")
    assert not answer.selected
    assert said(chat) == ["one"]
    shown = [each["content"] for each in simulator.requests[-1].body["messages"] if each["role"] != "system"]
    assert shown[:3] == ["one", "You said: one", "two"]
    chat.select_branch(answer.message_id)
    assert [each.role_name for each in chat.memory().messages] == [
        *("user", "assistant", "user", "assistant", "tool", "assistant"),
    ]


def test_an_idempotency_key_names_one_branch(chat: Any) -> None:
    asked(chat, "one")
    question = question_of(chat, "one")
    edited = chat.edit(question, "uno", idempotency_key="e1")
    assert chat.edit(question, "uno", idempotency_key="e1").message_id == edited.message_id
    with pytest.raises(IdempotencyConflict):
        chat.edit(question, "eins", idempotency_key="e1")
    answer = chat.regenerate(idempotency_key="r1")
    assert chat.regenerate(idempotency_key="r1").message_id == answer.message_id
    assert len(chat.branches()) == 2
    with pytest.raises(IdempotencyConflict):
        chat.regenerate(idempotency_key="e1")
    chat.ask("two")
    with pytest.raises(IdempotencyConflict, match="another question"):
        chat.regenerate(chat.memory().messages[-1].message_id, idempotency_key="r1")
    assert chat.regenerate(answer.message_id, idempotency_key="r1").message_id == answer.message_id
    chat.retract(question)
    assert chat.edit(question, "uno", idempotency_key="e1").message_id == edited.message_id


def test_a_key_of_a_rerun_after_tool_results_still_names_its_question(
    open_ledger: Open, simulator: Any, profile: Path
) -> None:
    ledger = open_ledger({"weather": lambda: "sunny"}, backends=("chat",), threads="none", profile=profile, retries=0)
    chat = ledger.conversation("k")
    chat.ask("one")
    edited = chat.edit(question_of(chat, "one"), "uno")
    simulator.answer(CALLS, "It is sunny.")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, after=1, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.regenerate()
    answer = chat.regenerate(edited.message_id, idempotency_key="r1")
    assert chat.regenerate(edited.message_id, idempotency_key="r1").message_id == answer.message_id


@pytest.mark.parametrize("work", ["edit", "regenerate"])
def test_what_waits_for_its_turn_does_not_bring_a_deleted_conversation_back(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    from threadledger.domain.exchange import Conversing

    ledger = open_ledger(backends=("chat",), threads="none")
    chat = ledger.conversation("k")
    chat.ask("one")
    question = question_of(chat, "one")
    when_free = Conversing.when_free

    def deleted_first(own: Conversing, decide: Any) -> Any:
        ledger.journal.commit("k", lambda it: it.delete())
        return when_free(own, decide)

    monkeypatch.setattr(Conversing, "when_free", deleted_first)
    with pytest.raises(ConversationChanged, match="was deleted meanwhile"):
        chat.edit(question, "uno") if work == "edit" else chat.regenerate(question)
    assert ledger.conversations() == []


@pytest.mark.parametrize("hide", ["retract", "clear"])
def test_what_is_hidden_can_be_neither_edited_nor_selected_nor_pinned_nor_run_again(chat: Any, hide: str) -> None:
    answer = asked(chat, "one")[0]
    chat.retract(answer.message_id) if hide == "retract" else chat.clear()
    for refused in (
        lambda: chat.edit(answer.message_id, "uno"),
        lambda: chat.select_branch(answer.message_id),
        lambda: chat.pin(answer.message_id),
        lambda: chat.regenerate(answer.message_id),
    ):
        with pytest.raises(InvalidInput, match="no longer in memory"):
            refused()


def test_a_message_that_does_not_exist_is_named(chat: Any) -> None:
    asked(chat, "one")
    for refused in (chat.variants, chat.select_branch, chat.regenerate, chat.pin, lambda it: chat.rate(it, 1)):
        with pytest.raises(MessageNotFound, match="has no message 'nothing'"):
            refused("nothing")


def test_the_command_that_an_error_advises_has_the_key_as_a_shell_needs_it(open_ledger: Open) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    for key, quoted in (("customer-1", "customer-1"), ("it's $HOME", """'it'"'"'s $HOME'""")):
        chat = ledger.conversation(key)
        chat.append("user", "hi")
        with pytest.raises(MessageNotFound) as refused:
            chat.pin("nothing")
        assert str(refused.value).endswith(f"threadledger show {quoted} --tree")


def test_a_message_that_is_named_by_the_end_of_its_id_is_stored_by_its_id(chat: Any) -> None:
    asked(chat, "one", "two")
    whole = question_of(chat, "one")
    chat.pin(whole[-8:])
    chat.rate(whole[-8:], 1)
    assert [each.message_id for each in chat.events()[-2:]] == [whole, whole]
    assert [each.message.text for each in chat.memory(last=1).messages] == ["one", "You said: two"]


@pytest.mark.parametrize("content", ["", " \n", [{"type": "text", "text": " "}]])
def test_a_question_is_not_edited_to_an_empty_one(chat: Any, content: Any) -> None:
    answer = asked(chat, "one")[0]
    before = len(chat.events())
    with pytest.raises(InvalidMessage, match="the question is empty"):
        chat.edit(question_of(chat, "one"), content)
    assert len(chat.events()) == before
    assert chat.edit(answer.message_id, "").message.text == ""


def test_a_secret_that_is_retracted_stays_away_on_every_branch(chat: Any) -> None:
    asked(chat, "my password is 1234")
    secret = question_of(chat, "my password is 1234")
    chat.edit(secret, "my password is ...")
    chat.retract(secret)
    with pytest.raises(InvalidInput):
        chat.select_branch(secret)
    assert said(chat) == ["my password is ..."]


def test_a_pinned_message_stays_in_every_window_of_its_branch(chat: Any) -> None:
    asked(chat, "remember: blue", "two", "three")
    pinned = question_of(chat, "remember: blue")
    chat.pin(pinned)
    assert [each.message.text for each in chat.memory(last=1).messages] == ["remember: blue", "You said: three"]
    chat.pin(pinned, False)
    assert [each.message.text for each in chat.memory(last=1).messages] == ["You said: three"]
    chat.pin(pinned)
    chat.edit(pinned, "remember: red")
    assert [each.message.text for each in chat.memory(last=1).messages] == ["remember: red"]


def test_a_rating_is_an_event_of_its_message(chat: Any) -> None:
    answer = asked(chat, "one")[0]
    chat.rate(answer.message_id, -1, "wrong", actor="support:anna")
    rated = chat.events()[-1]
    assert isinstance(rated, e.MessageRated)
    assert (rated.message_id, rated.message_version, rated.score, rated.comment, rated.actor) == (
        answer.message_id,
        answer.version,
        -1.0,
        "wrong",
        "support:anna",
    )
    for odd in (float("nan"), float("inf"), True, "5"):
        with pytest.raises(InvalidInput, match="must be a finite number"):
            chat.rate(answer.message_id, odd)


def test_a_fork_copies_the_path_that_is_selected_and_its_pins(chat: Any, open_ledger: Open) -> None:
    asked(chat, "one", "two")
    chat.pin(question_of(chat, "one"))
    chat.edit(question_of(chat, "two"), "zwei")
    ledger = open_ledger(backends=("chat",), threads="none")
    copy = ledger.fork("k", "copy")
    assert said(copy) == ["one", "one", "zwei"]
    assert [each.message.text for each in copy.memory(last=1).messages] == ["one", "zwei"]


@pytest.mark.parametrize("kind", ["conversations", "assistants"])
def test_a_thread_holds_the_selected_path_after_each_change(open_ledger: Open, kind: str) -> None:
    backends = ("responses",) if kind == "conversations" else ("assistants",)
    ledger = open_ledger(backends=backends, threads=kind)
    chat = ledger.conversation("k")
    first, _ = asked(chat, "one", "two")
    steps: list[Callable[[], Any]] = [
        chat.regenerate,
        lambda: chat.edit(question_of(chat, "one"), "uno"),
        chat.regenerate,
        lambda: chat.select_branch(first.message_id),
        lambda: chat.ask("three"),
        lambda: chat.regenerate(first.message_id),
    ]
    for step in steps:
        step()
        assert [each.as_json()["state"] for each in ledger.replay.verify(["k"])] == ["same"]
    assert ledger.failures() == []


def test_a_deletion_names_every_thread_that_the_conversation_had(open_ledger: Open) -> None:
    chat = open_ledger(backends=("responses",), threads="conversations").conversation("k")
    chat.ask("of another generation")
    chat.delete()
    asked(chat, "one", "two")
    chat.edit(question_of(chat, "one"), "uno")
    chat.regenerate()
    linked = [each.thread_id for each in chat.events() if isinstance(each, (e.ThreadLinked, e.ThreadRebuilt))]
    assert len(linked) > 1
    assert chat.delete() == {"conversations": list(dict.fromkeys(linked))}


KILLED = """
import os, sys, threadledger
given = {"openai_api_key": "k", "openai_base_url": "http://127.0.0.1:1", "backends": ("chat",), "threads": "none"}
ledger = threadledger.open(sys.argv[1], **given)
chat = ledger.conversation("k")
import threadledger.domain.exchange.runs as runs
runs.Runs.call = lambda self, run: os.kill(os.getpid(), 9)
chat.regenerate()
"""


def test_a_killed_regeneration_leaves_the_old_answer(chat: Any, db_url: str) -> None:
    asked(chat, "one")
    killed = subprocess.run([sys.executable, "-c", KILLED, db_url], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert said(chat) == ["one", "one"]
    with pytest.raises(ConversationBusy):
        chat.regenerate()
