"""The store against a dict of lists: whatever is done to it, in whatever order, it says what the lists say.

What is appended is taken from the decisions themselves, before the store has it.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import IntegrityError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.engine import make_url

from threadledger.domain.conversation import (
    Completion,
    Conversation,
    ConversationState,
    RunPlan,
    events,
    evolve,
    parse_message,
    text_message,
)
from threadledger.domain.errors import ConversationBusy, ConversationChanged, IdempotencyConflict
from threadledger.domain.failures import Failure
from threadledger.domain.ids import id_text, to_iso
from threadledger.domain.journal import StoredRow

from .writing import assert_sound, execute, open_at


def _text(event_id: bytes | str) -> str:
    return event_id if isinstance(event_id, str) else id_text(event_id)


KEYS = st.sampled_from(["a", "b", "ключ", "a b\nc"])
TEXTS = st.text(max_size=6)
LEDGERS = st.integers(0, 1)
STEPS_OF_THE_CLOCK = st.sampled_from([0.0, 0.0, 0.000001, 1.0, 5.0, -10.0, 1_000.0])
"""Seconds; a clock may be set back, and a run may be overdue."""

MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXTS),
    st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS),
    st.builds(lambda text: {"role": "tool", "content": text, "tool_call_id": "c"}, TEXTS),
    st.just(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }
    ),
)
TOPICS = st.lists(
    st.sampled_from(["MessageJournaled", "ConversationStarted", "RunStarted", "RunFailed", "MemoryCleared", "NoSuch"]),
    max_size=2,
    unique=True,
)

PAGES = {
    "adapters.sql.recorder.PAGE_EVENTS": 3,
    "adapters.sql.recorder._PAGES_AT_ONCE": 2,
    "adapters.sql.subscription.SUBSCRIPTION_PAGE_EVENTS": 4,
    "adapters.sql.subscription.PAGES_AT_ONCE": 2,
    "domain.journal.newest.PAGE_MAX": 2,
}
"""Small ones, so that a few events fill several."""

FOLLOWED_SECONDS_MAX = 3.0

Decided = list[events.Event]


class Clock:
    def __init__(self) -> None:
        self.moment = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


class StoreMachine(RuleBasedStateMachine):
    """`streams` and `log` are what has to be in the store."""

    def __init__(self, new_url: Callable[[], str], clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.url = new_url()
        self.ledgers = [open_at(self.url, synchronous="OFF") for _ in range(2)]
        self.streams: dict[str, Decided] = {}
        self.log: Decided = []

    def teardown(self) -> None:
        try:
            for key, stream in self.streams.items():
                self._assert_windows(key, None, [(last, None) for last in range(1, min(len(stream), 15) + 1)])
        finally:
            for ledger in self.ledgers:
                ledger.close()
        stored = assert_sound(self.url)
        assert [(each.event_id, each.topic) for each in stored] == [
            (each.event_id, type(each).__name__) for each in self.log
        ]

    # What is done

    @initialize(key=KEYS, text=TEXTS)
    def begin(self, key: str, text: str) -> None:
        self._commit(0, key, lambda it: it.journal(text_message("user", text)))

    @rule(seconds=STEPS_OF_THE_CLOCK)
    def time_passes(self, seconds: float) -> None:
        self.clock.moment += timedelta(seconds=seconds)

    @rule(number=LEDGERS, key=KEYS, given=st.lists(MESSAGES, min_size=1, max_size=4))
    def append(self, number: int, key: str, given: Sequence[dict[str, Any]]) -> None:
        self._commit(number, key, lambda it: [it.journal(parse_message(message)) for message in given])

    @rule(number=LEDGERS, key=KEYS, given=st.lists(MESSAGES, max_size=3))
    def extend(self, number: int, key: str, given: Sequence[dict[str, Any]]) -> None:
        journaled = self.ledgers[number].conversation(key).extend(given)
        (appended,) = self._take_in(key, given) or ([],)
        assert [(each.message_id, each.version) for each in journaled] == appended

    @rule(number=LEDGERS, key=KEYS, idempotency_key=st.sampled_from("ij"), text=st.sampled_from(["x", "y"]))
    def append_once(self, number: int, key: str, idempotency_key: str, text: str) -> None:
        chat = self.ledgers[number].conversation(key)
        earlier = [
            each
            for each in self.streams.get(key, [])
            if isinstance(each, events.MessageJournaled) and each.idempotency_key == idempotency_key
        ]
        if not earlier:
            message = chat.append("user", text, idempotency_key=idempotency_key)
            (appended,) = self._take_in(key, [{"role": "user", "content": text}])
            assert appended == [(message.message_id, message.version)]
        elif earlier[0].content == text:
            message = chat.append("user", text, idempotency_key=idempotency_key)
            assert (message.message_id, message.version) == (earlier[0].message_id, earlier[0].originator_version)
        else:
            with pytest.raises(IdempotencyConflict):
                chat.append("user", text, idempotency_key=idempotency_key)

    @rule(
        number=LEDGERS,
        key=KEYS,
        text=TEXTS,
        end=st.sampled_from(["answered", "failed", "failed, then answered", "abandoned", "open"]),
        thread_id=st.sampled_from([None, "thread"]),
    )
    def ask(self, number: int, key: str, text: str, end: str, thread_id: str | None) -> None:
        def decide(it: Conversation) -> None:
            exchange_id = it.ask(text_message("user", text))
            run_id = it.start_run(exchange_id, RunPlan("assistants", "m"))
            if end in {"failed", "failed, then answered", "abandoned"}:
                it.fail_run(run_id, Failure("failed", thread_id=thread_id))
            if end == "failed, then answered":
                run_id = it.start_run(exchange_id, RunPlan("chat", "m"))
            if end.endswith("answered"):
                it.complete_run(run_id, Completion((text_message("assistant", text),), thread_id=thread_id))
            if end == "abandoned":
                it.abandon(exchange_id, "nobody answered")

        try:
            self._commit(number, key, decide)
        except ConversationBusy:
            assert self._state(key).open_runs or self._state(key).open_exchanges

    @rule(number=LEDGERS, key=KEYS, data=st.data())
    def run_again(self, number: int, key: str, data: st.DataObject) -> None:
        """A rerun, whose answer takes the place of an earlier message."""
        said = [each.message_id for each in self.streams.get(key, []) if isinstance(each, events.MessageJournaled)]
        superseded = data.draw(st.sampled_from([None, *said[-5:]]))

        def decide(it: Conversation) -> None:
            exchange_id = it.ask(text_message("user", "again?"))
            failed = it.start_run(exchange_id, RunPlan("chat", "m"))
            it.fail_run(failed, Failure("failed"))
            it.abandon(exchange_id, "nobody answered")
            run_id = it.start_run(exchange_id, RunPlan("chat", "m", rerun_of=failed))
            answer = it.complete_run(run_id, Completion((text_message("assistant", "again"),)))
            facts = {"exchange_id": exchange_id, "run_id": run_id, "message_id": answer}
            it.record(events.RerunAccepted, superseded_message_id=superseded, **facts)

        try:
            self._commit(number, key, decide)
        except ConversationBusy:
            assert self._state(key).open_runs or self._state(key).open_exchanges

    @rule(number=LEDGERS, key=KEYS, data=st.data())
    def retract(self, number: int, key: str, data: st.DataObject) -> None:
        said = [each.message_id for each in self.streams.get(key, []) if isinstance(each, events.MessageJournaled)]
        message_id = data.draw(st.sampled_from([*said, "nobody's"]))
        if key in self.streams:
            self._commit(number, key, lambda it: it.retract(message_id, "a reason"))

    @rule(number=LEDGERS, key=KEYS)
    def clear(self, number: int, key: str) -> None:
        if key in self.streams:
            self._commit(number, key, lambda it: it.clear_memory())

    @rule(key=KEYS, text=TEXTS)
    def store_on_a_stale_head(self, key: str, text: str) -> None:
        """Whoever loaded before another one appended is refused; nothing of theirs is written."""
        stale = self.ledgers[0].journal.load(key) or Conversation.start(key)
        self._commit(1, key, lambda it: it.journal(text_message("user", text)))
        stale.journal(text_message("user", "stale"))
        with pytest.raises(ConversationChanged):
            self.ledgers[0].journal.store(stale)

    @rule(number=LEDGERS, data=st.data())
    def store_in_two_conversations(self, number: int, data: st.DataObject) -> None:
        """Both, or neither."""
        keys = data.draw(st.lists(KEYS, min_size=2, max_size=2, unique=True))
        stale = data.draw(st.booleans())
        journal = self.ledgers[number].journal
        loaded = [journal.load(key) or Conversation.start(key) for key in keys]
        if stale:
            self._commit(1 - number, keys[1], lambda it: it.journal(text_message("user", "first")))
        for conversation in loaded:
            conversation.journal(text_message("user", "both"))
        pending = [list(conversation.pending) for conversation in loaded]
        if stale:
            with pytest.raises(ConversationChanged):
                journal.store(*loaded)
            return
        journal.store(*loaded)
        for key, decided in zip(keys, pending, strict=True):
            self._took(key, decided)

    @precondition(lambda self: self.log)
    @rule(number=LEDGERS, data=st.data())
    def insert_again(self, number: int, data: st.DataObject) -> None:
        """What is there is where it is; anything else in its place is refused."""
        recorder = self.ledgers[number].journal.recorder
        at = data.draw(st.integers(0, len(self.log) - 1))
        (row,) = recorder.select_notifications(at + 1, 1)
        row = StoredRow(
            row.originator_id, row.originator_version, row.topic, row.state, row.event_id, row.at, row.schema
        )
        assert recorder.insert_events([row]) == [at + 1]
        for changed in (
            replace(row, state=b'{"changed":1}'),
            replace(row, event_id=str(uuid4())),
            replace(row, originator_version=len(self.streams[self._key(self.log[at])]) + 2, event_id=str(uuid4())),
        ):
            with pytest.raises(IntegrityError):
                recorder.insert_events([changed])

    @rule(data=st.data())
    def append_together(self, data: st.DataObject) -> None:
        """Threads of two ledgers at once: nobody knows the order, but each one's own."""
        plans = data.draw(st.lists(st.lists(KEYS, min_size=1, max_size=3), min_size=2, max_size=4))

        def write(number: int) -> None:
            for index, key in enumerate(plans[number]):
                self.ledgers[number % 2].conversation(key).append("user", f"{number} {index}")

        with ThreadPoolExecutor(len(plans)) as pool:
            list(pool.map(write, range(len(plans))))
        after = len(self.log)
        found = [each.event for each in self.ledgers[0].events(after=after)]
        for event in found:
            self._took(self._key(event), [event])
        told = [(self._key(event), event.content) for event in found if isinstance(event, events.MessageJournaled)]
        for number, keys in enumerate(plans):
            own = [each for each in told if each[1].startswith(f"{number} ")]
            assert own == [(key, f"{number} {index}") for index, key in enumerate(keys)]
        assert len(told) == sum(map(len, plans))

    @rule(number=LEDGERS)
    def reopen(self, number: int) -> None:
        self.ledgers[number].close()
        self.ledgers[number] = open_at(self.url, synchronous="OFF")

    # What is read

    @rule(number=LEDGERS, key=KEYS)
    def read_whole(self, number: int, key: str) -> None:
        ledger = self.ledgers[number]
        expected = self.streams.get(key, [])
        assert list(ledger.journal.history(key)) == expected
        self._assert_memory(ledger.memory(key), expected)

    @rule(key=KEYS, last=st.none() | st.integers(1, 12), tokens=st.none() | st.integers(1, 60), data=st.data())
    def read_windows(self, key: str, last: int | None, tokens: int | None, data: st.DataObject) -> None:
        at = data.draw(st.none() | st.integers(0, len(self.streams.get(key, [])) + 2))
        self._assert_windows(key, at, [(last, tokens), (1, None), (2, None), (None, 1), (5, 20)])

    def _assert_windows(self, key: str, at: int | None, windows: Sequence[tuple[int | None, int | None]]) -> None:
        """A window read from the end is the window of the whole."""
        journal = self.ledgers[0].journal
        whole = journal.memory(key, at=at)
        for last, tokens in windows:
            window, expected = journal.memory(key, at=at, last=last, tokens=tokens), whole.window(last, tokens)
            assert (window.messages, window.version, window.rule) == (
                expected.messages,
                expected.version,
                expected.rule,
            )
            for each in window.messages:
                assert window.run_threads.get(each.run_id) == whole.run_threads.get(each.run_id)

    @rule(number=LEDGERS, key=KEYS, data=st.data())
    def read_as_of_a_version(self, number: int, key: str, data: st.DataObject) -> None:
        stream = self.streams.get(key, [])
        version = data.draw(st.integers(-1, len(stream) + 2))
        ledger = self.ledgers[number]
        self._assert_memory(ledger.memory(key, at=version), stream[: max(version, 0)])
        after = data.draw(st.integers(0, len(stream)))
        assert list(ledger.journal.history(key, after, version)) == stream[after : max(version, 0)]

    @rule(number=LEDGERS, key=KEYS, data=st.data())
    def read_as_of_a_time(self, number: int, key: str, data: st.DataObject) -> None:
        stream = self.streams.get(key, [])
        moments = [each.timestamp for each in stream] or [self.clock.moment]
        microseconds = data.draw(st.sampled_from([-1, 0, 1, 2_000_000]))
        at = data.draw(st.sampled_from(moments)) + timedelta(microseconds=microseconds)
        expected = [each for each in stream if each.timestamp <= at]
        ledger = self.ledgers[number]
        assert ledger.journal.recorder.version_at(f"conversation:{key}", to_iso(at)) == len(expected)
        self._assert_memory(ledger.memory(key, at=at), expected)

    @rule(number=LEDGERS, topics=TOPICS, data=st.data())
    def read_the_log(self, number: int, topics: Sequence[str], data: st.DataObject) -> None:
        after = data.draw(st.integers(0, len(self.log) + 1))
        upto = data.draw(st.none() | st.integers(0, len(self.log) + 1))
        limit = data.draw(st.integers(1, 10))
        wanted = [
            (position, each)
            for position, each in enumerate(self.log, 1)
            if position > after and (not topics or type(each).__name__ in topics)
        ]
        ledger = self.ledgers[number]
        assert [(each.position, each.event) for each in ledger.events(after=after, types=topics)] == wanted
        key = data.draw(KEYS)
        of_one = [(position, each) for position, each in wanted if self._key(each) == key]
        assert [(each.position, each.event) for each in ledger.events(after=after, types=topics, key=key)] == of_one
        page = ledger.journal.recorder.select_notifications(after + 1, limit, upto, topics)
        expected = [(at, each.event_id) for at, each in wanted if upto is None or at <= upto][:limit]
        assert [(each.id, _text(each.event_id)) for each in page] == expected

    @rule(number=LEDGERS, topics=TOPICS, data=st.data())
    def follow(self, number: int, topics: Sequence[str], data: st.DataObject) -> None:
        after = data.draw(st.integers(0, len(self.log)))
        wanted = [
            (position, each)
            for position, each in enumerate(self.log, 1)
            if position > after and (not topics or type(each).__name__ in topics)
        ]
        subscription = self.ledgers[number].journal.recorder.subscribe(after, topics)
        enough = threading.Timer(FOLLOWED_SECONDS_MAX, subscription.stop)  # what is missed would be waited for
        enough.start()
        found = [(each.id, _text(each.event_id)) for each in islice(subscription, len(wanted))]
        enough.cancel()
        subscription.stop()
        assert found == [(position, each.event_id) for position, each in wanted]

    @invariant()
    def the_state_beside_each_stream_follows_from_its_events(self) -> None:
        for ledger in self.ledgers:
            assert ledger.journal.keys() == sorted(self.streams)
        for key in self.streams:
            assert self.ledgers[0].state(key) == self._state(key)

    # The lists

    def _commit(self, number: int, key: str, decide: Callable[[Conversation], Any]) -> None:
        decided: Decided = []

        def decide_and_tell(it: Conversation) -> None:
            decide(it)
            decided[:] = it.pending

        self.ledgers[number].journal.commit(key, decide_and_tell, create=True)
        self._took(key, decided)

    def _took(self, key: str, decided: Sequence[events.Event]) -> None:
        stream = self.streams.setdefault(key, []) if decided else []
        assert [each.originator_version for each in decided] == list(
            range(len(stream) + 1, len(stream) + len(decided) + 1)
        )
        stream.extend(decided)
        self.log.extend(decided)

    def _take_in(self, key: str, given: Sequence[dict[str, Any]]) -> list[list[tuple[str, int]]]:
        """Events of a call that does not show its decision: they are looked at, and then believed."""
        known = len(self.streams.get(key, []))
        found = list(self.ledgers[1].journal.history(key, after=known))
        kinds = [type(each).__name__ for each in found]
        begun = ["ConversationStarted"] if given and not known else []
        assert kinds == [*begun, *["MessageJournaled"] * len(given)]
        messages = [each for each in found if isinstance(each, events.MessageJournaled)]
        assert [(each.role, each.content, each.tool_calls) for each in messages] == [
            (each["role"], each["content"], each.get("tool_calls", [])) for each in given
        ]
        self._took(key, found)
        return [[(each.message_id, each.originator_version) for each in messages]]

    def _state(self, key: str) -> ConversationState:
        state = ConversationState()
        for event in self.streams.get(key, []):
            evolve(state, event)
        return state

    @staticmethod
    def _key(event: events.Event) -> str:
        return event.originator_id.removeprefix("conversation:")

    @staticmethod
    def _assert_memory(memory: Any, stream: Sequence[events.Event]) -> None:
        """Memory is what was said, less what was retracted, superseded or cleared."""
        said: dict[str, events.MessageJournaled] = {}
        for event in stream:
            match event:
                case events.MessageJournaled():
                    said[event.message_id] = event
                case events.MessageRetracted():
                    said.pop(event.message_id, None)
                case events.RerunAccepted():
                    said.pop(event.superseded_message_id or "", None)
                case events.MemoryCleared():
                    said.clear()
        assert [(each.message_id, each.version, each.at) for each in memory.messages] == [
            (each.message_id, each.originator_version, each.timestamp) for each in said.values()
        ]
        assert [each.message.content_as_json() for each in memory.messages] == [each.content for each in said.values()]
        assert memory.version == len(stream)


def run(new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    clock = Clock()
    monkeypatch.setattr("threadledger.domain.conversation.conversation.now", clock)
    for name, size in PAGES.items():
        monkeypatch.setattr(f"threadledger.{name}", size)
    run_state_machine_as_test(
        lambda: StoreMachine(new_url, clock),
        settings=settings(
            max_examples=settings.default.max_examples // part,
            stateful_step_count=40,
            deadline=None,
            report_multiple_bugs=False,
            phases=set(Phase) - {Phase.shrink, Phase.explain},  # a failure is told at once; shrinking it takes minutes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_on_sqlite_the_store_says_what_a_dict_of_lists_says(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        run(lambda: f"sqlite:///{Path(folder) / uuid4().hex}.db", monkeypatch, part=2)


def test_on_postgresql_the_store_says_what_a_dict_of_lists_says(postgres_url, monkeypatch):
    schemas: list[str] = []

    def new_url() -> str:
        while schemas:
            execute(postgres_url, f"DROP SCHEMA {schemas.pop()} CASCADE")
        schemas.append(f"test_{uuid4().hex}")
        execute(postgres_url, f"CREATE SCHEMA {schemas[0]}")
        url = make_url(postgres_url).update_query_dict({"options": f"-csearch_path={schemas[0]}"})
        return url.render_as_string(hide_password=False)

    try:
        run(new_url, monkeypatch, part=8)
    finally:
        for schema in schemas:
            execute(postgres_url, f"DROP SCHEMA {schema} CASCADE")
