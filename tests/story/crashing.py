"""Run scenarios in a separate process that is killed (SIGKILL) at one point. Started by `test_crash.py`:

    python crashing.py

It reads orders, one JSON object per line, and forks for each. The child runs the scenario and is killed, or finishes
and reports the points that it passed. Shared modules are imported once, so a kill costs a fork instead of a process
start.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.openai import assistants
from threadledger.adapters.openai import responses as making
from threadledger.adapters.sql import SqlMirrorHeads
from threadledger.adapters.sql.group_commit import Group
from threadledger.domain import ids
from threadledger.domain.effects import Pause, async_driver
from threadledger.domain.effects import drivers as driving
from threadledger.domain.exchange import runs
from threadledger.domain.ledger import AsyncLedger, Ledger

KEY = "k"
NOBODY = -1
"""Point number at which no process is killed."""

BEHIND = timedelta(hours=2)
"""Delay of the killed process's clock, so that its deadlines and claims have expired for the next process."""

PROFILE = 'name = "John"\n[[tools]]\nname = "weather"\n[tools.parameters]\ntype = "object"\n'
TOOLS = {"weather": lambda city: f"sunny in {city}"}
WEATHER = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}

STEPS = (("append", "one"), ("ask", "two"), ("append", "three"), ("append", "three"), ("ask", "four"))
STREAMED = (("append", "one"), ("stream", "two"), ("append", "three"), ("stream", "four"))

RUNS = "POST /threads/{thread_id}/runs"
MESSAGES = "POST /threads/{thread_id}/messages"
RESPONSES = "POST /responses"
ITEMS = "POST /conversations/{conversation_id}/items"


@dataclass(frozen=True)
class Scenario:
    """Describe what a process does until it is killed, and how the provider responds."""

    backends: tuple[str, ...]
    threads: str
    steps: tuple[tuple[str, str], ...] = STEPS
    answers: tuple[Any, ...] = (WEATHER, "It is sunny.")
    faults: tuple[dict[str, Any], ...] = ()
    asynchronous: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def _lost(route: str, after: int = 0) -> dict[str, Any]:
    return {"on": route, "lose_answer": True, "after": after}


def _failed(route: str, times: int = 1) -> dict[str, Any]:
    return {"on": route, "fail": True, "times": times}


SCENARIOS = {
    "assistants": Scenario(("assistants",), "assistants"),
    "assistants, streamed": Scenario(("assistants",), "assistants", STREAMED),
    "assistants, awaited": Scenario(("assistants",), "assistants", asynchronous=True),
    "assistants, run's answer lost": Scenario(("assistants",), "assistants", faults=(_lost(RUNS),)),
    "assistants, message's answer lost": Scenario(("assistants",), "assistants", faults=(_lost(MESSAGES, 1),)),
    "assistants, then chat": Scenario(("assistants", "chat"), "assistants", answers=(), faults=(_failed(RUNS, 2),)),
    "assistants, then chat, streamed": Scenario(
        ("assistants", "chat"), "assistants", STREAMED, (), (_failed(RUNS, 2),), asynchronous=True
    ),
    "responses": Scenario(("responses",), "conversations"),
    "responses, streamed": Scenario(("responses",), "conversations", STREAMED),
    "responses, streamed, awaited": Scenario(("responses",), "conversations", STREAMED, asynchronous=True),
    "responses in the background": Scenario(("responses",), "conversations", settings={"background": True}),
    "responses in the background, streamed, awaited": Scenario(
        ("responses",), "conversations", STREAMED, asynchronous=True, settings={"background": True}
    ),
    "responses, first answer lost": Scenario(("responses",), "conversations", faults=(_lost(RESPONSES),)),
    "responses, last answer lost": Scenario(
        ("responses",), "conversations", faults=(_lost(RESPONSES, 2),), asynchronous=True
    ),
    "responses, then chat": Scenario(("responses", "chat"), "conversations", faults=(_failed(RESPONSES, 2),)),
    "chat": Scenario(("chat",), "conversations"),
    "chat, items' answer lost": Scenario(("chat",), "conversations", faults=(_lost(ITEMS), _lost(ITEMS, 2))),
    "chat, in a thread": Scenario(("chat",), "assistants", STREAMED, faults=(_lost(MESSAGES, 1),), asynchronous=True),
}


def settings_of(name: str, db_url: str, base_url: str) -> Any:
    """Return the settings of a scenario; its profile is in the same folder as the database."""
    scenario = SCENARIOS[name]
    profile = Path(db_url.removeprefix("sqlite:///")).with_name("profile.toml")
    profile.write_text(PROFILE, encoding="utf-8")
    return load_settings(
        db=db_url,
        openai_base_url=base_url,
        openai_api_key="sk-test",
        retries=1,
        profile=profile,
        backends=scenario.backends,
        threads=scenario.threads,
        **scenario.settings,
    )


def go_through(ledger: Ledger, name: str, told: Callable[[Any], None]) -> None:
    """Run all steps of a scenario, each under its own idempotency key, and close the ledger.

    The callback receives every stream part, and for every finished step its number and its answer.
    """
    if SCENARIOS[name].asynchronous:
        asyncio.run(_go_through(AsyncLedger(ledger), name, told))
        return
    with ledger:
        chat = ledger.conversation(KEY)
        for number, (verb, text) in enumerate(SCENARIOS[name].steps):
            done: Any = None
            if verb == "append":
                chat.append("user", text, idempotency_key=f"step {number}")
            elif verb == "ask":
                done = chat.ask(text, idempotency_key=f"step {number}")
            else:
                for done in chat.stream(text, idempotency_key=f"step {number}"):
                    told(done)
            told((number, done.text if done is not None else None))


async def _go_through(opened: AsyncLedger, name: str, told: Callable[[Any], None]) -> None:
    async with opened as ledger:
        chat = ledger.conversation(KEY)
        for number, (verb, text) in enumerate(SCENARIOS[name].steps):
            done: Any = None
            if verb == "append":
                await chat.append("user", text, idempotency_key=f"step {number}")
            elif verb == "ask":
                done = await chat.ask(text, idempotency_key=f"step {number}")
            else:
                async for done in chat.stream(text, idempotency_key=f"step {number}"):
                    told(done)
            told((number, done.text if done is not None else None))


class Points:
    """Record the points that a process passes, in order, and kill it before one of them."""

    def __init__(self, killed_at: int) -> None:
        self.passed: list[str] = []
        self._killed_at = killed_at

    def reach(self, name: str) -> None:
        if len(self.passed) == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(name)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        self.reach(f"before {name}")
        try:
            yield
        finally:
            self.reach(f"after {name}")

    def watch(self) -> None:
        """Add points before and after each effect and each transaction."""
        _put_around(driving, "performed", lambda effect, wait: type(effect).__name__, self.around)
        driver: Any = async_driver.AsyncDriver
        awaited, unbroken = driver._awaited, driver._unbroken

        async def watched(own: Any, effect: Any) -> Any:
            with self.around(type(effect).__name__):
                return await awaited(own, effect) if not isinstance(effect, Pause) else None

        async def watched_work(own: Any, do: Any, stopped: Any) -> Any:
            with self.around("Work"):
                return await unbroken(own, do, stopped)

        driver._awaited, driver._unbroken = watched, watched_work
        for owner, name in (
            (Group, "_commit"),  # commits to the log
            (SqlMirrorHeads, "claim"),  # claims a thread for writing
            (SqlMirrorHeads, "put"),  # notes up to which version it holds the journal
            (SqlMirrorHeads, "release"),  # releases it unchanged
        ):
            _put_around(owner, name, lambda *_, name=name, **__: name.removeprefix("_"), self.around)


def _put_around(owner: Any, method: str, name: Callable[..., str], around: Callable[[str], Any]) -> None:
    performed = getattr(owner, method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        with around(name(*args, **kwargs)):
            return performed(*args, **kwargs)

    setattr(owner, method, watched)


class Behind(datetime):
    """Represent a clock that is behind."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) - BEHIND


def _child(order: dict[str, Any], out: int) -> None:
    """Run a scenario; report each step as soon as it is finished, and the points at the end."""

    def told(part: Any) -> None:
        points.reach(f"heard {type(part).__name__}")
        if isinstance(part, tuple):
            os.write(out, json.dumps({"done": part}).encode() + b"\n")

    points = Points(order["killed_at"])
    points.watch()
    ids.datetime = Behind  # type: ignore[misc] # only the clock of this process
    making.POLL_SECONDS = assistants.POLL_SECONDS = 0.0
    runs.INTERRUPT_LOOK_SECONDS = math.inf  # the points must not depend on the speed of the machine
    settings = settings_of(order["scenario"], order["db_url"], order["base_url"])
    go_through(open_ledger(settings, tools=TOOLS, wait=lambda _: None), order["scenario"], told)
    os.write(out, json.dumps({"points": points.passed}).encode() + b"\n")


def _forked(order: dict[str, Any]) -> dict[str, Any]:
    """Run an order in a child; return its exit status (negative: signal) and its reports."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _child(order, writing)
            code = 0
        except BaseException:  # noqa: BLE001 - the child ends here after any error
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = [json.loads(line) for line in lines]
    _, status = os.waitpid(child, 0)
    done = [tuple(line["done"]) for line in told if "done" in line]
    return {
        "status": os.waitstatus_to_exitcode(status),
        "done": done,
        "points": [p for line in told for p in line.get("points", ())],
    }


def main() -> None:
    """Answer each order with one line.

    An order with `here` runs in this process, so that all children share what is imported and created on first use.
    """
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        order = json.loads(line)
        if order["here"]:
            settings = settings_of(order["scenario"], order["db_url"], order["base_url"])
            go_through(open_ledger(settings, tools=TOOLS), order["scenario"], lambda _: None)
        print(json.dumps({} if order["here"] else _forked(order)), flush=True)


if __name__ == "__main__":
    main()
