"""The commands within a budget: a refusal in one sentence, costs by owner, a finding without prices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def within_a_budget(provider: Any, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "chat")
    monkeypatch.setenv("THREADLEDGER_THREADS", "none")
    monkeypatch.setenv("OPENAI_MODEL", "gpt-5.5")
    assert command("init").code == 0
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_CONVERSATION", "0.13")


def test_a_question_over_budget_is_refused_with_the_setting_and_the_amounts(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("ask", "k", "Where is it?").code == 0
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_CONVERSATION", "0.05")
    done = command("ask", "k", "And the other one?")
    assert done.code == 1
    assert "THREADLEDGER_MAX_COST_PER_CONVERSATION of 0.05 USD" in done.err
    (row,) = command("audit", "failures", "-o", "json").json
    assert (row["cause"], row["status"], row["next"]) == ("over_budget", "refused", "abandoned")
    assert "THREADLEDGER_BUDGET_OUTPUT_TOKENS" in row["advice"]


@pytest.mark.parametrize("by", ["owner", "conversation"])
def test_the_summary_shows_costs(by: str, command: Command) -> None:
    command("describe", "k", "--owner", "anna")
    command("ask", "k", "Where is it?")
    done = command("audit", "summary", "--by", by)
    assert "USD" in done.out
    assert ("anna" if by == "owner" else "k") in done.out
    (row,) = command("audit", "summary", "--by", by, "-o", "json").json
    assert row["cost"] > 0
    assert row["unpriced_runs"] == 0


def test_rebuilding_the_views_counts_the_costs_again(command: Command) -> None:
    command("ask", "k", "Where is it?")
    assert command("db", "rebuild-views").code == 0
    assert command("db", "check").code == 0


def test_doctor_finds_a_budget_without_prices(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def row() -> Any:
        (found,) = [each for each in command("doctor", "-o", "json").json if each["check"] == "budgets"]
        return found

    assert row()["state"] == "ok"
    monkeypatch.setattr("threadledger.adapters.prices.prices_from", lambda: None)
    assert row()["state"] == "finding"
    assert "threadledger[prices]" in row()["mend"]


@pytest.mark.parametrize("given", ["-1", "much", "nan", "inf", "2000000000"])
def test_a_budget_that_is_no_amount_is_refused_in_one_sentence(
    given: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_OWNER_DAY", given)
    done = command("list")
    assert done.code == 2
    assert "THREADLEDGER_MAX_COST_PER_OWNER_DAY" in done.err


def test_one_advice_for_several_failures_says_that_their_messages_differ(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_CONVERSATION", "0.001")
    for key in ("a", "b"):
        command("ask", key, "Where is it?")
    said = command("audit", "failures").err
    assert said.startswith("over_budget 2 times (")
    command("ask", "c", "Where is it?", "--model", "no-such-model")
    said = command("audit", "failures").err
    assert said.startswith("over_budget 3 times (the newest: ")
    assert "no-such-model" in said


def test_a_budget_may_be_0_and_is_never_less(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_CONVERSATION", "-1")
    done = command("ask", "k", "Where is it?")
    assert (done.code, "should be 0 or more" in done.err) == (2, True)
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_CONVERSATION", "0")
    assert "of 0 USD" in command("ask", "k", "Where is it?").err


def test_the_doctor_names_both_budgets(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_OWNER_DAY", "2")
    (row,) = [each for each in command("doctor", "-o", "json").json if each["check"] == "budgets"]
    assert "THREADLEDGER_MAX_COST_PER_CONVERSATION and THREADLEDGER_MAX_COST_PER_OWNER_DAY are set" in row["message"]
