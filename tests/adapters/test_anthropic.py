"""The backend `anthropic` on the real SDK: what it sends, what it reads on the wire, and what a failure keeps."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from threadledger.adapters.anthropic import AnthropicBackend, AnthropicClient, MessagesFold, read_message
from threadledger.adapters.openai import Context
from threadledger.domain import (
    Completion,
    Delta,
    Failure,
    JournaledMessage,
    Memory,
    Message,
    Profile,
    ProviderRefused,
    Role,
    Usage,
)
from threadledger.domain.exchange import BackendRequest
from threadledger.domain.failures import Cause, diagnose

from .performing import DRIVERS

MESSAGES = "POST /messages"
CONTEXT = Context("anthropic", "POST /v1/messages", reader=read_message, fold=MessagesFold)
WEATHER = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]'
CALL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"}


def question(text="Where is it?", **given):
    asked = JournaledMessage(Message(Role.USER, text), "m1", 2, datetime.now(UTC))
    return replace(BackendRequest("k", "e", "r", "claude-test", Profile(), Memory((asked,), 2), 5.0), **given)


class Asked:
    """The backend on the simulator with one of the drivers."""

    def __init__(self, simulator, performing):
        self.simulator, self.performing = simulator, performing
        self.client = performing.closing(AnthropicClient(api_key="sk-ant-test", base_url=simulator.base_url))

    def answer(self, stream=False, parameters=None, **given):
        backend = AnthropicBackend(self.client, parameters=parameters)
        return self.performing(backend.answer(question(stream=stream, **given)))

    def refusal(self, **given):
        with pytest.raises(ProviderRefused) as refused:
            self.answer(**given)
        return refused.value.failure

    @property
    def told(self):
        return "".join(part.text for part in self.performing.told if isinstance(part, Delta))

    @property
    def sent(self):
        return [request.body for request in self.simulator.requests]


@pytest.fixture(params=DRIVERS)
def asked(request, simulator):
    with DRIVERS[request.param]() as performing:
        yield Asked(simulator, performing)


@pytest.fixture
def blocking(simulator):
    with DRIVERS["blocking"]() as performing:
        yield Asked(simulator, performing)


# Requests and answers


def test_an_answer_has_its_facts_and_the_request_what_the_api_requires(asked):
    completion = asked.answer(profile=Profile(instructions="Be brief."))
    assert completion.messages == (Message(Role.ASSISTANT, "You said: Where is it?"),)
    assert (completion.finish_reason, completion.model) == ("end_turn", "claude-test")
    assert completion.remote_run_id.startswith("msg_")
    assert completion.request_id == asked.simulator.requests[0].request_id
    assert completion.usage == Usage(5, 5)
    assert asked.sent == [
        {
            "model": "claude-test",
            "max_tokens": 8192,
            "system": "Be brief.",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Where is it?"}]}],
        }
    ]


def test_parameters_are_sent_with_each_request_and_win(blocking):
    blocking.answer(parameters={"temperature": 0.5, "max_tokens": 9})
    assert [(body["temperature"], body["max_tokens"]) for body in blocking.sent] == [(0.5, 9)]


def test_a_tool_is_called_and_its_result_is_sent_with_the_call(asked):
    asked.simulator.answer(CALL, "Sunny.")
    journaled = []
    completion = asked.answer(
        profile=Profile(tools_json=WEATHER),
        tools={"weather": lambda city: f"{city}: sunny"},
        journal=journaled.extend,
        stream=True,
    )
    assert completion.messages[-1].text == "Sunny."
    assert [message.role for message in journaled] == [Role.ASSISTANT, Role.TOOL]
    call_id = journaled[0].tool_calls[0].id
    assert asked.sent[1]["messages"][1:] == [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": call_id, "name": "weather", "input": {"city": "Bern"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": "Bern: sunny"}]}
            ],
        },
    ]


def test_a_base_url_with_a_version_is_the_same_server(simulator):
    with_version, without = (
        AnthropicClient("k", simulator.base_url),
        AnthropicClient("k", simulator.base_url[: -len("/v1")]),
    )
    assert simulator.base_url.endswith("/v1")
    assert with_version.endpoint == without.endpoint == simulator.base_url.removesuffix("/v1")
    assert AnthropicClient("k").endpoint == "https://api.anthropic.com"


@pytest.mark.parametrize(
    ("key", "library", "code"), [(None, True, "missing_credentials"), ("k", False, "assistant_misconfigured")]
)
def test_without_a_key_or_the_library_nothing_is_sent(monkeypatch, key, library, code):
    if not library:
        monkeypatch.setitem(sys.modules, "anthropic", None)
    with DRIVERS["blocking"]() as performing:
        backend = AnthropicBackend(AnthropicClient(key))
        backend.load()
        with pytest.raises(ProviderRefused) as refused:
            performing(backend.answer(question()))
    assert refused.value.failure.code == code


def test_a_tool_of_the_provider_is_refused_before_the_call(simulator):
    profile = Profile(tools_json='[{"type": "file_search"}]')
    failure = AnthropicBackend(AnthropicClient("k", simulator.base_url)).preflight(replace(question(), profile=profile))
    assert failure.code == Cause.TOOL_NOT_SUPPORTED.value
    assert simulator.requests == []


def test_more_tools_than_other_apis_accept_are_no_reason_to_refuse():
    tools = [{"type": "function", "function": {"name": f"f{n}"}} for n in range(200)]
    request = replace(question(), profile=Profile(tools_json=json.dumps(tools)))
    assert AnthropicBackend(AnthropicClient("k")).preflight(request) is None


# Failures


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_keeps_its_status_type_words_and_body(asked, stream):
    fault = {"status": 529, "type": "overloaded_error", "message": "Overloaded", "headers": {"retry-after": "3"}}
    asked.simulator.add_fault(MESSAGES, refuse=fault)
    failure = asked.refusal(stream=stream)
    request_id = asked.simulator.requests[0].request_id
    assert (failure.http_status, failure.type, failure.message) == (529, "overloaded_error", "Overloaded")
    assert (failure.request_id, failure.retry_after_seconds) == (request_id, 3.0)
    assert json.loads(failure.details["body"]) == OVERLOADED | {"request_id": request_id}
    assert failure.details["endpoint"] == "POST /v1/messages"
    assert len(asked.sent) == 1


def test_a_code_in_the_details_of_an_error_is_kept_with_the_message(blocking):
    error = {
        "type": "rate_limit_error",
        "message": "Spend limit.",
        "details": {"error_code": "enforced_spend_limit_reached"},
    }
    blocking.simulator.add_fault(MESSAGES, reply={"status": 429, "text": json.dumps({"type": "error", "error": error})})
    failure = blocking.refusal()
    assert (failure.code, failure.type, failure.message) == (
        "enforced_spend_limit_reached",
        "rate_limit_error",
        "Spend limit.",
    )


NOON, SOON = "2026-11-22T12:00:00Z", "2026-11-22T12:00:30Z"


@pytest.mark.parametrize(
    ("remaining", "reset", "seconds"), [("0", SOON, 30.0), ("0", NOON, 0.0), ("5", SOON, None), ("0", "soon", None)]
)
def test_without_retry_after_the_reset_of_an_exhausted_limit_is_waited_for(
    blocking, freezer_at_noon, remaining, reset, seconds
):
    headers = {"anthropic-ratelimit-input-tokens-remaining": remaining, "anthropic-ratelimit-input-tokens-reset": reset}
    blocking.simulator.add_fault(MESSAGES, refuse={"status": 429, "headers": headers})
    assert blocking.refusal().retry_after_seconds == seconds


@pytest.fixture
def freezer_at_noon(monkeypatch):
    monkeypatch.setattr("threadledger.domain.durations.now", lambda: datetime(2026, 11, 22, 12, tzinfo=UTC))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "cause", "stop_reason"),
    [("max_output_tokens", Cause.INCOMPLETE, "max_tokens"), ("content_filter", Cause.CONTENT_FILTERED, "refusal")],
)
def test_an_answer_that_was_cut_or_withheld_is_a_failure_with_its_text(blocking, reason, cause, stop_reason, stream):
    blocking.simulator.add_fault(MESSAGES, incomplete=reason)
    failure = blocking.refusal(stream=stream)
    assert (failure.status, diagnose(failure), failure.partial_text) == ("incomplete", cause, "You said:")
    assert json.loads(failure.details["body"])["stop_reason"] == stop_reason
    assert failure.details["usage"] == {"input_tokens": 3, "output_tokens": 2}


def test_an_error_in_a_stream_keeps_the_text_before_it(asked):
    asked.simulator.add_fault(MESSAGES, error_event={"events": 4, "code": "overloaded_error", "message": "Overloaded"})
    failure = asked.refusal(stream=True)
    assert (failure.type, failure.message, failure.partial_text) == ("overloaded_error", "Overloaded", "You ")
    assert failure.details["event"] == "error"


def test_a_stream_that_ends_before_the_reason_to_stop_is_a_failure_and_after_it_an_answer(blocking):
    blocking.simulator.add_fault(MESSAGES, truncate={"events": 6})
    failure = blocking.refusal(stream=True)
    assert (failure.code, failure.partial_text) == ("stream_broken", "You said: Where ")
    blocking.simulator.add_fault(MESSAGES, truncate={"events": 10})
    assert blocking.answer(stream=True).messages[0].text == "You said: Where is it?"


@pytest.mark.parametrize("fault", [{"ignore": 60.0}, {"hang": {"seconds": 60.0, "events": 4}}, {"slow": 60.0}])
def test_a_stream_that_falls_silent_is_given_up_at_its_deadline(asked, fault):
    asked.simulator.add_fault(MESSAGES, **fault)
    assert diagnose(asked.refusal(stream=True, timeout_seconds=0.2)) is Cause.TIMED_OUT


def test_a_page_instead_of_a_stream_is_kept_and_a_message_instead_of_a_stream_is_the_answer(blocking):
    blocking.simulator.add_fault(MESSAGES, reply={"content_type": "text/html", "text": "<title>Log in</title>"})
    assert "Log in" in blocking.refusal(stream=True).message
    blocking.simulator.add_fault(MESSAGES, reply={"text": json.dumps(reply([{"type": "text", "text": "fine"}]))})
    assert blocking.answer(stream=True).messages[0].text == "fine"
    assert blocking.told == "fine"


class Redirecting(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(307)
        self.send_header("location", "http://localhost:9/v1/messages")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_redirect_to_another_origin_is_not_followed(driver):
    with HTTPServer(("127.0.0.1", 0), Redirecting) as server, DRIVERS[driver]() as performing:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        client = performing.closing(AnthropicClient("k", f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(ProviderRefused) as refused:
            performing(AnthropicBackend(client).answer(question()))
        serving.join()
    assert refused.value.failure.code == "redirect_refused"


# What is read on the wire


def reply(content, **given):
    usage = {"input_tokens": 3, "output_tokens": 2}
    made = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn"}
    return made | {"content": content, "usage": usage} | given


def text(said):
    return {"type": "text", "text": said}


def use(**given):
    return {"type": "tool_use", "id": "c", "name": "f", "input": {}} | given


@pytest.mark.parametrize(
    ("body", "said", "calls"),
    [
        (
            reply([{"type": "thinking"}, text("Hi "), {"type": "redacted_thinking"}, text("there.")]),
            "Hi there.",
            [],
        ),
        (
            reply([{"type": "server_tool_use", "name": "web_search"}, {"type": "web_search_tool_result"}, text("x")]),
            "x",
            [],
        ),
        (reply([text("x")], usage={"input_tokens": "3"}, model=None, id=7), "x", []),
        (reply([use(input={"a": "é"})], stop_reason="tool_use"), "", [("f", '{"a": "é"}')]),
        (reply([use(input='{"a": 1}'), use(input=None)], stop_reason="tool_use"), "", [("f", '{"a": 1}'), ("f", "{}")]),
        (reply([text("x"), use(id=None, name=None)], stop_reason="tool_use"), "x", []),
        (reply([text("x"), None, {"type": "text"}, {}]), "x", []),
        (reply("plain"), "plain", []),
        (reply(text("obj")), "obj", []),
        (reply(["just text"]), "just text", []),
        (reply([{"type": "output_text", "text": "o"}]), "o", []),
    ],
)
def test_an_odd_field_never_costs_an_answer(body, said, calls):
    completion = read_message(body, CONTEXT).outcome
    assert isinstance(completion, Completion)
    (message,) = completion.messages
    assert (message.text, [(call.name, call.arguments) for call in message.calls()]) == (said, calls)
    assert len({call.id for call in message.calls()} - {""}) == len(calls)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (reply([]), "empty_answer", "end_turn"),
        (reply([text(" \n")]), "empty_answer", "end_turn"),
        (reply([{"type": "thinking", "thinking": "Hm."}]), "empty_answer", "end_turn"),
        (reply([text("x")], stop_reason="pause_turn"), None, "pause_turn"),
        (reply([text("x")], stop_reason="model_context_window_exceeded"), None, "model_context_window_exceeded"),
    ],
)
def test_a_reply_without_a_whole_answer_is_a_failure_that_keeps_the_body(body, code, reason):
    failure = read_message(body, CONTEXT).outcome
    assert isinstance(failure, Failure)
    assert (failure.status, failure.code, failure.details["finish_reason"]) == ("incomplete", code, reason)
    assert json.loads(failure.details["body"]) == body


def test_tokens_of_the_cache_are_input():
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 4}
    usage["output_tokens_details"] = {"thinking_tokens": 2}
    assert read_message(reply([text("x")], usage=usage), CONTEXT).usage == Usage(
        321, 4, cached_tokens=300, reasoning_tokens=2
    )


def frames(*events):
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


STREAM = frames(
    {"type": "message_start", "message": reply([], stop_reason=None, usage={"input_tokens": 3, "output_tokens": 1})},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm.", "text": "Hm."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "x"}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 1, "content_block": text("")},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi \ud83d"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "\ude00"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": use()},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
)


@settings(max_examples=50)
@for_all(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_a_stream_is_read_the_same_wherever_its_bytes_are_split(cuts):
    fold, places = MessagesFold(CONTEXT), [0, *sorted(cuts), len(STREAM)]
    told = [part for start, end in itertools.pairwise(places) for part in fold.take(STREAM[start:end])]
    completion = fold.seen.outcome
    assert isinstance(completion, Completion)
    assert fold.is_over
    assert told == ["Hi ", "😀"]
    assert completion.messages[0].text == "Hi 😀"
    assert [(call.id, call.name, call.arguments) for call in completion.messages[0].calls()] == [("c", "f", '{"a": 1}')]
    assert (completion.usage, completion.finish_reason, completion.remote_run_id) == (Usage(3, 9), "tool_use", "msg_1")


# The simulator


def test_the_simulator_answers_other_keys_models_and_requests_with_anthropics_errors(simulator):
    import anthropic

    with anthropic.Anthropic(api_key="k", base_url=simulator.base_url.removesuffix("/v1"), max_retries=0) as sdk:
        hello = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi."}]}
        assert sdk.messages.create(model="claude", **hello).content[0].text == "You said: Hi."
        with pytest.raises(anthropic.BadRequestError) as refused:
            sdk.messages.create(model="claude", max_tokens=0, messages=hello["messages"])
        assert refused.value.body["error"]["type"] == "invalid_request_error"
        assert refused.value.request_id == refused.value.body["request_id"] == simulator.requests[-1].request_id
        simulator.retire_model("claude-2")
        with pytest.raises(anthropic.NotFoundError, match="model: claude-2"):
            sdk.messages.create(model="claude-2", **hello)
        with sdk.messages.stream(model="claude", **hello) as stream:
            assert stream.get_final_message().content[0].text == "You said: Hi."
        simulator.retire("messages")
        with pytest.raises(anthropic.APIStatusError, match="Not found"):
            sdk.messages.create(model="claude", **hello)
