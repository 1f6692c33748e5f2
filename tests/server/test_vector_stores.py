"""Vector stores: which files they have, which of these can be searched, and what a search finds, on both databases."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.server import vector_stores as handlers
from threadledger.adapters.sql.views.file_search import FileSearchView, index_of
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.file_text import FILE_TEXT_BYTES_MAX, passages
from threadledger.domain.conversation.files import Chunking, FileCounts, FileSearch, StoreFile
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ids import now
from threadledger.domain.ledger import FileRecord, FileStore, Ledger, VectorStoreRecord, VectorStores

HANDBOOK = "# Handbook\n\nEmployees have 25 vacation days a year. The office is open from 9 to 5."
MENU = "The menu of the cafeteria: soup on Fridays. Vegetarians are asked to sit at any table."


def put(client: OpenAI, name: str, text: str | bytes) -> str:
    return client.files.create(file=(name, text.encode() if isinstance(text, str) else text), purpose="assistants").id


def found(client: OpenAI, store_id: str, query: Any, **options: Any) -> list[str]:
    """Return the names of the files in which a search finds passages, the best first."""
    return [each.filename for each in client.vector_stores.search(store_id, query=query, **options)]


@pytest.fixture
def store(client: OpenAI) -> str:
    """Return a vector store with two files."""
    named = [put(client, "handbook.md", HANDBOOK), put(client, "menu.txt", MENU)]
    return client.vector_stores.create(name="notes", file_ids=named).id


# Stores and their files


def test_a_store_shows_what_it_was_given_and_counts_its_files(client: OpenAI) -> None:
    named = [put(client, "handbook.md", HANDBOOK), put(client, "picture.png", b"\x89PNG\r\n")]
    made = client.vector_stores.create(
        name="notes",
        description="of us",
        file_ids=named,
        metadata={"a": "1"},
        expires_after={"anchor": "last_active_at", "days": 7},
    )
    assert (made.name, made.metadata, made.status) == ("notes", {"a": "1"}, "completed")
    counts = made.file_counts
    assert (counts.completed, counts.failed, counts.in_progress, counts.total) == (1, 1, 0, 2)
    assert made.usage_bytes == len(HANDBOOK.encode())
    assert made.expires_at == (made.last_active_at or 0) + 7 * 86_400
    assert client.vector_stores.retrieve(made.id) == made
    changed = client.vector_stores.update(made.id, name="others", expires_after=None)
    assert (changed.name, changed.metadata, changed.expires_after) == ("others", {"a": "1"}, None)
    assert client.vector_stores.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(made.id)
    assert client.vector_stores.list().data == []
    assert client.files.retrieve(named[0]).filename == "handbook.md"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.md", "Zürich".encode(), "Zürich"),
        ("a.txt", "Zürich".encode("utf-8-sig"), "Zürich"),
        ("a.txt", "Zürich".encode("utf-16"), "Zürich"),
        ("a.txt", b"\xfe\xff" + "Zürich".encode("utf-16-be"), "Zürich"),
        ("a.txt", "Zürich".encode("utf-32"), "Zürich"),
        ("a.json", b'{"city": "Lyon"}', '{"city": "Lyon"}'),
        ("a.csv", b"city,year\nLyon,2026", "city,year\nLyon,2026"),
        ("a.py", b"def lyon():\n    return 1", "def lyon():\n    return 1"),
        (
            "a.html",
            b"<head><title>t</title><style>x{}</style></head><body><p>In <b>Ly</b>on</p><script>no()</script>&amp; on</body>",
            "t\nIn Lyon\n& on",
        ),
    ],
)
def test_text_is_read_by_its_mark_and_without_tags(client: OpenAI, name: str, data: bytes, text: str) -> None:
    file_id = put(client, name, data)
    store_id = client.vector_stores.create(file_ids=[file_id]).id
    assert [each.text for each in client.vector_stores.files.content(file_id, vector_store_id=store_id)] == [text]


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.pdf", b"%PDF-1.7 text", "unsupported_file"),
        ("a.docx", b"PK\x03\x04", "unsupported_file"),
        ("a.txt", b"\xff\xd8\xff\xe0", "unsupported_file"),
        ("a.txt", b"caf\xe9", "unsupported_file"),
        ("a.txt", b"a\0b", "unsupported_file"),
        ("a.txt", b"", "invalid_file"),
        ("a.txt", b" \n ", "invalid_file"),
        ("a.html", b"<script>text()</script>", "invalid_file"),
        ("a.txt", b"a " * (FILE_TEXT_BYTES_MAX // 2 + 1), "invalid_file"),
    ],
)
def test_a_file_without_text_has_failed_and_says_why_in_one_sentence(
    client: OpenAI, name: str, data: bytes, code: str
) -> None:
    store_id = client.vector_stores.create().id
    made = client.vector_stores.files.create(store_id, file_id=put(client, name, data))
    assert (made.status, made.usage_bytes) == ("failed", 0)
    assert made.last_error is not None
    assert made.last_error.code == code
    assert made.last_error.message.startswith("The file ")
    assert [each.id for each in client.vector_stores.files.list(store_id, filter="failed")] == [made.id]
    assert client.vector_stores.files.list(store_id, filter="completed").data == []


def test_files_are_listed_in_pages_changed_and_removed(client: OpenAI, store: str) -> None:
    files = client.vector_stores.files
    third = files.create(store, file_id=put(client, "third.txt", "x"), attributes={"year": 2026, "draft": False}).id
    listed = [each.id for each in files.list(store, limit=1, order="asc")]
    assert listed[-1] == third
    assert [each.id for each in files.list(store, before=third, order="asc", limit=1).data] == [listed[1]]
    assert files.update(third, vector_store_id=store, attributes={"year": 2027}).attributes == {"year": 2027}
    assert files.retrieve(third, vector_store_id=store).attributes == {"year": 2027}
    assert files.delete(third, vector_store_id=store).deleted
    with pytest.raises(openai.NotFoundError):
        files.retrieve(third, vector_store_id=store)
    assert client.files.retrieve(third).filename == "third.txt"
    assert client.vector_stores.retrieve(store).file_counts.total == 2


def test_a_batch_shows_what_it_added_also_after_its_files_were_added_again(client: OpenAI, store: str) -> None:
    own, other = put(client, "a.txt", "a lantern"), put(client, "b.bin", b"\xff")
    batches, files = client.vector_stores.file_batches, client.vector_stores.files
    given: Any = [{"file_id": own, "attributes": {"n": 1}}, {"file_id": other}]
    batch = batches.create(store, files=given)
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 1, 1)
    assert [each.id for each in batches.list_files(batch.id, vector_store_id=store, order="asc")] == [own, other]
    assert files.retrieve(own, vector_store_id=store).attributes == {"n": 1}
    files.create(store, file_id=own)
    assert batches.retrieve(batch.id, vector_store_id=store) == batch
    assert batches.cancel(batch.id, vector_store_id=store) == batch
    assert client.vector_stores.retrieve(store).file_counts.total == 4
    files.delete(own, vector_store_id=store)
    assert [each.id for each in batches.list_files(batch.id, vector_store_id=store)] == [other]
    another = client.vector_stores.create().id
    with pytest.raises(openai.NotFoundError):
        batches.retrieve(batch.id, vector_store_id=another)


def test_a_deleted_file_leaves_every_store_and_its_words_are_found_no_more(client: OpenAI, store: str) -> None:
    (file_id,) = [each.file_id for each in client.vector_stores.search(store, query="vacation")]
    second = client.vector_stores.create(file_ids=[file_id]).id
    client.files.delete(file_id)
    for each in (store, second):
        assert found(client, each, "vacation") == []
        assert [one.id for one in client.vector_stores.files.list(each) if one.id == file_id] == []
    assert client.vector_stores.retrieve(store).file_counts.total == 1
    assert client.vector_stores.retrieve(second).file_counts.total == 0
    assert client.vector_stores.retrieve(second).usage_bytes == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"file_ids": "x"}, "file_ids"),
        ({"file_ids": ["f"] * 501}, "file_ids"),
        ({"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ({"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
        ({"chunking_strategy": {"type": "none"}}, "chunking_strategy.type"),
        (
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 50, "chunk_overlap_tokens": 0},
                }
            },
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        (
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
                }
            },
            "chunking_strategy.static.chunk_overlap_tokens",
        ),
        ({"name": 7}, "name"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ],
)
def test_a_store_that_is_not_valid_is_a_400(client: OpenAI, body: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/vector_stores", body=body, cast_to=object)
    assert refused.value.param == param
    assert client.vector_stores.list().data == []


def test_files_that_are_too_large_together_are_refused(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "REQUEST_TEXT_BYTES_MAX", 10)
    named = [put(client, "a.txt", "12345"), put(client, "b.txt", "123456")]
    with pytest.raises(openai.BadRequestError) as refused:
        client.vector_stores.create(file_ids=named)
    assert (refused.value.code, refused.value.param) == ("files_too_large", "file_ids")


# Search


def test_a_question_finds_the_passage_that_answers_it_first(client: OpenAI, store: str) -> None:
    assert found(client, store, "How many vacation days do employees have?")[0] == "handbook.md"
    assert found(client, store, "What is on the menu in the cafeteria?")[0] == "menu.txt"
    assert found(client, store, "vegetarian") == found(client, store, "Frïdays") == ["menu.txt"]  # plural or not
    assert sorted(found(client, store, ["soup", "vacation"])) == ["handbook.md", "menu.txt"]
    assert found(client, store, ["soup", "vacation"], max_num_results=1) != []
    assert found(client, store, "quantum chromodynamics") == []
    assert found(client, store, "") == []


def test_stop_words_do_not_decide(client: OpenAI) -> None:
    texts = {f"{n}.txt": "the one and the other of the things that are what they are, " * 9 for n in range(9)}
    named = [put(client, name, text) for name, text in (texts | {"right.txt": "a lantern"}).items()]
    store_id = client.vector_stores.create(file_ids=named).id
    assert found(client, store_id, "what are the things of the lantern?")[0] == "right.txt"
    assert found(client, store_id, "the lantern") == ["right.txt"]
    assert len(found(client, store_id, "the")) == 9


@pytest.mark.parametrize(
    "query",
    [
        'vacation" OR words:a',
        "vacation AND NOT (",
        "vacation* ^ NEAR(",
        "'vacation' & | ! <-> :*",
        "vacation'); DROP VIEW events; --",
        "vacation \\ \0 \x1b % _ ?",
        "{vacation} [vacation] +vacation -employees",
        "vacation " * 5_000,
        " ".join(f"word{n}" for n in range(3_000)) + " vacation",
    ],
)
def test_no_query_is_read_as_anything_but_words(client: OpenAI, store: str, query: str) -> None:
    assert found(client, store, query) in (["handbook.md"], [])
    assert found(client, store, "vacation") == ["handbook.md"]


FILTERED: list[tuple[Any, list[str]]] = [
    ({"type": "eq", "key": "year", "value": 2026}, ["b"]),
    ({"type": "eq", "key": "draft", "value": True}, ["a"]),
    ({"type": "eq", "key": "year", "value": "2026"}, []),
    ({"type": "eq", "key": "draft", "value": 1}, []),
    ({"type": "ne", "key": "year", "value": 2026}, ["a", "c"]),
    ({"type": "gt", "key": "year", "value": 2025}, ["b"]),
    ({"type": "gte", "key": "year", "value": 2025}, ["a", "b"]),
    ({"type": "lt", "key": "name", "value": "m"}, ["a"]),
    ({"type": "lte", "key": "year", "value": 2025.0}, ["a"]),
    ({"type": "gt", "key": "name", "value": 7}, []),
    ({"type": "in", "key": "name", "value": ["anna", "zoe"]}, ["a", "b"]),
    ({"type": "nin", "key": "name", "value": ["anna"]}, ["b", "c"]),
    (
        {
            "type": "and",
            "filters": [
                {"type": "gte", "key": "year", "value": 2025},
                {
                    "type": "or",
                    "filters": [{"type": "eq", "key": "name", "value": "zoe"}, {"type": "eq", "key": "x", "value": 1}],
                },
            ],
        },
        ["b"],
    ),
    ({"type": "or", "filters": []}, []),
    ({"type": "and", "filters": []}, ["a", "b", "c"]),
]


@pytest.mark.parametrize(("filters", "names"), FILTERED, ids=str)
def test_filters_choose_files_by_their_attributes(client: OpenAI, filters: Any, names: list[str]) -> None:
    attributes: dict[str, Any] = {
        "a": {"year": 2025, "name": "anna", "draft": True},
        "b": {"year": 2026, "name": "zoe"},
        "c": {},
    }
    given: Any = [{"file_id": put(client, name, "a lantern"), "attributes": own} for name, own in attributes.items()]
    store_id = client.vector_stores.create().id
    client.vector_stores.file_batches.create(store_id, files=given)
    assert sorted(found(client, store_id, "lantern", filters=filters)) == names


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": 7}, "query"),
        ({"query": []}, "query"),
        ({"query": ["x"] * 33}, "query"),
        ({"query": "x", "max_num_results": 0}, "max_num_results"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "ranking_options": {"score_threshold": 2}}, "ranking_options.score_threshold"),
        ({"query": "x", "filters": {}}, "filters.type"),
        ({"query": "x", "filters": {"type": "in", "key": "a", "value": [1, None]}}, "filters.value[1]"),
        ({"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters.type"),
        ({"query": "x", "filters": {"type": "eq", "value": "b"}}, "filters.key"),
        ({"query": "x", "filters": {"type": "eq", "key": "a", "value": None}}, "filters.value"),
        ({"query": "x", "filters": {"type": "in", "key": "a", "value": "b"}}, "filters.value"),
        ({"query": "x", "filters": {"type": "and", "filters": [7]}}, "filters.filters[0]"),
    ],
)
def test_a_search_that_is_not_valid_is_a_400(client: OpenAI, store: str, body: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post(f"/vector_stores/{store}/search", body=body, cast_to=object)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": "x", "filters": {}}, "Missing required parameter: 'filters.type'."),
        (
            {"query": "x", "filters": {"type": "in", "key": "year", "value": 2020}},
            "Invalid type for 'filters.value': expected an array of strings, numbers or booleans, but got an integer instead.",
        ),
        (
            {"query": [7]},
            "Invalid type for 'query[0]': expected a string, but got an integer instead.",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong_in_words_that_are_true(
    client: OpenAI, store: str, body: Any, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post(f"/vector_stores/{store}/search", body=body, cast_to=object)
    assert message in str(refused.value)


def test_scores_are_from_0_to_1_sorted_and_have_a_threshold(client: OpenAI, store: str) -> None:
    put_again = [
        put(client, "often.txt", "vacation " * 9 + "days " * 9),
        put(client, "one.txt", "vacation, and nothing else"),
    ]
    client.vector_stores.file_batches.create(store, file_ids=put_again)
    hits = client.vector_stores.search(store, query="vacation days").data
    scores = [each.score for each in hits]
    assert [each.filename for each in hits] == ["often.txt", "handbook.md", "one.txt"]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < each < 1 for each in scores)
    middle = {"score_threshold": (scores[1] + scores[2]) / 2}
    assert found(client, store, "vacation days", ranking_options=middle) == ["often.txt", "handbook.md"]


def test_a_store_that_has_expired_is_not_searched_and_one_that_is_searched_does_not_expire(
    client: OpenAI, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_id = client.vector_stores.create(
        file_ids=[put(client, "a.txt", "a lantern")], expires_after={"anchor": "last_active_at", "days": 1}
    ).id

    def later(hours: float) -> None:
        monkeypatch.setattr("threadledger.domain.ledger.vector_stores.now", lambda: now() + timedelta(hours=hours))

    for hours in (20, 20.5, 40, 60):
        later(hours)
        assert found(client, store_id, "lantern") == ["a.txt"]
    used = [each for each in ledger.journal.stream(f"vector_store:/{store_id}") if isinstance(each, e.VectorStoreUsed)]
    assert len(used) == 3  # at most one an hour
    later(85)
    assert client.vector_stores.retrieve(store_id).status == "expired"
    with pytest.raises(openai.BadRequestError, match="has expired"):
        found(client, store_id, "lantern")


def test_passages_are_found_by_their_own_words_and_overlap(client: OpenAI) -> None:
    words = [f"word{n}" for n in range(2_000)]
    file_id = put(client, "long.txt", " ".join(words))
    static: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}
    store_id = client.vector_stores.create(file_ids=[file_id], chunking_strategy=static).id
    hits = client.vector_stores.search(store_id, query="word1234").data
    assert [each for each in hits if "word1234" not in each.content[0].text.split()] == []
    assert 1 <= len(hits) <= 3
    parts = [str(each.text) for each in client.vector_stores.files.content(file_id, vector_store_id=store_id)]
    assert max(map(len, parts)) <= 400
    assert {word for part in parts for word in part.split()} == set(words)


# Without the API


NUMBERS = [f"{n:05d}" for n in range(3_000)]
LONG = {
    "no spaces": "".join(NUMBERS),
    "not ASCII": "".join(f"é{n}" for n in NUMBERS),
    "words": " ".join(NUMBERS),
    "paragraphs": "\n\n".join(" ".join(NUMBERS[n : n + 9]) for n in range(0, 3_000, 9)),
    "sentences": ". ".join(" ".join(NUMBERS[n : n + 20]) for n in range(0, 3_000, 20)),
    "characters": "".join(chr(0x4E00 + n) for n in range(3_000)),
    "short": "00001",
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("chunking", [Chunking(), Chunking(100, 0), Chunking(100, 50), Chunking(4_096, 2_048)], ids=str)
def test_passages_have_all_of_a_text_in_order(name: str, chunking: Chunking) -> None:
    text, reached, begun = LONG[name], 0, -1
    for each in passages(text, chunking):
        at = text.index(each)
        assert begun < at
        assert not text[reached:at].strip()
        begun, reached = at, max(reached, at + len(each))
        assert len(each.encode()) <= 4 * chunking.size + 8
    assert not text[reached:].strip()


class Shelf:
    """Vector stores of two tenants on a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.journal = ledger.journal
        self.files, self.stores = FileStore(ledger.journal), VectorStores(ledger.journal)

    def fill(self, tenant: str, texts: dict[str, str], store_id: str = "vs_1") -> None:
        added: list[StoreFile] = []
        for name, text in texts.items():
            made = self.files.create(FileRecord(f"file-{name}", name, "assistants", tenant), [text.encode()])
            added.append(StoreFile(made.file_id, name, size=made.size, text_bytes=made.size, blob=made.blob))
        self.stores.create(VectorStoreRecord(store_id, tenant), added)

    def entries(self, tenant: str, word: str) -> int:
        """Return the number of entries of a word in the index of a store, also of those that no search finds."""
        lists: Any = self.journal.views.files
        view = lists.searched

        def count(transaction: Any, generation: int) -> int:
            own = index_of(transaction)
            return int(own.count(transaction, view.prefix(generation), own.term(f"vector_store:{tenant}/vs_1", word)))

        return int(lists._read(count, view))

    def found(self, tenant: str, query: str, store_id: str = "vs_1") -> list[tuple[str, float, str]]:
        record = self.stores.get(tenant, store_id)
        assert record is not None
        hits = self.stores.search([record], FileSearch((), [query], 50))
        return [(each.filename, round(each.score, 6), each.text) for each in hits]


@pytest.fixture
def shelf(any_db_url: str) -> Iterator[Shelf]:
    with open_ledger(load_settings(db=any_db_url, backends=("chat",), openai_api_key="sk-test")) as ledger:
        yield Shelf(ledger)


TEXTS = {"a.md": HANDBOOK + " Filler." * 900, "b.txt": MENU, "c.txt": "Paid vacation is requested in the portal."}
QUERIES = ("How many vacation days?", "soup on Fridays", "the", "filler", "naïve CAFETERIA")


def test_common_words_of_a_large_store_hide_no_rare_one(shelf: Shelf) -> None:
    texts = {f"{n:03d}.txt": f"Kosten der Reise {n}, " + "der Kosten " * 9 for n in range(150)}
    shelf.fill("one", texts | {"150.txt": "Kosten einer Laterne"})
    assert shelf.found("one", "Was sind die Kosten der Laterne?")[0][0] == "150.txt"
    assert len(shelf.found("one", "Kosten")) == 50


def test_passages_with_common_words_alone_are_found_if_there_is_room(shelf: Shelf) -> None:
    texts = {f"{n:03d}.txt": "Kosten " * (1 + n % 3) + f"der Reise {n}" for n in range(150)}
    shelf.fill("one", texts | {"150.txt": "Kosten einer Laterne"})
    hits = shelf.found("one", "Kosten der Laterne")
    assert (hits[0][0], len({name for name, *_ in hits})) == ("150.txt", 50)
    assert [score for _, score, _ in hits] == sorted((score for _, score, _ in hits), reverse=True)
    assert 0 < hits[1][1] < hits[0][1] < 1


def decomposed(text: str) -> str:
    """Return a text with its syllables as letters."""
    return unicodedata.normalize("NFD", text)


KOREAN = {"a.txt": "서울은 대한민국의 수도입니다", "b.txt": "부산에서 기차를 탔다", "c.txt": "Seoul"}


def test_words_of_korean_are_found_with_and_without_their_particles(shelf: Shelf) -> None:
    shelf.fill("one", KOREAN | {"d.txt": decomposed("물은 맑다")})
    wanted = {"서울": "a.txt", "서울에서": "a.txt", "수도": "a.txt", "기차": "b.txt", decomposed("대한민국"): "a.txt"}
    for query, name in wanted.items():
        assert name in [each for each, *_ in shelf.found("one", query)]
    assert [each for each, *_ in shelf.found("one", "물")] == ["d.txt"]


def test_ranks_show_nothing_of_other_tenants(shelf: Shelf) -> None:
    shelf.fill("one", TEXTS)
    before = [shelf.found("one", each) for each in QUERIES]
    assert all(before)
    shelf.fill("two", {f"{n}.txt": f"vacation soup filler {n}" for n in range(50)} | TEXTS)
    assert [shelf.found("one", each) for each in QUERIES] == before
    shelf.fill("one", {"other.txt": "vacation " * 50}, "vs_2")
    assert [shelf.found("one", each) for each in QUERIES] == before


def test_both_databases_rank_alike(shelf: Shelf) -> None:
    shelf.fill("one", TEXTS)
    shown = [[(name, round(score, 3)) for name, score, _ in shelf.found("one", each)] for each in QUERIES[:2]]
    assert shown == [[("a.md", 0.582), ("c.txt", 0.353)], [("b.txt", 0.871)]]


def test_a_rebuilt_index_finds_the_same(shelf: Shelf) -> None:
    shelf.fill("one", TEXTS)
    shelf.fill("one", {"d.txt": "vacation in Lyon"}, "vs_2")
    shelf.files.delete("one", "file-c.txt")
    record = shelf.stores.get("one", "vs_1")
    assert record is not None
    shelf.stores.remove(record, "file-b.txt")
    before = [shelf.found("one", each, store) for each in QUERIES for store in ("vs_1", "vs_2")]
    counts = shelf.stores.counts(record)
    shelf.journal.views.rebuild()
    assert [shelf.found("one", each, store) for each in QUERIES for store in ("vs_1", "vs_2")] == before
    assert shelf.stores.counts(record) == counts
    assert [*shelf.journal.views.check()] == []
    assert [*shelf.journal.upkeep.check(lambda *_: None)] == []


def test_what_is_removed_leaves_no_passage_on_any_database(shelf: Shelf) -> None:
    shelf.fill("one", TEXTS)
    shelf.fill("one", {"d.txt": "vacation in Lyon"}, "vs_2")
    assert shelf.found("one", "vacation", "vs_2")
    for name in ("file-a.md", "file-c.txt"):
        shelf.files.delete("one", name)
    assert shelf.found("one", "vacation") == []
    shelf.stores.delete("one", "vs_2")
    assert shelf.stores.get("one", "vs_2") is None
    lists: Any = shelf.journal.views.files
    lists.index()
    assert shelf.entries("one", "vacation") == 0
    assert lists.passages("vector_store:one/vs_2", "file-d.txt") == []
    assert lists.passages("vector_store:one/vs_1", "file-a.md") == []


def test_a_file_that_is_changed_in_one_batch_of_events_is_indexed_as_it_is_at_the_end(shelf: Shelf) -> None:
    shelf.fill("one", TEXTS)
    record = shelf.stores.get("one", "vs_1")
    assert record is not None
    file = shelf.stores.lists.store_file(record.stream, "file-c.txt")
    assert file is not None
    shelf.stores.remove(record, "file-c.txt")  # none of these is read before the search
    shelf.stores.add(record, [file])
    shelf.stores.add(record, [file])
    shelf.files.delete("one", "file-a.md")
    assert [name for name, *_ in shelf.found("one", "vacation")] == ["c.txt"]
    assert shelf.stores.counts(record).completed == 2


@pytest.mark.parametrize(("indexed", "then"), [("after each event", "nothing"), ("at the end", "removed")])
def test_a_file_that_was_deleted_while_it_was_added_is_in_no_store(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, any_db_url: str, indexed: str, then: str
) -> None:
    def index() -> None:
        if indexed == "after each event":
            shelf.stores.counts(record)
            shelf.stores.lists.index()

    # The process that deletes the file ends before its bytes are removed, and the other one has read them before.
    monkeypatch.setattr("threadledger.adapters.sql.blobs.SqlBlobs.remove", lambda *_: None)
    shelf.fill("one", {"a.txt": "a lantern", "b.txt": "a quagga"})
    record = shelf.stores.get("one", "vs_1")
    assert record is not None
    index()
    both = shelf.stores.lists.store_files(record.stream, ListPage(limit=9))
    (read,) = [each for each in both if each.file_id == "file-b.txt"]
    shelf.files.delete("one", "file-b.txt")
    index()
    shelf.stores.add(record, [read], batch_id="vsfb_1")
    index()
    if then == "removed":
        shelf.stores.remove(record, "file-b.txt")
    assert_only_one_file(shelf)
    with open_ledger(load_settings(db=any_db_url, backends=("chat",), openai_api_key="sk-test")) as again:
        assert_only_one_file(Shelf(again))
        again.journal.views.rebuild()
        assert_only_one_file(Shelf(again))
        assert [*again.journal.views.check()] == []


def assert_only_one_file(shelf: Shelf) -> None:
    """Fail unless a store has one file, a.txt, in every list and index."""
    record = shelf.stores.get("one", "vs_1")
    assert record is not None
    lists = shelf.stores.lists
    assert [name for name, *_ in shelf.found("one", "quagga lantern")] == ["a.txt"]
    assert shelf.entries("one", "quagga") == 0
    assert [each.filename for each in lists.store_files(record.stream, ListPage(limit=9))] == ["a.txt"]
    assert lists.store_files(record.stream, ListPage(limit=9), batch_id="vsfb_1") == []
    assert lists.passages(record.stream, "file-b.txt") == []
    assert (shelf.stores.file(record, "file-b.txt"), shelf.stores.counts(record)) == (None, FileCounts(1, 0, 9))


def test_a_request_that_adds_a_file_which_is_deleted_meanwhile_is_a_404(
    client: OpenAI, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id, read = put(client, "quagga.txt", "a quagga"), handlers.read_files

    def read_and_delete(*given: Any) -> Any:
        found = read(*given)
        assert client.files.delete(file_id).deleted
        return found

    monkeypatch.setattr(handlers, "read_files", read_and_delete)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.create(store, file_id=file_id)
    assert file_id not in [each.id for each in client.vector_stores.files.list(store)]
    assert client.vector_stores.retrieve(store).file_counts.total == 2
    assert found(client, store, "quagga") == []


def test_texts_of_many_files_are_events_of_bounded_size(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threadledger.domain.ledger.vector_stores.EVENT_TEXT_BYTES_MAX", 100)
    shelf.fill("one", {f"{n}.txt": f"lantern {n} " * 400 for n in range(7)})
    events = [
        each for each in shelf.journal.stream("vector_store:one/vs_1") if isinstance(each, e.VectorStoreFilesAdded)
    ]
    assert len(events) == 7
    assert len({name for name, *_ in shelf.found("one", "lantern")}) == 7
    written: list[int] = []
    apply = FileSearchView.apply
    monkeypatch.setattr(FileSearchView, "apply", lambda *given: (written.append(len(given[3].steps)), apply(*given)))
    monkeypatch.setattr("threadledger.adapters.sql.views.catching_up.BATCH_CHARS_MAX", 3_500)  # more than the events
    shelf.journal.views.rebuild(["passages"])
    assert [each for each in written if each] == [1] * 7
