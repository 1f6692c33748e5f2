"""An app that edits, regenerates and goes back through the served Chat Completions: memory is what its user sees.

Any order of such requests is tested with a recorded client in `adapters/test_recorded_branches.py`: both align a request with
memory by the same code.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from openai import OpenAI

from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

MODEL = "gpt-6-astra"


class App:
    """An app that keeps its histories itself, and sends one whole with each request."""

    def __init__(self, client: OpenAI, ledger: Ledger, simulator: Any, key: str) -> None:
        self.client, self.ledger, self.simulator, self.key = client, ledger, simulator, key
        self.shown: list[str] = []
        """What the user sees: questions and answers in turn."""
        self.numbers = count(1)

    def call(self, history: list[str]) -> str:
        roles = ("user", "assistant")
        messages: list[Any] = [{"role": roles[at % 2], "content": text} for at, text in enumerate(history)]
        self.simulator.answer(f"answer {next(self.numbers)}")
        system: Any = {"role": "system", "content": "Be brief."}
        made = self.client.chat.completions.create(
            model=MODEL, messages=[system, *messages], metadata={"conversation": self.key}
        )
        return made.choices[0].message.content or ""

    def ask(self, text: str = "") -> list[str]:
        asked = [*self.shown, text or f"question {next(self.numbers)}"]
        self.shown = [*asked, self.call(asked)]
        return self.shown

    def edit(self, at: int, text: str = "") -> list[str]:
        self.shown = self.shown[:at]
        return self.ask(text)

    def regenerate(self, at: int = -1) -> list[str]:
        history = self.shown[:at]
        self.shown = [*history, self.call(history)]
        return self.shown

    def memory(self) -> list[str]:
        return [each.message.text for each in self.ledger.memory(self.key).messages]

    def events(self, *kinds: type[e.Event]) -> list[Any]:
        return [each for each in self.ledger.journal.history(self.key) if isinstance(each, kinds)]


@pytest.fixture
def app(client: OpenAI, ledger: Ledger, simulator: Any) -> App:
    return App(client, ledger, simulator, "customer-42")


def test_an_edited_question_stays_aside_until_the_app_continues_it(app: App) -> None:
    app.ask("one")
    before = list(app.ask("two"))
    app.edit(2, "second")
    assert app.memory() == before
    app.ask("three")
    assert app.memory() == app.shown
    assert len(app.events(e.BranchSelected)) == 1


def test_a_regenerated_answer_is_a_variant_and_the_question_is_there_once(app: App) -> None:
    before = list(app.ask("one"))
    app.regenerate()
    app.regenerate()
    assert app.memory() == before
    requests = app.events(e.ExchangeRequested)
    question = app.events(e.MessageJournaled)[0]
    assert [each.question_message_id for each in requests] == [None, question.message_id, question.message_id]
    app.ask("two")
    assert app.memory() == app.shown
    assert [each.role for each in app.events(e.MessageJournaled)].count("user") == 2
    said = app.events(e.MessageJournaled)[1]
    variants = app.ledger.conversation(app.key).variants(said.message_id)
    assert [each.text for each in variants] == ["answer 1", "answer 2", "answer 3"]


def test_a_run_aside_records_the_path_that_it_saw(app: App) -> None:
    app.ask("one")
    app.ask("two")
    app.edit(2, "second")
    run, journal = app.events(e.RunStarted)[-1], app.ledger.journal
    seen = journal.memory(app.key, run.memory_version, leaf=run.memory_leaf_version)
    assert [each.message.text for each in seen.messages] == ["one", "answer 1", "second"]
    assert run.path_hash == seen.digest()
    assert list(app.ledger.check()) == []


def test_a_conversation_of_the_app_s_own_process_is_continued(app: App) -> None:
    app.ledger.conversation(app.key).ask("one")
    app.shown = app.memory()
    app.ask("two")
    app.ledger.conversation(app.key).ask("three")
    assert app.memory()[:4] == app.shown
    app.shown = app.memory()
    app.ask("four")
    assert app.memory() == app.shown
    assert app.events(e.BranchSelected) == []
