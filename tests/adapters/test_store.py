"""The store, on each kind of database: what is appended is there, once, whole, in order, and unchangeable."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from eventsourcing.persistence import IntegrityError, StoredEvent, Tracking
from sqlalchemy.engine import make_url

from threadledger.adapters.sql import SCHEMA_VERSION, Database
from threadledger.adapters.sql.connections import Overtaken
from threadledger.adapters.sql.recorder import Recorder
from threadledger.adapters.sql.tracking import Processor
from threadledger.domain import limits
from threadledger.domain.conversation import STATE_SCHEMA, Conversation, ConversationState, evolve, text_message
from threadledger.domain.errors import ConversationChanged, CorruptEvent, IdempotencyConflict, NewerSchema
from threadledger.domain.journal import Appending

APPEND_ONCE = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
with Ledger(Journal(Factory(database=Database(sys.argv[1])))) as ledger:
    for index in range(10):
        print(ledger.conversation("k").append("user", "once", idempotency_key=str(index)).message_id)
"""
APPEND_OWN = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
with Ledger(Journal(Factory(database=Database(sys.argv[1])))) as ledger:
    for index in range(25):
        ledger.conversation(f"k{sys.argv[2]}-{index % 3}").append("user", f"{sys.argv[2]} {index}")
"""


@pytest.fixture
def open_store(open_any_store):
    return open_any_store


def rows(database, query, *values):
    return [tuple(row) for row in database.query(query, values)]


def directly(database, *statements):
    """Statements by the driver's own means, past everything that is ours."""
    connection = database.check_out()
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
    finally:
        connection.close()


def unlocked(database):
    """The statement that lets events be changed."""
    return {
        "sqlite": "DROP TRIGGER events_are_not_changed",
        "postgresql": "ALTER TABLE events DISABLE TRIGGER events_are_not_changed",
    }[database.kind.name]


def texts(ledger, key="k"):
    return [each.message.text for each in ledger.memory(key).messages]


def assert_contiguous(database):
    positions = [position for (position,) in rows(database, "SELECT position FROM events ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))
    for stream, version in rows(database, "SELECT stream, version FROM streams"):
        of_stream = "SELECT version FROM events WHERE stream = ? ORDER BY position"
        assert [each for (each,) in rows(database, of_stream, stream)] == list(range(1, version + 1))


# Append: compare and set


def test_the_second_of_two_writers_who_loaded_the_same_version_is_refused(open_store):
    one, other = open_store(), open_store()
    one.conversation("k").append("user", "first")
    mine, theirs = one.journal.load("k"), other.journal.load("k")
    mine.journal(text_message("user", "mine"))
    theirs.journal(text_message("user", "theirs"))
    one.journal.store(mine)
    with pytest.raises(ConversationChanged, match="changed in the meantime"):
        other.journal.store(theirs)
    assert texts(one) == texts(other) == ["first", "mine"]


def test_what_is_decided_while_another_appends_is_decided_on_what_is_there_when_it_is_stored(open_store, any_database):
    one, other = open_store(), open_store()
    one.conversation("k").append("user", "first")
    seen, theirs = [], []

    def decide(conversation):
        if not seen:
            theirs.append(pool.submit(other.conversation("k").append, "user", "theirs"))
            if not any_database.kind.locks_when_writing:
                theirs[0].result()  # it is not held up: this decision comes too late, and is made again
        seen.append(conversation.version)
        conversation.journal(text_message("user", "mine"))

    with ThreadPoolExecutor(1) as pool:
        one.journal.commit("k", decide)
        theirs[0].result()
    if any_database.kind.locks_when_writing:
        assert (seen, texts(one)) == ([2], ["first", "mine", "theirs"])
    else:
        assert (seen, texts(one)) == ([2, 3], ["first", "theirs", "mine"])
    assert_contiguous(any_database)


def test_whoever_was_overtaken_once_goes_first_the_next_time(open_store_on, postgres_url):
    named = make_url(postgres_url).update_query_dict({"application_name": "overtaking"})
    one, other = open_store_on(postgres_url), open_store_on(named.render_as_string(hide_password=False))
    look = Database(postgres_url)
    one.conversation("k").append("user", "first")
    seen, theirs = [], []

    def decide(conversation):
        theirs.append(pool.submit(other.conversation("k").append, "user", "theirs"))
        while not theirs[-1].done() and not (seen and is_held_up()):
            pass
        seen.append(conversation.version)
        conversation.journal(text_message("user", "mine"))

    def is_held_up():
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = ? AND wait_event_type = 'Lock'"
        return look.query(waiting, ("overtaking",))

    with ThreadPoolExecutor(1) as pool:
        one.journal.commit("k", decide)
        for each in theirs:
            each.result()
    look.close()
    assert (seen, texts(one)) == ([2, 3], ["first", "theirs", "mine", "theirs"])


def test_whoever_is_overtaken_every_time_is_told_and_nothing_of_theirs_is_written(
    open_store_on, any_db_url, monkeypatch
):
    database = Database(any_db_url)
    ledger = open_store_on(database)
    seen = []

    def decide(conversation):
        seen.append(conversation.version)
        conversation.journal(text_message("user", "mine"))

    def overtaken(*_):
        raise Overtaken

    with monkeypatch.context() as patch:
        patch.setattr(database.kind, "append", overtaken)
        patch.setattr(database.kind, "append_durably", overtaken)
        with pytest.raises(ConversationChanged, match="nothing was written"):
            ledger.journal.commit("k", decide, create=True)
    assert len(seen) == limits.DECIDE_ATTEMPTS_MAX
    assert ledger.journal.load("k") is None
    ledger.conversation("k").append("user", "now")
    assert texts(ledger) == ["now"]


def test_what_a_decision_refuses_is_raised_and_holds_nobody_up(open_store, any_database):
    one, other = open_store(), open_store()

    def refuse(conversation):
        conversation.journal(text_message("user", "half a thought"))
        raise KeyError("no")

    for _ in range(2):
        with pytest.raises(KeyError, match="no"):
            one.journal.commit("k", refuse, create=True)
        other.conversation("k").append("user", "go on")
    assert texts(one) == ["go on", "go on"]
    assert_contiguous(any_database)


def test_two_beginnings_of_one_conversation_are_one(open_store):
    one, other = open_store(), open_store()
    mine, theirs = Conversation.start("k"), Conversation.start("k")
    one.journal.store(mine)
    with pytest.raises(ConversationChanged):
        other.journal.store(theirs)
    assert len(list(one.journal.history("k"))) == 1


def test_eight_threads_that_append_to_one_conversation_lose_nothing(open_store, any_database):
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
    assert_contiguous(any_database)


def test_events_of_one_commit_are_stored_all_or_none(open_store, any_database):
    ledger = open_store()
    fresh, taken = Conversation.start("fresh"), Conversation.start("k")
    ledger.conversation("k").append("user", "it has begun")
    fresh.journal(text_message("user", "one"))
    fresh.journal(text_message("user", "two"))
    before = rows(any_database, "SELECT count(*) FROM events")
    with pytest.raises(ConversationChanged):
        ledger.journal.store(fresh, taken)
    assert rows(any_database, "SELECT count(*) FROM events") == before
    assert ledger.journal.load("fresh") is None


def test_an_idempotency_key_that_is_taken_rolls_the_whole_commit_back(open_store):
    ledger = open_store()
    ledger.conversation("k").append("user", "once", idempotency_key="i")
    conversation = ledger.journal.load("k")
    conversation.journal(text_message("user", "before"))
    conversation.journal(text_message("user", "once"), idempotency_key="i")
    with pytest.raises(ConversationChanged):
        ledger.journal.store(conversation)
    assert texts(ledger) == ["once"]
    assert ledger.state("k").version == 2


def test_positions_are_gap_free_in_the_order_of_commits_also_after_rollbacks(open_store, any_database):
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
    assert_contiguous(any_database)


def test_four_processes_leave_a_log_without_gaps(open_store, any_db_url, any_database, run_python):
    run_python(APPEND_OWN, any_db_url, processes=4)
    assert_contiguous(any_database)
    ledger = open_store()
    found = sorted(text for state in ledger.conversations() for text in texts(ledger, state.key))
    assert found == sorted(f"{process} {index}" for process in range(4) for index in range(25))


def test_two_databases_in_one_process_keep_their_own(open_store_on, db_url, postgres_url):
    urls = [db_url, postgres_url]
    ledgers = [open_store_on(url) for url in urls]
    together = Barrier(2)

    def append(number):
        together.wait()
        for index in range(20):
            ledgers[number].conversation("k").append("user", f"{number} {index}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(append, range(2)))
    for number, ledger in enumerate(ledgers):
        assert texts(ledger) == [f"{number} {index}" for index in range(20)]


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


def test_the_same_idempotency_key_in_four_processes_at_once_is_one_message(open_store, any_db_url, run_python):
    printed = run_python(APPEND_ONCE, any_db_url, processes=4)
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
def test_the_database_refuses_to_change_or_delete_an_event(open_store, any_database, statement):
    open_store().conversation("k").append("user", "it stays")
    with pytest.raises(any_database.driver.Error, match="never"):
        directly(any_database, statement)
    assert rows(any_database, "SELECT count(*) FROM events") == [(2,)]


def test_payloads_are_plain_json_in_the_row(open_store, any_database):
    open_store().conversation("k").append("user", "naïve 🙂")
    ((state,),) = rows(any_database, "SELECT state FROM events WHERE topic = 'MessageJournaled'")
    assert "naïve 🙂" in state
    payload = json.loads(state)
    assert (payload["content"], payload["role"]) == ("naïve 🙂", "user")


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
    """What the driver is asked to do from here on, by whichever way it is reached."""
    statements = []

    def watch(connection):
        if database.kind.name == "sqlite":
            connection.set_trace_callback(statements.append)
            return

        class Watched(database.driver.Cursor):
            def execute(self, query, *values, **how):
                statements.append(str(query))
                return super().execute(query, *values, **how)

        connection.cursor_factory = Watched

    database.on_connect.append(watch)
    return statements


def long_conversation(key, messages):
    conversation = Conversation.start(key)
    for index in range(messages):
        conversation.journal(text_message("user", str(index)))
    return conversation


def test_a_cold_load_reads_one_row_however_long_the_conversation_is(open_store, open_store_on, any_db_url):
    open_store().journal.store(long_conversation("k", 2_000))
    database = Database(any_db_url)
    statements = counted(database)
    loaded = open_store_on(database).journal.load("k")
    assert (loaded.version, loaded.state.messages) == (2_001, 2_000)
    reads = [statement for statement in statements if statement.startswith("SELECT")]
    assert [statement for statement in reads if "events" in statement] == []
    assert len([statement for statement in reads if "FROM streams" in statement]) == 1


def test_an_append_to_a_long_conversation_costs_as_many_statements_as_one_to_a_short_one(
    open_store, open_store_on, any_db_url
):
    open_store().journal.store(long_conversation("long", 500), Conversation.start("short"))
    costs = {}
    for key in ("long", "short"):
        database = Database(any_db_url)
        ledger = open_store_on(database)
        statements = counted(database)
        database.dispose()  # so that its connections are watched from their beginning
        ledger.conversation(key).append("user", "one more")
        costs[key] = [statement.split()[0] for statement in statements]
    assert costs["long"] == costs["short"]
    assert len(costs["long"]) > 0


def full_story(ledger):
    """A conversation with a bit of everything that its state remembers."""
    from threadledger.domain.conversation import Completion, RunPlan
    from threadledger.domain.failures import Failure

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


def test_the_state_beside_the_stream_equals_the_fold_of_its_events(open_store, any_database):
    ledger = open_store()
    full_story(ledger)
    expected = folded(ledger)
    (stored,) = rows(
        any_database, "SELECT version, state_schema, snapshot, due_at FROM streams WHERE name = 'conversation:k'"
    )
    assert ConversationState.from_json(stored[2]) == expected
    assert stored[:2] == (expected.version, STATE_SCHEMA)
    assert stored[3] == expected.next_deadline is not None
    assert open_store().state("k") == expected
    assert (expected.open_runs != {}, expected.failed_runs, expected.unanswered, len(expected.links)) == (True, 2, 1, 2)


def test_a_snapshot_of_another_schema_is_folded_anew_and_replaced_at_the_next_append(open_store, any_database):
    ledger = open_store()
    full_story(ledger)
    expected = folded(ledger)
    any_database.execute("UPDATE streams SET state_schema = 999, snapshot = 'from another version'")
    assert open_store().state("k") == expected
    open_store().conversation("k").append("user", "one more")
    ((schema, state),) = rows(any_database, "SELECT state_schema, snapshot FROM streams WHERE name = 'conversation:k'")
    assert schema == STATE_SCHEMA
    assert ConversationState.from_json(state) == folded(ledger)


# What is not as it should be


@pytest.mark.parametrize("state", ['{"broken', "", "[]", "{} {}", "null"])
def test_a_row_that_cannot_be_read_is_named_and_the_other_conversations_still_work(open_store, any_database, state):
    ledger = open_store()
    for key in ("good", "bad"):
        ledger.conversation(key).append("user", "hello")
    directly(any_database, unlocked(any_database), f"UPDATE events SET state = '{state}' WHERE position = 4")
    with pytest.raises(CorruptEvent, match=r"event 2 of 'bad' .* was changed after it was stored"):
        open_store().memory("bad")
    assert texts(open_store(), "good") == ["hello"]


def test_the_search_for_overdue_runs_does_not_read_every_conversation(open_store, any_database, monkeypatch):
    ledger = open_store()
    insert = any_database.sql("INSERT INTO streams (name, version, state_schema, snapshot) VALUES (?, 1, 1, '{}')")
    names = [(f"conversation:{number}",) for number in range(2_000)]
    any_database.write(lambda transaction: transaction.execute_many(insert, names))
    on_sqlite = any_database.kind.name == "sqlite"
    if not on_sqlite:
        any_database.execute("ANALYZE streams")
    asked = []
    monkeypatch.setattr(ledger.journal.recorder._database, "query", lambda *query: asked.append(query) or [])
    ledger.close_overdue_runs()
    ((statement, values),) = asked
    plan = any_database.query(f"EXPLAIN {'QUERY PLAN' if on_sqlite else ''} {statement}", values)
    assert "streams_by_due_at" in str(plan)


def test_a_database_of_a_newer_version_is_refused_with_what_to_do(open_store, any_database):
    open_store().conversation("k").append("user", "hello")
    any_database.execute("UPDATE threadledger SET schema_version = ?", (SCHEMA_VERSION + 1,))
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA_VERSION + 1}.*upgrade"):
        open_store()


@pytest.mark.parametrize(
    "used",
    [
        lambda ledger: ledger.conversation("k").append("user", "hello"),
        lambda ledger: ledger.conversation("k").memory(),
        lambda ledger: list(ledger.events()),
        lambda ledger: ledger.conversations(),
        lambda ledger: ledger.failures(),
        lambda ledger: list(ledger.check()),
    ],
    ids=["append", "memory", "events", "conversations", "failures", "check"],
)
def test_a_database_that_a_newer_version_has_upgraded_meanwhile_is_not_called_damaged(open_store, any_database, used):
    ledger = open_store()
    ledger.conversation("k").append("user", "hello")
    any_database.execute("UPDATE threadledger SET schema_version = ?", (SCHEMA_VERSION + 1,))
    any_database.execute("ALTER TABLE streams RENAME COLUMN snapshot TO head")
    any_database.execute("ALTER TABLE events RENAME COLUMN state TO payload")
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA_VERSION + 1}.*start this program again"):
        used(ledger)


# eventsourcing's recorder, where the conversations' own rules do not reach


def test_a_stored_event_of_any_application_comes_back(any_database):
    recorder = Recorder(any_database)
    stored = StoredEvent("any stream", 1, "a topic", b"{}")
    assert recorder.insert_events([stored]) == [1]
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored])
    found = recorder.select_events("any stream")
    assert [(each.originator_id, each.originator_version, each.topic, each.state) for each in found] == [
        ("any stream", 1, "a topic", b"{}")
    ]


def test_what_is_written_beside_events_is_undone_when_it_is_refused(any_database):
    Recorder(any_database)
    any_database.execute("CREATE TABLE beside (number INTEGER)")

    def also(cursor):
        cursor.execute("INSERT INTO beside VALUES (1)")
        raise IntegrityError("this was processed already")

    with pytest.raises(IntegrityError, match="processed already"):
        any_database.group.append([], lambda _: Appending(), also)
    assert rows(any_database, "SELECT count(*) FROM beside") == [(0,)]


def test_of_two_processors_on_one_position_one_is_refused_with_all_that_it_wrote(any_db_url, any_database):
    databases = [Database(any_db_url) for _ in range(2)]
    processors = [Processor(database) for database in databases]
    together = Barrier(2)

    def process(number, position):
        together.wait()
        event = StoredEvent(f"output {number} {position}", 1, "topic", b"{}")
        try:
            processors[number].insert_events([event], tracking=Tracking("upstream", position))
        except IntegrityError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for position in range(1, 26):
            assert sorted(pool.map(process, range(2), [position] * 2)) == [False, True]
    for database in databases:
        database.close()
    assert rows(any_database, "SELECT count(*) FROM events") == [(25,)]
    assert_contiguous(any_database)
