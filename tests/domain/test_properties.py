"""The invariants of a conversation under random commands in any order, illegal ones included."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from threadledger.domain.conversation import (
    Completion,
    Conversation,
    ConversationState,
    RunPlan,
    evolve,
    fold_exchanges,
    stream_of,
    text_message,
)
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import ConversationBusy, ExchangeAnswered, RunNotOpen
from threadledger.domain.failures import Failure
from threadledger.domain.ids import from_iso
from threadledger.domain.memory import fold_memory

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

backends = st.sampled_from(["assistants", "responses", "chat"])
texts = st.sampled_from(["", "yes", "yes", "no"])
statuses = st.sampled_from(["failed", "error", "expired", "refused"])
threads = st.sampled_from(["t1", "t2"])
pick = st.integers(0, 10_000)


class AnyConversation(RuleBasedStateMachine):
    """One conversation, stored after each command, loaded anew after each refusal."""

    clock: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.clock.move_to(NOON)
        self.log: list[e.Event] = []
        self.loaded = Conversation.start("customer-42")
        self.store()

    def store(self) -> None:
        self.log += self.loaded.collect_events()
        self.snapshot = self.loaded.state.as_json()

    def do(self, command: Any) -> None:
        try:
            command(self.loaded)
        except (ConversationBusy, ExchangeAnswered, RunNotOpen):
            self.loaded = Conversation(stream_of("customer-42"), ConversationState.from_json(self.snapshot))
        else:
            self.store()

    def run(self, number: int) -> str:
        """A run that there is or was, or one that never was."""
        runs = [event.run_id for event in self.log if isinstance(event, e.RunStarted)]
        return [*runs[::-1], "never"][number % 3 % (len(runs) + 1)]

    def exchange(self, number: int) -> str:
        known = [event.exchange_id for event in self.log if isinstance(event, e.MessageJournaled) and event.exchange_id]
        known = list(dict.fromkeys(known))[::-1]
        return [*known, "own"][number % 4 % (len(known) + 1)]

    @rule(text=texts)
    def ask(self, text: str) -> None:
        self.do(lambda it: it.ask(text_message("user", text)))

    @rule(number=pick, backend=backends, of=st.none() | pick)
    def start_run(self, number: int, backend: str, of: int | None) -> None:
        plan = RunPlan(backend, "model", rerun_of=None if of is None else self.run(of))
        self.do(lambda it: it.start_run(self.exchange(number), plan))

    @precondition(lambda self: self.loaded.state.open_exchanges)
    @rule(backend=backends)
    def start_next_run(self, backend: str) -> None:
        exchange_id, exchange = list(self.loaded.state.open_exchanges.items())[-1]
        plan = RunPlan(backend, "model", rerun_of=exchange.rerun_of)
        self.do(lambda it: it.start_run(exchange_id, plan))

    @rule(tried=st.lists(backends, min_size=2, max_size=4), status=statuses)
    def ask_while_one_after_the_other_fails(self, tried: list[str], status: str) -> None:
        self.ask("no")
        for backend in tried:
            if self.loaded.state.open_exchanges:
                self.start_next_run(backend)
            if self.loaded.state.open_runs:
                self.fail_open_run(status)

    @rule(number=pick)
    def complete_run(self, number: int) -> None:
        completion = Completion((text_message("assistant", "yes"),))
        self.do(lambda it: it.complete_run(self.run(number), completion))

    @rule(number=pick, status=statuses)
    def fail_run(self, number: int, status: str) -> None:
        self.do(lambda it: it.fail_run(self.run(number), Failure(status)))

    @precondition(lambda self: self.loaded.state.open_runs)
    @rule(status=statuses)
    def fail_open_run(self, status: str) -> None:
        self.do(lambda it: it.fail_run(next(iter(it.state.open_runs)), Failure(status)))

    @rule()
    def close_overdue_runs(self) -> None:
        self.do(lambda it: it.close_overdue_runs())

    @rule(number=pick)
    def abandon(self, number: int) -> None:
        exchange_id = self.exchange(number)
        if exchange_id not in {run.exchange_id for run in self.loaded.state.open_runs.values()}:
            self.do(lambda it: it.abandon(exchange_id, "nobody is left"))

    @rule(role=st.sampled_from(["user", "assistant"]), text=texts, number=st.none() | pick)
    def journal(self, role: str, text: str, number: int | None) -> None:
        exchange_id = None if number is None else self.exchange(number)
        self.do(lambda it: it.journal(text_message(role, text), exchange_id=exchange_id))

    @rule(backend=backends, thread=threads, verb=st.sampled_from(["link", "lose", "rebuild"]))
    def change_thread(self, backend: str, thread: str, verb: str) -> None:
        match verb:
            case "link":
                self.do(lambda it: it.link_thread(backend, thread, "http://here"))
            case "lose":
                self.do(lambda it: it.lose_thread(backend, thread, "gone"))
            case _:
                self.do(lambda it: it.rebuild_thread({"backend": backend, "thread_id": thread}))

    @rule(clear=st.booleans())
    def forget(self, clear: bool) -> None:
        self.do(lambda it: it.clear_memory() if clear else it.retract("m1"))

    @rule(seconds=st.sampled_from([-3600, -1, 0, 1, 60, 91, 3600]))
    def time_passes_or_is_set_back(self, seconds: int) -> None:
        self.clock.tick(timedelta(seconds=seconds))

    @rule()
    def load_from_snapshot(self) -> None:
        self.loaded = Conversation(stream_of("customer-42"), ConversationState.from_json(self.snapshot))

    @invariant()
    def versions_are_contiguous(self) -> None:
        assert [event.originator_version for event in self.log] == list(range(1, len(self.log) + 1))

    @invariant()
    def timestamps_never_go_back(self) -> None:
        times = [event.timestamp for event in self.log]
        assert times == sorted(times)

    @invariant()
    def the_state_is_the_fold_of_the_events(self) -> None:
        folded = ConversationState()
        for event in self.log:
            evolve(folded, event)
        assert self.loaded.state == folded

    @invariant()
    def the_snapshot_is_the_state(self) -> None:
        assert ConversationState.from_json(self.loaded.state.as_json()) == self.loaded.state

    @invariant()
    def a_run_ends_exactly_once_and_never_two_are_open(self) -> None:
        open_runs: set[str] = set()
        for event in self.log:
            match event:
                case e.RunStarted():
                    open_runs.add(event.run_id)
                    assert len(open_runs) == 1
                case e.RunCompleted() | e.RunFailed():
                    open_runs.remove(event.run_id)
        assert set(self.loaded.state.open_runs) == open_runs

    @invariant()
    def a_run_is_interrupted_only_after_its_deadline(self) -> None:
        deadlines = {event.run_id: event.deadline for event in self.log if isinstance(event, e.RunStarted)}
        for event in self.log:
            if isinstance(event, e.RunFailed) and event.status == "interrupted":
                assert event.timestamp > from_iso(deadlines[event.run_id])

    @invariant()
    def a_fallback_stands_where_another_backend_takes_over_and_nowhere_else(self) -> None:
        assert [event for event in self.log if isinstance(event, e.FallbackUsed)] == [
            event for event in map(self.fallback_before, range(len(self.log))) if event is not None
        ]

    def fallback_before(self, index: int) -> e.Event | None:
        """The event before a run that takes over from another backend: it has to be the fallback."""
        run = self.log[index]
        if not isinstance(run, e.RunStarted):
            return None
        earlier = self.log[:index]
        before = next((each for each in reversed(earlier) if self.is_of(each, run)), None)
        if before is None or before.rerun_of != run.rerun_of or before.backend == run.backend:
            return None
        if not any(isinstance(each, e.RunFailed) and each.run_id == before.run_id for each in earlier):
            return None
        fallback = self.log[index - 1]
        assert isinstance(fallback, e.FallbackUsed)
        assert (fallback.exchange_id, fallback.failed_run_id) == (run.exchange_id, before.run_id)
        assert (fallback.from_backend, fallback.to_backend) == (before.backend, run.backend)
        return fallback

    @staticmethod
    def is_of(event: e.Event, run: e.RunStarted) -> TypeGuard[e.RunStarted]:
        """Runs of the same exchange. An abandoned one that is taken up again goes on with the attempt it was in."""
        return isinstance(event, e.RunStarted) and event.exchange_id == run.exchange_id

    @invariant()
    def nothing_that_was_journaled_is_lost_or_merged(self) -> None:
        journaled = [event for event in self.log if isinstance(event, e.MessageJournaled)]
        assert self.loaded.state.messages == len({event.message_id for event in journaled}) == len(journaled)
        cleared = max((event.up_to_version for event in self.log if isinstance(event, e.MemoryCleared)), default=0)
        shown = [event.message_id for event in journaled if event.originator_version > cleared]
        assert [each.message_id for each in fold_memory(self.log).messages] == shown

    @invariant()
    def the_audit_and_the_aggregate_agree_on_the_runs(self) -> None:
        runs = fold_exchanges(self.log).runs.values()
        assert {run.run_id for run in runs if run.state == "open"} == set(self.loaded.state.open_runs)
        assert len([run for run in runs if run.state == "failed"]) == self.loaded.state.failed_runs


def test_the_invariants_hold_under_commands_in_any_order():
    with freeze_time(NOON) as clock:
        AnyConversation.clock = clock
        run_state_machine_as_test(AnyConversation, settings=settings(stateful_step_count=30, deadline=None))


@given(st.lists(st.text(max_size=3), max_size=20))
def test_equal_texts_are_never_deduplicated(texts):
    conversation = Conversation.start("customer-42")
    for text in texts:
        conversation.journal(text_message("user", text))
    memory = fold_memory(conversation.collect_events())
    assert [each.message.content for each in memory.messages] == texts
    assert [each["content"] for each in memory.as_chat_messages()] == [text for text in texts if text.strip()]
