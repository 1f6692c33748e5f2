"""Test background responses: polling, cancelling, and resuming a stream where a reader stopped."""

import pytest

from .helpers import refused

RESPONSES = "POST /responses"
LONG = 600  # in seconds; no test waits that long


def begin(client, **fields):
    return client.responses.create(model="any-model", input="hello there", background=True, **fields)


def test_it_moves_on_by_one_state_whenever_it_is_looked_at(client):
    response = begin(client)
    assert (response.status, response.output, response.usage, response.background) == ("queued", [], None, True)
    seen = [client.responses.retrieve(response.id).status for _ in range(3)]
    assert seen == ["in_progress", "completed", "completed"]
    assert client.responses.retrieve(response.id).output_text == "You said: hello there"


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ({"fail": True}, "failed"),
        ({"incomplete": "max_output_tokens"}, "incomplete"),
        ({"end": "cancelled"}, "cancelled"),
    ],
)
def test_it_ends_as_scripted(client, simulator, action, status):
    simulator.add_fault(RESPONSES, **action)
    response = begin(client)
    assert [client.responses.retrieve(response.id).status for _ in range(2)] == ["in_progress", status]


def test_its_conversation_is_locked_until_it_is_over_and_gets_nothing_before(client, simulator):
    conversation = client.conversations.create().id
    response = begin(client, conversation=conversation)
    for _ in range(2):
        error = refused(client.responses.create, model="any-model", input="x", conversation=conversation)
        assert (error.code, error.type) == ("conversation_locked", "invalid_request_error")
        assert simulator.provider.items[conversation] == []
        client.responses.retrieve(response.id)
    assert len(simulator.provider.items[conversation]) == 2
    assert client.responses.create(model="any-model", input="x", conversation=conversation).status == "completed"


@pytest.mark.parametrize("release", ["cancel", "delete"])
def test_one_that_is_cancelled_or_deleted_lets_its_conversation_go(client, simulator, release):
    conversation = client.conversations.create().id
    response = begin(client, conversation=conversation)
    getattr(client.responses, release)(response.id)
    assert client.conversations.items.create(conversation, items=[{"role": "user", "content": "x"}]).data
    assert len(simulator.provider.items[conversation]) == 1


def test_a_cancelled_response_stays_cancelled_and_cancelling_again_changes_nothing(client):
    response = begin(client)
    assert [client.responses.cancel(response.id).status for _ in range(2)] == ["cancelled"] * 2
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_cancelling_one_that_is_over_leaves_it_as_it_is(client):
    response = begin(client)
    client.responses.retrieve(response.id)
    client.responses.retrieve(response.id)
    assert client.responses.cancel(response.id).status == "completed"


def test_only_a_response_in_the_background_can_be_cancelled(client):
    error = refused(client.responses.cancel, client.responses.create(model="any-model", input="x").id)
    assert (error.status_code, error.body["message"]) == (400, "Cannot cancel a synchronous response.")


def test_what_is_not_stored_cannot_be_made_in_the_background(client):
    error = refused(begin, client, store=False)
    assert (error.status_code, error.param) == (400, "background")


def test_its_stream_begins_in_the_queue(client):
    assert [event.type for event in begin(client, stream=True)][:4] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
    ]


@pytest.mark.parametrize("after", [None, 0, 4, 10_000])
def test_its_stream_can_be_read_again_after_any_event(client, after):
    first = list(begin(client, stream=True))
    position = {} if after is None else {"starting_after": after}
    again = list(client.responses.retrieve(first[0].response.id, stream=True, **position))
    expected = [event for event in first if event.sequence_number > (-1 if after is None else after)]
    assert [(e.type, e.sequence_number) for e in again] == [(e.type, e.sequence_number) for e in expected]
    deltas = ["".join(e.delta for e in told if e.type == "response.output_text.delta") for told in (again, expected)]
    assert deltas[0] == deltas[1]


def test_it_outlives_its_reader_who_goes_on_where_the_stream_broke(client, simulator):
    conversation = client.conversations.create().id
    simulator.add_fault(RESPONSES, hang={"seconds": LONG, "events": 5})
    with begin(client, stream=True, conversation=conversation) as stream:
        events = iter(stream)
        read = [next(events) for _ in range(5)]
    response = read[0].response.id
    assert client.responses.retrieve(response).status in ("in_progress", "completed")
    rest = list(client.responses.retrieve(response, stream=True, starting_after=read[-1].sequence_number))
    assert rest[0].sequence_number == 5
    assert rest[-1].type == "response.completed"
    assert len(simulator.provider.items[conversation]) == 2


def test_one_that_was_not_made_as_a_stream_cannot_be_streamed(client):
    for response in (begin(client), client.responses.create(model="any-model", input="x")):
        error = refused(client.responses.retrieve, response.id, stream=True)
        assert (error.status_code, error.param) == (400, "stream")


def test_a_position_that_is_no_number_is_refused(client):
    response = next(iter(begin(client, stream=True))).response.id
    error = refused(client.get, f"/responses/{response}?stream=true&starting_after=x", cast_to=object)
    assert error.param == "starting_after"


def test_input_tokens_are_counted_and_nothing_is_made(client, simulator):
    conversation = client.conversations.create(items=[{"role": "user", "content": "one two"}]).id
    counted = client.responses.input_tokens.count(
        model="any-model", input="three", instructions="four five", conversation=conversation
    )
    assert (counted.input_tokens, simulator.provider.responses) == (5, {})
