"""What cannot be opened, and is told in one sentence and left as it was."""

import os
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import threadledger
from threadledger.adapters.sql import Database, restore
from threadledger.domain.errors import (
    DatabaseMissing,
    DatabaseReadOnly,
    ForeignDatabase,
    InvalidSettings,
    StoreUnavailable,
)
from threadledger.domain.journal import quietly

from .writing import stored_texts


def test_a_foreign_database_is_refused_and_left_byte_for_byte_as_it_was(db_path, open_store):
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    connection.close()
    before = db_path.read_bytes()
    with pytest.raises(ForeignDatabase, match="invoices"):
        open_store()
    assert db_path.read_bytes() == before
    assert [path.name for path in db_path.parent.iterdir()] == [db_path.name]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(db_path, open_store):
    db_path.write_bytes(b"My diary. Please do not write here.\n" * 100)
    before = db_path.read_bytes()
    with pytest.raises(ForeignDatabase, match="not a database"):
        open_store()
    assert db_path.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path, open_store_on):
    with pytest.raises(StoreUnavailable, match=r"create the folder .*nowhere"):
        open_store_on(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_has_to_be_there_and_is_not_is_not_made(db_url, db_path):
    with pytest.raises(DatabaseMissing, match="threadledger init"):
        Database(db_url, create=False)
    assert not db_path.exists()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "://hunter2", "", "postgres:/u:hunter2@h/d"]
)
def test_a_url_that_cannot_be_used_is_refused_in_one_sentence_without_its_password(url):
    with pytest.raises(InvalidSettings) as refused:
        Database(url)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "chats.db",
        "my chats.db",
        "a/../chats.db",
        "50%41 #1?.db",
        "größe 日本.db",
        "C:chats.db",
        "chats:2.db",
        "nonsense",
    ],
)
def test_a_text_without_a_scheme_is_the_path_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for place in (Path(name), tmp_path / name):
        with threadledger.open(str(place)) as ledger:
            ledger.conversation("k").append("user", "Hello.")
        assert Path(name).is_file()
        monkeypatch.setenv("THREADLEDGER_DB", str(place))
        with threadledger.open() as ledger:
            assert ledger.state("k").messages >= 1
    with threadledger.open(tmp_path / name) as ledger:
        assert ledger.state("k").messages == 2


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    threadledger.open("~/my chats.db").close()
    assert (tmp_path / "my chats.db").is_file()


@pytest.mark.parametrize("typo", ["postgres:/me:secret@host/x", "postgresql+psycopg:me:secret@host/x", "sqlite:/x.db"])
def test_a_misspelt_address_is_no_path_and_its_password_is_not_shown(tmp_path, monkeypatch, typo):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettings, match="is not followed by ://") as refused:
        threadledger.open(typo)
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# Paths with characters that mean something in a URL


ODD_FOLDERS = ["100%", "a%20b", "what?mode=ro", "é #1", "file:x"]


@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_a_backup_a_restore_and_views_aside_find_their_files_in_any_folder(
    tmp_path, monkeypatch, open_store_on, folder
):
    place = tmp_path / folder
    place.mkdir()
    ledger = open_store_on(str(place / "ledger.db"))
    ledger.conversation("k").append("user", "hi")
    assert ledger.back_up(place / "backup.db") == 2
    ledger.close()
    assert restore(str(place / "ledger.db"), place / "backup.db", lambda facts: None, quietly).events == 2
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with closing(Database(str(place / "ledger.db"), read_only=True)) as database:
        monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK or "views" in str(path))
        assert len(open_store_on(database).conversations()) == 1
    assert {each.name for each in tmp_path.iterdir()} == {folder}


@pytest.mark.parametrize(
    "address",
    [
        "file:a.db",
        "file:a.db?mode=rwc",
        "sqlite:///file:a.db",
        "sqlite:///file:a.db?mode=rwc",
        "sqlite:///file:a.db?uri=true",
    ],
)
def test_an_address_of_sqlite_is_one_however_it_is_given_and_wherever_the_program_goes(
    tmp_path, monkeypatch, open_store_on, address
):
    monkeypatch.chdir(tmp_path)
    ledger = open_store_on(address)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ledger.conversation("k").append("user", "hi")
    with ThreadPoolExecutor(4) as pool:  # connections of their own
        assert list(pool.map(lambda _: len(ledger.memory("k").messages), range(8))) == [1] * 8
    ledger.close()
    assert {each.name for each in tmp_path.iterdir()} == {"a.db", "elsewhere"}
    assert stored_texts(f"sqlite:///{tmp_path}/a.db") == ["hi"]


@pytest.mark.parametrize("address", ["file:a.db?mode=ro", "sqlite:///file:a.db?mode=ro"])
def test_an_address_for_reading_writes_nothing(tmp_path, monkeypatch, open_store_on, address):
    monkeypatch.chdir(tmp_path)
    open_store_on("a.db").conversation("k").append("user", "hi")
    ledger = open_store_on(address)
    assert ledger.status()["read_only"] == "its URL opens it for reading only"
    with pytest.raises(DatabaseReadOnly):
        ledger.conversation("k").append("user", "more")


@pytest.mark.parametrize("options", ["mode=ro", "immutable=1", "mode=rwc&cache=shared", "vfs=unix-none"])
def test_an_option_that_would_have_no_effect_is_refused(tmp_path, options):
    with pytest.raises(InvalidSettings, match="is an option of SQLite's own address"):
        Database(f"sqlite:///{tmp_path}/a.db?{options}")


@pytest.mark.parametrize("url", ["sqlite:///a%00b.db", "sqlite:///file:a%2500b.db", "a\0b.db"])
def test_a_path_with_a_nul_is_refused_in_one_sentence(url):
    with pytest.raises(InvalidSettings, match="contains a NUL"):
        Database(url)
