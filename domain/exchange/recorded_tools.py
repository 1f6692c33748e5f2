"""Answer tool calls: by the app's functions, or in a rerun with recorded results, so that no function takes effect twice."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..conversation import events as e
from ..conversation.messages import restore_message
from ..effects import Use
from ..failures import redact, whole_text

if TYPE_CHECKING:
    from ..conversation.messages import ToolCall
    from ..effects import Effects
    from ..journal import Journal
    from .backend import ToolFunction

FAILED = "[the tool failed: "
"""Prefix of the result of a call whose function raised or was not bound."""


def not_bound(name: str) -> str:
    """Return the result of a call whose function is not bound: the model sees it, and the run fails."""
    return f"{FAILED}no function is bound to {name!r}]"


def tool_result(function: ToolFunction | None, called: ToolCall) -> Effects[str]:
    """Call a function as a model asked for it, and return its result as text; an error is a result too."""
    if function is None:
        return not_bound(called.name)
    try:
        result = yield Use(function, json.loads(called.arguments or "{}"))
        return whole_text(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str))
    except Exception as error:  # noqa: BLE001 - the model gets any error of an app's function as the result
        return f"{FAILED}{type(error).__name__}: {redact(str(error))}]"


def tools_on_record(
    journal: Journal, key: str, exchange_id: str, otherwise: Mapping[str, ToolFunction], after: int = 0
) -> dict[str, ToolFunction]:
    """Return functions by name that answer the calls of an exchange as they were answered before.

    A call without a recorded result goes to the function of the same name in `otherwise`. If there is no such function,
    the call fails with an error that names it. `after` is a version before the exchange: earlier events are not read.
    """
    called: dict[str, tuple[str, str]] = {}
    known: dict[str, dict[str, deque[str]]] = defaultdict(lambda: defaultdict(deque))
    for event in journal.history(key, after=after):
        if not isinstance(event, e.MessageJournaled) or event.exchange_id != exchange_id:
            continue
        message = restore_message(event)
        called |= {call.id: (call.name, _canonical(call.arguments)) for call in message.calls()}
        if message.tool_call_id in called:
            name, arguments = called[message.tool_call_id]
            if message.text != not_bound(name):  # it was never called; it may be bound now
                known[name][arguments].append(message.text)
    return {
        name: partial(_recall, name, known[name], otherwise.get(name)) for name in dict.fromkeys([*known, *otherwise])
    }


def _recall(called: str, results: Mapping[str, deque[str]], otherwise: ToolFunction | None, /, **arguments: Any) -> Any:
    """Return the recorded results in order, each once; the last one is repeated as often as needed."""
    recorded = results.get(_canonical(arguments))
    if recorded:
        return recorded.popleft() if len(recorded) > 1 else recorded[0]
    if otherwise is not None:
        return otherwise(**arguments)
    return _not_called(called)


def only_harmless(tools: Mapping[str, ToolFunction], read_only: Collection[str]) -> dict[str, ToolFunction]:
    """Return the same functions, but those that may change something raise an error instead."""
    return {name: tool if name in read_only else partial(_not_called, name) for name, tool in tools.items()}


def _not_called(called: str, /, **arguments: Any) -> Any:
    raise LookupError(f"no result of {called} with these arguments is on record: run the tools live")


def _canonical(arguments: Any) -> str:
    try:
        given = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        return json.dumps(given, sort_keys=True)
    except (TypeError, ValueError):
        return str(arguments)
