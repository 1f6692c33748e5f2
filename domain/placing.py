"""Where messages stand in memory: in the order of the journal, but for those of a rerun that was accepted behind an earlier
message. Told from either end alike: a window that is read backwards shows what the whole shows.

A message is put behind another one that is older than itself, and takes along what was put behind it. Where that other one
has left memory, its place is still known; where it was cleared away, what stood behind it stands at the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .journaled import JournaledMessage


def in_place(
    messages: Iterable[JournaledMessage], gone: Mapping[str, JournaledMessage], behind: Mapping[str, str]
) -> Iterator[JournaledMessage]:
    """Messages, oldest first, each in its place. `gone` are those that left memory, `behind` is message id → message id."""
    backwards = Backwards(gone)
    every = sorted((*messages, *gone.values()), key=lambda each: each.version)
    found = [each for message in reversed(every) for each in backwards.meet(message, behind.get(message.message_id))]
    return reversed([*found, *backwards.rest()])


class Backwards:
    """Messages met from the newest to the oldest, handed over in the order in which they stand, the newest first."""

    def __init__(self, gone: Iterable[str] = ()) -> None:
        """`gone` holds the ids of those that left memory; it may grow meanwhile."""
        self._gone = gone
        self._met: set[str] = set()
        self._held: dict[str, list[JournaledMessage]] = {}

    def meet(self, message: JournaledMessage, behind: str | None) -> Iterator[JournaledMessage]:
        """The next older message, and which one it was put behind: what can be handed over with that."""
        self._met.add(message.message_id)
        if behind is not None and behind not in self._met:
            self._held.setdefault(behind, []).append(message)
        else:
            yield from self._handed_over(message)

    def rest(self) -> Iterator[JournaledMessage]:
        """What was put behind messages that are not there."""
        lost = [each for anchor in self._held.keys() - self._met for each in self._held[anchor]]
        for each in sorted(lost, key=lambda each: each.version, reverse=True):
            yield from self._handed_over(each)

    def _handed_over(self, message: JournaledMessage) -> Iterator[JournaledMessage]:
        for each in self._held.get(message.message_id, ()):
            yield from self._handed_over(each)
        if message.message_id not in self._gone:
            yield message
