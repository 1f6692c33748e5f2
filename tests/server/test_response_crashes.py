"""Kill servers (SIGKILL) at random moments while responses are answered in the background and streams are resumed.

Each response that was acknowledged is answered once, or has failed with a record; no conversation stays locked. What a client
heard of a stream and what it hears of it from any other process are together the answer, without a gap or a double.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import openai
import pytest

from threadledger.adapters import load_settings, open_ledger
from threadledger.domain.conversation import events as e

from .chat_only import ChatOnly
from .processes import ServerProcess

pytestmark = pytest.mark.crash

SEED = 19
SOAK = "THREADLEDGER_SOAK" in os.environ
RESPONSES = 200 if SOAK else 24
STREAMS = 1_000 if SOAK else 30
KILLS = 40 if SOAK else 4
CLIENTS = 4
MOMENTS_MAX = 150
"""Number of the last moment at which a server may be killed."""

RESUMED_MAX = 200
"""Number of times that one stream is resumed at most."""

ENDED_SECONDS_MAX = 120.0
"""Maximum time for a response to end, in seconds, while its servers are killed: each leaves its claim for a while."""

LOST = (openai.APIError, httpx2.TransportError)
ENDED = {"completed", "failed", "cancelled", "incomplete"}


def server_of(place: int, ports: list[int]) -> str:
    return f"http://127.0.0.1:{ports[place % len(ports)]}/v1"


@dataclass
class Asker:
    """Ask in a conversation of its own, half of the questions, and half in new ones."""

    sdk: openai.OpenAI
    name: str
    number: int
    responses: dict[str, str] = field(default_factory=dict)
    """Texts that were sent, by the id of the response that was acknowledged."""
    conversation: str = ""

    def ask_all(self) -> None:
        """Create responses in the background; each in the conversation waits for the one before."""
        self.conversation = self.sdk.conversations.create(metadata={"name": self.name}).id
        for place in range(self.number):
            text = f"{self.name} {place}"
            where: Any = {"conversation": self.conversation} if place % 2 else {}
            created = self.sdk.responses.create(model="m", input=text, background=True, **where)
            assert created.id not in self.responses
            self.responses[created.id] = text
            if where:
                self.wait_for(created.id)

    def wait_for(self, name: str) -> Any:
        """Return a response when it has ended."""
        end = time.monotonic() + ENDED_SECONDS_MAX
        while (found := self.sdk.responses.retrieve(name)).status not in ENDED:
            assert time.monotonic() < end, found
            time.sleep(0.01)
        return found

    def check(self) -> set[str]:
        """Check that each response is answered once, or has failed; return the ids of the failed ones."""
        ended = {name: self.wait_for(name) for name in self.responses}
        for name, text in self.responses.items():
            if ended[name].status == "completed":
                assert ended[name].output_text == f"You said: {text}"
            else:
                assert (ended[name].status, ended[name].error.code) == ("failed", "server_error")
        completed = [each for each in ended.values() if each.status == "completed" and each.conversation]
        listed: list[Any] = [*self.sdk.conversations.items.list(self.conversation, order="asc", limit=100)]
        wanted = [each.output[0].id for each in completed]
        assert [each.id for each in listed if each.role == "assistant"] == wanted
        return {name for name, each in ended.items() if each.status == "failed"}


def test_a_response_in_the_background_is_answered_once_or_fails_with_a_record_whatever_is_killed(
    start: Callable[..., ServerProcess],
    connect: Callable[[str], openai.OpenAI],
    upstream: ChatOnly,
    any_db_url: str,
    port: int,
) -> None:
    moments = Random(SEED)
    clients = [connect(f"http://127.0.0.1:{port}/v1") for _ in range(CLIENTS)]
    askers = [Asker(sdk, f"asker {number}", RESPONSES // CLIENTS) for number, sdk in enumerate(clients)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(each.ask_all) for each in askers]
        for _ in range(KILLS):
            if all(each.done() for each in asking):
                break
            upstream.fail(500)
            start(any_db_url, port, killed_at=moments.randint(1, MOMENTS_MAX)).wait_or_stop(asking)
        start(any_db_url, port)
        for each in asking:
            each.result()
    failed = set[str]().union(*(each.check() for each in askers))
    with open_ledger(load_settings(db=any_db_url)) as ledger:
        events = [each.event for each in ledger.events()]
        recorded = {each.exchange_id for each in ledger.failures()}
    requests = {each.request.get("response_id"): each for each in events if isinstance(each, e.ExchangeRequested)}
    assert {requests[name].exchange_id for name in failed} <= recorded
    started = [each.run_id for each in events if isinstance(each, e.RunStarted)]
    ended = [each.run_id for each in events if isinstance(each, e.RunCompleted | e.RunFailed)]
    assert sorted(started) == sorted(ended)
    answers = Counter(each.exchange_id for each in events if isinstance(each, e.MessageJournaled) and each.run_id)
    assert max(answers.values()) == 1
    assert "Traceback" not in Path("server.log").read_text(encoding="utf-8")


class Listener:
    """Hear one answer over many streams, at any of several servers."""

    def __init__(self, clients: list[openai.OpenAI], number: int) -> None:
        self._clients, self._random, self._number = clients, Random(f"{SEED} {number}"), number
        self.text = f"question {number} " + " ".join(f"word{place}" for place in range(self._random.randint(1, 30)))
        self.heard: list[str] = []
        self.after = -1
        self.name = ""
        self.last = ""

    def hear(self) -> None:
        """Create a response, and read it piece by piece from streams that are closed in between."""
        while not self.name:
            self._read(lambda sdk: sdk.responses.create(model="m", input=self.text, stream=True, background=True))
        for _ in range(RESUMED_MAX):
            if self.last in {"response.completed", "response.failed"}:
                break
            self._read(
                lambda sdk: sdk.responses.retrieve(self.name, stream=True, starting_after=self.after, timeout=20)
            )

    def _read(self, opened: Callable[[openai.OpenAI], Any]) -> None:
        try:
            with opened(self._random.choice(self._clients)) as stream:
                for _, event in zip(range(self._random.randint(1, 25)), stream, strict=False):
                    self._take(event)
        except LOST:
            pass

    def _take(self, event: Any) -> None:
        assert event.sequence_number > self.after, (event, self.after)
        self.after, self.last = event.sequence_number, event.type
        if event.type == "response.created":
            self.name = event.response.id
        elif event.type == "response.output_text.delta":
            self.heard.append(event.delta)

    def check(self) -> str:
        """Check that the whole answer was heard, or the beginning of one that failed; return how it ended."""
        heard, answer = "".join(self.heard), f"You said: {self.text}"
        assert heard == answer if self.last == "response.completed" else answer.startswith(heard)
        assert self.last in {"response.completed", "response.failed"}
        return self.last


def test_resumed_streams_continue_without_a_gap_or_a_double_across_processes_and_kills(
    start: Callable[..., ServerProcess],
    connect: Callable[[str], openai.OpenAI],
    upstream: ChatOnly,
    any_db_url: str,
    port: int,
    another_port: int,
) -> None:
    ports, moments = [port, another_port], Random(SEED)
    clients = [connect(server_of(place, ports)) for place in range(2)]
    listeners = [Listener(clients, number) for number in range(STREAMS)]
    stopped = threading.Event()

    def keep_running(place: int) -> None:
        for _ in range(KILLS):
            if stopped.is_set():
                return
            killed_at = moments.randint(1, MOMENTS_MAX * 4)
            start(any_db_url, ports[place], killed_at=killed_at).wait_or_stop([stopped])
        start(any_db_url, ports[place])

    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        running = [pool.submit(keep_running, place) for place in range(2)]
        hearing = [pool.submit(each.hear) for each in listeners]
        try:
            for each in (*hearing, *(one for one in running if one.done())):
                each.result()
        finally:
            stopped.set()
        for one in running:
            one.result()
    ends = Counter(each.check() for each in listeners)
    assert ends["response.completed"] >= STREAMS // 2, ends
