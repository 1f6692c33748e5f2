"""Requests for completions that a client repeats or leaves: one message and one run, and nobody pays for an answer unread."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from threadledger.adapters.server.limits import ServerLimits
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.ledger import Ledger

from .chat_only import ChatOnly
from .speaking import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

HEADER = "x-threadledger-conversation"
RETRY = {"x-stainless-retry-count": "1"}
BODY: dict[str, Any] = {"model": "gpt-5.5", "messages": [{"role": "user", "content": "Hello"}]}
PATH = "/chat/completions"


@pytest.fixture
def server(open_api: Callable[..., Any]) -> Any:
    return open_api(retries=0)


def post(server: Any, headers: Any = None, **changed: Any) -> httpx2.Response:
    """Request a completion in the conversation `k`."""
    given = {HEADER: "k", **(headers or {})}
    return httpx2.post(f"{server.base_url}{PATH}", json=BODY | changed, headers=given, timeout=30)


@contextmanager
def sent(server: Any, **changed: Any) -> Iterator[None]:
    """Send the same request on a connection that is closed at the end; its body is written as httpx2 does."""
    raw = json.dumps(BODY | changed, separators=(",", ":")).encode()
    given = {"Host": f"127.0.0.1:{server.port}", "Content-Type": "application/json", HEADER: "k"}
    given["Content-Length"] = str(len(raw))
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST /v1{PATH} HTTP/1.1\r\n{head}\r\n".encode() + raw)
        yield


def of(ledger: Ledger, *kinds: type[e.Event]) -> list[Any]:
    return [each for each in ledger.conversation("k").events() if isinstance(each, kinds)]


def said(ledger: Ledger) -> list[str]:
    return [each.message.text for each in ledger.memory("k").messages]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_with_an_idempotency_key_is_answered_once(
    server: Any, ledger: Ledger, upstream: ChatOnly, stream: bool
) -> None:
    key = {"idempotency-key": "parcel-1"}
    first, second = post(server, key, stream=stream), post(server, key, stream=stream)
    assert said(ledger) == ["Hello", "You said: Hello"]
    assert len(upstream.requests) == 1
    if not stream:
        assert first.json() == second.json()
        return
    texts = []
    for each in (first, second):
        lines = [line.removeprefix("data: ") for line in each.text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        deltas = [json.loads(line)["choices"][0] for line in lines[:-1]]
        texts.append("".join(delta["delta"].get("content") or "" for delta in deltas))
        assert deltas[-1]["finish_reason"] == "stop"
    assert texts == ["You said: Hello"] * 2


def test_the_same_key_for_another_request_is_refused(server: Any, ledger: Ledger) -> None:
    key = {"idempotency-key": "parcel-1"}
    post(server, key)
    again = post(server, key, messages=[{"role": "user", "content": "Bye"}])
    assert (again.status_code, again.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert said(ledger) == ["Hello", "You said: Hello"]


def test_one_key_in_two_conversations_is_two_completions(server: Any, ledger: Ledger) -> None:
    key = {"idempotency-key": "parcel-1"}
    one, other = post(server, key, store=True), post(server, {**key, HEADER: "other"}, store=True)
    assert one.json()["id"] != other.json()["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_repetition_joins_the_run_of_the_first_request(
    server: Any, ledger: Ledger, upstream: ChatOnly, stream: bool
) -> None:
    key = {"idempotency-key": "parcel-1"}
    with ThreadPoolExecutor(2) as pool, upstream.held():
        first = pool.submit(post, server, key, stream=stream)
        upstream.wait_for(1)
        second = pool.submit(post, server, key, stream=stream)
        until(lambda: any(live.listeners == 2 for live in [*server.served.runner._attended.values()]))
        upstream._released.set()
        answers = [first.result().text, second.result().text]
    assert answers[0] == answers[1]
    assert len(upstream.requests) == len(of(ledger, e.RunStarted)) == 1


def test_the_sdk_s_retry_of_a_lost_request_is_the_same_request(server: Any, ledger: Ledger, upstream: ChatOnly) -> None:
    with upstream.held():  # until the server has noticed that the client has left
        with sent(server):
            upstream.wait_for(1)
        until(lambda: len(of(ledger, e.RunFailed, e.RunCompleted)) == 1)
    answer = post(server, RETRY)
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Hello"
    assert said(ledger) == ["Hello", "You said: Hello"]
    assert len(of(ledger, e.ExchangeRequested)) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_run_of_a_client_that_leaves_is_cancelled(
    server: Any, ledger: Ledger, upstream: ChatOnly, stream: bool
) -> None:
    with upstream.held():
        with sent(server, stream=stream):
            upstream.wait_for(1)
        until(lambda: of(ledger, e.ExchangeAbandoned))
    [failed] = of(ledger, e.RunFailed)
    assert (failed.status, failed.code) == ("cancelled", "listener_left")
    assert not server.served.runner._attended
    assert said(ledger) == ["Hello"]


def test_a_question_that_was_left_is_answered_when_it_is_sent_again(
    server: Any, ledger: Ledger, upstream: ChatOnly
) -> None:
    with upstream.held():
        with sent(server):
            upstream.wait_for(1)
        until(lambda: of(ledger, e.ExchangeAbandoned))
    assert post(server).status_code == 200
    assert said(ledger) == ["Hello", "You said: Hello"]
    assert len({each.exchange_id for each in of(ledger, e.RunStarted)}) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["it waits for a free place", "the run has not begun"])
def test_a_client_that_leaves_before_its_run_starts_leaves_no_open_exchange(
    open_api: Callable[..., Any], upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch, stream: bool, when: str
) -> None:
    server = open_api(retries=0, limits=ServerLimits(exchanges=1))
    ledger, runner = server.served.ledger, server.served.runner
    held, submit = threading.Event(), runner._threads.submit
    with ThreadPoolExecutor(1) as pool, upstream.held():
        if when == "it waits for a free place":
            first = pool.submit(post, server, {HEADER: "other"})
            upstream.wait_for(1)
        else:  # its thread has not begun when it leaves
            first = pool.submit(lambda: None)
            monkeypatch.setattr(runner._threads, "submit", lambda work: submit(lambda: (held.wait(), work())))
        with sent(server, stream=stream):
            until(lambda: any(live.key == "k" for live in [*runner._attended.values()]))
        until(lambda: all(live.key != "k" for live in [*runner._attended.values()]))
        held.set()
        until(lambda: of(ledger, e.ExchangeAbandoned))
        state = ledger.journal.require("k").state
        assert (dict(state.open_exchanges), len(state.abandoned), of(ledger, e.RunStarted)) == ({}, 1, [])
        upstream._released.set()
        first.result()
    assert post(server).status_code == 200
    assert said(ledger) == ["Hello", "You said: Hello"]


def test_a_server_that_stops_leaves_no_exchange_of_a_waiting_client_open(
    open_api: Callable[..., Any], upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.server.runner.STOP_SECONDS", 0.0)
    server = open_api(retries=0, limits=ServerLimits(exchanges=1))
    ledger, runner = server.served.ledger, server.served.runner
    with ThreadPoolExecutor(2) as pool, upstream.held():
        answers = [pool.submit(post, server, {HEADER: "other"})]
        upstream.wait_for(1)
        answers.append(pool.submit(post, server))
        until(lambda: any(live.key == "k" for live in [*runner._attended.values()]))
        runner.stop()
        assert [each.result().status_code for each in answers] == [503, 503]
    for key in ("other", "k"):
        assert dict(ledger.journal.require(key).state.open_exchanges) == {}


def test_a_run_with_another_listener_goes_on(server: Any, ledger: Ledger, upstream: ChatOnly) -> None:
    key = {"idempotency-key": "parcel-1"}
    attended = server.served.runner._attended
    with ThreadPoolExecutor(1) as pool, upstream.held():
        with httpx2.stream(
            "POST", f"{server.base_url}{PATH}", json=BODY | {"stream": True}, headers={HEADER: "k", **key}
        ):
            upstream.wait_for(1)
            second = pool.submit(post, server, key, stream=True)
            until(lambda: any(live.listeners == 2 for live in [*attended.values()]))
        until(lambda: any(live.listeners == 1 for live in [*attended.values()]))
        upstream._released.set()
        assert "[DONE]" in second.result().text
    assert of(ledger, e.RunFailed) == []


def test_a_failed_request_that_is_repeated_is_run_again(server: Any, ledger: Ledger, upstream: ChatOnly) -> None:
    key = {"idempotency-key": "parcel-1"}
    upstream.fail(500)
    first = post(server, key, store=True)
    assert first.status_code == 500
    second = post(server, key, store=True)
    assert second.status_code == 200
    assert said(ledger) == ["Hello", "You said: Hello"]
    assert len(of(ledger, e.ExchangeRequested)) == 1
    assert len(of(ledger, e.RunStarted)) == 2
    stored = httpx2.get(f"{server.base_url}{PATH}/{second.json()['id']}")
    assert stored.json() == second.json() == post(server, key, store=True).json()


def test_the_same_question_while_another_process_answers_it_is_an_exchange_of_its_own(
    server: Any, ledger: Ledger
) -> None:
    question = Message(Role.USER, "Hello")
    other = ledger.journal.commit("k", lambda conversation: conversation.ask(question), create=True)
    assert post(server).status_code == 200
    [run] = of(ledger, e.RunStarted)
    assert run.exchange_id != other
    assert said(ledger) == ["Hello", "Hello", "You said: Hello"]


def test_two_equal_requests_that_were_answered_stay_two(server: Any, ledger: Ledger) -> None:
    first, second = post(server), post(server)
    assert first.json()["id"] != second.json()["id"]
    third = post(server, RETRY)  # its first attempt never arrived
    assert third.json()["id"] not in {first.json()["id"], second.json()["id"]}


def test_an_answer_that_was_sent_before_the_server_started_is_found(
    open_api: Callable[..., Any], upstream: ChatOnly
) -> None:
    key = {"idempotency-key": "parcel-1"}
    first = open_api()
    answer = post(first, key)
    first.stop()
    again = post(open_api(), key)
    assert answer.json() == again.json()
    assert len(upstream.requests) == 1


def test_each_run_of_a_question_that_was_left_and_sent_again_is_shown_and_an_ended_one_never_changes(
    server: Any, ledger: Ledger, upstream: ChatOnly
) -> None:
    """A client that leaves ends its run: the next one, for the same question, is a run of its own."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        runs, messages = client.beta.threads.runs, client.beta.threads.messages

        def listed(**query: Any) -> list[Any]:
            return [each.model_dump() for each in runs.list("k", **query)]

        shown: list[Any] = []
        for number in (1, 2):
            with upstream.held():
                with sent(server, stream=number == 2):
                    upstream.wait_for(number)
                until(lambda count=number: len(of(ledger, e.ExchangeAbandoned)) == count)
            now = listed(order="asc")
            assert [each["status"] for each in now] == ["cancelled"] * number
            assert now[: number - 1] == shown
            shown = now
        assert post(server).status_code == 200
        upstream.fail(500)
        answer = {"role": "assistant", "content": "You said: Hello"}
        post(server, messages=[*BODY["messages"], answer, {"role": "user", "content": "Bye"}])
        [again] = ledger.replay.plan_rerun(failed=True).apply()
        assert again.state == "answered", again
        now = listed(order="asc")
        assert now[:2] == shown
        assert [each["status"] for each in now] == ["cancelled", "cancelled", "completed", "failed", "completed"]
        assert len({each["id"] for each in now}) == 5
        assert now[::-1] == listed() == listed(limit=1) == listed(limit=2)
        assert now == listed(order="asc", limit=1) == listed(order="asc", limit=2)
        assert now[1:3] == listed(order="asc", after=now[0]["id"], before=now[3]["id"])
        assert [runs.retrieve(each["id"], thread_id="k").model_dump() for each in now] == now
        answered = [each for each in messages.list("k", order="asc").data if each.role == "assistant"]
        assert [each.run_id for each in answered] == [now[2]["id"], now[4]["id"]]
        for each in answered:
            assert [found.id for found in messages.list("k", run_id=each.run_id)] == [each.id]
            [step] = runs.steps.list(each.run_id, thread_id="k")
            assert step.step_details.message_creation.message_id == each.id
            assert messages.retrieve(each.id, thread_id="k").run_id == each.run_id
        for each in now[:2]:
            assert [*messages.list("k", run_id=each["id"])] == [*runs.steps.list(each["id"], thread_id="k")] == []
