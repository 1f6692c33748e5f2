"""Dumps of the Assistants API: assistants under their ids, and what threads have besides messages: runs, times, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import import_found, import_source
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.conversation.messages import Source
from threadledger.domain.conversation.parsing import text_message
from threadledger.domain.journal import noted_row
from threadledger.domain.ledger import AssistantRecord, AssistantStore, Ledger

from .importing import end, imported, said, states, written

AT = 1_700_000_000
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
JOHN: dict[str, Any] = {
    "id": "asst_john", "object": "assistant", "created_at": AT, "name": "John", "description": "Helps.",
    "model": "gpt-4o", "instructions": "Be kind.", "tools": [{"type": "file_search"}, WEATHER, {"type": "code_interpreter"}],
    "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}, "metadata": {"team": "a"},
    "temperature": 0.3, "top_p": 1.0, "response_format": "auto",
}  # fmt: skip
JANE = {"id": "asst_jane", "object": "assistant", "created_at": AT + 60, "model": "gpt-4-turbo", "file_ids": ["file-1"]}


def message(number: int, role: str = "user", run: str | None = None, at: int | None = None, **more: Any) -> Any:
    return {
        "id": f"msg_{number}", "object": "thread.message", "created_at": AT + (10 * number if at is None else at),
        "thread_id": "thread_a", "role": role, "run_id": run, "content": [{"type": "text", "text": {"value": f"text {number}"}}],
        **more,
    }  # fmt: skip


def run(name: str, at: int, status: str = "completed", **more: Any) -> dict[str, Any]:
    """As the description of the API has it (RunObject), without most of its fields."""
    return {
        "id": f"run_{name}", "object": "thread.run", "created_at": AT + at, "thread_id": "thread_a", "status": status,
        "assistant_id": "asst_john", "model": "gpt-4o", "last_error": None, "usage": None, **more,
    }  # fmt: skip


THREAD: dict[str, Any] = {
    "id": "thread_a", "object": "thread", "created_at": AT, "metadata": {"user": "anna"},
    "tool_resources": {"code_interpreter": {"file_ids": ["file-1"]}},
    "messages": [message(1), message(2, "assistant", "run_1"), message(3), message(4)],
    "runs": [
        run("1", 15, usage={"prompt_tokens": 5}, steps=[]),
        run("2", 31, "failed", last_error={"code": "server_error", "message": "Sorry, sk-proj-abcdefghijklmnop1234567890"}),
        run("3", 33, "cancelled"),
    ],
    "run_steps": [
        {
            "id": "step_1", "object": "thread.run.step", "created_at": AT + 15, "run_id": "run_1", "thread_id": "thread_a",
            "type": "tool_calls", "step_details": {"type": "tool_calls", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}", "output": "sunny"}}]},
        },
        {
            "id": "step_2", "object": "thread.run.step", "created_at": AT + 16, "run_id": "run_1", "thread_id": "thread_a",
            "type": "message_creation",
            "step_details": {"type": "message_creation", "message_creation": {"message_id": "msg_2"}},
        },
    ],
}  # fmt: skip


@pytest.fixture
def ledger(open_store: Callable[[], Ledger]) -> Ledger:
    return open_store()


def assistants(ledger: Ledger, tenant: str = "") -> list[AssistantRecord]:
    return AssistantStore(ledger.journal).page(tenant, ListPage(100, newest_first=False))[0]


def journaled(ledger: Ledger, key: str) -> list[e.MessageJournaled]:
    return [each for each in ledger.journal.history(key) if isinstance(each, e.MessageJournaled)]


# Assistants


@pytest.mark.parametrize(
    "dump",
    [
        {"object": "list", "data": [JOHN, JANE], "first_id": "asst_john", "last_id": "asst_jane", "has_more": False},
        [JOHN, JANE],
        {"assistants": [JOHN, JANE], "threads": []},
        {"assistants": {"object": "list", "data": [JOHN, JANE]}},
    ],
    ids=["a list", "an array", "a dump", "a dump with a list"],
)
def test_assistants_of_a_dump_keep_their_ids_and_times(ledger: Ledger, tmp_path: Path, dump: Any) -> None:
    outcomes = imported(ledger, written(tmp_path / "d.json", dump))
    assert [(each["key"], each["state"]) for each in outcomes] == [("asst_john", "imported"), ("asst_jane", "imported")]
    john, jane = assistants(ledger)
    assert (john.assistant_id, john.created_at) == ("asst_john", datetime.fromtimestamp(AT, UTC))
    assert (jane.assistant_id, jane.model) == ("asst_jane", "gpt-4-turbo")


def test_one_assistant_and_lines_of_them_are_read_too(ledger: Ledger, tmp_path: Path) -> None:
    assert states(imported(ledger, written(tmp_path / "one.json", JANE))) == [(1, "asst_jane", "imported", 0)]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (JOHN, JANE, THREAD)))
    assert states(imported(ledger, path)) == [
        (1, "asst_john", "imported", 0),
        (2, "asst_jane", "unchanged", 0),
        (3, "thread_a", "imported", 6),
    ]


def test_an_imported_assistant_is_whole_and_its_hosted_tools_are_named(ledger: Ledger, tmp_path: Path) -> None:
    john, jane = imported(ledger, written(tmp_path / "d.json", [JOHN, JANE]))
    assert john["left_out"] == {"tool:file_search": 1, "tool:code_interpreter": 1}
    assert jane["left_out"] == {}
    record, other = assistants(ledger)
    assert (record.profile.name, record.profile.instructions, record.description) == ("John", "Be kind.", "Helps.")
    assert (record.profile.tools, record.profile.settings) == ([WEATHER], {"temperature": 0.3})
    assert (record.dropped, record.tool_resources) == (("file_search", "code_interpreter"), JOHN["tool_resources"])
    assert record.metadata == {"team": "a"}
    assert set(record.origin) == {"digest"}
    assert other.origin["other"] == {"file_ids": ["file-1"]}


def test_an_assistant_is_defined_again_only_if_its_dump_says_something_new(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", [JOHN])
    imported(ledger, path)
    before = end(ledger)
    assert [each["state"] for each in imported(ledger, path)] == ["unchanged"]
    assert end(ledger) == before
    for model, state in (("m2", "extended"), ("m2", "unchanged"), ("gpt-4o", "extended")):
        outcomes = imported(ledger, written(path, [{**JOHN, "model": model}]))
        assert [each["state"] for each in outcomes] == [state]
        assert [each.model for each in assistants(ledger)] == [model]
    (record,) = assistants(ledger)
    assert (record.version, record.created_at) == (3, datetime.fromtimestamp(AT, UTC))


def test_what_was_changed_or_deleted_here_stays_so_when_the_same_dump_is_imported_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    path, store = written(tmp_path / "d.json", [JOHN]), AssistantStore(ledger.journal)
    imported(ledger, path)
    store.modify("", "asst_john", lambda each: replace(each, model="mine"))
    assert [each["state"] for each in imported(ledger, path)] == ["unchanged"]
    assert [each.model for each in assistants(ledger)] == ["mine"]
    store.delete("", "asst_john")
    (outcome,) = imported(ledger, path)
    assert (outcome["state"], "was deleted" in outcome["reason"]) == ("skipped", True)
    assert assistants(ledger) == []


def test_an_assistant_of_the_ledger_is_not_changed_by_a_dump(ledger: Ledger, tmp_path: Path) -> None:
    AssistantStore(ledger.journal).create(AssistantRecord("asst_john", "mine"))
    (outcome,) = imported(ledger, written(tmp_path / "d.json", [JOHN]))
    assert (outcome["state"], "which no import defined" in outcome["reason"]) == ("failed", True)
    assert [each.model for each in assistants(ledger)] == ["mine"]


def test_one_damaged_assistant_does_not_stop_the_others(ledger: Ledger, tmp_path: Path) -> None:
    wrong = [
        {**JOHN, "id": None},
        {**JOHN, "id": "a\0"},
        {**JOHN, "model": None},
        {**JOHN, "id": "x" * 250},
        {"object": "assistant"},
    ]
    odd = {**JANE, "tools": [7, {"type": "function"}], "metadata": "x", "odd": "é" * 5_000}
    outcomes = imported(ledger, written(tmp_path / "d.json", [*wrong, odd]))
    assert [each["state"] for each in outcomes] == ["failed"] * 5 + ["imported"]
    assert all(each["reason"] for each in outcomes[:5])
    assert outcomes[5]["left_out"] == {"unreadable_tools": 2, "odd_fields": 2}
    (record,) = assistants(ledger)
    assert (record.metadata, record.profile.tools) == ({}, [])


# Threads


def test_a_dump_with_assistants_and_threads_is_imported_in_one_go(ledger: Ledger, tmp_path: Path) -> None:
    other = {**THREAD, "id": "thread_b", "messages": [message(9, thread_id="thread_b")], "runs": [], "run_steps": []}
    path = written(tmp_path / "d.json", {"assistants": [JOHN], "threads": [THREAD, other, {"odd": 1}]})
    outcomes = imported(ledger, path)
    assert [(each["key"], each["state"]) for each in outcomes] == [
        ("asst_john", "imported"),
        ("", "failed"),
        ("thread_a", "imported"),
        ("thread_b", "imported"),
    ]
    before = end(ledger)
    assert {each["state"] for each in imported(ledger, path)} == {"unchanged", "failed"}
    assert end(ledger) == before


def test_a_list_of_threads_is_read_as_threads(ledger: Ledger, tmp_path: Path) -> None:
    listed = {"object": "list", "data": [THREAD, {"id": "thread_b", "object": "thread", "messages": []}]}
    outcomes = imported(ledger, written(tmp_path / "d.json", listed))
    assert states(outcomes) == [(1, "thread_a", "imported", 6), (1, "thread_b", "imported", 0)]


def test_a_thread_keeps_its_time_its_metadata_and_its_files(ledger: Ledger, tmp_path: Path) -> None:
    imported(ledger, written(tmp_path / "d.json", THREAD))
    start = ledger.journal.start_of("thread_a")
    assert start is not None
    assert (start.written_at, start.metadata) == ("2023-11-14T22:13:20.000000Z", {"user": "anna"})
    assert start.origin == {"tool_resources": THREAD["tool_resources"]}


def test_a_run_is_kept_with_its_first_message_or_the_message_before_it(ledger: Ledger, tmp_path: Path) -> None:
    (outcome,) = imported(ledger, written(tmp_path / "d.json", THREAD))
    assert outcome["left_out"] == {}
    question, calls, result, answer, second, third = journaled(ledger, "thread_a")
    assert calls.origin["run"] == {
        "id": "run_1",
        "created_at": AT + 15,
        "status": "completed",
        "assistant_id": "asst_john",
        "model": "gpt-4o",
        "usage": {"prompt_tokens": 5},
        "steps": [{"id": "step_1", "created_at": AT + 15}, {"id": "step_2", "created_at": AT + 16}],
    }
    assert (calls.origin["step_id"], answer.origin["step_id"]) == ("step_1", "step_2")
    assert [(each["id"], each["status"]) for each in second.origin["runs"]] == [
        ("run_2", "failed"),
        ("run_3", "cancelled"),
    ]
    assert second.origin["runs"][0]["last_error"]["code"] == "server_error"
    assert "abcdefgh" not in json.dumps(second.origin)
    assert not any("run" in each.origin or "runs" in each.origin for each in (question, result, answer, third))


def test_a_run_before_the_first_message_is_kept_with_the_thread(ledger: Ledger, tmp_path: Path) -> None:
    imported(ledger, written(tmp_path / "d.json", {**THREAD, "runs": [run("0", 1, "failed")]}))
    imported(
        ledger,
        written(
            tmp_path / "e.json", {"id": "thread_e", "object": "thread", "messages": [], "runs": [run("e", 1, "failed")]}
        ),
    )
    for key, name in (("thread_a", "run_0"), ("thread_e", "run_e")):
        start = ledger.journal.start_of(key)
        assert start is not None
        assert [each["id"] for each in start.origin["runs"]] == [name]


def test_what_is_too_large_of_runs_is_counted(ledger: Ledger, tmp_path: Path) -> None:
    runs = [
        run("1", 15, instructions="x" * 5_000, model="m"),
        *(run(f"f{n}", 50, "failed") for n in range(53)),
        {"id": 7},
    ]
    (outcome,) = imported(ledger, written(tmp_path / "d.json", {**THREAD, "runs": runs}))
    assert outcome["left_out"] == {"run_fields": 1, "runs": 4}
    found = journaled(ledger, "thread_a")
    assert found[1].origin["run"]["model"] == "m"
    assert "instructions" not in found[1].origin["run"]
    assert [each["id"] for each in found[-1].origin["runs"]] == [f"run_f{number}" for number in range(3, 53)]


def test_a_dump_that_was_imported_before_without_its_runs_is_unchanged(ledger: Ledger, tmp_path: Path) -> None:
    plain = {name: value for name, value in THREAD.items() if name not in {"runs", "tool_resources", "created_at"}}
    imported(ledger, written(tmp_path / "d.json", plain))
    before = end(ledger)
    assert states(imported(ledger, written(tmp_path / "d.json", THREAD))) == [(1, "thread_a", "unchanged", 0)]
    assert end(ledger) == before


def test_runs_of_a_list_that_is_split_by_thread_stay_with_their_thread(ledger: Ledger, tmp_path: Path) -> None:
    other = run("b", 95, "failed") | {"thread_id": "thread_b"}
    dump = {"messages": [message(1), message(9, thread_id="thread_b")], "runs": [run("a", 15, "failed"), other]}
    imported(ledger, written(tmp_path / "d.json", dump), "threads")
    for key, name in (("thread_a", "run_a"), ("thread_b", "run_b")):
        (only,) = journaled(ledger, key)
        assert [each["id"] for each in only.origin["runs"]] == [name]


# Addresses


def test_every_id_of_the_source_finds_its_event(open_any_store: Callable[[], Ledger], tmp_path: Path) -> None:
    ledger = open_any_store()
    metadata = {"threadledger_key": "anna", "user": "anna"}
    imported(
        ledger, written(tmp_path / "d.json", {**THREAD, "metadata": metadata, "runs": [*THREAD["runs"], run("0", 1)]})
    )
    wanted = ["thread_a", "msg_2", "run_0", "run_1", "run_2", "run_3", "step_1", "step_2", "run_none", "anna"]
    found = ledger.journal.addressed(wanted)
    versions = {name: sorted(version for _, version in places) for name, places in found.items()}
    assert versions == {
        "thread_a": [1],
        "run_0": [1],
        "step_1": [3, 4],
        "step_2": [5],
        "msg_2": [5],
        "run_1": [3, 4, 5],
        "run_2": [6],
        "run_3": [6],
    }
    assert {stream for places in found.values() for stream, _ in places} == {"conversation:anna"}


def test_what_holds_imported_runs_is_listed_from_both_ends_between_two_versions(
    open_any_store: Callable[[], Ledger], tmp_path: Path
) -> None:
    ledger = open_any_store()
    silent = [run(f"s{number}", 10 * number + 1, "failed") for number in range(30)]
    dump = {**THREAD, "messages": [message(number) for number in range(30)], "runs": silent, "run_steps": []}
    imported(ledger, written(tmp_path / "d.json", dump))
    lookups = ledger.journal.lookups("thread_a")
    assert lookups is not None

    def versions(low: int, high: int, newest_first: bool) -> list[int]:
        return [each.originator_version for each in lookups.imported_runs(low, high, newest_first=newest_first)]

    whole = list(range(2, 32))
    for low, high, expected in ((0, 99, whole), (5, 20, whole[4:19]), (30, 31, [31]), (31, 40, [])):
        assert versions(low, high, newest_first=False) == expected
        assert versions(low, high, newest_first=True) == expected[::-1]
    assert ledger.journal.addressed(["imported runs"]) == {}


def test_rows_of_earlier_schemas_get_the_same_addresses_in_an_upgrade(ledger: Ledger, tmp_path: Path) -> None:
    imported(ledger, written(tmp_path / "d.json", THREAD))
    rows = [row for row in ledger.journal.recorder.rows() if row[3] == "MessageJournaled"]  # type: ignore[attr-defined]
    found = [noted_row(row).addresses for row in rows]
    assert found == [
        ("msg_1",),
        ("run_1", "step_1", "imported runs"),
        ("run_1", "step_1"),
        ("msg_2", "run_1", "step_2"),
        ("msg_3", "run_2", "run_3", "imported runs"),
        ("msg_4",),
    ]


def test_a_thread_whose_id_is_the_key_has_no_address(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", THREAD)
    imported(ledger, path)
    of_tenant(ledger, path, "one")
    assert ledger.journal.addressed(["thread_a"]) == {}


# Tenants


def of_tenant(ledger: Ledger, path: Path, tenant: str) -> list[dict[str, Any]]:
    with import_source(str(path)) as source:
        return [each.as_json() for each in import_found(ledger, source.found, tenant=tenant)]


def test_a_dump_is_imported_for_a_tenant(open_any_store: Callable[[], Ledger], tmp_path: Path) -> None:
    ledger = open_any_store()
    path = written(tmp_path / "d.json", {"assistants": [JOHN], "threads": [THREAD]})
    for tenant in ("one", "two"):
        outcomes = of_tenant(ledger, path, tenant)
        assert [(each["key"], each["state"]) for each in outcomes] == [
            ("asst_john", "imported"),
            (f"tenant:{tenant}/thread_a", "imported"),
        ]
        assert [each.assistant_id for each in assistants(ledger, tenant)] == ["asst_john"]
        assert said(ledger, f"tenant:{tenant}/thread_a")[0] == ("user", "text 1")
        assert {each["state"] for each in of_tenant(ledger, path, tenant)} == {"unchanged"}
    assert assistants(ledger) == []
    assert sorted(ledger.journal.keys()) == ["tenant:one/thread_a", "tenant:two/thread_a"]


def test_a_conversation_of_the_first_rule_is_compared_within_its_tenant(ledger: Ledger, tmp_path: Path) -> None:
    def earlier(conversation: Any) -> None:
        conversation.journal(text_message("user", "text 1"), source=Source.IMPORT, idempotency_key="import:msg_1")

    ledger.journal.commit("tenant:one/thread_a", earlier, create=True)
    path = written(tmp_path / "d.json", {**THREAD, "messages": [message(1)], "runs": [], "run_steps": []})
    assert states(of_tenant(ledger, path, "one")) == [(1, "tenant:one/thread_a", "unchanged", 0)]
    wrong = written(
        tmp_path / "d.json", {**THREAD, "messages": [message(1, content="other")], "runs": [], "run_steps": []}
    )
    (outcome,) = of_tenant(ledger, wrong, "one")
    assert (outcome["state"], outcome["key"]) == ("failed", "tenant:one/thread_a")


def test_a_thread_that_the_ledger_wrote_for_a_tenant_keeps_its_key_and_enters_no_other_tenant(
    ledger: Ledger, tmp_path: Path
) -> None:
    path = written(tmp_path / "d.json", {**THREAD, "metadata": {"threadledger_key": "tenant:one/anna"}})
    assert [each["key"] for each in of_tenant(ledger, path, "one")] == ["tenant:one/anna"]
    assert [each["key"] for each in of_tenant(ledger, path, "two")] == ["tenant:two/tenant:one/anna"]
