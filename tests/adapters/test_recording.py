"""An app that keeps its own loop on the SDK: each of its calls is a recorded run, and the app notices nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

import threadledger
from threadledger.adapters.recording.histories import first_new
from threadledger.adapters.recording.requests import Sent
from threadledger.adapters.recording.runs import CallRecorder
from threadledger.adapters.sql import blobs as sql_blobs
from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.events import FallbackUsed
from threadledger.domain.errors import InvalidInput, InvalidKey, StoreUnavailable

MODEL = "gpt-6-astra"
RESPONSES = "POST /responses"
CHAT = "POST /chat/completions"
RUNS = "POST /threads/{thread_id}/runs"
TOOL: Any = {
    "type": "function",
    "function": {"name": "find_parcel", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def ledger(open_store: Callable[[], Any]) -> Any:
    return open_store()


@pytest.fixture
def client(simulator: Any) -> Iterator[OpenAI]:
    """The app's own client."""
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as made:
        yield made


@pytest.fixture
def recorded(client: OpenAI, ledger: Any) -> OpenAI:
    return threadledger.record(client, ledger, key="customer-42")


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def said(ledger: Any, key: str = "customer-42") -> list[tuple[str, Any]]:
    """(role, text) of a conversation's memory."""
    return [(each.message.role.value, each.message.text) for each in ledger.memory(key).messages]


def told(ledger: Any, key: str = "customer-42") -> list[str]:
    """The names of a conversation's events."""
    return [type(event).__name__ for event in ledger.conversation(key).events()]


def runs(ledger: Any, key: str = "customer-42") -> list[Any]:
    """A conversation's runs."""
    return list(ledger.exchanges(key).runs.values())


def serving(answer: Callable[[httpx2.Request], httpx2.Response]) -> OpenAI:
    """A client whose HTTP goes to a function: for what no server says by itself."""
    return OpenAI(api_key="sk-test", max_retries=0, http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))


class Bytes(httpx2.SyncByteStream):
    """A body in given pieces; an exception among them is raised in its place."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed = True


def chunk(text: str | None = None, finish_reason: str | None = None, **delta: Any) -> bytes:
    """A piece of a streamed answer of Chat Completions."""
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": text} | delta, "finish_reason": finish_reason}],
    }
    return f"data: {json.dumps(data)}\n\n".encode()


def streaming(*pieces: bytes | Exception, **headers: str) -> OpenAI:
    """A client that is answered by a stream of these pieces."""
    kind = {"content-type": "text/event-stream"} | headers
    return serving(lambda request: httpx2.Response(200, headers=kind, stream=Bytes(*pieces)))


def ask_streamed(client: OpenAI, text: str = "Where is my parcel?") -> Any:
    return client.chat.completions.create(model=MODEL, messages=[user(text)], stream=True)


# The app notices nothing.


def test_a_recorded_client_is_of_the_same_type_and_the_given_one_records_nothing(client, recorded, ledger):
    assert type(recorded) is OpenAI
    assert recorded is not client
    assert (recorded.base_url, recorded.timeout, recorded.max_retries) == (
        client.base_url,
        client.timeout,
        client.max_retries,
    )
    client.chat.completions.create(model=MODEL, messages=[user("Hello?")])
    assert ledger.conversations() == []


def test_the_app_gets_the_answer_that_the_sdk_gives(client, recorded):
    question: Any = {"model": MODEL, "messages": [user("Where is my parcel?")]}
    plain, through = client.chat.completions.create(**question), recorded.chat.completions.create(**question)
    assert type(plain) is type(through)
    assert plain.choices[0].message == through.choices[0].message
    assert through._request_id


def test_the_app_gets_the_exception_that_the_sdk_raises(client, recorded, simulator):
    caught = []
    simulator.add_fault(RESPONSES, refuse={"status": 429, "code": "rate_limit_exceeded", "message": "Slow."}, times=2)
    for each in (client, recorded):
        with pytest.raises(openai.RateLimitError) as error:
            each.responses.create(model=MODEL, input="Hello?")
        caught.append(error.value)
    assert caught[0].body == caught[1].body
    assert str(caught[0]) == str(caught[1])


def test_everything_that_asks_no_model_passes_through_unseen(recorded, ledger):
    conversation = recorded.conversations.create()
    recorded.conversations.items.create(conversation.id, items=[{"role": "user", "content": "Hello?"}])
    recorded.models.list()
    assert ledger.conversations() == []


def test_the_settings_of_the_apps_own_http_client_hold(simulator, ledger):
    seen: list[httpx2.Request] = []
    hooks: Any = {"request": [seen.append]}
    own = httpx2.Client(headers={"x-app": "own"}, event_hooks=hooks, timeout=7.0)
    client = OpenAI(base_url=simulator.base_url, api_key="sk-test", http_client=own, default_headers={"x-sdk": "too"})
    with threadledger.record(client, ledger) as recorded:
        recorded.responses.create(model=MODEL, input="Hello?")
    assert recorded.timeout == httpx2.Timeout(7.0)
    assert (seen[0].headers["x-app"], seen[0].headers["x-sdk"]) == ("own", "too")
    assert own.is_closed


def test_copies_of_a_recorded_client_record_too(recorded, ledger):
    recorded.with_options(timeout=5).responses.create(model=MODEL, input="Hello?")
    assert told(ledger)[-2:] == ["RunCompleted", "MessageJournaled"]


def test_a_client_that_is_recorded_again_is_recorded_once_and_under_its_new_key(recorded, ledger):
    threadledger.record(recorded, ledger, key="customer-7").responses.create(model=MODEL, input="Hello?")
    assert [state.key for state in ledger.conversations()] == ["customer-7"]
    assert len(runs(ledger, "customer-7")) == 1


def test_raw_responses_are_recorded_and_stay_raw(recorded, ledger):
    raw = recorded.chat.completions.with_raw_response.create(model=MODEL, messages=[user("Raw?")])
    assert json.loads(raw.text)["object"] == "chat.completion"
    with recorded.chat.completions.with_streaming_response.create(
        model=MODEL, messages=[user("Streamed?")]
    ) as streamed:
        assert json.loads(streamed.read())["object"] == "chat.completion"
    assert [role for role, _ in said(ledger)] == ["user", "assistant"] * 2


def test_what_cannot_be_recorded_is_refused_with_one_sentence(client, ledger):
    with pytest.raises(InvalidInput, match="cannot be recorded: pass an OpenAI or AsyncOpenAI client"):
        threadledger.record(object(), ledger)  # type: ignore[type-var] # it is the wrong type that is tried
    with pytest.raises(InvalidKey):
        threadledger.record(client, ledger, key="")
    with pytest.raises(InvalidKey), threadledger.recording("x" * 201):
        pass


# A call is a run.


def test_the_question_and_the_start_of_the_run_are_committed_before_the_request_goes_out(ledger):
    seen: list[list[str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(told(ledger))
        return httpx2.Response(503)

    with suppress(openai.InternalServerError):
        threadledger.record(serving(answer), ledger, key="customer-42").responses.create(model=MODEL, input="Hello?")
    assert seen == [["ConversationStarted", "MessageJournaled", "RunStarted"]]


def test_a_completed_run_has_its_answer_and_what_the_provider_told(recorded, ledger):
    answer = recorded.chat.completions.create(model=MODEL, messages=[user("Where is my parcel?")])
    assert told(ledger) == [
        *("ConversationStarted", "MessageJournaled", "RunStarted"),
        *("RunCompleted", "MessageJournaled"),
    ]
    (run,) = runs(ledger)
    assert (run.backend, run.model, run.attempt, run.memory_rule) == ("chat", MODEL, 1, "2;all")
    assert (run.completed.remote_run_id, run.completed.request_id) == (answer.id, answer._request_id)
    assert run.completed.finish_reason == "stop"
    assert run.completed.usage["output_tokens"] == answer.usage.completion_tokens
    assert said(ledger) == [("user", "Where is my parcel?"), ("assistant", answer.choices[0].message.content)]


def test_a_refused_call_is_a_failed_run_with_the_facts(recorded, simulator, ledger):
    refuse = {"status": 429, "code": "rate_limit_exceeded", "type": "requests", "message": "Slow down.", "param": "p"}
    simulator.add_fault(CHAT, refuse=refuse | {"headers": {"Retry-After": 7}})
    with pytest.raises(openai.RateLimitError) as caught:
        recorded.chat.completions.create(model=MODEL, messages=[user("Hello?")])
    (failure,) = ledger.failures()
    facts = failure.facts
    assert (facts.http_status, facts.code, facts.type, facts.message, facts.param) == (
        *(429, "rate_limit_exceeded", "requests", "Slow down.", "p"),
    )
    assert (facts.retry_after_seconds, facts.request_id) == (7.0, caught.value.request_id)
    assert (failure.cause.value, failure.next) == ("rate_limited", "abandoned")


@pytest.mark.parametrize(
    ("fault", "cause"), [({"drop": True}, "network"), ({"lose_answer": True}, "network"), ({"hang": 600}, "timed_out")]
)
def test_a_call_that_gets_no_answer_is_a_failed_run(recorded, simulator, ledger, fault, cause):
    simulator.add_fault(RESPONSES, **fault)
    with pytest.raises(openai.APIConnectionError):
        recorded.with_options(timeout=0.3).responses.create(model=MODEL, input="Hello?")
    assert [failure.cause.value for failure in ledger.failures()] == [cause]


def test_a_page_of_a_proxy_is_no_answer(ledger):
    client = serving(lambda request: httpx2.Response(200, html="<h1>Log in</h1>"))
    with pytest.raises(Exception, match=r"str|JSON|attribute"):
        threadledger.record(client, ledger).responses.create(model=MODEL, input="Hello?").output_text  # noqa: B018 - looking at it is what raises
    assert [failure.cause.value for failure in ledger.failures()] == ["provider_error"]


@pytest.mark.parametrize("surface", ["chat", "responses"])
def test_an_answer_that_was_cut_off_is_a_failed_run_with_what_was_said(recorded, simulator, ledger, surface):
    simulator.add_fault(CHAT if surface == "chat" else RESPONSES, incomplete="max_output_tokens")
    if surface == "chat":
        recorded.chat.completions.create(model=MODEL, messages=[user("Tell me a long story.")])
    else:
        recorded.responses.create(model=MODEL, input="Tell me a long story.")
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.cause.value) == ("incomplete", "incomplete")
    assert failure.facts.partial_text


def test_a_response_that_failed_with_http_200_is_a_failed_run(recorded, simulator, ledger):
    simulator.add_fault(RESPONSES, fail={"code": "server_error", "message": "Sorry, something went wrong."})
    assert recorded.responses.create(model=MODEL, input="Hello?").status == "failed"
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.facts.code, failure.cause.value) == (
        "failed",
        "server_error",
        "provider_error",
    )


def test_each_retry_of_the_sdk_is_a_run_of_the_same_exchange(client, simulator, ledger):
    simulator.add_fault(RESPONSES, refuse={"status": 500, "headers": {"retry-after-ms": "1"}}, times=2)
    client = threadledger.record(client.with_options(max_retries=2), ledger)
    client.responses.create(model=MODEL, input="Where is my parcel?")
    (state,) = ledger.conversations()
    made = runs(ledger, state.key)
    assert [(run.state, run.attempt, run.next) for run in made] == [
        *(("failed", 1, "retried"), ("failed", 2, "retried"), ("completed", 3, "open")),
    ]
    assert len({run.exchange_id for run in made}) == 1
    assert [role for role, _ in said(ledger, state.key)] == ["user", "assistant"]


def test_retries_of_a_window_do_not_journal_its_question_again(client, simulator, ledger):
    recorded = threadledger.record(client.with_options(max_retries=1), ledger, key="customer-42")
    recorded.chat.completions.create(model=MODEL, messages=[user("one")])
    simulator.add_fault(CHAT, refuse={"status": 500, "headers": {"retry-after-ms": "1"}})
    recorded.chat.completions.create(model=MODEL, messages=[user("two")])
    assert [text for role, text in said(ledger) if role == "user"] == ["one", "two"]


def test_a_retry_goes_on_in_its_exchange_whatever_was_journaled_since(ledger):
    def answer(request: httpx2.Request) -> httpx2.Response:
        ledger.conversation("customer-42").append("user", "meanwhile")
        return httpx2.Response(500, headers={"retry-after-ms": "1"})

    recorded = threadledger.record(serving(answer).with_options(max_retries=1), ledger, key="customer-42")
    with pytest.raises(openai.InternalServerError):
        recorded.responses.create(model=MODEL, input="Hello?")
    assert [text for _, text in said(ledger)] == ["Hello?", "meanwhile", "meanwhile"]
    assert len({run.exchange_id for run in runs(ledger)}) == 1


def test_an_exchange_is_given_up_when_the_sdk_does_not_come_again(client, simulator, ledger):
    simulator.add_fault(RESPONSES, refuse={"status": 500, "headers": {"retry-after-ms": "1"}}, times=2)
    with pytest.raises(openai.InternalServerError):
        threadledger.record(client.with_options(max_retries=1), ledger).responses.create(model=MODEL, input="Hello?")
    assert [failure.next for failure in ledger.failures(unanswered=True)] == ["retried", "abandoned"]
    assert ledger.conversations()[0].unanswered == 1


def test_a_question_that_the_app_asks_again_is_answered_in_its_exchange(recorded, simulator, ledger):
    simulator.add_fault(RESPONSES, refuse={"status": 400, "message": "No."})
    with pytest.raises(openai.BadRequestError):
        recorded.responses.create(model=MODEL, input="Where is my parcel?")
    recorded.chat.completions.create(model=MODEL, messages=[user("Where is my parcel?")])
    first, second = runs(ledger)
    assert first.exchange_id == second.exchange_id
    assert (second.attempt, second.rerun_of) == (1, None)
    assert [(failure.next, failure.answered_by) for failure in ledger.failures()] == [("fallback", second.run_id)]
    (fallback,) = [event for event in ledger.conversation("customer-42").events() if type(event) is FallbackUsed]
    assert (fallback.failed_run_id, fallback.from_backend, fallback.to_backend) == (first.run_id, "responses", "chat")
    assert fallback.reason == "history_refused: HTTP 400: invalid_request_error: No."
    assert ledger.memory("customer-42").messages[-1].source.value == "fallback"
    assert [role for role, _ in said(ledger)] == ["user", "assistant"]
    assert ledger.state("customer-42").unanswered == 0


def test_an_app_that_calls_the_same_api_again_has_retried_the_run(recorded, simulator, ledger):
    simulator.add_fault(CHAT, refuse={"status": 500}, times=2)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            recorded.chat.completions.create(model=MODEL, messages=[user("Where is my parcel?")])
    assert [failure.next for failure in ledger.failures()] == ["retried", "abandoned"]
    recorded.chat.completions.create(model=MODEL, messages=[user("Where is my parcel?")])
    assert [(run.attempt, run.next) for run in runs(ledger)] == [(1, "retried"), (2, "retried"), (3, "open")]
    assert "FallbackUsed" not in told(ledger)
    assert [role for role, _ in said(ledger)] == ["user", "assistant"]


def test_parallel_calls_in_one_conversation_are_runs_alongside_each_other(simulator, ledger, client):
    together = Barrier(2)

    def meet(request: httpx2.Request) -> None:
        together.wait(timeout=30)

    own = httpx2.Client(event_hooks={"request": [meet]})
    recorded = threadledger.record(client.copy(http_client=own), ledger, key="customer-42")
    with own, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(recorded.responses.create, model=MODEL, input=text) for text in ("one", "two")]
        assert {each.result().status for each in asked} == {"completed"}
    first, second = runs(ledger)
    assert first.exchange_id != second.exchange_id
    assert second.started_at < first.ended_at
    assert {run.state for run in (first, second)} == {"completed"}
    assert sorted(role for role, _ in said(ledger)) == ["assistant", "assistant", "user", "user"]


def test_the_same_question_at_the_same_time_is_asked_in_exchanges_of_its_own(simulator, ledger, client):
    together = Barrier(3)

    def meet(request: httpx2.Request) -> None:
        together.wait(timeout=30)

    own = httpx2.Client(event_hooks={"request": [meet]})
    recorded = threadledger.record(client.copy(http_client=own), ledger, key="customer-42")
    with own, ThreadPoolExecutor(3) as pool:
        for earlier in ([], [user("Hello?"), {"role": "assistant", "content": "Hello."}]):
            messages = [*earlier, user("Where is my parcel?")]
            for each in [
                pool.submit(recorded.chat.completions.create, model=MODEL, messages=messages) for _ in range(3)
            ]:
                each.result()
    exchanges = [run.exchange_id for run in runs(ledger)]
    assert len(set(exchanges)) == 6
    assert sorted(ledger.state("customer-42").answered) == sorted(exchanges)
    assert [role for role, _ in said(ledger)].count("user") == 6


def test_the_same_question_while_its_run_is_open_shares_no_exchange(ledger):
    recorder = CallRecorder(ledger, "customer-42", max_retries=2)
    sent = partial(_chat_request, [user("Where is my parcel?")])
    first, second = recorder.recorded(sent()), recorder.recorded(sent())
    first.begin()
    second.begin()
    again = recorder.recorded(sent(retries=1))
    again.begin()
    assert first.exchange_id != second.exchange_id == again.exchange_id


def _chat_request(messages: list[Any], retries: int = 0) -> Sent:
    body = json.dumps({"model": MODEL, "messages": messages}).encode()
    return Sent("POST", "/v1/chat/completions", body, {"x-stainless-retry-count": str(retries)})


# Which conversation.


def test_a_block_names_the_conversation_before_the_client_does(recorded, ledger):
    with threadledger.recording("outer"):
        with threadledger.recording("inner"):
            recorded.responses.create(model=MODEL, input="one")
        recorded.responses.create(model=MODEL, input="two")
    recorded.responses.create(model=MODEL, input="three")
    assert {state.key for state in ledger.conversations()} == {"inner", "outer", "customer-42"}


def test_a_conversation_on_the_wire_is_the_conversation(client, ledger):
    recorded = threadledger.record(client, ledger)
    conversation = recorded.conversations.create().id
    for text in ("one", "one"):
        recorded.responses.create(model=MODEL, input=text, conversation=conversation)
    assert [text for role, text in said(ledger, conversation) if role == "user"] == ["one", "one"]
    assert runs(ledger, conversation)[0].completed.thread_id == conversation


def test_a_response_that_follows_another_is_in_its_conversation(client, ledger):
    recorded = threadledger.record(client, ledger)
    first = recorded.responses.create(model=MODEL, input="one")
    second = recorded.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    recorded.responses.create(model=MODEL, input="three", previous_response_id=second.id)
    (state,) = ledger.conversations()
    assert [text for role, text in said(ledger, state.key) if role == "user"] == ["one", "two", "three"]


def test_calls_that_nothing_connects_have_conversations_of_their_own(client, ledger):
    recorded = threadledger.record(client, ledger)
    for _ in range(2):
        recorded.chat.completions.create(model=MODEL, messages=[user("Hello?")])
    keys = [state.key for state in ledger.conversations()]
    assert len(set(keys)) == 2
    assert all(key.startswith("run-") for key in keys)


# Which messages.


def test_of_a_history_sent_whole_only_what_memory_lacks_is_journaled(recorded, ledger):
    messages: list[Any] = [{"role": "system", "content": "Be brief."}]
    for text in ("yes", "yes", "no"):
        messages.append(user(text))
        answer = recorded.chat.completions.create(model=MODEL, messages=messages)
        messages.append(answer.choices[0].message)
    assert [text for role, text in said(ledger) if role == "user"] == ["yes", "yes", "no"]
    assert len(said(ledger)) == 6
    assert len(ledger.exchanges("customer-42").by_id) == 3


def test_a_history_from_before_recording_is_journaled_with_the_first_question(recorded, ledger):
    history = [user("one"), {"role": "assistant", "content": "1"}, user("two")]
    recorded.chat.completions.create(model=MODEL, messages=history)
    assert [text for _, text in said(ledger)][:3] == ["one", "1", "two"]
    exchange_id = runs(ledger)[0].exchange_id
    memory = ledger.memory("customer-42").messages
    assert [each.exchange_id for each in memory] == [None, None, exchange_id, exchange_id]


def test_of_a_window_only_what_follows_the_models_last_message_is_journaled(recorded, ledger):
    messages = [user("one")]
    for text in ("two", "three", "three"):
        answer = recorded.chat.completions.create(model=MODEL, messages=messages[-3:])
        messages += [{"role": "assistant", "content": answer.choices[0].message.content}, user(text)]
    recorded.chat.completions.create(model=MODEL, messages=messages[-3:])
    assert [text for role, text in said(ledger) if role == "user"] == ["one", "two", "three", "three"]
    assert runs(ledger)[-1].memory_rule == "2;app"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_are_not_journaled(recorded, ledger, role):
    for text in ("one", "two"):
        recorded.chat.completions.create(model=MODEL, messages=[{"role": role, "content": text}, user(text)])
        recorded.responses.create(model=MODEL, instructions=text, input=[{"role": role, "content": text}, user(text)])
    assert {each for each, _ in said(ledger)} == {"user", "assistant"}


def test_what_others_journal_while_a_call_is_written_down_is_seen(recorded, ledger, monkeypatch):
    read = ledger.journal.memory
    others = [user("one"), {"role": "assistant", "content": "1"}]

    def then_they_write(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        monkeypatch.setattr(ledger.journal, "memory", read)
        ledger.conversation("customer-42").extend(others)
        return found

    ledger.conversation("customer-42").append("user", "zero")
    monkeypatch.setattr(ledger.journal, "memory", then_they_write)
    recorded.chat.completions.create(model=MODEL, messages=[user("zero"), *others, user("two")])
    assert [text for _, text in said(ledger)][:-1] == ["zero", "one", "1", "two"]


def test_a_message_that_cannot_be_kept_does_not_keep_the_call_from_being_made(ledger):
    sent: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        return httpx2.Response(500)

    recorded = threadledger.record(serving(answer), ledger, key="customer-42")
    with suppress(openai.InternalServerError):
        recorded.chat.completions.create(model=MODEL, messages=[{"role": "herald", "content": "Hear!"}])  # type: ignore[list-item,misc] # no such role
    assert b"herald" in sent[0]
    assert said(ledger)[0][1].startswith("[a message was not kept: unknown role 'herald'")


def test_of_a_message_with_an_attachment_that_is_too_large_the_rest_is_kept(recorded, ledger, monkeypatch):
    monkeypatch.setattr(sql_blobs, "BLOB_BYTES_MAX", 100)
    images = [f"data:image/png;base64,{b64encode(bytes(size)).decode()}" for size in (100, 101)]
    parts: list[Any] = [{"type": "text", "text": "Which is better?"}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in images]
    messages: list[Any] = [{"role": "user", "content": parts}]
    for question in ("", "And now?"):
        if question:
            messages += [{"role": "assistant", "content": said(ledger)[-1][1]}, user(question)]
        recorded.chat.completions.create(model=MODEL, messages=messages)
    stored = ledger.memory("customer-42").messages
    assert [each.message.role.value for each in stored] == ["user", "assistant"] * 2
    text, first, second = stored[0].message.content_as_json()
    assert (text, first["image_url"]["size"]) == (parts[0], 100)
    assert second["text"].startswith("[an attachment was not kept: an attachment has more than")


def test_an_exchange_goes_on_over_its_tool_calls(recorded, simulator, ledger):
    call: Any = {"tool_calls": [{"name": "find_parcel", "arguments": {"id": 7}}]}
    simulator.answer(call, "It is in Lyon.")
    messages: list[Any] = [user("Where is my parcel?")]
    asked = recorded.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0].message
    assert ledger.state("customer-42").answered == []
    messages += [asked, {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "Lyon"}]
    recorded.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    assert [role for role, _ in said(ledger)] == ["user", "assistant", "tool", "assistant"]
    assert ledger.memory("customer-42").messages[1].message.calls()[0].name == "find_parcel"
    first, second = runs(ledger)
    assert (first.exchange_id, first.completed.goes_on) == (second.exchange_id, True)
    assert ledger.exchanges("customer-42").by_id[first.exchange_id].answered_by == second.run_id


def test_an_exchange_whose_tool_results_met_a_failure_has_no_answer(recorded, simulator, ledger):
    call: Any = {"tool_calls": [{"name": "find_parcel", "arguments": {}}]}
    simulator.answer(call)
    first = recorded.responses.create(model=MODEL, input="Where is my parcel?", tools=[TOOL["function"] | TOOL])
    simulator.add_fault(RESPONSES, refuse={"status": 500})
    result: Any = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "Lyon"}
    with pytest.raises(openai.InternalServerError):
        recorded.responses.create(model=MODEL, input=[result], previous_response_id=first.id)
    (failure,) = ledger.failures(unanswered=True)
    assert failure.exchange_id == runs(ledger)[0].exchange_id
    assert ledger.state("customer-42").unanswered == 1


@pytest.mark.parametrize(
    ("sent", "memory", "held", "new"),
    [
        ("u:a", "", False, 0),
        ("u:a m:b u:c", "u:a m:b", False, 2),
        ("u:a m:b u:a", "u:a m:b", False, 2),
        ("u:a", "u:a", False, 1),  # the same question again
        ("u:a", "u:a m:b", False, 0),  # a window of one: the same words, said again
        ("m:b u:c", "u:a m:b", False, 1),
        ("m:b u:c", "u:a m:b u:c", False, 2),  # a window, asked again
        ("u:c u:d", "u:a m:b u:c", False, 1),  # asked again, and more
        ("u:a m:x u:c", "u:a m:b", False, 2),  # edited
        ("u:c", "u:a m:b", True, 0),
        ("u:c", "u:a m:b u:c", True, 1),
        ("u:c m:d u:e", "u:a m:b", True, 0),
    ],
)
def test_position_says_which_messages_are_new(sent, memory, held, new):
    def messages(told: str) -> list[Any]:
        roles = {"u": "user", "m": "assistant"}
        return [parse_message({"role": roles[each[0]], "content": each[2:]}) for each in told.split()]

    assert first_new(messages(sent), messages(memory), held) == new


# Streams.


def test_a_stream_passes_as_it_comes_and_is_recorded_before_its_last_event(recorded, ledger):
    before: list[str] = []
    pieces = []
    for each in ask_streamed(recorded):
        if each.choices and each.choices[0].delta.content:
            before.append(told(ledger)[-1])
            pieces.append(each.choices[0].delta.content)
    assert len(pieces) > 1
    assert set(before) == {"RunStarted"}
    assert said(ledger)[-1] == ("assistant", "".join(pieces))


def test_the_stream_helpers_of_the_sdk_work_on_a_recorded_client(recorded, ledger):
    with recorded.responses.stream(model=MODEL, input="one") as stream:
        response = stream.get_final_response()
    with recorded.chat.completions.stream(model=MODEL, messages=[user("two")]) as chat:
        completion = chat.get_final_completion()
    assert [text for role, text in said(ledger) if role == "assistant"] == [
        response.output_text,
        completion.choices[0].message.content,
    ]
    assert [run.state for run in runs(ledger)] == ["completed", "completed"]


def test_the_end_of_a_stream_is_recorded_before_the_app_has_its_last_event(recorded, ledger):
    seen = [(event.type, told(ledger)[-1]) for event in recorded.responses.create(model=MODEL, input="a", stream=True)]
    assert seen[-1] == ("response.completed", "MessageJournaled")
    assert {last for _, last in seen[:-1]} == {"RunStarted"}


def test_the_tool_calls_of_a_stream_are_journaled(recorded, simulator, ledger):
    call: Any = {"tool_calls": [{"name": "find_parcel", "arguments": {"id": 7}}]}
    simulator.answer(call)
    for _ in recorded.chat.completions.create(model=MODEL, messages=[user("Where?")], tools=[TOOL], stream=True):
        pass
    (made,) = ledger.memory("customer-42").messages[-1].message.calls()
    assert (made.name, json.loads(made.arguments)) == ("find_parcel", {"id": 7})
    assert runs(ledger)[0].completed.goes_on


def test_an_answer_is_whole_once_its_reason_to_finish_was_told(ledger):
    recorded = threadledger.record(streaming(chunk("It is "), chunk("here.", "stop")), ledger, key="customer-42")
    for _ in ask_streamed(recorded):
        pass
    assert said(ledger)[-1] == ("assistant", "It is here.")


@pytest.mark.parametrize(
    ("pieces", "cause", "raised"),
    [
        ([], "network", None),
        ([httpx2.ReadError("reset by peer")], "network", openai.APIConnectionError),
        ([httpx2.ReadTimeout("too slow")], "timed_out", openai.APITimeoutError),
        ([b'data: {"error": {"message": "Busy.", "code": "server_error"}}\n\n'], "provider_error", openai.APIError),
        ([b"data: {no json\n\n"], "provider_error", json.JSONDecodeError),
    ],
    ids=["ends early", "breaks", "stalls", "tells an error", "is garbled"],
)
def test_a_stream_without_its_last_event_is_a_failed_run_with_what_was_said(ledger, pieces, cause, raised):
    recorded = threadledger.record(streaming(chunk("It is "), *pieces), ledger, key="customer-42")
    caught = None
    try:
        for _ in ask_streamed(recorded):
            pass
    except Exception as error:  # noqa: BLE001 - which one is what the test looks at
        caught = error
    assert type(caught) is (raised or type(None))
    (failure,) = ledger.failures()
    assert (failure.facts.partial_text, failure.cause.value) == ("It is ", cause)


def test_a_stream_that_the_app_closes_is_a_cancelled_run_with_what_was_said(ledger):
    recorded = threadledger.record(streaming(chunk("It is "), chunk("here.", "stop")), ledger, key="customer-42")
    stream = ask_streamed(recorded)
    next(stream)
    stream.close()
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.facts.partial_text) == ("cancelled", "It is ")


def test_a_response_that_fails_in_its_stream_is_a_failed_run(recorded, simulator, ledger):
    simulator.add_fault(RESPONSES, fail={"code": "server_error", "message": "Sorry, something went wrong."})
    events = [event.type for event in recorded.responses.create(model=MODEL, input="Hello?", stream=True)]
    assert events[-1] == "response.failed"
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.cause.value) == ("failed", "provider_error")


def test_a_compressed_stream_is_read_when_it_has_passed(ledger):
    import gzip

    body = gzip.compress(chunk("It is ") + chunk("here.", "stop") + b"data: [DONE]\n\n")
    client = streaming(body[:20], body[20:], **{"content-encoding": "gzip"})
    recorded = threadledger.record(client, ledger, key="customer-42")
    assert "".join(each.choices[0].delta.content for each in ask_streamed(recorded)) == "It is here."
    assert said(ledger)[-1] == ("assistant", "It is here.")


# Runs that outlast one request.


def test_a_response_in_the_background_ends_where_the_app_sees_its_end(recorded, ledger):
    response = recorded.responses.create(model=MODEL, input="Take your time.", background=True)
    assert told(ledger)[-1] == "RunStarted"
    while response.status in {"queued", "in_progress"}:
        response = recorded.responses.retrieve(response.id)
    assert said(ledger)[-1] == ("assistant", response.output_text)
    assert runs(ledger)[0].completed.remote_run_id == response.id


def test_a_response_in_the_background_outlives_its_stream(recorded, ledger):
    stream = recorded.responses.create(model=MODEL, input="Take your time.", background=True, stream=True)
    response = next(stream).response
    stream.close()
    assert ledger.failures() == []
    while response.status in {"queued", "in_progress"}:
        response = recorded.responses.retrieve(response.id)
    assert said(ledger)[-1] == ("assistant", response.output_text)


@pytest.fixture
def thread(recorded: OpenAI) -> Iterator[tuple[Any, str, str]]:
    """The threads API of a recorded client, a thread with a question, and an assistant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        threads = recorded.beta.threads
        made = threads.create(messages=[user("Where is my parcel?")])
        yield threads, made.id, recorded.beta.assistants.create(model=MODEL).id


def test_a_run_in_a_thread_ends_where_the_app_sees_its_end(thread, ledger):
    threads, thread_id, assistant_id = thread
    run = threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id)
    assert run.status == "completed"
    answer = threads.messages.list(thread_id, order="desc").data[0].content[0].text.value
    assert said(ledger) == [("user", "Where is my parcel?"), ("assistant", answer)]
    (recorded_run,) = runs(ledger)
    assert (recorded_run.backend, recorded_run.model) == ("assistants", assistant_id)
    assert (recorded_run.completed.remote_run_id, recorded_run.completed.thread_id) == (run.id, thread_id)


def test_messages_that_the_app_puts_into_a_thread_are_journaled(thread, ledger):
    threads, thread_id, assistant_id = thread
    threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id)
    threads.messages.create(thread_id, role="user", content="And the other one?")
    threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id, additional_messages=[user("Please.")])
    assert [text for role, text in said(ledger) if role == "user"] == [
        *("Where is my parcel?", "And the other one?", "Please."),
    ]
    assert len(ledger.exchanges("customer-42").by_id) == 2


def test_a_streamed_run_in_a_thread_is_recorded(thread, ledger):
    threads, thread_id, assistant_id = thread
    with threads.runs.stream(thread_id=thread_id, assistant_id=assistant_id) as stream:
        stream.until_done()
    assert [role for role, _ in said(ledger)] == ["user", "assistant"]
    assert runs(ledger)[0].state == "completed"


def test_a_run_in_a_thread_that_fails_is_a_failed_run(thread, simulator, ledger):
    threads, thread_id, assistant_id = thread
    simulator.add_fault(RUNS, fail={"code": "rate_limit_exceeded", "message": "You exceeded your quota."})
    assert threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id).status == "failed"
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.facts.code, failure.facts.thread_id) == (
        *("failed", "rate_limit_exceeded", thread_id),
    )


def test_the_tools_of_a_run_in_a_thread_are_journaled_and_the_run_goes_on(thread, simulator, ledger):
    threads, thread_id, assistant_id = thread
    call: Any = {"tool_calls": [{"name": "find_parcel", "arguments": {}}]}
    simulator.answer(call, "It is in Lyon.")
    run = threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id, tools=[TOOL])
    assert run.status == "requires_action"
    calls = run.required_action.submit_tool_outputs.tool_calls
    outputs: Any = [{"tool_call_id": calls[0].id, "output": "Lyon"}]
    threads.runs.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread_id, tool_outputs=outputs)
    assert [role for role, _ in said(ledger)] == ["user", "assistant", "tool", "assistant"]
    assert [(each.state, each.completed.remote_run_id) for each in runs(ledger)] == [("completed", run.id)]


def test_a_thread_and_its_run_made_at_once_are_recorded(client, ledger):
    recorded = threadledger.record(client, ledger)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assistant_id = recorded.beta.assistants.create(model=MODEL).id
        thread: Any = {"messages": [user("Where is my parcel?")]}
        run = recorded.beta.threads.create_and_run_poll(assistant_id=assistant_id, thread=thread)
        recorded.beta.threads.messages.create(run.thread_id, role="user", content="And the other one?")
    (state,) = ledger.conversations()
    assert [role for role, _ in said(ledger, state.key)] == ["user", "assistant", "user"]


# An app that falls back by itself, and adds the answer to its thread.


def fall_back(recorded: Any, threads: Any, thread_id: str, *questions: str, post: bool = True) -> str:
    """Answer with Chat Completions, as an app does whose run failed, and add the answer to the thread."""
    messages = [user(question) for question in questions]
    text: str = recorded.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content
    if post:
        threads.messages.create(thread_id, role="assistant", content=text)
    return text


def run_of_an_app(recorded: Any, threads: Any, thread_id: str, assistant_id: str, how: str) -> None:
    """Run the assistant in one of the ways of the SDK; its failure is not raised."""
    with suppress(openai.APIError):
        if how == "streamed":
            with threads.runs.stream(thread_id=thread_id, assistant_id=assistant_id) as stream:
                stream.until_done()
        else:
            threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id)


@pytest.mark.parametrize(
    ("how", "fault", "attempts", "cause"),
    [
        ("polled", {"fail": {"code": "server_error", "message": "Sorry, something went wrong."}}, 1, "provider_error"),
        ("streamed", {"fail": {"code": "server_error", "message": "Sorry."}}, 1, "provider_error"),
        ("polled", {"refuse": {"status": 400, "message": "No assistant found with id 'a'."}}, 1, "assistant_missing"),
        ("polled", {"refuse": {"status": 503, "headers": {"retry-after-ms": "1"}}, "times": 3}, 3, "provider_error"),
        ("polled", {"drop": True}, 1, "network"),
    ],
)
def test_a_fallback_of_the_app_is_one_exchange_with_one_answer(
    recorded, thread, simulator, ledger, how, fault, attempts, cause
):
    threads, thread_id, assistant_id = thread
    simulator.add_fault(RUNS, **fault)
    for _ in range(attempts):  # a client without retries of its own, as in LiteLLM
        run_of_an_app(recorded, threads, thread_id, assistant_id, how)
    text = fall_back(recorded, threads, thread_id, "Where is my parcel?")
    *failed, answered = runs(ledger)
    assert [(run.backend, run.next) for run in failed] == [
        *[("assistants", "retried")] * (attempts - 1),
        ("assistants", "fallback"),
    ]
    assert (answered.backend, answered.attempt, answered.exchange_id) == ("chat", 1, failed[-1].exchange_id)
    assert [failure.answered_by for failure in ledger.failures()] == [answered.run_id] * attempts
    assert told(ledger).count("FallbackUsed") == 1
    (fallback,) = [event for event in ledger.conversation("customer-42").events() if type(event) is FallbackUsed]
    assert fallback.reason.startswith(cause)
    assert said(ledger) == [("user", "Where is my parcel?"), ("assistant", text)]
    assert ledger.state("customer-42").unanswered == 0


def test_a_fallback_after_tools_were_used_asks_the_same_question(recorded, thread, simulator, ledger):
    threads, thread_id, assistant_id = thread
    call: Any = {"tool_calls": [{"name": "find_parcel", "arguments": {}}]}
    simulator.answer(call, "It is in Lyon.")
    run = threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id, tools=[TOOL])
    calls = run.required_action.submit_tool_outputs.tool_calls
    outputs: Any = [{"tool_call_id": calls[0].id, "output": "Lyon"}]
    simulator.add_fault("POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs", refuse={"status": 500})
    with suppress(openai.APIError):
        threads.runs.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread_id, tool_outputs=outputs)
    threads.runs.cancel(run.id, thread_id=thread_id)
    assert [each.failure.status for each in runs(ledger)] == ["cancelled"]
    threads.runs.poll(run.id, thread_id=thread_id)  # the thread takes no message before
    fall_back(recorded, threads, thread_id, "Where is my parcel?")
    assert [role for role, _ in said(ledger)] == ["user", "assistant", "tool", "assistant"]
    assert [each.exchange_id for each in runs(ledger)] == [runs(ledger)[0].exchange_id] * 2


def test_a_question_is_the_same_when_earlier_ones_were_left_without_an_answer(recorded, thread, simulator, ledger):
    threads, thread_id, assistant_id = thread
    simulator.add_fault(RUNS, fail={"code": "server_error"}, times=2)
    run_of_an_app(recorded, threads, thread_id, assistant_id, "polled")
    threads.messages.create(thread_id, role="user", content="Are you there?")
    run_of_an_app(recorded, threads, thread_id, assistant_id, "polled")
    fall_back(recorded, threads, thread_id, "Are you there?")
    assert [failure.next for failure in ledger.failures()] == ["abandoned", "fallback"]
    assert [role for role, _ in said(ledger)] == ["user", "user", "assistant"]


def test_the_same_text_that_is_posted_again_is_a_second_message(recorded, thread, ledger):
    threads, thread_id, _ = thread
    text = fall_back(recorded, threads, thread_id, "Where is my parcel?")
    threads.messages.create(thread_id, role="assistant", content=text)
    assert [each for _, each in said(ledger)] == ["Where is my parcel?", text, text]


def test_the_same_text_after_a_newer_question_is_a_second_message(recorded, thread, ledger):
    threads, thread_id, _ = thread
    text = fall_back(recorded, threads, thread_id, "Where is my parcel?", post=False)
    threads.messages.create(thread_id, role="user", content="And the other one?")
    threads.messages.create(thread_id, role="assistant", content=text)
    assert [each for _, each in said(ledger)] == ["Where is my parcel?", text, "And the other one?", text]


def test_another_text_or_another_clients_post_is_not_the_answer(recorded, client, thread, ledger):
    threads, thread_id, _ = thread
    text = fall_back(recorded, threads, thread_id, "Where is my parcel?", post=False)
    threads.messages.create(thread_id, role="assistant", content="We are looking into it.")
    other = threadledger.record(client, ledger, key="customer-42")
    other.beta.threads.messages.create(thread_id, role="assistant", content=text)
    assert [each for role, each in said(ledger) if role == "assistant"] == [text, "We are looking into it.", text]


def test_the_answer_of_a_run_in_the_thread_that_is_posted_there_is_there_twice(thread, ledger):
    threads, thread_id, assistant_id = thread
    threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id)
    text = said(ledger)[-1][1]
    threads.messages.create(thread_id, role="assistant", content=text)
    assert [each for role, each in said(ledger) if role == "assistant"] == [text, text]


def test_a_look_that_fails_is_no_failure_of_the_run(recorded, simulator, ledger):
    response = recorded.responses.create(model=MODEL, input="Take your time.", background=True)
    simulator.add_fault("GET /responses/{response_id}", refuse={"status": 500})
    with pytest.raises(openai.InternalServerError):
        recorded.responses.retrieve(response.id)
    assert ledger.failures() == []
    assert len(ledger.state("customer-42").open_runs) == 1


# The ledger must not cost the app its answer, and no call goes out that is not recorded.


def test_a_ledger_that_cannot_be_written_keeps_the_call_from_being_made(recorded, ledger, simulator, monkeypatch):
    def full(*arguments: Any, **options: Any) -> Any:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(ledger.journal, "commit", full)
    with pytest.raises(StoreUnavailable):
        recorded.responses.create(model=MODEL, input="Hello?")
    assert simulator.requests == []


def test_an_answer_that_cannot_be_written_down_is_handed_over_with_a_warning(client, ledger, caplog, db_path):
    def answer(request: httpx2.Request) -> httpx2.Response:
        ledger.close()
        return client._client.send(request)

    transport = httpx2.MockTransport(answer)
    recorded = threadledger.record(client.copy(http_client=httpx2.Client(transport=transport)), ledger, key="k")
    with caplog.at_level(logging.WARNING, "threadledger"):
        assert recorded.responses.create(model=MODEL, input="Hello?").output_text
    (warning,) = [each for each in caplog.records if each.name == "threadledger"]
    assert "could not be recorded" in warning.getMessage()


def test_an_answer_that_comes_after_its_run_was_closed_is_not_lost(ledger):
    def answer(request: httpx2.Request) -> httpx2.Response:
        ledger.journal.commit("customer-42", lambda conversation: conversation.interrupt())
        body = {"id": "resp_1", "object": "response", "status": "completed", "model": MODEL}
        content = [{"type": "output_text", "text": "Late.", "annotations": []}]
        return httpx2.Response(
            200, json=body | {"output": [{"type": "message", "role": "assistant", "content": content}]}
        )

    recorded = threadledger.record(serving(answer), ledger, key="customer-42")
    assert recorded.responses.create(model=MODEL, input="Hello?").output_text == "Late."
    assert [(run.state, run.backend) for run in runs(ledger)] == [("failed", "responses"), ("completed", "responses")]
    assert said(ledger)[-1] == ("assistant", "Late.")


def test_keys_and_headers_of_the_app_do_not_reach_the_ledger(recorded, simulator, ledger, db_path):
    simulator.add_fault(RESPONSES, refuse={"status": 401, "message": "Incorrect API key provided: sk-test-1234567890."})
    with pytest.raises(openai.AuthenticationError):
        recorded.responses.create(model=MODEL, input="Hello?", extra_headers={"x-secret": "hush"})
    ledger.close()
    stored = b"".join(path.read_bytes() for path in Path(db_path).parent.iterdir() if path.is_file())
    assert b"sk-test" not in stored
    assert b"hush" not in stored


@pytest.mark.parametrize("place", ["api_key", "copy", "header", "azure key", "azure token"])
def test_the_key_of_a_recorded_client_is_not_stored_when_the_provider_repeats_it(ledger, place):
    key = f"plain{place.replace(' ', '')}0123456789"

    def refuse(request: httpx2.Request) -> httpx2.Response:
        given = {name: value for name, value in request.headers.items() if key in value}
        return httpx2.Response(401, json={"error": {"message": f"wrong: {' and '.join(given.values())}, {key}"}})

    http_client = httpx2.Client(transport=httpx2.MockTransport(refuse))
    azure: Any = {"azure_endpoint": "https://azure.invalid", "api_version": "2026-10-01"}
    match place:
        case "azure key":
            client: Any = AzureOpenAI(**azure, api_key=key, http_client=http_client)
        case "azure token":
            client = AzureOpenAI(**azure, azure_ad_token_provider=lambda: key, http_client=http_client)
        case _:
            client = OpenAI(api_key=key if place == "api_key" else "other-key", http_client=http_client)
    recorded = threadledger.record(client, ledger, key="customer-42")
    recorded = recorded.with_options(api_key=key) if place == "copy" else recorded
    with pytest.raises(openai.AuthenticationError):
        headers = {"api-key": key} if place == "header" else {}
        recorded.chat.completions.create(model=MODEL, messages=[user("Hello?")], extra_headers=headers)
    (failure,) = ledger.failures()
    assert "wrong" in (failure.facts.message or "")
    assert key not in json.dumps([logged.as_json() for logged in ledger.events()])


# Other clients, other worlds.


def test_an_azure_client_is_recorded(simulator, ledger):
    client = AzureOpenAI(
        azure_endpoint=simulator.azure_endpoint, api_key="sk-test", api_version="2026-10-01", max_retries=0
    )
    recorded = threadledger.record(client, ledger, key="customer-42")
    assert type(recorded) is AzureOpenAI
    recorded.chat.completions.create(model=MODEL, messages=[user("one")])
    recorded.responses.create(model=MODEL, input="two")
    assert [(run.backend, run.model, run.state) for run in runs(ledger)] == [
        *(("chat", MODEL, "completed"), ("responses", MODEL, "completed")),
    ]


@pytest.fixture
def run_async(simulator: Any, ledger: Any) -> Callable[..., Any]:
    """Runs a coroutine function with a recorded async client."""

    def run(work: Callable[[AsyncOpenAI], Any], **options: Any) -> Any:
        async def main() -> Any:
            async with AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
                return await work(threadledger.record(client.copy(**options), ledger))

        return asyncio.run(main())

    return run


def test_an_async_client_is_recorded_in_the_conversation_of_its_task(run_async, ledger):
    async def work(client: AsyncOpenAI) -> None:
        async def ask(key: str) -> None:
            with threadledger.recording(key):
                await client.responses.create(model=MODEL, input=f"I am {key}.")

        await asyncio.gather(ask("ann"), ask("bob"))

    run_async(work)
    assert said(ledger, "ann")[0] == ("user", "I am ann.")
    assert said(ledger, "bob")[0] == ("user", "I am bob.")


def test_async_streams_retries_and_failures_are_recorded(run_async, simulator, ledger):
    async def work(client: AsyncOpenAI) -> None:
        simulator.add_fault(CHAT, refuse={"status": 503, "headers": {"retry-after-ms": "1"}})
        with threadledger.recording("customer-42"):
            stream = await client.chat.completions.create(model=MODEL, messages=[user("one")], stream=True)
            assert "".join([each.choices[0].delta.content or "" async for each in stream if each.choices])
            simulator.add_fault(RESPONSES, refuse={"status": 400})
            with pytest.raises(openai.BadRequestError):
                await client.responses.create(model=MODEL, input="two")

    run_async(work, max_retries=1)
    assert [(run.state, run.next) for run in runs(ledger)] == [
        *(("failed", "retried"), ("completed", "open"), ("failed", "abandoned")),
    ]


def test_async_runs_in_threads_are_recorded(run_async, ledger):
    async def work(client: AsyncOpenAI) -> None:
        with warnings.catch_warnings(), threadledger.recording("customer-42"):
            warnings.simplefilter("ignore", DeprecationWarning)
            assistant = await client.beta.assistants.create(model=MODEL)
            thread = await client.beta.threads.create(messages=[user("Where is my parcel?")])
            await client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)

    run_async(work)
    assert [role for role, _ in said(ledger)] == ["user", "assistant"]


def test_a_call_whose_task_is_cancelled_is_a_cancelled_run(run_async, ledger):
    async def work(client: AsyncOpenAI) -> None:
        sent = asyncio.Event()

        async def never(request: httpx2.Request) -> httpx2.Response:
            sent.set()
            await asyncio.Event().wait()
            return httpx2.Response(200)

        own = httpx2.AsyncClient(transport=httpx2.MockTransport(never))
        recorded = threadledger.record(client.copy(http_client=own), ledger, key="customer-42")
        task = asyncio.create_task(recorded.responses.create(model=MODEL, input="Hello?"))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(work)
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.cause.value) == ("cancelled", "cancelled")


def test_a_task_that_is_cancelled_while_its_run_is_written_down_leaves_no_open_run(
    run_async, ledger, simulator, monkeypatch
):
    commit = ledger.journal.commit

    async def work(client: AsyncOpenAI) -> None:
        loop, writing = asyncio.get_running_loop(), asyncio.Event()

        def told(*arguments: Any, **options: Any) -> Any:
            loop.call_soon_threadsafe(writing.set)
            return commit(*arguments, **options)

        monkeypatch.setattr(ledger.journal, "commit", told)
        with threadledger.recording("customer-42"):
            task = asyncio.create_task(client.responses.create(model=MODEL, input="Hello?"))
            await writing.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_async(work)
    assert simulator.requests == []
    assert [run.failure.status for run in runs(ledger)] == ["cancelled"]


def test_an_async_stream_that_the_app_leaves_is_a_cancelled_run(run_async, simulator, ledger):
    async def work(client: AsyncOpenAI) -> None:
        with threadledger.recording("customer-42"):
            stream = await client.responses.create(model=MODEL, input="Tell me a long story.", stream=True)
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
            await stream.close()

    run_async(work)
    (failure,) = ledger.failures()
    assert failure.facts.status == "cancelled"
    assert failure.facts.partial_text


def test_without_a_ledger_the_one_of_the_settings_is_used(client, simulator, monkeypatch, tmp_path):
    monkeypatch.setenv("THREADLEDGER_DB", f"sqlite:///{tmp_path / 'own.db'}")
    with threadledger.record(client, key="customer-42") as recorded:
        recorded.responses.create(model=MODEL, input="Hello?")
    with threadledger.open() as ledger:
        assert [role for role, _ in said(ledger)] == ["user", "assistant"]


TWO_MESSAGES: Any = [
    {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "One step."}],
        "encrypted_content": "gAAAAAB",
    },
    {"type": "message", "content": "I look.", "phase": "commentary"},
    {"type": "web_search_call", "action": {"type": "search", "query": "x"}},
    {"type": "message", "content": "It is 7.", "phase": "final_answer"},
]


@pytest.mark.parametrize("stream", [False, True])
def test_all_of_a_recorded_answer_is_kept_and_its_items_are_not_journaled_again(recorded, simulator, ledger, stream):
    simulator.answer({"output": TWO_MESSAGES})
    answered: Any = recorded.responses.create(model=MODEL, input="What time is it?", stream=stream)
    response = list(answered)[-1].response if stream else answered
    expected = [("user", "What time is it?"), ("assistant", "I look."), ("assistant", "It is 7.")]
    assert said(ledger) == expected
    memory = ledger.memory("customer-42").messages
    assert [part.as_json()["type"] for part in memory[1].message.content] == ["reasoning", "text"]
    assert [item["type"] for item in memory[2].message.native()["items"]] == ["web_search_call", "message"]
    history: Any = [user("What time is it?"), *response.to_dict()["output"], user("Thanks.")]
    recorded.responses.create(model=MODEL, input=history)
    assert said(ledger)[:4] == [*expected, ("user", "Thanks.")]
    as_text: Any = [user("What time is it?"), {"role": "assistant", "content": response.output_text}, user("Thanks.")]
    later: Any = [{"role": "assistant", "content": "You said: Thanks."}, user("Bye.")]
    recorded.responses.create(model=MODEL, input=[*as_text, *later])
    assert [text for role, text in said(ledger) if role == "user"] == ["What time is it?", "Thanks.", "Bye."]
    assert len(said(ledger)) == 7


def test_a_history_with_two_messages_as_one_text_is_known_and_what_follows_is_journaled(recorded, simulator, ledger):
    simulator.answer({"output": TWO_MESSAGES})
    text = recorded.responses.create(model=MODEL, input="What time is it?").output_text
    elsewhere: Any = [user("Thanks."), {"role": "assistant", "content": "From elsewhere."}, user("Bye.")]
    history: Any = [user("What time is it?"), {"role": "assistant", "content": text}, *elsewhere]
    recorded.responses.create(model=MODEL, input=history)
    assert [text for _, text in said(ledger)][3:] == ["Thanks.", "From elsewhere.", "Bye.", "You said: Bye."]


def test_the_citations_of_a_recorded_chat_are_kept_and_it_goes_on_with_its_own_history(recorded, simulator, ledger):
    cited = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://a.example", "title": "A"}
    text = {"type": "output_text", "text": "It is.", "annotations": [cited]}
    simulator.answer({"output": [{"type": "message", "content": [text]}]})
    answer = recorded.chat.completions.create(model=MODEL, messages=[user("Is it?")]).choices[0].message
    [part] = ledger.memory("customer-42").messages[-1].message.content
    assert [each["type"] for each in part.as_json()["annotations"]] == ["url_citation"]
    recorded.chat.completions.create(model=MODEL, messages=[user("Is it?"), answer.to_dict(), user("Thanks.")])
    assert [text for _, text in said(ledger)] == ["Is it?", "It is.", "Thanks.", "You said: Thanks."]
