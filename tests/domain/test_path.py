"""The hash of a memory: canonical JSON, the chain over a path, what the head knows of it, and what it costs to compute."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial as fact
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from threadledger.domain.canonical import EMPTY_PATH, canonical_json, neutral_json, path_of
from threadledger.domain.conversation import Conversation, ConversationState, RunPlan, evolve, parse_message
from threadledger.domain.conversation import events as e
from threadledger.domain.journal.newest import path_hash
from threadledger.domain.journal.recall import recall
from threadledger.domain.memory import fold_memory

from .test_recall import STREAM, Log

# Canonical JSON

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
VECTORS = [json.loads(line) for line in re.findall(r"^    (\{\"stored\".*\})$", DOCUMENT, re.MULTILINE)]
"""Stored messages, one after another, each with its neutral form and the hash of the path up to it."""


def test_the_vectors_of_the_documentation_are_what_is_computed() -> None:
    assert len(VECTORS) >= 8
    path = EMPTY_PATH
    assert f"`{path}`" in DOCUMENT
    for vector in VECTORS:
        neutral = neutral_json(**vector["stored"])
        path = path_of([neutral], path)
        assert (neutral.decode(), path) == (vector["neutral"], vector["path"])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(values)
@example({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "a": [1e16, -0.0, 1.0, 10**30]})
def test_canonical_json_is_the_value_with_its_keys_in_the_order_of_utf_16(value: Any) -> None:
    text = canonical_json(value).decode()
    assert json.loads(text) == value
    keys: list[list[str]] = []
    json.loads(text, object_pairs_hook=lambda pairs: keys.append([key for key, _ in pairs]))
    for each in keys:
        assert each == sorted(each, key=lambda key: key.encode("utf-16-be"))
    assert canonical_json(json.loads(json.dumps(value))) == canonical_json(value)


@given(st.text(), st.sampled_from(["user", "assistant", "critic"]))
@example('\x00\x1f\x7f\x80\u2028"\\/\b\f\n\r\t\U0001f600', "user")
@example("half \ud800 \\ud800", "user")
def test_the_short_way_for_a_plain_text_writes_what_the_general_one_writes(text: str, role: str) -> None:
    assert neutral_json(role, text) == canonical_json({"role": role, "content": text})


def test_half_a_character_is_not_its_escape_in_a_text() -> None:
    assert neutral_json("user", "\ud800") != neutral_json("user", "\\ud800")


def test_other_fields_are_covered_by_a_hash_and_the_name_as_it_is() -> None:
    neutral = json.loads(neutral_json("user", "Hi", extra={"name": "Ann", "weight": 1}))
    assert (neutral["name"], neutral["extra"]) == ("Ann", sha256(b'{"weight":1}').hexdigest())


# What the head knows

WHAT = [
    *(["says"] * 5),
    *(["answers"] * 2),
    *(["runs"] * 3),
    *["parts", "calls", "retracts", "retracts the newest", "clears", "clears before", "supersedes", "moves", "fails"],
    *(["forgets"] * 2),
]
steps = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 20)), max_size=40)


class Told:
    """A conversation that is told step by step, as programs tell it: each step is one commit on its head."""

    def __init__(self) -> None:
        self.events: list[e.Event] = []
        self.state = ConversationState()
        self.ids: list[str] = []
        self.commit(lambda it: None)

    def commit(self, decide: Any) -> None:
        conversation = Conversation(STREAM, ConversationState.from_json(self.state.as_json()))
        if not self.events:
            conversation = Conversation.start("k")
        decide(conversation)
        self.events += conversation.collect_events()
        self.state = conversation.state

    def say(self, said: dict[str, Any], **more: Any) -> None:
        self.commit(lambda it: self.ids.append(it.journal(parse_message(said), **more).message_id))

    def record(self, kind: Any, **fields: Any) -> None:
        self.commit(lambda it: it.record(kind, **fields))

    def run(self, number: int) -> None:
        """Start a run as `ask` does: it knows the hash as of the version at which it read."""
        version = self.state.version
        path = self.state.path_hash or path_hash(Log(self.events), STREAM, version)  # type: ignore[arg-type]  # no writes
        plan = RunPlan("chat", "m", memory_version=version, path_hash=path, memory_hash=path)

        def decide(conversation: Conversation) -> None:
            if number % 3 == 0:  # another program was faster
                self.ids.append(conversation.journal(parse_message({"role": "user", "content": "faster"})).message_id)
            conversation.start_run(f"x{number}", plan, alongside=True)

        self.commit(decide)

    def forget(self) -> None:
        """Let an earlier version write the head, which does not know the new fields."""
        stored = json.loads(self.state.as_json())
        known = {
            name: value for name, value in stored.items() if name not in {"path_hash", "path_version", "has_parts"}
        }
        self.state = ConversationState.from_json(json.dumps(known))

    def step(self, what: str, number: int) -> None:
        chosen = self.ids[number % len(self.ids)] if self.ids else "nobody"
        accepted = {"exchange_id": "x", "run_id": f"r{number % 2}", "message_id": chosen}
        match what:
            case "says":
                self.say({"role": "user", "content": f"text {number}"})
            case "answers":
                self.say({"role": "assistant", "content": f"answer {number}"}, run_id=f"r{number % 2}")
            case "parts":
                self.say({"role": "user", "content": [{"type": "text", "text": "\U0001f600"}, {"type": "x", "n": 1.5}]})
            case "calls":
                self.say({"role": "tool", "tool_call_id": f"c{number}", "content": "found", "name": "f"})
            case "runs":
                self.run(number)
            case "retracts":
                self.commit(lambda it: it.retract(chosen))
            case "retracts the newest":
                self.commit(lambda it: it.retract(self.ids[-1] if self.ids else chosen))
            case "clears":
                self.commit(lambda it: it.clear_memory())
            case "clears before":
                self.record(e.MemoryCleared, up_to_version=max(self.state.version - number, 0))
            case "supersedes":
                self.record(e.RerunAccepted, **accepted, superseded_message_id=chosen)
            case "moves":
                self.record(e.RerunAccepted, **accepted, behind_message_id=chosen)
            case "fails":
                self.record(e.RunFailed, run_id="r", status="error")
            case "forgets":
                self.forget()


@settings(max_examples=150, deadline=None)
@given(steps)
def test_what_a_head_knows_of_its_memory_is_true_whoever_wrote_it(told: Sequence[tuple[str, int]]) -> None:
    story = Told()
    for what, number in told:
        story.step(what, number)
        memory = fold_memory(story.events)
        oracle = path_of(each.neutral() for each in memory.messages)
        assert story.state.path_hash in {None, oracle}
        assert memory.digest() == oracle
        has_parts = any(isinstance(each.message.content, tuple) for each in memory.messages)
        assert story.state.has_parts in {None, True} or not has_parts
    folded = ConversationState()
    for event in story.events:
        evolve(folded, event)
    assert folded.path_hash in {None, oracle_of(story.events)}
    assert ConversationState.from_json(story.state.as_json()).agrees_with(folded)
    for run in story.events:
        if isinstance(run, e.RunStarted) and run.path_hash is not None:
            assert run.path_hash == oracle_of(story.events, run.memory_version)


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 45))
def test_the_hash_of_a_path_is_that_of_the_whole_from_whatever_checkpoint_it_is_computed(
    told: Sequence[tuple[str, int]], upto: int
) -> None:
    story = Told()
    for what, number in told:
        story.step(what, number)
    version = min(upto, len(story.events))
    log: Any = Log(story.events)
    assert path_hash(log, STREAM, version) == oracle_of(story.events, version)
    read = recall(log, STREAM, version)
    assert read.digest() == oracle_of(story.events, version)
    assert [each.message_id for each in read.messages] == [
        each.message_id for each in fold_memory(story.events, at=version).messages
    ]


def oracle_of(events: Sequence[e.Event], version: int | None = None) -> str:
    return path_of(each.neutral() for each in fold_memory(events, at=version).messages)


def test_another_hash_in_a_stored_head_disagrees_with_the_events(log: Any) -> None:
    folded = ConversationState()
    for event in log(fact(e.ConversationStarted, key="k"), fact(e.MessageJournaled, message_id="m", role="user")):
        evolve(folded, event)
    stored = json.loads(folded.as_json())
    assert ConversationState.from_json(json.dumps(stored)).agrees_with(folded)
    for name, value in {"path_hash": "0" * 64, "path_version": 7}.items():
        assert not ConversationState.from_json(json.dumps(stored | {name: value})).agrees_with(folded)


@pytest.mark.parametrize(
    ("parts", "agreeing"), [([{"type": "text", "text": "a"}], {False, True}), ([{"type": "image_url"}], {True})]
)
def test_a_head_that_counts_text_as_parts_agrees_and_one_that_misses_a_part_does_not(
    log: Any, parts: list[Any], agreeing: set[bool]
) -> None:
    folded = ConversationState()
    said = fact(e.MessageJournaled, message_id="m", role="user", content=parts)
    for event in log(fact(e.ConversationStarted, key="k"), said):
        evolve(folded, event)
    stored = json.loads(folded.as_json())
    heads = {value: ConversationState.from_json(json.dumps(stored | {"has_parts": value})) for value in (False, True)}
    assert {value for value, head in heads.items() if head.agrees_with(folded)} == agreeing


# What it costs


@pytest.mark.parametrize("length", [20, 2_000])
def test_an_unknown_hash_is_computed_from_the_newest_run_and_reads_no_more_of_a_long_conversation(length: int) -> None:
    story = Told()
    story.commit(lambda it: [it.journal(parse_message({"role": "user", "content": "old"})) for _ in range(length)])
    story.run(1)
    story.say({"role": "user", "content": "new"})
    story.say({"role": "user", "content": "wrong"})
    story.step("retracts the newest", 0)
    assert story.state.path_hash is None
    log: Any = Log(story.events)
    assert path_hash(log, STREAM, len(story.events)) == oracle_of(story.events)
    assert log.read == 5  # to the run, and the last message that its hash covers


def test_an_event_that_names_an_older_message_makes_a_run_useless_as_a_checkpoint() -> None:
    story = Told()
    for _ in range(3):
        story.say({"role": "user", "content": "text"})
        story.run(1)
    story.commit(lambda it: it.retract(story.ids[1]))
    log: Any = Log(story.events)
    assert path_hash(log, STREAM, len(story.events)) == oracle_of(story.events)
    assert log.read == len(story.events) - 1  # to the first run, which was before it


def test_a_run_that_computed_the_hash_brings_it_back_into_the_head() -> None:
    story = Told()
    story.say({"role": "user", "content": "a"})
    story.say({"role": "user", "content": "b"})
    story.commit(lambda it: it.retract(story.ids[0]))
    assert story.state.path_hash is None
    story.run(1)
    assert story.state.path_hash == oracle_of(story.events)
    story.say({"role": "user", "content": "c"})
    assert story.state.path_hash == oracle_of(story.events)
