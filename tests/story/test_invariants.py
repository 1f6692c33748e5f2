"""Test invariants 1, 2, 3 and 5 of the design for every sequence of outcomes.

The backends and the mirror are test doubles that read the database through a separate connection when they are called.
"""

import json
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadledger.adapters.sql import Database, Factory, SqlMirrorHeads
from threadledger.domain.conversation import Completion, text_message
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.effects import perform, work
from threadledger.domain.errors import AllBackendsFailed, ConversationBusy, IdempotencyConflict, ProviderRefused
from threadledger.domain.exchange import Candidate, Conversing, Exchange, Policy, Services
from threadledger.domain.failures import Failure
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import Rendering, ThreadItem, ThreadOutbox, ThreadState, compare


class Witness:
    """Read the database through a second connection, which only sees committed data."""

    def __init__(self, path):
        self.path = path

    def events(self):
        connection = sqlite3.connect(self.path)
        try:
            rows = connection.execute("SELECT topic, state FROM events ORDER BY position").fetchall()
        finally:
            connection.close()
        return [(topic, json.loads(state)) for topic, state in rows]

    def of(self, topic):
        return [payload for each, payload in self.events() if each == topic]


class Recorded:
    """Represent a scripted backend that records the content of the database when it is called."""

    thread = None

    def __init__(self, name, witness, outcomes, takes_unsent=False, thread=None, mirror=None):
        self.name, self.witness, self.outcomes = name, witness, outcomes
        self.thread, self.takes_unsent, self.mirror = thread, takes_unsent, mirror
        self.calls = 0

    def preflight(self, request):
        return None

    def answer(self, request):
        self.calls += 1
        self._assert_written_down(request)
        outcome = self.outcomes.pop(0) if self.outcomes else "answer"
        if outcome == "tool":
            call = ToolCall(f"call {request.run_id}", "look", "{}")
            yield from work(lambda: request.journal([Message(Role.ASSISTANT, None, (call,))]))
            assert self.witness.of("MessageJournaled")[-1]["tool_calls"], "the wish is committed before the tool runs"
            yield from work(lambda: request.journal([Message(Role.TOOL, "a cat", tool_call_id=call.id)]))
            outcome = "answer"
        if outcome == "answer":
            return Completion((text_message("assistant", f"answer of {request.run_id}"),))
        if outcome == "crash":
            raise ZeroDivisionError("the backend itself is broken")
        raise ProviderRefused(Failure("failed", code=outcome, message=outcome, thread_id=request.thread_id))
        yield

    def _assert_written_down(self, request):
        questions = [m for m in self.witness.of("MessageJournaled") if m["exchange_id"] == request.exchange_id]
        assert questions and questions[0]["role"] == "user"
        assert request.run_id in {run["run_id"] for run in self.witness.of("RunStarted")}
        ended = {end["run_id"] for topic in ("RunCompleted", "RunFailed") for end in self.witness.of(topic)}
        assert request.run_id not in ended
        assert [m.text for m in request.memory.shown()][-1] is not None


class Shelf:
    """Represent a mirror in memory that fails on demand, before or after it has written."""

    name = "shelf"
    endpoint = "memory:"
    batch = 2

    def __init__(self, witness, faults=()):
        self.witness, self.faults, self.threads = witness, list(faults), {}

    def render(self, memory, thread_id=None):
        items = [
            ThreadItem("message", each.message.role.value, each.message.text, "", each.message_id, each.version)
            for each in memory.paired()
        ]
        return Rendering(tuple(items))

    def create(self, key):
        self._fault("before")
        assert self.witness.of("MessageJournaled"), "nothing is made for a conversation of which nothing is journaled"
        thread_id = f"shelf {len(self.threads)}"
        self.threads[thread_id] = []
        return thread_id
        yield

    def add(self, thread_id, items):
        journaled = {message["message_id"] for message in self.witness.of("MessageJournaled")}
        for item in items:
            self._fault("before")
            assert item.message_id in journaled | {""}, "nothing is sent that is not journaled"
            self.threads[thread_id].append(replace(item, item_id=f"item {len(self.threads[thread_id])}"))
            self._fault("after")
        return
        yield

    def read(self, thread_id):
        self._fault("before")
        return list(self.threads[thread_id])
        yield

    def delete(self, thread_id, items):
        raise AssertionError(f"nothing lands late here, so nothing may be taken out: {items}")
        yield

    def remove(self, thread_id):
        raise AssertionError(f"every thread is linked, so none is removed: {thread_id}")
        yield

    def sweep(self, thread_id, run_ids, completed):
        return ()
        yield

    def _fault(self, moment):
        if self.faults and self.faults[0] in {moment, "pass"}:
            fault = self.faults.pop(0)
            if fault != "pass":
                raise ProviderRefused(Failure("error", details={"exception": "APIConnectionError"}))


@contextmanager
def world(outcomes=(), faults=(), retries=1, second=()):
    """Create a ledger with two backends, `first` and `second`, and the shelf."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        database = Database(f"sqlite:///{path}", synchronous="NORMAL")
        witness = Witness(path)
        shelf = Shelf(witness, faults)
        backends = {
            "first": Recorded("first", witness, list(outcomes), thread="shelf", takes_unsent=False),
            "second": Recorded("second", witness, list(second)),
        }
        services = Services(
            policy=Policy((Candidate("first", "m1"), Candidate("second", "m2")), retries=retries),
            backends=backends,
            mirrors={"shelf": shelf},
            mirrored_to="shelf",
            outbox=ThreadOutbox({"shelf": shelf}, lambda: SqlMirrorHeads(database), ["shelf"]),
            wait=lambda _: None,
            random=Random(1),
        )
        with Ledger(Journal(Factory(database=database)), services) as ledger:
            yield ledger, witness, shelf, backends


OUTCOMES = st.lists(
    st.sampled_from(["answer", "tool", "server_error", "rate_limit_exceeded", "invalid_prompt", "crash"]), max_size=6
)
FAULTS = st.lists(st.sampled_from(["before", "after", "pass"]), max_size=8)


@given(OUTCOMES, OUTCOMES, FAULTS, st.integers(0, 2))
@settings(max_examples=30)
def test_nobody_is_asked_before_the_question_is_committed_and_no_answer_is_returned_before_it_is(
    outcomes, second, faults, retries
):
    with world(outcomes, faults, retries, second) as (ledger, witness, _, _):
        for index in range(3):
            try:
                answer = ledger.conversation("k").ask(f"question {index}")
            except AllBackendsFailed as nobody:
                failed = {failure["run_id"] for failure in witness.of("RunFailed")}
                assert {failure.run_id for failure in nobody.failures} <= failed
                assert witness.of("ExchangeAbandoned")[-1]["exchange_id"] == nobody.exchange_id
                continue
            journaled = [m for m in witness.of("MessageJournaled") if m["message_id"] == answer.message_id]
            assert [m["content"] for m in journaled] == [answer.text]
            assert answer.run_id in {run["run_id"] for run in witness.of("RunCompleted")}


@given(OUTCOMES, OUTCOMES, FAULTS, st.integers(0, 2))
@settings(max_examples=30)
def test_every_run_ends_once_and_a_change_of_backend_has_its_fallback(outcomes, second, faults, retries):
    with world(outcomes, faults, retries, second) as (ledger, witness, _, backends):
        for index in range(3):
            with suppress(AllBackendsFailed):
                ledger.conversation("k").ask(f"question {index}")
        events = witness.events()
        started = [payload["run_id"] for topic, payload in events if topic == "RunStarted"]
        ended = [payload["run_id"] for topic, payload in events if topic in {"RunCompleted", "RunFailed"}]
        assert ended == started
        assert sum(backend.calls for backend in backends.values()) <= len(started)
        _assert_fallbacks(events)


def _assert_fallbacks(events):
    """Check that each `FallbackUsed` is between a failed run and the next run of its exchange, by another backend."""
    last = {}
    announced = None
    for topic, payload in events:
        if topic == "FallbackUsed":
            announced = payload
        elif topic == "RunStarted":
            before = last.get(payload["exchange_id"])
            changed = before is not None and before["backend"] != payload["backend"]
            assert (announced is not None) == changed
            if changed:
                assert announced["failed_run_id"] == before["run_id"]
                assert (announced["from_backend"], announced["to_backend"]) == (before["backend"], payload["backend"])
            last[payload["exchange_id"]], announced = payload, None


@given(OUTCOMES, FAULTS)
@settings(max_examples=30)
def test_after_any_faults_the_next_mirroring_brings_the_thread_up_to_the_journal_once(outcomes, faults):
    with world(outcomes, faults) as (ledger, _, shelf, _):
        for index in range(2):
            with suppress(AllBackendsFailed):
                ledger.conversation("k").ask(f"question {index // 2}")
        shelf.faults = []
        ledger.conversation("k").append("user", "and now in peace")
        link = ledger.state("k").links["shelf"]
        items = shelf.render(ledger.memory("k").settled()).items
        found = compare(items, shelf.threads[link.thread_id])
        assert found.state is ThreadState.SAME, (items, shelf.threads)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y"]), st.sampled_from("ij")), max_size=12))
@settings(max_examples=30)
def test_the_same_idempotency_key_is_one_event_whatever_the_order(appends):
    expected = {}
    with world() as (ledger, witness, _, _):
        for key, text, idempotency_key in appends:
            place = (key, idempotency_key)
            try:
                ledger.conversation(key).append("user", text, idempotency_key=idempotency_key)
                assert expected.setdefault(place, text) == text
            except IdempotencyConflict:
                assert expected[place] != text
        assert sorted(message["content"] for message in witness.of("MessageJournaled")) == sorted(expected.values())


@pytest.mark.parametrize("threads", [2, 8])
def test_the_same_question_asked_at_once_under_one_key_is_one_exchange_and_one_answer(threads):
    together = Barrier(threads)

    def ask(ledger):
        together.wait()
        try:
            return ledger.conversation("k").ask("hello", idempotency_key="i").text
        except ConversationBusy:
            return None

    with world() as (ledger, witness, _, backends):
        with ThreadPoolExecutor(threads) as pool:
            answers = {text for text in pool.map(ask, [ledger] * threads) if text is not None}
        assert len(answers) == 1
        assert [m["role"] for m in witness.of("MessageJournaled")] == ["user", "assistant"]
        assert backends["first"].calls == 1


def test_a_question_asked_again_under_its_key_just_when_the_first_is_answered_is_not_answered_twice():
    with world() as (ledger, witness, _, backends):
        exchange_id = ledger.journal.commit("k", lambda it: it.ask(text_message("user", "hello"), "i"), create=True)
        first = Exchange(ledger.journal, ledger.services, "k", exchange_id)
        second = Conversing(ledger.journal, ledger.services, "k")
        rerun = second.rerun

        def once_the_first_is_answered(exchange_id, **given):
            yield from first.run()
            return (yield from rerun(exchange_id, **given))

        second.rerun = once_the_first_is_answered  # at that point it has searched for an answer and found none
        perform(second.ask("hello", idempotency_key="i"))
        assert [m["role"] for m in witness.of("MessageJournaled")] == ["user", "assistant"]
        assert backends["first"].calls == 1
