"""Agents whose session is a conversation, and whose model calls are runs of it: every message is there once.

The real SDK calls the simulator over HTTP. The session is compared with the SDK's own at every call (`both_sessions.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    ModelSettings,
    ModelTracing,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SessionSettings,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
)
from agents.extensions import handoff_filters
from agents.retry import ModelRetrySettings, retry_policies

import threadledger
from threadledger.contrib.agents import Session, recorded_model
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import InvalidInput, StoreError
from threadledger.domain.ledger import Ledger

from .both_sessions import BothSessions

KEY = "customer-42"
SOAK = "THREADLEDGER_SOAK" in os.environ
ENDPOINTS = {"responses": "POST /responses", "chat": "POST /chat/completions"}
CALL = {"tool_calls": [{"name": "look_up", "arguments": {"number": 42}}]}
CALLS = {"tool_calls": [{"name": "look_up", "arguments": {"number": number}} for number in (42, 43)]}
TO_BOB = {"tool_calls": [{"name": "transfer_to_bob", "arguments": {}}]}
REASONED = {
    "output": [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "A search first."}],
            "encrypted_content": "gAAA",
        },
        {"type": "web_search_call", "action": {"type": "search", "query": "parcel"}},
        {"type": "message", "content": [{"type": "output_text", "text": "It is in Bern.", "annotations": []}]},
        {"type": "function_call", "name": "look_up", "arguments": {"number": 44}},
    ]
}


@function_tool
def look_up(number: int) -> str:
    """Look a parcel up."""
    return f"parcel {number} is in Lyon"


@dataclass
class Agency:
    """Run agents on one conversation, with a model of one API that is recorded in one way."""

    api: str
    recorded_by: str
    streamed: bool
    simulator: Any
    ledger: Ledger
    client: Any
    both: BothSessions

    def model(self, name: str = "gpt-6-astra") -> Any:
        kind = OpenAIResponsesModel if self.api == "responses" else OpenAIChatCompletionsModel
        model = kind(name, self.client)
        return recorded_model(model, self.both.ours) if self.recorded_by == "model" else model

    def agent(self, name: str = "Ann", model: str = "gpt-6-astra", **options: Any) -> Any:
        return Agent(name=name, model=self.model(model), instructions="Be brief.", **{"tools": [look_up], **options})

    async def run(self, agent: Any, given: Any, *answers: Any, **options: Any) -> Any:
        """Run an agent whose model gives these answers."""
        for each in answers:
            self.simulator.answer(each)
        given_session = {"session": self.both} | options
        if not self.streamed:
            return await Runner.run(agent, given, **given_session)
        result = Runner.run_streamed(agent, given, **given_session)
        async for _ in result.stream_events():
            pass
        return result

    def fail(self, **fault: Any) -> None:
        self.simulator.add_fault(ENDPOINTS[self.api], **fault)

    async def check(self, *said: str, runs: int, exchanges: int, asides: int = 0) -> None:
        """Check that memory says this, that no answer is journaled twice, and that each run has its own."""
        items = await self.both.get_items()
        events = list(self.ledger.conversation(KEY).events())
        messages = [each for each in events if isinstance(each, e.MessageJournaled)]
        answers = [each for each in messages if each.role == "assistant"]
        assert Counter(each.run_id for each in answers) == Counter(
            each.run_id for each in events if isinstance(each, e.RunCompleted)
        )
        started = [each for each in events if isinstance(each, e.RunStarted)]
        assert (len(started), len({each.exchange_id for each in started})) == (runs, exchanges)
        assert len([each for each in messages if each.parent_version is not None]) == asides
        shown = [each.message.text for each in self.ledger.conversation(KEY).memory().messages]
        assert [text for text in shown if text] == [*said]
        assert len(items) == len([*self.both._same(items, items)])


Agents = Callable[[], Any]
WAYS = [
    ("responses", "model", False),
    ("chat", "client", False),
    ("responses", "client", True),
    ("chat", "model", True),
    *(
        [(api, by, not streamed) for api, by, streamed in (("responses", "model", False), ("chat", "client", False))]
        if SOAK
        else []
    ),
    *(
        [(api, by, not streamed) for api, by, streamed in (("responses", "client", True), ("chat", "model", True))]
        if SOAK
        else []
    ),
]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join((*way[:2], "streamed" if way[2] else "whole")))
two_ways = pytest.mark.parametrize(
    "way", WAYS if SOAK else WAYS[:3:2], ids=lambda way: " ".join((*way[:2], "streamed" if way[2] else "whole"))
)


@pytest.fixture
def play(way: Any, ledger: Ledger, simulator: Any) -> Callable[[Callable[[Agency], Awaitable[None]]], None]:
    """Return a function that plays a story in one of the ways."""

    def play_one(story: Callable[[Agency], Awaitable[None]]) -> None:
        async def play_it() -> None:
            async with agency(way, ledger, simulator) as made:
                await story(made)

        asyncio.run(play_it())

    return play_one


@asynccontextmanager
async def agency(way: Any, ledger: Ledger, simulator: Any) -> AsyncIterator[Agency]:
    async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
        both = BothSessions(Session(KEY, ledger))
        used = threadledger.record(client, ledger, key=KEY) if way[1] == "client" else client
        try:
            yield Agency(*way, simulator, ledger, used, both)
        finally:
            both.close()


Play = Callable[[Callable[[Agency], Awaitable[None]]], None]


@each_way
def test_the_same_question_twice_is_two_questions_with_an_answer_each(play: Play) -> None:
    async def story(it: Agency) -> None:
        ann = it.agent()
        await it.run(ann, "yes", "Fine.")
        await it.run(ann, "yes", "Fine.")
        await it.check("yes", "Fine.", "yes", "Fine.", runs=2, exchanges=2)

    play(story)


@each_way
def test_calls_of_tools_and_their_results_continue_one_exchange(play: Play) -> None:
    async def story(it: Agency) -> None:
        await it.run(it.agent(), "Where are they?", CALLS, CALL, "Both are in Lyon.")
        found = ("parcel 42 is in Lyon", "parcel 43 is in Lyon", "parcel 42 is in Lyon")
        await it.check("Where are they?", *found, "Both are in Lyon.", runs=3, exchanges=1)
        run_ids = [
            each.run_id for each in it.ledger.conversation(KEY).memory().messages if each.role_name == "assistant"
        ]
        assert len({*run_ids}) == 3
        shown = it.ledger.conversation(KEY).memory().as_chat_messages()
        assert [each["role"] for each in shown] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "assistant",
            "tool",
            "assistant",
        ]

    play(story)


@pytest.mark.parametrize("way", [each for each in WAYS if each[0] == "responses"], ids=str)
def test_reasoning_and_hosted_calls_come_back_exactly(play: Play) -> None:
    async def story(it: Agency) -> None:
        await it.run(it.agent(), "Where is it?", REASONED, "There.")
        kinds = [each.get("type", "question") for each in await it.both.get_items()]
        assert kinds == [
            "question",
            "reasoning",
            "web_search_call",
            "message",
            "function_call",
            "function_call_output",
            "message",
        ]
        await it.check("Where is it?", "It is in Bern.", "parcel 44 is in Lyon", "There.", runs=2, exchanges=1)

    play(story)


@each_way
def test_a_failure_has_its_facts_and_the_question_that_is_asked_again_is_another(play: Play) -> None:
    async def story(it: Agency) -> None:
        ann = it.agent()
        it.fail(refuse={"status": 429, "code": "rate_limit_exceeded", "message": "Too fast."})
        with pytest.raises(openai.RateLimitError) as refused:
            await it.run(ann, "yes")
        await it.run(ann, "yes", "Fine.")
        await it.check("yes", "yes", "Fine.", runs=2, exchanges=2)
        (failure,) = it.ledger.failures()
        assert (failure.backend, failure.model, failure.cause) == (it.api, "gpt-6-astra", "rate_limited")
        facts = failure.facts
        assert (facts.http_status, facts.code, facts.message) == (429, "rate_limit_exceeded", "Too fast.")
        assert facts.request_id == refused.value.request_id is not None

    play(story)


@two_ways
def test_a_question_that_is_taken_back_after_a_failure_is_asked_once(play: Play) -> None:
    async def story(it: Agency) -> None:
        it.fail(drop=True)
        with pytest.raises(openai.APIConnectionError):
            await it.run(it.agent(), "yes")
        assert await it.both.pop_item() == {"role": "user", "content": "yes"}
        await it.run(it.agent(), "no", "Fine.")
        await it.check("no", "Fine.", runs=2, exchanges=2)

    play(story)


@two_ways
def test_a_retry_of_the_sdk_is_another_run_of_the_exchange(play: Play) -> None:
    async def story(it: Agency) -> None:
        retry = ModelRetrySettings(
            max_retries=1, policy=retry_policies.http_status([503]), backoff={"initial_delay": 0.0}
        )
        it.fail(refuse={"status": 503})
        await it.run(it.agent(model_settings=ModelSettings(retry=retry)), "yes", "Fine.")
        await it.check("yes", "Fine.", runs=2, exchanges=1)
        (failure,) = it.ledger.failures()
        assert (failure.next, failure.answered_by is not None) == ("retried", True)

    play(story)


@two_ways
def test_an_incomplete_response_is_a_failed_run(play: Play) -> None:
    async def story(it: Agency) -> None:
        it.fail(incomplete="max_output_tokens")
        with pytest.raises(Exception, match="incomplete"):
            await it.run(it.agent(), "Tell me all.")
        (failure,) = it.ledger.failures()
        assert (failure.cause, failure.facts.details["incomplete_reason"]) == ("incomplete", "max_output_tokens")

    play(story)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (("chat", "client", True), "length"),
        (("chat", "model", True), "length"),
        (("chat", "model", False), "content_filter"),
    ],
    ids=str,
)
def test_a_chat_model_of_the_sdk_drops_why_a_text_ended_and_a_recorded_client_keeps_it(play: Play, reason: str) -> None:
    async def story(it: Agency) -> None:
        it.fail(incomplete="max_output_tokens" if reason == "length" else reason)
        said = (await it.run(it.agent(), "Tell me all.", "It is a long story.")).final_output
        assert said
        failures = [each.facts.details["finish_reason"] for each in it.ledger.failures()]
        assert failures == ([reason] if it.recorded_by == "client" else [])
        shown = [each.message.text for each in it.ledger.conversation(KEY).memory().messages]
        assert shown == ["Tell me all.", said]

    play(story)


@each_way
def test_a_response_that_failed_has_the_providers_words(play: Play) -> None:
    async def story(it: Agency) -> None:
        it.fail(fail={"code": "server_error", "message": "Sorry, something went wrong."})
        with pytest.raises(Exception, match="went wrong"):
            await it.run(it.agent(), "Where is it?")
        (failure,) = it.ledger.failures()
        facts = failure.facts
        assert (failure.cause, facts.code, facts.message) == (
            "provider_error",
            "server_error",
            "Sorry, something went wrong.",
        )

    play(story)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_key_that_a_provider_repeats_is_not_stored(play: Play) -> None:
    async def story(it: Agency) -> None:
        it.fail(refuse={"status": 401, "message": "The key an-odd-secret-of-ours is wrong."})
        it.client.api_key = "an-odd-secret-of-ours"
        with pytest.raises(openai.AuthenticationError):
            await it.run(it.agent(), "Where is it?")
        (failure,) = it.ledger.failures()
        assert failure.cause == "authentication"
        assert "odd-secret" not in repr([*it.ledger.conversation(KEY).events()])

    play(story)


@two_ways
def test_a_list_with_an_image_is_journaled_once(play: Play) -> None:
    async def story(it: Agency) -> None:
        png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
        image = {"type": "input_image", "image_url": f"data:image/png;base64,{png}", "detail": "auto"}
        given = [
            {"role": "user", "content": "one"},
            {"role": "user", "content": [{"type": "input_text", "text": "two"}, image]},
        ]
        merged = RunConfig(session_input_callback=lambda history, new: history + new)
        await it.run(it.agent(), given, "I see.", run_config=merged)
        await it.check("one", "two", "I see.", runs=1, exchanges=1)

    play(story)


@two_ways
def test_a_history_that_is_cut_or_changed_for_the_model_changes_nothing_in_memory(play: Play) -> None:
    def redacted(data: Any) -> Any:
        data.model_data.input[-1] = {"role": "user", "content": "[redacted]"}
        return data.model_data

    def reminded(data: Any) -> Any:
        data.model_data.input.append({"role": "user", "content": "Answer in French."})
        return data.model_data

    async def story(it: Agency) -> None:
        ann = it.agent()
        await it.run(ann, "one", "1")
        await it.run(ann, "two", "2", run_config=RunConfig(session_settings=SessionSettings(limit=1)))
        first = RunConfig(session_input_callback=lambda history, new: history[:1] + new)
        await it.run(ann, "three", "3", run_config=first)
        await it.run(ann, "my secret", "4", run_config=RunConfig(call_model_input_filter=redacted))
        await it.run(ann, "five", "5", run_config=RunConfig(call_model_input_filter=reminded))
        await it.check(
            *("one", "1", "two", "2", "three", "3", "my secret", "4", "five", "5"), runs=5, exchanges=5, asides=2
        )
        aside = [
            each for each in it.ledger.conversation(KEY).events() if getattr(each, "parent_version", None) is not None
        ]
        assert [each.content for each in aside] == ["[redacted]", "Answer in French."]

    play(story)


@two_ways
@pytest.mark.parametrize("how", ["plain", "filtered", "nested"])
def test_a_handoff_continues_the_exchange_with_another_agent(play: Play, how: str) -> None:
    async def story(it: Agency) -> None:
        bob = it.agent("Bob", "gpt-6-small")
        to_bob = handoff(bob, input_filter=handoff_filters.remove_all_tools if how == "filtered" else None)
        ann = it.agent(handoffs=[to_bob])
        nested = RunConfig(nest_handoff_history=how == "nested")
        await it.run(ann, "one", "1")
        await it.run(ann, "Give me Bob.", TO_BOB, "I am Bob.", run_config=nested)
        moved = [] if how == "filtered" else ['{"assistant": "Bob"}']
        await it.run(bob, "two", "2")
        await it.check("one", "1", "Give me Bob.", *moved, "I am Bob.", "two", "2", runs=4, exchanges=3)
        calls = [each for each in it.ledger.conversation(KEY).memory().messages if each.message.calls()]
        assert len(calls) == len(moved)
        started = [each.model for each in it.ledger.conversation(KEY).events() if isinstance(each, e.RunStarted)]
        assert started == ["gpt-6-astra", "gpt-6-astra", "gpt-6-small", "gpt-6-small"]

    play(story)


@two_ways
def test_what_a_guardrail_stops_is_in_the_log_and_leaves_memory(play: Play) -> None:
    @output_guardrail
    async def no_secrets(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, tripwire_triggered="secret" in output)

    @input_guardrail
    async def late_refusal(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await asyncio.to_thread(it_has_answered.wait_for_answer)
        return GuardrailFunctionOutput(None, tripwire_triggered=True)

    it_has_answered = Waiting()

    async def story(it: Agency) -> None:
        it_has_answered.ledger = it.ledger
        with pytest.raises(OutputGuardrailTripwireTriggered):
            await it.run(it.agent(output_guardrails=[no_secrets]), "one", "a secret")
        with pytest.raises(InputGuardrailTripwireTriggered):
            await it.run(it.agent(input_guardrails=[late_refusal], tools=[]), "two", "not wanted")
        assert [each["content"] for each in await it.both.get_items()] == ["one", "two"]
        await it.run(it.agent(), "three", "3")
        await it.check("one", "two", "three", "3", runs=3, exchanges=3)
        retracted = [each for each in it.ledger.conversation(KEY).events() if isinstance(each, e.MessageRetracted)]
        assert [each.reason for each in retracted] == ["the agent did not keep this answer"] * 2

    play(story)


@two_ways
def test_what_an_app_says_instead_of_a_stopped_answer_is_a_message_of_its_own(play: Play) -> None:
    @output_guardrail
    async def stop(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, tripwire_triggered=True)

    async def story(it: Agency) -> None:
        with pytest.raises(OutputGuardrailTripwireTriggered):
            await it.run(it.agent(output_guardrails=[stop]), "one", "a secret")
        await it.both.add_items([{"role": "assistant", "content": "I cannot say."}])
        assert [each["content"] for each in await it.both.get_items()] == ["one", "I cannot say."]
        with pytest.raises(OutputGuardrailTripwireTriggered):
            await it.run(it.agent(output_guardrails=[stop]), "two", "2")
        await it.both.add_items([{"role": "user", "content": "two"}, {"role": "assistant", "content": "2"}])
        await it.both.get_items()
        shown = [each.message.text for each in it.ledger.conversation(KEY).memory().messages]
        assert shown == ["one", "I cannot say.", "two", "two", "2"]

    play(story)


class Waiting:
    """Wait until an answer that a guardrail refuses is journaled."""

    ledger: Any = None

    def wait_for_answer(self) -> None:
        for event in self.ledger.events(types=["MessageJournaled"], follow=True):
            if event.event.content == "not wanted":
                return


@two_ways
def test_an_approval_resumes_the_exchange_in_another_task(play: Play) -> None:
    @function_tool(needs_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    async def story(it: Agency) -> None:
        ann = it.agent(tools=[pay, look_up])
        both = [{"name": "pay", "arguments": {"amount": 5}}, {"name": "look_up", "arguments": {"number": 42}}]
        paused = await it.run(ann, "Pay.", {"tool_calls": both})
        state = paused.to_state()
        await it.both.get_items()
        for each in paused.interruptions:
            state.approve(each)
        await asyncio.create_task(it.run(ann, state, "Done."))
        await it.check("Pay.", "parcel 42 is in Lyon", "paid 5", "Done.", runs=2, exchanges=1)

    play(story)


@two_ways
def test_an_agent_that_is_a_tool_is_recorded_beside_the_session(play: Play) -> None:
    async def story(it: Agency) -> None:
        bob = it.agent("Bob")
        ann = it.agent(tools=[bob.as_tool("ask_bob", "Ask Bob.")])
        ask = {"tool_calls": [{"name": "ask_bob", "arguments": {"input": "sub question"}}]}
        await it.run(ann, "Ask Bob.", ask, CALL, "sub answer", "sub answer")
        await it.check("Ask Bob.", "sub answer", "sub answer", runs=4, exchanges=2, asides=4)
        aside = [
            each for each in it.ledger.conversation(KEY).events() if getattr(each, "parent_version", None) is not None
        ]
        assert [each.role for each in aside] == ["user", "assistant", "tool", "assistant"]
        assert len({each.exchange_id for each in aside}) == 1

    play(story)


@two_ways
def test_a_retry_of_an_agent_that_is_a_tool_continues_its_exchange(play: Play) -> None:
    async def story(it: Agency) -> None:
        retry = ModelRetrySettings(
            max_retries=1, policy=retry_policies.http_status([503]), backoff={"initial_delay": 0.0}
        )
        bob = it.agent("Bob", model_settings=ModelSettings(retry=retry))
        ann = it.agent(tools=[bob.as_tool("ask_bob", "Ask Bob.")])
        it.fail(refuse={"status": 503}, after=1)
        ask = {"tool_calls": [{"name": "ask_bob", "arguments": {"input": "sub question"}}]}
        await it.run(ann, "Ask Bob.", ask, "sub answer", "Bob says so.")
        await it.check("Ask Bob.", "sub answer", "Bob says so.", runs=4, exchanges=2, asides=2)
        (failure,) = it.ledger.failures()
        assert (failure.next, failure.answered_by is not None) == ("retried", True)
        (branch, memory) = it.ledger.conversation(KEY).branches()
        assert (branch.selected, memory.selected) == (False, True)

    play(story)


@two_ways
def test_agents_that_run_at_the_same_time_keep_their_answers(play: Play) -> None:
    async def story(it: Agency) -> None:
        for _ in range(4):
            it.simulator.answer("Fine.")
        ann = it.agent(tools=[])
        assert await it.both.ours.get_items() == []  # in the task that starts theirs
        await asyncio.gather(*(it.run(ann, "yes", session=it.both.ours) for _ in range(4)))
        items = await it.both.ours.get_items()
        assert Counter(each["role"] for each in items) == {"user": 4, "assistant": 4}
        events = [each for each in it.ledger.conversation(KEY).events() if isinstance(each, e.MessageJournaled)]
        assert len(events) == len(items)

    play(story)


@two_ways
def test_an_agent_that_ends_with_a_tool_leaves_no_answer_and_the_next_question_is_new(play: Play) -> None:
    async def story(it: Agency) -> None:
        await it.run(it.agent(tool_use_behavior="stop_on_first_tool"), "one", CALL)
        await it.run(it.agent(), "two", "2")
        await it.check("one", "parcel 42 is in Lyon", "two", "2", runs=2, exchanges=2)

    play(story)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids=str)
def test_a_stream_that_the_app_stops_reading_is_a_cancelled_run(play: Play) -> None:
    async def story(it: Agency) -> None:
        it.simulator.answer("One two three four five.")
        model = it.model()
        events = model.stream_response(
            None,
            "yes",
            ModelSettings(),
            [],
            None,
            [],
            _tracing(),
            previous_response_id=None,
            conversation_id=None,
            prompt=None,
        )
        async for event in events:
            if event.type == "response.output_text.delta":
                break
        await events.aclose()
        (failure,) = it.ledger.failures()
        assert (failure.cause, failure.facts.partial_text) == ("cancelled", event.delta)

    play(story)


def _tracing() -> Any:
    from agents import ModelTracing

    return ModelTracing.DISABLED


@two_ways
def test_a_run_that_is_cancelled_is_a_cancelled_run(play: Play) -> None:
    async def story(it: Agency) -> None:
        it.fail(hang=30)
        task = asyncio.create_task(it.run(it.agent(), "yes"))
        await asyncio.to_thread(_until, it.ledger, "RunStarted")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(_until, it.ledger, "RunFailed")
        (failure,) = it.ledger.failures()
        assert failure.cause == "cancelled"

    play(story)


def _until(ledger: Ledger, event: str) -> None:
    """Wait until an event of this type is in the log."""
    next(iter(ledger.events(types=[event], follow=True)))


@pytest.mark.parametrize("way", WAYS[::3], ids=str)
def test_without_a_session_a_recorded_model_journals_what_it_is_sent(play: Play) -> None:
    async def story(it: Agency) -> None:
        ann = Agent(name="Ann", model=recorded_model(_bare(it), ledger=it.ledger, key=KEY), tools=[look_up])
        result = await it.run(ann, "one", CALL, "1", session=None)
        given = [*result.to_input_list(), {"role": "user", "content": "two"}]
        await it.run(ann, given, "2", session=None)
        shown = [each.message.text for each in it.ledger.conversation(KEY).memory().messages]
        assert shown == ["one", "", "parcel 42 is in Lyon", "1", "two", "2"]
        assert (
            len({each.exchange_id for each in it.ledger.conversation(KEY).events() if isinstance(each, e.RunStarted)})
            == 2
        )

    play(story)


def _bare(it: Agency) -> Any:
    model = it.model()
    return getattr(model, "wrapped", model)


@pytest.mark.parametrize("way", WAYS[:1], ids=str)
def test_a_call_besides_the_agents_is_recorded_as_if_there_was_no_session(play: Play) -> None:
    async def story(it: Agency) -> None:
        await it.run(it.agent(), "one", "1")
        it.simulator.answer("A title.")
        title = Agent(name="Title", model=it.model())
        await it.run(title, "Name this chat.", session=None)
        shown = [each.message.text for each in it.ledger.conversation(KEY).memory().messages]
        assert shown == ["one", "1", "Name this chat.", "A title."]

    play(story)


@pytest.mark.parametrize("way", WAYS[:1], ids=str)
def test_a_block_names_the_conversation_of_a_recorded_model(play: Play) -> None:
    async def story(it: Agency) -> None:
        ann = Agent(name="Ann", model=recorded_model(_bare(it), ledger=it.ledger))
        with threadledger.recording("another"):
            await it.run(ann, "one", "1", session=None)
        assert [each.key for each in it.ledger.conversations()] == ["another"]

    play(story)


@pytest.mark.parametrize("way", WAYS[:1], ids=str)
def test_a_model_is_not_called_if_its_run_cannot_be_recorded(play: Play) -> None:
    async def story(it: Agency) -> None:
        ann = it.agent()
        it.ledger.close()
        with pytest.raises(StoreError):
            await it.run(ann, "one", session=None)
        assert it.simulator.requests == []

    play(story)


@pytest.mark.parametrize("way", WAYS[:1], ids=str)
def test_a_recorded_model_is_the_model_in_every_other_way(play: Play) -> None:
    async def story(it: Agency) -> None:
        model = it.model("gpt-6-small")
        assert model.model == "gpt-6-small"
        assert model.get_retry_advice is not None
        with pytest.raises(AttributeError):
            _ = model.no_such_name
        with pytest.raises(InvalidInput, match="give the session of the agent, or a ledger and a key"):
            recorded_model(model)
        with pytest.raises(InvalidInput):
            recorded_model(model, it.both.ours, ledger=it.ledger)

    play(story)


@pytest.mark.parametrize("way", [WAYS[0]], ids=str)
def test_the_tokens_and_ids_of_a_call_are_those_of_its_run(play: Play) -> None:
    async def story(it: Agency) -> None:
        usage = {"input_tokens": 100, "cached_tokens": 60, "output_tokens": 9, "reasoning_tokens": 7}
        result = await it.run(it.agent(), "one", {"output": ["1"], "usage": usage})
        (completed,) = (each for each in it.ledger.conversation(KEY).events() if isinstance(each, e.RunCompleted))
        assert completed.usage == usage | {"total_tokens": 109}
        (response,) = result.raw_responses
        assert (completed.remote_run_id, completed.request_id) == (response.response_id, response.request_id)
        assert completed.request_id is not None

    play(story)


TWICE: dict[str, Callable[[Agency, Any], Any]] = {
    "a recorded client": lambda it, model: model(threadledger.record(it.client, it.ledger, key=KEY)),
    "a client that names no conversation": lambda it, model: model(threadledger.record(it.client, it.ledger)),
    "a recorded model": lambda it, model: recorded_model(model(it.client), it.both.ours),
    "a recorded model of another opening": lambda it, model: recorded_model(
        model(it.client), ledger=it.ledger.as_actor("app"), key=KEY
    ),
}


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids=["whole", "streamed"])
@pytest.mark.parametrize("inner", TWICE)
def test_a_call_that_is_recorded_twice_is_one_run(play: Play, inner: str) -> None:
    async def story(it: Agency) -> None:
        kind = OpenAIResponsesModel if it.api == "responses" else OpenAIChatCompletionsModel
        used = TWICE[inner](it, lambda client: kind("gpt-6-astra", client))
        ann = Agent(name="Ann", model=recorded_model(used, it.both.ours), tools=[look_up])
        await it.run(ann, "Where is it?", CALL, "In Lyon.")
        await it.run(ann, "Thanks.", "Fine.")
        await it.check("Where is it?", "parcel 42 is in Lyon", "In Lyon.", "Thanks.", "Fine.", runs=3, exchanges=2)
        assert [each.key for each in it.ledger.conversations()] == [KEY]
        started = [each for each in it.ledger.conversation(KEY).events() if isinstance(each, e.RunStarted)]
        assert {each.backend for each in started} == {it.api}
        it.fail(refuse={"status": 503})
        with pytest.raises(openai.InternalServerError):
            await it.run(ann, "And now?")
        assert len(it.ledger.failures()) == 1

    play(story)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids=["whole", "streamed"])
def test_a_call_in_a_block_is_one_run_and_in_two_conversations_it_is_two(play: Play) -> None:
    async def story(it: Agency) -> None:
        def texts(key: str) -> list[str]:
            return [each.message.text for each in it.ledger.conversation(key).memory().messages]

        kind = OpenAIResponsesModel if it.api == "responses" else OpenAIChatCompletionsModel
        recorded = threadledger.record(it.client, it.ledger, key="audit")
        ann = Agent(name="Ann", model=recorded_model(kind("gpt-6-astra", recorded), ledger=it.ledger, key=KEY))
        await it.run(ann, "yes", "Fine.", session=None)
        assert texts("audit") == texts(KEY) == ["yes", "Fine."]
        with threadledger.recording("block"):
            await it.run(ann, "no", "Good.", session=None)
        assert texts("block") == ["no", "Good."]
        assert len(it.ledger.conversations()) == 3

    play(story)


@pytest.mark.parametrize("way", [WAYS[3]], ids=["streamed"])
def test_a_call_between_two_events_of_a_recorded_stream_is_a_run_of_its_own(play: Play) -> None:
    async def story(it: Agency) -> None:
        recorded = threadledger.record(it.client, it.ledger, key=KEY)
        it.simulator.answer("Fine.")
        model = OpenAIChatCompletionsModel("gpt-6-astra", recorded)
        other = recorded_model(model, ledger=it.ledger, key=KEY)
        options: Any = {"tools": [], "output_schema": None, "handoffs": [], "tracing": ModelTracing.DISABLED}
        options |= {"previous_response_id": None, "conversation_id": None, "prompt": None}
        asked: list[Any] = []
        async for _ in other.stream_response(None, "first", ModelSettings(), **options):
            if not asked:
                it.simulator.answer("Between.")
                messages: Any = [{"role": "user", "content": "between"}]
                asked.append(await recorded.chat.completions.create(model="gpt-6-astra", messages=messages))
        started = [each for each in it.ledger.conversation(KEY).events() if isinstance(each, e.RunStarted)]
        assert (len(asked), len(started)) == (1, 2)

    play(story)
