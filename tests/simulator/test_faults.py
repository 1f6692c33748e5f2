"""Test scripted faults: what a client sees, and whether the provider carried out the request."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from json import JSONDecodeError

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.simulator import Fault, Simulator
from threadledger.adapters.simulator.answers import ScriptedFailure
from threadledger.adapters.simulator.faults import RawReply, Refusal

from .helpers import refused, until

CREATE = "POST /conversations"
ITEMS = "POST /conversations/{conversation_id}/items"


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def made(simulator):
    return len(simulator.provider.conversations)


def test_a_refusal_arrives_as_it_was_scripted_and_nothing_is_done(client, simulator):
    simulator.add_fault(
        CREATE,
        refuse={
            "status": 429,
            "message": "Slow down.",
            "type": "requests",
            "code": "rate_limit_exceeded",
            "param": "p",
            "headers": {"Retry-After": 7},
        },
    )
    error = refused(client.conversations.create)
    assert isinstance(error, openai.RateLimitError)
    assert (error.body["message"], error.type, error.code, error.param) == (
        "Slow down.",
        "requests",
        "rate_limit_exceeded",
        "p",
    )
    assert error.response.headers["retry-after"] == "7"
    assert error.request_id.startswith("req_")
    assert made(simulator) == 0
    assert client.conversations.create().id


@pytest.mark.parametrize(("status", "kind"), [(404, "invalid_request_error"), (503, "server_error")])
def test_the_type_of_a_refusal_follows_from_its_status(client, simulator, status, kind):
    simulator.add_fault(CREATE, refuse={"status": status})
    assert refused(client.conversations.create).type == kind


def test_a_dropped_connection_does_nothing(client, simulator):
    simulator.add_fault(CREATE, drop=True)
    with pytest.raises(openai.APIConnectionError):
        client.conversations.create()
    assert made(simulator) == 0


def test_a_lost_answer_is_done_all_the_same(client, simulator):
    simulator.add_fault(CREATE, lose_answer=True)
    with pytest.raises(openai.APIConnectionError):
        client.conversations.create()
    assert made(simulator) == 1


def test_a_client_that_retries_a_lost_answer_writes_twice(simulator):
    simulator.add_fault(CREATE, lose_answer=True)
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=1) as client:
        client.conversations.create()
    assert made(simulator) == 2


def test_a_write_can_land_after_the_client_has_read_back(client, simulator):
    conversation = client.conversations.create()
    simulator.add_fault(ITEMS, land_late=2)
    with pytest.raises(openai.APIConnectionError):
        client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "late"}])
    read = [len(client.conversations.items.list(conversation.id).data) for _ in range(3)]
    assert read == [0, 0, 1]


def test_a_hanging_request_goes_on_when_its_time_is_over(client, simulator):
    simulator.add_fault(CREATE, hang=0.01)
    assert client.conversations.create().id


def test_a_client_that_gives_up_on_a_hanging_request_finds_it_done(client, simulator):
    simulator.add_fault(CREATE, hang=600)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).conversations.create()
    until(lambda: made(simulator) == 1)


def test_a_request_that_is_ignored_is_not_done_when_its_client_gives_up(client, simulator):
    simulator.add_fault(CREATE, ignore=600)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).conversations.create()
    until(lambda: [request.status for request in simulator.requests] == [None])
    assert made(simulator) == 0


def test_a_client_that_waits_for_an_ignored_request_is_hung_up_on(client, simulator):
    simulator.add_fault(CREATE, ignore=0.01)
    with pytest.raises(openai.APIConnectionError):
        client.conversations.create()
    assert made(simulator) == 0


def test_stopping_lets_a_hanging_client_go_without_doing_what_it_asked(client, simulator):
    simulator.add_fault(CREATE, hang=600)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.conversations.create)
        until(lambda: simulator.provider.faults.states[0].fired == 1)
        simulator.stop()
        with pytest.raises(openai.APIConnectionError):
            waiting.result()
    assert made(simulator) == 0


def test_a_proxys_page_arrives_as_it_is(client, simulator):
    page = {"status": 502, "content_type": "text/html", "text": "<h1>Bad gateway</h1>"}
    simulator.add_fault(CREATE, reply=page)
    error = refused(client.conversations.create)
    assert (error.status_code, error.code, error.response.text) == (502, None, "<h1>Bad gateway</h1>")
    assert made(simulator) == 0


def test_broken_json_reaches_the_sdk(client, simulator):
    simulator.add_fault(CREATE, reply={"text": '{"id": "conv_'})
    with pytest.raises(JSONDecodeError):
        client.conversations.create()


def test_a_fault_happens_as_often_as_it_says_after_as_many_as_it_says(client, simulator):
    simulator.add_fault(CREATE, refuse={"status": 500}, after=1, times=2)
    seen = []
    for _ in range(5):
        try:
            client.conversations.create()
            seen.append(200)
        except openai.InternalServerError:
            seen.append(500)
    assert seen == [200, 500, 500, 200, 200]


def test_a_fault_without_a_count_happens_for_ever_until_it_is_cleared(client, simulator):
    simulator.add_fault("*", refuse={"status": 500}, times=None)
    for _ in range(3):
        refused(client.conversations.create)
        refused(client.models.list)
    simulator.clear_faults()
    assert client.conversations.create().id


def test_a_fault_of_one_place_does_not_happen_elsewhere(client, simulator):
    simulator.add_fault(CREATE, refuse={"status": 500})
    conversation_id = client.responses.create(model="any-model", input="x").id
    assert client.responses.retrieve(conversation_id).id == conversation_id
    refused(client.conversations.create)


def test_of_two_faults_the_first_happens_first(client, simulator):
    simulator.add_faults([{"on": CREATE, "refuse": {"status": 500}}, {"on": "*", "refuse": {"status": 503}}])
    assert [refused(client.conversations.create).status_code for _ in range(2)] == [500, 503]
    assert client.conversations.create().id


def test_the_same_seed_gives_the_same_ids_and_the_same_chances():
    def play(seed):
        with (
            Simulator(
                seed=seed, script={"faults": [{"on": CREATE, "drop": True, "times": None, "probability": 0.5}]}
            ) as s,
            OpenAI(base_url=s.base_url, api_key="sk-test", max_retries=0) as client,
        ):
            for _ in range(20):
                with suppress(openai.APIConnectionError):
                    client.conversations.create()
            return list(s.provider.conversations), [request.status for request in s.requests]

    first, again, other = play(1), play(1), play(2)
    assert first == again
    assert first != other
    assert 0 < len(first[0]) < 20


def test_without_a_seed_two_simulators_never_share_an_id():
    with Simulator() as one, Simulator() as two:
        assert one.seed != two.seed


def test_a_run_fault_everywhere_waits_for_something_that_can_fail(client, simulator):
    simulator.add_fault("*", fail=True)
    client.conversations.create()
    assert client.responses.create(model="any-model", input="x").status == "failed"


def test_a_refused_request_does_not_use_up_a_run_fault(client, simulator):
    simulator.add_fault("POST /responses", fail=True)
    refused(client.responses.create, model="any-model", input="x", conversation="conv_gone")
    refused(client.responses.create, model="any-model", input="x", extra_body={"nonsense": 1})
    assert client.responses.create(model="any-model", input="x").status == "failed"
    assert client.responses.create(model="any-model", input="x").status == "completed"


def test_faults_can_be_made_from_their_classes(client, simulator):
    simulator.add_fault(Fault(CREATE, refuse=Refusal(418, "I am a teapot.")))
    simulator.add_fault(Fault(CREATE, reply=RawReply("nope", 500)))
    simulator.add_fault(Fault("POST /responses", times=None, fail=ScriptedFailure("invalid_prompt", "No.")))
    assert refused(client.conversations.create).body["message"] == "I am a teapot."
    assert refused(client.conversations.create).response.text == "nope"
    assert [client.responses.create(model="m", input="x").error.code for _ in range(2)] == ["invalid_prompt"] * 2


def test_a_parameter_of_a_route_may_have_any_name(client, simulator):
    conversation = client.conversations.create()
    simulator.add_fault("GET /conversations/{id}", refuse={"status": 500})
    assert refused(client.conversations.retrieve, conversation.id).status_code == 500
