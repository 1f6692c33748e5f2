"""`threadledger audit export`: the exchange of a run as a script and a test."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import threadledger
from threadledger.adapters import Script

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "a-failure-becomes-a-test.md"
QUESTION, ANSWER, EARLIER = "Where is my parcel 00340434?", "It arrives tomorrow.", "My name is Jane Doe."
RUNS = "POST /threads/{thread_id}/runs"


@pytest.fixture
def failed(provider, command, db_url, monkeypatch):
    """The id of a run that failed; Chat Completions answered in its place."""
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    command("append", "customer-42", "user", EARLIER)
    provider.add_fault(RUNS, fail={"code": "server_error"})
    provider.answer(ANSWER)
    command("ask", "customer-42", QUESTION)
    (failure,) = command("audit", "failures", "-o", "json").json
    return failure["run_id"]


def written(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()) if path.is_file())


@pytest.mark.parametrize("output", [[], ["-o", "json"]])
def test_the_script_goes_to_stdout_in_the_form_that_the_simulator_reads(failed, command, output):
    done = command("audit", "export", failed[-8:], *output)
    assert (done.code, done.err) == (0, "")
    script = Script.parse(done.json)
    assert [answer.text for answer in script.answers] == [ANSWER]
    assert [(fault.on, fault.times) for fault in script.faults] == [(RUNS, 1)]


def test_with_output_the_test_passes_as_it_is_written(failed, command, tmp_path, run_exported):
    folder = tmp_path / "failures"
    done = command("audit", "export", failed, "--output", str(folder))
    assert done.code == 0
    assert done.err.startswith("wrote ")
    assert sorted(path.name for path in folder.iterdir()) == [f"{failed[-8:]}.json", f"test_{failed[-8:]}.py"]
    test = (folder / f"test_{failed[-8:]}.py").read_text(encoding="utf-8")
    assert f'MEMORY = [{{"role": "user", "content": "{EARLIER}"}}]' in test
    assert 'FAILURES: list[tuple[str, str]] = [("assistants", "provider_error")]' in test
    assert f'ANSWER = ("chat", "{ANSWER}")' in test
    assert run_exported(folder) == 1


def test_the_exported_test_fails_where_things_go_differently(failed, command, tmp_path, run_exported):
    command("audit", "export", failed, "--output", str(tmp_path / "failures"))
    script = tmp_path / "failures" / f"{failed[-8:]}.json"
    told = json.loads(script.read_text(encoding="utf-8"))
    script.write_text(json.dumps(told | {"faults": []}), encoding="utf-8")
    with pytest.raises(AssertionError):
        run_exported(tmp_path / "failures")


def test_files_that_are_there_are_not_overwritten_unless_asked(failed, command, tmp_path):
    folder = str(tmp_path / "failures")
    command("audit", "export", failed, "--output", folder)
    test = tmp_path / "failures" / f"test_{failed[-8:]}.py"
    test.write_text("mine", encoding="utf-8")
    refused = command("audit", "export", failed, "--output", folder)
    assert (refused.code, test.read_text(encoding="utf-8")) == (7, "mine")
    assert "--force" in refused.err
    assert command("audit", "export", failed, "--output", folder, "--force").code == 0
    assert "QUESTION" in test.read_text(encoding="utf-8")


def test_nobody_is_asked_and_nothing_is_written_to_the_ledger(failed, command, provider):
    before = command("events", "-o", "json").json, len(provider.requests)
    command("audit", "export", failed)
    assert (command("events", "-o", "json").json, len(provider.requests)) == before


TOOLS = """
[[tools]]
type = "mcp"
server_url = "https://internal.example.com/mcp"
authorization = "planted-token"

[[tools]]
type = "file_search"
vector_store_ids = ["vs_abcdef0123456789"]
"""


def test_what_belongs_to_an_account_is_replaced_in_messages_and_tools(
    command, provider, db_url, monkeypatch, tmp_path, run_exported
):
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "responses")
    monkeypatch.setenv("THREADLEDGER_PROFILE", "tools.toml")
    Path("tools.toml").write_text(TOOLS, encoding="utf-8")
    said = "Rate limit reached in organization org-abcdef0123456789 for run_abcdef0123456789."
    provider.add_fault("POST /responses", refuse={"status": 429, "message": said})
    with monkeypatch.context() as earlier:  # earlier versions stored secrets of tools
        earlier.setattr("threadledger.domain.conversation.tool_secrets.refuse_unnamed", lambda *_: None)
        command("ask", "k", QUESTION)
    monkeypatch.delenv("THREADLEDGER_PROFILE")
    (failure,) = command("audit", "failures", "-o", "json").json
    command("audit", "export", failure["run_id"], "--output", str(tmp_path / "failures"))
    text = written(tmp_path / "failures")
    assert "Rate limit reached in organization org-000000 for run_000000." in text
    assert "https://tools.invalid" in text
    for own in ("abcdef0123456789", "internal.example.com", "planted-token"):
        assert own not in text
    assert run_exported(tmp_path / "failures") == 1


def test_no_key_no_address_and_no_id_of_the_provider_goes_into_the_files(failed, command, provider, tmp_path):
    command("audit", "export", failed, "--output", str(tmp_path / "failures"))
    text = written(tmp_path / "failures")
    assert "sk-planted-secret-key" not in text
    assert provider.base_url not in text
    assert "customer-42" not in text
    assert not re.search(r"\b(asst|thread|run|msg|req)_[A-Za-z0-9]{10,}", text)


def test_private_texts_become_placeholders_of_the_same_length(failed, command, tmp_path, run_exported):
    command("audit", "export", failed, "--output", str(tmp_path / "failures"), "--redact-text")
    text = written(tmp_path / "failures")
    for private in (QUESTION, ANSWER, EARLIER):
        assert private not in text
        assert re.sub(r"\S", "x", private) in text
    assert run_exported(tmp_path / "failures") == 1


def test_what_cannot_be_brought_back_is_told_in_the_test_and_on_stderr(
    command, provider, db_url, monkeypatch, tmp_path, run_exported
):
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    Path("long.toml").write_text(f'name = "John"\ninstructions = "{"x" * 256_001}"\n', encoding="utf-8")
    monkeypatch.setenv("THREADLEDGER_PROFILE", "long.toml")
    command("ask", "k", QUESTION)
    (failure,) = command("audit", "failures", "-o", "json").json
    done = command("audit", "export", failure["run_id"], "--output", str(tmp_path / "failures"))
    told = "assistants, instructions_too_long: instructions_too_long: the request was never sent"
    assert f"not reproduced exactly: {told}" in done.err
    assert "# - assistants, instructions_too_long" in written(tmp_path / "failures")
    assert run_exported(tmp_path / "failures") == 1


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize("redacted", [[], ["--redact-text"]])
def test_a_question_with_an_image_is_exported_with_its_parts(
    command, provider, db_url, monkeypatch, tmp_path, run_exported, redacted
):
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "responses,chat")
    Path("parcel.png").write_bytes(base64.b64decode(PNG))
    provider.add_fault("POST /responses", fail={"code": "server_error"}, times=3)
    command("ask", "k", QUESTION, "--image", "parcel.png")
    failure = command("audit", "failures", "-o", "json").json[-1]
    done = command("audit", "export", failure["run_id"], "--output", str(tmp_path / "failures"), *redacted)
    assert (done.code, "parts" in done.err) == (0, False)
    assert (PNG in written(tmp_path / "failures")) is not bool(redacted)
    assert run_exported(tmp_path / "failures") == 1


def test_a_run_that_is_not_there_is_exit_6(failed, command):
    assert command("audit", "export", "0123456789").code == 6


def test_a_run_that_the_app_made_itself_is_refused(failed, command, db_url):
    with threadledger.open() as ledger, ledger.conversation("own").run(backend="my-llm", model="m") as run:
        run.complete("Hello.")
        run_id = next(event.run_id for event in ledger.conversation("own").events() if hasattr(event, "run_id"))
    done = command("audit", "export", run_id)
    assert done.code == 2
    assert "itself, on 'my-llm'" in done.err


def test_a_run_that_is_open_is_refused(failed, command):
    with threadledger.open() as ledger, ledger.conversation("own").run(backend="my-llm", model="m") as run:
        run_id = next(iter(ledger.state("own").open_runs))
        done = command("audit", "export", run_id)
        run.complete("Hello.")
    assert done.code == 2
    assert "is still open" in done.err


def test_the_commands_of_the_document_do_what_it_says(failed, command, monkeypatch: Any):
    told = re.findall(r"^ {4}(threadledger|python) (.*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    codes = []
    for program, line in told:
        words = line.replace("RUN", failed[-8:]).split()
        if program == "threadledger":
            codes.append(command(*words).code)
        else:
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
            codes.append(done.returncode)
            assert "1 passed" in done.stdout
    assert codes == [0, 0, 0, 7]
    assert command(*words, "--force").code == 0
    assert QUESTION not in written(Path("tests/failures"))
