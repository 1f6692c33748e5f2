"""A conversation is described by an app: what was said last is read, whoever wrote it and however it was written."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import threadledger
from threadledger.domain import limits
from threadledger.domain.conversation import Conversation, ConversationState, events, evolve
from threadledger.domain.conversation.description import Description
from threadledger.domain.errors import ConversationNotFound, InvalidInput, InvalidMessage

SAID: dict[str, Any] = {"title": "Parcel", "owner": "anna", "tags": ["lyon", "late"], "metadata": {"ticket": 7}}


@pytest.fixture
def ledger(open_any_store):
    return open_any_store()


def described(ledger, key="k"):
    return ledger.state(key).description


def test_what_is_said_is_read_and_what_is_not_said_stays(ledger):
    chat = ledger.conversation("k")
    chat.append("user", "hi")
    assert described(ledger) == Description()
    assert chat.describe(**SAID) == Description("Parcel", "anna", ("lyon", "late"), False, {"ticket": 7})
    assert chat.describe(archived=True, title="Parcel 2") == described(ledger)
    assert described(ledger) == Description("Parcel 2", "anna", ("lyon", "late"), True, {"ticket": 7})
    assert chat.describe() == described(ledger)


def test_empty_values_clear_and_metadata_replaces_the_whole(ledger):
    chat = ledger.conversation("k")
    chat.describe(**SAID, archived=True)
    chat.describe(metadata={"other": None})
    assert described(ledger).metadata == {"other": None}
    chat.describe(title="", owner="", tags=[], archived=False, metadata={})
    assert described(ledger) == Description()


def test_equal_values_write_nothing(ledger):
    chat = ledger.conversation("k")
    chat.describe(**SAID)
    chat.describe(**SAID, archived=False)
    chat.describe(tags=["lyon", "late", "lyon"])
    assert ledger.state("k").version == 2
    chat.describe(metadata={"ticket": 7.0}, title="Parcel")
    event = chat.events(2)[0]
    assert (event.title, event.metadata) == (None, {"ticket": 7.0})


def test_a_conversation_starts_with_its_description_but_not_with_none(ledger):
    assert ledger.conversation("k").describe(title="") == Description()
    with pytest.raises(ConversationNotFound):
        ledger.state("k")
    ledger.conversation("k").describe(title="Named first")
    assert [type(event) for event in ledger.conversation("k").events()] == [
        events.ConversationStarted,
        events.ConversationDescribed,
    ]
    ledger.conversation("k").append("user", "hi")
    assert [each.message.text for each in ledger.memory("k").messages] == ["hi"]


def test_the_first_metadata_is_that_of_the_start(ledger):
    ledger.journal.store(Conversation.start("k", {"a": 1}))
    assert described(ledger).metadata == {"a": 1}
    ledger.conversation("k").describe(title="T")
    assert described(ledger) == Description("T", metadata={"a": 1})
    ledger.conversation("k").describe(metadata={})
    assert described(ledger) == Description("T")


def test_a_head_of_an_earlier_version_is_complete_too(ledger, any_database):
    ledger.journal.store(Conversation.start("k", {"a": 1}))
    ledger.conversation("plain").append("user", "hi")
    remove = "UPDATE streams SET snapshot = '{' || substr(snapshot, instr(snapshot, '\"unanswered\"'))"
    if any_database.kind.name != "sqlite":
        remove = remove.replace("instr(", "strpos(")
    any_database.execute(remove)
    assert described(ledger).metadata == {"a": 1}
    assert described(ledger, "plain") == Description()
    for key in ("k", "plain"):
        ledger.conversation(key).describe(title="T")
    assert described(ledger) == Description("T", metadata={"a": 1})
    assert described(ledger, "plain") == Description("T")
    assert {each.key: each.description.title for each in ledger.conversations()} == {"k": "T", "plain": "T"}
    assert list(ledger.check()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": "x" * (limits.TITLE_CHARS_MAX + 1)},
        {"owner": "x" * (limits.OWNER_CHARS_MAX + 1)},
        {"tags": ["x" * (limits.TAG_CHARS_MAX + 1)]},
        {"tags": [str(n) for n in range(limits.TAGS_MAX + 1)]},
        {"metadata": {"a": "x" * limits.DESCRIPTION_METADATA_BYTES_MAX}},
        {"metadata": {"a": float("inf")}},
        {"metadata": ["a"]},
        {"tags": "late"},
        {"tags": [" "]},
        {"tags": [1]},
        {"owner": "\ud800"},
        {"title": "a\0b"},
        {"title": 1},
        {"archived": 1},
    ],
)
def test_a_value_that_cannot_be_kept_is_refused_and_nothing_is_written(wrong, tmp_path):
    with threadledger.open(f"sqlite:///{tmp_path / 'x.db'}", threads="none") as ledger:
        with pytest.raises((InvalidInput, InvalidMessage)):
            ledger.conversation("k").describe(**wrong)
        assert ledger.journal.load("k") is None


def test_a_fork_inherits_owner_tags_and_metadata_and_no_title(ledger):
    ledger.conversation("k").append("user", "hi")
    ledger.conversation("k").describe(**SAID, archived=True)
    ledger.fork("k", "new")
    assert described(ledger, "new") == Description("", "anna", ("lyon", "late"), False, {"ticket": 7})
    assert len(ledger.memory("new").messages) == 1


def test_writers_that_describe_at_once_lose_nothing_of_each_other(open_any_store):
    ledgers = [open_any_store() for _ in range(4)]
    ledgers[0].conversation("k").append("user", "hi")
    wanted = [{"title": "T"}, {"owner": "anna"}, {"tags": ["a"]}, {"metadata": {"a": 1}}]

    def describe(number):
        ledgers[number].conversation("k").describe(**wanted[number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(describe, range(4)))
    assert described(ledgers[0]) == Description("T", "anna", ("a",), False, {"a": 1})


def test_what_another_writer_says_between_reading_and_writing_is_compared_again(open_any_store, monkeypatch):
    ledger, other = open_any_store(), open_any_store()
    ledger.conversation("k").describe(title="T", metadata={"a": 1})
    commit, waiting = ledger.journal.commit, [True]

    def commit_later(*given, **options):
        if waiting.pop() if waiting else False:
            other.conversation("k").describe(title="U", owner="ben")
        return commit(*given, **options)

    monkeypatch.setattr(ledger.journal, "commit", commit_later)
    found = ledger.conversation("k").describe(owner="ben", tags=["x"])
    assert found == described(ledger) == Description("U", "ben", ("x",), False, {"a": 1})
    assert ledger.conversation("k").events()[-1].owner is None


def test_an_actor_is_recorded_and_the_asynchronous_ledger_describes_too(tmp_path):
    url = f"sqlite:///{tmp_path / 'x.db'}"

    async def describe():
        async with threadledger.open_async(url, threads="none") as ledger:
            await ledger.conversation("k").describe(title="T", actor="support:anna")
            return (await ledger.state("k")).description

    assert asyncio.run(describe()) == Description("T")
    with threadledger.open(url, threads="none") as ledger:
        assert [event.actor for event in ledger.conversation("k").events()] == ["support:anna"] * 2


def test_a_described_conversation_is_read_as_fast_as_another(open_any_store, monkeypatch):
    ledger = open_any_store()
    ledger.conversation("k").append("user", "hi")
    ledger.conversation("k").describe(title="T")
    monkeypatch.setattr("threadledger.domain.journal.message_rows.whole", lambda *_: pytest.fail("the slow reader"))
    assert ledger.memory("k").as_chat_messages() == [{"role": "user", "content": "hi"}]


VALUES = {
    "title": st.none() | st.sampled_from(["", "T", "U"]),
    "owner": st.none() | st.sampled_from(["", "anna", "ben"]),
    "tags": st.none() | st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    "archived": st.none() | st.booleans(),
    "metadata": st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 1), max_size=2),
}


@settings(max_examples=30)
@given(writes=st.lists(st.fixed_dictionaries(VALUES), max_size=6), first=st.sampled_from([{}, {"a": 5}]))
def test_nulls_of_any_writer_change_nothing(writes, first):
    """The state and the events at its versions say what a fold of all events says."""
    from threadledger.domain.conversation.description import described_by

    log = [events.ConversationStarted(key="k", metadata=first, originator_version=1)]
    log += [events.ConversationDescribed(originator_version=n, **each) for n, each in enumerate(writes, 2)]
    wanted = {"title": "", "owner": "", "tags": [], "archived": False, "metadata": first}
    state = ConversationState()
    for event in log:
        evolve(state, event)
        state = ConversationState.from_json(state.as_json())
        if isinstance(event, events.ConversationDescribed):
            wanted |= {name: getattr(event, name) for name in VALUES if getattr(event, name) is not None}
    found = described_by(state.described, log)
    assert found.as_json() == wanted | {"title": wanted["title"] or None, "owner": wanted["owner"] or None}
