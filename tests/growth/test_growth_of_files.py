"""A page of files, a vector store and a search cost the same however many files other tenants have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from threadledger.domain.conversation.files import FileSearch, StoreFile
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ledger import FileRecord, FileStore, VectorStoreRecord, VectorStores

from .metering import Cost, costs_of_calls, growth

SMALL, LARGE = 30, 600
OWN = 25


class Shelf:
    """Files and vector stores of the tenant `one`, among those of others."""

    def __init__(self, journal: Any) -> None:
        self.files, self.stores, self.lists = FileStore(journal), VectorStores(journal), journal.views.files

    def fill(self, tenant: str, number: int) -> None:
        texts = (f"lantern and number {n}" if n % 5 else f"number {n} of the vacation" for n in range(number))
        made = [
            self.files.create(FileRecord(f"file-{n}", f"{n}.txt", "assistants", tenant), [text.encode()])
            for n, text in enumerate(texts)
        ]
        for n in range(3):
            self.stores.create(VectorStoreRecord(f"vs_{n}", tenant))
        added = [StoreFile(each.file_id, each.filename, text_bytes=each.size, blob=each.blob) for each in made]
        self.stores.add(VectorStoreRecord("vs_0", tenant), added, batch_id="vsfb_1")

    @property
    def own(self) -> VectorStoreRecord:
        found = self.stores.get("one", "vs_0")
        assert found is not None
        return found

    def found(self, query: str) -> list[Any]:
        return self.stores.search([self.own], FileSearch((), [query], 10))


def filled(size: int, journal: Any) -> Shelf:
    shelf = Shelf(journal)
    shelf.fill("one", OWN)
    shelf.fill("two", size)
    return shelf


STREAM = "vector_store:one/vs_0"
CALLS: dict[str, Callable[[Shelf], Any]] = {
    "file": lambda shelf: [shelf.files.get("one", "file-3")],
    "first page": lambda shelf: shelf.files.page("one", ListPage(20))[0],
    "page in the middle": lambda shelf: shelf.files.page("one", ListPage(5, after=shelf.files.place("one", "file-9")))[
        0
    ],
    "page of a purpose": lambda shelf: shelf.files.page("one", ListPage(20), purpose="assistants")[0],
    "store": lambda shelf: [shelf.stores.counts(shelf.own)],
    "stores": lambda shelf: shelf.stores.page("one", ListPage(2))[0],
    "files of a store": lambda shelf: shelf.lists.store_files(STREAM, ListPage(10)),
    "failed files of a store": lambda shelf: shelf.lists.store_files(STREAM, ListPage(10), status="completed"),
    "files of a batch": lambda shelf: shelf.lists.store_files(STREAM, ListPage(10), batch_id="vsfb_1"),
    "search": lambda shelf: shelf.found("Where is the vacation?"),
    "search of a common word": lambda shelf: shelf.found("lantern"),
    "modify": lambda shelf: [shelf.stores.modify("one", "vs_1", lambda each: replace(each, name=each.name + "x"))],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Cost, int]]]:
    folder = tmp_path_factory.mktemp("files")
    return [costs_of_calls(folder / f"{size}.db", partial(filled, size), CALLS) for size in (SMALL, LARGE)]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_costs_the_same_among_many_files_of_others(name: str, measured: Any) -> None:
    small, large = (each[name] for each in measured)
    assert small[1] == large[1] >= 1
    assert growth(*small, *large) == {}


@pytest.mark.parametrize(("name", "statements"), [("file", 4), ("first page", 6), ("search", 40)])
def test_a_call_takes_few_statements(name: str, statements: int, measured: Any) -> None:
    assert measured[1][name][0].statements <= statements
