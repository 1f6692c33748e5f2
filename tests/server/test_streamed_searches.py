"""A streamed run that searches files: its stream has the steps and messages that are stored, in the order in which they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from openai import OpenAI

from threadledger.adapters.server.live_runs import LiveRun

from .assistant_app import WEATHER
from .chat_only import ChatOnly

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

FOUND = "Twenty five days【1†handbook.md】 a year."
BROKEN = "This text breaks off in the middle."
_NUMBERS = count(1)


def calling(*names: str, said: str | None = None) -> Any:
    """Return a message that calls functions, and may say something."""
    functions = [{"name": name, "arguments": '{"query": "vacation"}'} for name in names]
    calls = [{"id": f"call_{next(_NUMBERS)}", "type": "function", "function": each} for each in functions]
    return {"role": "assistant", "content": said, "tool_calls": calls}


class Scripted(ChatOnly):
    """Answer as a script says: with texts, messages that call functions, and failures, which are statuses."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Any] = []

    def arrive(self, body: Any) -> int | None:
        super().arrive(body)
        return self.script.pop(0) if isinstance(self.script[0], int) else None

    def answer_to(self, body: Any) -> tuple[Any, str]:
        answer = self.script.pop(0)
        self.breaks_off = answer == BROKEN
        if isinstance(answer, str):
            return {"role": "assistant", "content": answer}, "stop"
        return answer, "tool_calls"


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    """Run the provider of these tests."""
    with Scripted() as running:
        yield running


@pytest.fixture(params=["in time", "behind"], autouse=True)
def listener(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stream hear of each part at once, or of all only after the run has ended."""

    def listen(live: LiveRun, _stopped: Any) -> Iterator[list[Any]]:
        live.ended.wait()
        yield from ([part] for part in live.parts if part is not None)

    if request.param == "behind":
        monkeypatch.setattr(LiveRun, "listen", listen)


def ids_of(events: list[Any], name: str) -> list[str]:
    return [each.data.id for each in events if each.event == name]


def text_of(events: list[Any], message_id: str) -> str:
    """Return the text of a message as a stream has sent it."""
    deltas = [each.data for each in events if each.event == "thread.message.delta" and each.data.id == message_id]
    return "".join(part.text.value for each in deltas for part in each.delta.content)


SCRIPTS: dict[str, tuple[list[Any], list[str]]] = {
    "one search": ([calling("file_search"), FOUND], [FOUND]),
    "a text with a search": ([calling("file_search", said="Let me look. "), FOUND], ["Let me look. ", FOUND]),
    "searches with and without a text": (
        [
            calling("file_search", "file_search"),
            calling("file_search", said="And again."),
            calling("file_search"),
            FOUND,
        ],
        ["And again.", FOUND],
    ),
    "a failed attempt between": ([calling("file_search", said="I look."), 500, FOUND], ["I look.", FOUND]),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_stream_of_a_run_has_each_step_and_message_once_as_it_is_stored(
    open_api: Callable[..., Any], upstream: Scripted, script: str
) -> None:
    answers, texts = SCRIPTS[script]
    events, steps, messages = streamed(open_api(retries=1), upstream, answers)
    assert [each.content[0].text.value for each in messages] == texts
    assert ids_of(events, "thread.message.created") == [each.id for each in messages]
    assert [text_of(events, each.id) for each in messages] == texts
    assert [each.data for each in events if each.event == "thread.message.completed"] == messages
    names = [each.event for each in events if each.event in {"thread.run.step.created", "thread.run.step.completed"}]
    assert names == ["thread.run.step.created", "thread.run.step.completed"] * len(steps)  # each ends before the next
    assert ids_of(events, "thread.run.step.created") == [each.id for each in steps]
    assert [each.data for each in events if each.event == "thread.run.step.completed"] == steps
    assert events[-1].event == "thread.run.completed"


def test_a_text_that_breaks_off_behind_a_search_is_incomplete_and_the_next_attempt_has_a_message_of_its_own(
    open_api: Callable[..., Any], upstream: Scripted
) -> None:
    answers = [calling("file_search"), BROKEN, FOUND]
    events, steps, messages = streamed(open_api(retries=1), upstream, answers)
    (left,) = ids_of(events, "thread.message.incomplete")
    assert ids_of(events, "thread.message.created") == [left, messages[0].id]
    assert text_of(events, messages[0].id) == messages[0].content[0].text.value == FOUND
    assert ids_of(events, "thread.run.step.completed") == [each.id for each in steps]


def test_a_call_of_a_function_of_the_app_behind_a_search_ends_the_stream(
    open_api: Callable[..., Any], upstream: Scripted
) -> None:
    answers = [calling("file_search", said="I look."), calling("weather", said="And outside.")]
    events, steps, messages = streamed(open_api(), upstream, answers)
    assert [text_of(events, each.id) for each in messages] == ["I look.", "And outside."]
    assert ids_of(events, "thread.message.completed") == [each.id for each in messages]
    assert ids_of(events, "thread.run.step.created") == [each.id for each in steps]
    assert ids_of(events, "thread.run.step.completed") == [each.id for each in steps[:-1]]
    assert events[-1].event == "thread.run.requires_action"


def test_a_step_with_a_search_and_a_function_of_the_app_is_complete_when_both_are(
    open_api: Callable[..., Any], upstream: Scripted
) -> None:
    with OpenAI(base_url=open_api().base_url, api_key="any", max_retries=0) as client:
        events, (step,), _ = streamed_by(client, upstream, [calling("weather", "file_search")])
        assert ids_of(events, "thread.run.step.created") == [step.id]
        assert ids_of(events, "thread.run.step.completed") == []
        upstream.script = [FOUND]
        run, runs = events[-1].data, client.beta.threads.runs
        outputs: Any = [{"tool_call_id": step.step_details.tool_calls[0].id, "output": "sunny"}]
        rest = [*runs.submit_tool_outputs(run.id, thread_id=run.thread_id, tool_outputs=outputs, stream=True)]
        steps = [*runs.steps.list(run.id, thread_id=run.thread_id, order="asc")]
    assert [each.data for each in rest if each.event == "thread.run.step.completed"] == steps
    assert ids_of(rest, "thread.run.step.created") == [steps[1].id]


def streamed(server: Any, upstream: Scripted, script: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the events of a streamed run, and its steps and its messages as they are listed afterwards."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        return streamed_by(client, upstream, script)


def streamed_by(client: OpenAI, upstream: Scripted, script: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return what `streamed` does; the client stays open."""
    file = client.files.create(file=("handbook.md", b"Employees have 25 vacation days a year."), purpose="assistants")
    resources: Any = {"file_search": {"vector_stores": [{"file_ids": [file.id]}]}}
    tools: Any = [{"type": "file_search"}, WEATHER]
    assistant = client.beta.assistants.create(model="m", tools=tools, tool_resources=resources)
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "How many?"}])
    upstream.script = [*script]
    runs = client.beta.threads.runs
    events: list[Any] = [*runs.create(thread_id=thread.id, assistant_id=assistant.id, stream=True)]
    steps = [*runs.steps.list(events[0].data.id, thread_id=thread.id, order="asc")]
    listed = [*client.beta.threads.messages.list(thread.id, order="asc")]
    assert upstream.script == []
    return events, steps, listed[1:]
