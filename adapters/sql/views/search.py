"""Maintain the full-text index of messages and conversation keys.

Text is converted to folded words here and not by the databases, whose results would differ. Case, accents and other
marks are ignored. In scripts without spaces between words, each character is a word, and a word is found as a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Column, ColumnElement, Connection, Index, MetaData, Select, Table, Text, bindparam, cast, select

from threadledger.domain.conversation import events, key_of
from threadledger.domain.conversation.messages import restore_message
from threadledger.domain.errors import InvalidInput

from .catching_up import EVENTS, POSITION, STREAMS, Taken, View

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

    def read_all(self, connection: Connection, generation: int) -> None:
        """Read the hits of a common letter, to find out whether the index can be read."""
        self.hits(connection, generation, "a")

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


SEARCH_TEXT_CHARS_MAX = 100_000
"""Number of characters at the beginning of a message that are indexed.

PostgreSQL limits a tsvector to less than 1 MiB, and 100,000 different Chinese characters take 800 kB. PostgreSQL finds
phrases only among the first 16,383 words, and only in the first 255 occurrences of a word.
"""

WORD_CHARS_MAX = 200
"""Maximum length of a word; the rest is ignored. PostgreSQL limits a lexeme to less than 2 KiB."""

SEARCH_WORDS_MAX = 500
"""Maximum number of words in one search."""

_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # Chinese characters
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_NOT_THERE = {0x00AD, 0x0640, 0x200D}
"""Soft hyphen, Arabic tatweel and zero-width joiner: characters within a word that are ignored."""


class _Folding(dict[int, str]):
    """Map each character on first use: keep letters and digits, remove marks, and replace anything else by a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if code in _NOT_THERE or (kind == "M" and unicodedata.combining(character)):
            folded = ""
        elif kind not in "LNM":
            folded = " "
        elif any(first <= code <= last for first, last in _SPACELESS):
            folded = f" {character} "
        else:  # marks without a combining class are vowels (Devanagari, Tamil, …) and distinguish words
            folded = character
        self[code] = folded
        return folded


_FOLDING = _Folding()
_TERMS = re.compile(r'"([^"]*)"|(\S+)')


def words_of(text: str) -> list[str]:
    """Return the folded words of a text, within the limits of the index."""
    text = text[:SEARCH_TEXT_CHARS_MAX]
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKD", text).casefold()
    words = text.translate(_FOLDING)[:SEARCH_TEXT_CHARS_MAX].split()
    if len(max(words, key=len, default="")) > WORD_CHARS_MAX:
        words = [word[:WORD_CHARS_MAX] for word in words]
    return words


def phrases_of(search: str) -> Sequence[Sequence[str]]:
    """Parse a search into phrases of folded words; the last word of each phrase matches as a prefix.

    Terms are separated by white space; text in double quotes is one phrase. No other character has a special meaning.

    Raises:
        InvalidInput: the search has more than `SEARCH_WORDS_MAX` words.
    """
    phrases = [words_of(quoted or plain) for quoted, plain in _TERMS.findall(search)]
    count = sum(map(len, phrases))
    if count > SEARCH_WORDS_MAX:
        raise InvalidInput(f"a search of {count} words is too long: use at most {SEARCH_WORDS_MAX}")
    return [phrase for phrase in phrases if phrase]
