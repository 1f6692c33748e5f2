"""Test simulated runs: states, endings, tool calls, and the thread that they lock."""

import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
ON_RUN = "POST /threads/{thread_id}/runs"
TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "time", "arguments": {}}]}


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


@pytest.fixture
def assistant(client):
    return client.beta.assistants.create(model="any-model", instructions="Be kind.")


@pytest.fixture
def thread(client):
    return client.beta.threads.create(messages=[{"role": "user", "content": "hello there"}])


def begin(client, thread, assistant, **fields):
    return client.beta.threads.runs.create(thread.id, assistant_id=assistant.id, **fields)


def look(client, run, times=1):
    for _ in range(times):
        run = client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
    return run


def said(client, thread):
    return [m.content[0].text.value for m in client.beta.threads.messages.list(thread.id, order="asc")]


def test_a_run_moves_on_by_one_state_whenever_it_is_looked_at(client, thread, assistant):
    run = begin(client, thread, assistant)
    seen = [run.status] + [look(client, run).status for _ in range(3)]
    assert seen == ["queued", "in_progress", "completed", "completed"]


def test_listing_the_runs_moves_none_of_them_on(client, thread, assistant):
    run = begin(client, thread, assistant)
    assert [r.status for r in client.beta.threads.runs.list(thread.id)] == ["queued"]
    assert look(client, run).status == "in_progress"


def test_a_completed_run_leaves_its_answer_in_the_thread_and_says_what_it_used(client, simulator, thread, assistant):
    simulator.answer("Good morning.")
    run = look(client, begin(client, thread, assistant), 2)
    [answer] = client.beta.threads.messages.list(thread.id, run_id=run.id)
    assert (answer.role, answer.run_id, answer.assistant_id) == ("assistant", run.id, assistant.id)
    assert said(client, thread) == ["hello there", "Good morning."]
    assert (run.usage.prompt_tokens, run.usage.completion_tokens, run.usage.total_tokens) == (4, 2, 6)
    assert run.completed_at is not None
    [step] = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id)
    assert step.step_details.message_creation.message_id == answer.id
    assert client.beta.threads.runs.steps.retrieve(step.id, thread_id=thread.id, run_id=run.id).id == step.id


def test_without_a_scripted_answer_the_last_user_text_is_echoed(client, thread, assistant):
    look(client, begin(client, thread, assistant), 2)
    assert said(client, thread)[-1] == "You said: hello there"


def test_the_poll_helper_of_the_sdk_is_told_to_come_back_soon(client, thread, assistant):
    raw = client.beta.threads.runs.with_raw_response.create(thread.id, assistant_id=assistant.id)
    assert raw.headers["openai-poll-after-ms"] == "5"
    run = client.beta.threads.runs.poll(raw.parse().id, thread_id=thread.id)
    assert run.status == "completed"


def test_a_run_may_override_its_assistant(client, thread, assistant):
    run = begin(client, thread, assistant, model="other", instructions="Be rude.", additional_instructions="Be brief.")
    assert (run.model, run.instructions) == ("other", "Be rude.\nBe brief.")


def test_additional_messages_join_the_thread_before_the_run(client, thread, assistant):
    look(client, begin(client, thread, assistant, additional_messages=[{"role": "user", "content": "and you?"}]), 2)
    assert said(client, thread) == ["hello there", "and you?", "You said: and you?"]


def test_a_run_on_an_empty_thread_fails_without_a_reason(client, assistant):
    empty = client.beta.threads.create()
    run = look(client, begin(client, empty, assistant), 2)
    assert (run.status, run.last_error.code, run.usage.prompt_tokens) == ("failed", "server_error", 0)
    assert run.last_error.message == "Sorry, something went wrong."


def test_a_busy_thread_takes_no_message_and_no_second_run(client, thread, assistant):
    run = begin(client, thread, assistant)
    error = refused(client.beta.threads.messages.create, thread.id, role="user", content="x")
    assert (error.status_code, error.type, error.code) == (400, "invalid_request_error", None)
    assert error.body["message"] == f"Can't add messages to {thread.id} while a run {run.id} is active."
    error = refused(begin, client, thread, assistant)
    assert error.body["message"] == f"Thread {thread.id} already has an active run {run.id}."
    look(client, run, 2)
    assert client.beta.threads.messages.create(thread.id, role="user", content="x").id


def test_an_unknown_assistant_is_refused_and_the_thread_stays_free(client, thread):
    error = refused(client.beta.threads.runs.create, thread.id, assistant_id="asst_gone")
    assert (error.status_code, error.body["message"]) == (404, "No assistant found with id 'asst_gone'.")
    assert client.beta.threads.messages.create(thread.id, role="user", content="x").id


def test_a_run_that_asks_for_tools_goes_on_with_their_outputs(client, simulator, thread, assistant):
    simulator.answer(TOOL, "It is sunny in Bern.")
    run = look(client, begin(client, thread, assistant), 3)
    assert run.status == "requires_action"
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [(c.function.name, c.function.arguments) for c in calls] == [("weather", '{"city": "Bern"}'), ("time", "{}")]
    outputs = [{"tool_call_id": call.id, "output": "sunny"} for call in calls]
    resumed = client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=outputs)
    assert (resumed.status, resumed.required_action) == ("queued", None)
    assert look(client, run, 2).status == "completed"
    assert said(client, thread)[-1] == "It is sunny in Bern."
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc").data
    assert [step.type for step in steps] == ["tool_calls", "message_creation"]
    assert [c.function.output for c in steps[0].step_details.tool_calls] == ["sunny", "sunny"]


def test_tool_outputs_are_taken_all_at_once_or_not_at_all(client, simulator, thread, assistant):
    simulator.answer(TOOL)
    run = begin(client, thread, assistant)
    submit = client.beta.threads.runs.submit_tool_outputs
    error = refused(submit, run.id, thread_id=thread.id, tool_outputs=[])
    assert error.body["message"] == 'Runs in status "queued" do not accept tool outputs.'
    run = look(client, run, 2)
    one = run.required_action.submit_tool_outputs.tool_calls[0].id
    error = refused(submit, run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": one, "output": "x"}])
    assert error.body["message"].startswith("Expected tool outputs for call_ids ['call_")
    assert look(client, run).status == "requires_action"


def test_a_cancelled_run_frees_the_thread_once_it_is_looked_at(client, thread, assistant):
    run = begin(client, thread, assistant)
    assert client.beta.threads.runs.cancel(run.id, thread_id=thread.id).status == "cancelling"
    assert refused(client.beta.threads.messages.create, thread.id, role="user", content="x").status_code == 400
    ended = look(client, run)
    assert (ended.status, ended.cancelled_at is not None) == ("cancelled", True)
    error = refused(client.beta.threads.runs.cancel, run.id, thread_id=thread.id)
    assert error.body["message"] == "Cannot cancel run with status 'cancelled'."


def test_a_run_that_waits_too_long_for_its_tools_expires(client, simulator, thread, assistant):
    simulator.answer(TOOL)
    run = look(client, begin(client, thread, assistant), 2)
    started = simulator.provider.store.clock()
    simulator.provider.store.clock = lambda: started + 601
    assert look(client, run).status == "expired"
    [step] = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id)
    assert step.status == "expired"


def test_a_failed_run_takes_no_scripted_answer_and_leaves_no_message(client, simulator, thread, assistant):
    simulator.answer("Good morning.")
    simulator.add_fault(ON_RUN, fail={"code": "rate_limit_exceeded", "message": "Slow down."})
    failed = look(client, begin(client, thread, assistant), 2)
    assert (failed.status, failed.last_error.code, failed.last_error.message) == (
        "failed",
        "rate_limit_exceeded",
        "Slow down.",
    )
    assert failed.failed_at is not None
    assert said(client, thread) == ["hello there"]
    look(client, begin(client, thread, assistant), 2)
    assert said(client, thread) == ["hello there", "Good morning."]


def test_an_incomplete_run_leaves_half_an_answer_that_says_so(client, simulator, thread, assistant):
    simulator.add_fault(ON_RUN, incomplete="max_completion_tokens")
    run = look(client, begin(client, thread, assistant), 2)
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_completion_tokens")
    [partial] = client.beta.threads.messages.list(thread.id, run_id=run.id)
    assert (partial.status, partial.incomplete_details.reason) == ("incomplete", "max_tokens")


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_run_can_be_made_to_end_in_a_status(client, simulator, thread, assistant, end):
    simulator.add_fault(ON_RUN, end=end)
    assert look(client, begin(client, thread, assistant), 2).status == end


def test_a_run_that_was_never_begun_does_not_use_up_its_fault(client, simulator, thread, assistant):
    simulator.add_fault(ON_RUN, fail={})
    assert refused(client.beta.threads.runs.create, thread.id, assistant_id="asst_gone").status_code == 404
    assert look(client, begin(client, thread, assistant), 2).status == "failed"
    assert look(client, begin(client, thread, assistant), 2).status == "completed"


def test_metadata_of_a_run_can_be_changed(client, thread, assistant):
    run = begin(client, thread, assistant, metadata={"run": "1"})
    assert client.beta.threads.runs.update(run.id, thread_id=thread.id, metadata={"run": "2"}).metadata == {"run": "2"}


def test_an_unknown_run_is_named_in_the_refusal(client, thread):
    error = refused(client.beta.threads.runs.retrieve, "run_x", thread_id=thread.id)
    assert (error.status_code, error.body["message"]) == (404, "No run found with id 'run_x'.")


def test_stream_must_be_true_or_false(client, simulator, thread, assistant):
    error = refused(begin, client, thread, assistant, extra_body={"stream": "yes"})
    assert (error.status_code, error.param) == (400, "stream")
    assert simulator.provider.runs == {}
