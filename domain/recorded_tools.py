"""Tool calls of an exchange that is run again, answered from the record: what a function did once, it does not do twice."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from . import events as e
from .journal import Journal
from .parsing import restore_message
from .ports import ToolFunction

FAILED = "[the tool failed: "
"""What the result of a call begins with whose function raised, or was not there."""


def not_bound(name: str) -> str:
    """The result of a call of a function that nobody has bound: the model sees it, and the run fails."""
    return f"{FAILED}no function is bound to {name!r}]"


def recorded_tools(
    journal: Journal, key: str, exchange_id: str, otherwise: Mapping[str, ToolFunction]
) -> dict[str, ToolFunction]:
    """Functions by name that answer the calls of an exchange as they were answered before.

    A call that the record does not know goes to the function of the same name in `otherwise`; where there is none, it fails
    and names itself.
    """
    called: dict[str, tuple[str, str]] = {}
    known: dict[str, dict[str, deque[str]]] = defaultdict(lambda: defaultdict(deque))
    for event in journal.history(key):
        if not isinstance(event, e.MessageJournaled) or event.exchange_id != exchange_id:
            continue
        message = restore_message(event)
        called |= {call.id: (call.name, _canonical(call.arguments)) for call in message.calls()}
        if message.tool_call_id in called:
            name, arguments = called[message.tool_call_id]
            if message.text != not_bound(name):  # it was never called; by now it may be bound
                known[name][arguments].append(message.text)
    return {
        name: partial(_recall, name, known[name], otherwise.get(name)) for name in dict.fromkeys([*known, *otherwise])
    }


def _recall(called: str, results: Mapping[str, deque[str]], otherwise: ToolFunction | None, /, **arguments: Any) -> Any:
    """The recorded result, each once and the last one as often as it is asked for."""
    recorded = results.get(_canonical(arguments))
    if recorded:
        return recorded.popleft() if len(recorded) > 1 else recorded[0]
    if otherwise is not None:
        return otherwise(**arguments)
    return _not_called(called)


def only_harmless(tools: Mapping[str, ToolFunction], read_only: Collection[str]) -> dict[str, ToolFunction]:
    """The same functions, of which those that may change something are not called."""
    return {name: tool if name in read_only else partial(_not_called, name) for name, tool in tools.items()}


def _not_called(called: str, /, **arguments: Any) -> Any:
    raise LookupError(f"no result of {called} with these arguments is on record: run the tools live")


def _canonical(arguments: Any) -> str:
    try:
        given = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        return json.dumps(given, sort_keys=True)
    except (TypeError, ValueError):
        return str(arguments)
