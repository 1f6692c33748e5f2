"""Claude's data export: its messages, their blocks, and the branch that is current."""

from __future__ import annotations

import pytest

from .importing import end, imported, memory, said, written

ROOT = "00000000-0000-4000-8000-000000000000"


def message(number, sender="human", text="", **more):
    return {"uuid": f"m{number}", "sender": sender, "text": text, "created_at": f"2026-01-05T03:32:1{number}.5Z",
            "content": [{"type": "text", "text": text, "citations": []}] if text else [], **more}  # fmt: skip


def conversation(*messages, **more):
    return {
        "uuid": "c-1",
        "name": "A talk",
        "created_at": "2026-01-05T03:32:10Z",
        "chat_messages": list(messages),
        **more,
    }


TALK = (message(1, text="hi"), message(2, "assistant", "hello"))


def test_the_messages_are_imported_with_their_times_and_ids(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "c.json", [conversation(*TALK)])
    (outcome,) = imported(ledger, path)
    assert (outcome["key"], outcome["state"], outcome["left_out"]) == ("c-1", "imported", {})
    assert memory(ledger, "c-1") == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    started, first, _ = ledger.journal.history("c-1")
    assert started.metadata == {"name": "A talk", "created_at": "2026-01-05T03:32:10Z"}
    assert first.written_at == "2026-01-05T03:32:11.500000Z"
    assert first.origin == {"message_id": "m1", "thread_id": "c-1", "created_at": "2026-01-05T03:32:11.5Z"}
    before = end(ledger)
    assert imported(ledger, path)[0]["state"] == "unchanged"
    assert end(ledger) == before


def test_calls_of_tools_and_their_results_are_messages_in_their_order(open_store, tmp_path):
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "found"}]},
        {"type": "text", "text": "There it is."},
    ]
    ledger = open_store()
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [conversation(message(1, "assistant", content=blocks))]))
    assert (outcome["messages"], outcome["left_out"]) == (3, {"reasoning": 1})
    assert said(ledger, "c-1") == [("assistant", "Let me look."), ("tool", "found"), ("assistant", "There it is.")]
    asked, result, _ = memory(ledger, "c-1")
    assert asked["tool_calls"] == [
        {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    ]
    assert result["tool_call_id"] == "t1"


def test_the_text_of_an_attachment_is_part_of_the_message_and_a_file_is_named(open_store, tmp_path):
    attachment = {"file_name": "a.txt", "extracted_content": "the content"}
    ledger = open_store()
    given = message(1, text="see", attachments=[attachment], files=[{"file_name": "b.png"}])
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [conversation(given)]))
    assert outcome["left_out"] == {"attachments_as_text": 1, "files_by_name": 1}
    assert said(ledger, "c-1") == [("user", "see\n\n[attachment a.txt]\nthe content")]
    assert list(ledger.journal.history("c-1"))[-1].origin["files"] == [{"file_name": "b.png"}]


@pytest.mark.parametrize(("current", "last"), [("m2", "hello"), ("m3", "better"), (None, "better")])
def test_the_branch_of_the_current_message_is_imported_and_the_others_are_counted(open_store, tmp_path, current, last):
    first = TALK[0] | {"parent_message_uuid": ROOT}
    answers = [each | {"parent_message_uuid": "m1"} for each in (TALK[1], message(3, "assistant", "better"))]
    ledger = open_store()
    exported = conversation(first, *answers) | ({"current_leaf_message_uuid": current} if current else {})
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [exported]))
    guessed = {} if current else {"guessed_branches": 1}
    assert outcome["left_out"] == {"messages_on_other_branches": 1} | guessed
    assert said(ledger, "c-1") == [("user", "hi"), ("assistant", last)]


def test_a_damaged_message_is_counted_and_the_others_are_imported(open_store, tmp_path):
    damaged = [7, message(4) | {"uuid": None}, message(5, "robot", "x"), message(2, text="twice"), message(6)]
    ledger = open_store()
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [conversation(*TALK, *damaged)]))
    assert outcome["left_out"] == {"unreadable_messages": 4, "empty_messages": 1}
    assert said(ledger, "c-1") == [("user", "hi"), ("assistant", "hello")]


def test_what_is_no_conversation_is_refused_with_a_sentence(open_store, tmp_path):
    path = written(tmp_path / "c.json", [conversation(*TALK), 7, conversation(message(1, "robot", "x"), uuid="c-2")])
    found = sorted(imported(open_store(), path), key=lambda outcome: outcome["line"])
    assert [each["state"] for each in found] == ["imported", "failed", "failed"]
    assert 'no list "chat_messages"' in found[1]["reason"]
    assert "message 1: unknown role 'robot'" in found[2]["reason"]
