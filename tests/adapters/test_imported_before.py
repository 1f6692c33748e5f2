"""Files that an earlier version imported: importing them again changes nothing, and each conversation keeps its rule."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from threadledger.adapters.formats import import_found
from threadledger.adapters.formats.items import ItemReader
from threadledger.adapters.formats.reading import RULES, Found, MessageReader, SourcePlace, rule_of
from threadledger.domain.conversation import events
from threadledger.domain.conversation.items import output_messages
from threadledger.domain.conversation.messages import Message, Source, message_in
from threadledger.domain.journal import fingerprint_of

from .importing import end, imported

TESTS = Path(__file__).parents[1]
FILES = {path.name: path for folder in ("imports", "items") for path in (TESTS / "cases" / folder).iterdir()}
Stored = dict[str, dict[str, list[dict[str, Any]]]]


def golden(name: str) -> Stored:
    """What was stored of each file, by conversation."""
    found: Stored = {}
    for line in (TESTS / "golden" / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["file"], {}).setdefault(row["key"], []).append(row["state"])
    return found


STORED = {
    1: golden("imported-6.jsonl"),
    2: golden("imported_by_rule_2-6.jsonl") | golden("imported_branches_by_rule_2-6.jsonl"),
    3: golden("imported_by_rule_3-6.jsonl"),
}
"""What schema 6 stores, by rule."""

WITH_BRANCHES = ("agents_advanced_branches.sql", "chatgpt_branches.json")
EVERY = pytest.mark.parametrize("name", {**STORED[1], **STORED[3]})


def opened(name: str, folder: Path) -> Path:
    """The file as it is imported: databases are stored as the statements that make them."""
    if not name.endswith(".sql"):
        return FILES[name]
    path = folder / "sessions.db"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.executescript(FILES[name].read_text(encoding="utf-8"))
    database.close()
    return path


def stored_before(ledger: Any, name: str, rule: int = 1) -> None:
    """Journal what the earlier version stored."""
    for key, states in STORED[rule][name].items():

        def decide(conversation: Any, states: Any = states) -> None:
            for state in states:
                conversation.journal(
                    message_in(state),
                    source=Source.IMPORT,
                    message_id=state["message_id"],
                    idempotency_key=state["idempotency_key"],
                    written_at=state.get("written_at"),
                    origin=state.get("origin"),
                    parent=(state["parent_message_id"], state["parent_version"]) if "parent_version" in state else None,
                )

        ledger.journal.commit(key, decide, create=True)


def compared_by_messages(monkeypatch: pytest.MonkeyPatch, ledger: Any) -> None:
    """As if no fingerprint was stored."""
    monkeypatch.setattr(type(ledger.journal), "fingerprints", lambda _, keys: {key: {} for key in keys})


@pytest.mark.parametrize(
    ("name", "rule"),
    [*((name, 1) for name in STORED[1]), *((name, rule) for name in STORED[3] for rule in (2, 3))],
)
@pytest.mark.parametrize("by", ["fingerprint", "message"])
def test_importing_a_file_again_that_an_earlier_version_imported_changes_nothing(
    open_store: Callable[[], Any], tmp_path: Path, name: str, rule: int, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_store()
    if by == "message":
        compared_by_messages(monkeypatch, ledger)
    stored_before(ledger, name, rule)
    before = end(ledger)
    outcomes = imported(ledger, opened(name, tmp_path))
    found = {each["key"]: each["state"] for each in outcomes if each["key"] in STORED[rule][name]}
    assert found == dict.fromkeys(STORED[rule][name], "unchanged")
    others = sum(each["state"] == "imported" for each in outcomes)
    assert end(ledger) == before + others  # conversations without a message


@EVERY
def test_a_new_conversation_is_imported_by_the_newest_rule(
    open_store: Callable[[], Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_store()
    imported(ledger, opened(name, tmp_path))
    for key, states in (STORED[3].get(name) or STORED[2][name]).items():
        new = [each for each in ledger.journal.history(key) if isinstance(each, events.MessageJournaled)]
        assert [each.parent_version for each in new] == [state.get("parent_version") for state in states]
        assert [each.idempotency_key for each in new] == [state["idempotency_key"] for state in states]
        assert [fingerprint_of(message_of(each)) for each in new] == [
            fingerprint_of(message_in(each)) for each in states
        ]
    before = end(ledger)
    for _ in ("by fingerprint", "by message"):
        assert {each["state"] for each in imported(ledger, opened(name, tmp_path))} <= {"unchanged", "failed"}
        assert end(ledger) == before
        compared_by_messages(monkeypatch, ledger)


@pytest.mark.parametrize("rule", [1, 2])
def test_a_conversation_that_grows_is_continued_by_the_rule_that_imported_it(
    open_store: Callable[[], Any], tmp_path: Path, rule: int
) -> None:
    ledger = open_store()
    path = opened("agents_items.sql", tmp_path)
    if rule == 1:
        stored_before(ledger, "agents_items.sql")
    else:
        imported(ledger, path)
    database = sqlite3.connect(path)
    more = [{"type": "web_search_call", "status": "completed"}, {"role": "assistant", "content": "More."}]
    rows = [("s", json.dumps(item), "2026-11-27 00:09:50") for item in more]
    database.executemany("INSERT INTO agent_messages (session_id, message_data, created_at) VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()
    (outcome,) = imported(ledger, path)
    assert (outcome["state"], outcome["messages"]) == ("extended", 3 - rule)
    last = [each for each in ledger.journal.history("s") if isinstance(each, events.MessageJournaled)][-1]
    assert str(last.idempotency_key).startswith(RULES[rule])
    assert [each["state"] for each in imported(ledger, path)] == ["unchanged"]


def message_of(event: events.MessageJournaled) -> Message:
    return message_in(events.payload_of(event))


KEPT = {
    "agents_items.sql": [
        "reasoning",
        "function_call",
        "web_search_call",
        "image_generation_call",
        "message",
        "reasoning",
    ],
    "threads_items.json": [
        "reasoning",
        "function_call",
        "web_search_call",
        "image_generation_call",
        "message",
        "reasoning",
    ],
    "threads_steps.json": ["code_interpreter"],
    "chatgpt_thoughts.json": ["thoughts", "reasoning_recap"],
    "jsonl_reasoning.jsonl": ["thinking", "server_tool_use", "redacted_thinking"],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_has_no_place_in_a_message_is_kept_word_for_word(
    open_store: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    ledger = open_store()
    outcomes = imported(ledger, opened(name, tmp_path))
    assert all(not kind.startswith("native:") for each in outcomes for kind in each["left_out"])
    items = [
        item
        for key in STORED[1][name]
        for each in ledger.memory(key).messages
        for item in each.message.native().get("items", ())
    ]
    kinds = [item["type"] for item in items]
    assert kinds == KEPT[name]
    assert len(json.dumps(items)) < 8_000  # long texts are blobs


# Items of Responses, as they are read everywhere

TEXT = {"type": "output_text", "text": "It is.", "annotations": [{"type": "url_citation", "url": "https://e.x"}]}
OF_THE_MODEL: list[dict[str, Any]] = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "x"},
    {"type": "reasoning", "summary": []},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    {"type": "image_generation_call", "result": "iVBORw0KGgo="},
    {"type": "mcp_list_tools", "server_label": "s", "tools": []},
    {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"},
    {"type": "custom_tool_call", "call_id": "d", "name": "run", "input": "ls"},
    {"type": "function_call", "name": "without_id", "arguments": "{}"},
    {"type": "function_call", "name": "with_a_number", "call_id": 7, "id": "fc_7", "arguments": "{}"},
    {"type": "message", "role": "assistant", "content": [TEXT]},
    {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"type": "message", "role": "assistant", "content": "plain", "phase": "commentary"},
    {"role": "assistant", "content": ""},
]
MESSAGE = next(each for each in OF_THE_MODEL if each.get("type") == "message")
OF_THE_APP: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "https://x/a"}],
    },
    {"type": "function_call_output", "call_id": "c", "output": "found"},
    {"type": "shell_call_output", "call_id": "e", "output": []},
]


def read(items: list[dict[str, Any]]) -> MessageReader:
    reader = MessageReader("responses")
    each = ItemReader(reader)
    for number, item in enumerate(items):
        each.read(item, SourcePlace(str(number), f"item {number}"))
    each.end()
    reader.check()
    return reader


@pytest.mark.parametrize(
    "closing", [each for each in OF_THE_MODEL if each.get("content") or isinstance(each.get("call_id"), str)]
)
@given(before=st.lists(st.sampled_from(OF_THE_MODEL[:5]), max_size=4))
def test_a_message_and_what_preceded_it_is_imported_as_an_answer_is_journaled(
    before: list[dict[str, Any]], closing: dict[str, Any]
) -> None:
    (entry,) = read([*before, closing]).entries
    (answer,) = output_messages([*before, closing], Counter())
    assert (entry.message, entry.message.native_json) == (answer, answer.native_json)


def content_of(ledger: Any, key: str) -> list[Any]:
    """All parts and calls of a conversation in their order, whatever messages they are in."""
    found: list[Any] = []
    for each in ledger.memory(key).messages:
        content = each.message.as_chat_message().get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        extra = each.message.extra()
        found += [(each.message.role, part) for part in parts] + [call.as_json() for call in each.message.tool_calls]
        found += [extra] if extra else []
    return found


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(st.sampled_from([*OF_THE_MODEL, *OF_THE_APP]), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 8), max_size=3),
)
@example(items=[*OF_THE_MODEL[:3], MESSAGE], cuts=[1, 3])
@example(items=[next(each for each in OF_THE_MODEL if each.get("name") == "without_id")], cuts=[1])
def test_a_list_that_is_imported_while_it_grows_ends_with_the_same_content(
    open_store: Callable[[], Any], items: list[dict[str, Any]], cuts: list[int]
) -> None:
    ledger = open_store()
    growing, at_once = f"growing-{end(ledger)}", f"at once-{end(ledger)}"

    def now(key: str, upto: int) -> str:
        reader = read(items[:upto])
        (outcome,) = import_found(ledger, [Found(1, key, {}, reader.entries, reader.left_out)])
        return outcome.state

    for cut in sorted(cuts):
        now(growing, cut)
    assert now(growing, len(items)) != "failed"
    assert now(growing, len(items)) == "unchanged"
    now(at_once, len(items))
    assert content_of(ledger, growing) == content_of(ledger, at_once)


@pytest.mark.parametrize(
    ("items", "contents"),
    [
        ([{"type": "function_call_output", "call_id": "c", "output": value}], [text])
        for value, text in ((0, "0"), (False, "false"), ({}, "{}"), (None, ""), ([], ""))
    ]
    + [
        ([{"type": "user", "role": "user", "content": "hi"}], ["hi"]),
        ([{"role": "assistant", "content": [{"type": "", "text": "kept"}]}], ["kept"]),
        (
            [
                {
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": {"text": "odd"}}, TEXT | {"annotations": []}],
                }
            ],
            ["oddIt is."],
        ),
    ],
)
def test_odd_items_keep_what_they_say(items: list[dict[str, Any]], contents: list[str]) -> None:
    assert [each.message.text for each in read(items).entries] == contents


def test_reasoning_at_the_end_is_kept_behind_what_a_message_holds_besides() -> None:
    (entry,) = read([OF_THE_MODEL[2], MESSAGE, {"type": "reasoning", "summary": [], "encrypted_content": "e"}]).entries
    assert [item["type"] for item in entry.message.native()["items"]] == ["web_search_call", "message", "reasoning"]


def test_an_id_that_begins_like_the_keys_of_the_second_rule_decides_nothing() -> None:
    assert [rule_of(keys) for keys in (["import:1:1", "import:2:1"], ["import:2:1"], ["import:0", "mine"], ["mine"])] == [
        1, 2, 1, None]  # fmt: skip
    assert [rule_of(keys) for keys in (["import:3:1"], ["import:3:1", "import:2:1"], ["import:3:1", "mine"])] == [
        3,
        1,
        3,
    ]


@pytest.mark.parametrize("text", [None, 7, [], {}])
def test_a_text_of_another_type_costs_only_its_part(open_store: Callable[[], Any], tmp_path: Path, text: Any) -> None:
    part = {"type": "text", "text": {"value": text}}
    said = {"type": "text", "text": {"value": "said"}}
    at = {"object": "thread.message", "thread_id": "t", "created_at": 1, "role": "user"}
    path = tmp_path / "t.json"
    path.write_text(json.dumps([at | {"id": "m1", "content": [part]}, at | {"id": "m2", "content": [said]}]))
    (outcome,) = imported(open_store(), path)
    assert (outcome["state"], outcome["left_out"]["unreadable_parts"]) == ("imported", 1)


def test_what_left_the_branch_is_imported_again_with_the_message_that_it_belongs_to(
    open_store: Callable[[], Any],
) -> None:
    ledger, (user, thought) = open_store(), (OF_THE_APP[0], OF_THE_MODEL[0])

    def now(items: list[dict[str, Any]], *others: str) -> str:
        reader = read(items)
        (outcome,) = import_found(ledger, [Found(1, "k", {}, reader.entries, reader.left_out, frozenset(others))])
        return outcome.state

    now([user, thought])
    now([user], "1")
    assert now([user, thought, MESSAGE], "another") == "extended"
    *_, (_, thinking), (_, said) = content_of(ledger, "k")
    assert (thinking["type"], said["text"]) == ("reasoning", "It is.")
    assert now([user, thought, MESSAGE], "another") == "unchanged"
