"""Answer tool calls with the app's functions; an answer without calls needs none of this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from threadledger.domain import limits
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.effects import ApprovalNeeded, Effects, Emit, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, ToolUse
from threadledger.domain.exchange.recorded_tools import tool_result
from threadledger.domain.failures import Failure, whole_text


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
        ApprovalNeeded: a person has to decide on a call first; nothing was called or journaled.
    """
    calls = [_under_own_name(called, request) for called in calls]
    wish = (said or Message(Role.ASSISTANT)).replaced(tool_calls=tuple(calls))
    handed_over = tuple(called for called in calls if request.hands_over and called.name not in request.own_tools)
    if handed_over:
        own = tuple(called for called in calls if called not in handed_over)
        if own:  # the caller is given a message of its own
            yield from answer_calls(own, request, wish)
            wish = Message(Role.ASSISTANT)
        raise ApprovalNeeded(wish.replaced(tool_calls=handed_over), ())
    waiting = tuple(called.id for called in calls if called.name in request.profile.approval)
    if waiting:
        raise ApprovalNeeded(wish, waiting)
    earlier = request.memory.messages if found else ()  # a run that answers in a thread need not read them otherwise
    known = {called.id for each in earlier for called in each.message.calls()}
    if not found or any(called.id not in known for called in calls):
        yield from work(lambda: request.journal([wish]))
    results = []
    for called in calls:
        yield Emit(ToolUse(called.name, called.arguments, called.id, request.run_id))
        result = yield from tool_result(request.tools.get(called.name), called)
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
