"""Work for 50 tenants in one process: each has its own work done, nobody waits for another one, and few ledgers are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.engine import make_url

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.doctor.workers import check_workers
from threadledger.adapters.sql.database import _OPEN
from threadledger.adapters.workers import TenantPool, WorkerOptions, duties, open_worker, tenant_pool
from threadledger.domain.errors import FileMissing, InvalidSettings
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

from ..conftest import administer
from .performing import wait_until

OPEN_LEDGERS = 6
Of = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FOLLOW_SECONDS", "CLOSE_SECONDS", "VIEWS_SECONDS", "REAP_SECONDS"):
        monkeypatch.setattr(duties, name, 0.05)
    for name, seconds in {"LOOK": 0.02, "ROUND": 0.1, "FILE": 0.1, "ABSENT": 0.2, "SLICE": 1.0, "RECENT": 1.0}.items():
        monkeypatch.setattr(tenant_pool, f"{name}_SECONDS", seconds)


@pytest.fixture
def tenants(tmp_path: Path) -> Path:
    return tmp_path / "tenants.txt"


@pytest.fixture
def given(simulator: Simulator) -> dict[str, Any]:
    return {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url, "mirror_by": "worker", "retries": 0}


@pytest.fixture
def ledger_of(tmp_path: Path, given: dict[str, Any]) -> Of:
    """Return a function that opens the ledger of a tenant."""
    return lambda tenant: open_ledger(load_settings(db=f"{tmp_path}/{{tenant}}.db", tenant=tenant, **given))


@pytest.fixture
def start(tmp_path: Path, tenants: Path, given: dict[str, Any]) -> Iterator[Callable[..., TenantPool]]:
    pools: list[TenantPool] = []

    def start_one(db: str = f"{tmp_path}/{{tenant}}.db", concurrency: int = 4) -> TenantPool:
        settings = load_settings(db=db, **given)
        make = partial(open_ledger, create=False)
        pools.append(TenantPool(settings, tenants, make, open_worker, WorkerOptions(concurrency, port=0), OPEN_LEDGERS))
        pools[-1].start()
        return pools[-1]

    yield start_one
    for each in pools:
        each.stop()


def is_same(ledger: Ledger, *keys: str) -> bool:
    return [each.found.state for each in ledger.replay.verify(keys)] == [ThreadState.SAME] * len(keys)


def has_link(ledger: Ledger, key: str) -> bool:
    return bool(ledger.state(key).links)


def test_the_threads_of_50_tenants_are_written_by_one_process_with_few_ledgers_open(
    start: Callable[..., TenantPool], tenants: Path, ledger_of: Of, simulator: Simulator
) -> None:
    names = [f"t{number:02}" for number in range(50)]
    tenants.write_text("\n".join(names))
    for name in names:
        with ledger_of(name) as ledger:
            ledger.conversation("k").append("user", f"I am {name}.")
    pool, most_open = start(), [0]

    def all_done() -> bool:
        most_open.append(pool.number_open)
        return pool._done["mirror", "done"] >= len(names)

    wait_until(all_done, 60)
    assert 0 < max(most_open) <= OPEN_LEDGERS
    assert sum(1 for each in _OPEN if "/t" in each.shown_url) <= OPEN_LEDGERS
    for name in names:
        with ledger_of(name) as ledger:
            wait_until(lambda ledger=ledger: has_link(ledger, "k"))  # type: ignore[misc]
            assert is_same(ledger, "k")
    said = [text.count("I am t") for text in (str(each.body) for each in simulator.requests) if "I am t" in text]
    assert said == [1] * len(names)


def test_a_tenant_with_much_work_keeps_no_other_waiting(
    start: Callable[..., TenantPool], tenants: Path, ledger_of: Of, simulator: Simulator
) -> None:
    simulator.add_fault("POST /conversations", slow=0.05, times=None)
    tenants.write_text("big\nsmall\n")
    with ledger_of("big") as ledger:
        for number in range(200):
            ledger.conversation(f"k{number}").append("user", "Hello.")
    with ledger_of("small") as small, ledger_of("big") as big:
        small.conversation("k").append("user", "Hello.")
        start(concurrency=1)
        wait_until(lambda: has_link(small, "k"))
        assert not all(has_link(big, f"k{number}") for number in range(200))


def test_the_file_is_read_again_and_what_is_wrong_in_it_is_said_once(
    start: Callable[..., TenantPool], tenants: Path, ledger_of: Of, caplog: pytest.LogCaptureFixture
) -> None:
    tenants.write_text("# tenants\nacme  # the first\n../etc\nnobody\n")
    pool = start()
    wait_until(lambda: "nobody" in pool.health()["unusable"])
    with ledger_of("nobody") as late:
        late.conversation("k").append("user", "Hello.")
        wait_until(lambda: has_link(late, "k"))
    with ledger_of("more") as more:
        more.conversation("k").append("user", "Hello.")
        tenants.write_text("more\n../etc\n")
        wait_until(lambda: has_link(more, "k"))
        wait_until(lambda: pool.health()["tenants"] == 1)
        assert [each.message for each in check_workers(more) if "no worker" in each.message] == []
    assert caplog.text.count("'../etc' cannot be the name of a tenant") == 1
    tenants.unlink()
    wait_until(lambda: "the tenants stay as they were" in caplog.text)
    assert pool.health()["tenants"] == 1


def test_tenants_of_a_server_have_their_work_done_too(
    start: Callable[..., TenantPool], tenants: Path, given: dict[str, Any], postgres_server_url: str
) -> None:
    begin = f"t{uuid4().hex[:12]}"
    names = [f"{begin}{each}" for each in "ab"]
    try:
        for name in names:
            administer(postgres_server_url, f"CREATE SCHEMA {name}")
        url = make_url(postgres_server_url).update_query_dict({"options": "-csearch_path=PLACE"})
        pattern = url.render_as_string(hide_password=False).replace("PLACE", "{tenant}")
        for name in names:
            with open_ledger(load_settings(db=pattern, tenant=name, **given)) as ledger:
                ledger.conversation("k").append("user", f"I am {name}.")
        tenants.write_text("\n".join(names))
        pool = start(pattern)
        for name in names:
            with open_ledger(load_settings(db=pattern, tenant=name, **given)) as ledger:
                wait_until(lambda ledger=ledger: has_link(ledger, "k") and is_same(ledger, "k"))  # type: ignore[misc]
        pool.stop()
    finally:
        for name in names:
            administer(
                postgres_server_url, f"DROP SCHEMA {name} CASCADE", f"DROP SCHEMA IF EXISTS {name}_workers CASCADE"
            )


def test_a_pool_needs_a_file_and_a_database_for_each_tenant(tmp_path: Path, tenants: Path) -> None:
    options = WorkerOptions(1, port=0)
    with pytest.raises(FileMissing, match="one tenant a line"):
        TenantPool(load_settings(db="{tenant}.db"), tenants, open_ledger, open_worker, options)
    tenants.write_text("acme")
    with pytest.raises(InvalidSettings, match=r"needs \{tenant\}"):
        TenantPool(load_settings(db="chats.db"), tenants, open_ledger, open_worker, options)
