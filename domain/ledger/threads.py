"""List the linked threads of all conversations, with the outcome of their last verification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..conversation import stream_of
from ..errors import InvalidInput
from ..ids import to_iso
from ..journal.outcomes import OUTCOMES, NotedStream
from .pages import NUMBER_MAX, Page, cursor_of, place_in

if TYPE_CHECKING:
    from ..conversation import ConversationState
    from ..journal import Journal

STREAMS_AT_ONCE = 1_000
"""Maximum number of conversations that are read at once."""


@dataclass(frozen=True)
class ListedThread:
    """Describe a linked thread, from what is stored about it: the provider is not called."""

    key: str
    backend: str
    """Kind of thread: `conversations` or `assistants`."""
    thread_id: str
    endpoint: str
    linked_version: int
    """Version of the conversation at which the thread was linked."""
    lost: str | None
    """Reason why it is lost; None if it is not known to be lost."""
    version: int | None
    """Version of the journal that it is known to hold; None if that is unknown."""
    state: str | None
    """Outcome of the last verification, and of what was stored since; None if it was never verified."""
    verified_version: int | None
    """Version of the journal with which it was compared."""
    verified_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `threads`; docs/commands.md lists its keys."""
        at = to_iso(self.verified_at) if self.verified_at is not None else None
        return vars(self) | {"verified_at": at}


def thread_page(
    journal: Journal, backend: str | None, state: str | None, key: str | None, limit: int | None, after: str | None
) -> Page[ListedThread]:
    """Return a page of linked threads; see `Ledger.threads`.

    Raises:
        InvalidInput: there is no such state, the limit is no number, or the cursor belongs to another list.
        ConversationNotFound: no conversation has this key.
    """
    if state is not None and state not in OUTCOMES:
        raise InvalidInput(f"a thread cannot be {state!r}: use one of {', '.join(OUTCOMES)}")
    for name, value in (("backend", backend), ("key", key)):
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"{name} has type {type(value).__name__}: nothing was read; pass a text, or omit it")
    if limit is not None and type(limit) is not int:
        raise InvalidInput(f"limit has type {type(limit).__name__}: nothing was read; pass a number of items, or None")
    filters = {"list": "threads", "backend": backend, "state": state, "key": key}
    place = place_in(after, filters, int, str)
    if key is not None:
        journal.require(key)
    if limit is not None and limit < 1:
        return Page((), after)
    found: list[tuple[int, ListedThread]] = []
    for number, thread in _each(journal, backend, state, key, limit, place):
        if limit is not None and len(found) == limit:
            last, shown = found[-1]
            return Page((each for _, each in found), cursor_of((last, shown.backend), filters))
        found.append((number, thread))
    return Page(each for _, each in found)


def _each(
    journal: Journal,
    backend: str | None,
    state: str | None,
    key: str | None,
    limit: int | None,
    place: tuple[str | int, ...] | None,
) -> Iterator[tuple[int, ListedThread]]:
    """Yield the threads after a place, each with the number of its conversation: the newest conversation first."""
    number = int(place[0]) if place is not None else NUMBER_MAX
    at_once = (
        STREAMS_AT_ONCE if limit is None else min(limit + 2, STREAMS_AT_ONCE)
    )  # the last of the page before, one more
    while True:
        stream_name = None if key is None else stream_of(key)
        streams = journal.upkeep.noted_streams(number, at_once, state=state, mirror=backend, stream=stream_name)
        for stream in streams:
            for thread in _threads_of(journal, stream):
                is_before = place is not None and stream.number == place[0] and thread.backend <= str(place[1])
                if not is_before and backend in {None, thread.backend} and state in {None, thread.state}:
                    yield stream.number, thread
        if len(streams) < at_once:
            return
        number = streams[-1].number - 1
        at_once = min(4 * at_once, STREAMS_AT_ONCE)  # what was read is filtered out


def _threads_of(journal: Journal, stream: NotedStream) -> Iterator[ListedThread]:
    state = journal.state_of(stream.head)
    for backend, link in sorted(state.links.items()):
        noted, outcome = stream.noted.get(backend), stream.outcomes.get(backend)
        is_known = noted is not None and noted.thread_id == link.thread_id and noted.version <= state.version
        held = noted.version if noted is not None and is_known else None
        if outcome is not None and not outcome.is_of(link, state.version):
            outcome = None
        found = None
        if outcome is not None and outcome.state in OUTCOMES:
            found = _state_now(state, bool(link.lost), outcome.state, max(outcome.version, held or 0))
        yield ListedThread(
            state.key,
            backend,
            link.thread_id,
            link.endpoint,
            link.version,
            link.lost,
            held,
            found,
            outcome.version if outcome is not None else None,
            outcome.at if outcome is not None else None,
        )


def _state_now(state: ConversationState, is_lost: bool, found: str, held: int) -> str:
    """Return the state of a thread as it was found, and by what was journaled since without being sent to it.

    A thread that holds a version may lack what is newer; a message that was cut from memory since is still in it.
    """
    if is_lost and found != "unlinked":
        return "gone"
    newest = state.version if state.end_version is None else max(state.end_version, state.cut_version)
    return "behind" if found == "same" and newest > held else found
