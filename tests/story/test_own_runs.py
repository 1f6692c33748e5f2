"""Test that runs of an app that calls its own model are recorded like any other run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

import threadledger
from threadledger.domain.conversation import events, text_message
from threadledger.domain.conversation.messages import ToolCall, Usage
from threadledger.domain.errors import ConversationBusy, ExchangeAnswered, InvalidInput, InvalidMessage, RunNotOpen
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger
from threadledger.domain.ledger.own_answers import KEPT_FIELDS, completion_of

FACTS: dict[str, Any] = {
    "model": "llama-3.1-70b",
    "usage": Usage(12, 34),
    "finish_reason": "stop",
    "remote_run_id": "call-7",
}
WAITED_SECONDS_MAX = 30.0


ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([object(), len, b"x", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from((*KEPT_FIELDS, *["type", "text", "choices", "message", "output", "tool_calls"])), inner
        )
        | st.dictionaries(st.integers() | st.tuples(st.integers()), inner, max_size=1)
    ),
    max_leaves=5,
)
"""Values of any kind in the fields of an answer."""


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger(backends=("chat",), threads="none")


@pytest.fixture
def in_loop(db_url: str) -> Callable[..., Any]:
    """Return a function that runs a scenario in a new event loop with a new ledger, and returns its result."""

    def run(scenario: Callable[[AsyncLedger], Any], **settings: Any) -> Any:
        async def main() -> Any:
            async with threadledger.open_async(db_url, threads="none", **settings) as ledger:
                return await scenario(ledger)

        return asyncio.run(main())

    return run


def the_only(ledger: Ledger, kind: type[Any]) -> Any:
    (found,) = [logged.event for logged in ledger.events() if isinstance(logged.event, kind)]
    return found


def types(ledger: Ledger) -> list[str]:
    return [logged.type for logged in ledger.events()]


def test_what_the_app_knows_of_its_call_is_kept_with_the_answer(ledger: Ledger, asked_of: Callable[..., int]) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "How are you?")
    with chat.run(backend="my-llm", model="llama") as run:
        run.complete("Well, thank you.", **FACTS)
    completed = the_only(ledger, events.RunCompleted)
    assert (completed.run_id, completed.model, completed.finish_reason) == (run.run_id, "llama-3.1-70b", "stop")
    assert completed.remote_run_id == "call-7"
    assert completed.usage == Usage(12, 34).as_json()
    started = the_only(ledger, events.RunStarted)
    assert (started.backend, started.model, started.exchange_id) == ("my-llm", "llama", run.exchange_id)
    assert started.memory_version == 2
    answer = chat.memory().messages[-1]
    assert (answer.message.text, answer.run_id, answer.exchange_id) == ("Well, thank you.", run.run_id, run.exchange_id)
    assert asked_of() == 0


def test_an_exception_becomes_the_runs_failure_and_goes_on_up(ledger: Ledger) -> None:
    with pytest.raises(TimeoutError, match="too slow"), ledger.conversation("k").run("my-llm", "llama"):
        raise TimeoutError("too slow: sk-abcdefghijklmnopqrstuvwx")
    (failure,) = ledger.failures()
    assert (failure.facts.type, failure.backend, failure.next) == ("TimeoutError", "my-llm", "abandoned")
    assert failure.cause is Cause.TIMED_OUT
    assert "abcdefghijklm" not in str(failure.facts)
    assert types(ledger)[-2:] == ["RunFailed", "ExchangeAbandoned"]


def test_a_block_that_ends_without_an_answer_has_failed(ledger: Ledger) -> None:
    with ledger.conversation("k").run("my-llm", "llama"):
        pass
    assert [failure.facts.code for failure in ledger.failures()] == ["no_answer"]


def test_an_exception_after_the_answer_takes_nothing_back(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete("Well.")
        raise KeyError("later")
    assert ledger.failures() == []
    assert types(ledger)[-2:] == ["RunCompleted", "MessageJournaled"]


def test_ctrl_c_closes_the_run_as_interrupted(ledger: Ledger) -> None:
    with pytest.raises(KeyboardInterrupt), ledger.conversation("k").run("my-llm", "llama"):
        raise KeyboardInterrupt
    assert [failure.cause for failure in ledger.failures()] == [Cause.INTERRUPTED]
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete("Well.")


def test_an_answer_is_given_once(ledger: Ledger) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete("Well.")
        with pytest.raises(RunNotOpen):
            run.complete("Well, again.")
    assert [each.message.text for each in ledger.memory("k").messages] == ["Well."]


def test_an_answer_that_cannot_be_stored_leaves_the_run_open_for_another(ledger: Ledger) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        with pytest.raises(InvalidMessage):
            run.complete("half \ud83d a face")
        run.complete("a face")
    assert ledger.failures() == []


def test_a_call_that_failed_is_tried_again_in_the_same_exchange(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "How are you?")
    with pytest.raises(TimeoutError), chat.run("my-llm", "llama") as first:
        raise TimeoutError
    with chat.run("my-llm", "llama") as second:
        second.complete("Well.")
    assert second.exchange_id == first.exchange_id
    (failure,) = ledger.failures()
    assert failure.answered_by == second.run_id
    assert ledger.failures(unanswered=True) == []


@pytest.mark.parametrize("synchronous", [True, False], ids=["at once", "awaited"])
def test_a_run_that_others_closed_meanwhile_is_closed_once(
    ledger: Ledger, in_loop: Callable[..., Any], synchronous: bool
) -> None:
    def close_it(run_id: str) -> None:
        ledger.journal.commit("k", lambda conversation: conversation.interrupt())

    def at_once() -> None:
        with ledger.conversation("k").run("my-llm", "llama") as run:
            close_it(run.run_id)
            run.complete("Too late.")

    async def awaited(own: AsyncLedger) -> None:
        async with own.conversation("k").run("my-llm", "llama") as run:
            close_it(run.run_id)
            await run.complete("Too late.")

    with pytest.raises(RunNotOpen):
        at_once() if synchronous else in_loop(awaited)
    assert types(ledger).count("RunFailed") == 1
    assert [failure.cause for failure in ledger.failures()] == [Cause.INTERRUPTED]


# Async


def test_an_awaited_call_is_recorded_the_same(ledger: Ledger, in_loop: Callable[..., Any]) -> None:
    async def scenario(own: AsyncLedger) -> str:
        async with own.conversation("k").run("my-llm", "llama") as run:
            await run.complete("Well.", **FACTS)
        return run.run_id

    run_id = in_loop(scenario)
    completed = the_only(ledger, events.RunCompleted)
    assert (completed.run_id, completed.model, completed.finish_reason) == (run_id, "llama-3.1-70b", "stop")
    assert completed.usage == Usage(12, 34).as_json()


@pytest.mark.parametrize(
    ("error", "cause"), [(TimeoutError("too slow"), Cause.TIMED_OUT), (asyncio.CancelledError(), Cause.INTERRUPTED)]
)
def test_an_exception_in_an_awaited_block_becomes_the_runs_failure(
    ledger: Ledger, in_loop: Callable[..., Any], error: BaseException, cause: Cause
) -> None:
    async def scenario(own: AsyncLedger) -> None:
        with pytest.raises(type(error)):
            async with own.conversation("k").run("my-llm", "llama"):
                raise error

    in_loop(scenario)
    assert [failure.cause for failure in ledger.failures()] == [cause]


def test_a_task_that_is_cancelled_in_the_block_leaves_a_run_that_is_closed(
    ledger: Ledger, in_loop: Callable[..., Any]
) -> None:
    async def scenario(own: AsyncLedger) -> None:
        begun = asyncio.Event()

        async def call() -> None:
            async with own.conversation("k").run("my-llm", "llama"):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(call())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_loop(scenario)
    assert ledger.state("k").open_runs == {}
    assert [failure.cause for failure in ledger.failures()] == [Cause.INTERRUPTED]


# While another run is open


def test_a_call_while_a_run_is_open_is_refused(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    with chat.run("my-llm", "llama") as run:
        with pytest.raises(ConversationBusy), chat.run("my-llm", "llama"):
            pytest.fail("the block is not entered")
        run.complete("Well.")
    assert types(ledger).count("RunStarted") == 1


def test_a_call_waits_its_turn_where_questions_queue(db_url: str) -> None:
    with threadledger.open(db_url, threads="none", while_running="queue") as ledger:
        chat, waits, ran = ledger.conversation("k"), threading.Event(), []

        def wait(seconds: float) -> None:
            waits.set()
            time.sleep(min(seconds, 0.01))

        object.__setattr__(ledger.services, "wait", wait)

        def second() -> None:
            with chat.run("my-llm", "second") as run:
                ran.append("second")
                run.complete("two")

        with chat.run("my-llm", "first") as run:
            waiting = threading.Thread(target=second)
            waiting.start()
            assert waits.wait(WAITED_SECONDS_MAX)
            ran.append("first")
            run.complete("one")
        waiting.join(WAITED_SECONDS_MAX)
        assert ran == ["first", "second"]
        assert [each.message.text for each in ledger.memory("k").messages] == ["one", "two"]


def test_a_call_takes_the_place_of_an_open_run_where_questions_interrupt(db_url: str) -> None:
    with threadledger.open(db_url, threads="none", while_running="interrupt") as ledger:
        chat = ledger.conversation("k")
        with pytest.raises(RunNotOpen), chat.run("my-llm", "first") as first:
            with chat.run("my-llm", "second") as second:
                second.complete("two")
            first.complete("one")
        assert [(failure.run_id, failure.cause) for failure in ledger.failures()] == [(first.run_id, Cause.INTERRUPTED)]
        assert [each.message.text for each in ledger.memory("k").messages] == ["two"]


def test_what_was_appended_meanwhile_is_in_the_thread_when_the_run_has_failed(
    open_ledger: Callable[..., Ledger],
) -> None:
    ledger = open_ledger(backends=("chat",), threads="conversations")
    chat = ledger.conversation("k")
    chat.append("user", "How are you?")
    with pytest.raises(TimeoutError), chat.run("my-llm", "llama"):
        chat.append("user", "Are you there?")
        raise TimeoutError("too slow")
    assert [each.found.state.value for each in ledger.replay.verify(["k"])] == ["same"]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_answer_without_words_is_refused_and_the_run_stays_open(ledger: Ledger, text: str) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        with pytest.raises(InvalidMessage, match="the answer is empty"):
            run.complete(text)
        run.complete("Here I am.")
    assert types(ledger).count("RunCompleted") == 1


# Answers of any shape


COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "llama-3.1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Well."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
OUTPUT: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Well."}]},
]
CIRCLE: dict[str, Any] = {}
CIRCLE["circle"] = CIRCLE


ANSWERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": ("Well.", {}),
    "message": ({"role": "assistant", "content": "Well."}, {}),
    "parts": ([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Well."}], {}),
    "our message": (text_message("assistant", "Well."), {}),
    "an object of an SDK": (SimpleNamespace(role="assistant", content="Well.", refusal=None, tool_calls=None), {}),
    "parts that are objects": ([SimpleNamespace(type="output_text", text="Well.")], {}),
    "a spoken answer": ({"content": None, "audio": {"id": "a", "data": "UklG", "transcript": "Well."}}, {}),
    "a choice": ({"index": 0, "message": {"role": "assistant", "content": "Well."}, "finish_reason": "stop"}, {}),
    "a Chat Completion": (ChatCompletion.model_validate(COMPLETION), {}),
    "a Chat Completion as a dict": (COMPLETION, {}),
    "a response": ({"object": "response", "output": OUTPUT}, {}),
    "the output of a response": (OUTPUT, {}),
    "a text completion": ({"choices": [{"text": "Well.", "index": 0}]}, {}),
    "odd facts": (
        "Well.",
        {"finish_reason": {"x": object()}, "model": [object()], "usage": {"input_tokens": object()}},
    ),
    "facts in a circle": ("Well.", {"finish_reason": CIRCLE, "remote_run_id": 7, "usage": CIRCLE}),
    "odd fields": ({"content": "Well.", "audio": object(), "name": CIRCLE}, {}),
}


WITH_MORE = {
    "parts": ["thinking", "text"],
    "a spoken answer": ["message"],
    "a response": ["reasoning", "web_search_call", "message"],
    "the output of a response": ["reasoning", "web_search_call", "message"],
}
"""Answers that are more than a text, and the types of the items that are kept."""


@pytest.mark.parametrize("shape", ANSWERS)
def test_an_answer_is_journaled_whatever_its_shape(ledger: Ledger, shape: str) -> None:
    answer, more = ANSWERS[shape]
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete(answer, request_id="req_7", **more)
    [message] = [each.message for each in ledger.memory("k").messages]
    assert ledger.memory("k").as_chat_messages() == [{"role": "assistant", "content": "Well."}]
    assert (message == text_message("assistant", "Well.")) is (shape not in WITH_MORE)
    assert [item["type"] for item in message.native().get("items", ())] == WITH_MORE.get(shape, [])
    assert the_only(ledger, events.RunCompleted).request_id == "req_7"


def test_all_of_an_answer_of_an_sdk_is_kept(ledger: Ledger) -> None:
    cited = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 4, "url": "u", "title": "t"}}
    message = COMPLETION["choices"][0]["message"] | {"annotations": [cited], "refusal": None}
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete(
            ChatCompletion.model_validate(COMPLETION | {"choices": [COMPLETION["choices"][0] | {"message": message}]})
        )
    two = [*OUTPUT, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Good."}]}]
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete(SimpleNamespace(output=[SimpleNamespace(**each) for each in two]))
    first, *others = [each.message for each in ledger.memory("k").messages]
    assert [part["annotations"] for part in first.content_as_json()] == [[cited]]
    assert [each.text for each in others] == ["Well.", "Good."]


def test_what_is_too_large_of_an_own_answer_is_a_loss(ledger: Ledger) -> None:
    search = {"type": "web_search_call", "id": "ws_1", "results": ["y" * 4_000] * 20}
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete({"output": [search, OUTPUT[-1]]})
    assert the_only(ledger, events.RunCompleted).losses == {"native:web_search_call": 1}


def test_a_complete_answer_of_an_sdk_brings_its_facts(ledger: Ledger) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete(ChatCompletion.model_validate(COMPLETION))
    completed = the_only(ledger, events.RunCompleted)
    assert (completed.model, completed.finish_reason, completed.usage) == ("llama-3.1", "stop", Usage(3, 4).as_json())


@given(answer=ODD, tool_calls=st.none() | ODD, facts=st.fixed_dictionaries({"model": ODD, "finish_reason": ODD}))
def test_any_answer_is_read_or_refused_with_a_sentence(answer: Any, tool_calls: Any, facts: dict[str, Any]) -> None:
    with suppress(InvalidMessage):
        completion = completion_of(answer, tool_calls, answer, **facts)
        assert all(fact is None or fact.encode() for fact in (completion.model, completion.finish_reason))


@pytest.mark.parametrize(
    "answer", [None, [], {"content": ""}, [{"type": "text", "text": " "}], {"role": "user", "content": "a"}]
)
def test_what_is_no_answer_is_refused_and_the_run_stays_open(ledger: Ledger, answer: Any) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        with pytest.raises(InvalidMessage, match="the answer"):
            run.complete(answer)
        run.complete("Here I am.")
    assert types(ledger).count("RunCompleted") == 1


@pytest.mark.parametrize(
    "call",
    [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"id": 7}'}},
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"id": 7}},
        {"type": "function_call", "call_id": "call_1", "id": "fc_9", "name": "look", "arguments": '{"id": 7}'},
        SimpleNamespace(id="call_1", function=SimpleNamespace(name="look", arguments='{"id": 7}')),
        ToolCall("call_1", "look", '{"id": 7}'),
    ],
    ids=["Chat Completions", "Anthropic", "Responses", "an object", "ours"],
)
@pytest.mark.parametrize("alone", [False, True])
def test_an_exchange_goes_on_over_the_tool_calls_of_own_runs(ledger: Ledger, call: Any, alone: bool) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Where is my parcel?")
    with chat.run("my-llm", "llama") as first:
        first.complete(tool_calls=call if alone else [call])
    chat.append("tool", "Lyon", tool_call_id="call_1")
    with chat.run("my-llm", "llama") as second:
        second.complete("It is in Lyon.")
    assert first.exchange_id == second.exchange_id
    assert chat.memory().messages[1].message.calls() == (ToolCall("call_1", "look", '{"id": 7}'),)
    assert ledger.exchanges("k").by_id[first.exchange_id].answered_by == second.run_id


@pytest.mark.parametrize(
    "answer",
    [
        {"content": None, "function_call": {"name": "look", "arguments": '{"id": 7}'}},
        [*OUTPUT, {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"id": 7}'}],
        [{"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"id": 7}'}],
    ],
    ids=["the function call of earlier models", "items of Responses", "an item alone"],
)
def test_the_calls_in_an_answer_are_tool_calls(ledger: Ledger, answer: Any) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete(answer)
    (call,) = ledger.memory("k").messages[-1].message.calls()
    assert (call.name, call.arguments) == ("look", '{"id": 7}')
    assert "function_call" not in ledger.memory("k").messages[-1].message.extra_json


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (Usage(3, 4), (3, 4, 0, 0)),
        ({"input_tokens": 3, "output_tokens": "4", "cache_read_input_tokens": 2}, (3, 4, 2, 0)),
        (
            SimpleNamespace(
                prompt_tokens=3,
                completion_tokens=4,
                prompt_tokens_details=SimpleNamespace(cached_tokens=2),
                completion_tokens_details={"reasoning_tokens": 1},
            ),
            (3, 4, 2, 1),
        ),
        (
            {
                "input_tokens": 3,
                "output_tokens": 4,
                "input_tokens_details": {"cached_tokens": 2},
                "output_tokens_details": {"reasoning_tokens": 1},
            },
            (3, 4, 2, 1),
        ),
        ({"input_tokens": None, "output_tokens": [4], "prompt_tokens_details": "none"}, (0, 0, 0, 0)),
        ({"input_tokens": -1, "output_tokens": 10**400, "cached_tokens": True}, (0, 0, 0, 0)),
    ],
)
def test_usage_is_read_as_any_sdk_returns_it(ledger: Ledger, usage: Any, counts: tuple[int, ...]) -> None:
    with ledger.conversation("k").run("my-llm", "llama") as run:
        run.complete("Well.", usage=usage)
    stored = the_only(ledger, events.RunCompleted).usage
    assert stored == Usage(*counts).as_json()
    assert set(stored) - {"input_tokens", "output_tokens", "total_tokens"} == {
        name for name, count in zip(("cached_tokens", "reasoning_tokens"), counts[2:], strict=True) if count
    }


def test_the_text_so_far_is_kept_when_a_run_fails_and_is_the_answer_when_it_completes(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    with pytest.raises(ConnectionError), chat.run("my-llm", "llama") as run:
        run.partial("It is ")
        run.partial("in ")
        raise ConnectionError("reset by peer")
    assert ledger.failures()[0].facts.partial_text == "It is in "
    with chat.run("my-llm", "llama") as run:
        for piece in ("It is ", "in Lyon \ud83d", "\ude00."):
            run.partial(piece)
        run.complete()
    assert chat.memory().messages[-1].message.text == "It is in Lyon \N{GRINNING FACE}."


@pytest.mark.parametrize("piece", [7, b"in ", ["in "]], ids=lambda it: type(it).__name__)
def test_a_piece_that_is_no_text_is_refused_and_the_failed_run_is_closed(
    ledger: Ledger, in_loop: Callable[..., Any], piece: Any
) -> None:
    def stream(run: Any) -> None:
        for each in (None, "It is ", "", None, "\ud83d"):
            run.partial(each)
        with pytest.raises(InvalidMessage, match=f"a piece of the answer is {type(piece).__name__}"):
            run.partial(piece)
        raise ConnectionError("reset by peer")

    async def scenario(own: AsyncLedger) -> None:
        async with own.conversation("async").run("my-llm", "llama") as run:
            stream(run)

    with pytest.raises(ConnectionError), ledger.conversation("k").run("my-llm", "llama") as run:
        stream(run)
    with pytest.raises(ConnectionError):
        in_loop(scenario)
    assert [each.facts.partial_text for each in ledger.failures()] == ["It is \ufffd"] * 2


def test_a_run_whose_answer_is_journaled_elsewhere_answers_its_exchange(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    with chat.run("my-llm", "llama", journal=False) as run:
        run.complete("Well.", usage={"input_tokens": 1})
    assert types(ledger) == ["ConversationStarted", "RunStarted", "RunCompleted"]
    assert ledger.exchanges("k").by_id[run.exchange_id].answered_by == run.run_id
    assert ledger.state("k").open_exchanges == {}
    chat.append("assistant", "Well.")
    with chat.run("my-llm", "llama") as another:
        another.complete("Well, again.")
    assert another.exchange_id != run.exchange_id


# Fallbacks of the app


class RateLimited(Exception):
    """As SDKs raise it."""

    status_code = 429
    body: ClassVar = {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}


REASON = "rate_limited: HTTP 429: rate_limit_exceeded: Slow down."


def fallbacks(ledger: Ledger) -> list[tuple[str, str, str]]:
    found = [logged.event for logged in ledger.events() if isinstance(logged.event, events.FallbackUsed)]
    return [(each.from_backend, each.to_backend, each.reason) for each in found]


@pytest.mark.parametrize("grouped", [True, False], ids=["in a block", "run after run"])
def test_the_next_backend_of_the_app_is_a_fallback(ledger: Ledger, grouped: bool) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "How are you?")
    with chat.exchange() if grouped else nullcontext():
        for backend in ("claude", "claude", "llama", "local"):
            with suppress(RateLimited), chat.run(backend, "m") as run:
                if backend != "local":
                    raise RateLimited
                run.complete("Well.")
    assert fallbacks(ledger) == [("claude", "llama", REASON), ("llama", "local", REASON)]
    made = ledger.exchanges("k").runs.values()
    assert [(each.backend, each.attempt, each.next) for each in made] == [
        *(("claude", 1, "retried"), ("claude", 2, "fallback"), ("llama", 1, "fallback"), ("local", 1, "open")),
    ]
    assert {failure.answered_by for failure in ledger.failures()} == {run.run_id}
    assert chat.memory().messages[-1].source.value == "fallback"
    assert types(ledger).count("ExchangeAbandoned") == (0 if grouped else 3)
    assert (ledger.state("k").unanswered, len(ledger.exchanges("k").by_id)) == (0, 1)


def test_an_exchange_of_which_every_run_failed_is_abandoned_at_the_end_of_its_block(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    with chat.exchange() as exchange:
        for backend in ("claude", "llama"):
            with suppress(RateLimited), chat.run(backend, "m"):
                raise RateLimited
        assert "ExchangeAbandoned" not in types(ledger)
    assert [failure.next for failure in ledger.failures()] == ["fallback", "abandoned"]
    abandoned = the_only(ledger, events.ExchangeAbandoned)
    assert (abandoned.exchange_id, abandoned.run_ids) == (exchange.exchange_id, exchange.run_ids)
    assert REASON in abandoned.reason
    assert ledger.state("k").unanswered == 1


def test_an_answered_exchange_takes_no_further_runs_in_its_block(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    with chat.exchange() as exchange:
        with chat.run("claude", "m") as run:
            run.complete("Well.")
        assert exchange.answered
        with pytest.raises(ExchangeAnswered), chat.run("llama", "m"):
            pytest.fail("the block is not entered")
        with ledger.conversation("other").run("llama", "m") as elsewhere:
            elsewhere.complete("Well.")
    assert elsewhere.exchange_id != run.exchange_id


def test_a_newer_message_begins_another_exchange(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "How are you?")
    with pytest.raises(RateLimited), chat.run("claude", "m") as first:
        raise RateLimited
    chat.append("user", "Are you there?")
    with chat.run("llama", "m") as second:
        second.complete("Well.")
    assert first.exchange_id != second.exchange_id
    assert fallbacks(ledger) == []


def test_awaited_runs_of_an_exchange_are_recorded_the_same(ledger: Ledger, in_loop: Callable[..., Any]) -> None:
    async def scenario(own: AsyncLedger) -> None:
        chat = own.conversation("k")
        async with chat.exchange() as exchange:
            with suppress(RateLimited):
                async with chat.run("claude", "m") as run:
                    run.partial("It ")
                    raise RateLimited
            async with chat.run("llama", "m", journal=False) as run:
                await run.complete({"content": "Well."}, usage={"prompt_tokens": 1})
        assert exchange.answered

    in_loop(scenario)
    assert fallbacks(ledger) == [("claude", "llama", REASON)]
    assert [failure.facts.partial_text for failure in ledger.failures()] == ["It "]
    assert types(ledger)[-2:] == ["RunStarted", "RunCompleted"]


@pytest.mark.parametrize(
    "seconds", ["5", None, True, b"5", [], timedelta(seconds=5), 0, -1, float("nan"), float("inf"), 1e300], ids=repr
)
def test_a_timeout_that_is_no_number_of_seconds_is_refused_before_the_run(ledger: Ledger, seconds: Any) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "How are you?")
    with pytest.raises(InvalidInput, match="timeout_seconds"), chat.run("llama", "m", timeout_seconds=seconds):
        pass
    assert types(ledger) == ["ConversationStarted", "MessageJournaled"]
