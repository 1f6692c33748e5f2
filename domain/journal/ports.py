"""Define what the journal needs from a store, the log of events, as a small protocol with the errors it raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from .rows import LoggedRow, OnChange, Row, StoredRow


class StreamHead(Struct, frozen=True):
    """Hold the newest state of a stream: its version and the compact state that decisions need."""

    stream: str
    version: int
    state_schema: int
    state: str
    due_at: str | None = None
    """Time at which the first of its open runs is overdue (ISO 8601)."""
    decoded: object = None
    """The state itself, if it is known: a value that nobody changes. It is not stored."""

    @property
    def has_generations(self) -> bool:
        """Return whether a conversation with this key was deleted."""
        return self.state.startswith(OF_GENERATIONS)


DELETED, OF_GENERATIONS = '{"deleted":true', ('{"deleted":true', '{"generation":')
"""Beginnings of the state of a deleted conversation, and of any whose key was deleted: see `ConversationState.deleted`."""


class Appending(Struct, frozen=True):
    """Hold the result of a decision: events as rows, and the new heads of their streams."""

    rows: Sequence[StoredRow] = ()
    heads: Sequence[StreamHead] = ()


DecideAppend = Callable[[StreamHead | None], Appending]
"""Function that decides what to append to a stream with this head. It may be called again with a newer head, so it must
have no side effects."""


Also = Callable[[Any], None]
"""Function that writes notes in the transaction of an append; it receives the store's own cursor."""


class EventLog(Protocol):
    """Describe what the ledger needs from a recorder in addition to eventsourcing's `ApplicationRecorder`.

    If `changed` is given, rows are compared with their leaf hashes, and it is called for each changed or missing row.
    """

    def append(self, stream: str, decide: DecideAppend, also: Also | None = None) -> Sequence[int]:
        """Decide on a stream's current head, store the result atomically, and return the positions.

        `also` is called after the decision and writes in the same transaction.

        Raises:
            IntegrityError: an idempotency key is taken, or other writers changed the stream during every attempt.
            StoreUnavailable: the database cannot be used.
        """
        ...

    def rows(
        self, after: int = 0, upto: int | None = None, topics: Sequence[str] = (), changed: OnChange | None = None
    ) -> Iterator[Row]:
        """Return the rows of the log, from the position after `after` up to `upto` (default: its current end)."""
        ...

    def pages_after(
        self,
        after: int | str = 0,
        topics: Sequence[str] = (),
        stream: str | None = None,
        changed: OnChange = ...,
        leaves: bool = True,
    ) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
        """Return the rows of the log, or of one stream, after a position or cursor, page by page.

        A page is the ledger's id and a list of rows; each has its leaf hash, as it is stored, after the columns of a `Row`.
        Changed and missing rows are refused unless `changed` is given. Without `leaves`, only missing ones are noticed.

        Raises:
            InvalidInput: the cursor cannot be read, or belongs to another ledger.
            LogRewound: the event of the cursor, or one that was read here, is no longer in the log.
        """
        ...

    def subscribe(
        self, gt: int | str | None = None, topics: Sequence[str] = ()
    ) -> AbstractContextManager[Iterator[LoggedRow]]:
        """Return a subscription to the log after a position or cursor; it raises the errors of `pages_after`."""
        ...

    def last_cursor(self) -> str: ...

    def stream_rows(
        self,
        stream: str,
        after: int = 0,
        upto: int | None = None,
        topics: Sequence[str] = (),
        newest_first: bool = False,
        page: int = ...,
        changed: OnChange | None = None,
    ) -> Iterator[Row]:
        """Return the rows of one stream with versions greater than `after` and up to `upto`, oldest or newest first.

        `page` rows are read at a time.
        """
        ...

    def marks(self, stream: str, after: int, upto: int, limit: int, changed: OnChange | None = None) -> Iterator[Row]:
        """Return the newest `limit` rows of a stream in a range of versions that change which messages are in memory.

        These are retractions, clears, accepted reruns, selections, summaries and pins, newest first; other rows are not read.
        """
        ...

    def read_usual(
        self,
        stream: str,
        upto: int,
        topics: tuple[tuple[str, int], ...],
        take: Callable[[int, Sequence[Sequence[Any]]], None],
    ) -> bool:
        """Read all rows of a stream up to a version, oldest first; call `take` with the version before each list of them.

        The columns of a row are a number, the payload, the time as bytes, position, and what else its check needs. The
        number is that of its topic plus its schema number; it is below 0 for another topic. Return whether each row has one
        of these topics, a known schema, and matches its leaf hash. If not, what was taken must not be used: read it by
        `stream_rows`.
        """
        ...

    def read_ends(
        self, stream: str, first: int, newest: int, topics: tuple[tuple[str, int], ...], unless: str
    ) -> tuple[StreamHead, Sequence[Sequence[Any]]] | None:
        """Return the head of a stream, the row of version `first`, and then the newest rows, oldest first, by one query.

        A row is as in `read_usual`, and the event's id as bytes follows its position. Return None if the stream has no such
        version, or if not all of these rows are there, have one of these topics and a known schema, and match their leaf
        hashes. If the state of the head has the text `unless`, only the head is read.
        """
        ...

    def fingerprints(self, streams: Sequence[str]) -> Iterator[tuple[str, str, bytes | None]]:
        """Return (stream, idempotency key, fingerprint) of the events of these streams that were stored with a key."""
        ...

    def version_at(self, stream: str, at: str, changed: OnChange | None = None) -> int:
        """Return the version that a stream had at a time (ISO 8601), or 0 if it did not exist yet."""
        ...

    def select_head(self, stream: str, changed: OnChange | None = None) -> StreamHead | None: ...

    def select_heads(self, prefix: str, *, overdue_at: str | None = None) -> Sequence[StreamHead]:
        """Return the heads of streams with this prefix, or only those with a run overdue at a time (ISO 8601)."""
        ...

    def select_versions(self, prefix: str, unless: str = "") -> Iterator[tuple[str, int]]:
        """Yield (stream, version) pairs of the streams with this prefix, oldest first, read page by page.

        Streams whose state begins with the text `unless` are left out.
        """
        ...

    def select_first(self, prefix: str, limit: int, unless: str = "") -> Sequence[tuple[str, int]]:
        """Return (stream, version) pairs of the first streams with this prefix, sorted by name; the others are not read.

        Streams whose state begins with the text `unless` are left out.
        """
        ...

    def heads_of(self, streams: Sequence[str]) -> Sequence[StreamHead]:
        """Return the heads of those of these streams that exist, in no particular order."""
        ...

    def select_keyed(self, stream: str, idempotency_key: str) -> Row | None:
        """Return the event of a stream that was stored with an idempotency key, or None."""
        ...

    def number_of(self, stream: str) -> int | None:
        """Return the number of a stream, which grows with each new one; None if there is no such stream."""
        ...

    def addressed(self, addresses: Sequence[str]) -> Sequence[tuple[str, str, int]]:
        """Return (address, stream, version) of the events that were stored under these addresses."""
        ...

    def versions_addressed(
        self, address: str, stream: str, after: int, upto: int, *, newest_first: bool, limit: int
    ) -> Sequence[int]:
        """Return the first versions of a stream's events that were stored under an address, in a range of versions."""
        ...

    def wait_until_durable(self) -> None:
        """Wait until every event that was read survives a failure of the database; called before events leave the ledger.

        Otherwise another place could know an event that this log loses: it is visible while its append still waits.
        """
        ...

    def status(self) -> Mapping[str, Any]:
        """Return url (without secrets), dialect, schema_version, events, conversations and size_bytes."""
        ...


UpkeepProgress = Callable[[int, int], None]
"""Function called with the number of items done and the total."""


def quietly(done: int, total: int) -> None:
    """Ignore progress."""
