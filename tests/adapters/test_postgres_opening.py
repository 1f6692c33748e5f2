"""Opening is as patient as an append with a server that answers, short with one that is not there, and names what is wrong."""

from contextlib import closing
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from threadledger.adapters.sql import Database, Recorder, connections
from threadledger.adapters.sql.addresses import hosts, url_of_server
from threadledger.adapters.sql.connections import ConnectionLost
from threadledger.adapters.sql.sqlstates import BY_STATE, connection_refusal
from threadledger.domain.errors import InvalidSettings, StoreUnavailable

from ..conftest import administer
from .proxying import LOSE_ANSWER, LOSE_REQUEST, PASS, proxy
from .test_store_outages import head_locked
from .writing import assert_sound, open_at, stored_texts

NOBODY_LISTENS = "postgresql://me:hunter2@127.0.0.1:1/ledger"


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between attempts, which are not slept; the first thing in `todo` is done in each."""
    pauses = SimpleNamespace(taken=0, todo=[])

    def pause(seconds):
        pauses.taken += 1
        if pauses.todo:
            pauses.todo.pop(0)()

    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=pause))
    return pauses


def at_piece(number, fate):
    """This fate for the piece with this number, and what counts the pieces."""
    counted = []

    def decide(piece):
        counted.append(piece)
        return fate if len(counted) == number else PASS

    return decide, counted


@pytest.mark.parametrize("fate", [LOSE_REQUEST, LOSE_ANSWER])
def test_a_ledger_opens_wherever_its_connection_breaks(postgres_url, pauses, fate):
    open_at(postgres_url).close()
    number, pieces = 0, [b"the first"]
    while len(pieces) > number:
        number += 1
        with proxy(postgres_url) as between:
            between.fate, pieces = at_piece(number, fate)
            with open_at(between.url.render_as_string(hide_password=False)) as ledger:
                ledger.conversation("k").append("user", str(number))
    assert number > 5
    assert stored_texts(postgres_url) == [str(each) for each in range(1, number + 1)]


@pytest.mark.parametrize("fate", [LOSE_REQUEST, LOSE_ANSWER])
def test_tables_are_created_once_though_the_commit_is_not_acknowledged(postgres_url, pauses, fate):
    with proxy(postgres_url) as between:
        lost = []

        def decide(piece):
            if b"COMMIT" in piece and len(lost) < 2:  # the first one ends a read
                lost.append(piece)
                return fate
            return PASS

        between.fate = decide
        open_at(between.url.render_as_string(hide_password=False)).close()
    assert len(lost) == 2
    assert_sound(postgres_url)


def test_a_server_that_is_not_there_is_not_waited_for_as_long_as_one_that_broke_off(pauses):
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        open_at(NOBODY_LISTENS)
    assert pauses.taken == connections.UNREACHED_SECONDS / connections.RECONNECT_PAUSE_SECONDS
    assert connections.UNREACHED_SECONDS < connections.RECONNECT_SECONDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sslmode", "wrong"),
        ("target_session_attrs", "wrong"),
        ("connect_timeout", "soon"),
        ("service", "unknown"),
        ("hosts", "h1,h2"),
        ("options", "-cunknown=1"),
        ("options", "-cstatement_timeout=soon"),
    ],
)
def test_a_wrong_parameter_of_the_url_is_named_at_once(postgres_url, pauses, name, value):
    url = make_url(postgres_url).update_query_dict({name: value}).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match=r"cannot be used.*correct the parameter"):
        open_at(url)
    assert pauses.taken == 0


@pytest.mark.parametrize(
    ("message", "is_setting"),
    [
        ("server does not support SSL, but SSL was required", True),
        ("SSL error: certificate verify failed", True),
        ('root certificate file "root.crt" does not exist', True),
        ('server certificate for "db" does not match host name "h1"', True),
        ("SSL connection has been closed unexpectedly", False),
        ("SSL SYSCALL error: EOF detected", False),
    ],
)
def test_a_connection_that_tls_refuses_is_not_one_that_broke(message, is_setting):
    category, advice = connection_refusal(f'connection to server at "10.0.0.1", port 5432 failed: {message}')
    assert category == ("unusable" if is_setting else "lost")
    assert ("correct the parameter" in advice) == is_setting


@pytest.fixture
def crowded(postgres_server_url):
    """The URL of a user who may have no connection, until `admit` is called."""
    name = f"crowded_{uuid4().hex}"
    administer(postgres_server_url, f"CREATE ROLE {name} LOGIN SUPERUSER", f"CREATE SCHEMA {name}")
    administer(postgres_server_url, f"ALTER ROLE {name} SET search_path = {name}", f"ALTER ROLE {name} NOSUPERUSER")
    administer(postgres_server_url, f"ALTER SCHEMA {name} OWNER TO {name}", f"ALTER ROLE {name} CONNECTION LIMIT 0")
    url = make_url(postgres_server_url).set(username=name).render_as_string(hide_password=False)
    yield SimpleNamespace(
        url=url, admit=lambda: administer(postgres_server_url, f"ALTER ROLE {name} CONNECTION LIMIT 20")
    )
    administer(postgres_server_url, f"DROP SCHEMA {name} CASCADE", f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_server_with_no_free_connection_is_waited_for(crowded, pauses):
    pauses.todo = [lambda: None, crowded.admit]
    with open_at(crowded.url) as ledger:
        ledger.conversation("k").append("user", "in the end")
    assert pauses.taken >= 2


def test_a_server_with_no_free_connection_is_named_as_that(crowded, pauses):
    with pytest.raises(StoreUnavailable, match=r"accepts no more connections.*max_connections") as refused:
        open_at(crowded.url)
    assert "cannot be reached" not in str(refused.value)
    assert pauses.taken == connections.RECONNECT_SECONDS / connections.RECONNECT_PAUSE_SECONDS


def test_a_statement_that_took_too_long_is_named_as_that_and_nothing_is_stored(postgres_url, open_store_on):
    open_store_on(postgres_url).conversation("k").append("user", "before")
    path = make_url(postgres_url).query["options"]
    slow = make_url(postgres_url).update_query_dict({"options": f"{path} -cstatement_timeout=100"})
    ledger = open_store_on(slow.render_as_string(hide_password=False))
    with head_locked(postgres_url), pytest.raises(StoreUnavailable, match=r"nothing was written.*statement_timeout"):
        ledger.conversation("k").append("user", "too slow")
    assert stored_texts(postgres_url) == ["before"]


def test_a_deadlock_is_repeated(postgres_url, pauses):
    database, told = Database(postgres_url), []

    def work(connection):
        if not told:
            told.append(1)
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return "done"

    assert database.write(work) == "done"
    assert pauses.taken == 1
    database.close()


@pytest.mark.parametrize("state", sorted(state for state in BY_STATE if len(state) == 5))
def test_each_error_of_the_server_is_one_sentence_with_its_advice(state):
    database = Database(NOBODY_LISTENS)
    named = database.named(psycopg.errors.lookup(state)("what the server\nsays"))
    category, advice = BY_STATE[state]
    assert str(named).endswith(advice)
    assert "\n" not in str(named)
    assert "hunter2" not in str(named)
    assert isinstance(named, ConnectionLost) == (category in {"lost", "full", "repeat"})
    assert ("nothing was written" in str(named)) == (category in {"unusable", "read-only", "damaged", "repeat"})
    database.close()


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,9}(\.[a-z0-9-]{1,9})?", fullmatch=True) | st.ip_addresses(v=4).map(str)
PORTS = st.none() | st.integers(1, 65535)


@settings(max_examples=40)
@given(st.lists(st.tuples(NAMES | st.ip_addresses(v=6).map("[{}]".format), PORTS), min_size=2, max_size=4))
def test_the_hosts_of_a_pair_reach_libpq_in_order_with_their_ports(servers):
    text = ",".join(name if port is None else f"{name}:{port}" for name, port in servers)
    rest, parameters = hosts(url_of_server(f"postgresql+psycopg://me@{text}/ledger?target_session_attrs=read-write"))
    assert parameters["host"].split(",") == [name.strip("[]") for name, _ in servers]
    wanted = [str(port or "") for _, port in servers]
    assert parameters.get("port", "," * (len(servers) - 1)).split(",") == wanted
    assert (rest.username, rest.host, rest.database) == ("me", None, "ledger")
    assert dict(rest.query) == {"target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u:hunter2@h1,h2/db", "h1,h2", None),
        ("postgresql://u:hunter2@h1,h2:5433/db", "h1,h2", ",5433"),
        ("postgresql://u:hunter2@/db?host=h1:5432&host=h2:5433", "h1,h2", "5432,5433"),
        ("postgresql://u:hunter2@/db?host=h1,h2&port=5432,5433", "h1,h2", "5432,5433"),
        ("postgresql://u:hunter2@/db?host=/run/one,/run/two&port=5433", "/run/one,/run/two", "5433,5433"),
        ("postgresql://u@h1,[::1]:5433?password=hunter2", "h1,::1", ",5433"),
    ],
)
def test_every_form_of_a_pair_is_read_and_shown_without_its_password(url, host, port):
    assert hosts(url_of_server(url))[1] == {"host": host} | ({"port": port} if port else {})
    database = Database(url)
    assert "hunter2" not in database.shown_url
    assert all(each.strip("[]") in database.shown_url.replace("%2F", "/") for each in host.split(","))
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@h1:one,h2/db",
        "postgresql://u:hunter2@h1:one/db",
        "postgresql://u:hunt@er2@h1,h2/db",
        "postgresql://u:hunter2@h1,h2,h3/db?port=1,2",
        "postgresql://u:hunter2@::1:5432,h2]/db",
        "postgresql://u:hunter2@,/db",
        "postgresql://u:hunter2@h1,,h2/db",
        "postgresql://u:hunter2@h1,:5433/db",
        "postgresql://u:hunter2@/db?host=h1,",
        "postgresql://u:hunter2@h1/db?pgbouncer=maybe",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_in_one_sentence_without_its_password(url):
    with pytest.raises(InvalidSettings) as refused:
        Database(url)
    assert "er2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_server_of_a_pair_that_is_there_is_used(postgres_url, open_store_on, tmp_path):
    given = make_url(postgres_url)
    here = given.query.get("host") or given.host
    pair = given.set(host=None).update_query_dict({"host": f"{tmp_path},{here}"})
    open_store_on(pair.render_as_string(hide_password=False)).conversation("k").append("user", "on the second")
    assert stored_texts(postgres_url) == ["on the second"]


def test_a_database_whose_encoding_cannot_hold_every_message_is_refused_before_a_table_is_created(
    postgres_url: str,
) -> None:
    name = f"latin_{uuid4().hex}"
    with closing(Database(postgres_url)) as server:
        server.query("SELECT 1")
        with server.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        url = make_url(postgres_url).set(database=name).difference_update_query(["options"])
        with closing(Database(url.render_as_string(hide_password=False))) as latin:
            with pytest.raises(InvalidSettings, match="LATIN1"):
                Recorder(latin)
            assert latin.query(
                "SELECT count(*) FROM pg_tables WHERE tableowner = current_user AND schemaname = 'public'"
            ) == [(0,)]
        with server.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
