"""Check that stored rows are readable for ever. The files are never rewritten; `golden/README.md` explains their names."""

import hashlib
import json
import re
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from threadledger import __version__
from threadledger.adapters import SCHEMA_VERSION
from threadledger.domain.conversation import ConversationState, Profile, evolve, fold_exchanges
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.description import Description, described_by
from threadledger.domain.journal import StoredRow
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.memory import fold_memory
from threadledger.domain.replay import JobState
from threadledger.domain.replay.jobs import evolve_job

FILE = Path(__file__).parents[1] / "golden" / "events-1.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text("ascii").splitlines()]
SINCE = FILE.with_name("events-3.jsonl")
"""Event that schema 3 added to the story of schema 1."""

LATEST = FILE.with_name("events-4.jsonl")
"""Events and fields that schema 4 added for reruns, forks and groups of failures."""
CHAIN = FILE.with_name("chain-4.jsonl")
"""A fallback to a named backend that lacks a tool."""
IMPORTS = FILE.with_name("imports-4.jsonl")
"""Imported messages with the ids and times of their source."""
VIEWS = FILE.with_name("memory-5.jsonl")
"""Runs with the hashes of what they were shown, by rule 1: every kind of message, window and cut."""
JOBS = FILE.with_name("jobs-4.jsonl")
"""A job as it was first stored."""

DESCRIBED = FILE.with_name("descriptions-6.jsonl")
"""A conversation that is described three times, and its state."""
OPTIONS = FILE.with_name("options-6.jsonl")
"""A question with options, actors, and keys of a batch and of a run."""

COMMON = {"originator_id", "originator_version", "timestamp", "event_id"}
DEFAULTS = {
    "ConversationStarted": {"metadata": {}, "parent_key": None, "parent_version": None, "generation": 0},
    "MessageJournaled": {
        "content": None,
        "tool_calls": [],
        "tool_call_id": None,
        "extra": {},
        "exchange_id": None,
        "run_id": None,
        "source": "app",
        "idempotency_key": None,
        "written_at": None,
    },
    "RunStarted": {
        "profile_hash": None,
        "memory_version": 0,
        "memory_rule": "all",
        "memory_hash": None,
        "deadline": None,
        "rerun_of": None,
    },
    "RunCompleted": {
        "remote_run_id": None,
        "thread_id": None,
        "request_id": None,
        "model": None,
        "finish_reason": None,
        "usage": {},
        "duration_seconds": None,
    },
    "RunFailed": {
        "code": None,
        "type": None,
        "message": None,
        "http_status": None,
        "request_id": None,
        "retry_after_seconds": None,
        "param": None,
        "duration_seconds": None,
        "partial_text": None,
        "remote_run_id": None,
        "thread_id": None,
        "details": {},
    },
    "FallbackUsed": {},
    "ExchangeAbandoned": {"run_ids": [], "reason": ""},
    "ThreadLinked": {"endpoint": ""},
    "ThreadLost": {"reason": "", "endpoint": ""},
    "ThreadRebuilt": {
        "old_thread_id": None,
        "endpoint": "",
        "memory_version": 0,
        "message_count": 0,
        "digest": "",
        "losses": {},
    },
    "MessageRetracted": {"reason": ""},
    "MemoryCleared": {"reason": ""},
    "RerunAccepted": {"superseded_message_id": None, "superseded_run_id": None},
    "ProfileDefined": {"model": None, "tools": []},
}
CHAT = [
    {"role": "user", "content": "And the other one?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "web_search", "arguments": '{"query": "parcel 42"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "In transit."},
    {"role": "assistant", "content": "The other one is in transit."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You are welcome."},
    {"role": "system", "content": None, "tool_calls": None},
    {"role": "user", "content": "half \ud800 and nul \0"},
]


def event_of(row):
    state = json.dumps(row["state"], ensure_ascii=True, separators=(",", ":")).encode("ascii")
    stored = StoredRow(row["stream"], row["version"], row["topic"], state, row["event_id"], row["at"], row["schema"])
    return EventMapper(PlainJSON()).to_domain_event(stored)


@pytest.fixture(scope="module")
def story():
    return [event_of(row) for row in ROWS if row["stream"] == "conversation:customer-42"]


GOLDEN = {
    "attachments-6.jsonl": "209b074fd20640e6e33559379cfeb6d281afa90ed56444d825d58635fd4ccfaa",
    "chain-4.jsonl": "f13db1f902f41114eb75c97912d227450129f3a7e92f8ede8ebbc45d1e140a50",
    "events-1.jsonl": "dd30b08c7faa80eed114f4ab4fd938ff9f3a39a39f1c8dd52f40a53d08eff721",
    "events-3.jsonl": "2f03b1f6e2c05c01e958870459067aa8f9dafadc93b0c622a89efd98a7bf754d",
    "events-4.jsonl": "b0bee5eb3424cca25c6bc005aa5a289aa5c33ff7c9a1c3c74eeeaa59084b4021",
    "imported-6.jsonl": "47a14ac0699b150bc5e9814c6d3e0e5081fa6e9cf1ddda16a84da5ec585f0a49",
    "imported_by_rule_2-6.jsonl": "eaa771569909fd308d02b5df2f03fb38ddfc08373c55f76ba9ceddb9741fbefd",
    "imported_by_rule_3-6.jsonl": "3c56fbc7c076dd9a06632230b046b64d69d6b1527940f5040388da661352387a",
    "imported_branches_by_rule_2-6.jsonl": "65cf5a2f5d3e63615ceac801ec8550e29cc8c494a3018403c6f458e2d1ac9f14",
    "imports-4.jsonl": "ffbb646937d651180a9ab5a3ce4ed1a2db273594841a6f886e9d7e7f46d0bb0e",
    "jobs-4.jsonl": "0cd13642ad5cc4685f6eb00392174f2c5257a4c29488ead4ff4fa5be2f9ad391",
    "memory-5.jsonl": "690d5c990d66523e8e280cf1d75e9f4bca6d84a0a1ad6791a2118f7fea2dabe0",
    "descriptions-6.jsonl": "3599d85c44755449e4428cc37a4b32e27b89ca83dc24b151fcc6af496661e064",
    "options-6.jsonl": "da69f078bce995d54c684f86523fad257e088dd2c01685f5de033ab4fd15992a",
    "schema-1.sql": "135222d16c1cd21464aadb0741e7ccbc516cc1d1916104745d7e99f121645898",
    "schema-2.sql": "c49a14bff508b49de3b3992fad17b6fd98defc513e8768aab597f288a47be684",
    "schema-3.sql": "8341d74cf47586884103871236dd975cb9f187157affa6e3062762c1bc2dea46",
    "schema-4.sql": "6034100b7f0f2905b953b1c922972355abff2619e5519913949c55487d00b6fd",
    "schema-5.sql": "a6cc6edd9f75a613570e52f89d92d08504ba88ee5f06bcc52cf69105952c5b9d",
    "schema-6.sql": "94beecb8629b5354d5ca39e4b117f6a8936346ff8192459cefb52d228988dfad",
    "schema-8.sql": "13e1f99efce71f2b1493440f5773c2669cd5ca711505f185e42a78e3c51a6f48",
    "schema-7.sql": "5acfd71438f9cbdb13ce067674e753fee6712066717148d81863edab8b0315c1",
    "snapshots-4.jsonl": "568ecd53fe227ce2cec5c4d57c10cc389a48ef895ce34a67ca6f40101b77439d",
}
"""SHA-256 of each golden file."""


def test_the_golden_files_are_as_they_were_first_written():
    files = [path for path in FILE.parent.iterdir() if path.suffix != ".md"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == GOLDEN


def test_golden_files_version_and_changelog_have_one_numbering():
    """The number in a name is a schema; the newest section of the changelog is this version, and names its schema."""
    assert {int(re.search(r"-(\d+)\.", name).group(1)) for name in GOLDEN} <= set(range(1, SCHEMA_VERSION + 1))
    assert {f"schema-{number}.sql" for number in range(1, SCHEMA_VERSION)} <= GOLDEN.keys()
    changelog = (FILE.parents[2] / "CHANGELOG.md").read_text("utf-8")
    newest, section = re.findall(r"^## \[(.+?)\](.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)[0]
    assert newest == __version__
    assert f"database schema is version {SCHEMA_VERSION}" in " ".join(section.split())
    assert f"{__version__}, which is not released yet, has schema {SCHEMA_VERSION}" in " ".join(
        FILE.with_name("README.md").read_text("utf-8").split()
    )


def test_the_file_has_a_row_of_every_event_of_its_release():
    assert {row["topic"] for row in ROWS} == set(DEFAULTS)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['version']}-{row['topic']}" for row in ROWS])
def test_a_stored_row_restores_to_its_event(row):
    event = event_of(row)
    assert type(event) is e.EVENTS[row["topic"]]
    assert (event.originator_id, event.originator_version, event.event_id) == (
        row["stream"],
        row["version"],
        row["event_id"],
    )
    assert event.timestamp == datetime.strptime(row["at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    expected = DEFAULTS[row["topic"]] | row["state"]
    assert {name: getattr(event, name) for name in expected} == expected


def test_a_field_added_since_has_a_default_and_none_was_removed():
    for name, defaults in DEFAULTS.items():
        required = set.intersection(*(set(row["state"]) for row in ROWS if row["topic"] == name))
        assert defaults.keys() | required | COMMON <= set(e.EVENTS[name].__struct_fields__)


def test_the_story_folds_to_the_state_of_its_release(story):
    state = ConversationState()
    for event in story:
        evolve(state, event)
    expected = {
        "key": "customer-42",
        "version": 29,
        "started_at": "2026-11-22T12:00:01.000001Z",
        "last_at": "2026-11-22T12:02:32.000152Z",
        "messages": 11,
        "exchanges": 3,
        "failed_runs": 2,
        "last_exchange_id": "x-3",
        "abandoned": {},
        "unanswered": 0,
    }
    assert expected.items() <= vars(state).items()
    assert list(state.open_runs) == ["r-5"]
    assert state.next_deadline == "2026-11-22T12:04:02.000152Z"
    assert {id_: each.runs for id_, each in state.open_exchanges.items()} == {"x-3": ["r-5"]}
    assert {kind: (link.thread_id, link.lost) for kind, link in state.links.items()} == {
        "assistants": ("thread_old1", "provider_gone"),
        "conversations": ("conv_10", None),
    }


def test_the_story_folds_to_the_memory_of_its_release(story):
    memory = fold_memory(story)
    assert [message.as_chat_message() for message in memory.shown()] == CHAT
    canonical = json.dumps(CHAT, sort_keys=True, separators=(",", ":"))
    assert memory.digest("all") == hashlib.sha256(canonical.encode()).hexdigest()
    assert memory.version == 29
    assert memory.run_threads["r-2"] == "conv_9"
    assert [each.message_id for each in memory.messages] == ["m-2", "m-3", "m-4", "m-5", "m-6", "m-8", "m-10", "m-11"]


def test_the_first_message_is_in_memory_as_of_the_version_before_it_was_cleared(story):
    first = fold_memory(story, at=23).as_chat_messages()[0]
    assert first == {
        "role": "user",
        "name": "ann",
        "content": [
            {"type": "text", "text": "Où est mon colis ? 包裹在哪里"},
            {"type": "image_url", "image_url": {"url": "https://example.com/label.png", "detail": "low"}},
            {"type": "file", "file": {"file_id": "file-abc"}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        ],
    }


def test_the_digest_of_the_memory_is_that_of_its_release(story):
    assert fold_memory(story).digest("all") == "84a4caab4cf1dbece05efbdf3774cb20929170e310efb2eae52315bbd5b33c3d"


def logs_of_runs():
    """Yield (name, events) of the conversations whose runs were stored with hashes by rule 1."""
    yield VIEWS.name, [event_of(json.loads(line)) for line in VIEWS.read_text("ascii").splitlines()]
    for schema in (2, 3, 4):
        with closing(sqlite3.connect(":memory:")) as database:
            database.executescript(FILE.with_name(f"schema-{schema}.sql").read_text("utf-8"))
            names = ("stream", "version", "topic", "state", "event_id", "at", "schema")
            query = f"SELECT {', '.join(names)} FROM events ORDER BY position"
            rows = [dict(zip(names, row, strict=True)) for row in database.execute(query)]
        streams = defaultdict(list)
        for row in rows:
            streams[row["stream"]].append(event_of(row | {"state": json.loads(row["state"])}))
        for events in streams.values():
            yield f"schema-{schema}.sql", events


def test_every_hash_that_was_stored_by_rule_1_is_recomputed():
    checked = Counter()
    for name, events in logs_of_runs():
        for run in events:
            if isinstance(run, e.RunStarted) and run.memory_hash is not None:
                view = fold_memory(events, at=run.memory_version).by_rule(run.memory_rule)
                assert (name, run.run_id, view.digest()) == (name, run.run_id, run.memory_hash)
                checked[name] += 1
    assert checked["memory-5.jsonl"] == 36
    assert all(checked[f"schema-{schema}.sql"] for schema in (2, 3, 4))


def test_a_hash_by_rule_1_notices_another_word_in_the_frozen_code(monkeypatch):
    monkeypatch.setattr("threadledger.domain.memory.rule_1.NO_RESULT", "[no result was recorded]")
    with pytest.raises(AssertionError):
        test_every_hash_that_was_stored_by_rule_1_is_recomputed()


def test_the_story_folds_to_the_runs_of_its_release(story):
    folded = fold_exchanges(story)
    assert [(run.run_id, run.state, run.next) for run in folded.runs.values()] == [
        ("r-1", "failed", "fallback"),
        ("r-2", "completed", "open"),
        ("r-3", "failed", "abandoned"),
        ("r-4", "completed", "open"),
        ("r-5", "open", "open"),
    ]
    assert [(exchange.exchange_id, exchange.answered_by) for exchange in folded.by_id.values()] == [
        ("x-1", "r-2"),
        ("x-2", "r-4"),
        ("x-3", None),
    ]


@pytest.mark.parametrize("line", SINCE.read_text("ascii").splitlines())
def test_a_row_of_what_was_added_since_restores_to_its_event_and_changes_no_more_than_it_says(line, story):
    row = json.loads(line)
    event = event_of(row)
    assert type(event) is e.EVENTS[row["topic"]]
    assert e.payload_of(event) == row["state"]
    assert [message.as_chat_message() for message in fold_memory([*story, event]).shown()] == CHAT


@pytest.mark.parametrize("line", [*LATEST.read_text("ascii").splitlines(), *CHAIN.read_text("ascii").splitlines()])
def test_a_row_of_reruns_forks_groups_and_chains_restores_to_its_event(line):
    row = json.loads(line)
    event = event_of(row)
    assert type(event) is e.EVENTS[row["topic"]]
    assert e.payload_of(event) == row["state"]


@pytest.mark.parametrize("line", OPTIONS.read_text("ascii").splitlines())
def test_a_row_of_options_actors_and_keys_restores_to_its_event_and_is_stored_the_same(line):
    row = json.loads(line)
    event = event_of(row)
    assert type(event) is e.EVENTS[row["topic"]]
    assert (e.payload_of(event), event.actor) == (row["state"], row["state"].get("actor"))
    assert json.loads(EventMapper(PlainJSON()).to_stored_event(event).state) == row["state"]
    if isinstance(event, e.ProfileDefined):
        tools, settings = json.dumps(event.tools), json.dumps(event.settings)
        profile = Profile(event.name, event.instructions, event.model, tools, settings_json=settings)
        assert profile.hash == event.profile_hash


def test_what_is_sent_with_a_question_changes_no_memory_and_no_state():
    rows = [json.loads(line) for line in OPTIONS.read_text("ascii").splitlines()][1:]
    every = [
        event_of(row) for row in rows if "question_message_id" not in row["state"]
    ]  # such a request opens an exchange
    without = [each for each in every if not isinstance(each, e.ExchangeRequested)]
    folded, plain = ConversationState(), ConversationState()
    for events, state in ((every, folded), (without, plain)):
        for event in events:
            evolve(state, event)
    assert folded.as_json() == plain.as_json()
    assert fold_memory(every).digest() == fold_memory(without).digest()


@pytest.mark.parametrize("line", IMPORTS.read_text("ascii").splitlines())
def test_the_origin_of_an_imported_message_is_restored_and_does_not_change_memory(line):
    row = json.loads(line)
    event = event_of(row)
    assert e.payload_of(event) == row["state"]
    bare = event_of(row | {"state": {name: value for name, value in row["state"].items() if name != "origin"}})
    assert (bare.origin, event.origin) == ({}, row["state"]["origin"])
    assert fold_memory([event]).digest() == fold_memory([bare]).digest()
    assert fold_memory([event]).messages == fold_memory([bare]).messages


def test_the_job_folds_to_the_state_of_its_release():
    state = JobState("01a21700-a200-7000-8000-0000000000aa")
    for row in map(json.loads, JOBS.read_text("ascii").splitlines()):
        event = event_of(row)
        assert e.payload_of(event) == row["state"]
        state = evolve_job(state, event)
    assert state.as_json() == {
        "job": "01a21700-a200-7000-8000-0000000000aa",
        "kind": "rebuild",
        "state": "cancelled",
        "items": 2,
        "done": 1,
        "skipped": 1,
        "failed": 0,
        "left": 0,
        "started_at": "2026-11-26T12:00:02.000000Z",
        "last_at": "2026-11-26T12:00:05.000000Z",
        "options": {"to": "conversations", "at": None, "fresh": True},
        "held_by": [],
    }


def test_the_profile_is_that_of_its_release():
    profile = event_of(ROWS[0])
    assert isinstance(profile, e.ProfileDefined)
    assert (profile.name, profile.model, len(profile.tools)) == ("John", "gpt-6-astra", 2)


ATTACHMENTS = [json.loads(line) for line in FILE.with_name("attachments-6.jsonl").read_text("utf-8").splitlines()]


def test_attachments_and_whole_answers_of_schema_6_are_read_for_ever():
    events = [event_of(row) for row in ATTACHMENTS]
    assert [e.payload_of(event) for event in events] == [row["state"] for row in ATTACHMENTS]
    conversation = [event for event in events if event.originator_id == "conversation:customer-42"]
    started = next(event for event in conversation if isinstance(event, e.RunStarted))
    seen = fold_memory(conversation, started.memory_version)
    assert seen.digest(started.memory_rule) == started.memory_hash == started.path_hash
    assert started.losses == {"part:input_audio": 1}
    contract, question, answer = (each.message for each in fold_memory(conversation).messages)
    assert [type(part).__name__ for part in question.content] == ["Text", "Image", "File", "Audio", "File"]
    assert (contract.content[1].url, question.content[2].filename) == ("https://files.example/a.pdf", "a.pdf")
    assert answer.text == "It is valid."
    assert [item["type"] for item in answer.native()["items"]] == ["reasoning", "web_search_call", "message"]
    state = ConversationState()
    for event in conversation:
        evolve(state, event)
    assert state.path_hash == fold_memory(conversation).digest()


def test_descriptions_are_read_as_they_were_stored():
    rows = [json.loads(line) for line in DESCRIBED.read_text("ascii").splitlines()]
    snapshot, state, log = rows.pop()["snapshot"], ConversationState(), []
    for row in rows:
        event = e.restore_event(row["topic"], json.loads(row["state"]))
        common = {"originator_version": row["version"], "timestamp": datetime(2026, 11, 30, 8, tzinfo=UTC)}
        log.append(replace(event, **common))
        evolve(state, log[-1])
        assert e.payload_of(event) == json.loads(row["state"])
    assert state.described == json.loads(snapshot)["described"]
    assert state.as_json().startswith(snapshot.partition('"key"')[0])
    assert ConversationState.from_json(snapshot).as_json() == snapshot
    found = [described_by(each.described, log) for each in (state, ConversationState.from_json(snapshot))]
    assert found == [Description(owner="anna", metadata={"desk": 4, "vip": None})] * 2
