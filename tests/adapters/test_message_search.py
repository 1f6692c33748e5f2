"""Messages are found by their words, newest first and page by page, and never across an owner."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import threadledger
from threadledger.adapters.sql.views import search
from threadledger.adapters.sql.views.search import phrases_of, words_of
from threadledger.adapters.sql.views.snippets import SNIPPET_CHARS, snippet_of
from threadledger.domain.errors import ChangedEvent, InvalidInput
from threadledger.domain.ledger.pages import Page


@pytest.fixture
def ledger(open_any_store):
    return open_any_store()


def say(ledger, key, text, owner=None):
    message = ledger.conversation(key).append("user", text)
    if owner is not None:
        ledger.conversation(key).describe(owner=owner)
    return message


def places(hits):
    return [(hit.key, hit.version) for hit in hits]


def test_a_hit_names_the_message_and_shows_the_words(ledger):
    message = say(ledger, "k", "Where is  my\nparcel to Lyon?")
    say(ledger, "k", "Tomorrow.")
    (hit,) = ledger.search("lyón parc")
    assert isinstance(ledger.search("lyon"), Page)
    assert (hit.key, hit.message_id, hit.version, hit.role, hit.at) == (
        *("k", message.message_id, 2, "user"),
        message.at,
    )
    assert (hit.snippet, hit.in_memory) == ("Where is  my parcel to Lyon?", True)
    assert [hit.snippet[start:end] for start, end in hit.matches] == ["parcel", "Lyon"]
    assert hit.as_json()["matches"] == [[13, 19], [23, 27]]


@pytest.mark.parametrize("compared", [1, 4, 20_000])
def test_the_newest_come_first_and_page_by_page_also_while_others_write(ledger, compared, monkeypatch):
    monkeypatch.setattr(search, "COMPARED_MAX", compared)
    for number in range(7):
        say(ledger, f"k{number % 2}", f"word {number}")
    everything = [hit.snippet for hit in ledger.search("word")]
    assert everything == [f"word {number}" for number in reversed(range(7))]
    found, after = [], None
    while True:
        page = ledger.search("word", limit=3, after=after)
        found += [hit.snippet for hit in page]
        after = page.cursor
        if after is None:
            break
        say(ledger, "k0", "word of a newer message")
    assert found == everything


def test_a_search_never_crosses_an_owner(ledger):
    say(ledger, "a", "secret word", owner="anna")
    say(ledger, "b", "secret word", owner="ben")
    say(ledger, "nobody", "secret word")
    assert places(ledger.search("secret", owner="anna")) == [("a", 2)]
    assert places(ledger.search("secret", owner="ann")) == []
    assert [hit.key for hit in ledger.search("secret")] == ["nobody", "b", "a"]
    ledger.conversation("b").describe(owner="anna")
    assert [hit.key for hit in ledger.search("secret", owner="anna")] == ["b", "a"]
    assert ledger.search("secret", owner="ben") == []
    with pytest.raises(InvalidInput, match="the owner is empty"):
        ledger.search("secret", owner="")


def test_a_message_that_left_memory_is_found_and_said_to_have(ledger):
    for number in range(3):
        say(ledger, "k", f"word {number}")
    ledger.conversation("k").retract(ledger.memory("k").messages[1].message_id)
    assert [hit.in_memory for hit in ledger.search("word")] == [True, False, True]
    ledger.conversation("k").clear()
    say(ledger, "k", "word 3")
    assert [hit.in_memory for hit in ledger.search("word")] == [True, False, False, False]
    remembered = {each.message_id for each in ledger.memory("k").messages}
    assert all(hit.in_memory == (hit.message_id in remembered) for hit in ledger.search("word"))


def test_keys_are_no_messages_and_a_search_without_words_finds_none(ledger):
    say(ledger, "word", "hello")
    assert ledger.search("word") == ledger.search("?!") == ledger.search("") == []


def test_cursors_of_another_search_are_refused(ledger):
    for number in range(3):
        say(ledger, "k", f"word {number}", owner="anna")
    cursor = ledger.search("word", limit=1).cursor
    for text, owner in (("words", None), ("word", "anna")):
        with pytest.raises(InvalidInput, match="other filters"):
            ledger.search(text, owner, after=cursor)
    say(ledger, "other", "hello")
    with pytest.raises(InvalidInput, match="cursor"):
        ledger.search("word", after=ledger.conversations(limit=1).cursor)
    assert (ledger.search("word", limit=0), len(ledger.search("word", limit=9, after=cursor))) == ([], 2)
    with pytest.raises(InvalidInput):
        ledger.search(7)


def test_a_changed_message_is_not_shown(ledger, any_database):
    say(ledger, "k", "word")
    ledger.search("word")
    on = "" if any_database.kind.name == "sqlite" else " ON events"
    any_database.execute(f"DROP TRIGGER events_are_not_changed{on}")
    any_database.execute("UPDATE events SET state = replace(state, 'word', 'work') WHERE version = 2")
    with pytest.raises(ChangedEvent):
        ledger.search("word")


def test_the_asynchronous_ledger_searches_too(tmp_path):
    async def found():
        async with threadledger.open_async(f"sqlite:///{tmp_path / 'x.db'}", threads="none") as ledger:
            await ledger.conversation("k").append("user", "word")
            return await ledger.search("word")

    assert places(asyncio.run(found())) == [("k", 2)]


# Snippets


def marked(text, search):
    snippet, matches = snippet_of(text, phrases_of(search))
    return snippet, [snippet[start:end] for start, end in matches]


def test_a_snippet_is_cut_out_around_the_first_match():
    text = "before " * 40 + "the Parcel was " + "after " * 60
    snippet, words = marked(text, "parcel")
    assert words == ["Parcel"]
    assert len(snippet) == SNIPPET_CHARS
    assert snippet.startswith("before ")
    assert snippet.index("Parcel") <= 40


def test_words_are_marked_as_they_are_written():
    assert marked("Straße ½ café ﬁn", "STRASSE cafe fin")[1] == ["Straße", "café", "ﬁn"]
    assert marked("e\u0301te\u0301 ici", "été")[1] == ["e\u0301te\u0301"]
    assert marked("我的包裹在哪里", "包裹")[1] == ["包裹"]
    assert marked("rue de la paix, la paix", '"la pai"')[1] == ["la", "paix", "la", "paix"]
    assert marked("nothing here", "else") == ("nothing here", [])


@given(text=st.text(max_size=300), others=st.lists(st.text(max_size=20), max_size=3))
def test_any_text_that_has_a_word_has_it_marked_in_its_snippet(text, others):
    for word in words_of(text)[:5]:
        snippet, matches = snippet_of(" ".join([*others, text]), [[word]])
        assert matches
        assert len(snippet) <= SNIPPET_CHARS
        for (start, end), (following, _) in zip(matches, [*matches[1:], (len(snippet) + 1, 0)], strict=True):
            assert 0 <= start < end <= len(snippet)
            assert end < following
