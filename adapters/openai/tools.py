"""Tools as the three APIs want them, and the calls that models make answered by the app's own functions."""

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
    """The profile's tools for Chat Completions: hosted ones, and the functions that can be run here."""
    return [tool for tool in profile.tools if tool["type"] != "function" or tool["function"]["name"] in bound]


def response_tools(profile: Profile, bound: Mapping[str, ToolFunction]) -> list[dict[str, Any]]:
    """The same for the Responses API, where a function's fields stand beside its type."""
    return [
        {"type": "function", "strict": False} | tool["function"] if tool["type"] == "function" else tool
        for tool in offered_tools(profile, bound)
    ]


def answer_calls(
    calls: Sequence[ToolCall], request: BackendRequest, text: str = "", *, found: bool = False
) -> Effects[tuple[Message, ...]]:
    """Run the functions that a model asked for, and journal its wish and their results before anybody goes on.

    A function that raises gives its error as the result: the model sees it. So does one that is not bound, and the run
    fails; its calls have their results in the journal then, and a thread that holds the calls gets them from there.
    `found` says that the calls are an earlier run's, found in the thread: that run may have journaled them.

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
    """A call as the provider sent it, in text that can be stored and sent back."""
    return ToolCall(whole_text(call_id), whole_text(name), whole_text(arguments))


def too_many_rounds() -> ProviderRefused:
    """The refusal to go on with a model that asks for tools again and again."""
    message = f"no answer after {limits.TOOL_ROUNDS_MAX} rounds of tool calls"
    return ProviderRefused(Failure("error", code="tool_failed", message=message))


def _result(function: ToolFunction | None, called: ToolCall) -> Effects[str]:
    if function is None:
        return not_bound(called.name)
    try:
        result = yield Use(function, json.loads(called.arguments or "{}"))
        return whole_text(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str))
    except Exception as error:  # noqa: BLE001 - the model is told, whatever an app's function raises
        return f"[the tool failed: {type(error).__name__}: {redact(str(error))}]"
