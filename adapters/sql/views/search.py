"""Maintain the full-text index of messages and conversation keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Column, ColumnElement, Connection, Index, MetaData, Select, Table, Text, bindparam, cast, select

from threadledger.domain import events, key_of, restore_message

from .view import EVENTS, POSITION, STREAMS, Taken, View
from .words import phrases_of, words_of

Changes = Sequence[tuple[int, Sequence[str]]]
"""Positions of events, each with its words."""


class SearchView(View[None, Changes]):
    """Index the words of every message and key by the position of its event."""

    name = "search"
    version = 1
    topics = ("ConversationStarted", "MessageJournaled")

    def create(self, connection: Connection, generation: int) -> None:
        _index(connection).create(connection, self.prefix(generation))

    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> None:
        """Do nothing: the words of a message depend on no other message."""

    def fold(self, taken: Sequence[Taken], known: None) -> Changes:
        found = [(position, words_of(_text(event))) for position, event in taken]
        return [(position, words) for position, words in found if words]

    def apply(self, connection: Connection, generation: int, changes: Changes) -> None:
        index = _index(connection)
        table = index.table(self.prefix(generation))
        if changes:
            rows = [{"position": position, "entry": index.entry(words)} for position, words in changes]
            connection.execute(index.insert(table), rows)

    def hits(self, connection: Connection, generation: int, search: str) -> list[tuple[str, int]]:
        """Return (key, position) of the messages and keys that match a search, newest first."""
        found = self._found(connection, generation, search, STREAMS.c.name, EVENTS.c.position)
        if found is None:
            return []
        rows = connection.execute(found.order_by(EVENTS.c.position.desc()))
        return [(key_of(row.name), row.position) for row in rows]

    def streams(self, connection: Connection, generation: int, search: str) -> Select[Any] | None:
        """Return a query for the streams that match a search, or None if the search has no words."""
        return self._found(connection, generation, search, STREAMS.c.name)

    def _found(
        self, connection: Connection, generation: int, search: str, *columns: ColumnElement[Any]
    ) -> Select[Any] | None:
        phrases = phrases_of(search)
        if not phrases:
            return None
        index = _index(connection)
        table = index.table(self.prefix(generation))
        return (
            select(*columns)
            .join_from(table, EVENTS, EVENTS.c.position == table.c.position)
            .join(STREAMS, STREAMS.c.stream == EVENTS.c.stream)
            .where(index.matches(table, phrases))
        )


def _text(event: events.Event) -> str:
    match event:
        case events.MessageJournaled():
            return restore_message(event).text
        case events.ConversationStarted():
            return event.key
    return ""


class _FullText(Protocol):
    """Define the full-text index, the only part that differs between the databases."""

    def table(self, begin: str) -> Table: ...

    def create(self, connection: Connection, begin: str) -> None: ...

    def insert(self, table: Table) -> Any:
        """Return a statement that inserts a `position` with an `entry`."""
        ...

    def entry(self, words: Sequence[str]) -> str:
        """Return the words in the form that the database expects."""
        ...

    def matches(self, table: Table, phrases: Sequence[Sequence[str]]) -> ColumnElement[bool]:
        """Return a condition that all phrases occur.

        Phrases contain only folded words, so they contain no operators of the query language.
        """
        ...


class _FTS5:
    """Implement the index with SQLite's FTS5.

    It stores no text (`content=''`). The tokenizer `ascii` splits at spaces and does not change the words.
    """

    def table(self, begin: str) -> Table:
        return _fts5_table(begin)

    def create(self, connection: Connection, begin: str) -> None:
        name = self.table(begin).name
        connection.exec_driver_sql(
            f"CREATE VIRTUAL TABLE \"{name}\" USING fts5(words, content='', columnsize=0, tokenize='ascii')"
        )

    def insert(self, table: Table) -> Any:
        return table.insert().values(words=bindparam("entry"))

    def entry(self, words: Sequence[str]) -> str:
        return " ".join(words)

    def matches(self, table: Table, phrases: Sequence[Sequence[str]]) -> ColumnElement[bool]:
        expression = " AND ".join(f'"{" ".join(phrase)}" *' for phrase in phrases)
        return table.c.words.op("MATCH", is_comparison=True)(expression)


class _TsVector:
    """Implement the index with PostgreSQL's tsvector.

    The vector is built here, because PostgreSQL's parser splits words by the rules of the server's language.
    """

    def table(self, begin: str) -> Table:
        return _tsvector_table(begin)

    def create(self, connection: Connection, begin: str) -> None:
        self.table(begin).metadata.create_all(connection, checkfirst=False)

    def insert(self, table: Table) -> Any:
        return table.insert().values(words=cast(bindparam("entry", type_=Text), table.c.words.type))

    def entry(self, words: Sequence[str]) -> str:
        places: dict[str, list[str]] = {}
        for place, word in enumerate(words, 1):
            places.setdefault(word, []).append(str(place))
        return " ".join(f"'{word}':{','.join(at)}" for word, at in places.items())

    def matches(self, table: Table, phrases: Sequence[Sequence[str]]) -> ColumnElement[bool]:
        expression = " & ".join(" <-> ".join(f"'{word}'" for word in phrase) + ":*" for phrase in phrases)
        return table.c.words.op("@@", is_comparison=True)(cast(bindparam(None, expression, type_=Text), _tsquery()))


def _index(connection: Connection) -> _FullText:
    return _INDEXES[connection.dialect.name]


_INDEXES: Mapping[str, _FullText] = {"sqlite": _FTS5(), "postgresql": _TsVector()}


@cache
def _fts5_table(begin: str) -> Table:
    return Table(f"{begin}words", MetaData(), Column("rowid", POSITION, key="position"), Column("words", Text))


@cache
def _tsvector_table(begin: str) -> Table:
    from sqlalchemy.dialects.postgresql import TSVECTOR

    table = Table(
        f"{begin}words",
        MetaData(),
        Column("position", POSITION, primary_key=True, autoincrement=False),
        Column("words", TSVECTOR, nullable=False),
    )
    Index(f"{begin}by_words", table.c.words, postgresql_using="gin")
    return table


def _tsquery() -> Any:
    from sqlalchemy.dialects.postgresql import TSQUERY

    return TSQUERY()
