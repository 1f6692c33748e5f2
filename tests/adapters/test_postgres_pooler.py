"""PgBouncer in transaction mode gives each transaction another connection: nothing is kept on one, and all is stored once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy

from threadledger.adapters.sql import Database
from threadledger.domain.errors import StoreUnavailable

from ..conftest import SOAK
from .pooling import SERVER_CONNECTIONS, pgbouncer
from .test_job_claims import *  # noqa: F403 - the tests of the claims, here behind PgBouncer
from .test_notebooks import *  # noqa: F403 - the tests of the threads' state, here behind PgBouncer
from .test_store import (  # noqa: F401 - its decision reads the database: the pooler has no second connection for it
    open_store,
    test_the_same_idempotency_key_in_eight_threads_at_once_is_one_message,
)
from .test_store_outages import head_locked
from .writing import assert_sound, open_at, said, writers

if SOAK:
    from .test_store import *  # noqa: F403 - the tests of the store, here behind PgBouncer


@pytest.fixture(scope="module")
def new_pooled_url(postgres_server_url):
    with pgbouncer(postgres_server_url) as new_url:
        yield new_url


@pytest.fixture
def pooled_url(new_pooled_url):
    return new_pooled_url()


@pytest.fixture
def any_db_url(pooled_url):
    """Let the imported tests, which hold for each kind of database, run behind PgBouncer."""
    return pooled_url


def test_four_processes_behind_pgbouncer_store_everything_once(pooled_url):
    names = ["a", "b", "c", "d"]
    with writers() as running, open_at(pooled_url) as ledger:
        running.start(pooled_url, names, commits=100)
        acknowledged = running.acknowledged(20)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                list(pool.map(lambda _: ledger.conversations(), range(4)))
                list(pool.map(ledger.memory, [f"shared {index % 2}" for index in range(4)]))
        acknowledged += running.wait()
    assert len(acknowledged) == 400
    stored = said(assert_sound(pooled_url))
    assert sorted(commit for commits in stored.values() for commit in commits) == sorted(acknowledged)


def is_pooled(url):
    database = Database(url)
    database.query("SELECT 1")
    pooled = database.kind.pooled
    database.close()
    return pooled


def test_pgbouncer_is_noticed_and_a_server_without_it_keeps_its_prepared_statements(pooled_url, postgres_url):
    assert is_pooled(pooled_url)
    assert not is_pooled(postgres_url)


def test_the_url_may_say_whether_there_is_a_pooler(postgres_url, open_store_on):
    named = f"{postgres_url}&pgbouncer=true"
    assert is_pooled(named)
    assert not is_pooled(f"{postgres_url}&pgbouncer=false")
    open_store_on(named).conversation("k").append("user", "without a pooler, as if there were one")
    assert_sound(postgres_url)


def test_a_parameter_that_pgbouncer_refuses_is_named_with_what_to_do(pooled_url):
    with pytest.raises(StoreUnavailable, match=r"options.*ignore_startup_parameters"):
        open_at(f"{pooled_url}&options=-csearch_path%3Dother")


def test_nothing_is_kept_on_a_connection_that_another_client_gets(pooled_url):
    """Each setting that one client leaves behind would be the next one's."""
    with open_at(pooled_url) as ledger:
        ledger.conversation("k").append("user", "once")
        ledger.conversations()
        ledger.memory("k")
    engine = sqlalchemy.create_engine(
        pooled_url, connect_args={"prepare_threshold": None}, poolclass=sqlalchemy.NullPool
    )
    for _ in range(2 * SERVER_CONNECTIONS):
        with engine.connect() as connection:
            left = "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name IN ('lock_timeout', 'plan_cache_mode')"
            assert connection.exec_driver_sql(left).scalar_one() == 0
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one() == 0


def test_a_lock_is_not_waited_for_without_end_behind_pgbouncer(pooled_url, monkeypatch):
    monkeypatch.setattr("threadledger.adapters.sql.postgres.LOCK_TIMEOUT_SECONDS", 0.1)
    with open_at(pooled_url) as ledger:
        ledger.conversation("k").append("user", "before")
        with head_locked(pooled_url), pytest.raises(StoreUnavailable, match=r"nothing was written.*holds a lock"):
            ledger.conversation("k").append("user", "too late")
