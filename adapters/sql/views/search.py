"""Maintain the full-text index of messages and conversation keys.

Text is converted to folded words here and not by the databases, whose results would differ. Case, accents and other
marks are ignored. In scripts without spaces between words, each character is a word, and a word is found as a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from threadledger.domain.conversation import events, key_of
from threadledger.domain.conversation.listing import MessageSearch, SearchHit
from threadledger.domain.conversation.messages import restore_message
from threadledger.domain.errors import InvalidInput
from threadledger.domain.journal import refuse_changed

from .catching_up import Taken, View
from .runs import events_at
from .transaction import ViewTransaction


class Changes(NamedTuple):
    """Hold the words of events."""

    words: Sequence[tuple[int, Sequence[str]]]
    """Positions of events, each with its words."""
    deletions: Sequence[tuple[int, str]]
    """Versions at which conversations were deleted, each with the name of the stream."""


class SearchView(View[None, Changes]):
    """Index the words of every message and key by the position of its event.

    The words of a deleted conversation stay in the index: the version of its deletion is stored, and a query leaves out what is
    older.
    """

    name = "search"
    version = 2
    topics = ("ConversationStarted", "ConversationDeleted", "MessageJournaled")

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        for statement in _index(transaction).tables(self.prefix(generation)):
            transaction.execute(statement)
        number = "INTEGER" if transaction.kind == "sqlite" else "BIGINT"
        transaction.execute(
            f"CREATE TABLE {self.prefix(generation)}deleted (stream {number} NOT NULL PRIMARY KEY, version BIGINT NOT NULL)"
        )

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Taken]) -> None:
        """Do nothing: the words of a message depend on no other message."""

    def fold(self, taken: Sequence[Taken], known: None) -> Changes:
        found = [(position, words_of(_text(event))) for position, event in taken]
        deletions = [
            (event.originator_version, event.originator_id)
            for _, event in taken
            if isinstance(event, events.ConversationDeleted)
        ]
        return Changes([(position, words) for position, words in found if words], deletions)

    def apply(self, transaction: ViewTransaction, generation: int, changes: Changes) -> None:
        index = _index(transaction)
        rows = [(position, index.entry(words)) for position, words in changes.words]
        transaction.insert(f"{self.prefix(generation)}words", (index.position, "words"), rows)
        delete = (
            f"INSERT INTO {self.prefix(generation)}deleted (stream, version) SELECT s.stream, CAST(? AS BIGINT) "
            "FROM streams s WHERE s.name = ? ON CONFLICT (stream) DO UPDATE SET version = excluded.version"
        )
        transaction.update(delete, changes.deletions)

    def _is_current(self, generation: int) -> str:
        """Return the condition that an event `e` does not belong to a deleted conversation."""
        deleted = (
            f"SELECT 1 FROM {self.prefix(generation)}deleted d WHERE d.stream = e.stream AND d.version >= e.version"
        )
        return f"NOT EXISTS ({deleted})"

    def hits(self, transaction: ViewTransaction, generation: int, search: str) -> list[tuple[str, int]]:
        """Return (key, position) of the messages and keys that match a search, newest first."""
        found = self.streams(transaction, generation, search, "s.name, e.position")
        if found is None:
            return []
        query, values = found
        rows = transaction.rows(f"{query} ORDER BY e.position DESC", values)
        return [(key_of(name), position) for name, position in rows]

    def page(
        self,
        transaction: ViewTransaction,
        generation: int,
        search: MessageSearch,
        limit: int,
        before: int | None,
        owners: str,
    ) -> tuple[list[SearchHit], int | None]:
        """Return the newest messages that match a search, before a position, and the position of the last if there are more.

        `owners` is the table of the view of conversations, which knows the owner of each.

        Raises:
            ChangedEvent: a message was changed behind the ledger's back.
        """
        phrases = phrases_of(search.text)
        if not phrases:
            return [], None
        positions = self._newest(transaction, generation, search, owners, (phrases, before, limit + 1))
        found = events_at(transaction, positions[:limit], refuse_changed)
        hits = [_hit(found[each], phrases) for each in positions[:limit] if each in found]
        return hits, positions[limit - 1] if len(positions) > limit else None

    def _newest(
        self,
        transaction: ViewTransaction,
        generation: int,
        search: MessageSearch,
        owners: str,
        page: tuple[Sequence[Sequence[str]], int | None, int],
    ) -> list[int]:
        """Return the positions of the newest matches before a position, at most as many as a page has.

        SQLite's index yields the newest entries first, until there are enough. PostgreSQL's yields all: the newest entries are
        compared one by one first, and only if too few of them match, which is so for rare words, the index is used. With an
        owner, it is left to the database, which knows how many conversations that owner has.
        """
        phrases, before, size = page
        index, words = _index(transaction), f"{self.prefix(generation)}words"
        place, owner = f"w.{index.position}", [] if search.owner is None else [search.owner]
        query = (  # SQLite keeps the order of a CROSS JOIN
            f"SELECT {place} FROM {{}} w CROSS JOIN events e {f'CROSS JOIN {owners} v' if owner else ''} "
            f"WHERE {{}} AND e.position = {place} AND e.topic = 'MessageJournaled' AND {self._is_current(generation)} "
            f"{'AND v.number = e.stream AND v.owner = ?' if owner else ''} ORDER BY {place} DESC LIMIT ?"
        )
        within = f"{index.matches} AND {place} > ? AND {place} < ?"
        expression, upto = index.expression(phrases), before or POSITION_MAX

        def found(statement: str, bounds: tuple[int, int], at_most: int) -> list[int]:
            return [row[0] for row in transaction.rows(statement, (expression, *bounds, *owner, at_most))]

        if transaction.kind != "sqlite":  # one plan for all words would be a bad one for most
            transaction.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        if transaction.kind == "sqlite" or owner:
            return found(query.format(words, within), (0, upto), size)
        ((last,),) = transaction.rows(f"SELECT max(position) FROM {words}")
        floor = max(min(upto, (last or 0) + 1) - COMPARED_MAX, 0)
        newest = found(query.format(words, within), (floor, upto), size)
        if len(newest) == size or floor == 0:
            return newest
        rest = f"WITH rest AS MATERIALIZED (SELECT w.position FROM {words} w WHERE {within}) "
        return newest + found(rest + query.format("rest", "1 = 1"), (0, floor + 1), size - len(newest))

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read the hits of a common letter, to find out whether the index can be read."""
        query, values = self.streams(transaction, generation, "a", "s.name") or ("", [])
        for (name,) in transaction.each(query, values):
            key_of(name)

    def streams(
        self, transaction: ViewTransaction, generation: int, search: str, columns: str = "e.stream"
    ) -> tuple[str, list[str]] | None:
        """Return a query for the numbers of the streams that match a search, and its values; None if it has no words."""
        phrases = phrases_of(search)
        if not phrases:
            return None
        index = _index(transaction)
        query = (
            f"SELECT {columns} FROM {self.prefix(generation)}words w JOIN events e ON e.position = w.{index.position} "
            f"JOIN streams s ON s.stream = e.stream WHERE {index.matches} AND {self._is_current(generation)}"
        )
        return query, [index.expression(phrases)]


def _hit(event: events.Event, phrases: Sequence[Sequence[str]]) -> SearchHit:
    from .snippets import snippet_of

    if not isinstance(event, events.MessageJournaled):
        raise TypeError("only messages are searched for")
    snippet, matches = snippet_of(restore_message(event).text, phrases)
    key, version = key_of(event.originator_id), event.originator_version
    return SearchHit(key, event.message_id, version, event.role, event.timestamp, snippet, tuple(matches))


def _text(event: events.Event) -> str:
    match event:
        case events.MessageJournaled():
            return restore_message(event).text
        case events.ConversationStarted():
            return event.key
    return ""


class _FullText(Protocol):
    """Define the full-text index, the only part that differs between the databases."""

    position: str
    """Name of the column with the position of an event."""
    matches: str
    """Condition that an expression matches, for the index under the name `w`."""

    def tables(self, begin: str) -> Sequence[str]:
        """Return the statements that create the index."""
        ...

    def entry(self, words: Sequence[str]) -> str:
        """Return the words in the form that the database expects."""
        ...

    def expression(self, phrases: Sequence[Sequence[str]]) -> str:
        """Return the expression for entries in which all phrases occur.

        Phrases contain only folded words, so they contain no operators of the query language.
        """
        ...


class _FTS5:
    """Implement the index with SQLite's FTS5.

    It stores no text (`content=''`). The tokenizer `ascii` splits at spaces and does not change the words.
    """

    position = "rowid"
    matches = "w.words MATCH ?"

    def tables(self, begin: str) -> Sequence[str]:
        columns = "words, content='', columnsize=0, tokenize='ascii'"
        return (f'CREATE VIRTUAL TABLE "{begin}words" USING fts5({columns})',)

    def entry(self, words: Sequence[str]) -> str:
        return " ".join(words)

    def expression(self, phrases: Sequence[Sequence[str]]) -> str:
        return " AND ".join(f'"{" ".join(phrase)}" *' for phrase in phrases)


class _TsVector:
    """Implement the index with PostgreSQL's tsvector.

    The vector is built here, because PostgreSQL's parser splits words by the rules of the server's language.
    """

    position = "position"
    matches = "w.words @@ CAST(? AS tsquery)"

    def tables(self, begin: str) -> Sequence[str]:
        return (
            f"CREATE TABLE {begin}words (position BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)",
            f"CREATE INDEX {begin}by_words ON {begin}words USING gin (words)",
        )

    def entry(self, words: Sequence[str]) -> str:
        places: dict[str, list[str]] = {}
        for place, word in enumerate(words, 1):
            places.setdefault(word, []).append(str(place))
        return " ".join(f"'{word}':{','.join(at)}" for word, at in places.items())

    def expression(self, phrases: Sequence[Sequence[str]]) -> str:
        return " & ".join(" <-> ".join(f"'{word}'" for word in phrase) + ":*" for phrase in phrases)


def _index(transaction: ViewTransaction) -> _FullText:
    return _INDEXES[transaction.kind]


_INDEXES: Mapping[str, _FullText] = {"sqlite": _FTS5(), "postgresql": _TsVector()}


COMPARED_MAX = 20_000
"""Number of positions at the end of the log whose entries PostgreSQL compares one by one, in a few milliseconds."""

POSITION_MAX = 2**63 - 1

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


FOLDING = _Folding()
_TERMS = re.compile(r'"([^"]*)"|(\S+)')


def words_of(text: str) -> list[str]:
    """Return the folded words of a text, within the limits of the index."""
    text = text[:SEARCH_TEXT_CHARS_MAX]
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKD", text).casefold()
    words = text.translate(FOLDING)[:SEARCH_TEXT_CHARS_MAX].split()
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
