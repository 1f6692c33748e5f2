"""Define what lists files and vector stores and searches them: read models, as in `facilities.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..conversation.events import FileStored
    from ..conversation.files import FileBatch, FileCounts, FileSearch, FoundChunk, StoreFile
    from ..conversation.listing import ListPage, ListPlace


class FileLists(Protocol):
    """Query the lists of files, of vector stores and of the files in these, and search their texts."""

    def files(
        self,
        tenant: str,
        page: ListPage,
        *,
        purpose: str | None = None,
        at: str = "",
    ) -> list[FileStored]:
        """Return the files of a tenant on a page as `ListPage.of` takes them: as they are read, and one more than the limit.

        Those that can no longer be read at a time (ISO 8601) are left out.
        """
        ...

    def file_place(self, tenant: str, file_id: str) -> ListPlace | None:
        """Return the place of a file in the list of its tenant; None if the tenant has no such file."""
        ...

    def expired_files(self, tenant: str, at: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` files of a tenant that can no longer be read at a time (ISO 8601)."""
        ...

    def stores(
        self,
        tenant: str,
        page: ListPage,
    ) -> list[tuple[str, str]]:
        """Return the ids and states of the vector stores of a tenant on a page, as `ListPage.of` takes them."""
        ...

    def store_place(self, tenant: str, store_id: str) -> ListPlace | None:
        """Return the place of a vector store in the list of its tenant; None if the tenant has no such store."""
        ...

    def counts(self, stream: str) -> FileCounts:
        """Count the files of the vector store with this stream."""
        ...

    def batch(self, stream: str, batch_id: str) -> FileBatch | None:
        """Return a batch of files that was added to the vector store with this stream; None if there is no such batch."""
        ...

    def store_files(
        self,
        stream: str,
        page: ListPage,
        *,
        status: str | None = None,
        batch_id: str | None = None,
    ) -> list[StoreFile]:
        """Return the files of the vector store with this stream on a page, as `ListPage.of` takes them."""
        ...

    def store_file(self, stream: str, file_id: str) -> StoreFile | None:
        """Return a file of the vector store with this stream; None if it has no such file."""
        ...

    def index(self) -> None:
        """Bring the index of texts up to date, so that no later search has to."""
        ...

    def search(self, wanted: FileSearch) -> list[FoundChunk]:
        """Return the passages that match best, the best one first."""
        ...

    def passages(self, stream: str, file_id: str) -> Sequence[str]:
        """Return the passages of a file of the vector store with this stream, in their order."""
        ...
