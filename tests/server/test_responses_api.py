"""The Responses API from the ledger, for a provider that speaks Chat Completions alone, through openai-python's strict client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from threadledger.adapters.server.items import output_text
from threadledger.adapters.server.response_events import ResponseWriter
from threadledger.domain.conversation import Profile
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.exchange.answer import Began, Delta
from threadledger.domain.exchange.served_responses import ResponseRequest, request_response
from threadledger.domain.ledger import Ledger

from .chat_only import ChatOnly
from .speaking import SECONDS_MAX, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

FUNCTION: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@pytest.fixture
def server(open_api: Callable[..., Any]) -> Any:
    return open_api(retries=0)


@pytest.fixture
def api(server: Any) -> Iterator[OpenAI]:
    """Return the SDK, which checks each answer against its type and repeats nothing."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0, _strict_response_validation=True) as sdk:
        yield sdk


def ask(api: OpenAI, said: Any, **options: Any) -> Any:
    return api.responses.create(model="gpt-5.5", input=said, **options)


def shown(upstream: ChatOnly) -> list[Any]:
    """Return what the model was shown last: its texts, and calls and results in short."""
    return [each.get("content") or each.get("tool_calls") for each in upstream.requests[-1]["messages"]]


def ended(api: OpenAI, response: Any) -> Any:
    """Return a background response when it has ended."""
    until(lambda: api.responses.retrieve(response.id).status not in ("queued", "in_progress"))
    return api.responses.retrieve(response.id)


def of(ledger: Ledger, *kinds: type[e.Event]) -> list[Any]:
    return [each.event for each in ledger.events() if isinstance(each.event, kinds)]


class TestMemory:
    def test_a_response_that_continues_another_is_shown_what_was_said(self, api: OpenAI, upstream: ChatOnly) -> None:
        first = ask(api, "One")
        second = ask(api, "Two", previous_response_id=first.id)
        third = ask(api, "Three", previous_response_id=second.id)
        assert shown(upstream) == ["One", "You said: One", "Two", "You said: Two", "Three"]
        assert (third.output_text, third.previous_response_id) == ("You said: Three", second.id)

    def test_a_line_of_responses_is_one_conversation_without_branches(self, api: OpenAI, ledger: Ledger) -> None:
        second = ask(api, "Two", previous_response_id=ask(api, "One").id)
        ask(api, "Three", previous_response_id=second.id)
        [conversation] = ledger.conversations()
        assert [each.message.text for each in ledger.conversation(conversation.key).memory().messages][::2] == [
            "One",
            "Two",
            "Three",
        ]
        assert of(ledger, e.BranchSelected) == []

    def test_a_response_that_continues_an_earlier_one_is_aside_and_nothing_is_copied(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        first = ask(api, "One")
        ask(api, "Two", previous_response_id=first.id)
        before = len(of(ledger, e.MessageJournaled))
        ask(api, "Instead", previous_response_id=first.id)
        assert shown(upstream) == ["One", "You said: One", "Instead"]
        assert len(of(ledger, e.MessageJournaled)) == before + 2
        [conversation] = ledger.conversations()
        memory = ledger.conversation(conversation.key).memory().messages
        assert [each.message.text for each in memory] == ["One", "You said: One", "Two", "You said: Two"]

    def test_what_continues_a_branch_selects_it(self, api: OpenAI, upstream: ChatOnly, ledger: Ledger) -> None:
        first = ask(api, "One")
        ask(api, "Two", previous_response_id=first.id)
        instead = ask(api, "Instead", previous_response_id=first.id)
        ask(api, "And on", previous_response_id=instead.id)
        assert shown(upstream) == ["One", "You said: One", "Instead", "You said: Instead", "And on"]
        [conversation] = ledger.conversations()
        memory = ledger.conversation(conversation.key).memory().messages
        assert [each.message.text for each in memory][2:] == [
            "Instead",
            "You said: Instead",
            "And on",
            "You said: And on",
        ]

    def test_instructions_are_those_of_the_request_alone(self, api: OpenAI, upstream: ChatOnly) -> None:
        first = ask(api, "One", instructions="Be brief.")
        assert shown(upstream)[0] == "Be brief."
        second = ask(api, "Two", previous_response_id=first.id)
        assert shown(upstream) == ["One", "You said: One", "Two"]
        assert (first.instructions, second.instructions) == ("Be brief.", None)

    def test_a_response_in_a_conversation_adds_its_items_to_it(self, api: OpenAI, upstream: ChatOnly) -> None:
        conversation = api.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Ada."}])
        answer = ask(api, "Who am I?", conversation=conversation.id)
        assert shown(upstream) == ["I am Ada.", "Who am I?"]
        assert answer.conversation.id == conversation.id
        listed: list[Any] = [*api.conversations.items.list(conversation.id, order="asc")]
        assert [each.content[0].text for each in listed] == ["I am Ada.", "Who am I?", "You said: Who am I?"]
        assert listed[-1].id == answer.output[0].id

    def test_any_conversation_of_the_ledger_can_be_continued(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        ledger.conversation("customer-42").append("user", "I am Ada.")
        ask(api, "Who am I?", conversation="customer-42")
        assert shown(upstream) == ["I am Ada.", "Who am I?"]

    def test_a_request_without_any_input_begins_the_conversation(self, api: OpenAI, upstream: ChatOnly) -> None:
        answer = api.responses.create(instructions="Greet the user.")
        assert shown(upstream) == ["Greet the user.", "(The user has not said anything yet.)"]
        ask(api, "Hello", previous_response_id=answer.id)
        assert shown(upstream) == [answer.output_text, "Hello"]

    def test_what_was_not_stored_is_recorded_and_cannot_be_read_or_continued(self, api: OpenAI, ledger: Ledger) -> None:
        answer = ask(api, "One", store=False)
        assert answer.store is False
        with pytest.raises(openai.NotFoundError, match="not found"):
            api.responses.retrieve(answer.id)
        with pytest.raises(openai.BadRequestError) as refused:
            ask(api, "Two", previous_response_id=answer.id)
        assert refused.value.code == "previous_response_not_found"
        assert len(of(ledger, e.RunCompleted)) == 1
        reading: list[Callable[[], Any]] = [
            lambda: api.conversations.retrieve(answer.id),
            lambda: api.beta.threads.messages.list(answer.id),
            lambda: ask(api, "Two", conversation=answer.id),
            lambda: ask(api, [{"type": "item_reference", "id": answer.output[0].id}]),
        ]
        for read in reading:
            with pytest.raises(openai.NotFoundError):
                read()

    def test_what_was_not_stored_is_on_a_branch_of_its_own_behind_what_it_continues(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        upstream.calls_functions = True
        first = ask(api, "One", tools=[FUNCTION])
        result: Any = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "Secret"}
        ask(api, [result], previous_response_id=first.id, store=False)
        assert shown(upstream)[-1] == "Secret"
        [conversation] = ledger.conversations()
        assert len([*api.conversations.items.list(conversation.key)]) == 2
        assert len([*api.beta.threads.messages.list(conversation.key)]) == 1
        result["output"] = "Sunny"
        ask(api, [result], previous_response_id=first.id)
        assert "Secret" not in str(shown(upstream))
        assert [each.message.text for each in ledger.conversation(conversation.key).memory().messages][2:] == [
            "Sunny",
            "The function said: Sunny",
        ]

    @pytest.mark.parametrize("said", ["", [], [{"type": "message", "role": "user", "content": ""}]], ids=str)
    def test_an_input_that_says_nothing_begins_the_conversation_too(
        self, api: OpenAI, upstream: ChatOnly, said: Any
    ) -> None:
        conversation = api.conversations.create(items=[{"type": "message", "role": "user", "content": ""}])
        for where in ({}, {"conversation": conversation.id}):
            answer = ask(api, said, **where)
            assert shown(upstream) == ["(The user has not said anything yet.)"]
        ask(api, said, conversation=conversation.id)
        assert shown(upstream) == [answer.output_text]


class TestFailures:
    def test_the_input_of_a_failed_response_is_journaled_and_not_in_memory(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        conversation = api.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Ada."}])
        upstream.fail(500)
        with pytest.raises(openai.InternalServerError) as refused:
            ask(api, "Lost", conversation=conversation.id)
        assert refused.value.type == "server_error"
        assert [each.content for each in of(ledger, e.MessageJournaled)] == ["I am Ada.", "Lost"]
        assert len([*api.conversations.items.list(conversation.id)]) == 1
        ask(api, "Next", conversation=conversation.id)
        assert shown(upstream) == ["I am Ada.", "Next"]

    def test_a_response_that_failed_in_the_background_says_why_and_cannot_be_continued(
        self, api: OpenAI, upstream: ChatOnly
    ) -> None:
        upstream.fail(429)
        failed = ended(api, ask(api, "Lost", background=True))
        assert (failed.status, failed.error.code, failed.output) == ("failed", "rate_limit_exceeded", [])
        assert "cause rate_limited, run " in failed.error.message
        with pytest.raises(openai.BadRequestError) as refused:
            ask(api, "Two", previous_response_id=failed.id)
        assert refused.value.code == "previous_response_not_completed"

    def test_a_stream_that_fails_ends_with_the_failed_response(self, api: OpenAI, upstream: ChatOnly) -> None:
        upstream.fail(500)
        events = [*ask(api, "Lost", stream=True)]
        assert [each.type for each in events] == ["response.created", "response.in_progress", "response.failed"]
        assert events[-1].response.error.code == "server_error"

    def test_the_next_question_is_answered_after_a_failed_first_one(self, api: OpenAI, upstream: ChatOnly) -> None:
        conversation = api.conversations.create()
        upstream.fail(500)
        with pytest.raises(openai.InternalServerError):
            ask(api, "Lost", conversation=conversation.id)
        ask(api, "Next", conversation=conversation.id)
        assert shown(upstream) == ["Next"]

    def test_a_request_that_is_sent_again_fails_as_it_did_if_it_names_its_key(
        self, api: OpenAI, upstream: ChatOnly
    ) -> None:
        upstream.fail(429)
        said = set()
        for _ in range(2):
            with pytest.raises(openai.RateLimitError) as refused:
                ask(api, "Lost", extra_headers={"Idempotency-Key": "one"})
            said.add(refused.value.message)
        assert (len(said), len(upstream.requests)) == (1, 1)

    def test_a_response_of_a_stopped_process_leaves_memory_when_its_time_is_over(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        conversation = api.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Ada."}])
        request_response(
            ledger.journal, conversation.id, ResponseRequest(Profile(), None, 0.0, "", [Message(Role.USER, "Lost")])
        )
        ask(api, "Next", conversation=conversation.id)
        assert shown(upstream) == ["I am Ada.", "Next"]
        assert [each.cause.value for each in ledger.failures()] == ["expired"]

    def test_a_response_that_is_cancelled_as_a_run_leaves_memory(self, api: OpenAI, upstream: ChatOnly) -> None:
        conversation = api.conversations.create()
        with upstream.held():
            lost = ask(api, "Lost", conversation=conversation.id, background=True)
            upstream.wait_for(1)
            [run] = api.beta.threads.runs.list(conversation.id)
            api.beta.threads.runs.cancel(run.id, thread_id=conversation.id)
        assert ended(api, lost).status == "cancelled"
        ask(api, "Next", conversation=conversation.id)
        assert shown(upstream) == ["Next"]

    @pytest.mark.parametrize("text", ["", " \n "], ids=["empty", "blank"])
    def test_an_answer_that_says_nothing_has_failed_in_every_form(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setattr(upstream, "answer_to", lambda body: ({"role": "assistant", "content": text}, "stop"))
        with pytest.raises(openai.InternalServerError, match="the answer ended with 'stop'"):
            ask(api, "One")
        *_, last = ask(api, "One", stream=True)
        failed = ended(api, ask(api, "One", background=True))
        assert [last.response.status, failed.status] == ["failed", "failed"]
        assert "empty_answer" in failed.error.message
        assert last.response.incomplete_details is None
        thread, assistant = api.beta.threads.create(), api.beta.assistants.create(model="gpt-5.5")
        run = api.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=10)
        assert (run.status, run.incomplete_details) == ("failed", None)

    def test_an_answer_that_reached_its_limit_is_incomplete_and_in_memory(
        self, api: OpenAI, upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer_to = upstream.answer_to
        monkeypatch.setattr(upstream, "answer_to", lambda body: (answer_to(body)[0], "length"))
        cut = ask(api, "One", max_output_tokens=16)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        monkeypatch.undo()
        ask(api, "Two", previous_response_id=cut.id)
        assert shown(upstream) == ["One", "You said: One", "Two"]

    def test_one_response_at_a_time_is_generated_in_a_conversation(self, api: OpenAI, upstream: ChatOnly) -> None:
        conversation = api.conversations.create()
        with upstream.held():
            running = ask(api, "One", conversation=conversation.id, background=True)
            upstream.wait_for(1)
            with pytest.raises(openai.BadRequestError) as refused:
                ask(api, "Two", conversation=conversation.id)
            assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")
            with pytest.raises(openai.BadRequestError) as refused:
                api.conversations.items.create(
                    conversation.id, items=[{"type": "message", "role": "user", "content": "Two"}]
                )
            assert refused.value.code == "conversation_locked"
            assert [*api.conversations.items.list(conversation.id)] == []
        ended(api, running)
        assert len([*api.conversations.items.list(conversation.id)]) == 2

    def test_two_responses_may_continue_the_same_one_at_the_same_time(self, api: OpenAI, upstream: ChatOnly) -> None:
        first = ask(api, "One")
        with upstream.held():
            both = [ask(api, text, previous_response_id=first.id, background=True) for text in ("Two", "Zwei")]
            upstream.wait_for(3)
        assert [ended(api, each).output_text for each in both] == ["You said: Two", "You said: Zwei"]
        for each, text in zip(both, ("Two", "Zwei"), strict=True):
            ask(api, "Three", previous_response_id=each.id)
            assert shown(upstream) == ["One", "You said: One", text, f"You said: {text}", "Three"]


class TestFunctions:
    def test_a_function_call_is_answered_by_the_next_request_in_the_same_exchange(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        upstream.calls_functions = True
        called = ask(api, "Weather?", tools=[FUNCTION])
        [call] = called.output
        assert (called.status, call.type, call.name, call.arguments) == (
            "completed",
            "function_call",
            "weather",
            '{"place": "Lyon"}',
        )
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
        answer = ask(api, [result], previous_response_id=called.id, tools=[FUNCTION])
        assert answer.output_text == "The function said: Sunny"
        assert {each.exchange_id for each in of(ledger, e.ExchangeRequested)} == {
            of(ledger, e.RunStarted)[0].exchange_id
        }
        assert ledger.exchanges(of(ledger, e.ConversationStarted)[0].key).by_id.popitem()[1].unanswered is False

    def test_a_call_without_a_result_keeps_nothing_from_its_conversation(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        upstream.calls_functions = True
        conversation = api.conversations.create()
        ask(api, "Weather?", conversation=conversation.id, tools=[FUNCTION])
        ask(api, "Never mind", conversation=conversation.id)
        assert shown(upstream)[-1] == "Never mind"
        ledger.conversation(conversation.id).append("user", "More")

    def test_the_result_of_an_unknown_call_is_refused(self, api: OpenAI) -> None:
        result: Any = {"type": "function_call_output", "call_id": "call_none", "output": "Sunny"}
        for more in ({}, {"previous_response_id": ask(api, "One").id}, {"conversation": api.conversations.create().id}):
            with pytest.raises(openai.BadRequestError, match="No tool call found for function call output"):
                ask(api, [result], **more)

    def test_a_whole_history_can_be_sent_as_input(self, api: OpenAI, upstream: ChatOnly) -> None:
        upstream.calls_functions = True
        called = ask(api, "Weather?", tools=[FUNCTION], store=False)
        history: list[Any] = [{"role": "user", "content": "Weather?"}, *called.output]
        history.append({"type": "function_call_output", "call_id": called.output[0].call_id, "output": "Sunny"})
        assert ask(api, history, tools=[FUNCTION], store=False).output_text == "The function said: Sunny"

    def test_a_structured_answer_is_asked_for(self, api: OpenAI, upstream: ChatOnly) -> None:
        schema = {
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "required": ["a"],
            "additionalProperties": False,
        }
        wanted: Any = {"format": {"type": "json_schema", "name": "it", "schema": schema, "strict": True}}
        answer = ask(api, "One", text=wanted)
        assert upstream.requests[-1]["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "it", "schema": schema, "strict": True},
        }
        assert answer.text.format.name == "it"

    def test_an_image_is_shown_to_the_model_and_read_back(self, api: OpenAI, upstream: ChatOnly) -> None:
        part: Any = {"type": "input_image", "image_url": PIXEL, "detail": "auto"}
        answer = ask(api, [{"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, part]}])
        sent = upstream.requests[-1]["messages"][0]["content"]
        assert sent[1]["image_url"]["url"] == PIXEL
        items: list[Any] = [*api.responses.input_items.list(answer.id)]
        assert [each.content[1].image_url for each in items] == [PIXEL]

    def test_the_address_of_stored_bytes_cannot_be_named(self, server: Any, api: OpenAI) -> None:
        part = {"type": "image_url", "image_url": {"blob": "sha256:" + "0" * 64, "media_type": "image/png", "size": 1}}
        for item in (
            {"role": "user", "content": [part]},
            {"type": "function_call_output", "call_id": "c", "output": [part]},
            {"type": "reasoning", "summary": [], "x": {"threadledger_blob": "sha256:" + "0" * 64, "encoding": "utf-8"}},
        ):
            answer = httpx2.post(f"{server.base_url}/responses", json={"model": "m", "input": [item]})
            assert answer.status_code == 400, answer.text


class TestInTheBackground:
    def test_a_response_in_the_background_is_polled(self, api: OpenAI, upstream: ChatOnly) -> None:
        with upstream.held():
            begun = ask(api, "One", background=True)
            assert begun.status == "queued"
            upstream.wait_for(1)
            assert api.responses.retrieve(begun.id).status == "in_progress"
        assert ended(api, begun).output_text == "You said: One"

    def test_a_cancelled_response_calls_the_model_no_longer_and_leaves_memory(
        self, api: OpenAI, upstream: ChatOnly
    ) -> None:
        conversation = api.conversations.create()
        with upstream.held():
            begun = ask(api, "One", background=True, conversation=conversation.id)
            upstream.wait_for(1)
            assert api.responses.cancel(begun.id).status == "cancelled"
            upstream.wait_until_left()
        assert api.responses.cancel(begun.id).status == "cancelled"
        assert api.responses.retrieve(begun.id).status == "cancelled"
        ask(api, "Two", conversation=conversation.id)
        assert shown(upstream) == ["Two"]

    def test_a_synchronous_response_cannot_be_cancelled(self, api: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            api.responses.cancel(ask(api, "One").id)

    def test_a_client_that_leaves_ends_its_response(
        self, server: Any, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        conversation = api.conversations.create()
        with upstream.held():
            with pytest.raises(openai.APITimeoutError):
                ask(api, "One", conversation=conversation.id, timeout=0.2)
            upstream.wait_until_left()
        until(lambda: bool(of(ledger, e.ExchangeCancelled)))
        ask(api, "Two", conversation=conversation.id)
        assert shown(upstream) == ["Two"]

    def test_a_background_response_has_to_be_stored(self, api: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="Background mode requires 'store' to be true"):
            ask(api, "One", background=True, store=False)

    def test_a_deleted_response_is_gone_and_its_messages_remain(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger
    ) -> None:
        first = ask(api, "One")
        second = ask(api, "Two", previous_response_id=first.id)
        api.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(first.id)
        ask(api, "Three", previous_response_id=second.id)
        assert shown(upstream)[0] == "One"
        assert [each.response_id for each in of(ledger, e.ResponseDeleted)] == [first.id]


class TestStreams:
    def test_a_stream_is_resumed_from_any_event(self, api: OpenAI) -> None:
        events = [*ask(api, "Tell me more about it", stream=True, background=True)]
        name, text = events[-1].response.id, "You said: Tell me more about it"
        for each in events:
            rest = [*api.responses.retrieve(name, stream=True, starting_after=each.sequence_number)]
            numbers = [after.sequence_number for after in rest]
            assert numbers == sorted({*numbers}) and all(number > each.sequence_number for number in numbers)
            heard = "".join(
                one.delta for one in events if "delta" in one.type and one.sequence_number <= each.sequence_number
            )
            assert heard + "".join(one.delta for one in rest if "delta" in one.type) == text
            assert each is events[-1] or rest[-1].type == "response.completed"

    def test_a_stream_is_resumed_while_the_answer_is_written(self, api: OpenAI, upstream: ChatOnly) -> None:
        heard: list[Any] = []
        with upstream.held():
            stream = ask(api, "Tell me more about it", stream=True, background=True)
            for event in stream:
                heard.append(event)
                if event.type == "response.output_text.delta":
                    break
            stream.close()
            name, after = heard[0].response.id, heard[-1].sequence_number
            resumed = api.responses.retrieve(name, stream=True, starting_after=after)
        rest = [*resumed]
        text = "".join(each.delta for each in [*heard, *rest] if each.type == "response.output_text.delta")
        assert text == "You said: Tell me more about it"
        assert rest[-1].response.output_text == text

    def test_calls_are_streamed_with_their_arguments(self, api: OpenAI, upstream: ChatOnly) -> None:
        upstream.calls_functions = True
        events = [*ask(api, "Weather?", tools=[FUNCTION], stream=True)]
        pieces = [each.delta for each in events if each.type == "response.function_call_arguments.delta"]
        assert "".join(pieces) == '{"place": "Lyon"}'
        assert events[-1].response.output[0].call_id.startswith("call_")

    def test_an_attempt_that_breaks_is_continued_in_the_same_message(
        self, open_api: Callable[..., Any], upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = open_api(retries=1)
        broken = threading.Event()
        wait = upstream.wait

        def break_once(connection: Any) -> None:
            if not broken.is_set():
                broken.set()
                connection.shutdown(2)
            wait(connection)

        monkeypatch.setattr(upstream, "wait", break_once)
        with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as sdk:
            events = [*ask(sdk, "Tell me more", stream=True)]
        text = "".join(each.delta for each in events if each.type == "response.output_text.delta")
        [message] = events[-1].response.output
        assert message.content[0].text == text
        assert {each.item_id for each in events if hasattr(each, "item_id")} == {message.id}
        numbers = [each.sequence_number for each in events]
        assert numbers == sorted({*numbers})

    def test_a_refusal_is_a_part_of_its_own_and_in_a_stream_the_end_of_the_text(
        self, api: OpenAI, upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused = {"role": "assistant", "content": "Well,", "refusal": " I cannot do that"}
        monkeypatch.setattr(upstream, "answer_to", lambda _: (refused, "stop"))
        [whole] = ask(api, "One").output
        assert [each.type for each in whole.content] == ["output_text", "refusal"]
        assert "".join(getattr(each, "text", "") or each.refusal for each in whole.content) == "Well, I cannot do that"
        events = [*ask(api, "Two", stream=True)]
        text = "".join(each.delta for each in events if each.type == "response.output_text.delta")
        assert text == events[-1].response.output_text == "Well, I cannot do that"
        stored = api.responses.retrieve(events[-1].response.id)
        assert stored.output == events[-1].response.output
        messages: Any = [{"role": "user", "content": "Three"}]
        chunks = [*api.chat.completions.create(model="m", messages=messages, stream=True)]
        deltas = [each.choices[0].delta for each in chunks]
        assert "".join((each.content or "") + (each.refusal or "") for each in deltas) == "Well, I cannot do that"


@pytest.mark.parametrize("kind", [["function"], {"a": 1}, 1, None], ids=str)
def test_a_choice_of_a_tool_without_a_type_is_refused(api: OpenAI, kind: Any) -> None:
    choice: Any = {"type": kind}
    with pytest.raises(openai.BadRequestError):
        ask(api, "Weather?", tools=[FUNCTION], tool_choice=choice)
    assistant = api.beta.assistants.create(model="m")
    with pytest.raises(openai.BadRequestError):
        api.beta.threads.create_and_run(assistant_id=assistant.id, tool_choice=choice)


def run_once(api: OpenAI, named: Any) -> str:
    """Create a thread and a run, and return the answer."""
    assistant = api.beta.assistants.create(model="m", extra_headers={"Idempotency-Key": "assistant"})
    thread: Any = {"messages": [{"role": "user", "content": "One"}]}
    run = api.beta.threads.create_and_run(assistant_id=assistant.id, thread=thread, extra_headers=named)
    api.beta.threads.runs.poll(run.id, thread_id=run.thread_id, poll_interval_ms=10)
    said: list[Any] = [*api.beta.threads.messages.list(run.thread_id)]
    return str(said[0].content[0].text.value)


SENT: dict[str, Callable[[OpenAI, Any], Any]] = {
    "response": lambda api, named: ask(api, "One", extra_headers=named).output_text,
    "streamed response": lambda api, named: (
        [*ask(api, "One", stream=True, extra_headers=named)][-1].response.output_text
    ),
    "response in the background": lambda api, named: (
        ended(api, ask(api, "One", background=True, extra_headers=named)).output_text
    ),
    "chat completion": lambda api, named: (
        api.chat.completions.create(model="m", messages=[{"role": "user", "content": "One"}], extra_headers=named)
        .choices[0]
        .message.content
    ),
    "run": run_once,
}


@pytest.mark.parametrize("kind", SENT)
def test_a_request_that_two_servers_are_given_is_answered_by_one_of_them(
    open_api: Callable[..., Any], upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    servers = [open_api(retries=0) for _ in range(2)]
    clients = [OpenAI(base_url=each.base_url, api_key="any", max_retries=0) for each in servers]
    is_known, holds = threading.Event(), servers[1].served.runner.holds

    def noted(*place: str) -> bool:
        is_known.set()
        return bool(holds(*place))

    monkeypatch.setattr(servers[1].served.runner, "holds", noted)
    with ThreadPoolExecutor(2) as pool:
        with upstream.held():
            answers = [pool.submit(SENT[kind], clients[0], {"Idempotency-Key": "one"})]
            upstream.wait_for(1)
            answers += [pool.submit(SENT[kind], clients[1], {"Idempotency-Key": "one"})]
            assert is_known.wait(SECONDS_MAX)
        assert [each.result() for each in answers] == ["You said: One"] * 2
    assert len(upstream.requests) == 1
    assert len(of(servers[0].served.ledger, e.RunStarted)) == 1
    for sdk in clients:
        sdk.close()


NEW: dict[str, Callable[[OpenAI, Any], Any]] = {
    "conversation": lambda api, named: api.conversations.create(extra_headers=named).id,
    "thread": lambda api, named: api.beta.threads.create(extra_headers=named).id,
    "thread with a run": lambda api, named: (
        api.beta.threads.create_and_run(
            assistant_id=api.beta.assistants.create(model="m", extra_headers={"Idempotency-Key": "a"}).id,
            extra_headers=named,
        ).thread_id
    ),
    "response": lambda api, named: ask(api, "One", extra_headers=named).id,
}


@pytest.mark.parametrize("kind", NEW)
def test_what_was_deleted_is_not_created_again_by_the_same_request(api: OpenAI, ledger: Ledger, kind: str) -> None:
    named = {"Idempotency-Key": "one"}
    name = NEW[kind](api, named)
    api.conversations.delete(name)
    with pytest.raises(openai.NotFoundError):
        NEW[kind](api, named)
    assert len(of(ledger, e.ConversationDeleted)) == 1
    assert ledger.journal.load(name) is None


class Chains:
    """What a model is shown along any chain of responses, computed without a ledger."""

    def __init__(self) -> None:
        self.paths: list[list[str]] = []

    def answer(self, previous: int | None, text: str) -> list[str]:
        """Return what the next response is shown, and remember its path."""
        told = [*(self.paths[previous] if previous is not None else []), text]
        self.paths.append([*told, f"You said: {text}"])
        return told


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picks=st.lists(st.integers(min_value=-1, max_value=7), min_size=2, max_size=8), fails=st.sets(st.integers(0, 7)))
def test_a_response_is_shown_its_own_chain_whatever_was_continued_before(
    api: OpenAI, upstream: ChatOnly, picks: list[int], fails: set[int]
) -> None:
    chains, names = Chains(), list[str]()
    for place, pick in enumerate(picks):
        previous = pick % len(names) if names and pick >= 0 else None
        text = f"Question {place}"
        more = {"previous_response_id": names[previous]} if previous is not None else {}
        if place in fails:
            upstream.fail(500)
            with pytest.raises(openai.InternalServerError):
                ask(api, text, **more)
            continue
        names.append(ask(api, text, **more).id)
        assert shown(upstream) == chains.answer(previous, text)


@given(
    pieces=st.lists(st.text(alphabet="ab \n", min_size=1, max_size=5), min_size=1, max_size=8),
    rest=st.text(alphabet="ab ", max_size=12),
    after=st.integers(-1, 30),
)
def test_the_rest_of_a_stream_begins_behind_the_last_character_that_was_sent(
    pieces: list[str], rest: str, after: int
) -> None:
    whole = "".join(pieces) + rest
    item = {"id": f"msg_{'0' * 32}", "type": "message", "status": "completed", "role": "assistant"}
    begun = {"id": "resp_1", "status": "in_progress", "background": False, "tools": [], "output": []}
    final = begun | {"status": "completed", "output": [item | {"content": [output_text(whole)]}]}

    def heard(after: int) -> list[Any]:
        writer = ResponseWriter(begun, after)
        parts = [Began("run", "chat", "m", "00000000-0000-0000-0000-000000000000"), *map(Delta, pieces)]
        return [*writer.begin(), *(event for part in parts for event in writer.of_part(part)), *writer.end(final)]

    def text(events: list[Any]) -> str:
        return "".join(each["delta"] for each in events if "delta" in each)

    events = heard(-1)
    assert text(events) == whole
    before = [each for each in events if each["sequence_number"] <= after]
    last = before[-1]["sequence_number"] if before else -1
    assert text(before) + text(heard(last)) == whole
    numbers = [each["sequence_number"] for each in [*before, *heard(last)]]
    assert numbers == sorted({*numbers})
    more = heard(last + 1_000)
    assert [each["type"] for each in more] == []


class TestReferences:
    def test_an_item_of_an_answer_is_named_by_its_id(self, api: OpenAI, upstream: ChatOnly) -> None:
        upstream.calls_functions = True
        called = ask(api, "Weather?", tools=[FUNCTION])
        call = called.output[0]
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
        named: Any = {"type": "item_reference", "id": call.id}
        answer = ask(api, [{"role": "user", "content": "Weather?"}, named, result], tools=[FUNCTION])
        assert answer.output_text == "The function said: Sunny"
        ask(api, [{"id": answer.output[0].id}, {"role": "user", "content": "Thanks"}])
        assert shown(upstream) == ["The function said: Sunny", "Thanks"]

    @pytest.mark.parametrize("names", ["the conversation", "the response before"])
    def test_every_item_of_the_conversation_that_is_continued_can_be_named(
        self, api: OpenAI, upstream: ChatOnly, ledger: Ledger, names: str
    ) -> None:
        conversation = api.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Ada."}])
        ledger.conversation(conversation.id).ask("Who am I?")
        last = ask(api, "And now?", conversation=conversation.id)
        where: dict[str, Any] = {"conversation": conversation.id}
        if names == "the response before":
            where = {"previous_response_id": last.id}
        items = [*api.conversations.items.list(conversation.id, order="asc")]
        for item in items:
            answer = ask(api, [{"type": "item_reference", "id": item.id}], **where)
            where = {"previous_response_id": answer.id} if "previous_response_id" in where else where
            assert shown(upstream)[-1] == item.content[0].text  # type: ignore[union-attr]  # all are messages
        with pytest.raises(openai.NotFoundError):
            ask(api, [{"type": "item_reference", "id": items[0].id}], conversation=api.conversations.create().id)

    @pytest.mark.parametrize("summary", [[], [{"type": "summary_text", "text": "Hm."}]], ids=["empty", "said"])
    def test_reasoning_without_an_answer_is_an_item_and_nothing_besides(self, api: OpenAI, summary: Any) -> None:
        given: list[Any] = [
            {"type": "message", "role": "user", "content": "One"},
            {"type": "reasoning", "id": "rs_1", "summary": summary},
        ]
        conversation = api.conversations.create(items=given)
        answer = ask(api, [*given, {"role": "user", "content": "Two"}])
        for items in (
            api.conversations.items.list(conversation.id, order="asc"),
            api.responses.input_items.list(answer.id, order="asc"),
        ):
            assert [each.type for each in items][:2] == ["message", "reasoning"]
            assert not [each for each in items if getattr(each, "role", "") == "assistant"]

    def test_an_item_that_nobody_has_or_that_was_deleted_is_refused(self, api: OpenAI) -> None:
        conversation = api.conversations.create()
        [item] = ask(api, "One", conversation=conversation.id).output
        api.conversations.items.delete(item.id, conversation_id=conversation.id)
        for name in (item.id, "msg_none", f"msg_{'0' * 32}"):
            with pytest.raises(openai.NotFoundError, match=f"Item with id '{name}' not found"):
                ask(api, [{"type": "item_reference", "id": name}])
