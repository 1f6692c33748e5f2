"""Submit the outputs of functions in the forms that the API accepts, and list a run that continued with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import openai
import pytest

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.server import runner
from threadledger.domain.effects import work
from threadledger.domain.exchange import served

from .chat_only import ChatOnly
from .speaking import SECONDS_MAX, until

WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
QUESTION: Any = {"role": "user", "content": "How is the weather?"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API


@pytest.fixture
def sdk(open_api: Callable[..., Any], upstream: ChatOnly) -> Iterator[Any]:
    """Yield the SDK for a server whose model calls the function that it is offered."""
    upstream.calls_functions = True
    with openai.OpenAI(base_url=open_api().base_url, api_key="any", max_retries=0) as client:
        yield client


def waiting(sdk: Any, thread_id: str | None = None) -> Any:
    """Return a run that waits for the result of its function."""
    assistant = sdk.beta.assistants.create(model="gpt-4o", tools=[WEATHER])
    thread_id = thread_id or sdk.beta.threads.create().id
    runs = sdk.beta.threads.runs
    run = runs.create_and_poll(thread_id=thread_id, assistant_id=assistant.id, additional_messages=[QUESTION])
    assert run.status == "requires_action"
    return run


def submitted(sdk: Any, run: Any, *outputs: Any) -> Any:
    """Return a run after its outputs."""
    return sdk.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=run.thread_id, tool_outputs=[*outputs]
    )


@pytest.mark.parametrize(("output", "answer"), [({"output": "sunny"}, "sunny"), ({}, "")])
def test_an_output_without_an_id_answers_the_only_call_and_one_without_a_text_is_empty(
    sdk: Any, upstream: ChatOnly, output: Any, answer: str
) -> None:
    run = submitted(sdk, waiting(sdk), output)
    assert run.status == "completed"
    assert upstream.requests[-1]["messages"][-1]["content"] == answer


def test_results_that_arrive_before_the_run_has_mirrored_its_calls_continue_it(
    sdk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run waits for results as soon as its calls are committed; this process is at work on it for longer."""
    submitted_to = threading.Event()

    def slowly(*arguments: Any, **options: Any) -> Any:
        answer = yield from served.continued(*arguments, **options)
        yield from work(lambda: submitted_to.wait(SECONDS_MAX) if answer.pending else True)
        return answer

    monkeypatch.setattr(runner, "continued", slowly)
    run = waiting(sdk)
    call = run.required_action.submit_tool_outputs.tool_calls[0].id
    where = {"run_id": run.id, "thread_id": run.thread_id}
    sdk.beta.threads.runs.submit_tool_outputs(**where, tool_outputs=[{"tool_call_id": call, "output": "sunny"}])
    submitted_to.set()
    until(lambda: sdk.beta.threads.runs.retrieve(**where).status == "completed")


def test_a_run_that_waits_is_held_by_no_process_and_one_that_has_its_results_by_that_which_got_them(
    sdk: Any, upstream: ChatOnly, db_url: str
) -> None:
    run = waiting(sdk)
    place = f"conversation:{run.thread_id}", str(UUID(run.id.removeprefix("run_")))
    with open_ledger(load_settings(db=db_url)) as other, upstream.held():
        assert other.journal.served_notes.hold(*place)
        other.journal.served_notes.release_all()
        call = run.required_action.submit_tool_outputs.tool_calls[0].id
        outputs: Any = [{"tool_call_id": call, "output": "sunny"}]
        sdk.beta.threads.runs.submit_tool_outputs(run.id, thread_id=run.thread_id, tool_outputs=outputs)
        assert not other.journal.served_notes.hold(*place)


def test_an_output_without_an_id_is_refused_if_several_are_given(sdk: Any) -> None:
    run = waiting(sdk)
    with pytest.raises(openai.BadRequestError) as refused:
        submitted(sdk, run, {"output": "sunny"}, {"output": "rain"})
    assert refused.value.param == "tool_outputs[0].tool_call_id"
    assert sdk.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id).status == "requires_action"


def test_a_run_that_continued_is_listed_once_page_by_page_in_both_orders(sdk: Any) -> None:
    thread = sdk.beta.threads.create()
    made = []
    for _ in range(3):
        made.append(submitted(sdk, waiting(sdk, thread.id), {"output": "sunny"}).id)
    runs = sdk.beta.threads.runs
    for order, expected in (("asc", made), ("desc", made[::-1])):
        listed: list[str] = []
        page = runs.list(thread.id, order=order, limit=1)
        while page.data and len(listed) < 4:
            listed += [each.id for each in page.data]
            page = runs.list(thread.id, order=order, limit=1, after=listed[-1])
        assert listed == expected
        before = runs.list(thread.id, order=order, before=expected[2])
        assert [each.id for each in before] == expected[:2]
