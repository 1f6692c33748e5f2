"""Compute views and hashes of memory by rule 1, by which runs were recorded before rule 2. This module is frozen.

Reruns and the audit compare memories with stored hashes: a reworded sentence, another estimate or another order here makes
stored runs irreproducible. `tests/golden/memory-5.jsonl` holds runs whose hashes must be recomputed for ever.

Rule 2 uses the pairing and the estimate of tokens for views that are shown, but its hashes cover neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..conversation.messages import JournaledMessage, Message, Role, ToolCall
from .memory import INSTRUCTING

if TYPE_CHECKING:
    from .memory import Memory

ALL = "all"
V2 = "v2"
"""Name of the part of a rule by which a window keeps the system messages at the beginning, and counts images and files."""
QUESTION = "question"
"""Name of the part of a rule that holds the version of the question with which the memory of its runs ends."""

Count = Callable[[JournaledMessage], int]


# The hash


def digest(messages: Sequence[JournaledMessage]) -> str:
    """Return the SHA-256 (hex) of messages of known roles, with their tool calls paired, as JSON of Chat Completions."""
    known = [each for each in messages if each.message.role is not Role.UNKNOWN]
    said = [_chat_message(each.message) for each in pair_tool_calls(known)]
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _chat_message(message: Message) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": message.role.value}
    if message.tool_call_id is not None:
        chat["tool_call_id"] = message.tool_call_id
    if message.content != ():
        content = message.content
        chat["content"] = [part.as_json() for part in content] if isinstance(content, tuple) else content
    if message.tool_calls:
        chat["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return chat if message.extra_json == "{}" else chat | json.loads(message.extra_json)


# Pairing. Providers require each call directly followed by exactly one result, and no result alone: a missing result is
# replaced by a sentence that says so, a late one is moved up, and one whose call is out of view (or was already answered)
# is omitted.
NO_RESULT = "[no result of this call was recorded]"


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


# Windows


def window_of(memory: Memory, last: int | None, tokens: int | None) -> Memory:
    """Return the window of a view by rule 1. Where it differs from the first rule of windows, `v2` is part of its rule."""
    bounds = {name: bound for name, bound in (("last", last), ("tokens", tokens)) if bound is not None}
    text = cache(lambda each: text_tokens(each.message))  # both rules need it
    opening, rest, first = cut_after_opening(memory, last, tokens, text)
    view = (*opening, *rest[first:]) if first else memory.messages
    before = memory.messages[_cut(memory, last, tokens, text) :]
    rule = _with_rule(memory, [*(f"{name}={bound}" for name, bound in bounds.items())])
    if len(view) != len(before) or view != before:
        rule += f",{V2}"
    return replace(memory, messages=view, rule=rule or ALL)


def view_by_rule(memory: Memory, rule: str) -> Memory:
    """Return the view that a stored rule describes."""
    from .windows import ending_with_question

    view, bounds = replace(memory, rule=ALL), dict[str, int]()
    for part in rule.split(","):
        name, _, number = part.partition("=")
        if name == QUESTION and number.isdigit():
            view = ending_with_question(view, int(number))
            continue
        if name in bounds:  # a window of a window
            view, bounds = _by_bounds(view, bounds), {}
        if part == V2:
            view, bounds = view.window(**bounds), {}
        elif number.isdigit():
            bounds[name] = int(number)
    return _by_bounds(view, bounds) if bounds else view


def _by_bounds(memory: Memory, bounds: Mapping[str, int]) -> Memory:
    first = _cut(memory, bounds.get("last"), bounds.get("tokens"), lambda each: text_tokens(each.message))
    rule = _with_rule(memory, [f"{name}={bound}" for name, bound in bounds.items()])
    return replace(memory, messages=memory.messages[first:], rule=rule)


def _with_rule(memory: Memory, bounds: Sequence[str]) -> str:
    return ",".join([*([] if memory.rule == ALL else [memory.rule]), *bounds])


def _cut(memory: Memory, last: int | None, tokens: int | None, text: Count) -> int:
    """Return where a window without `v2` starts."""
    first = max(len(memory.messages) - last, 0) if last is not None else 0
    if tokens is not None:
        first += _first_within(memory.messages[first:], tokens, text)
    return _with_its_call(memory.messages, first)


def cut_after_opening(
    memory: Memory, last: int | None, tokens: int | None, text: Count
) -> tuple[list[JournaledMessage], list[JournaledMessage], int]:
    """Return the system messages of the beginning, the other messages, and where the view of the others starts."""
    upto = memory.opening_version
    opening = [each for each in memory.messages if each.version <= upto and each.role_name in INSTRUCTING]
    rest = [each for each in memory.messages if each.version > upto or each.role_name not in INSTRUCTING]
    first = max(len(rest) - last, 0) if last is not None else 0
    if tokens is not None:
        left = tokens - sum(message_tokens(each.message) for each in opening)
        first += _first_within(rest[first:], left, lambda each: text(each) + _other_tokens(each.message))
    return opening, rest, _with_its_call(rest, first)


def _with_its_call(messages: Sequence[JournaledMessage], first: int) -> int:
    """Return where to start a view that would hold only tool results: at the message with the calls."""
    if first >= len(messages) or any(not each.is_tool_result for each in messages[first:]):
        return first
    while first > 0 and messages[first].is_tool_result:
        first -= 1
    return first


def _first_within(messages: Sequence[JournaledMessage], tokens: int, count: Count) -> int:
    """Return the start of the longest tail within `tokens`; it includes at least the last message."""
    spent = 0
    for index in range(len(messages) - 1, -1, -1):
        spent += count(messages[index])
        if spent > tokens:
            return min(index + 1, len(messages) - 1)
    return 0


# The estimate


def message_tokens(message: Message) -> int:
    """Return the approximate number of tokens of one message, its images and files included."""
    return text_tokens(message) + _other_tokens(message)


def _other_tokens(message: Message) -> int:
    if message.extra_json == "{}" and not isinstance(message.content, tuple):
        return 0
    from .rendering import part_tokens

    return max(part_tokens(message), 0)


def text_tokens(message: Message) -> int:
    """Return the approximate number of tokens of a message's text and tool calls, without images and files."""
    calls = sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in message.calls())
    return MESSAGE_OVERHEAD_TOKENS + estimate_tokens(message.text) + calls


# Estimated tokens serve plans and budgets. Actual usage comes from the provider's `usage`, never from this estimate.
# Measured against o200k_base (the vocabulary of gpt-4o and later) in November 2026: on dialogues, tool arguments and
# tool results 1 to 3 % too high in total; on Python source 14 % too high; on short French, German, Russian, Chinese
# and Japanese texts 10 to 20 % too high (bytes / 4 on the same texts: 29 % too low to 84 % too high). A tokenizer is
# not a dependency, because its vocabulary has to be downloaded at run time.
MESSAGE_OVERHEAD_TOKENS = 4
"""Tokens around each message: role and separators, as OpenAI's cookbook counts them."""

_PIECES = re.compile(
    r"(?P<latin>[A-Za-z]+)|(?P<digits>\d+)|(?P<wide>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)|(?P<word>[^\W\d_]+)"
    r"|(?P<space>\s+)|(?P<mark>[^\w\s]+|_+)"
)


def estimate_tokens(text: str) -> int:
    """Return the approximate number of tokens that a model reads in `text`; 0 for an empty text."""
    return sum(_cost(match.lastgroup, match.end() - match.start(), match[0]) for match in _PIECES.finditer(text))


def _cost(kind: str | None, length: int, piece: str) -> int:
    if kind == "latin":
        return 1 if length <= 8 else 1 + (length - 3) // 6
    if kind == "digits":
        return (length + 2) // 3
    if kind == "word":
        return (length + 4) // 5
    if kind == "space":
        return 1 if "\n" in piece or length > 2 else 0
    if kind == "mark":
        return 1 if length <= 3 else (length + 2) // 3
    return (length * 2 + 2) // 3
