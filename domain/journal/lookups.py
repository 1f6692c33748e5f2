"""Find events of one conversation by the time of an id, and list its messages page by page, however long it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING

from ..conversation import events as e
from ..ids import ID_AGE_SECONDS_MAX, moment_of_id, to_iso
from .generations import floor_of, of_generation
from .message_rows import message_in_row, whole
from .path import VersionsMissing
from .path_memory import known_branches, path_reader
from .recall import MESSAGE
from .rows import IMPORTED_RUNS, refuse_changed, restore

if TYPE_CHECKING:
    from ..conversation.messages import JournaledMessage
    from .path import PathReader
    from .ports import EventLog, StreamHead

REQUESTED, STARTED = e.ExchangeRequested.__name__, e.RunStarted.__name__
ABANDONED, CANCELLED = e.ExchangeAbandoned.__name__, e.ExchangeCancelled.__name__
ITEMS_KEPT = e.SessionItemsKept.__name__

ROWS_AT_FIRST, ROWS_AT_ONCE = 8, 500
"""Numbers of rows that are read at first on each side of a place in time, and at most at once."""


class Lookups:
    """Find events and messages of a conversation as it was when it was loaded."""

    def __init__(self, log: EventLog, head: StreamHead) -> None:
        self._log = of_generation(log, head)
        self._head = head
        self._floor = floor_of(head)

    def near(self, wanted_id: str) -> Iterator[e.Event]:
        """Yield the events that were stored at about the time at which an id was made, the nearest first.

        The nearest ones, on both sides of that time, are in their order: the time of an id is in whole milliseconds, so that the
        event with which it was stored may be on either side. An id of another kind is near nothing.
        """
        for events in self._around(wanted_id):
            yield from events

    def first_of_exchange(self, exchange_id: str) -> int | None:
        """Return the version of the first event of an exchange: its question, its request or its run; None if there is none."""
        kinds = (e.MessageJournaled, e.ExchangeRequested, e.RunStarted)
        for events in self._around(exchange_id):
            own = (each for each in events if isinstance(each, kinds) and each.exchange_id == exchange_id)
            version = min((each.originator_version for each in own), default=None)
            if version is not None:
                return version
        return None

    def request_of(self, exchange_id: str) -> e.ExchangeRequested | None:
        """Return the request that opened an exchange; None if there is none."""
        near = (event for event in self.near(exchange_id) if isinstance(event, e.ExchangeRequested))
        return next((event for event in near if event.exchange_id == exchange_id), None)

    def _around(self, wanted_id: str) -> Iterator[list[e.Event]]:
        """Yield the events around the time of an id in growing steps, each with those before and after the ones so far."""
        moment = moment_of_id(wanted_id)
        if moment is None:
            return
        stream, floor, newest = self._head.stream, self._floor, self._head.version
        low = high = min(max(self._log.version_at(stream, to_iso(moment)), floor), newest)
        first, last, step = floor, newest, ROWS_AT_FIRST
        while low > first or high < last:
            before, after = max(low - step, first), min(high + step, last)
            rows = (
                self._log.stream_rows(stream, begin, end, page=step, changed=refuse_changed)
                for begin, end in ((before, low), (high, after))
                if begin < end
            )
            yield [*map(restore, chain.from_iterable(rows))]
            if (
                step == ROWS_AT_FIRST
            ):  # mostly it was among these; how far an id can be from its time is another two searches
                age = timedelta(seconds=ID_AGE_SECONDS_MAX)
                first = max(self._log.version_at(stream, to_iso(moment - age)), floor)
                last = min(self._log.version_at(stream, to_iso(moment + age)), newest)
            low, high, step = before, after, min(step * 2, ROWS_AT_ONCE)

    @property
    def floor(self) -> int:
        """Return the version up to which events are of a deleted conversation that had the same key; 0 without one."""
        return self._floor

    def after(self, version: int) -> Iterator[e.Event]:
        """Yield the events after a version, oldest first; few are read at first, because an exchange ends after few.

        Raises:
            CorruptEvent: one cannot be read, or was changed.
        """
        low, step = max(version, self._floor), ROWS_AT_FIRST
        while low < self._head.version:
            high = min(low + step, self._head.version)
            rows = self._log.stream_rows(self._head.stream, low, high, page=step, changed=refuse_changed)
            yield from map(restore, rows)
            low, step = high, min(step * 4, ROWS_AT_ONCE)

    def requests_between(self, low: int, high: int) -> Iterator[e.ExchangeRequested]:
        """Yield the requests of exchanges that were stored between two versions, and shortly before the first."""
        low = max(low - ROWS_AT_FIRST, self._floor)
        topics = (REQUESTED,)
        rows = self._log.stream_rows(
            self._head.stream, low, min(high, self._head.version), topics, page=ROWS_AT_ONCE, changed=refuse_changed
        )
        yield from (event for event in map(restore, rows) if isinstance(event, e.ExchangeRequested))

    def ended_between(self, low: int, high: int) -> dict[str, int]:
        """Return the exchanges that ended without an answer between two versions, and the first version of that of each."""
        topics, ended = (ABANDONED, CANCELLED), dict[str, int]()
        rows = self._log.stream_rows(
            self._head.stream, max(low, self._floor), high, topics, page=ROWS_AT_ONCE, changed=refuse_changed
        )
        for event in map(restore, rows):
            if isinstance(event, e.ExchangeAbandoned | e.ExchangeCancelled):
                ended.setdefault(event.exchange_id, event.originator_version)
        return ended

    def session_items(self, after: int) -> dict[str, e.SessionItemsKept]:
        """Return the newest event that says which session items a message is, by message id, of those after a version."""
        low, high = max(after, self._floor), self._head.version
        rows = self._log.stream_rows(
            self._head.stream, low, high, (ITEMS_KEPT,), page=ROWS_AT_ONCE, changed=refuse_changed
        )
        return {event.message_id: event for event in map(restore, rows) if isinstance(event, e.SessionItemsKept)}

    def exchange_events(
        self, low: int, high: int | None, *, newest_first: bool
    ) -> Iterator[e.ExchangeRequested | e.RunStarted]:
        """Yield the requests of exchanges and the starts of runs between two versions, in either order."""
        after, upto = max(low, self._floor), self._head.version if high is None else high - 1
        step = ROWS_AT_FIRST * 8
        while after < upto:
            begin, end = (max(after, upto - step), upto) if newest_first else (after, min(after + step, upto))
            place = self._head.stream, begin, end, (REQUESTED, STARTED)
            rows = self._log.stream_rows(*place, newest_first=newest_first, page=step, changed=refuse_changed)
            for event in map(restore, rows):
                if isinstance(event, e.ExchangeRequested | e.RunStarted) and not getattr(event, "shadow", False):
                    yield event
            after, upto = (after, begin) if newest_first else (end, upto)
            step = min(step * 2, ROWS_AT_ONCE)

    def event(self, version: int) -> e.Event | None:
        """Return the event of a version; None if the conversation has none.

        Raises:
            CorruptEvent: it cannot be read, or was changed.
        """
        rows = self._log.stream_rows(self._head.stream, version - 1, version, changed=refuse_changed)
        return next(map(restore, rows), None)

    def imported_runs(
        self, low: int, high: int, *, newest_first: bool
    ) -> Iterator[e.ConversationStarted | e.MessageJournaled]:
        """Yield the events that hold imported runs, with versions above `low` and up to `high`, in either order."""
        after, upto, step = max(low, self._floor), min(high, self._head.version), ROWS_AT_FIRST
        while after < upto:
            versions = self._log.versions_addressed(
                IMPORTED_RUNS, self._head.stream, after, upto, newest_first=newest_first, limit=step
            )
            for event in map(self.event, versions):
                if isinstance(event, e.ConversationStarted | e.MessageJournaled):
                    yield event
            if len(versions) < step:
                return
            after, upto = (after, versions[-1] - 1) if newest_first else (versions[-1], upto)
            step = min(step * 2, ROWS_AT_ONCE)

    @property
    def version(self) -> int:
        """Return the version of the newest event."""
        return self._head.version

    def message(self, version: int) -> JournaledMessage | None:
        """Return the message of a version if memory has it, also where a summary stands for it; else None.

        Raises:
            CorruptEvent: the version is no message, or was changed.
        """
        return next(self.messages_at([version]), None)

    def messages_at(self, versions: Iterable[int]) -> Iterator[JournaledMessage]:
        """Yield the messages of these versions that memory has, in this order; see `message`."""
        reader = self._reader()
        for version in versions:
            found = reader.message(version)
            try:
                is_shown = reader.shows(found.message_id, version)
            except VersionsMissing:
                is_shown = not reader.hides(found.message_id, version)
            if is_shown:
                yield found

    def messages(
        self,
        wanted: Callable[[JournaledMessage], bool],
        *,
        limit: int,
        newest_first: bool,
        after: int | None = None,
        before: int | None = None,
    ) -> tuple[list[JournaledMessage], bool]:
        """Return a page of the messages in memory, without summaries, and whether more follow.

        `after` and `before` are versions of messages: the page begins after the first in the order of the list, and ends before
        the second. With `before` alone, it ends right before it.

        Raises:
            CorruptEvent: a row cannot be read, or was changed.
        """
        towards_end = newest_first == (before is not None and after is None)
        low, high = (before, after) if newest_first else (after, before)
        found = self._forward(low or 0, high) if towards_end else self._backward(low or 0, high, limit + 1)
        page: list[JournaledMessage] = []
        for message in found:
            if wanted(message):
                if len(page) == limit:
                    return self._ordered(page, towards_end, newest_first), True
                page.append(message)
        return self._ordered(page, towards_end, newest_first), False

    def _ordered(self, page: list[JournaledMessage], towards_end: bool, newest_first: bool) -> list[JournaledMessage]:
        return page[::-1] if towards_end == newest_first else page

    def _backward(self, low: int, high: int | None, rows: int) -> Iterator[JournaledMessage]:
        """Yield the messages of the path between two versions, newest first; about so many `rows` are needed."""
        head, last = self._head, high
        is_on_path = high is None or self._reader().holds(high)  # else it is on another branch
        reader = path_reader(self._log, head, head.version, high if is_on_path else None, rows, full=True)
        try:
            for message in _until(reader.messages(), low, high):
                yield message
                last = message.version
        except VersionsMissing:
            memory = whole(self._log, head.stream, head.version, None, None, full=True)
            yield from (each for each in reversed(memory.messages) if _is_between(each, low, last))

    def _forward(self, low: int, high: int | None) -> Iterator[JournaledMessage]:
        """Yield the messages of the path between two versions, oldest first.

        Up to the place where its branches part, a conversation is read forward; the rest from its end.
        """
        reader = self._reader()
        fork = known_branches(self._head, self._head.version).fork
        try:
            early = self._line(reader, max(low, self._floor), fork)
            late = self._beyond(max(low, fork, self._floor)) if fork < self._head.version else ()
            yield from _while_before(chain(early, late), high)
        except VersionsMissing:
            memory = whole(self._log, self._head.stream, self._head.version, None, None, full=True)
            yield from (each for each in memory.messages if _is_between(each, low, high))

    def _line(self, reader: PathReader, low: int, high: int) -> Iterator[JournaledMessage]:
        step = ROWS_AT_FIRST * 4
        while low < high:
            end = min(low + step, high)
            rows = self._log.stream_rows(self._head.stream, low, end, (MESSAGE,), page=step, changed=refuse_changed)
            for message in map(message_in_row, rows):
                if message.parent_version is None and reader.shows(message.message_id, message.version):
                    yield message
            low, step = end, min(step * 2, ROWS_AT_ONCE)

    def _beyond(self, low: int) -> Iterator[JournaledMessage]:
        reader = path_reader(self._log, self._head, self._head.version, None, None, full=True)
        found = [*_until(reader.messages(), low, None)]
        return iter(found[::-1])

    def _reader(self) -> PathReader:
        return path_reader(self._log, self._head, self._head.version, full=True)


def _is_between(message: JournaledMessage, low: int, high: int | None) -> bool:
    return message.version > low and (high is None or message.version < high) and not message.is_summary


def _while_before(messages: Iterator[JournaledMessage], high: int | None) -> Iterator[JournaledMessage]:
    for message in messages:
        if high is not None and message.version >= high:
            return
        if not message.is_summary:
            yield message


def _until(messages: Iterator[JournaledMessage], low: int, high: int | None) -> Iterator[JournaledMessage]:
    """Yield messages, which come newest first, down to a version, without the one of version `high`."""
    for message in messages:
        if message.version <= low:
            return
        if not message.is_summary and (high is None or message.version < high):
            yield message
