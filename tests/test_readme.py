"""Check that the examples in README and docs work as shown."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_code_of_the_readme_runs(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    assert capsys.readouterr().out == "You said: Where is my parcel? False []\n"
    for route in ("POST /responses", "POST /chat/completions"):
        simulator.add_fault(route, refuse={"status": 500})
    exec(blocks[1], names)
    assert capsys.readouterr().out.startswith("['provider_error', 'provider_error'] The provider failed on its side")
    exec(blocks[1].replace('"Can I change the address?"', '" "'), names)
    assert capsys.readouterr().out.startswith("the question is empty: nothing was stored or sent")
    exec(blocks[1], names)
    assert names["answer"].text == "You said: Can I change the address?"
    names["ledger"].close()


def test_the_blocks_of_lists_and_search_run(capsys: pytest.CaptureFixture[str]) -> None:
    document = ROOT / "docs" / "lists-and-search.md"
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out.splitlines() == [
        "Parcel 2",
        "['Parcel 0'] None",
        *(f"chat-{number} Where is parcel {number}? ['parcel'] True" for number in (2, 1, 0)),
    ]
    names["ledger"].close()


def test_the_block_of_options_runs(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    [block] = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "options-of-a-call.md").read_text(encoding="utf-8"), re.DOTALL
    )
    simulator.answer('{"city": "Bern", "days": null}')
    exec(block, {"__name__": "options"})
    assert capsys.readouterr().out == "Bern []\n"


def test_the_blocks_of_streaming_and_async_run(
    simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    document = ROOT / "docs" / "streaming-and-async.md"
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    shown = []
    for block in blocks:
        if "track" in block:
            simulator.answer({"tool_calls": [{"name": "track", "arguments": {"number": "7"}}]}, "In Bern.")
        exec(block, {})
        shown.append(capsys.readouterr().out)
    streamed = "You said: Where is my parcel?"
    assert shown == [
        f"{streamed}\nresponses answered: {streamed}\n",
        "",  # a plain answer has no parts
        f"{streamed}\nYou said: And the other one?\n",
        "In Bern.\n",
        "I have read 1 message(s).\n",
        "True ['fallback']\n",
    ]


def test_the_blocks_of_a_backend_of_your_own_run(capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "a-backend-of-your-own.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", document, re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_shown_exists(document: Path) -> None:
    import click

    from threadledger.cli import root

    for line in re.findall(r"^ {4}threadledger ([a-z][^#\n`]*)", document.read_text(encoding="utf-8"), re.MULTILINE):
        command: click.Command = root
        words = line.split()
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command = command.get_command(click.Context(command), words.pop(0)) or pytest.fail(
                f"{document.name}: {line}"
            )
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    if not (ROOT / "domain").is_dir():
        pytest.skip("the tests run against the wheel, without the tree")
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_every_file_and_function_that_a_document_names_exists() -> None:
    if not (ROOT / "domain").is_dir():
        pytest.skip("the tests run against the wheel, without the tree")
    missing = []
    texts = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    for document, text in ((each, each.read_text(encoding="utf-8")) for each in texts):
        for file in re.findall(r"\b(?:domain|adapters|cli|tests|examples|benchmarks)/[\w/]+\.py\b", text):
            missing += [f"{document.name}: {file}"] if not (ROOT / file).is_file() else []
        for file, name in re.findall(r"^ {4}((?:domain|adapters|cli)/[\w/]+)\.py +([\w.]+)\b", text, re.MULTILINE):
            if (ROOT / f"{file}.py").is_file():
                found: Any = import_module(f"threadledger.{file.replace('/', '.')}")
                for part in name.split("."):
                    found = getattr(found, part, None)
                missing += [f"{document.name}: {file}.py {name}"] if found is None else []
    assert not missing
