"""A window that is read from the end of a conversation is the window of the whole; it costs what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import MsgspecError

from threadledger.domain.conversation import Conversation, ExchangeRecord, events, parse_message
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ids import to_iso
from threadledger.domain.journal import StreamHead
from threadledger.domain.journal.recall import Texts, recall
from threadledger.domain.memory import fold_memory
from threadledger.domain.replay.rerun_obstacles import place_in, placed

from .rows_of_events import STREAM, RowsOfEvents

BEGAN = datetime(2026, 11, 22, tzinfo=UTC)


class Log(RowsOfEvents):
    """The rows of one conversation, a second apart, and how many of them were read."""

    def __init__(self, kept: Sequence[events.Event]) -> None:
        super().__init__(kept, [self.at(version) for version, _ in enumerate(kept, 1)])

    @staticmethod
    def at(version: int) -> str:
        return to_iso(BEGAN + timedelta(seconds=version))

    def select_head(self, stream: str, changed: Any = None) -> StreamHead | None:
        return StreamHead(stream, len(self.rows), 1, "{}") if self.rows else None

    @staticmethod
    def numbered(rows: Sequence[Any], topics: tuple[tuple[str, int], ...]) -> list[Any]:
        first = dict(topics)
        return [
            (first.get(topic, -9) + schema, state, at.encode(), position, event_id, b"")
            for position, _, _, topic, state, event_id, at, schema in rows
        ]

    def read_usual(self, stream: str, upto: int, topics: tuple[tuple[str, int], ...], take: Any) -> bool:
        rows = self.numbered(self.rows[:upto], topics)
        if any(row[0] < 0 for row in rows):
            return False
        for begin in range(0, len(rows), 3):
            take(begin, rows[begin : begin + 3])
        return True

    def read_ends(self, stream: str, first: int, newest: int, topics: tuple[tuple[str, int], ...], *_: Any) -> Any:
        ends = [*self.rows[first - 1 : first], *self.rows[-newest:]]
        self.read += len(ends)
        head = self.select_head(stream)
        return (head, self.numbered(ends, topics)) if head is not None and len(self.rows) >= first else None


def conversation_of(steps: Sequence[tuple[str, int]]) -> list[events.Event]:
    """A conversation's events from a list of steps: what, and a number that chooses whom it concerns."""
    conversation = Conversation.start("k")
    ids: list[str] = []
    for what, number in steps:
        chosen = ids[number % len(ids)] if ids else "nobody"
        match what:
            case "says":
                ids.append(
                    conversation.journal(parse_message({"role": "user", "content": "word " * number})).message_id
                )
            case "instructs":
                said = parse_message({"role": ("system", "developer")[number % 2], "content": "rule " * number})
                ids.append(conversation.journal(said).message_id)
            case "shows":
                picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}
                ids.append(conversation.journal(parse_message({"role": "user", "content": [picture]})).message_id)
            case "calls":
                call = {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                message = parse_message({"role": "assistant", "content": None, "tool_calls": [call]})
                ids.append(conversation.journal(message).message_id)
            case "results":
                message = parse_message({"role": "tool", "content": "r", "tool_call_id": f"c{number}"})
                ids.append(conversation.journal(message).message_id)
            case "answers":
                said = parse_message({"role": "assistant", "content": "word " * number})
                ids.append(conversation.journal(said, run_id=f"r{number % 2}").message_id)
            case "retracts":
                conversation.retract(chosen)
            case "clears":
                conversation.clear_memory()
            case "supersedes":
                accepted: dict[str, Any] = {"exchange_id": "x", "run_id": "r", "message_id": chosen}
                conversation.record(events.RerunAccepted, **accepted, superseded_message_id=chosen)
            case "is accepted behind":
                accepted = {"exchange_id": "x", "run_id": f"r{number // 2 % 2}", "message_id": "m"}
                gone = ids[number // 2] if number % 2 and number // 2 < len(ids) else None
                conversation.record(
                    events.RerunAccepted, **accepted, behind_message_id=chosen, superseded_message_id=gone
                )
    return list(conversation.collect_events())


steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(["says"] * 5),
                *["calls", "results", "results", "retracts", "clears", "supersedes", "instructs", "shows"],
                *(["answers"] * 3),
                *(["is accepted behind"] * 4),
            ]
        ),
        st.integers(0, 9),
    ),
    max_size=30,
)
bounds = st.none() | st.integers(1, 12)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.just("instructs"), st.integers(0, 9)), max_size=2),
    steps,
    bounds,
    st.none() | st.integers(1, 150),
    st.none() | st.integers(0, 35),
    st.booleans(),
)
def test_a_window_read_from_the_end_is_the_window_of_the_whole(
    beginning: list[tuple[str, int]],
    given_steps: list[tuple[str, int]],
    last: int | None,
    tokens: int | None,
    version: int | None,
    by_time: bool,
) -> None:
    kept = conversation_of(beginning + given_steps)
    log = Log(kept)
    at = BEGAN + timedelta(seconds=version) if by_time and version is not None else version
    whole = fold_memory(kept[: len(kept) if version is None else version])
    seen = recall(log, STREAM, at, last, tokens)
    expected = whole.window(last, tokens) if last is not None or tokens is not None else whole
    assert seen.as_chat_messages() == expected.as_chat_messages()
    assert [each.message_id for each in seen.messages] == [each.message_id for each in expected.messages]
    assert (seen.version, seen.rule) == (expected.version, expected.rule)
    assert whole.by_rule(expected.rule).digest() == expected.digest()


@settings(max_examples=100)
@given(steps, st.none() | st.integers(1, 4), st.integers(0, 35))
@example(
    [("instructs", 0), *[("says", 1)] * 9], None, 2
)  # the question is shown by every window, and all later messages count
def test_the_place_of_an_answer_read_from_the_end_is_that_in_the_whole_memory(
    given_steps: list[tuple[str, int]], last: int | None, version: int
) -> None:
    kept = conversation_of(given_steps)
    log, exchange = Log(kept), ExchangeRecord("x", "k")
    journal: Any = SimpleNamespace(memory=lambda key, at=None, last=None: recall(log, STREAM, at, last))
    seen = fold_memory(kept[:version]).window(last)
    expected = placed(fold_memory(kept), seen, exchange) if seen.messages else (None, frozenset())
    assert place_in(journal, "k", seen, exchange) == expected


def test_the_place_of_an_answer_in_a_long_conversation_costs_as_many_rows_as_in_a_short_one() -> None:
    read = []
    for length in (50, 500):
        log = Log(conversation_of([("says", 1)] * length))
        journal: Any = SimpleNamespace(memory=lambda key, at=None, last=None, log=log: recall(log, STREAM, at, last))
        seen = recall(log, STREAM, length - 2, last=5)
        log.read = 0
        assert place_in(journal, "k", seen, ExchangeRecord("x", "k"))[1]
        read.append(log.read)
    assert read[0] == read[1]


def test_a_window_reaches_an_answer_that_was_put_behind_an_earlier_message_where_it_stands() -> None:
    said = [("says", 1), ("says", 2), ("says", 3), ("answers", 4), ("is accepted behind", 0)]
    log = Log(conversation_of(said))
    texts = [each.message.text.count("word") for each in recall(log, STREAM).messages]
    assert texts == [1, 4, 2, 3]
    assert [each.message.text.count("word") for each in recall(log, STREAM, last=2).messages] == [2, 3]
    assert [each.message.text.count("word") for each in recall(log, STREAM, last=3).messages] == [4, 2, 3]


def test_the_last_messages_of_a_long_conversation_cost_as_many_rows_as_those_of_a_short_one() -> None:
    read = []
    for length in (50, 5_000):
        log = Log(conversation_of([("says", 1)] * length))
        assert len(recall(log, STREAM, last=20).messages) == 20
        read.append(log.read)
    assert read == [22, 22]  # the one of the beginning shows that the conversation does not begin with a system message


def test_of_what_was_before_the_clearing_only_the_ends_are_read() -> None:
    log = Log(conversation_of([("says", 1)] * 500 + [("clears", 0)] + [("says", 1)] * 3))
    assert len(recall(log, STREAM, last=20).messages) == 3
    assert log.read <= 21 + 2


@pytest.mark.parametrize("bounds", [{"last": 0}, {"tokens": 0}, {"last": -1}])
def test_a_window_that_would_show_nothing_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="would show nothing"):
        recall(Log([]), STREAM, **bounds)


accepted_again = st.lists(
    st.tuples(st.sampled_from(["says", "says", "answers", "is accepted behind", "retracts"]), st.integers(0, 9)),
    min_size=8,
    max_size=20,
)


@settings(max_examples=100)
@given(accepted_again, st.integers(1, 12))
def test_answers_that_are_put_behind_earlier_messages_are_neither_lost_nor_doubled_and_stand_there_in_every_window(
    given_steps: list[tuple[str, int]], last: int
) -> None:
    kept = conversation_of(given_steps)
    whole = fold_memory(kept)
    seen = [each.message_id for each in recall(Log(kept), STREAM, last=last).messages]
    assert seen == [each.message_id for each in whole.window(last).messages]
    left = [event for event in kept if not isinstance(event, events.RerunAccepted) or event.superseded_message_id]
    superseded = {e.superseded_message_id for e in kept if isinstance(e, events.RerunAccepted)}
    expected = {each.message_id for each in fold_memory(left).messages} - superseded
    assert sorted(each.message_id for each in whole.messages) == sorted(expected)


def test_a_run_in_a_thread_is_noticed_wherever_its_row_is_in_a_page() -> None:
    said, ended, in_thread = b'{"message_id":"m","role":"user","content":"x"}', b'{"run_id":"r"}', b'{"thread_id":"t"}'
    for payloads in ((ended, said, said), (said, ended, said), (said, said, ended)):
        rows = [(31 if payload == ended else 2, payload, b"2026-11-29T12:00:00.000000Z") for payload in payloads]
        texts = Texts()
        texts.take(7, rows)
        assert [each.version for each in texts.messages()] == [8 + n for n, row in enumerate(rows) if row[0] == 2]
        with pytest.raises(MsgspecError):
            Texts().take(7, [(row[0], in_thread if row[1] == ended else said, row[2]) for row in rows])
