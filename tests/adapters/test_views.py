"""Views: what is read equals what the events say, whoever reads, however often, and whatever happens in between."""

import json
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadledger.adapters.formats.jsonl import conversation_as_line, import_lines
from threadledger.adapters.sql import Database
from threadledger.adapters.sql.recorder import Recorder
from threadledger.adapters.sql.views import audit, conversations, sql_views
from threadledger.adapters.sql.views import catching_up as projection
from threadledger.adapters.sql.views.audit import AuditView
from threadledger.adapters.sql.views.conversations import ConversationsView
from threadledger.adapters.sql.views.search import SearchView
from threadledger.domain import limits
from threadledger.domain.conversation import (
    CONVERSATION,
    IMPORTED,
    STATE_SCHEMA,
    Conversation,
    ConversationState,
    FailureFilter,
    Profile,
    RunPlan,
    events,
    evolve,
    fold_exchanges,
    key_of,
    stream_of,
)
from threadledger.domain.conversation.assistants import created_at
from threadledger.domain.conversation.events import CompletionStored
from threadledger.domain.conversation.files import FileSearch, StoreFile
from threadledger.domain.conversation.listing import ConversationFilter, ListPage
from threadledger.domain.errors import CorruptEvent, InvalidInput, StoreUnavailable
from threadledger.domain.failures import BackendEnd, Cause, Failure, concerns_backend
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import StoredRow
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.ledger import (
    AssistantRecord,
    AssistantStore,
    FileRecord,
    FileStore,
    VectorStoreRecord,
    VectorStores,
)

NAMES = ["audit", "conversations", "search", "assistants", "completions", "files", "stores", "passages"]
EVERYTHING = FailureFilter()
ASSISTANTS = COMPLETIONS = FILES = 10
"""More than a small batch."""

READ_ALL = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.views import catching_up as projection
from threadledger.domain import FailureFilter, Journal, Ledger
projection.BATCH_EVENTS_MAX = 7
with Ledger(Journal(Factory(database=Database(sys.argv[1])))) as ledger:
    views = ledger.journal.views
    print(len(views.failures(FailureFilter())), len(views.conversations()), len(views.hits("word")))
"""
DIE_IN_A_REBUILD = """
import os, signal, sys
from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.views import catching_up as projection
from threadledger.domain import Journal, Ledger
projection.BATCH_EVENTS_MAX = 7
with Ledger(Journal(Factory(database=Database(sys.argv[1])))) as ledger:
    def told(name, position, end):
        if position > 0:
            os.kill(os.getpid(), signal.SIGKILL)
    ledger.journal.views.rebuild([sys.argv[2]], told)
"""


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(projection, "BATCH_EVENTS_MAX", 7)


def fail(ledger, key, text="no"):
    with pytest.raises(RuntimeError), ledger.conversation(key).run("own", "m"):
        raise RuntimeError(text)


def fill(ledger, conversations=5, messages=6):
    for number in range(conversations):
        ledger.conversation(f"k{number}").extend([{"role": "user", "content": f"word {n}"} for n in range(messages)])
        fail(ledger, f"k{number}")
    assistants = AssistantStore(ledger.journal)
    for number in range(ASSISTANTS):
        assistants.define(AssistantRecord(f"asst_{number}", "m", Profile(f"John {number}"), created_at=now()))
    put_files(ledger)
    for number in range(COMPLETIONS):
        ledger.journal.commit(f"k{number % conversations}", lambda it, number=number: store_completion(it, number))


def put_files(ledger):
    """Files, and a vector store that has them all."""
    store = FileStore(ledger.journal)
    made = [
        store.create(FileRecord(f"file-{number}", f"{number}.txt", "user_data"), [b"word"], f"upload {number}")
        for number in range(FILES)
    ]
    files = [StoreFile(each.file_id, each.filename, size=4, text_bytes=4, blob=each.blob) for each in made]
    stores, record = VectorStores(ledger.journal), VectorStoreRecord("vs_0")
    stores.create(record)
    for each in files:
        stores.add(record, [each], idempotency_key=f"add {each.file_id}")


def found_files(ledger):
    """The ids of the files that are listed, that a store has, and in which a word is found."""
    lists = ledger.journal.views.files
    listed = [each.file_id for each in lists.files("", ListPage(99), at=to_iso(now()))]
    stored = [each.file_id for each in lists.store_files("vector_store:/vs_0", ListPage(99))]
    hits = lists.search(FileSearch(["vector_store:/vs_0"], ["word"], 50))
    return listed, stored, sorted((each.file_id for each in hits), reverse=True)


def store_completion(conversation, number):
    versions = {"request_version": 1, "completed_version": 1, "message_version": 1}
    ids = {"completion_id": f"chatcmpl-{number}", "exchange_id": "x", "run_id": "r", "message_id": "m"}
    made = {"created_at": to_iso(now()), "model": "m", "metadata": {"odd": str(number % 2)}}
    conversation.record(CompletionStored, **versions, **ids, **made)


def put_raw(ledger, key, topic, payload, version=1):
    """An event as nobody of ours would write it."""
    row = StoredRow(stream_of(key), version, topic, payload.encode(), new_id(), to_iso(now()))
    return ledger.journal.recorder.insert_events([row])[0]


def folded_states(ledger):
    """The state of each conversation, last changed first, as the domain folds it."""
    states, last = {}, {}
    for position, event in ledger.journal.logged():
        if not event.originator_id.startswith(CONVERSATION):
            continue
        state = states.setdefault(event.originator_id, ConversationState())
        last[event.originator_id] = position
        evolve(state, event)
    return [states[stream] for stream in sorted(states, key=lambda stream: -last[stream])]


def folded_failures(ledger, wanted=EVERYTHING):
    folded = fold_exchanges(event for _, event in ledger.journal.logged())
    return [failure for failure in folded.failures() if wanted(failure)]


def folded_ends(ledger, per_backend):
    """The newest ends of each backend that tell anything about it, as the domain folds them."""
    folded = fold_exchanges(event for _, event in ledger.journal.logged())
    ended = [run for run in folded.runs.values() if run.completed or (run.failure and concerns_backend(run.failure))]
    ends = [
        BackendEnd(run.backend, run.ended_at, None if run.completed else run.failure)
        for run in sorted(ended, key=lambda run: run.ended_at)
    ]
    backends = sorted({end.backend for end in ends})
    return [end for name in backends for end in [each for each in ends if each.backend == name][-per_backend:]]


def folded_assistants(ledger):
    """The newest definition of each assistant, in the order of the list."""
    defined, first = {}, {}
    for position, event in ledger.journal.logged(topics=["AssistantDefined"]):
        defined[event.originator_id] = event
        first.setdefault(event.originator_id, position)
    return sorted(defined.values(), key=lambda each: (created_at(each), first[each.originator_id]), reverse=True)


def folded_completions(ledger):
    """The newest event of each completion, in the order of the list."""
    stored = {each.completion_id: each for _, each in ledger.journal.logged(topics=["CompletionStored"])}
    return sorted(stored.values(), key=lambda each: (each.created_at, each.completion_id), reverse=True)


def assert_right(ledger):
    """Every view equals the domain's fold of the whole log; each message is found once."""
    views = ledger.journal.views
    assert views.failures(EVERYTHING) == folded_failures(ledger)
    unanswered = [each for each in folded_failures(ledger) if each.answered_by is None]
    assert [run[1:] for run in views.unanswered()[::-1]] == [
        (each.exchange_id, each.at, each.next) for each in unanswered
    ]
    folded = fold_exchanges(event for _, event in ledger.journal.logged())
    for run in folded.runs.values():
        assert views.exchange(run.run_id).by_id == {run.exchange_id: folded.exchange_of(run)}
    assert views.last_ends(3) == folded_ends(ledger, 3)
    assert views.conversations() == folded_states(ledger)
    words = [
        (key_of(event.originator_id), position)
        for position, event in ledger.journal.logged(topics=["MessageJournaled"])
        if "word" in str(event.content)
    ]
    assert views.hits("word") == words[::-1]
    assert [each.defined for each in views.assistants("", ListPage(99))] == folded_assistants(ledger)
    assert views.completions("", ListPage(99)) == folded_completions(ledger)
    files = [each.file_id for _, each in ledger.journal.logged(topics=["FileStored"])]
    assert found_files(ledger) == (files[::-1], files[::-1], files[::-1])


def status_of(ledger, name):
    return next(each for each in ledger.journal.views.status() if each["name"] == name)


def generations(database, name):
    query = "SELECT version, generation, live FROM tracking WHERE view = ? ORDER BY version, generation"
    return [tuple(row) for row in database.query(query, (name,))]


def tables_of(database, name):
    """The versions and generations of a view that have tables."""
    found = database.read(lambda transaction: transaction.tables())
    return {tuple(map(int, each.split("_")[2:4])) for each in found if each.startswith(f"view_{name}_")}


def parked(database):
    return [tuple(row) for row in database.query("SELECT view, position, reason FROM parked ORDER BY view, position")]


def die_in_a_rebuild(url, name):
    killed = subprocess.run([sys.executable, "-c", DIE_IN_A_REBUILD, url, name], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL


# Catching up


def test_what_was_appended_a_moment_ago_is_read(open_any_store):
    ledger, other = open_any_store(), open_any_store()
    for key in ("a", "b", "a", "c", "b"):
        ledger.conversation(key).append("user", "word")
        fail(ledger, key)
        for reader in (ledger, other):
            assert_right(reader)
            assert [state.key for state in reader.conversations(limit=1)] == [key]


def test_reading_what_is_up_to_date_writes_nothing(open_any_store, monkeypatch):
    ledger = open_any_store()
    fill(ledger)
    assert_right(ledger)
    monkeypatch.setattr(Database, "write", lambda *_: pytest.fail("written"))
    assert_right(ledger)


def test_a_view_passes_events_that_are_not_for_it(open_any_store, small_batches):
    ledger = open_any_store()
    ledger.conversation("k").extend([{"role": "user", "content": "word"}] * 20)
    assert ledger.failures() == []
    assert status_of(ledger, "audit") == {
        "name": "audit",
        "version": AuditView.version,
        "position": 21,
        "lag": 0,
        "parked": 0,
    }


def test_streams_that_are_no_conversations_are_passed_over(open_any_store):
    ledger = open_any_store()
    fill(ledger)
    ledger.journal.define_profile(Profile("John", "Be kind."))
    foreign = StoredRow("another application", 1, "RunFailed", b"not even JSON", new_id(), to_iso(now()))
    ledger.journal.recorder.insert_events([foreign])
    assert [state.key for state in ledger.conversations()] == ["k4", "k3", "k2", "k1", "k0"]
    assert len(ledger.journal.views.failures(EVERYTHING)) == 5
    assert len(ledger.journal.views.hits("word")) == 30
    assert len(ledger.journal.views.assistants("", ListPage(99))) == ASSISTANTS
    assert len(ledger.journal.views.completions("", ListPage(99))) == COMPLETIONS
    assert [*map(len, found_files(ledger))] == [FILES] * 3
    assert [(each["lag"], each["parked"]) for each in ledger.journal.views.status()] == [(0, 0)] * len(NAMES)


# Equal to the domain's folds

RUNS = [f"run-{number:02}" for number in range(40)]
EXCHANGES = ["exchange-a", "exchange-b", "exchange-c"]
ACTORS = [None, "ann", "a" * 600]
CODES = [None, "rate_limit_exceeded", "server_error", "odd \0 \ud800 code"]
BEGINNING = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECONDS = st.integers(0, 5).map(lambda second: BEGINNING + timedelta(seconds=second))

HAPPENINGS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(EXCHANGES), st.sampled_from(["chat", "responses"])),
    st.tuples(st.just("complete"), st.integers(0, 5), st.none()),
    st.tuples(st.just("fail"), st.integers(0, 5), st.sampled_from(CODES)),
    st.tuples(st.just("fall back"), st.integers(0, 5), st.none()),
    st.tuples(st.just("abandon"), st.sampled_from(EXCHANGES), st.none()),
    st.tuples(st.just("say"), st.none(), st.none()),
)
LOGS = st.lists(st.tuples(HAPPENINGS, st.sampled_from(["one", "two"]), SECONDS, st.booleans()), min_size=1, max_size=40)
"""What happens (to the run of this number, which may not have begun), where, when, and whether all views are read then."""

FILTERS = st.builds(
    FailureFilter,
    since=st.none() | SECONDS,
    until=st.none() | SECONDS,
    cause=st.sampled_from([None, *Cause]),
    code=st.sampled_from(CODES),
    backend=st.sampled_from([None, "chat", "nobody"]),
    unanswered=st.booleans(),
    actor=st.sampled_from([*ACTORS, "nobody"]),
)


def event_of(happening, common, started):
    match happening:
        case ("start", exchange_id, backend):
            run_id = RUNS[started]
            made = {"run_id": run_id, "exchange_id": exchange_id, "backend": backend, "actor": ACTORS[started % 3]}
            return events.RunStarted(attempt=1, model="m", **made, **common)
        case ("complete", number, _):
            return events.RunCompleted(run_id=RUNS[number], duration_seconds=1.5, **common)
        case ("fail", number, code):
            status = "failed" if code else "refused"
            return events.RunFailed(run_id=RUNS[number], status=status, code=code, partial_text="half", **common)
        case ("fall back", number, _):
            backends = {"from_backend": "responses", "to_backend": "chat", "reason": "it failed"}
            dropped = {"dropped": [f"tool:{number}"]}
            return events.FallbackUsed(exchange_id="any", failed_run_id=RUNS[number], **backends, **dropped, **common)
        case ("abandon", exchange_id, _):
            return events.ExchangeAbandoned(exchange_id=exchange_id, **common)
    return events.MessageJournaled(message_id=new_id(), role="user", content="word", **common)


@pytest.fixture
def new_url(request, tmp_path):
    """Makes databases of one kind that are not there yet."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_postgres_url")
    return lambda: f"sqlite:///{tmp_path / new_id()}.db"


@pytest.mark.parametrize("new_url", ["sqlite", "postgresql"], indirect=True)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=LOGS, wanted=FILTERS, limit=st.none() | st.integers(0, 4), batch=st.sampled_from([1, 3, 2_000]))
def test_views_that_catch_up_after_any_prefix_equal_the_folds_of_the_domain(
    new_url, open_store_on, log, wanted, limit, batch
):
    mapper, versions, started = EventMapper(PlainJSON()), Counter(), 0
    with pytest.MonkeyPatch.context() as patched, open_store_on(new_url()) as ledger:
        patched.setattr(projection, "BATCH_EVENTS_MAX", batch)
        patched.setattr(audit, "PAGE_FAILURES", batch)
        for happening, key, at, read in log:
            if key not in versions:
                ledger.journal.store(Conversation.start(key))
            versions[key] = max(versions[key], 1) + 1
            common = {"originator_id": stream_of(key), "originator_version": versions[key], "timestamp": at}
            event = event_of(happening, common | {"event_id": new_id()}, started)
            started += isinstance(event, events.RunStarted)
            ledger.journal.recorder.insert_events([mapper.to_stored_event(event)])
            if read:
                assert_right(ledger)
        assert_right(ledger)
        expected = folded_failures(ledger, wanted)
        found = ledger.journal.views.failures(wanted, limit)
        assert found == (expected if limit is None else expected[len(expected) - limit :] if limit else [])
        assert sum(each["parked"] for each in ledger.journal.views.status()) == 0


def test_the_newest_failures_come_last(open_any_store):
    ledger = open_any_store()
    for number in range(5):
        fail(ledger, f"k{number}")
    assert [failure.key for failure in ledger.failures(limit=2)] == ["k3", "k4"]
    assert [failure.key for failure in ledger.failures(cause="unknown", limit=2)] == ["k3", "k4"]
    assert ledger.failures(cause="network", limit=2) == ledger.failures(limit=0) == []


def test_a_better_table_of_causes_explains_old_failures_at_once(open_any_store, monkeypatch):
    ledger = open_any_store()
    fail(ledger, "k")
    assert [failure.cause for failure in ledger.failures()] == [Cause.UNKNOWN]
    monkeypatch.setattr("threadledger.domain.failures.rules.RULES", [(Cause.NETWORK, lambda failure: True)])
    assert [failure.cause for failure in ledger.failures(cause="network")] == [Cause.NETWORK]
    assert ledger.failures(cause="unknown") == []


def test_the_failures_of_a_conversation_are_those_of_no_other(open_any_store):
    ledger = open_any_store()
    fill(ledger, conversations=3)
    fail(ledger, "k1", "again")
    for key in ("k0", "k1", "k2", "k3"):
        assert ledger.conversation(key).failures() == list(ledger.exchanges(key).failures())
    assert len(ledger.conversation("k1").failures()) == 2


def test_the_newest_runs_without_an_answer_come_first(open_any_store):
    ledger = open_any_store()
    fill(ledger, conversations=5)
    views, newest = ledger.journal.views, ledger.failures()[::-1]
    assert [run.exchange_id for run in views.unanswered(limit=2)] == [each.exchange_id for each in newest[:2]]
    assert [run.key for run in views.unanswered(since=newest[1].at)] == ["k4", "k3"]


def test_runs_are_found_by_their_ending(open_any_store):
    ledger = open_any_store()
    fill(ledger, conversations=15)
    views = ledger.journal.views
    for failure in ledger.failures():
        assert (
            views.find_runs(failure.run_id[-8:]) == views.find_runs(failure.run_id) == [(failure.key, failure.run_id)]
        )
    assert views.find_runs("no such ending") == views.find_runs("%") == views.find_runs("odd \0 \ud800") == []
    assert len(views.find_runs("")) == audit.FOUND_RUNS_MAX


def unwell(ledger, backend, times, failure=None):
    """Runs of a backend that failed, each in a conversation of its own."""
    failure = failure or Failure("failed", code="server_error", message="Sorry, something went wrong.")
    for _ in range(times):
        journal, key = ledger.journal, new_id()
        run_id = journal.commit(key, lambda it: it.start_run("x", RunPlan(backend, "m")), create=True)
        journal.commit(key, lambda it, run_id=run_id: it.fail_run(run_id, failure, 1.0))


def test_how_each_backend_is_doing_is_seen_from_outside_the_process_that_met_it(open_any_store):
    ledger, other = open_any_store(), open_any_store()
    unwell(ledger, "responses", limits.BREAKER_FAILURES)
    unwell(ledger, "chat", limits.BREAKER_FAILURES - 1)
    fail(ledger, "k")
    chat, own, responses = other.health()
    assert [each.backend for each in (chat, own, responses)] == ["chat", "own", "responses"]
    assert (chat.failures_in_a_row, chat.cooling_until) == (limits.BREAKER_FAILURES - 1, None)
    assert (own.failures_in_a_row, own.last_cause) == (0, Cause.UNKNOWN)
    assert (responses.failures_in_a_row, responses.last_cause) == (limits.BREAKER_FAILURES, Cause.PROVIDER_ERROR)
    assert responses.cooling_until == responses.last_at + timedelta(seconds=limits.BREAKER_COOLDOWN_SECONDS)


def test_runs_that_were_refused_hide_no_failure_however_many_there_are(open_any_store):
    ledger = open_any_store()
    unwell(ledger, "chat", limits.BREAKER_FAILURES)
    unwell(ledger, "chat", 2 * limits.HEALTH_ENDS, Failure("refused", code="provider_error"))
    (health,) = ledger.health()
    assert health.failures_in_a_row == limits.BREAKER_FAILURES


def test_without_runs_there_is_no_health_to_tell(open_any_store):
    ledger = open_any_store()
    ledger.conversation("k").append("user", "word")
    assert ledger.health() == []


# Exactly once


def test_of_four_threads_that_catch_up_at_once_each_event_is_taken_in_once(open_any_store, small_batches):
    ledger, readers = open_any_store(), [open_any_store() for _ in range(4)]
    fill(ledger, conversations=10)
    together = Barrier(5)

    def read(reader):
        together.wait()
        for _ in range(3):
            views = reader.journal.views
            views.conversations(), views.hits("word"), views.failures(EVERYTHING)

    def write():
        together.wait()
        for number in range(10):
            ledger.conversation(f"k{number}").append("user", "word")

    with ThreadPoolExecutor(5) as pool:
        for done in [*(pool.submit(read, reader) for reader in readers), pool.submit(write)]:
            done.result()
    assert_right(readers[0])


def test_of_four_processes_that_catch_up_at_once_each_event_is_taken_in_once(
    open_any_store, any_db_url, any_database, run_python
):
    ledger = open_any_store()
    fill(ledger, conversations=30)
    assert set(run_python(READ_ALL, any_db_url, processes=4)) == {"30 30 180\n"}
    assert_right(ledger)
    for name in NAMES:
        assert len(generations(any_database, name)) == len(tables_of(any_database, name)) == 1


def test_what_was_prepared_for_a_place_that_somebody_left_is_thrown_away(open_any_store, monkeypatch):
    ledger, other = open_any_store(), open_any_store()
    fill(ledger)
    assert_right(ledger)
    fill(ledger)
    take_in = {view: view.fold for view in (AuditView, ConversationsView, SearchView)}
    overtaken = []

    def fold_late(self, taken, known):
        changes = take_in[type(self)](self, taken, known)
        if type(self) not in overtaken:
            overtaken.append(type(self))
            assert_right(other)
        return changes

    for view in take_in:
        monkeypatch.setattr(view, "fold", fold_late)
    assert_right(ledger)
    assert set(overtaken) == set(take_in)
    assert_right(ledger)


def test_a_batch_whose_commit_was_not_acknowledged_is_written_once(open_any_store, monkeypatch):
    ledger = open_any_store()
    fill(ledger)
    write_once = Database.write

    def write_twice(self, work):
        write_once(self, work)
        return write_once(self, work)

    monkeypatch.setattr(Database, "write", write_twice)
    assert_right(ledger)
    fill(ledger)
    assert_right(ledger)


# Building, rebuilding, switching


def test_status_tells_how_far_each_view_is_and_builds_none(open_any_store, any_database):
    ledger = open_any_store()
    fill(ledger, conversations=1)
    end = ledger.journal.status()["events"]
    assert [each["name"] for each in ledger.journal.views.status()] == NAMES
    assert [(each["position"], each["lag"]) for each in ledger.journal.views.status()] == [(0, end)] * len(NAMES)
    assert not any(generations(any_database, name) for name in NAMES)
    assert_right(ledger)
    ledger.conversation("k0").append("user", "one more")
    assert [(each["position"], each["lag"]) for each in ledger.journal.views.status()] == [(end, 1)] * len(NAMES)


def test_the_views_of_an_empty_ledger_are_empty(open_any_store):
    views = open_any_store().journal.views
    assert views.conversations() == views.failures(EVERYTHING) == views.find_runs("a") == views.hits("a") == []
    views.rebuild()
    assert views.conversations(search="a") == []


@pytest.mark.parametrize("view", [AuditView, ConversationsView, SearchView])
def test_a_view_of_another_version_is_built_beside_the_old_one_and_takes_its_place(
    open_any_store, any_database, monkeypatch, small_batches, view
):
    ledger, version = open_any_store(), view.version
    fill(ledger)
    assert_right(ledger)
    assert generations(any_database, view.name) == [(version, 1, 1)]
    monkeypatch.setattr(view, "version", version + 1)
    upgraded = open_any_store()
    assert status_of(upgraded, view.name)["position"] == 0
    assert_right(upgraded)
    assert generations(any_database, view.name) == [(version + 1, 1, 1)]
    assert tables_of(any_database, view.name) == {(version + 1, 1)}


def test_a_view_that_a_newer_version_of_the_program_made_is_left_alone(open_any_store, any_database, monkeypatch):
    ledger, version = open_any_store(), AuditView.version
    fill(ledger)
    with monkeypatch.context() as newer:
        newer.setattr(AuditView, "version", version + 1)
        assert_right(open_any_store())
    assert_right(ledger)
    ledger.journal.views.rebuild(["audit"])
    assert generations(any_database, "audit") == [(version, 2, 1), (version + 1, 1, 1)]
    assert tables_of(any_database, "audit") == {(version, 2), (version + 1, 1)}


def test_the_positions_of_other_applications_are_left_alone(open_any_store, any_database):
    ledger = open_any_store()
    fill(ledger)
    any_database.execute(
        "INSERT INTO tracking (view, version, generation, position, live) VALUES ('audit', 0, 0, 7, 1)"
    )
    assert_right(ledger)
    ledger.journal.views.rebuild()
    assert generations(any_database, "audit") == [(0, 0, 1), (AuditView.version, 2, 1)]


def test_a_rebuild_tells_how_far_it_is_and_the_old_view_is_read_meanwhile(open_any_store, any_database, small_batches):
    ledger, other = open_any_store(), open_any_store()
    fill(ledger)
    assert_right(ledger)
    told = []

    def progress(name, position, end):
        told.append((name, position, end))
        if position < end:
            assert generations(any_database, name)[0][2] == 1
            assert_right(other)

    ledger.journal.views.rebuild(progress=progress)
    end = ledger.journal.status()["events"]
    assert list(dict.fromkeys(name for name, _, _ in told)) == NAMES
    for name in NAMES:
        positions = [position for each, position, _ in told if each == name]
        assert positions[0] == 0 and positions[-1] == end and positions == sorted(positions) and len(positions) > 2
        assert {total for each, _, total in told if each == name} == {end}
        ((_, generation, _),) = generations(any_database, name)
        assert generation == 2
        assert {generation for _, generation in tables_of(any_database, name)} == {2}
    assert_right(ledger)


def test_a_rebuild_mends_what_was_damaged(open_any_store, any_database):
    ledger = open_any_store()
    fill(ledger)
    assert_right(ledger)
    any_database.execute(f"DELETE FROM view_audit_{AuditView.version}_1_runs")
    any_database.execute(f"DELETE FROM view_conversations_{ConversationsView.version}_1_states")
    assert ledger.failures() == ledger.conversations() == []
    ledger.journal.views.rebuild(["audit", "conversations"])
    assert_right(ledger)


def test_a_rebuild_that_was_killed_leaves_nothing_that_is_read_and_the_next_one_clears_it_away(
    open_any_store, any_db_url, any_database
):
    ledger = open_any_store()
    fill(ledger)
    assert_right(ledger)
    for name in NAMES:
        die_in_a_rebuild(any_db_url, name)
        assert [live for _, _, live in generations(any_database, name)] == [1, 0]
    fill(ledger)
    assert_right(ledger)
    ledger.journal.views.rebuild()
    assert_right(ledger)
    for name in NAMES:
        assert [(generation, live) for _, generation, live in generations(any_database, name)] == [(3, 1)]
        assert {generation for _, generation in tables_of(any_database, name)} == {3}


def test_a_first_building_that_was_killed_is_gone_on_with(open_any_store, any_db_url, any_database):
    ledger = open_any_store()
    fill(ledger)
    for name in NAMES:
        die_in_a_rebuild(any_db_url, name)
        assert [live for _, _, live in generations(any_database, name)] == [0]
        assert status_of(ledger, name)["position"] == 0
    assert_right(ledger)
    for name in NAMES:
        assert [(generation, live) for _, generation, live in generations(any_database, name)] == [(1, 1)]


def test_a_rebuild_that_a_newer_one_overtook_ends_with_the_newer_one(open_any_store, any_database, small_batches):
    ledger, other = open_any_store(), open_any_store()
    fill(ledger)
    assert_right(ledger)
    overtaken = []

    def progress(name, position, end):
        if position and not overtaken:
            overtaken.append(name)
            other.journal.views.rebuild([name])

    ledger.journal.views.rebuild(["conversations"], progress)
    assert [generation for _, generation, _ in generations(any_database, "conversations")] == [3]
    assert {generation for _, generation in tables_of(any_database, "conversations")} == {3}
    assert_right(ledger)


def test_a_view_that_is_rebuilt_at_the_moment_it_is_read_is_read(open_any_store, monkeypatch):
    ledger, other = open_any_store(), open_any_store()
    fill(ledger)
    assert_right(ledger)
    caught_up, rebuilt = projection.Projection.caught_up, []

    def and_then_rebuilt(self):
        generation = caught_up(self)
        if self.view.name not in rebuilt:
            rebuilt.append(self.view.name)
            other.journal.views.rebuild([self.view.name])
        return generation

    monkeypatch.setattr(projection.Projection, "caught_up", and_then_rebuilt)
    assert_right(ledger)
    assert rebuilt == NAMES


def test_a_view_that_is_rebuilt_while_it_catches_up_catches_up(open_any_store, monkeypatch):
    ledger, other = open_any_store(), open_any_store()
    fill(ledger)
    assert_right(ledger)
    fill(ledger)
    changes, fold, rebuilt = projection.Projection._changes, ConversationsView.fold, []

    def rebuild(name):
        if name not in rebuilt:
            rebuilt.append(name)
            other.journal.views.rebuild([name])

    def changes_and_then_rebuilt(self, place, batch):
        found = changes(self, place, batch)
        rebuild(self.view.name)
        return found

    def fold_and_then_rebuilt(self, taken, known):
        folded = fold(self, taken, known)
        rebuild("conversations")
        return folded

    monkeypatch.setattr(projection.Projection, "_changes", changes_and_then_rebuilt)
    monkeypatch.setattr(ConversationsView, "fold", fold_and_then_rebuilt)
    assert_right(ledger)
    assert rebuilt == NAMES


def test_a_view_that_there_is_not_is_refused_before_anything_is_built(open_any_store, any_database):
    ledger = open_any_store()
    with pytest.raises(InvalidInput, match=f"no view 'sarch': choose from {', '.join(NAMES)}"):
        ledger.journal.views.rebuild(["audit", "sarch"])
    assert generations(any_database, "audit") == []


# Events that cannot be taken in

SECRET = "my password is hunter2"
POISONED = [
    ("audit", "RunFailed", f'{{"run_id": "x", "message": "{SECRET}"'),
    ("audit", "RunFailed", f'{{"message": "{SECRET}"}}'),
    ("audit", "RunFailed", f'{{"run_id": ["{SECRET}"], "status": "failed"}}'),
    (
        "conversations",
        "RunStarted",
        f'{{"run_id": ["{SECRET}"], "exchange_id": 5, "attempt": 1, "backend": "b", "model": "m"}}',
    ),
    (
        "search",
        "MessageJournaled",
        f'{{"message_id": "m", "role": "user", "content": 5, "extra": {{"a": "{SECRET}"}}}}',
    ),
    ("search", "MessageJournaled", f'["{SECRET}"]'),
]


@pytest.mark.parametrize(("name", "topic", "payload"), POISONED)
def test_an_event_that_cannot_be_taken_in_is_parked_and_everything_else_goes_on(
    open_any_store, any_database, caplog, name, topic, payload
):
    ledger = open_any_store()
    fill(ledger)
    position = put_raw(ledger, "bad", topic, payload)
    fill(ledger)
    views = ledger.journal.views
    assert len(views.failures(EVERYTHING)) == 10
    assert [(state.key, state.messages) for state in views.conversations() if state.key != "bad"] == [
        (f"k{number}", 12) for number in (4, 3, 2, 1, 0)
    ]
    assert len(views.hits("word")) == 60
    assert (name, position) in {(view, at) for view, at, _ in parked(any_database)}
    assert status_of(ledger, name)["parked"] == 1
    assert status_of(ledger, name)["lag"] == 0
    for _, _, reason in parked(any_database):
        assert f"event 1 of 'bad' ({topic})" in reason
        assert "hunter2" not in reason + caplog.text


def test_a_run_whose_facts_cannot_be_told_is_parked_and_the_others_are_told(open_any_store):
    ledger = open_any_store()
    fail(ledger, "k")
    started = '{"run_id": "x", "exchange_id": "y", "attempt": 1, "backend": "b", "model": "m"}'
    put_raw(ledger, "bad", "RunStarted", started)
    put_raw(ledger, "bad", "RunFailed", '{"run_id": "x", "status": "failed", "message": 5, "details": [1]}', version=2)
    assert [failure.key for failure in ledger.journal.views.failures(EVERYTHING)] == ["k"]
    assert status_of(ledger, "audit")["parked"] == 1


def test_the_events_of_a_batch_with_poison_are_taken_in_once_each(open_any_store):
    ledger = open_any_store()
    for number in range(40):
        ledger.conversation("k").append("user", f"word {number}")
        if number % 13 == 0:
            put_raw(ledger, f"bad{number}", "MessageJournaled", '{"message_id": "m", "role": "user", "content": 5}')
    assert len(ledger.journal.views.hits("word")) == 40
    assert {state.key: state.messages for state in ledger.conversations()}["k"] == 40
    assert status_of(ledger, "search")["parked"] == 4


@pytest.mark.parametrize(("name", "topic", "payload"), POISONED)
def test_a_rebuild_refuses_an_event_that_it_cannot_take_in_and_the_old_view_stays(
    open_any_store, any_database, small_batches, name, topic, payload
):
    ledger = open_any_store()
    fill(ledger)
    assert_right(ledger)
    before = generations(any_database, name)
    position = put_raw(ledger, "bad", topic, payload)
    fill(ledger)
    with pytest.raises(CorruptEvent) as refused:
        ledger.journal.views.rebuild([name])
    told = str(refused.value)
    assert name in told and f"position {position}, event 1 of 'bad' ({topic})" in told and "hunter2" not in told
    assert generations(any_database, name) == before
    assert {generation for _, generation in tables_of(any_database, name)} == {1}
    assert len(ledger.failures()) == 10
    assert len(ledger.journal.views.hits("word")) == 60


def test_a_first_rebuild_refuses_what_a_reader_who_joined_in_has_parked(open_any_store, small_batches):
    ledger, reader = open_any_store(), open_any_store()
    fill(ledger)
    put_raw(ledger, "bad", "MessageJournaled", '{"message_id": "m", "role": "user", "content": 5}')
    with pytest.raises(CorruptEvent, match="event 1 of 'bad'"):
        ledger.journal.views.rebuild(["search"], lambda *told: reader.journal.views.hits("word"))
    assert len(ledger.journal.views.hits("word")) == 30


def test_of_an_error_in_folding_only_the_kind_is_told(open_any_store, any_database, monkeypatch, caplog):
    def fails(*_):
        raise ValueError(SECRET)

    ledger = open_any_store()
    ledger.conversation("k").append("user", "word")
    monkeypatch.setattr(SearchView, "fold", fails)
    assert ledger.conversations(search="word") == []
    reasons = {reason for _, _, reason in parked(any_database)}
    assert reasons == {
        "event 1 of 'k' (ConversationStarted): ValueError",
        "event 2 of 'k' (MessageJournaled): ValueError",
    }
    with pytest.raises(CorruptEvent, match=r"event 1 of 'k' .*ValueError") as refused:
        ledger.journal.views.rebuild(["search"])
    assert "hunter2" not in str(refused.value) + caplog.text


def test_what_somebody_else_took_in_meanwhile_is_not_mistaken_for_an_event_that_cannot_be(
    open_any_store, any_database, monkeypatch
):
    ledger, reader = open_any_store(), open_any_store()
    fill(ledger, conversations=2)
    fold, batch = AuditView.fold, projection.Projection._batch

    def fold_strictly(self, taken, known):
        if known is not None and any(run.started >= taken[0][0] for run in known.folded.runs.values()):
            raise ValueError("taken in already")
        return fold(self, taken, known)

    def batch_and_overtaken(self, after, target, size):
        if self._database is not reader.journal.views._database and after > 0:
            reader.failures()
        return batch(self, after, target, size)

    monkeypatch.setattr(projection, "BATCH_EVENTS_MAX", 1)
    monkeypatch.setattr(AuditView, "fold", fold_strictly)
    monkeypatch.setattr(projection.Projection, "_batch", batch_and_overtaken)
    ledger.journal.views.rebuild(["audit"])
    assert parked(any_database) == []
    assert ledger.journal.views.failures(EVERYTHING) == folded_failures(ledger)


def test_rows_that_a_batch_leaves_of_a_page_are_not_read_again(open_any_store, monkeypatch):
    ledger = open_any_store()
    fill(ledger)
    rows, begun = Recorder.rows, []

    def noted(self, after=0, *args, **kwargs):
        begun.append(after)
        return rows(self, after, *args, **kwargs)

    monkeypatch.setattr(projection, "BATCH_EVENTS_MAX", 3)
    monkeypatch.setattr(Recorder, "rows", noted)
    ledger.journal.views.rebuild(["audit"])
    assert begun == [0]
    assert ledger.journal.views.failures(EVERYTHING) == folded_failures(ledger)


def test_a_database_that_fails_poisons_no_event(open_any_store, any_database, monkeypatch):
    ledger = open_any_store()
    fill(ledger)
    assert_right(ledger)
    fill(ledger)
    with monkeypatch.context() as broken:

        def fails(*_):
            raise StoreUnavailable("the disk is full")

        broken.setattr(ConversationsView, "copy", fails)
        broken.setattr(SearchView, "apply", fails)
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            ledger.conversations()
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            ledger.conversations(search="word")
    assert parked(any_database) == []
    assert_right(ledger)


def test_a_run_whose_events_were_changed_behind_its_back_is_refused_not_left_out(open_any_store, any_database):
    ledger = open_any_store()
    fail(ledger, "k")
    (failure,) = ledger.failures()
    any_database.execute(f"UPDATE view_audit_{AuditView.version}_1_runs SET id_reversed = 'another'")
    with pytest.raises(CorruptEvent, match="no longer belongs to the run rehtona"):
        ledger.failures()
    assert failure.key == "k"


def test_the_end_of_a_run_that_was_changed_behind_its_back_is_refused_not_left_out(open_any_store, any_database):
    ledger = open_any_store()
    fail(ledger, "k")
    ledger.health()
    any_database.execute(f"UPDATE view_audit_{AuditView.version}_1_runs SET failed = started")
    with pytest.raises(CorruptEvent, match="no longer belongs to the run"):
        ledger.health()


# The view of conversations is copied from the heads of their streams


WRITES = st.lists(
    st.tuples(
        st.sampled_from(["say", "import", "fail", "damage", "older", "foreign", "list", "page"]), st.sampled_from("abc")
    ),
    min_size=1,
    max_size=14,
)


def write_one(ledger, database, what, key):
    """Append as an app, as an import or as another application, or damage the head of a conversation."""
    stream = stream_of(key)
    if what == "say":
        ledger.conversation(key).append("user", "word")
    elif what == "fail":
        fail(ledger, key)
    elif what in {"import", "foreign"}:
        head = ledger.journal.recorder.select_head(stream)
        version = head.version + 1 if head is not None else 1
        written = {"written_at": "2025-01-01T00:00:00.000000Z"} if what == "import" else {}
        payload = {"message_id": new_id(), "role": "user", "content": "odd \ud800 word"} | written
        put_raw(ledger, key, "MessageJournaled", PlainJSON().encode(payload).decode(), version)
        if what == "import":  # as an import leaves it: with a state in the head
            state = ConversationState()
            for event in ledger.journal.stream(stream):
                evolve(state, event)
            values = (STATE_SCHEMA, state.as_json(), stream)
            database.execute("UPDATE streams SET state_schema = ?, snapshot = ? WHERE name = ?", values)
            noted = (
                "INSERT INTO idempotency_keys (stream, generation, key, version) SELECT stream, 0, ?, ? FROM streams"
            )
            database.execute(f"{noted} WHERE name = ?", (f"{IMPORTED}{version}", version, stream))
    elif what == "damage":
        database.execute("UPDATE streams SET snapshot = '{' WHERE name = ?", (stream,))
    elif what == "older":
        database.execute("UPDATE streams SET state_schema = 0 WHERE name = ?", (stream,))


def listed_by_folding(ledger):
    """The conversations as the events say, last changed first, with the time of the newest message if it was imported."""
    states = folded_states(ledger)
    for state in states:
        for event in ledger.journal.stream(stream_of(state.key) if state.key else ""):
            if isinstance(event, events.MessageJournaled):
                state.written_at = event.written_at
    return states


@pytest.mark.parametrize("new_url", ["sqlite", "postgresql"], indirect=True)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES)
def test_conversations_copied_from_the_heads_equal_the_folded_ones(new_url, open_store_on, writes):
    url = new_url()
    database = Database(url)
    with pytest.MonkeyPatch.context() as patched, open_store_on(url) as ledger, open_store_on(url) as other:
        patched.setattr(projection, "BATCH_EVENTS_MAX", 2)
        patched.setattr(conversations, "FOLDED_EVENTS_MAX", 3)
        for key in "abc":
            ledger.conversation(key).append("user", "word")
        for what, key in writes:
            if what == "list":
                assert other.conversations() == listed_by_folding(ledger)
            elif what == "page":  # a small part of the log at a time
                patched.setattr(conversations, "CATCH_UP_EVENTS_MAX", 2)
            elif what in {"damage", "older"}:  # noticed when the conversation changes, or the view is rebuilt
                write_one(ledger, database, what, key)
                other.rebuild_views(["conversations"])
            else:
                write_one(ledger, database, what, key)
        assert ledger.conversations() == other.conversations() == listed_by_folding(ledger)
        ledger.rebuild_views(["conversations"])
        assert ledger.conversations() == listed_by_folding(ledger)
        assert ledger.status()["conversations"] == len(ledger.conversations())
        ledger.conversation("new").append("user", "word")
        assert ledger.status()["conversations"] == len(ledger.conversations()) == 4
    database.close()


def test_building_the_list_reads_no_payloads_and_folds_nothing(open_any_store, monkeypatch):
    ledger = open_any_store()
    fill(ledger)
    for name in ("restore", "evolve"):
        monkeypatch.setattr(conversations, name, lambda *_: pytest.fail("an event was folded"))
    assert [(state.key, state.messages) for state in ledger.conversations()] == [(f"k{n}", 6) for n in (4, 3, 2, 1, 0)]


def test_readers_that_build_the_list_at_once_while_others_write_agree(open_any_store, monkeypatch):
    ledger, readers = open_any_store(), [open_any_store() for _ in range(3)]
    fill(ledger, conversations=12, messages=2)
    monkeypatch.setattr(projection, "BATCH_EVENTS_MAX", 2)
    barrier = Barrier(4)

    def read(reader):
        barrier.wait()
        return len(reader.conversations())

    def write():
        barrier.wait()
        for number in range(12):
            ledger.conversation(f"k{number}").append("user", "one more word")

    with ThreadPoolExecutor(4) as pool:
        written = pool.submit(write)
        found = list(pool.map(read, readers))
        written.result()
    assert found == [12] * 3
    assert_right(ledger)


def test_an_exchange_whose_runs_started_in_different_hours_is_counted_once(open_any_store):
    ledger = open_any_store()
    for hours in (0, 1, 26):
        with freeze_time(BEGINNING + timedelta(hours=hours)):
            ledger.journal.commit("k", lambda it: it.start_run("x", RunPlan("chat", "m")), create=True)
            (run_id,) = ledger.journal.require("k").state.open_runs
            ledger.journal.commit(
                "k", lambda it, run_id=run_id: it.fail_run(run_id, Failure("failed", code="server_error"))
            )
            assert [row.exchanges for row in ledger.journal.views.summary("cause")] == [1]
    views = ledger.journal.views
    assert [(row.value, row.failed, row.exchanges) for row in views.summary("day")] == [
        ("2026-11-22", 2, 1),
        ("2026-11-23", 1, 1),
    ]
    since = BEGINNING + timedelta(minutes=30)
    assert [(row.failed, row.exchanges) for row in views.summary("cause", since)] == [(2, 1)]
    (group,) = views.failure_groups(since, BEGINNING + timedelta(hours=27))
    assert (group.runs, group.exchanges, group.conversations, sum(group.trend)) == (2, 1, 1, 2)


def test_conversations_read_one_by_one_are_those_of_the_list(any_db_url, open_store_on, monkeypatch):
    monkeypatch.setattr(sql_views, "CONVERSATIONS_AT_ONCE", 2)
    with open_store_on(any_db_url) as ledger:
        for key in "abcde":
            ledger.conversation(key).append("user", "odd word" if key in "ace" else "word")
        views = ledger.journal.views
        for limit in (None, 1, 2, 3, 9):
            for search in (None, "odd", "nowhere"):
                assert list(views.each_conversation(ConversationFilter(search=search), limit)) == ledger.conversations(
                    limit, search
                )


def test_a_first_list_knows_when_the_messages_of_a_fork_were_written(any_db_url, open_store_on):
    with open_store_on(any_db_url) as ledger:
        given = {"id": "a", "messages": [{"role": "user", "content": "hi"}]}
        first = conversation_as_line(ledger, "a") if list(import_lines(ledger, [json.dumps(given).encode()])) else ""
        list(import_lines(ledger, [first.replace('"a"', '"b"').encode()]))
        ledger.fork("b", "c")
        ledger.rebuild_views(["conversations"])
        times = {state.key: state.written_at for state in ledger.conversations()}
        assert times["a"] is None
        assert times["c"] == times["b"] is not None
