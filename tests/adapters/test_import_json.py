"""Values of a JSON file one after the other, and what is made of values that nobody would write."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters.formats import Imported, json_values
from threadledger.adapters.formats.chatgpt import conversation_of as chatgpt_conversation
from threadledger.adapters.formats.items import ItemReader
from threadledger.adapters.formats.reading import RULES, Found, MessageReader, SourcePlace
from threadledger.adapters.formats.threads import conversation_of, threads_of
from threadledger.domain.errors import InvalidInput

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\{}[],:\n\ud7ff語') | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def texts(content, chunk=7):
    """(number, text or what went wrong) of each value, read in small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "CHUNK_BYTES", chunk)
        return [(number, text if isinstance(text, bytes) else str(text))
                for number, text in json_values.values_of(io.BytesIO(content))]  # fmt: skip


@given(st.lists(JSON, max_size=5), st.sampled_from([None, 0, 1, 4]), st.integers(1, 40), st.booleans())
def test_the_elements_of_an_array_are_told_apart_however_it_is_written(values, indent, chunk, as_ascii):
    content = json.dumps(values, indent=indent, ensure_ascii=as_ascii).encode()
    found = texts(content, chunk)
    assert [json.loads(text) for _, text in found] == values
    assert [number for number, _ in found] == list(range(1, len(values) + 1))


@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), min_size=2, max_size=5))
def test_lines_are_told_by_their_numbers(values):
    content = b"\n\n".join(json.dumps(value).encode() for value in values)
    found = texts(content)
    assert [json.loads(text) for _, text in found] == values
    assert [number for number, _ in found] == list(range(1, 2 * len(values), 2))


@given(st.dictionaries(st.text(min_size=1, max_size=3), JSON, min_size=1, max_size=3), st.integers(1, 40))
def test_one_object_over_several_lines_is_one_value(value, chunk):
    ((number, text),) = texts(json.dumps(value, indent=2).encode(), chunk)
    assert (number, json.loads(text)) == (1, value)


def test_a_bad_element_ends_where_its_brackets_do():
    content = b'[{"a": "\xff]}"}, {"b": nonsense}, {"c": "\\"]"}, 7 8, {"d": 1}]'
    assert [text for _, text in texts(content)] == [
        b'{"a": "\xff]}"}', b'{"b": nonsense}', b'{"c": "\\"]"}', b"7 8", b'{"d": 1}']  # fmt: skip


def test_what_comes_behind_the_array_is_told():
    assert texts(b'[{"a": 1}] tail') == [(1, b'{"a": 1}'), (2, b"tail")]


@pytest.mark.parametrize("cut", ['[{"a": 1}', '[{"a": 1},', '[{"a": 1}, '])
def test_an_array_without_its_end_is_told(cut):
    (first, last) = texts(cut.encode())
    assert (first, last[0], "ends inside its array, after 1 complete" in last[1]) == ((1, b'{"a": 1}'), 2, True)


def told(outcome):
    """A conversation, or one sentence."""
    assert isinstance(outcome, Found) or (
        isinstance(outcome, Imported) and outcome.reason and "\n" not in outcome.reason
    )


WORDS = st.sampled_from([
    "id", "thread_id", "messages", "data", "object", "thread.message", "role", "user", "tool", "content", "type", "text",
    "value", "annotations", "image_url", "url", "metadata", "created_at", "run_id", "run_steps", "steps", "tool_calls",
    "step_details", "function", "name", "arguments", "output", "runs", "items", "message_creation", "message_id", "order",
    "mapping", "current_node", "parent", "author", "parts", "content_type", "code", "recipient", "call_id", "function_call",
])  # fmt: skip
MEANT = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | WORDS | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=25,
)


@given(MEANT)
def test_whatever_stands_where_a_thread_should_is_a_conversation_or_one_sentence(value):
    try:
        threads = threads_of(value, 1)
    except InvalidInput:
        return
    for thread in threads:
        told(conversation_of(thread))


@given(st.lists(MEANT, max_size=4), st.lists(MEANT, max_size=4))
def test_whatever_stands_among_its_messages_and_steps_too(contents, details):
    messages = [{"id": f"m{n}", "role": "user", "run_id": "r", "content": each} for n, each in enumerate(contents)]
    steps = [
        {"id": f"s{n}", "type": "tool_calls", "run_id": "r", "step_details": each} for n, each in enumerate(details)
    ]
    for thread in threads_of({"thread_id": "t", "messages": messages, "run_steps": steps}, 1):
        told(conversation_of(thread))


@given(MEANT, st.lists(MEANT, max_size=3))
def test_whatever_stands_where_a_chatgpt_conversation_should_is_one_or_one_sentence(value, messages):
    told(chatgpt_conversation(value, 1, "f:1"))
    nodes = {str(n): {"message": each, "parent": str(n - 1) if n else None} for n, each in enumerate(messages)}
    told(chatgpt_conversation({"id": "c", "mapping": nodes, "current_node": str(len(messages) - 1)}, 1, "f:1"))
    said = [{"author": {"role": "tool"}, "content": each, "recipient": each, "metadata": each} for each in messages]
    nodes = {str(n): {"message": each, "parent": str(n - 1) if n else None} for n, each in enumerate(said)}
    told(chatgpt_conversation({"id": "c", "mapping": nodes, "current_node": str(len(messages) - 1)}, 1, "f:1"))


@given(MEANT)
def test_whatever_stands_where_an_item_should_is_a_message_or_one_sentence(value):
    for rule in RULES:
        reader = MessageReader(rule=rule)
        items = ItemReader(reader)
        items.read(value, SourcePlace("1", "row 1"))
        items.end()
        assert reader.entries or reader.left_out
