"""Implement the domain's interface to the lists of files and vector stores, and to the search of their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .file_search import FileSearchView
from .files import FilesView
from .vector_stores import VectorStoresView

if TYPE_CHECKING:
    from threadledger.domain.conversation.events import FileStored
    from threadledger.domain.conversation.files import (
        FileBatch,
        FileCounts,
        FileSearch,
        FoundChunk,
        StoreFile,
    )
    from threadledger.domain.conversation.listing import ListPage, ListPlace

    from .catching_up import View


class SqlFileLists:
    """Implement `FileLists`. `read` brings views up to date, and calls a function with a transaction and their generations."""

    def __init__(self, read: Callable[..., Any], read_blob: Callable[[str], Any]) -> None:
        self._read = read
        self.listed = FilesView()
        self.vector_stores = VectorStoresView()
        self._read_blob = read_blob

    @cached_property
    def searched(self) -> FileSearchView:
        """Return the view of texts."""
        return FileSearchView(self._read_blob)

    @property
    def views(self) -> tuple[View[Any, Any], ...]:
        """Return the views in the order in which they are shown."""
        return self.listed, self.vector_stores, self.searched

    def files(
        self,
        tenant: str,
        page: ListPage,
        *,
        purpose: str | None = None,
        at: str = "",
    ) -> list[FileStored]:
        found: list[FileStored] = self._read(
            lambda transaction, files: self.listed.page(transaction, files, tenant, page, purpose, at),
            self.listed,
        )
        return found

    def file_place(self, tenant: str, file_id: str) -> ListPlace | None:
        found: ListPlace | None = self._read(
            lambda transaction, files: self.listed.place(transaction, files, tenant, file_id), self.listed
        )
        return found

    def expired_files(self, tenant: str, at: str, limit: int) -> list[str]:
        found: list[str] = self._read(
            lambda transaction, files: self.listed.expired(transaction, files, tenant, at, limit), self.listed
        )
        return found

    def stores(
        self,
        tenant: str,
        page: ListPage,
    ) -> list[tuple[str, str]]:
        view = self.vector_stores
        found: list[tuple[str, str]] = self._read(
            lambda transaction, stores: view.page(transaction, stores, tenant, page), view
        )
        return found

    def store_place(self, tenant: str, store_id: str) -> ListPlace | None:
        view = self.vector_stores
        found: ListPlace | None = self._read(
            lambda transaction, stores: view.place(transaction, stores, tenant, store_id), view
        )
        return found

    def counts(self, stream: str) -> FileCounts:
        view = self.vector_stores
        found: FileCounts = self._read(lambda transaction, stores: view.counts(transaction, stores, stream), view)
        return found

    def batch(self, stream: str, batch_id: str) -> FileBatch | None:
        view = self.vector_stores
        found: FileBatch | None = self._read(
            lambda transaction, stores: view.batch(transaction, stores, stream, batch_id), view
        )
        return found

    def store_files(
        self,
        stream: str,
        page: ListPage,
        *,
        status: str | None = None,
        batch_id: str | None = None,
    ) -> list[StoreFile]:
        view = self.vector_stores
        found: list[StoreFile] = self._read(
            lambda transaction, stores: view.files(transaction, stores, stream, page, status, batch_id),
            view,
        )
        return found

    def store_file(self, stream: str, file_id: str) -> StoreFile | None:
        view = self.vector_stores
        found: StoreFile | None = self._read(
            lambda transaction, stores: view.file(transaction, stores, stream, file_id), view
        )
        return found

    def index(self) -> None:
        self._read(lambda transaction, words: None, self.searched)

    def search(self, wanted: FileSearch) -> list[FoundChunk]:
        stores = self.vector_stores
        found: list[FoundChunk] = self._read(
            lambda transaction, words, files: self.searched.search(
                transaction, words, f"{stores.prefix(files)}files", wanted
            ),
            self.searched,
            stores,
        )
        return found

    def passages(self, stream: str, file_id: str) -> Sequence[str]:
        found: list[str] = self._read(
            lambda transaction, words: self.searched.passages(transaction, words, stream, file_id), self.searched
        )
        return found
