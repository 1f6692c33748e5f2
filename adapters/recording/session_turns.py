"""Connect recorded runs with an SDK's session that stores the same messages in the same conversation.

An agent reads its session, adds the question to it, calls a model, and adds what the model said. A recorded run journals that
answer before the SDK sees it. What the session is then given is recognised by its place, never by its content alone: a
`SessionTurn` belongs to the task in which the agent runs, and runs that are recorded in this task, or in tasks started in it,
leave their answers there until the session asks for them.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain.conversation.events import MessageJournaled
from threadledger.domain.conversation.items import CALLS
from threadledger.domain.conversation.messages import Message, Parent, Role, restore_message
from threadledger.domain.conversation.session_items import call_id_of, is_output, kind_of_item, text_of_item
from threadledger.domain.journal import Journal

from .histories import NOT_SENT, after_the_model

Item = dict[str, Any]

CONVERSATIONS_MAX = 10_000
"""Number of conversations whose answers wait for a session at the same time; the oldest are forgotten, and then added again."""

TURNS_MAX = 100
"""Number of turns of one conversation whose answers wait."""

TURNS_OF_TASK_MAX = 16
"""Number of conversations of one task whose turns it knows: a worker may serve thousands, one after the other."""

ADDED_MAX = 1_000
"""Number of messages that a turn remembers of those that were added to its session."""

ANSWERS_MAX = 1_000
"""Number of answers of one turn that wait for the session."""


@dataclass(frozen=True, eq=False)
class RunAnswer:
    """Hold a message that a run journaled, and how much of it a session was given."""

    message_id: str
    version: int
    message: Message
    is_final: bool
    """Whether it answers its exchange, or the session was given a later one; otherwise it calls tools, and may be resumed."""
    has_text: bool
    """Whether the item with its text is missing in the session."""
    calls: frozenset[str]
    """Ids of the calls that are missing in the session."""
    items: tuple[Item, ...] = ()
    """The items that the session was given."""

    @property
    def is_untouched(self) -> bool:
        """Return whether the session was given nothing of it."""
        return not self.items

    @property
    def is_whole(self) -> bool:
        """Return whether the session was given all of it."""
        return not self.calls and not self.has_text

    @property
    def is_left(self) -> bool:
        """Return whether the session does not have it, and will not get it after another question."""
        return self.is_untouched and self.is_final

    @property
    def says_nothing(self) -> bool:
        """Return whether it is missing in the session, and has neither a text nor a call of the app's tools."""
        return self.is_untouched and not self.calls and not self.message.text.strip()

    def taking(self, item: Item) -> RunAnswer | None:
        """Return it after the session was given an item of it; None if the item is not of it, or was given before."""
        if kind_of_item(item) in CALLS:
            call_id = call_id_of(item)
            return replace(self, calls=self.calls - {call_id}) if call_id in self.calls else None
        if self.has_text and text_of_item(item) == self.message.text:
            return replace(self, has_text=False)
        return None


IDLE, EXPECTING, CALLING = "idle", "expecting", "calling"
"""States of a turn: the session was read, or has the answer; it was given a question or results, which a model is called
with next; the model has called tools, whose results the session does not have yet."""


@dataclass(frozen=True)
class TurnPart:
    """Describe what a request is for the turn of an agent."""

    turn: SessionTurn
    is_aside: bool
    """Whether it is a request of a tool, whose messages and answer are not in memory."""
    sent: tuple[Message, ...]
    """Its messages that the session does not have, such as those that a filter changed. They are recorded aside."""
    exchange_id: str | None
    """The exchange that it continues."""
    leaf: Parent | None = None
    """The message that it continues, if it is aside."""
    named: tuple[Any, ...] = ()
    """What its messages are recognised by, if it is aside."""


def _own_task() -> weakref.ref[asyncio.Task[Any]] | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return weakref.ref(task) if task is not None else None


@dataclass(eq=False)
class SessionTurn:
    """Represent what happens in one conversation since an SDK's session was first used in a task."""

    journal: Journal
    key: str
    exchange_id: str | None = None
    """The exchange of the newest run; None before the first one after a question."""
    answers: dict[str, RunAnswer] = field(default_factory=dict)
    """Answers that wait for the session, oldest first, by message id."""
    exchange_of_call: dict[str, str] = field(default_factory=dict)
    """Exchanges of the model's calls, by the id of the call."""
    _state: object = IDLE
    _added: list[tuple[Any, ...]] = field(default_factory=list)
    _asides: dict[str, tuple[str | None, Parent]] = field(default_factory=dict)
    """Exchanges and last messages of runs beside those of the agent, by the ids of their calls."""
    _failed: dict[tuple[Any, ...], tuple[str, Parent]] = field(default_factory=dict)
    """The same of those that failed, by what was sent."""
    _task: weakref.ref[asyncio.Task[Any]] | None = field(default_factory=_own_task)

    def is_of(self, journal: Journal, key: str) -> bool:
        """Return whether it is about the conversation of this key in the same database."""
        return self.key == key and is_same_database(self.journal, journal)

    @property
    def is_of_this_task(self) -> bool:
        """Return whether it began in the caller's task."""
        mine = _own_task()
        return mine is not None and self._task is not None and mine() is self._task()

    @property
    def is_over(self) -> bool:
        """Return whether its task has ended, or runs the caller: the run that it served has ended."""
        task = self._task() if self._task is not None else None
        return task is None or task.done() or self.is_of_this_task

    def add(self, messages: Sequence[Message]) -> None:
        """Note what was added to the session, besides answers of runs: a question, results of tools, or nothing."""
        said = [each for each in messages if each.role is not Role.ASSISTANT]
        with _LOCK:
            self._state = EXPECTING if said else IDLE
            if not said:
                for kept in (self._added, self.exchange_of_call, self._asides, self._failed):
                    kept.clear()
            if any(each.role is Role.USER for each in said):
                self.exchange_id = None
            self._added += map(_named, said)
            del self._added[:-ADDED_MAX]

    def part_of(self, messages: Sequence[Message]) -> TurnPart | None:
        """Return what a request is for the turn; None if it has nothing to do with it, since no agent uses the session.

        An agent calls its model with what was added to the session. Between the model's calls of tools and their results, a
        request is one of a tool, such as of another agent.
        """
        begin = after_the_model(messages)
        sent = [each for each in messages[begin:] if each.role not in NOT_SENT]
        with _LOCK:
            if self._state is IDLE:
                return None
            known = max((place for place, each in enumerate(sent, 1) if _named(each) in self._added), default=0)
            if self._state is EXPECTING or known:
                return TurnPart(self, False, tuple(sent[known:]), self.exchange_id)
            results = (self._asides.get(each.tool_call_id or "") for each in sent if each.role is Role.TOOL)
            failed = self._failed.pop(tuple(map(_named, sent)), None)
            exchange_id, leaf = failed or next(filter(None, results), (None, None))
            return TurnPart(self, True, () if failed else tuple(sent), exchange_id, leaf, tuple(map(_named, sent)))

    def began(self, part: TurnPart, exchange_id: str) -> None:
        """Note that a run was started, and that its messages are in the log."""
        if not part.is_aside:
            with _LOCK:
                self.exchange_id = exchange_id
                self._added += map(_named, part.sent)

    def failed(self, part: TurnPart, exchange_id: str, leaf: Parent | None) -> None:
        """Note that a run failed: the same request again continues its exchange."""
        if part.is_aside and leaf is not None:
            with _LOCK:
                self._failed[part.named] = (exchange_id, leaf)

    def answered(self, part: TurnPart, said: Sequence[MessageJournaled], goes_on: bool) -> None:
        """Keep the messages of a run until the session is given them; one beside the session's own is not kept."""
        with _LOCK:
            if not said:
                return
            if part.is_aside:
                leaf = (said[-1].message_id, said[-1].originator_version)
                calls = [call.id for each in said for call in restore_message(each).calls()]
                self._asides |= dict.fromkeys(calls, (said[-1].exchange_id, leaf))
                return
            if goes_on:
                self._state = CALLING
            for each in said:
                message = restore_message(each)
                calls_of = frozenset(call.id for call in message.calls())
                self.exchange_of_call |= dict.fromkeys(calls_of, each.exchange_id or "")
                self.answers[each.message_id] = RunAnswer(
                    each.message_id,
                    each.originator_version,
                    message,
                    is_final=not goes_on,
                    has_text=bool(message.text.strip()) or not calls_of,
                    calls=calls_of,
                )
            for message_id in [*self.answers][:-ANSWERS_MAX]:
                del self.answers[message_id]
            turns = _WAITING.setdefault(self.key, [])
            if self not in turns:
                turns.append(self)
                del turns[:-TURNS_MAX]
            _WAITING.move_to_end(self.key)
            while len(_WAITING) > CONVERSATIONS_MAX:
                _WAITING.popitem(last=False)

    def given(self, items: Sequence[Item], stored: Sequence[RunAnswer] = ()) -> tuple[list[RunAnswer], list[Item]]:
        """Return the answers of runs that these items are, as they are after it, and the other items. Nothing changes yet.

        An agent may be resumed in another task, or in another process, of which `stored` has the answers. Those are
        recognised by the ids of their calls.
        """
        called = {call_id_of(item) for item in items if kind_of_item(item) in CALLS}
        with _LOCK:
            own = [*self.answers.values()]
            others = [each for turn in waiting(self.journal, self.key) for each in turn.answers.values()]
        resumed = [each for each in (*others, *stored) if each.message_id not in self.answers and each.calls & called]
        return _Claims([*own, *resumed]).of(items)

    def take(self, answers: Iterable[RunAnswer]) -> None:
        """Keep how much of these answers the session was given."""
        with _LOCK:
            for turn in {self, *waiting(self.journal, self.key)}:
                for each in answers:
                    if each.message_id in turn.answers:
                        turn.answers[each.message_id] = each
                        turn._pass_over(each.version)
                        if each.is_whole:
                            del turn.answers[each.message_id]
                _forget(turn)

    def _pass_over(self, version: int) -> None:
        """Note that the agent did not keep what came before an answer that it kept."""
        for each in [*self.answers.values()]:
            if each.version < version and each.is_untouched:
                self.answers[each.message_id] = replace(each, is_final=True)


class _Claims:
    """Find the answers that items are, in the order of both."""

    def __init__(self, answers: Sequence[RunAnswer]) -> None:
        self._found = {each.message_id: each for each in answers}
        self._changed: dict[str, None] = {}
        self._before: list[Item] = []
        """What the model did before the next message or call."""
        self._last: str | None = None
        self._rest: list[Item] = []

    def of(self, items: Sequence[Item]) -> tuple[list[RunAnswer], list[Item]]:
        for item in items:
            kind = kind_of_item(item)
            if not is_output(item):
                self._end()
                self._rest.append(item)
                if item.get("role") == Role.USER:  # what follows a new question is no answer to an earlier one
                    self._found = {name: each for name, each in self._found.items() if not each.is_left}
            elif kind == "message" or kind in CALLS:
                self._take(item)
            else:
                self._before.append(item)
        self._end()
        return [self._found[each] for each in self._changed], self._rest

    def _take(self, item: Item) -> None:
        for name, answer in self._found.items():
            taken = answer.taking(item)
            if taken is not None:
                self._last = name
                self._keep(taken, item)
                return
        self._rest += [*self._before, item]
        self._before, self._last = [], None

    def _end(self) -> None:
        """Assign what the model did after its last message or call, or without any."""
        before, self._before = self._before, []
        last, self._last = self._last, None
        if not before:
            return
        silent = (each for each in self._found.values() if each.says_nothing)
        answer = self._found[last] if last is not None else next(silent, None)
        if answer is None:
            self._rest += before
        else:
            self._keep(answer if last is not None else replace(answer, has_text=False), *before)

    def _keep(self, answer: RunAnswer, *items: Item) -> None:
        before, self._before = self._before, []
        self._found[answer.message_id] = replace(answer, items=(*answer.items, *before, *items))
        self._changed[answer.message_id] = None


_LOCK = threading.RLock()
_WAITING: OrderedDict[str, list[SessionTurn]] = OrderedDict()
"""Turns with answers that no session was given, by the key of their conversation."""

_TURNS: ContextVar[tuple[SessionTurn, ...]] = ContextVar("threadledger_session_turns", default=())
"""Turns of the caller's task, and of the tasks that started it, the newest last."""


def turn_of(journal: Journal, key: str) -> SessionTurn | None:
    """Return the turn of a conversation that the caller is in."""
    return next((each for each in reversed(_TURNS.get()) if each.is_of(journal, key)), None)


def begin_turn(journal: Journal, key: str) -> SessionTurn:
    """Start a turn in the caller's task, unless it has one of this conversation, and return it."""
    known = turn_of(journal, key)
    if known is not None and known.is_of_this_task:
        return known
    turn = SessionTurn(journal, key)
    others = [each for each in _TURNS.get() if not each.is_of(journal, key)]
    _TURNS.set((*others[1 - TURNS_OF_TASK_MAX :], turn))
    return turn


def waiting(journal: Journal, key: str) -> Iterator[SessionTurn]:
    """Yield the turns of a conversation with answers that no session was given."""
    with _LOCK:
        turns = [*_WAITING.get(key, ())]
    yield from (each for each in turns if each.is_of(journal, key))


def not_given(journal: Journal, key: str) -> set[str]:
    """Return the ids of the messages that a running agent has not yet added to its session, or never will."""
    answers = (each for turn in waiting(journal, key) for each in [*turn.answers.values()])
    return {each.message_id for each in answers if each.is_untouched}


def left_answers(journal: Journal, key: str) -> list[RunAnswer]:
    """Return answers that an agent did not add to its session before it ended, such as one that a guardrail stopped."""
    turns = [turn for turn in waiting(journal, key) if turn.is_over]
    answers = [each for turn in turns for each in [*turn.answers.values()]]
    return [each for each in answers if each.is_left]


def forget_answers(journal: Journal, key: str, message_ids: Iterable[str] | None = None) -> None:
    """Wait no longer for a session to be given these messages; by default any."""
    with _LOCK:
        for turn in waiting(journal, key):
            for message_id in [*turn.answers] if message_ids is None else message_ids:
                turn.answers.pop(message_id, None)
            _forget(turn)


def _forget(turn: SessionTurn) -> None:
    turns = _WAITING.get(turn.key)
    if turns is not None and turn in turns and not turn.answers:
        turns.remove(turn)
        if not turns:
            del _WAITING[turn.key]


def _named(message: Message) -> tuple[Any, ...]:
    """Return what decides whether a request repeats a message: an SDK sends attachments and results in other shapes."""
    if message.role is Role.TOOL:
        return (message.role, message.tool_call_id)
    return (message.role, message.text)


def is_same_database(one: Journal, other: Journal) -> bool:
    """Return whether two journals, of one ledger or of two, have the same events."""
    if one.recorder is other.recorder:
        return True
    url = getattr(one.recorder, "url", None)
    return url is not None and url == getattr(other.recorder, "url", None)
