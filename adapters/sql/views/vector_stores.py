"""Maintain the view of vector stores: the list of each tenant, the files of each store, and how many there are."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from threadledger.domain.conversation import events
from threadledger.domain.conversation.files import (
    FILE,
    VECTOR_STORE,
    FileBatch,
    FileCounts,
    StoreFile,
    store_file,
    store_stream,
)
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ids import to_iso

from .catching_up import Taken
from .created import CreatedView, paged
from .transaction import ViewTransaction, values_of

_TABLES = (
    "CREATE TABLE {begin}listed (name {text} PRIMARY KEY, tenant {text}, created {text}, "
    "number BIGINT NOT NULL, completed BIGINT NOT NULL, failed BIGINT NOT NULL, bytes BIGINT NOT NULL)",
    "CREATE INDEX {begin}by_created ON {begin}listed (tenant, created, number)",
    "CREATE TABLE {begin}files (store {text}, file {text}, owned {text}, created {text}, number BIGINT NOT NULL, "
    "status {text}, bytes BIGINT NOT NULL, entry TEXT NOT NULL, attributes TEXT NOT NULL, "
    "PRIMARY KEY (store, file))",
    "CREATE INDEX {begin}files_by_created ON {begin}files (store, created, number)",
    "CREATE INDEX {begin}files_by_status ON {begin}files (store, status, created, number)",
    "CREATE INDEX {begin}files_by_file ON {begin}files (owned)",
    "CREATE TABLE {begin}batches (store {text}, batch {text}, created {text}, completed BIGINT NOT NULL, failed BIGINT NOT NULL, "
    "PRIMARY KEY (store, batch))",
    "CREATE TABLE {begin}members (store {text}, batch {text}, file {text}, PRIMARY KEY (store, batch, file))",
)
_FILES = {
    **{"store": "text", "file": "text", "owned": "text", "created": "text", "number": "bigint", "status": "text"},
    **{"bytes": "bigint", "entry": "text", "attributes": "text"},
}
FILES_MAX = 10_000
"""More than the number of files that one event adds: the files of an event have successive numbers."""

_COUNTED = (
    "UPDATE {begin}listed SET completed = completed {sign} (SELECT count(*) FROM {begin}files f WHERE f.store = "
    "{begin}listed.name AND {which} AND f.status = 'completed'), failed = failed {sign} (SELECT count(*) FROM {begin}files f "
    "WHERE f.store = {begin}listed.name AND {which} AND f.status = 'failed'), "
    "bytes = bytes {sign} (SELECT coalesce(sum(f.bytes), 0) FROM "
    "{begin}files f WHERE f.store = {begin}listed.name AND {which}) WHERE {begin}listed.name IN ({stores})"
)
"""Statement that adds files to the counts of their stores, or takes them away: `which` names them three times."""

_ROW = "f.created, f.number, f.entry, f.attributes"

Operation = tuple[str, tuple[Any, ...]]
"""Name of a change, and its values."""


class VectorStoresView(CreatedView[list[Operation]]):
    """Store the place of every vector store in the list of its tenant, its files, and their numbers."""

    name = "stores"
    version = 2
    topics = (
        events.VectorStoreDefined.__name__,
        events.VectorStoreDeleted.__name__,
        events.VectorStoreFilesAdded.__name__,
        events.VectorStoreFileDescribed.__name__,
        events.VectorStoreFileRemoved.__name__,
        events.FileDeleted.__name__,
    )
    stream_prefix = (VECTOR_STORE, FILE)
    tables = _TABLES
    stream = staticmethod(store_stream)

    def fold(self, taken: Sequence[Taken], known: None) -> list[Operation]:
        found: list[Operation] = []
        for position, event in taken:
            name, moment = event.originator_id, to_iso(event.timestamp)
            match event:
                case events.VectorStoreDefined():
                    found.append(("define", (name, event.tenant, moment, position)))
                case events.VectorStoreDeleted():
                    found.append(("delete", (name,)))
                case events.VectorStoreFilesAdded():
                    found += _added(event, name, moment, position * FILES_MAX)
                case events.VectorStoreFileDescribed():
                    found.append(("describe", (json.dumps(event.attributes), name, event.file_id)))
                case events.VectorStoreFileRemoved():
                    found.append(("remove", (name, event.file_id)))
                case events.FileDeleted():
                    found.append(("forget", (owned(event.tenant, event.file_id),)))
                case _:
                    pass
        return found

    def apply(self, transaction: ViewTransaction, generation: int, changes: list[Operation]) -> None:
        begin = self.prefix(generation)
        gone = deleted(transaction, {values[2] for what, values in changes if what == "add"})
        for what, values in changes:
            if what == "add" and values[2] in gone:
                self._remove(transaction, begin, *values[:2])
                continue
            getattr(self, f"_{what}")(transaction, begin, *values)

    @staticmethod
    def _define(transaction: ViewTransaction, begin: str, *row: Any) -> None:
        transaction.execute(
            f"INSERT INTO {begin}listed (name, tenant, created, number, completed, failed, bytes) VALUES (?, ?, ?, ?, 0, 0, 0) "
            "ON CONFLICT (name) DO NOTHING",
            row,
        )

    @staticmethod
    def _delete(transaction: ViewTransaction, begin: str, name: str) -> None:
        for table in ("files", "batches", "members"):
            transaction.execute(f"DELETE FROM {begin}{table} WHERE store = ?", (name,))
        transaction.execute(f"DELETE FROM {begin}listed WHERE name = ?", (name,))

    def _add(self, transaction: ViewTransaction, begin: str, *row: Any) -> None:
        name, file_id = row[:2]
        self._remove(transaction, begin, name, file_id)
        transaction.execute(
            f"INSERT INTO {begin}files ({', '.join(_FILES)}) VALUES ({', '.join('?' * len(_FILES))})", row
        )
        self._count(transaction, begin, "+", "f.file = ?", (file_id,), "?", (name,))

    @staticmethod
    def _gather(transaction: ViewTransaction, begin: str, store: str, batch: str, moment: str, *counts: Any) -> None:
        *numbers, files = counts
        transaction.execute(
            f"INSERT INTO {begin}batches AS mine (store, batch, created, completed, failed) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (store, batch) DO UPDATE SET completed = mine.completed + excluded.completed, "
            "failed = mine.failed + excluded.failed",
            (store, batch, moment, *numbers),
        )
        statement = f"INSERT INTO {begin}members (store, batch, file) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        transaction.update(statement, [(store, batch, each) for each in files])

    @staticmethod
    def _describe(transaction: ViewTransaction, begin: str, attributes: str, name: str, file_id: str) -> None:
        transaction.execute(
            f"UPDATE {begin}files SET attributes = ? WHERE store = ? AND file = ?", (attributes, name, file_id)
        )

    def _remove(self, transaction: ViewTransaction, begin: str, name: str, file_id: str) -> None:
        self._count(transaction, begin, "-", "f.file = ?", (file_id,), "?", (name,))
        transaction.execute(f"DELETE FROM {begin}files WHERE store = ? AND file = ?", (name, file_id))

    def _forget(self, transaction: ViewTransaction, begin: str, name: str) -> None:
        stores = f"SELECT f.store FROM {begin}files f WHERE f.owned = ?"
        self._count(transaction, begin, "-", "f.owned = ?", (name,), stores, (name,))
        transaction.execute(f"DELETE FROM {begin}files WHERE owned = ?", (name,))

    @staticmethod
    def _count(
        transaction: ViewTransaction,
        begin: str,
        sign: str,
        which: str,
        given: tuple[str],
        stores: str,
        named: tuple[str],
    ) -> None:
        statement = _COUNTED.format(begin=begin, sign=sign, which=which, stores=stores)
        transaction.execute(statement, (*given * 3, *named))

    def page(self, transaction: ViewTransaction, generation: int, tenant: str, page: ListPage) -> list[tuple[str, str]]:
        """Return the ids and states of the vector stores of a page; see `FileLists.stores`."""
        between, ordered, values = paged(page, "v")
        rows = transaction.rows(
            f"SELECT v.name, s.snapshot FROM {self.prefix(generation)}listed v JOIN streams s ON s.name = v.name "
            f"WHERE v.tenant = ?{between} {ordered}",
            (tenant, *values),
        )
        begin = len(store_stream(tenant, "-")) - 1
        return [(name[begin:], state) for name, state in rows]

    def counts(self, transaction: ViewTransaction, generation: int, name: str) -> FileCounts:
        """Count the files of a vector store; see `FileLists.counts`."""
        query = f"SELECT completed, failed, bytes FROM {self.prefix(generation)}listed WHERE name = ?"
        found = transaction.rows(query, (name,))
        return FileCounts(*map(int, found[0])) if found else FileCounts()

    def batch(self, transaction: ViewTransaction, generation: int, name: str, batch_id: str) -> FileBatch | None:
        """Return a batch of files of a vector store; see `FileLists.batch`."""
        query = f"SELECT created, completed, failed FROM {self.prefix(generation)}batches WHERE store = ? AND batch = ?"
        found = transaction.rows(query, (name, batch_id))
        return FileBatch(found[0][0], int(found[0][1]), int(found[0][2])) if found else None

    def files(
        self,
        transaction: ViewTransaction,
        generation: int,
        name: str,
        page: ListPage,
        status: str | None,
        batch_id: str | None,
    ) -> list[StoreFile]:
        """Return the files of a vector store on a page; see `FileLists.store_files`."""
        begin = self.prefix(generation)
        conditions, ordered, values = paged(page, "f")
        chosen: list[str] = []
        if batch_id is not None:
            member = f"SELECT 1 FROM {begin}members m WHERE m.store = f.store AND m.batch = ? AND m.file = f.file"
            conditions, chosen = f" AND EXISTS ({member}){conditions}", [batch_id]
        if status is not None:
            conditions, chosen = f" AND f.status = ?{conditions}", [status, *chosen]
        rows = transaction.rows(
            f"SELECT {_ROW} FROM {begin}files f WHERE f.store = ?{conditions} {ordered}", (name, *chosen, *values)
        )
        return [*map(_file, rows)]

    def file(self, transaction: ViewTransaction, generation: int, name: str, file_id: str) -> StoreFile | None:
        """Return a file of a vector store; see `FileLists.store_file`."""
        query = f"SELECT {_ROW} FROM {self.prefix(generation)}files f WHERE f.store = ? AND f.file = ?"
        rows = transaction.rows(query, (name, file_id))
        return _file(rows[0]) if rows else None

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""
        super().read_all(transaction, generation)
        for row in transaction.each(f"SELECT {_ROW} FROM {self.prefix(generation)}files f"):
            _file(row)


def owned(tenant: str, file_id: str) -> str:
    """Return the name of a file among those of all tenants."""
    return f"{tenant}/{file_id}"


def deleted(transaction: ViewTransaction, names: Collection[str]) -> set[str]:
    """Return which of these files, named as by `owned`, were deleted; no event adds such a file to a view.

    A file may be deleted while it is added to a vector store, so that the event that adds it comes last, and nothing removes it.
    A deletion that the view has not reached yet counts too: it would remove the file in any case.
    """
    if not names:
        return set()
    source, given = values_of(transaction.kind, [FILE + each for each in names])
    query = (
        f"SELECT s.name FROM {source} JOIN streams s ON s.name = wanted.value "
        "JOIN events e ON e.stream = s.stream AND e.version = s.version WHERE e.topic = 'FileDeleted'"
    )
    return {name.removeprefix(FILE) for (name,) in transaction.rows(query, (given,))}


def _added(event: events.VectorStoreFilesAdded, name: str, moment: str, first: int) -> list[Operation]:
    found: list[Operation] = []
    files: list[StoreFile] = []
    for number, entry in enumerate(event.files, first):
        each = store_file(entry, moment, number)
        files.append(each)
        place = each.file_id, owned(event.tenant, each.file_id), moment, number
        row = (name, *place, each.status, each.text_bytes)
        found.append(("add", (*row, json.dumps(each.as_json()), json.dumps(dict(each.attributes)))))
    if event.batch_id is not None:
        failed = sum(each.error is not None for each in files)
        counts = len(files) - failed, failed, [each.file_id for each in files]
        found.append(("gather", (name, event.batch_id, moment, *counts)))
    return found


def _file(row: Sequence[Any]) -> StoreFile:
    created, number, entry, attributes = row
    return store_file({**json.loads(entry), "attributes": json.loads(attributes)}, created, int(number))
