"""Secrets of tools are named: the provider is sent the value, and nothing that is stored, logged or shown has it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

import threadledger
from threadledger.adapters import export_run, load_settings
from threadledger.domain.conversation import Profile, events, parse_profile
from threadledger.domain.conversation.tool_secrets import VARIABLE, with_values
from threadledger.domain.errors import AllBackendsFailed, InvalidInput, InvalidProfile, ProviderRefused
from threadledger.domain.exchange import Services
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger

pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

ROUTES = {"responses": "POST /responses", "chat": "POST /chat/completions", "assistants": "POST /assistants"}
VALUE = "tracker-value-4711"
OTHER = "second-value-0815"
TOKEN = {"secret": "TRACKER"}
MCP = {"type": "mcp", "server_label": "t", "server_url": "https://tools.test/mcp"}
SQL = {"type": "custom", "custom": {"name": "sql", "description": TOKEN}}

PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "authorization": ({"authorization": TOKEN}, {"authorization": VALUE}),
    "a header": ({"headers": {"Authorization": TOKEN}}, {"headers": {"Authorization": VALUE}}),
    "two secrets": (
        {"authorization": TOKEN, "headers": {"X": {"secret": "OTHER"}}},
        {"authorization": VALUE, "headers": {"X": OTHER}},
    ),
    "a field with the name of a secret": ({"client_secret": TOKEN}, {"client_secret": VALUE}),
    "a whole address": ({"server_url": TOKEN}, {"server_url": VALUE}),
    "a list": ({"auth": [{"value": TOKEN}]}, {"auth": [{"value": VALUE}]}),
}
"""What a tool has, and what the provider is sent."""

INLINE: dict[str, dict[str, Any]] = {
    "in place of authorization": {"authorization": f"Bearer {VALUE}"},
    "in place of headers.X-Team": {"headers": {"X-Team": "support"}},
    "in place of headers.secret": {"headers": {"secret": "TRACKER"}},
    "in place of auth.client_secret": {"auth": {"client_secret": "four"}},
    "in place of auth.value": {"auth": [{"value": "sk-abcdefghijklmnop12345"}]},
    "in place of api_key": {"api_key": 47114711},
    "in place of server_url": {"server_url": "https://tools.test/mcp?api_key=abcdefgh12345678"},
    "remove user and password from server_url": {"server_url": "https://ann@tools.test/mcp"},
    "remove user and password from server_url, write": {"server_url": f"https://ann:{VALUE}@tools.test/mcp"},
    "names a secret in authorization that is not a name": {"authorization": {"secret": "tracker-value-4711"}},
    "names a secret in auth that is not a name": {"auth": {"secret": "AKIAIOSFODNN7EXAMPLE"}},
}
"""Unnamed secrets, with what the refusal says."""

Open = Callable[..., Ledger]


@pytest.fixture(autouse=True)
def _values(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Set the values, and log everything, as the SDKs do for a developer who looks for an error."""
    monkeypatch.setenv(f"{VARIABLE}TRACKER", VALUE)
    monkeypatch.setenv(f"{VARIABLE}OTHER", OTHER)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    for name in ("openai", "anthropic", "threadledger", "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, name)
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def open_it(simulator: Any) -> Iterator[Open]:
    """Return a function that opens the ledger in a file of this folder, on these backends."""
    opened: list[Ledger] = []

    def open_one(*backends: str, **options: Any) -> Ledger:
        plain = {"threads": "none", "retries": 0, "openai_api_key": "sk-test", "openai_base_url": simulator.base_url}
        opened.append(threadledger.open("sqlite:///secrets.db", backends=backends, **plain | options))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


def profile_file(tool: dict[str, Any]) -> Path:
    """Write a profile with a tool and return its path."""
    lines = "\n".join(f"{name} = {_toml(value)}" for name, value in tool.items())
    path = Path("profile.toml")
    path.write_text(f'name = "Ann"\n\n[[tools]]\n{lines}\n', encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value)


def ask(ledger: Ledger, way: str = "ask", **options: Any) -> Any:
    chat = ledger.conversation("k")
    if way == "stream":
        return list(chat.stream("Where is it?", **options))[-1]
    if way == "ask":
        return chat.ask("Where is it?", **options)

    async def asking() -> Any:
        async with AsyncLedger(ledger) as awaited:
            return await awaited.conversation("k").ask("Where is it?", **options)

    return asyncio.run(asking())


def give(open_it: Open, how: str, tool: dict[str, Any], *backends: str) -> Callable[[], Any]:
    """Return a function that asks with a tool, which it is given in one of the ways that there are."""
    profile = Profile(tools_json=json.dumps([tool]))
    if how == "a file":
        return lambda: ask(open_it(*backends, profile=profile_file(tool)))
    ledger = open_it(*backends)
    if how == "services":
        own = Ledger(ledger.journal, replace(ledger.services, profile=profile))
        return lambda: ask(own)
    if how == "a conversation":
        return lambda: ledger.conversation("k", profile=profile).ask("Where is it?")
    options = {"tools": [tool]} if how == "tools" else {"profile": profile}
    return lambda: ask(ledger, **options)


WAYS = ("a file", "services", "a conversation", "profile", "tools")
"""Ways to give a tool: a profile file, a profile of services, of a conversation, of a call, and tools of a call."""


def sent(simulator: Any, backend: str) -> list[Any]:
    return [each.body.get("tools") for each in simulator.requests if each.template == ROUTES[backend]]


def stored() -> bytes:
    """Return the bytes of the database, its log included."""
    return b"".join(path.read_bytes() for path in Path.cwd().glob("secrets.db*"))


def assert_nowhere(caplog: pytest.LogCaptureFixture, *more: object) -> None:
    """Check that no value is stored, logged or in one of these texts."""
    seen = stored().decode("utf-8", "replace") + "\n".join(map(str, more))
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert [value for value in (VALUE, OTHER) if value in seen + logged] == []


# Sent, and nowhere else


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_request_has_the_value_and_the_ledger_the_name(
    open_it: Open, simulator: Any, caplog: pytest.LogCaptureFixture, place: str, how: str
) -> None:
    given, expected = PLACES[place]
    give(open_it, how, MCP | given, "responses")()
    assert sent(simulator, "responses") == [[MCP | expected]]
    [defined] = [each for each in open_it("responses").events() if isinstance(each.event, events.ProfileDefined)]
    assert defined.event.tools == [MCP | given]
    assert b'"TRACKER"' in stored()
    assert_nowhere(caplog)


@pytest.mark.parametrize("way", ["ask", "stream", "async"])
@pytest.mark.parametrize(("backend", "tool"), [("responses", MCP | {"authorization": TOKEN}), ("chat", SQL)])
def test_each_backend_that_sends_hosted_tools_sends_the_value(
    open_it: Open, simulator: Any, caplog: pytest.LogCaptureFixture, backend: str, tool: dict[str, Any], way: str
) -> None:
    ask(open_it(backend), way, tools=[tool])
    assert sent(simulator, backend) == [[json.loads(json.dumps(tool).replace(json.dumps(TOKEN), json.dumps(VALUE)))]]
    log = logging.getLogger("openai._base_client")
    log.debug("Request options: %s", sent(simulator, backend))  # as some versions of the SDK do
    assert "Request options: [[{" in caplog.text
    assert_nowhere(caplog)


def test_an_assistant_is_not_made_with_a_secret(
    open_it: Open, simulator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tool = {"type": "file_search", "authorization": TOKEN}
    ledger = open_it("assistants", threads="assistants", profile=profile_file(tool))
    with pytest.raises(AllBackendsFailed) as failed:
        ask(ledger)
    [failure] = failed.value.failures
    assert (failure.facts.status, failure.cause) == ("refused", Cause.ASSISTANT_MISCONFIGURED)
    assert "an assistant is stored at the provider" in str(failure.facts.message)
    assert sent(simulator, "assistants") == []
    assert_nowhere(caplog)


def test_a_function_of_the_app_is_shown_the_name(open_it: Open) -> None:
    function = {"type": "function", "function": {"name": "look", "parameters": {"default": {"secret": "TRACKER"}}}}
    mcp = MCP | {"authorization": TOKEN}
    assert with_values([function, mcp], lambda _: VALUE) == [function, MCP | {"authorization": VALUE}]


@pytest.mark.parametrize("said", [VALUE, f"Bearer {VALUE}", json.dumps({"authorization": VALUE})])
@pytest.mark.parametrize("value", [VALUE, f"Bearer {VALUE}"])
def test_a_provider_that_repeats_the_value_is_not_believed(
    open_it: Open,
    simulator: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(f"{VARIABLE}TRACKER", value)
    simulator.add_fault(ROUTES["responses"], refuse={"status": 424, "message": f"The server said no: {said}"})
    with pytest.raises(AllBackendsFailed) as failed:
        ask(open_it("responses", log_text=True), tools=[MCP | {"authorization": TOKEN}])
    assert "The server said no" in str(failed.value.failures[0].facts.message)
    assert_nowhere(caplog, failed.value, failed.value.failures)


REPEATED = [
    {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "t",
        "name": "look",
        "arguments": "{}",
        "error": f"401: {VALUE}",
    },
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "I may not.", "annotations": []}],
    },
]
"""An answer in which the server of a tool repeats the secret that it was sent."""


@pytest.mark.parametrize("way", ["ask", "stream", "recorded"])
def test_an_answer_that_repeats_the_value_is_stored_without_it(
    open_it: Open, simulator: Any, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest, way: str
) -> None:
    simulator.answer({"output": REPEATED})
    if way == "recorded":
        client = request.getfixturevalue("recorded")
        client.responses.create(model="m", input="Where is it?", tools=[MCP | {"authorization": VALUE}])
    else:
        ask(open_it("responses"), way, tools=[MCP | {"authorization": TOKEN}])
    said = open_it("responses").conversation("k").memory().messages[-1].message
    assert '"error": "401: [redacted]"' in json.dumps(said.native())
    if way == "recorded":
        assert VALUE.encode() not in stored()
    else:
        assert_nowhere(caplog)


def test_the_hash_of_a_profile_does_not_depend_on_the_value(open_it: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = MCP | {"authorization": TOKEN}
    ask(open_it("responses"), tools=[tool])
    monkeypatch.setenv(f"{VARIABLE}TRACKER", "another-value-1")
    ask(open_it("responses"), tools=[tool])
    hashes = {each.event.profile_hash for each in open_it("responses").events() if hasattr(each.event, "profile_hash")}
    assert len({each for each in hashes if each}) == 1


def test_a_rerun_sends_the_value_of_that_moment(open_it: Open, simulator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_it("responses")
    simulator.add_fault(ROUTES["responses"], refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed) as failed:
        ask(ledger, tools=[MCP | {"authorization": TOKEN}])
    monkeypatch.setenv(f"{VARIABLE}TRACKER", "another-value-1")
    ledger.conversation("k").rerun(failed.value.exchange_id)
    tools = [each["authorization"] for [each] in sent(simulator, "responses")]
    assert tools == [VALUE, "another-value-1"]


def test_an_exported_test_has_neither_value_nor_name(
    open_it: Open, simulator: Any, run_exported: Callable[[Path], int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_it("responses")
    simulator.add_fault(ROUTES["responses"], refuse={"status": 400, "message": f"no: {VALUE}"})
    with suppress(AllBackendsFailed):
        ask(ledger, tools=[MCP | {"authorization": TOKEN, "auth": [{"client_secret": {"secret": "OTHER"}}]}])
    [failure] = ledger.failures()
    made = export_run(ledger.journal, failure.run_id, load_settings(backends=("responses",), retries=0))
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / f"test_{made.name}.py").write_text(made.test, encoding="utf-8")
    (folder / f"{made.name}.json").write_text(json.dumps(made.script), encoding="utf-8")
    assert "mcp" in made.test
    assert not [word for word in (VALUE, "TRACKER", "OTHER") if word in made.test + json.dumps(made.script)]
    assert run_exported(folder) == 1


# Names without a value


UNUSABLE = {"": "is not set: set it in the environment or in .env", "short": "has fewer than 8 characters"}


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("how", WAYS)
def test_a_name_without_a_value_is_refused_before_a_provider_is_called(
    open_it: Open, simulator: Any, monkeypatch: pytest.MonkeyPatch, how: str, value: str
) -> None:
    monkeypatch.setenv(f"{VARIABLE}TRACKER", value)
    monkeypatch.setenv("TRACKER", VALUE)  # no other variable is read
    with pytest.raises((InvalidInput, AllBackendsFailed)) as refused:
        give(open_it, how, MCP | {"authorization": TOKEN}, "responses")()
    assert simulator.requests == []
    if how in {"tools", "profile"}:
        assert isinstance(refused.value, InvalidInput)
        assert "nothing was stored or sent, because" in str(refused.value)
        assert f"{VARIABLE}TRACKER {UNUSABLE[value]}" in str(refused.value)
        assert list(open_it("responses").events()) == []
        return
    assert isinstance(refused.value, AllBackendsFailed)
    [failure] = refused.value.failures
    assert (failure.facts.status, failure.cause) == ("refused", Cause.ASSISTANT_MISCONFIGURED)
    assert f"{VARIABLE}TRACKER {UNUSABLE[value]}" in str(failure.facts.message)


def test_a_fallback_that_does_not_have_the_tool_needs_no_value(
    open_it: Open, simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"{VARIABLE}TRACKER")
    answer = ask(open_it("responses", "chat", profile=profile_file(MCP | {"authorization": TOKEN})))
    assert (answer.backend, list(answer.dropped)) == ("chat", ["tool:mcp"])
    assert sent(simulator, "chat") == [None]


def test_only_a_variable_of_its_own_is_read(open_it: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "TRACKER", "PATH"):
        monkeypatch.setenv(name, "planted-value-1")
    monkeypatch.delenv(f"{VARIABLE}TRACKER")
    services = open_it("responses").services
    assert [services.secret_of(name) for name in ("TRACKER", "OPENAI_API_KEY", "PATH")] == [None, None, None]
    monkeypatch.setenv(f"{VARIABLE}PATH", VALUE)
    assert services.secret_of("PATH") == VALUE


def test_a_value_may_be_in_the_env_file(open_it: Open, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.delenv(f"{VARIABLE}TRACKER")
    Path(".env").write_text(f"{VARIABLE}TRACKER={OTHER}\n", encoding="utf-8")
    ask(open_it("responses"), tools=[MCP | {"authorization": TOKEN}])
    assert sent(simulator, "responses") == [[MCP | {"authorization": OTHER}]]


def test_services_without_a_lookup_send_no_name_in_the_place_of_a_value() -> None:
    with pytest.raises(ProviderRefused, match="THREADLEDGER_SECRET_TRACKER is not set"):
        with_values([MCP | {"authorization": TOKEN}], Services().secret_of)


# Unnamed secrets


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("message", INLINE)
def test_a_secret_without_a_name_is_refused_wherever_a_tool_is_given(
    open_it: Open, simulator: Any, caplog: pytest.LogCaptureFixture, message: str, how: str
) -> None:
    with pytest.raises(InvalidProfile) as refused:
        give(open_it, how, MCP | INLINE[message], "responses")()
    said = str(refused.value)
    assert message in said
    assert "the tool 'mcp'" in said
    assert f"{VARIABLE}NAME" in said
    assert simulator.requests == []
    assert list(open_it("responses").events()) == []
    assert_nowhere(caplog, said)


def test_a_refused_file_is_named(open_it: Open) -> None:
    with pytest.raises(InvalidProfile, match=r"^profile.toml: the tool 'mcp' holds a secret"):
        open_it("responses", profile=profile_file(MCP | {"authorization": "x"}))


def test_a_profile_with_a_secret_is_not_stored_however_it_comes_there(open_it: Open) -> None:
    journal = open_it("responses").journal
    with pytest.raises(InvalidProfile, match="holds a secret"):
        journal.define_profile(Profile(tools_json=json.dumps([MCP | {"authorization": VALUE}])))
    assert VALUE.encode() not in stored()


def test_a_plan_to_rerun_with_a_profile_that_holds_a_secret_is_refused(open_it: Open) -> None:
    ledger = open_it("responses")
    ask(ledger)
    profile = Profile(tools_json=json.dumps([MCP | {"authorization": VALUE}]))
    with pytest.raises(InvalidProfile, match="holds a secret"):
        ledger.replay.plan_rerun(keys=["k"], include=["answered"], profile=profile)
    assert VALUE.encode() not in stored()


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search", "user_location": {"type": "approximate", "city": "Oslo"}},
        {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 5},
        {"type": "image_generation", "input_image_mask": {"image_url": f"data:image/png;base64,{'A' * 400}"}},
        {"type": "custom", "name": "sql", "description": "SELECT ... " * 500},
        {**MCP, "headers": {}, "authorization": None, "require_approval": {"never": {"tool_names": ["get_token"]}}},
        {"name": "login", "parameters": {"properties": {"headers": {"type": "object"}, "password": {"enum": ["a1"]}}}},
    ],
    ids=lambda tool: tool.get("type", "function"),
)
def test_a_tool_without_a_secret_is_not_refused(tool: dict[str, Any]) -> None:
    assert len(parse_profile({"tools": [tool, {"type": "web_search"}]}, "profile.toml").tools) == 2


@pytest.mark.parametrize("rerun", ["conversation", "plan"])
def test_a_profile_that_an_earlier_version_stored_is_read_and_sent_again(
    open_it: Open, simulator: Any, monkeypatch: pytest.MonkeyPatch, rerun: str
) -> None:
    ledger = open_it("responses")
    simulator.add_fault(ROUTES["responses"], refuse={"status": 400}, times=1)
    tool = MCP | {"authorization": "inline-value-1"}
    with monkeypatch.context() as earlier, pytest.raises(AllBackendsFailed) as failed:
        earlier.setattr("threadledger.domain.conversation.tool_secrets.refuse_unnamed", lambda *_: None)
        ask(ledger, profile=Profile(tools_json=json.dumps([tool])), temperature=0.5)
    again = open_it("responses")
    [defined] = [each.event for each in again.events() if isinstance(each.event, events.ProfileDefined)]
    assert again.journal.profile(defined.profile_hash).tools == [tool]
    if rerun == "conversation":
        again.conversation("k").rerun(failed.value.exchange_id, model="another")
    else:
        [item] = again.replay.plan_rerun(failed=True).apply()
        assert item.state == "answered", item.reason
    assert sent(simulator, "responses") == [[tool], [tool]]


# The app's own requests


@pytest.fixture
def recorded(open_it: Open, simulator: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
        yield threadledger.record(client, open_it("responses"), key="k")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "tool",
    [
        MCP | {"authorization": f"Bearer {VALUE}"},
        MCP | {"headers": {"X-Api": VALUE, "X-Other": OTHER}},
        MCP | {"server_url": f"https://ann:{VALUE}@tools.test/mcp"},
    ],
    ids=["authorization", "headers", "address"],
)
def test_a_recorded_request_is_sent_unchanged_and_its_secret_is_not_stored(
    recorded: openai.OpenAI, open_it: Open, simulator: Any, tool: dict[str, Any], fails: bool
) -> None:
    if fails:
        simulator.add_fault(ROUTES["responses"], refuse={"status": 424, "message": f"no: {VALUE} and {OTHER[:0]}."})
    with suppress(openai.APIError):
        recorded.responses.create(model="m", input="Where is it?", tools=[tool])
    assert sent(simulator, "responses") == [[tool]]
    [run] = open_it("responses").exchanges("k").runs.values()
    assert run.completed is not fails
    assert VALUE.encode() not in stored()
    assert not fails or b"no: [redacted]" in stored()
