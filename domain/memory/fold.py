"""Fold a conversation's events into memory, as of a version or a time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from ..ids import as_utc
from .memory import INSTRUCTING, Memory
from .order import in_place
from .path import BEGINNING, Branches


class MemoryFold:
    """Build memory step by step from events, oldest first."""

    def __init__(self) -> None:
        self.messages: dict[str, JournaledMessage] = {}
        self.gone: dict[str, JournaledMessage] = {}
        """Messages that left memory; their positions are still needed."""
        self.behind: dict[str, str] = {}
        """Id of the message that a message was placed behind, by message id."""
        self.run_threads: dict[str, str] = {}
        self.run_marks: dict[str, int] = {}
        self.missing_files: dict[str, frozenset[str]] = {}
        self.branches = Branches()
        self._opening = True
        """Whether only system messages were said so far."""
        self.opening_version = 0

    def say(self, message: JournaledMessage) -> None:
        """Add a message."""
        self.messages[message.message_id] = message
        self.branches.say(message)
        if self._opening:
            self._opening = message.role_name in INSTRUCTING
            self.opening_version = message.version if self._opening else self.opening_version

    def take(self, event: e.Event) -> None:
        """Apply one event. Never raises."""
        match event:
            case e.MessageJournaled():
                self.say(journaled(event))
            case e.MessageRetracted():
                self._lose(event.message_id, event.message_version)
            case e.MemoryCleared():
                self.messages = _after(self.messages, event.up_to_version)
                self.gone = _after(self.gone, event.up_to_version)
            case e.RerunAccepted():
                if event.superseded_message_id is not None:
                    self._lose(event.superseded_message_id, event.superseded_version)
                if event.behind_message_id is not None:
                    self._move(event.run_id, event.behind_message_id, event.behind_version)
            case e.BranchSelected() | e.MemoryCompacted() | e.MessagePinned():
                self.branches.take(event)
            case e.RunCompleted() | e.RunFailed():
                self._end(event)
            case e.ConversationDeleted():
                vars(self).update(vars(MemoryFold()))
            case _:
                pass

    def memory(self, version: int, path_hash: str | None = None, leaf: int | None = None, full: bool = False) -> Memory:
        """Return the memory built so far, as of a version, whose hash may be known.

        The path ends with the message of version `leaf`; by default, with the selected one. With `full`, no summary stands in
        place of messages.
        """
        if full:
            self.branches.summaries = []
        if leaf is not None:
            every = (*self.messages.values(), *self.gone.values())
            self.branches.select(next((each.message_id for each in every if each.version == leaf), BEGINNING))
        messages: Iterable[JournaledMessage] = self.messages.values()
        opening = self.opening_version
        if self.branches.exist:
            messages, opening = self.branches.shown(self.messages, self.gone, self.behind), self.branches.opening()
        elif self.behind:
            messages = in_place(messages, self.gone, self.behind)
        messages = tuple(messages)  # before the branches are asked which summary it has
        memory = Memory(
            messages,
            version,
            run_threads=self.run_threads,
            run_marks=self.run_marks,
            opening_version=opening,
            missing_files=dict(self.missing_files),
            pinned=frozenset(self.branches.pinned),
            **self.branches.summary_facts(),
            path_hash=path_hash,
        )
        vars(memory)["_hash_2"] = path_hash
        return memory

    def _end(self, event: e.RunCompleted | e.RunFailed) -> None:
        if event.thread_id is not None:
            self.run_threads[event.run_id] = event.thread_id
            if isinstance(event, e.RunCompleted) and event.thread_version is not None:
                self.run_marks[event.run_id] = event.thread_version
        if isinstance(event, e.RunFailed) and event.details:
            from .missing_files import add_missing

            add_missing(event.details, self.missing_files)

    def _lose(self, message_id: str, version: int | None) -> None:
        self._void(message_id, version)
        lost = self.messages.pop(message_id, None)
        if lost is not None:
            self.gone[lost.message_id] = lost

    def _move(self, run_id: str, anchor: str, version: int | None) -> None:
        self._void(anchor, version)
        every = (*self.messages.values(), *self.gone.values())
        ours = [each.message_id for each in every if each.run_id == run_id]
        self.behind |= dict.fromkeys(ours, anchor)

    def _void(self, message_id: str, version: int | None) -> None:
        if self.branches.summaries:
            known = self.messages.get(message_id) or self.gone.get(message_id)
            self.branches.void(message_id, known.version if version is None and known is not None else version)


def _after(messages: dict[str, JournaledMessage], version: int) -> dict[str, JournaledMessage]:
    return {id_: each for id_, each in messages.items() if each.version > version}


def fold_memory(events: Iterable[e.Event], at: int | datetime | None = None, leaf: int | None = None) -> Memory:
    """Fold events, oldest first, into memory as of a version or a time, both inclusive. Never raises.

    `leaf` is the version of the message with which the path ends, by default the selected one.
    """
    fold, version = MemoryFold(), 0
    at = as_utc(at) if isinstance(at, datetime) else at
    for event in events:
        if (isinstance(at, int) and event.originator_version > at) or (
            isinstance(at, datetime) and event.timestamp > at
        ):
            break
        version = event.originator_version
        fold.take(event)
    return fold.memory(version, leaf=leaf)


def journaled(event: e.MessageJournaled) -> JournaledMessage:
    """Return a stored message with its place."""
    return JournaledMessage.stored(e.payload_of(event), event.originator_version, event.timestamp)
