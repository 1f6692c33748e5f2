"""The reader of what models say: items of Responses, messages of Chat Completions, Anthropic's blocks."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters.anthropic import MessagesFold, read_message, request_of
from threadledger.adapters.openai import Context
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.items import block_message, chat_answer, is_aside, output_messages
from threadledger.domain.conversation.messages import JournaledMessage, Message, Role
from threadledger.domain.conversation.native import (
    NATIVE_BYTES_MAX,
    at_place,
    is_native,
    items_in,
    native_of,
    with_texts_kept,
)
from threadledger.domain.conversation.parts import Image, Text
from threadledger.domain.journal.blobs import Blob
from threadledger.domain.memory import Memory

CONTEXT = Context("anthropic", "POST /v1/messages", reader=read_message, fold=MessagesFold)
THINKING = {"type": "thinking", "thinking": "Weather?", "signature": "c2ln"}
BLOCKS = [
    THINKING,
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}},
]


def read(output: Any) -> tuple[list[Message], Counter[str]]:
    lost: Counter[str] = Counter()
    return list(output_messages(output, lost)), lost


def spoken(*texts: str) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": each} for each in texts],
    }


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{name}", "name": name, "arguments": "{}"}


@pytest.mark.parametrize(
    ("output", "texts", "calls"),
    [
        ([spoken("a")], ["a"], []),
        ([spoken("a", "b")], ["ab"], []),
        ([spoken("a"), spoken("b")], ["a", "b"], []),
        ([spoken("a"), call("f"), call("g")], ["a"], ["f", "g"]),
        ([call("f"), spoken("a"), spoken("b"), call("g")], ["a", "b"], ["f", "g"]),
        ([call("f")], [""], ["f"]),
        ([spoken(""), spoken("b")], ["b"], []),
        ([], [""], []),
        (None, [""], []),
        ([{"content": "old"}, "stray", 7], ["old"], []),
    ],
)
def test_each_message_is_one_and_calls_belong_to_the_last(output: Any, texts: list[str], calls: list[str]) -> None:
    messages, lost = read(output)
    assert [each.text for each in messages] == texts
    assert [each.name for each in messages[-1].calls()] == calls
    assert all(not each.native_json for each in messages)
    assert not lost


def test_places_of_citations_count_from_the_beginning_of_the_message() -> None:
    cited = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://a.example", "title": "A"}
    first, second = (
        {"type": "output_text", "text": "One. "},
        {"type": "output_text", "text": "Two.", "annotations": [cited]},
    )
    [message], _ = read([{"type": "message", "content": [first, second]}])
    assert isinstance(message.content, tuple)
    [part] = message.content
    assert part.as_json() == {
        "type": "text",
        "text": "One. Two.",
        "annotations": [cited | {"start_index": 5, "end_index": 7}],
    }


def test_fields_of_a_message_that_the_content_lacks_are_kept() -> None:
    part = {"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": [{"token": "Hi", "logprob": -0.5}]}
    [message], _ = read([{"type": "message", "content": [part, {"type": "output_audio", "data": "AAAA"}]}])
    [stub] = message.native()["items"]
    assert stub["content"] == [
        {"type": "output_text", "logprobs": [{"token": "Hi", "logprob": -0.5}]},
        {"type": "output_audio", "data": "AAAA"},
    ]
    assert message.text == "Hi."


def test_reasoning_images_and_audio_of_chat_are_kept() -> None:
    said = {
        "content": "Here.",
        "reasoning_content": "Hm.",
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
        "audio": {"id": "audio_1", "data": "AAAA", "transcript": "Here."},
    }
    message = chat_answer({"role": "assistant", **said}, Counter())
    assert isinstance(message.content, tuple)
    assert [is_aside(part) for part in message.content] == [True, False, False]
    assert isinstance(message.content[2], Image)
    [kept] = message.native()["items"]
    assert kept["audio"] == said["audio"]
    spoken = chat_answer({"content": None, "audio": said["audio"]}, Counter())
    assert spoken.content == "Here."


def test_a_citation_of_anthropic_says_where_it_is() -> None:
    cited = {"type": "web_search_result_location", "cited_text": "x", "url": "https://a.example"}
    blocks = [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two.", "citations": [cited]}]
    message = block_message(blocks, Counter())
    assert message.content == (Text("One. Two.", message.content[0].annotations_json),)  # type: ignore[index, union-attr] # a text
    (part,) = message.content or ()
    assert isinstance(part, Text)
    assert json.loads(part.annotations_json) == [cited | {"start_index": 5, "end_index": 9}]


def streamed(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {}}}]
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            begin, deltas = (
                {"type": "text", "text": ""},
                [{"type": "text_delta", "text": each} for each in block["text"]],
            )
            deltas += [{"type": "citations_delta", "citation": each} for each in block.get("citations", ())]
        elif block["type"] == "thinking":
            begin = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": each} for each in block["thinking"]]
            deltas += [{"type": "signature_delta", "signature": block["signature"]}]
        elif "input" in block:
            begin = block | {"input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        else:
            begin, deltas = block, []
        events.append({"type": "content_block_start", "index": index, "content_block": begin})
        events += [{"type": "content_block_delta", "index": index, "delta": each} for each in deltas]
    events += [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}, {"type": "message_stop"}]
    return events


def test_a_stream_of_anthropic_gives_the_same_message_as_a_whole_answer() -> None:
    search = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "parcel"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"encrypted_content": "x"}]}
    cited = {"type": "text", "text": "In Bern.", "citations": [{"type": "char_location", "cited_text": "Bern"}]}
    blocks = [THINKING, search, found, cited, BLOCKS[2]]
    fold = MessagesFold(CONTEXT)
    for each in streamed(blocks):
        fold.take(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode())
    whole = read_message({"id": "msg_1", "model": "m", "stop_reason": "end_turn", "content": blocks}, CONTEXT)
    assert isinstance(fold.seen.outcome, Completion)
    assert isinstance(whole.outcome, Completion)
    [message], [other] = fold.seen.outcome.messages, whole.outcome.messages
    assert message == other
    assert [part.as_json()["type"] for part in message.content or () if not isinstance(part, str)] == [
        "reasoning",
        "hosted_call",
        "text",
    ]
    assert [item["type"] for item in message.native()["items"]] == [
        "thinking",
        "server_tool_use",
        "web_search_tool_result",
        "text",
        "tool_use",
    ]


def journaled(*messages: Message) -> Memory:
    now = datetime.now(UTC)
    return Memory(tuple(JournaledMessage(each, f"m{at}", at + 2, now) for at, each in enumerate(messages)), 9)


def test_thinking_comes_back_in_its_place_while_tools_are_used_and_nowhere_else() -> None:
    said = at_place(block_message(BLOCKS, Counter()), "https://api.anthropic.com")
    result = Message(Role.TOOL, "sunny", tool_call_id="toolu_1")
    question = Message(Role.USER, "Weather?")
    memory = journaled(question, said, result)
    entries = memory.chat_entries("anthropic", "https://api.anthropic.com")
    [_, turn, _] = request_of(entries)["messages"]
    assert turn["content"] == BLOCKS
    for elsewhere in (
        memory.chat_entries("anthropic", "https://proxy.example"),
        memory.chat_entries(),
        journaled(question, said, result, question).chat_entries("anthropic", "https://api.anthropic.com"),
    ):
        assert all("native" not in each for each in elsewhere)
        assert THINKING not in request_of(elsewhere)["messages"][1]["content"]


def test_reasoning_without_what_it_led_to_is_not_sent() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x", "status": None}
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    sent = {name: value for name, value in reasoning.items() if value is not None}
    for output, expected in [
        ([reasoning, call("f")], [sent, "function_call"]),
        ([spoken("a"), reasoning, call("f")], ["message", sent, "function_call"]),
        ([reasoning, search, call("f")], ["function_call"]),
        ([call("f"), reasoning], ["function_call"]),
        ([reasoning | {"encrypted_content": None}, call("f")], ["function_call"]),
    ]:
        [message], _ = read(output)
        result = Message(Role.TOOL, "1", tool_call_id="call_f")
        memory = journaled(Message(Role.USER, "?"), at_place(message, "here"), result)
        items = memory.response_entries("here")[1:-1]
        assert [each if each["type"] == "reasoning" else each["type"] for each in items] == expected


class Blobs:
    """Blobs in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def keep(self, chunks: Any) -> Blob:
        data = b"".join(chunks)
        address = f"sha256:{len(self.stored):064x}"
        self.stored[address] = data
        return Blob(address, len(data))

    def read(self, address: str) -> list[bytes]:
        return [self.stored[address]]


LONG = st.sampled_from(["x" * 5_000, "é" * 5_000, "QUJD" * 2_000, "QUJD" * 2_000 + "QQ==", "QUJD" * 2_000 + "QQ"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | LONG,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ITEM = st.dictionaries(st.sampled_from(["type", "id", "content", "threadledger_blob", "encoding"]), VALUES, max_size=4)


@given(st.lists(ITEM, min_size=1, max_size=4))
def test_items_come_back_equal_or_are_counted(items: list[dict[str, Any]]) -> None:
    blobs, lost = Blobs(), Counter[str]()
    text = at_place(Message(Role.ASSISTANT, native_json=native_of("responses", items, lost)), "here").native_json
    kept = with_texts_kept(text, blobs.keep)
    assert len(kept.encode()) <= NATIVE_BYTES_MAX
    assert is_native(json.loads(kept))
    restored = items_in(kept, "responses", "here", blobs.read)
    assert len(restored) == len(items)
    different = [item for item, back in zip(items, restored, strict=True) if item != back]
    assert len(different) == lost.total() == sum("threadledger_blob" in json.dumps(item) for item in items)


@given(st.lists(VALUES | ITEM, max_size=4))
def test_odd_values_never_cost_an_answer(output: list[Any]) -> None:
    said = [*output, spoken("Hi.")]
    assert read(said)[0][-1].text.endswith("Hi.")
    assert (
        chat_answer({"content": "Hi.", "annotations": output, "images": output, "audio": output}, Counter()).text
        == "Hi."
    )
    assert block_message(said, Counter()).native_json is not None
