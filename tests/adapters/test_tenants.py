"""Test the names of tenants, the addresses that contain them, which of them are listed, and how many ledgers are open."""

from __future__ import annotations

import sqlite3
import string
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

import threadledger
from threadledger.adapters import load_settings, open_ledger, tenants_of
from threadledger.adapters.tenant_ledgers import TenantLedgers
from threadledger.domain.errors import DatabaseMissing, InvalidSettings, StoreUnavailable
from threadledger.domain.failures import redact

from ..conftest import administer

ALLOWED = string.ascii_lowercase + string.digits + "_-"
PATTERN = "ledgers/{tenant}/chats.db"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "A",
        "ä",
        "a b",
        "a.b",
        "a%2e",
        "a\n",
        "{tenant}",
        "a" * 64,
        "a;b",
        "a\0b",
        "a?b",
    ],
)
def test_what_is_no_name_of_a_tenant_never_reaches_an_address(name: str) -> None:
    with pytest.raises(InvalidSettings, match="tenant"):
        load_settings(db=PATTERN, tenant=name) if name else load_settings(db=PATTERN).of_tenant(name)


@given(st.text(ALLOWED, min_size=1, max_size=63) | st.text(max_size=70))
def test_a_name_is_taken_if_it_has_1_to_63_of_the_allowed_characters_and_not_otherwise(name: str) -> None:
    settings = load_settings(db=PATTERN)
    if 1 <= len(name) <= 63 and set(name) <= set(ALLOWED):
        assert settings.of_tenant(name).db == f"ledgers/{name}/chats.db"
    else:
        with pytest.raises(InvalidSettings):
            settings.of_tenant(name)


def test_every_address_of_a_tenant_contains_its_name_or_none_does(tmp_path: Path) -> None:
    both = load_settings(db=PATTERN, blobs="file:///blobs/{tenant}", read_db="replica/{tenant}.db", tenant="acme")
    assert (both.db, both.blobs, both.read_db) == ("ledgers/acme/chats.db", "file:///blobs/acme", "replica/acme.db")
    wrong: list[dict[str, str]] = [
        {"db": PATTERN, "blobs": "file:///blobs"},
        {"db": PATTERN, "read_db": "replica.db"},
        {"db": "chats.db", "blobs": "file:///blobs/{tenant}"},
        {"db": "chats.db", "tenant": "acme"},
    ]
    for each in wrong:
        with pytest.raises(InvalidSettings, match=r"\{tenant\}"):
            load_settings(**each)
    with pytest.raises(InvalidSettings, match="none was chosen"):
        threadledger.open(f"{tmp_path}/{{tenant}}.db")


def test_an_app_opens_the_ledger_of_a_tenant_and_its_keys_say_whose_it_is(tmp_path: Path) -> None:
    pattern, keys = f"{tmp_path}/{{tenant}}.db", {}
    for tenant in ("acme", "beta"):
        with threadledger.open(pattern, tenant=tenant, threads="none") as ledger:
            ledger.conversation("k").append("user", tenant)
            keys[tenant] = ledger.api_keys.add("app")
            assert keys[tenant].startswith(f"tl-{tenant}.") and tenant not in redact(keys[tenant])
    for tenant in ("acme", "beta"):
        with threadledger.open(pattern, tenant=tenant, threads="none") as ledger:
            assert [each["content"] for each in ledger.memory("k").as_chat_messages()] == [tenant]
            assert [name for name, key in keys.items() if ledger.api_keys.find(key)] == [tenant]


@pytest.mark.parametrize("pattern", ["{tenant}.db", "of-{tenant}/ledger.db", "{tenant}/{tenant}.db", "a[1]/{tenant}"])
def test_the_tenants_of_files_are_those_whose_name_fits_each_place(pattern: str, tmp_path: Path) -> None:
    for tenant in ("acme", "b_2", "Not", "x" * 64):
        path = tmp_path / pattern.replace("{tenant}", tenant)
        path.parent.mkdir(parents=True, exist_ok=True)
        sqlite3.connect(path).close()
        path.touch()
    (tmp_path / "other").mkdir()
    found = tenants_of(load_settings(db=f"sqlite:///{tmp_path}/{pattern}"))
    assert [each for each in found if each != "other"] == ["acme", "b_2"]


def test_the_tenants_of_a_server_are_its_databases_or_schemas(postgres_server_url: str) -> None:
    begin = f"t{uuid4().hex[:12]}"
    names = [f"{begin}_acme", f"{begin}_b-2"]
    try:
        for name in names:
            administer(postgres_server_url, f'CREATE DATABASE "{name}"', f'CREATE SCHEMA "{name}"')
        url = make_url(postgres_server_url)
        databases = (
            url.set(database=f"{begin}_PLACE").render_as_string(hide_password=False).replace("PLACE", "{tenant}")
        )
        schemas = url.update_query_dict({"options": f"-csearch_path={begin}_PLACE"})
        assert tenants_of(load_settings(db=databases)) == ["acme", "b-2"]
        as_text = schemas.render_as_string(hide_password=False)
        assert tenants_of(load_settings(db=as_text.replace("PLACE", "{tenant}"))) == ["acme", "b-2"]
        with open_ledger(load_settings(db=databases, tenant="acme", threads="none")) as ledger:
            ledger.conversation("k").append("user", "Hello.")
        with open_ledger(load_settings(db=databases, tenant="b-2", threads="none")) as ledger:
            assert ledger.conversations() == []
    finally:
        for name in names:
            administer(
                postgres_server_url, f'DROP DATABASE IF EXISTS "{name}"', f'DROP SCHEMA IF EXISTS "{name}" CASCADE'
            )


class Held:
    """Stand for what is open for a tenant."""

    def __init__(self, name: str, open_now: set[str]) -> None:
        assert name not in open_now, "it is open twice"
        self.name, self._open, self.busy = name, open_now, False
        open_now.add(name)

    def is_idle(self) -> bool:
        return not self.busy

    def close(self) -> None:
        self._open.discard(self.name)


@pytest.fixture
def held() -> Iterator[Callable[[int], tuple[TenantLedgers[Held], set[str]]]]:
    made: list[TenantLedgers[Held]] = []

    def make(most: int) -> tuple[TenantLedgers[Held], set[str]]:
        open_now: set[str] = set()

        def open_one(settings: Any) -> Held:
            if settings.tenant == "nobody":
                raise DatabaseMissing("there is none")
            return Held(settings.tenant, open_now)

        made.append(TenantLedgers(load_settings(db=PATTERN), open_one, most))
        return made[-1], open_now

    yield make
    for each in made:
        each.stop()


def test_the_ledger_that_was_not_used_for_longest_is_closed_and_never_one_in_use(held: Any) -> None:
    ledgers, open_now = held(2)
    for name in ("a", "b", "a", "c"):
        with ledgers.lent(name):
            pass
    assert open_now == {"a", "c"}
    with ledgers.lent("a") as used:
        used.busy = True
        with ledgers.lent("b"):
            assert open_now == {"a", "b"}
    with ledgers.lent("c"):
        assert open_now == {"a", "c"}  # what is in progress is not closed, although nobody uses it
    used.busy = False
    ledgers.stop()
    assert open_now == set()


def test_a_caller_waits_for_a_place_and_is_refused_if_none_becomes_free(
    held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers, open_now = held(1)
    monkeypatch.setattr("threadledger.adapters.tenant_ledgers.WAIT_SECONDS", 0.05)
    ledgers.take("a")
    with pytest.raises(StoreUnavailable, match="--open-ledgers"):
        ledgers.take("b")
    monkeypatch.setattr("threadledger.adapters.tenant_ledgers.WAIT_SECONDS", 30.0)
    waiting = threading.Thread(target=lambda: ledgers.take("b"))
    waiting.start()
    ledgers.give_back("a")
    waiting.join(30)
    assert open_now == {"b"}


def test_a_tenant_without_a_ledger_takes_no_place(held: Any) -> None:
    ledgers, open_now = held(1)
    for _ in range(3):
        with pytest.raises(DatabaseMissing):
            ledgers.take("nobody")
    with ledgers.lent("a"):
        assert open_now == {"a"} and ledgers.number_open == 1


def test_threads_that_want_the_same_ledger_open_it_once(held: Any) -> None:
    ledgers, open_now = held(3)

    def use(number: int) -> None:
        for step in range(30):
            with ledgers.lent(f"t{(number + step) % 5}"):
                assert len(open_now) <= 3

    threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(open_now) <= 3
