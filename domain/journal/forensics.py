"""Name a changed event, or read a damaged log as it is: changed rows are reported, unreadable ones also left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..conversation import key_of
from ..errors import ChangedEvent, CorruptEvent
from .ports import EventLog, StreamHead
from .rows import OnChange, Row, restore


def changed_event(stream: str | None, version: int | None, position: int | None, problem: str) -> ChangedEvent:
    """Return the error for an event that was changed or is missing."""
    key = key_of(str(stream)) if stream is not None else None  # a damaged name may be a number
    place = f"event {version}" if version is not None else "an event"
    place += f" of {key!r}" if key is not None else ""
    place += f" at position {position}" if position is not None else ""
    return ChangedEvent(
        f"{place} {problem}, so no text is used: list all damage with threadledger db check, and restore the database "
        "from a backup; show and export read damaged events with --unchecked",
        key,
        version,
        position,
    )


class UncheckedLog:
    """Wrap a log whose changed and missing rows are reported to a function instead of being refused."""

    def __init__(self, log: EventLog, report: OnChange) -> None:
        self._log = log
        self._report = report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def rows(
        self, after: int = 0, upto: int | None = None, topics: Sequence[str] = (), changed: OnChange | None = None
    ) -> Iterator[Row]:
        """Return the readable rows of the log; see `EventLog.rows`."""
        return self._readable(self._log.rows(after, upto, topics, self._report))

    def stream_rows(self, stream: str, *bounds: Any, **options: Any) -> Iterator[Row]:
        """Return the readable rows of one stream; see `EventLog.stream_rows`."""
        return self._readable(self._log.stream_rows(stream, *bounds, **options | {"changed": self._report}))

    def marks(self, stream: str, *bounds: Any, **options: Any) -> Iterator[Row]:
        """Return the readable marks of one stream; see `EventLog.marks`."""
        return self._readable(self._log.marks(stream, *bounds[:3], **options | {"changed": self._report}))

    def pages_after(
        self,
        after: int | str = 0,
        topics: Sequence[str] = (),
        stream: str | None = None,
        changed: OnChange | None = None,
        leaves: bool = True,
    ) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
        """Return the readable rows after a position or cursor; see `EventLog.pages_after`."""
        for ledger_id, rows in self._log.pages_after(after, topics, stream, self._report):
            yield ledger_id, list(self._readable(iter(rows)))

    def version_at(self, stream: str, at: str, changed: OnChange | None = None) -> int:
        """See `EventLog.version_at`."""
        return self._log.version_at(stream, at, self._report)

    def select_head(self, stream: str, changed: OnChange | None = None) -> StreamHead | None:
        """See `EventLog.select_head`; the version is that of the newest event."""
        return self._log.select_head(stream, self._report)

    def _readable(self, rows: Iterator[Any]) -> Iterator[Row]:
        for row in rows:
            try:
                if not isinstance(row[1], str) or not isinstance(row[2], int):
                    raise CorruptEvent("the name of its conversation or its version is missing")
                restore(row)
            except CorruptEvent:
                self._report(row[1], row[2], row[0], "cannot be read, and was left out")
            else:
                yield row
