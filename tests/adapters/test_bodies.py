"""Bodies of compatible servers, sent over HTTP: an odd field never costs a paid answer, an error is found wherever it is.

Each body goes through the backend with both drivers, and through a recorded client of an app: both have the same outcome.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import threadledger
from threadledger.adapters.openai import ChatBackend, Client, Context, ResponsesBackend, fold_of, read_body
from threadledger.adapters.openai.bodies import answer_text
from threadledger.domain.conversation import Completion, Profile, text_message
from threadledger.domain.conversation.messages import JournaledMessage
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, Delta
from threadledger.domain.failures import Cause, Failure, diagnose
from threadledger.domain.memory import Memory

from .performing import DRIVERS

CHAT, RESPONSES = "POST /chat/completions", "POST /responses"
EVENTS = "text/event-stream"
TOOL = '[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]'


def completion(message: Any = None, finish: str = "stop", **others: Any) -> str:
    """A completion with one choice, and fields that replace or extend the usual ones."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "fine"} | (message or {}),
        "finish_reason": finish,
    }
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | others
    )


def response(*content: Any, **others: Any) -> str:
    item = {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": list(content)}
    body = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [item]}
    return json.dumps(body | others)


def events(*data: Any, done: bool = True) -> str:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in data]
    return "".join(f"data: {text}\n\n" for text in [*texts, *(["[DONE]"] if done else [])])


def chunk(delta: Any, finish: str | None = None, **others: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | others


def called(*calls: Any) -> str:
    return completion({"content": None, "tool_calls": list(calls)}, "tool_calls")


def call(**fields: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}} | fields


TEXT = {"type": "output_text", "text": "fine", "annotations": []}
DELTA = {"type": "response.output_text.delta", "delta": "half"}
HTML = "<html><head><title>Sign in</title></head><body>Please log in</body></html>"


@dataclass(frozen=True)
class Sent:
    """A body, and what it means: the text of the answer, or the cause, code and message of the failure."""

    text: str
    answer: str | None = None
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    on: str = CHAT
    content_type: str = "application/json"
    streamed: bool = False
    emitted: tuple[str, ...] | None = None


THINKING = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "hello"}]
BODIES = {
    "usage as strings": Sent(completion(usage={"prompt_tokens": 1.0, "completion_tokens": "2"}), "fine"),
    "usage as a list": Sent(completion(usage=[1, 2]), "fine"),
    "content as parts": Sent(completion({"content": THINKING}), "hello"),
    "content as strings in a list": Sent(completion({"content": ["he", "llo"]}), "hello"),
    "no id, no role, no model": Sent('{"choices": [{"message": {"content": "fine"}}]}', "fine"),
    "a choice without an index": Sent('{"choices": [null, {"message": {"content": "fine"}}]}', "fine"),
    "content as a part without a type": Sent(completion({"content": [{"text": "ok"}]}), "ok"),
    "content as a part of the Responses API": Sent(completion({"content": [TEXT | {"text": "ok"}]}), "ok"),
    "content as a part with a value": Sent(completion({"content": [{"type": "text", "text": {"value": "ok"}}]}), "ok"),
    "content as a number": Sent(completion({"content": 42}), "42"),
    "a refusal as a list": Sent(completion({"content": None, "refusal": ["no"]}), "no"),
    "an error without content": Sent(completion(error={"message": None, "code": None}), "fine"),
    "a stream as another type": Sent(events(chunk({"content": "fine"}, "stop")), "fine", content_type="text/plain"),
    "a response with its text alone": Sent(
        response(output=[], output_text="fine"), "fine", on=RESPONSES
    ),
    "a response with another status": Sent(response(TEXT, status="DONE"), "fine", on=RESPONSES),
    "a response with an error without content": Sent(
        response(TEXT, error={"message": None, "code": None}), "fine", on=RESPONSES
    ),
    "a byte order mark": Sent("\ufeff" + completion(), "fine"),
    "half a character": Sent(completion({"content": "half \ud83d a face"}), "half \ufffd a face"),
    "a stream that was not requested": Sent(
        events(chunk({"content": "fi"}), chunk({"content": "ne"}, "stop")), "fine", content_type=EVENTS
    ),
    "a response without a status": Sent(response(TEXT, status=None), "fine", on=RESPONSES),
    "a response with content as text": Sent(
        response(output=[{"type": "message", "role": "assistant", "content": "fine"}]), "fine", on=RESPONSES
    ),
    "a response with odd usage": Sent(response(TEXT, usage={"input_tokens": "many"}), "fine", on=RESPONSES),
    "an error in a 200 body": Sent(
        '{"error": {"message": "Provider returned error", "code": 502}, "user_id": "u"}',
        cause=Cause.PROVIDER_ERROR, code="502", message="Provider returned error",
    ),
    "an error next to choices": Sent(
        completion(error={"message": "Slow down", "code": 429}),
        cause=Cause.RATE_LIMITED, code="429", message="Slow down",
    ),
    "an error in a choice": Sent(
        json.dumps({"choices": [{"message": {"content": ""}, "error": {"message": "overloaded", "code": 503}}]}),
        cause=Cause.PROVIDER_ERROR, code="503", message="overloaded",
    ),
    "an error in a list": Sent(
        '[{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}]',
        cause=Cause.RATE_LIMITED, code="429", message="Quota",
    ),
    "an error as a string": Sent('{"error": "model \'x\' not found"}', message="model 'x' not found"),
    "errors in a list": Sent('{"success": false, "errors": [{"code": 7009, "message": "Upstream"}]}',
                             code="7009", message="Upstream"),
    "a detail": Sent('{"detail": "Not Found"}', message="Not Found"),
    "no choice": Sent(completion(choices=[]), cause=Cause.PROVIDER_ERROR,
                      message="the provider answered without a choice"),
    "a blank answer": Sent(completion({"content": " \n "}), cause=Cause.INCOMPLETE, code="empty_answer"),
    "an answer that was cut": Sent(completion(finish="length"), cause=Cause.INCOMPLETE,
                                   message="the answer ended with 'length'"),
    "an answer that was broken off": Sent(completion(finish="error"), message="the answer ended with 'error'"),
    "a page": Sent(HTML, cause=Cause.PROVIDER_ERROR, content_type="text/html",
                   message="the provider sent text/html instead of JSON: Sign in"),
    "an error in a 200 response": Sent('{"error": {"message": "upstream down", "code": 502}}', on=RESPONSES,
                                       cause=Cause.PROVIDER_ERROR, code="502", message="upstream down"),
    "an error as a number": Sent('{"error": 429}', cause=Cause.RATE_LIMITED, code="429"),
    "an error as JSON in a string": Sent(
        json.dumps({"error": json.dumps({"message": "Slow down", "code": 429})}),
        cause=Cause.RATE_LIMITED, code="429", message="Slow down",
    ),
    "an error with a status": Sent(
        '{"detail": {"error": "model is loading", "status": 503}}', cause=Cause.PROVIDER_ERROR, code="503",
        message="model is loading",
    ),
    "an error with a float as its code": Sent(
        '{"error": {"message": "x", "code": 429.0}}', cause=Cause.RATE_LIMITED, code="429", message="x"
    ),
    "an error in other words": Sent('{"success": false, "msg": "no credit", "code": 402, "data": null}',
                                    cause=Cause.QUOTA_EXHAUSTED, code="402", message="no credit"),
    "a call of no function": Sent(called(call(function=None)), cause=Cause.INCOMPLETE, code="empty_answer"),
    "a failed response": Sent(
        response(status="failed", output=[], error={"code": "server_error", "message": "Sorry."}), on=RESPONSES,
        cause=Cause.PROVIDER_ERROR, code="server_error", message="Sorry.",
    ),
    "JSON instead of a stream": Sent(completion(), "fine", streamed=True, emitted=("fine",)),
    "JSON instead of a stream of a response": Sent(response(TEXT), "fine", on=RESPONSES, streamed=True,
                                                   emitted=("fine",)),
    "a page instead of a stream": Sent(
        HTML, cause=Cause.PROVIDER_ERROR, content_type="text/html", streamed=True, emitted=(),
        message="the provider sent text/html instead of JSON: Sign in",
    ),
    "half characters in two pieces": Sent(
        events(chunk({"content": "\ud83d"}), chunk({"content": "\ude00!"}, "stop")), "\U0001f600!",
        content_type=EVENTS, streamed=True, emitted=("\U0001f600!",),
    ),
    "half a character at the end": Sent(
        events(chunk({"content": "hi\ud83d"}, "stop")), "hi\ufffd", content_type=EVENTS, streamed=True
    ),
    "a delta that is null": Sent(
        events(chunk(None), chunk({"content": "fine"}), chunk(None, "stop")), "fine", content_type=EVENTS, streamed=True
    ),
    "pieces as parts": Sent(
        events(chunk({"content": [{"type": "text", "text": "fine"}]}, "stop")), "fine", content_type=EVENTS, streamed=True
    ),
    "lines that end with CR LF, comments and no empty line at the end": Sent(
        f": hello\r\nevent: x\r\ndata: {json.dumps(chunk({'content': 'fine'}, 'stop'))}\r\n", "fine",
        content_type=EVENTS, streamed=True,
    ),
    "another index of the choice": Sent(
        events({"choices": [{"index": "0", "delta": {"content": "fine"}, "finish_reason": "stop"}]}), "fine",
        content_type=EVENTS, streamed=True,
    ),
    "pieces of a completion": Sent(
        events({"choices": [{"index": 0, "text": "fine", "finish_reason": "stop"}]}), "fine", content_type=EVENTS,
        streamed=True,
    ),
    "spoken pieces": Sent(
        events(chunk({"audio": {"transcript": "fine"}}, "stop")), "fine", content_type=EVENTS, streamed=True
    ),
    "an end mark without a finish reason": Sent(
        events(chunk({"content": "fine"})), "fine", content_type=EVENTS, streamed=True
    ),
    "an end mark that was cut": Sent(
        events(chunk({"content": "fine"}, "stop"), done=False) + "data: [DON", "fine", content_type=EVENTS, streamed=True
    ),
    "events that say nothing": Sent(
        events(None, 42, '"ping"', {"status": "ok"}, {"message": "processing"}, chunk({"content": "fine"}, "stop")), "fine",
        content_type=EVENTS, streamed=True,
    ),
    "JSON on each line": Sent(
        json.dumps(chunk({"content": "fi"})) + "\n" + json.dumps(chunk({"content": "ne"}, "stop")) + "\n", "fine",
        content_type="application/x-ndjson", streamed=True,
    ),
    "JSON that says it is a stream": Sent(completion(), "fine", content_type=EVENTS, streamed=True),
    "a response whose text came before": Sent(
        events(DELTA, {"type": "response.completed", "response": json.loads(response(output=[]))}), "half",
        on=RESPONSES, content_type=EVENTS, streamed=True,
    ),
    "an error between events": Sent(
        events(chunk({"content": "half"}), done=False) + '{"error": {"message": "Rate limit", "code": 429}}\n',
        cause=Cause.RATE_LIMITED, code="429", message="Rate limit", content_type=EVENTS, streamed=True,
    ),
    "an error event of plain text": Sent(
        "event: error\ndata: rate limit exceeded\n\n", cause=Cause.RATE_LIMITED, message="rate limit exceeded",
        content_type=EVENTS, streamed=True,
    ),
    "an error after text": Sent(
        events(chunk({"content": "half"}), {"error": {"message": "Rate limit exceeded", "code": 429}}),
        cause=Cause.RATE_LIMITED, code="429", message="Rate limit exceeded", content_type=EVENTS, streamed=True,
        emitted=("half",),
    ),
    "an error in a streamed choice": Sent(
        events({"choices": [{"delta": {}, "error": {"message": "overloaded", "code": 503}, "finish_reason": "error"}]}),
        cause=Cause.PROVIDER_ERROR, code="503", message="overloaded", content_type=EVENTS, streamed=True,
    ),
    "an error as a streamed string": Sent(
        events({"error": "overloaded"}), message="overloaded", content_type=EVENTS, streamed=True
    ),
    "a failed response after text": Sent(
        events(DELTA, {"type": "response.failed", "response": json.loads(
            response(status="failed", output=[], error={"code": "rate_limit_exceeded", "message": "Slow down."}))}),
        cause=Cause.RATE_LIMITED, code="rate_limit_exceeded", message="Slow down.", on=RESPONSES, content_type=EVENTS,
        streamed=True, emitted=("half",),
    ),
    "an error of Anthropic's shape": Sent(
        events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, done=False),
        cause=Cause.PROVIDER_ERROR, message="Overloaded", content_type=EVENTS, streamed=True,
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)


@pytest.fixture(params=DRIVERS)
def performing(request: pytest.FixtureRequest) -> Iterator[Any]:
    with DRIVERS[request.param]() as driver:
        yield driver


@pytest.fixture
def answered(performing: Any, simulator: Any) -> Callable[..., Completion | Failure]:
    """Calls a backend on the simulator once, and returns its completion or the failure."""

    def answer(on: str = CHAT, streamed: bool = False, tools: Any = None) -> Completion | Failure:
        client = performing.closing(Client(api_key="sk-test", base_url=simulator.base_url, timeout_seconds=5.0))
        backend = ChatBackend(client) if on == CHAT else ResponsesBackend(client, in_conversations=False)
        question = JournaledMessage(text_message("user", "Where is it?"), "m1", 2, datetime.now(UTC))
        profile = Profile(tools_json=TOOL) if tools else Profile()
        request = BackendRequest(
            "k", "exchange", "run", "m", profile, Memory((question,), 2), 5.0, stream=streamed, tools=tools or {}
        )
        try:
            completed: Completion = performing(backend.answer(request))
        except ProviderRefused as refused:
            return refused.failure
        return completed

    return answer


@EVERY
def test_a_backend_reads_what_a_compatible_server_sends(
    answered: Any, performing: Any, simulator: Any, sent: Sent
) -> None:
    simulator.add_fault(sent.on, reply={"text": sent.text, "content_type": sent.content_type})
    outcome = answered(sent.on, sent.streamed)
    parts = tuple(part.text for part in performing.told if isinstance(part, Delta))
    assert sent.emitted is None or parts == sent.emitted
    for part in parts:
        part.encode()  # each part is valid text
    check(outcome, sent)
    if isinstance(outcome, Completion) and sent.streamed:
        assert "".join(parts) == sent.answer


@EVERY
def test_a_recorded_client_has_the_same_outcome(open_store: Any, simulator: Any, sent: Sent) -> None:
    simulator.add_fault(sent.on, reply={"text": sent.text, "content_type": sent.content_type})
    with (
        openai.OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client,
        threadledger.record(client, ledger := open_store(), key="k") as recorded,
    ):
        given: dict[str, Any] = {"model": "m", "stream": sent.streamed}
        with suppress(Exception):  # what the app's SDK makes of the body is the app's own matter
            result = (
                recorded.chat.completions.create(messages=[{"role": "user", "content": "Where?"}], **given)
                if sent.on == CHAT
                else recorded.responses.create(input="Where?", **given)
            )
            for _ in result if sent.streamed else ():
                pass
    failures = [each.facts for each in ledger.failures()]
    if failures:
        check(failures[0], sent)
    else:
        shown = ledger.memory("k").messages[-1].message
        assert answer_text(shown) == sent.answer


def check(outcome: Completion | Failure, sent: Sent) -> None:
    if isinstance(outcome, Completion):
        text = outcome.messages[-1].text
        assert (text, outcome.usage.total_tokens) == (sent.answer, 0)
        return
    assert sent.answer is None, outcome
    assert (sent.message or outcome.message, outcome.code) == (outcome.message, sent.code)
    assert diagnose(outcome) is sent.cause or sent.cause is None
    assert diagnose(outcome) is not Cause.UNKNOWN or sent.cause is None
    body = outcome.details["body"]
    assert isinstance(body, str) and 0 < len(body) <= 2_000


# Tool calls


CALLS = {
    "arguments as an object": (called(call(function={"name": "f", "arguments": {"a": 1}})), [{"a": 1}]),
    "no arguments": (called(call(function={"name": "f"})), [{}]),
    "no function around it": (called({"id": "call_1", "name": "f", "arguments": "{}"}), [{}]),
    "a call of no function before it": (called(call(function=None), call(id="call_2")), [{}]),
    "no id": (called({"type": "function", "function": {"name": "f", "arguments": "{}"}}), [{}]),
    "no type": (called({"id": "call_1", "function": {"name": "f", "arguments": "{}"}}), [{}]),
    "two calls with one id": (called(call(), call(function={"name": "f", "arguments": '{"a": 2}'})), [{}, {"a": 2}]),
}


@pytest.mark.parametrize(("text", "arguments"), CALLS.values(), ids=CALLS)
def test_a_call_of_an_odd_shape_is_made(answered: Any, simulator: Any, text: str, arguments: Any) -> None:
    used: list[Any] = []
    simulator.add_fault(CHAT, reply={"text": text})
    simulator.answer("There it is.")
    outcome = answered(tools={"f": lambda **given: used.append(given) or "result"})
    assert isinstance(outcome, Completion), outcome
    assert (outcome.messages[-1].text, used) == ("There it is.", arguments)
    second = simulator.requests[-1].body["messages"]
    [calls] = [message["tool_calls"] for message in second if message.get("tool_calls")]
    ids = [each["id"] for each in calls]
    assert all(ids) and len(set(ids)) == len(ids)
    assert [message["tool_call_id"] for message in second if message["role"] == "tool"] == ids


def test_streamed_calls_that_share_an_index_are_different_calls(answered: Any, simulator: Any) -> None:
    used: list[Any] = []
    calls = [
        {"index": 0, "id": f"call_{number}", "function": {"name": "f", "arguments": json.dumps({"n": number})}}
        for number in (1, 2)
    ]
    text = events(*(chunk({"tool_calls": [each]}) for each in calls), chunk({}, "tool_calls"))
    simulator.add_fault(CHAT, reply={"text": text, "content_type": EVENTS})
    simulator.answer("There it is.")
    outcome = answered(streamed=True, tools={"f": lambda **given: used.append(given) or "result"})
    assert isinstance(outcome, Completion), outcome
    assert used == [{"n": 1}, {"n": 2}]


STREAMED_CALLS = {
    "no ids and no indexes": [{"function": {"name": "f", "arguments": '{"n": 1}'}},
                              {"function": {"name": "f", "arguments": '{"n": 2}'}}],
    "the id and the name in every part": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"n": '}},
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "1}"}},
        {"index": 1, "id": "b", "function": {"name": "f", "arguments": '{"n": 2}'}}],
    "indexes as text": [
        {"index": "0", "id": "a", "function": {"name": "f", "arguments": '{"n": '}},
        {"index": "1", "id": "b", "function": {"name": "f", "arguments": '{"n": '}},
        {"index": "0", "function": {"arguments": "1}"}}, {"index": "1", "function": {"arguments": "2}"}}],
    "two ids in turn at one index": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"n": '}},
        {"index": 0, "id": "b", "function": {"name": "f", "arguments": '{"n": '}},
        {"index": 0, "id": "a", "function": {"arguments": "1}"}},
        {"index": 0, "id": "b", "function": {"arguments": "2}"}}],
    "one id, each at its index": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"n": 1}'}},
        {"index": 1, "id": "a", "function": {"name": "f", "arguments": '{"n": '}},
        {"index": 1, "id": "a", "function": {"arguments": "2}"}}],
    "a name in pieces": [
        {"index": 0, "id": "a", "function": {"name": "", "arguments": ""}},
        {"index": 0, "function": {"name": "f", "arguments": '{"n": 1}'}},
        {"index": 1, "id": "b", "function": {"name": "f", "arguments": '{"n": 2}'}}],
}  # fmt: skip


@pytest.mark.parametrize("parts", STREAMED_CALLS.values(), ids=STREAMED_CALLS)
def test_the_parts_of_streamed_calls_are_put_together(answered: Any, simulator: Any, parts: Any) -> None:
    used: list[Any] = []
    text = events(*(chunk({"tool_calls": [each]}) for each in parts), chunk({}, "tool_calls"))
    simulator.add_fault(CHAT, reply={"text": text, "content_type": EVENTS})
    simulator.answer("There it is.")
    outcome = answered(streamed=True, tools={"f": lambda **given: used.append(given) or "result"})
    assert isinstance(outcome, Completion), outcome
    assert used == [{"n": 1}, {"n": 2}]


def test_tokens_from_a_cache_and_for_reasoning_are_counted(answered: Any, simulator: Any) -> None:
    usage = {
        "prompt_tokens": 10, "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    simulator.add_fault(CHAT, reply={"text": completion(usage=usage)})
    assert answered().usage.as_json() == {
        "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cached_tokens": 8, "reasoning_tokens": 3
    }  # fmt: skip


# Anything at all


NAMES = st.sampled_from(
    [*("id", "error", "choices", "message", "content", "tool_calls", "function", "name", "arguments", "status", "output"),
     *("type", "role", "usage", "prompt_tokens", "delta", "finish_reason", "index", "code", "detail", "errors", "text"),
     *("response", "required_action", "last_error", "incomplete_details", "object", "refusal", "thread_id", "audio")]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
APIS = st.sampled_from(["chat", "responses", "assistants"])


@given(api=APIS, body=st.dictionaries(NAMES, VALUES, max_size=6) | VALUES)
def test_any_json_is_an_answer_a_failure_or_a_run_in_progress(api: str, body: Any) -> None:
    seen = read_body(json.dumps(body).encode(), Context(api, CHAT, "req", 200, None, "application/json"))
    assert seen.outcome is not None or seen.remote_id is not None
    outcome = seen.outcome
    if isinstance(outcome, Failure):
        assert outcome == outcome.redacted()
        json.dumps(dict(outcome.details)).encode()
        diagnose(outcome)
    for message in outcome.messages if isinstance(outcome, Completion) else ():
        json.dumps(message.as_chat_message(), ensure_ascii=False).encode()


@given(api=APIS, data=st.lists(st.dictionaries(NAMES, VALUES, max_size=5) | VALUES, max_size=4), cut=st.integers(1, 9))
def test_any_stream_is_an_answer_a_failure_or_a_run_in_progress(api: str, data: list[Any], cut: int) -> None:
    fold = fold_of(Context(api, CHAT, "req", 200, None, EVENTS), events=True)
    body = events(*map(json.dumps, data)).encode()
    parts = [part for start in range(0, len(body), cut) for part in fold.take(body[start : start + cut])]
    seen = fold.end()
    "".join(parts).encode()
    assert seen.outcome is not None or seen.remote_id is not None


def test_an_error_of_the_reader_costs_a_recorded_app_nothing(
    open_store: Any, simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("threadledger.adapters.openai.bodies.seen_in", fail)
    monkeypatch.setattr("threadledger.adapters.openai.folds.ChatFold.event", fail)
    ledger = open_store()
    with (
        openai.OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client,
        threadledger.record(client, ledger, key="k") as recorded,
    ):
        given: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Where?"}]}
        assert recorded.chat.completions.create(**given).choices[0].message.content == "You said: Where?"
        streamed = recorded.chat.completions.create(**given, stream=True)
        said = [choice.delta.content or "" for each in streamed for choice in each.choices]
        assert "".join(said) == "You said: Where?"
    assert [each.facts.type for each in ledger.failures()] == ["RuntimeError", "RuntimeError"]
