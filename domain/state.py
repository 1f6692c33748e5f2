"""What the aggregate remembers for its decisions, and how each event changes it.

Slim on purpose: counts, open runs, open exchanges, links; never messages. It is kept beside the stream as a snapshot, so
every value is of JSON's own types. `evolve` never refuses: an event it does not know changes nothing but the version.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from . import events as e
from .ids import to_iso
from .limits import ABANDONED_KEPT, ANSWERED_KEPT

STATE_SCHEMA = 1
"""Number of the snapshot's form. A snapshot of another number is not read; the state is folded from the events."""

JSON = dict[str, Any]


@dataclass
class ConversationState:
    """The decision state of one conversation."""

    key: str = ""
    version: int = 0
    started_at: str = ""
    last_at: str = ""
    messages: int = 0
    exchanges: int = 0
    failed_runs: int = 0
    last_exchange_id: str | None = None
    open_runs: dict[str, JSON] = field(default_factory=dict)
    """run id → exchange_id, backend, attempt, deadline (ISO 8601 or null), rerun_of; `supersedes` where it is to take an
    answer's place"""
    open_exchanges: dict[str, JSON] = field(default_factory=dict)
    """exchange id → question (message id), runs (ids), failed_run and failed_backend of the last failed run, rerun_of;
    active_at (when its process was last heard of between runs), messages (how many there were when it opened);
    `unanswered` while a rerun is at an exchange that counts as such, `answered` while one is at an answer's place"""
    abandoned: dict[str, JSON] = field(default_factory=dict)
    """exchange id → the same, for the last `ABANDONED_KEPT` exchanges that nobody answered"""
    unanswered: int = 0
    cut_version: int = 0
    """When memory last lost something, or changed its order (a message retracted or put elsewhere, memory cleared): threads
    linked before still show it as it was"""
    shadow_runs: dict[str, JSON] = field(default_factory=dict)
    """run id → backend, deadline: open runs that are only to be looked at; nobody waits for them"""
    answered: list[str] = field(default_factory=list)
    """ids of the last `ANSWERED_KEPT` exchanges that have an answer"""
    links: dict[str, JSON] = field(default_factory=dict)
    """mirror → thread_id, endpoint, version (of the link), lost (the reason, or null)"""

    def as_json(self) -> str:
        """The snapshot."""
        return _as_json(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "ConversationState":
        """The state of a snapshot with our `STATE_SCHEMA`."""
        state = cls()
        stored = json.loads(text)
        vars(state).update(stored if stored.keys() == vars(state).keys() else _known_only(stored))
        return state

    @property
    def next_deadline(self) -> str | None:
        """When the first of the open runs is overdue (ISO 8601)."""
        runs = (*self.open_runs.values(), *self.shadow_runs.values())
        return min((run["deadline"] for run in runs if run["deadline"]), default=None)


def _known_only(stored: JSON) -> JSON:
    known = {each.name for each in fields(ConversationState)}
    return {name: value for name, value in stored.items() if name in known}


_as_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

_NOTHING_FAILED: JSON = {"failed_run": None, "failed_backend": None}
"""Of an exchange that begins, or is run again: no backend has failed in this attempt at it."""


def evolve(state: ConversationState, event: e.Event) -> ConversationState:
    """Remember one event. Changes and returns the given state; never refuses."""
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
        if abandoned is None and event.rerun_of is None:  # an app's own run, with no question of ours before it
            _open_exchange(state, event.exchange_id, None)
        else:  # a rerun; of an exchange older than the last `ABANDONED_KEPT`, the question is not remembered
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
        # A run that was closed as interrupted has nobody behind it; after any other end, its process may try again.
        exchange["active_at"] = None if event.status == "interrupted" else to_iso(event.timestamp)


def _abandoned(state: ConversationState, event: e.ExchangeAbandoned) -> None:
    exchange = state.open_exchanges.pop(event.exchange_id, None)
    if exchange is None or exchange.get("answered"):  # the answer that it had still stands
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
