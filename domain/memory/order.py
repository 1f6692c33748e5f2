"""Order the messages in memory: journal order, except for a rerun that was accepted behind an earlier message.

Messages can be read from either end: a window that is read backwards shows the same order as the whole. A message is
placed behind an older one, and takes along the messages placed behind itself. If the older one left memory, its
position is still known; if memory was cleared past it, the messages placed behind it come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..conversation.messages import JournaledMessage


def in_place(
    messages: Iterable[JournaledMessage], gone: Mapping[str, JournaledMessage], behind: Mapping[str, str]
) -> Iterator[JournaledMessage]:
    """Return messages, given oldest first, each in its place.

    `gone` are those that left memory; `behind` maps the id of a message to the id of the one that it was placed behind.
    """
    backwards = Backwards(gone)
    every = sorted((*messages, *gone.values()), key=lambda each: each.version)
    found = [each for message in reversed(every) for each in backwards.meet(message, behind.get(message.message_id))]
    return reversed([*found, *backwards.rest()])


class Backwards:
    """Order messages that arrive newest first; they are returned in their order in memory, newest first."""

    def __init__(self, gone: Iterable[str] = ()) -> None:
        """Start without messages; `gone` holds the ids of those that left memory, and may grow meanwhile."""
        self._gone = gone
        self._met: set[str] = set()
        self._held: dict[str, list[JournaledMessage]] = {}

    def meet(self, message: JournaledMessage, behind: str | None) -> Iterator[JournaledMessage]:
        """Accept the next older message and the one that it was placed behind; yield those whose place is now known."""
        self._met.add(message.message_id)
        if behind is not None and behind not in self._met:
            self._held.setdefault(behind, []).append(message)
        else:
            yield from self._handed_over(message)

    def rest(self) -> Iterator[JournaledMessage]:
        """Yield the messages that were placed behind messages that do not exist."""
        lost = [each for anchor in self._held.keys() - self._met for each in self._held[anchor]]
        for each in sorted(lost, key=lambda each: each.version, reverse=True):
            yield from self._handed_over(each)

    def _handed_over(self, message: JournaledMessage) -> Iterator[JournaledMessage]:
        for each in self._held.get(message.message_id, ()):
            yield from self._handed_over(each)
        if message.message_id not in self._gone:
            yield message
