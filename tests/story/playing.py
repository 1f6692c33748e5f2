"""Play a cell of the fault matrix: a question with a tool call, a second question, then one more message without faults.

`World.problems(cell)` returns the problems found, in sentences; the list should be empty.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.simulator.provider import Provider
from threadledger.adapters.simulator.responses import advance
from threadledger.adapters.simulator.runs import advance as move_on
from threadledger.domain.conversation import Profile
from threadledger.domain.effects import AsyncDriver
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange import Answer, Delta, StartedOver
from threadledger.domain.exchange.policy import reason_of
from threadledger.domain.failures import Cause, Health
from threadledger.domain.ledger import AsyncLedger, Ledger
from threadledger.domain.threads import ThreadOutbox, ThreadState

from .matrix import CHAT, HASTY_SECONDS, Cell

FIRST, SECOND = "How is the weather in Bern?", "And tomorrow?"
PEACE, FOREIGN = "Thank you.", "Somebody else wrote this."
CALL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}

KEY = {"authorization": "Bearer sk-test"}

PATIENT_SECONDS = 20.0
"""Timeout of one attempt, in seconds, if no request hangs."""

LATEST_REQUESTS = 3
"""Number of requests after which late writes have arrived."""

WAITS_MAX = 3_000
"""Maximum number of pauses in one cell; more indicate an endless loop."""

ENDED = {"completed", "failed", "incomplete", "expired", "cancelled"}


@dataclass
class Heard:
    """Hold the result of one question: an answer or an error, and the stream parts."""

    answer: Answer | None = None
    error: BaseException | None = None
    parts: list[Any] = field(default_factory=list)


class World:
    """Hold a simulator, and one ledger for each setup and timeout; each cell is a separate conversation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ledgers: dict[tuple[str, bool], Ledger] = {}
        self._runner = asyncio.Runner()
        self._pool = ThreadPoolExecutor(2)
        self._count = 0
        self.simulator = Simulator(seed=7)

    def __enter__(self) -> World:
        self.simulator.start()
        return self

    def __exit__(self, *_: object) -> None:
        for ledger in self._ledgers.values():
            if ledger.services.aclose is not None:
                self._runner.run(ledger.services.aclose())
            ledger.close()
        self._runner.close()
        self._pool.shutdown()
        self.simulator.stop()

    def problems(self, cell: Cell) -> list[str]:
        """Play the cell, and return the problems found."""
        self._count += 1
        self.simulator.reset()
        return list(Played(self, cell, f"k{self._count}").problems())

    def ledger(self, cell: Cell, key: str, waits: Waits) -> Ledger:
        """Return a ledger for the cell, without recorded failures and without an existing assistant."""
        place = (cell.setup.name, cell.hasty)
        if place not in self._ledgers:
            seconds = HASTY_SECONDS if cell.hasty else PATIENT_SECONDS
            given = {"openai_api_key": "sk-test", "openai_base_url": self.simulator.base_url, "retries": 1}
            given |= {
                "db": f"sqlite:///{self._folder / 'ledger.db'}",
                "synchronous": "NORMAL",
                "timeout_seconds": seconds,
            }
            self._ledgers[place] = open_ledger(load_settings(**given, **cell.setup.settings))
        opened = self._ledgers[place]
        profile = Profile(f"John of {key}", "Be kind.", tools_json=json.dumps([WEATHER]))
        tools = {"weather": lambda city: f"sunny in {city}"}
        shared: Any = opened.services.outbox
        outbox = ThreadOutbox(shared._mirrors, lambda: shared.heads, shared._always)  # also without recorded failures
        own = {
            "outbox": outbox,
            "profile": profile,
            "tools": tools,
            "health": Health(),
            "random": Random(1),
            "wait": waits.wait,
        }
        return Ledger(opened.journal, replace(opened.services, **own))

    def hear(self, ledger: Ledger, cell: Cell, key: str, question: str, idempotency_key: str, waits: Waits) -> Heard:
        """Ask one question in the cell's mode, and return its result."""
        heard = Heard()
        try:
            match cell.mode:
                case "sync":
                    heard.answer = ledger.conversation(key).ask(question, idempotency_key=idempotency_key)
                case "sync stream":
                    heard.parts.extend(ledger.conversation(key).stream(question, idempotency_key=idempotency_key))
                case _:
                    self._runner.run(self._awaited(ledger, cell, key, question, idempotency_key, waits, heard))
        except Exception as error:  # noqa: BLE001 - what is raised is what is judged
            heard.error = error
        if "stream" in cell.mode and heard.parts and isinstance(heard.parts[-1], Answer):
            heard.answer = heard.parts.pop()
        return heard

    async def _awaited(
        self, ledger: Ledger, cell: Cell, key: str, question: str, idempotency_key: str, waits: Waits, heard: Heard
    ) -> None:
        awaited = AsyncLedger(ledger)
        awaited.driver = AsyncDriver(self._pool, waits.pause)
        chat = awaited.conversation(key)
        if cell.mode == "async":
            heard.answer = await chat.ask(question, idempotency_key=idempotency_key)
            return
        async for part in chat.stream(question, idempotency_key=idempotency_key):
            heard.parts.append(part)


class Waits:
    """Replace pauses: they take no time here, but the provider continues its background work."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.count = 0

    def wait(self, seconds: float) -> None:
        with self._provider.lock:
            for response in list(self._provider.store.responses.values()):
                advance(self._provider.store, response)
            for thread in self._provider.store.threads.values():
                for run in list(thread.runs.values()):
                    move_on(self._provider.store, thread, run)
        self.count += 1
        if self.count > WAITS_MAX:
            raise AssertionError("waits for ever")

    async def pause(self, seconds: float) -> None:
        self.wait(seconds)
        await asyncio.sleep(0)


class Played:
    """Hold the state of one cell while it is played."""

    def __init__(self, world: World, cell: Cell, key: str) -> None:
        self.world, self.cell, self.key = world, cell, key
        self.simulator = world.simulator
        self.waits = Waits(self.simulator.provider)
        self.ledger = world.ledger(cell, key, self.waits)
        self.questions = [FIRST, FIRST if cell.same else SECOND]
        self.foreign_in: str | None = None

    def problems(self) -> Iterator[str]:
        self.simulator.answer(CALL, "It is sunny in Bern.", "It will rain.")
        self.simulator.add_faults(self.cell.faults)
        heard = []
        for number, question in enumerate(self.questions):
            heard.append(self.world.hear(self.ledger, self.cell, self.key, question, str(number), self.waits))
            yield from self._in_the_answer(heard[-1])
            if number == 0 and self.cell.foreign:
                self._write_as_somebody_else()
        self.simulator.clear_faults()
        for _ in range(LATEST_REQUESTS):
            self.waits.wait(1)
            httpx2.get(f"{self.simulator.base_url}/models", headers=KEY)
        # As if the app had been restarted: a provider with repeated failures is not skipped any more.
        self.ledger = self.world.ledger(self.cell, self.key, self.waits)
        self.ledger.conversation(self.key).append("user", PEACE)
        yield from self._in_the_log(heard)
        yield from self._in_the_thread()
        yield from self._asked_again(heard)

    # What the caller received

    def _in_the_answer(self, heard: Heard) -> Iterator[str]:
        failed = {failure.run_id for failure in self.ledger.conversation(self.key).failures()}
        if heard.answer is None:
            if not isinstance(heard.error, AllBackendsFailed):
                yield f"the caller got {heard.error!r}"
                return
            if self.cell.route != CHAT:
                yield f"no backend answered: {heard.error}"
            named, exchange_id = heard.error.failures, heard.error.exchange_id
        else:
            named, exchange_id = heard.answer.failures, heard.answer.exchange_id
            journaled = {each.message_id: each.message.text for each in self.ledger.memory(self.key).messages}
            if journaled.get(heard.answer.message_id) != heard.answer.text:
                yield "the answer is not in the journal"
        runs = self.ledger.exchanges(self.key).by_id[exchange_id].runs
        if [failure.run_id for failure in named] != [run.run_id for run in runs if run.failure is not None]:
            yield "not every failure is named"
        if not {failure.run_id for failure in named} <= failed:
            yield "a failure is named that is not in the audit"
        if "stream" in self.cell.mode:
            yield from self._in_the_stream(heard, [run.run_id for run in runs])

    def _in_the_stream(self, heard: Heard, runs: list[str]) -> Iterator[str]:
        over = [(part.failed_run_id, part.run_id) for part in heard.parts if isinstance(part, StartedOver)]
        if over != list(pairwise(runs)):
            yield f"{len(over)} StartedOver parts, but {len(runs)} runs"
        places = [index for index, part in enumerate(heard.parts) if isinstance(part, StartedOver)]
        last = [part for part in heard.parts[places[-1] + 1 if places else 0 :] if isinstance(part, Delta)]
        if heard.answer is None:
            return
        if any(part.run_id != heard.answer.run_id for part in last):
            yield "pieces of another run after the last start"
        told: dict[int, str] = {}
        for part in last:
            told[part.message] = told.get(part.message, "") + part.text
        if not told or told[max(told)] != heard.answer.text:
            yield f"streamed {told}, answered {heard.answer.text!r}"

    # What the journal contains

    def _in_the_log(self, heard: list[Heard]) -> Iterator[str]:
        events = [(logged.type, logged.event) for logged in self.ledger.events(key=self.key)]
        started = [event.run_id for name, event in events if name == "RunStarted"]
        ended = [event.run_id for name, event in events if name in {"RunCompleted", "RunFailed"}]
        if started != ended:
            yield f"{len(started)} runs began, {len(ended)} ended"
        yield from self._in_the_fallbacks(events)
        messages = [event for name, event in events if name == "MessageJournaled"]
        asked = [event.content for event in messages if event.role == "user"]
        if asked != [*self.questions, PEACE]:
            yield f"journaled of the user: {asked}"
        if len({event.message_id for event in messages}) != len(messages):
            yield "a message is journaled twice"
        completed = {event.run_id for name, event in events if name == "RunCompleted"}
        answers = [event for event in messages if event.role == "assistant" and not event.tool_calls]
        if Counter(event.run_id for event in answers) != Counter(completed):
            yield "not one answer for each completed run"
        texts = [each.answer.text for each in heard if each.answer is not None]
        if [event.content for event in answers] != texts:
            yield f"answered {texts}, journaled {[event.content for event in answers]}"
        calls = [call["id"] for event in messages for call in event.tool_calls or ()]
        if Counter(calls) != Counter(event.tool_call_id for event in messages if event.role == "tool"):
            yield "calls and results do not pair"
        abandoned = sum(name == "ExchangeAbandoned" for name, _ in events)
        if abandoned != sum(each.answer is None for each in heard):
            yield f"{abandoned} exchanges are abandoned"
        for failure in self.ledger.conversation(self.key).failures():
            if failure.cause is Cause.UNKNOWN:
                yield f"cause unknown: {failure.summary()} {dict(failure.facts.details)}"

    def _in_the_fallbacks(self, events: list[tuple[str, Any]]) -> Iterator[str]:
        reasons = {each.run_id: reason_of(each.facts) for each in self.ledger.conversation(self.key).failures()}
        before: Any = None
        announced: Any = None
        for name, event in events:
            if name == "FallbackUsed":
                announced = event
            elif name == "RunStarted":
                changed = (
                    before is not None and before.exchange_id == event.exchange_id and before.backend != event.backend
                )
                if changed != (announced is not None) or (changed and announced.failed_run_id != before.run_id):
                    yield "FallbackUsed is missing or in a wrong place"
                elif changed and announced.reason != reasons[before.run_id]:
                    yield f"FallbackUsed has the reason {announced.reason!r} instead of {reasons[before.run_id]!r}"
                before, announced = event, None

    # What the thread contains

    def _in_the_thread(self) -> Iterator[str]:
        kind = self.cell.setup.threads
        (found,) = self.ledger.replay.verify([self.key], kind)
        retired = {"assistants": "assistants", "conversations": "conversations"}[
            kind
        ] in self.simulator.provider.retired_apis
        state, comparison = found.found.state, found.found
        if retired:
            if state not in {ThreadState.GONE, ThreadState.UNLINKED}:
                yield f"the API is gone, verified as {state.value}"
            return
        foreign = self.foreign_in is not None and self.foreign_in == found.thread_id
        counts = (comparison.missing, comparison.extra, comparison.different)
        if counts != (0, int(foreign), 0) or state is not (ThreadState.DRIFTED if foreign else ThreadState.SAME):
            yield f"verified as {state.value}: {counts[0]} missing, {counts[1]} extra, {counts[2]} different"
        held = self._held(found.thread_id)
        if foreign:
            if held.count(("user", FOREIGN)) != 1:
                yield "the message of another writer is missing"
            else:
                held.remove(("user", FOREIGN))
        wanted = self._wanted()
        if held != wanted:
            yield f"in the thread {held}, in the journal {wanted}"
        if busy := self._busy(found.thread_id):
            yield f"runs still in progress in the thread: {busy}"

    def _held(self, thread_id: str | None) -> list[tuple[str, str]]:
        """Return (role, text) of messages, calls and results that the provider stores for a conversation."""
        provider, held = self.simulator.provider, []
        if self.cell.setup.threads == "assistants":
            for message in provider.messages[thread_id]:
                held.append((message["role"], "".join(part["text"]["value"] for part in message["content"])))
            return [(role, text) for role, text in held if not text.startswith("[tool ")]
        for item in provider.items[thread_id]:
            if item["type"] == "message":
                held.append((item["role"], "".join(part["text"] for part in item["content"])))
            else:
                held.append((item["type"], item["call_id"]))
        return held

    def _wanted(self) -> list[tuple[str, str]]:
        wanted: list[tuple[str, str]] = []
        for logged in self.ledger.events(key=self.key, types=["MessageJournaled"]):
            event: Any = logged.event
            if event.content and event.role != "tool":
                wanted.append((event.role, event.content))
            if self.cell.setup.threads == "conversations":
                wanted += [("function_call", call["id"]) for call in event.tool_calls or ()]
                wanted += [("function_call_output", event.tool_call_id)] if event.role == "tool" else []
        return wanted

    def _busy(self, thread_id: str | None) -> list[str]:
        runs = [run for run in self.simulator.provider.runs.values() if run["thread_id"] == thread_id]
        return [run["status"] for run in runs if run["status"] not in ENDED]

    def _write_as_somebody_else(self) -> None:
        """Write directly into the provider's state, so that faults neither affect nor count it."""
        link = self.ledger.state(self.key).links.get(self.cell.setup.threads)
        provider, faults = self.simulator.provider, self.simulator.provider.faults
        if link is None or link.lost:
            return
        kind = self.cell.setup.threads
        message = {"role": "user", "content": FOREIGN}
        address = (
            f"threads/{link.thread_id}/messages" if kind == "assistants" else f"conversations/{link.thread_id}/items"
        )
        provider.faults = type(faults)(Random(1).random)
        try:
            body = message if kind == "assistants" else {"items": [{"type": "message", **message}]}
            headers = KEY | {"openai-beta": "assistants=v2"}
            reply = httpx2.post(f"{self.simulator.base_url}/{address}", json=body, headers=headers)
        finally:
            provider.faults = faults
        if reply.status_code == 200:
            self.foreign_in = link.thread_id

    # Results of repeating the same questions

    def _asked_again(self, heard: list[Heard]) -> Iterator[str]:
        before = len(self.ledger.conversation(self.key).events())
        for number, question in enumerate(self.questions):
            first = heard[number].answer
            if first is not None:
                again = self.ledger.conversation(self.key).ask(question, idempotency_key=str(number))
                if (again.run_id, again.message_id, again.text) != (first.run_id, first.message_id, first.text):
                    yield "the repeated question got another answer"
        if len(self.ledger.conversation(self.key).events()) != before:
            yield "the repeated question was journaled again"
