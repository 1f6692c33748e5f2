"""Budgets: the highest cost of a run is reserved with its start, and what does not fit is refused before a call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadledger.adapters.sql import SqlBudgets
from threadledger.domain import ids
from threadledger.domain.conversation import Conversation, RunPlan
from threadledger.domain.conversation.events import RunCompleted, RunFailed, RunStarted
from threadledger.domain.errors import AllBackendsFailed, ConversationChanged, RunNotOpen
from threadledger.domain.exchange.records import Run, RunRecords
from threadledger.domain.failures import Failure
from threadledger.domain.journal.budgets import billionths
from threadledger.domain.ledger import Ledger

from ..adapters.writing import execute, query, rewind
from .budgeting import LIMIT_USD, OWNER, ledger_of
from .storming import shifted

PROCESSES, ASKS = (8, 25) if "THREADLEDGER_SOAK" in os.environ else (4, 10)
"""Number of processes, and of questions that each asks at once. `make soak` asks 200."""

ALL = PROCESSES * ASKS

PRICE = {"input": 5_000, "cached": 500, "output": 30_000}
"""Billionths of a US dollar for a token of gpt-5.5."""


@pytest.fixture
def opened(any_db_url: str, simulator: Any) -> Iterator[Callable[..., Ledger]]:
    yield from opening(any_db_url, simulator.base_url)


@pytest.fixture
def opened_here(db_url: str, simulator: Any) -> Iterator[Callable[..., Ledger]]:
    """Yield the same function on SQLite, for what does not depend on the database."""
    yield from opening(db_url, simulator.base_url)


def opening(url: str, base_url: str) -> Iterator[Callable[..., Ledger]]:
    """Yield a function that opens ledgers with these settings."""
    ledgers: list[Ledger] = []

    def make(**settings: Any) -> Ledger:
        ledgers.append(ledger_of(url, base_url, **settings))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


def used(ledger: Ledger, scope: str) -> tuple[int, int]:
    return cast("SqlBudgets", ledger.journal.budgets).used(scope)


def today(owner: str = OWNER) -> str:
    return f"owner:{owner}:{datetime.now(UTC):%Y-%m-%d}"


def totals(url: str) -> list[Any]:
    return sorted(query(url, "SELECT scope, spent, reserved FROM budget_totals WHERE spent <> 0 OR reserved <> 0"))


def refused(ledger: Ledger, key: str) -> Any:
    with pytest.raises(AllBackendsFailed) as caught:
        ledger.conversation(key).ask("And the other one?")
    return caught.value.failures[-1]


def test_the_cost_of_an_answer_is_reserved_with_its_start_and_settled_with_its_usage(
    opened: Callable[..., Ledger],
) -> None:
    ledger = opened(max_cost_per_conversation=5)
    ledger.conversation("k").describe(owner=OWNER)
    answer = ledger.conversation("k").ask("Where is my parcel?")
    (started,) = [each for each in ledger.journal.history("k") if isinstance(each, RunStarted)]
    spent = answer.usage.input_tokens * PRICE["input"] + answer.usage.output_tokens * PRICE["output"]
    assert started.cost_reserved is not None
    assert 4_096 * PRICE["output"] < started.cost_reserved < 4_500 * PRICE["output"]
    assert spent > 0
    assert used(ledger, "conversation:k") == used(ledger, today()) == (spent, 0)


def test_a_question_over_budget_calls_no_backend_and_is_recorded_as_refused(
    opened_here: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = opened_here(max_cost_per_conversation=0.125, retries=2)
    while True:
        try:
            ledger.conversation("k").ask("Where is my parcel?")
        except AllBackendsFailed as failed:
            failure = failed.failures[-1]
            break
        assert len(simulator.requests) < 1_000
    before = len(simulator.requests)
    again = refused(ledger, "k")
    assert len(simulator.requests) == before
    assert (failure.cause, again.facts.status, again.attempt) == ("over_budget", "refused", 1)
    assert "THREADLEDGER_MAX_COST_PER_CONVERSATION" in again.facts.message
    assert ledger.conversation("other").ask("Where is my parcel?").text


def test_conversations_without_an_owner_are_not_limited_by_the_budget_of_an_owner(
    opened: Callable[..., Ledger],
) -> None:
    ledger = opened(max_cost_per_owner_day=0)
    assert ledger.conversation("k").ask("Where is my parcel?").text
    ledger.conversation("k").describe(owner=OWNER)
    assert "THREADLEDGER_MAX_COST_PER_OWNER_DAY" in refused(ledger, "k").facts.message


def test_the_limit_of_the_answer_is_reserved_if_the_question_sets_one(opened_here: Callable[..., Ledger]) -> None:
    ledger = opened_here(max_cost_per_conversation=0.01)
    assert refused(ledger, "k").cause == "over_budget"
    answer = ledger.conversation("k").ask("Where is my parcel?", max_output_tokens=100)
    assert answer.text


def test_a_cheaper_fallback_answers_where_the_first_backend_does_not_fit(opened_here: Callable[..., Ledger]) -> None:
    ledger = opened_here(max_cost_per_conversation=0.05, backends=("responses", "chat"), fallback_model="gpt-4o-mini")
    answer = ledger.conversation("k").ask("Where is my parcel?")
    assert (answer.backend, answer.fallback) == ("chat", True)
    assert [failure.cause for failure in answer.failures] == ["over_budget"]


def test_a_model_without_a_price_is_refused_while_a_budget_is_set(opened_here: Callable[..., Ledger]) -> None:
    ledger = opened_here(max_cost_per_conversation=5, openai_model="home-made")
    failure = refused(ledger, "k")
    assert failure.cause == "over_budget"
    assert "threadledger[prices]" in failure.facts.message
    assert "THREADLEDGER_MAX_COST_PER_CONVERSATION" in failure.facts.message


def test_a_refused_request_costs_nothing_and_a_lost_one_all_that_it_reserved(
    opened: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = opened(max_cost_per_conversation=5)
    simulator.add_fault("POST /chat/completions", refuse={"status": 400})
    refused(ledger, "k")
    assert used(ledger, "conversation:k") == (0, 0)
    simulator.add_fault("POST /chat/completions", lose_answer=True)
    refused(ledger, "k")
    started = [each for each in ledger.journal.history("k") if isinstance(each, RunStarted)][-1]
    assert used(ledger, "conversation:k") == (started.cost_reserved, 0)


def test_a_dead_run_keeps_its_reservation_which_counts_as_spent_once_it_is_closed(
    opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(max_cost_per_conversation=5)
    exchange_id = ledger.conversation("k").append("user", "Hi").message_id
    plan = RunPlan("chat", "gpt-5.5", cost_reserved=700)
    ledger.journal.commit("k", lambda it: it.start_run(exchange_id, plan))
    assert used(ledger, "conversation:k") == (0, 700)
    monkeypatch.setattr(ids, "datetime", shifted(timedelta(hours=1).total_seconds()))
    assert len(ledger.journal.close_overdue_runs()) == 1
    assert used(ledger, "conversation:k") == (700, 0)


def test_an_answer_that_arrives_after_its_run_was_closed_is_kept_whatever_is_left(
    opened_here: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened_here(max_cost_per_conversation=0.13)
    complete = RunRecords.complete

    def after_it_was_closed(self: RunRecords, run: Run, *args: Any) -> Any:
        ledger.journal.commit("k", lambda it: it.close_runs([run.run_id]))
        return complete(self, run, *args)

    monkeypatch.setattr(RunRecords, "complete", after_it_was_closed)
    answer = ledger.conversation("k").ask("Where is my parcel?")
    starts = [each for each in ledger.journal.history("k") if isinstance(each, RunStarted)]
    assert answer.text
    assert [each.cost_reserved is None for each in starts] == [False, True]
    assert used(ledger, "conversation:k")[0] > (starts[0].cost_reserved or 0)


def test_a_rewound_log_is_counted_again(opened: Callable[..., Ledger], any_db_url: str) -> None:
    ledger = opened(max_cost_per_conversation=5)
    ledger.conversation("kept").ask("Where is my parcel?")
    before = totals(any_db_url)
    position = max(position for position, _ in ledger.journal.logged())
    ledger.conversation("lost").ask("Where is my parcel?")
    opened(max_cost_per_conversation=5).conversation("kept").append("user", "Thanks")
    ledger.close()
    rewind(any_db_url, position)
    opened(max_cost_per_conversation=5).conversation("kept").append("user", "Thanks")
    assert totals(any_db_url) == before


def test_a_backup_keeps_what_was_spent(opened_here: Callable[..., Ledger], tmp_path: Path, simulator: Any) -> None:
    ledger = opened_here(max_cost_per_conversation=5)
    ledger.conversation("k").ask("Where is my parcel?")
    ledger.back_up(tmp_path / "backup.db")
    assert list(ledger.check()) == []
    url = f"sqlite:///{tmp_path / 'backup.db'}"
    with ledger_of(url, simulator.base_url, max_cost_per_conversation=5) as copy:
        copy.conversation("other").append("user", "Hi")
        assert used(copy, "conversation:k") == used(ledger, "conversation:k")


def test_own_runs_are_counted_and_never_refused(opened: Callable[..., Ledger]) -> None:
    ledger = opened(max_cost_per_conversation=0)
    chat = ledger.conversation("k")
    chat.append("user", "Hi")
    with chat.run(backend="my-own", model="gpt-5.5") as run:
        run.complete("Hello", usage={"input_tokens": 100, "output_tokens": 10, "cached_tokens": 40})
    expected = 60 * PRICE["input"] + 40 * PRICE["cached"] + 10 * PRICE["output"]
    assert used(ledger, "conversation:k") == (expected, 0)


def test_a_compaction_is_counted_too(opened_here: Callable[..., Ledger]) -> None:
    ledger = opened_here(max_cost_per_conversation=5)
    chat = ledger.conversation("k")
    for _ in range(3):
        chat.ask("Where is my parcel?")
    before = used(ledger, "conversation:k")
    assert chat.compact(keep_last=2) is not None
    after = used(ledger, "conversation:k")
    assert after[0] > before[0]
    assert after[1] == 0


def test_what_was_stored_without_a_budget_is_counted_when_one_is_set(
    opened: Callable[..., Ledger], any_db_url: str
) -> None:
    without = opened(max_cost_per_owner_day=None)
    without.conversation("k").ask("Before there was an owner")
    without.conversation("k").describe(owner=OWNER)
    answer = without.conversation("k").ask("Where is my parcel?")
    assert without.journal.budgets is None
    assert "budget_totals" not in {name for (name,) in query(any_db_url, TABLES[any_db_url[:6]])}
    first = opened(max_cost_per_conversation=5)
    first.conversation("k").append("user", "Thanks")
    spent = answer.usage.input_tokens * PRICE["input"] + answer.usage.output_tokens * PRICE["output"]
    assert used(first, today()) == (spent, 0)
    assert used(first, "conversation:k")[0] > spent
    answer = without.conversation("k").ask("And the other one?")
    second = opened(max_cost_per_conversation=5)
    second.conversation("k").append("user", "Thanks")
    more = answer.usage.input_tokens * PRICE["input"] + answer.usage.output_tokens * PRICE["output"]
    assert used(second, today()) == (spent + more, 0)


TABLES = {
    "sqlite": "SELECT name FROM sqlite_master",
    "postgr": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}


def test_a_rebuild_counts_what_the_commits_counted(
    opened: Callable[..., Ledger], any_db_url: str, simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.budgets.PAGE_POSITIONS", 2)
    ledger = opened(max_cost_per_conversation=5)
    for number in range(3):
        chat = ledger.conversation(f"k{number}")
        chat.describe(owner=OWNER if number else "")
        chat.ask("Where is my parcel?")
    simulator.add_fault("POST /chat/completions", lose_answer=True)
    refused(ledger, "k1")
    exchange_id = ledger.conversation("k2").append("user", "Hi").message_id
    ledger.journal.commit("k2", lambda it: it.start_run(exchange_id, RunPlan("chat", "gpt-5.5", cost_reserved=700)))
    before = totals(any_db_url)
    assert any(reserved == 700 for _, _, reserved in before)
    ledger.rebuild_views()
    assert totals(any_db_url) == before


def test_the_next_conversation_of_a_deleted_key_has_a_budget_of_its_own_and_the_owner_has_spent_what_was_spent(
    opened: Callable[..., Ledger], simulator: Any
) -> None:
    simulator.answer(*[{"output": ["It is there."], "usage": {"input_tokens": 50, "output_tokens": 4_200}}] * 2)
    cost = 50 * PRICE["input"] + 4_200 * PRICE["output"]
    ledger = opened(max_cost_per_conversation=0.125)
    chat = ledger.conversation("k")
    chat.describe(owner=OWNER)
    chat.ask("Where is my parcel?")
    assert "PER_CONVERSATION" in refused(ledger, "k").facts.message
    chat.delete("asked for")
    assert chat.ask("Where is my parcel?").text
    deleted_version = ledger.state("k").deleted_version
    assert used(ledger, "conversation:k") == used(ledger, f"conversation@{deleted_version}:k") == (cost, 0)
    assert used(ledger, today()) == (cost, 0)
    assert "PER_CONVERSATION" in refused(ledger, "k").facts.message


def test_a_run_that_is_open_when_its_conversation_is_deleted_is_settled_once_and_for_its_owner(
    opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(max_cost_per_conversation=5)
    chat = ledger.conversation("k")
    chat.describe(owner=OWNER)
    complete = RunRecords.complete

    def after_another_one_has_the_key(self: RunRecords, run: Run, *args: Any) -> Any:
        assert used(ledger, today())[1] > 0
        ledger.journal.commit("k", lambda it: it.delete("", interrupting=True))
        chat.describe(owner="ben")
        return complete(self, run, *args)

    with monkeypatch.context() as late:
        late.setattr(RunRecords, "complete", after_another_one_has_the_key)
        with pytest.raises(ConversationChanged):
            chat.ask("Where is my parcel?")
    (started,) = [event for _, event in ledger.journal.logged() if isinstance(event, RunStarted)]
    assert used(ledger, "conversation:k") == used(ledger, today()) == (started.cost_reserved, 0)
    assert used(ledger, today("ben")) == (0, 0)
    chat.ask("Where is my parcel?")
    assert used(ledger, "conversation:k") == used(ledger, today()) == (started.cost_reserved, 0)
    assert used(ledger, today("ben"))[0] > 0


def test_a_rebuild_and_a_new_process_count_deleted_conversations_like_their_commits(
    opened: Callable[..., Ledger], any_db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.budgets.PAGE_POSITIONS", 2)
    ledger, without = opened(max_cost_per_conversation=5), opened(max_cost_per_owner_day=None)
    chat, other = ledger.conversation("k"), ledger.conversation("other")
    other.describe(owner="ben")
    other.ask("Where is my parcel?")
    chat.describe(owner=OWNER)
    chat.ask("Where is my parcel?")
    spent = used(ledger, today())
    chat.delete()
    chat.ask("Of no owner")
    assert used(ledger, today()) == spent
    ledger.journal.commit("k", lambda it: it.start_run("x", RunPlan("chat", "gpt-5.5", cost_reserved=700)))
    without.journal.commit("k", lambda it: it.delete("", interrupting=True))
    ledger.fork("other", "k")
    before = used(ledger, today("ben"))
    chat.ask("Of the owner of the other one")
    assert used(ledger, today("ben")) > before
    without.conversation("k").delete()
    without.conversation("k").describe(owner="carl")
    without.conversation("k").ask("Counted later")
    assert used(ledger, today("carl")) == (0, 0)
    opened(max_cost_per_conversation=5).conversation("other").append("user", "Thanks")
    assert used(ledger, today("carl"))[0] > 0
    assert used(ledger, today()) == spent
    counted = totals(any_db_url)
    assert len([scope for scope, _, _ in counted if scope.endswith(":k")]) == 4
    assert not any(reserved for _, _, reserved in counted)
    ledger.rebuild_views()
    assert totals(any_db_url) == counted


def test_a_deletion_that_cannot_be_read_still_begins_another_budget(
    opened_here: Callable[..., Ledger], db_url: str
) -> None:
    ledger = opened_here(max_cost_per_conversation=5)
    chat = ledger.conversation("k")
    chat.describe(owner=OWNER)
    chat.ask("Where is my parcel?")
    chat.delete()
    chat.ask("Of no owner")
    counted = totals(db_url)
    damage = "UPDATE events SET state = CAST('{' AS BLOB) WHERE topic = 'ConversationDeleted'"
    execute(db_url, "DROP TRIGGER events_are_not_changed", damage)
    cast("SqlBudgets", ledger.journal.budgets).rebuild()
    assert totals(db_url) == counted


def test_a_new_process_looks_for_no_owner_of_runs_that_were_counted_with_their_commit(
    opened_here: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_here(max_cost_per_conversation=5).conversation("k").ask("Where is my parcel?")
    looked: list[Any] = []
    monkeypatch.setattr(SqlBudgets, "_payer_before", lambda *args: looked.append(args))
    opened_here(max_cost_per_conversation=5).conversation("k").append("user", "Thanks")
    assert looked == []


LATE = Failure("failed", message="after its conversation was deleted")


class Counted:
    """Count in a conversation what its budgets should hold, while steps change it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.key = ledger, ids.new_id()
        self.owner, self.deleted_version = "", 0
        self.open: dict[str, tuple[list[str], int]] = {}
        """Scopes and reservation of each open run."""
        self.totals: dict[str, list[int]] = {}

    def play(self, step: str, owner: str, cost: int) -> None:
        getattr(self, step)(f"{owner} {self.key}" if owner else "", cost)

    def describe(self, owner: str, _: int) -> None:
        self.ledger.conversation(self.key).describe(owner=owner)
        self.owner = owner

    def start(self, owner: str, cost: int) -> None:
        """Start a run, and give the conversation another owner in the same commit: before it, or after it."""

        def decide(conversation: Any) -> str:
            if cost % 3 == 1:
                conversation.describe({"owner": owner})
            run_id = conversation.start_run(ids.new_id(), RunPlan("chat", "m", cost_reserved=cost), alongside=True)
            if cost % 3 == 2:
                conversation.describe({"owner": owner})
            return str(run_id)

        run_id = self.ledger.journal.commit(self.key, decide, create=True)
        self.owner = owner if cost % 3 == 1 else self.owner
        generation = f"@{self.deleted_version}" if self.deleted_version else ""
        scopes = [f"conversation{generation}:{self.key}", *([today(self.owner)] if self.owner else [])]
        self.owner = owner if cost % 3 == 2 else self.owner
        self.open[run_id] = scopes, cost
        self._add(scopes, 0, cost)

    def close(self, _owner: str, _cost: int) -> None:
        """Close the oldest run as interrupted: it counts as its whole reservation."""
        if self.open:
            run_id = next(iter(self.open))
            self.ledger.journal.commit(self.key, lambda it: it.close_runs([run_id]))
            self._settle(run_id)

    def delete(self, _owner: str, _cost: int) -> None:
        """Delete the conversation with all its open runs, and start another one with its key."""
        chat = self.ledger.conversation(self.key)
        chat.append("user", "Hi")
        self.ledger.journal.commit(self.key, lambda it: it.delete("", interrupting=True))
        chat.append("user", "Hi again")
        self.owner, self.deleted_version = "", self.ledger.state(self.key).deleted_version or 0
        for run_id in [*self.open]:
            with pytest.raises(RunNotOpen):
                self.ledger.journal.commit(self.key, partial(Conversation.fail_run, run_id=run_id, failure=LATE))
            self._settle(run_id)

    def _settle(self, run_id: str) -> None:
        scopes, cost = self.open.pop(run_id)
        self._add(scopes, cost, -cost)

    def _add(self, scopes: list[str], spent: int, reserved: int) -> None:
        for scope in scopes:
            total = self.totals.setdefault(scope, [0, 0])
            total[0] += spent
            total[1] += reserved


STEP = st.tuples(
    st.sampled_from(["describe", "start", "start", "close", "delete"]), st.sampled_from(["", "anna", "ben"]),
    st.integers(1, 9),
)  # fmt: skip


@pytest.fixture(scope="module")
def one_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path_factory.mktemp('budgets') / 'x.db'}"
    with ledger_of(url, "http://127.0.0.1:1", max_cost_per_conversation=5) as ledger:
        ledger.conversation("first").append("user", "Hi")
        yield ledger


@settings(max_examples=30, deadline=None)
@given(st.lists(STEP, max_size=15), st.integers(1, 40))
def test_after_any_steps_the_sums_and_those_of_a_rebuild_are_what_each_conversation_and_owner_spent(
    one_ledger: Ledger, steps: list[tuple[str, str, int]], page: int
) -> None:
    counted = Counted(one_ledger)
    for step in steps:
        counted.play(*step)
    expected = {scope: tuple(total) for scope, total in counted.totals.items()}
    assert {scope: used(one_ledger, scope) for scope in expected} == expected
    budgets = cast("SqlBudgets", one_ledger.journal.budgets)
    all_of_them = "SELECT scope, spent, reserved FROM budget_totals ORDER BY scope"
    live = budgets._database.query(all_of_them)
    with pytest.MonkeyPatch.context() as paged:
        paged.setattr("threadledger.adapters.sql.budgets.PAGE_POSITIONS", page)
        budgets.rebuild()
    assert budgets._database.query(all_of_them) == live


def test_a_ledger_without_a_budget_has_no_tables_of_budgets_and_reserves_nothing(
    opened: Callable[..., Ledger], any_db_url: str
) -> None:
    ledger = opened(max_cost_per_owner_day=None)
    ledger.conversation("k").ask("Where is my parcel?")
    (started,) = [each for each in ledger.journal.history("k") if isinstance(each, RunStarted)]
    assert started.cost_reserved is None
    assert not [name for (name,) in query(any_db_url, TABLES[any_db_url[:6]]) if name.startswith("budget")]


def test_a_reservation_waits_for_another_one_that_is_not_committed_yet(
    postgres_url: str, simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer at a time."""
    outcomes: list[str] = []
    with ledger_of(postgres_url, simulator.base_url) as first, ledger_of(postgres_url, simulator.base_url) as second:
        for ledger, key in ((first, "one"), (second, "two")):
            ledger.conversation(key).describe(owner=OWNER)
        exchange_id = first.conversation("one").append("user", "Hi").message_id

        def ask() -> None:
            outcomes.append(refused(second, "two").cause.value)

        asking = Thread(target=ask)
        budgets = first.journal.budgets
        add = cast("SqlBudgets", budgets)._add

        def add_and_let_the_other_ask(*args: Any) -> None:
            add(*args)
            asking.start()
            while asking.is_alive() and not query(postgres_url, "SELECT 1 FROM pg_locks WHERE NOT granted"):
                pass

        monkeypatch.setattr(budgets, "_add", add_and_let_the_other_ask)
        plan = RunPlan("chat", "gpt-5.5", cost_reserved=billionths(0.9))
        first.journal.commit("one", lambda it: it.start_run(exchange_id, plan))
        asking.join()
    assert outcomes == ["over_budget"]


def test_questions_of_one_owner_in_many_processes_spend_at_most_the_limit(any_db_url: str, simulator: Any) -> None:
    """Each answer costs more than was reserved. The order of the log is that of the commits."""
    simulator.answer(*[{"output": ["It is there."], "usage": {"input_tokens": 50, "output_tokens": 4_200}}] * ALL)
    ledger_of(any_db_url, simulator.base_url).close()
    script = str(Path(__file__).with_name("budgeting.py"))
    command = [sys.executable, script, any_db_url, simulator.base_url, str(PROCESSES), str(ASKS)]
    outcomes = Counter(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    cost = 50 * PRICE["input"] + 4_200 * PRICE["output"]
    with ledger_of(any_db_url, simulator.base_url) as ledger:
        logged = [event for _, event in ledger.journal.logged()]
        spent = used(ledger, today())
    reserved: dict[str, int] = {}
    held = over = 0
    for event in logged:
        if isinstance(event, RunStarted) and event.cost_reserved is not None:
            reserved[event.run_id] = event.cost_reserved
            held += event.cost_reserved
            assert held <= billionths(LIMIT_USD) + over
        elif isinstance(event, RunCompleted):
            held += cost - reserved[event.run_id]
            over += cost - reserved[event.run_id]
    assert outcomes.total() == ALL
    assert outcomes == {"answered": len(reserved), "over_budget": ALL - len(reserved)}
    assert {event.code for event in logged if isinstance(event, RunFailed)} == {"over_budget"}
    assert spent == (cost * outcomes["answered"], 0)
    assert LIMIT_USD / 2 < spent[0] / 1e9 <= LIMIT_USD + over / 1e9
