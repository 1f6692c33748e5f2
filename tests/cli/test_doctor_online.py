"""`doctor --online` asks the provider whether what the settings want is there, and will stay; it writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

TODAY = "2026-11-27"
MODELS = {
    "lasting": None,
    "in-60-days": "2027-01-26",
    "in-61-days": "2027-01-27",
    "today": TODAY,
    "past": "2026-11-26",
}
PROFILE = """name = "John"
instructions = "You are John."
model = "lasting"

[[tools]]
name = "web_search"
description = "Search the web."
parameters = { type = "object", properties = { q = { type = "string" } }, required = ["q"] }
"""
TOOLS = "def web_search(q): return 'nothing'"


@pytest.fixture
def simulator() -> Iterator[Any]:
    from threadledger.adapters import Simulator

    with Simulator(seed=7, models=MODELS, api_key="sk-planted-secret-key") as running:
        yield running


@pytest.fixture(autouse=True)
def _settings(provider: Any, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "john.toml").write_text(PROFILE)
    (tmp_path / "tools.py").write_text(TOOLS)
    monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
    monkeypatch.setenv("THREADLEDGER_TOOLS", "tools.py")
    monkeypatch.setenv("THREADLEDGER_TRUST_DIR", str(tmp_path))
    assert command("init").code == 0
    monkeypatch.setattr("threadledger.domain.ids.now", lambda: datetime.fromisoformat(f"{TODAY}T12:00:00+00:00"))


def online(command: Command, *checks: str) -> list[dict[str, Any]]:
    """The rows of what was asked of the provider."""
    rows = command("doctor", "--online", "-o", "json").json
    wanted = checks or ("provider", "model", "assistant")
    return [row for row in rows if row["check"] in wanted]


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["state"], row["message"]) for row in rows]


def make_assistant(simulator: Any, **fields: Any) -> str:
    """An assistant made by hand at the provider; what the API would have refused can be given too."""
    function = {
        "name": "web_search",
        "description": "Search the web.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    }
    made = {"id": "asst_1", "object": "assistant", "created_at": 1, "metadata": {}, "description": None}
    made |= {"name": "John", "instructions": "You are John.", "model": "lasting"}
    made |= {"tools": [{"type": "function", "function": function}]}
    simulator.provider.store.assistants["asst_1"] = made | fields
    return "asst_1"


class TestTheProvider:
    def test_all_is_well(self, command: Command, simulator: Any) -> None:
        done = command("doctor", "--online")
        assert (done.code, done.err) == (0, "no problems found\n")
        assert told(online(command)) == [
            ("ok", f"{simulator.base_url} accepts the key and lists 5 models"),
            ("ok", "lasting (for assistants, chat) is available; no shutdown is announced"),
            ("ok", "no assistant was created from the profile 'John' yet: the first run creates it"),
        ]

    def test_nothing_is_written_and_no_model_is_asked(self, command: Command, simulator: Any) -> None:
        import threadledger

        command("doctor", "--online")
        assert {request.method for request in simulator.requests} == {"GET"}
        with threadledger.open() as ledger:
            assert ledger.status()["events"] == 0

    def test_without_the_option_nobody_is_called(self, command: Command, simulator: Any) -> None:
        command("doctor")
        assert list(simulator.requests) == []

    def test_a_key_that_is_not_taken_is_a_finding_and_nothing_more_is_asked(
        self, command: Command, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another-secret-key")
        done = command("doctor", "--online", "-o", "json")
        (row,) = [row for row in done.json if row["check"] in {"provider", "model", "assistant"}]
        assert (done.code, row["state"]) == (4, "finding")
        assert row["message"].startswith("GET /models: authentication (HTTP 401: invalid_api_key: Incorrect API key")
        assert "set OPENAI_API_KEY" in row["mend"]
        assert "another-secret" not in done.out + done.err
        assert len(simulator.requests) == 1

    def test_a_provider_that_cannot_be_reached_is_a_finding(self, command: Command, simulator: Any) -> None:
        simulator.stop()
        (row,) = online(command)
        assert row["message"] == "GET /models: network (error: Connection error.)"
        assert "OPENAI_BASE_URL" in row["mend"]
        simulator.start()

    @pytest.mark.parametrize(
        ("fault", "cause"),
        [
            ({"refuse": {"status": 500}}, "provider_error"),
            ({"reply": {"text": "<html>", "content_type": "text/html"}}, "provider_error"),
            ({"reply": {"text": "{"}}, "provider_error"),
            ({"reply": {"text": "{}"}}, "provider_error"),
            ({"reply": {"text": '{"data": [{"id": null}]}'}}, "provider_error"),
            ({"refuse": {"status": 404}}, "network"),
            ({"refuse": {"status": 403}}, "permission"),
            ({"refuse": {"status": 429}}, "rate_limited"),
            ({"drop": True}, "network"),
        ],
    )
    def test_whatever_it_answers_is_told_with_its_cause_and_asked_once(
        self, command: Command, simulator: Any, fault: dict[str, Any], cause: str
    ) -> None:
        from threadledger.domain.failures import Cause, advise

        simulator.add_fault("GET /models", times=None, **fault)
        (row,) = online(command)
        assert row["message"].startswith(f"GET /models: {cause} (")
        assert row["mend"] == advise(Cause(cause))
        assert len(simulator.requests) == 1

    def test_without_a_key_nobody_is_asked(
        self, command: Command, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "")
        assert told(online(command)) == [("ok", "the provider was not called: no key is set")]
        assert list(simulator.requests) == []


class TestModels:
    @pytest.mark.parametrize(
        ("model", "state", "message"),
        [
            ("lasting", "ok", "is available; no shutdown is announced"),
            ("in-61-days", "ok", "shuts down on 2027-01-27, in 61 days"),
            ("in-60-days", "finding", "shuts down on 2027-01-26, in 60 days"),
            ("today", "finding", "shuts down on 2026-11-27, in 0 days"),
            ("past", "finding", "was scheduled to shut down on 2026-11-26"),
            ("nowhere", "finding", "does not exist or is not available to this key"),
        ],
    )
    def test_one_that_is_not_there_or_will_not_stay_is_a_finding(
        self, command: Command, monkeypatch: pytest.MonkeyPatch, model: str, state: str, message: str
    ) -> None:
        monkeypatch.setenv("OPENAI_MODEL", model)
        monkeypatch.setenv("THREADLEDGER_BACKENDS", "chat")
        (row,) = online(command, "model")
        assert (row["state"], row["message"]) == (state, f"{model} (for chat) {message}")
        assert row["mend"] is None or "OPENAI_MODEL" in row["mend"]

    def test_each_backend_has_its_own(self, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THREADLEDGER_FALLBACK_MODEL", "past")
        assert [message.split(")")[0] for _, message in told(online(command, "model"))] == [
            "lasting (for assistants",
            "past (for chat",
        ]

    def test_one_that_is_not_in_the_list_is_asked_for_by_its_name(
        self, command: Command, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        simulator.add_fault("GET /models", reply={"text": '{"object": "list", "data": []}'}, times=None)
        monkeypatch.setenv("OPENAI_MODEL", "in-60-days")
        assert [row["state"] for row in online(command, "model")] == ["finding"]
        assert [each.template for each in simulator.requests][:2] == ["GET /models", "GET /models/{model}"]


class TestTheAssistant:
    @pytest.fixture
    def pinned(self, simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        def pin(**fields: Any) -> str:
            monkeypatch.setenv("OPENAI_ASSISTANT_ID", "asst_1")
            return make_assistant(simulator, **fields)

        return pin

    def test_a_pinned_one_that_is_as_the_profile_is_well(self, command: Command, pinned: Any) -> None:
        pinned()
        assert told(online(command, "assistant")) == [("ok", "asst_1 (John, lasting) is well defined")]

    def test_one_that_is_not_there_is_a_finding(self, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ASSISTANT_ID", "asst_gone")
        (row,) = online(command, "assistant")
        assert row["message"].startswith("assistant asst_gone: assistant_missing (HTTP 404")
        assert "correct OPENAI_ASSISTANT_ID" in row["mend"]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"instructions": "x" * 256_001},
                "its instructions have 256,001 characters, but assistants accept at most 256,000",
            ),
            (
                {"tools": [{"type": "web_search"}]},
                "it has a tool of type 'web_search', but assistants accept only code_interpreter",
            ),
            (
                {"tools": [{"type": "function", "function": {"name": f"f{number}"}} for number in range(129)]},
                "it has 129 tools, but assistants accept at most 128",
            ),
            (
                {"tools": [{"type": "function", "function": {"name": "a b"}}]},
                "'a b' is not a valid function name",
            ),
            (
                {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
                "parameters of 'a': the schema is not an object with properties",
            ),
            ({"name": "Joan"}, "asst_1 differs from the profile 'John' in: name"),
            (
                {"instructions": "You are Joan.", "tools": []},
                "asst_1 differs from the profile 'John' in: instructions, tools",
            ),
            ({"model": "past"}, "past (of asst_1) was scheduled to shut down on 2026-11-26"),
        ],
    )
    def test_what_is_wrong_with_a_pinned_one_is_a_finding(
        self, command: Command, pinned: Any, fields: dict[str, Any], message: str
    ) -> None:
        pinned(**fields)
        rows = [row for row in online(command) if row["state"] == "finding"]
        assert any(message in row["message"] for row in rows), rows
        assert all(row["mend"] for row in rows)

    def test_one_made_by_a_run_from_the_profile_is_found_again(self, command: Command, simulator: Any) -> None:
        assert command("ask", "k", "Hello?").code == 0
        (row,) = online(command, "assistant")
        assert row["state"] == "ok"
        assert row["message"].endswith("(John, lasting) is well defined")
        (assistant,) = simulator.provider.store.assistants.values()
        assistant["instructions"] = "You are somebody else."
        (row,) = online(command, "assistant")
        assert row["message"] == f"{assistant['id']} differs from the profile 'John' in: instructions"
        assert f"delete {assistant['id']}" in row["mend"]

    def test_without_a_profile_a_pinned_one_is_compared_with_nothing(
        self, command: Command, pinned: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("THREADLEDGER_PROFILE")
        monkeypatch.delenv("THREADLEDGER_TOOLS")
        monkeypatch.setenv("OPENAI_MODEL", "lasting")
        pinned()
        assert [row["state"] for row in online(command, "assistant")] == ["ok"]

    def test_an_assistants_api_that_was_shut_down_is_told_as_gone(self, command: Command, simulator: Any) -> None:
        simulator.retire("assistants")
        (row,) = online(command, "assistant")
        assert row["message"].startswith("GET /assistants: provider_gone (HTTP 404")
        assert "set USE_ASSISTANTS_API=false" in row["mend"]

    def test_where_no_assistant_is_wanted_none_is_asked_for(
        self, command: Command, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("THREADLEDGER_BACKENDS", "responses,chat")
        monkeypatch.setenv("THREADLEDGER_THREADS", "conversations")
        assert online(command, "assistant") == []
        assert {request.path for request in simulator.requests} == {"/v1/models"}


class TestAzure:
    @pytest.fixture(autouse=True)
    def _azure(self, simulator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_BASE_URL")
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", simulator.azure_endpoint)
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-planted-secret-key")
        monkeypatch.setenv("OPENAI_API_VERSION", "2025-04-01-preview")

    def test_the_key_is_tried_and_a_deployment_is_nobodys_to_list(
        self, command: Command, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_MODEL", "our-deployment")
        assert told(online(command, "provider", "model")) == [
            ("ok", f"{simulator.azure_endpoint}/openai accepts the key and lists 5 models"),
            ("ok", "our-deployment is the name of a deployment: only calling it can show whether it exists"),
        ]

    def test_a_wrong_key_is_a_finding(self, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "0123456789abcdef0123456789abcdef")
        (row,) = online(command)
        assert row["message"].startswith("GET /models: authentication (HTTP 401")
        assert "AZURE_OPENAI_API_KEY" in row["mend"]

    def test_a_deployment_named_as_its_model_has_the_end_that_azure_tells(
        self, command: Command, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = {"id": "gpt-x", "object": "model", "created": 1, "deprecation": {"inference": 1_798_761_600}}
        simulator.add_fault("GET /models", reply={"text": json.dumps({"object": "list", "data": [model]})}, times=None)
        monkeypatch.setenv("OPENAI_MODEL", "gpt-x")
        assert told(online(command, "model")) == [
            ("finding", "gpt-x (for assistants, chat) shuts down on 2027-01-01, in 35 days")
        ]
