"""The SQLite database of the Agents SDK's sessions. The statements are those that openai-agents 0.24 leaves behind."""

from __future__ import annotations

import base64
import json
import sqlite3

import pytest

from .importing import end, imported, memory, said, states

TABLES = """
CREATE TABLE agent_sessions (session_id TEXT PRIMARY KEY, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE agent_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL, message_data TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE);
CREATE INDEX idx_agent_messages_session_id ON agent_messages (session_id, id);
"""
REAL = [
    '{"role": "user", "content": "Where is my parcel?"}',
    '{"id": "rs_1", "summary": [], "type": "reasoning", "content": [], "encrypted_content": null}',
    '{"arguments": "{\\"id\\":\\"42\\"}", "call_id": "call_1", "name": "look_up", "type": "function_call", "id": "fc_1", '
    '"status": "completed"}',
    '{"call_id": "call_1", "output": "in Lyon", "type": "function_call_output"}',
    '{"id": "ws_1", "action": {"query": "lyon strike", "type": "search"}, "status": "completed", "type": "web_search_call"}',
    '{"id": "msg_1", "content": [{"annotations": [{"type": "url_citation", "start_index": 0, "end_index": 2, "title": "T", '
    '"url": "https://e.x"}], "text": "It is in Lyon.", "type": "output_text", "logprobs": []}], "role": "assistant", '
    '"status": "completed", "type": "message"}',
]
MORE = [
    '{"role": "user", "content": [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": '
    '"https://x/a.png", "detail": "auto"}, {"type": "input_file", "file_id": "file-1"}]}',
    '{"role": "assistant", "content": "nice", "phase": "final_answer"}',
]


@pytest.fixture
def sessions(tmp_path):
    """Makes a database as the SDK makes it: with a write-ahead log, which is gone once it is closed."""
    path = tmp_path / "sessions.db"

    def write(session, items, created_at="2026-11-27 00:09:48"):
        database = sqlite3.connect(path)
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(TABLES)
        database.execute("INSERT OR IGNORE INTO agent_sessions VALUES (?, ?, ?)", (session, created_at, created_at))
        rows = [(session, item, created_at) for item in items]
        database.executemany("INSERT INTO agent_messages (session_id, message_data, created_at) VALUES (?, ?, ?)", rows)
        database.commit()
        database.close()
        return path

    return write


def test_a_session_is_a_conversation_and_what_is_not_carried_is_counted(open_store, sessions):
    sessions("customer-42", REAL)
    path = sessions("other", MORE)
    ledger = open_store()
    first, second = imported(ledger, path)
    assert (first["key"], first["messages"], first["left_out"]) == (
        "customer-42", 4, {"reasoning": 1, "hosted_calls": 1})  # fmt: skip
    assert (second["key"], second["messages"], second["left_out"]) == ("other", 2, {})
    _, calling, result, answer = memory(ledger, "customer-42")
    assert calling["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"id":"42"}'}}]  # fmt: skip
    assert (result["tool_call_id"], result["content"]) == ("call_1", "in Lyon")
    hosted, text = answer["content"]
    assert hosted == {"type": "hosted_call", "name": "web_search", "status": "completed", "detail": "lyon strike"}
    assert (text["text"], text["annotations"][0]["url"]) == ("It is in Lyon.", "https://e.x")
    assert ledger.memory("customer-42").messages[0].written_at == "2026-11-27T00:09:48.000000Z"
    assert memory(ledger, "other") == [
        {"role": "user", "content": [{"type": "text", "text": "see"},
                                     {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "auto"}},
                                     {"type": "file", "file": {"file_id": "file-1"}}]},
        {"role": "assistant", "content": "nice", "phase": "final_answer"}]  # fmt: skip


def test_the_file_is_not_changed_and_nothing_is_left_beside_it(open_store, sessions, tmp_path):
    path = sessions("customer-42", REAL)
    before, beside = path.read_bytes(), sorted(tmp_path.iterdir())
    ledger = open_store()
    beside = sorted({*beside, *tmp_path.iterdir()})
    imported(ledger, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("sessions.db")] == ["sessions.db"]


def test_what_an_app_that_still_runs_wrote_last_is_read(open_store, sessions):
    path = sessions("customer-42", REAL[:1])
    running = sqlite3.connect(path)
    item = json.dumps({"role": "assistant", "content": "in its log alone"})
    running.execute("INSERT INTO agent_messages (session_id, message_data) VALUES ('customer-42', ?)", (item,))
    running.commit()
    ledger = open_store()
    imported(ledger, path)
    running.close()
    assert said(ledger, "customer-42")[-1] == ("assistant", "in its log alone")


def test_the_same_database_twice_changes_nothing_and_a_grown_one_adds_its_rows(open_store, sessions):
    path = sessions("customer-42", REAL)
    ledger = open_store()
    imported(ledger, path)
    before = end(ledger)
    assert states(imported(ledger, path)) == [(1, "customer-42", "unchanged", 0)]
    assert end(ledger) == before
    sessions("customer-42", [REAL[0]])
    assert states(imported(ledger, path)) == [(1, "customer-42", "extended", 1)]
    assert said(ledger, "customer-42")[-1] == ("user", "Where is my parcel?")


def test_a_generated_image_is_an_image_also_without_a_message(open_store, sessions):
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(9_000)).decode()
    image = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": data}
    ledger = open_store()
    imported(ledger, sessions("k", [json.dumps(image)]))
    (only,) = memory(ledger, "k")
    ((part,), native) = only["content"], ledger.memory("k").messages[0].message.native()
    assert (part["type"], part["image_url"]["media_type"], part["image_url"]["size"]) == (
        "image_url",
        "image/png",
        9_008,
    )
    assert [item["type"] for item in native["items"]] == ["image_generation_call"]


BAD = {
    "not JSON": ("{", "row 2: the row is not JSON"),
    "bytes that are no UTF-8": (b'{"role": "user", "content": "\xff"}', "row 2: the row is not UTF-8"),
    "nested too deep": ("[" * 100_000, "not JSON"),
    "a list": ("[]", "row 2: it is list"),
    "an item without role and type": ("{}", "neither a role nor a type"),
    "an unknown role": ('{"role": "robot", "content": "x"}', "row 2: unknown role 'robot'"),
}


@pytest.mark.usefixtures("no_finalizers")
@pytest.mark.parametrize(("bad", "told"), BAD.values(), ids=BAD)
def test_a_bad_row_is_reported_with_its_number_and_other_sessions_are_kept(open_store, sessions, bad, told):
    sessions("a", MORE[1:])
    sessions("b", [bad])
    path = sessions("c", MORE[1:])
    found = sorted(imported(open_store(), path), key=lambda outcome: outcome["line"])
    assert [(each["line"], each["key"], each["state"]) for each in found] == [
        (1, "a", "imported"), (2, "b", "failed"), (3, "c", "imported")]  # fmt: skip
    assert told in found[1]["reason"]
    assert "\n" not in found[1]["reason"]


def test_another_database_is_refused_with_a_sentence(open_store, tmp_path, db_path):
    ledger = open_store()
    with pytest.raises(ValueError, match="threadledger db copy"):
        imported(ledger, db_path)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE users (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(ValueError, match="without the tables of Agents SDK sessions"):
        imported(ledger, tmp_path / "other.db")
    (tmp_path / "half.db").write_bytes((tmp_path / "other.db").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a SQLite database"):
        imported(ledger, tmp_path / "half.db")


STRUCTURE = """CREATE TABLE message_structure (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL,
    message_id INTEGER NOT NULL, branch_id TEXT NOT NULL DEFAULT 'main', message_type TEXT NOT NULL,
    sequence_number INTEGER NOT NULL);
"""


def branched(path, **branches):
    """Add branches of an `AdvancedSQLiteSession`, each with the ids of its rows; the last one is current."""
    database = sqlite3.connect(path)
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'message_structure'").fetchone():
        database.executescript(STRUCTURE)
    for name, rows in branches.items():
        database.executemany(
            "INSERT INTO message_structure (session_id, message_id, branch_id, message_type, sequence_number) "
            "VALUES ('k', ?, ?, 'user', ?)",
            [(row, name, number) for number, row in enumerate(rows, 1)],
        )
    database.commit()
    database.close()
    return path


def ends(ledger, key="k"):
    """The texts of each branch, from its beginning to its end."""
    chat = ledger.conversation(key)
    memories = [ledger.journal.memory(key, leaf=each.end.version) for each in chat.branches()]
    return sorted(" ".join(each.message.text for each in memory.messages) for memory in memories)


def items(*texts):
    return [json.dumps({"role": "user", "content": text}) for text in texts]


def test_branches_of_a_session_share_what_they_begin_with(open_store, sessions):
    path = branched(sessions("k", items(*"abcde")), main=[1, 2, 3], other=[1, 2, 4], current=[1, 5])
    ledger = open_store()
    (outcome,) = imported(ledger, path)
    assert (outcome["messages"], outcome["left_out"]) == (5, {})
    assert [text for _, text in said(ledger, "k")] == ["a", "e"]
    assert ends(ledger) == ["a b c", "a b d", "a e"]
    sessions("k", items("f", "g"))
    branched(path, other=[6])
    database = sqlite3.connect(path)
    database.execute("UPDATE message_structure SET sequence_number = 4 WHERE message_id = 6")
    database.commit()
    database.close()
    (outcome,) = imported(ledger, path)
    assert (outcome["state"], outcome["messages"]) == ("extended", 1)
    assert outcome["left_out"] == {"messages_on_other_branches": 1}  # a row that no branch has
    assert [text for _, text in said(ledger, "k")] == ["a", "b", "d", "f"]
    assert ends(ledger) == ["a b c", "a b d f", "a e"]


def test_a_branch_ends_before_a_row_that_follows_another_one_elsewhere(open_store, sessions):
    path = branched(sessions("k", items(*"abcd")), odd=[4, 2, 3], current=[1, 2, 3])
    ledger = open_store()
    assert imported(ledger, path)[0]["messages"] == 4
    assert ends(ledger) == ["a b c", "d"]
    assert states(imported(ledger, path)) == [(1, "k", "unchanged", 0)]


def test_what_the_model_did_before_a_fork_is_kept_on_each_branch(open_store, sessions):
    answers = [json.dumps({"role": "assistant", "content": text}) for text in ("here", "there")]
    path = branched(sessions("k", [*items("a"), REAL[1], *answers]), main=[1, 2, 3], current=[1, 2, 4])
    ledger = open_store()
    imported(ledger, path)
    assert ends(ledger) == ["a here", "a there"]
    natives = [
        [item["type"] for item in each.message.native()["items"]]
        for branch in ledger.conversation("k").branches()
        for each in [branch.end]
    ]
    assert [kinds[0] for kinds in natives] == ["reasoning", "reasoning"]
