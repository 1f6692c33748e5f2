"""A log in memory: the rows of one conversation, as a store returns them, and how many of them were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from threadledger.domain.conversation import events
from threadledger.domain.ids import to_iso
from threadledger.domain.journal.rows import EventMapper, PlainJSON

STREAM = "conversation:k"


class RowsOfEvents:
    """The rows of events, at the times of the events or at those that are given."""

    def __init__(self, kept: Sequence[events.Event], times: Sequence[str] = ()) -> None:
        mapper = EventMapper(PlainJSON())
        stored = [mapper.to_stored_event(event) for event in kept]
        at = times or [to_iso(event.timestamp) for event in kept]
        self.rows = [
            (version, STREAM, version, row.topic, row.state, row.event_id, at[version - 1], row.schema)
            for version, row in enumerate(stored, 1)
        ]
        self.read = 0

    def version_at(self, stream: str, at: str, changed: Any = None) -> int:
        return sum(row[6] <= at for row in self.rows)

    def stream_rows(
        self,
        stream: str,
        after: int = 0,
        upto: int | None = None,
        topics: Any = (),
        newest_first: bool = False,
        page: int = 9,
        changed: Any = None,
    ) -> Iterator[Any]:
        rows = [row for row in self.rows[max(after, 0) : upto] if not topics or row[3] in topics]
        for row in reversed(rows) if newest_first else rows:
            self.read += 1
            yield row
