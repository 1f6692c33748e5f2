"""Attachments leave a ledger with an export, in the file or in a folder next to it, and come into another one with an import."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters.sql import Database, Factory
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger

from .conftest import Done

Command = Callable[..., Done]
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
PDF = b"%PDF-1.7 " + bytes(range(255, -1, -1)) * 30
WAV = b"RIFF0000WAVEfmt " + bytes(2_000)


def in_base64(data: bytes) -> str:
    return b64encode(data).decode()


PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "What is on these?"},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{in_base64(IMAGE)}", "detail": "low"}},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAA\n="}},  # not canonical: it stays as it is
    {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{in_base64(PDF)}"}},
    {"type": "file", "file": {"file_data": in_base64(PDF + b"2")}},
    {"type": "input_audio", "input_audio": {"data": in_base64(WAV), "format": "wav"}},
]
MESSAGES = [
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": [PARTS[1], {"type": "text", "text": "The same again."}]},
]
BLOBS = (IMAGE, PDF, PDF + b"2", WAV)


def open_store(name: str) -> Ledger:
    return Ledger(Journal(Factory(database=Database(f"sqlite:///{name}.db"))))


@pytest.fixture
def imported(command: Command) -> str:
    """A file of messages with data inside, imported into the ledger `one`."""
    line = json.dumps({"id": "k", "messages": MESSAGES}) + "\n"
    Path("given.jsonl").write_text(line, encoding="utf-8")
    assert command("import", "given.jsonl", "--db", "one.db", "-o", "json").json[0]["state"] == "imported"
    return line


def attachments(name: str) -> set[bytes]:
    with closing(open_store(name)) as ledger:
        blobs = ledger.journal.blobs
        return {b"".join(blobs.read(each.address)) for each in blobs.listed() if each.references}


def memory(name: str, key: str = "k") -> list[Any]:
    with closing(open_store(name)) as ledger:
        return [each.message for each in ledger.memory(key).messages]


def test_an_export_and_an_import_of_a_file_with_everything_inside_are_an_identity(
    command: Command, imported: str
) -> None:
    assert attachments("one") == set(BLOBS)
    assert command("export", "--all", "--format", "messages", "--db", "one.db", "--output", "out.jsonl").code == 0
    assert json.loads(Path("out.jsonl").read_text(encoding="utf-8")) == json.loads(imported)
    for kind in ("messages", "jsonl"):
        command("export", "--all", "--format", kind, "--db", "one.db", "--output", f"{kind}.jsonl")
        (row,) = command("import", f"{kind}.jsonl", "--db", f"{kind}.db", "-o", "json").json
        assert (row["state"], row["left_out"]) == ("imported", {})
        assert memory(kind) == memory("one")
        assert attachments(kind) == set(BLOBS)
        assert command("db", "check", "--db", f"{kind}.db").code == 0


def test_an_export_into_a_folder_and_an_import_from_it_are_an_identity(command: Command, imported: str) -> None:
    export = ("export", "--all", "--db", "one.db", "--blobs", "files", "--output")
    assert command(*export, "out.jsonl").code == 0
    text = Path("out.jsonl").read_text(encoding="utf-8")
    assert in_base64(IMAGE)[:100] not in text
    assert {path.read_bytes() for path in Path("files").iterdir()} == set(BLOBS)
    assert {path.stat().st_mode & 0o777 for path in Path("files").iterdir()} == {0o600}
    times = {path: path.stat().st_mtime_ns for path in Path("files").iterdir()}
    assert command(*export, "again.jsonl").code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("files").iterdir()} == times
    for again in ("imported", "unchanged"):
        (row,) = command("import", "out.jsonl", "--blobs", "files", "--db", "two.db", "-o", "json").json
        assert (row["state"], row["left_out"]) == (again, {})
    assert memory("two") == memory("one")
    assert attachments("two") == set(BLOBS)
    assert command("db", "check", "--db", "two.db").code == 0


def test_both_kinds_of_files_import_as_the_same_conversation(command: Command, imported: str) -> None:
    command("export", "--all", "--format", "messages", "--db", "one.db", "--output", "inside.jsonl")
    command("export", "--all", "--format", "messages", "--db", "one.db", "--output", "next.jsonl", "--blobs", "files")
    command("import", "inside.jsonl", "--db", "two.db")
    (row,) = command("import", "next.jsonl", "--blobs", "files", "--db", "two.db", "-o", "json").json
    assert row["state"] == "unchanged"


def test_a_message_whose_attachment_is_nowhere_fails_and_stops_no_other_conversation(
    command: Command, imported: str
) -> None:
    command("export", "--all", "--db", "one.db", "--blobs", "files", "--output", "out.jsonl")
    with Path("out.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "other", "messages": [{"role": "user", "content": "No attachment."}]}\n')
    done = command("import", "out.jsonl", "--db", "two.db", "-o", "json")
    assert (done.code, [row["state"] for row in done.json]) == (3, ["failed", "imported"])
    assert "message 1 refers to the attachment 'sha256:" in done.json[0]["reason"]
    assert "--blobs names the folder of its export" in done.json[0]["reason"]
    next(Path("files").iterdir()).unlink()
    done = command("import", "out.jsonl", "--blobs", "files", "--db", "three.db", "-o", "json")
    assert (done.code, done.json[0]["state"], "there is no file files/" in done.json[0]["reason"]) == (
        3,
        "failed",
        True,
    )


def test_a_file_of_the_folder_with_other_bytes_is_not_imported(command: Command, imported: str) -> None:
    command("export", "--all", "--db", "one.db", "--blobs", "files", "--output", "out.jsonl")
    for path in Path("files").iterdir():
        path.write_bytes(b"other bytes")
    done = command("import", "out.jsonl", "--blobs", "files", "--db", "two.db", "-o", "json")
    assert (done.code, done.json[0]["state"]) == (3, "failed")
    assert "does not have the bytes of its name" in done.json[0]["reason"]
    with closing(open_store("two")) as ledger:
        assert list(ledger.journal.blobs.listed()) == []


@pytest.mark.parametrize(
    "address", ["../../etc/passwd", "sha256:../x", "sha256:ABC", "/etc/passwd", "sha256:" + "0" * 63]
)
def test_a_path_is_never_taken_from_a_message(command: Command, tmp_path: Path, address: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "x").write_bytes(b"secret")
    part = {"type": "image_url", "image_url": {"blob": address, "media_type": "image/png", "size": 6}}
    line = json.dumps({"id": "k", "messages": [{"role": "user", "content": [part]}]})
    Path("bad.jsonl").write_text(line, encoding="utf-8")
    done = command("import", "bad.jsonl", "--blobs", "files", "-o", "json")
    assert (done.code, done.json[0]["state"]) == (3, "failed")
    assert "is not the address of an attachment" in done.json[0]["reason"]


def test_a_file_of_the_folder_is_never_replaced_by_an_export(command: Command, imported: str) -> None:
    command("export", "--all", "--db", "one.db", "--blobs", "files", "--output", "out.jsonl")
    path = next(Path("files").iterdir())
    path.write_bytes(b"of somebody else")
    done = command("export", "--all", "--db", "one.db", "--blobs", "files", "--output", "again.jsonl")
    assert (done.code, f"{path} exists already and has other bytes" in done.err) == (7, True)
    assert path.read_bytes() == b"of somebody else"
    assert not Path("again.jsonl").exists()


@pytest.mark.parametrize("more", [(), ("--blobs", "files")])
def test_a_changed_attachment_is_exported_only_as_an_address_and_with_a_warning(
    command: Command, imported: str, more: tuple[str, ...]
) -> None:
    with closing(Database("sqlite:///one.db")) as database:
        database.execute("UPDATE blob_chunks SET data = CAST('odd' AS BLOB)")
    done = command("export", "--all", "--db", "one.db", "--output", "out.jsonl", *more)
    assert (done.code, "was changed after it was stored" in done.err) == (4, True)
    assert not Path("out.jsonl").exists()
    done = command("export", "--all", "--db", "one.db", "--unchecked", "--output", "out.jsonl", *more)
    assert (done.code, "UNCHECKED: the attachment sha256:" in done.err) == (4, True)
    assert "damaged attachments: list all damage with: threadledger db check" in done.err
    first = json.loads(Path("out.jsonl").read_text(encoding="utf-8"))["messages"][0]["content"]
    assert first[0] == PARTS[0]
    assert first[1]["image_url"]["blob"].startswith("sha256:")


def test_markdown_writes_the_attachments_into_the_folder_too(command: Command, imported: str) -> None:
    command("export", "k", "--format", "markdown", "--db", "one.db", "--blobs", "files", "--output", "out.md")
    assert {path.read_bytes() for path in Path("files").iterdir()} == set(BLOBS)
    assert in_base64(IMAGE)[:100] not in Path("out.md").read_text(encoding="utf-8")


def test_a_folder_is_not_combined_with_live_threads(command: Command) -> None:
    Path("ids.txt").write_text("thread_1\n")
    Path("files").mkdir()
    done = command("import", "--threads", "ids.txt", "--blobs", "files")
    assert (done.code, "--blobs applies only to FILE" in done.err) == (2, True)


def test_forks_share_the_bytes_of_an_attachment(command: Command) -> None:
    big = in_base64(bytes(range(256)) * 8_000)
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{big}"}}
    line = json.dumps({"id": "k", "messages": [{"role": "user", "content": [part]}]})
    Path("big.jsonl").write_text(line, encoding="utf-8")
    command("import", "big.jsonl", "--db", "one.db")
    before = _size("one.db")
    for number in range(3):
        assert command("fork", "k", f"fork {number}", "--db", "one.db").code == 0
    assert _size("one.db") - before < 200_000 < before
    (row,) = command("blobs", "list", "--db", "one.db", "-o", "json").json
    assert row["references"] == 4
    assert memory("one", "fork 2") == memory("one")
    assert command("db", "check", "--db", "one.db").code == 0


def _size(name: str) -> int:
    return sum(each.stat().st_size for each in Path().glob(f"{name}*"))
