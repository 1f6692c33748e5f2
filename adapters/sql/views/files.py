"""Maintain the view of uploaded files: when each was stored, by tenant, so that a page of the list reads only its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from threadledger.domain.conversation import events, key_of
from threadledger.domain.conversation.files import FILE, ListPlace, file_stream
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import refuse_changed, restore

from ..connections import checked
from .catching_up import Taken, View
from .transaction import ViewTransaction
from .vector_stores import between

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
    "WHERE v.tenant = ? AND v.expires > ?{conditions} AND e.topic = 'FileStored' "
    "ORDER BY v.created {order}, v.number {order} LIMIT ?"
)


@dataclass
class ListedFiles:
    """Hold the rows to write: first the names of files that were deleted go, then the others are inserted."""

    removed: dict[str, None] = field(default_factory=dict)
    rows: dict[str, tuple[str, str, str, str, int, str]] = field(default_factory=dict)


class FilesView(View[None, ListedFiles]):
    """Store the place of every file in the list of its tenant."""

    name = "files"
    version = 1
    topics = (events.FileStored.__name__, events.FileDeleted.__name__)
    stream_prefix = FILE

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        text = "TEXT NOT NULL" if transaction.kind == "sqlite" else 'TEXT COLLATE "C" NOT NULL'
        for statement in _TABLES:
            transaction.execute(statement.format(begin=self.prefix(generation), text=text))

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Taken]) -> None:
        """Do nothing: an event says all that a row has."""

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
        limit: int,
        newest_first: bool,
        after: ListPlace | None,
        until: ListPlace | None,
        purpose: str | None,
        at: str,
    ) -> list[events.FileStored]:
        """Return the events of the files between two places; see `FileLists.files`.

        Raises:
            ChangedEvent: an event was changed.
        """
        conditions, values = between("v", newest_first, after, until)
        if purpose is not None:
            conditions, values = f" AND v.purpose = ?{conditions}", [purpose, *values]
        query = _PAGE.format(
            columns=transaction.row_columns,
            begin=self.prefix(generation),
            conditions=conditions,
            order="DESC" if newest_first else "ASC",
        )
        rows = transaction.rows(query, (tenant, at, *values, limit))
        found = map(restore, checked(rows, refuse_changed))
        return [each for each in found if isinstance(each, events.FileStored)]

    def place(self, transaction: ViewTransaction, generation: int, tenant: str, file_id: str) -> ListPlace | None:
        """Return the place of a file in the list of its tenant; see `FileLists.file_place`."""
        try:
            name = file_stream(tenant, file_id)
        except InvalidInput:
            return None
        query = f"SELECT created, number FROM {self.prefix(generation)}listed WHERE name = ?"
        found = transaction.rows(query, (name,))
        return (found[0][0], found[0][1]) if found else None

    def expired(self, transaction: ViewTransaction, generation: int, tenant: str, at: str, limit: int) -> list[str]:
        """Return the ids of files that can no longer be read; see `FileLists.expired_files`."""
        query = f"SELECT name FROM {self.prefix(generation)}listed WHERE tenant = ? AND expires <= ? ORDER BY expires LIMIT ?"
        begin = len(file_stream(tenant, "-")) - 1
        return [name[begin:] for (name,) in transaction.rows(query, (tenant, at, limit))]

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""
        for name, created, number in transaction.each(
            f"SELECT name, created, number FROM {self.prefix(generation)}listed"
        ):
            _ = key_of(name), from_iso(created), int(number)
