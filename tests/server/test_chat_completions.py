"""Chat Completions through the provider's SDK: each request is an exchange of a conversation, whose memory the client sends."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.server import ServeSettings
from threadledger.domain.conversation import events as e
from threadledger.domain.exchange.exchange import Exchange
from threadledger.domain.ledger import Ledger
from threadledger.domain.memory.sending import losses_in_words

from .chat_only import ChatOnly
from .speaking import say

HEADER = "x-threadledger-conversation"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL: dict[str, Any] = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
HELLO: dict[str, Any] = {"role": "user", "content": "Hello"}
UNKNOWN_RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call_unknown", "content": "sunny"}
POST = "POST /chat/completions"
HALF = {"truncate": {"events": 4}}
"""A stream that ends in the middle of its text."""


def said(ledger: Ledger, key: str) -> list[tuple[str, str]]:
    return [(each.message.role.value, each.message.text) for each in ledger.memory(key).messages]


def events_of(ledger: Ledger, key: str, *kinds: type[e.Event]) -> list[Any]:
    return [each for each in ledger.conversation(key).events() if isinstance(each, kinds)]


def names(ledger: Ledger, key: str) -> list[str]:
    return [type(each).__name__ for each in ledger.conversation(key).events()]


def ask(client: OpenAI, *messages: Any, key: str | None = "k", **options: Any) -> Any:
    """Request a completion in a conversation."""
    headers = {HEADER: key} if key is not None else {}
    return client.chat.completions.create(
        model="gpt-5.5", messages=list(messages), **{"extra_headers": headers, **options}
    )


def text_of(chunks: Any) -> str:
    return "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)


# What is stored


def test_a_request_is_an_exchange_whose_messages_and_answer_are_journaled(client: OpenAI, ledger: Ledger) -> None:
    system = {"role": "system", "content": "Be kind."}
    made = ask(client, system, HELLO, temperature=0.5, metadata={"desk": "7"})
    [choice] = made.choices
    assert (choice.message.content, choice.finish_reason, made.model) == ("You said: Hello", "stop", "gpt-5.5")
    assert made.metadata == {"desk": "7"}
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0
    assert said(ledger, "k") == [("user", "Hello"), ("assistant", "You said: Hello")]
    assert names(ledger, "k") == [
        "ConversationStarted", "MessageJournaled", "ExchangeRequested", "RunStarted", "RunCompleted", "MessageJournaled",
    ]  # fmt: skip
    [request] = events_of(ledger, "k", e.ExchangeRequested)
    assert (request.surface, request.background, request.model) == ("chat", False, "gpt-5.5")
    assert request.metadata == {"desk": "7"}
    profile = ledger.journal.profile(request.profile_hash)
    assert profile is not None
    assert (profile.instructions, profile.settings) == ("Be kind.", {"temperature": 0.5})
    [run] = events_of(ledger, "k", e.RunStarted)
    assert (run.profile_hash, run.memory_rule) == (request.profile_hash, "2;all")


def test_only_what_is_new_in_a_history_is_journaled(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    first = ask(client, HELLO).choices[0].message
    ask(client, HELLO, first, {"role": "user", "content": "Hello"})
    assert said(ledger, "k") == [
        ("user", "Hello"), ("assistant", "You said: Hello"), ("user", "Hello"), ("assistant", "You said: Hello"),
    ]  # fmt: skip
    sent = simulator.requests[-1].body["messages"]
    assert [each["content"] for each in sent] == ["Hello", "You said: Hello", "Hello"]


def test_a_window_of_the_history_is_journaled_from_its_new_question_on(client: OpenAI, ledger: Ledger) -> None:
    answer = ask(client, HELLO).choices[0].message
    two = ask(client, HELLO, answer, {"role": "user", "content": "two"}).choices[0].message
    ask(client, {"role": "user", "content": "two"}, two, {"role": "user", "content": "three"})
    assert [text for _, text in said(ledger, "k")][::2] == ["Hello", "two", "three"]
    assert [each.memory_rule for each in events_of(ledger, "k", e.RunStarted)] == ["2;all", "2;all", "2;app"]


def test_the_model_is_shown_exactly_what_the_client_sends(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    ledger.conversation("k").append("user", "Something else")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": "Two."},
        {"role": "user", "name": "Bob", "content": [{"type": "text", "text": "Look"}, picture]},
        {"role": "system", "content": "In between."},
        {"role": "assistant", "content": "Seen."},
        {"role": "user", "content": "And?"},
    ]
    ask(client, *messages)
    sent = simulator.requests[-1].body["messages"]
    assert sent == [{"role": "system", "content": "One.\n\nTwo."}, *messages[2:]]
    assert "In between." not in [text for _, text in said(ledger, "k")]


def test_without_a_name_each_request_has_a_conversation_of_its_own(client: OpenAI, ledger: Ledger) -> None:
    made = [ask(client, HELLO, key=None, metadata={"threadledger_key": "k"}) for _ in range(2)]
    assert [said(ledger, each.id) for each in made] == [[("user", "Hello"), ("assistant", "You said: Hello")]] * 2
    assert not ledger.journal.used_keys(["k"])


def test_the_header_wins_over_the_metadata(client: OpenAI, ledger: Ledger) -> None:
    ask(client, HELLO, key="header", metadata={"conversation": "metadata"})
    ask(client, HELLO, key=None, metadata={"conversation": "metadata"}, extra_headers={})
    assert len(said(ledger, "header")) == len(said(ledger, "metadata")) == 2


@pytest.mark.parametrize("name", ["Übergabe", "日本", "ä/ö 1", "😀"])
def test_a_name_in_the_header_is_the_same_as_in_the_metadata(
    client: OpenAI, server: Any, ledger: Ledger, name: str
) -> None:
    ask(client, HELLO, key=None, metadata={"conversation": name})
    body = {"model": "gpt-5.5", "messages": [HELLO, {"role": "assistant", "content": "You said: Hello"}, HELLO]}
    answered = say(server, "POST", "/v1/chat/completions", body, **{HEADER: name.encode()})
    assert (answered.status, ledger.status()["conversations"]) == (200, 1)
    assert [text for _, text in said(ledger, name)] == ["Hello", "You said: Hello"] * 2


def test_a_name_in_the_header_that_is_not_in_utf_8_is_refused(server: Any, ledger: Ledger) -> None:
    body, name = {"model": "gpt-5.5", "messages": [HELLO]}, "Übergabe".encode("latin-1")
    refused = say(server, "POST", "/v1/chat/completions", body, **{HEADER: name})
    assert (refused.status, refused.error["param"]) == (400, HEADER)
    assert "not in UTF-8" in refused.error["message"]
    assert ledger.status()["events"] == 0


@pytest.mark.parametrize("name", ["", "x" * 201, "tenant:acme/k"])
def test_an_invalid_name_is_a_400_and_stores_nothing(client: OpenAI, ledger: Ledger, name: str) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be the name of a conversation"):
        ask(client, HELLO, key=None, metadata={"conversation": name})
    assert ledger.status()["events"] == 0


def test_instructions_alone_are_shown_to_the_model_and_are_a_side_call(
    client: OpenAI, ledger: Ledger, simulator: Any
) -> None:
    ask(client, HELLO)
    made = ask(client, {"role": "developer", "content": "Name this chat"})
    assert simulator.requests[-1].body["messages"] == [{"role": "developer", "content": "Name this chat"}]
    assert made.choices[0].message.content == "You said: "
    assert len(said(ledger, "k")) == 2
    profile = ledger.journal.profile(events_of(ledger, "k", e.ExchangeRequested)[1].profile_hash)
    assert profile is not None
    assert profile.instructions == "Name this chat"


def test_a_failed_question_that_is_sent_again_continues_its_exchange(
    client: OpenAI, ledger: Ledger, simulator: Any
) -> None:
    simulator.add_fault(POST, refuse={"status": 400, "code": "odd", "message": "odd"})
    with pytest.raises(openai.BadRequestError):
        ask(client, HELLO)
    ask(client, HELLO)
    assert said(ledger, "k") == [("user", "Hello"), ("assistant", "You said: Hello")]
    runs = events_of(ledger, "k", e.RunStarted)
    assert len({each.exchange_id for each in runs}) == 1
    assert [each.answered_by for each in ledger.failures()] == [runs[1].run_id]


def test_requests_of_one_conversation_run_at_the_same_time(open_api: Callable[..., Any], upstream: ChatOnly) -> None:
    server = open_api()
    questions = [{"role": "user", "content": text} for text in ("one", "two")]
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client, ThreadPoolExecutor(2) as pool:
        with upstream.held():
            asked = [pool.submit(ask, client, each) for each in questions]
            upstream.wait_for(2)
        answers = [each.result().choices[0].message.content for each in asked]
    assert answers == ["You said: one", "You said: two"]
    assert len({each.exchange_id for each in events_of(server.served.ledger, "k", e.RunStarted)}) == 2


# Functions


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_request_whose_exchange_has_not_begun_is_not_taken_for_one_that_another_process_has_ended(
    server: Any, client: OpenAI, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    run = Exchange.run

    def look_first(self: Exchange) -> Any:
        server.served.runner._break_off()  # as every second
        return run(self)

    monkeypatch.setattr(Exchange, "run", look_first)
    assert ask(client, {"role": role, "content": "Hello"}).choices[0].finish_reason == "stop"


def test_a_request_of_a_conversation_that_was_deleted_ends_although_the_key_is_used_again(
    open_api: Callable[..., Any], upstream: ChatOnly
) -> None:
    server = open_api(retries=0)
    ledger = server.served.ledger
    with ThreadPoolExecutor() as threads, OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        with upstream.held():
            asking = threads.submit(ask, client, {"role": "user", "content": "Hello"})
            upstream.wait_for(1)
            ledger.journal.commit("k", lambda conversation: conversation.delete(interrupting=True))  # as another server
            ledger.conversation("k").append("user", "Another conversation")
            server.served.runner._break_off()
            upstream.wait_until_left()
        with pytest.raises(openai.APIStatusError):
            asking.result()
    assert said(ledger, "k") == [("user", "Another conversation")]


def test_a_call_ends_the_response_and_the_result_continues_the_exchange(
    client: OpenAI, ledger: Ledger, simulator: Any
) -> None:
    simulator.answer({**CALL}, "It is sunny.")
    called = ask(client, HELLO, tools=[WEATHER]).choices[0]
    assert called.finish_reason == "tool_calls"
    assert called.message.content is None
    [call] = called.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Bern"})
    [ended] = events_of(ledger, "k", e.RunCompleted)
    assert (ended.goes_on, ended.waits_for) == (True, [])
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    made = ask(client, HELLO, called.message, result, tools=[WEATHER])
    assert made.choices[0].message.content == "It is sunny."
    assert len({each.exchange_id for each in events_of(ledger, "k", e.RunStarted)}) == 1
    assert [role for role, _ in said(ledger, "k")] == ["user", "assistant", "tool", "assistant"]
    assert ledger.journal.require("k").state.unanswered == 0


def test_a_client_that_never_sends_results_is_not_blocked(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    simulator.answer({**CALL}, "Never mind.")
    ask(client, HELLO, tools=[WEATHER])
    made = ask(client, HELLO, {"role": "assistant", "content": "Let me see"}, {"role": "user", "content": "Go on"})
    assert made.choices[0].message.content == "Never mind."
    assert ledger.journal.require("k").state.pending is None


def test_a_streamed_call_has_its_name_and_arguments(client: OpenAI, simulator: Any) -> None:
    simulator.answer({**CALL})
    chunks = list(ask(client, HELLO, tools=[WEATHER], stream=True))
    calls = [call for each in chunks for call in each.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "weather"
    assert json.loads("".join(each.function.arguments for each in calls)) == {"city": "Bern"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


# Streams


def test_a_stream_has_the_role_the_text_the_end_and_the_usage(client: OpenAI, ledger: Ledger) -> None:
    chunks = list(ask(client, HELLO, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == "You said: Hello"
    assert len(chunks) > 4
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-2:] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert {each.id for each in chunks} == {events_of(ledger, "k", e.ExchangeRequested)[0].request["completion_id"]}
    assert said(ledger, "k")[-1] == ("assistant", "You said: Hello")


def test_the_end_of_a_stream_is_sent_after_the_commit(client: OpenAI, ledger: Ledger) -> None:
    for each in ask(client, HELLO, stream=True):
        if each.choices[0].finish_reason is not None:
            assert said(ledger, "k")[-1] == ("assistant", "You said: Hello")
            return
    raise AssertionError("the stream has no end")


def test_a_stream_that_breaks_is_continued_by_the_next_run(serving: Callable[..., Any], simulator: Any) -> None:
    server = serving(retries=1)
    simulator.answer("One two three four five six.", "three four.")
    simulator.add_fault(POST, **HALF)
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        text = text_of(ask(client, HELLO, stream=True))
    runs = events_of(server.served.ledger, "k", e.RunStarted)
    assert runs[1].continues_run_id == runs[0].run_id
    assert text == said(server.served.ledger, "k")[-1][1]
    assert text.startswith("One two ")
    assert text.endswith("three four.")


def test_a_stream_that_cannot_be_continued_ends_with_an_error(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault(POST, **HALF)
    with pytest.raises(openai.APIError, match="run ") as refused:
        list(ask(client, {"role": "user", "content": "One two three four"}, stream=True))
    assert not isinstance(refused.value, openai.APIStatusError)
    assert events_of(ledger, "k", e.RunFailed)[0].partial_text


def test_a_stream_that_fails_before_its_text_has_the_status_of_the_provider(client: OpenAI, simulator: Any) -> None:
    simulator.add_fault(POST, refuse={"status": 429, "code": "rate_limit_exceeded", "message": "slow down"}, times=9)
    with pytest.raises(openai.RateLimitError, match="slow down"):
        ask(client, HELLO, stream=True)


# Options


def test_other_options_are_passed_on_to_chat_completions(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    options = {
        "stop": ["x"], "seed": 3, "presence_penalty": 0.5, "logit_bias": {"5": 1}, "user": "u", "verbosity": "low",
        "service_tier": "default", "prompt_cache_key": "c", "safety_identifier": "s",
    }  # fmt: skip
    ask(client, HELLO, n=1, **options, max_tokens=64, tools=[WEATHER], parallel_tool_calls=False)
    sent = simulator.requests[-1].body
    assert {name: sent[name] for name in options} == options
    assert (sent["parallel_tool_calls"], sent["max_completion_tokens"]) == (False, 64)
    [run] = events_of(ledger, "k", e.RunStarted)
    assert run.losses == {}


def test_a_backend_of_another_api_is_called_without_them_which_is_recorded(
    serving: Callable[..., Any], simulator: Any
) -> None:
    server = serving(backends=("responses",))
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        made = ask(client, HELLO, seed=3, stop="x", temperature=0.5)
    assert made.choices[0].message.content == "You said: Hello"
    [run] = events_of(server.served.ledger, "k", e.RunStarted)
    assert run.losses == {"option:seed": 1, "option:stop": 1}
    assert simulator.requests[-1].body["temperature"] == 0.5
    assert "seed" not in simulator.requests[-1].body


def test_probabilities_are_no_part_of_an_answer_which_is_recorded(
    client: OpenAI, ledger: Ledger, simulator: Any
) -> None:
    ask(client, HELLO, logprobs=True, top_logprobs=2)
    assert "logprobs" not in simulator.requests[-1].body
    assert events_of(ledger, "k", e.RunStarted)[0].losses == {"option:logprobs": 1, "option:top_logprobs": 1}


def test_results_that_no_model_can_be_shown_are_left_out_which_is_recorded(
    client: OpenAI, ledger: Ledger, simulator: Any
) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    result = {**UNKNOWN_RESULT, "tool_call_id": "call_1"}
    calls = {"role": "assistant", "content": None, "tool_calls": [called]}
    ask(client, UNKNOWN_RESULT, HELLO, result, calls, result, result, {"role": "user", "content": "Bye"})
    sent = [each["role"] for each in simulator.requests[-1].body["messages"]]
    assert sent == ["user", "assistant", "tool", "user"]
    [run] = events_of(ledger, "k", e.RunStarted)
    assert run.losses == {"message:tool": 3}
    assert losses_in_words(run.losses) == "3 tool results"
    assert [role for role, _ in said(ledger, "k")].count("tool") == 4


def test_what_the_provider_refuses_is_refused_by_the_provider(client: OpenAI, ledger: Ledger) -> None:
    with pytest.raises(openai.BadRequestError, match=r"max_completion_tokens.*run "):
        ask(client, HELLO, max_completion_tokens=0)
    assert said(ledger, "k") == [("user", "Hello")]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [UNKNOWN_RESULT]}, "messages"),
        ({"messages": [{"role": "system", "content": "Be kind."}, UNKNOWN_RESULT, UNKNOWN_RESULT]}, "messages"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_what_cannot_be_stored_or_answered_is_refused_by_name(
    client: OpenAI, ledger: Ledger, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "gpt-5.5", "messages": [HELLO], **body})
    assert refused.value.param == param
    assert ledger.status()["events"] == 0


def test_a_search_of_the_web_is_left_out_if_the_settings_say_so(serving: Callable[..., Any], simulator: Any) -> None:
    server = serving(serve=ServeSettings(hosted_tools="drop"))
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        ask(client, HELLO, web_search_options={})
    assert "web_search_options" not in simulator.requests[-1].body
    assert events_of(server.served.ledger, "k", e.RunStarted)[0].losses == {"tool:web_search": 1}


# Answers


def test_an_answer_that_reached_its_limit_is_an_answer(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault(POST, incomplete="max_output_tokens")
    made = ask(client, {"role": "user", "content": "One two three four"}, max_tokens=16)
    [choice] = made.choices
    assert choice.finish_reason == "length"
    assert said(ledger, "k")[-1] == ("assistant", choice.message.content)
    assert made.usage.completion_tokens > 0
    assert ledger.failures() == []


def test_a_filtered_answer_says_so_also_in_a_stream(client: OpenAI, simulator: Any) -> None:
    simulator.add_fault(POST, incomplete="content_filter")
    chunks = list(ask(client, {"role": "user", "content": "One two three four"}, stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert text_of(chunks)


def test_refusals_citations_and_sound_are_shown_as_the_provider_sent_them(client: OpenAI, simulator: Any) -> None:
    cited = {"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 2}
    parts = [{"type": "output_text", "text": "It is in Bern.", "annotations": [cited]}]
    sound = {"data": "UklGRg==", "transcript": "In Bern."}
    simulator.answer(
        {"output": [{"type": "message", "content": parts}]},
        {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]},
        {"audio": sound},
    )
    first = ask(client, HELLO, key=None).choices[0].message
    assert first.content == "It is in Bern."
    assert first.annotations[0].url_citation.url == "https://a.example/"
    second = ask(client, HELLO, key=None).choices[0].message
    assert (second.content, second.refusal) == (None, "No.")
    third = ask(client, HELLO, key=None, modalities=["text", "audio"], audio={"voice": "a", "format": "wav"})
    message = third.choices[0].message
    assert (message.content, message.audio.data, message.audio.transcript) == (None, "UklGRg==", "In Bern.")


def test_a_fallback_answers_and_the_completion_names_its_model(serving: Callable[..., Any], simulator: Any) -> None:
    server = serving(backends=("responses", "chat"), openai_model="gpt-6-astra", fallback_model="gpt-5.5")
    simulator.add_fault("POST /responses", refuse={"status": 500, "message": "oops"}, times=9)
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        made = client.chat.completions.create(
            model="gpt-4o",
            messages=[HELLO],
            extra_headers={HEADER: "k"},  # type: ignore[list-item] # the SDK's own types
        )
    assert (made.model, made.choices[0].message.content) == ("gpt-5.5", "You said: Hello")
    assert [each.to_backend for each in events_of(server.served.ledger, "k", e.FallbackUsed)] == ["chat"]


def test_a_name_of_a_model_leads_to_its_route(open_api: Callable[..., Any], upstream: ChatOnly) -> None:
    server = open_api('[serve.models]\n"gpt-4o" = ["chat:gpt-5.5"]\n')
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        made = client.chat.completions.create(model="gpt-4o", messages=[HELLO])  # type: ignore[list-item] # the SDK's own types
    assert (upstream.requests[0]["model"], made.model) == ("gpt-5.5", "gpt-5.5")


def test_a_failed_request_can_be_run_again_by_the_operator(client: OpenAI, ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault(POST, refuse={"status": 400, "code": "odd", "message": "odd"})
    with pytest.raises(openai.BadRequestError):
        ask(client, {"role": "system", "content": "Be kind."}, HELLO, seed=5)
    [item] = ledger.replay.plan_rerun(failed=True).apply()
    assert (item.state, item.answer) == ("answered", "You said: Hello")
    sent = simulator.requests[-1].body
    assert (sent["seed"], [each["content"] for each in sent["messages"]]) == (5, ["Be kind.", "Hello"])
    assert said(ledger, "k") == [("user", "Hello"), ("assistant", "You said: Hello")]


# Refusals


@pytest.mark.parametrize(
    ("refuse", "status", "code"),
    [
        ({"status": 400, "code": "context_length_exceeded", "message": "too long"}, 400, "context_length_exceeded"),
        ({"status": 401, "code": "invalid_api_key", "message": "bad key"}, 502, "upstream_authentication"),
        ({"status": 403, "code": "forbidden", "message": "not yours"}, 502, "upstream_permission"),
        ({"status": 404, "code": "model_not_found", "message": "no model"}, 404, "model_not_found"),
        ({"status": 429, "code": "insufficient_quota", "message": "no money"}, 429, "insufficient_quota"),
        ({"status": 500, "code": None, "message": "oops"}, 500, "provider_error"),
    ],
)
def test_a_refusal_of_the_provider_keeps_its_status_but_never_accuses_the_key_of_the_caller(
    client: OpenAI, ledger: Ledger, simulator: Any, lines: Any, refuse: dict[str, Any], status: int, code: str
) -> None:
    simulator.add_fault(POST, refuse=refuse, times=9)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, HELLO)
    [failure] = ledger.failures()
    error: Any = refused.value.body
    assert (refused.value.status_code, error["code"]) == (status, code)
    assert refuse["message"] in error["message"]
    assert f"cause {failure.cause.value}, run {failure.run_id}" in error["message"]
    assert (refused.value.response.headers.get("x-should-retry") == "false") == code.startswith("upstream_")
    assert not [each for each in lines.records if each.levelname == "ERROR"]  # it is no fault of the server


@pytest.mark.parametrize("body", ["<html>", "", "[1]", '{"choices": 1}', '{"choices"', "null"])
def test_a_body_that_cannot_be_read_is_a_502_in_the_words_of_the_api(client: OpenAI, simulator: Any, body: str) -> None:
    simulator.add_fault(POST, reply={"text": body}, times=9)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, HELLO)
    assert (refused.value.status_code, refused.value.type) == (502, "server_error")


def test_a_rate_limit_says_when_to_try_again(client: OpenAI, simulator: Any) -> None:
    limit = {"status": 429, "code": "rate_limit_exceeded", "message": "slow down", "headers": {"retry-after": "7"}}
    simulator.add_fault(POST, refuse=limit, times=9)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client, HELLO)
    assert refused.value.response.headers["retry-after"] == "7"


def test_a_connection_that_fails_is_a_502(client: OpenAI, simulator: Any) -> None:
    simulator.add_fault(POST, drop=True, times=9)
    with pytest.raises(openai.InternalServerError) as refused:
        ask(client, HELLO)
    assert (refused.value.status_code, refused.value.code) == (502, "network")
