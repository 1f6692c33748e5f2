"""The storage format: every event through its row and back, and what of a newer version is passed over."""

import json
from datetime import UTC, datetime, timedelta, timezone
from functools import partial as fact
from typing import get_type_hints

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from msgspec import NODEFAULT
from msgspec.structs import fields, replace

from threadledger.domain.conversation import ConversationState, evolve, fold_exchanges
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import CorruptEvent, InvalidInput
from threadledger.domain.journal import StoredRow, restore
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.memory import fold_memory

from ..conftest import SOAK

FEW_EXAMPLES = settings() if SOAK else settings(max_examples=30)
"""Enough for the events of one class, which are made of the same kinds of values as those of the others."""

MAPPER = EventMapper(PlainJSON())
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
CALL = {"id": "c1", "type": "function", "function": {"name": "web_search", "arguments": "{}"}}

odd_texts = st.sampled_from(
    [
        "\ud800",
        "half \udfff a character",
        "\0",
        "_type_",
        "_data_",
        "💙",
        "é",
        "\u2028",
        "",
        '"',
        "\\",
        '","event_id":"m1"',
    ]
)
words = st.text(max_size=8) | odd_texts
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
json_objects = st.dictionaries(words | st.sampled_from(["_type_", "_data_", "type", "id"]), json_values, max_size=4)
ids = st.sampled_from(["r1", "r2", "x1", "x2", "m1", "m2", "c1", "t1"]) | words
moments = st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))
parts = st.builds(lambda text: {"type": "text", "text": text}, words) | json_objects

BY_ANNOTATION = {
    bool: st.booleans(),
    str: words,
    str | None: st.none() | words,
    int: st.integers(0, 2**53),
    int | None: st.none() | st.integers(0, 2**53),
    float | None: st.none() | st.floats(0, 1e9),
    e.JSON: json_objects,
    list[e.JSON]: st.lists(json_objects, max_size=3),
    list[str]: st.lists(ids, max_size=3),
    list[int] | None: st.none() | st.lists(st.integers(0, 2**53), max_size=3),
    float: st.floats(-1e9, 1e9),
    list[str] | None: st.none() | st.lists(ids, max_size=3),
    e.JSON | None: st.none() | json_objects,
    bool | None: st.none() | st.booleans(),
    str | list[e.JSON] | None: st.none() | words | st.lists(parts, max_size=3),
    datetime: moments,
}
BY_NAME = {
    "tool_calls": st.lists(st.just(CALL) | st.builds(lambda id_: CALL | {"id": id_}, ids), max_size=3),
    "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | words,
    "source": st.sampled_from(["app", "run", "fallback", "import", "rerun"]) | words,
    "backend": st.sampled_from(["assistants", "chat"]) | words,
    "deadline": st.none() | moments.map(lambda moment: moment.isoformat()) | words,
    "originator_version": st.integers(1, 2**53),
    "up_to_version": st.integers(0, 50),
}


def any_of(event_class):
    """Events of one class with any values that their annotations allow."""
    chosen = {}
    annotations = get_type_hints(event_class)
    for field in fields(event_class):
        values = BY_NAME.get(field.name)
        if values is None:
            values = (
                ids
                if field.name.endswith("_id") and annotations[field.name] is str
                else BY_ANNOTATION[annotations[field.name]]
            )
        if field.default is not NODEFAULT and field.name not in e.COMMON_FIELDS:
            values |= st.just(field.default)
        chosen[field.name] = values
    return st.builds(event_class, **chosen)


unknown_events = st.builds(
    e.UnknownEvent,
    originator_id=ids,
    originator_version=st.integers(1, 2**53),
    timestamp=moments,
    event_id=words,
    topic=words.filter(lambda topic: topic not in e.EVENTS),
    data=json_objects,
)
any_event = st.one_of(*map(any_of, e.EVENTS.values()), unknown_events)
any_log = st.lists(any_event, max_size=12)


def stored(event):
    """The row of an event, as a database gives it back."""
    row = MAPPER.to_stored_event(event)
    assert row.schema == lowest_schema(row.state, event)
    return row


def lowest_schema(payload, event):
    """The number of the first format of rows that has all of it: the second has UTF-8 and attachments."""
    return 1 if payload.isascii() and not getattr(event, "blobs", None) else 2


def minimal(event_class, **given):
    """An event with nothing but what it has to have."""
    required = {field.name: "" for field in fields(event_class) if field.required}
    return event_class(**required | {"originator_version": 1, "timestamp": NOON} | given)


class TestRegistry:
    def test_it_is_closed_over_the_names_of_the_storage_format(self):
        assert set(e.EVENTS) == {
            "ConversationStarted",
            "MessageJournaled",
            "MessageDescribed",
            "SessionItemsKept",
            "RunStarted",
            "RunCompleted",
            "RunFailed",
            "FallbackUsed",
            "ExchangeDescribed",
            "ExchangeCancelled",
            "CompletionStored",
            "CompletionDeleted",
            "ResponseDeleted",
            "AssistantDefined",
            "AssistantDeleted",
            "FileStored",
            "FileDeleted",
            "VectorStoreDefined",
            "VectorStoreFilesAdded",
            "VectorStoreFileDescribed",
            "VectorStoreFileRemoved",
            "VectorStoreUsed",
            "VectorStoreDeleted",
            "ToolResourcesDescribed",
            "ApiKeyAdded",
            "ApiKeyRevoked",
            "ConversationDescribed",
            "ConversationDeleted",
            "ExchangeRequested",
            "ExchangeAbandoned",
            "ThreadLinked",
            "ThreadLost",
            "ThreadRebuilt",
            "ThreadReconciled",
            "MessageRetracted",
            "MemoryCleared",
            "RerunAccepted",
            "BranchSelected",
            "MemoryCompacted",
            "MessagePinned",
            "MessageRated",
            "ToolCallDecided",
            "ProfileDefined",
            "AttachmentUploaded",
            "AttachmentRemoved",
            "JobItemsPlanned",
            "JobStarted",
            "JobItemsEnded",
            "JobCancelled",
            "FailureGroupResolved",
            "FailureGroupMuted",
            "FailureGroupReopened",
        }

    @pytest.mark.parametrize("event_class", e.EVENTS.values())
    def test_an_event_is_stored_under_its_class_name_alone(self, event_class):
        assert MAPPER.to_stored_event(minimal(event_class)).topic == event_class.__name__

    @pytest.mark.parametrize("event_class", e.EVENTS.values())
    def test_an_event_cannot_be_changed(self, event_class):
        with pytest.raises(AttributeError):
            minimal(event_class).event_id = "another"


class TestRoundTrip:
    @pytest.mark.parametrize("event_class", e.EVENTS.values())
    def test_every_event_comes_back_equal_from_its_row_of_either_kind(self, event_class):
        """The payload of a row is bytes or text, and its id is text or the 16 bytes of a UUID."""

        @FEW_EXAMPLES
        @for_all(any_of(event_class), st.uuids())
        def comes_back(event, event_id):
            assert MAPPER.to_domain_event(stored(event)) == event
            row = stored(replace(event, event_id=str(event_id)))
            columns = row.originator_id, row.originator_version, row.topic
            for state in (row.state, row.state.decode()):
                for given_id in (event_id.bytes, str(event_id)):
                    found = restore((7, *columns, state, given_id, row.at, row.schema))
                    assert found == replace(event, event_id=str(event_id))

        comes_back()

    @for_all(any_event)
    def test_a_payload_of_older_versions_in_ascii_comes_back_equal(self, event):
        row = stored(event)
        in_ascii = json.dumps(e.payload_of(event)).encode("ascii")
        columns = row.originator_id, row.originator_version, row.topic
        assert restore((7, *columns, in_ascii, row.event_id, row.at, 1)) == event

    @for_all(any_event)
    def test_the_schema_of_a_row_is_the_lowest_that_reads_its_payload(self, event):
        row = MAPPER.to_stored_event(event)
        assert (row.schema, json.loads(row.state)) == (lowest_schema(row.state, event), e.payload_of(event))

    @pytest.mark.parametrize(
        "number", [2**63, 2**64, -(2**63) - 1, 10**40, 1e16, 1e22, 5e-324, 1.7976931348623157e308, -0.0]
    )
    def test_numbers_of_any_size_come_back_equal_and_of_their_type(self, number):
        details = MAPPER.to_domain_event(stored(minimal(e.RunFailed, details={"n": [number]}))).details
        assert repr(details) == repr({"n": [number]})

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    def test_a_number_that_json_does_not_have_is_refused_wherever_it_is(self, number):
        for fields_given in (
            {"duration_seconds": number},
            {"details": {"a": [{"b": number}]}},
            {"details": {"half": "\ud800", "n": (number,)}},
            {"message": "null", "details": {"a": None, "n": number}},
        ):
            with pytest.raises(InvalidInput, match="NaN or infinite cannot be stored as JSON: nothing was written"):
                MAPPER.to_stored_event(minimal(e.RunFailed, **fields_given))

    def test_words_and_values_like_null_are_stored(self):
        event = minimal(e.RunFailed, message="null, NaN and Infinity", details={"a": None, "b": [None, 1.5]})
        assert MAPPER.to_domain_event(stored(event)) == event

    @pytest.mark.parametrize(
        "payload",
        [{"message_id": "m1", "role": "user", "content": {"of a newer": "kind"}}, {"message_id": 5, "role": None}],
        ids=["content", "id and role"],
    )
    def test_a_value_of_another_type_than_the_field_is_kept(self, payload):
        row = ("conversation:k", 2, "MessageJournaled", json.dumps(payload).encode())
        event = restore((7, *row, "e2", "2026-11-22T12:00:00.123456Z", 1))
        assert e.payload_of(event) == payload

    @pytest.mark.parametrize("at", ["2026-11-22T14:00:00+02:00", "2026-11-22T12:00:00", "2026-11-22T12:00:00.000000Z"])
    def test_a_time_in_any_form_comes_back_in_utc(self, at):
        row = ("conversation:k", 2, "MessageRetracted", b'{"message_id":"m1"}')
        for _ in range(2):  # the first event of a topic also creates its decoder
            moment = restore((7, *row, "e2", at, 1)).timestamp
            assert (moment, moment.tzinfo) == (datetime(2026, 11, 22, 12, tzinfo=UTC), UTC)

    @pytest.mark.parametrize("schema", [3, 99])
    def test_a_row_of_a_newer_schema_is_unknown_after_one_of_its_topic(self, schema):
        columns = ("e2", "2026-11-22T12:00:00.000000Z")
        row = ("conversation:k", 2, "MessageRetracted", b'{"message_id":"m1"}')
        assert isinstance(restore((7, *row, *columns, 1)), e.MessageRetracted)
        assert isinstance(restore((7, *row, *columns, schema)), e.UnknownEvent)

    @for_all(unknown_events)
    def test_an_event_of_a_newer_version_comes_back_as_it_was_stored(self, event):
        assert MAPPER.to_domain_event(stored(event)) == event

    @pytest.mark.parametrize(
        "odd",
        [
            {"_type_": "datetime_iso", "_data_": "2026-11-22"},
            {"_type_": "tuple_as_list"},
            {"half": "\ud800", "\udfff": 1},
            {"nul": "a\0b"},
            {"deep": [{"_data_": [None, True, 0.1, 2**60]}]},
        ],
        ids=["reserved keys", "reserved key alone", "half characters", "NUL", "nested"],
    )
    def test_a_payload_has_no_reserved_meaning(self, odd):
        event = minimal(e.RunFailed, details=odd)
        assert MAPPER.to_domain_event(stored(event)).details == odd

    def test_a_row_carries_stream_version_time_and_id_in_columns_of_their_own(self):
        event = minimal(e.MemoryCleared, originator_id="conversation:k", originator_version=7, event_id="e7")
        row = MAPPER.to_stored_event(event)
        assert (row.originator_id, row.originator_version, row.at, row.event_id, row.schema) == (
            "conversation:k",
            7,
            "2026-11-22T12:00:00.123456Z",
            "e7",
            1,
        )
        assert set(json.loads(row.state)) == {"up_to_version"}

    def test_a_time_of_another_zone_is_stored_in_utc(self):
        elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
        assert MAPPER.to_stored_event(minimal(e.MemoryCleared, timestamp=elsewhere)).at == "2026-11-22T12:00:00.123456Z"


class TestDefaults:
    @pytest.mark.parametrize("event_class", e.EVENTS.values())
    def test_a_field_at_its_default_is_not_stored(self, event_class):
        required = {field.name for field in fields(event_class) if field.required}
        assert set(e.payload_of(minimal(event_class))) == required

    @pytest.mark.parametrize("event_class", e.EVENTS.values())
    def test_a_field_that_a_row_lacks_has_its_default(self, event_class):
        event = minimal(event_class)
        assert MAPPER.to_domain_event(stored(event)) == event

    def test_defaults_are_not_shared_between_events(self):
        one, other = minimal(e.RunFailed), minimal(e.RunFailed)
        one.details["changed"] = True
        assert other.details == {}
        assert "details" in e.payload_of(one)
        assert "details" not in e.payload_of(other)

    @pytest.mark.parametrize(
        ("event", "kept"),
        [
            (minimal(e.MessageJournaled, content=""), {"content": ""}),
            (minimal(e.MessageJournaled, content=[]), {"content": []}),
            (minimal(e.RunFailed, http_status=0), {"http_status": 0}),
            (minimal(e.RunFailed, retry_after_seconds=0.0), {"retry_after_seconds": 0.0}),
            (minimal(e.RunCompleted, duration_seconds=0.0), {"duration_seconds": 0.0}),
        ],
    )
    def test_an_empty_value_that_is_not_the_default_is_stored(self, event, kept):
        assert kept.items() <= e.payload_of(event).items()


class TestNewerVersions:
    row = StoredRow("conversation:k", 3, "RunFailed", b"{}", "e3", "2026-11-22T12:00:00.123456Z", 1)

    def test_unknown_fields_are_passed_over(self):
        state = b'{"run_id":"r1","status":"failed","invented_later":{"a":1}}'
        row = StoredRow("conversation:k", 3, "RunFailed", state, "e3", "2026-11-22T12:00:00.123456Z", 1)
        event = MAPPER.to_domain_event(row)
        assert isinstance(event, e.RunFailed)
        assert (event.run_id, event.status) == ("r1", "failed")
        assert not hasattr(event, "invented_later")

    def test_an_event_of_a_newer_schema_is_kept_and_changes_nothing(self):
        state = b'{"message_id":"m1","role":"user","said":"in another form"}'
        row = StoredRow("conversation:k", 2, "MessageJournaled", state, "e2", "2026-11-22T12:00:00.123456Z", 3)
        event = MAPPER.to_domain_event(row)
        assert isinstance(event, e.UnknownEvent)
        assert event.data["said"] == "in another form"
        assert fold_memory([event]).messages == ()

    @pytest.mark.parametrize("name", ["originator_id", "originator_version", "timestamp", "event_id", "SCHEMA"])
    def test_a_payload_cannot_override_the_columns(self, name):
        state = json.dumps({"run_id": "r1", "status": "failed", name: "forged"}).encode()
        row = StoredRow("conversation:k", 3, "RunFailed", state, "e3", "2026-11-22T12:00:00.123456Z", 1)
        event = MAPPER.to_domain_event(row)
        assert (event.originator_id, event.originator_version, event.timestamp, event.event_id, event.SCHEMA) == (
            "conversation:k",
            3,
            NOON,
            "e3",
            2,
        )

    @pytest.mark.parametrize("topic", ["RunPaused", "threadledger.domain.events:RunFailed", "Event", "UnknownEvent"])
    def test_an_unknown_topic_is_an_unknown_event_and_nothing_is_imported_for_it(self, topic):
        row = StoredRow("conversation:k", 3, topic, b'{"run_id":"r1"}', "e3", "2026-11-22T12:00:00.123456Z", 9)
        event = MAPPER.to_domain_event(row)
        assert isinstance(event, e.UnknownEvent)
        assert (event.topic, event.data) == (topic, {"run_id": "r1"})

    @for_all(any_log, unknown_events)
    def test_an_unknown_event_changes_nothing_but_version_and_time(self, log, unknown):
        state = ConversationState()
        for event in log:
            evolve(state, event)
        before = dict(vars(state))
        evolve(state, unknown)
        assert state.version == unknown.originator_version
        changed = {name for name, value in vars(state).items() if value != before[name]}
        assert changed <= {"version", "last_at", "started_at"}
        assert fold_memory([*log, unknown]).messages == fold_memory(log).messages
        assert fold_exchanges([*log, unknown]) == fold_exchanges(log)


class TestCorruptRows:
    @pytest.mark.parametrize(
        "state",
        [b"", b"{", b"[]", b'"text"', b"null", b"\xff", b'{"run_id":"\xff","status":"failed"}', b'{"run_id":"r1"}'],
        ids=repr,
    )
    def test_a_payload_that_cannot_be_read_is_refused_loudly(self, state):
        row = StoredRow("conversation:k", 3, "RunFailed", state, "e3", "2026-11-22T12:00:00Z", 1)
        with pytest.raises(CorruptEvent, match=r"event 3 of 'conversation:k' \(RunFailed\) cannot be read"):
            MAPPER.to_domain_event(row)

    @pytest.mark.parametrize("at", ["", "yesterday", "2026-13-01T00:00:00Z"])
    def test_a_time_that_cannot_be_read_is_refused_loudly(self, at):
        with pytest.raises(CorruptEvent):
            MAPPER.to_domain_event(StoredRow("conversation:k", 3, "MemoryCleared", b'{"up_to_version":1}', "e3", at, 1))


class TestFoldsNeverRefuse:
    @for_all(any_log)
    def test_evolve_takes_any_events_in_any_order(self, log):
        state = ConversationState()
        for event in log:
            evolve(state, event)
        assert state.version == (log[-1].originator_version if log else 0)

    @for_all(any_log)
    def test_a_snapshot_of_any_state_is_that_state(self, log):
        state = ConversationState()
        for event in log:
            evolve(state, event)
        assert ConversationState.from_json(state.as_json()) == state

    @for_all(any_log, any_event)
    def test_a_copy_of_a_state_changes_as_a_snapshot_of_it_and_leaves_it_unchanged(self, log, event):
        state = ConversationState()
        for each in log:
            evolve(state, each)
        snapshot = state.as_json()
        copied, read = evolve(state.copy(), event), evolve(ConversationState.from_json(snapshot), event)
        assert json.loads(copied.as_json()) == json.loads(read.as_json())
        assert state.as_json() == snapshot

    @for_all(any_log, st.none() | st.integers(0, 20) | moments)
    def test_memory_takes_any_events_in_any_order(self, log, at):
        memory = fold_memory(log, at)
        memory.as_chat_messages()
        memory.as_response_items()
        memory.digest()
        memory.estimated_tokens()
        assert [each.as_json()["message_id"] for each in memory.messages] == [
            each.message_id for each in memory.messages
        ]

    @for_all(any_log)
    def test_the_audit_takes_any_events_in_any_order(self, log):
        folded = fold_exchanges(log)
        for failure in folded.failures():
            assert failure.as_json()["run_id"] in folded.runs

    def test_a_role_and_a_source_of_a_newer_version_read_as_unknown(self, log):
        journaled = fact(e.MessageJournaled, message_id="m1", role="narrator", content="Once", source="oracle")
        (message,) = fold_memory(log(journaled)).messages
        assert (message.message.role, message.source, message.message.text) == ("unknown", "unknown", "Once")

    @pytest.mark.parametrize(
        "call",
        [{"id": "c1", "type": "custom", "custom": {"name": "grep", "input": "x"}}, {"id": "c1"}],
        ids=["custom", "id alone"],
    )
    def test_a_tool_call_of_a_newer_version_does_not_stop_memory(self, log, call):
        newer = fact(e.MessageJournaled, message_id="m1", role="assistant", tool_calls=[call])
        after = fact(e.MessageJournaled, message_id="m2", role="user", content="Hello")
        memory = fold_memory(log(newer, after))
        assert memory.messages[-1].message_id == "m2"
        assert memory.shown()[0].as_chat_message()["tool_calls"] == [call]
