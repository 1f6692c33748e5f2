"""Hold the state that the aggregate needs for its decisions, and apply events to it.

The state is small on purpose: counts, open runs, open exchanges and links, but no messages. It is stored next to the
stream as a snapshot, so every value is of a JSON type. `evolve` never raises: an unknown event changes only the version
and the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from ..ids import to_iso
from ..limits import ABANDONED_KEPT, ANSWERED_KEPT
from . import events as e

STATE_SCHEMA = 1
"""Version of the snapshot format. A snapshot of another version is ignored: the state is rebuilt from the events."""

JSON = dict[str, Any]


@dataclass
class ConversationState:
    """Hold the decision state of one conversation."""

    key: str = ""
    version: int = 0
    started_at: str = ""
    last_at: str = ""
    messages: int = 0
    exchanges: int = 0
    failed_runs: int = 0
    last_exchange_id: str | None = None
    open_runs: dict[str, JSON] = field(default_factory=dict)
    """run id → exchange_id, backend, attempt, deadline (ISO 8601 or null), rerun_of; `supersedes` if its answer
    replaces another"""
    open_exchanges: dict[str, JSON] = field(default_factory=dict)
    """exchange id → question (message id), runs (ids), failed_run and failed_backend of the last failed run, rerun_of,
    active_at (last sign of life of its process between runs), messages (their number when it opened); `unanswered`
    during a rerun of an exchange that counts as unanswered, `answered` during a rerun that replaces an answer"""
    abandoned: dict[str, JSON] = field(default_factory=dict)
    """exchange id → the same fields, for the last `ABANDONED_KEPT` exchanges without an answer"""
    unanswered: int = 0
    cut_version: int = 0
    """Version at which memory last lost or moved messages; threads linked before it still hold the old memory."""
    shadow_runs: dict[str, JSON] = field(default_factory=dict)
    """run id → backend, deadline: open runs that are for inspection only; no exchange waits for them"""
    answered: list[str] = field(default_factory=list)
    """ids of the last `ANSWERED_KEPT` exchanges that have an answer"""
    links: dict[str, JSON] = field(default_factory=dict)
    """mirror → thread_id, endpoint, version (of the link), lost (the reason, or null)"""

    def as_json(self) -> str:
        """Return the snapshot."""
        return _as_json(vars(self))

    @classmethod
    def from_json(cls, text: str) -> ConversationState:
        """Create the state from a snapshot of our `STATE_SCHEMA`."""
        state = cls()
        stored = json.loads(text)
        vars(state).update(stored if stored.keys() == vars(state).keys() else _known_only(stored))
        return state

    @property
    def next_deadline(self) -> str | None:
        """Return the earliest deadline of the open runs (ISO 8601)."""
        runs = (*self.open_runs.values(), *self.shadow_runs.values())
        return min((run["deadline"] for run in runs if run["deadline"]), default=None)


def _known_only(stored: JSON) -> JSON:
    known = {each.name for each in fields(ConversationState)}
    return {name: value for name, value in stored.items() if name in known}


_as_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

_NOTHING_FAILED: JSON = {"failed_run": None, "failed_backend": None}
"""Initial fields of an exchange that starts or is run again: no backend has failed in this attempt."""


def evolve(state: ConversationState, event: e.Event) -> ConversationState:
    """Apply one event. Changes and returns the given state; never raises."""
    change = _CHANGES.get(type(event))
    if change is not None:
        change(state, event)
    state.version = event.originator_version
    state.last_at = to_iso(event.timestamp)
    state.started_at = state.started_at or state.last_at
    return state


def _started(state: ConversationState, event: e.ConversationStarted) -> None:
    state.key = event.key


def _journaled(state: ConversationState, event: e.MessageJournaled) -> None:
    state.messages += 1
    exchange_id = event.exchange_id
    if exchange_id is None or event.role != "user" or event.run_id is not None:
        return
    if exchange_id not in state.open_exchanges:
        _open_exchange(state, exchange_id, event.message_id)
        state.open_exchanges[exchange_id]["active_at"] = to_iso(event.timestamp)


def _open_exchange(state: ConversationState, exchange_id: str, question: str | None) -> None:
    state.exchanges += 1
    state.last_exchange_id = exchange_id
    exchange = {"question": question, "runs": [], "messages": state.messages, "active_at": None, **_NOTHING_FAILED}
    state.open_exchanges[exchange_id] = exchange


def _run_started(state: ConversationState, event: e.RunStarted) -> None:
    if event.shadow:
        state.shadow_runs[event.run_id] = {"backend": event.backend, "deadline": event.deadline}
        return
    state.open_runs[event.run_id] = {
        "exchange_id": event.exchange_id,
        "backend": event.backend,
        "attempt": event.attempt,
        "deadline": event.deadline,
        "rerun_of": event.rerun_of,
        **({"supersedes": event.supersedes_run_id} if event.supersedes_run_id is not None else {}),
    }
    if event.exchange_id not in state.open_exchanges:
        abandoned = state.abandoned.pop(event.exchange_id, None)
        if abandoned is None and event.rerun_of is None:  # an app's own run, without a journaled question
            _open_exchange(state, event.exchange_id, None)
        else:  # a rerun; the question of one that left `abandoned` is no longer known
            counts_as = "answered" if event.supersedes_run_id is not None else "unanswered"
            state.open_exchanges[event.exchange_id] = (abandoned or {"question": None, "runs": []}) | {counts_as: True}
    exchange = state.open_exchanges[event.exchange_id]
    if exchange.get("rerun_of") != event.rerun_of:
        exchange.update(_NOTHING_FAILED, runs=[])
    exchange["rerun_of"] = event.rerun_of
    exchange["runs"].append(event.run_id)


def _run_completed(state: ConversationState, event: e.RunCompleted) -> None:
    run = state.open_runs.pop(event.run_id, None)
    if run is None:
        state.shadow_runs.pop(event.run_id, None)
        return
    exchange_id = run["exchange_id"]
    if event.goes_on and exchange_id in state.open_exchanges:
        state.open_exchanges[exchange_id].update(_NOTHING_FAILED, runs=[], active_at=to_iso(event.timestamp))
        return
    exchange = state.open_exchanges.pop(exchange_id, None) or {}
    state.answered = [*state.answered[-ANSWERED_KEPT + 1 :], exchange_id]
    if state.abandoned.pop(exchange_id, None) is not None or exchange.get("unanswered"):
        state.unanswered = max(state.unanswered - 1, 0)


def _run_failed(state: ConversationState, event: e.RunFailed) -> None:
    state.failed_runs += 1
    state.shadow_runs.pop(event.run_id, None)
    run = state.open_runs.pop(event.run_id, None)
    exchange = state.open_exchanges.get(run["exchange_id"]) if run is not None else None
    if run is not None and exchange is not None:
        exchange["failed_run"], exchange["failed_backend"] = event.run_id, run["backend"]
        # After an interruption, no process is left to retry; after any other end, its process may retry.
        exchange["active_at"] = None if event.status == "interrupted" else to_iso(event.timestamp)


def _abandoned(state: ConversationState, event: e.ExchangeAbandoned) -> None:
    exchange = state.open_exchanges.pop(event.exchange_id, None)
    if exchange is None or exchange.get("answered"):  # its earlier answer is still valid
        return
    state.unanswered += 0 if exchange.pop("unanswered", False) else 1
    state.abandoned[event.exchange_id] = exchange
    while len(state.abandoned) > ABANDONED_KEPT:
        del state.abandoned[next(iter(state.abandoned))]


def _cut(state: ConversationState, event: e.MessageRetracted | e.MemoryCleared) -> None:
    state.cut_version = event.originator_version


def _accepted(state: ConversationState, event: e.RerunAccepted) -> None:
    if event.superseded_message_id is not None or event.behind_message_id is not None:
        state.cut_version = event.originator_version


def _linked(state: ConversationState, event: e.ThreadLinked | e.ThreadRebuilt) -> None:
    state.links[event.backend] = {
        "thread_id": event.thread_id,
        "endpoint": event.endpoint,
        "version": event.originator_version,
        "lost": None,
    }


def _lost(state: ConversationState, event: e.ThreadLost) -> None:
    link = state.links.get(event.backend)
    if link is not None and link["thread_id"] == event.thread_id:
        link["lost"] = event.reason or "gone"


_CHANGES: dict[type[e.Event], Callable[[ConversationState, Any], None]] = {
    e.ConversationStarted: _started,
    e.MessageJournaled: _journaled,
    e.RunStarted: _run_started,
    e.RunCompleted: _run_completed,
    e.RunFailed: _run_failed,
    e.ExchangeAbandoned: _abandoned,
    e.MessageRetracted: _cut,
    e.MemoryCleared: _cut,
    e.RerunAccepted: _accepted,
    e.ThreadLinked: _linked,
    e.ThreadRebuilt: _linked,
    e.ThreadLost: _lost,
}
