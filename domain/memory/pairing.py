"""Place tool results directly after their calls, as stored hashes of memory cover them.

The code is frozen: `Memory.digest` is computed over what it returns, and reruns compare digests of stored runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..conversation.messages import JournaledMessage, Message, Role, ToolCall

# Providers require each call directly followed by exactly one result, and no result alone. Only the view is changed:
# a missing result is replaced by a sentence that says so, a late one is moved up, and one whose call is out of view
# (or was already answered) is omitted.
NO_RESULT = "[no result of this call was recorded]"  # frozen: the digest covers it


def pair_tool_calls(messages: Sequence[JournaledMessage]) -> tuple[JournaledMessage, ...]:
    """Return the messages with every tool call answered once, directly after the message that made it."""
    if not any(each.message.calls() or each.message.role is Role.TOOL for each in messages):
        return tuple(messages)
    return tuple(_paired(messages, _results_by_call(messages)))


def _paired(
    messages: Sequence[JournaledMessage], results: dict[tuple[int, str], JournaledMessage]
) -> Iterator[JournaledMessage]:
    for index, each in enumerate(messages):
        if each.message.role is Role.TOOL:
            continue
        yield each
        for call in each.message.calls():
            yield results.get((index, call.id)) or _placeholder(each, call)


def _results_by_call(messages: Sequence[JournaledMessage]) -> dict[tuple[int, str], JournaledMessage]:
    """Map (index of the calling message, call id) to the first result after the call, before the id is used again."""
    waiting: dict[str, int] = {}
    results: dict[tuple[int, str], JournaledMessage] = {}
    for index, each in enumerate(messages):
        for call in each.message.calls():
            waiting[call.id] = index
        call_id = each.message.tool_call_id
        if call_id is not None and call_id in waiting:
            results[waiting.pop(call_id), call_id] = each
    return results


def _placeholder(caller: JournaledMessage, call: ToolCall) -> JournaledMessage:
    result = Message(Role.TOOL, NO_RESULT, tool_call_id=call.id)
    return JournaledMessage(result, "", caller.version, caller.at, caller.exchange_id, caller.run_id, caller.source)
