"""What cannot be opened, and is told in one sentence and left as it was."""

import sqlite3

import pytest

from threadledger.adapters.sql import Database
from threadledger.domain.errors import DatabaseMissing, ForeignDatabase, InvalidSettings, StoreUnavailable


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
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "://hunter2", "", "/a/b.db"]
)
def test_a_url_that_cannot_be_used_is_refused_in_one_sentence_without_its_password(url):
    with pytest.raises(InvalidSettings) as refused:
        Database(url)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)
