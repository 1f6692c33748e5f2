"""Maintain the view of uploaded files: when each was stored, by tenant, so that a page of the list reads only its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from threadledger.domain.conversation import events
from threadledger.domain.conversation.files import FILE, file_stream
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ids import to_iso
from threadledger.domain.journal import refuse_changed, restore

from ..connections import checked
from .catching_up import Taken
from .created import CreatedView, paged
from .transaction import ViewTransaction

_TABLES = (
    "CREATE TABLE {begin}listed (name {text} PRIMARY KEY, tenant {text}, purpose {text}, "
    "created {text}, number BIGINT NOT NULL, expires {text})",
    "CREATE INDEX {begin}by_created ON {begin}listed (tenant, created, number)",
    "CREATE INDEX {begin}by_purpose ON {begin}listed (tenant, purpose, created, number)",
    "CREATE INDEX {begin}by_expires ON {begin}listed (tenant, expires)",
)
_COLUMNS = {
    **{"name": "text", "tenant": "text", "purpose": "text", "created": "text", "number": "bigint"},
    "expires": "text",
}
_NEVER = "9999"
"""Time after every other one (ISO 8601)."""

_PAGE = (
    "SELECT {columns}, e.leaf FROM {begin}listed v JOIN streams s ON s.name = v.name "
    "JOIN events e ON e.stream = s.stream AND e.version = s.version "
    "WHERE v.tenant = ? AND v.expires > ?{conditions} AND e.topic = 'FileStored' {ordered}"
)


@dataclass
class ListedFiles:
    """Hold the rows to write: first the names of files that were deleted go, then the others are inserted."""

    removed: dict[str, None] = field(default_factory=dict)
    rows: dict[str, tuple[str, str, str, str, int, str]] = field(default_factory=dict)


class FilesView(CreatedView[ListedFiles]):
    """Store the place of every file in the list of its tenant."""

    name = "files"
    version = 1
    topics = (events.FileStored.__name__, events.FileDeleted.__name__)
    stream_prefix = FILE
    tables = _TABLES
    stream = staticmethod(file_stream)

    def fold(self, taken: Sequence[Taken], known: None) -> ListedFiles:
        found = ListedFiles()
        for position, event in taken:
            name = event.originator_id
            if isinstance(event, events.FileStored):
                place = to_iso(event.timestamp), position
                found.rows[name] = (name, event.tenant, event.purpose, *place, event.expires_at or _NEVER)
            else:
                found.rows.pop(name, None)
                found.removed[name] = None
        return found

    def apply(self, transaction: ViewTransaction, generation: int, changes: ListedFiles) -> None:
        table = f"{self.prefix(generation)}listed"
        transaction.update(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in changes.removed])
        transaction.insert(table, _COLUMNS, [*changes.rows.values()])

    def page(
        self,
        transaction: ViewTransaction,
        generation: int,
        tenant: str,
        page: ListPage,
        purpose: str | None,
        at: str,
    ) -> list[events.FileStored]:
        """Return the events of the files of a page; see `FileLists.files`.

        Raises:
            ChangedEvent: an event was changed.
        """
        conditions, ordered, values = paged(page, "v")
        if purpose is not None:
            conditions, values = f" AND v.purpose = ?{conditions}", [purpose, *values]
        columns, begin = transaction.row_columns, self.prefix(generation)
        query = _PAGE.format(columns=columns, begin=begin, conditions=conditions, ordered=ordered)
        found = map(restore, checked(transaction.rows(query, (tenant, at, *values)), refuse_changed))
        return [each for each in found if isinstance(each, events.FileStored)]

    def expired(self, transaction: ViewTransaction, generation: int, tenant: str, at: str, limit: int) -> list[str]:
        """Return the ids of files that can no longer be read; see `FileLists.expired_files`."""
        query = f"SELECT name FROM {self.prefix(generation)}listed WHERE tenant = ? AND expires <= ? ORDER BY expires LIMIT ?"
        begin = len(file_stream(tenant, "-")) - 1
        return [name[begin:] for (name,) in transaction.rows(query, (tenant, at, limit))]
