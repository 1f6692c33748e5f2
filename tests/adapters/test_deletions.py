"""A deleted conversation is read by no one but the audit, and its key starts again with nothing of it, on both databases."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import threadledger
from threadledger.adapters.doctor.ledger import check_unanswered
from threadledger.adapters.formats import export_lines, import_lines
from threadledger.domain.conversation import ConversationState, RunPlan, events, evolve, stream_of
from threadledger.domain.conversation.decisions import pin, rate
from threadledger.domain.conversation.description import Description
from threadledger.domain.errors import (
    Conflict,
    ConversationBusy,
    ConversationChanged,
    ConversationNotFound,
    InvalidInput,
    MessageNotFound,
    RunNotFound,
    RunNotOpen,
)
from threadledger.domain.ids import new_id
from threadledger.domain.ledger.logged_events import in_log


@pytest.fixture
def ledger(open_any_store: Any) -> Any:
    return open_any_store()


def texts(chat: Any, **window: Any) -> list[str]:
    return [each.message.text for each in chat.memory(**window).messages]


def failed_run(chat: Any) -> str:
    """Leave a failed run, and return its id."""
    run_ids = []
    with pytest.raises(TimeoutError), chat.run("mine", "llama") as run:
        run_ids.append(run.run_id)
        raise TimeoutError("too late")
    return str(run_ids[0])


def begun_again(ledger: Any, key: str = "k") -> Any:
    """Return a conversation whose key belonged to a deleted one with much in it."""
    chat = ledger.conversation(key)
    chat.append("system", "old rule")
    chat.append("user", "old words", idempotency_key="a")
    chat.describe(title="Old", owner="anna", tags=["t"], metadata={"m": 1})
    failed_run(chat)
    pinned = chat.append("user", "old pinned")
    chat.pin(pinned.message_id)
    chat.edit(pinned.message_id, "old branch")
    chat.delete("asked for")
    chat.append("user", "new", idempotency_key="a")
    return chat


def test_what_is_deleted_is_not_there_for_any_read_by_key(ledger: Any) -> None:
    chat = ledger.conversation("k")
    message = chat.append("user", "hello", idempotency_key="a")
    assert chat.delete("asked for") == {}
    for read in (
        lambda: ledger.state("k"),
        lambda: ledger.diff("k"),
        lambda: ledger.fork("k", "other"),
        lambda: chat.variants(message.message_id),
        lambda: chat.edit(message.message_id, "hi"),
        lambda: chat.pin(message.message_id),
        chat.clear,
        chat.delete,
        lambda: ledger.journal.require("k"),
    ):
        with pytest.raises(ConversationNotFound, match="no conversation 'k'"):
            read()
    assert texts(chat) == texts(chat, last=3) == texts(chat, at=2) == chat.events() == []
    assert list(ledger.events(key="k")) == list(ledger.exchanges("k")) == chat.failures() == []
    assert ledger.parent("k") is None
    assert ledger.journal.keyed("k", "a") is None
    chat.retract(message.message_id)
    assert [type(each.event) for each in ledger.events()][-1] is events.ConversationDeleted
    assert len(list(ledger.events())) == 3


def test_a_key_that_was_never_used_cannot_be_deleted(ledger: Any) -> None:
    with pytest.raises(ConversationNotFound):
        ledger.conversation("k").delete()
    assert list(ledger.events()) == []


def test_the_next_message_starts_a_conversation_with_nothing_of_the_old_one(ledger: Any) -> None:
    chat, fresh = begun_again(ledger), ledger.conversation("fresh")
    fresh.append("user", "new", idempotency_key="a")
    first = chat.events()[0]
    assert isinstance(first, events.ConversationStarted)
    assert (first.key, first.generation) == ("k", 1)
    own, other = ledger.state("k"), ledger.state("fresh")
    same = (
        "messages",
        "exchanges",
        "failed_runs",
        "unanswered",
        "links",
        "pins",
        "described",
        "description",
        "answered",
    )
    assert {name: getattr(own, name) for name in same} == {name: getattr(other, name) for name in same}
    assert chat.memory().digest() == fresh.memory().digest()
    assert texts(chat) == texts(chat, last=1) == texts(chat, tokens=100) == ["new"]
    assert chat.failures() == list(ledger.exchanges("k")) == []
    assert len(ledger.failures()) == 1
    assert [each.event.originator_version for each in ledger.events(key="k")] == [
        each.originator_version for each in chat.events()
    ]
    with ledger.journal.following() as followed:
        logged = in_log(followed, "k", ledger.journal)
        assert [next(logged).event.originator_version for _ in range(2)] == [
            each.originator_version for each in chat.events()
        ]
    assert list(ledger.check()) == []


def test_an_idempotency_key_belongs_to_one_generation(ledger: Any) -> None:
    chat = ledger.conversation("k")
    first = chat.append("user", "one", idempotency_key="a")
    chat.delete()
    second = chat.append("user", "two", idempotency_key="a", expected_version=0)
    assert chat.append("user", "two", idempotency_key="a").message_id == second.message_id != first.message_id
    chat.delete()
    assert chat.extend([{"role": "user", "content": "one"}], idempotency_key="a")[0].message_id != first.message_id
    assert texts(chat) == ["one"]
    assert ledger.state("k").generation == 2


def test_versions_of_the_deleted_conversation_are_refused_in_one_sentence(ledger: Any) -> None:
    chat = begun_again(ledger)
    begin = chat.events()[0].originator_version
    for at in (1, begin - 1):
        for read in (chat.memory, lambda at: ledger.diff("k", at), lambda at: ledger.fork("k", "other", at)):
            with pytest.raises(InvalidInput, match=f"was deleted: give a version from {begin} on"):
                read(at=at)
    assert texts(chat, at=begin) == []
    assert texts(chat, at=begin + 1) == ["new"]
    assert texts(chat, at=0) == []
    assert [each.originator_version for each in chat.events(after=1)] == [begin, begin + 1]


def test_messages_of_the_deleted_conversation_are_not_found_again(ledger: Any) -> None:
    chat = ledger.conversation("k")
    old = chat.append("user", "old")
    chat.delete()
    chat.append("user", "new")
    for use in (
        chat.variants,
        chat.pin,
        chat.select_branch,
        lambda each: chat.edit(each, "x"),
        lambda each: chat.rate(each, 1),
    ):
        with pytest.raises(MessageNotFound):
            use(old.message_id)
    chat.retract(old.message_id)
    assert texts(chat) == ["new"]


def test_a_decision_about_a_message_that_was_deleted_meanwhile_is_refused(ledger: Any) -> None:
    chat = ledger.conversation("k")
    old = chat.append("user", "old")
    chat.delete()
    chat.append("user", "new")
    for decide in (
        lambda it: pin(it, old.message_id, old.version),
        lambda it: it.select(old.message_id, old.version),
        lambda it: it.retract(old.message_id, "", old.version),
        lambda it: rate(it, old.message_id, old.version, 1),
    ):
        with pytest.raises(ConversationChanged, match="deleted meanwhile"):
            ledger.journal.commit("k", decide)


def test_a_deleted_conversation_is_not_listed_searched_counted_or_planned(ledger: Any) -> None:
    for key in ("a", "b", "c"):
        chat = ledger.conversation(key)
        chat.append("user", f"word {key}")
        chat.describe(owner="anna", tags=["t"], title=f"title of {key}")
    listed = lambda **wanted: [each.key for each in ledger.conversations(**wanted)]  # noqa: E731 - read three times
    assert listed() == ["c", "b", "a"]
    assert ledger.status()["conversations"] == 3
    ledger.conversation("b").delete()
    assert ledger.status()["conversations"] == 2
    for wanted in (
        {},
        {"owner": "anna"},
        {"tag": "t"},
        {"search": "word"},
        {"limit": 5},
        {"order": "started", "limit": 5},
    ):
        assert sorted(listed(**wanted)) == ["a", "c"], wanted
    assert [each.key for each in ledger.search("word")] == ["c", "a"]
    assert [each.key for each in ledger.search("word", owner="anna")] == ["c", "a"]
    assert listed(search="b") == []
    assert (list(ledger.journal.keys()), list(ledger.journal.versions(5))) == (["a", "c"], [("a", 3), ("c", 3)])
    assert [key for key, _ in ledger.journal.states_of("abc")] == ["a", "c"]
    ledger.conversation("b").append("user", "other")
    assert ledger.status()["conversations"] == 3
    assert listed() == ["b", "c", "a"]
    assert (listed(owner="anna"), listed(search="word")) == (["c", "a"], ["c", "a"])
    assert [each.key for each in ledger.search("other")] == ["b"]
    assert ledger.conversations()[0].description == Description()
    ledger.conversation("a").delete()
    ledger.rebuild_views()
    assert (listed(), ledger.status()["conversations"]) == (["b", "c"], 2)
    assert [each.key for each in ledger.search("word")] == ["c"]
    assert list(ledger.check()) == []


def test_the_audit_keeps_the_failed_runs_and_a_rerun_leaves_them_out(ledger: Any) -> None:
    chat, other = ledger.conversation("k"), ledger.conversation("other")
    chat.append("user", "why?")
    run_id, kept = failed_run(chat), failed_run(other)
    chat.delete()
    assert [each.run_id for each in ledger.failures()] == [run_id, kept]
    run, exchanges = ledger.run(run_id)
    assert (run.key, exchanges.exchange_of(run).answered_by) == ("k", None)
    plan_of = ledger.replay.plan_rerun
    for after in (lambda: None, lambda: chat.append("user", "new")):
        after()
        with pytest.raises(RunNotFound, match="was deleted: it cannot be run again"):
            plan_of(runs=[run_id])
        assert [item.run_id for item in plan_of(failed=True).items] == [kept]
        (unanswered,) = check_unanswered(ledger)
        assert unanswered.message.startswith("1 exchange of 1 conversation without an answer")


def test_a_run_that_is_open_follows_the_policy_and_is_closed_first(ledger: Any) -> None:
    chat = ledger.conversation("k")
    with chat.run("mine", "llama") as run:
        with pytest.raises(ConversationBusy):
            chat.delete()
        run.complete("yes")
    with pytest.raises(RunNotOpen, match="'k' was deleted"), chat.run("mine", "llama") as run:
        ledger.journal.commit("k", lambda it: it.delete("", interrupting=True))
        run.complete("late")
    failure = ledger.failures()[-1]
    assert (failure.run_id, failure.facts.status, failure.facts.code) == (run.run_id, "interrupted", "deleted")
    chat.append("user", "first")
    with pytest.raises(RunNotOpen), chat.run("mine", "llama") as run:
        ledger.journal.commit("k", lambda it: it.delete("", interrupting=True))
        chat.append("user", "new")
        run.complete("late")
    assert texts(chat) == ["new"]
    assert [type(each) for each in chat.events()] == [events.ConversationStarted, events.MessageJournaled]


def test_a_shadow_run_is_closed_too(ledger: Any) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "hi")
    plan = RunPlan("mine", "llama", shadow=True, memory_version=2)
    run_id = ledger.journal.commit("k", lambda it: it.start_run("x", plan))
    chat.delete()
    assert [each.run_id for each in ledger.failures()] == [run_id]
    assert ledger.journal.open_runs() == []
    chat.append("user", "new")
    with pytest.raises(ConversationChanged):
        ledger.journal.commit("k", lambda it: it.start_run("x", plan))


def test_a_fork_can_take_the_key_of_a_deleted_conversation(ledger: Any) -> None:
    ledger.conversation("source").append("user", "hello")
    chat = ledger.conversation("k")
    chat.append("user", "old")
    chat.delete()
    ledger.fork("source", "k")
    assert (texts(chat), ledger.parent("k"), ledger.state("k").generation) == (["hello"], ("source", 2), 1)
    with pytest.raises(Conflict):
        ledger.fork("source", "k")


def test_an_import_does_not_bring_a_deleted_conversation_back(ledger: Any) -> None:
    line = json.dumps({"id": "k", "messages": [{"role": "user", "content": "hello"}]}) + "\n"

    def imported() -> list[tuple[str, int]]:
        return [(each.state, each.messages) for each in import_lines(ledger, io.BytesIO(line.encode()))]

    assert [imported(), imported()] == [[("imported", 1)], [("unchanged", 0)]]
    ledger.conversation("k").delete()
    assert imported() == [("skipped", 0)]
    ledger.conversation("k").append("user", "new")
    assert imported() == [("skipped", 0)]
    assert texts(ledger.conversation("k")) == ["new"]


def test_exports_backups_and_copies_hold(ledger: Any, tmp_path: Path, any_db_url: str) -> None:
    begun_again(ledger)
    gone = ledger.conversation("gone")
    gone.append("user", "gone", idempotency_key="a")
    gone.delete()
    said = [json.loads(each) for each in export_lines(ledger, None)]
    assert [(each["id"], [one["content"] for one in each["messages"]]) for each in said] == [("k", ["new"])]
    count = len(list(ledger.events()))
    assert ledger.back_up(tmp_path / "backup.db") == count
    assert ledger.copy_to(f"sqlite:///{tmp_path / 'copy.db'}") == count
    for name in ("backup.db", "copy.db"):
        with threadledger.open(f"sqlite:///{tmp_path / name}", threads="none") as copy:
            assert list(copy.check()) == []
            assert ([each.key for each in copy.conversations()], copy.status()["conversations"]) == (["k"], 1)
            assert texts(copy.conversation("k")) == ["new"]
            again = copy.conversation("k").append("user", "new", idempotency_key="a")
            assert again.version == copy.state("k").version
            copy.conversation("gone").append("user", "other", idempotency_key="a")
            assert copy.state("gone").generation == 1


def test_a_damaged_head_loses_no_deletion(ledger: Any, any_database: Any) -> None:
    chat = begun_again(ledger)
    gone = ledger.conversation("gone")
    gone.append("user", "gone")
    gone.delete()
    any_database.execute("UPDATE streams SET state_schema = 0, snapshot = '{}'")
    assert texts(chat) == texts(chat, last=1) == ["new"]
    assert chat.memory().digest() == chat.memory(last=9).digest()
    assert (ledger.state("k").generation, ledger.journal.load("gone")) == (1, None)
    assert [each.key for each in ledger.conversations()] == ["k"]
    assert ledger.conversation("gone").append("user", "again").version == 5


def test_the_async_twin_deletes_too(tmp_path: Path) -> None:
    async def story() -> None:
        async with threadledger.open_async(f"sqlite:///{tmp_path / 'x.db'}", threads="none") as ledger:
            chat = ledger.conversation("k")
            await chat.append("user", "hi")
            assert await chat.delete("done", actor="anna") == {}
            with pytest.raises(ConversationNotFound):
                await ledger.state("k")

    asyncio.run(story())
    with threadledger.open(f"sqlite:///{tmp_path / 'x.db'}", threads="none") as ledger:
        (event,) = (each.event for each in ledger.events(types=["ConversationDeleted"]))
        assert (event.reason, event.actor) == ("done", "anna")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(["system", "user", "assistant"])),
        st.tuples(st.sampled_from(["edit", "select", "pin", "retract"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["clear", "run", "fail", "describe", "delete"]), st.just(0)),
    ),
    max_size=14,
)


def play(ledger: Any, key: str, steps: list[tuple[str, Any]]) -> None:
    """Perform what is possible of the steps; the texts are the numbers of the steps since the last deletion."""
    chat = ledger.conversation(key)
    for number, (step, value) in enumerate(steps):
        exists = ledger.journal.load(key) is not None
        said = [each.message_id for each in (chat.memory(full=True).messages if exists else ())]
        if step == "append":
            chat.append(value, f"text {number}", idempotency_key=f"key {number % 3}" if number < 3 else None)
        elif step in {"edit", "select", "pin", "retract"} and said:
            message_id = said[value % len(said)]
            if step == "edit":
                chat.edit(message_id, f"text {number}")
            elif step == "select":
                chat.select_branch(message_id, here=True)
            else:
                (chat.pin if step == "pin" else chat.retract)(message_id)
        elif step == "run":
            with chat.run("mine", "llama") as run:
                run.complete(f"answer {number}")
        elif step == "fail":
            failed_run(chat)
        elif step == "describe":
            chat.describe(title=f"title {number}")
        elif exists and step in {"clear", "delete"}:
            getattr(chat, step)()


def seen(ledger: Any, key: str) -> list[Any]:
    """Return what is read of a conversation, without what differs between two of them."""
    chat = ledger.conversation(key)
    if ledger.journal.load(key) is None:
        return [chat.events(), texts(chat)]
    state = ledger.state(key)
    begin = chat.events()[0].originator_version - 1
    return [
        texts(chat),
        chat.memory().digest(),
        [texts(chat, last=last) for last in (1, 2, 5)],
        [texts(chat, at=begin + at) for at in range(1, state.version - begin + 1)],
        [(type(each), each.originator_version - begin) for each in chat.events()],
        [[one.message.message.text for one in chat.variants(each.message_id)] for each in chat.memory().messages],
        (state.messages, state.exchanges, state.failed_runs, state.unanswered, state.description),
        len(list(ledger.exchanges(key))),
        [each.description for each in ledger.conversations() if each.key == key],
    ]


@pytest.fixture(scope="module")
def one_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A ledger for the conversations of all examples."""
    path = tmp_path_factory.mktemp("deletions") / "x.db"
    with threadledger.open(f"sqlite:///{path}", threads="none") as ledger:
        yield ledger
        assert list(ledger.check()) == []


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_after_any_deletion_a_conversation_is_read_like_a_fresh_one(
    one_ledger: Any, steps: list[tuple[str, Any]]
) -> None:
    ledger, key, fresh = one_ledger, new_id(), new_id()
    last = max((number for number, (step, _) in enumerate(steps) if step == "delete"), default=-1)
    for part in split(steps[: last + 1]):
        play(ledger, key, part)
    play(ledger, key, steps[last + 1 :])
    play(ledger, fresh, steps[last + 1 :])
    assert seen(ledger, key) == seen(ledger, fresh)
    state = ConversationState()
    for each in ledger.journal.stream(stream_of(key)):
        evolve(state, each)
    head = ledger.journal.head(stream_of(key))
    assert head is None or ledger.journal.state_of(head).agrees_with(state)


def split(steps: list[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    """Split steps after each deletion, so that the keys and texts of each part begin anew."""
    parts: list[list[tuple[str, Any]]] = [[]]
    for step in steps:
        parts[-1].append(step)
        if step[0] == "delete":
            parts.append([])
    return parts
