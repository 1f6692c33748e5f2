"""`threadledger replay rerun`: its plan, its limits, and where the answers go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Done

Command = Callable[..., Done]

# The SDK warns at each call for assistants; that our own calls are quiet is proved in test_settings.py.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

RUNS, CHAT = "POST /threads/{thread_id}/runs", "POST /chat/completions"


@pytest.fixture
def failed(command: Command, provider: Any) -> Callable[[str], str]:
    """Has a question of a conversation fail; its last run."""

    def fail(key: str) -> str:
        provider.add_fault(RUNS, fail=True)
        provider.add_fault(CHAT, refuse={"status": 503})
        assert command("ask", key, "When?").code == 1
        run_id: str = command("audit", "failures", "-o", "json").json[-1]["run_id"]
        return run_id

    return fail


def test_the_plan_says_who_is_asked_how_often_what_it_costs_by_prices_of_which_date_and_what_is_skipped(
    command: Command, failed: Callable[[str], str]
) -> None:
    failed("a")
    failed("b")
    command("append", "b", "user", "Hello?")
    plan = command("replay", "rerun", "--failed")
    assert plan.code == 0
    assert "rerun 1 exchange on assistants (gpt-5.5), then chat (gpt-5.5): at most 2 runs" in plan.err
    assert "USD by genai-prices" in plan.err
    assert "newest price dated 20" in plan.err
    assert "1 skipped: overtaken by newer messages (1)" in plan.err
    assert "--include overtaken" in plan.err
    assert "nothing was done; pass --apply to execute the plan" in plan.err


def test_a_shadow_is_shown_side_by_side_with_the_original(command: Command, failed: Callable[[str], str]) -> None:
    run_id = failed("k")
    (item,) = command("replay", "rerun", run_id, "--into", "shadow", "--apply", "--yes", "-o", "json").json
    assert (item["state"], item["answer"]) == ("answered", "You said: When?")
    assert item["original"].startswith("provider_error: HTTP 503")
    assert "shadow run" in command("show", "k", "--view", "timeline").out
    assert len(command("show", "k", "-o", "json").json["messages"]) == 1


def test_a_comparison_shows_model_tokens_duration_and_difference_of_both_sides(
    command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "chat")
    monkeypatch.setenv("THREADLEDGER_THREADS", "none")
    provider.answer("The parcel is in Bern since noon.")
    asked = command("ask", "k", "Where is it?", "--model", "gpt-4o", "-o", "json").json
    provider.answer("The parcel is in Basel since noon.")
    rerun = ("replay", "rerun", asked["run_id"], "--into", "shadow", "--model", "gpt-4.1", "--apply", "--yes")
    (item,) = command(*rerun, "-o", "json").json
    both = item["comparison"]
    assert (both["original"]["run_id"], both["original"]["model"]) == (asked["run_id"], "gpt-4o")
    assert (both["rerun"]["run_id"], both["rerun"]["model"]) == (item["new_run_id"], "gpt-4.1")
    assert both["original"]["usage"] == asked["usage"]
    assert both["rerun"]["usage"] == item["usage"]
    assert both["original"]["duration_seconds"] > 0
    assert both["rerun"]["duration_seconds"] > 0
    assert both["same_text"] is False
    assert both["difference"] == [
        {"kind": "same", "text": "The parcel is in"},
        {"kind": "removed", "text": " Bern"},
        {"kind": "added", "text": " Basel"},
        {"kind": "same", "text": " since noon."},
    ]
    provider.answer("The parcel is in Basel since noon.")
    shown = command(*rerun).out
    for words in ("original", "rerun", "gpt-4o", "gpt-4.1", " in, ", "The parcel is in[- Bern-]{+ Basel+} since noon."):
        assert words in shown
    provider.answer("The parcel is in Bern since noon.")
    assert "the texts are the same" in command(*rerun).out


@pytest.mark.parametrize("into", ["tail", "fork", "shadow"])
def test_a_failed_run_is_compared_with_the_answer_of_its_rerun(
    command: Command, failed: Callable[[str], str], into: str
) -> None:
    run_id = failed("k")
    (item,) = command("replay", "rerun", run_id, "--into", into, "--apply", "--yes", "-o", "json").json
    original, rerun = item["comparison"]["original"], item["comparison"]["rerun"]
    assert (original["run_id"], original["text"]) == (run_id, None)
    assert original["failure"].startswith("provider_error: HTTP 503")
    assert (rerun["text"], rerun["failure"]) == ("You said: When?", None)


def test_an_answer_that_is_replaced_is_the_original(
    command: Command, failed: Callable[[str], str], provider: Any
) -> None:
    failed("k")
    provider.answer("In Bern.")
    (first,) = command("replay", "rerun", "k", "--apply", "--yes", "-o", "json").json
    provider.answer("In Basel.")
    again = ("replay", "rerun", "k", "--include", "answered", "--apply", "--yes", "-o", "json")
    both = command(*again).json[0]["comparison"]
    assert (both["original"]["run_id"], both["original"]["text"]) == (first["new_run_id"], "In Bern.")
    assert both["rerun"]["text"] == "In Basel."


def test_a_fork_is_a_conversation_of_its_own(command: Command, failed: Callable[[str], str]) -> None:
    run_id = failed("k")
    (item,) = command("replay", "rerun", run_id, "--into", "fork", "--apply", "--yes", "-o", "json").json
    assert item["fork"] == f"k ~ {run_id[-8:]}"
    assert command("show", item["fork"], "-o", "json").json["parent"]["key"] == "k"


def test_another_backend_model_and_profile_are_used(
    command: Command, failed: Callable[[str], str], provider: Any, tmp_path: Path
) -> None:
    failed("k")
    (tmp_path / "jane.toml").write_text('name = "Jane"\ninstructions = "Be brief."\n', encoding="utf-8")
    chosen = ("--on", "chat", "--model", "gpt-4o", "--profile", "jane.toml")
    (item,) = command("replay", "rerun", "k", *chosen, "--apply", "--yes", "-o", "json").json
    assert (item["state"], item["backend"], item["model"]) == ("answered", "chat", "gpt-4o")
    asked = provider.requests[-1] if provider.requests[-1].template == CHAT else None
    asked = asked or [request for request in provider.requests if request.template == CHAT][-1]
    assert asked.body["messages"][0]["content"] == "Be brief."


def test_a_cost_that_is_reached_exits_5_and_leaves_the_rest_planned(
    command: Command, failed: Callable[[str], str]
) -> None:
    for key in "ab":
        failed(key)
    estimate = command("replay", "rerun", "a", "-o", "json").json[0]["estimated_cost"]
    limit = f"{estimate + 0.00001:.5f}"
    done = command("replay", "rerun", "--failed", "--max-cost", limit, "--apply", "--yes", "-o", "json")
    assert done.code == 5
    assert sorted(item["state"] for item in done.json) == ["answered", "planned"]
    assert f"stopped by the limit of {float(limit):g} USD" in next(
        each["reason"] for each in done.json if each["reason"]
    )
    assert command("replay", "rerun", "--failed", "--apply", "--yes").code == 0


def test_what_is_skipped_otherwise_is_done_where_it_is_included(command: Command, failed: Callable[[str], str]) -> None:
    failed("k")
    command("append", "k", "user", "Hello?")
    done = command("replay", "rerun", "k", "--include", "overtaken", "--apply", "--yes")
    assert done.code == 0
    assert "1 answered, 0 failed, 0 skipped; 1 run made" in done.err
    said = [message["content"] for message in command("show", "k", "-o", "json").json["messages"]]
    assert said == ["When?", "You said: When?", "Hello?"]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--max-cost", "1", "--model", "llama"), 2, "no price is known for the model 'llama'"),
        (("--on", "llama"), 2, "there is no backend 'llama'"),
        (("--into", "head"), 2, "is not one of"),
        (("--include", "all"), 2, "is not one of"),
        (("--max-cost", "0"), 2, "--max-cost"),
        (("--profile", "nowhere.toml"), 6, "cannot be read"),
        (("--cause", "bad_luck"), 2, "there is no cause 'bad_luck'"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anybody_is_asked(
    command: Command, failed: Callable[[str], str], options: tuple[str, ...], code: int, told: str
) -> None:
    failed("k")
    refused = command("replay", "rerun", "--failed", *options, "--apply", "--yes")
    assert refused.code == code
    assert told in refused.err
    assert len(command("show", "k", "-o", "json").json["messages"]) == 1


def test_failed_and_a_key_rerun_only_the_failures_of_that_conversation(
    command: Command, failed: Callable[[str], str]
) -> None:
    run_id = failed("a")
    failed("b")
    one = command("replay", "rerun", "--failed", "a", "-o", "json").json
    assert [(item["key"], item["run_id"]) for item in one] == [("a", run_id)]
    assert command("replay", "rerun", "--failed", run_id, "-o", "json").json == one
    assert command("replay", "rerun", "--failed", "a", "--cause", "rate_limited", "-o", "json").json == []
    assert command("replay", "rerun", run_id, "b", "-o", "json").json == []
