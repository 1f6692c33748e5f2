"""Order the messages of a conversation with branches: the path that leads to the selected end.

A message follows the one that it names, or else the end at that time. Only such a message without a parent, or a selection,
moves the end. `journal/path.py` reads the same path from its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from .memory import INSTRUCTING

BEGINNING = ""
"""Id of the place before the first message."""


@dataclass
class Branches:
    """Hold what leads from each message to the one before it, and what of the path is covered or pinned."""

    end: str = BEGINNING
    """Id of the message at the end."""
    parents: dict[str, str] = field(default_factory=dict)
    """Id of the message before each message."""
    summaries: list[e.MemoryCompacted] = field(default_factory=list)
    """Summaries that no later event made void."""
    every_summary: list[e.MemoryCompacted] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    instructions: dict[str, int] = field(default_factory=dict)
    """Versions of the system messages, by id."""
    shown_summary: e.MemoryCompacted | None = None
    """The summary among the messages that were shown last."""
    exist: bool = False
    """Whether any event left the line; without one, memory is in the order of the journal."""

    def say(self, message: JournaledMessage) -> None:
        """Add a message that follows another one, or the end."""
        message_id, parent_id = message.message_id, message.parent_id
        if parent_id is None:
            self.parents[message_id] = self.end
            self.end = message_id
        else:
            self.parents[message_id] = parent_id
            self.exist = True
        if message.role_name in INSTRUCTING:
            self.instructions[message_id] = message.version

    def select(self, message_id: str) -> None:
        """Make a message the end."""
        self.end = message_id
        self.exist = True

    def take(self, event: e.BranchSelected | e.MemoryCompacted | e.MessagePinned) -> None:
        """Apply an event."""
        match event:
            case e.BranchSelected():
                self.select(event.message_id)
            case e.MemoryCompacted():
                self.summaries.append(event)
                self.every_summary.append(event)
                self.exist = True
            case e.MessagePinned():
                (self.pinned.add if event.pinned else self.pinned.discard)(event.message_id)

    def void(self, message_id: str | None, version: int | None) -> None:
        """Drop the summaries that cover a message which is removed or moved, and a summary that is removed itself."""
        if version is not None:
            self.summaries = [
                each for each in self.summaries if version > each.upto_version and message_id != each.message_id
            ]

    def path(self) -> list[str]:
        """Return the ids from the beginning to the end."""
        path: list[str] = []
        met = set[str]()
        at = self.end
        while at != BEGINNING and at in self.parents and at not in met:  # a damaged log may have a circle
            path.append(at)
            met.add(at)
            at = self.parents[at]
        return path[::-1]

    def summary_facts(self) -> dict[str, Any]:
        """Return the fields of a memory about the summary that was shown."""
        shown = self.shown_summary
        return {"summary_id": shown.message_id, "covered_version": shown.covers_version} if shown is not None else {}

    def opening(self) -> int:
        """Return the version of the last system message at the beginning of the path; 0 without one."""
        version = 0
        for message_id in self.path():
            if message_id not in self.instructions:
                break
            version = self.instructions[message_id]
        return version

    def shown(
        self, messages: Mapping[str, JournaledMessage], gone: Mapping[str, JournaledMessage], behind: Mapping[str, str]
    ) -> Iterator[JournaledMessage]:
        """Yield the messages in memory.

        `messages` and `gone` (those that left memory) are all that were not cleared; `behind` maps the id of a message to
        that of the one that it was placed behind.
        """
        every = {**messages, **gone}
        placed = self._placed(every, behind)
        self.shown_summary = None
        at = next((at for at in range(len(placed) - 1, -1, -1) if self._covering(placed[at])), -1)
        summary = self._covering(placed[at]) if at >= 0 else None
        for number, message_id in enumerate(placed):
            message = every[message_id]
            is_kept = message_id in self.pinned or message.role_name in INSTRUCTING
            if message_id not in gone and (number > at or is_kept):
                yield message
            if number == at and summary is not None and summary.message_id in every:
                self.shown_summary = summary
                yield every[summary.message_id]

    def _placed(self, every: Mapping[str, JournaledMessage], behind: Mapping[str, str]) -> Sequence[str]:
        """Return the ids of the path that were not cleared, each in its place."""
        path = [message_id for message_id in self.path() if message_id in every]
        moved = {
            message_id: anchor
            for message_id, anchor in behind.items()
            if message_id in every and not (anchor in every and every[anchor].version > every[message_id].version)
        }
        followers: dict[str, list[str]] = {}
        for message_id in sorted(moved, key=lambda each: every[each].version):
            followers.setdefault(moved[message_id], []).append(message_id)
        placed: list[str] = []

        def place(message_id: str) -> None:
            waiting = [message_id]
            while waiting:
                following = waiting.pop()
                placed.append(following)
                waiting += reversed(followers.get(following, ()))

        for message_id in path:
            if message_id in moved and moved[message_id] not in every:  # what it followed was cleared
                place(message_id)
        for message_id in path:
            if message_id not in moved:
                place(message_id)
        return placed

    def _covering(self, message_id: str) -> e.MemoryCompacted | None:
        """Return the newest summary that covers the path up to a message; None if there is none."""
        return next((each for each in reversed(self.summaries) if each.covers_message_id == message_id), None)
