"""Maintain the index of the texts of files in vector stores, and rank the passages that have the words of a query.

Each indexed word begins with a hash of its vector store, so that a search reads nothing of other stores. The index of the
database finds candidates; their score is computed here from the words of the store alone, so that it is the same in every
database, and shows nothing of other tenants.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from threadledger.domain.conversation import events
from threadledger.domain.conversation.file_text import NoText, passages, text_of_file
from threadledger.domain.conversation.files import (
    FILE,
    VECTOR_STORE,
    FileSearch,
    FoundChunk,
    StoreFile,
    own_bytes,
    store_file,
)
from threadledger.domain.errors import BlobMissing
from threadledger.domain.journal import Row, restore

from .catching_up import View
from .search import words_of
from .transaction import ViewTransaction
from .vector_stores import deleted, owned

PASSAGES_MAX = 1 << 20
"""More than the number of passages that one event adds: they have successive numbers."""

PREFIX_DIGITS = 16
"""Number of hexadecimal digits before each indexed word: 64 bits of a hash of the vector store's name."""

QUERY_WORDS_MAX = 64
"""Maximum number of different words of a query that are searched; the others are left out."""

CANDIDATES_MAX = 100
"""Maximum number of passages of a store whose score is computed."""

COMMON_SHARE = 0.5
"""Share of the passages of a store above which a word is common. In a store with more passages than candidates, those with rarer
words come first, and those with common words alone are found if there is room; these are not ranked by the database."""

MISSING_SHARE = 0.5
"""Weight of a word that the store does not have, as a share of the least weight of those that it has."""

NEVER = "9999"
"""Time after every other one (ISO 8601)."""

OFTEN = 0.5
"""Number of occurrences of a word that count half, in a passage of average length."""

STOP_WORDS = frozenset({
    "a", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does", "for",
    "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is", "it", "its", "many", "me",
    "much", "my", "no", "not", "of", "on", "or", "our", "she", "should", "so", "than", "that", "the", "their", "them",
    "then", "there", "these", "they", "this", "to", "was", "we", "were", "what", "when", "where", "which", "who", "why",
    "will", "with", "would", "you", "your",
})  # fmt: skip
"""Words of English that are searched only if a query has no others; those of other languages are found by their number."""

Known = dict[tuple[str, str], list[tuple[int, str]]]
"""Passages of files that are indexed, with their numbers, by the name of the store and the id of the file."""

_TABLES = (
    "CREATE TABLE {begin}passages (id {number} PRIMARY KEY, store {text}, file {text}, n BIGINT NOT NULL, "
    "text TEXT NOT NULL)",
    "CREATE INDEX {begin}passages_by_file ON {begin}passages (store, file, n)",
    "CREATE TABLE {begin}files (store {text}, file {text}, owned {text}, passages BIGINT NOT "
    "NULL, words BIGINT NOT NULL, PRIMARY KEY (store, file))",
    "CREATE INDEX {begin}files_by_file ON {begin}files (owned)",
    "CREATE TABLE {begin}stores (store {text} PRIMARY KEY, passages BIGINT NOT NULL, words BIGINT NOT NULL)",
)
_PASSAGES = {"id": "bigint", "store": "text", "file": "text", "n": "bigint", "text": "text"}


class FileText(NamedTuple):
    """Hold the passages of a file that was added, with their words."""

    file: StoreFile
    passages: Sequence[tuple[str, Sequence[str]]]


class ReadEvent(NamedTuple):
    """Hold an event with its position, and the texts of the files that it adds."""

    position: int
    event: events.Event
    texts: Sequence[FileText] = ()


@dataclass
class IndexChanges:
    """Hold changes in the order in which they are made."""

    steps: list[Step] = field(default_factory=list)


class Step(NamedTuple):
    """Hold one change: what is removed, or what is added."""

    what: str
    """`store`, `file` or `add`."""
    store: str
    file: str = ""
    owned: str = ""
    passages: Sequence[tuple[int, str, Sequence[str]]] = ()
    """Number, text and words of the passages that are added, or that are removed."""


class FileSearchView(View[Known, IndexChanges]):
    """Index the passages of the files of every vector store.

    The words of a file that is removed are removed. Those of a deleted store stay in SQLite's index, where no query finds them.
    """

    name = "passages"
    version = 2
    topics = (
        events.VectorStoreFilesAdded.__name__,
        events.VectorStoreFileRemoved.__name__,
        events.VectorStoreDeleted.__name__,
        events.FileDeleted.__name__,
    )
    stream_prefix = (VECTOR_STORE, FILE)

    def __init__(self, read_blob: Callable[[str], Iterator[bytes]]) -> None:
        self._read_blob = read_blob

    def read(self, row: Row) -> ReadEvent:
        event = restore(row)
        if not isinstance(event, events.VectorStoreFilesAdded):
            return ReadEvent(row[0], event)
        files = (store_file(each, "", 0) for each in event.files)
        return ReadEvent(row[0], event, [FileText(each, self._passages(each)) for each in files])

    def _passages(self, file: StoreFile) -> list[tuple[str, Sequence[str]]]:
        """Return the passages of a file with their words; none of one that has no text, or was deleted since."""
        if file.error is not None:
            return []
        try:
            text = text_of_file(b"".join(own_bytes(self._read_blob(file.blob))), file.filename)
        except (NoText, BlobMissing):
            return []
        return [(each, indexed_words(each)) for each in passages(text, file.chunking)]

    def weight(self, event: ReadEvent) -> int:
        return sum(len(text) for each in event.texts for text, _ in each.passages)

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        is_lite = transaction.kind == "sqlite"
        text, number = ("TEXT NOT NULL", "INTEGER") if is_lite else ('TEXT COLLATE "C" NOT NULL', "BIGINT")
        begin = self.prefix(generation)
        for statement in (*_TABLES, *index_of(transaction).tables):
            transaction.execute(statement.format(begin=begin, text=text, number=number))

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[ReadEvent]) -> Known:
        """Return the passages that the events remove, whose words SQLite needs for that."""
        begin, known = self.prefix(generation), Known()
        for _, event, texts in taken:
            found: list[tuple[str, str]] = [(event.originator_id, each.file.file_id) for each in texts]
            if isinstance(event, events.VectorStoreFileRemoved):
                found = [(event.originator_id, event.file_id)]
            elif isinstance(event, events.FileDeleted):
                query = f"SELECT store, file FROM {begin}files WHERE owned = ?"
                found = [(row[0], row[1]) for row in transaction.rows(query, (owned(event.tenant, event.file_id),))]
            for each in found:
                query = f"SELECT id, text FROM {begin}passages WHERE store = ? AND file = ?"
                known[each] = [(row[0], row[1]) for row in transaction.rows(query, each)]
        return known

    def fold(self, taken: Sequence[ReadEvent], known: Known | None) -> IndexChanges:
        there = {place: [*found] for place, found in (known or {}).items()}
        changes = IndexChanges()

        def remove(place: tuple[str, str]) -> None:
            gone = [(number, text, indexed_words(text)) for number, text in there.pop(place, ())]
            if gone:
                changes.steps.append(Step("file", *place, passages=gone))

        for position, event, texts in taken:
            name = event.originator_id
            match event:
                case events.VectorStoreFilesAdded():
                    number = position * PASSAGES_MAX
                    for each in texts:
                        place = name, each.file.file_id
                        remove(place)
                        rows = [(number + n, text, words) for n, (text, words) in enumerate(each.passages)]
                        number += len(rows)
                        if rows:
                            own = owned(event.tenant, each.file.file_id)
                            changes.steps.append(Step("add", *place, own, rows))
                            there[place] = [(each_number, text) for each_number, text, _ in rows]
                case events.VectorStoreFileRemoved():
                    remove((name, event.file_id))
                case events.FileDeleted():
                    for place in [each for each in there if _is_of(each, event)]:
                        remove(place)
                case _:
                    changes.steps.append(Step("store", name))
                    there = {place: found for place, found in there.items() if place[0] != name}
        return changes

    def apply(self, transaction: ViewTransaction, generation: int, changes: IndexChanges) -> None:
        begin, index = self.prefix(generation), index_of(transaction)
        absent = deleted(transaction, {step.owned for step in changes.steps if step.what == "add"})
        left_out: set[tuple[str, str]] = set()
        for step in changes.steps:
            place = step.store, step.file
            match step.what:
                case "add" if step.owned in absent:
                    left_out.add(place)
                case "file" if place in left_out:
                    left_out.discard(place)  # a later event of the same batch removes what was not added
                case "add":
                    rows = [(number, *place, n, text) for n, (number, text, _) in enumerate(step.passages)]
                    transaction.insert(f"{begin}passages", _PASSAGES, rows)
                    words = [(number, index.entry(step.store, each)) for number, _, each in step.passages]
                    transaction.insert(f"{begin}words", (index.position, "words"), words)
                    counts = len(rows), sum(len(each) for _, _, each in step.passages)
                    transaction.execute(
                        f"INSERT INTO {begin}files VALUES (?, ?, ?, ?, ?)", (*place, step.owned, *counts)
                    )
                    self._count(transaction, begin, step.store, *counts)
                case "file":
                    gone = [(number, index.entry(step.store, each)) for number, _, each in step.passages]
                    index.remove(transaction, begin, gone)
                    transaction.execute(f"DELETE FROM {begin}passages WHERE store = ? AND file = ?", place)
                    transaction.execute(f"DELETE FROM {begin}files WHERE store = ? AND file = ?", place)
                    size = sum(len(each) for _, _, each in step.passages)
                    self._count(transaction, begin, step.store, -len(step.passages), -size)
                case _:
                    index.forget(transaction, begin, step.store)
                    for table in ("passages", "files", "stores"):
                        transaction.execute(f"DELETE FROM {begin}{table} WHERE store = ?", (step.store,))

    @staticmethod
    def _count(transaction: ViewTransaction, begin: str, store: str, count: int, words: int) -> None:
        transaction.execute(
            f"INSERT INTO {begin}stores AS mine (store, passages, words) VALUES (?, ?, ?) ON CONFLICT (store) DO UPDATE SET "
            "passages = mine.passages + excluded.passages, words = mine.words + excluded.words",
            (store, count, words),
        )

    def passages(self, transaction: ViewTransaction, generation: int, store: str, file_id: str) -> list[str]:
        """Return the passages of a file in their order; see `FileLists.passages`."""
        query = f"SELECT text FROM {self.prefix(generation)}passages WHERE store = ? AND file = ? ORDER BY n"
        return [text for (text,) in transaction.rows(query, (store, file_id))]

    def search(self, transaction: ViewTransaction, generation: int, files: str, wanted: FileSearch) -> list[FoundChunk]:
        """Return the passages that match best; see `FileLists.search`. `files` is the table of the files of vector stores."""
        best: dict[tuple[str, str, int], FoundChunk] = {}
        for store in dict.fromkeys(wanted.stores):
            for query in dict.fromkeys(wanted.queries):
                for each in self._found(transaction, generation, files, store, query, wanted):
                    place = store, each.file_id, each.number
                    if place not in best or best[place].score < each.score:
                        best[place] = each
        found = (each for each in best.values() if each.score >= wanted.score_min)
        return sorted(found, key=lambda each: (-each.score, each.file_id, each.number))[: wanted.limit]

    def _found(
        self, transaction: ViewTransaction, generation: int, files: str, store: str, query: str, wanted: FileSearch
    ) -> Iterator[FoundChunk]:
        begin, index = self.prefix(generation), index_of(transaction)
        sizes = transaction.rows(f"SELECT passages, words FROM {begin}stores WHERE store = ?", (store,))
        words = [*dict.fromkeys(indexed_words(query))][:QUERY_WORDS_MAX]
        if not sizes or not words or not sizes[0][0]:
            return
        count, average = int(sizes[0][0]), max(float(sizes[0][1]) / float(sizes[0][0]), 1.0)
        numbers = {word: index.count(transaction, begin, index.term(store, word)) for word in words}
        tiers = _weights(numbers, count)
        found: dict[tuple[str, int], _Candidate] = {}
        chosen: Mapping[str, float] = {}
        for place, weights in enumerate(tiers):
            if place and len(found) >= wanted.limit:
                break
            chosen = weights
            terms = [index.term(store, word) for word in weights if numbers[word]]
            most = CANDIDATES_MAX - len(found)
            for each in self._candidates(transaction, begin, files, store, index.either(terms), by_rank=not place):
                key = each.file_id, each.number
                if key in found or not wanted.accepts(each.attributes) or each.expires_at <= wanted.at:
                    continue
                found[key] = each
                most -= 1
                if not most:
                    break
        for each in found.values():
            score = _score(each.text, chosen, average)
            yield FoundChunk(each.file_id, each.filename, score, each.text, each.attributes, each.number)

    @staticmethod
    def _candidates(
        transaction: ViewTransaction, begin: str, files: str, store: str, expression: str, *, by_rank: bool
    ) -> Iterator[_Candidate]:
        """Yield the passages that match an expression, ranked by the database or, without its work, in the order of the index."""
        index = index_of(transaction)
        ordered, values = (index.rank, index.ranked(expression)) if by_rank else (f"w.{index.position}", ())
        query = (
            f"SELECT p.file, p.n, p.text, f.entry, f.attributes FROM {begin}words w "
            f"JOIN {begin}passages p ON p.id = w.{index.position} JOIN {files} f ON f.store = p.store AND f.file = p.file "
            f"WHERE {index.matches} AND p.store = ? ORDER BY {ordered}"
        )
        rows = transaction.each(query, (*index.given(expression), store, *values))
        for file_id, n, text, entry, attributes in rows:
            facts = json.loads(entry)
            expires = facts.get("expires_at") or NEVER
            yield _Candidate(file_id, int(n), str(facts.get("filename", "")), text, json.loads(attributes), expires)

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""
        begin = self.prefix(generation)
        for number, store, file_id, n, text in transaction.each(
            f"SELECT id, store, file, n, text FROM {begin}passages"
        ):
            _ = int(number), str(store), str(file_id), int(n), str(text)
        for _ in transaction.each(f"SELECT store, passages, words FROM {begin}stores"):
            pass


class _Candidate(NamedTuple):
    """Hold a passage whose score is to be computed."""

    file_id: str
    number: int
    filename: str
    text: str
    attributes: Mapping[str, Any]
    expires_at: str


def _is_of(place: tuple[str, str], event: events.FileDeleted) -> bool:
    """Return whether a place in a vector store is that of a deleted file: stores have files of their own tenant."""
    store, file_id = place
    return file_id == event.file_id and store.removeprefix(VECTOR_STORE).partition("/")[0] == event.tenant


_HANGUL = re.compile("[\uac00-\ud7a3]|[\u1100-\u115f\ua960-\ua97c][\u1160-\u11ff\ud7b0-\ud7fb]*")
"""Syllable of Korean, as one character or as its letters."""


def indexed_words(text: str) -> list[str]:
    """Return the folded words of a text, a plural as its singular: both a text and a query are read so.

    Each syllable of Korean is a word, as each character of scripts without spaces between words, because particles follow the
    words without a space.
    """
    if not text.isascii():
        text = _HANGUL.sub(r" \g<0> ", text)
    return [_singular(word) if word.isascii() else word for word in words_of(text)]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word[-1] == "s" and word[-2] not in "sui":
        return word[:-1]
    return word


def _weights(numbers: Mapping[str, int], count: int) -> list[dict[str, float]]:
    """Return the weight of each word of a query: the rarer in the store, the greater; [] if the store has none of them.

    If there are too many passages to compare, the first weights leave common words out, and the second ones, with which more
    is found, have them. Words that the store does not have weigh little: the same for all passages, which then match less.
    """
    chosen = [word for word in numbers if word not in STOP_WORDS]
    most = COMMON_SHARE * count if count > CANDIDATES_MAX else count
    rare = [word for word in chosen if 0 < numbers[word] <= most]
    tiers: list[dict[str, float]] = []
    for among in (rare, chosen, [*numbers]):
        there = {
            word: math.log(1 + (count - numbers[word] + 0.5) / (numbers[word] + 0.5)) for word in among if numbers[word]
        }
        if there and (not tiers or among is chosen):
            missing = [word for word in chosen if not numbers[word]]
            weights = there | dict.fromkeys(missing, MISSING_SHARE * min(there.values()))
            tiers += [weights] if weights not in tiers else []
    return tiers


def _score(text: str, weights: Mapping[str, float], average: float) -> float:
    """Return how well a passage has the weighted words, from 0 to 1."""
    words = indexed_words(text)
    counts = Counter(words)
    half = OFTEN * (0.25 + 0.75 * len(words) / average)
    found = sum(weight * counts[word] / (counts[word] + half) for word, weight in weights.items() if counts[word])
    return min(found / (sum(weights.values()) or 1.0), 1.0)


class _Index(Protocol):
    """Define the full-text index, the only part that differs between the databases."""

    tables: Sequence[str]
    position: str
    matches: str
    rank: str

    def term(self, store: str, word: str) -> str:
        """Return a word of a store as it is indexed."""
        return sha256(store.encode()).hexdigest()[:PREFIX_DIGITS] + word

    def entry(self, store: str, words: Sequence[str]) -> str:
        """Return the words of a passage in the form that the database expects."""
        ...

    def either(self, terms: Sequence[str]) -> str:
        """Return the expression for entries that have one of these terms."""
        ...

    def given(self, expression: str) -> Sequence[str]:
        """Return the values of `matches`."""
        return (expression,)

    def ranked(self, expression: str) -> Sequence[str]:
        """Return the values of `rank`."""
        return ()

    def count(self, transaction: ViewTransaction, begin: str, term: str) -> int:
        """Return the number of entries that have a term."""
        ...

    def remove(self, transaction: ViewTransaction, begin: str, rows: Sequence[tuple[int, str]]) -> None:
        """Remove entries, which are given as they were inserted."""
        ...

    def forget(self, transaction: ViewTransaction, begin: str, store: str) -> None:
        """Remove what can be removed of a deleted store, whose passages are there for the last time."""
        return


class _WordsInSQLite(_Index):
    """Implement the index with SQLite's FTS5, which stores no text: to remove an entry, its words are given again."""

    tables = (
        "CREATE VIRTUAL TABLE \"{begin}words\" USING fts5(words, content='', tokenize='ascii')",
        "CREATE VIRTUAL TABLE \"{begin}counts\" USING fts5vocab('{begin}words', 'row')",
    )
    position = "rowid"
    matches = "w.words MATCH ?"
    rank = "w.rank"

    def entry(self, store: str, words: Sequence[str]) -> str:
        begin = self.term(store, "")
        return " ".join(begin + word for word in words)

    def either(self, terms: Sequence[str]) -> str:
        return " OR ".join(f'"{term}"' for term in terms)

    def count(self, transaction: ViewTransaction, begin: str, term: str) -> int:
        found = transaction.rows(f"SELECT doc FROM {begin}counts WHERE term = ?", (term,))
        return int(found[0][0]) if found else 0

    def remove(self, transaction: ViewTransaction, begin: str, rows: Sequence[tuple[int, str]]) -> None:
        transaction.update(f"INSERT INTO {begin}words ({begin}words, rowid, words) VALUES ('delete', ?, ?)", rows)


class _WordsInPostgreSQL(_Index):
    """Implement the index with PostgreSQL's tsvector, which is built here, because its parser follows the server's language."""

    tables = (
        "CREATE TABLE {begin}words (position BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)",
        "CREATE INDEX {begin}by_words ON {begin}words USING gin (words)",
    )
    position = "position"
    matches = "w.words @@ CAST(? AS tsquery)"
    rank = "ts_rank(w.words, CAST(? AS tsquery)) DESC, w.position"

    def entry(self, store: str, words: Sequence[str]) -> str:
        begin = self.term(store, "")
        places: dict[str, list[str]] = {}
        for place, word in enumerate(words, 1):
            places.setdefault(word, []).append(str(place))
        return " ".join(f"'{begin}{word}':{','.join(at)}" for word, at in places.items())

    def either(self, terms: Sequence[str]) -> str:
        return " | ".join(f"'{term}'" for term in terms)

    def ranked(self, expression: str) -> Sequence[str]:
        return (expression,)

    def count(self, transaction: ViewTransaction, begin: str, term: str) -> int:
        query = f"SELECT count(*) FROM {begin}words w WHERE {self.matches}"
        return int(transaction.rows(query, (f"'{term}'",))[0][0])

    def remove(self, transaction: ViewTransaction, begin: str, rows: Sequence[tuple[int, str]]) -> None:
        transaction.update(f"DELETE FROM {begin}words WHERE position = ?", [(number,) for number, _ in rows])

    def forget(self, transaction: ViewTransaction, begin: str, store: str) -> None:
        transaction.execute(
            f"DELETE FROM {begin}words WHERE position IN (SELECT id FROM {begin}passages WHERE store = ?)", (store,)
        )


def index_of(transaction: ViewTransaction) -> _Index:
    """Return the full-text index of a database."""
    return _INDEXES[transaction.kind]


_INDEXES: Mapping[str, _Index] = {"sqlite": _WordsInSQLite(), "postgresql": _WordsInPostgreSQL()}
