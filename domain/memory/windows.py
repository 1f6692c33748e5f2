"""Limit a memory to a window: the newest messages within a number or a budget of estimated tokens.

A stored rule describes the view that a run saw. It begins with `2;`, or it is one of rule 1 (`rule_1.py`), as before
November 2026. `2;all` is the whole memory. `2;last=20,tokens=8000` is a window; what it holds is stored with it, by the
version of its first message, so that another estimate of tokens changes no stored view. With `question=17`, messages that
others wrote after the question at version 17 are not in view. `2;app` is a view that an app selected itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .memory import ALL, RULE_2, Memory
from .rule_1 import QUESTION, cut_after_opening, message_tokens, text_tokens

if TYPE_CHECKING:
    from ..conversation.messages import JournaledMessage


def window_of(memory: Memory, last: int | None, tokens: int | None) -> Memory:
    """Return the window of a memory; see `Memory.window`."""
    if not memory.rule.startswith(RULE_2):
        from . import rule_1

        return rule_1.window_of(memory, last, tokens)
    bounds = [f"{name}={bound}" for name, bound in (("last", last), ("tokens", tokens)) if bound is not None]
    pinned = memory.pinned
    if pinned and tokens is not None:
        tokens -= sum(message_tokens(each.message) for each in memory.messages if each.message_id in pinned)
    opening, rest, first = cut_after_opening(
        memory, last, tokens, lambda each: 0 if each.message_id in pinned else text_tokens(each.message)
    )
    rule = _with_part(memory.rule, ",".join(bounds)) if bounds else memory.rule
    if not first:
        return replace(memory, rule=rule)
    kept = (*opening, *_pinned_among(rest[:first], memory))
    return replace(memory, messages=(*kept, *rest[first:]), rule=rule, first_version=rest[first].version)


def view_by_rule(memory: Memory, rule: str, first_version: int | None = None) -> Memory:
    """Return the view that a stored rule describes, whose windows begin with the message of `first_version`, if given."""
    if not rule.startswith(RULE_2):
        from . import rule_1

        return rule_1.view_by_rule(memory, rule)
    view, bounds = memory, dict[str, int]()
    for part in rule.removeprefix(RULE_2).split(","):
        name, _, number = part.partition("=")
        if name == QUESTION and number.isdigit():
            view = ending_with_question(view, int(number))
        elif number.isdigit() and first_version is None:
            if name in bounds:  # a window of a window
                view, bounds = view.window(**bounds), {}
            bounds[name] = int(number)
    if first_version is not None:
        view = _beginning_with(view, first_version)
    view = view.window(**bounds) if bounds else view
    return view if view.rule == rule else replace(view, rule=rule)


def ending_with_question(memory: Memory, version: int, exchange_id: str | None = None) -> Memory:
    """Return the memory without what others wrote after the question at this version.

    Later messages of the question's exchange, such as tool calls and results, stay. If the question is not in memory,
    because it was retracted or cleared, they stay only if `exchange_id` names the exchange, which a stored rule does not.
    """
    position = next((number for number, each in enumerate(memory.messages) if each.version == version), None)
    if position is not None:
        exchange_id = memory.messages[position].exchange_id
    start = 0 if position is None else position + 1
    later = memory.messages[start:]
    own = tuple(each for each in later if each.version <= version or (exchange_id and each.exchange_id == exchange_id))
    if len(own) == len(later):
        return memory
    rule = _with_part(memory.rule, f"{QUESTION}={version}")
    return replace(memory, messages=(*memory.messages[:start], *own), rule=rule)


def without_lone_calls(memory: Memory, messages: Sequence[JournaledMessage]) -> Sequence[JournaledMessage]:
    """Return messages of a view without the pinned tool calls that it shows without all their results.

    These are older than its window, or covered by its summary: only earlier versions pinned calls. The view itself has them,
    because the hashes of stored runs cover what they saw.
    """
    begins = (
        at
        for at, each in enumerate(messages)
        if each.version == memory.first_version or each.message_id == memory.summary_id
    )
    begin = max(begins, default=0)
    waiting, missing = dict[str, int](), [len(each.message.calls()) for each in messages]
    for at, each in enumerate(messages):
        waiting.update(dict.fromkeys((call.id for call in each.message.calls()), at))
        called = waiting.pop(each.message.tool_call_id or "", None)
        if called is not None:
            missing[called] -= 1
    return [
        each
        for at, each in enumerate(messages)
        if at >= begin or missing[at] <= 0 or each.message_id not in memory.pinned
    ]


def rule_in_copy(rule: str, memory: Memory) -> str:
    """Return a rule of a memory for a conversation that starts as a copy of it, whose first message has version 2."""
    prefix = RULE_2 if rule.startswith(RULE_2) else ""
    name, _, number = rule.removeprefix(prefix).partition(",")[0].partition("=")
    if name != QUESTION:
        return rule
    return rule.replace(f"{name}={number}", f"{name}={version_in_copy(int(number), memory) or 2}", 1)


def version_in_copy(version: int, memory: Memory) -> int | None:
    """Return the version that a message of a memory has in a copy; None if it is not in the memory."""
    return next((at + 2 for at, each in enumerate(memory.messages) if each.version == version), None)


def _beginning_with(memory: Memory, version: int) -> Memory:
    """Return the system messages of the beginning, and the others from the one of this version on."""
    opening, rest, _ = cut_after_opening(memory, None, None, lambda _: 0)
    first = next((at for at, each in enumerate(rest) if each.version == version), 0)
    kept = (*opening, *_pinned_among(rest[:first], memory))
    return replace(memory, messages=(*kept, *rest[first:]), first_version=version)


def _pinned_among(messages: Sequence[JournaledMessage], memory: Memory) -> Sequence[JournaledMessage]:
    return [each for each in messages if each.message_id in memory.pinned]


def _with_part(rule: str, part: str) -> str:
    """Return a rule with one more part; the rules of whole memories have none."""
    whole = {ALL: RULE_2, "all": ""}
    begin = whole.get(rule, f"{rule},")
    return f"{begin}{part}"
