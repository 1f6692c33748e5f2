"""A command that reads creates nothing and changes nothing, wherever its database is; all commands of the table that read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg  # noqa: F401 - imported before the time is frozen, which its C code does not accept
import pytest
from freezegun import freeze_time
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from threadledger.adapters.sql import sqlite_files

from ..adapters.postgres_pair import pair, wait_for
from .auditing import NOW, open_story
from .command_table import TABLE, Entry
from .conftest import Done

READING = {path: entry for path, entry in TABLE.items() if entry.reads}
WITHOUT_LEDGER = {("doctor",)}
"""Commands that report a missing ledger as a finding (exit 4) among others."""
OF_THE_DATABASE = {("doctor",), ("db", "status"), ("db", "copy"), ("db", "backup")}
"""Commands that print something about the database itself, such as its size or that it cannot be written."""

Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def _at_the_storys_time() -> Iterator[None]:
    with freeze_time(NOW):
        yield


def run(command: Command, entry: Entry, url: str, place: Path) -> Done:
    """Run a command; what it writes on request goes to new files in `place`."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    new = {"FILE": str(place / "new.db"), "FOLDER": str(place / "new"), "URL": f"sqlite:///{place / 'new.db'}"}
    return command(*(new.get(each, each) for each in entry.arguments), "--db", url)


def outcomes(command: Command, url: str, place: Path) -> dict[tuple[str, ...], Done]:
    return {path: run(command, entry, url, place) for path, entry in READING.items()}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects(url: str) -> list[Any]:
    """Return tables, indexes and functions of a PostgreSQL schema, with the number of changed rows."""
    schema = str(make_url(url).query["options"]).partition("search_path=")[2].split()[0]
    engine = create_engine(url)
    query = (
        f"SELECT relname, relkind, relfilenode FROM pg_class WHERE relnamespace = '{schema}'::regnamespace ORDER BY 1"
    )
    with engine.connect() as connection:
        found = list(connection.exec_driver_sql(query))
        tables = [row[0] for row in found if row[1] == "r"]
        rows = [
            connection.exec_driver_sql(f'SELECT count(*), max(xmin::text) FROM {schema}."{each}"') for each in tables
        ]
        found += [row.one() for row in rows]
    engine.dispose()
    return found


def wrong_refusals(done: Mapping[tuple[str, ...], Done]) -> dict[tuple[str, ...], Done]:
    """Return the commands that did not refuse a missing ledger with exit 6 and the command that creates one."""
    return {
        path: each
        for path, each in done.items()
        if (each.code, "threadledger init" in each.err + each.out) != ((4 if path in WITHOUT_LEDGER else 6), True)
    }


def test_some_commands_read() -> None:
    assert len(READING) > 15


@pytest.mark.parametrize("found", ["no file", "an empty file"])
def test_a_command_that_reads_refuses_a_missing_ledger_and_creates_nothing(
    found: str, command: Command, provider: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "ledgers"
    folder.mkdir()
    if found == "an empty file":
        (folder / "ledger.db").touch()
    before = contents(folder)
    done = outcomes(command, f"sqlite:///{folder / 'ledger.db'}", tmp_path / "new")
    assert wrong_refusals(done) == {}
    assert contents(folder) == before
    assert list((tmp_path / "new").iterdir()) == []


def test_a_command_that_reads_refuses_an_empty_server_and_creates_nothing(
    command: Command, provider: Any, tmp_path: Path, postgres_url: str
) -> None:
    done = outcomes(command, postgres_url, tmp_path / "new")
    assert wrong_refusals(done) == {}
    assert objects(postgres_url) == []


_WRITTEN: dict[tuple[str, ...], Done] = {}


@pytest.fixture
def written(command: Command, provider: Any, tmp_path: Path) -> dict[tuple[str, ...], Done]:
    """What the commands print where the ledger can be written. They run once for all tests."""
    if not _WRITTEN:
        (tmp_path / "writable").mkdir()
        url = f"sqlite:///{tmp_path / 'writable' / 'ledger.db'}"
        open_story(url).close()
        _WRITTEN.update(outcomes(command, url, tmp_path / "new"))
    return _WRITTEN


def differing(done: Mapping[tuple[str, ...], Done], expected: Mapping[tuple[str, ...], Done]) -> dict[Any, Any]:
    return {
        path: (each, expected[path])
        for path, each in done.items()
        if each.code != expected[path].code or (path not in OF_THE_DATABASE and each.out != expected[path].out)
    }


@pytest.mark.parametrize("views", ["never read", "up to date", "behind"])
def test_a_command_that_reads_works_on_a_file_that_cannot_be_written(
    views: str,
    written: dict[tuple[str, ...], Done],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "ledgers"
    folder.mkdir()
    url = f"sqlite:///{folder / 'ledger.db'}"
    with open_story(url) as ledger:
        if views != "never read":
            ledger.conversations(search="parcel"), ledger.failures()
        if views == "behind":
            ledger.conversation("later").append("user", "One more parcel.")
    before = contents(folder)
    monkeypatch.setattr(sqlite_files.os, "access", lambda place, _: not Path(place).is_relative_to(folder))
    done = outcomes(command, url, tmp_path / "new")
    assert contents(folder) == before
    if views != "behind":
        assert differing(done, written) == {}
        assert "behind" not in "".join(each.err for each in done.values())
    else:
        assert {path: each.code for path, each in done.items()} == {path: each.code for path, each in written.items()}
        assert done["list",].out == written["list",].out
        assert f"the view conversations is 2 events behind and is read as it is: the file {folder}" in done["list",].err


def test_views_with_unreadable_rows_are_built_next_to_a_file_that_cannot_be_written_and_removed_without_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import tempfile

    path = tmp_path / "ledgers" / "ledger.db"
    path.parent.mkdir()
    with open_story(f"sqlite:///{path}") as ledger:
        expected = [state.as_json() for state in ledger.conversations()]
        (view,) = (each for each in ledger.status()["views"] if each["name"] == "conversations")
        database_of(ledger).execute(f"UPDATE view_conversations_{view['version']}_1_states SET state = '{{'")
    before = contents(path.parent)
    monkeypatch.setattr(sqlite_files.os, "access", lambda place, _: not Path(place).is_relative_to(path.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reader = open_story_again(f"sqlite:///{path}", read_only=True)
    assert [state.as_json() for state in reader.conversations()] == expected
    assert contents(path.parent) == before
    assert list(tmp_path.glob("threadledger-views-*"))
    del reader
    gc.collect()
    assert not list(tmp_path.glob("threadledger-views-*"))


def test_a_view_with_unreadable_rows_on_a_read_only_server_is_named_with_the_command_for_the_primary(
    command: Command, postgres_url: str
) -> None:
    with open_story(postgres_url) as ledger:
        ledger.conversations()
        (view,) = (each for each in ledger.status()["views"] if each["name"] == "conversations")
        database_of(ledger).execute(f"UPDATE view_conversations_{view['version']}_1_states SET state = '{{'")
    url = make_url(postgres_url)
    options = f"{url.query['options']} -cdefault_transaction_read_only=on"
    done = command("list", "--db", url.update_query_dict({"options": options}).render_as_string(hide_password=False))
    assert done.code == 1
    assert "the view conversations has a row that cannot be read" in done.err
    assert "run threadledger db rebuild-views where the database can be written" in done.err


def test_a_command_that_reads_works_on_a_read_only_server(
    written: dict[tuple[str, ...], Done], command: Command, tmp_path: Path, postgres_url: str
) -> None:
    with open_story(postgres_url) as ledger:
        ledger.conversations(search="parcel"), ledger.failures()
    before = objects(postgres_url)
    url = make_url(postgres_url)
    options = f"{url.query['options']} -cdefault_transaction_read_only=on"
    read_only = url.update_query_dict({"options": options}).render_as_string(hide_password=False)
    done = outcomes(command, read_only, tmp_path / "new")
    assert differing(done, written) == {}
    assert objects(postgres_url) == before
    assert "read-only" in done["db", "status"].out

    with open_story_again(postgres_url) as ledger:
        ledger.conversation("later").append("user", "One more parcel.")
    late = command("list", "--search", "parcel", "--db", read_only)
    assert late.out == command("list", "--search", "parcel", "--db", read_only, "-o", "table").out
    assert "the view search is 2 events behind and is read as it is: the server is set to read-only" in late.err
    refused = command("append", "k", "user", "Hello.", "--db", read_only)
    assert refused.code == 1
    assert "write to the primary" in refused.err
    assert "nothing was written" in refused.err


def database_of(ledger: Any) -> Any:
    return ledger.journal.recorder._database


def open_story_again(url: str, **options: Any) -> Any:
    import threadledger

    return threadledger.open(url, threads="none", **options)


def test_a_view_that_was_never_built_is_named_with_the_command_for_the_primary(
    command: Command, postgres_url: str
) -> None:
    open_story(postgres_url).close()
    url = make_url(postgres_url)
    options = f"{url.query['options']} -cdefault_transaction_read_only=on"
    read_only = url.update_query_dict({"options": options}).render_as_string(hide_password=False)
    done = command("list", "--db", read_only)
    assert done.code == 1
    assert "run threadledger db rebuild-views where the database can be written" in done.err
    assert command("export", "--all", "--db", read_only).code == 0  # which needs no view


def test_an_older_schema_is_not_upgraded_by_a_command_that_reads_but_can_be_backed_up(
    command: Command, provider: Any, tmp_path: Path
) -> None:
    import sqlite3

    golden = Path(__file__).resolve().parents[1] / "golden" / "schema-4.sql"
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(golden.read_text(encoding="utf-8"))
    connection.close()
    before = contents(tmp_path)
    done = outcomes(command, f"sqlite:///{tmp_path / 'old.db'}", tmp_path / "new")
    refused = {path: each for path, each in done.items() if path not in {("doctor",), ("db", "backup")}}
    assert {path: each.code for path, each in refused.items() if each.code != 1} == {}
    assert {path for path, each in refused.items() if "run: threadledger db upgrade" not in each.err} == set()
    assert done["db", "backup"].code == 0
    assert contents(tmp_path) | before == contents(tmp_path)
    assert command("db", "upgrade", "--db", str(tmp_path / "old.db")).code == 0
    assert command("list", "--db", str(tmp_path / "old.db")).code == 0


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_of_the_file_system_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a replaced `os.access`: as another user, if the tests run as root, to whom permissions do not apply."""
    import tempfile

    import threadledger

    folder = Path(tempfile.mkdtemp())
    monkeypatch.chdir(folder)
    with threadledger.open("ledger.db", threads="none") as ledger:
        ledger.conversation("k").append("user", "Hello.")
        assert ledger.conversations(search="hello")
    (folder / "ledger.db").chmod(0o444)
    folder.chmod(0o555)
    as_root = os.geteuid() == 0
    if as_root:
        os.setresuid(65534, 65534, 0)
    try:
        with threadledger.open("ledger.db", read_only=True, threads="none") as ledger:
            assert [state.key for state in ledger.conversations(search="hello")] == ["k"]
            assert ledger.status()["read_only"] == f"the file {folder / 'ledger.db'} is read-only"
    finally:
        if as_root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o755)
    assert [path.name for path in folder.iterdir()] == ["ledger.db"]
    shutil.rmtree(folder)


def test_a_hot_standby_serves_every_command_that_reads(
    written: dict[tuple[str, ...], Done], command: Command, tmp_path: Path
) -> None:
    with pair(synchronous=False) as servers:
        with open_story(servers.primary.url) as ledger:
            ledger.conversations(search="parcel"), ledger.failures()
        replayed(servers)
        done = outcomes(command, servers.standby.url, tmp_path / "new")
        assert differing(done, written) == {}
        assert "this server is a hot standby, which has replayed the commits up to" in done["db", "status"].out

        with open_story_again(servers.primary.url) as ledger:
            ledger.conversation("later").append("user", "One more parcel.")
        replayed(servers)
        assert "later" in command("events", "--db", servers.standby.url).out
        late = command("list", "--db", servers.standby.url)
        assert late.out == done["list",].out
        assert (
            "the view conversations is 2 events behind and is read as it is: this server is a hot standby" in late.err
        )
        refused = command("append", "k", "user", "Hello.", "--db", servers.standby.url)
        assert (refused.code, "write to the primary" in refused.err) == (1, True)


def replayed(servers: Any) -> None:
    """Wait until the standby has everything that the primary has."""
    ((position,),) = servers.primary.ask("SELECT pg_current_wal_lsn()")
    wait_for(lambda: servers.standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])
