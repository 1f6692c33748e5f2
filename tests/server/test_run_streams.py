"""Streams of runs: all events in order, and nothing is said to be complete before it is committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AssistantEventHandler, OpenAI
from typing_extensions import override

from threadledger.domain.ledger import Ledger

from .assistant_app import CALL, App
from .chat_only import ChatOnly

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

TEXT = [
    *("thread.run.created", "thread.run.queued", "thread.run.in_progress"),
    *("thread.run.step.created", "thread.run.step.in_progress", "thread.message.created", "thread.message.in_progress"),
    *("thread.message.delta", "thread.message.completed", "thread.run.step.completed", "thread.run.completed", "done"),
]


def events_in(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the object of each event of a stream."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield name, data if data == "[DONE]" else json.loads(data)


def streamed(
    server: Any, path: str, body: Any, seen: Callable[[str, Any], None] = lambda *_: None
) -> list[tuple[str, Any]]:
    """Return all events of the stream that answers a POST; `seen` is called with each as it arrives."""
    found: list[tuple[str, Any]] = []
    with httpx2.stream("POST", f"{server.base_url}{path}", json={**body, "stream": True}, timeout=30) as response:
        assert (response.status_code, response.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        for name, data in events_in(response.iter_lines()):
            seen(name, data)
            found.append((name, data))
    return found


def names(events: list[tuple[str, Any]]) -> list[str]:
    """Return the names of events, with equal ones in a row as one."""
    found: list[str] = []
    for name, _ in events:
        if not found or found[-1] != name:
            found.append(name)
    return found


def test_a_streamed_run_has_all_events_in_order(app: App, server: Any) -> None:
    events = streamed(server, f"/threads/{app.thread.id}/runs", {"assistant_id": app.assistant.id})
    assert names(events) == TEXT
    by_name = dict(events)
    deltas = [data["delta"]["content"][0]["text"]["value"] for name, data in events if name == "thread.message.delta"]
    assert "".join(deltas) == "You said: Hello"
    message = by_name["thread.message.completed"]
    assert {data["id"] for name, data in events if name.startswith("thread.message.")} == {message["id"]}
    assert message["content"][0]["text"]["value"] == "You said: Hello"
    assert by_name["thread.message.created"]["status"] == "in_progress"
    run = by_name["thread.run.completed"]
    assert (run["usage"]["total_tokens"] > 0, message["run_id"]) == (True, run["id"])
    assert app.messages.retrieve(message["id"], thread_id=app.thread.id).model_dump() == message
    assert app.again(app.runs.retrieve(run["id"], thread_id=app.thread.id)).model_dump(exclude_unset=True) == run


def test_a_message_is_complete_only_after_the_commit(app: App, server: Any, ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", slow=0.05, times=1)
    stored: dict[str, int] = {}

    def seen(name: str, _: Any) -> None:
        stored.setdefault(name, len(ledger.memory(app.thread.id).messages))

    streamed(server, f"/threads/{app.thread.id}/runs", {"assistant_id": app.assistant.id}, seen)
    assert stored["thread.message.completed"] == 2
    assert stored["thread.message.created"] == 1


def test_a_stream_stops_at_calls_and_another_one_continues(app: App, server: Any, simulator: Any) -> None:
    simulator.answer(CALL, "It is sunny.")
    first = streamed(server, f"/threads/{app.thread.id}/runs", {"assistant_id": app.assistant.id})
    assert names(first) == [
        *("thread.run.created", "thread.run.queued", "thread.run.in_progress"),
        *("thread.run.step.created", "thread.run.step.in_progress", "thread.run.step.delta"),
        *("thread.run.requires_action", "done"),
    ]
    run = dict(first)["thread.run.requires_action"]
    [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    path = f"/threads/{app.thread.id}/runs/{run['id']}/submit_tool_outputs"
    second = streamed(server, path, {"tool_outputs": [{"tool_call_id": call["id"], "output": "sunny"}]})
    assert names(second) == ["thread.run.step.completed", "thread.run.queued", *TEXT[2:]]
    step = dict(first)["thread.run.step.created"]
    assert second[0][1]["id"] == step["id"]
    assert second[0][1]["step_details"]["tool_calls"][0]["function"]["output"] == "sunny"


def test_a_stream_of_a_thread_and_a_run_begins_with_the_thread(app: App, server: Any) -> None:
    body = {"assistant_id": app.assistant.id, "thread": {"messages": [{"role": "user", "content": "Hi"}]}}
    assert names(streamed(server, "/threads/runs", body)) == ["thread.created", *TEXT]


def test_a_failed_run_ends_its_stream_with_the_reason(app: App, server: Any, simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 401, "message": "bad key"}, times=3)
    events = streamed(server, f"/threads/{app.thread.id}/runs", {"assistant_id": app.assistant.id})
    assert names(events) == [*TEXT[:3], "thread.run.failed", "done"]
    assert "authentication" in dict(events)["thread.run.failed"]["last_error"]["message"]


def test_a_broken_attempt_leaves_an_incomplete_message_and_the_next_one_begins_another(
    serving: Callable[..., Any], simulator: Any
) -> None:
    server = serving(retries=1)
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        app = App(client)
        simulator.add_fault("POST /chat/completions", truncate={"events": 3}, times=1)
        events = streamed(server, f"/threads/{app.thread.id}/runs", {"assistant_id": app.assistant.id})
    left = [data for name, data in events if name == "thread.message.incomplete"]
    assert [each["incomplete_details"] for each in left] == [{"reason": "run_failed"}]
    said = dict(events)["thread.message.completed"]
    assert said["id"] != left[0]["id"]
    assert said["content"][0]["text"]["value"] == "You said: Hello"
    order = names(events)
    assert order.index("thread.message.incomplete") < order.index("thread.run.step.failed")
    assert order[-3:] == ["thread.run.step.completed", "thread.run.completed", "done"]


def test_a_client_that_leaves_does_not_stop_the_run(app: App, server: Any, simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", slow=0.02, times=1)
    path = f"{server.base_url}/threads/{app.thread.id}/runs"
    body = {"assistant_id": app.assistant.id, "stream": True}
    with httpx2.stream("POST", path, json=body, timeout=30) as response:
        run = next(data for name, data in events_in(response.iter_lines()) if name == "thread.run.created")
    done = app.runs.poll(run["id"], thread_id=app.thread.id, poll_interval_ms=10)
    assert (done.status, app.said) == ("completed", ["Hello", "You said: Hello"])


def test_the_event_handlers_of_the_sdk_see_a_whole_conversation_with_tools(app: App, simulator: Any) -> None:
    simulator.answer(CALL, "It is sunny in Bern.")
    heard: list[str] = []

    class Handler(AssistantEventHandler):
        @override
        def on_text_delta(self, delta: Any, snapshot: Any) -> None:
            heard.append(delta.value)

        @override
        def on_tool_call_created(self, tool_call: Any) -> None:
            heard.append(f"[{tool_call.function.name}]")

        @override
        def on_event(self, event: Any) -> None:
            if event.event == "thread.run.requires_action":
                calls = event.data.required_action.submit_tool_outputs.tool_calls
                with app.runs.submit_tool_outputs_stream(
                    thread_id=event.data.thread_id,
                    run_id=event.data.id,
                    tool_outputs=[{"tool_call_id": call.id, "output": "sunny"} for call in calls],
                    event_handler=Handler(),
                ) as stream:
                    stream.until_done()

    with app.runs.stream(thread_id=app.thread.id, assistant_id=app.assistant.id, event_handler=Handler()) as stream:
        stream.until_done()
    assert heard[0] == "[weather]"
    assert "".join(heard[1:]) == "It is sunny in Bern."


def test_the_stream_of_a_run_whose_thread_is_deleted_says_that_it_was_cancelled(
    open_api: Callable[..., Any], upstream: ChatOnly
) -> None:
    server = open_api()
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client, upstream.held():
        app, runs = App(client), []

        def seen(name: str, data: Any) -> None:
            runs.extend([data] if name == "thread.run.created" else [])
            if name == "thread.message.delta":
                assert client.beta.threads.delete(app.thread.id).deleted

        events = streamed(server, f"/threads/{app.thread.id}/runs", {"assistant_id": app.assistant.id}, seen)
        with pytest.raises(openai.NotFoundError, match="No thread found"):
            app.runs.retrieve(runs[0]["id"], thread_id=app.thread.id)
    begun, end = TEXT[:8], ["thread.message.incomplete", "thread.run.step.cancelled", "thread.run.cancelling"]
    assert names(events) == [*begun, *end, "thread.run.cancelled", "done"]
    shown = dict(events)["thread.run.cancelled"]
    assert (shown["id"], shown["status"], shown["assistant_id"]) == (runs[0]["id"], "cancelled", app.assistant.id)
    assert shown["cancelled_at"] is not None
    assert dict(events)["thread.message.incomplete"]["incomplete_details"] == {"reason": "run_cancelled"}
    assert not server.served.runner._live
