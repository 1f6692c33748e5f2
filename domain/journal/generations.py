"""Read only the newest generation of a conversation: the stream of a deleted one continues, with another conversation.

Whoever reads a conversation by its key sees nothing of the earlier ones; an audit and the whole log show them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ..conversation import key_of
from ..errors import InvalidInput
from .ports import DELETED

if TYPE_CHECKING:
    from .ports import EventLog, StreamHead
    from .rows import OnChange, Row


class _Generation(msgspec.Struct):
    deleted: bool | None = None
    deleted_version: int | None = None


def is_deleted(head: StreamHead) -> bool:
    """Return whether a conversation was deleted, and its key not used again."""
    return head.state.startswith(DELETED)


def floor_of(head: StreamHead) -> int:
    """Return the version up to which a stream belongs to deleted conversations; 0 if there are none."""
    if not head.has_generations:
        return 0
    try:
        return _decode(head.state).deleted_version or 0
    except msgspec.MsgspecError:  # damaged: readers find the deletion among the events
        return 0


class GenerationLog:
    """Wrap a log so that a stream begins after the version `floor`."""

    def __init__(self, log: EventLog, floor: int) -> None:
        self._log = log
        self.floor = floor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def stream_rows(self, stream: str, after: int = 0, *bounds: Any, **options: Any) -> Iterator[Row]:
        """Return the rows of one stream; see `EventLog.stream_rows`."""
        return self._log.stream_rows(stream, max(after, self.floor), *bounds, **options)

    def marks(self, stream: str, after: int, upto: int, limit: int, changed: OnChange | None = None) -> Iterator[Row]:
        """Return the newest marks of one stream; see `EventLog.marks`."""
        after = max(after, self.floor)
        return self._log.marks(stream, after, upto, limit, changed) if after < upto else iter(())


def of_generation(log: EventLog, head: StreamHead) -> EventLog:
    """Return the log for a reader of a conversation: without the deleted ones of its key."""
    floor = floor_of(head)
    return cast("EventLog", GenerationLog(log, floor)) if floor else log


def check_version(head: StreamHead, version: int) -> None:
    """Raise an error if a version belongs to a deleted conversation; 0 is the beginning of any.

    Raises:
        InvalidInput: it does.
    """
    floor = floor_of(head)
    if 0 < version <= floor and not is_deleted(head):
        key = key_of(head.stream)
        raise InvalidInput(
            f"version {version} of {key!r} belongs to an earlier conversation of this key, which was deleted: "
            f"give a version from {floor + 1} on"
        )


_decode = msgspec.json.Decoder(_Generation).decode
