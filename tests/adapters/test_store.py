"""The store: what is appended is there, once, whole, in order, and unchangeable."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy
from eventsourcing.persistence import IntegrityError, StoredEvent

from threadledger.adapters.sql import SCHEMA_VERSION, Database, Factory, Recorder
from threadledger.domain import (
    STATE_SCHEMA,
    Conversation,
    ConversationChanged,
    ConversationState,
    DatabaseMissing,
    ForeignDatabase,
    IdempotencyConflict,
    InvalidSettings,
    Journal,
    Ledger,
    NewerSchema,
    StoreUnavailable,
    evolve,
    text_message,
)

APPEND_ONCE = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
with Ledger(Journal(Factory(Database(sys.argv[1])))) as ledger:
    for index in range(10):
        print(ledger.conversation("k").append("user", "once", idempotency_key=str(index)).message_id)
"""
APPEND_OWN = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
with Ledger(Journal(Factory(Database(sys.argv[1])))) as ledger:
    for index in range(25):
        ledger.conversation(f"k{sys.argv[2]}-{index % 3}").append("user", f"{sys.argv[2]} {index}")
"""


def rows(path, query, *values):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def texts(ledger, key="k"):
    return [each.message.text for each in ledger.memory(key).messages]


def assert_contiguous(path):
    positions = [position for (position,) in rows(path, "SELECT position FROM events ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))
    for (stream,) in rows(path, "SELECT stream FROM streams"):
        versions = [v for (v,) in rows(path, "SELECT version FROM events WHERE stream = ? ORDER BY position", stream)]
        assert versions == list(range(1, len(versions) + 1))


# Append: compare and set


def test_the_second_of_two_writers_who_loaded_the_same_version_is_refused(open_store):
    one, other = open_store(), open_store()
    one.conversation("k").append("user", "first")
    mine, theirs = one.journal.load("k"), other.journal.load("k")
    mine.journal(text_message("user", "mine"))
    theirs.journal(text_message("user", "theirs"))
    one.journal.store(mine)
    with pytest.raises(ConversationChanged, match="moved on"):
        other.journal.store(theirs)
    assert texts(one) == texts(other) == ["first", "mine"]


def test_the_loser_of_a_race_decides_again_and_both_events_are_there(open_store, db_path):
    one, other = open_store(), open_store()
    one.conversation("k").append("user", "first")
    seen = []

    def decide(conversation):
        if not seen:
            other.conversation("k").append("user", "theirs")
        seen.append(conversation.version)
        conversation.journal(text_message("user", "mine"))

    one.journal.commit("k", decide)
    assert seen == [2, 3]
    assert texts(one) == ["first", "theirs", "mine"]
    assert_contiguous(db_path)


def test_whoever_is_overtaken_every_time_is_told_and_nothing_of_theirs_is_written(open_store):
    one, other = open_store(), open_store()

    def decide(conversation):
        other.conversation("k").append("user", "theirs")
        conversation.journal(text_message("user", "mine"))

    with pytest.raises(ConversationChanged, match="nothing was written"):
        one.journal.commit("k", decide, create=True)
    assert set(texts(one)) == {"theirs"}


def test_two_beginnings_of_one_conversation_are_one(open_store):
    one, other = open_store(), open_store()
    mine, theirs = Conversation.start("k"), Conversation.start("k")
    one.journal.store(mine)
    with pytest.raises(ConversationChanged):
        other.journal.store(theirs)
    assert len(list(one.journal.history("k"))) == 1


def test_eight_threads_that_append_to_one_conversation_lose_nothing(open_store, db_path):
    stores = [open_store() for _ in range(8)]
    together = Barrier(8)

    def append(number):
        together.wait()
        for index in range(10):
            stores[number].conversation("k").append("user", f"{number} {index}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(8)))
    found = texts(stores[0])
    assert sorted(found) == sorted(f"{number} {index}" for number in range(8) for index in range(10))
    for number in range(8):
        assert [text for text in found if text.startswith(f"{number} ")] == [f"{number} {i}" for i in range(10)]
    assert_contiguous(db_path)


def test_events_of_one_commit_are_stored_all_or_none(open_store, db_path):
    ledger = open_store()
    fresh, taken = Conversation.start("fresh"), Conversation.start("k")
    ledger.conversation("k").append("user", "it has begun")
    fresh.journal(text_message("user", "one"))
    fresh.journal(text_message("user", "two"))
    before = rows(db_path, "SELECT count(*) FROM events")
    with pytest.raises(ConversationChanged):
        ledger.journal.store(fresh, taken)
    assert rows(db_path, "SELECT count(*) FROM events") == before
    assert ledger.journal.load("fresh") is None


def test_an_event_id_that_is_taken_rolls_the_whole_commit_back(open_store):
    ledger = open_store()
    ledger.conversation("k").append("user", "once", idempotency_key="i")
    conversation = ledger.journal.load("k")
    conversation.journal(text_message("user", "before"))
    conversation.journal(text_message("user", "once"), idempotency_key="i")
    with pytest.raises(ConversationChanged):
        ledger.journal.store(conversation)
    assert texts(ledger) == ["once"]
    assert ledger.state("k").version == 2


def test_positions_are_gap_free_in_the_order_of_commits_also_after_rollbacks(open_store, db_path):
    one, other = open_store(), open_store()
    for index in range(5):
        one.conversation(f"a{index % 2}").append("user", str(index))
        with pytest.raises(ConversationChanged):
            other.journal.store(Conversation.start("a0"))
        other.conversation("b").append("user", str(index))
    logged = list(one.events())
    assert [each.position for each in logged] == list(range(1, len(logged) + 1))
    stored = [each.event.content for each in logged if each.type == "MessageJournaled"]
    assert stored == [str(index) for index in range(5) for _ in "ab"]
    assert_contiguous(db_path)


def test_four_processes_leave_a_log_without_gaps(open_store, db_url, db_path, run_python):
    run_python(APPEND_OWN, db_url, processes=4)
    assert_contiguous(db_path)
    ledger = open_store()
    found = sorted(text for state in ledger.conversations() for text in texts(ledger, state.key))
    assert found == sorted(f"{process} {index}" for process in range(4) for index in range(25))


# Idempotency


def test_the_same_idempotency_key_in_eight_threads_at_once_is_one_message(open_store):
    stores = [open_store() for _ in range(8)]
    together = Barrier(8)

    def append(store):
        together.wait()
        return [store.conversation("k").append("user", "once", idempotency_key=str(i)).message_id for i in range(10)]

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(append, stores))
    assert all(each == ids[0] for each in ids)
    assert [each.message_id for each in stores[0].memory("k").messages] == ids[0]


def test_the_same_idempotency_key_in_four_processes_at_once_is_one_message(open_store, db_url, run_python):
    printed = run_python(APPEND_ONCE, db_url, processes=4)
    assert len(set(printed)) == 1
    assert [each.message_id for each in open_store().memory("k").messages] == printed[0].split()


def test_an_idempotency_key_that_stands_for_another_message_is_refused(open_store):
    ledger = open_store()
    ledger.conversation("k").append("user", "once", idempotency_key="i")
    with pytest.raises(IdempotencyConflict, match="'i'"):
        ledger.conversation("k").append("user", "twice", idempotency_key="i")
    assert texts(ledger) == ["once"]


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "with extras", "name": "Jörg", "extra": {"a": [1, None]}},
        {"content": [{"type": "input_audio", "input_audio": {"data": "語"}}]},
        {"content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}]},
        {"content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": ""}}]},
    ],
    ids=["extra fields", "a part of an unknown kind", "parts", "calls of another kind"],
)
def test_the_same_message_again_under_its_idempotency_key_is_the_first_whatever_it_carries(open_store, fields):
    chat = open_store().conversation("k")
    role = "assistant" if "tool_calls" in fields else "user"
    ids = {chat.append(role, **fields, idempotency_key="i").message_id for _ in range(2)}
    assert len(ids) == len(chat.memory().messages) == 1


def test_an_idempotency_key_is_a_conversations_own(open_store):
    ledger = open_store()
    for key in ("a", "b"):
        ledger.conversation(key).append("user", "once", idempotency_key="i")
    assert texts(ledger, "a") == texts(ledger, "b") == ["once"]


def test_two_equal_texts_without_a_key_are_two_messages(open_store):
    ledger = open_store()
    for _ in range(2):
        ledger.conversation("k").append("user", "again")
    assert texts(ledger) == ["again", "again"]


# What is stored stays


@pytest.mark.parametrize(
    "statement", ["UPDATE events SET state = '{}'", "UPDATE events SET position = position + 10", "DELETE FROM events"]
)
def test_the_database_refuses_to_change_or_delete_an_event(open_store, db_path, statement):
    open_store().conversation("k").append("user", "it stays")
    connection = sqlite3.connect(db_path)
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        connection.execute(statement)
    connection.close()
    assert rows(db_path, "SELECT count(*) FROM events") == [(2,)]


def test_payloads_are_plain_json_in_the_row(open_store, db_path):
    open_store().conversation("k").append("user", "naïve 🙂")
    found = rows(
        db_path,
        "SELECT json_extract(state, '$.content'), json_extract(state, '$.role') FROM events WHERE topic = 'MessageJournaled'",
    )
    assert found == [("naïve 🙂", "user")]


def deep(levels):
    value = "bottom"
    for _ in range(levels):
        value = {"a": [value]}
    return value


POISON = {
    "reserved keys of eventsourcing": {"_type_": "datetime_iso", "_data_": "2020-01-01"},
    "a reserved topic": {"_type_": "os:system", "_data_": ["true"]},
    "NUL": "before\0after",
    "emoji and combining marks": "👩‍👩‍👧‍👦 é é \u202e ﷽",
    "beyond the basic plane as an escape": json.loads('"\\ud83d\\ude00"'),
    "line separators": "a\u2028b\u2029c\r\n\td\x0b\x1b[31m",
    "deep nesting": deep(100),
    "numbers": [0, -0.0, 1e308, 2**70, 0.1, True, None],
    "empty things": {"": "", "list": [], "dict": {}, "null": None},
    "quotes": "'; DROP TABLE events; -- \" \\ ' $1 ? :name %s",
    "one megabyte": "x" * 2**20,
    "one megabyte of three-byte characters": "語" * (2**20 // 3),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_whatever_was_said_comes_back_equal(open_store, poison):
    ledger = open_store()
    chat = ledger.conversation("k")
    text = poison if isinstance(poison, str) else json.dumps(poison)
    part = {"type": "unheard_of", "payload": poison}
    given = [
        {"role": "user", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, part]},
        {"role": "user", "content": "with extras", "extra": poison},
        {"role": "assistant", "content": None, "tool_calls": [_call(text)]},
        {"role": "tool", "content": text, "tool_call_id": "c"},
    ]
    for message in given:
        chat.append(**message)
    shown = [each.message.as_chat_message() for each in open_store().memory("k").messages]
    assert shown == given
    assert json.dumps(shown, sort_keys=True) == json.dumps(given, sort_keys=True)  # 1 == True, 0.0 == -0.0


def _call(arguments):
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


# A cold load


def counted(database):
    statements = []
    sqlalchemy.event.listen(
        database.reader, "before_cursor_execute", lambda c, cursor, statement, *rest: statements.append(statement)
    )
    return statements


def test_a_cold_load_reads_one_row_however_long_the_conversation_is(open_store, db_url):
    writer = open_store()
    conversation = Conversation.start("k")
    for index in range(2_000):
        conversation.journal(text_message("user", str(index)))
    writer.journal.store(conversation)
    database = Database(db_url)
    journal = Journal(Factory(database))
    fetched = []
    statements = counted(database)
    sqlalchemy.event.listen(
        database.reader, "after_cursor_execute", lambda c, cursor, *rest: fetched.append(cursor.description)
    )
    loaded = journal.load("k")
    journal.close()
    assert loaded.version == 2_001
    assert loaded.state.messages == 2_000
    assert [statement for statement in statements if "events" in statement] == []
    assert len([statement for statement in statements if "streams" in statement]) == 1


def test_an_append_to_a_long_conversation_costs_as_many_statements_as_one_to_a_short_one(db_url, open_store):
    long = Conversation.start("long")
    for index in range(500):
        long.journal(text_message("user", str(index)))
    open_store().journal.store(long, Conversation.start("short"))
    costs = {}
    for key in ("long", "short"):
        database = Database(db_url)
        with Ledger(Journal(Factory(database))) as ledger:
            statements = counted(database)
            ledger.conversation(key).append("user", "one more")
        costs[key] = len(statements)
    assert costs["long"] == costs["short"]


def full_story(ledger):
    """A conversation with a bit of everything that its state remembers."""
    from threadledger.domain import Completion, Failure, RunPlan

    chat = ledger.conversation("k")
    chat.append("system", "Be brief.")

    def decide(conversation):
        exchange = conversation.ask(text_message("user", "hello"))
        run = conversation.start_run(exchange, RunPlan("assistants", "m"))
        conversation.fail_run(run, Failure("failed", code="server_error"))
        run = conversation.start_run(exchange, RunPlan("chat", "m"))
        conversation.complete_run(run, Completion((text_message("assistant", "hi"),)))
        conversation.link_thread("assistants", "thread_1", "http://here")
        conversation.lose_thread("assistants", "thread_1", "gone")
        conversation.link_thread("conversations", "conv_1", "http://here")
        exchange = conversation.ask(text_message("user", "and now?"))
        run = conversation.start_run(exchange, RunPlan("chat", "m"))
        conversation.fail_run(run, Failure("failed"))
        conversation.abandon(exchange, "nobody")
        exchange = conversation.ask(text_message("user", "still there?"))
        conversation.start_run(exchange, RunPlan("chat", "m"))

    ledger.journal.commit("k", decide)


def folded(ledger, key="k"):
    state = ConversationState()
    for event in ledger.journal.history(key):
        evolve(state, event)
    return state


def test_the_state_beside_the_stream_equals_the_fold_of_its_events(open_store, db_path):
    ledger = open_store()
    full_story(ledger)
    expected = folded(ledger)
    (stored,) = rows(db_path, "SELECT version, state_schema, state, due_at FROM streams WHERE name = 'conversation:k'")
    assert ConversationState.from_json(stored[2]) == expected
    assert stored[:2] == (expected.version, STATE_SCHEMA)
    assert stored[3] == expected.next_deadline is not None
    assert open_store().state("k") == expected
    assert (expected.open_runs != {}, expected.failed_runs, expected.unanswered, len(expected.links)) == (True, 2, 1, 2)


def test_a_snapshot_of_another_schema_is_folded_anew_and_replaced_at_the_next_append(open_store, db_path):
    ledger = open_store()
    full_story(ledger)
    expected = folded(ledger)
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("UPDATE streams SET state_schema = 999, state = 'from another version' WHERE stream = 1")
    connection.close()
    assert open_store().state("k") == expected
    open_store().conversation("k").append("user", "one more")
    ((schema, state),) = rows(db_path, "SELECT state_schema, state FROM streams WHERE name = 'conversation:k'")
    assert schema == STATE_SCHEMA
    assert ConversationState.from_json(state) == folded(ledger)


# What cannot be opened


def test_a_foreign_database_is_refused_and_left_byte_for_byte_as_it_was(db_path, db_url):
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    connection.close()
    before = db_path.read_bytes()
    with pytest.raises(ForeignDatabase, match="invoices"):
        Journal(Factory(database := Database(db_url)))
    database.close()
    assert rows(db_path, "SELECT name FROM sqlite_master") == [("invoices",)]
    assert db_path.read_bytes() == before
    assert [path.name for path in db_path.parent.iterdir()] == [db_path.name]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(db_path, db_url):
    db_path.write_bytes(b"My diary. Please do not write here.\n" * 100)
    before = db_path.read_bytes()
    with pytest.raises(ForeignDatabase, match="not a database"):
        Journal(Factory(Database(db_url)))
    assert db_path.read_bytes() == before


def test_a_database_of_a_newer_version_is_refused_with_what_to_do(open_store, db_path, db_url):
    open_store().conversation("k").append("user", "hello")
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("UPDATE threadledger SET schema_version = ?", (SCHEMA_VERSION + 1,))
    connection.close()
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA_VERSION + 1}.*upgrade"):
        Journal(Factory(database := Database(db_url)))
    database.close()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreUnavailable, match=r"make the folder .*nowhere"):
        Journal(Factory(Database(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}")))
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


def test_a_row_that_cannot_be_read_is_named_and_the_other_conversations_still_work(open_store, db_path):
    from threadledger.domain import CorruptEvent

    ledger = open_store()
    for key in ("good", "bad"):
        ledger.conversation(key).append("user", "hello")
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET state = '{\"broken' WHERE position = 4")
    connection.close()
    with pytest.raises(CorruptEvent, match="event 2 of 'conversation:bad'"):
        open_store().memory("bad")
    assert texts(open_store(), "good") == ["hello"]


# eventsourcing's recorder, where the conversations' own rules do not reach


def test_a_stored_event_of_any_application_comes_back(db_url):
    database = Database(db_url)
    recorder = Recorder(database)
    stored = StoredEvent("any stream", 1, "a topic", b"{}")
    assert recorder.insert_events([stored]) == [1]
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored])
    found = recorder.select_events("any stream")
    database.close()
    assert [(each.originator_id, each.originator_version, each.topic, each.state) for each in found] == [
        ("any stream", 1, "a topic", b"{}")
    ]
