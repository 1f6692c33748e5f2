"""The conformance kit: our backends pass it, so does a plain one of an app, and each broken one is refused by name."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from threadledger.adapters.anthropic import AnthropicBackend, AnthropicClient
from threadledger.adapters.openai import (
    Assistants,
    AssistantsBackend,
    AssistantsThreads,
    ChatBackend,
    Client,
    ConversationThreads,
    ResponsesBackend,
)
from threadledger.adapters.python_backend import PythonBackend
from threadledger.domain import Completion, Delta, Failure, Message, ProviderRefused, Role, ToolCall
from threadledger.domain.effects import Call, Emit, Use, perform, work
from threadledger.domain.exchange import BackendOptions
from threadledger.domain.failures import redact
from threadledger.testing import (
    RULES,
    Answers,
    CallsTool,
    Hangs,
    Refuses,
    Scenario,
    assert_backend_conforms,
    backend_conformance,
)

# The SDK warns at each call for assistants; that our own calls are quiet is proved in test_settings.py.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

ROUTES = {
    "chat": "POST /chat/completions",
    "responses": "POST /responses",
    "assistants": "POST /threads/{thread_id}/runs",
    "anthropic": "POST /messages",
}


class NoNotebook:
    def get(self, endpoint, profile_hash):
        return None

    def put(self, endpoint, profile_hash, assistant_id):
        pass

    def forget(self, assistant_id):
        pass


def script(simulator, scenario, route):
    """Let the simulator reply as a scenario says."""
    simulator.reset()
    for reply in scenario.replies:
        match reply:
            case Answers(text):
                simulator.answer(text)
            case CallsTool(name, arguments):
                simulator.answer({"tool_calls": [{"name": name, "arguments": dict(arguments)}]})
            case Refuses(status, error):
                simulator.add_fault(route, refuse={"status": status, **error}, times=None)
            case Hangs():
                simulator.add_fault(route, ignore=60.0, times=None)
    asked = {route, "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"}
    # A request that was never answered is recorded when its connection has closed, which may be after the next reset.
    answered = (lambda request: True) if Hangs() in scenario.replies else (lambda request: request.status is not None)
    scenario.counted_by(lambda: sum(request.template in asked and answered(request) for request in simulator.requests))


def backend_of(kind, simulator, scenario):
    script(simulator, scenario, ROUTES[kind])
    settings = {"api_key": "sk-test", "base_url": simulator.base_url}
    client = AnthropicClient(**settings) if kind == "anthropic" else Client(**settings)
    scenario.at_end(client.aclose)
    if kind in {"assistants", "responses"}:
        threads = (AssistantsThreads if kind == "assistants" else ConversationThreads)(client)

        def in_thread(request):
            thread_id = perform(threads.create("k"))
            items = threads.render(request.memory).items
            if kind == "assistants":
                perform(threads.add(thread_id, items))
            return replace(request, thread_id=thread_id, unsent=() if kind == "assistants" else items)

        scenario.prepare = in_thread
    return {
        "chat": lambda: ChatBackend(client),
        "responses": lambda: ResponsesBackend(client),
        "assistants": lambda: AssistantsBackend(client, Assistants(client, NoNotebook(), None)),
        "anthropic": lambda: AnthropicBackend(client),
    }[kind]()


@pytest.mark.parametrize("kind", ROUTES)
def test_our_backends_conform(kind: str, simulator: Any) -> None:
    assert_backend_conforms(lambda scenario: backend_of(kind, simulator, scenario))


def function_of(scenario: Scenario, *, awaited: bool) -> Any:
    """A function of an app whose model behaves as a scenario says, for the kind `python`."""

    def replied(reply: Any) -> Any:
        match reply:
            case Answers(text):
                return text
            case CallsTool(name, arguments):
                return Message(Role.ASSISTANT, None, (ToolCall("call_1", name, json.dumps(dict(arguments))),))
            case Refuses(status, error):
                facts = {"code": error.get("code"), "type": error.get("type"), "http_status": status}
                raise ProviderRefused(Failure("error", message=error.get("message"), **facts).redacted())
        return None

    def blocking(request: Any) -> Any:
        reply = scenario.next_reply()
        if isinstance(reply, Hangs):
            scenario.ended.wait(request.timeout_seconds)
            raise TimeoutError("the model did not answer")
        return replied(reply)

    async def awaiting(request: Any) -> Any:
        reply = scenario.next_reply()
        if isinstance(reply, Hangs):
            await asyncio.sleep(60)
        return replied(reply)

    return awaiting if awaited else blocking


@pytest.mark.parametrize("awaited", [False, True])
def test_a_function_of_an_app_conforms(awaited: bool) -> None:
    assert_backend_conforms(
        lambda scenario: PythonBackend(function_of(scenario, awaited=awaited), BackendOptions("local"))
    )


class PlainBackend:
    """A backend as an app would write it: a model in the same process, without an SDK."""

    name = "plain"
    thread = None
    takes_unsent = False

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def preflight(self, request):
        return None

    def answer(self, request):
        while True:
            reply = yield self.call(request)
            if not isinstance(reply, CallsTool):
                return (yield from self.finish(reply.text, request))
            yield from self.use_tool(reply, request)

    def call(self, request):
        def model():
            reply = self.scenario.next_reply()
            if isinstance(reply, Refuses):
                body = redact(str(dict(reply.error)))
                raise ProviderRefused(Failure("error", http_status=reply.status, message=body))
            if isinstance(reply, Hangs) and not self.scenario.ended.wait(request.timeout_seconds):
                raise ProviderRefused(Failure("timed_out", message="the model did not answer"))
            return reply

        async def awaited():
            return model()

        return Call(model, awaited)

    def finish(self, text, request):
        if not text.strip():
            raise ProviderRefused(Failure("incomplete", code="empty_answer"))
        yield from self.parts(text) if request.stream else ()
        return Completion((Message(Role.ASSISTANT, text),))

    def parts(self, text):
        for start in range(0, len(text), 4):
            yield Emit(Delta(text[start : start + 4]))

    def use_tool(self, reply, request):
        call = ToolCall("call-1", reply.name, '{"city": "Bern"}')
        yield from work(lambda: request.journal([Message(Role.ASSISTANT, None, (call,))]))
        result = yield Use(request.tools[reply.name], reply.arguments)
        yield from work(lambda: request.journal([Message(Role.TOOL, result, tool_call_id=call.id)]))


def test_a_backend_of_an_app_conforms() -> None:
    assert backend_conformance(PlainBackend) == []


class CallsTwice(PlainBackend):
    def answer(self, request):
        yield self.call(request)
        return (yield from super().answer(request))


class RetriesByItself(PlainBackend):
    def answer(self, request):
        try:
            return (yield from super().answer(request))
        except ProviderRefused:
            return (yield from super().answer(request))


class AnswersWithTheError(PlainBackend):
    def answer(self, request):
        try:
            return (yield from super().answer(request))
        except ProviderRefused as refused:
            return (yield from self.finish(f"Sorry: {refused}", request))


class LosesSpacesInItsStream(PlainBackend):
    def parts(self, text):
        for word in text.split():
            yield Emit(Delta(word))


class StripsTheAnswer(PlainBackend):
    def finish(self, text, request):
        return (yield from super().finish(text.strip(), request))


class AcceptsSilence(PlainBackend):
    def finish(self, text, request):
        return Completion((Message(Role.ASSISTANT, text),))
        yield


class NeverGivesUp(PlainBackend):
    def call(self, request):
        return super().call(replace(request, timeout_seconds=None))


class JournalsToolsLate(PlainBackend):
    def use_tool(self, reply, request):
        result = yield Use(request.tools[reply.name], reply.arguments)
        call = ToolCall("call-1", reply.name, '{"city": "Bern"}')
        messages = [Message(Role.ASSISTANT, None, (call,)), Message(Role.TOOL, result, tool_call_id=call.id)]
        yield from work(lambda: request.journal(messages))


class ForgetsTheFacts(PlainBackend):
    def answer(self, request):
        try:
            return (yield from super().answer(request))
        except ProviderRefused:
            raise RuntimeError("it did not work") from None


class ShowsTheKey(PlainBackend):
    def answer(self, request):
        try:
            return (yield from super().answer(request))
        except ProviderRefused as refused:
            reply = self.scenario.replies[0]
            body = dict(reply.error) if isinstance(reply, Refuses) else {}
            raise ProviderRefused(replace(refused.failure, details={"body": body})) from None


class CallsInPreflight(PlainBackend):
    def preflight(self, request):
        self.scenario.next_reply()


BROKEN = {
    CallsTwice: ("answer", "the model was called 2 times instead of 1"),
    RetriesByItself: ("refusal", "the model was called 2 times instead of 1"),
    AnswersWithTheError: ("refusal", "although the provider refused with HTTP 429"),
    LosesSpacesInItsStream: ("stream", "but the answer is"),
    StripsTheAnswer: ("answer", "instead of '  Zeile eins"),
    AcceptsSilence: ("empty", "the answer '' was returned"),
    NeverGivesUp: ("silence", "the call did not end"),
    JournalsToolsLate: ("tools", "this happened: called, journaled, journaled"),
    ForgetsTheFacts: ("refusal", "the HTTP status None instead of 429"),
    ShowsTheKey: ("secrets", "the failure contains the key"),
    CallsInPreflight: ("identity", "the model was called 2 times instead of 0"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_backend_is_refused_with_the_rule_that_it_breaks(broken: type[PlainBackend]) -> None:
    rule, problem = BROKEN[broken]
    found = backend_conformance(broken, skip=RULES.keys() - {rule}, patience_seconds=0.3)
    assert {each.rule for each in found} == {rule}
    assert [each for each in found if problem in each.problem]


def test_the_error_names_every_rule_that_is_broken_and_how_the_backend_was_called() -> None:
    with pytest.raises(AssertionError) as refused:
        assert_backend_conforms(StripsTheAnswer, skip=RULES.keys() - {"answer"})
    head, *lines = str(refused.value).splitlines()
    assert head == "the backend breaks the protocol:"
    assert lines[0].startswith("answer (blocking driver, no listener): the answer is 'Zeile eins")
    assert all(line.endswith(f"the rule: {RULES['answer']}") for line in lines)
    assert len(lines) == 4


def test_a_rule_that_does_not_exist_cannot_be_skipped() -> None:
    with pytest.raises(ValueError, match="there is no rule 'speed'"):
        backend_conformance(PlainBackend, skip=["speed"])
