"""Dumps of Assistants threads, in the shapes in which the API and scripts around it give them."""

from __future__ import annotations

import json

import pytest

from .importing import end, imported, memory, said, states, written

KEY = "threadledger_key"


def message(number, role="user", text=None, *, thread="thread_a", at=None, content=None, **more):
    """As the description of the API has it (MessageObject)."""
    parts = [{"type": "text", "text": {"value": text or f"text {number}", "annotations": []}}]
    return {
        "id": f"msg_{number}", "object": "thread.message", "created_at": 1_700_000_000 + (number if at is None else at),
        "thread_id": thread, "status": "completed", "incomplete_details": None, "completed_at": None, "incomplete_at": None,
        "role": role, "content": parts if content is None else content, "assistant_id": None, "run_id": None,
        "attachments": [], "metadata": {}, **more,
    }  # fmt: skip


def step(number, run="run_1", calls=(), message_id=None, at=0):
    """As the description of the API has it (RunStepObject)."""
    details = (
        {"type": "message_creation", "message_creation": {"message_id": message_id}}
        if message_id
        else {"type": "tool_calls", "tool_calls": list(calls)}
    )
    return {"id": f"step_{number}", "object": "thread.run.step", "created_at": 1_700_000_000 + at, "run_id": run,
            "thread_id": "thread_a", "type": details["type"], "status": "completed", "step_details": details}  # fmt: skip


def page(*messages, **more):
    """What GET /threads/{thread_id}/messages answers."""
    return {"object": "list", "data": list(messages), "first_id": "x", "last_id": "y", "has_more": False, **more}


TALK = [message(1, "user", "hi"), message(2, "assistant", "hello"), message(3, "user", "and?")]
SAID = [("user", "hi"), ("assistant", "hello"), ("user", "and?")]


@pytest.mark.parametrize(
    "dump",
    [
        page(*reversed(TALK)),
        page(*TALK),
        [page(TALK[2], TALK[1], has_more=True), page(TALK[1], TALK[0])],
        {"thread_id": "thread_a", "messages": TALK},
        {"id": "thread_a", "object": "thread", "messages": page(*reversed(TALK))},
        {"thread_id": "thread_a", "messages": TALK[::-1], "order": "desc"},
        TALK,
    ],
    ids=[
        "newest first",
        "oldest first",
        "pages that overlap",
        "thread_id",
        "a thread",
        "with its order",
        "a bare list",
    ],
)
def test_a_dump_of_any_shape_is_the_same_conversation(open_store, tmp_path, dump):
    ledger = open_store()
    outcomes = imported(ledger, written(tmp_path / "d.json", dump))
    assert states(outcomes) == [(1, "thread_a", "imported", 3)]
    assert (outcomes[0]["left_out"], outcomes[0]["reason"]) == ({}, "")
    assert said(ledger, "thread_a") == SAID
    assert [each.written_at[:19] for each in ledger.memory("thread_a").messages] == [
        "2023-11-14T22:13:21", "2023-11-14T22:13:22", "2023-11-14T22:13:23"]  # fmt: skip


def test_json_lines_of_messages_and_of_threads_are_grouped_by_thread(open_store, tmp_path):
    other = [message(7, thread="thread_b"), message(8, "assistant", thread="thread_b")]
    lines = [*TALK, *other, {"id": "thread_c", "messages": {"data": [message(9, thread="thread_c")]}}]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger = open_store()
    assert states(imported(ledger, path)) == [
        (1, "thread_a", "imported", 3),
        (4, "thread_b", "imported", 2),
        (6, "thread_c", "imported", 1),
    ]
    assert said(ledger, "thread_a") == SAID


def test_messages_of_one_second_keep_the_order_that_the_list_says(open_store, tmp_path):
    same = [message(1, "user", "a", at=0), message(2, "assistant", "b", at=0), message(3, "user", "c", at=0)]
    ledger = open_store()
    later = message(4, "assistant", "d", at=1)
    imported(ledger, written(tmp_path / "d.json", page(later, *reversed(same))))
    assert [text for _, text in said(ledger, "thread_a")] == ["a", "b", "c", "d"]


def test_a_list_of_one_second_that_begins_with_its_user_is_oldest_first(open_store, tmp_path):
    same = [message(1, "user", "a", at=0), message(2, "assistant", "b", at=0)]
    ledger = open_store()
    imported(ledger, written(tmp_path / "1.json", page(*same)))
    imported(ledger, written(tmp_path / "2.json", page(*[each | {"thread_id": "thread_b"} for each in same[::-1]])))
    assert said(ledger, "thread_a") == said(ledger, "thread_b") == [("user", "a"), ("assistant", "b")]


def test_the_same_dump_twice_changes_nothing_and_a_grown_one_adds_its_end(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "d.json", page(*TALK))
    imported(ledger, path)
    before = end(ledger)
    assert states(imported(ledger, path)) == [(1, "thread_a", "unchanged", 0)]
    assert end(ledger) == before
    grown = page(message(5, "user", "hi"), message(4, "assistant", "hello"), *TALK[::-1])
    assert states(imported(ledger, written(path, grown))) == [(1, "thread_a", "extended", 2)]
    assert said(ledger, "thread_a") == [*SAID, ("assistant", "hello"), ("user", "hi")]


def test_equal_texts_of_two_ids_are_two_messages(open_store, tmp_path):
    ledger = open_store()
    imported(ledger, written(tmp_path / "d.json", page(message(1, text="again"), message(2, text="again"))))
    assert said(ledger, "thread_a") == [("user", "again")] * 2


def test_what_stands_before_what_is_there_is_refused(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "d.json", page(*TALK[1:]))
    imported(ledger, path)
    (outcome,) = imported(ledger, written(path, page(*TALK)))
    assert (outcome["state"], "message 1 of 'thread_a' precedes" in outcome["reason"]) == ("failed", True)
    assert said(ledger, "thread_a") == SAID[1:]


def test_a_message_that_says_something_else_is_refused_but_one_with_more_beside_it_is_not(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "d.json", page(*TALK))
    imported(ledger, path)
    more = TALK[0] | {"attachments": [{"file_id": "file-1", "tools": []}]}
    assert states(imported(ledger, written(path, page(more, *TALK[1:])))) == [(1, "thread_a", "unchanged", 0)]
    (outcome,) = imported(ledger, written(path, page(message(1, text="HI"), *TALK[1:])))
    assert (outcome["state"], "message 1 of 'thread_a' differs" in outcome["reason"]) == ("failed", True)


def test_parts_attachments_and_annotations_are_kept(open_store, tmp_path):
    citation = {
        "type": "file_citation",
        "text": "[1]",
        "start_index": 3,
        "end_index": 6,
        "file_citation": {"file_id": "f"},
    }
    content = [
        {"type": "text", "text": {"value": "see [1]", "annotations": [citation]}},
        {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "auto"}},
        {"type": "image_file", "image_file": {"file_id": "file-i", "detail": "low"}},
    ]
    attachment = {"file_id": "file-1", "tools": [{"type": "file_search"}], "bytes": 12, "sha256": "ab" * 32}
    refused = [{"type": "refusal", "refusal": "I will not."}]
    dump = page(message(1, content=content, attachments=[attachment]), message(2, "assistant", content=refused))
    ledger = open_store()
    imported(ledger, written(tmp_path / "d.json", dump))
    first, second = memory(ledger, "thread_a")
    assert first["content"] == [
        {"type": "text", "text": "see [1]", "annotations": [citation]},
        {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "auto"}},
        {"type": "image_file", "image_file": {"file_id": "file-i", "detail": "low"}},
    ]
    assert first["attachments"] == [attachment]
    assert second == {"role": "assistant", "content": "I will not.", "refusal": "I will not."}


def test_an_empty_message_is_left_out_and_counted(open_store, tmp_path):
    ledger = open_store()
    (outcome,) = imported(ledger, written(tmp_path / "d.json", page(message(1), message(2, "assistant", content=[]))))
    assert (outcome["messages"], outcome["left_out"]) == (1, {"empty_messages": 1})


FUNCTION = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"a": 1}', "output": "found"},
}
CODE = {"id": "call_2", "type": "code_interpreter", "code_interpreter": {"input": "1+1", "outputs": []}}


@pytest.mark.parametrize("creation", [True, False], ids=["as the steps say", "by the time"])
def test_tool_calls_of_run_steps_stand_before_the_message_that_their_run_wrote(open_store, tmp_path, creation):
    answer = message(2, "assistant", "it is", at=1, run_id="run_1")
    steps = [step(1, calls=[FUNCTION], at=1)] + ([step(2, message_id="msg_2", at=1)] if creation else [])
    dump = {"id": "thread_a", "messages": [message(1, at=1), answer, message(3, at=2)], "run_steps": steps}
    ledger = open_store()
    imported(ledger, written(tmp_path / "d.json", dump))
    asked = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    assert [(each["role"], each["content"]) for each in memory(ledger, "thread_a")] == [
        ("user", "text 1"), ("assistant", None), ("tool", "found"), ("assistant", "it is"), ("user", "text 3")]  # fmt: skip
    assert memory(ledger, "thread_a")[1]["tool_calls"] == [asked]
    assert states(imported(ledger, tmp_path / "d.json")) == [(1, "thread_a", "unchanged", 0)]


def test_a_call_between_two_messages_of_one_second_stands_where_the_steps_say(open_store, tmp_path):
    said_by_run = [message(2, "assistant", "let me look", at=1, run_id="run_1"),
                   message(3, "assistant", "found it", at=1, run_id="run_1")]  # fmt: skip
    steps = [step(1, message_id="msg_2", at=1), step(2, calls=[FUNCTION], at=1), step(3, message_id="msg_3", at=1)]
    dump = {"id": "thread_a", "messages": [message(1, at=1), *said_by_run], "run_steps": steps}
    ledger = open_store()
    imported(ledger, written(tmp_path / "d.json", dump))
    assert [text for _, text in said(ledger, "thread_a")] == ["text 1", "let me look", "", "found", "found it"]


def test_calls_of_hosted_tools_are_kept_with_the_message_that_their_run_wrote_next(open_store, tmp_path):
    unanswered = FUNCTION | {"id": "call_3", "function": FUNCTION["function"] | {"output": None}}
    answer = message(2, "assistant", "it is 2", at=6, run_id="run_1")
    runs = [{"id": "run_1", "steps": page(step(1, calls=[unanswered, CODE], at=5))}]
    ledger = open_store()
    dump = {"id": "thread_a", "messages": [message(1), answer], "runs": runs}
    (outcome,) = imported(ledger, written(tmp_path / "d.json", dump))
    assert outcome["left_out"] == {"hosted_calls": 1, "calls_without_result": 1}
    *_, last = ledger.memory("thread_a").messages
    assert last.message.as_chat_message()["content"] == [
        {"type": "hosted_call", "name": "code_interpreter", "detail": "1+1"}, {"type": "text", "text": "it is 2"}]  # fmt: skip
    assert last.message.native() == {"dialect": "assistants", "items": [CODE]}


def test_our_own_mirror_gets_its_key_its_ids_and_its_times_back(open_store, tmp_path):
    ours = {"threadledger_message": "id-1", "threadledger_written_at": "2020-01-02T03:04:05Z"}
    dump = {"id": "thread_a", "metadata": {KEY: "customer-42", "team": "x"}, "messages": [message(1, metadata=ours)]}
    ledger = open_store()
    assert states(imported(ledger, written(tmp_path / "d.json", dump))) == [(1, "customer-42", "imported", 1)]
    (only,) = ledger.memory("customer-42").messages
    assert (only.message_id, only.written_at) == ("id-1", "2020-01-02T03:04:05.000000Z")
    assert next(iter(ledger.journal.history("customer-42"))).metadata == {"team": "x"}


def test_a_message_that_its_ledger_still_has_is_not_taken_a_second_time(open_store, tmp_path):
    ledger = open_store()
    ledger.conversation("customer-42").append("user", "hi")
    (own,) = ledger.memory("customer-42").messages
    pieces = [message(n, text="hi", metadata={"threadledger_message": own.message_id}) for n in (1, 2)]
    foreign = message(3, "assistant", "and from elsewhere")
    dump = {"id": "thread_a", "metadata": {KEY: "customer-42"}, "messages": [*pieces, foreign]}
    assert states(imported(ledger, written(tmp_path / "d.json", dump))) == [(1, "customer-42", "extended", 1)]
    assert said(ledger, "customer-42") == [("user", "hi"), ("assistant", "and from elsewhere")]


def test_a_thread_that_this_ledger_keeps_as_a_copy_is_left_to_reconcile(open_ledger, simulator, tmp_path):
    ledger = open_ledger(backends=("assistants",), threads="assistants")
    ledger.conversation("k").ask("hello")
    link = ledger.state("k").links["assistants"]
    dump = {"id": link.thread_id, "metadata": {KEY: "k"}, "messages": [message(1, thread=link.thread_id)]}
    before = end(ledger)
    (outcome,) = imported(ledger, written(tmp_path / "d.json", dump))
    assert (outcome["state"], "replay reconcile" in outcome["reason"], end(ledger)) == ("unchanged", True, before)


@pytest.mark.parametrize(
    ("key_from", "key"), [("id", "thread_a"), ("user", "u1"), ("nothing", "thread_a"), (KEY, "own")]
)
def test_the_key_is_taken_from_where_it_was_said_to_be(open_store, tmp_path, key_from, key):
    dump = {"id": "thread_a", "metadata": {KEY: "own", "user": "u1"}, "messages": TALK}
    assert imported(open_store(), written(tmp_path / "d.json", dump), key_from=key_from)[0]["key"] == key


def bad(**more):
    return message(1, thread="thread_bad", **more)


BAD = {
    "no thread": ({"x": 1}, 'no list "messages"'),
    "a number": (7, "it is not a thread"),
    "no id": (page({**bad(), "id": None}), "the id of message 1 has type NoneType"),
    "a message that is text": ({"thread_id": "t", "messages": ["hi"]}, "message 1 is str"),
    "an unknown role": (page(bad(role="robot")), "unknown role 'robot'"),
    "content of another type": (page(bad(content=[7])), "no part of its content can be read"),
    "NUL in an id": (page({**bad(), "id": "a\0"}), "NUL"),
    "steps that are none": ({"thread_id": "t", "messages": [], "run_steps": [1]}, "run step 1 is int"),
}


@pytest.mark.parametrize(("dump", "told"), BAD.values(), ids=BAD)
def test_a_bad_thread_is_reported_with_its_place_and_the_good_ones_are_kept(open_store, tmp_path, dump, told):
    ledger = open_store()
    other = {"thread_id": "thread_z", "messages": [message(9, thread="thread_z")]}
    found = imported(ledger, written(tmp_path / "d.json", [page(*TALK), dump, other]), "threads")
    found.sort(key=lambda outcome: outcome["line"])
    assert [(each["line"], each["state"]) for each in found] == [(1, "imported"), (2, "failed"), (3, "imported")]
    assert told in found[1]["reason"]
    assert "\n" not in found[1]["reason"]
    assert (said(ledger, "thread_a"), len(memory(ledger, "thread_z"))) == (SAID, 1)


@pytest.mark.parametrize("thread_id", [None, ["x"], "a\0"])
def test_a_thread_without_a_usable_id_gets_the_name_of_the_file_and_the_line_as_its_key(
    open_store, tmp_path, thread_id
):
    ledger = open_store()
    (outcome,) = imported(ledger, written(tmp_path / "d.json", page(bad(text="hi") | {"thread_id": thread_id})))
    assert (outcome["key"], outcome["left_out"]) == ("d.json:1", {"made_keys": 1})
    assert said(ledger, "d.json:1") == [("user", "hi")]


def test_one_damaged_message_does_not_cost_its_thread(open_store, tmp_path):
    damaged = [7, {**bad(), "id": None}, message(4, "robot"), message(5, content=[7]), message(6, text="\ud83d")]
    ledger = open_store()
    (outcome,) = imported(
        ledger, written(tmp_path / "d.json", {"thread_id": "thread_a", "messages": [*TALK, *damaged]})
    )
    assert (outcome["state"], outcome["messages"]) == ("imported", 4)
    assert outcome["left_out"] == {"unreadable_messages": 4, "half_characters": 1}
    assert said(ledger, "thread_a") == [*SAID, ("user", "\ufffd")]


def test_the_ids_and_times_of_the_source_are_kept_with_each_message(open_store, tmp_path):
    ledger = open_store()
    answer = message(2, "assistant", run_id="run_1", assistant_id="asst_1", metadata={"team": "x", KEY: "k"})
    hosted = {"id": "thread_a", "messages": [message(1), answer], "run_steps": [step(1, calls=[FUNCTION], at=1)]}
    imported(ledger, written(tmp_path / "d.json", hosted))
    origins = [event.origin for event in list(ledger.journal.history("thread_a"))[1:]]
    assert [origin["thread_id"] for origin in origins] == ["thread_a"] * 4
    assert [origin.get("message_id") or origin["step_id"] for origin in origins] == [
        "msg_1",
        "step_1",
        "step_1",
        "msg_2",
    ]
    assert origins[0].keys() == {"thread_id", "message_id", "created_at"}
    assert {name: origins[-1][name] for name in ("run_id", "assistant_id", "created_at", "metadata")} == {
        "run_id": "run_1",
        "assistant_id": "asst_1",
        "created_at": 1_700_000_002,
        "metadata": {"team": "x", KEY: "k"},
    }


def test_a_list_that_goes_on_at_the_provider_is_imported_with_a_warning(open_store, tmp_path):
    first = page(*TALK, has_more=True, last_id="msg_3")
    for dump in (first, {"id": "thread_a", "messages": first}):
        (outcome,) = imported(open_store(), written(tmp_path / "d.json", dump))
        assert outcome["state"] in {"imported", "unchanged"}
        assert (outcome["left_out"], "goes on after msg_3" in outcome["reason"]) == ({"missing_pages": 1}, True)


def test_items_of_a_conversation_are_taken_too(open_store, tmp_path):
    items = [
        {"id": "msg_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"id": "fco_1", "type": "function_call_output", "call_id": "c", "output": "ok"},
        {"id": "rs_1", "type": "reasoning", "summary": []},
    ]
    ledger = open_store()
    (outcome,) = imported(ledger, written(tmp_path / "d.json", {"id": "conv_1", "items": {"data": items}}))
    assert (outcome["state"], outcome["left_out"]) == ("imported", {"reasoning": 1})
    assert [each["role"] for each in memory(ledger, "conv_1")] == ["user", "assistant", "tool"]
