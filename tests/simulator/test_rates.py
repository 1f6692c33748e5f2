"""Test simulated rate limits with a clock that the test controls."""

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.simulator import ScriptError, Simulator


class Clock:
    """Represent a clock in Unix seconds that only moves when the test moves it."""

    def __init__(self):
        self.seconds = 1_700_000_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def simulator(clock):
    with Simulator(seed=7, clock=clock) as running:
        yield running


def limited(call, *args, **kwargs):
    with pytest.raises(openai.RateLimitError) as caught:
        call(*args, **kwargs)
    return caught.value


def headers(client):
    told = client.models.with_raw_response.list().headers
    return {name.removeprefix("x-ratelimit-"): told[name] for name in told if name.startswith("x-ratelimit-")}


def ask(client, words=1, **fields):
    return client.responses.create(model="gpt-5.5", input=" ".join(["word"] * words), **fields)


def test_without_limits_no_answer_speaks_of_them(client):
    assert headers(client) == {}


def test_every_answer_says_what_is_left_and_when_it_is_back(client, simulator, clock):
    simulator.limit_rates(requests_per_minute=60, tokens_per_minute=6_000)
    assert headers(client) == {
        "limit-requests": "60",
        "remaining-requests": "59",
        "reset-requests": "1s",
        "limit-tokens": "6000",
        "remaining-tokens": "6000",
        "reset-tokens": "0ms",
    }
    ask(client, words=84, max_output_tokens=16)
    told = headers(client)
    assert (told["remaining-requests"], told["reset-requests"]) == ("57", "3s")
    assert (told["remaining-tokens"], told["reset-tokens"]) == ("5900", "1s")
    clock.seconds += 1
    assert headers(client)["remaining-tokens"] == "6000"


def test_too_many_requests_are_refused_until_one_is_back(client, simulator, clock):
    simulator.limit_rates(requests_per_minute=3)
    for _ in range(3):
        ask(client)
    error = limited(ask, client)
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert error.body["message"].startswith(
        "Rate limit reached for gpt-5.5 in organization org-simulator on requests per min (RPM): "
        "Limit 3, Used 3, Requested 1. Please try again in 20s."
    )
    told = error.response.headers
    assert (told["retry-after"], told["retry-after-ms"], told["x-ratelimit-remaining-requests"]) == ("20", "20000", "0")
    clock.seconds += 19.9
    assert limited(ask, client).response.headers["retry-after"] == "1"
    clock.seconds += 0.1
    assert ask(client).status == "completed"
    assert len(simulator.provider.responses) == 4


def test_tokens_are_those_that_are_sent_and_the_most_that_may_come(client, simulator):
    simulator.limit_rates(tokens_per_minute=100)
    ask(client, words=40, max_output_tokens=30)
    client.conversations.create(items=[{"role": "user", "content": "free " * 500}])  # no model is called
    error = limited(ask, client, words=31)
    assert (error.code, error.type, error.response.headers["retry-after"]) == ("rate_limit_exceeded", "tokens", "1")
    assert (
        "on tokens per min (TPM): Limit 100, Used 70, Requested 31. Please try again in 600ms." in error.body["message"]
    )
    assert ask(client, words=30).status == "completed"


def test_a_request_that_can_never_fit_has_no_time_to_wait_for(client, simulator):
    simulator.limit_rates(tokens_per_minute=100)
    error = limited(client.chat.completions.create, model="m", messages=[{"role": "user", "content": "word " * 101}])
    assert error.body["message"].startswith("Request too large for m in organization")
    assert "retry-after" not in error.response.headers


def test_a_refused_request_uses_up_no_fault_and_no_answer(client, simulator, clock):
    simulator.limit_rates(requests_per_minute=1)
    ask(client)
    simulator.answer("later")
    simulator.add_fault("POST /responses", fail=True)
    limited(ask, client)
    clock.seconds += 60
    assert ask(client).status == "failed"


def test_a_stream_is_limited_before_it_begins(client, simulator):
    simulator.limit_rates(requests_per_minute=1)
    assert list(ask(client, stream=True))
    limited(ask, client, stream=True)


def test_the_sdk_comes_back_after_the_time_it_was_told(simulator):
    simulator.limit_rates(requests_per_minute=60_000)
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=1) as client:
        simulator.add_fault("GET /models", refuse={"status": 429, "headers": {"retry-after-ms": "1"}})
        assert client.models.with_raw_response.list().retries_taken == 1


def test_limits_can_be_scripted_changed_and_taken_away(clock):
    script = {"rate_limits": {"requests_per_minute": 1}}
    with (
        Simulator(script=script, clock=clock) as simulator,
        OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client,
    ):
        ask(client)
        limited(ask, client)
        simulator.limit_rates(requests_per_minute=2)
        ask(client)
        simulator.limit_rates()
        assert headers(client) == {}


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": "many"}, {"per_day": 5}])
def test_limits_that_make_no_sense_are_refused_by_name(limits):
    with pytest.raises(ScriptError, match=f"rate_limits.{next(iter(limits))}: "):
        Simulator(script={"rate_limits": limits})


def test_a_run_expires_by_the_same_clock(client, clock):
    with pytest.warns(DeprecationWarning):
        assistant = client.beta.assistants.create(model="any-model").id
        run = client.beta.threads.create_and_run(assistant_id=assistant, thread={})
        clock.seconds += 600
        assert client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id).status == "expired"
