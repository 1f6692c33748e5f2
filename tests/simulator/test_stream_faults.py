"""Test faults within a stream: what a client sees, and what the provider has done at that point."""

import json
from contextlib import suppress
from json import JSONDecodeError

import httpx2
import openai
import pytest

from threadledger.adapters.simulator import ScriptError
from threadledger.adapters.wire import IncomingRequest

from .helpers import until

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
HELLO = [{"role": "user", "content": "hello there"}]
CHAT, RESPONSES, RUNS = "POST /chat/completions", "POST /responses", "POST /threads/{thread_id}/runs"
SURFACES = pytest.mark.parametrize("surface", [CHAT, RESPONSES, RUNS])
LONG = 600  # in seconds; no test waits that long


@pytest.fixture
def begin(client):
    """Begin a stream on one API, in a new conversation or thread."""
    assistant = client.beta.assistants.create(model="any-model").id
    thread = client.beta.threads.create(messages=HELLO).id
    conversation = client.conversations.create().id

    def create(surface, timeout=30.0, **fields):
        patient = client.with_options(timeout=timeout)
        if surface == CHAT:
            return patient.chat.completions.create(model="any-model", messages=HELLO, stream=True, **fields)
        if surface == RESPONSES:
            given = {"conversation": conversation, "input": "hello there", "model": "any-model"}
            return patient.responses.create(**given, stream=True, **fields)
        return patient.beta.threads.runs.create(thread, assistant_id=assistant, stream=True, **fields)

    return create


def read(stream, events):
    """Append the received events to `events`."""
    for event in stream:
        events.append(event)


def done(simulator, surface):
    """Return whether the provider completed the request."""
    provider = simulator.provider
    if surface == CHAT:
        return bool(provider.completions)
    states = provider.responses if surface == RESPONSES else provider.runs
    return {state["status"] for state in states.values()} == {"completed"}


def kept(simulator):
    """Return the roles of the messages in the only conversation."""
    [items] = simulator.provider.items.values()
    return [item["role"] for item in items]


@SURFACES
def test_a_stream_that_is_cut_clean_looks_as_if_it_were_over(simulator, begin, surface):
    simulator.add_fault(surface, truncate={"events": 4})
    assert len(list(begin(surface))) == 4
    assert done(simulator, surface)


@SURFACES
def test_a_stream_that_is_broken_breaks_the_connection(simulator, begin, surface):
    simulator.add_fault(surface, truncate={"events": 4, "kind": "broken"})
    events = []
    with pytest.raises(openai.APIConnectionError):
        read(begin(surface), events)
    assert len(events) == 4
    assert done(simulator, surface)


@pytest.mark.parametrize("kind", ["clean", "broken"])
def test_a_provider_that_stopped_where_it_was_cut_has_not_finished(client, simulator, begin, kind):
    for surface in (CHAT, RESPONSES, RUNS):
        simulator.add_fault(surface, truncate={"events": 8 if surface == RUNS else 4, "kind": kind, "done": False})
        with suppress(openai.APIConnectionError):
            list(begin(surface))
        assert not done(simulator, surface)
    assert kept(simulator) == []
    [response] = simulator.provider.responses.values()
    assert response["status"] == "cancelled"
    [run] = simulator.provider.runs.values()
    assert run["status"] == "in_progress"
    # A run does not depend on its reader: it continues with the message that it had begun.
    ended = client.beta.threads.runs.poll(run["id"], thread_id=run["thread_id"])
    assert ended.status == "completed"
    [messages] = simulator.provider.messages.values()
    assert [(m["role"], m["status"]) for m in messages] == [("user", "completed"), ("assistant", "completed")]


def test_a_run_cut_after_its_message_was_complete_says_it_once_and_counts_it_once(client, simulator, begin):
    simulator.add_fault(RUNS, truncate={"events": 12, "done": False})
    assert list(begin(RUNS))[-1].event == "thread.message.completed"
    [run] = simulator.provider.runs.values()
    ended = client.beta.threads.runs.poll(run["id"], thread_id=run["thread_id"])
    assert (ended.status, ended.usage.prompt_tokens, ended.usage.completion_tokens) == ("completed", 2, 4)
    assert len(client.beta.threads.messages.list(run["thread_id"]).data) == 2


def test_a_stream_cut_before_its_first_event_is_empty(simulator, begin):
    simulator.add_fault(RESPONSES, truncate={})
    assert list(begin(RESPONSES)) == []
    assert kept(simulator) == ["user", "assistant"]


def test_a_stream_with_fewer_events_passes_unharmed(simulator, begin):
    simulator.add_fault(CHAT, truncate={"events": 100, "kind": "broken"})
    assert list(begin(CHAT))[-1].choices[0].finish_reason == "stop"


@SURFACES
def test_a_garbled_line_comes_between_two_events(simulator, begin, surface):
    simulator.add_fault(surface, garble={"events": 3})
    events = []
    with pytest.raises(JSONDecodeError):
        read(begin(surface), events)
    assert len(events) == 3


@pytest.mark.parametrize("surface", [RESPONSES, RUNS])
def test_an_error_event_in_the_documented_form_is_told_like_any_event(simulator, begin, surface):
    simulator.add_fault(surface, error_event={"events": 3, "code": "server_error", "message": "Oh."})
    *_, last = begin(surface)
    told = last if surface == RESPONSES else last.data
    assert (told.message, told.code) == ("Oh.", "server_error")
    assert (last.type if surface == RESPONSES else last.event) == "error"
    if surface == RESPONSES:
        assert last.sequence_number == 3
    states = simulator.provider.responses if surface == RESPONSES else simulator.provider.runs
    assert [state["status"] for state in states.values()] == ["failed"]
    assert kept(simulator) == []


@pytest.mark.parametrize("form", ["flat", "envelope"])
@SURFACES
def test_an_error_in_the_envelope_is_raised_without_a_status(simulator, begin, surface, form):
    simulator.add_fault(surface, error_event={"events": 3, "form": form if surface == CHAT else "envelope"})
    events = []
    with pytest.raises(openai.APIError, match="something went wrong") as caught:
        read(begin(surface), events)
    assert (caught.value.code, len(events)) == ("server_error", 3)
    assert not isinstance(caught.value, openai.APIStatusError)


@SURFACES
def test_a_client_that_gives_up_on_a_hanging_stream_has_what_came_before(simulator, begin, surface):
    simulator.add_fault(surface, hang={"seconds": LONG, "events": 3})
    events = []
    with pytest.raises(openai.APITimeoutError):
        read(begin(surface, timeout=0.2), events)
    assert len(events) == 3


def test_a_response_whose_reader_has_gone_is_cancelled_and_lets_its_conversation_go(client, simulator, begin):
    simulator.add_fault(RESPONSES, hang={"seconds": LONG, "events": 3})
    with begin(RESPONSES) as stream:
        begun = next(iter(stream)).response
    until(lambda: simulator.provider.responses[begun.id]["status"] == "cancelled")
    assert kept(simulator) == []
    assert list(begin(RESPONSES))[-1].type == "response.completed"


def test_a_run_whose_reader_has_gone_goes_on_when_it_is_looked_at_and_can_be_cancelled(client, simulator, begin):
    simulator.add_fault(RUNS, hang={"seconds": LONG, "events": 8})
    with begin(RUNS) as stream:
        run = next(iter(stream)).data
    until(lambda: not simulator.provider.store.threads[run.thread_id].runs[run.id].streaming)
    client.beta.threads.runs.cancel(run.id, thread_id=run.thread_id)
    ended = client.beta.threads.runs.poll(run.id, thread_id=run.thread_id)
    [messages] = simulator.provider.messages.values()
    assert (ended.status, messages[-1]["status"]) == ("cancelled", "incomplete")
    assert messages[-1]["incomplete_details"] == {"reason": "run_cancelled"}


def test_while_a_response_is_streamed_its_conversation_is_locked_and_holds_nothing_of_it(client, simulator, begin):
    simulator.add_fault(RESPONSES, hang={"seconds": LONG, "events": 5})
    with begin(RESPONSES) as stream:
        events = iter(stream)
        conversation = next(events).response.conversation.id
        for _ in range(4):
            next(events)
        for write in (
            lambda: client.responses.create(model="any-model", input="x", conversation=conversation),
            lambda: client.conversations.items.create(conversation, items=HELLO),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                write()
            assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
        assert kept(simulator) == []


def test_looking_at_a_run_that_is_being_streamed_does_not_move_it_on(client, simulator, begin):
    simulator.add_fault(RUNS, hang={"seconds": LONG, "events": 3})
    with begin(RUNS) as stream:
        events = iter(stream)
        run = [next(events) for _ in range(3)][-1].data
        seen = [client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id).status for _ in range(3)]
    assert seen == ["in_progress"] * 3


def test_a_run_that_another_cancels_ends_its_stream(simulator):
    """Cancel a run during its stream, without a network in between, so that the order of the two is certain."""

    def send(method, path, body=None):
        headers = {"authorization": "Bearer x", "openai-beta": "assistants=v2"}
        sent = IncomingRequest(method, f"/v1{path}", headers=headers, body=json.dumps(body or {}).encode())
        return simulator.provider.perform(simulator.provider.admit(sent))

    assistant = json.loads(send("POST", "/assistants", {"model": "any-model"}).body)["id"]
    asked = {"assistant_id": assistant, "thread": {"messages": HELLO}, "stream": True}
    stream = send("POST", "/threads/runs", asked).stream
    begun = [simulator.provider.pull(stream) for _ in range(9)]
    assert b"thread.message.delta" in begun[-1]
    [run] = simulator.provider.runs.values()
    assert send("POST", f"/threads/{run['thread_id']}/runs/{run['id']}/cancel").status == 200
    rest = [event.partition(b"\n")[0].decode() for event in iter(lambda: simulator.provider.pull(stream), None)]
    assert rest == [
        "event: thread.run.cancelling",
        "event: thread.run.step.cancelled",
        "event: thread.message.incomplete",
        "event: thread.run.cancelled",
        "event: done",
    ]


@SURFACES
def test_a_slow_stream_comes_whole(simulator, begin, surface):
    simulator.add_fault(surface, slow=0.001)
    assert len(list(begin(surface))) > 5
    assert done(simulator, surface)


def test_a_slow_answer_sends_its_headers_at_once(client, simulator):
    simulator.add_fault("GET /models", slow=LONG)
    with (
        pytest.raises(httpx2.ReadTimeout),
        client.with_options(timeout=0.2).models.with_streaming_response.list() as answer,
    ):
        assert answer.headers["x-request-id"]
        answer.read()


@SURFACES
def test_a_lost_stream_is_done_all_the_same(simulator, begin, surface):
    simulator.add_fault(surface, lose_answer=True)
    with pytest.raises(openai.APIConnectionError):
        begin(surface)
    assert done(simulator, surface)


@pytest.mark.parametrize(
    "action", [{"drop": True}, {"refuse": {"status": 500}}, {"reply": {"text": "nope", "status": 502}}]
)
@SURFACES
def test_a_stream_that_is_not_begun_does_nothing(simulator, begin, surface, action):
    simulator.add_fault(surface, **action)
    with pytest.raises(openai.APIError):
        begin(surface)
    provider = simulator.provider
    assert (provider.completions, provider.responses, provider.runs) == ([], {}, {})


def test_a_stream_may_land_late(client, simulator, begin):
    simulator.add_fault(RESPONSES, land_late=1)
    with pytest.raises(openai.APIConnectionError):
        begin(RESPONSES)
    assert kept(simulator) == []
    client.models.list()
    assert kept(simulator) == ["user", "assistant"]


def test_faults_within_streams_wait_for_a_stream(client, simulator, begin):
    simulator.add_fault("*", truncate={"events": 1})
    assert client.responses.create(model="any-model", input="x").status == "completed"
    assert len(list(begin(CHAT))) == 1


def test_stopping_ends_a_stream_that_hangs(simulator, begin):
    simulator.add_fault(RESPONSES, hang={"seconds": LONG, "events": 1})
    with begin(RESPONSES) as stream:
        events = iter(stream)
        begun = next(events).response
        simulator.stop()
        with pytest.raises(openai.APIConnectionError):
            list(events)
    assert simulator.provider.responses[begun.id]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"truncate": {"kind": "torn"}}, "truncate.kind: must be one of clean, broken"),
        ({"truncate": {"events": -1}}, "truncate.events: must be a whole number from 0"),
        ({"truncate": {"done": 1}}, "truncate.done: must be true or false"),
        ({"hang": {"secs": 1}}, "hang.secs: unknown key"),
        ({"garble": 3}, "garble: must be an object"),
        ({"error_event": {"form": "round"}}, "error_event.form: must be one of flat, envelope"),
        ({"slow": -1}, "slow: must be a number from 0"),
        ({"gone": 1}, "gone: must be true or false"),
    ],
)
def test_a_fault_that_cannot_be_understood_is_named(simulator, fault, words):
    with pytest.raises(ScriptError, match=words):
        simulator.add_fault(RESPONSES, **fault)


@pytest.mark.parametrize(
    ("on", "fault"),
    [
        ("GET /models", {"truncate": {}}),
        ("POST /conversations", {"garble": {}}),
        ("GET /models", {"thread_gone": True}),
    ],
)
def test_a_fault_that_cannot_happen_there_is_refused(simulator, on, fault):
    with pytest.raises(ScriptError, match="cannot happen to"):
        simulator.add_fault(on, **fault)


def test_a_thread_that_vanishes_is_not_found_from_then_on(client, simulator, begin):
    simulator.add_fault("*", thread_gone=True, times=2)
    client.responses.create(model="any-model", input="x")  # outside a conversation, so it must not consume the fault
    for surface in (RUNS, RESPONSES):
        with pytest.raises(openai.NotFoundError):
            begin(surface)
    assert list(begin(CHAT))
    assert (simulator.provider.threads, simulator.provider.conversations) == ({}, {})
    assert [state.fired for state in simulator.provider.faults.states] == [2]


def test_an_api_is_gone_from_the_request_on_that_the_fault_names(client, simulator, begin):
    simulator.add_fault(RUNS, gone=True)
    assert client.beta.threads.create().id
    for call in (lambda: begin(RUNS), client.beta.threads.create, client.beta.assistants.list):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.body["message"] == "Not found"
    assert list(begin(RESPONSES))
