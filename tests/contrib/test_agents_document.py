"""Run the code and the commands of docs/agents-sdk.md against the simulator."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "agents-sdk.md"
TEXT = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""


@pytest.mark.skipif(not TEXT, reason="the tests run against the wheel, without the tree")
def test_the_agent_of_the_document_answers_and_its_commands_show_it(
    tmp_path: Path, simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from threadledger.cli import main

    monkeypatch.chdir(tmp_path)
    for name, value in {"OPENAI_BASE_URL": simulator.base_url, "OPENAI_API_KEY": "sk-test"}.items():
        monkeypatch.setenv(name, value)
    simulator.answer({"tool_calls": [{"name": "look_up", "arguments": {"number": 42}}]})
    simulator.answer("It is in Lyon.")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, str(DOCUMENT), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "It is in Lyon.\n"
    for command in re.findall(r"^    threadledger (.*)$", TEXT, re.MULTILINE):
        assert main(shlex.split(command)) == 0
    shown = capsys.readouterr().out
    for text in ("Where is parcel 42?", 'look_up({"number": 42})', "parcel 42 is in Lyon", "It is in Lyon."):
        assert text in shown
