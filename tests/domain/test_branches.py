"""Memory is the path to the selected end, whichever end it is read from, as of any version and through any window."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadledger.domain.conversation import ConversationState, evolve
from threadledger.domain.conversation import events as e
from threadledger.domain.journal import StreamHead
from threadledger.domain.journal.path_memory import along_path, path_hash_along
from threadledger.domain.journal.recall import recall
from threadledger.domain.memory import fold_memory

from .rows_of_events import STREAM, RowsOfEvents

BEGAN = datetime(2026, 11, 30, tzinfo=UTC)
MODEL = Path(__file__).parents[3] / "shared" / "model" / "memory_path.py"

MARKS = {
    *("MessageRetracted", "MemoryCleared", "RerunAccepted", "BranchSelected", "MemoryCompacted", "MessagePinned"),
}


class Log(RowsOfEvents):
    """The rows of one conversation in memory, with the head that its events lead to, and how many rows were read."""

    def __init__(self, kept: Sequence[e.Event]) -> None:
        super().__init__(kept)
        state = ConversationState()
        for event in kept:
            state = evolve(state, event)
        self.state = state
        self.head = StreamHead(STREAM, len(kept), 1, ConversationState.from_json(state.as_json()).as_json())

    def select_head(self, stream: str, changed: Any = None) -> StreamHead | None:
        return self.head

    def read_usual(self, *_: Any) -> bool:
        return False

    def read_ends(self, *_: Any) -> None:
        return None

    def marks(self, stream: str, after: int, upto: int, limit: int, changed: Any = None) -> Iterator[Any]:
        found = [row for row in reversed(self.rows[max(after, 0) : upto]) if row[3] in MARKS][:limit]
        self.read += len(found)
        return iter(found)


@dataclass
class Story:
    """Events as commands would record them, in any order of what people and models do."""

    events: list[e.Event] = field(default_factory=list)
    model: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    """The same as the entries that the model of memory folds."""
    state: ConversationState = field(default_factory=ConversationState)
    parents: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: {"": 0})
    end: str = ""
    beside: set[str] = field(default_factory=set)
    runs: int = 0

    def record(self, kind: type[e.Event], **fields: Any) -> int:
        version = len(self.events) + 1
        at = BEGAN + timedelta(seconds=version)
        event = kind(originator_id=STREAM, originator_version=version, timestamp=at, event_id=f"e{version}", **fields)
        self.events.append(event)
        self.state = evolve(self.state, event)
        return version

    def say(self, parent: str | None = None, run: str | None = None, role: str = "user") -> str:
        name = f"m{len(self.versions)}"
        place = {} if parent is None else {"parent_message_id": parent, "parent_version": self.versions[parent]}
        number = len(self.versions)
        version = self.record(
            e.MessageJournaled, message_id=name, role=role, content=f"text {number}", run_id=run, **place
        )
        self.model.append(
            (
                version,
                "J",
                {
                    "id": number,
                    "parent": None if parent is None else int(parent[1:] or 0),
                    "run": run,
                    "pv": None if parent is None else self.versions[parent],
                },
            )
        )
        self.versions[name] = version
        self.parents[name] = self.end if parent is None else parent
        if parent is None:
            self.end = name
        return name

    def select(self, name: str, hint: bool = True) -> None:
        mark = self.state.mark_version if hint else None
        version = self.record(e.BranchSelected, message_id=name, message_version=self.versions[name], mark_version=mark)
        self.model.append((version, "S", {"id": int(name[1:] or 0), "v": self.versions[name]}))
        self.end = name

    def mark(self, kind: type[e.Event], letter: str, model: dict[str, Any], **fields: Any) -> None:
        self.model.append((self.record(kind, **fields), letter, model))

    def shown(self) -> list[str]:
        return [each.message_id for each in fold_memory(self.events).messages if each.message_id not in self.beside]

    def step(self, what: str, a: int, b: int) -> None:
        shown = self.shown()
        chosen = shown[a % len(shown)] if shown else None
        match what:
            case "say":
                self.say()
            case "instruct":
                self.say(role="system")
            case "edit" if chosen:
                self.select(self.say(self.parents[chosen]))
            case "regenerate" if chosen:
                self.regenerate(chosen, b)
            case "select":
                there = [
                    each
                    for each in self.versions
                    if each and self.versions[each] > self.cleared and each not in self.beside
                ]
                if there:
                    self.select(there[a % len(there)], hint=b % 3 > 0)
            case "retract" if chosen:
                version = self.versions[chosen]
                self.mark(
                    e.MessageRetracted,
                    "R",
                    {"id": int(chosen[1:]), "v": version},
                    message_id=chosen,
                    message_version=version,
                )
            case "clear" if b % 4 == 0:
                upto = len(self.events)
                self.mark(e.MemoryCleared, "C", {"upto": upto}, up_to_version=upto)
            case "rerun" if chosen and chosen not in self.instructions:  # an answer stands behind a question
                self.rerun(chosen, shown, b)
            case "compact" if chosen:
                self.compact(chosen, shown, b)
            case "pin" if chosen:
                on, version = b % 3 != 0, self.versions[chosen]
                self.mark(
                    e.MessagePinned,
                    "P",
                    {"id": int(chosen[1:]), "on": on},
                    message_id=chosen,
                    message_version=version,
                    pinned=on,
                )
            case "run":
                run = f"o{len(self.events)}"
                self.record(
                    e.RunStarted,
                    run_id=run,
                    exchange_id="x",
                    attempt=1,
                    backend="b",
                    model="m",
                    memory_version=len(self.events),
                    path_hash=fold_memory(self.events).digest(),
                )
                self.pad()
            case _:
                pass

    def pad(self) -> None:
        self.model.append((len(self.events), "run", {}))

    @property
    def instructions(self) -> set[str]:
        said = (event for event in self.events if isinstance(event, e.MessageJournaled))
        return {event.message_id for event in said if event.role == "system"}

    @property
    def cleared(self) -> int:
        return max((event.up_to_version for event in self.events if isinstance(event, e.MemoryCleared)), default=0)

    def regenerate(self, question: str, b: int) -> None:
        self.runs += 1
        end, last, leaf = self.end, question, self.versions[question]
        if b % 4 == 0:
            self.record(
                e.RunStarted,
                run_id=f"g{self.runs}",
                exchange_id="x",
                attempt=1,
                backend="b",
                model="m",
                memory_version=len(self.events),
                memory_leaf_version=leaf,
                path_hash=fold_memory(self.events, leaf=leaf).digest(),
            )
            self.pad()
        for _ in range(1 + b % 3):
            last = self.say(last, run=f"g{self.runs}", role="assistant")
        if b % 5 == 0:
            self.say()
        if b % 7 and self.end == end:
            self.select(last)

    def rerun(self, chosen: str, shown: list[str], b: int) -> None:
        self.runs += 1
        run, said = f"r{self.runs}", []
        for _ in range(1 + b % 3):
            said.append(self.versions[self.say(run=run, role="assistant")])
            if b % 4 == 1:
                self.say()
        if b % 6 == 5:
            return
        superseded = shown[b % len(shown)] if b % 2 else None
        behind = chosen if b % 3 else None
        names: dict[str, Any] = {}
        if superseded:
            names |= {"superseded_message_id": superseded, "superseded_version": self.versions[superseded]}
        if behind:
            names |= {"behind_message_id": behind, "behind_version": self.versions[behind], "message_versions": said}
        model = {
            "run": run,
            "sup": int(superseded[1:]) if superseded else None,
            "supv": self.versions[superseded or ""],
            "behind": int(behind[1:]) if behind else None,
            "bv": self.versions[behind or ""],
            "mv": said,
        }
        self.mark(e.RerunAccepted, "A", model, exchange_id="x", run_id=run, message_id="m", **names)

    def compact(self, chosen: str, shown: list[str], b: int) -> None:
        covered = shown[: shown.index(chosen) + 1]
        roles = {event.message_id: event.role for event in self.events if isinstance(event, e.MessageJournaled)}
        system = [self.versions[each] for each in covered if roles[each] == "system"]
        summary = self.say(chosen, role="assistant")
        self.beside.add(summary)
        upto = max(self.versions[each] for each in covered)
        model = {"id": int(summary[1:]), "covers": int(chosen[1:]), "upto": upto}
        self.mark(
            e.MemoryCompacted,
            "K",
            model,
            message_id=summary,
            message_version=self.versions[summary],
            covers_message_id=chosen,
            covers_version=self.versions[chosen],
            upto_version=upto,
            system_versions=system if b % 3 else None,
        )


WHAT = ["say", "say", "edit", "regenerate", "select", "retract", "clear", "rerun", "compact", "pin", "run", "instruct"]
steps = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 50), st.integers(0, 50)), max_size=40)


def story_of(given_steps: Sequence[tuple[str, int, int]]) -> Story:
    story = Story()
    story.record(e.ConversationStarted, key="k")
    story.pad()
    for step in given_steps:
        story.step(*step)
    return story


@pytest.mark.skipif(not MODEL.is_file(), reason="the model of memory is not there")
@settings(max_examples=200)
@given(steps, st.integers(0, 100))
def test_the_path_is_that_of_the_model(given_steps: Sequence[tuple[str, int, int]], cut: int) -> None:
    model: Callable[[Any], tuple[list[int], Any]] = runpy.run_path(str(MODEL))["forward"]
    story = story_of([step for step in given_steps if step[0] != "instruct"])
    for version in (len(story.events), len(story.events) * cut // 100):
        expected = model(story.model[:version])[0]
        assert ids(fold_memory(story.events[:version])) == [f"m{number}" for number in expected]


def ids(memory: Any) -> list[str]:
    return [each.message_id for each in memory.messages]


@settings(max_examples=100)
@given(steps, st.integers(1, 12), st.none() | st.integers(1, 150), st.integers(0, 100), st.integers(0, 50))
def test_the_path_read_from_the_end_is_the_path_folded_from_the_front(
    given_steps: Sequence[tuple[str, int, int]], last: int, tokens: int | None, cut: int, chosen: int
) -> None:
    kept = story_of(given_steps).events
    log: Any = Log(kept)
    for version in (len(kept), len(kept) * cut // 100):
        whole = fold_memory(kept[:version])
        at = None if version == len(kept) else version
        assert ids(recall(log, STREAM, at)) == ids(whole)
        assert ids(along_path(log, log.head, version, None, None, None)) == ids(whole)
        window = whole.window(last, tokens)
        seen = recall(log, STREAM, at, last, tokens)
        assert ids(seen) == ids(window)
        assert seen.first_version == window.first_version
        assert ids(along_path(log, log.head, version, None, last, tokens)) == ids(window)
        assert path_hash_along(log, log.head, version, None) == whole.digest()
        said = [event for event in kept[:version] if isinstance(event, e.MessageJournaled)]
        if said:
            leaf = said[chosen % len(said)].originator_version
            whole = fold_memory(kept[:version], leaf=leaf)
            assert ids(along_path(log, log.head, version, leaf, None, None)) == ids(whole)
            assert path_hash_along(log, log.head, version, leaf) == whole.digest()
            assert ids(along_path(log, log.head, version, leaf, last, tokens)) == ids(whole.window(last, tokens))
    if log.state.path_hash is not None:
        assert log.state.path_hash == fold_memory(kept).digest()
