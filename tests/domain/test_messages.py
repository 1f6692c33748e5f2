"""Messages from the outside: kept word for word, or refused with one sentence."""

from functools import partial as fact

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import limits
from threadledger.domain.conversation import Conversation, parse_message, text_message
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import JournaledMessage, Message, Role, Source, Usage, restore_message
from threadledger.domain.errors import InvalidMessage
from threadledger.domain.ids import from_iso
from threadledger.domain.memory import fold_memory

CALL = {"id": "c1", "type": "function", "function": {"name": "web_search", "arguments": '{"q": 1}'}}
CUSTOM = {"id": "c2", "type": "custom", "custom": {"name": "grep", "input": "parcel"}}

words = st.text(max_size=12) | st.sampled_from(["\0", "💙", "\u2028", "unknown", "é"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
odd_parts = st.dictionaries(st.sampled_from(["type", "text", "image_url", "file", "x"]), json_values, max_size=3)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, words),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, words),
    st.builds(lambda url, detail: {"type": "image_url", "image_url": {"url": url, "detail": detail}}, words, scalars),
    st.builds(lambda id_: {"type": "file", "file": {"file_id": id_}}, words),
    st.builds(lambda data: {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}, words),
    st.builds(lambda text: {"type": "refusal", "refusal": text}, words),
    st.builds(lambda text: {"type": "text", "text": text, "annotations": []}, words),
    odd_parts,
)
contents = words | st.lists(parts, min_size=1, max_size=3)
plain_calls = st.builds(
    lambda id_, name, arguments: {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}},
    words,
    words,
    words,
)
odd_calls = st.builds(lambda call, more: call | more, plain_calls, st.dictionaries(words, json_values, max_size=2))
calls = st.lists(plain_calls | odd_calls | st.just(CUSTOM), min_size=1, max_size=3)
more_keys = st.dictionaries(
    words | st.sampled_from(["name", "refusal", "audio", "annotations", "_type_", "phase"]), json_values, max_size=3
).map(lambda more: {name: value for name, value in more.items() if name not in {"role", "content", "tool_call_id"}})

speaking = st.builds(
    lambda role, content, more: {"role": role, "content": content} | more,
    st.sampled_from(["system", "developer", "user", "assistant"]),
    contents,
    more_keys,
)
calling = st.builds(
    lambda content, calls, more: more | {"role": "assistant", "tool_calls": calls} | content,
    st.just({}) | st.builds(lambda content: {"content": content}, st.none() | contents),
    calls,
    more_keys,
)
answering = st.builds(
    lambda call_id, content, more: more | {"role": "tool", "tool_call_id": call_id, "content": content},
    words.filter(bool),
    contents,
    more_keys,
)
chat_messages = (speaking | calling | answering).filter(
    lambda given: (
        isinstance(given.get("tool_calls", []), list)
        and all(isinstance(call, dict) and isinstance(call.get("id"), str) for call in given.get("tool_calls", []))
    )
)


class TestRoundTrip:
    @for_all(chat_messages)
    def test_a_chat_message_is_given_back_exactly(self, given):
        assert parse_message(given).as_chat_message() == given

    @for_all(chat_messages)
    def test_a_journaled_chat_message_is_given_back_exactly(self, given):
        conversation = Conversation.start("k")
        conversation.journal(parse_message(given))
        (journaled,) = fold_memory(conversation.collect_events()).messages
        assert journaled.message.as_chat_message() == given

    @for_all(chat_messages)
    def test_a_journaled_message_equals_the_one_that_was_given(self, given):
        """An append is told from another under the same idempotency key by this equality."""
        message = parse_message(given)
        assert restore_message(Conversation.start("k").journal(message)) == message

    @pytest.mark.parametrize(
        "given",
        [
            {"role": "user", "content": ""},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "assistant", "content": "One moment.", "tool_calls": [CALL, CUSTOM]},
            {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}]},
            {"role": "assistant", "content": "No calls.", "tool_calls": []},
            {"role": "assistant", "content": "No calls.", "tool_calls": None},
            {"role": "assistant", "content": "Hi", "tool_call_id": None},
            {"role": "assistant", "content": None, "refusal": "I cannot.", "tool_calls": [CALL]},
            {"role": "assistant", "content": None, "refusal": "I cannot."},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}], "phase": "final_answer"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y", "detail": None}}]},
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "f", "filename": "a.pdf"}}]},
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}],
            },
            {"role": "user", "content": "Hi", "name": "ann", "extra": {"extra_json": "{}"}},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        ],
        ids=str,
    )
    def test_what_is_seen_in_the_wild_is_given_back_exactly(self, given):
        assert parse_message(given).as_chat_message() == given

    def test_a_message_that_is_changed_after_it_was_parsed_stays_as_it_was_given(self):
        given = {"role": "user", "content": [{"type": "odd", "x": [1]}], "more": {"a": [1]}}
        message = parse_message(given)
        given["content"][0]["x"].append(2)
        given["more"]["a"].append(2)
        message.as_chat_message()["more"]["a"].append(3)
        assert message.as_chat_message() == {
            "role": "user",
            "content": [{"type": "odd", "x": [1]}],
            "more": {"a": [1]},
        }


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "saying"),
        [
            ({}, "unknown role None"),
            ({"role": "narrator", "content": "Once"}, "unknown role 'narrator'"),
            ({"role": "unknown", "content": "Once"}, "unknown role 'unknown'"),
            ({"role": "USER", "content": "Once"}, "unknown role 'USER'"),
            ({"role": 1, "content": "Once"}, "unknown role 1"),
            ({"role": ["user"], "content": "Once"}, "unknown role"),
            ({"role": "user"}, "has no content"),
            ({"role": "user", "content": None}, "has no content"),
            ({"role": "user", "content": None, "refusal": "I cannot."}, "has no content"),
            ({"role": "assistant", "content": None, "refusal": None}, "has no content"),
            ({"role": "assistant", "content": None, "tool_calls": []}, "has no content"),
            ({"role": "assistant", "tool_calls": None}, "has no content"),
            ({"role": "user", "content": []}, "content is list"),
            ({"role": "user", "content": ["Hi"]}, "content is list"),
            ({"role": "user", "content": {"type": "text"}}, "content is dict"),
            ({"role": "user", "content": 5}, "content is int"),
            ({"role": "user", "content": b"Hi"}, "content is bytes"),
            ({"role": "tool", "content": "42"}, "has no tool_call_id"),
            ({"role": "tool", "content": "42", "tool_call_id": ""}, "has no tool_call_id"),
            ({"role": "tool", "content": "42", "tool_call_id": 7}, "has no tool_call_id"),
            ({"role": "tool", "tool_call_id": "c1"}, "has no content"),
            ({"role": "user", "content": "Hi", "tool_call_id": "c1"}, "only role 'tool' answers a call"),
            ({"role": "assistant", "tool_calls": "c1"}, "tool_calls is str"),
            ({"role": "assistant", "tool_calls": {"id": "c1"}}, "tool_calls is dict"),
            ({"role": "assistant", "tool_calls": ["c1"]}, "a tool call has no id"),
            ({"role": "assistant", "tool_calls": [{"type": "function"}]}, "a tool call has no id"),
            ({"role": "assistant", "tool_calls": [CALL, {"id": None}]}, "a tool call has no id"),
            ({"role": "user", "content": "half \ud83d"}, "half a character"),
            ({"role": "user", "content": [{"type": "text", "text": "\udc99"}]}, "half a character"),
            ({"role": "user", "content": [{"type": "odd", "x": "\udc99"}]}, "half a character"),
            ({"role": "user", "content": "Hi", "name": "\udc99"}, "half a character"),
            ({"role": "tool", "content": "Hi", "tool_call_id": "\udc99"}, "half a character"),
            ({"role": "user", "content": "Hi", "x": float("nan")}, "cannot be stored as JSON"),
            ({"role": "user", "content": "Hi", "x": float("inf")}, "cannot be stored as JSON"),
            ({"role": "user", "content": "Hi", "x": object()}, "cannot be stored as JSON"),
            ({"role": "user", "content": "Hi", "x": {1, 2}}, "cannot be stored as JSON"),
            ({"role": "user", "content": [{"type": "odd", "x": b"1"}]}, "cannot be stored as JSON"),
        ],
    )
    def test_a_message_that_cannot_be_kept_is_refused_with_one_sentence(self, given, saying):
        with pytest.raises(InvalidMessage) as refused:
            parse_message(given)
        sentence = str(refused.value)
        assert saying in sentence
        assert "\n" not in sentence
        assert sentence.isprintable()
        sentence.encode()

    def test_a_message_that_contains_itself_is_refused(self):
        given = {"role": "user", "content": "Hi"}
        given["self"] = given
        with pytest.raises(InvalidMessage, match="cannot be stored as JSON"):
            parse_message(given)

    @pytest.mark.usefixtures("no_finalizers")
    def test_a_message_nested_without_end_is_refused(self):
        nested = []
        for _ in range(100_000):
            nested = [nested]
        with pytest.raises(InvalidMessage, match="cannot be stored as JSON"):
            parse_message({"role": "user", "content": "Hi", "x": nested})

    @pytest.mark.parametrize("character", ["x", "é", "💙"])
    def test_a_message_over_the_limit_of_bytes_is_refused(self, character):
        size = limits.MESSAGE_BYTES_MAX // len(character.encode()) + 1
        with pytest.raises(InvalidMessage, match=r"over the limit of 8,388,608 bytes.*split it"):
            text_message("user", character * size)

    def test_the_largest_message_is_taken(self):
        around = len('{"role":"user","content":""}')
        largest = "x" * (limits.MESSAGE_BYTES_MAX - around)
        assert text_message("user", largest).text == largest
        with pytest.raises(InvalidMessage, match="over the limit"):
            text_message("user", largest + "x")

    def test_an_oversized_key_of_its_own_counts_too(self):
        with pytest.raises(InvalidMessage, match="over the limit"):
            parse_message({"role": "user", "content": "Hi", "blob": "x" * limits.MESSAGE_BYTES_MAX})


class TestValues:
    def test_the_text_of_parts_is_joined_by_blank_lines_and_the_rest_left_out(self):
        parts = [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "https://x/y"}},
            {"type": "text", "text": "this"},
        ]
        assert parse_message({"role": "user", "content": parts}).text == "See\n\nthis"

    def test_a_message_without_content_has_no_text(self):
        assert parse_message({"role": "assistant", "tool_calls": [CALL]}).text == ""

    def test_the_total_of_usage_is_counted(self):
        assert Usage(10, 3).as_json() == {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}

    @pytest.mark.parametrize("value", ["narrator", "", None, 5, []])
    def test_an_unknown_role_or_source_reads_as_unknown(self, value):
        assert Role(value) is Role.UNKNOWN
        assert Source(value) is Source.UNKNOWN

    def test_a_journaled_message_shows_the_keys_of_the_contract(self):
        call = parse_message({"role": "assistant", "content": None, "tool_calls": [CALL]})
        at = from_iso("2026-11-22T12:00:00Z")
        assert JournaledMessage(call, "m1", 7, at, "x1", "r1", Source.RUN).as_json() == {
            "message_id": "m1",
            "version": 7,
            "at": "2026-11-22T12:00:00.000000Z",
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL],
            "tool_call_id": None,
            "exchange_id": "x1",
            "run_id": "r1",
            "source": "run",
            "written_at": None,
        }

    def test_a_message_is_a_value(self):
        assert text_message("user", "Hi") == Message(Role.USER, "Hi")
        assert len({text_message("user", "Hi"), text_message("user", "Hi")}) == 1


def test_a_message_stored_without_content_key_and_one_with_null_stay_apart(log):
    without = fact(e.MessageJournaled, message_id="m1", role="assistant", content=[], tool_calls=[CALL])
    null = fact(e.MessageJournaled, message_id="m2", role="assistant", content=None, tool_calls=[CALL])
    shown = [each.message.as_chat_message() for each in fold_memory(log(without, null)).messages]
    assert ["content" in message for message in shown] == [False, True]
