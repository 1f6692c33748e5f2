"""The text of a pytest file that plays an exchange again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from textwrap import fill
from typing import Any

from .rehearsal import KEY, Play, Rehearsed

LINE_CHARS = 100

HEAD = """
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai  # noqa: F401 - loaded here, so that no run's time goes by while it is
import pytest

from threadledger.adapters import Script, Simulator, load_settings, open_ledger
from threadledger.domain import {names}

SCRIPT = Path(__file__).with_name("{name}.json")
"""

FIXTURE = '''
@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger with that memory, at a simulator that follows the script; no setting of the machine reaches it."""
    for name in list(os.environ):
        if name.startswith(("THREADLEDGER_", "OPENAI_", "AZURE_OPENAI_", "USE_ASSISTANTS")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    db = f"sqlite:///{tmp_path / 'ledger.db'}"
    if MEMORY:
        with open_ledger(load_settings(db=db, threads="none")) as journaling:
            journaling.conversation("<KEY>").extend(MEMORY)
    results = {name: iter(given) for name, given in RESULTS.items()}
    tools = {name: (lambda given: lambda **arguments: next(given))(given) for name, given in results.items()}
    with Simulator(script=Script.load(SCRIPT)) as simulator:
        settings = load_settings(
            db=db, openai_api_key="sk-test", openai_base_url=simulator.base_url, **SETTINGS
        )
        with open_ledger(settings, tools=tools, wait=lambda seconds: None) as opened:
<UNWELL>            yield Ledger(opened.journal, replace(opened.outside, profile=PROFILE))
'''

UNWELL = """            for backend, (times, facts) in UNWELL.items():
                for _ in range(times):
                    opened.outside.health.saw(backend, Failure(**facts), now())
"""

ANSWERED = """

def test_run_{name}_goes_as_it_went(ledger: Ledger) -> None:
    {ask}
    assert [(each.backend, each.cause.value) for each in answer.failures] == FAILURES
    assert (answer.backend, answer.text) == ANSWER
"""

NOBODY = """

def test_run_{name}_goes_as_it_went(ledger: Ledger) -> None:
    with pytest.raises(AllBackendsFailed) as nobody:
        {ask}
    assert [(each.backend, each.cause.value) for each in nobody.value.failures] == FAILURES
"""

SAME_MEMORY = """    (exchange,) = ledger.exchanges("{key}").by_id.values()
    assert exchange.runs[0].memory_hash == MEMORY_HASH
"""


@dataclass(frozen=True)
class ExportedTest:
    """A rehearsed exchange, to be written as a test."""

    name: str
    at: datetime
    play: Play
    rehearsed: Rehearsed
    notes: tuple[str, ...]

    def text(self) -> str:
        """The file."""
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        outcome = self.rehearsed.outcome
        yield self._docstring()
        yield HEAD.format(name=self.name, names=", ".join(self._names()))
        yield from self._data()
        yield FIXTURE.replace("<KEY>", KEY).replace("<UNWELL>", UNWELL if self.play.unwell else "")
        ask = f'answer = ledger.conversation("{KEY}").ask(QUESTION)'
        if self.play.streamed:
            ask = f'*_, answer = ledger.conversation("{KEY}").stream(QUESTION)'
        if outcome.answer is None:
            yield NOBODY.format(name=self.name, ask=ask.partition(" = ")[2] if not self.play.streamed else ask)
        else:
            yield ANSWERED.format(name=self.name, ask=ask)
        if self.rehearsed.memory_hash is not None:
            yield SAME_MEMORY.format(key=KEY)

    def _names(self) -> list[str]:
        names = ["Ledger", "Profile"]
        names += ["AllBackendsFailed"] if self.rehearsed.outcome.answer is None else []
        names += ["Failure", "now"] if self.play.unwell else []
        return sorted(names, key=lambda name: (name.islower(), name))

    def _docstring(self) -> str:
        outcome = self.rehearsed.outcome
        failed = ", then ".join(f"{backend} failed ({cause})" for backend, cause in outcome.failures)
        ended = f"{outcome.answer[0]} answered" if outcome.answer else "nobody answered"
        told = fill(f"{failed + ', then ' if failed else ''}{ended}.", LINE_CHARS)
        made = fill(
            f"Made by `threadledger audit export {self.name}` from a run of {self.at:%Y-%m-%d}. The provider is a simulator "
            f"that follows {self.name}.json.",
            LINE_CHARS,
        )
        lines = [f"# {line}" for line in f"{told[:1].upper()}{told[1:]}\n\n{made}".split("\n")]
        if self.notes:
            lines += ["#", "# What could not be brought back:"]
            for note in self.notes:
                lines += fill(note, LINE_CHARS, initial_indent="# - ", subsequent_indent="#   ").split("\n")
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def _data(self) -> Iterator[str]:
        play, outcome = self.play, self.rehearsed.outcome
        yield _named("SETTINGS", dict(play.settings))
        profile = play.profile
        fields = {"name": profile.name, "instructions": profile.instructions, "model": profile.model}
        given = "".join(f"    {name}={literal(value)},\n" for name, value in fields.items())
        tools = literal(json.loads(profile.tools_json), 4)
        yield f"\nPROFILE = Profile(\n{given}    tools_json=json.dumps({tools}),\n)\n"
        yield _named("MEMORY", list(play.memory))
        yield _named("QUESTION", play.question)
        results = {name: list(given) for name, given in play.results.items()}
        yield _named("RESULTS", results, "What the tools gave.", "dict[str, list[str]]")
        if play.unwell:
            yield _named("UNWELL", dict(play.unwell), "Failures that backends had met before, in other exchanges.")
        failures = list(outcome.failures)
        yield _named("FAILURES", failures, "The runs that failed: (backend, cause).", "list[tuple[str, str]]")
        if outcome.answer is not None:
            yield _named("ANSWER", outcome.answer, "Who answered, and what.")
        if self.rehearsed.memory_hash is not None:
            yield _named("MEMORY_HASH", self.rehearsed.memory_hash, "Of what the first run was shown.")
        yield "\n"


def literal(value: Any, indent: int = 0) -> str:
    """A value of JSON's own types, or a tuple of such, as Python is written."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list | tuple):
        return repr(value)
    begin, end = "{}" if isinstance(value, dict) else "()" if isinstance(value, tuple) else "[]"
    deeper = indent + 4
    if isinstance(value, dict):
        parts = [f"{literal(name)}: {literal(each, deeper)}" for name, each in value.items()]
    else:
        parts = [literal(each, deeper) for each in value]
    line = f"{begin}{', '.join(parts)}{',' if isinstance(value, tuple) and len(parts) == 1 else ''}{end}"
    if "\n" not in line and len(line) + indent <= LINE_CHARS:
        return line
    return f"{begin}\n" + "".join(f"{' ' * deeper}{part},\n" for part in parts) + f"{' ' * indent}{end}"


def _named(name: str, value: Any, told: str = "", kind: str = "") -> str:
    said = f'"""{told}"""\n' if told else ""
    return f"\n{name}{': ' if kind else ''}{kind} = {literal(value)}\n{said}"
