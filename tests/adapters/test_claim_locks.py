"""Which claims wait for which others: on PostgreSQL only those of the same thread or item, and no extension for anything."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters.sql import (
    Database,
    Factory,
    SqlBudgets,
    SqlMirrorHeads,
    claims,
    connections,
    errors,
    postgres,
)
from threadledger.adapters.sql.claims import SqlJobClaims, holder_of, renewal_of
from threadledger.domain.conversation.events import RunStarted
from threadledger.domain.errors import StoreUnavailable
from threadledger.domain.ids import new_id, now
from threadledger.domain.journal import Appending, Journal
from threadledger.domain.journal.budgets import BudgetLimits, Payer
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import MirrorHead

MIRROR, SOON = "conversations", timedelta(minutes=10)
LOCKED = "SELECT 1 FROM mirror_heads WHERE stream = 'conversation:a' FOR UPDATE"


@pytest.fixture
def opened(any_db_url: str) -> Iterator[Database]:
    database = Database(any_db_url)
    with Ledger(Journal(Factory(database=database))):
        yield database


@pytest.fixture
def server(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database on a server, whose statements wait a moment for locks."""
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_SECONDS", 0.2)
    database = Database(postgres_url)
    with Ledger(Journal(Factory(database=database))):
        yield database


def claim(database: Database, key: str, holder: str) -> bool:
    heads = SqlMirrorHeads(database)
    return heads.claim(f"conversation:{key}", MIRROR, f"conv_{key}", holder, now() + SOON) is not None


def take(database: Database, key: str, holder: str) -> bool:
    return bool(SqlJobClaims(database).take("job", [ord(key)], holder_of(holder), now() + SOON).taken)


def link(database: Database, key: str, _holder: str) -> bool:
    """Note a new thread in the transaction of an append."""
    also = SqlMirrorHeads(database).written(f"conversation:{key}", MIRROR, MirrorHead(f"conv_{key}", 1, settled=True))
    database.group.append([], lambda _: Appending(), also)
    return True


def start_a_run(database: Database, key: str, budgets: SqlBudgets) -> None:
    """Reserve the cost of a run in the transaction of an append."""
    event = RunStarted(
        originator_id=f"conversation:{key}", originator_version=1, timestamp=now(), event_id=new_id(), run_id=new_id(),
        exchange_id=new_id(), attempt=1, backend="chat", model="m", cost_reserved=1,
    )  # fmt: skip
    database.group.append([], lambda _: Appending(), lambda cursor: budgets.note(cursor, Payer(), [event]))


Work = Callable[[Database, str, str], bool]


@pytest.mark.parametrize(("first", "second"), [(claim, claim), (claim, link), (take, take)])
def test_only_claims_of_the_same_thing_wait_for_each_other(
    first: Work, second: Work, server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, may_end, lease = threading.Event(), threading.Event(), claims.lease

    def slowly(*given: Any) -> str:
        if not inside.is_set():  # in the transaction of the first claim
            inside.set()
            may_end.wait(30)
        return lease(*given)

    monkeypatch.setattr(claims, "lease", slowly)
    with ThreadPoolExecutor(1) as pool:
        claimed = pool.submit(first, server, "a", "me")
        try:
            assert inside.wait(30)
            assert second(server, "b", "another")
            with pytest.raises(StoreUnavailable, match="lock"):
                second(server, "a", "another")
            assert not claimed.done()
        finally:
            may_end.set()
        assert claimed.result()


def test_an_append_that_counts_costs_does_not_wait_for_the_claim_of_a_thread(server: Database) -> None:
    budgets = SqlBudgets(server, BudgetLimits(conversation=1.0), lambda *_: None)
    budgets.prepare()
    assert claim(server, "a", "me")
    with server.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(LOCKED)
        start_a_run(server, "a", budgets)
        cursor.execute("COMMIT")
    assert budgets.used("conversation:a") == (0, 1)


def test_of_many_that_claim_a_thread_at_once_one_gets_it(opened: Database) -> None:
    ready = threading.Barrier(6)

    def claim_all(holder: str) -> list[str]:
        found = []
        for number in range(15):
            ready.wait(30)
            found += [str(number)] * claim(opened, str(number), holder)
        return found

    with ThreadPoolExecutor(6) as pool:
        taken = [key for keys in pool.map(claim_all, "uvwxyz") for key in keys]
    assert sorted(taken) == sorted(map(str, range(15)))


def test_items_that_are_taken_extended_and_given_back_in_any_order_are_in_no_deadlock(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_SECONDS", 30)
    server.dispose()
    rolled_back: list[str] = []

    class Counted(connections.RolledBack):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            rolled_back.append(text)

    monkeypatch.setattr(errors, "RolledBack", Counted)
    jobs = SqlJobClaims(server)

    def work(seed: int) -> None:
        shuffled, holder = random.Random(seed), jobs.name()
        for number in count():
            items = shuffled.sample(range(12), 8)
            taken = jobs.take("job", items, holder, now() + SOON).taken
            jobs.end("job", shuffled.sample(taken, len(taken) // 2), holder)
            jobs.renew("job", holder, now() + SOON)
            renewal_of(server).extend()
            jobs.give_back("job", holder)
            jobs.reopen("job", shuffled.sample(range(12), 12))
            if number == 25:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert rolled_back == []


def test_all_claims_of_a_process_are_extended_by_few_statements(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[str] = []
    execute_one = connections.Transaction.execute

    def counted(transaction: Any, statement: str, values: Any = ()) -> Any:
        executed.append(statement)
        return execute_one(transaction, statement, values)

    keys = [f"k{number}" for number in range(101)]
    with freeze_time("2026-11-29 12:00:00") as clock:
        assert all(claim(opened, key, f"holder of {key}") for key in keys)
        assert take(opened, "a", "a worker")
        assert take(opened, "b", "another worker")
        opened.execute("UPDATE mirror_heads SET holder = 'other' WHERE stream = 'conversation:k7'")
        clock.tick(10)
        with monkeypatch.context() as patch:
            patch.setattr(connections.Transaction, "execute", counted)
            renewal_of(opened).extend()
        until = claims.lease(opened, now() + SOON)
    assert len(executed) <= 5
    tables = ("mirror_heads", "job_items")
    extended = [opened.query(f"SELECT count(*) FROM {table} WHERE held_until = ?", (until,))[0][0] for table in tables]
    assert extended == [len(keys) - 1, 2]
    lacking = [each.values for each, kept in renewal_of(opened)._claims.items() if kept.lacking is not None]
    assert lacking == [("conversation:k7", MIRROR, holder_of("holder of k7"))]


def test_an_extension_does_not_wait_for_a_row_that_another_transaction_has(server: Database) -> None:
    renewal = renewal_of(server)
    until = "SELECT held_until FROM mirror_heads ORDER BY stream"
    with freeze_time("2026-11-29 12:00:00", ignore=["sqlalchemy"]) as clock:
        assert claim(server, "a", "me")
        assert claim(server, "b", "me")
        ((before,), _) = server.query(until)
        clock.tick(4)
        with server.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(LOCKED)
            renewal.extend()
            cursor.execute("COMMIT")
        after = claims.lease(server, now() + SOON)
        assert server.query(until) == [(before,), (after,)]
        assert [kept.lacking for kept in renewal._claims.values()] == [None, None]
        renewal.extend()
        assert server.query(until) == [(after,), (after,)]
