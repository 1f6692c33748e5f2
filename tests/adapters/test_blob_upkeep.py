"""What the operator's commands do with attachments: check, backup, copy, restore, fork."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters.sql import Database, restore
from threadledger.adapters.sql.blobs import name_of
from threadledger.adapters.sql.upkeep import back_up
from threadledger.domain.errors import BlobMissing, ChangedEvent
from threadledger.domain.journal import quietly
from threadledger.domain.ledger import Ledger

from .storing import database_of, files_at, open_blobs, pattern, refer, references, rows_of

MIB = 1024 * 1024
DATA = pattern(2 * MIB + 5)


@pytest.fixture
def ledger(any_db_url: str) -> Iterator[Ledger]:
    """A ledger with an attachment of three chunks, to which two conversations refer, and one without references."""
    with closing(open_blobs(any_db_url)) as opened:
        address = opened.journal.blobs.add([DATA]).address
        opened.conversation("a").append("user", 'No attachment, but the text "blobs":["sha256:0"].')
        refer(opened, "a", address)
        refer(opened, "b", address)
        opened.journal.blobs.add([b"unreferenced"])
        yield opened


def used(ledger: Ledger) -> str:
    """The address that events refer to."""
    return next(each.address for each in ledger.journal.blobs.listed() if each.references)


def execute(ledger: Ledger, statement: str) -> None:
    """Change a row behind the ledger's back, without the checks of the database."""
    database = database_of(ledger)
    with database.cursor() as cursor:
        if database.kind.name == "sqlite":
            cursor.execute("PRAGMA foreign_keys = OFF")
            cursor.execute(statement)
            cursor.execute("PRAGMA foreign_keys = ON")
        else:
            cursor.execute("SET session_replication_role = replica")
            cursor.execute(statement)
            cursor.execute("SET session_replication_role = origin")


def problems(ledger: Ledger) -> list[tuple[str, str | None, int | None]]:
    """The findings about attachments: problem, key and version. Any other one fails the test, but those of foreign keys."""
    found = list(ledger.check())
    assert {each.subject for each in found} <= {"blob", "database"}, found
    return [(each.problem, each.key, each.version) for each in found if each.subject == "blob"]


def test_attachments_that_nobody_touched_are_clean(ledger: Ledger) -> None:
    assert problems(ledger) == []


CHANGES = (
    ("UPDATE blob_chunks SET data = CAST('changed' AS {bytes}) WHERE n = 2", "has more than its 2,097,157 bytes"),
    ("UPDATE blob_chunks SET data = CAST('four' AS {bytes}) WHERE n = 2", "lacks chunk 3"),
    ("UPDATE blob_chunks SET data = CAST('other' AS {bytes}) WHERE n = 2", "does not match its hash"),
    ("DELETE FROM blob_chunks WHERE n = 1", "lacks chunk 1"),
    ("DELETE FROM blob_chunks WHERE n = 2", "lacks chunk 2"),
    ("DELETE FROM blob_chunks WHERE n = 0", "are not in the database"),
    ("UPDATE blobs SET size = 3000000 WHERE 1 = 1", "lacks chunk 3"),
    ("UPDATE blobs SET size = 7 WHERE 1 = 1", "has more than its 7 bytes"),
    ("UPDATE blobs SET complete = 0 WHERE 1 = 1", "is incomplete, although an event refers to it"),
    (
        "INSERT INTO blob_chunks (address, n, data) SELECT address, 9, data FROM blob_chunks WHERE n = 2",
        "has 1 chunks after its end",
    ),
)


def test_changed_bytes_of_an_attachment_are_a_finding(ledger: Ledger) -> None:
    kind = "BLOB" if database_of(ledger).kind.name == "sqlite" else "BYTEA"
    expected = {}
    for number, (change, problem) in enumerate(CHANGES):
        address = ledger.journal.blobs.add([DATA[:-5], b"%5d" % number]).address
        refer(ledger, "c", address)
        execute(ledger, f"{change.format(bytes=kind)} AND address = '{address}'")
        expected[address] = problem
    found = [problem for problem, *_ in problems(ledger)]
    for address, problem in expected.items():
        assert any(address in each and problem in each for each in found), (problem, found)
    assert all(any(address in each for address in expected) for each in found)


def test_an_attachment_whose_row_is_gone_is_a_finding(ledger: Ledger) -> None:
    address = used(ledger)
    execute(ledger, f"DELETE FROM blobs WHERE address = '{address}'")
    assert problems(ledger) == [
        (f"there are chunks of {address}, which is not listed", None, None),
        (f"{address}, to which this event refers, is missing", "a", 3),
        (f"{address}, to which this event refers, is missing", "b", 2),
    ]


def test_an_event_whose_reference_is_gone_is_a_finding(ledger: Ledger) -> None:
    address = used(ledger)
    execute(ledger, "DELETE FROM blob_refs WHERE version = 3")
    problem = f"it names {address}, and the reference that keeps this attachment is missing"
    assert problems(ledger) == [(problem, "a", 3)]


def test_a_reference_that_no_event_has_is_a_finding(ledger: Ledger) -> None:
    address = used(ledger)
    execute(ledger, "UPDATE blob_refs SET version = 2 WHERE version = 3")
    execute(ledger, f"INSERT INTO blob_refs VALUES ('{address}', (SELECT min(stream) FROM streams), 77)")
    found = problems(ledger)
    assert (f"{address} has a reference of this event, which does not name it", "a", 2) in found
    assert any("whose event is missing" in problem and version == 77 for problem, _, version in found)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE blob_chunks SET data = CAST('other' AS {bytes}) WHERE n = 2",
        "DELETE FROM blob_refs WHERE version = 3",
        "DELETE FROM blob_chunks WHERE n = 1",
    ],
)
def test_a_damaged_attachment_is_neither_backed_up_nor_copied(ledger: Ledger, change: str, tmp_path: Path) -> None:
    kind = "BLOB" if database_of(ledger).kind.name == "sqlite" else "BYTEA"
    execute(ledger, change.format(bytes=kind))
    for copy in (lambda: ledger.back_up("backup.db"), lambda: ledger.copy_to(f"sqlite:///{tmp_path}/copy.db")):
        with pytest.raises(ChangedEvent, match="no copy was made, because the ledger is damaged"):
            copy()
    assert not Path("backup.db").exists()


# Copies


def assert_whole(url: str) -> None:
    """The copy has all attachments and references, and needs no other place."""
    with closing(open_blobs(url)) as copy:
        blobs = {each.size: each for each in copy.journal.blobs.listed()}
        assert {size: each.references for size, each in blobs.items()} == {len(DATA): 2, 12: 0}
        address = blobs[len(DATA)].address
        assert b"".join(copy.journal.blobs.read(address)) == DATA
        assert references(copy) == [("a", address, 3), ("b", address, 2)]
        assert rows_of(copy) == (2, 4, 2)
        assert list(copy.check()) == []


def test_a_backup_and_a_copy_have_the_attachments(
    ledger: Ledger, new_postgres_url: Callable[[], str], tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    assert ledger.back_up(backup) == 5
    assert_whole(f"sqlite:///{backup}")
    url = new_postgres_url() if database_of(ledger).kind.name == "sqlite" else f"sqlite:///{tmp_path}/copy.db"
    assert ledger.copy_to(url) == 5
    assert_whole(url)


def test_a_restored_backup_has_the_attachments(ledger: Ledger, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    ledger.back_up(backup)
    target = f"sqlite:///{tmp_path}/restored.db"
    assert restore(target, backup, lambda plan: None, quietly).findings == ()
    assert_whole(target)


def test_a_backup_with_a_damaged_attachment_is_not_restored(ledger: Ledger, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    ledger.back_up(backup)
    with closing(Database(str(backup))) as database:
        database.execute("UPDATE blob_chunks SET data = CAST('other' AS BLOB) WHERE n = 2")
    restored = restore(f"sqlite:///{tmp_path}/restored.db", backup, lambda plan: None, quietly)
    assert [each.subject for each in restored.findings] == ["blob"]
    assert not (tmp_path / "restored.db").exists()


@pytest.fixture
def elsewhere(any_db_url: str, tmp_path: Path) -> Iterator[Ledger]:
    """The same ledger, with the bytes in a folder."""
    with closing(open_blobs(any_db_url, files_at("folder", tmp_path))) as opened:
        address = opened.journal.blobs.add([DATA]).address
        opened.conversation("a").append("user", "No attachment.")
        refer(opened, "a", address)
        refer(opened, "b", address)
        opened.journal.blobs.add([b"unreferenced"])
        yield opened


def test_a_backup_and_a_copy_of_bytes_elsewhere_contain_the_bytes(
    elsewhere: Ledger, new_postgres_url: Callable[[], str], tmp_path: Path
) -> None:
    assert rows_of(elsewhere) == (2, 0, 2)
    assert problems(elsewhere) == []
    elsewhere.back_up(tmp_path / "backup.db")
    assert_whole(f"sqlite:///{tmp_path}/backup.db")
    url = new_postgres_url() if database_of(elsewhere).kind.name == "sqlite" else f"sqlite:///{tmp_path}/copy.db"
    elsewhere.copy_to(url)
    assert_whole(url)


def test_bytes_elsewhere_that_are_changed_or_missing_are_a_finding_and_not_backed_up(
    elsewhere: Ledger, tmp_path: Path
) -> None:
    files, address = database_of(elsewhere).blob_files(), used(elsewhere)
    files.write(name_of(address), [DATA[:-1] + b"?"])
    assert problems(elsewhere) == [(f"the attachment {address} does not match its hash", None, None)]
    with pytest.raises(ChangedEvent, match="does not match its hash"):
        elsewhere.back_up("backup.db")
    files.remove(name_of(address))
    ((problem, *_),) = problems(elsewhere)
    assert problem.startswith(f"there is no file {name_of(address)} at ")
    with pytest.raises(BlobMissing, match="there is no file"):
        elsewhere.back_up("backup.db")
    assert not Path("backup.db").exists()


def test_a_ledger_opened_without_the_place_of_its_bytes_is_not_backed_up_without_them(
    elsewhere: Ledger, any_db_url: str, tmp_path: Path
) -> None:
    with closing(open_blobs(any_db_url)) as other:
        assert len(problems(other)) == 2
        with pytest.raises(BlobMissing, match="set THREADLEDGER_BLOBS"):
            other.back_up("backup.db")


def test_a_blob_that_was_removed_before_its_file_was_copied_is_left_out_of_the_backup(
    elsewhere: Ledger, tmp_path: Path
) -> None:
    (unused,) = (each.address for each in elsewhere.journal.blobs.listed() if not each.references)
    database_of(elsewhere).blob_files().remove(name_of(unused))
    elsewhere.back_up(tmp_path / "backup.db")
    with closing(open_blobs(f"sqlite:///{tmp_path}/backup.db")) as copy:
        assert [each.size for each in copy.journal.blobs.listed()] == [len(DATA)]
        assert list(copy.check()) == []


def test_a_database_of_an_earlier_schema_is_still_backed_up(tmp_path: Path) -> None:
    import sqlite3

    golden = Path(__file__).resolve().parents[1] / "golden" / "schema-5.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(golden.read_text(encoding="utf-8"))
    with closing(Database(str(tmp_path / "old.db"), create=False, upgrade=False)) as database:
        assert back_up(database, tmp_path / "backup.db", quietly) > 0


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def test_a_database_does_not_grow_with_the_number_of_references(db_url: str, db_path: Path) -> None:
    with closing(open_blobs(db_url)) as ledger:
        address = ledger.journal.blobs.add([DATA]).address
        for number in range(3):
            refer(ledger, f"k{number}", address)
    before: Any = _size(db_path)
    with closing(open_blobs(db_url)) as ledger:
        for number in range(20):
            ledger.journal.blobs.add([DATA])
            refer(ledger, f"more {number}", address)
    assert before < len(DATA) + MIB
    assert _size(db_path) - before < MIB // 4
