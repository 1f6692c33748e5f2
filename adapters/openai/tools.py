"""Convert tools to the formats of the three APIs, answer tool calls with the app's functions, and check requests.

The check before a request is sent (`preflight`) reports a named refusal instead of the provider's generic
`server_error`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Profile
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.effects import Effects, Emit, Use, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, ToolFunction, ToolUse
from threadledger.domain.failures import Cause, Failure, redact, whole_text

from .limits import ASSISTANT_TOOLS_MAX, CHAT_FUNCTIONS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX

# Source of names and sizes: OpenAI's OpenAPI description distributed with openai-python 3.3.1 (`FunctionObject`: name
# of a-z, A-Z, 0-9, underscores and dashes, at most 64 characters; parameters: a JSON schema). November 2026.
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def offered_tools(profile: Profile, bound: Mapping[str, ToolFunction]) -> list[dict[str, Any]]:
    """Return the profile's tools for Chat Completions: the hosted tools and the bound functions."""
    offered = [tool for tool in _tools_of(profile) if tool["type"] != "function" or tool["function"]["name"] in bound]
    return [_under_valid_name(tool) for tool in offered]


def _under_valid_name(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function" or FUNCTION_NAME.fullmatch(tool["function"]["name"]):
        return tool
    from threadledger.domain.memory import valid_name  # loaded only if a name has to be changed

    return tool | {"function": tool["function"] | {"name": valid_name(tool["function"]["name"])}}


def _tools_of(profile: Profile) -> list[dict[str, Any]]:
    return profile.tools if profile.tools_json != "[]" else []  # most profiles have none, and nothing is parsed


def response_tools(profile: Profile, bound: Mapping[str, ToolFunction]) -> list[dict[str, Any]]:
    """Return the offered tools for the Responses API, which has a function's fields at the same level as its type."""
    return [
        {"type": "function", "strict": False} | tool["function"] if tool["type"] == "function" else tool
        for tool in offered_tools(profile, bound)
    ]


def answer_calls(
    calls: Sequence[ToolCall], request: BackendRequest, said: Message | None = None, *, found: bool = False
) -> Effects[tuple[Message, ...]]:
    """Call the functions that a model requested; journal the calls before and the results after they run.

    If a function raises, its error is the result and is sent to the model. If a function is not bound, an error is journaled
    as its result and the run fails; a thread that contains the calls gets their results from the journal.

    Args:
        calls: the tool calls of one response.
        request: the request that the run answers.
        said: the message with the calls; None if there is nothing but the calls.
        found: the calls are from an earlier run and were found in the thread; that run may have journaled them already.

    Returns:
        The tool messages, in the order of the calls.

    Raises:
        ProviderRefused: a function is not bound.
    """
    calls = [_under_own_name(called, request) for called in calls]
    wish = (said or Message(Role.ASSISTANT)).replaced(tool_calls=tuple(calls))
    earlier = request.memory.messages if found else ()  # a run that answers in a thread need not read them otherwise
    known = {called.id for each in earlier for called in each.message.calls()}
    if not found or any(called.id not in known for called in calls):
        yield from work(lambda: request.journal([wish]))
    results = []
    for called in calls:
        yield Emit(ToolUse(called.name, called.arguments, called.id, request.run_id))
        result = yield from _result(request.tools.get(called.name), called)
        results.append(Message(Role.TOOL, result, tool_call_id=called.id))
    yield from work(lambda: request.journal(results))
    unbound = [called.name for called in calls if called.name not in request.tools]
    if unbound:
        message = f"the model called {unbound[0]!r}, which is not bound to a function"
        raise ProviderRefused(Failure("error", code="tool_failed", message=message, thread_id=request.thread_id))
    return tuple(results)


def _under_own_name(called: ToolCall, request: BackendRequest) -> ToolCall:
    """Return the call with the name of the function that the app or an earlier call gave it (see `valid_name`)."""
    if called.name in request.tools:
        return called
    from threadledger.domain.memory import original_name

    earlier = {call.name: None for each in request.memory.messages for call in each.message.calls()}
    return replace(called, name=original_name(called.name, (*request.tools, *earlier)))


def tool_call(call_id: str, name: str, arguments: str) -> ToolCall:
    """Create a tool call from the provider's values, with text that can be stored and sent back."""
    return ToolCall(whole_text(call_id), whole_text(name), whole_text(arguments))


def unknown_calls(message: Message) -> ProviderRefused:
    """Return the refusal for a model that calls tools that are no functions, which an app's functions cannot answer."""
    kinds = ", ".join(sorted({str(call.get("type")) for call in message.extra().get("tool_calls", [])}))
    return ProviderRefused(
        Failure(
            "error", code="tool_failed", message=f"the model called a tool of type {kinds}, which is not a function"
        )
    )


def too_many_rounds() -> ProviderRefused:
    """Return the refusal for a model that requests tools in more rounds than allowed."""
    message = f"no answer after {limits.TOOL_ROUNDS_MAX} rounds of tool calls"
    return ProviderRefused(Failure("error", code="tool_failed", message=message))


def _result(function: ToolFunction | None, called: ToolCall) -> Effects[str]:
    if function is None:
        from threadledger.domain.exchange import not_bound

        return not_bound(called.name)
    try:
        result = yield Use(function, json.loads(called.arguments or "{}"))
        return whole_text(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str))
    except Exception as error:  # noqa: BLE001 - the model gets any error of an app's function as the result
        return f"[the tool failed: {type(error).__name__}: {redact(str(error))}]"


def lacks(kind: str, request: BackendRequest, is_home: bool = True) -> list[str]:
    """Return what of the request a backend of this kind does not have: `tool:TYPE` and `part:TYPE`.

    Files exist at one endpoint only, so neither their ids nor tools that name them are sent to another (`is_home`).
    """
    found = [f"tool:{tool_type}" for tool_type in _types_lacking(kind, request, is_home)]
    if not request.memory.has_parts:
        return found
    from threadledger.domain.exchange import number_of_stored_files

    parts = ["part:file"] if not is_home and number_of_stored_files(request.memory) else []
    return [*found, *dict.fromkeys([*parts, *request.memory.lost_parts(kind)[1]])]


def losses(kind: str, request: BackendRequest, is_home: bool = True) -> Mapping[str, int]:
    """Return how many parts in view a backend of this kind is not shown, by kind."""
    if not request.memory.has_parts:
        return {}
    if is_home:
        return request.memory.lost_parts(kind)[0]
    from threadledger.domain.exchange import names_stored_file

    return request.memory.lost_parts(kind, names_stored_file)[0]


def _types_lacking(kind: str, request: BackendRequest, is_home: bool) -> list[str]:
    taken = HOSTED_TOOLS.get(kind, frozenset()) | {"function"}
    tools = _tools_of(request.profile)
    found = {str(tool.get("type")) for tool in tools if tool.get("type") not in taken}
    if tools and not is_home:
        from threadledger.domain.exchange import names_stored_file

        hosted = (tool for tool in tools if tool.get("type") != "function")
        found |= {str(tool.get("type")) for tool in hosted if names_stored_file(tool)}
    return sorted(found)


def preflight(backend: str, request: BackendRequest, pinned: bool = False, *, is_home: bool = True) -> Failure | None:
    """Return the first problem of a request as a failure with status `refused`; None if there is none.

    The instructions and tools of a pinned assistant are not checked, because the profile does not define them.
    """
    if request.memory.is_empty:
        return _refused(Cause.EMPTY_MEMORY, "there is no message to answer")
    if pinned:
        return None
    return (
        _instructions(backend, request)
        or _number_of_tools(backend, request)
        or _kinds_of_tools(backend, request, is_home)
    )


def _instructions(backend: str, request: BackendRequest) -> Failure | None:
    """Check the length of an assistant's instructions. For other backends the limit is the model's context window, which
    the provider reports with its own code."""
    length = len(request.profile.instructions)
    if backend != "assistants" or length <= INSTRUCTIONS_CHARS_MAX:
        return None
    message = f"the instructions have {length:,} characters, but {backend} accepts at most {INSTRUCTIONS_CHARS_MAX:,}"
    return _refused(Cause.INSTRUCTIONS_TOO_LONG, message)


def _number_of_tools(backend: str, request: BackendRequest) -> Failure | None:
    """Check the number of tools. An assistant gets all tools of the profile; other backends get only bound functions."""
    offered, allowed = _tools_of(request.profile), ASSISTANT_TOOLS_MAX
    if backend == "chat":
        offered = [tool for tool in offered_tools(request.profile, request.tools) if tool["type"] == "function"]
        allowed = CHAT_FUNCTIONS_MAX
    if backend in {"responses", "anthropic"} or len(offered) <= allowed:
        return None
    return _refused(Cause.TOO_MANY_TOOLS, f"there are {len(offered)} tools, but {backend} accepts at most {allowed}")


def _kinds_of_tools(backend: str, request: BackendRequest, is_home: bool) -> Failure | None:
    others = _types_lacking(backend, request, is_home)
    if not others:
        return None
    named = ", ".join(map(repr, others))
    taken = HOSTED_TOOLS.get(backend, frozenset()) | {"function"}
    message = f"{backend} does not accept tools of type {named}: use one of {', '.join(sorted(taken))}"
    if taken.issuperset(others):
        message = f"tools of type {named} name files that are stored at another endpoint: remove them from the profile"
    return _refused(Cause.TOOL_NOT_SUPPORTED, message)


def _refused(cause: Cause, message: str) -> Failure:
    return Failure("refused", code=cause.value, message=message)
