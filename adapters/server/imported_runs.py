"""Show the runs that an import kept with messages: they have ended, keep their ids, and never change.

A run is as the dump had it. Its steps are made of the messages that it wrote, because the ledger keeps them as messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, Role, restore_message
from threadledger.domain.ids import from_iso

from ..wire import Json, objects
from .contents import MESSAGE, says_anything, seconds, texts_in
from .ids import wire_id
from .run_objects import CALLS, STEP, calls_step, message_step
from .threads import FoundThread, described_since

Holder = e.ConversationStarted | e.MessageJournaled
"""Events with which imported runs are stored."""

Place = tuple[int, int]
"""Where a run is in the list of a thread's runs: the version of its event, and its number among the runs of that event."""


@dataclass(frozen=True)
class ImportedRun:
    """Hold a run of a thread that was imported with it."""

    thread: FoundThread
    facts: Mapping[str, Any]
    """Its fields, as the dump had them."""
    place: Place
    stored_at: int
    """When its message was written, in Unix seconds."""

    @property
    def name(self) -> str:
        """Return its id."""
        return str(self.facts["id"])

    @property
    def ended(self) -> str:
        """Return how it ended; a run that was active when the dump was made has expired since."""
        status = self.facts.get("status")
        if status in objects.RUN_ENDS:
            return str(status)
        return "cancelled" if status == "cancelling" else "expired"

    def object(self) -> Json:
        """Return the API's object of the run: what the dump had, and the default of each field that it had not."""
        created = _whole(self.facts.get("created_at"), self.stored_at)
        assistant = {"id": "", "temperature": 1.0, "top_p": 1.0, "response_format": "auto"}
        body = {"model": "", "metadata": {}}
        made = objects.run(self.name, created, self.thread.thread_id, assistant, body, instructions="", tools=[])
        facts = {name: value for name, value in self.facts.items() if name != "steps"}
        made |= {"expires_at": None, **facts, "created_at": created, "status": self.ended}
        said = described_since(self.thread, [self.name]).get(self.name)
        metadata = made["metadata"] if said is None else said
        return made | {"metadata": texts_in(metadata) if isinstance(metadata, Mapping) else {}}

    def steps(self) -> Iterator[Json]:
        """Yield its steps, oldest first: calls of hosted tools, each message that it wrote, and each with calls of functions."""
        given = self.facts.get("steps")
        facts = {each["id"]: each for each in given if isinstance(each, dict)} if isinstance(given, list) else {}
        shown = self.object()
        hosted = [_as_given(each, shown) for each in facts.values() if isinstance(each.get("step_details"), dict)]
        written = [step | facts.get(step["id"], {}) for step in self._written_steps(shown)]
        known = {step["id"] for step in hosted}
        steps = [*hosted, *(step for step in written if step["id"] not in known)]
        yield from sorted(steps, key=lambda step: _whole(step["created_at"], self.stored_at))

    def _written_steps(self, shown: Json) -> Iterator[Json]:
        said = [(each, restore_message(each)) for each in self._messages()]
        results = {message.tool_call_id: message.text for _, message in said if message.tool_call_id is not None}
        for event, message in said:
            if message.tool_call_id is None and message.role is Role.ASSISTANT:
                yield from self._steps_of(event, message, results, shown)

    def _steps_of(
        self, event: e.MessageJournaled, message: Message, results: Mapping[str, str], shown: Json
    ) -> Iterator[Json]:
        given, own_id = (event.origin.get(name) for name in ("step_id", "message_id"))
        name = given if isinstance(given, str) else wire_id(STEP, event.message_id)
        moment = _whole(event.origin.get("created_at"), seconds(_written(event)))
        calls = message.calls()
        says = says_anything(message)
        if says or not (calls or message.content):
            message_id = own_id if isinstance(own_id, str) else wire_id(MESSAGE, event.message_id)
            yield message_step(name, message_id, moment, shown) | {"usage": None}
        if calls:
            step = calls_step(f"{name}{CALLS}" if says else name, calls, results, moment, shown)
            has_results = all(call.id in results for call in calls)
            status = "completed" if has_results or self.ended == "incomplete" else self.ended
            yield step | {"status": status, f"{status}_at": moment}

    def _messages(self) -> Iterator[e.MessageJournaled]:
        lookups = self.thread.lookups()
        for version in versions_named(self.thread, self.name):
            event = lookups.event(version)
            if isinstance(event, e.MessageJournaled) and event.origin.get("run_id") == self.name:
                yield event


def imported_run(thread: FoundThread, run_id: str) -> ImportedRun | None:
    """Return an imported run of a thread by its id; None if the thread has none, or if no dump had it."""
    lookups = thread.lookups()
    for version in versions_named(thread, run_id):
        event = lookups.event(version)
        runs = runs_in(thread, event) if isinstance(event, Holder) else []
        found = next((run for run in runs if run.name == run_id), None)
        if found is not None:
            return found
    return None


def runs_in(thread: FoundThread, event: Holder) -> list[ImportedRun]:
    """Return the runs that were stored with an event, oldest first."""
    written = seconds(_written(event))
    others = event.origin.get("runs")
    given = [event.origin.get("run"), *(others if isinstance(others, list) else [])]
    facts = [each for each in given if isinstance(each, dict) and isinstance(each.get("id"), str)]
    facts.sort(key=lambda each: _whole(each.get("created_at"), written))
    version = event.originator_version
    return [ImportedRun(thread, each, (version, number), written) for number, each in enumerate(facts)]


def _as_given(facts: Mapping[str, Any], shown: Json) -> Json:
    """Return the API's object of a step of which the dump's details were kept."""
    details = facts["step_details"]
    return objects.run_step(facts["id"], 0, shown, {"type": "tool_calls", **details}) | {**facts}


def versions_named(thread: FoundThread, run_id: str) -> list[int]:
    """Return the versions of the events that an import stored with the id of a run."""
    places = thread.journal.addressed([run_id]).get(run_id, ())
    return sorted({version for stream, version in places if stream == thread.stream})


def _written(event: Holder) -> Any:
    return from_iso(event.written_at) if event.written_at is not None else event.timestamp


def _whole(value: Any, otherwise: int) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
