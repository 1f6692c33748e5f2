"""Prove what a valid view shows: what providers accept stays as it is, and everything else is shown in a form they accept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters.openai import ConversationThreads
from threadledger.domain.memory import original_name, valid_arguments, valid_name

from .poison import POISONED, call, calling, result, said, shown
from .test_valid_view import NO_CLIENT, memory_of

PICTURE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}


def view(*stored: Any) -> list[dict[str, Any]]:
    return memory_of(stored).as_chat_messages()


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
    ],
)
def test_what_the_api_knows_is_sent_as_it_is(message: dict[str, Any]) -> None:
    assert view(message) == [message]


def test_a_name_is_kept_and_other_fields_are_left_out() -> None:
    assert view(said("user", "hi", name="eva", annotations=[1])) == [{"role": "user", "content": "hi", "name": "eva"}]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("a spoken answer", "spoken words"),
        ("spoken words of a phone", "spoken words"),
        ("a page that was read", "the text of the page"),
        ("only a refusal", "I cannot do that."),
        ("a spoken answer without words", "[audio not shown]"),
        ("an image file", "[file file-1]"),
        ("an image of an assistant", "[image https://x.test/a.png]"),
        ("a part without type", "[content not shown]"),
    ],
)
def test_what_can_be_said_in_words_is_said(case: str, words: str) -> None:
    (message,) = view(*POISONED[case])
    content = message["content"]
    assert (content if isinstance(content, str) else content[0]["text"]) == words


def test_an_image_of_another_dialect_is_shown_in_the_dialect_of_the_backend() -> None:
    memory = memory_of(POISONED["an image as a string"])
    assert memory.as_chat_messages()[0]["content"][0]["image_url"] == {"url": "https://x.test/a.png"}
    assert memory.as_response_items()[0]["content"][0]["image_url"] == "https://x.test/a.png"


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ('{"a":  1}', '{"a":  1}'),
        ("", "{}"),
        ("null", "{}"),
        (None, "{}"),
        ({"a": 1}, '{"a": 1}'),
        ('{"value": ', '{"unparsed_arguments": "{\\"value\\": "}'),
        ("[1]", '{"unparsed_arguments": "[1]"}'),
    ],
)
def test_arguments_are_an_object_and_nothing_of_them_is_lost(given_text: object, kept: str) -> None:
    assert valid_arguments(given_text) == kept


@given(
    st.text() | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_any_arguments_are_the_text_of_an_object_and_the_same_when_read_back(arguments: object) -> None:
    text = valid_arguments(arguments)
    assert isinstance(json.loads(text.encode()), dict)
    assert valid_arguments(text) == text


@given(st.lists(st.text(), unique=True))
def test_different_names_stay_different_and_lead_back_to_their_functions(names: list[str]) -> None:
    made = [valid_name(name) for name in names]
    assert len({*made}) == len(names)
    assert [original_name(name, names) for name in made] == names
    assert [valid_name(name) for name in made] == made


def test_a_call_that_a_model_made_in_a_conversation_is_compared_as_memory_shows_it() -> None:
    from threadledger.adapters.openai.threads import _read_item

    item = {"type": "function_call", "call_id": "call_1", **call("[1]", "multi_tool_use.parallel")["function"]}
    stored = [calling(call("[1]", "multi_tool_use.parallel")), result()]
    assert _read_item(item) == ConversationThreads(NO_CLIENT).render(memory_of(stored)).items[0]


def test_a_picture_and_a_file_count_in_the_budget() -> None:
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 600_000}}
    paper = {"type": "file", "file": {"filename": "a.pdf", "file_data": "A" * 600_000}}
    for part in (data, paper, PICTURE):
        memory = memory_of([*shown(part), said("user", "What is it?")])
        assert memory.window(tokens=60).as_chat_messages() == [{"role": "user", "content": "What is it?"}]
        assert memory.estimated_tokens() > 80
    assert memory_of(shown(PICTURE)).estimated_tokens() < memory_of(shown(data)).estimated_tokens()


def test_an_imported_message_with_foreign_fields_is_kept_whole_and_sent_without_them(
    open_ledger: Any, simulator: Any
) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    chat = ledger.conversation("k")
    chat.append("user", "Look.", attachments=[{"file_id": "file-1"}])
    chat.ask("And?")
    (asked,) = [request.body for request in simulator.requests if request.template == "POST /chat/completions"]
    assert [set(message) for message in asked["messages"] if message["role"] == "user"] == [{"role", "content"}] * 2
    assert chat.memory().messages[0].message.extra()["attachments"] == [{"file_id": "file-1"}]
