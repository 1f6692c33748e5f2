"""What a rerun may do to a conversation, what it is asked to do, and what is left of its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial as fact
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain.conversation import (
    Completion,
    ConversationState,
    ExchangeRecord,
    Place,
    Profile,
    RunPlan,
    fold_exchanges,
)
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, Role, Usage
from threadledger.domain.errors import ExchangeAnswered, InvalidInput, RunNotOpen
from threadledger.domain.exchange import Candidate, Policy, Services
from threadledger.domain.failures import Cause
from threadledger.domain.memory import fold_memory
from threadledger.domain.replay.comparison import ComparedRun, RerunComparison
from threadledger.domain.replay.rerun_obstacles import placed
from threadledger.domain.replay.rerun_request import INCLUDE, Budget, Limits, Wanted

started = fact(e.ConversationStarted, key="customer-42")
asked = fact(e.MessageJournaled, message_id="m1", role="user", content="Where?", exchange_id="x1")
runs = fact(e.RunStarted, run_id="r1", exchange_id="x1", attempt=1, backend="chat", model="gpt")
fails = fact(e.RunFailed, run_id="r1", status="error")
given_up = fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1"])
completes = fact(e.RunCompleted, run_id="r1")
answers = fact(e.MessageJournaled, message_id="m2", role="assistant", content="Here.", exchange_id="x1", run_id="r1")
later = fact(e.MessageJournaled, message_id="m3", role="user", content="Hello?")
shadows = fact(runs, run_id="s1", rerun_of="r1", shadow=True)
ANSWER = Completion((Message(Role.ASSISTANT, "There."),))


class TestShadow:
    past = (started, asked, runs, fails, given_up)

    def test_it_is_recorded_and_changes_nothing_that_decisions_are_made_from(self, given: Any, state_of: Any) -> None:
        outcome = given(*self.past).when(
            lambda it: it.start_run("x1", RunPlan("chat", "gpt", rerun_of="r1", shadow=True))
        )
        outcome.then(fact(e.RunStarted, rerun_of="r1", shadow=True))
        before, after = state_of(*self.past), state_of(*self.past, shadows)
        assert list(after.shadow_runs) == ["s1"]
        unchanged = vars(before).keys() - {"version", "last_at", "shadow_runs"}
        assert {name: vars(before)[name] for name in unchanged} == {name: vars(after)[name] for name in unchanged}

    def test_it_keeps_nobody_from_asking(self, given: Any) -> None:
        question = Message(Role.USER, "And?")
        given(*self.past, fact(shadows, deadline="2999-01-01T00:00:00Z")).when(lambda it: it.ask(question)).then(
            fact(e.MessageJournaled, role="user")
        )

    def test_it_may_be_of_an_exchange_that_has_its_answer(self, given: Any) -> None:
        plan = RunPlan("chat", "gpt", rerun_of="r1", shadow=True)
        given(started, asked, runs, completes, answers).when(lambda it: it.start_run("x1", plan)).then(
            fact(e.RunStarted, shadow=True)
        )

    def test_its_answer_is_in_its_own_event_alone(self, given: Any) -> None:
        given(*self.past, shadows).when(lambda it: it.complete_shadow_run("s1", ANSWER)).then(
            fact(e.RunCompleted, run_id="s1", shadow_messages=[{"role": "assistant", "content": "There."}])
        )

    def test_it_ends_once(self, given: Any) -> None:
        ended = fact(e.RunCompleted, run_id="s1")
        given(*self.past, shadows, ended).when(lambda it: it.complete_shadow_run("s1", ANSWER)).then_refused(RunNotOpen)

    def test_one_that_a_crash_left_is_closed_as_interrupted(self, given: Any) -> None:
        left = fact(shadows, deadline="2026-11-22T11:30:00Z")
        given(*self.past, left).when(lambda it: it.close_overdue_runs()).then(
            fact(e.RunFailed, run_id="s1", status="interrupted")
        )

    def test_its_deadline_counts_among_those_that_are_looked_after(self, state_of: Any) -> None:
        state: ConversationState = state_of(*self.past, fact(shadows, deadline="2026-11-22T11:30:00Z"))
        assert state.next_deadline == "2026-11-22T11:30:00Z"

    def test_it_answers_nothing_in_the_audit_and_is_a_run_there(self, log: Any) -> None:
        exchanges = fold_exchanges(log(*self.past, shadows, fact(e.RunCompleted, run_id="s1")))
        exchange = exchanges.by_id["x1"]
        assert (exchange.answered_by, exchange.abandoned) == (None, True)
        assert [(run.run_id, run.shadow, run.next) for run in exchange.runs] == [
            ("r1", False, "abandoned"),
            ("s1", True, "open"),
        ]
        last, last_shadow = exchange.last(), exchange.last(shadow=True)
        assert last is not None
        assert last_shadow is not None
        assert (last.run_id, last_shadow.run_id) == ("r1", "s1")


class TestTakingAnAnswersPlace:
    past = (started, asked, runs, completes, answers)
    again = fact(runs, run_id="r2", rerun_of="r1", supersedes_run_id="r1")

    def test_an_exchange_that_has_its_answer_is_run_again_only_by_a_run_that_is_to_take_its_place(
        self, given: Any
    ) -> None:
        plan = RunPlan("chat", "gpt", rerun_of="r1")
        given(*self.past).when(lambda it: it.start_run("x1", plan)).then_refused(ExchangeAnswered)
        plan = RunPlan("chat", "gpt", rerun_of="r1", supersedes_run_id="r1")
        given(*self.past).when(lambda it: it.start_run("x1", plan)).then(fact(e.RunStarted, supersedes_run_id="r1"))

    def test_what_the_old_run_had_journaled_leaves_memory_with_its_answer(self, given: Any) -> None:
        place = Place(("t1", "t2", "m2"), behind="m1")
        given(*self.past, self.again).when(lambda it: it.complete_run("r2", ANSWER, place=place)).then(
            fact(e.RunCompleted, run_id="r2"),
            fact(e.MessageJournaled, run_id="r2"),
            fact(e.MessageRetracted, message_id="t1"),
            fact(e.MessageRetracted, message_id="t2"),
            fact(e.RerunAccepted, superseded_message_id="m2", superseded_run_id="r1", behind_message_id="m1"),
        )

    def test_one_that_fails_leaves_the_exchange_answered(self, state_of: Any) -> None:
        state = state_of(*self.past, self.again, fact(e.RunFailed, run_id="r2", status="error"), given_up)
        assert (state.unanswered, state.open_exchanges, state.abandoned) == (0, {}, {})

    def test_one_that_answers_makes_no_unanswered_exchange_fewer(self, state_of: Any) -> None:
        other = (
            fact(asked, message_id="m9", exchange_id="x9"),
            fact(runs, run_id="r9", exchange_id="x9"),
            fact(fails, run_id="r9"),
            fact(given_up, exchange_id="x9"),
        )
        state = state_of(*self.past, *other, self.again, fact(e.RunCompleted, run_id="r2"))
        assert state.unanswered == 1

    @pytest.mark.parametrize(
        ("change", "cut"),
        [
            ({}, 0),
            ({"superseded_message_id": "m2"}, 6),
            ({"behind_message_id": "m1"}, 0),  # a first answer, before messages that no thread has yet
            ({"behind_message_id": "m1", "superseded_run_id": "r0"}, 6),
        ],
    )
    def test_a_thread_is_out_of_date_where_memory_lost_something_or_changed_its_order(
        self, state_of: Any, change: dict[str, str], cut: int
    ) -> None:
        accepted = fact(e.RerunAccepted, exchange_id="x1", run_id="r1", message_id="m2", **change)
        assert state_of(*self.past, accepted).cut_version == cut


class TestPlace:
    """Where the answer of exchange x1 goes, whose run was shown its question."""

    def where(self, log: Any, *facts: Any, answered_by: str | None = None) -> tuple[Place | None, bool]:
        said = log(started, asked, *facts)
        place, gone_on = placed(
            fold_memory(said), fold_memory(said[:2]), ExchangeRecord("x1", "k", answered_by=answered_by)
        )
        return place, bool(gone_on)

    def test_it_is_at_the_end_where_nothing_newer_has_come(self, log: Any) -> None:
        assert self.where(log) == (Place(), False)
        tool = fact(answers, message_id="t1", run_id="r0")
        assert self.where(log, tool) == (Place(), False)

    def test_it_is_behind_what_the_exchange_had_come_to_before_anything_newer(self, log: Any) -> None:
        tool = fact(answers, message_id="t1", run_id="r0")
        assert self.where(log, later) == (Place(behind="m1"), True)
        assert self.where(log, tool, later, fact(answers, run_id="r0")) == (Place(behind="t1"), True)

    def test_it_is_where_the_old_answer_stands(self, log: Any) -> None:
        assert self.where(log, answers, answered_by="r1") == (Place(("m2",)), False)
        assert self.where(log, answers, later, answered_by="r1") == (Place(("m2",), "m1"), True)
        assert self.where(log, later, answers, answered_by="r1") == (Place(("m2",)), False)

    def test_it_is_nowhere_where_the_question_has_left_memory(self, log: Any) -> None:
        assert self.where(log, later, fact(e.MessageRetracted, message_id="m1")) == (None, False)


class TestWanted:
    def test_it_is_the_same_again_from_its_json(self) -> None:
        wanted = Wanted(
            runs=("r1",),
            keys=("k",),
            since=datetime(2026, 11, 1, tzinfo=UTC),
            cause=Cause.RATE_LIMITED,
            model="gpt",
            profile=Profile("Jane", read_only=("weather",)),
            into="shadow",
            include=("tools",),
        )
        assert Wanted.from_json(wanted.as_json()) == wanted
        assert Wanted.from_json(Wanted(failed=True).as_json() | {"of a newer version": 1}) == Wanted(failed=True)

    @pytest.mark.parametrize("given", [{"into": "head"}, {"tools": "some"}, {"include": ("all",)}])
    def test_what_means_nothing_is_refused_with_what_would(self, given: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match="is not valid: use one of '"):
            Wanted(**given)

    @pytest.mark.parametrize("into", ["fork", "shadow"])
    def test_a_copy_may_be_of_what_is_answered_or_overtaken(self, into: str) -> None:
        assert [what for what in INCLUDE if Wanted(into=into).includes(what)] == ["answered", "overtaken"]

    @pytest.mark.parametrize(
        ("wanted", "asked"),
        [
            (Wanted(), [("responses", "big"), ("chat", "small")]),
            (Wanted(model="new"), [("responses", "new"), ("chat", "new")]),
            (Wanted(on="chat"), [("chat", "small")]),
            (Wanted(on="own"), [("own", "big")]),
            (Wanted(on="own", profile=Profile(model="llama")), [("own", "llama")]),
        ],
    )
    def test_who_is_asked_with_which_model(self, wanted: Wanted, asked: list[tuple[str, str]]) -> None:
        backends: Any = dict.fromkeys(("responses", "chat", "own"), SimpleNamespace())
        candidates = (Candidate("responses", "big"), Candidate("chat", "small"))
        services = Services(policy=Policy(candidates), backends=backends)
        assert [(each.backend, each.model) for each in wanted.policy_of(services).candidates] == asked


class TestBudget:
    def test_without_limits_everything_may_be_done(self) -> None:
        budget = Budget(Limits())
        assert [budget.take_run() for _ in range(100)] == [""] * 100
        assert budget.begin(1e9) == ""

    def test_as_many_runs_as_allowed_are_taken_by_however_many_at_once(self) -> None:
        budget = Budget(Limits(max_runs=50))
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _: budget.take_run(), range(200)))
        assert (taken.count(""), budget.runs) == (50, 50)
        assert set(taken) == {"", "stopped by the limit of 50 runs"}
        assert budget.begin(0.0) == "stopped by the limit of 50 runs"
        budget.give_back_run()
        assert budget.take_run() == ""

    def test_what_is_under_way_counts_by_its_estimate_and_what_is_over_by_what_it_cost(self) -> None:
        budget = Budget(Limits(max_cost=1.0))
        assert budget.begin(0.5) == ""
        assert budget.begin(0.5) == "stopped by the limit of 1 USD: 0.0000 USD have been spent"
        budget.end(0.5, 0.25)
        assert budget.begin(0.5) == ""
        budget.end(0.5, 0.25)
        assert (budget.begin(0.5) != "", budget.spent) == (True, 0.5)


def test_the_budget_of_two_who_begin_at_once_is_not_spent_twice() -> None:
    budget = Budget(Limits(max_cost=1.0))
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda _: budget.begin(0.3), range(40)))
    assert begun.count("") == 3


def test_a_run_record_says_what_is_special_about_it(log: Callable[..., list[e.Event]]) -> None:
    special = fact(runs, rerun_of="r0", supersedes_run_id="r0", apart=True, shadow=False)
    run = fold_exchanges(log(asked, special)).runs["r1"]
    assert (run.supersedes_run_id, run.apart, run.shadow) == ("r0", True, False)


@given(st.text("ab \n"), st.text("ab \n"))
def test_the_pieces_of_a_difference_are_both_texts(before, after):
    sides = [ComparedRun("r", "chat", "m", text, None, Usage(), 0.1) for text in (before, after)]
    both = RerunComparison(*sides)
    pieces = both.difference()
    assert "".join(text for kind, text in pieces if kind != "added") == before
    assert "".join(text for kind, text in pieces if kind != "removed") == after
    assert both.same_text == all(kind == "same" for kind, _ in pieces)


def test_very_long_texts_are_compared_as_a_whole():
    long = "word " * 5_000
    sides = [ComparedRun("r", "chat", "m", text, None, Usage(), 0.1) for text in (long, long + "more")]
    assert [kind for kind, _ in RerunComparison(*sides).difference()] == ["removed", "added"]


def test_a_profile_whose_hash_is_known_is_part_of_the_options_of_a_job() -> None:
    profile = Profile("Jane", "You are Jane.", settings_json='{"temperature":0.5}')
    assert profile.hash
    assert Wanted.from_json(json.loads(json.dumps(Wanted(profile=profile).as_json()))).profile == profile
