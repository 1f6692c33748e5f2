"""The commands about attachments."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from freezegun import freeze_time

from threadledger.adapters.sql import Database, Factory
from threadledger.domain.conversation import Conversation, text_message
from threadledger.domain.errors import StoreUnavailable
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger

from .conftest import Done

Command = Callable[..., Done]
BYTES = bytes(range(256)) * 10


def open_store() -> Ledger:
    return Ledger(Journal(Factory(database=Database("sqlite:///threadledger.db"))))


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, str]:
    """A ledger with an old attachment to which a message refers, an old one without references, and a young one."""
    with closing(open_store()) as ledger:
        blobs = ledger.journal.blobs
        with freeze_time(now() - timedelta(days=3)):
            used, old = blobs.add([BYTES]).address, blobs.add([b"old"]).address
        young = blobs.add([b"young"]).address

        def decide(conversation: Conversation) -> None:
            event = conversation.journal(text_message("user", "See this."))
            conversation.pending[-1] = msgspec.structs.replace(event, blobs=[used])

        ledger.journal.commit("k", decide, create=True)
    return {"used": used, "old": old, "young": young}


def test_attachments_are_listed_with_size_references_and_age(command: Command, stored: dict[str, str]) -> None:
    rows = {row["address"]: row for row in command("blobs", "list", "-o", "json").json}
    assert list(rows) == sorted(stored.values())
    used = rows[stored["used"]]
    assert list(used) == ["address", "size", "complete", "at", "references", "age_seconds"]
    assert (used["size"], used["complete"], used["references"]) == (len(BYTES), True, 1)
    assert 3 * 86_400 <= used["age_seconds"] < 3 * 86_400 + 600
    assert rows[stored["young"]]["age_seconds"] < 600
    shown = command("blobs", "list").out
    assert "3.0 d" in shown
    assert stored["used"] in shown
    assert command("blobs", "list", "-o", "csv").out.splitlines()[0] == ",".join(used)


def test_a_page_of_attachments_ends_with_the_limit_and_the_next_one_begins_after_it(
    command: Command, stored: dict[str, str]
) -> None:
    addresses = sorted(stored.values())
    first = command("blobs", "list", "--limit", "2", "-o", "json").json
    assert [row["address"] for row in first] == addresses[:2]
    rest = command("blobs", "list", "--limit", "2", "--after", addresses[1], "-o", "jsonl").out.splitlines()
    assert [msgspec.json.decode(line)["address"] for line in rest] == addresses[2:]
    assert "no attachments" in command("blobs", "list", "--after", addresses[2]).err


def test_bytes_are_extracted_to_a_new_file_or_a_pipe(
    command: Command, stored: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("blobs", "extract", stored["used"], "--output", "new.bin")
    assert (done.code, done.out) == (0, "")
    assert "2,560 bytes written to new.bin" in done.err
    assert Path("new.bin").read_bytes() == BYTES
    again = command("blobs", "extract", stored["used"], "--output", "new.bin")
    assert (again.code, "new.bin exists already" in again.err) == (7, True)
    pipe = io.TextIOWrapper(io.BytesIO())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        from threadledger.cli import main

        assert main(["blobs", "extract", stored["used"]]) == 0
    assert pipe.buffer.getvalue() == BYTES  # type: ignore[attr-defined] - a BytesIO


def test_bytes_are_not_written_to_a_terminal(
    command: Command, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = command("blobs", "extract", stored["used"])
    assert (done.code, done.out) == (2, "")
    assert "pass --output FILE, or redirect stdout" in done.err


def test_changed_bytes_are_not_extracted(command: Command, stored: dict[str, str], tmp_path: Path) -> None:
    with closing(Database("sqlite:///threadledger.db")) as database:
        database.execute("UPDATE blob_chunks SET data = CAST('odd' AS BLOB) WHERE address = ?", (stored["old"],))
    done = command("blobs", "extract", stored["old"], "--output", "new.bin")
    assert (done.code, "does not match its hash" in done.err) == (4, True)
    assert not list(tmp_path.glob("new.bin*"))
    assert command("blobs", "extract", stored["old"]).out == ""
    check = command("db", "check", "-o", "json")
    assert (check.code, [row["subject"] for row in check.json]) == (4, ["blob"])


@pytest.mark.parametrize("address", ["sha256:0", "nonsense", "", "../../etc/passwd"])
def test_an_address_that_is_not_there_is_not_found(command: Command, stored: dict[str, str], address: str) -> None:
    done = command("blobs", "extract", address, "--output", "new.bin")
    assert (done.code, "there is no attachment" in done.err) == (6, True)
    assert not Path("new.bin").exists()


def test_a_file_that_cannot_be_written_is_named(command: Command, stored: dict[str, str]) -> None:
    done = command("blobs", "extract", stored["used"], "--output", "no-such-folder/new.bin")
    assert (done.code, "no-such-folder/new.bin cannot be written" in done.err) == (6, True)


def test_a_prune_shows_a_plan_and_removes_nothing(command: Command, stored: dict[str, str]) -> None:
    done = command("blobs", "prune", "-o", "json")
    (row,) = done.json
    assert (row["kind"], row["address"], row["size"], row["state"]) == ("blob", stored["old"], 3, "planned")
    assert "1 attachment of 3 bytes: nothing was removed; remove them with --apply" in done.err
    assert len(command("blobs", "list", "-o", "json").json) == 3


def test_a_prune_removes_what_is_old_and_not_referred_to(command: Command, stored: dict[str, str]) -> None:
    refused = command("blobs", "prune", "--apply")
    assert (refused.code, "remove 1 attachment of 3 bytes" in refused.err) == (8, True)
    done = command("blobs", "prune", "--apply", "--yes", "-o", "json")
    assert [(row["address"], row["state"]) for row in done.json] == [(stored["old"], "removed")]
    left = {row["address"] for row in command("blobs", "list", "-o", "json").json}
    assert left == {stored["used"], stored["young"]}
    assert "nothing to prune" in command("blobs", "prune", "--apply").err
    assert command("db", "check").code == 0


def test_what_is_referred_to_by_then_is_kept_and_what_cannot_be_removed_fails(
    command: Command, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadledger.adapters.sql.blobs import SqlBlobs

    with monkeypatch.context() as patch:
        patch.setattr(SqlBlobs, "remove", lambda *_: False)
        (row,) = command("blobs", "prune", "--apply", "--yes", "-o", "json").json
        assert (row["state"], row["reason"]) == ("kept", "it was added again, or an event refers to it by now")

    def fail(*_: Any) -> bool:
        raise StoreUnavailable("the bucket is closed: open it")

    monkeypatch.setattr(SqlBlobs, "remove", fail)
    done = command("blobs", "prune", "--apply", "--yes", "-o", "json")
    assert (done.code, done.json[0]["state"], done.json[0]["reason"]) == (3, "failed", "the bucket is closed: open it")


# The setting


def test_attachments_are_kept_at_the_place_of_the_setting(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import threadledger

    monkeypatch.setenv("THREADLEDGER_BLOBS", f"file://{tmp_path}/attachments")
    with threadledger.open() as ledger:
        address = ledger.journal.blobs.add([BYTES]).address
        assert b"".join(ledger.journal.blobs.read(address)) == BYTES
    digest = hashlib.sha256(BYTES).hexdigest()
    assert (tmp_path / "attachments" / "sha256" / digest).read_bytes() == BYTES
    rows = {row["name"]: row["value"] for row in command("config", "-o", "json").json}
    assert rows["THREADLEDGER_BLOBS"] == f"file://{tmp_path}/attachments"
    assert command("blobs", "extract", address, "--output", "new.bin").code == 0
    assert command("db", "check").code == 0
    monkeypatch.delenv("THREADLEDGER_BLOBS")
    done = command("blobs", "extract", address, "--output", "other.bin")
    assert (done.code, "set THREADLEDGER_BLOBS to the place where they are" in done.err) == (6, True)
    done = command("db", "check", "-o", "json")
    assert (done.code, [row["subject"] for row in done.json]) == (4, ["blob"])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no-such-protocol://bucket", "THREADLEDGER_BLOBS cannot be used (Protocol not known: no-such-protocol)"),
        ("ftp://me:hidden-word@", "THREADLEDGER_BLOBS cannot be used"),
    ],
)
def test_a_place_that_fsspec_does_not_know_is_refused_when_it_is_needed(
    command: Command, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("THREADLEDGER_BLOBS", value)
    assert command("list").code == 0
    doctor = command("doctor", "-o", "json")
    (row,) = [row for row in doctor.json if row["check"] == "attachments"]
    assert (row["state"], said in row["message"]) == ("finding", True)
    with closing(Database("sqlite:///threadledger.db")) as database:
        database.execute("DELETE FROM blob_chunks")
    done = command("blobs", "extract", stored["used"], "--output", "new.bin")
    assert (done.code, said in done.err) == (2, True)
    assert "hidden-word" not in done.err + doctor.out


def test_without_fsspec_the_setting_is_refused_with_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_BLOBS", "s3://bucket")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    (row,) = [row for row in command("doctor", "-o", "json").json if row["check"] == "attachments"]
    assert row["message"].startswith("THREADLEDGER_BLOBS needs fsspec, which is not installed")
    assert row["mend"] == "pip install 'threadledger[blobs]'"


def test_doctor_names_the_place_of_attachments(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLEDGER_BLOBS", "memory://attachments")
    (row,) = [row for row in command("doctor", "-o", "json").json if row["check"] == "attachments"]
    assert (row["state"], row["message"]) == ("ok", "their bytes are kept at memory://attachments")


# Trust


@pytest.mark.parametrize(
    ("value", "trusted"),
    [
        ("s3://somebody-elses-bucket/x", False),
        ("memory://attachments", False),
        ("simplecache::file:///tmp/x", False),
        ("file:///tmp/elsewhere", False),
        ("../elsewhere", False),
        ("link", False),
        ("attachments", True),
        ("FOLDER/attachments", True),
        ("file://FOLDER/attachments", True),
    ],
)
def test_a_place_that_only_the_folder_names_needs_trust_unless_it_is_inside(
    command: Command, stored: dict[str, str], tmp_path: Path, value: str, trusted: bool
) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    value = value.replace("FOLDER", str(tmp_path))
    (tmp_path / ".env").write_text(f"THREADLEDGER_BLOBS={value}\n")
    (row,) = [row for row in command("config", "--origin", "-o", "json").json if row["name"] == "THREADLEDGER_BLOBS"]
    assert row["trust"] == (None if trusted else "not trusted")
    with closing(Database("sqlite:///threadledger.db")) as database:
        database.execute("DELETE FROM blob_chunks")
    done = command("blobs", "extract", stored["used"], "--output", "new.bin")
    assert (done.code, "then run: threadledger trust" in done.err) == ((6, False) if trusted else (2, True))
    assert command("list").code == 0
    if not trusted:
        assert "keeps attachments at" in done.err
        assert command("trust").code == 0
        assert "threadledger trust" not in command("blobs", "extract", stored["used"], "--output", "new.bin").err


def test_uploads_are_listed_and_pruned_at_their_provider(command: Command, provider: Any) -> None:
    content = b"%PDF-1.7\n" + bytes(5 * 1024 * 1024)
    Path("large.pdf").write_bytes(content)
    assert command("ask", "k", "What does it say?", "--file", "large.pdf", "--backend", "chat").code == 0
    [copy] = command("blobs", "list", "--uploads", "-o", "json").json
    assert (copy["size"], copy["filename"], copy["purpose"]) == (len(content), "large.pdf", "user_data")
    assert copy["file_id"] in command("blobs", "list", "--uploads").out
    assert command("blobs", "prune", "-o", "json").json == []
    planned = command("blobs", "prune", "--uploads", "0s", "-o", "json")
    assert [(row["kind"], row["state"]) for row in planned.json] == [("upload", "planned")]
    assert f"1 upload of {len(content):,} bytes: nothing was removed" in planned.err
    assert "of 1 conversation and 1 attachment are intact" in command("db", "check").err
    assert not [request for request in provider.requests if request.method == "DELETE"]
    removed = command("blobs", "prune", "--uploads", "0s", "--apply", "--yes", "-o", "json").json
    assert [(row["kind"], row["state"], row["file_id"]) for row in removed] == [("upload", "removed", copy["file_id"])]
    assert [request.template for request in provider.requests if request.method == "DELETE"] == [
        "DELETE /files/{file_id}"
    ]
    assert command("blobs", "list", "--uploads", "-o", "json").json == []
    assert command("ask", "k", "And now?", "--backend", "chat").code == 0
    assert len(command("blobs", "list", "--uploads", "-o", "json").json) == 1


def test_an_upload_that_cannot_be_deleted_is_kept_and_reported(command: Command, provider: Any) -> None:
    Path("large.pdf").write_bytes(b"%PDF-1.7\n" + bytes(5 * 1024 * 1024))
    assert command("ask", "k", "What does it say?", "--file", "large.pdf", "--backend", "chat").code == 0
    provider.add_fault("DELETE /files/{file_id}", refuse={"status": 500, "message": "broken"})
    done = command("blobs", "prune", "--uploads", "0s", "--apply", "--yes", "-o", "json")
    assert (done.code, [row["state"] for row in done.json]) == (3, ["failed"])
    assert len(command("blobs", "list", "--uploads", "-o", "json").json) == 1
