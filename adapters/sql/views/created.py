"""Read lists in the order of creation, of which each tenant has its own: a page reads its own rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from threadledger.domain.conversation import key_of
from threadledger.domain.conversation.listing import ListPage, ListPlace
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ids import from_iso

from .catching_up import Taken, View
from .transaction import ViewTransaction

C = TypeVar("C")


class CreatedView(View[None, C]):
    """Define a view whose table `listed` has a row for each stream: its name, when it was created, and a number."""

    tables: ClassVar[Sequence[str]]
    """Statements that create the tables and indexes; `text` is the type of a text that is compared byte by byte."""

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        create_tables(transaction, self.tables, self.prefix(generation))

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Taken]) -> None:
        """Do nothing: an event says all that it changes."""

    @staticmethod
    @abstractmethod
    def stream(tenant: str, name: object, /) -> str:
        """Return the stream of an object of a tenant, by its id.

        Raises:
            InvalidInput: no object can have this id.
        """

    def place(self, transaction: ViewTransaction, generation: int, tenant: str, name: str) -> ListPlace | None:
        """Return the place of an object in the list of its tenant; None if the tenant has no such object."""
        try:
            stream = self.stream(tenant, name)
        except InvalidInput:
            return None
        query = f"SELECT created, number FROM {self.prefix(generation)}listed WHERE name = ?"
        found = transaction.rows(query, (stream,))
        return (found[0][0], found[0][1]) if found else None

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""
        for name, created, number in transaction.each(
            f"SELECT name, created, number FROM {self.prefix(generation)}listed"
        ):
            _ = key_of(name), from_iso(created), int(number)


def create_tables(transaction: ViewTransaction, statements: Sequence[str], begin: str) -> None:
    """Create tables and indexes whose names begin alike; a `text` is compared byte by byte on every database."""
    text = "TEXT NOT NULL" if transaction.kind == "sqlite" else 'TEXT COLLATE "C" NOT NULL'
    for statement in statements:
        transaction.execute(statement.format(begin=begin, text=text))


def paged(page: ListPage, alias: str, last: str = "number") -> tuple[str, str, list[Any]]:
    """Return the conditions of a page, its order with the limit, and the values of both.

    `last` is the column that orders the rows of one moment. One row more than the page has is read, as `ListPage.of` expects.
    """
    conditions, values = "", list[Any]()
    order, beyond, within = ("DESC", "<", ">") if page.descends else ("ASC", ">", "<")
    for place, sign in zip(page.bounds, (beyond, within), strict=True):
        if place is not None:
            conditions += f" AND ({alias}.created, {alias}.{last}) {sign} (?, ?)"
            values += place
    return conditions, f"ORDER BY {alias}.created {order}, {alias}.{last} {order} LIMIT ?", [*values, page.limit + 1]
