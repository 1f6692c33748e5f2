"""Find threads that lag behind the journal, from the notebook alone: the provider is not called.

The work is bounded, however large the ledger is: it covers the most recently changed conversations, and the threads
that the notebook marks as unsettled. `replay verify` reads the threads themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import events as e
from .journal import Journal
from .limits import LAGGING_LOOKED_AT_MAX
from .naming import key_of, stream_of
from .outside import Outside
from .state import ConversationState
from .upkeep import NotedThread


@dataclass(frozen=True)
class LaggingThread:
    """Represent one thread that does not hold what it should, or whose content is unknown."""

    key: str
    mirror: str
    state: str
    """`unlinked` (no thread), `lost`, `unsettled` (a process stopped while writing to it), or `behind`."""
    messages: int = 0
    """Number of journaled messages after those that the thread is known to hold."""


@dataclass(frozen=True)
class Lags:
    """Hold the lagging threads, and how many conversations were checked, of how many."""

    threads: Sequence[LaggingThread]
    looked_at: int
    of: int
    doubtful: int = 0
    """Number of threads with unconfirmed writes that may still arrive; they are read before the next write."""


def threads_behind(journal: Journal, outside: Outside, looked_at_max: int = LAGGING_LOOKED_AT_MAX) -> Lags:
    """Return the threads that lag behind, of the most recently changed conversations.

    A conversation with an open run is omitted: its thread is updated when the run ends.
    """
    states = journal.views.conversations(looked_at_max, None)
    noted = {(each.stream, each.mirror): each for each in journal.upkeep.noted_threads(_streams(states))}
    lagging = [each for state in states for each in _lagging(journal, outside, state, noted)]
    seen = {(each.key, each.mirror) for each in lagging} | {(key_of(stream), mirror) for stream, mirror in noted}
    elsewhere = journal.upkeep.unsettled_threads(looked_at_max)
    lagging += [
        LaggingThread(key_of(each.stream), each.mirror, "unsettled")
        for each in elsewhere
        if not each.settled and not each.held and (key_of(each.stream), each.mirror) not in seen
    ]
    of = int(journal.status()["conversations"])
    return Lags(lagging, len(states), of, sum(each.doubts > 0 for each in elsewhere))


def _streams(states: Sequence[ConversationState]) -> list[str]:
    return [stream_of(state.key) for state in states]


def _lagging(
    journal: Journal, outside: Outside, state: ConversationState, noted: dict[tuple[str, str], NotedThread]
) -> Iterator[LaggingThread]:
    if state.messages == 0 or state.open_runs:
        return
    wanted = {outside.mirrored_to} if outside.mirrored_to in outside.mirrors else set()
    for mirror in sorted(wanted | (state.links.keys() & outside.mirrors.keys())):
        link = state.links.get(mirror)
        if link is None:
            yield LaggingThread(state.key, mirror, "unlinked", state.messages)
        elif link["lost"]:
            yield LaggingThread(state.key, mirror, "lost", state.messages)
        elif link["endpoint"] == outside.mirrors[mirror].endpoint:
            yield from _behind(journal, state, mirror, noted.get((stream_of(state.key), mirror)))


def _behind(
    journal: Journal, state: ConversationState, mirror: str, noted: NotedThread | None
) -> Iterator[LaggingThread]:
    if noted is not None and noted.held:
        return
    version = noted.version if noted is not None else 0
    lacking = 0
    if version < state.version:
        newer = journal.history(state.key, after=version)
        lacking = sum(isinstance(event, e.MessageJournaled) for event in newer)
    if noted is None or not noted.settled:
        yield LaggingThread(state.key, mirror, "unsettled", lacking)
    elif lacking:
        yield LaggingThread(state.key, mirror, "behind", lacking)
