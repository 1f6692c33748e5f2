"""What a provider would refuse is named before it is asked."""

import json
import typing
from datetime import UTC, datetime

import pytest

from threadledger.adapters.openai.limits import HOSTED_TOOLS
from threadledger.adapters.openai.tools import preflight
from threadledger.domain.conversation import Profile, text_message
from threadledger.domain.conversation.messages import JournaledMessage
from threadledger.domain.exchange import BackendRequest
from threadledger.domain.failures import Cause, diagnose
from threadledger.domain.memory import Memory

BACKENDS = ("assistants", "responses", "chat")
QUESTION = Memory((JournaledMessage(text_message("user", "hello"), "m1", 1, datetime(2026, 11, 20, tzinfo=UTC)),), 1)


def functions(count):
    return [{"type": "function", "function": {"name": f"f{number}"}} for number in range(count)]


def refusal(backend, *, memory=QUESTION, instructions="", tools=(), bound=(), pinned=False):
    """The cause of the refusal, and its words; None where nothing speaks against asking."""
    profile = Profile(instructions=instructions, tools_json=json.dumps(list(tools)))
    request = BackendRequest("k", "e", "r", "m", profile, memory, 60.0, tools=dict.fromkeys(bound, print))
    failure = preflight(backend, request, pinned=pinned)
    return failure and (diagnose(failure), failure.message)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_memory_is_refused_everywhere_pinned_assistant_or_not(backend, pinned):
    assert refusal(backend, memory=Memory(), pinned=pinned) == (Cause.EMPTY_MEMORY, "there is no message to answer")


def test_instructions_are_limited_for_assistants_alone():
    assert {backend: refusal(backend, instructions="x" * 256_001) for backend in BACKENDS} == {
        "assistants": (
            Cause.INSTRUCTIONS_TOO_LONG,
            "the instructions have 256,001 characters, but assistants accepts at most 256,000",
        ),
        "responses": None,
        "chat": None,
    }
    assert refusal("assistants", instructions="x" * 256_000) is None


def test_more_than_128_functions_are_refused_for_assistants_and_for_chat():
    names = [f"f{number}" for number in range(129)]
    assert {backend: refusal(backend, tools=functions(129), bound=names) for backend in BACKENDS} == {
        "assistants": (Cause.TOO_MANY_TOOLS, "there are 129 tools, but assistants accepts at most 128"),
        "responses": None,
        "chat": (Cause.TOO_MANY_TOOLS, "there are 129 tools, but chat accepts at most 128"),
    }
    assert [refusal(backend, tools=functions(128), bound=names) for backend in BACKENDS] == [None] * 3


def test_chat_is_offered_only_the_functions_that_can_be_run_so_only_they_count():
    assert refusal("chat", tools=functions(200), bound=[f"f{number}" for number in range(128)]) is None


@pytest.mark.parametrize("backend", HOSTED_TOOLS)
@pytest.mark.parametrize("kind", sorted(frozenset().union(*HOSTED_TOOLS.values()) | {"web_open"}))
def test_a_hosted_tool_is_refused_where_the_backend_does_not_take_it_by_its_name(backend, kind):
    refused = refusal(backend, tools=[{"type": kind}])
    if kind in HOSTED_TOOLS[backend]:
        assert refused is None
    else:
        assert refused[0] is Cause.TOOL_NOT_SUPPORTED
        assert refused[1].startswith(f"{backend} does not accept tools of type {kind!r}: use one of ")


def test_every_tool_that_is_not_taken_is_named_once():
    tools = [{"type": "web_search"}, {"type": "mcp"}, {"type": "web_search"}, *functions(1)]
    assert refusal("chat", tools=tools)[1] == (
        "chat does not accept tools of type 'mcp', 'web_search': use one of custom, function"
    )


def test_a_pinned_assistants_own_instructions_and_tools_are_not_checked():
    tools = [{"type": "web_search"}, *functions(200)]
    assert refusal("assistants", instructions="x" * 300_000, tools=tools, pinned=True) is None


def test_the_hosted_tools_are_those_that_the_sdks_requests_have():
    from openai.types.beta.assistant_tool_param import AssistantToolParam
    from openai.types.chat.chat_completion_tool_union_param import ChatCompletionToolUnionParam
    from openai.types.responses.tool_param import ToolParam

    unions = {"assistants": AssistantToolParam, "responses": ToolParam, "chat": ChatCompletionToolUnionParam}
    kinds = {
        backend: {name for tool in typing.get_args(union) for name in typing.get_args(_type_of(tool))} - {"function"}
        for backend, union in unions.items()
    }
    assert kinds | {"anthropic": frozenset()} == HOSTED_TOOLS


def _type_of(tool):
    hint = typing.get_type_hints(tool)["type"]
    return typing.get_args(hint)[0] if typing.get_origin(hint) is not typing.Literal else hint
