"""Damaged and unusual files: what can be read is imported, and what cannot be is reported."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import zipfile

import pytest

from .importing import end, imported, memory, said, states
from .test_import_agents import TABLES
from .test_import_chatgpt import TALK, conversation, node

KEYS = [f"c-{number}" for number in range(30)]
LINES = "".join(
    json.dumps({"id": key, "messages": [{"role": "user", "content": f"hello from {key}"}]}) + "\n" for key in KEYS
).encode()
GOOD = {"id": "good", "messages": [{"role": "user", "content": "hi"}]}


class Pipe(io.RawIOBase):
    """A stream that cannot seek: a zip that is written to it has the sizes behind the data."""

    def __init__(self):
        self.written = b""

    def writable(self):
        return True

    def write(self, data):
        self.written += bytes(data)
        return len(data)


def zip_bytes(streamed=False, method=zipfile.ZIP_DEFLATED):
    target = Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations.json", json.dumps([conversation(*TALK, key=key) for key in KEYS]))
    return target.written if streamed else target.getvalue()


def in_order(found):
    return sorted(found, key=lambda each: each["line"])


WHOLE = {
    "gzip of lines": gzip.compress(LINES),
    "gzip of an array": gzip.compress(b"[" + LINES.strip().replace(b"\n", b",") + b"]"),
    "zip": zip_bytes(),
    "zip written to a pipe": zip_bytes(streamed=True),
    "zip without compression": zip_bytes(method=zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_precedes_the_damage_of_a_compressed_file_is_imported(open_store, tmp_path, name):
    whole, ledger, before = WHOLE[name], open_store(), 0
    for part in (0.6, 0.85):
        (tmp_path / "cut").write_bytes(whole[: int(len(whole) * part)])
        *found, last = in_order(imported(ledger, tmp_path / "cut"))
        read = [each for each in found if each["state"] != "failed"]
        assert len(read) > before
        assert sorted(each["key"] for each in read) == sorted(KEYS[: len(read)])
        assert last["state"] == "failed"
        assert "ends early" in last["reason"]
        before = len(read)
    (tmp_path / "whole").write_bytes(whole)
    assert len(imported(ledger, tmp_path / "whole")) == len(KEYS)


def test_a_wrong_checksum_is_reported_after_all_that_was_read(open_store, tmp_path):
    for whole, at in ((WHOLE["gzip of lines"], -6), (WHOLE["zip without compression"], 400)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        *found, last = in_order(imported(open_store(), tmp_path / "damaged"))
        assert [each["state"] for each in found].count("failed") <= 1
        assert last["state"] == "failed"
        assert "is damaged" in last["reason"]


def test_gzip_files_may_be_joined_and_padded(open_store, tmp_path):
    (tmp_path / "joined.gz").write_bytes(gzip.compress(LINES[:-5]) + gzip.compress(LINES[-5:]) + b"\0" * 7)
    assert [each["state"] for each in imported(open_store(), tmp_path / "joined.gz")] == ["imported"] * len(KEYS)


@pytest.mark.parametrize(
    "damaged",
    ['{"id": "k", "messages": {"role": "user", "content": "x"}}', '{"id": "k", "thread_id": "t"}', "{",
     '["k",', '{"mapping": {"n": {"message": {}}}}', '{"chat_messages": [7]}', '{"object": "list"}'],
)  # fmt: skip
def test_a_damaged_line_does_not_decide_about_the_format(open_store, tmp_path, damaged):
    (tmp_path / "k.jsonl").write_text(f"{damaged}\n{json.dumps(GOOD)}\n{json.dumps(GOOD | {'id': 'too'})}\n")
    found = in_order(imported(open_store(), tmp_path / "k.jsonl"))
    assert [(each["line"], each["state"]) for each in found] == [(1, "failed"), (2, "imported"), (3, "imported")]


@pytest.mark.parametrize("content", [b"", b"[]", b" [\n] \n", b"\xef\xbb\xbf[]", gzip.compress(b"[]", mtime=0)])
def test_an_export_of_no_conversations_imports_nothing(open_store, tmp_path, content):
    (tmp_path / "empty.json").write_bytes(content)
    assert imported(open_store(), tmp_path / "empty.json") == []


LONG, DEEP = "9" * 5_000, "[" * 3_000 + "]" * 3_000


@pytest.mark.parametrize("odd", [LONG, DEEP], ids=["a long number", "deep nesting"])
def test_a_value_that_python_cannot_read_costs_its_field_or_its_message_alone(open_store, tmp_path, odd):
    good, ledger = '{"role": "user", "content": "hi"}', open_store()
    texts = {
        "metadata_fields": f'{{"id": "k", "n": {odd}, "messages": [{good}]}}',
        "odd_fields": f'{{"id": "k", "messages": [{{"role": "user", "content": "hi", "n": {odd}}}]}}',
        "unreadable_messages": f'{{"id": "k", "messages": [{good}, {{"role": "user", "content": {odd}}}]}}',
    }
    for counted, text in texts.items():
        (tmp_path / "k.jsonl").write_text(text.replace('"k"', f'"{counted}"') + f"\n{odd}\n")
        found = {each["state"]: each for each in imported(ledger, tmp_path / "k.jsonl")}
        assert said(ledger, counted) == [("user", "hi")]
        assert found["imported"]["left_out"] == {counted: 1}
        assert not any(word in found["failed"]["reason"] for word in ("digits", "recursion", "Exceeds"))


def test_rows_of_a_session_that_is_not_listed_are_imported_under_its_id(open_store, tmp_path):
    database = sqlite3.connect(tmp_path / "s.db")
    database.executescript(TABLES.replace("session_id TEXT NOT NULL", "session_id TEXT"))
    database.execute("INSERT INTO agent_sessions (session_id) VALUES ('listed')")
    for session in ("listed", "lost", None, "lost"):
        row = (session, '{"role": "user", "content": "hi"}')
        database.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    database.commit()
    database.close()
    found = states(imported(open_store(), tmp_path / "s.db"))
    assert found == [(1, "listed", "imported", 1), (2, "lost", "imported", 2), (3, "s.db:3", "imported", 1)]


@pytest.mark.parametrize("current", [None, "unknown", 7, "n4"])
def test_the_parents_of_a_chatgpt_conversation_are_taken_from_children(open_store, tmp_path, current):
    given = conversation(*TALK, node(4))
    for number, each in enumerate(given["mapping"].values(), 1):
        del each["parent"]
        each["children"] = [f"n{number}", 7, "nowhere"]
    given["current_node"] = current
    ledger = open_store()
    (tmp_path / "c.json").write_text(json.dumps([given]))
    (outcome,) = imported(ledger, tmp_path / "c.json")
    assert [text for _, text in said(ledger, "c-1")] == ["hi", "hello", "text 4"]
    assert outcome["left_out"] == {"hidden_system_messages": 1}


@pytest.mark.parametrize(("says", "missing"), [("true", 1), ("True", 1), (1, 1), (True, 1), ("false", 0), (None, 0)])
def test_a_page_says_in_any_form_that_the_list_goes_on(open_store, tmp_path, says, missing):
    message = {"object": "thread.message", "id": "m", "thread_id": "t", "role": "user", "content": "hi"}
    (tmp_path / "t.json").write_text(json.dumps({"object": "list", "has_more": says, "data": [message]}))
    (outcome,) = imported(open_store(), tmp_path / "t.json")
    assert outcome["left_out"].get("missing_pages", 0) == missing


@pytest.mark.parametrize("between", [b"\r", b"\r\r\n", b"\n", b"", b" ", b",\n", b", "])
def test_values_are_told_apart_however_their_lines_end(open_store, tmp_path, between):
    ledger, values = open_store(), LINES.splitlines()
    unnamed = [json.dumps({"messages": GOOD["messages"]}).encode()] * 2
    (tmp_path / "k.jsonl").write_bytes(between.join([*values, *unnamed]) + between)
    found = imported(ledger, tmp_path / "k.jsonl")
    assert [each["state"] for each in found] == ["imported"] * (len(KEYS) + 2)
    assert len({each["key"] for each in found}) == len(KEYS) + 2
    assert memory(ledger, KEYS[7]) == [{"role": "user", "content": f"hello from {KEYS[7]}"}]
    before = end(ledger)
    imported(ledger, tmp_path / "k.jsonl")
    assert end(ledger) == before


def test_a_database_that_is_cut_off_is_read_up_to_its_end(open_store, tmp_path):
    database = sqlite3.connect(tmp_path / "s.db")
    database.executescript(TABLES)
    for key in KEYS * 10:
        database.execute("INSERT OR IGNORE INTO agent_sessions (session_id) VALUES (?)", (key,))
        row = (key, json.dumps({"role": "user", "content": "hello " * 20}))
        database.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    database.commit()
    database.close()
    whole, ledger = (tmp_path / "s.db").read_bytes(), open_store()
    (tmp_path / "s.db").write_bytes(whole[: len(whole) * 2 // 3])
    *found, last = in_order(imported(ledger, tmp_path / "s.db"))
    assert sorted(each["key"] for each in found) == sorted(KEYS)
    assert all(each["state"] == "imported" and 1 <= each["messages"] < 10 for each in found)
    assert (last["state"], "is damaged" in last["reason"]) == ("failed", True)
    (tmp_path / "s.db").write_bytes(whole)
    assert {each["state"] for each in imported(ledger, tmp_path / "s.db")} == {"extended"}
    assert {len(said(ledger, key)) for key in KEYS} == {10}
