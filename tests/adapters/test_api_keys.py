"""Test the keys with which apps call the served API: who may call, from when until when, and that no key is stored."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters.sql import Database
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import Conflict, InvalidInput, NotFound
from threadledger.domain.ledger import ApiKey, ApiKeys, AsyncLedger, Ledger
from threadledger.domain.ledger.api_keys import LOOK_SECONDS, SERVE_KEYS

Open = Callable[[], Ledger]


class Clock:
    """A monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(open_any_store: Open) -> Ledger:
    return open_any_store()


@pytest.fixture
def server(open_any_store: Open, clock: Clock) -> ApiKeys:
    """The keys as another process knows them."""
    return ApiKeys(open_any_store().journal, clock)


def test_an_added_key_is_found_with_what_it_reaches(ledger: Ledger, server: ApiKeys) -> None:
    with freeze_time("2026-11-29 12:00:00"):
        plain = ledger.api_keys.add("app")
        reader = ledger.as_actor("anna").api_keys.add("dash board", "acme_2", read_only=True)
    at = datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert server.find(plain) == ApiKey("app", added_at=at)
    assert server.find(reader) == ApiKey("dash board", "acme_2", True, at, actor="anna")
    assert server.all() == [server.find(plain), server.find(reader)]


def test_a_key_is_256_random_bits_after_its_beginning(ledger: Ledger) -> None:
    added = [ledger.api_keys.add(f"app {number}") for number in range(5)]
    assert all(re.fullmatch("tl-[0-9a-f]{64}", key) for key in added)
    assert len(set(added)) == len(added)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: "",
        lambda key: key[:-1],
        lambda key: f"{key} ",
        lambda key: key.upper(),
        lambda key: f"Bearer {key}",
        lambda key: sha256(key.encode()).hexdigest(),
        lambda key: "tl-\udcff",
        lambda key: "x" * 100_000,
    ],
)
def test_another_text_is_no_key(ledger: Ledger, change: Callable[[str], str]) -> None:
    assert ledger.api_keys.find(change(ledger.api_keys.add("app"))) is None


def test_no_key_is_found_in_a_ledger_without_keys(ledger: Ledger) -> None:
    assert ledger.api_keys.all() == []
    assert ledger.api_keys.find("tl-0") is None


def test_a_revoked_key_is_refused_and_its_name_can_be_used_again(ledger: Ledger) -> None:
    with freeze_time("2026-11-29 12:00:00") as frozen:
        first = ledger.api_keys.add("app")
        frozen.tick(60)
        revoked = ledger.api_keys.revoke("app")
        second = ledger.api_keys.add("app", "acme")
    assert revoked == ApiKey(
        "app",
        added_at=datetime(2026, 11, 29, 12, tzinfo=UTC),
        revoked_at=datetime(2026, 11, 29, 12, 1, tzinfo=UTC),
    )
    assert ledger.api_keys.find(first) is None
    found = ledger.api_keys.find(second)
    assert found is not None
    assert (found.tenant, found.revoked_at) == ("acme", None)
    assert [(each.name, each.revoked_at is None) for each in ledger.api_keys.all()] == [("app", False), ("app", True)]
    ledger.api_keys.revoke("app")
    assert ledger.api_keys.find(second) is None
    assert ledger.api_keys.all()[0] == revoked


def test_another_process_knows_within_a_second_and_looks_no_more_often(
    ledger: Ledger, server: ApiKeys, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    head = server._journal.head

    def looking(stream: str) -> Any:
        looked.append(stream)
        return head(stream)

    monkeypatch.setattr(server._journal, "head", looking)
    key = ledger.api_keys.add("app")
    assert [server.find(key) is not None for _ in range(5)] == [True] * 5
    assert looked == [SERVE_KEYS]
    ledger.api_keys.revoke("app")
    clock.seconds += LOOK_SECONDS / 2
    assert server.find(key) is not None
    clock.seconds += LOOK_SECONDS / 2
    assert server.find(key) is None
    assert looked == [SERVE_KEYS] * 2


def test_a_ledger_had_a_key_also_after_its_last_one_was_revoked(ledger: Ledger, server: ApiKeys, clock: Clock) -> None:
    assert not server.any_exists()
    ledger.api_keys.add("app")
    assert not server.any_exists()
    clock.seconds += LOOK_SECONDS
    assert server.any_exists()
    ledger.api_keys.revoke("app")
    clock.seconds += LOOK_SECONDS
    assert server.any_exists()


def test_a_process_knows_at_once_what_it_has_changed_itself(server: ApiKeys) -> None:
    assert server.find("tl-0") is None
    key = server.add("app")
    assert server.find(key) is not None
    server.revoke("app")
    assert server.find(key) is None


def test_keys_are_not_forgotten_when_the_database_is_away_once(
    ledger: Ledger, server: ApiKeys, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ledger.api_keys.add("app")
    assert server.find(key) is not None
    ledger.api_keys.revoke("app")
    clock.seconds += LOOK_SECONDS

    def away(stream: str) -> Any:
        raise OSError(stream)

    with monkeypatch.context() as patch:
        patch.setattr(server._journal, "head", away)
        for _ in range(2):
            with pytest.raises(OSError, match=SERVE_KEYS):
                server.find(key)
    assert server.find(key) is None


def test_two_processes_cannot_add_the_same_name(open_any_store: Open) -> None:
    ledgers = [open_any_store() for _ in range(4)]

    def add(ledger: Ledger) -> str | None:
        try:
            return ledger.api_keys.add("app")
        except Conflict:
            return None

    with ThreadPoolExecutor(len(ledgers)) as pool:
        added = [key for key in pool.map(add, ledgers) if key is not None]
    assert len(added) == 1
    assert [each.name for each in ledgers[0].api_keys.all()] == ["app"]
    with pytest.raises(Conflict, match=r"there is a key 'app' already.*threadledger serve keys revoke app"):
        ledgers[0].api_keys.add("app")


@pytest.mark.parametrize("name", ["", " ", "a:b", "a\nb", "a\0b", " app", "app ", "\u202eapp", "\ud800", "x" * 101])
def test_a_name_that_cannot_be_shown_in_one_line_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not the name of a key"):
        ledger.api_keys.add(name)
    assert list(ledger.events()) == []


@pytest.mark.parametrize("name", ["x" * 100, "Анна's app", "a/b c"])
def test_a_name_is_any_printable_text(ledger: Ledger, name: str) -> None:
    found = ledger.api_keys.find(ledger.api_keys.add(name))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("tenant", ["Acme", "a b", "a/b", "x" * 64, "a:b", "é"])
def test_a_tenant_whose_name_could_reach_into_another_one_is_refused(ledger: Ledger, tenant: str) -> None:
    with pytest.raises(InvalidInput, match="is not the name of a tenant"):
        ledger.api_keys.add("app", tenant)
    assert list(ledger.events()) == []


def test_a_key_that_is_not_accepted_cannot_be_revoked(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no key 'app' is accepted"):
        ledger.api_keys.revoke("app")
    ledger.api_keys.add("app")
    ledger.api_keys.revoke("app")
    with pytest.raises(NotFound):
        ledger.api_keys.revoke("app")
    assert [event.type for event in ledger.events()] == ["ApiKeyAdded", "ApiKeyRevoked"]


def test_the_keys_follow_from_the_events_if_their_stored_state_is_unusable(
    ledger: Ledger, any_database: Database, server: ApiKeys
) -> None:
    for number in range(3):
        ledger.api_keys.add(f"app {number}", "acme", read_only=True)
    ledger.api_keys.revoke("app 1")
    known = ledger.api_keys.all()
    for damaged in ("snapshot = '{'", "snapshot = '[{\"name\": 1}]'", "state_schema = 99"):
        any_database.execute(f"UPDATE streams SET {damaged} WHERE name = '{SERVE_KEYS}'")
        assert server.all() == known
    server.add("app 1")
    assert [each.name for each in ledger.api_keys.all()] == ["app 0", "app 1", "app 2", "app 1"]


def test_a_key_is_nowhere_in_the_ledger_and_its_hash_is_not_in_what_is_listed(
    ledger: Ledger, any_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    key = ledger.api_keys.add("app")
    assert ledger.api_keys.find(key) is not None
    with pytest.raises(Conflict) as refused:
        ledger.api_keys.add("app")
    ledger.api_keys.revoke("app")
    (stored,) = any_database.query(f"SELECT snapshot FROM streams WHERE name = '{SERVE_KEYS}'")
    texts = [row[0] for row in any_database.query("SELECT state FROM events")] + list(stored)
    hashed = sha256(key.encode()).hexdigest()
    assert sum(hashed in text for text in texts) == 2
    shown = [*texts, caplog.text, repr([*ledger.events()]), repr(refused.value), repr(vars(ledger.api_keys))]
    assert not [text for text in shown if key in text or key.removeprefix("tl-") in text]
    assert hashed not in repr(ledger.api_keys.all()) + repr([each.as_json() for each in ledger.api_keys.all()])


def test_a_ledger_with_keys_is_checked_listed_and_copied_like_any_other(
    ledger: Ledger, open_store_on: Callable[..., Ledger], tmp_path: Any
) -> None:
    ledger.conversation("k").append("user", "Hello")
    key = ledger.as_actor("anna").api_keys.add("app", "acme")
    ledger.api_keys.add("other")
    ledger.api_keys.revoke("other")
    assert list(ledger.check()) == []
    assert [state.key for state in ledger.conversations()] == ["k"]
    assert [logged.type for logged in ledger.events(checked=True)][2:] == [
        "ApiKeyAdded",
        "ApiKeyAdded",
        "ApiKeyRevoked",
    ]
    assert (list(ledger.failures()), ledger.failure_groups(), list(ledger.exchanges())) == ([], [], [])
    ledger.back_up(tmp_path / "backup.db")
    ledger.copy_to(f"sqlite:///{tmp_path / 'copy.db'}")
    for name in ("backup.db", "copy.db"):
        copy = open_store_on(f"sqlite:///{tmp_path / name}")
        assert copy.api_keys.all() == ledger.api_keys.all()
        assert copy.api_keys.find(key) == ledger.api_keys.find(key)


def test_a_ledger_remembers_its_keys_and_an_awaited_one_has_the_same(ledger: Ledger) -> None:
    assert ledger.api_keys is ledger.api_keys

    async def scenario() -> None:
        awaited = AsyncLedger(ledger)
        key = await awaited.api_keys.add("app", read_only=True)
        found = await awaited.api_keys.find(key)
        assert found is not None
        assert (found.name, found.read_only) == ("app", True)
        assert await awaited.api_keys.revoke("app") == (await awaited.api_keys.all())[0]
        await awaited.driver.close()
        awaited._pool.shutdown()
        awaited._tools.shutdown()

    asyncio.run(scenario())
    assert [type(event) for event in ledger.journal.stream(SERVE_KEYS)] == [e.ApiKeyAdded, e.ApiKeyRevoked]
