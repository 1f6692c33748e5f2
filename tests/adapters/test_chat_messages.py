"""What Chat Completions has a place for, and what is left out of a request though the journal keeps it."""

from __future__ import annotations

import pytest

from threadledger.adapters.openai.chat import acceptable


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "hi", "name": "eva"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}], "refusal": None},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    ],
)
def test_what_the_api_knows_is_sent_as_it_is(message):
    assert acceptable(message) == message


def test_fields_that_the_api_does_not_know_are_left_out():
    assert acceptable({"role": "user", "content": "hi", "annotations": [1], "attachments": [2]}) == {
        "role": "user",
        "content": "hi",
    }


@pytest.mark.parametrize(("role", "kind"), [("user", "image_file"), ("assistant", "image_url"), ("system", "file")])
def test_a_part_that_the_role_may_not_have_becomes_words_that_say_so(role, kind):
    told = acceptable({"role": role, "content": [{"type": "text", "text": "a"}, {"type": kind, kind: {}}]})
    assert told["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": f"[{kind} not shown]"}]


def test_an_imported_message_with_foreign_fields_is_kept_whole_and_sent_without_them(open_ledger, simulator):
    ledger = open_ledger(backends=("chat",), threads="none")
    chat = ledger.conversation("k")
    chat.append("user", "Look.", attachments=[{"file_id": "file-1"}])
    chat.ask("And?")
    (asked,) = [request.body for request in simulator.requests if request.template == "POST /chat/completions"]
    assert [set(message) for message in asked["messages"] if message["role"] == "user"] == [{"role", "content"}] * 2
    assert chat.memory().as_chat_messages()[0]["attachments"] == [{"file_id": "file-1"}]
