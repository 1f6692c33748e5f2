"""Hold the state that the aggregate needs for its decisions, and apply events to it.

The state is small on purpose: counts, open runs, open exchanges and links, but no messages. It is stored next to the
stream as a snapshot. `evolve` never raises: an unknown event changes only the version and the time.

An object in the snapshot is an instance of a frozen dataclass whose `vars` are exactly that object: a field that it
lacks has its default, and fields of a newer version are written back unchanged. `_part` and `updated` create them;
they keep the fields and their order as stored, and are several times as fast as the constructor of a frozen class,
which matters for a log of a million events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..canonical import EMPTY_PATH, extended_path, neutral_json
from ..ids import from_iso, to_iso
from ..limits import ABANDONED_KEPT, ANSWERED_KEPT, BETWEEN_RUNS_SECONDS
from . import events as e
from .events import payload_in

if TYPE_CHECKING:
    from .description import Description

STATE_SCHEMA = 1
"""Version of the snapshot format. A snapshot of another version is ignored: the state is rebuilt from the events."""

JSON = dict[str, Any]


class _Part:
    """Serve as the base of the objects in the snapshot."""

    __slots__ = ("__dict__",)
    """A declared `__dict__` is faster to set than the `__dict__` of a plain class."""


P = TypeVar("P", bound=_Part)


@dataclass(frozen=True)
class OpenRun(_Part):
    """Describe a run that has not ended."""

    exchange_id: str = ""
    backend: str = ""
    attempt: int = 1
    deadline: str | None = None
    """Time limit of the run (ISO 8601)."""
    rerun_of: str | None = None
    supersedes: str | None = None
    """Id of the run whose answer this run's answer replaces."""

    def is_overdue(self, moment: datetime) -> bool:
        """Return whether its deadline has passed, so that the process that ran it has stopped."""
        return from_iso(self.deadline) < moment if self.deadline else False


@dataclass(frozen=True)
class OpenExchange(_Part):
    """Describe an exchange without an answer: an open one, or an abandoned one."""

    question: str | None = None
    """Id of the question's message; None for an app's own run, and if it is no longer known."""
    runs: Sequence[str] = ()
    """Ids of the runs since the question, the last rerun or the last round of tool calls."""
    failed_run: str | None = None
    """Id of the last failed run among them."""
    failed_backend: str | None = None
    rerun_of: str | None = None
    active_at: str | None = None
    """Last sign of life of its process between runs (ISO 8601)."""
    messages: int | None = None
    """Number of messages in the conversation when it opened."""
    unanswered: bool = False
    """Whether it is being rerun and counts as unanswered until then."""
    answered: bool = False
    """Whether it is being rerun to replace an answer."""
    tail_version: int | None = None
    """Version of its newest message, or of the end when it opened."""
    tail: str | None = None
    """Id of its newest message after the question; None if there is none."""
    waits_for: dict[str, str] | None = None
    """Decisions on the tool calls for which it waits, by call id: `approved`, `rejected`, `answered` (its result was given), or
    empty if there is none yet."""
    left: bool = False
    """Whether another branch is selected: its answer is a variant aside."""
    deadline: str | None = None
    """Time limit (ISO 8601) up to which any process may continue it, if it was requested in the background."""

    @property
    def waits(self) -> bool:
        """Return whether it waits for a person: for a decision on a call, or after the last one until a run continues it."""
        return bool(self.waits_for) and not self.runs

    @property
    def undecided(self) -> str | None:
        """Return the id of a tool call on which a person still has to decide; None if there is none."""
        return next((call_id for call_id, decision in (self.waits_for or {}).items() if not decision), None)

    def is_active(self, moment: datetime) -> bool:
        """Return whether a process is still at work on it between two runs."""
        if self.deadline is not None:
            return not self.is_overdue(moment)
        if not self.active_at:
            return False
        return moment < from_iso(self.active_at) + timedelta(seconds=BETWEEN_RUNS_SECONDS)

    def is_overdue(self, moment: datetime) -> bool:
        """Return whether its time limit has passed; without one, it never does."""
        return self.deadline is not None and to_iso(moment) >= self.deadline


@dataclass(frozen=True)
class ThreadLink(_Part):
    """Name the thread that holds a copy of the memory."""

    thread_id: str = ""
    endpoint: str = ""
    version: int = 0
    """Version of the conversation at which the thread was linked."""
    lost: str | None = None
    """Reason why the thread is lost; None if it is not known to be lost."""
    window_tokens: int | None = None
    """Budget of the memory that runs are given instead of the thread, if it was too long."""

    def is_usable(self, endpoint: str, cut_version: int) -> bool:
        """Return whether a run may answer in the thread: it exists, and contains nothing cut from memory since."""
        return not self.lost and self.endpoint == endpoint and self.version > cut_version


@dataclass
class ConversationState:
    """Hold the decision state of one conversation."""

    deleted: bool | None = None
    """True if the conversation was deleted and its key was not used again. These three fields are of deleted keys only."""
    generation: int | None = None
    """Number of conversations of this key that were deleted; None is none."""
    deleted_version: int | None = None
    """Version of the newest deletion: what is older belongs to an earlier conversation, and only an audit reads it."""
    described: JSON | None = None
    """What `description.py` needs: `owner` and `archived`, if set, and the versions of the events with the newest title, tags
    and metadata. None if it is unknown. It and `unanswered` come first: the view of conversations looks at the beginning."""
    unanswered: int = 0
    pending: int | None = None
    """Number of exchanges that wait for a person's decision on a tool call; None is none."""
    key: str = ""
    version: int = 0
    started_at: str = ""
    last_at: str = ""
    messages: int = 0
    exchanges: int = 0
    failed_runs: int = 0
    last_exchange_id: str | None = None
    open_runs: dict[str, OpenRun] = field(default_factory=dict)
    """Open runs, by run id."""
    open_exchanges: dict[str, OpenExchange] = field(default_factory=dict)
    """Open exchanges, by exchange id."""
    abandoned: dict[str, OpenExchange] = field(default_factory=dict)
    """The last `ABANDONED_KEPT` exchanges without an answer, by exchange id."""
    cut_version: int = 0
    """Version at which memory last lost or moved messages; threads linked before it still hold the old memory."""
    shadow_runs: dict[str, OpenRun] = field(default_factory=dict)
    """Open shadow runs, by run id. Only backend and deadline are stored, and no exchange waits for these runs."""
    answered: list[str] = field(default_factory=list)
    """Ids of the last `ANSWERED_KEPT` exchanges that have an answer."""
    links: dict[str, ThreadLink] = field(default_factory=dict)
    """Linked threads, by mirror name."""
    path_hash: str | None = None
    """Hash of the memory (`domain/canonical.py`); None if it is unknown: it has to be computed from the messages."""
    path_version: int | None = None
    """Version of the newest event that changed memory; None if it is unknown, as in snapshots of earlier versions."""
    has_parts: bool | None = None
    """Whether a message in memory has parts besides text; True until memory is cleared. None if it is unknown."""
    end_version: int | None = None
    """Version of the message at the end of memory, with 0 for the beginning; None if it is unknown."""
    mark_version: int | None = None
    """Version of the newest event that hides, moves, covers or pins a message, with 0 for none; None if it is unknown."""
    fork_version: int | None = None
    """Version up to which all branches have the same path; None in a conversation without branches and pins."""
    asides: int | None = None
    """Number of messages that were journaled aside since the end last moved; None is none."""
    selected_version: int | None = None
    """Version of the newest event that selected another branch."""
    compacted_version: int | None = None
    """Version of the newest event that put a summary in place of messages."""
    aside_path: list[Any] | None = None
    """Version of the newest message aside, with the hash of the path that ends with it, if that is known."""
    pins: dict[str, int] | None = None
    """Versions of the pinned messages on any branch, by message id."""
    written_at: str | None = None
    """Time at which the newest message was written, if it was imported. Only lists know it; no decision needs it."""
    description: Description | None = field(default=None, compare=False)
    """Title, owner, tags, archived and metadata. Only lists and `Ledger.state` know it."""

    def as_json(self) -> str:
        """Return the snapshot."""
        values = self.__dict__.copy()
        for name in _IN_LISTS:
            values.pop(name, None)
        for name in _MAY_BE_UNKNOWN:
            if values.get(name, ...) is None:
                del values[name]
        if "described" in values and (len(values) != len(_USUAL_NAMES) or next(iter(values)) != "described"):
            # It was read from a snapshot of an earlier version, or has branches.
            values = {name: values[name] for name in _NAMES if name in values}
        if self.open_runs or self.open_exchanges or self.abandoned or self.shadow_runs or self.links:
            for name, _ in _KINDS:
                values[name] = {each: part.__dict__ for each, part in values[name].items()}
        # msgspec writes no lone surrogates, which a provider's id may hold.
        with suppress(TypeError, UnicodeEncodeError):
            text = _encode(values)
            if text.isascii():
                return text.decode()
        from ..json_text import ascii_text

        return ascii_text(values)

    @classmethod
    def from_json(cls, text: str) -> ConversationState:
        """Create the state from a snapshot of our `STATE_SCHEMA`."""
        stored = payload_in(text)
        values = stored if tuple(stored) == _USUAL_NAMES else _completed(stored)
        for name, kind in _KINDS:
            if parts := values[name]:
                values[name] = {each: _part(kind, part) for each, part in parts.items()}
        state = cls.__new__(cls)
        state.__dict__ = values
        return state

    def copy(self) -> ConversationState:
        """Return a copy that `evolve` may change: the objects in it are never changed, only replaced."""
        state = _new(ConversationState)
        state.__dict__ = self.__dict__.copy()
        state.open_runs, state.open_exchanges = self.open_runs.copy(), self.open_exchanges.copy()
        state.abandoned, state.shadow_runs = self.abandoned.copy(), self.shadow_runs.copy()
        state.links = self.links.copy()
        state.pins = dict(self.pins) if self.pins else None
        return state

    def agrees_with(self, folded: ConversationState) -> bool:
        """Return whether this snapshot is the state that was folded from the events; what is unknown agrees with anything."""
        known = copy(self)
        for name in _MAY_BE_UNKNOWN:
            if getattr(known, name) is None:
                setattr(known, name, getattr(folded, name))
        if known.has_parts:  # earlier versions counted parts of text too
            known.has_parts = folded.has_parts
        if known.described != folded.described and known.described == {"metadata": 1, **(folded.described or {})}:
            known.described = (
                folded.described
            )  # earlier versions did not say whether a conversation started with metadata
        return payload_in(known.as_json()) == payload_in(folded.as_json())

    @property
    def next_deadline(self) -> str | None:
        """Return the earliest deadline of the open runs (ISO 8601)."""
        if not self.open_runs and not self.shadow_runs:
            return None
        runs = (*self.open_runs.values(), *self.shadow_runs.values())
        return min((run.deadline for run in runs if run.deadline), default=None)


_KINDS = (
    ("open_runs", OpenRun),
    ("open_exchanges", OpenExchange),
    ("abandoned", OpenExchange),
    ("shadow_runs", OpenRun),
    ("links", ThreadLink),
)
"""Fields of the state whose values are objects of the snapshot, and their classes."""

_OF_FEW = (*("pending", "fork_version", "asides", "selected_version", "compacted_version", "aside_path", "pins"),)
"""Fields that only a conversation with branches, pins or pending calls has; elsewhere a state has none of them."""

_OF_GENERATIONS = ("deleted", "generation", "deleted_version")
"""Fields that only the state of a key has that was deleted. They come first, where queries look."""

_MAY_BE_UNKNOWN = (
    *("described", "path_hash", "path_version", "has_parts", "end_version", "mark_version"),
    *(*_OF_FEW, *_OF_GENERATIONS),
)
"""Fields that a snapshot lacks if they are not known."""

_IN_LISTS = ("written_at", "description")
"""Fields that are in no snapshot."""

_NAMES = tuple(each.name for each in fields(ConversationState) if each.name not in _IN_LISTS)
_USUAL_NAMES = tuple(name for name in _NAMES if name not in (*_OF_FEW, *_OF_GENERATIONS))


def _completed(stored: JSON) -> JSON:
    """Return the known values of a snapshot in their order, then the defaults of those that it lacks."""
    known = {name: value for name, value in stored.items() if name in _NAMES}
    return known | {name: value for name, value in vars(ConversationState()).items() if name not in known}


_new, _set = object.__new__, object.__setattr__


def _part(kind: type[P], values: JSON) -> P:
    """Return an object of the snapshot; the dict becomes its `vars`."""
    part = _new(kind)
    _set(part, "__dict__", values)
    return part


def updated(part: P, **values: Any) -> P:
    """Return a copy with changed fields; those that it did not have are added at the end."""
    return _part(part.__class__, {**part.__dict__, **values})


_encode = msgspec.json.Encoder().encode


def evolve(state: ConversationState, event: e.Event) -> ConversationState:
    """Apply one event. Changes and returns the given state; never raises."""
    state.last_at = to_iso(event.timestamp)
    state.started_at = state.started_at or state.last_at
    change = _CHANGES.get(type(event))
    if change is not None:
        change(state, event)
    state.version = event.originator_version
    return state


def _started(state: ConversationState, event: e.ConversationStarted) -> None:
    state.key = event.key
    if state.deleted:
        _of_branches(state, event)
    elif event.originator_version == 1:
        state.path_hash, state.path_version, state.has_parts = EMPTY_PATH, 1, False
        state.end_version = state.mark_version = 0
        state.described = {"metadata": 1} if event.metadata else {}


def _described(state: ConversationState, event: e.ConversationDescribed) -> None:
    described: JSON = {"metadata": 1} if state.described is None else state.described.copy()
    for name in ("title", "tags", "metadata"):
        if getattr(event, name) is not None:
            described[name] = event.originator_version
    for name, value, kind in (("owner", event.owner, str), ("archived", event.archived, bool)):
        if isinstance(value, kind):
            described[name] = value
            if not value:
                del described[name]
    state.described = described


def _journaled(state: ConversationState, event: e.MessageJournaled) -> None:
    state.messages += 1
    state.has_parts = True if isinstance(event.content, list) and _has_parts(event) else state.has_parts
    if event.parent_version is not None:
        _of_branches(state, event)
    else:
        state.path_version = state.end_version = event.originator_version
        if state.path_hash is not None:
            state.path_hash = extended_by(state.path_hash, event)
        if state.asides is not None:
            state.asides = state.aside_path = None
    exchange_id = event.exchange_id
    if exchange_id is None:
        return
    exchange = state.open_exchanges.get(exchange_id)
    if exchange is not None:
        newest: dict[str, Any] = {"tail": event.message_id, "tail_version": event.originator_version}
        if event.tool_call_id is not None and (exchange.waits_for or {}).get(event.tool_call_id) == "":
            newest["waits_for"] = {**(exchange.waits_for or {}), event.tool_call_id: "answered"}
        state.open_exchanges[exchange_id] = updated(exchange, **newest)
        if "waits_for" in newest:
            _note_pending(state)
        return
    if event.role != "user" or event.run_id is not None:
        return
    abandoned = state.abandoned.pop(exchange_id, None)
    if abandoned is None:
        exchange = _opened(state, exchange_id, event.message_id, state.last_at)
        if event.parent_version is not None:
            exchange = updated(exchange, tail_version=event.originator_version)
        state.open_exchanges[exchange_id] = exchange
    else:  # it continues with what its runs left
        state.last_exchange_id = exchange_id
        state.open_exchanges[exchange_id] = updated(abandoned, unanswered=True, active_at=state.last_at)


def _has_parts(event: e.MessageJournaled) -> bool:
    """Return whether a message has parts besides text; what only says what a model did is shown to none, and does not count."""
    aside = _ASIDES if event.role == "assistant" else _ASIDES[:1]
    parts: list[Any] = event.content if isinstance(event.content, list) else []
    return any(not isinstance(part, dict) or part.get("type") not in aside for part in parts)


_ASIDES = ("text", "reasoning", "hosted_call", "unknown")


def extended_by(path: str, event: e.MessageJournaled) -> str | None:
    try:
        calls, call_id = event.tool_calls, event.tool_call_id
        return extended_path(path, neutral_json(event.role, event.content, calls, call_id, event.extra, event.native))
    except (ValueError, TypeError, RecursionError):  # only in rows that another program wrote
        return None


def _opened(state: ConversationState, exchange_id: str, question: str | None, active_at: str | None) -> OpenExchange:
    state.exchanges += 1
    state.last_exchange_id = exchange_id
    return _part(
        OpenExchange,
        {
            "question": question,
            "runs": [],
            "messages": state.messages,
            "active_at": active_at,
            "failed_run": None,
            "failed_backend": None,
            "tail_version": state.end_version,
        },
    )


def _run_started(state: ConversationState, event: e.RunStarted) -> None:
    leaf = event.memory_leaf_version
    if state.path_hash is None and event.path_hash is not None and (leaf is None or leaf == state.end_version):
        changed = state.version if state.path_version is None else state.path_version
        if event.memory_version >= changed:  # it was computed outside the append, and is still true
            state.path_hash = event.path_hash
    elif leaf is not None and event.path_hash is not None and event.memory_version >= (state.path_version or 0):
        state.aside_path = [leaf, event.path_hash]
    if event.shadow:
        state.shadow_runs[event.run_id] = _part(OpenRun, {"backend": event.backend, "deadline": event.deadline})
        return
    run = _part(
        OpenRun,
        {
            "exchange_id": event.exchange_id,
            "backend": event.backend,
            "attempt": event.attempt,
            "deadline": event.deadline,
            "rerun_of": event.rerun_of,
        },
    )
    if event.supersedes_run_id is not None:
        run = updated(run, supersedes=event.supersedes_run_id)
    state.open_runs[event.run_id] = run
    exchange = state.open_exchanges.get(event.exchange_id) or _reopened(state, event)
    if exchange.rerun_of == event.rerun_of:
        exchange = updated(exchange, rerun_of=event.rerun_of, runs=[*exchange.runs, event.run_id])
    else:
        exchange = updated(exchange, failed_run=None, failed_backend=None, rerun_of=event.rerun_of, runs=[event.run_id])
    state.open_exchanges[event.exchange_id] = exchange
    if exchange.waits_for:
        _note_pending(state)


def _requested(state: ConversationState, event: e.ExchangeRequested) -> None:
    if event.question_message_id is not None and event.exchange_id not in state.open_exchanges:
        if state.fork_version is None and not event.background:  # its answer is aside
            state.fork_version = event.question_version
        exchange = _opened(state, event.exchange_id, event.question_message_id, state.last_at)
        place: dict[str, Any] = {"tail_version": event.question_version}
        if event.question_version != state.end_version:  # what follows it is its earlier answer
            place["answered"] = True
        state.open_exchanges[event.exchange_id] = updated(exchange, **place)
    if event.background and event.exchange_id in state.open_exchanges:
        exchange = state.open_exchanges[event.exchange_id]
        state.open_exchanges[event.exchange_id] = updated(exchange, deadline=event.deadline)


def _reopened(state: ConversationState, event: e.RunStarted) -> OpenExchange:
    abandoned = state.abandoned.pop(event.exchange_id, None)
    if abandoned is None and event.rerun_of is None:  # an app's own run, without a journaled question
        return _opened(state, event.exchange_id, None, None)
    # A rerun; the question of one that left `abandoned` is no longer known.
    exchange = abandoned or _part(OpenExchange, {"question": None, "runs": []})
    if event.supersedes_run_id is not None or event.question_answered:
        return updated(exchange, answered=True)
    return updated(exchange, unanswered=True)


def _run_completed(state: ConversationState, event: e.RunCompleted) -> None:
    run = state.open_runs.pop(event.run_id, None)
    if run is None:
        state.shadow_runs.pop(event.run_id, None)
        return
    exchange_id = run.exchange_id
    if event.goes_on and exchange_id in state.open_exchanges:
        exchange = state.open_exchanges[exchange_id]
        exchange = updated(exchange, failed_run=None, failed_backend=None, runs=[], active_at=state.last_at)
        if event.waits_for or exchange.waits_for:
            exchange = updated(exchange, waits_for=dict.fromkeys(event.waits_for, "") or None)
            state.open_exchanges[exchange_id] = exchange
            _note_pending(state)
        elif exchange.deadline is not None:  # its client was given the calls, and may never come back
            exchange = updated(exchange, deadline=None)
        state.open_exchanges[exchange_id] = exchange
        return
    answered = state.open_exchanges.pop(exchange_id, None)
    state.answered = [*state.answered[-ANSWERED_KEPT + 1 :], exchange_id]
    if state.abandoned.pop(exchange_id, None) is not None or (answered is not None and answered.unanswered):
        state.unanswered = max(state.unanswered - 1, 0)


def _note_pending(state: ConversationState) -> None:
    """Count the exchanges that wait for a person."""
    state.pending = sum(each.waits for each in state.open_exchanges.values()) or None


def _decided(state: ConversationState, event: e.ToolCallDecided) -> None:
    exchange = state.open_exchanges.get(event.exchange_id)
    if exchange is not None:
        decision = "approved" if event.approved else "rejected"
        waits_for = {**(exchange.waits_for or {}), event.call_id: decision}
        state.open_exchanges[event.exchange_id] = updated(exchange, waits_for=waits_for, active_at=state.last_at)
        _note_pending(state)


def _run_failed(state: ConversationState, event: e.RunFailed) -> None:
    state.failed_runs += 1
    state.shadow_runs.pop(event.run_id, None)
    run = state.open_runs.pop(event.run_id, None)
    exchange = state.open_exchanges.get(run.exchange_id) if run is not None else None
    if run is not None and exchange is not None:
        # After an interruption, no process is left to retry; after any other end, its process may retry.
        active_at = None if event.status == "interrupted" else state.last_at
        state.open_exchanges[run.exchange_id] = updated(
            exchange, failed_run=event.run_id, failed_backend=run.backend, active_at=active_at
        )


def _abandoned(state: ConversationState, event: e.ExchangeAbandoned) -> None:
    exchange = state.open_exchanges.pop(event.exchange_id, None)
    if exchange is not None and exchange.waits_for:
        _note_pending(state)
    if exchange is None or exchange.answered:  # its earlier answer is still valid
        return
    state.unanswered += 0 if exchange.unanswered else 1
    kept = {name: value for name, value in vars(exchange).items() if name not in {"unanswered", "deadline"}}
    state.abandoned[event.exchange_id] = _part(OpenExchange, kept)
    while len(state.abandoned) > ABANDONED_KEPT:
        del state.abandoned[next(iter(state.abandoned))]


def _cancelled(state: ConversationState, event: e.ExchangeCancelled) -> None:
    exchange = state.open_exchanges.pop(event.exchange_id, None)
    if exchange is not None:  # a late answer is not accepted
        state.answered = [*state.answered[-ANSWERED_KEPT + 1 :], event.exchange_id]
        if exchange.waits_for:
            _note_pending(state)


def _retracted(state: ConversationState, event: e.MessageRetracted) -> None:
    state.cut_version = state.path_version = state.mark_version = event.originator_version
    state.path_hash = state.aside_path = None


def _cleared(state: ConversationState, event: e.MemoryCleared) -> None:
    state.cut_version = state.path_version = state.mark_version = event.originator_version
    state.path_hash = state.aside_path = None
    if event.up_to_version >= state.version:
        state.path_hash, state.has_parts = EMPTY_PATH, False
    if state.pins:
        pins = {pinned: version for pinned, version in state.pins.items() if version > event.up_to_version}
        state.pins = pins or None


def _of_branches(state: ConversationState, event: e.Event) -> None:
    """Apply an event that only a conversation with branches or pins has, or a deleted one; others do not load the module."""
    from .branch_state import BRANCH_CHANGES

    BRANCH_CHANGES[type(event)](state, event)


def _accepted(state: ConversationState, event: e.RerunAccepted) -> None:
    state.mark_version = event.originator_version
    if event.superseded_message_id is not None or event.behind_message_id is not None:
        state.path_hash, state.path_version, state.aside_path = None, event.originator_version, None
    # Without a superseded run, a first answer was placed before newer messages, which no thread has yet: see `mirror`.
    placed_behind = event.behind_message_id is not None and event.superseded_run_id is not None
    if event.superseded_message_id is not None or placed_behind:
        state.cut_version = event.originator_version


def _linked(state: ConversationState, event: e.ThreadLinked | e.ThreadRebuilt) -> None:
    state.links[event.backend] = _part(
        ThreadLink,
        {"thread_id": event.thread_id, "endpoint": event.endpoint, "version": event.originator_version, "lost": None},
    )


def _lost(state: ConversationState, event: e.ThreadLost) -> None:
    link = state.links.get(event.backend)
    if link is not None and link.thread_id == event.thread_id:
        window = {} if event.window_tokens is None else {"window_tokens": event.window_tokens}
        state.links[event.backend] = updated(link, lost=event.reason or "gone", **window)


_CHANGES: dict[type[e.Event], Callable[[ConversationState, Any], None]] = {
    e.ConversationStarted: _started,
    e.ConversationDescribed: _described,
    e.MessageJournaled: _journaled,
    e.ExchangeRequested: _requested,
    e.RunStarted: _run_started,
    e.RunCompleted: _run_completed,
    e.RunFailed: _run_failed,
    e.ToolCallDecided: _decided,
    e.ExchangeAbandoned: _abandoned,
    e.ExchangeCancelled: _cancelled,
    e.MessageRetracted: _retracted,
    e.MemoryCleared: _cleared,
    e.RerunAccepted: _accepted,
    e.ConversationDeleted: _of_branches,
    e.BranchSelected: _of_branches,
    e.MemoryCompacted: _of_branches,
    e.MessagePinned: _of_branches,
    e.ThreadLinked: _linked,
    e.ThreadRebuilt: _linked,
    e.ThreadLost: _lost,
}
