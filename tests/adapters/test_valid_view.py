"""Prove that no memory makes a provider refuse a request: the poison corpus, and any other history that can be stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from threadledger.adapters.anthropic import request_of
from threadledger.adapters.openai import AssistantsThreads, Client, ConversationThreads
from threadledger.adapters.simulator.ids import SeededIds
from threadledger.adapters.wire import ApiError, bodies, items, messages_api
from threadledger.domain.conversation.messages import JournaledMessage
from threadledger.domain.memory import Memory

from .poison import AUDIO, HELLO, POISONED, Stored, call, calling, said

NO_CLIENT = Client()
AT = datetime(2026, 11, 29, tzinfo=UTC)


def memory_of(stored: Sequence[Stored]) -> Memory:
    return Memory(
        tuple(JournaledMessage.stored({"message_id": f"m{n}", **each}, n, AT) for n, each in enumerate(stored, 1)),
        len(stored),
    )


def sent_to_chat(memory: Memory) -> None:
    messages = memory.as_chat_messages()
    if messages:
        bodies.chat_messages({"messages": messages})


def sent_to_responses(memory: Memory) -> None:
    items.require_paired_calls(
        bodies.response_input({"input": memory.as_response_items()}, SeededIds(0), has_context=False)
    )


def sent_to_a_conversation(memory: Memory) -> None:
    payloads = [dict(item.payload) for item in ConversationThreads(NO_CLIENT).render(memory, "conv_1").items]
    batches = [payloads[start : start + 20] for start in range(0, len(payloads), 20)]
    items.require_paired_calls([each for batch in batches for each in bodies.conversation_items(batch, SeededIds(0))])


def sent_to_an_assistants_thread(memory: Memory) -> None:
    for item in AssistantsThreads(NO_CLIENT).render(memory, "thread_1").items:
        body = {"role": item.name, "content": item.payload.get("content", item.content)}
        bodies.message_role(body)
        bodies.message_content(body)


def sent_to_anthropic(memory: Memory) -> None:
    body = {"model": "claude", "max_tokens": 1} | request_of(memory.as_chat_messages())
    messages_api.check_request(json.loads(json.dumps(body, allow_nan=False)))


BACKENDS: Mapping[str, Callable[[Memory], None]] = {
    "chat": sent_to_chat,
    "responses": sent_to_responses,
    "conversations": sent_to_a_conversation,
    "assistants": sent_to_an_assistants_thread,
    "anthropic": sent_to_anthropic,
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_accepts_every_poisoned_history(backend: str) -> None:
    refused = {}
    for name, stored in POISONED.items():
        try:
            BACKENDS[backend](memory_of([*stored, HELLO]))
        except (ApiError, AssertionError) as error:
            refused[name] = str(error)
    assert refused == {}
    assert len(POISONED) > 30


def test_the_poison_is_refused_where_it_is_sent_as_it_was_said() -> None:
    """The property would hold of a server that accepts everything."""
    refused = set()
    for name, stored in POISONED.items():
        raw = [message.as_chat_message() for message in memory_of([*stored, HELLO]).shown()]
        try:
            bodies.chat_messages({"messages": raw})
        except ApiError:
            refused.add(name)
    assert len(refused) > len(POISONED) / 2
    assert {"arguments broken off", "arguments are a list", "a name with a dot", "two calls with one id"} <= refused


# Any history

texts = st.sampled_from(["", " ", "Hi", "語", "a\0b", "\u2028"]) | st.text(st.characters(codec="utf-8"), max_size=8)
ids = st.sampled_from(["", "a", "b", "call_1", "x.y", "c" * 41, "c" * 70]) | texts
names = st.sampled_from(["f", "g.h", "g/h", "f" * 65, ""]) | texts
scalars = st.none() | st.booleans() | st.integers(-9, 9) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
arguments = st.sampled_from(
    ["", "{}", '{"a": 1}', "[1]", '{"a": ', "null", '"x"', '{"a": NaN}', '{"a": [-1e400]}', '{"a": "\\ud800"}']
)
addresses = st.sampled_from(["https://x.test/a.png", "data:image/png;base64,AA", "file-service://f", "", "u"])
inner_parts = st.fixed_dictionaries(
    {},
    optional={
        "url": addresses, "detail": st.sampled_from(["low", "ultra", 1]), "file_id": ids, "file_data": texts,
        "filename": texts, "data": texts, "format": st.sampled_from(["wav", "ogg"]), "text": texts, "transcript": texts,
    },
)  # fmt: skip
kinds = st.sampled_from(
    [
        *(
            "text",
            "image_url",
            "input_audio",
            "file",
            "refusal",
            "input_text",
            "output_text",
            "input_image",
            "input_file",
        ),
        *("image", "image_file", "tool_use", "tool_result", "thinking", "tether_quote", "unknown", 7, None, ""),
    ]
)


@st.composite
def parts(draw: Any) -> dict[str, Any]:
    kind = draw(kinds)
    part = {"type": kind, "text": draw(texts | values), str(kind): draw(inner_parts | addresses | values)}
    left_out = draw(st.sampled_from(["type", "text", str(kind), "", ""]))
    return {name: value for name, value in part.items() if name != left_out}


contents = st.none() | texts | texts | st.lists(parts(), max_size=3)
loose_calls = st.fixed_dictionaries(
    {},
    optional={
        "id": ids | values,
        "type": kinds | values,
        "function": st.fixed_dictionaries({}, optional={"name": names | values, "arguments": arguments | values}) | values,
        "custom": st.fixed_dictionaries({"name": names, "input": texts}),
    },
)  # fmt: skip
usual_calls = st.builds(call, arguments | texts, names, ids)
extras = st.fixed_dictionaries(
    {},
    optional={
        "name": names | values,
        "refusal": texts | values,
        "audio": st.just(AUDIO) | values,
        "function_call": st.fixed_dictionaries({"name": names, "arguments": arguments | values}) | values,
        "reasoning_content": values,
    },
)


def message(role: str, content: Any, call_id: str | None, extra: dict[str, Any]) -> Stored:
    made: dict[str, Any] = {"role": role, "content": content}
    return made | ({"tool_call_id": call_id} if role == "tool" else {}) | ({"extra": extra} if extra else {})


histories = st.lists(
    st.one_of(
        st.builds(said, st.sampled_from(["user", "assistant", "system"]), texts),
        st.builds(
            message,
            st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "critic"]),
            contents,
            ids,
            extras,
        ),
        st.builds(lambda calls, content: calling(*calls, content=content), st.lists(usual_calls, max_size=3), contents),
        st.builds(lambda calls: calling(*calls), st.lists(loose_calls | values, max_size=3)),
        st.builds(lambda call_id: message("tool", "12", call_id, {}), ids),
    ),
    max_size=6,
)


@given(histories)
def test_a_valid_view_is_not_changed_again(stored: Sequence[Stored]) -> None:
    messages = memory_of(stored).as_chat_messages()
    again = memory_of(
        [
            {name: value for name, value in each.items() if name != "name"}
            | ({"extra": {"name": each["name"]}} if "name" in each else {})
            for each in messages
        ]
    )
    assert again.as_chat_messages() == messages


def every_message(memory: Memory) -> Iterator[dict[str, Any]]:
    yield from (each.message.as_chat_message() for each in memory.messages)


@given(histories)
def test_every_backend_accepts_every_history_that_can_be_stored_and_changes_no_data(stored: Sequence[Stored]) -> None:
    memory, untouched = memory_of(stored), memory_of(stored)
    for backend, accepted in BACKENDS.items():
        note(backend)
        accepted(memory)
    assert list(every_message(memory)) == list(every_message(untouched))
    assert memory.digest() == untouched.digest()
