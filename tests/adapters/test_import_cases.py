"""Damaged and odd inputs, rebuilt small from public reports: what is imported of each, and what is counted.

The files are in `tests/cases/imports`; the databases of the Agents SDK are stored as the statements that make them.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters.formats.jsonl import found_in_values
from threadledger.adapters.formats.reading import Found, MessageReader, SourcePlace
from threadledger.adapters.formats.repairs import (
    OpenCalls,
    is_usual,
    repaired,
    usual_fingerprint,
    usual_message,
)
from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.messages import Source
from threadledger.domain.journal import fingerprint_of

from .importing import end, imported, memory, said

CASES = Path(__file__).parents[1] / "cases" / "imports"

TALK = [("user", "hi"), ("assistant", "hello")]
ASKED = [("user", "hi"), ("assistant", ""), ("tool", "x"), ("assistant", "hello")]
TABLE: dict[str, dict[str, tuple[list[tuple[str, str]], dict[str, int]]]] = {
    "chatgpt_voice.json": {
        "mm": (
            [
                ("user", "What is this?"),
                ("assistant", "A cat."),
                ("user", "and the second one?"),
                ("assistant", "A dog, I think."),
            ],
            {"recordings": 2},
        )
    },
    "chatgpt_tool_texts.json": {
        "tools": (
            [
                ("user", "Plot it"),
                ("assistant", ""),
                ("tool", "1\n"),
                ("assistant", ""),
                ("tool", "L0: hits"),
                ("assistant", "[tool result browser]\n\nquoted words"),
                ("assistant", "[tool result browser]\n\nError: timed out"),
                ("assistant", "It says so."),
            ],
            {"tool_results_as_text": 2},
        )
    },
    "chatgpt_no_current_node.json": {"nocur": ([("user", "How warm is it?"), ("assistant", "Nine degrees.")], {})},
    "chatgpt_empty_conversation.json": {
        "em": ([], {}),
        "e2": ([], {}),
        "good": ([("user", "How warm is it?"), ("assistant", "Nine degrees.")], {}),
    },
    "jsonl_function_role.jsonl": {
        "k": ([("user", "hi"), ("assistant", ""), ("tool", "12"), ("assistant", "hello")], {"made_call_ids": 2})
    },
    "jsonl_tool_content_null.jsonl": {
        "k": ([("user", "hi"), ("assistant", ""), ("tool", ""), ("assistant", "")], {"empty_content": 2})
    },
    "jsonl_content_empty_list.jsonl": {
        "k": (
            [("user", "hi"), ("assistant", ""), ("assistant", ""), ("user", "   "), ("assistant", "hello")],
            {"empty_content": 1},
        ),
        "k2": ([], {}),
    },
    "jsonl_no_id.jsonl": {f"jsonl_no_id.jsonl:{line}": (TALK, {"made_keys": 1}) for line in (1, 2, 3)},
    "jsonl_arguments_object.jsonl": {
        "obj": (ASKED, {"arguments_as_text": 1}),
        "empty": (ASKED, {}),
        "notype": (ASKED, {}),
        "noid": (ASKED, {"arguments_as_text": 1, "made_call_ids": 2}),
    },
    "jsonl_audio_answer.jsonl": {"k": ([("user", "what?"), ("assistant", "spoken words")], {"audio_as_text": 1})},
    "jsonl_anthropic_blocks.jsonl": {"k": ([("user", "hi"), ("assistant", "let me look"), ("tool", "12")], {})},
    "jsonl_utf16.jsonl": {"k": (TALK, {}), "k2": (TALK, {})},
    "request_body.json": {"request_body.json:1": ([("system", "s"), *TALK], {"made_keys": 1})},
    "threads_first_page_only.json": {"thread_1": ([("user", "hi"), ("assistant", "ok")], {"missing_pages": 1})},
    "claude_export.json": {"a-1": (TALK, {})},
    "agents_advanced_branches.sql": {
        "adv": (
            [("user", "q1"), ("assistant", "a1"), ("user", "q2 edited"), ("assistant", "a2 right")],
            {},
        )
    },
    "agents_compaction.sql": {
        "s1": (
            [
                ("user", "hi"),
                ("assistant", "hello"),
            ],
            {"hosted_calls": 6, "compaction_items": 1},
        )
    },
}


def file_of(name: str, folder: Path) -> Path:
    """The input; a database is made of its statements."""
    if not name.endswith(".sql"):
        return CASES / name
    path = folder / name.replace(".sql", ".db")
    database = sqlite3.connect(path)
    database.executescript((CASES / name).read_text("utf-8"))
    database.close()
    return path


@pytest.mark.parametrize("name", TABLE)
def test_what_is_imported_of_a_case_and_what_is_counted(open_store, tmp_path, name):
    ledger = open_store()
    path = file_of(name, tmp_path)
    outcomes = {each["key"]: each for each in imported(ledger, path)}
    for key, (texts, counted) in TABLE[name].items():
        assert (outcomes[key]["state"], outcomes[key]["left_out"]) == ("imported", counted)
        assert said(ledger, key) == texts
        assert outcomes[key]["messages"] == ledger.state(key).messages
    assert outcomes.keys() == TABLE[name].keys()
    before = end(ledger)
    assert {each["state"] for each in imported(ledger, path)} == {"unchanged"}
    assert end(ledger) == before


def test_every_case_is_in_the_table():
    assert {path.name for path in CASES.iterdir()} == TABLE.keys() | {"agents_encrypted.sql"}


def test_an_encrypted_session_is_named_as_such(open_store, tmp_path):
    (outcome,) = imported(open_store(), file_of("agents_encrypted.sql", tmp_path))
    assert (outcome["state"], "the session is encrypted (EncryptedSession)" in outcome["reason"]) == ("failed", True)


def test_a_corrupt_or_encrypted_row_does_not_cost_its_session(open_store, tmp_path):
    path = file_of("agents_compaction.sql", tmp_path)
    database = sqlite3.connect(path)
    for item in ("{", "[]", '{"__enc__": 1, "payload": "x"}', '{"role": "user", "content": "\\ud83d!"}'):
        database.execute("INSERT INTO agent_messages (session_id, message_data) VALUES ('s1', ?)", (item,))
    database.commit()
    database.close()
    ledger = open_store()
    (outcome,) = imported(ledger, path)
    assert outcome["left_out"].items() >= {
        "unreadable_messages": 2, "encrypted_messages": 1, "half_characters": 1}.items()  # fmt: skip
    assert said(ledger, "s1")[-1] == ("user", "\ufffd!")


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize("levels", [100, 210, 300, 450])
def test_nesting_that_is_too_deep_costs_what_is_nested_alone(open_store, tmp_path, levels):
    deep, ledger = nested(levels), open_store()
    hi = {"id": "m1", "role": "user", "content": "hi", "thread_id": "t", "metadata": {"deep": deep}}
    call = {"type": "code_interpreter", "id": "c", "code_interpreter": deep}
    step = {"id": "s1", "type": "tool_calls", "run_id": "r", "step_details": {"tool_calls": [call]}}
    (tmp_path / "t.json").write_text(json.dumps({"thread_id": "t", "messages": [hi], "run_steps": [step]}))
    line = {"id": "k", "deep": deep, "messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": [deep]},
                                                  {"role": "user", "content": "\ud83d", "deep": deep}]}  # fmt: skip
    (tmp_path / "k.jsonl").write_text(json.dumps(line) + "\n")
    for name, key in (("t.json", "t"), ("k.jsonl", "k")):
        (outcome,) = imported(ledger, tmp_path / name)
        if "not JSON" not in outcome["reason"]:  # Python reads about 900 levels
            assert (outcome["state"], said(ledger, key)[0]) == ("imported", ("user", "hi"))
            assert imported(ledger, tmp_path / name)[0]["state"] == "unchanged"


def test_calls_and_results_without_ids_find_each_other(open_store):
    ledger = open_store()
    for name, key in (("jsonl_function_role.jsonl", "k"), ("jsonl_arguments_object.jsonl", "noid")):
        imported(ledger, CASES / name)
        _, asked, result, _ = memory(ledger, key)
        (call,) = asked["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"a": 1}
        assert result["tool_call_id"] == call["id"]


def test_results_without_ids_find_the_calls_of_their_round_by_name_then_by_order(open_store, tmp_path):
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("f", "g", "f")]
    names = ("g", "f", None)
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "g", "arguments": "{}"}}]},
        {"role": "user", "content": "that one is never answered"},
        *({"role": "assistant", "content": None, "tool_calls": [call]} for call in calls),
        *({"role": "tool", "name": name, "content": f"of {name}"} for name in names),
    ]
    path = tmp_path / "k.jsonl"
    path.write_text(json.dumps({"id": "k", "messages": messages}))
    ledger = open_store()
    imported(ledger, path)
    shown = memory(ledger, "k")
    made = [message["tool_calls"][0]["id"] for message in shown[2:5]]
    assert [message["tool_call_id"] for message in shown[5:]] == [made[1], made[0], made[2]]
    assert len({*made, shown[0]["tool_calls"][0]["id"]}) == 4


def test_the_branch_that_an_agents_app_selected_later_takes_the_place_of_the_other_one(open_store, tmp_path):
    path = file_of("agents_advanced_branches.sql", tmp_path)
    ledger = open_store()
    imported(ledger, path)
    database = sqlite3.connect(path)
    database.executescript(
        """INSERT INTO agent_messages VALUES (7, 'adv', '{"role": "user", "content": "q3"}', '2026-11-28 20:53:38');
        INSERT INTO message_structure VALUES (9, 'adv', 1, 'third', 'user', 9, 1, 1, NULL, NULL);
        INSERT INTO message_structure VALUES (10, 'adv', 7, 'third', 'user', 10, 2, 2, NULL, NULL);"""
    )
    database.close()
    (outcome,) = imported(ledger, path)
    assert (outcome["state"], outcome["messages"], outcome["left_out"]) == ("extended", 1, {})
    assert said(ledger, "adv") == [("user", "q1"), ("user", "q3")]
    ends = [each.end.message.text for each in ledger.conversation("adv").branches()]
    assert sorted(ends) == ["a2 right", "a2 wrong", "q3"]
    assert [each["state"] for each in imported(ledger, path)] == ["unchanged"]


# What an earlier version imported


LEGACY = {
    "arguments": [
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]}
    ],
    "a spoken answer": [{"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "spoken"}}],
    "a function call": [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}],
    "blocks": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"},
                                     {"type": "text", "text": "and?"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
        {"role": "user", "content": "x"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("messages", LEGACY.values(), ids=LEGACY)
def test_a_file_that_was_imported_before_its_messages_were_repaired_changes_nothing(open_store, tmp_path, messages):
    ledger = open_store()

    def as_it_was(conversation):
        for index, message in enumerate(messages):
            conversation.journal(
                parse_message(message), source=Source.IMPORT, idempotency_key=f"import:{index}", message_id=f"m{index}"
            )

    ledger.journal.commit("k", as_it_was, create=True)
    path = tmp_path / "k.jsonl"
    path.write_text(json.dumps({"id": "k", "messages": messages}) + "\n")
    before = end(ledger)
    assert [each["state"] for each in imported(ledger, path)] == ["unchanged"]
    assert end(ledger) == before
    path.write_text(json.dumps({"id": "k", "messages": [*messages, {"role": "user", "content": "new"}]}) + "\n")
    assert [(each["state"], each["messages"]) for each in imported(ledger, path)] == [("extended", 1)]


# Anything


FIELDS = st.sampled_from(["role", "content", "type", "text", "tool_calls", "tool_call_id", "function_call", "function", "id",
                          "name", "arguments", "input", "audio", "transcript", "tool_use_id", "content_type", "source",
                          "url", "parts", "annotations", "refusal", "value", "is_error"])  # fmt: skip
VALUES = st.sampled_from(["system", "user", "assistant", "tool", "function", "human", "User ", "text", "tool_use",
                          "tool_result", "thinking", "image", "input_audio", "output_text", "audio_transcription", "a", "",
                          "server_tool_use", "compaction", "audio_asset_pointer", "\ud83d", "{}"])  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | VALUES | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=6),
    max_leaves=25,
)
MESSAGES = st.fixed_dictionaries(
    {"role": VALUES, "content": ANYTHING | st.lists(st.dictionaries(FIELDS, ANYTHING, max_size=4), max_size=4)},
    optional={"tool_calls": ANYTHING, "tool_call_id": ANYTHING, "function_call": ANYTHING, "audio": ANYTHING},
)
LEFT_OUT = ("unreadable_messages", "empty_messages")


@given(st.lists(MESSAGES | ANYTHING, max_size=6))
def test_every_message_of_any_list_is_imported_or_counted(messages):
    reader = MessageReader()
    for index, message in enumerate(messages):
        reader.add(message, SourcePlace(str(index), f"message {index + 1}"))
    whole = [entry for entry in reader.entries if entry.whole is None]
    assert len(whole) + sum(reader.left_out[kind] for kind in LEFT_OUT) == len(messages)
    assert all(entry.message.as_chat_message() for entry in reader.entries)


@given(st.lists(MESSAGES | ANYTHING, max_size=4))
def test_a_line_with_any_list_is_a_conversation_with_all_its_messages_or_one_sentence(messages):
    line = json.dumps({"id": "k", "messages": messages}).encode()
    (found,) = found_in_values([(1, line)])
    again = next(iter(found_in_values([(1, line)])))
    assert found == again
    if isinstance(found, Found):
        counted = Counter(found.left_out)
        whole = sum(entry.whole is None for entry in found.entries)
        assert whole + sum(counted[kind] for kind in LEFT_OUT) == len(messages)
    else:
        assert "none of its messages can be read" in found.reason
        assert "\n" not in found.reason


@given(MESSAGES | ANYTHING)
def test_a_repaired_message_is_not_repaired_again(message):
    first, second = MessageReader(), MessageReader()
    first.add(message, SourcePlace("0", "message 1"))
    for number, entry in enumerate(first.entries):
        second.add(entry.message.as_chat_message(), SourcePlace(str(number), "message"))
    said = [entry.message.replaced(native_json="") for entry in first.entries]  # which is not in the given form
    assert [entry.message for entry in second.entries] == said
    assert not second.left_out


CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
USUAL = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "content": "looking", "tool_calls": [CALL, CALL | {"id": "d"}]},
    {"role": "tool", "tool_call_id": "c", "content": ""},
]


@pytest.mark.parametrize("given", USUAL)
def test_a_usual_message_is_read_as_any_other(given: dict[str, object]) -> None:
    assert is_usual(given)
    assert usual_message(given) == parse_message(given) == next(repaired(given, "0", OpenCalls(), Counter(), {}))


@pytest.mark.parametrize(
    "given",
    [
        {"role": "user"},
        {"role": "tool", "content": "x"},
        {"role": "other", "content": "x"},
        {"role": "user", "content": "half \ud800"},
        {"role": "user", "content": "x", "tool_calls": [CALL]},
        {"role": "user", "content": "x", "tool_call_id": "c"},
        {"role": "user", "content": "x", "name": "Ann"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "tool", "tool_call_id": "", "content": "x"},
        {"role": "tool", "tool_call_id": "c", "content": None},
        {"role": "assistant", "content": "x", "tool_calls": []},
        {"role": "assistant", "content": "x", "tool_calls": [CALL | {"index": 0}]},
        {"role": "assistant", "content": "x", "tool_calls": [CALL | {"id": ""}]},
        {"role": "assistant", "content": "x", "tool_calls": [CALL | {"type": "custom"}]},
        {"role": "assistant", "content": "x", "tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}]},
        {"role": "assistant", "tool_calls": [CALL], "refusal": None},
    ],
)
def test_a_message_of_any_other_shape_is_not_usual(given: dict[str, object]) -> None:
    assert not is_usual(given)


REORDERED = {"function": {"arguments": "{}", "name": "find"}, "type": "function", "id": "c"}


@pytest.mark.parametrize(
    "given",
    [*USUAL, {"tool_calls": [REORDERED], "content": "é", "role": "assistant"}, {"content": "x", "role": "user"}],
)
def test_a_usual_message_has_the_fingerprint_of_what_is_stored_of_it(given: dict[str, object]) -> None:
    assert usual_fingerprint(given) == fingerprint_of(parse_message(given))


def test_calls_in_a_row_wait_together_for_their_results() -> None:
    waiting = OpenCalls()
    for name in ("c", "d"):
        waiting.note(parse_message({"role": "assistant", "content": None, "tool_calls": [CALL | {"id": name}]}))
    assert waiting.oldest(None) == "c"
    waiting.note(parse_message({"role": "user", "content": "hi"}))
    waiting.note(parse_message({"role": "assistant", "content": None, "tool_calls": [CALL | {"id": "e"}]}))
    assert waiting.oldest(None) == "e"
