"""Search: the same words are found on both databases, however they are written, and no sign of a search has a power."""

import json
import sys
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadledger.adapters.sql.views.search import (
    SEARCH_TEXT_CHARS_MAX,
    SEARCH_WORDS_MAX,
    WORD_CHARS_MAX,
    phrases_of,
    words_of,
)
from threadledger.domain.conversation import stream_of
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import StoredRow

FOUND = [
    ("Il a échoué.", "echoue"),
    ("Il a echoue.", "ÉCHOUÉ"),
    ("Il a e\u0301choue\u0301.", "échoué"),
    ("Großer Straßenbau", "strassenbau grosser"),
    ("GROSSER STRASSENBAU", "groß"),
    ("ﬁnally ½ done²", "finally done2"),
    ("Παῖς Ὀδυσσεύς", "παισ οδυσσευσ"),
    ("İSTANBUL", "istanbul"),
    ("你好，世界。今天天气很好", "世界"),
    ("你好，世界。今天天气很好", "天气 你好"),
    ("GPT很好", "gpt很"),
    ("東京タワーへ行く", "タワー"),
    ("한국어를 배웁니다", "한국"),
    ("วันนี้อากาศดี", "อากาศ"),
    ("हिन्दी में लिखा", "हिन्दी"),
    ("مُحَمَّدٌ رَسُولٌ", "محمد"),
    ("العربيـــة جميلة", "العربية"),
    ("أحمد", "احمد"),
    ("שָׁלוֹם עולם", "שלום"),
    ("don't stop", "don't"),
    ("the e-mail of ann@example.org", "e-mail ann@example.org"),
    ("call fn_name(x)", "fn_name"),
    ("see https://example.org/a?b=c&d", "https://example.org/a?b=c&d"),
    ("a parcel is on its way", "parc"),
    ("a parcel is on its way", '"on its w"'),
    ("a parcel is on its way", 'way "a parcel"'),
    ("a parcel is on its way", 'way "a parcel'),
    ("soft\u00adware", "software"),
    ("number 12345678901234567890 1e5 0x1f 3.14", "1e5 0x1f 3.14"),
    ("𝒻𝓊𝓃 😀 is fun", "fun"),
]
NOT_FOUND = [
    ("a parcel is on its way", "parcels"),
    ("a parcel is on its way", "arcel"),
    ("a parcel is on its way", '"its on"'),
    ("a parcel is on its way", "parcel lost"),
    ("世界", "界世"),
    ("हिन्दी", "हान्द"),
]
POWERLESS = [
    "parcel NOT way",
    "lost OR parcel",
    "parcel AND lost",
    "parcel NEAR way",
    "words : parcel lost",
    "parcel | lost",
    "!lost parcel x",
    "parcel <-> lost",
    "^lost parcel",
    "par*cel",
    "{lost} + parcel",
]
NO_WORDS = ["", "   ", '"', '""', "*", "'", "!", "&|!:*<->", "\\", "%", "_", "\0", "\ud800", "😀", "-- ;", "\u0301"]


def put_message(ledger, key, content):
    """A message as the log may hold it, past the limits of journaling."""
    payload = json.dumps({"message_id": new_id(), "role": "user", "content": content})
    row = StoredRow(stream_of(key), 1, "MessageJournaled", payload.encode(), new_id(), to_iso(now()))
    ledger.journal.recorder.insert_events([row])


def found(ledger, search):
    return [state.key for state in ledger.conversations(search=search)]


@pytest.fixture
def ledger(open_any_store):
    return open_any_store()


def test_words_are_found_however_they_are_written(ledger):
    for number, (text, _) in enumerate(FOUND):
        ledger.conversation(f"k{number}").append("user", text)
    missed = [
        (text, search) for number, (text, search) in enumerate(FOUND) if f"k{number}" not in found(ledger, search)
    ]
    assert missed == []


def test_other_words_are_not_found(ledger):
    for number, (text, _) in enumerate(NOT_FOUND):
        ledger.conversation(f"k{number}").append("user", text)
    assert [search for _, search in NOT_FOUND if found(ledger, search)] == []


def test_no_sign_of_a_search_has_a_power(ledger):
    ledger.conversation("k").append("user", "a parcel is on its way")
    ledger.conversation("lost").append("user", "lost or not")
    assert [search for search in POWERLESS if found(ledger, search)] == []


def test_a_search_without_any_word_finds_nothing(ledger):
    ledger.conversation("k").append("user", "all of it: * \" ' ! & | : % _ \\ 😀 é")
    assert [search for search in NO_WORDS if found(ledger, search) or ledger.journal.views.hits(search)] == []


def test_all_words_have_to_be_in_one_message_or_in_the_key(ledger):
    ledger.conversation("customer-42").append("user", "Where is my parcel?")
    ledger.conversation("customer-42").append("assistant", "On its way.")
    ledger.conversation("customer-43").append("user", "my way")
    assert found(ledger, "my parcel") == ["customer-42"]
    assert found(ledger, "parcel way") == []
    assert found(ledger, "customer 42") == found(ledger, "customer-42") == ["customer-42"]
    assert found(ledger, "customer parcel") == []
    assert found(ledger, "customer") == found(ledger, "my") == ["customer-43", "customer-42"]


def test_conversations_are_found_last_changed_first_and_once_however_often_they_say_it(ledger):
    for key in ("a", "b", "c", "a"):
        ledger.conversation(key).extend([{"role": "user", "content": "word"}] * 3)
    ledger.conversation("d").append("user", "something else")
    assert found(ledger, "word") == ["a", "c", "b"]
    assert [state.key for state in ledger.conversations(limit=2, search="word")] == ["a", "c"]
    hits = ledger.journal.views.hits("word")
    assert [key for key, _ in hits] == ["a"] * 3 + ["c"] * 3 + ["b"] * 3 + ["a"] * 3
    assert [position for _, position in hits] == sorted((position for _, position in hits), reverse=True)


def test_the_text_of_parts_is_searched_and_that_of_tool_calls_is_not(ledger):
    parts = [{"type": "text", "text": "first part"}, {"type": "image_url", "image_url": {"url": "https://picture"}}]
    ledger.conversation("parts").append("user", parts)
    call = {"id": "c", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    ledger.conversation("call").append("assistant", None, tool_calls=[call])
    assert found(ledger, "first part") == ["parts"]
    assert found(ledger, "picture") == found(ledger, "lookup") == []


def test_a_message_of_10_mb_is_searched_from_its_beginning(ledger):
    filler = "lorem ipsum dolor " * 600_000
    put_message(ledger, "large", f"beginning {filler} ending")
    put_message(ledger, "one word", "x" * 10_000_000)
    ledger.conversation("small").append("user", "lorem")
    assert found(ledger, "beginning dolor") == ["large"]
    assert found(ledger, "lorem") == ["small", "large"]
    assert found(ledger, "ending") == []
    assert found(ledger, "x" * WORD_CHARS_MAX) == found(ledger, "x" * 5_000) == ["one word"]


def test_the_text_that_takes_most_room_is_taken_in(ledger):
    letters = [
        chr(code)
        for code in range(0x3400, sys.maxunicode)
        if unicodedata.category(chr(code)) == "Lo" and code != 0x3400
    ]
    pairs = [f"{letter}{other}" for letter, other in zip(letters[-50_000:], letters[-49_999:], strict=False)]
    put_message(ledger, "letters", "".join(letters[:SEARCH_TEXT_CHARS_MAX]))
    put_message(ledger, "pairs", " ".join(pairs))
    put_message(ledger, "short words", " ".join(f"{number:x}" for number in range(SEARCH_TEXT_CHARS_MAX)))
    assert found(ledger, letters[0]) == ["letters"]
    assert found(ledger, "a1") == ["short words"]
    assert not any(each["parked"] for each in ledger.journal.views.status())


def test_a_text_that_grows_when_it_is_folded_is_cut():
    assert len(unicodedata.normalize("NFKD", "ﷺ")) == 18
    assert len(" ".join(words_of("ﷺ " * SEARCH_TEXT_CHARS_MAX))) <= SEARCH_TEXT_CHARS_MAX


def test_a_search_of_many_words_is_answered_and_one_of_too_many_refused(ledger):
    words = [f"w{number}" for number in range(SEARCH_WORDS_MAX)]
    ledger.conversation("k").append("user", " ".join(words))
    assert found(ledger, " ".join(words)) == found(ledger, f'"{" ".join(words)}"') == ["k"]
    with pytest.raises(InvalidInput, match=f"a search of {SEARCH_WORDS_MAX + 1} words is too long"):
        found(ledger, " ".join([*words, "more"]))


@given(st.text())
def test_every_folded_word_is_plain(text):
    for word in words_of(text):
        assert word == word.casefold()
        assert all(unicodedata.category(character)[0] in "LNM" for character in word)
    assert words_of(" ".join(words_of(text))) == words_of(text)


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_every_term_of_a_text_is_searched_for_as_it_stands_in_the_text(text):
    words = words_of(text)
    for phrase in phrases_of(text.replace('"', " ")):
        assert any(words[at : at + len(phrase)] == phrase for at in range(len(words)))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_any_text_is_found_by_each_of_its_own_words(ledger, texts):
    said = {new_id(): text for text in texts}
    for key, text in said.items():
        put_message(ledger, key, text)
    for key, text in said.items():
        assert all(key in found(ledger, word) for word in words_of(text))
        if words_of(text) and '"' not in text:
            assert key in found(ledger, f'"{text}"')
