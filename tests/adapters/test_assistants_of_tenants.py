"""AssistantStore are kept as events on their own streams, and listed by tenant and creation, on each database."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.domain.conversation import Profile
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.errors import ChangedEvent, Conflict, IdempotencyConflict, InvalidInput
from threadledger.domain.ids import now
from threadledger.domain.ledger import AssistantRecord, AssistantStore, Ledger

WEATHER = {"type": "function", "function": {"name": "weather"}}
JOHN = Profile("John", "Be kind.", None, json.dumps([WEATHER]), settings_json='{"temperature": 0.5}')
OLD = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def ledger(open_any_store: Callable[[], Ledger]) -> Ledger:
    return open_any_store()


@pytest.fixture
def assistants(ledger: Ledger) -> AssistantStore:
    return AssistantStore(ledger.journal)


@pytest.fixture
def local(open_store: Callable[[], Ledger]) -> AssistantStore:
    """The same on SQLite alone, for what does not depend on the database."""
    return AssistantStore(open_store().journal)


def named(name: str, tenant: str = "", **fields: Any) -> AssistantRecord:
    return AssistantRecord(f"asst_{name}", "gpt-4o", JOHN, tenant, **fields)


def ids(page: tuple[list[AssistantRecord], bool]) -> list[str]:
    return [each.assistant_id.removeprefix("asst_") for each in page[0]]


def test_an_assistant_is_read_as_it_was_created(assistants: AssistantStore, ledger: Ledger) -> None:
    given = named(
        "a",
        "one",
        description="Helps.",
        tool_resources={"file_search": {"vector_store_ids": ["vs"]}},
        dropped=("file_search",),
        metadata={"team": "é\ud800"},
    )
    with freeze_time("2026-11-30 10:00:00"):
        created = assistants.create(given)
        at = now()
    assert created == replace(given, created_at=at, version=1, changed_at=at)
    assert assistants.get("one", "asst_a") == created
    assert assistants.get("", "asst_a") is assistants.get("two", "asst_a") is assistants.get("one", "asst_b") is None
    assert ledger.journal.head("assistant:one/asst_a") is not None


def test_a_change_keeps_the_other_fields_and_the_time_of_creation(assistants: AssistantStore) -> None:
    with freeze_time("2026-11-30 10:00:00"):
        created = assistants.create(named("a", metadata={"a": "1"}))
    with freeze_time("2026-11-30 11:00:00"):
        changed = assistants.modify("", "asst_a", lambda each: replace(each, model="gpt-5.5"))
    assert changed == replace(created, model="gpt-5.5", version=2, changed_at=created.changed_at + timedelta(hours=1))
    assert assistants.get("", "asst_a") == changed
    assert assistants.modify("one", "asst_a", lambda each: replace(each, model="x")) is None


def test_a_change_is_never_before_the_event_that_it_follows(local: AssistantStore) -> None:
    with freeze_time("2026-11-30 10:00:00"):
        created = local.create(named("a"))
    with freeze_time("2026-11-30 09:00:00"):
        changed = local.modify("", "asst_a", lambda each: replace(each, model="m"))
    assert changed is not None
    assert changed.changed_at == created.changed_at


def test_a_change_of_nothing_is_not_stored(local: AssistantStore) -> None:
    created = local.create(named("a"))
    assert local.modify("", "asst_a", lambda each: replace(each, metadata={})) == created


def test_a_deleted_assistant_is_unknown_and_can_be_defined_again(assistants: AssistantStore) -> None:
    assistants.create(named("a"))
    assert assistants.page("", ListPage(5))[0]
    assert assistants.delete("", "asst_a")
    assert not assistants.delete("", "asst_a")
    assert assistants.get("", "asst_a") is None
    assert assistants.modify("", "asst_a", lambda each: each) is None
    assert assistants.place("", "asst_a") is None
    assert ids(assistants.page("", ListPage(5))) == []
    assert assistants.define(named("a", created_at=OLD)).version == 3
    assert [each.created_at for each in assistants.page("", ListPage(5))[0]] == [OLD]


def test_the_key_of_a_call_finds_what_it_stored(assistants: AssistantStore) -> None:
    created = assistants.create(named("a"), "api:1")
    changed = assistants.modify("", "asst_a", lambda each: replace(each, model="m1"), "api:2")
    assistants.modify("", "asst_a", lambda each: replace(each, model="m2"), "api:3")
    assert assistants.create(named("a"), "api:1") == created
    assert assistants.modify("", "asst_a", lambda each: replace(each, model="m1"), "api:2") == changed
    current = assistants.get("", "asst_a")
    assert current is not None
    assert (current.model, current.version) == ("m2", 3)
    with pytest.raises(IdempotencyConflict, match="was used to create another assistant: nothing was written"):
        assistants.create(named("a", description="Another."), "api:1")
    with pytest.raises(Conflict, match="there is an assistant 'asst_a' already"):
        assistants.create(named("a"))


def test_two_writers_at_once_lose_no_change(assistants: AssistantStore) -> None:
    assistants.create(named("a"))

    def note(number: int) -> None:
        assistants.modify("", "asst_a", lambda each: replace(each, metadata={**each.metadata, str(number): "x"}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(12)))
    record = assistants.get("", "asst_a")
    assert record is not None
    assert set(record.metadata) == {str(number) for number in range(12)}
    assert record.version == 13


def test_one_request_in_two_threads_creates_one_assistant(assistants: AssistantStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: assistants.create(named("a"), "api:1"), range(8)))
    assert {each.version for each in made} == {1}
    assert len(assistants.page("", ListPage(10))[0]) == 1


@pytest.mark.parametrize("wrong", ["", "x" * 201, "a\0", "a\ud800", None])
def test_an_id_that_cannot_be_stored_is_refused_and_never_found(local: AssistantStore, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="assistant"):
        local.create(AssistantRecord(wrong, "gpt-4o"))
    assert local.get("", wrong) is local.place("", wrong) is None


# The list


def test_a_page_has_the_newest_first_and_imported_ones_keep_their_place(assistants: AssistantStore) -> None:
    for number in range(3):
        assistants.create(named(str(number)))
    assistants.define(named("old", created_at=OLD))
    assistants.create(named("other", "one"))
    assert ids(assistants.page("", ListPage(10))) == ["2", "1", "0", "old"]
    assert ids(assistants.page("", ListPage(10, newest_first=False))) == ["old", "0", "1", "2"]
    assert ids(assistants.page("one", ListPage(10))) == ["other"]
    assert assistants.page("two", ListPage(10)) == ([], False)


def test_a_changed_assistant_keeps_its_place_and_shows_its_change(assistants: AssistantStore) -> None:
    for number in range(3):
        assistants.create(named(str(number)))
    assistants.page("", ListPage(10))
    assistants.modify("", "asst_0", lambda each: replace(each, profile=replace(JOHN, name="Jane")))
    page, _ = assistants.page("", ListPage(10))
    assert [(each.assistant_id, each.profile.name) for each in page] == [
        ("asst_2", "John"),
        ("asst_1", "John"),
        ("asst_0", "Jane"),
    ]
    assert page == [assistants.get("", each.assistant_id) for each in page]


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_follow_each_other_without_a_gap_also_among_equal_times(
    assistants: AssistantStore, newest_first: bool
) -> None:
    for number in range(9):
        assistants.define(named(str(number), created_at=OLD + timedelta(seconds=number // 3)))
    expected = [str(number) for number in range(9)]
    expected = expected[::-1] if newest_first else expected
    seen: list[str] = []
    place, more = None, True
    while more:
        page, more = assistants.page("", ListPage(2, newest_first, after=place))
        seen += ids((page, more))
        place = assistants.place("", page[-1].assistant_id)
    assert seen == expected
    last = assistants.place("", f"asst_{expected[7]}")
    assert (ids(assistants.page("", ListPage(3, newest_first, before=last))), True) == (expected[4:7], True)
    first = assistants.place("", f"asst_{expected[1]}")
    between = assistants.page("", ListPage(10, newest_first, after=first, before=last))
    assert (ids(between), between[1]) == (expected[2:7], False)
    assert assistants.page("", ListPage(3, newest_first, after=first, before=last))[1]


def test_the_view_is_rebuilt_from_the_log_and_says_the_same(assistants: AssistantStore, ledger: Ledger) -> None:
    for number in range(4):
        assistants.create(named(str(number)))
    assistants.delete("", "asst_1")
    assistants.modify("", "asst_0", lambda each: replace(each, model="m"))
    before = assistants.page("", ListPage(10))
    ledger.rebuild_views(["assistants"])
    assert assistants.page("", ListPage(10)) == before
    (status,) = (each for each in ledger.status()["views"] if each["name"] == "assistants")
    assert (status["lag"], status["parked"]) == (0, 0)
    assert [each for each in ledger.journal.views.check() if "assistants" in each.problem] == []


def test_a_changed_row_is_refused(local: AssistantStore, db_url: str) -> None:
    import sqlite3

    local.create(named("a", description="Helps."))
    local.page("", ListPage(10))
    with sqlite3.connect(db_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TRIGGER events_are_not_changed")
        database.execute("UPDATE events SET state = replace(state, 'Helps.', 'Harms.')")
    database.close()
    with pytest.raises(ChangedEvent, match="assistant:/asst_a"):
        local.get("", "asst_a")
    with pytest.raises(ChangedEvent, match="assistant:/asst_a"):
        local.page("", ListPage(10))
