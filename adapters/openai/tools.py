"""Convert tools to the formats of the three APIs, and answer tool calls with the app's functions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Effects,
    Failure,
    Message,
    Profile,
    ProviderRefused,
    Role,
    Tell,
    ToolCall,
    ToolFunction,
    ToolUse,
    Use,
    Work,
    limits,
    not_bound,
    redact,
    whole_text,
)


def offered_tools(profile: Profile, bound: Mapping[str, ToolFunction]) -> list[dict[str, Any]]:
    """Return the profile's tools for Chat Completions: the hosted tools and the bound functions."""
    return [tool for tool in profile.tools if tool["type"] != "function" or tool["function"]["name"] in bound]


def response_tools(profile: Profile, bound: Mapping[str, ToolFunction]) -> list[dict[str, Any]]:
    """Return the offered tools for the Responses API, which has a function's fields at the same level as its type."""
    return [
        {"type": "function", "strict": False} | tool["function"] if tool["type"] == "function" else tool
        for tool in offered_tools(profile, bound)
    ]


def answer_calls(
    calls: Sequence[ToolCall], request: BackendRequest, text: str = "", *, found: bool = False
) -> Effects[tuple[Message, ...]]:
    """Call the functions that a model requested; journal the calls before and the results after they run.

    If a function raises, its error is the result and is sent to the model. If a function is not bound, an error is journaled
    as its result and the run fails; a thread that contains the calls gets their results from the journal.

    Args:
        calls: the tool calls of one response.
        request: the request that the run answers.
        text: the text of the message with the calls.
        found: the calls are from an earlier run and were found in the thread; that run may have journaled them already.

    Returns:
        The tool messages, in the order of the calls.

    Raises:
        ProviderRefused: a function is not bound.
    """
    wish = Message(Role.ASSISTANT, whole_text(text) or None, tuple(calls))
    known = {called.id for each in request.memory.messages for called in each.message.calls()}
    if not found or any(called.id not in known for called in calls):
        yield Work(lambda: request.journal([wish]))
    results = []
    for called in calls:
        yield Tell(ToolUse(called.name, called.arguments, called.id, request.run_id))
        result = yield from _result(request.tools.get(called.name), called)
        results.append(Message(Role.TOOL, result, tool_call_id=called.id))
    yield Work(lambda: request.journal(results))
    unbound = [called.name for called in calls if called.name not in request.tools]
    if unbound:
        message = f"the model called {unbound[0]!r}, which is not bound to a function"
        raise ProviderRefused(Failure("error", code="tool_failed", message=message, thread_id=request.thread_id))
    return tuple(results)


def tool_call(call_id: str, name: str, arguments: str) -> ToolCall:
    """Create a tool call from the provider's values, with text that can be stored and sent back."""
    return ToolCall(whole_text(call_id), whole_text(name), whole_text(arguments))


def too_many_rounds() -> ProviderRefused:
    """Return the refusal for a model that requests tools in more rounds than allowed."""
    message = f"no answer after {limits.TOOL_ROUNDS_MAX} rounds of tool calls"
    return ProviderRefused(Failure("error", code="tool_failed", message=message))


def _result(function: ToolFunction | None, called: ToolCall) -> Effects[str]:
    if function is None:
        return not_bound(called.name)
    try:
        result = yield Use(function, json.loads(called.arguments or "{}"))
        return whole_text(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str))
    except Exception as error:  # noqa: BLE001 - the model gets any error of an app's function as the result
        return f"[the tool failed: {type(error).__name__}: {redact(str(error))}]"
