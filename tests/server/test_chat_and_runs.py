"""Chat completions and runs of the Assistants API in one conversation: neither locks it, and neither spoils the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters import load_settings
from threadledger.adapters.server import open_server
from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

from .assistant_app import CALL, App
from .test_chat_completions import HELLO, WEATHER, ask
from .test_runs_api import events_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

PARCEL: dict[str, Any] = {"role": "user", "content": "Where is my parcel?"}


@pytest.fixture
def app(client: OpenAI) -> App:
    return App(client)


@pytest.fixture
def ledger(server: Any) -> Ledger:
    found: Ledger = server.served.ledger
    return found


@pytest.fixture
def called(app: App, client: OpenAI, simulator: Any) -> Any:
    """Return the message of a chat completion in the thread that ended with a call."""
    simulator.answer(CALL)
    return ask(client, HELLO, PARCEL, key=app.thread.id, tools=[WEATHER]).choices[0].message


def as_sent(run: Any) -> tuple[str, list[Any]]:
    """Return the id of the call for which a run waits, and the message with it as a chat client sends it."""
    [call] = run.required_action.submit_tool_outputs.tool_calls
    return call.id, [{"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}]


def statuses(app: App) -> list[str]:
    return [each.status for each in app.runs.list(app.thread.id, order="asc").data]


def test_a_chat_client_that_never_sends_results_keeps_no_run_from_the_thread(
    app: App, called: Any, ledger: Ledger
) -> None:
    [waiting] = app.runs.list(app.thread.id).data
    assert waiting.status == "requires_action"
    [call] = waiting.required_action.submit_tool_outputs.tool_calls
    assert call.id == called.tool_calls[0].id
    app.messages.create(app.thread.id, role="user", content="And?")
    assert app.run().status == "completed"
    assert statuses(app) == ["expired", "completed"]
    assert app.said[-2:] == ["And?", "You said: And?"]
    [given_up] = events_of(ledger, app, e.ExchangeAbandoned)
    assert given_up.reason == "a newer request came before the results of its tool calls"
    newest = [each for each in ledger.conversation(app.thread.id).events() if isinstance(each, e.ExchangeRequested)][-1]
    assert given_up.timestamp <= newest.timestamp
    assert newest.originator_version == given_up.originator_version + 1


def test_results_that_a_chat_client_sends_late_are_answered(
    app: App, called: Any, client: OpenAI, simulator: Any
) -> None:
    assert app.run().status == "completed"
    simulator.answer("It is there.")
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "at the desk"}
    made = ask(client, HELLO, PARCEL, called, result, key=app.thread.id, tools=[WEATHER])
    assert made.choices[0].message.content == "It is there."
    assert statuses(app) == ["expired", "completed", "completed"]


def test_the_calls_of_a_chat_completion_are_answered_by_its_client_alone(app: App, called: Any) -> None:
    [waiting] = app.runs.list(app.thread.id).data
    outputs: Any = [{"tool_call_id": called.tool_calls[0].id, "output": "at the desk"}]
    with pytest.raises(openai.BadRequestError, match="This run is a chat completion: send the results of its calls to"):
        app.runs.submit_tool_outputs(waiting.id, thread_id=app.thread.id, tool_outputs=outputs)
    assert app.runs.cancel(waiting.id, thread_id=app.thread.id).status == "cancelled"


def test_a_question_of_a_chat_client_leaves_a_run_that_waits_as_it_is(
    app: App, client: OpenAI, simulator: Any, ledger: Ledger
) -> None:
    simulator.answer(CALL, "Never mind.", "It is sunny.")
    run = app.run()
    _, shown = as_sent(run)
    made = ask(client, HELLO, *shown, PARCEL, key=app.thread.id, tools=[WEATHER])
    assert made.choices[0].message.content == "Never mind."
    assert statuses(app) == ["requires_action", "completed"]
    assert app.again(run) == run
    assert app.give(run).status == "completed"
    assert app.said == ["Hello", "Where is my parcel?", "Never mind.", "It is sunny."]
    assert list(ledger.check()) == []


def test_a_run_whose_results_a_chat_client_sends_keeps_what_it_was_created_with(
    app: App, client: OpenAI, simulator: Any, ledger: Ledger
) -> None:
    simulator.answer(CALL, "It is sunny.")
    run = app.run(metadata={"desk": "7"}, instructions="Be brief.")
    call_id, shown = as_sent(run)
    ask(client, HELLO, *shown, {"role": "tool", "tool_call_id": call_id, "content": "sunny"}, key=app.thread.id)
    again = app.again(run)
    assert (again.status, again.assistant_id, again.metadata) == ("completed", app.assistant.id, {"desk": "7"})
    assert (again.instructions, again.created_at) == ("Be brief.", run.created_at)
    assert app.said == ["Hello", "It is sunny."]
    assert app.run().status == "completed"


def test_a_call_that_waits_for_a_person_takes_no_results_and_can_be_cancelled(
    open_ledger: Any, simulator: Any, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('name = "John"\n[[tools]]\nname = "weather"\napproval = true\n', encoding="utf-8")
    tools = {"weather": lambda city: city}
    ledger = open_ledger(tools, profile=profile, backends=("chat",), threads="none")
    settings = load_settings(db=ledger.status()["url"])
    with (
        open_server(ledger, settings, port=0) as server,
        OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        app = App(client)
        simulator.answer(CALL)
        call = ledger.conversation(app.thread.id).ask("And?").pending[0]
        [waiting] = app.runs.list(app.thread.id).data
        assert waiting.status == "requires_action"
        outputs: Any = [{"tool_call_id": call.id, "output": "sunny"}]
        with pytest.raises(openai.BadRequestError, match="was not created by this API, and waits for a person"):
            app.runs.submit_tool_outputs(waiting.id, thread_id=app.thread.id, tool_outputs=outputs)
        with pytest.raises(openai.BadRequestError, match=f"already has an active run {waiting.id}"):
            app.run()
        assert app.runs.cancel(waiting.id, thread_id=app.thread.id).status == "cancelled"
        assert app.run().status == "completed"
