"""Show a conversation as the tree of its messages: which variants a message has, and which branches there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..conversation.messages import JournaledMessage
from .diff import said as said  # noqa: PLC0414 - callers that show a branch use it too
from .path import BEGINNING

if TYPE_CHECKING:
    from .fold import MemoryFold


@dataclass(frozen=True)
class Variant:
    """Represent one of several messages that follow the same message."""

    message: JournaledMessage
    selected: bool
    """Whether the message is on the path to the selected end."""
    hidden: bool = False
    """Whether it was retracted, or superseded by a rerun."""

    @property
    def message_id(self) -> str:
        """Return the id of the message."""
        return self.message.message_id

    @property
    def version(self) -> int:
        """Return the version of the message."""
        return self.message.version

    @property
    def text(self) -> str:
        """Return the text of the message."""
        return self.message.message.text

    def as_json(self) -> dict[str, Any]:
        """Return the object that commands print."""
        return self.message.as_json() | {"selected": self.selected, "hidden": self.hidden}


@dataclass(frozen=True)
class Branch:
    """Represent one end of a conversation, which can be selected."""

    end: JournaledMessage
    selected: bool
    messages: int
    """Number of messages on the path to the end."""
    forked_from: str | None
    """Id of the last message that it shares with the selected path; None if it shares none, or is the selected one."""

    @property
    def message_id(self) -> str:
        """Return the id of the message at the end."""
        return self.end.message_id

    @property
    def says(self) -> str:
        """Return the text of the message at the end, the types of its other parts, and its tool calls."""
        return said(self.end)

    def as_json(self) -> dict[str, Any]:
        """Return the object that commands print."""
        own = {"selected": self.selected, "messages": self.messages, "forked_from": self.forked_from}
        return self.end.as_json() | own


@dataclass(frozen=True)
class TreeMessage:
    """Represent a message in the tree, with the messages that follow it, oldest first."""

    message: JournaledMessage
    selected: bool
    hidden: bool
    is_summary: bool
    following: Sequence[TreeMessage]

    @property
    def says(self) -> str:
        """Return its text, the types of its other parts, and its tool calls."""
        return said(self.message)


class MessageTree:
    """Hold the messages of a conversation that were not cleared, with the message that each follows."""

    def __init__(self, fold: MemoryFold) -> None:
        self._every = {**fold.messages, **fold.gone}
        self._gone = fold.gone
        branches = fold.branches
        self._parents = {
            message_id: parent if parent in self._every else BEGINNING
            for message_id, parent in branches.parents.items()
            if message_id in self._every
        }
        self._path = [message_id for message_id in branches.path() if message_id in self._every]
        self._selected = set(self._path)
        self._summaries = {each.message_id for each in branches.every_summary}
        self._following: dict[str, list[str]] = {}
        for message_id in sorted(self._parents, key=lambda each: self._every[each].version):
            self._following.setdefault(self._parents[message_id], []).append(message_id)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._every

    def variants(self, message_id: str) -> list[Variant]:
        """Return the messages that follow the same message as this one, itself included, oldest first."""
        beside = self._following.get(self._parents.get(message_id, BEGINNING), ())
        return [self._variant(each) for each in beside if each not in self._summaries]

    def end_of(self, message_id: str) -> JournaledMessage:
        """Return the newest message that can be reached from this one: the end of its branch."""
        reached, waiting = message_id, [message_id]
        while waiting:
            at = waiting.pop()
            following = [each for each in self._following.get(at, ()) if each not in self._summaries]
            waiting += following
            if not following and self._every[at].version > self._every[reached].version:
                reached = at
        return self._every[reached]

    def branches(self) -> list[Branch]:
        """Return every end of the conversation, oldest first."""
        ends = [each for each in self._every if each not in self._summaries and self._is_end(each)]
        end = self._path[-1] if self._path else None
        if end is not None and end not in ends:
            ends.append(end)
        return [self._branch(each, each == end) for each in sorted(ends, key=lambda each: self._every[each].version)]

    def roots(self) -> Sequence[TreeMessage]:
        """Return the messages that the conversation may begin with, each with those that follow it."""
        made: dict[str, TreeMessage] = {}
        for message_id in sorted(self._parents, key=lambda each: -self._every[each].version):
            following = tuple(made[each] for each in self._following.get(message_id, ()))
            made[message_id] = TreeMessage(
                self._every[message_id],
                message_id in self._selected,
                message_id in self._gone,
                message_id in self._summaries,
                following,
            )
        return [made[each] for each in self._following.get(BEGINNING, ())]

    def _is_end(self, message_id: str) -> bool:
        return all(each in self._summaries for each in self._following.get(message_id, ()))

    def _branch(self, message_id: str, selected: bool) -> Branch:
        path = [*self._upwards(message_id)]
        shared = next((each for each in path if each in self._selected), None)
        return Branch(self._every[message_id], selected, len(path), None if selected else shared)

    def _upwards(self, message_id: str) -> Iterator[str]:
        at = message_id
        while at != BEGINNING:
            yield at
            at = self._parents[at]

    def _variant(self, message_id: str) -> Variant:
        return Variant(self._every[message_id], message_id in self._selected, message_id in self._gone)
