"""An import stores many conversations at once, and recognises a file that it has imported without reading events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from threadledger.adapters import import_found
from threadledger.adapters.formats import importing, jsonl, reading
from threadledger.adapters.formats.reading import Entry, Found
from threadledger.adapters.sql import recorder
from threadledger.domain.conversation import parse_message, text_message
from threadledger.domain.conversation.messages import Message
from threadledger.domain.errors import InvalidInput
from threadledger.domain.journal import fingerprint_of
from threadledger.domain.journal.fingerprints import fingerprint_in

from .importing import said


def found(key: str, *texts: str, line: int = 1) -> Found:
    entries = [Entry(text_message("user", text), str(place), f"message {place}") for place, text in enumerate(texts)]
    return Found(line, key, {}, entries, has_ids=False)


def outcomes(ledger: Any, *conversations: Any) -> list[tuple[str, str]]:
    return [(each.key, each.state) for each in import_found(ledger, conversations)]


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of conversations of each commit."""
    from threadledger.domain.journal import Journal

    counted: list[int] = []
    store = Journal.store

    def counting(journal: Any, *conversations: Any) -> None:
        counted.append(len(conversations))
        store(journal, *conversations)

    monkeypatch.setattr(Journal, "store", counting)
    return counted


def test_many_small_conversations_are_stored_by_one_commit(open_any_store: Any, commits: list[int]) -> None:
    ledger = open_any_store()
    assert {state for _, state in outcomes(ledger, *(found(f"k{n}", "hi", "ho") for n in range(300)))} == {"imported"}
    assert commits == [300]
    assert said(ledger, "k299") == [("user", "hi"), ("user", "ho")]


@pytest.mark.parametrize("bound", ["BATCH_CONVERSATIONS", "BATCH_MESSAGES", "BATCH_CHARS", "BATCH_SECONDS"])
def test_a_batch_is_bounded_by_conversations_messages_characters_and_time(
    open_store: Any, commits: list[int], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(importing, bound, {"BATCH_CHARS": 4, "BATCH_SECONDS": 0.0}.get(bound, 2))
    outcomes(open_store(), *(found(f"k{n}", "hi", "ho") for n in range(4)))
    assert commits == ([2, 2] if bound == "BATCH_CONVERSATIONS" else [1] * 4)


def test_the_versions_of_a_batch_are_compared_once_for_each_of_its_events(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    next_head = recorder._next_head

    def counting(name: str, versions: Any, *heads: Any) -> Any:
        nonlocal compared
        compared += len(versions)
        return next_head(name, versions, *heads)

    monkeypatch.setattr(recorder, "_next_head", counting)
    outcomes(open_store(), *(found(f"k{n}", "hi") for n in range(100)))
    assert compared == 200


def test_a_conversation_that_cannot_be_stored_fails_alone_with_its_reason(open_any_store: Any) -> None:
    ledger = open_any_store()
    wrong, first, last = import_found(ledger, [found("a", "hi"), found("", "hi", line=2), found("b", "hi")])
    assert (wrong.state, first.state, last.state) == ("failed", "imported", "imported")
    assert (wrong.line, "a conversation key of 0 characters" in wrong.reason) == (2, True)


def test_a_conversation_that_a_file_has_twice_is_compared_with_itself(open_store: Any) -> None:
    again = [found("a", "hi"), found("a", "hi"), found("a", "hi", "ho"), found("a", "hey")]
    assert outcomes(open_store(), *again) == [
        ("a", "imported"),
        ("a", "unchanged"),
        ("a", "extended"),
        ("a", "failed"),
    ]


def test_where_another_process_started_a_conversation_meanwhile_the_others_are_stored(
    open_any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_any_store()
    outcomes(ledger, found("b", "hi"))
    monkeypatch.setattr(ledger.journal, "used_heads", lambda keys: {})
    assert outcomes(ledger, found("a", "hi"), found("b", "hi", "ho"), found("c", "hi")) == [
        ("a", "imported"),
        ("b", "extended"),
        ("c", "imported"),
    ]


def breaking_off(error: BaseException, count: int) -> Iterator[Found]:
    yield from (found(f"k{n}", "hi") for n in range(count))
    raise error


def test_what_was_read_before_the_source_broke_off_is_stored(open_any_store: Any) -> None:
    ledger = open_any_store()
    with pytest.raises(InvalidInput, match="cut off"):
        list(import_found(ledger, breaking_off(InvalidInput("the file is cut off"), 5)))
    assert ledger.journal.keys() == ["k0", "k1", "k2", "k3", "k4"]


def test_an_interrupted_import_lacks_one_batch_at_most_and_the_next_one_goes_on(
    open_any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_CONVERSATIONS", 2)
    ledger = open_any_store()
    with pytest.raises(KeyboardInterrupt):
        list(import_found(ledger, breaking_off(KeyboardInterrupt(), 5)))
    assert ledger.journal.keys() == ["k0", "k1", "k2", "k3"]
    again = outcomes(ledger, *(found(f"k{n}", "hi") for n in range(6)))
    assert [state for _, state in again] == ["unchanged"] * 4 + ["imported"] * 2


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": 'Be brief. Ünïcode \U0001f600 " \\ \n'},
    {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    {"role": "user", "content": [{"type": "other", "value": 10**30, "float": 1e16, "deep": [{}, [None, True]]}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "42", "name": "f"},
    {"role": "assistant", "refusal": "no", "annotations": [{"b": 1, "a": 2}]},
]


def test_the_same_file_again_is_recognised_without_reading_events(
    open_any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_any_store()
    lines = [json.dumps({"id": "k", "messages": MESSAGES, "title": "x"}).encode()]
    assert [each.state for each in jsonl.import_lines(ledger, lines)] == ["imported"]
    monkeypatch.setattr(ledger.journal, "history", None)
    assert [each.state for each in jsonl.import_lines(ledger, lines)] == ["unchanged"]


USUAL: list[dict[str, Any]] = [MESSAGES[0], MESSAGES[3], {"role": "tool", "tool_call_id": "c", "content": "42"}]


def test_the_same_usual_file_again_makes_no_messages(open_any_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_any_store()
    lines = [json.dumps({"id": key, "messages": USUAL}).encode() for key in "ab"]
    assert [each.state for each in jsonl.import_lines(ledger, lines)] == ["imported", "imported"]
    monkeypatch.setattr(reading, "usual_message", None)
    assert [each.state for each in jsonl.import_lines(ledger, lines)] == ["unchanged", "unchanged"]


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        (0, "content", "Be brief"),
        (0, "role", "user"),
        (1, "content", "looking"),
        (1, "tool_calls", [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "[]"}}]),
        (2, "tool_call_id", "d"),
    ],
)
def test_a_usual_file_that_differs_or_has_grown_is_noticed(
    open_any_store: Any, place: int, field: str, value: object
) -> None:
    ledger = open_any_store()

    def states(messages: list[dict[str, Any]]) -> list[str]:
        return [
            each.state for each in jsonl.import_lines(ledger, [json.dumps({"id": "k", "messages": messages}).encode()])
        ]

    assert states(USUAL) == ["imported"]
    different = [*USUAL]
    different[place] = USUAL[place] | {field: value}
    assert states(different) == ["failed"]
    assert states([USUAL[0], *USUAL]) == ["failed"]
    assert states(USUAL[:2]) == ["unchanged"]
    assert states([*USUAL, {"role": "user", "content": "more"}]) == ["extended"]
    assert states([]) == ["unchanged"]


def test_only_new_messages_of_a_longer_file_are_added_without_reading_events(
    open_any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_any_store()
    outcomes(ledger, found("a", "hi"), found("b", "hi", "ho"), found("c", "hi"))
    monkeypatch.setattr(ledger.journal, "history", None)
    again = [found("a", "hi", "new"), found("b", "hi"), found("c", "hi", "new", "newer")]
    assert outcomes(ledger, *again) == [("a", "extended"), ("b", "unchanged"), ("c", "extended")]
    assert said(ledger, "c") == [("user", "hi"), ("user", "new"), ("user", "newer")]


def test_a_file_of_many_conversations_is_recognised_by_a_few_queries(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_store()
    many = [found(f"k{n}", "hi") for n in range(300)]
    outcomes(ledger, *many)
    database = ledger.journal.recorder._database
    queries: list[str] = []
    query = database.query

    def counting(statement: str, values: Any = ()) -> Any:
        queries.append(statement)
        return query(statement, values)

    monkeypatch.setattr(database, "query", counting)
    assert {state for _, state in outcomes(ledger, *many)} == {"unchanged"}
    assert len(queries) == 2


def test_messages_without_a_fingerprint_are_compared_themselves(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_store()
    outcomes(ledger, found("a", "hi"), found("b", "hi"))
    monkeypatch.setattr(ledger.journal, "fingerprints", lambda keys: {key: {"import:2:0": None} for key in keys})
    assert outcomes(ledger, found("a", "hi"), found("b", "hey")) == [("a", "unchanged"), ("b", "failed")]


def stored(ledger: Any, message: Message) -> bytes:
    """Import a message and return the fingerprint in its row."""
    list(import_found(ledger, [Found(1, "k", {}, [Entry(message, "0", "message 1")])]))
    fingerprint = ledger.journal.fingerprints(["k"])["k"]["import:2:0"]
    assert isinstance(fingerprint, bytes)
    return fingerprint


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_a_stored_message_has_the_fingerprint_that_it_was_given_with(open_store: Any, number: int) -> None:
    message = parse_message(MESSAGES[number])
    assert stored(open_store(), message) == fingerprint_of(message)


def test_each_field_of_a_message_changes_its_fingerprint() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    different = [
        *MESSAGES,
        {"role": "user", "content": "Be brief."},
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "system", "content": "Be brief.", "name": "x"},
        {"role": "tool", "tool_call_id": "d", "content": "42", "name": "f"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
    ]
    assert len({fingerprint_of(parse_message(each)) for each in different}) == len(different)


def test_a_row_of_an_earlier_version_with_half_a_character_has_a_fingerprint() -> None:
    assert len(fingerprint_in({"role": "user", "content": "\ud800"})) == 32
