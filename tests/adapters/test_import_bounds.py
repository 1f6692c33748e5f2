"""What is imported takes bounded memory, and what is ambiguous in it is reported."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters.formats import compressed, json_values
from threadledger.domain.errors import InvalidInput

from .importing import imported, said, states, written
from .test_import_agents import TABLES
from .test_import_chatgpt import TALK, conversation

KIB = 1024


def line(key: str, text: str = "hi") -> str:
    return json.dumps({"id": key, "messages": [{"role": "user", "content": text}]})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read with bounds of some KiB, in pieces of a few bytes, as with the real bounds in pieces of a MiB."""
    monkeypatch.setattr(json_values, "VALUE_BYTES_MAX", 16 * KIB)
    monkeypatch.setattr(json_values, "CHUNK_BYTES", 100)
    for module in ("sources", "agents_sqlite"):
        monkeypatch.setattr(f"threadledger.adapters.formats.{module}.VALUE_BYTES_MAX", 16 * KIB)


HUGE = line("huge", "x" * 20 * KIB)
SHAPES = {
    "lines": "\n".join([line("first"), HUGE, line("last")]),
    "lines that end with a carriage return": "\r".join([line("first"), HUGE, line("last")]),
    "an array": f"[{line('first')}, {HUGE}, {line('last')}]",
    "an array over several lines": f"[\n{line('first')},\n{HUGE},\n{line('last')}\n]",
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_value_that_is_too_large_is_skipped_and_the_others_are_imported(
    open_store: Any, tmp_path: Path, shape: str, packed: bool
) -> None:
    content = SHAPES[shape].encode()
    (tmp_path / "k").write_bytes(gzip.compress(content) if packed else content)
    ledger = open_store()
    found = sorted(imported(ledger, tmp_path / "k"), key=lambda each: each["line"])
    assert [(each["key"], each["state"]) for each in found] == [
        ("first", "imported"),
        ("", "failed"),
        ("last", "imported"),
    ]
    assert "larger than" in found[1]["reason"]
    assert found[1]["line"] == 2
    assert said(ledger, "last") == [("user", "hi")]


@pytest.mark.usefixtures("small")
def test_a_list_of_messages_that_is_too_large_is_refused(open_store: Any, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "x" * 1000}] * 20
    (outcome,) = imported(open_store(), written(tmp_path / "k.json", messages), "jsonl")
    assert (outcome["state"], "the file is larger" in outcome["reason"]) == ("failed", True)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rows", [[20 * KIB], [1000] * 20])
def test_a_session_that_is_too_large_is_refused_and_the_others_are_imported(
    open_store: Any, tmp_path: Path, rows: list[int]
) -> None:
    database = sqlite3.connect(tmp_path / "s.db")
    database.executescript(TABLES)
    for session, sizes in (("a", [1]), ("huge", rows), ("z", [1])):
        database.execute("INSERT INTO agent_sessions (session_id) VALUES (?)", (session,))
        for size in sizes:
            row = (session, json.dumps({"role": "user", "content": "x" * size}))
            database.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    database.commit()
    database.close()
    found = sorted(states(imported(open_store(), tmp_path / "s.db")))
    assert found == [(1, "a", "imported", 1), (2, "huge", "failed", 0), (3, "z", "imported", 1)]


def zip_of(**files: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name.replace('_', '-')}.json", content)
    return target.getvalue()


@pytest.mark.parametrize("kind", ["gzip", "zip"])
def test_data_that_unpacks_to_far_more_than_its_size_is_refused(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(compressed, "UNPACKED_FREE_BYTES", 64 * KIB)
    bomb = json.dumps([conversation(*TALK, key="x" * 200 * KIB)])
    (tmp_path / "k").write_bytes(gzip.compress(bomb.encode()) if kind == "gzip" else zip_of(conversations=bomb))
    with pytest.raises(InvalidInput, match="more than 400 times its size"):
        imported(open_store(), tmp_path / "k")


def test_what_precedes_too_much_data_is_imported(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "UNPACKED_FREE_BYTES", 200 * KIB)
    monkeypatch.setattr(compressed, "UNPACKED_RATIO_MAX", 10)
    monkeypatch.setattr(compressed, "CONTENT_BYTES", KIB)
    monkeypatch.setattr(json_values, "HEAD_BYTES", KIB)
    lines = "\n".join([line("first"), *(line(f"k{number}", "x" * 1000) for number in range(300))])
    (tmp_path / "k").write_bytes(gzip.compress(lines.encode()))
    *found, last = sorted(imported(open_store(), tmp_path / "k", "jsonl"), key=lambda each: each["line"])
    assert found[0]["key"] == "first"
    assert (last["state"], "more than 10 times" in last["reason"]) == ("failed", True)


def test_all_files_of_a_zip_count_together(open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = {name: json.dumps([conversation(*TALK, key=name)]) for name in ("conversations_1", "conversations_2")}
    monkeypatch.setattr(compressed, "UNPACKED_BYTES_MAX", len(exported["conversations_1"]) + 100)
    (tmp_path / "k.zip").write_bytes(zip_of(**exported))
    found = imported(open_store(), tmp_path / "k.zip")
    assert sorted(each["state"] for each in found) == ["failed", "imported"]


def test_files_of_a_zip_that_share_their_data_are_refused(open_store: Any, tmp_path: Path) -> None:
    content = bytearray(zip_of(conversations_1="[]" * 50, conversations_2="[]" * 50))
    first, second = content.find(b"PK\x01\x02"), content.rfind(b"PK\x01\x02")
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # where the data begins
    (tmp_path / "k.zip").write_bytes(content)
    with pytest.raises(InvalidInput, match="overlap"):
        imported(open_store(), tmp_path / "k.zip")


@pytest.mark.parametrize("size", [0, 1, 2**31 - 1])
def test_the_size_that_a_zip_claims_is_not_believed(open_store: Any, tmp_path: Path, size: int) -> None:
    content = bytearray(zip_of(conversations=json.dumps([conversation(*TALK)])))
    for at in (content.find(b"PK\x03\x04") + 22, content.find(b"PK\x01\x02") + 24):
        content[at : at + 4] = size.to_bytes(4, "little")
    (tmp_path / "k.zip").write_bytes(content)
    (outcome,) = imported(open_store(), tmp_path / "k.zip")
    assert outcome["state"] == "imported"


@pytest.mark.parametrize("inner", [gzip.compress(line("k").encode()), zip_of(other="{}")], ids=["gzip", "zip"])
def test_an_archive_within_an_archive_is_not_unpacked(open_store: Any, tmp_path: Path, inner: bytes) -> None:
    (tmp_path / "k.gz").write_bytes(gzip.compress(gzip.compress(inner)))
    try:
        assert {each["state"] for each in imported(open_store(), tmp_path / "k.gz")} == {"failed"}
    except InvalidInput as refused:
        assert "Traceback" not in str(refused)


def test_a_gzip_file_of_several_large_members_is_imported(open_store: Any, tmp_path: Path) -> None:
    large = [f"{line(key, key * 2_000_000)}\n".encode() for key in "abc"]
    (tmp_path / "k.gz").write_bytes(b"".join(map(gzip.compress, large)))
    assert sorted(states(imported(open_store(), tmp_path / "k.gz"))) == [
        (number, key, "imported", 1) for number, key in enumerate("abc", 1)
    ]


IMPORT = """
import resource, sys
from threadledger.adapters import import_source
from threadledger.domain.errors import InvalidInput
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with import_source(sys.argv[1]) as source:
        print([each for each in source.found])
except InvalidInput as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak of memory depends on the system")
def test_a_small_file_with_one_huge_value_takes_little_memory(tmp_path: Path) -> None:
    part = gzip.compress(b"x" * 8 * KIB * KIB)
    beginning = gzip.compress(b'{"id": "k", "messages": [{"role": "user", "content": "')
    (tmp_path / "bomb.gz").write_bytes(beginning + part * 50)
    assert (tmp_path / "bomb.gz").stat().st_size < 450_000
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(tmp_path / "bomb.gz")], capture_output=True, text=True, check=True
    )
    reason, mebibytes = done.stdout.splitlines()
    assert "more than 400 times its size" in reason
    assert int(mebibytes) < 300


REPEATED = '{"id": "k", "title": "a", "title": "b", "messages": [{"role": "user", "content": "x", "content": "y"}]}'


def test_a_key_that_an_object_has_twice_is_reported_with_its_line_and_the_last_value_counts(
    open_store: Any, tmp_path: Path
) -> None:
    ledger = open_store()
    (tmp_path / "k.jsonl").write_text(f"{line('fine')}\n{REPEATED}\n")
    fine, found = sorted(imported(ledger, tmp_path / "k.jsonl"), key=lambda each: each["line"])
    assert (found["line"], found["state"], found["left_out"]) == (2, "imported", {"repeated_keys": 2})
    assert found["reason"] == "the key 'content' is given more than once in an object: its last value counts"
    assert said(ledger, "k") == [("user", "y")]
    assert fine["left_out"] == {}
    again = imported(ledger, tmp_path / "k.jsonl")[1]
    assert (again["state"], again["left_out"]) == ("unchanged", {"repeated_keys": 2})


def with_a_repeated_key(value: Any) -> str:
    return json.dumps(value).replace('"title": "once"', '"title": "once", "title": "twice"')


FORMATS: dict[str, Any] = {
    "threads": [
        {"id": "m", "object": "thread.message", "thread_id": "t", "role": "user", "content": "x", "title": "once"}
    ],
    "chatgpt": [{**conversation(*TALK), "title": "once"}],
    "claude": [{"uuid": "c", "title": "once", "chat_messages": [{"uuid": "m", "sender": "human", "text": "x"}]}],
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_repeated_key_is_reported_in_every_format(open_store: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "k.json").write_text(with_a_repeated_key(FORMATS[kind]))
    (found,) = imported(open_store(), tmp_path / "k.json")
    assert (found["state"], found["left_out"]["repeated_keys"]) == ("imported", 1)
    assert "'title'" in found["reason"]


def test_a_repeated_key_of_a_session_is_reported(open_store: Any, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "s.db")
    database.executescript(TABLES)
    row = ("a", '{"role": "user", "content": "x", "content": "y"}')
    database.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    database.commit()
    database.close()
    (found,) = imported(open_store(), tmp_path / "s.db")
    assert found["left_out"] == {"repeated_keys": 1}
