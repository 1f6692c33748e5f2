"""Run the code of docs/images-and-files.md against the simulator, and its commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import threadledger

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "images-and-files.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = re.findall(r"^    (threadledger .*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files that the document names, where the simulator is the provider."""
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("OPENAI_BASE_URL", simulator.base_url),
        ("OPENAI_API_KEY", "k"),
        ("THREADLEDGER_DB", "sqlite:///chats.db"),
    ):
        monkeypatch.setenv(name, value)
    (tmp_path / "label.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (tmp_path / "terms.pdf").write_bytes(b"%PDF-1.7\n" + bytes(500))
    (tmp_path / "call.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(500))
    return tmp_path


def test_the_code_of_the_document_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in BLOCKS:
        names: dict[str, Any] = {"threadledger": threadledger}
        with threadledger.open("sqlite:///chats.db") as ledger:
            names |= {"ledger": ledger, "chat": ledger.conversation("customer-42")}
            exec(compile(block, str(DOCUMENT), "exec"), names)
    printed = capsys.readouterr().out
    assert "Is this label valid under these terms?" in printed
    assert "{}" in printed


def test_the_commands_of_the_document_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from threadledger.cli import main

    address = ""
    for command in COMMANDS:
        arguments = shlex.split(command.partition("  #")[0].replace("ADDRESS", address))[1:]
        if arguments[:2] == ["import", "chats.jsonl"]:
            arguments = ["--db", "sqlite:///other.db", *arguments]
        assert main(arguments) == 0, command
        if arguments[:2] == ["blobs", "list"]:
            assert main(["-o", "json", "blobs", "list"]) == 0
            printed = capsys.readouterr().out
            address = json.loads(printed[printed.index("[\n") :])[0]["address"]
    with threadledger.open("sqlite:///other.db") as other, threadledger.open("sqlite:///chats.db") as ledger:
        ours, theirs = (each.conversation("customer-42").memory() for each in (ledger, other))
        assert ours.as_chat_messages() == theirs.as_chat_messages()
        assert ours.digest() == theirs.digest()
