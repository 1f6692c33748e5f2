"""Test the app's functions: they run once, are journaled before the exchange continues, and never run again in a rerun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import threadledger
from threadledger.domain import limits
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "web_tools.py"
OUTPUTS = "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"
KINDS: dict[str, dict[str, Any]] = {
    "assistants": {"backends": ("assistants",), "threads": "assistants", "retries": 0},
    "responses": {"backends": ("responses",), "threads": "conversations", "retries": 0},
    "stateless responses": {"backends": ("responses",), "threads": "conversations", "stateless": True, "retries": 0},
    "chat": {"backends": ("chat",), "threads": "none", "retries": 0},
}
AFTER_TOOLS = {
    "assistants": OUTPUTS,
    "responses": "POST /responses",
    "stateless responses": "POST /responses",
    "chat": "POST /chat/completions",
}
"""Route that receives the tool results and returns the answer."""

EVERY = pytest.mark.parametrize("kind", KINDS)
BERN: dict[str, Any] = {"name": "weather", "arguments": {"city": "Bern"}}
CHUR: dict[str, Any] = {"name": "weather", "arguments": {"city": "Chur"}}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Create a profile with one function."""
    path = tmp_path / "profile.toml"
    path.write_text('name = "John"\n[[tools]]\nname = "weather"\n', encoding="utf-8")
    return path


class Weather:
    """Represent a tool that counts its calls."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def weather(self, city: str) -> str:
        self.used.append(city)
        return f"use {len(self.used)}: sunny in {city}"


@pytest.fixture
def tool() -> Weather:
    return Weather()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger], tool: Weather, profile: Path, kind: str) -> Ledger:
    return open_ledger({"weather": tool.weather}, **KINDS[kind], profile=profile)


def calls(*which: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": list(which)}


def results(ledger: Ledger) -> list[Any]:
    return [each.message.text for each in ledger.memory("k").messages if each.message.role == "tool"]


def shown_to_the_model(simulator: Any, words: str) -> bool:
    return any(words in str(request.body) for request in simulator.requests)


# The example


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the tests run against the wheel, without the tree")
@EVERY
def test_the_command_line_runs_the_functions_of_the_module_that_a_setting_names(
    simulator: Any,
    db_url: str,
    open_ledger: Callable[..., Ledger],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    from threadledger.cli import main

    environment = {
        "THREADLEDGER_TOOLS": str(EXAMPLE),
        "THREADLEDGER_PROFILE": str(ROOT / "profiles" / "john.toml"),
        "THREADLEDGER_DB": db_url,
        "THREADLEDGER_BACKENDS": KINDS[kind]["backends"][0],
        "THREADLEDGER_THREADS": KINDS[kind]["threads"],
        "THREADLEDGER_STATELESS": str(KINDS[kind].get("stateless", False)),
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "sk-test",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    simulator.answer(
        calls({"name": "web_search", "arguments": {"query": "parcel to Norway"}}),
        calls({"name": "web_open", "arguments": {"url": "https://parcels.example/prices"}}),
        "It costs 14.50.",
    )
    assert main(["ask", "k", "What does a parcel to Norway cost?"]) == 0
    assert capsys.readouterr().out == "It costs 14.50.\n"
    searched, opened = results(open_ledger(**KINDS["chat"]))
    assert "https://parcels.example/prices" in searched
    assert "14.50 to Norway" in opened
    assert shown_to_the_model(simulator, "14.50 to Norway")


# What a tool does


@EVERY
def test_a_tool_that_raises_is_a_result_that_the_model_sees(
    open_ledger: Callable[..., Ledger], simulator: Any, profile: Path, kind: str
) -> None:
    def weather(city: str) -> str:
        raise LookupError(f"{city} is not on the map (key sk-abcdefghijklmnopqrstuvwx)")

    simulator.answer(calls(BERN), "I cannot tell.")
    ledger = open_ledger({"weather": weather}, **KINDS[kind], profile=profile)
    assert ledger.conversation("k").ask("Weather?").text == "I cannot tell."
    (result,) = results(ledger)
    assert result.startswith("[the tool failed: LookupError: Bern is not on the map")
    assert "abcdefghijklm" not in result
    assert shown_to_the_model(simulator, "[the tool failed: LookupError: Bern is not on the map")
    assert ledger.failures() == []


@EVERY
def test_several_calls_at_once_are_answered_each_by_its_id(
    ledger: Ledger, simulator: Any, tool: Weather, kind: str
) -> None:
    simulator.answer(calls(BERN, CHUR, BERN), "Sunny everywhere.")
    assert ledger.conversation("k").ask("Weather?").text == "Sunny everywhere."
    assert tool.used == ["Bern", "Chur", "Bern"]
    asked, *told = [each.message for each in ledger.memory("k").messages[1:5]]
    assert [call.id for call in asked.calls()] == [message.tool_call_id for message in told]
    assert [message.text for message in told] == [f"use {n}: sunny in {tool.used[n - 1]}" for n in (1, 2, 3)]


@EVERY
def test_the_wish_and_its_result_are_journaled_before_the_model_goes_on(
    ledger: Ledger, simulator: Any, kind: str
) -> None:
    simulator.answer(calls(BERN))
    simulator.add_fault(AFTER_TOOLS[kind], refuse={"status": 400}, after=0 if kind == "assistants" else 1)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Weather?")
    assert [each.message.role for each in ledger.memory("k").messages] == ["user", "assistant", "tool"]


# Reruns

HOW_AGAIN: dict[str, Callable[[Ledger], object]] = {
    "rerun": lambda ledger: ledger.conversation("k").rerun(ledger.failures()[-1].exchange_id),
    "replay": lambda ledger: ledger.replay.plan_rerun(failed=True).apply(),
    "the same request": lambda ledger: ledger.conversation("k").ask("Weather?", idempotency_key="1"),
}


def failed_after_the_tool(ledger: Ledger, simulator: Any, kind: str, *asked: dict[str, Any]) -> None:
    """Create an exchange that called its tools, but received no answer afterwards."""
    simulator.answer(calls(*asked))
    simulator.add_fault(AFTER_TOOLS[kind], refuse={"status": 400}, after=0 if kind == "assistants" else 1)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Weather?", idempotency_key="1")


@EVERY
@pytest.mark.parametrize("how", HOW_AGAIN)
def test_what_is_run_again_is_answered_from_the_record_and_runs_nothing_twice(
    ledger: Ledger, simulator: Any, tool: Weather, kind: str, how: str
) -> None:
    failed_after_the_tool(ledger, simulator, kind, BERN, CHUR)
    assert tool.used == ["Bern", "Chur"]
    simulator.answer(calls(CHUR, BERN), "Sunny.")
    HOW_AGAIN[how](ledger)
    assert tool.used == ["Bern", "Chur"]
    assert ledger.memory("k").messages[-1].message.text == "Sunny."
    assert results(ledger)[-2:] == ["use 2: sunny in Chur", "use 1: sunny in Bern"]
    assert ledger.failures(unanswered=True) == []


@pytest.mark.parametrize("how", HOW_AGAIN)
def test_each_run_of_a_rerun_gets_the_recorded_results_from_the_first_one_on(
    open_ledger: Callable[..., Ledger], simulator: Any, tool: Weather, profile: Path, how: str
) -> None:
    ledger = open_ledger({"weather": tool.weather}, **KINDS["chat"] | {"retries": 1}, profile=profile)
    failed_after_the_tool(ledger, simulator, "chat", BERN, BERN)
    simulator.answer(calls(BERN), calls(BERN), "Sunny.")
    simulator.add_fault(AFTER_TOOLS["chat"], refuse={"status": 500}, after=1)  # the first run fails after its call
    HOW_AGAIN[how](ledger)
    assert tool.used == ["Bern", "Bern"]
    assert results(ledger)[-2:] == ["use 1: sunny in Bern"] * 2


@pytest.mark.parametrize("kind", ["chat"])
@pytest.mark.parametrize("how", HOW_AGAIN)
def test_what_the_record_does_not_know_is_asked_of_the_tool(
    ledger: Ledger, simulator: Any, tool: Weather, kind: str, how: str
) -> None:
    failed_after_the_tool(ledger, simulator, kind, BERN)
    simulator.answer(calls(BERN, CHUR), "Sunny.")
    HOW_AGAIN[how](ledger)
    assert tool.used == ["Bern", "Chur"]
    assert results(ledger)[-2:] == ["use 1: sunny in Bern", "use 2: sunny in Chur"]
    assert ledger.failures(unanswered=True) == []


@pytest.mark.parametrize("kind", ["chat"])
def test_tools_run_anew_where_a_live_rerun_is_asked_for(
    ledger: Ledger, simulator: Any, tool: Weather, kind: str
) -> None:
    failed_after_the_tool(ledger, simulator, kind, BERN)
    simulator.answer(calls(BERN), "Sunny.")
    ledger.conversation("k").rerun(ledger.failures()[-1].exchange_id, live=True)
    assert tool.used == ["Bern", "Bern"]


def test_an_asynchronous_tool_is_answered_from_the_record_too(
    open_ledger: Callable[..., Ledger], simulator: Any, db_url: str, profile: Path
) -> None:
    used: list[str] = []

    async def weather(city: str) -> str:
        used.append(city)
        await asyncio.sleep(0)
        return f"sunny in {city}"

    async def scenario(ledger: AsyncLedger) -> None:
        chat = ledger.conversation("k")
        with pytest.raises(AllBackendsFailed):
            await chat.ask("Weather?", idempotency_key="1")
        assert (await chat.ask("Weather?", idempotency_key="1")).text == "Sunny."

    async def main() -> None:
        provider = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url}
        settings = KINDS["chat"] | provider | {"profile": profile}
        async with threadledger.open_async(db_url, tools={"weather": weather}, **settings) as ledger:
            await scenario(ledger)

    simulator.answer(calls(BERN), calls(BERN, CHUR), "Sunny.")
    simulator.add_fault(AFTER_TOOLS["chat"], refuse={"status": 400}, after=1)
    asyncio.run(main())
    assert used == ["Bern", "Chur"]
    assert results(open_ledger(**KINDS["chat"])) == ["sunny in Bern", "sunny in Bern", "sunny in Chur"]


# What a backend does not support


@pytest.fixture
def hosted(tmp_path: Path) -> Path:
    """Create a profile with a tool that the provider would have to run."""
    path = tmp_path / "hosted.toml"
    path.write_text('name = "John"\n[[tools]]\ntype = "file_search"\n', encoding="utf-8")
    return path


def test_a_hosted_tool_that_a_backend_does_not_take_is_refused_before_the_call(
    open_ledger: Callable[..., Ledger], asked_of: Callable[..., int], hosted: Path
) -> None:
    ledger = open_ledger(**KINDS["chat"], profile=hosted)
    with pytest.raises(AllBackendsFailed, match="tool_not_supported"):
        ledger.conversation("k").ask("hello")
    assert asked_of() == 0
    (failure,) = ledger.failures()
    assert (failure.cause, failure.facts.status) == (Cause.TOOL_NOT_SUPPORTED, "refused")
    assert "chat does not accept tools of type 'file_search'" in (failure.facts.message or "")
    assert [logged.type for logged in ledger.events(key="k")][-3:] == ["RunStarted", "RunFailed", "ExchangeAbandoned"]


def test_a_backend_that_takes_the_hosted_tool_answers_instead(
    open_ledger: Callable[..., Ledger], asked_of: Callable[..., int], hosted: Path
) -> None:
    settings = KINDS["responses"] | {"backends": ("chat", "responses"), "profile": hosted}
    ledger = open_ledger(**settings)
    answer = ledger.conversation("k").ask("hello")
    assert (answer.backend, answer.fallback) == ("responses", True)
    assert [failure.cause for failure in answer.failures] == [Cause.TOOL_NOT_SUPPORTED]
    assert (asked_of("POST /chat/completions"), asked_of("POST /responses")) == (0, 1)


def test_a_server_that_counts_its_calls_from_zero_again_loses_none(
    open_ledger: Callable[..., Ledger], profile: Path, tool: Weather, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    def numbered_from_zero(calls: Any) -> list[dict[str, Any]]:
        return [{**each, "id": "call_0"} for each in calls or ()]

    monkeypatch.setattr("threadledger.domain.conversation.items.made_whole", numbered_from_zero)
    ledger = open_ledger({"weather": tool.weather}, **KINDS["chat"], profile=profile)
    for called in (BERN, CHUR):
        simulator.answer({"tool_calls": [called]})
        simulator.answer("There it is.")
        ledger.conversation("k").ask("How is the weather?")
    shown = ledger.memory("k").shown()
    assert [call.arguments for message in shown for call in message.calls()] == ['{"city": "Bern"}', '{"city": "Chur"}']
    assert [message.text for message in shown if message.tool_call_id] == [
        "use 1: sunny in Bern",
        "use 2: sunny in Chur",
    ]


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_the_last_round_of_calls_is_not_run_for_nobody(
    open_ledger: Callable[..., Ledger], profile: Path, tool: Weather, simulator: Any, kind: str
) -> None:
    for _ in range(limits.TOOL_ROUNDS_MAX + 1):
        simulator.answer({"tool_calls": [BERN]})
    ledger = open_ledger({"weather": tool.weather}, **KINDS[kind], profile=profile)
    with pytest.raises(AllBackendsFailed, match="no answer after 20 rounds"):
        ledger.conversation("k").ask("How is the weather?")
    assert len(tool.used) == limits.TOOL_ROUNDS_MAX
