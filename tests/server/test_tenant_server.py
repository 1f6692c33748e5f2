"""Serve 50 tenants in one process: each key reaches its own ledger alone, few ledgers are open, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI

import threadledger
from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.server import TenantServer
from threadledger.adapters.sql.database import _OPEN

TENANTS = [f"t{number:02}" for number in range(50)]
OPEN_LEDGERS = 4


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    return f"{tmp_path}/{{tenant}}.db"


@pytest.fixture
def keys(pattern: str) -> dict[str, str]:
    """The keys of 50 tenants, each of whose ledgers has one conversation with its name."""
    made = {}
    for tenant in TENANTS:
        with threadledger.open(pattern, tenant=tenant, threads="none") as ledger:
            ledger.conversation(f"of-{tenant}").append("user", f"I am {tenant}.")
            made[tenant] = ledger.api_keys.add("app")
    return made


@pytest.fixture
def server(pattern: str, keys: dict[str, str], simulator: Any) -> Iterator[TenantServer]:
    given = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url}
    settings = load_settings(db=pattern, threads="none", backends=("chat",), **given)
    with TenantServer(
        settings, lambda each: open_ledger(each, create=False), port=0, open_ledgers=OPEN_LEDGERS
    ) as running:
        yield running


def client(server: TenantServer, key: str) -> OpenAI:
    return OpenAI(api_key=key, base_url=server.base_url, max_retries=0)


def threads_of(server: TenantServer, key: str) -> list[str]:
    with client(server, key) as sdk:
        return [each["id"] for each in sdk.get("/threads", cast_to=dict[str, Any])["data"]]


def test_each_of_50_tenants_reaches_its_own_ledger_alone_and_few_are_open(
    server: TenantServer, keys: dict[str, str], simulator: Any
) -> None:
    most_open: list[int] = []

    def use(tenant: str) -> tuple[list[str], str]:
        with client(server, keys[tenant]) as sdk:
            said = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": f"I am {tenant}."}])
        most_open.append(server.ledgers.number_open)
        found = [each for each in threads_of(server, keys[tenant]) if not each.startswith("chatcmpl-")]
        return found, str(said.choices[0].message.content)

    def everyone() -> None:
        with ThreadPoolExecutor(3) as pool:
            for tenant, (found, said) in zip(TENANTS, pool.map(use, TENANTS), strict=True):
                assert (found, bool(said)) == ([f"of-{tenant}"], True)

    everyone()
    threads_after_one_round = threading.active_count()
    everyone()
    assert max(most_open) <= OPEN_LEDGERS
    assert threading.active_count() <= threads_after_one_round + OPEN_LEDGERS  # what was closed has ended
    assert sum(1 for each in _OPEN if "/t" in each.shown_url) <= OPEN_LEDGERS
    bodies = [str(each.body) for each in simulator.requests if each.template == "POST /chat/completions"]
    assert len(bodies) == 2 * len(TENANTS) and all(body.count("I am t") <= 2 for body in bodies)


@pytest.mark.parametrize("key", ["tl-t01.{rest}", "tl-nobody.{rest}", "tl-{rest}", "tl-../t00.{rest}", "sk-other"])
def test_the_key_of_one_tenant_opens_no_other_ledger(
    server: TenantServer, keys: dict[str, str], key: str, tmp_path: Path
) -> None:
    rest = keys["t00"].partition(".")[2]
    before = sorted(each.name for each in tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(AuthenticationError) as refused:
            threads_of(server, key.format(rest=rest))
        assert rest not in str(refused.value)
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix == ".db") == [
        each for each in before if each.endswith(".db")
    ]


def test_a_tenant_whose_ledger_is_damaged_is_told_to_try_again_and_others_are_served(
    server: TenantServer, keys: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "t07.db").write_bytes(b"no database" * 1_000)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"t07.db{suffix}").unlink(missing_ok=True)
    with pytest.raises(Exception, match="cannot be used now"):
        threads_of(server, keys["t07"])
    assert threads_of(server, keys["t08"]) == ["of-t08"]


def test_a_ledger_without_keys_lets_nobody_in(server: TenantServer, pattern: str) -> None:
    with threadledger.open(pattern, tenant="new", threads="none") as ledger:
        ledger.conversation("k").append("user", "Hello.")
    with pytest.raises(AuthenticationError):
        threads_of(server, "tl-new.0123456789abcdef")
