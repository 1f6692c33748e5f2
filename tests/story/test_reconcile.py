"""Test reconcile with the real outbox and the simulator.

A thread changed by another program is repaired, and nothing is duplicated or lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import ExitStack, closing
from itertools import count

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadledger.domain.conversation import text_message
from threadledger.domain.conversation.messages import Role, Source
from threadledger.domain.effects import drivers as driving
from threadledger.domain.errors import ConversationNotFound, InvalidInput
from threadledger.domain.ledger import AsyncLedger
from threadledger.domain.threads import ThreadState, claims

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

ADD = {
    "assistants": "POST /threads/{thread_id}/messages",
    "conversations": "POST /conversations/{conversation_id}/items",
}
READ = {name: route.replace("POST", "GET") for name, route in ADD.items()}
CREATE = {"assistants": "POST /threads", "conversations": "POST /conversations"}
MODEL_CALLS = {"POST /threads/{thread_id}/runs", "POST /responses", "POST /chat/completions"}


@pytest.fixture(params=["conversations", "assistants"])
def kind(request):
    return request.param


class Stage:
    """Hold a ledger with one kind of thread, and let another program change threads at the provider."""

    def __init__(self, open_ledger, simulator, kind):
        self.simulator, self.kind = simulator, kind
        self.open = lambda **how: open_ledger(**({"backends": ("chat",), "threads": kind, "retries": 0} | how))
        self.ledger = self.open()
        self.sdk = openai.OpenAI(base_url=simulator.base_url, api_key="sk-other", max_retries=0)
        self.numbers = count()

    def close(self):
        self.sdk.close()

    def journaled(self, letters, key="k"):
        for letter in letters:
            self.ledger.conversation(key).append("user" if letter.isupper() else "assistant", letter)

    def thread_id(self, key="k"):
        return self.ledger.state(key).links[self.kind].thread_id

    def entries(self, thread_id=None, key="k"):
        store, thread_id = self.simulator.provider.store, thread_id or self.thread_id(key)
        if self.kind == "assistants":
            return store.threads[thread_id].messages
        return store.conversations[thread_id].items

    def write(self, text, role="user", key="k"):
        """Append to the thread as another program."""
        if self.kind == "assistants":
            self.sdk.beta.threads.messages.create(self.thread_id(key), role=role, content=text)
        else:
            item = {"type": "message", "role": role, "content": text}
            self.sdk.conversations.items.create(self.thread_id(key), items=[item])

    def arrange(self, wanted, key="k"):
        """Make the thread hold these letters in this order; existing letters keep their entries, others get new ones."""
        new = list((Counter(wanted) - Counter(self.thread(key))).elements())
        for letter in new:
            self.write(letter, key=key)
        entries = self.entries(key=key)
        by_text = {}
        for entry_id, entry in list(entries.items()):
            by_text.setdefault(self.text(entry), []).append((entry_id, entry))
            del entries[entry_id]
        for letter in wanted:
            entry_id, entry = by_text[letter].pop(0)
            entries[entry_id] = entry

    def text(self, entry):
        if entry.get("type") == "function_call":
            return f"call {entry['call_id']}"
        if entry.get("type") == "function_call_output":
            return f"result {entry['call_id']}"
        return self.part(entry)["value"] if self.kind == "assistants" else self.part(entry)["text"]

    def part(self, entry):
        return entry["content"][0]["text"] if self.kind == "assistants" else entry["content"][0]

    def thread(self, key="k"):
        """Return the letters in the linked thread."""
        return "".join(self.text(entry) for entry in self.entries(key=key).values())

    def journal(self, key="k"):
        return "".join(each.message.text for each in self.ledger.memory(key).messages)

    def adopted(self, key="k"):
        messages = self.ledger.memory(key).messages
        return "".join(each.message.text for each in messages if each.source is Source.ADOPTED)

    def plan(self, key="k", adopt=False, ledger=None):
        return (ledger or self.ledger).replay.plan_reconcile([key], adopt=adopt)

    def reconcile(self, key="k", adopt=False):
        (item,) = self.plan(key, adopt).apply() or self.plan(key, adopt).items
        return item

    def state(self, key="k"):
        (found,) = self.ledger.replay.verify([key], self.kind)
        return found.found.state

    def recorded(self, *types):
        return [logged.event for logged in self.ledger.events(types=types)]


@pytest.fixture
def staged(open_ledger, simulator):
    """Return a function that creates a stage for one kind of thread: `staged("assistants")`."""
    with ExitStack() as opened:
        yield lambda kind: opened.enter_context(closing(Stage(open_ledger, simulator, kind)))


@pytest.fixture
def stage(staged, kind):
    return staged(kind)


SAME_AFTER = [
    # journal, thread, whether --adopt is given; actions, resulting journal
    ("AbC", "AbC", False, "none", "AbC"),
    ("AbC", "Ab", False, "send", "AbC"),
    ("AbC", "", False, "send", "AbC"),
    ("AbC", "AC", False, "rebuild", "AbC"),
    ("AbC", "bC", False, "rebuild", "AbC"),
    ("AbC", "CAb", False, "rebuild", "AbC"),
    ("AAb", "Ab", False, "rebuild", "AAb"),
    ("AbC", "AbCX", True, "adopt", "AbCX"),
    ("AbC", "AXbC", True, "adopt+rebuild", "AbCX"),
    ("AbC", "XAbYCZ", True, "adopt+rebuild", "AbCXYZ"),
    ("AbC", "AbX", True, "adopt+rebuild", "AbCX"),
    ("AbC", "AXC", True, "adopt+rebuild", "AbCX"),
    ("AbC", "AXC", False, "rebuild", "AbC"),
    ("AbC", "AbCXX", True, "adopt", "AbCXX"),
]


@pytest.mark.parametrize(("journal", "thread", "adopt", "action", "then"), SAME_AFTER)
def test_afterwards_the_thread_equals_the_journal_and_a_second_time_changes_nothing(
    stage, journal, thread, adopt, action, then
):
    stage.journaled(journal)
    stage.arrange(thread)
    before = stage.thread_id()
    (planned,) = stage.plan(adopt=adopt).items
    item = stage.reconcile(adopt=adopt)
    assert (planned.action, item.action) == (action, action)
    assert (planned.state, item.state) == (("skipped",) * 2 if action == "none" else ("planned", "done"))
    assert (stage.journal(), stage.thread()) == (then, then)
    assert (stage.thread_id() != before) == ("rebuild" in action)
    assert item.new_thread_id == (stage.thread_id() if "rebuild" in action else None)
    assert stage.state() is ThreadState.SAME
    version, requests = stage.ledger.state("k").version, len(writes(stage))
    assert stage.reconcile(adopt=adopt).state == "skipped"
    assert (stage.ledger.state("k").version, len(writes(stage))) == (version, requests)


def writes(stage):
    return [request for request in stage.simulator.requests if request.method != "GET"]


@pytest.mark.parametrize(("journal", "thread", "sent"), [("AbC", "AbCX", 0), ("AbC", "AXbC", 0), ("AbC", "AbX", 1)])
def test_without_adopt_what_is_foreign_stays_where_it_is_and_is_told(stage, journal, thread, sent):
    stage.journaled(journal)
    stage.arrange(thread)
    item = stage.reconcile()
    assert item.state == ("done" if sent else "skipped")
    assert (item.foreign, item.sent, item.new_thread_id) == (1, sent, None)
    assert "1 foreign entry" in item.reason
    assert "--adopt" in item.reason
    assert stage.thread() == thread + journal[len(journal) - sent :]
    assert (stage.journal(), stage.adopted()) == (journal, "")


def test_a_plan_writes_nothing_neither_here_nor_there(stage):
    stage.journaled("AbC")
    stage.arrange("XAC")
    version, before = stage.ledger.state("k").version, len(writes(stage))
    (item,) = stage.plan(adopt=True).items
    assert (item.state, item.action, item.thread_id) == ("planned", "adopt+rebuild", stage.thread_id())
    assert (stage.ledger.state("k").version, len(writes(stage))) == (version, before)


def test_a_text_that_was_changed_is_written_anew(stage):
    stage.journaled("AbC")
    entry = list(stage.entries().values())[1]
    stage.part(entry)["value" if stage.kind == "assistants" else "text"] = "changed"
    item = stage.reconcile()
    assert (item.action, item.different, item.state) == ("rebuild", 1, "done")
    assert (stage.thread(), stage.journal()) == ("AbC", "AbC")


def test_a_thread_that_is_gone_is_written_anew(stage):
    stage.journaled("AbC")
    stage.simulator.lose(stage.thread_id())
    item = stage.reconcile()
    assert (item.action, item.state, item.sent) == ("rebuild", "done", 3)
    assert (stage.thread(), stage.state()) == ("AbC", ThreadState.SAME)


def test_a_thread_that_goes_between_plan_and_step_is_written_anew(stage):
    stage.journaled("AbC")
    stage.arrange("Ab")
    plan = stage.plan()
    assert plan.items[0].action == "send"
    stage.simulator.lose(stage.thread_id())
    (item,) = plan.apply()
    assert (item.action, item.state) == ("rebuild", "done")
    assert stage.thread() == "AbC"


def test_a_conversation_without_a_thread_gets_one(stage):
    unlinked = stage.open(threads="none")
    unlinked.conversation("new").append("user", "A")
    (item,) = stage.ledger.replay.plan_reconcile(["new"]).apply()
    assert (item.action, item.state, item.thread_id) == ("rebuild", "done", None)
    assert stage.thread("new") == "A"


def test_a_thread_at_another_endpoint_is_written_anew_at_this_one(stage):
    stage.journaled("Ab")
    moved = ("elsewhere", "https://other.example/v1")
    stage.ledger.journal.commit("k", lambda conversation: conversation.link_thread(stage.kind, *moved))
    item = stage.reconcile()
    assert (item.action, item.state, item.thread_id) == ("rebuild", "done", "elsewhere")
    assert "other.example" in item.reason
    assert stage.thread() == "Ab"


def test_what_was_mended_is_recorded(stage):
    stage.journaled("AbC")
    stage.arrange("AX")
    stage.reconcile(adopt=True)
    (adopted,) = stage.recorded("ThreadReconciled")
    assert (adopted.backend, adopted.adopted, adopted.sent) == (stage.kind, 1, 0)
    (rebuilt,) = stage.recorded("ThreadRebuilt")
    assert (rebuilt.message_count, rebuilt.old_thread_id) == (4, adopted.thread_id)
    stage.arrange("AbC")
    stage.reconcile()
    sent = stage.recorded("ThreadReconciled")[-1]
    assert (sent.sent, sent.adopted, sent.memory_version) == (1, 0, sent.originator_version - 1)


def test_an_adopted_message_says_where_it_came_from_and_is_never_sent_there_again(stage):
    stage.journaled("Ab")
    stage.write("words", role="assistant")
    entry_id = list(stage.entries())[-1]
    stage.reconcile(adopt=True)
    journaled = stage.recorded("MessageJournaled")[-1]
    assert (journaled.source, journaled.role, journaled.content) == ("adopted", "assistant", "words")
    assert journaled.idempotency_key == f"adopted:{stage.kind}:{stage.thread_id()}:{entry_id}"
    stage.journaled("C")
    assert stage.thread() == "AbwordsC"
    assert stage.state() is ThreadState.SAME


def test_a_thread_that_only_seems_to_be_listed_in_reverse_is_written_anew(stage):
    stage.journaled("ABA")
    stage.arrange("BA")
    item = stage.reconcile()
    assert (item.state, item.action) == ("done", "send+rebuild")
    assert (stage.thread(), stage.state()) == ("ABA", ThreadState.SAME)


WEB = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FOREIGN = {
    "assistants": [{"type": "text", "text": "see"}, WEB],
    "conversations": [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
    ],
}


def test_the_parts_of_a_foreign_message_are_adopted(stage):
    stage.journaled("A")
    stage.write(FOREIGN[stage.kind])
    item = stage.reconcile(adopt=True)
    assert (item.action, item.adopted, item.state) == ("adopt", 1, "done")
    *_, last = stage.ledger.memory("k").as_chat_messages()
    data = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "auto"}}
    more = [] if stage.kind == "assistants" else [data, {"type": "text", "text": "[file not shown]"}]
    assert last["content"] == [{"type": "text", "text": "see"}, WEB, *more]
    assert stage.state() is ThreadState.SAME
    assert stage.reconcile(adopt=True).state == "skipped"


def test_a_foreign_image_of_which_only_the_provider_has_the_bytes_is_adopted_by_its_name(staged):
    stage = staged("conversations")
    stage.journaled("A")
    kept = stage.sdk.files.create(file=("a.png", b"\x89PNG\r\n\x1a\n"), purpose="vision")
    stage.write([{"type": "input_text", "text": "see"}, {"type": "input_image", "file_id": kept.id, "detail": "auto"}])
    assert stage.reconcile(adopt=True).adopted == 1
    assert stage.journal() == f"Asee\n\n[file {kept.id}]"
    assert stage.state() is ThreadState.SAME


def test_a_foreign_tool_call_is_adopted_with_its_result(staged):
    stage = staged("conversations")
    stage.journaled("A")
    call = {"type": "function_call", "name": "look", "arguments": '{"at":1}'}
    items = [
        {"type": "message", "role": "developer", "content": "be kind"},
        call | {"call_id": "c1"},
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {"type": "function_call_output", "call_id": "c2", "output": "a dog"},
    ]
    stage.sdk.conversations.items.create(stage.thread_id(), items=items)
    item = stage.reconcile(adopt=True)
    assert (item.action, item.adopted, item.state) == ("adopt", 4, "done")
    messages = [each.message for each in stage.ledger.memory("k").messages]
    assert [message.role for message in messages] == [
        *(Role.USER, Role.DEVELOPER, Role.ASSISTANT, Role.TOOL, Role.TOOL)
    ]
    assert [(call.id, call.name, call.arguments) for call in messages[2].calls()] == [
        ("c1", "look", '{"at":1}'),
        ("c2", "look", '{"at":1}'),
    ]
    assert stage.state() is ThreadState.SAME


def test_a_foreign_call_that_never_got_its_result_is_left_in_the_old_thread(staged):
    stage = staged("conversations")
    stage.journaled("A")
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    stage.sdk.conversations.items.create(stage.thread_id(), items=[call])
    item = stage.reconcile(adopt=True)
    assert (item.action, item.adopted, item.state) == ("rebuild", 0, "done")
    assert (stage.thread(), stage.journal()) == ("A", "A")


def test_what_was_taken_out_of_memory_is_not_adopted_from_a_thread_that_still_shows_it(stage):
    stage.journaled("Ab")
    secret = stage.ledger.conversation("k").append("user", "secret")
    stage.ledger.conversation("k").retract(secret.message_id)
    assert stage.thread() == "Absecret"
    item = stage.reconcile(adopt=True)
    assert (item.action, item.adopted, item.state) == ("rebuild", 0, "done")
    assert (stage.thread(), stage.journal()) == ("Ab", "Ab")


def test_an_adopted_message_that_was_taken_out_of_memory_is_not_adopted_again(stage):
    stage.journaled("A")
    stage.write("X")
    stage.reconcile(adopt=True)
    stage.ledger.conversation("k").retract(stage.ledger.memory("k").messages[-1].message_id)
    stage.reconcile(adopt=True)
    assert (stage.thread(), stage.journal()) == ("A", "A")


def test_with_two_kinds_of_thread_each_is_mended_and_what_one_brought_is_in_the_other(staged, simulator):
    stage = staged("conversations")
    stage.journaled("Ab")
    stage.ledger.replay.plan_rebuild(["k"], to="assistants").apply()
    stage.write("X")
    messages = simulator.provider.store.threads[stage.ledger.state("k").links["assistants"].thread_id].messages
    del messages[next(iter(messages))]
    items = stage.ledger.replay.plan_reconcile(["k"], adopt=True).apply()
    assert [(item.backend, item.state) for item in items] == [("conversations", "done"), ("assistants", "done")]
    assert [found.found.state for found in stage.ledger.replay.verify(["k"])] == [ThreadState.SAME] * 2


TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
PROFILE = 'name = "John"\n[[tools]]\nname = "weather"\n[tools.parameters]\ntype = "object"\n'


@pytest.mark.parametrize(("backend", "kind"), [("assistants", "assistants"), ("responses", "conversations")])
@pytest.mark.parametrize("place", [0, 2, -1])
def test_in_a_thread_where_runs_took_place_only_what_is_foreign_is_adopted(
    staged, open_ledger, simulator, tmp_path, backend, kind, place
):
    profile = tmp_path / "john.toml"
    profile.write_text(PROFILE)
    how = {"backends": (backend,), "threads": kind, "profile": profile}
    ledger = open_ledger({"weather": lambda city: f"sunny in {city}"}, **how)
    simulator.answer(TOOL, "It is sunny.", "Goodbye.")
    chat = ledger.conversation("k")
    chat.ask("Will it rain?")
    chat.append("user", "Thank you.")
    chat.ask("Bye")
    stage = staged(kind)
    before = [each.message_id for each in ledger.memory("k").messages]
    assert stage.reconcile(adopt=True).state == "skipped"
    stage.write("X")
    entries = list(stage.entries().items())
    entries.insert(place % len(entries), entries.pop())
    for entry_id, _ in entries:
        del stage.entries()[entry_id]
    for entry_id, entry in entries:
        stage.entries()[entry_id] = entry
    item = stage.reconcile(adopt=True)
    assert (item.state, item.adopted) == ("done", 1)
    assert stage.state() is ThreadState.SAME
    assert [each.message_id for each in ledger.memory("k").messages][:-1] == before
    assert chat.ask("Still there?").text == "You said: Still there?"
    assert stage.state() is ThreadState.SAME


# Invalid lines


@pytest.mark.parametrize("landing", ["lose_answer", "drop"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_over_a_bad_line_nothing_is_doubled(stage, landing, after):
    stage.journaled("AbCdEf")
    stage.arrange("Ab")
    stage.simulator.add_fault(ADD[stage.kind], after=after, times=2, **{landing: True})
    assert stage.reconcile().state == "done"
    assert stage.thread() == "AbCdEf"


def test_a_write_that_lands_late_is_no_foreign_message(stage):
    stage.journaled("A")
    stage.simulator.add_fault(ADD[stage.kind], land_late=3)
    stage.journaled("b")
    for _ in range(3):
        stage.reconcile(adopt=True)
    assert (stage.thread(), stage.journal()) == ("Ab", "Ab")
    assert stage.adopted() == ""


def test_a_read_that_is_refused_for_a_moment_is_asked_again(stage):
    stage.journaled("AbC")
    stage.arrange("Ab")
    stage.simulator.add_fault(READ[stage.kind], refuse={"status": 429}, times=2)
    (item,) = stage.plan().items
    assert (item.state, item.action) == ("planned", "send")


def test_one_that_fails_does_not_stop_the_others_and_says_why(stage):
    for key in ("bad", "good"):
        stage.journaled("AbC", key)
        stage.arrange("Ab", key)
    plan = stage.ledger.replay.plan_reconcile(["bad", "good"])
    assert [item.action for item in plan.items] == ["send", "send"]
    stage.simulator.add_fault(READ[stage.kind], refuse={"status": 401})
    failed, done = plan.apply()
    assert (failed.state, done.state) == ("failed", "done")
    assert failed.reason.startswith("authentication: ")
    assert stage.thread("good") == "AbC"


def test_a_plan_tells_which_threads_cannot_be_read(stage):
    stage.journaled("A")
    stage.simulator.add_fault(READ[stage.kind], refuse={"status": 401})
    plan = stage.plan()
    assert plan.items[0].state == "failed"
    assert list(plan.pins()) == []


# Concurrent writers


def test_a_conversation_that_moved_on_since_the_plan_is_skipped(stage):
    stage.journaled("AbC")
    stage.arrange("Ab")
    plan = stage.plan()
    assert plan.items[0].state == "planned"
    stage.journaled("D")
    (item,) = plan.apply()
    assert (item.state, item.in_the_way) == ("skipped", True)
    assert "changed since the plan" in item.reason


def test_while_a_run_is_open_nothing_is_done(stage):
    stage.journaled("A")
    stage.write("X")
    plan = stage.plan(adopt=True)
    assert plan.items[0].state == "planned"
    with stage.ledger.conversation("k").run(backend="my-llm", model="llama") as run:
        (item,) = stage.plan(adopt=True).items
        assert (item.state, item.in_the_way) == ("skipped", True)
        assert "is open" in item.reason
        assert stage.plan(adopt=True).apply() == [item]
        run.complete("b")
    assert stage.adopted() == ""


def test_a_run_that_begins_meanwhile_keeps_what_it_may_have_written_from_being_adopted(stage):
    for number in count():
        key = f"k{number}"
        stage.journaled("AbC", key)
        stage.write("X", key=key)
        runs, adopted, begun = [], [], ExitStack()

        def run(at, key=key, number=number, runs=runs, adopted=adopted, begun=begun):
            if at == number:
                adopted.append(stage.adopted(key))
                runs.append(begun.enter_context(stage.ledger.conversation(key).run(backend="my-llm", model="llama")))

        with begun:
            item = Alone(stage, key=key).go(meanwhile=run)
            if not runs:
                break
            assert stage.adopted(key) == adopted[0], f"begun at {number}"
            assert item.in_the_way or adopted[0]
            runs[0].complete("d")
    assert number > 5


class Alone:
    """Perform a step effect by effect; it may be stopped at any effect, like a killed process."""

    left: list = []  # noqa: RUF012 - what is left is never closed: a killed process cleans nothing up

    def __init__(self, stage, adopt=True, key="k"):
        self.plan = stage.plan(key, adopt)
        (self.pin,) = self.plan.pins()
        self.effects = self.plan.step(self.pin)

    def go(self, stop_at=None, meanwhile=lambda number: None):
        """Return the result, or None if the step was stopped before an effect."""
        step, given = self.effects.send, None
        for number in count():
            try:
                effect = step(given)
            except StopIteration as end:
                return end.value
            if number == stop_at:
                self.left.append(self.effects)
                return None
            meanwhile(number)
            try:
                step, given = self.effects.send, driving.performed(effect, lambda seconds: None)
            except BaseException as error:  # noqa: BLE001 - the step hears of it
                step, given = self.effects.throw, error


@pytest.mark.parametrize(("journal", "thread"), [("AbC", "AXbC"), ("AbC", "AbCXY")])
def test_wherever_it_is_killed_the_next_one_ends_it_and_nothing_is_doubled(stage, monkeypatch, journal, thread):
    monkeypatch.setattr(claims, "CLAIM_STEP_SECONDS_MAX", 0.0)  # claims of a killed process have expired
    foreign = sorted(set(thread) - set(journal))
    for killed_at in count():
        key = f"k{killed_at}"
        stage.journaled(journal, key)
        stage.arrange(thread, key)
        step = Alone(stage, key=key)
        came_through = step.go(killed_at)
        ended = came_through or driving.perform(step.plan.step(step.pin))
        assert ended.state in {"done", "skipped"}, ended
        assert stage.journal(key) == stage.thread(key) == journal + "".join(foreign), f"killed at {killed_at}"
        if came_through is not None:
            break
    assert killed_at > 10


@pytest.mark.parametrize("thread", ["AbCX", "AXbC", "Ab"])
def test_whenever_somebody_journals_meanwhile_nothing_is_doubled_or_missing(stage, thread):
    other = stage.open()
    for number in count():
        key = f"k{number}"
        stage.journaled("AbC", key)
        stage.arrange(thread, key)
        appended = []

        def append(at, key=key, number=number, appended=appended):
            if at == number:
                appended.append(other.conversation(key).append("user", "M"))

        item = Alone(stage, key=key).go(meanwhile=append)
        assert item.state == ("skipped" if number == 0 else "done"), f"journaled at {number}: {item}"
        assert number == 0 or stage.journal(key) == stage.thread(key), f"journaled at {number}"
        stage.reconcile(key, adopt=True)
        assert Counter(stage.journal(key)) == Counter("AbC" + ("X" if "X" in thread else "") + "M" * len(appended))
        assert stage.journal(key) == stage.thread(key), f"journaled at {number}"
        if not appended:
            break
    assert number > 10


def test_what_its_writer_journals_before_it_is_adopted_is_one_message(stage):
    for number in count():
        key = f"k{number}"
        stage.journaled("AbC", key)
        stage.write("X", key=key)
        expected = []

        def append(at, key=key, number=number, expected=expected):
            if at == number:
                expected.append("AbCXX" if stage.adopted(key) else "AbCX")
                stage.ledger.journal.commit(key, lambda conversation: conversation.journal(text_message("user", "X")))

        Alone(stage, key=key).go(meanwhile=append)
        stage.reconcile(key, adopt=True)
        if not expected:
            break
        assert [stage.journal(key), stage.thread(key)] == expected * 2, f"journaled at {number}"
    assert number > 10


def test_two_at_once_adopt_once(stage):
    stage.journaled("AbC")
    stage.write("X")
    for number in (3, 5, 7, 9):
        stage.write("Y")
        other = stage.open()

        def meddle(at, number=number, other=other):
            if at == number:
                other.replay.plan_reconcile(["k"], adopt=True).apply()

        Alone(stage).go(meanwhile=meddle)
        stage.reconcile(adopt=True)
        assert stage.journal() == stage.thread()
    assert Counter(stage.journal()) == Counter("AbCXYYYY")


def test_beside_an_app_that_journals_all_the_time_nothing_is_doubled_or_missing(stage):
    app = stage.open()
    app.conversation("k").append("user", "start")

    def talk():
        for number in range(15):
            app.conversation("k").append("user", f"<{number}>")

    talking = threading.Thread(target=talk)
    talking.start()
    for number in range(4):
        stage.write(f"[{number}]")
        stage.plan(adopt=True).apply()
    talking.join()
    stage.reconcile(adopt=True)
    assert stage.state() is ThreadState.SAME
    said = Counter(each.message.text for each in stage.ledger.memory("k").messages)
    assert said == Counter(["start", *(f"<{n}>" for n in range(15)), *(f"[{n}]" for n in range(4))])


# All conversations together


def test_a_plan_is_for_keys_for_all_or_for_the_first_of_them(stage):
    for key in "abc":
        stage.journaled("A", key)
    assert len(stage.ledger.replay.plan_reconcile().items) == 3
    assert [item.key for item in stage.ledger.replay.plan_reconcile(limit=2).items] == ["a", "b"]
    with pytest.raises(ConversationNotFound):
        stage.ledger.replay.plan_reconcile(["nobody"])
    with pytest.raises(InvalidInput, match="no threads of kind 'nowhere'"):
        stage.ledger.replay.plan_reconcile(["a"], to="nowhere")


def test_the_same_for_apps_that_await(stage):
    stage.journaled("AbC")
    stage.arrange("AXb")

    async def mend():
        async with AsyncLedger(stage.open()) as ledger:
            plan = await ledger.replay.plan_reconcile(["k"], adopt=True)
            assert [item.state for item in plan.items] == ["planned"]
            (item,) = await plan.apply()
            return item

    assert asyncio.run(mend()).state == "done"
    assert stage.journal() == stage.thread() == "AbCX"


def test_a_job_of_another_process_can_be_gone_on_with(stage):
    for key in "ab":
        stage.journaled("AbC", key)
        stage.arrange("AbCX", key)
    plan = stage.ledger.replay.plan_reconcile(adopt=True)
    next(plan.each(stop=lambda done=[]: done.append(1) or len(done) > 1), None)
    other = stage.open()
    other.replay.resume(plan.job.job_id)
    assert [stage.journal(key) for key in "ab"] == ["AbCX", "AbCX"]


def test_many_at_once_over_a_bad_line_are_all_mended_once_they_were_resumed(stage):
    keys = [f"k{number}" for number in range(12)]
    for number, key in enumerate(keys):
        stage.journaled("AbCdE", key)
        stage.arrange(("AbCd", "XAbCdE", "AbXCd", "bAX")[number % 4], key)
    plan = stage.ledger.replay.plan_reconcile(adopt=True)
    assert {item.state for item in plan.items} == {"planned"}
    for route in (ADD[stage.kind], READ[stage.kind], CREATE[stage.kind]):
        stage.simulator.add_fault(route, lose_answer=True, times=None, probability=0.1)
        stage.simulator.add_fault(route, refuse={"status": 500}, times=None, probability=0.05)
    plan.apply(concurrency=4)
    stage.simulator.clear_faults()
    plan.resume(concurrency=4)
    for number, key in enumerate(keys):
        assert stage.journal(key) == stage.thread(key) == "AbCdE" + "X" * (number % 4 > 0), key


def test_nobody_asks_a_model(stage):
    stage.journaled("AbC")
    stage.arrange("XC")
    stage.reconcile(adopt=True)
    assert not MODEL_CALLS.intersection(request.template for request in stage.simulator.requests)


LETTERS = st.text("ABab", min_size=1, max_size=8)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(journal=LETTERS, seed=st.randoms(use_true_random=False), foreign=st.text("XYAa", max_size=4))
def test_whatever_is_done_to_a_thread_afterwards_it_is_the_same_and_no_message_is_doubled_or_lost(
    stage, journal, seed, foreign
):
    key = f"k{next(stage.numbers)}"
    stage.journaled(journal, key)
    entries = [letter for letter in journal if seed.random() < 0.8]
    for letter in foreign:
        entries.insert(seed.randint(0, len(entries)), letter)
    for _ in range(seed.randint(0, 2)):
        if entries:
            one, other = seed.randrange(len(entries)), seed.randrange(len(entries))
            entries[one], entries[other] = entries[other], entries[one]
    stage.arrange("".join(entries), key)
    held = Counter(entries)
    item = stage.reconcile(key, adopt=True)
    assert item.state in {"done", "skipped"}, item
    assert stage.state(key) is ThreadState.SAME
    assert Counter(stage.journal(key)) == Counter(journal) | held
    assert stage.journal(key).startswith(journal)
