"""Serve what was imported from the provider: threads, messages, runs and steps have the ids, times and fields of the dump."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters import import_found, import_source
from threadledger.adapters.server import Server
from threadledger.domain.ledger import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

AT = 1_718_020_800
ENDED = {"completed_at": None, "failed_at": None, "cancelled_at": None, "expires_at": None, "started_at": AT}


def message(number: int, at: int, role: str = "user", run: str | None = None, **more: Any) -> dict[str, Any]:
    text = {"type": "text", "text": {"value": f"text {number}", "annotations": []}}
    return {
        "id": f"msg_{number}", "object": "thread.message", "created_at": AT + at, "thread_id": "thread_old",
        "status": "completed", "completed_at": AT + at, "incomplete_at": None, "incomplete_details": None, "role": role,
        "content": [text], "assistant_id": "asst_john" if run else None, "run_id": run, "attachments": [], "metadata": {},
        **more,
    }  # fmt: skip


def run(name: str, at: int, status: str = "completed", **more: Any) -> dict[str, Any]:
    """As the description of the API has it (RunObject), with every field."""
    return {
        "id": name, "object": "thread.run", "created_at": AT + at, "status": status, "thread_id": "thread_old",
        "assistant_id": "asst_john", "model": "gpt-4o-2024-05-13", "instructions": "Be kind.", "tools": [],
        "metadata": {"n": name}, "required_action": None, "last_error": None, "incomplete_details": None,
        "usage": {"prompt_tokens": at, "completion_tokens": 2, "total_tokens": at + 2}, **ENDED,
        "max_prompt_tokens": None, "max_completion_tokens": 256, "temperature": 0.3, "top_p": 0.5,
        "response_format": "auto", "parallel_tool_calls": False, "tool_choice": "none",
        "truncation_strategy": {"type": "last_messages", "last_messages": 3}, **more,
    }  # fmt: skip


def step(name: str, at: int, run_id: str, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name, "object": "thread.run.step", "created_at": AT + at, "status": "completed", "type": details["type"],
        "step_details": details, "last_error": None, "metadata": {}, "run_id": run_id, "assistant_id": "asst_john",
        "thread_id": "thread_old", "completed_at": AT + at + 1, "expired_at": None, "cancelled_at": None, "failed_at": None,
        "usage": {"prompt_tokens": at, "completion_tokens": 1, "total_tokens": at + 1},
    }  # fmt: skip


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}", "output": "sunny"}}
FILES = [{"file_id": "file-1", "tools": [{"type": "file_search"}]}]
ERROR = {"code": "rate_limit_exceeded", "message": "Rate limit reached for gpt-4o."}
RUNS = [
    run("run_none", 1, "failed", last_error={"code": "server_error", "message": "An empty thread."}, failed_at=AT + 2),
    run("run_one", 15, completed_at=AT + 22),
    run("run_two", 31, "failed", last_error=ERROR, failed_at=AT + 32),
    run("run_three", 33, "cancelled", cancelled_at=AT + 34),
    run("run_four", 41, "incomplete", incomplete_details={"reason": "max_completion_tokens"}, completed_at=AT + 45),
]
HOSTED = {"id": "call_2", "type": "code_interpreter", "code_interpreter": {"input": "1 + 1", "outputs": []}}
STEPS = [
    step("step_0", 15, "run_one", {"type": "tool_calls", "tool_calls": [HOSTED]}),
    step("step_1", 16, "run_one", {"type": "tool_calls", "tool_calls": [CALL]}),
    step("step_2", 19, "run_one", {"type": "message_creation", "message_creation": {"message_id": "msg_2"}}),
]
LEFT = {"status": "incomplete", "completed_at": None, "incomplete_at": AT + 44}
MESSAGES = [
    message(1, 10, metadata={"form": "7"}, attachments=FILES),
    message(2, 20, "assistant", "run_one"),
    message(3, 30),
    message(4, 44, "assistant", "run_four", incomplete_details={"reason": "max_tokens"}, **LEFT),
]
THREAD: dict[str, Any] = {
    "id": "thread_old", "object": "thread", "created_at": AT, "metadata": {"user": "anna"},
    "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}},
}  # fmt: skip
DUMP = {**THREAD, "messages": MESSAGES, "runs": RUNS, "run_steps": STEPS}


def import_dump(server: Server, dump: Any, tenant: str = "") -> list[str]:
    path = Path("dump.json")
    path.write_text(json.dumps(dump), encoding="utf-8")
    with import_source(str(path)) as source:
        return [each.state for each in import_found(server.served.ledger, source.found, tenant=tenant)]


def plain(thing: Any) -> Any:
    return thing.model_dump(mode="json", exclude_unset=True)


def named(things: Any) -> list[str]:
    return [each.id for each in things]


@pytest.fixture
def threads(server: Server, client: OpenAI) -> Any:
    assert import_dump(server, DUMP) == ["imported"]
    return client.beta.threads


def test_a_thread_its_messages_its_runs_and_their_steps_are_as_the_dump_had_them(threads: Any) -> None:
    assert plain(threads.retrieve("thread_old")) == THREAD
    found = [plain(each) for each in threads.messages.list("thread_old", order="asc")]
    assert found == MESSAGES
    assert [plain(threads.messages.retrieve(each["id"], thread_id="thread_old")) for each in MESSAGES] == MESSAGES
    runs = [plain(each) for each in threads.runs.list("thread_old", order="asc")]
    assert runs == RUNS
    assert [plain(threads.runs.retrieve(each["id"], thread_id="thread_old")) for each in RUNS] == RUNS
    steps = threads.runs.steps.list("run_one", thread_id="thread_old", order="asc").data
    assert [plain(each) for each in steps] == STEPS
    for each in STEPS:
        assert plain(threads.runs.steps.retrieve(each["id"], thread_id="thread_old", run_id="run_one")) == each
    assert named(threads.messages.list("thread_old", run_id="run_four")) == ["msg_4"]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_messages_of_an_imported_run_are_listed_in_pages(threads: Any, server: Server, order: str) -> None:
    said = [message(number, 20 + number, "assistant", "run_long" if number % 2 else None) for number in range(30, 38)]
    grown = {**DUMP, "messages": [*DUMP["messages"], *said], "runs": [*RUNS, run("run_long", 49)]}
    assert import_dump(server, grown) == ["extended"]
    own = [f"msg_{number}" for number in (31, 33, 35, 37)][:: 1 if order == "asc" else -1]
    of_run = {"run_id": "run_long", "order": order}
    pages = threads.messages.list("thread_old", limit=3, **of_run).iter_pages()
    assert [named(page.data) for page in pages] == [own[:3], own[3:]]
    for place, each in enumerate(own):
        before = threads.messages.list("thread_old", before=each, limit=2, **of_run)
        assert (named(before.data), before.has_more) == (own[max(place - 2, 0) : place], place > 2)


def test_a_thread_is_listed_with_the_time_and_files_that_it_had(threads: Any, client: OpenAI) -> None:
    page: Any = client.get("/threads", cast_to=object)
    assert page["data"] == [THREAD]
    changed = threads.update("thread_old", metadata={"user": "bo"})
    assert plain(changed) == {**THREAD, "metadata": {"user": "bo"}} == plain(threads.retrieve("thread_old"))


def test_runs_are_listed_from_both_ends_between_any_two(threads: Any) -> None:
    names = [each["id"] for each in RUNS]

    def listed(**query: Any) -> list[str]:
        return named(threads.runs.list("thread_old", **query).data)

    assert listed() == names[::-1]
    assert named(threads.runs.list("thread_old", limit=2)) == names[::-1]
    assert named(threads.runs.list("thread_old", limit=1, order="asc")) == names
    for index, name in enumerate(names):
        assert listed(after=name) == names[:index][::-1]
        assert listed(after=name, order="asc") == names[index + 1 :]
        assert listed(before=name, limit=2) == names[index + 1 : index + 3][::-1]
        assert listed(before=name, limit=2, order="asc") == names[max(index - 2, 0) : index]
    assert listed(after="run_none", before="run_four", order="asc") == names[1:4]
    assert threads.runs.list("thread_old", limit=5).has_more is False
    assert threads.runs.list("thread_old", limit=4).has_more is True
    with pytest.raises(openai.BadRequestError, match="run_other"):
        listed(after="run_other")


def test_new_runs_follow_the_imported_ones_and_a_grown_dump_follows_them(
    threads: Any, client: OpenAI, server: Server
) -> None:
    assistant = client.beta.assistants.create(model="gpt-5.5")
    own = [
        threads.runs.create_and_poll(thread_id="thread_old", assistant_id=assistant.id, poll_interval_ms=10)
        for _ in range(2)
    ]
    assert {each.status for each in own} == {"completed"}
    grown = [*MESSAGES, message(5, 60), message(6, 70, "assistant", "run_six")]
    later = [run("run_six", 65), run("run_seven", 80, "failed")]
    assert import_dump(server, {**DUMP, "messages": grown, "runs": [*RUNS, *later]}) == ["extended"]
    names = [each["id"] for each in RUNS] + named(own) + ["run_six", "run_seven"]
    for limit in (1, 3, 100):
        assert named(threads.runs.list("thread_old", limit=limit)) == names[::-1]
        assert named(threads.runs.list("thread_old", limit=limit, order="asc")) == names
    assert named(threads.runs.list("thread_old", limit=2, before=own[0].id, order="asc").data) == names[3:5]


def test_an_imported_run_never_changes(threads: Any) -> None:
    for each in RUNS:
        with pytest.raises(openai.BadRequestError, match=f"Cannot cancel run with status '{each['status']}'"):
            threads.runs.cancel(each["id"], thread_id="thread_old")
        with pytest.raises(
            openai.BadRequestError, match=f'Runs in status "{each["status"]}" do not accept tool outputs'
        ):
            threads.runs.submit_tool_outputs(
                each["id"], thread_id="thread_old", tool_outputs=[{"tool_call_id": "call_1", "output": "x"}]
            )
    assert [plain(each) for each in threads.runs.list("thread_old", order="asc")] == RUNS
    changed = threads.runs.update("run_two", thread_id="thread_old", metadata={"seen": "1"})
    assert plain(changed) == {**RUNS[2], "metadata": {"seen": "1"}}
    assert threads.runs.retrieve("run_two", thread_id="thread_old") == changed


def test_a_run_that_was_active_in_the_dump_has_expired(server: Server, client: OpenAI) -> None:
    active = ["queued", "in_progress", "requires_action", "cancelling", "odd"]
    runs = [run(f"run_{each}", 11 + number, each) for number, each in enumerate(active)]
    import_dump(server, {**DUMP, "runs": runs, "messages": MESSAGES[:1], "run_steps": []})
    found = client.beta.threads.runs.list("thread_old", order="asc").data
    assert [each.status for each in found] == ["expired", "expired", "expired", "cancelled", "expired"]
    assistant = client.beta.assistants.create(model="gpt-5.5")
    new = client.beta.threads.runs.create_and_poll(
        thread_id="thread_old", assistant_id=assistant.id, poll_interval_ms=10
    )
    assert new.status == "completed"


def test_a_dump_without_steps_has_the_steps_that_its_messages_show(server: Server, client: OpenAI) -> None:
    import_dump(server, {**DUMP, "run_steps": []})
    steps = client.beta.threads.runs.steps
    (shown,) = steps.list("run_one", thread_id="thread_old").data
    assert (shown.status, shown.created_at, shown.usage) == ("completed", AT + 20, None)
    assert plain(shown.step_details) == {"type": "message_creation", "message_creation": {"message_id": "msg_2"}}
    assert steps.retrieve(shown.id, thread_id="thread_old", run_id="run_one") == shown
    assert steps.list("run_two", thread_id="thread_old").data == []


def test_a_run_of_which_the_dump_has_the_id_alone_is_not_made_up(server: Server, client: OpenAI) -> None:
    import_dump(server, {**DUMP, "runs": []})
    assert client.beta.threads.messages.retrieve("msg_2", thread_id="thread_old").run_id == "run_one"
    assert client.beta.threads.runs.list("thread_old").data == []
    with pytest.raises(openai.NotFoundError, match="No run found with id 'run_one'"):
        client.beta.threads.runs.retrieve("run_one", thread_id="thread_old")


def test_an_id_of_one_kind_finds_no_object_of_another(threads: Any, client: OpenAI, server: Server) -> None:
    other = {
        **DUMP,
        "id": "thread_b",
        "metadata": {"threadledger_key": "anna"},
        "runs": [run("run_b", 15)],
        "run_steps": [],
    }
    other["messages"] = [
        message(9, 10, thread_id="thread_b"),
        message(8, 20, "assistant", "run_b", thread_id="thread_b"),
    ]
    assert import_dump(server, other) == ["imported"]
    assert threads.retrieve("thread_b").id == "thread_b"
    for name in ("run_one", "msg_2", "step_1", "run_two", "imported runs"):
        with pytest.raises(openai.NotFoundError, match="No thread found"):
            threads.retrieve(name)
    for name in ("run_one", "step_1", "run_two", "msg_9"):
        with pytest.raises(openai.NotFoundError, match="No message found"):
            threads.messages.retrieve(name, thread_id="thread_old")
    for name in ("msg_2", "step_2", "run_b"):
        with pytest.raises(openai.NotFoundError, match="No run found"):
            threads.runs.retrieve(name, thread_id="thread_old")


def test_the_runs_of_a_deleted_thread_are_not_those_of_the_next_one(
    threads: Any, client: OpenAI, ledger: Ledger
) -> None:
    assert threads.delete("thread_old").deleted
    ledger.conversation("thread_old").append("user", "A new one.")
    assert threads.runs.list("thread_old").data == []
    with pytest.raises(openai.NotFoundError, match="No run found"):
        threads.runs.retrieve("run_one", thread_id="thread_old")


def test_the_runs_of_a_tenant_are_its_own(serving: Callable[..., Server], keys: Any) -> None:
    from .speaking import OTHER_KEY, OWN_KEY

    server = serving(keys)
    assert import_dump(server, DUMP, tenant="acme") == ["imported"]
    with OpenAI(base_url=server.base_url, api_key=OWN_KEY, max_retries=0) as own:
        runs = [plain(each) for each in own.beta.threads.runs.list("thread_old", order="asc")]
        assert (runs, plain(own.beta.threads.retrieve("thread_old"))) == (RUNS, THREAD)
    with OpenAI(base_url=server.base_url, api_key=OTHER_KEY, max_retries=0) as other:
        for call in (other.beta.threads.retrieve, other.beta.threads.runs.list):
            with pytest.raises(openai.NotFoundError):
                call("thread_old")


def test_a_page_of_runs_reads_no_more_rows_in_a_long_thread(server: Server, client: OpenAI) -> None:
    def imported(name: str, turns: int) -> None:
        said: list[dict[str, Any]] = []
        for each in range(turns):
            of_run = f"run_{name}_{each}"
            said += [message(0, 10 * each, id=f"msg_{name}_{each}q"), message(0, 10 * each + 5, "assistant", of_run)]
            said[-1]["id"] = f"msg_{name}_{each}a"
        runs = [run(f"run_{name}_{each}", 10 * each + 1) for each in range(turns)]
        import_dump(server, {**DUMP, "id": name, "messages": said, "runs": runs, "run_steps": []})

    rows = RowsRead(server.served.ledger)
    costs = []
    for name, turns in (("thread_short", 60), ("thread_long", 300)):
        imported(name, turns)
        middle = f"run_{name}_{turns // 2}"
        with rows.counted() as counted:
            page = client.beta.threads.runs.list(name, limit=10)
            assert named(page.data) == [f"run_{name}_{each}" for each in range(turns - 1, turns - 11, -1)]
            after = client.beta.threads.runs.list(name, limit=10, after=middle, order="asc")
            assert named(after.data) == [f"run_{name}_{turns // 2 + each}" for each in range(1, 11)]
            assert client.beta.threads.runs.retrieve(middle, thread_id=name).status == "completed"
        costs.append(counted[0])
    assert 0 < costs[1] <= costs[0] + 5


class RowsRead:
    """Count the rows of events that a ledger reads."""

    def __init__(self, ledger: Any) -> None:
        self._log = ledger.journal.recorder

    def counted(self) -> Any:
        from contextlib import contextmanager
        from unittest.mock import patch

        read = self._log.stream_rows

        @contextmanager
        def counting() -> Any:
            found = [0]

            def rows(*given: Any, **options: Any) -> Any:
                for row in read(*given, **options):
                    found[0] += 1
                    yield row

            with patch.object(self._log, "stream_rows", rows):
                yield found

        return counting()
