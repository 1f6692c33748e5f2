"""An app that edits, regenerates and goes back through a recorded client: memory is what its user sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

import threadledger
from threadledger.adapters.recording import branches
from threadledger.adapters.recording.requests import Sent
from threadledger.adapters.recording.runs import CallRecorder
from threadledger.domain.conversation import events
from threadledger.domain.errors import CorruptEvent

MODEL = "gpt-6-astra"
KEY = "customer-42"
SURFACES = ("chat", "responses")


@pytest.fixture
def ledger(open_store: Callable[[], Any]) -> Any:
    return open_store()


@pytest.fixture
def client(simulator: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as made:
        yield made


class App:
    """An app that keeps its histories itself, and sends one whole with each request."""

    def __init__(self, client: OpenAI, ledger: Any, simulator: Any, key: str = KEY, surface: str = "chat") -> None:
        self.ledger, self.key, self.surface, self.simulator = ledger, key, surface, simulator
        self.client = threadledger.record(client, ledger, key=key)
        self.shown: list[str] = []
        """What the user sees: questions and answers in turn."""
        self.numbers = count(1)
        self.sent = 0

    def call(self, history: list[str], instructions: str = "Be brief.") -> str:
        roles = ("user", "assistant")
        messages: list[Any] = [{"role": roles[at % 2], "content": text} for at, text in enumerate(history)]
        self.simulator.answer(f"answer {next(self.numbers)}")
        self.sent += 1
        if self.surface == "responses":
            return self.client.responses.create(model=MODEL, input=messages, instructions=instructions).output_text
        system: Any = {"role": "system", "content": instructions}
        answered = self.client.chat.completions.create(model=MODEL, messages=[system, *messages])
        return answered.choices[0].message.content or ""

    def ask(self, text: str = "") -> list[str]:
        """Ask a new question at the end of what is shown."""
        asked = [*self.shown, text or f"question {next(self.numbers)}"]
        self.shown = [*asked, self.call(asked)]
        return self.shown

    def edit(self, at: int, text: str = "") -> list[str]:
        """Ask another question in the place of one."""
        self.shown = self.shown[:at]
        return self.ask(text)

    def regenerate(self, at: int = -1) -> list[str]:
        """Ask for another answer."""
        history = self.shown[:at]
        self.shown = [*history, self.call(history)]
        return self.shown

    def title(self) -> None:
        """Let the model name the chat, which its user does not see."""
        self.call([f"Name this chat: {' / '.join(self.shown)}"], "You name chats.")

    def memory(self) -> list[str]:
        return [each.message.text for each in self.ledger.memory(self.key).messages]

    def journaled(self) -> list[events.MessageJournaled]:
        history = self.ledger.journal.history(self.key)
        return [each for each in history if isinstance(each, events.MessageJournaled)]

    def named(self) -> list[str]:
        return [type(each).__name__ for each in self.ledger.journal.history(self.key)]


@pytest.fixture
def app(client: OpenAI, ledger: Any, simulator: Any) -> App:
    return App(client, ledger, simulator)


def test_an_edited_question_stays_aside_until_the_app_continues_it(app: App) -> None:
    app.ask("one")
    before = list(app.ask("two"))
    app.edit(2, "second")
    assert app.memory() == before
    assert len(app.journaled()) == 6
    app.ask("three")
    assert app.memory() == app.shown
    assert [each.text for each in app.ledger.conversation(app.key).variants(app.journaled()[2].message_id)] == [
        "two", "second"]  # fmt: skip


def test_a_regenerated_answer_is_a_variant_of_the_answer_before_and_the_question_is_there_once(app: App) -> None:
    before = list(app.ask("one"))
    app.regenerate()
    app.regenerate()
    assert app.memory() == before
    app.ask("two")
    assert app.memory() == app.shown == ["one", "answer 3", "two", "answer 4"]
    assert [each.role for each in app.journaled()].count("user") == 2
    chat = app.ledger.conversation(app.key)
    assert [each.text for each in chat.variants(app.journaled()[1].message_id)] == ["answer 1", "answer 2", "answer 3"]


def test_the_branch_that_the_user_goes_back_to_is_selected_by_the_next_question(app: App) -> None:
    app.ask("one")
    left = list(app.ask("two"))
    app.edit(2, "second")
    app.ask("three")
    app.shown = left
    app.ask("four")
    assert app.memory() == app.shown
    assert app.named().count("BranchSelected") == 2


def test_a_side_call_changes_no_memory(app: App) -> None:
    app.ask("one")
    app.ask("two")
    app.title()
    assert app.memory() == app.shown
    app.ask("three")
    assert app.memory() == app.shown
    assert "BranchSelected" not in app.named()


def test_a_history_that_continues_memory_stores_nothing_besides(app: App) -> None:
    for text in ("one", "one", "two"):
        app.ask(text)
    assert app.named() == [
        "ConversationStarted", *["MessageJournaled", "RunStarted", "RunCompleted", "MessageJournaled"] * 3]  # fmt: skip
    assert all(each.parent_version is None for each in app.journaled())


@pytest.mark.parametrize("surface", SURFACES)
def test_a_run_aside_records_the_path_that_it_saw(app: App, surface: str) -> None:
    app.surface = surface
    for text in ("one", "two"):
        app.ask(text)
    app.edit(0, "first")
    app.edit(2, "second")
    app.regenerate()
    app.ask("three")
    started = [each for each in app.ledger.journal.history(app.key) if isinstance(each, events.RunStarted)]
    assert len(started) == app.sent
    assert [each.memory_leaf_version is not None for each in started] == [*[False] * 2, True, *[False], True, False]
    for each in started:
        saw = app.ledger.journal.memory(app.key, each.memory_version, leaf=each.memory_leaf_version)
        assert each.path_hash == saw.digest()


def test_tools_of_a_run_aside_and_its_next_request_stay_aside(app: App) -> None:
    app.ask("one")
    before = list(app.ask("two"))
    tool: Any = {"type": "function", "function": {"name": "find_parcel", "parameters": {"type": "object"}}}
    app.simulator.answer({"tool_calls": [{"name": "find_parcel", "arguments": {}}]}, "In Lyon.")
    messages: list[Any] = [
        {"role": "user", "content": before[0]},
        {"role": "assistant", "content": before[1]},
        {"role": "user", "content": "second"},
    ]
    for _ in range(2):
        said: Any = app.client.chat.completions.create(model=MODEL, messages=messages, tools=[tool]).choices[0].message
        messages.append(said)
        for call in said.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "Lyon"})
    assert app.memory() == before
    assert len({each.exchange_id for each in app.journaled()[4:]}) == 1
    app.simulator.answer("Bye.")
    app.client.chat.completions.create(model=MODEL, messages=[*messages, {"role": "user", "content": "Bye"}])
    roles = [each.message.role.value for each in app.ledger.memory(app.key).messages]
    assert roles == ["user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert len(app.journaled()) == 10


def test_items_of_responses_that_the_app_sends_again_are_known_on_each_branch(app: App) -> None:
    items: list[Any] = []

    def ask(text: str, history: list[Any], *output: Any) -> list[Any]:
        asked = [*history, {"role": "user", "content": text}]
        app.simulator.answer({"output": [*output, {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": f"to {text}", "annotations": []}]}]})  # fmt: skip
        return [*asked, *app.client.responses.create(model=MODEL, input=asked).output]

    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    first = ask("one", items, thought)
    before = ask("two", first)
    edited = ask("second", first, thought)
    assert app.memory() == ["one", "to one", "two", "to two"]
    ask("three", edited)
    assert app.memory() == ["one", "to one", "second", "to second", "three", "to three"]
    ask("four", before, thought)
    assert app.memory() == ["one", "to one", "two", "to two", "four", "to four"]
    assert len(app.journaled()) == 10


def test_a_damaged_row_that_is_not_in_memory_keeps_no_call_from_being_made(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.ask("one")
    before = list(app.ask("two"))

    def damaged(*_: Any) -> None:
        raise CorruptEvent("row 1 was changed")

    monkeypatch.setattr(type(app.ledger.journal), "places", damaged)
    app.edit(2, "second")
    assert app.memory() == [*before, *app.shown[2:]]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failed_run_aside_is_retried_in_its_exchange(
    client: OpenAI, ledger: Any, simulator: Any, retries: int
) -> None:
    app = App(client.with_options(max_retries=retries), ledger, simulator)
    app.ask("one")
    before = list(app.ask("two"))
    fault = {"status": 500, "headers": {"retry-after-ms": "1"}}
    simulator.add_fault("POST /chat/completions", refuse=fault)
    if not retries:
        with pytest.raises(openai.InternalServerError):
            app.edit(2, "second")
    app.shown = before
    app.edit(2, "second")
    runs = list(ledger.exchanges(app.key).runs.values())
    assert [run.state for run in runs] == ["completed", "completed", "failed", "completed"]
    assert runs[2].exchange_id == runs[3].exchange_id
    assert app.memory() == before
    app.ask("three")
    assert app.memory() == app.shown
    assert len(app.journaled()) == 8


# What is recorded as before


def read_no_branches(monkeypatch: pytest.MonkeyPatch, ledger: Any) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the branches are read")

    monkeypatch.setattr(type(ledger.journal), "places", refuse)
    monkeypatch.setattr(type(ledger.journal), "newest", refuse)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_of_windows_and_whole_histories_that_continue_memory_no_branch_is_read(
    app: App, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    for number in range(4):
        app.ask(f"question {number}")
    before = app.memory()
    read_no_branches(monkeypatch, app.ledger)
    app.ask("whole")
    if window > 1:
        app.call([*app.shown, "windowed"][-window:])
        assert app.memory() == [*before, *app.shown[-2:], "windowed", f"answer {app.sent}"]


def test_a_short_history_in_a_long_conversation_reads_nothing_of_it(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        app.ask(f"question {number}")
    monkeypatch.setattr(branches, "TREE_MESSAGES_MAX", 7)
    read_no_branches(monkeypatch, app.ledger)
    before = app.memory()
    app.edit(2, "second")
    assert app.memory() == [*before, "second", app.shown[-1]]  # as a window


UNKNOWN = {
    "another answer than the model gave": ["one", "changed by the app", "three"],
    "a summary in place of the beginning": ["Until now: one.", "I see.", "two", "answer 2", "three"],
    "a window with a gap": ["one", "answer 2", "three"],
}


@pytest.mark.parametrize("history", UNKNOWN.values(), ids=UNKNOWN)
def test_a_history_that_cannot_be_placed_is_a_window(app: App, history: list[str]) -> None:
    app.ask("one")
    before = list(app.ask("two"))
    app.call(history)
    assert app.memory() == [*before, "three", "answer 3"]
    assert all(each.parent_version is None for each in app.journaled())


def test_questions_without_a_history_follow_each_other_as_long_as_the_app_sends_none(app: App) -> None:
    for text in ("one", "two", "three", "two"):
        app.call([text])
    assert app.memory() == ["one", "answer 1", "two", "answer 2", "three", "answer 3", "two", "answer 4"]


def test_a_question_in_the_place_of_one_without_an_answer_follows_it(app: App) -> None:
    before = list(app.ask("one"))
    app.simulator.add_fault("POST /chat/completions", refuse={"status": 400})
    with pytest.raises(openai.BadRequestError):
        app.ask("two")
    app.ask("three")
    assert app.memory() == [*before, "two", "three", app.shown[-1]]


def test_a_history_with_a_message_that_was_retracted_continues_memory(app: App) -> None:
    app.ask("one")
    app.ask("two")
    app.ledger.conversation(app.key).retract(app.journaled()[2].message_id)
    app.ask("three")
    assert app.memory() == [*app.shown[:2], *app.shown[3:]]
    app.edit(4, "third")
    app.ask("four")
    assert app.memory() == [*app.shown[:2], *app.shown[3:]]


def test_the_same_edit_twice_at_the_same_time_is_two_variants(app: App) -> None:
    app.ask("one")
    before = list(app.ask("two"))
    recorder = CallRecorder(app.ledger, app.key)
    history = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), before, strict=False)]
    body = json.dumps({"model": MODEL, "messages": [*history, {"role": "user", "content": "second"}]}).encode()
    runs = [recorder.recorded(Sent("POST", "/v1/chat/completions", body, {})) for _ in range(2)]
    for run in runs:
        assert run is not None
        run.begin()
    second, again = app.journaled()[4:]
    assert (second.content, again.content) == ("second", "second")
    assert second.parent_version == again.parent_version
    assert second.exchange_id != again.exchange_id
    assert app.memory() == before


def test_instructions_in_the_journal_stay_in_front_of_an_edited_first_question(app: App) -> None:
    app.ledger.conversation(app.key).append("system", "Be kind.")
    app.ask("one")
    app.ask("two")
    app.edit(0, "first")
    app.ask("three")
    assert app.memory() == ["Be kind.", *app.shown]


# Any order


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    kinds = st.sampled_from(["ask", "ask", "edit", "regenerate", "back", "title", "same"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 9), st.integers(0, 9)), max_size=12))


@pytest.mark.parametrize("surface", SURFACES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories())
def test_after_each_continued_request_memory_is_what_the_app_sent_and_its_answer(
    client: OpenAI, ledger: Any, simulator: Any, surface: str, story: list[tuple[str, int, int]]
) -> None:
    app = App(client, ledger, simulator, f"k-{next(KEYS)}", surface)
    app.ask()
    app.ask()  # now it is known that the app sends whole histories
    views, ends = [list(app.shown)], {tuple(app.shown)}
    memory = app.memory()
    for kind, one, other in story:
        before = list(app.shown)
        questions = range(0, len(before), 2)
        if kind == "ask":
            app.ask()
        elif kind == "same":
            app.ask(before[0])
        elif kind == "edit":
            app.edit(questions[one % len(questions)])
        elif kind == "regenerate":
            app.regenerate(questions[one % len(questions)] + 1)
        elif kind == "back":
            app.shown = views[one % len(views)]
            app.shown = app.shown[: 2 * (1 + other % (len(app.shown) // 2))]
        else:
            app.title()
        if kind in {"ask", "same"} and tuple(before) in ends:
            ends.discard(tuple(before))
            memory = list(app.shown)
        if kind not in {"title", "back"}:
            ends.add(tuple(app.shown))
            views.append(list(app.shown))
        assert app.memory() == memory
    texts = [each.content for each in app.journaled()]
    assert texts.count("Be brief.") == 0
    answers = [text for text in texts if str(text).startswith("answer ")]
    assert len(answers) == len(set(answers)) == app.sent
    seen = {text for view in views for text in view}
    assert seen <= set(map(str, texts))


KEYS = count(1)
