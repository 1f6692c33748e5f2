"""`threadledger import`: the format is told from the content, and every kind of file ends in the same few sentences."""

from __future__ import annotations

import gzip
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

LINE = {"id": "k", "messages": [{"role": "user", "content": "hi"}]}
MESSAGE = {"id": "msg_1", "object": "thread.message", "created_at": 1, "thread_id": "thread_a", "role": "user",
           "content": [{"type": "text", "text": {"value": "hi", "annotations": []}}]}  # fmt: skip
THREAD = {"object": "list", "data": [MESSAGE], "first_id": "msg_1", "last_id": "msg_1", "has_more": False}
NODE = {"id": "n", "parent": None, "children": [], "message": {
    "id": "n", "author": {"role": "user"}, "create_time": 1.5, "content": {"content_type": "text", "parts": ["hi"]}}}  # fmt: skip
CHAT = [{"title": "T", "create_time": 1.5, "mapping": {"n": NODE}, "current_node": "n", "conversation_id": "c"}]


def sqlite_bytes(path: Path) -> bytes:
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE agent_sessions (session_id TEXT PRIMARY KEY, created_at TIMESTAMP, updated_at TIMESTAMP);"
        "CREATE TABLE agent_messages (id INTEGER PRIMARY KEY, session_id TEXT, message_data TEXT, created_at TIMESTAMP);"
        "INSERT INTO agent_sessions VALUES ('s', '2026-01-01 00:00:00', '2026-01-01 00:00:00');"
        """INSERT INTO agent_messages VALUES (1, 's', '{"role": "user", "content": "hi"}', '2026-01-01 00:00:00');"""
    )
    database.close()
    return path.read_bytes()


CLAUDE = [{"uuid": "a-1", "name": "A talk", "chat_messages": [{"uuid": "m1", "text": "hi", "sender": "human"}]}]


def zip_bytes(path: Path, exported: Any = CHAT) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conversations.json", json.dumps(exported))
    return path.read_bytes()


CONTENTS: dict[str, tuple[str, str, Callable[[Path], bytes]]] = {
    "JSON lines": ("jsonl", "k", lambda path: json.dumps(LINE).encode() + b"\n"),
    "JSON lines with a bad first one": ("jsonl", "k", lambda path: b'{"id": \n' + json.dumps(LINE).encode() + b"\n"),
    "an array of conversations": ("jsonl", "k", lambda path: json.dumps([LINE]).encode()),
    "one indented conversation": ("jsonl", "k", lambda path: json.dumps(LINE, indent=1).encode()),
    "a list of plain messages": ("jsonl", "{name}:1", lambda path: json.dumps(LINE["messages"], indent=1).encode()),
    "UTF-16": ("jsonl", "k", lambda path: (json.dumps(LINE) + "\n\ufeff\r\n").encode("utf-16")),
    "UTF-32, indented": ("jsonl", "k", lambda path: json.dumps(LINE, indent=1).encode("utf-32")),
    "a byte order mark": ("jsonl", "k", lambda path: b"\xef\xbb\xbf" + json.dumps(LINE).encode()),
    "a list of messages": ("threads", "thread_a", lambda path: json.dumps(THREAD, indent=2).encode()),
    "lines of messages": ("threads", "thread_a", lambda path: json.dumps(MESSAGE).encode()),
    "an export of ChatGPT": ("chatgpt", "c", lambda path: json.dumps(CHAT).encode()),
    "one that was indented": ("chatgpt", "c", lambda path: json.dumps(CHAT, indent=1).encode()),
    "its zip": ("chatgpt", "c", zip_bytes),
    "an export of Claude": ("claude", "a-1", lambda path: json.dumps(CLAUDE).encode()),
    "the zip of Claude": ("claude", "a-1", lambda path: zip_bytes(path, CLAUDE)),
    "a database": ("agents-sqlite", "s", sqlite_bytes),
}


@pytest.mark.parametrize("how", ["a file", "standard input", "packed"])
@pytest.mark.parametrize(("kind", "key", "made"), CONTENTS.values(), ids=CONTENTS)
def test_the_format_is_told_from_the_content_and_said(
    command: Command, tmp_path: Path, kind: str, key: str, made: Callable[[Path], bytes], how: str
) -> None:
    content = made(tmp_path / "made")
    (tmp_path / "in").write_bytes(gzip.compress(content) if how == "packed" else content)
    arguments = ("-",) if how == "standard input" else ("in",)
    done = command("import", *arguments, stdin=content)
    assert f"is read as {kind}\n" in done.err
    assert "1 imported" in done.err
    key = key.format(name="stdin" if how == "standard input" else "in")
    assert command("show", key, "-o", "json").json["messages"][0]["content"] == "hi"
    again = command("import", *arguments, "--format", kind, "-o", "json", stdin=content)
    assert [row["state"] for row in again.json if row["state"] != "failed"] == ["unchanged"]
    assert "is read as" not in again.err


def test_a_file_that_is_none_of_these_is_refused_with_a_sentence(command: Command, tmp_path: Path) -> None:
    for content in ("[1, 2]", json.dumps({"a": {"b": 1}}, indent=1)):
        (tmp_path / "in.json").write_text(content)
        done = command("import", "in.json")
        assert (done.code, "the format of the file is unknown" in done.err) == (2, True)
    assert not (tmp_path / "threadledger.db").exists()


def test_a_database_under_another_format_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in.db").write_bytes(sqlite_bytes(tmp_path / "made"))
    (tmp_path / "in.jsonl").write_text("{}")
    assert "is a SQLite database" in command("import", "in.db", "--format", "jsonl").err
    done = command("import", "in.jsonl", "--format", "agents-sqlite")
    assert (done.code, "is not a SQLite database" in done.err) == (2, True)


def test_what_could_not_be_carried_is_told_by_conversation_and_in_all(command: Command, tmp_path: Path) -> None:
    empty = {**MESSAGE, "id": "msg_2", "content": []}
    (tmp_path / "in.json").write_text(
        json.dumps([{**THREAD, "data": [MESSAGE, empty]}, {"thread_id": "t", "messages": 7}])
    )
    done = command("import", "in.json", "-o", "json")
    assert done.code == 3
    rows = sorted(done.json, key=lambda row: row["line"])
    assert [list(row) for row in rows] == [["line", "key", "state", "messages", "reason", "left_out"]] * 2
    assert (rows[0]["left_out"], rows[1]["state"]) == ({"empty_messages": 1}, "failed")
    told = command("import", "in.json")
    assert "empty_messages: 1" in told.out
    assert "omitted or converted: 1 empty messages" in told.err


def test_live_threads_are_imported_by_a_file_of_ids(command: Command, provider: Any, tmp_path: Path) -> None:
    command("append", "customer-42", "user", "hello")
    thread_id = next(iter(command("show", "customer-42", "-o", "json").json["threads"].values()))
    thread_id = thread_id["thread_id"] if isinstance(thread_id, dict) else thread_id
    (tmp_path / "ids.txt").write_text(f"# ours\n{thread_id}\n\nthread_gone\n")
    done = command("--db", "sqlite:///new.db", "import", "--threads", "ids.txt", "-o", "json")
    rows = sorted(done.json, key=lambda row: row["line"])
    assert (done.code, [(row["line"], row["key"], row["state"]) for row in rows]) == (
        3,
        [(2, "customer-42", "imported"), (4, "thread_gone", "failed")],
    )
    by_id = command(
        *("--db", "sqlite:///by-id.db", "import", "--threads", "-", "--from", provider.base_url, "--key-from", "id"),
        stdin=thread_id.encode(),
    )
    assert by_id.code == 0
    assert command("--db", "sqlite:///by-id.db", "list", "-o", "json").json[0]["key"] == thread_id
    assert "unchanged" in command("import", "--threads", "ids.txt", "-o", "jsonl").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "pass either FILE, or --threads"),
        (("in", "--threads", "-"), "pass either FILE, or --threads"),
        (("in", "--from", "http://x"), "--from requires --threads"),
        (("--threads", "-", "--format", "threads"), "--format applies only to FILE"),
    ],
)
def test_what_does_not_go_together_is_refused(command: Command, arguments: tuple[str, ...], told: str) -> None:
    done = command("import", *arguments)
    assert (done.code, told in done.err) == (2, True)


def test_the_time_at_which_the_original_was_written_is_shown(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps({**MESSAGE, "created_at": 1_700_000_000}))
    command("import", "in.json")
    written = "2023-11-14T22:13:20.000000Z"
    (shown,) = command("show", "thread_a", "-o", "json").json["messages"]
    assert (shown["written_at"], shown["at"] > "2026") == (written, True)
    assert "2023-11-14 22:13:20" in command("show", "thread_a").out
    (listed,) = command("list", "-o", "json").json
    assert (listed["written_at"], listed["last_at"] > "2026") == (written, True)
    assert "2023-11-14" in command("list").out
    command("append", "thread_a", "user", "and now?")
    assert command("list", "-o", "json").json[0]["written_at"] is None
    assert command("show", "thread_a", "-o", "json").json["messages"][1]["written_at"] is None
    assert command("db", "check").code == 0


@pytest.mark.parametrize(
    ("key_from", "keys"),
    [
        (None, ["a", "7", "in.jsonl:3", "b"]),
        ("line", ["in.jsonl:1", "in.jsonl:2", "in.jsonl:3", "in.jsonl:4"]),
        ("user", ["u1", "u2", "in.jsonl:3", "b"]),
    ],
)
def test_the_key_of_a_line_is_taken_from_a_field_or_from_its_place(
    command: Command, tmp_path: Path, key_from: str | None, keys: list[str]
) -> None:
    said = [{"role": "user", "content": "hi"}]
    lines = [{"id": "a", "user": "u1", "messages": said}, {"id": 7, "metadata": {"user": "u2"}, "messages": said}]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, {"messages": said}, {"id": "b", "messages": said}])
    )
    options = ("--key-from", key_from) if key_from else ()
    done = command("import", "in.jsonl", "-o", "json", *options)
    assert (done.code, [row["key"] for row in done.json]) == (0, keys)
    assert "--key-from FIELD" in command("import", "in.jsonl").err
    again = command("import", "in.jsonl", "-o", "json", *options)
    assert {row["state"] for row in again.json} == {"unchanged"}


def test_memory_does_not_grow_with_the_file(command: Command, tmp_path: Path) -> None:
    import tracemalloc

    from threadledger.adapters import import_found, import_source, load_settings, open_ledger

    peaks = []
    for threads in (30, 60):  # of a hundred messages each: what is kept is full after about 25 of them
        path = tmp_path / f"{threads}.json"
        with path.open("w") as file:
            file.write("[")
            for number in range(threads):
                messages = [{**MESSAGE, "id": f"msg_{number}_{n}", "created_at": n} for n in range(100)]
                file.write(("," if number else "") + json.dumps({"thread_id": f"t{number}", "messages": messages}))
            file.write("]")
        with open_ledger(load_settings(db=f"sqlite:///{tmp_path / str(threads)}.db")) as ledger:
            tracemalloc.start()
            with import_source(str(path)) as source:
                count = sum(outcome.messages for outcome in import_found(ledger, source.found))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert count == threads * 100
    assert peaks[1] < 1.7 * peaks[0]  # twice the file; what Python itself keeps differs by a tenth from run to run


ASSISTANT = {"id": "asst_1", "object": "assistant", "created_at": 1, "model": "m", "tools": [{"type": "file_search"}]}


def test_assistants_and_threads_are_imported_for_a_tenant_and_what_is_not_used_is_said(
    command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"assistants": [ASSISTANT], "threads": [{"id": "thread_a", "messages": [MESSAGE]}]}))
    done = command("import", str(path), "--tenant", "acme")
    assert done.code == 0
    assert f"{path} is read as threads" in done.err
    assert "2 imported, 0 extended, 0 unchanged, 0 failed; 1 messages journaled" in done.err
    assert "omitted or converted: 1 tool:file search" in done.err
    assert [each["key"] for each in command("list", "-o", "json").json] == ["tenant:acme/thread_a"]
    again = command("import", str(path), "--tenant", "acme", "-o", "json")
    assert [each["state"] for each in again.json] == ["unchanged"] * 2


@pytest.mark.parametrize("tenant", ["", "Acme", "a/b"])
def test_a_name_that_no_tenant_has_is_refused_before_anything_is_read(
    command: Command, tmp_path: Path, tenant: str
) -> None:
    done = command("import", str(tmp_path / "none.json"), "--tenant", tenant)
    assert (done.code, "is not the name of a tenant: use 1 to 63" in done.err) == (2, True)
