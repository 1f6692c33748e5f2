"""Run docs/leave-the-assistants-api.md: its commands in order, its files, and its app against the server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

import threadledger
from threadledger.adapters import load_settings
from threadledger.adapters.server import open_server
from threadledger.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "leave-the-assistants-api.md"
DUMP = ROOT / "examples" / "assistants-dump.json"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's, of every call of the Assistants API
    pytest.mark.skipif(not DUMP.is_file(), reason="the tests run against the wheel, without the tree"),
]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def written_in(text: str) -> Any:
    """The JSON of a block; one with an ellipsis only shows a form."""
    return None if "…" in text else json.loads(text)


@pytest.fixture
def folder(simulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the page shows, where the simulator is the provider."""
    (tmp_path / "examples").mkdir()
    shutil.copy(DUMP, tmp_path / "examples")
    _, lines, messages, assistant = blocks("json")
    for name, text in (("transcripts.jsonl", lines), ("messages.json", messages), ("assistant.json", assistant)):
        assert written_in(text)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "threadledger.toml").write_text(blocks("toml")[0], encoding="utf-8")
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
    return tmp_path


@pytest.fixture
def imported(folder: Path) -> Path:
    """The same after the page's commands; `serve` waits for requests, so the tests start it."""
    commands = re.findall(r"^ {4}threadledger (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert "serve" in commands
    for command in commands:
        if command != "serve":
            assert main(command.split()) == 0, command
    return folder


@pytest.fixture
def client(imported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    with threadledger.open() as ledger, open_server(ledger, load_settings(), port=0) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        with OpenAI(max_retries=0) as sdk:
            yield sdk


def sent(thing: Any) -> Any:
    return thing.model_dump(mode="json", exclude_unset=True)


def test_the_app_of_the_page_continues_in_its_old_thread_with_its_old_assistant(
    client: OpenAI, simulator: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.answer("Noted: 12 Rue de la Paix.")
    capsys.readouterr()
    [app] = blocks("python")
    names: dict[str, Any] = {}
    exec(app, names)
    names["client"].close()
    [thread] = json.loads(DUMP.read_text(encoding="utf-8"))["threads"]
    said = [f"{each['role']} - {each['content'][0]['text']['value']}" for each in thread["messages"]]
    assert capsys.readouterr().out.splitlines() == [
        "completed ['completed', 'failed', 'completed', 'completed']",
        *said,
        "user - It is 12 Rue de la Paix.",
        "assistant - Noted: 12 Rue de la Paix.",
    ]
    new = client.beta.threads.runs.list(thread["id"], limit=1).data[0]
    assert (new.model, new.assistant_id) == ("gpt-5.5", "asst_Zr4kq1mVn0pTt8uYxwB2cD3e")


def test_what_the_page_says_is_kept_of_a_dump_is_served(client: OpenAI) -> None:
    dump = json.loads(DUMP.read_text(encoding="utf-8"))
    [assistant], [thread] = dump["assistants"], dump["threads"]
    messages, runs = thread.pop("messages"), thread.pop("runs")
    steps = {run["id"]: run.pop("steps", []) for run in runs}
    beta, name = client.beta, thread["id"]
    shown = sent(beta.assistants.retrieve(assistant["id"]))
    functions = [tool for tool in assistant["tools"] if tool["type"] == "function"]
    assert shown == {**assistant, "tools": functions, "tool_resources": {}}
    assert sent(beta.threads.retrieve(name)) == thread
    assert [sent(each) for each in beta.threads.messages.list(name, order="asc")] == messages
    assert [sent(each) for each in beta.threads.runs.list(name, order="asc")] == runs
    for run_id, given in steps.items():
        assert [sent(each) for each in beta.threads.runs.steps.list(run_id, thread_id=name, order="asc")] == given


def test_transcripts_are_found_by_the_ids_of_their_threads(client: OpenAI) -> None:
    threads, runs = client.beta.threads, client.beta.threads.runs
    _, line, listing, assistant = map(written_in, blocks("json"))
    messages = listing["data"]
    for name, given in ((line["id"], line["messages"]), (messages[0]["thread_id"], messages)):
        listed = threads.messages.list(name, order="asc").data
        assert [(each.role, each.content[0].text.value) for each in listed] == [  # type: ignore[union-attr]
            (each["role"], each["content"]) for each in given
        ]
        assert runs.list(name).data == []
        assert runs.create_and_poll(thread_id=name, assistant_id=assistant["id"]).status == "completed"
    assert threads.retrieve(line["id"]).metadata == {"customer": "43"}
    first, answer = threads.messages.list(messages[0]["thread_id"], order="asc", limit=2).data
    assert (first.id, first.created_at, answer.run_id) == ("msg_1", 1718020800, "run_1")
    with pytest.raises(openai.NotFoundError, match="No run found with id 'run_1'"):
        runs.retrieve("run_1", thread_id=messages[0]["thread_id"])


def test_a_thread_of_which_nothing_is_left_is_not_found_and_may_be_imported_empty(client: OpenAI, folder: Path) -> None:
    threads = client.beta.threads
    with pytest.raises(openai.NotFoundError, match="No thread found"):
        threads.retrieve("thread_lost")
    (folder / "lost.jsonl").write_text('{"id": "thread_lost", "messages": []}\n', encoding="utf-8")
    assert main(["import", "lost.jsonl"]) == 0
    assert threads.messages.list("thread_lost").data == []
    assert threads.messages.create("thread_lost", role="user", content="Hello again").role == "user"


def test_a_hosted_tool_is_dropped_or_refused_as_the_page_says(client: OpenAI) -> None:
    made = client.beta.assistants.create(model="gpt-4o", tools=[{"type": "file_search"}, {"type": "code_interpreter"}])
    assert [each.type for each in made.tools] == ["file_search"]
    file = client.files.create(file=("handbook.md", b"# Handbook"), purpose="assistants")
    assert client.vector_stores.create(file_ids=[file.id]).file_counts.completed == 1
