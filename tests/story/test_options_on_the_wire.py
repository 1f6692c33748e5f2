"""Test what each backend sends of the options of a call, what it drops by name, and that a rerun sends the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import threadledger
from threadledger.domain.conversation import Profile, events
from threadledger.domain.errors import AllBackendsFailed, AnswerDoesNotFit, IdempotencyConflict, InvalidInput
from threadledger.domain.exchange import BackendRequest, SentOptions
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger, memory_shown

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

Open = Callable[..., Ledger]

ROUTES = {
    "chat": "POST /chat/completions",
    "responses": "POST /responses",
    "assistants": "POST /threads/{thread_id}/runs",
    "claude": "POST /messages",
}
QUESTION = "Where is it? Answer in JSON."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
PLACE = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
FILE_SEARCH = {"type": "file_search", "vector_store_ids": ["vs_1"]}
OPTIONS: dict[str, Any] = {
    "temperature": 0.25,
    "top_p": 0.5,
    "max_output_tokens": 300,
    "reasoning_effort": "low",
    "response_format": PLACE,
    "tools": [WEATHER],
    "tool_choice": "weather",
    "metadata": {"ticket": "7"},
}
SENT: dict[str, dict[str, Any]] = {
    "chat": {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_completion_tokens": 300,
        "reasoning_effort": "low",
        "response_format": PLACE,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "metadata": None,
    },
    "responses": {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_output_tokens": 300,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}},
        "tool_choice": {"type": "function", "name": "weather"},
    },
    "assistants": {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_completion_tokens": 300,
        "reasoning_effort": "low",
        "response_format": PLACE,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
    "claude": {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 300,
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "tool_choice": {"type": "tool", "name": "weather"},
        "metadata": None,
    },
}
"""What each backend sends of `OPTIONS`; None for a field that is not sent."""


class Place(BaseModel):
    city: str


@pytest.fixture
def open_on(open_ledger: Open, simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens a ledger on one or more backends, `claude` among them: `open_on("claude", "chat")`."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    tables = f'[backends.claude]\nkind = "anthropic"\nbase_url = "{simulator.base_url}"\nmodel = "claude-test"\n'

    def open_one(*backends: str, more: str = "", **given: Any) -> Ledger:
        Path("threadledger.toml").write_text(tables + more, encoding="utf-8")
        plain = {"threads": "none", "retries": 0, "tools": {"weather": lambda: "sunny"}}
        return open_ledger(backends=backends, **plain | given)

    return open_one


def bodies(simulator: Any, backend: str) -> list[dict[str, Any]]:
    return [each.body for each in simulator.requests if each.template == ROUTES[backend]]


def ask(ledger: Ledger, way: str, **options: Any) -> Any:
    if way == "ask":
        return ledger.conversation("k").ask(QUESTION, **options)
    if way == "stream":
        return list(ledger.conversation("k").stream(QUESTION, **options))[-1]

    async def asking() -> Any:
        async with AsyncLedger(ledger) as awaited:
            return await awaited.conversation("k").ask(QUESTION, **options)

    return asyncio.run(asking())


def requested(ledger: Ledger, key: str = "k") -> list[events.ExchangeRequested]:
    return [each for each in ledger.conversation(key).events() if isinstance(each, events.ExchangeRequested)]


# Each option on each backend


@pytest.mark.parametrize("way", ["ask", "stream", "async"])
@pytest.mark.parametrize("backend", ROUTES)
def test_each_backend_sends_the_options_in_its_own_words(open_on: Open, simulator: Any, backend: str, way: str) -> None:
    answer = ask(open_on(backend), way, **OPTIONS)
    [body] = bodies(simulator, backend)
    assert {name: body.get(name) for name in SENT[backend]} == SENT[backend]
    if backend in {"responses", "assistants"}:
        assert body["metadata"]["ticket"] == "7"
        assert {"exchange_id", "run_id"} < body["metadata"].keys()
        assert answer.dropped == ()
    else:
        assert answer.dropped == ("option:metadata",)


@pytest.mark.parametrize("backend", ROUTES)
def test_a_plain_question_sends_and_stores_nothing_more(open_on: Open, simulator: Any, backend: str) -> None:
    ledger = open_on(backend)
    ask(ledger, "ask")
    [body] = bodies(simulator, backend)
    assert not SENT[backend].keys() & body.keys() - {"metadata", "max_tokens"}
    assert requested(ledger) == []
    assert all("settings" not in events.payload_of(each.event) for each in ledger.events(types=["ProfileDefined"]))


def test_a_function_of_the_app_is_given_the_options(open_on: Open, tmp_path: Path) -> None:
    (tmp_path / "model_on_the_wire.py").write_text(
        'seen = []\ndef answer(request):\n    seen.append(request)\n    return \'{"city": "Bern"}\'\n'
    )
    ledger = open_on("local", more='[backends.local]\nkind = "python"\nfunction = "model_on_the_wire:answer"\n')
    answer = ask(ledger, "ask", timeout_seconds=7.5, **OPTIONS)
    import model_on_the_wire  # type: ignore[import-not-found] - written by this test

    [request] = model_on_the_wire.seen
    assert isinstance(request, BackendRequest)
    assert (answer.dropped, dict(request.metadata), request.timeout_seconds) == ((), {"ticket": "7"}, 7.5)
    assert (request.profile.settings["temperature"], request.profile.tools) == (0.25, [WEATHER])


DROPPED = {
    ("assistants", "max_output_tokens"): {"max_output_tokens": 100},
    ("claude", "temperature"): {"temperature": 1.5},
    ("claude", "reasoning_effort"): {"reasoning_effort": "minimal"},
    ("claude", "response_format"): {"response_format": {"type": "json_object"}},
    ("chat", "tool_choice"): {"tool_choice": {"type": "file_search"}, "tools": [WEATHER, FILE_SEARCH]},
}


@pytest.mark.parametrize(("backend", "name"), DROPPED)
def test_what_a_backend_does_not_take_is_dropped_by_name_or_refused(
    open_on: Open, simulator: Any, backend: str, name: str
) -> None:
    options = DROPPED[backend, name]
    first = () if name != "tool_choice" else ("responses",)
    if first:  # the first backend of a chain refuses hosted tools
        simulator.add_fault(ROUTES["responses"], refuse={"status": 500})
    answer = ask(open_on(*first, backend), "ask", **options)
    assert f"option:{name}" in answer.dropped
    assert name not in str(bodies(simulator, backend)[-1].keys())
    if not first:
        with pytest.raises(AllBackendsFailed) as raised:
            ask(open_on(backend, fallback="strict"), "ask", **options)
        [failure] = raised.value.failures
        assert (failure.facts.status, failure.cause) == ("refused", Cause.ASSISTANT_MISCONFIGURED)
        assert failure.facts.message is not None
        assert name in failure.facts.message
        assert len(bodies(simulator, backend)) == 1


def test_a_long_definition_of_a_tool_is_no_secret(open_on: Open, simulator: Any) -> None:
    grammar = {"type": "custom", "name": "sql", "description": "SELECT ... " * 500}
    ask(open_on("responses"), "ask", tools=[grammar])
    assert bodies(simulator, "responses")[-1]["tools"] == [grammar]


def test_a_fallback_says_which_options_it_was_not_given(open_on: Open, simulator: Any) -> None:
    simulator.add_fault(ROUTES["responses"], refuse={"status": 500})
    ledger = open_on("responses", "claude")
    answer = ask(ledger, "ask", temperature=1.5, metadata={"ticket": "7"})
    [fallback] = [each for each in ledger.conversation("k").events() if isinstance(each, events.FallbackUsed)]
    assert list(answer.dropped) == fallback.dropped == ["option:temperature", "option:metadata"]


def test_metadata_is_no_reason_to_refuse_a_question(open_on: Open, simulator: Any) -> None:
    answer = ask(open_on("chat", fallback="strict"), "ask", metadata={"ticket": "7"})
    assert answer.dropped == ("option:metadata",)
    kept = open_on(
        "kept",
        more=f"[backends.kept]\nkind = 'chat'\nbase_url = '{simulator.base_url}'\nmodel = 'm'\n"
        "extra = { store = true }\n",
    )
    assert kept.conversation("k").ask("And now?", metadata={"ticket": "8"}).dropped == ()
    assert bodies(simulator, "chat")[-1]["metadata"] == {"ticket": "8"}


def test_sixteen_pairs_of_metadata_take_the_place_of_our_own(open_on: Open, simulator: Any) -> None:
    pairs = {f"key {number}": "v" for number in range(16)}
    assert ask(open_on("responses"), "ask", metadata=pairs).dropped == ()
    assert bodies(simulator, "responses")[-1]["metadata"] == pairs
    assert open_on("assistants").conversation("other").ask("Where?", metadata=pairs).dropped == ("option:metadata",)


def test_options_win_over_the_parameters_of_a_named_backend_and_leave_the_others(open_on: Open, simulator: Any) -> None:
    more = f"""
[backends.own]
kind = "responses"
base_url = "{simulator.base_url}"
model = "small"
extra = {{ temperature = 0.9, text = {{ verbosity = "low" }}, top_p = 0.1 }}
[backends.old]
kind = "chat"
base_url = "{simulator.base_url}"
model = "small"
extra = {{ max_tokens = 50 }}
"""
    ledger = open_on("own", "old", more=more)
    ask(ledger, "ask", temperature=0.2, response_format={"type": "json_object"})
    body = bodies(simulator, "responses")[-1]
    assert (body["temperature"], body["top_p"]) == (0.2, 0.1)
    assert body["text"] == {"verbosity": "low", "format": {"type": "json_object"}}
    ledger.conversation("k").ask("And now?", backend="old", max_output_tokens=99)
    assert (bodies(simulator, "chat")[-1]["max_tokens"], "max_completion_tokens" in bodies(simulator, "chat")[-1]) == (
        99,
        False,
    )


@pytest.mark.parametrize("backend", ["chat", "responses", "claude"])
def test_a_tool_is_forced_in_the_first_round_only(open_on: Open, simulator: Any, backend: str) -> None:
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {}}]}, "Sunny.")
    assert ask(open_on(backend), "ask", tools=[WEATHER], tool_choice="required").text == "Sunny."
    first, second = bodies(simulator, backend)
    assert (first["tool_choice"], "tool_choice" in second) == (
        {"type": "any"} if backend == "claude" else "required",
        False,
    )


def test_an_assistant_is_made_once_whatever_the_settings(open_on: Open, simulator: Any) -> None:
    ledger = open_on("assistants")
    for temperature in (0.1, 0.2, None):
        ledger.conversation("k").ask("Where is it?", temperature=temperature)
    made = [each for each in simulator.requests if each.template == "POST /assistants"]
    assert len(made) == 1
    assert [body.get("temperature") for body in bodies(simulator, "assistants")] == [0.1, 0.2, None]


def test_the_time_limit_of_a_call_is_that_of_each_attempt_and_extends_the_deadline(open_on: Open) -> None:
    chat = open_on("chat", timeout_seconds=5, deadline_seconds=10).conversation("k")
    policy = chat._conversing.using({"timeout_seconds": 600}).services.policy
    assert (policy.timeout_seconds, policy.deadline_seconds, policy.candidates[0].timeout_seconds) == (600, 600, 600)
    assert chat._conversing.using({"timeout_seconds": 2}).services.policy.deadline_seconds == 10


# What is refused


REFUSED: dict[str, dict[str, Any]] = {
    "temperature=3 is not valid: give a number from 0 to 2": {"temperature": 3},
    "max_output_tokens=1 is not valid": {"max_output_tokens": 1},
    "tool_choice names 'x': use one of the tools": {"tools": [WEATHER], "tool_choice": "x"},
    "there are no tools to choose from": {"tool_choice": "required"},
    "tools is dict: give a list": {"tools": WEATHER},
    "a tool has neither a name nor a type": {"tools": [print]},
    "no function is bound to the tool 'other'": {"tools": [{"name": "other"}]},
    "the tool 'mcp' holds a secret, which would be stored": {
        "tools": [{"type": "mcp", "server_url": "https://x.test", "headers": {"X": "y"}}]
    },
    "the tool 'web' holds a secret": {"tools": [{"type": "web", "api_key": "sk-abcdefghijklmnop12345"}]},
    "the tool 'mcp' holds": {"tools": [{"type": "mcp", "server_url": "https://ann:s3cret-pass@x.test/mcp"}]},
    "response_format is the class int: give a pydantic model": {"response_format": int},
    "metadata is list: give a dict of texts": {"metadata": ["a"]},
    "metadata has 17 pairs: give at most 16": {"metadata": {str(number): "v" for number in range(17)}},
    "metadata 'a' is int: keys and values are texts": {"metadata": {"a": 1}},
    "metadata 'a' is too long": {"metadata": {"a": "v" * 513}},
    "metadata '' is too long": {"metadata": {"": "v"}},
    "metadata 'run_id' is a key that threadledger itself sends": {"metadata": {"run_id": "v"}},
    "contains half a character": {"metadata": {"a": "\ud800"}},
    "timeout_seconds is str: give a number of seconds": {"timeout_seconds": "5"},
    "timeout_seconds=0: give more than 0": {"timeout_seconds": 0},
    "actor has type int": {"actor": 5},
    "actors that start with 'key:' or 'cli:' are reserved": {"actor": "cli:root"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_option_that_is_not_valid_is_refused_before_anything_is_stored(open_on: Open, message: str) -> None:
    ledger = open_on("chat")
    with pytest.raises(InvalidInput, match=message.replace("(", r"\(")):
        ask(ledger, "ask", **REFUSED[message])
    with pytest.raises(InvalidInput, match=message.replace("(", r"\(")):
        ledger.conversation("k").rerun("x", **REFUSED[message])
    assert list(ledger.events()) == []


# Recorded with the question, and sent again


def test_the_request_is_recorded_behind_its_question_in_one_commit(open_on: Open) -> None:
    ledger = open_on("responses", "chat")
    answer = ask(ledger, "ask", backend="chat", model="gpt-4.1", timeout_seconds=9, **OPTIONS)
    started, question, request, run = ledger.conversation("k").events()[:4]
    assert [type(each).__name__ for each in (started, question, request, run)] == [
        "ConversationStarted",
        "MessageJournaled",
        "ExchangeRequested",
        "RunStarted",
    ]
    assert request.timestamp == question.timestamp
    assert isinstance(run, events.RunStarted)
    assert events.payload_of(request) == {
        "exchange_id": answer.exchange_id,
        "profile_hash": run.profile_hash,
        "model": "gpt-4.1",
        "backend": "chat",
        "metadata": {"ticket": "7"},
        "timeout_seconds": 9,
    }
    profile = ledger.journal.profile(run.profile_hash)
    assert profile is not None
    assert (profile.settings["temperature"], profile.tools) == (0.25, [WEATHER])


def test_the_profile_of_a_conversation_applies_to_all_its_questions(open_on: Open, simulator: Any) -> None:
    jane = Profile("Jane", "You are Jane.", "gpt-4o-mini", settings_json='{"temperature": 0.1}')
    ledger = open_on("chat")
    with pytest.raises(InvalidInput, match="profile is str"):
        ledger.conversation("k", profile="jane.toml")  # type: ignore[arg-type] - which is refused
    chat = ledger.conversation("k", profile=jane)
    chat.ask("Where is it?")
    chat.ask("And now?", temperature=0.9)
    first, second = bodies(simulator, "chat")
    assert (first["model"], first["temperature"], first["messages"][0]["content"]) == (
        "gpt-4o-mini",
        0.1,
        "You are Jane.",
    )
    assert (second["model"], second["temperature"], second["messages"][0]["content"]) == (
        "gpt-4o-mini",
        0.9,
        "You are Jane.",
    )
    assert [each.model for each in requested(ledger)] == ["gpt-4o-mini", "gpt-4o-mini"]
    ledger.conversation("k").ask("Without?")
    assert "temperature" not in bodies(simulator, "chat")[-1]

    async def asking() -> None:
        async with AsyncLedger(ledger) as awaited:
            await awaited.conversation("k", profile=jane).ask("And here?")

    asyncio.run(asking())
    assert bodies(simulator, "chat")[-1]["temperature"] == 0.1


FAILS = {"refuse": {"status": 500}, "times": 1}
ASKED: dict[str, dict[str, Any]] = {
    "everything": OPTIONS | {"model": "gpt-4.1", "instructions": "Be brief.", "timeout_seconds": 9},
    "a class": {"response_format": Place, "temperature": 1},
    "a backend": {"backend": "chat", "top_p": 0.5},
    "metadata alone": {"metadata": {"ticket": "7"}},
    "instructions": {"instructions": "Be brief."},
}


PAIRS = [*(("chat", what) for what in ASKED), ("responses", "everything"), ("responses", "metadata alone")]


def comparable(body: dict[str, Any], ids: bool = False) -> bytes:
    """Return a body as bytes, without the ids of its run."""
    metadata = {
        name: value for name, value in body.get("metadata", {}).items() if ids or name not in {"run_id", "exchange_id"}
    }
    return json.dumps(body | {"metadata": metadata}).encode()


@pytest.mark.parametrize("how", ["rerun", "retry", "tail", "fork", "shadow"])
@pytest.mark.parametrize(("backend", "what"), PAIRS)
def test_a_rerun_sends_what_was_sent_byte_by_byte(
    open_on: Open, simulator: Any, backend: str, what: str, how: str
) -> None:
    options = ASKED[what]
    ledger = open_on(backend)
    simulator.add_fault(ROUTES[backend], **FAILS)
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where is it?", idempotency_key="q", **options)
    [failure] = failed.value.failures
    later = open_on(backend, timeout_seconds=33)
    chat = later.conversation("k")
    if how == "rerun":
        run_id = chat.rerun(failed.value.exchange_id).run_id
    elif how == "retry":
        run_id = chat.ask("Where is it?", idempotency_key="q").run_id
    else:
        plan = later.replay.plan_rerun(runs=[failure.run_id], into=how)
        [item] = plan.apply()
        assert item.state == "answered", item.reason
        run_id = str(item.new_run_id)
    first, second = bodies(simulator, backend)
    assert comparable(first) == comparable(second)
    before, after = (later.run(each)[0] for each in (failure.run_id, run_id))
    assert (before.memory_hash, before.profile_hash, before.model) == (
        after.memory_hash,
        after.profile_hash,
        after.model,
    )
    if how == "fork":
        [copied], [original] = requested(later, after.key), requested(later)
        assert copied.exchange_id == after.exchange_id != original.exchange_id
        ids = {"exchange_id"}
        assert {name: value for name, value in events.payload_of(copied).items() if name not in ids} == {
            name: value for name, value in events.payload_of(original).items() if name not in ids
        }


def test_the_key_of_a_rerun_stands_for_one_exchange(open_on: Open, simulator: Any) -> None:
    simulator.add_fault(ROUTES["chat"], refuse={"status": 500}, times=2)
    ledger = open_on("chat")
    chat = ledger.conversation("k")
    chat.append("user", "Hello", idempotency_key="greeting")
    with pytest.raises(AllBackendsFailed) as failed:
        chat.ask("Where is it?", idempotency_key="question")
    exchange = failed.value.exchange_id
    with pytest.raises(AllBackendsFailed):
        chat.rerun(exchange, idempotency_key="again")
    with pytest.raises(IdempotencyConflict):
        chat.rerun(exchange, idempotency_key="greeting")
    first = chat.rerun(exchange, idempotency_key="again")
    second = chat.rerun(exchange, idempotency_key="question")
    assert second.message_id == first.message_id
    other = chat.ask("And where is that?").exchange_id
    with pytest.raises(IdempotencyConflict):
        chat.rerun(other, idempotency_key="again")


def test_a_rerun_with_another_model_changes_just_that(open_on: Open, simulator: Any) -> None:
    simulator.add_fault(ROUTES["chat"], refuse={"status": 500}, times=2)
    ledger = open_on("chat")
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where is it?", **OPTIONS)
    run_id = failed.value.failures[0].run_id
    [item] = ledger.replay.plan_rerun(runs=[run_id], model="gpt-4.1").items
    assert (item.state, item.model) == ("planned", "gpt-4.1")
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").rerun(failed.value.exchange_id, model="gpt-4.1")
    ledger.conversation("k").rerun(failed.value.exchange_id, temperature=0.75)
    first, second, third = bodies(simulator, "chat")
    assert second == first | {"model": "gpt-4.1"}
    assert third == first | {"temperature": 0.75}
    assert len(requested(ledger)) == 1


@pytest.mark.parametrize("into", ["tail", "shadow"])
def test_a_recorded_profile_does_not_bring_its_model(open_on: Open, simulator: Any, into: str) -> None:
    Path("john.toml").write_text('name = "John"\nmodel = "of-the-profile"\n', encoding="utf-8")
    ledger = open_on("chat", profile=Path("john.toml"), openai_model="configured")
    simulator.add_fault(ROUTES["chat"], **FAILS)
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where is it?", temperature=0.25)
    [item] = ledger.replay.plan_rerun(runs=[failed.value.failures[0].run_id], into=into).apply()
    assert item.state == "answered"
    assert [body["model"] for body in bodies(simulator, "chat")] == ["configured", "configured"]


def test_a_rerun_with_another_profile_replaces_all_of_the_recorded_one(open_on: Open, simulator: Any) -> None:
    simulator.add_fault(ROUTES["chat"], **FAILS)
    ledger = open_on("chat")
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where?", profile=Profile("Jane", "You are Jane.", "old"), temperature=0.25)
    jo = Profile("Jo", "You are Jo.", "new")
    [item] = ledger.replay.plan_rerun(runs=[failed.value.failures[0].run_id], profile=jo).apply()
    body = bodies(simulator, "chat")[-1]
    assert (item.state, body["model"], body["messages"][0]["content"]) == ("answered", "new", "You are Jo.")
    assert "temperature" not in body


def test_a_question_for_a_backend_that_is_gone_is_skipped_with_the_reason(open_on: Open, simulator: Any) -> None:
    simulator.add_fault(ROUTES["claude"], **FAILS)
    with pytest.raises(AllBackendsFailed) as failed:
        open_on("chat").conversation("k").ask("Where is it?", backend="claude")
    Path("threadledger.toml").unlink()
    ledger = threadledger.open(
        f"sqlite:///{Path('ledger.db').absolute()}",
        backends=("chat",),
        threads="none",
        openai_base_url=simulator.base_url,
        openai_api_key="k",
    )
    with ledger:
        [item] = ledger.replay.plan_rerun(runs=[failed.value.failures[0].run_id]).items
        assert (item.state, item.reason) == (
            "skipped",
            "there is no backend 'claude'; available backends: assistants, responses, chat",
        )
        assert ledger.replay.plan_rerun(runs=[failed.value.failures[0].run_id], on="chat").items[0].state == "planned"


def test_the_audit_shows_what_was_sent(open_on: Open) -> None:
    ledger = open_on("chat")
    answer = ask(ledger, "ask", **OPTIONS)
    shown = memory_shown(ledger.journal, ledger.run(answer.run_id)[0])
    assert shown.same
    assert shown.sent is not None
    assert shown.profile is not None
    assert (shown.sent.metadata, shown.profile.settings["temperature"]) == ({"ticket": "7"}, 0.25)
    plain = ledger.conversation("k").ask("And now?")
    assert memory_shown(ledger.journal, ledger.run(plain.run_id)[0]).sent is None


def test_an_exported_test_sends_the_same(
    open_on: Open, simulator: Any, tmp_path: Path, run_exported: Callable[[Path], int]
) -> None:
    from threadledger.adapters import load_settings
    from threadledger.adapters.testcase import export_run

    simulator.add_fault(ROUTES["responses"], **FAILS)
    ledger = open_on("responses", "chat")
    answer = ask(ledger, "ask", temperature=0.25, response_format=PLACE, metadata={"ticket": "7"})
    exported = export_run(ledger.journal, answer.failures[0].run_id, load_settings())
    assert exported.notes == ()
    assert "METADATA = " in exported.test
    assert '"temperature": 0.25' in exported.test
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / f"{exported.name}.json").write_text(json.dumps(exported.script))
    (folder / f"test_{exported.name}.py").write_text(exported.test)
    assert run_exported(folder) == 1


def test_an_answer_is_parsed_now_and_when_it_is_read_again(open_on: Open, simulator: Any) -> None:
    simulator.answer('{"city": "Bern"}', '{"town": "Bern"}')
    chat = open_on("chat").conversation("k")
    assert chat.ask("Where is it?", response_format=Place, idempotency_key="q").parsed == Place(city="Bern")
    assert chat.ask("Where is it?", response_format=Place, idempotency_key="q").parsed == Place(city="Bern")
    assert chat.ask("Where is it?", idempotency_key="q").parsed == {"city": "Bern"}
    other = chat.ask("And the other?", response_format=Place)
    with pytest.raises(AnswerDoesNotFit, match="city: Field required"):
        _ = other.parsed
    assert chat.memory().messages[-1].message.text == '{"town": "Bern"}'


pairs = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.text(max_size=8).filter(str.isprintable),
)
options_given = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["a", "b"]),
        "instructions": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        "temperature": st.floats(0, 2) | st.integers(0, 2),
        "top_p": st.floats(0, 1),
        "max_output_tokens": st.integers(16, 10_000),
        "reasoning_effort": st.sampled_from(["none", "low", "max"]),
        "response_format": st.sampled_from([PLACE, {"type": "json_object"}, Place]),
        "tools": st.just([WEATHER]),
        "metadata": pairs.filter(lambda given: len(given) <= 16),
        "timeout_seconds": st.floats(0.1, 1_000),
        "profile": st.builds(Profile, st.sampled_from(["Jane"]), model=st.sampled_from([None, "m"])),
    },
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(options_given)
def test_a_stored_request_that_is_read_back_gives_the_same_request(open_ledger: Open, options: dict[str, Any]) -> None:
    ledger = _LEDGERS.setdefault("one", open_ledger(backends=("chat",), threads="none", tools={"weather": print}))
    conversing = ledger.conversation("k")._conversing.using(options)  # type: ignore[typeddict-item] - any of them
    if conversing.options is None:
        return
    from threadledger.domain.exchange.requests import sent

    fields = sent(ledger.journal, conversing.options, conversing.services)
    event = events.ExchangeRequested(exchange_id="x", **fields)
    stored = json.loads(json.dumps(events.payload_of(event)))
    again = SentOptions(
        events.restore_event("ExchangeRequested", stored),  # type: ignore[arg-type] - of this topic
        ledger.journal.profile(fields.get("profile_hash")),
    ).services_of(conversing.base, {})
    assert (again.profile.hash, again.policy, again.metadata) == (
        conversing.services.profile.hash,
        conversing.services.policy,
        conversing.services.metadata,
    )


_LEDGERS: dict[str, Ledger] = {}
