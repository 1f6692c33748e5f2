"""The contract of the store of attachments, on both databases, with the bytes in the database and elsewhere."""

from __future__ import annotations

import errno
import io
import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import msgspec
import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from threadledger.adapters.blob_files import FsspecFiles
from threadledger.adapters.sql import blobs as sql_blobs
from threadledger.adapters.sql.blobs import name_of
from threadledger.domain.conversation import Conversation, text_message
from threadledger.domain.errors import (
    BlobMissing,
    BlobTooLarge,
    ChangedBlob,
    DatabaseReadOnly,
    InvalidInput,
    StoreUnavailable,
)
from threadledger.domain.ids import from_iso, new_id, now
from threadledger.domain.journal.blobs import BLOB_BYTES_MAX, CHUNK_BYTES, hashed_address
from threadledger.domain.ledger import Ledger

from .storing import (
    PLACES,
    SIZES,
    database_of,
    files_at,
    in_pieces,
    open_blobs,
    pattern,
    refer,
    references,
    rows_of,
)

MIB = 1024 * 1024


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_ledger_again(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    """A function that opens ledgers on one database and one place of bytes."""
    url = request.getfixturevalue("db_url" if place.startswith("sqlite") else "postgres_url")
    files = files_at(place, tmp_path)
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        opened.append(open_blobs(url, files))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger_again: Callable[[], Ledger]) -> Ledger:
    return open_ledger_again()


def soon() -> Any:
    """A time after every blob of the test."""
    return now() + timedelta(days=1)


def test_bytes_of_any_size_come_back_as_they_were(ledger: Ledger) -> None:
    blobs = ledger.journal.blobs
    for size in SIZES:
        data = pattern(size, seed=size)
        blob = blobs.add(in_pieces(data))
        assert (blob.size, blobs.size(blob.address)) == (size, size)
        chunks = list(blobs.read(blob.address))
        assert b"".join(chunks) == data
        assert max(map(len, chunks), default=0) <= CHUNK_BYTES
    assert len({each.address for each in blobs.listed()}) == len(SIZES)


def test_the_same_bytes_are_stored_once_and_their_time_is_renewed(ledger: Ledger, place: str) -> None:
    blobs, data = ledger.journal.blobs, pattern(2 * MIB)
    with freeze_time("2026-11-01T00:00:00Z"):
        first = blobs.add([data])
    with freeze_time("2026-11-05T00:00:00Z"):
        assert blobs.add(in_pieces(data)) == first
    with freeze_time("2026-11-03T00:00:00Z"):
        assert blobs.add([data]) == first
    (listed,) = blobs.listed()
    assert listed.at.isoformat() == "2026-11-05T00:00:00+00:00"
    assert rows_of(ledger)[:2] == (1, 2 if " and " not in place else 0)


def test_what_is_too_large_is_refused_and_leaves_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_blobs, "BLOB_BYTES_MAX", 3 * MIB)
    assert ledger.journal.blobs.add([pattern(3 * MIB)]).size == 3 * MIB
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(MIB)

    with pytest.raises(BlobTooLarge, match="more than 64 MiB: nothing was stored"):
        ledger.journal.blobs.add(endless())
    assert read == 4
    assert rows_of(ledger)[0] == 1
    assert issubclass(BlobTooLarge, InvalidInput)


def test_a_blob_that_is_not_there_or_incomplete_is_missing(ledger: Ledger) -> None:
    blobs = ledger.journal.blobs
    address = blobs.add([b"abc"]).address
    database_of(ledger).execute("UPDATE blobs SET complete = 0")
    for each in (address, "sha256:" + "0" * 64, "sha256:../../etc/passwd", "", "\0", "\ud800"):
        assert blobs.size(each) is None
        with pytest.raises(BlobMissing, match="blobs list"):
            blobs.read(each)
    assert [each.complete for each in blobs.listed()] == [False]


def test_a_changed_blob_is_never_returned_whole(ledger: Ledger, place: str) -> None:
    blobs, data = ledger.journal.blobs, pattern(2 * MIB + 5)
    address = blobs.add([data]).address
    _overwrite(ledger, address, data[:-1] + b"?")
    chunks = []
    with pytest.raises(ChangedBlob, match="does not match its hash: it was changed after it was stored"):
        for chunk in blobs.read(address):
            chunks.append(chunk)
    assert b"".join(chunks) == data[: 2 * MIB]


def test_a_blob_that_is_shorter_or_longer_is_refused(ledger: Ledger) -> None:
    blobs, data = ledger.journal.blobs, pattern(2 * MIB + 5)
    address = blobs.add([data]).address
    for other in (data[:-1], data[:MIB], data + b"?"):
        _overwrite(ledger, address, other)
        with pytest.raises(ChangedBlob, match=r"bytes|lacks chunk"):
            list(blobs.read(address))


def _overwrite(ledger: Ledger, address: str, data: bytes) -> None:
    """Change stored bytes behind the ledger's back."""
    database = database_of(ledger)
    if database.blob_files is not None:
        database.blob_files().write(name_of(address), [data])
        return
    database.execute("DELETE FROM blob_chunks WHERE address = ?", (address,))
    for number, chunk in enumerate(in_pieces(data, MIB)):
        database.execute("INSERT INTO blob_chunks (address, n, data) VALUES (?, ?, ?)", (address, number, chunk))


def test_blobs_are_listed_page_by_page_in_the_order_of_their_addresses(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_blobs, "PAGE_BLOBS", 3)
    blobs = ledger.journal.blobs
    addresses = sorted(blobs.add([b"%d" % number]).address for number in range(8))
    assert [each.address for each in blobs.listed()] == addresses
    assert [each.address for each in blobs.listed(after=addresses[2], limit=4)] == addresses[3:7]
    assert [each.address for each in islice(blobs.listed(limit=100), 100)] == addresses
    assert list(blobs.listed(limit=0)) == []
    assert list(blobs.listed(after=addresses[-1])) == []


def test_only_a_blob_that_is_old_and_not_referred_to_is_removed(ledger: Ledger, place: str) -> None:
    blobs = ledger.journal.blobs
    with freeze_time("2026-11-01T00:00:00Z"):
        kept, old = blobs.add([b"kept"]).address, blobs.add([pattern(2 * MIB)]).address
    with freeze_time("2026-11-02T00:00:00Z"):
        young = blobs.add([b"young"]).address
        before = now() - timedelta(hours=1)
    refer(ledger, "k", kept)
    assert [each.address for each in blobs.prunable(before)] == [old]
    assert [blobs.remove(each, before) for each in (kept, young, old, old)] == [False, False, True, False]
    assert {each.address: each.references for each in blobs.listed()} == {kept: 1, young: 0}
    if "folder" in place:
        assert not list(Path.cwd().rglob(old.partition(":")[2]))
    assert blobs.add([pattern(2 * MIB)]).address == old
    assert b"".join(blobs.read(old)) == pattern(2 * MIB)


def test_an_incomplete_blob_is_removed_like_any_other(ledger: Ledger) -> None:
    blobs = ledger.journal.blobs
    address = blobs.add([b"abc"]).address
    database_of(ledger).execute("UPDATE blobs SET complete = 0")
    assert [each.complete for each in blobs.prunable(soon())] == [False]
    assert blobs.remove(address, soon())
    assert rows_of(ledger) == (0, 0, 0)


def test_a_remover_that_stops_between_its_steps_leaves_a_blob_that_is_written_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs: Any = ledger.journal.blobs
    data = pattern(2 * MIB)
    address = blobs.add([data]).address

    def stop(*_: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(blobs), "_remove", stop)
        with pytest.raises(KeyboardInterrupt):
            blobs.remove(address, soon())
    with pytest.raises(BlobMissing):
        refer(ledger, "k", address)
    assert blobs.add([data]).address == address
    refer(ledger, "k", address)
    assert b"".join(blobs.read(address)) == data


# References


def test_an_event_that_refers_to_blobs_is_stored_with_its_references(ledger: Ledger) -> None:
    one, two = (ledger.journal.blobs.add([each]).address for each in (b"one", b"two"))
    refer(ledger, "a", one, two, one)
    refer(ledger, "b", two)
    refer(ledger, "a", two)
    assert references(ledger) == sorted([("a", one, 2), ("a", two, 2), ("a", two, 3), ("b", two, 2)])
    assert {each.address: each.references for each in ledger.journal.blobs.listed()} == {one: 1, two: 3}


def test_an_event_that_refers_to_a_blob_that_is_not_stored_is_refused(ledger: Ledger) -> None:
    there = ledger.journal.blobs.add([b"there"]).address
    incomplete = ledger.journal.blobs.add([b"incomplete"]).address
    absent = "sha256:" + "0" * 64
    database_of(ledger).execute("UPDATE blobs SET complete = 0 WHERE address = ?", (incomplete,))
    for wrong in (absent, incomplete):
        for key in ("new", "known"):
            with pytest.raises(BlobMissing, match="are not stored: nothing was written") as raised:
                refer(ledger, key, there, wrong)
            assert wrong in str(raised.value)
            assert there not in str(raised.value)
        refer(ledger, "known", there)
    with pytest.raises(InvalidInput, match="no address of an attachment"):
        refer(ledger, "known", "../../etc/passwd")
    assert references(ledger) == [("known", there, 2), ("known", there, 3)]
    assert ledger.journal.load("new") is None
    assert ledger.journal.require("known").version == 3


def test_one_event_that_is_refused_stops_no_other_of_its_group(open_ledger_again: Callable[[], Ledger]) -> None:
    ledger = open_ledger_again()
    there, absent = ledger.journal.blobs.add([b"there"]).address, "sha256:" + "0" * 64

    def append(number: int) -> str:
        try:
            refer(ledger, f"k{number}", absent if number % 4 == 0 else there)
            return "stored"
        except BlobMissing:
            return "refused"

    with ThreadPoolExecutor(12) as threads:
        results = list(threads.map(append, range(24)))
    assert results == ["refused" if number % 4 == 0 else "stored" for number in range(24)]
    assert [key for key, *_ in references(ledger)] == sorted(f"k{n}" for n in range(24) if n % 4)
    assert list(ledger.check()) == []


def test_a_message_with_an_idempotency_key_keeps_its_references_and_is_stored_once(ledger: Ledger) -> None:
    address = ledger.journal.blobs.add([b"one"]).address
    ledger.conversation("k").append("user", "first", idempotency_key="i")
    refer(ledger, "k", address)
    ledger.conversation("k").append("user", "first", idempotency_key="i")
    assert references(ledger) == [("k", address, 3)]


def test_references_are_written_with_the_notes_of_the_same_transaction(ledger: Ledger) -> None:
    address = ledger.journal.blobs.add([b"one"]).address
    absent = "sha256:" + "0" * 64

    def decide(blob: str) -> Callable[[Conversation], None]:
        def journal(conversation: Conversation) -> None:
            event = conversation.journal(text_message("user", "See this."), idempotency_key=blob)
            conversation.pending[-1] = msgspec.structs.replace(event, blobs=[blob])

        return journal

    ledger.journal.commit("k", decide(address), create=True, also=lambda cursor: None)
    with pytest.raises(BlobMissing):
        ledger.journal.commit("k", decide(absent), also=lambda cursor: None)
    assert references(ledger) == [("k", address, 2)]
    assert ledger.journal.keyed("k", address) is not None
    assert ledger.journal.keyed("k", absent) is None


def test_a_read_only_ledger_adds_nothing(ledger: Ledger) -> None:
    database_of(ledger).read_only = True
    with pytest.raises(DatabaseReadOnly, match="read_only=True: nothing was written"):
        ledger.journal.blobs.add([b"abc"])


# Writers


def test_what_a_stopped_writer_left_is_completed_by_the_next(
    open_ledger_again: Callable[[], Ledger], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pattern(3 * MIB)
    stopped, ledger = open_ledger_again(), open_ledger_again()
    blobs: Any = stopped.journal.blobs

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(blobs), "_end", stop)
        with pytest.raises(KeyboardInterrupt):
            blobs.add([data])
    (left,) = ledger.journal.blobs.listed()
    assert not left.complete
    assert list(ledger.check()) == []
    assert ledger.journal.blobs.add([data]).address == left.address
    assert b"".join(ledger.journal.blobs.read(left.address)) == data


def test_others_append_between_the_chunks_of_a_blob(
    open_ledger_again: Callable[[], Ledger], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = open_ledger_again(), open_ledger_again()
    database, appended = database_of(writer), 0
    execute = database.execute

    def execute_and_append(*arguments: Any) -> None:
        nonlocal appended
        execute(*arguments)
        other.conversation("k").append("user", "meanwhile")
        appended += 1

    monkeypatch.setattr(database, "execute", execute_and_append)
    writer.journal.blobs.add([pattern(3 * MIB)])
    assert appended == (0 if " and " in place else 3)


def test_many_writers_of_the_same_bytes_store_them_once(open_ledger_again: Callable[[], Ledger]) -> None:
    ledgers, data = [open_ledger_again() for _ in range(3)], pattern(2 * MIB)
    with ThreadPoolExecutor(6) as threads:
        added = list(threads.map(lambda number: ledgers[number % 3].journal.blobs.add([data]), range(6)))
    assert len(set(added)) == 1
    assert b"".join(ledgers[0].journal.blobs.read(added[0].address)) == data
    assert rows_of(ledgers[0])[0] == 1
    assert list(ledgers[0].check()) == []


def test_a_blob_that_is_removed_while_it_is_written_is_written_again(
    open_ledger_again: Callable[[], Ledger], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, remover, data = open_ledger_again(), open_ledger_again(), pattern(2 * MIB)
    blobs: Any = writer.journal.blobs
    end, removed = type(blobs)._end, []

    def remove_first(*arguments: Any) -> None:
        if len(removed) < 2:
            (left,) = remover.journal.blobs.listed()
            removed.append(remover.journal.blobs.remove(left.address, soon()))
        end(*arguments)

    if place.startswith("postgresql"):  # on SQLite, the transaction that ends holds the lock
        monkeypatch.setattr(type(blobs), "_end", remove_first)
    else:
        write = database_of(writer).write

        def write_after_removal(work: Any) -> Any:
            found = list(remover.journal.blobs.listed())
            if found and len(removed) < 2:
                removed.append(remover.journal.blobs.remove(found[0].address, soon()))
            return write(work)

        monkeypatch.setattr(database_of(writer), "write", write_after_removal)
    address = blobs.add([data]).address
    assert removed == [True, True]
    assert b"".join(remover.journal.blobs.read(address)) == data


def test_a_blob_that_was_removed_and_begun_again_is_not_marked_as_complete_without_its_bytes(
    open_ledger_again: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer is about to end when its blob is removed, and a third process that begins to write it again is killed."""
    writer, other, data = open_ledger_again(), open_ledger_again(), pattern(2 * MIB)
    blobs, database, calls = writer.journal.blobs, database_of(writer), []
    write = database.write

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    def write_late(work: Any) -> Any:
        if "_end" in work.__code__.co_names and not calls:  # the last step of the writer
            (left,) = other.journal.blobs.listed()
            calls.append(other.journal.blobs.remove(left.address, soon()))
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(database_of(other), "execute", stop)
                patch.setattr(FsspecFiles, "write", stop)
                other.journal.blobs.add([data])
        return write(work)

    monkeypatch.setattr(database, "write", write_late)
    address = blobs.add([data]).address
    assert calls == [True]
    assert b"".join(blobs.read(address)) == data
    assert list(other.check()) == []


def test_a_full_disk_of_temporary_files_is_named(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def __init__(self, max_size: int) -> None:
            super().__init__()

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sql_blobs, "SpooledTemporaryFile", Full)
    with pytest.raises(StoreUnavailable, match=r"temporary file \(No space left on device\): nothing was stored"):
        ledger.journal.blobs.add([b"abc"])
    assert rows_of(ledger) == (0, 0, 0)


def test_an_error_of_the_file_that_is_read_is_its_own(ledger: Ledger) -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise PermissionError("of the app's file")

    with pytest.raises(PermissionError, match="of the app's file"):
        ledger.journal.blobs.add(broken())


@pytest.mark.parametrize("place", [each for each in PLACES if "memory" not in each], indirect=True)
def test_a_large_blob_is_added_read_checked_and_backed_up_in_little_memory(ledger: Ledger) -> None:
    size = 24 * MIB
    ledger.journal.blobs.add([b"loads what is needed"])
    tracemalloc.start()
    try:
        blob = ledger.journal.blobs.add(bytes([number]) * MIB for number in range(24))
        assert blob.size == size
        assert sum(map(len, ledger.journal.blobs.read(blob.address))) == size
        refer(ledger, "k", blob.address)
        assert list(ledger.check()) == []
        assert ledger.back_up("backup.db") == 2
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB, f"{peak:,} bytes"


def test_the_limit_is_64_mib() -> None:
    assert BLOB_BYTES_MAX == 64 * MIB


# Files elsewhere


def test_bytes_elsewhere_are_not_found_without_their_place_and_those_in_the_database_still_are(
    db_url: str, tmp_path: Path
) -> None:
    files = files_at("folder", tmp_path)
    ledger = open_blobs(db_url)
    inside = ledger.journal.blobs.add([b"inside"]).address
    ledger.close()
    ledger = open_blobs(db_url, files)
    outside = ledger.journal.blobs.add([b"outside"]).address
    assert [b"".join(ledger.journal.blobs.read(each)) for each in (inside, outside)] == [b"inside", b"outside"]
    assert rows_of(ledger)[:2] == (2, 1)
    ledger.close()
    ledger = open_blobs(db_url)
    assert b"".join(ledger.journal.blobs.read(inside)) == b"inside"
    with pytest.raises(BlobMissing, match="not in the database: set THREADLEDGER_BLOBS"):
        list(ledger.journal.blobs.read(outside))
    ledger.close()


@pytest.mark.parametrize("left", [None, b"out"], ids=["lost", "cut"])
def test_a_file_that_was_lost_is_written_again_when_its_bytes_are_added(
    db_url: str, tmp_path: Path, left: bytes | None
) -> None:
    files = files_at("folder", tmp_path)
    ledger = open_blobs(db_url, files)
    address = ledger.journal.blobs.add([b"outside"]).address
    (path,) = (each for each in tmp_path.rglob(address.partition(":")[2]) if each.is_file())
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    assert ledger.journal.blobs.add([b"outside"]).address == address
    assert b"".join(ledger.journal.blobs.read(address)) == b"outside"
    assert rows_of(ledger)[:2] == (1, 0)
    ledger.close()


def test_a_file_is_private_has_the_name_of_its_hash_and_no_other_file_is_left(db_url: str, tmp_path: Path) -> None:
    ledger = open_blobs(db_url, files_at("folder", tmp_path))
    address = ledger.journal.blobs.add([pattern(2 * MIB)]).address
    (path,) = (each for each in (tmp_path / "attachments").rglob("*") if each.is_file())  # no unfinished one is left
    assert path.relative_to(tmp_path / "attachments").as_posix() == address.replace(":", "/")
    assert path.stat().st_mode & 0o777 == 0o600
    ledger.close()


def test_what_a_stopped_writer_left_elsewhere_is_removed_after_a_day(tmp_path: Path) -> None:
    files = FsspecFiles(str(tmp_path))

    def stopped() -> Iterator[bytes]:
        yield b"half"
        os.link(next((tmp_path / "unfinished").iterdir()), tmp_path / "kept")
        raise KeyboardInterrupt

    for moment in ("2026-11-01T00:00:00Z", "2026-11-02T12:00:00Z"):
        with freeze_time(moment), pytest.raises(KeyboardInterrupt):
            files.write("sha256/00", stopped())
        (tmp_path / "kept").rename(tmp_path / "unfinished" / f"sha256-00.{_id_at(moment)}")
    (tmp_path / "unfinished" / "of somebody else").touch()
    with freeze_time("2026-11-03T00:00:00Z"):
        FsspecFiles(str(tmp_path)).remove("sha256/00")
    left = {path.name for path in (tmp_path / "unfinished").iterdir()}
    assert left == {"of somebody else", f"sha256-00.{_id_at('2026-11-02T12:00:00Z')}"}


def _id_at(moment: str) -> str:
    milliseconds = int(from_iso(moment).timestamp() * 1000)
    return str(UUID(int=(milliseconds << 80) | 0x7000_8000_0000_0000_0000))


def test_a_place_that_cannot_be_written_says_so_and_leaves_no_complete_blob(db_url: str, tmp_path: Path) -> None:
    (tmp_path / "attachments").write_text("a file, not a folder")
    ledger = open_blobs(db_url, files_at("folder", tmp_path))
    with pytest.raises(StoreUnavailable, match=r"cannot be written at .*attachments .*: check THREADLEDGER_BLOBS"):
        ledger.journal.blobs.add([b"abc"])
    assert [each.complete for each in ledger.journal.blobs.listed()] == [False]
    (tmp_path / "attachments").unlink()
    assert b"".join(ledger.journal.blobs.read(ledger.journal.blobs.add([b"abc"]).address)) == b"abc"
    ledger.close()


def test_an_error_of_a_place_shows_no_password() -> None:
    files = FsspecFiles("memory://user:very-secret-word@host/x")
    assert "very-secret-word" not in files.shown
    with pytest.raises(BlobMissing) as raised:
        list(files.read("sha256/00"))
    assert "very-secret-word" not in str(raised.value)


# Removal while others append


def test_an_event_that_is_appended_before_a_removal_keeps_its_attachment(ledger: Ledger) -> None:
    blobs = ledger.journal.blobs
    address = blobs.add([b"abc"]).address
    listed = [each.address for each in blobs.prunable(soon())]
    refer(ledger, "k", address)
    assert [blobs.remove(each, soon()) for each in listed] == [False]
    assert b"".join(blobs.read(address)) == b"abc"


def test_an_event_that_is_appended_between_the_steps_of_a_removal_is_refused(
    open_ledger_again: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, remover = open_ledger_again(), open_ledger_again()
    address, refused = ledger.journal.blobs.add([b"abc"]).address, []
    database: Any = database_of(remover)
    write = database.write

    def write_then_append(work: Any) -> Any:
        result = write(work)
        with pytest.raises(BlobMissing):
            refer(ledger, "k", address)
        refused.append(result)
        return result

    monkeypatch.setattr(database, "write", write_then_append)
    assert remover.journal.blobs.remove(address, soon())
    assert refused == [True, True]


STEPS = st.tuples(st.sampled_from(["add", "refer", "fork", "a day passes", "prune"]), st.integers(0, 1))
DAY, PRUNE = ("a day passes", 0), ("prune", 0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=4, max_size=14))
@example(steps=[("add", 0), ("add", 1), ("refer", 1), DAY, PRUNE, ("refer", 0)])
@example(steps=[("add", 0), DAY, ("add", 0), PRUNE, ("refer", 0), ("fork", 0), DAY, PRUNE])
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_after_any_steps_an_event_has_its_bytes_and_only_what_is_old_and_unused_is_gone(
    open_ledger_again: Callable[[], Ledger], steps: list[tuple[str, int]]
) -> None:
    ledger = open_ledger_again()
    run, used, moment = new_id(), set[int](), datetime(2026, 11, 1, tzinfo=UTC)
    there: dict[int, datetime] = {}
    addresses = {number: hashed_address(sha256(f"{run} {number}".encode()).digest()) for number in range(2)}
    with freeze_time(moment) as clock:
        for step, number in steps:
            clock.move_to(moment)
            match step:
                case "add":
                    ledger.journal.blobs.add([f"{run} {number}".encode()])
                    there[number] = moment
                case "refer" if number in there:
                    refer(ledger, f"{run}-{number}", addresses[number])
                    used.add(number)
                case "refer":
                    with pytest.raises(BlobMissing):
                        refer(ledger, f"{run}-{number}", addresses[number])
                case "fork" if number in used:
                    ledger.fork(f"{run}-{number}", new_id())
                case "a day passes":
                    moment += timedelta(days=1)
                case "prune":
                    before = moment - timedelta(hours=12)
                    gone = {each for each, at in there.items() if at < before and each not in used}
                    for each in ledger.journal.blobs.prunable(before):
                        ledger.journal.blobs.remove(each.address, before)
                    there = {each: at for each, at in there.items() if each not in gone}
    for number, address in addresses.items():
        assert (ledger.journal.blobs.size(address) is not None) is (number in there)
        if number in there:
            assert b"".join(ledger.journal.blobs.read(address)) == f"{run} {number}".encode()
    assert list(ledger.check()) == []


@pytest.mark.parametrize("place", ["sqlite", "postgresql", "postgresql and memory"], indirect=True)
def test_a_race_of_appends_and_removals_leaves_no_reference_without_its_bytes(
    open_ledger_again: Callable[[], Ledger],
) -> None:
    ledgers = [open_ledger_again() for _ in range(4)]

    def append(number: int) -> int:
        stored = 0
        for round_ in range(12):
            data = b"%d" % (round_ % 3)
            address = ledgers[number].journal.blobs.add([data]).address
            with suppress(BlobMissing):
                refer(ledgers[number], f"k{number}-{round_}", address)
                stored += 1
        return stored

    def remove(number: int) -> int:
        removed = 0
        while not done.is_set():
            for each in ledgers[number].journal.blobs.prunable(soon()):
                removed += ledgers[number].journal.blobs.remove(each.address, soon())
        return removed

    done = Event()
    with ThreadPoolExecutor(4) as threads:
        removing = [threads.submit(remove, number) for number in (2, 3)]
        stored = sum(threads.map(append, (0, 1)))
        done.set()
        assert sum(each.result() for each in removing) + stored > 0
    ledger = ledgers[0]
    assert len(references(ledger)) == stored
    assert list(ledger.check()) == []


PAUSE = 20_261_130
"""Key of the lock on which an append waits in the middle of its statement."""


def test_a_removal_waits_for_an_append_that_has_seen_the_attachment(postgres_url: str) -> None:
    url = f"{postgres_url}&application_name=pausing"
    appending, removing, holding = (open_blobs(url) for _ in range(3))
    address = appending.journal.blobs.add([b"abc"]).address
    holder = database_of(holding)
    holder.execute(
        f"CREATE FUNCTION paused() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM pg_advisory_xact_lock_shared({PAUSE}); RETURN NEW; END $$"
    )
    holder.execute("CREATE TRIGGER paused BEFORE INSERT ON blob_refs FOR EACH ROW EXECUTE FUNCTION paused()")

    def wait_for(waiting: int, end: Any) -> None:
        """Wait until so many sessions of this test wait for a lock, or the thread has ended."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'pausing'"
        while not end.done() and holder.query(query)[0][0] < waiting:
            pass

    with ThreadPoolExecutor(2) as threads:
        with holder.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_lock({PAUSE})")
            append = threads.submit(refer, appending, "k", address)
            wait_for(1, append)
            removal = threads.submit(removing.journal.blobs.remove, address, soon())
            wait_for(2, removal)
            cursor.execute(f"SELECT pg_advisory_unlock({PAUSE})")
        append.result()
        assert removal.result() is False
    assert list(appending.check()) == []
    for ledger in (appending, removing, holding):
        ledger.close()
