"""Kill the server (SIGKILL) at random moments while clients talk to it, and start it again on its port.

The clients use the provider's SDK, which sends a request again by itself, without an idempotency key. No acknowledged message,
thread or run may be lost, none doubled; every run ends, no thread stays locked, and every failed run is in the audit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import openai
import pytest

from threadledger.adapters import load_settings, open_ledger
from threadledger.cli import main
from threadledger.domain.conversation import events as e

from .chat_only import ChatOnly
from .processes import STOPS, ServerProcess
from .speaking import accepts, until

pytestmark = [
    pytest.mark.crash,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's, of every call of the Assistants API
]

SEED = 18
KILLS = 50 if "THREADLEDGER_SOAK" in os.environ else 5
CLIENTS = 3
MOMENTS_MAX = 400
"""Number of the last moment at which a server may be killed: each of the clients has had several answers by then."""

RUN_SECONDS_MAX = 90.0
"""Maximum time for a run to end, in seconds, while its server is killed again and again; tests that pass are far from it."""

POLL_HELPER = {"x-stainless-poll-helper": "true"}


@pytest.fixture
def upstream(upstream: ChatOnly) -> ChatOnly:
    upstream.calls_functions = True
    return upstream


ENDED = {"completed", "failed", "cancelled", "expired", "incomplete"}
FUNCTION: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


class Talker:
    """Talk in threads of its own, and note what the server has acknowledged.

    `said` are the texts of each thread and `runs` its runs, in their order.
    """

    def __init__(self, sdk: openai.OpenAI, name: str) -> None:
        self.sdk, self.name = sdk, name
        self.threads, self._runs = sdk.beta.threads, sdk.beta.threads.runs
        self.said: dict[str, list[str]] = {}
        self.runs: dict[str, list[str]] = {}
        self.turns = 0
        self._random = Random(f"{SEED} {name}")
        self.plain = sdk.beta.assistants.create(model="gpt-4o", name=f"{name} plain").id
        self.calling = sdk.beta.assistants.create(model="gpt-4o", name=f"{name} calling", tools=[FUNCTION]).id
        self.thread_id = ""
        self.begin()

    def turn(self) -> None:
        """Do one of the things that an app does."""
        self.turns += 1
        self._random.choice([self.begin, self.say, self.run, self.run, self.run_with_message, self.stream])()

    def begin(self) -> None:
        """Begin a thread with a message; the next turns are in this one."""
        text = self._text()
        self.thread_id = self.threads.create(messages=[{"role": "user", "content": text}]).id
        assert self.thread_id not in self.said
        self.said[self.thread_id], self.runs[self.thread_id] = [text], []

    def say(self) -> None:
        """Add a message."""
        text = self._text()
        self.threads.messages.create(self.thread_id, role="user", content=text)
        self.said[self.thread_id].append(text)

    def run(self) -> None:
        """Add a message, and run the thread until it is answered."""
        self.say()
        self._follow(self._runs.create(self.thread_id, assistant_id=self._assistant()).id)

    def run_with_message(self) -> None:
        """Run the thread with a message that comes with the run."""
        text = self._text()
        added: Any = [{"role": "user", "content": text}]
        run = self._runs.create(self.thread_id, assistant_id=self._assistant(), additional_messages=added)
        self.said[self.thread_id].append(text)
        self._follow(run.id)

    def stream(self) -> None:
        """Stream a run with a message; a stream that breaks off is followed by polling, as an app does."""
        text = self._text()
        added: Any = [{"role": "user", "content": text}]
        opened = self._runs.stream(thread_id=self.thread_id, assistant_id=self._assistant(), additional_messages=added)
        known = self._read(opened)
        if known is None:  # the answer had begun, so there is a run
            known = self._runs.list(self.thread_id, order="desc", limit=1).data[0].id
        self.said[self.thread_id].append(text)
        self._follow(known)

    def _read(self, opened: Any) -> str | None:
        run_id = None
        with opened as stream:
            try:
                for _ in stream:
                    run_id = stream.current_run.id if stream.current_run is not None else run_id
            except (httpx2.TransportError, openai.APIError):
                pass
        return run_id

    def _follow(self, run_id: str) -> None:
        """Note a run and poll it until it has ended; give it the results for which it waits, in one of two ways."""
        assert run_id not in self.runs[self.thread_id]
        self.runs[self.thread_id].append(run_id)
        run = self._poll(run_id)
        if run.status == "requires_action":
            calls = run.required_action.submit_tool_outputs.tool_calls
            outputs: Any = [{"tool_call_id": call.id, "output": f"sunny {self.turns}"} for call in calls]
            where = {"thread_id": self.thread_id, "tool_outputs": outputs}
            if self._random.random() < 0.5:
                self._runs.submit_tool_outputs(run_id, **where)
            else:
                self._read(self._runs.submit_tool_outputs_stream(run_id=run_id, **where))
            run = self._poll(run_id)
        assert run.status in ENDED, run

    def _poll(self, run_id: str) -> Any:
        """Return a run once it has ended or waits, as the SDK's helper does, which would wait for ever."""
        end = time.monotonic() + RUN_SECONDS_MAX
        while True:
            run = self._runs.retrieve(run_id, thread_id=self.thread_id, extra_headers=POLL_HELPER)
            if run.status in {*ENDED, "requires_action"}:
                return run
            assert time.monotonic() < end, run
            time.sleep(0.01)

    def _assistant(self) -> str:
        return self._random.choice([self.plain, self.calling])

    def _text(self) -> str:
        return f"{self.name} {self.turns}"

    # Afterwards

    def check(self) -> None:
        """Check that the threads hold what was acknowledged, once and in order, that their runs have ended, and answered once."""
        for thread_id, said in self.said.items():
            listed = list(self.threads.messages.list(thread_id, order="asc", limit=100))
            assert [_text_of(each) for each in listed if each.role == "user"] == said
            runs = {each.id: each for each in self._runs.list(thread_id, order="asc", limit=100)}
            assert list(runs) == self.runs[thread_id]
            assert {each.status for each in runs.values()} <= ENDED
            answers = Counter(each.run_id for each in listed if each.role == "assistant")
            assert answers == {run_id: 1 for run_id, run in runs.items() if run.status == "completed"}

    def check_unlocked(self) -> None:
        """Check that a message can be added to each thread, and a run is answered."""
        for thread_id in self.said:
            self.thread_id = thread_id
            self.turns += 1
            self.run()
            answer = self.threads.messages.list(thread_id, limit=1).data[0]
            assert (answer.role, answer.run_id) == ("assistant", self.runs[thread_id][-1])

    def failed(self) -> set[str]:
        """Return the runs that have failed or expired."""
        runs = (each for thread_id in self.runs for each in self._runs.list(thread_id, limit=100))
        return {each.id for each in runs if each.status in {"failed", "expired"}}


def _text_of(message: Any) -> str:
    text: str = message.content[0].text.value
    return text


def talk_until(stopped: threading.Event, sdk: openai.OpenAI, name: str) -> Talker:
    talker = Talker(sdk, name)
    while not stopped.is_set():
        talker.turn()
    return talker


def test_what_was_acknowledged_survives_kills_once_and_every_run_ends(
    start: Callable[..., ServerProcess],
    connect: Callable[[str], openai.OpenAI],
    upstream: ChatOnly,
    any_db_url: str,
    port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moments, stopped = Random(SEED), threading.Event()
    clients = [connect(f"http://127.0.0.1:{port}/v1") for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        talking = [pool.submit(talk_until, stopped, each, f"client {number}") for number, each in enumerate(clients)]
        try:
            for _ in range(KILLS):
                upstream.fail(500)
                server = start(any_db_url, port, killed_at=moments.randint(1, MOMENTS_MAX))
                assert server.wait() is None
            server = start(any_db_url, port)
        finally:
            stopped.set()
    talkers = [each.result() for each in talking]
    for talker in talkers:
        talker.check()
        talker.check_unlocked()
    check_audit(any_db_url, talkers, capsys)
    assert "Traceback" not in Path("server.log").read_text(encoding="utf-8")


def check_audit(db_url: str, talkers: list[Talker], capsys: pytest.CaptureFixture[str]) -> None:
    """Check that no run is open, each failed one is in the audit, nothing is stored twice, and the database is sound."""
    capsys.readouterr()
    assert main(["--db", db_url, "audit", "failures", "-o", "json"]) == 0
    audited = json.loads(capsys.readouterr().out)
    assert main(["--db", db_url, "db", "check"]) == 0, capsys.readouterr()
    with open_ledger(load_settings(db=db_url)) as ledger:
        events = [each.event for each in ledger.events()]
    failed = [each for each in events if isinstance(each, e.RunFailed)]
    assert {each["run_id"] for each in audited} == {each.run_id for each in failed}
    exchanges = {f"run_{each['exchange_id'].replace('-', '')}" for each in audited}
    assert set().union(*(each.failed() for each in talkers)) <= exchanges
    started = [each.run_id for each in events if isinstance(each, e.RunStarted)]
    ended = [each.run_id for each in events if isinstance(each, e.RunCompleted | e.RunFailed)]
    assert sorted(started) == sorted(ended)
    said = [each for each in events if isinstance(each, e.MessageJournaled)]
    calls = [call["id"] for each in said for call in each.tool_calls]
    results = [each.tool_call_id for each in said if each.role == "tool"]
    for each in (started, calls, results):
        assert max(Counter(each).values(), default=1) == 1
    assert len(results) > 0
    assert set(results) <= set(calls)


# Several servers on one database, and servers that are told to stop


@dataclass
class Pair:
    """Two servers on one database, and the SDK for each."""

    one: ServerProcess
    other: ServerProcess
    at_one: Any
    at_other: Any
    assistant_id: str
    thread_id: str

    def run(self, **options: Any) -> Any:
        """Create a run through the first server."""
        runs = self.at_one.beta.threads.runs
        return runs.create(self.thread_id, assistant_id=self.assistant_id, **options)

    def poll(self, run: Any) -> Any:
        """Poll a run through the second server until it has ended or waits."""
        return self.at_other.beta.threads.runs.poll(run.id, thread_id=self.thread_id, poll_interval_ms=10)

    @property
    def said(self) -> list[str]:
        """Return the texts of the thread, as the second server lists them."""
        listed = self.at_other.beta.threads.messages.list(self.thread_id, order="asc")
        return [_text_of(each) for each in listed]


@pytest.fixture
def pair(start: Callable[..., ServerProcess], connect: Callable[[str], openai.OpenAI], postgres_url: str) -> Pair:
    one, other = start(postgres_url), start(postgres_url)
    at_one, at_other = connect(one.base_url), connect(other.base_url)
    assistant = at_one.beta.assistants.create(model="gpt-4o")
    thread = at_one.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
    return Pair(one, other, at_one, at_other, assistant.id, thread.id)


def test_what_one_server_was_given_is_seen_by_the_other_at_once_and_its_run_is_continued_there(pair: Pair) -> None:
    pair.at_one.beta.threads.messages.create(pair.thread_id, role="user", content="And?")
    assert pair.said == ["Hello", "And?"]
    run = pair.poll(pair.run(tools=[FUNCTION]))
    assert run.status == "requires_action"
    call = run.required_action.submit_tool_outputs.tool_calls[0].id
    outputs: Any = [{"tool_call_id": call, "output": "sunny"}]
    opened = pair.at_other.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=pair.thread_id, tool_outputs=outputs
    )
    with opened as stream:
        assert stream.get_final_messages()[0].content[0].text.value == "The function said: sunny"
    again = pair.at_one.beta.threads.runs.retrieve(run.id, thread_id=pair.thread_id)
    assert (again.status, pair.said) == ("completed", ["Hello", "And?", "The function said: sunny"])


def test_a_run_of_one_server_locks_its_thread_in_the_other_which_can_cancel_it(pair: Pair, upstream: ChatOnly) -> None:
    at_other = pair.at_other.beta.threads
    with upstream.held():
        run = pair.run()
        upstream.wait_for(1)
        with pytest.raises(openai.BadRequestError, match=f"already has an active run {run.id}"):
            at_other.runs.create(pair.thread_id, assistant_id=pair.assistant_id)
        with pytest.raises(openai.BadRequestError, match=f"while a run {run.id} is active"):
            at_other.messages.create(pair.thread_id, role="user", content="And?")
        assert at_other.runs.cancel(run.id, thread_id=pair.thread_id).status == "cancelled"
    until(lambda: re.search("is not run here|has ended elsewhere", Path("server.log").read_text(encoding="utf-8")))
    assert pair.at_one.beta.threads.runs.retrieve(run.id, thread_id=pair.thread_id).status == "cancelled"
    assert pair.said == ["Hello"]
    assert pair.poll(pair.run()).status == "completed"
    assert pair.said == ["Hello", "You said: Hello"]


@pytest.mark.parametrize("how", ["cancel", "delete the thread"])
def test_a_run_that_another_server_ends_no_longer_waits_for_a_silent_provider(
    pair: Pair, upstream: ChatOnly, how: str
) -> None:
    at_other = pair.at_other.beta.threads
    with upstream.held():
        run = pair.run()
        upstream.wait_for(1)
        if how == "cancel":
            assert at_other.runs.cancel(run.id, thread_id=pair.thread_id).status == "cancelled"
        else:
            assert at_other.delete(pair.thread_id).deleted
        until(lambda: "has ended elsewhere" in Path("server.log").read_text(encoding="utf-8"))
        upstream.wait_until_left()
    if how == "cancel":
        assert pair.at_one.beta.threads.runs.retrieve(run.id, thread_id=pair.thread_id).status == "cancelled"
        assert pair.poll(pair.run()).status == "completed"
        assert pair.said == ["Hello", "You said: Hello"]


def test_the_run_of_a_killed_server_is_continued_by_the_other(
    pair: Pair, upstream: ChatOnly, postgres_url: str
) -> None:
    with upstream.held():
        run = pair.run()
        upstream.wait_for(1)
        pair.one.kill()
        upstream.wait_for(2)
    assert pair.poll(run).status == "completed"
    assert pair.said == ["Hello", "You said: Hello"]
    with open_ledger(load_settings(db=postgres_url)) as ledger:
        (failure,) = ledger.failures()
    assert (failure.cause, failure.next) == ("interrupted", "retried")


def test_a_search_of_a_killed_server_is_not_made_again_and_its_result_is_cited_by_the_other(
    pair: Pair, upstream: ChatOnly, postgres_url: str
) -> None:
    upstream.arguments = '{"query": "vacation"}'
    file = pair.at_one.files.create(file=("handbook.md", b"25 vacation days"), purpose="assistants")
    store = pair.at_one.vector_stores.create(file_ids=[file.id])
    search: Any = [{"type": "file_search"}]
    resources: Any = {"file_search": {"vector_store_ids": [store.id]}}
    pair.at_one.beta.assistants.update(pair.assistant_id, tools=search, tool_resources=resources)
    with upstream.held(free=1):
        run = pair.run()
        upstream.wait_for(2)  # the second one has the result of the search
        pair.one.kill()
        upstream.wait_for(3)
    assert pair.poll(run).status == "completed"
    message = pair.at_other.beta.threads.messages.list(pair.thread_id).data[0]
    (cited,) = message.content[0].text.annotations
    assert (cited.text, cited.file_citation.file_id) == ("【1†handbook.md】", file.id)
    steps = pair.at_other.beta.threads.runs.steps.list(run.id, thread_id=pair.thread_id).data
    assert [each.type for each in steps] == ["message_creation", "tool_calls"]
    with open_ledger(load_settings(db=postgres_url)) as ledger:
        roles = [
            event.role for event in ledger.journal.history(pair.thread_id) if isinstance(event, e.MessageJournaled)
        ]
    assert roles == ["user", "assistant", "tool", "assistant"]


@pytest.fixture
def polling(
    start: Callable[..., ServerProcess], connect: Callable[[str], openai.OpenAI], any_db_url: str, port: int
) -> Iterator[Callable[..., tuple[ServerProcess, Future[Any], Any]]]:
    """Yield a function that starts a server and a client that creates a run and polls it; both are returned, with the SDK."""
    with ThreadPoolExecutor(1) as pool:

        def begin(**order: Any) -> tuple[ServerProcess, Future[Any], Any]:
            server = start(any_db_url, port, **order)
            sdk = connect(server.base_url)
            assistant = sdk.beta.assistants.create(model="gpt-4o")
            thread = sdk.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
            runs = sdk.beta.threads.runs
            where = {"thread_id": thread.id, "assistant_id": assistant.id}
            return server, pool.submit(runs.create_and_poll, **where, poll_interval_ms=10), sdk

        yield begin


def check_answered_once(run: Any, sdk: Any) -> None:
    assert run.status == "completed"
    threads = sdk.beta.threads
    assert [_text_of(each) for each in threads.messages.list(run.thread_id, order="asc")] == [
        "Hello",
        "You said: Hello",
    ]
    assert [each.id for each in threads.runs.list(run.thread_id)] == [run.id]


def test_a_server_that_is_told_to_stop_finishes_its_run_and_its_client_asks_the_next_one(
    start: Callable[..., ServerProcess], polling: Any, upstream: ChatOnly, any_db_url: str, port: int
) -> None:
    with upstream.held():
        server, polled, sdk = polling()
        upstream.wait_for(1)
        server.send(signal.SIGTERM)
        assert server.next() == STOPS
    assert server.wait() == 0
    start(any_db_url, port)
    check_answered_once(polled.result(), sdk)
    assert len(upstream.requests) == 1


def test_a_server_that_is_told_to_stop_hands_over_a_run_that_takes_too_long(
    start: Callable[..., ServerProcess], polling: Any, upstream: ChatOnly, any_db_url: str, port: int
) -> None:
    with upstream.held():
        server, polled, sdk = polling(stop_seconds=0)
        upstream.wait_for(1)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        start(any_db_url, port)
        upstream.wait_for(2)
    check_answered_once(polled.result(), sdk)
    with open_ledger(load_settings(db=any_db_url)) as ledger:
        (failure,) = ledger.failures()
    assert (failure.cause, failure.next) == ("interrupted", "retried")


def test_a_stream_ends_in_order_when_its_server_is_told_to_stop(
    start: Callable[..., ServerProcess], connect: Callable[[str], openai.OpenAI], upstream: ChatOnly, db_url: str
) -> None:
    server = start(db_url)
    sdk = connect(server.base_url)
    assistant = sdk.beta.assistants.create(model="gpt-4o")
    thread = sdk.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
    with sdk.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        with upstream.held():
            next(event for event in stream if event.event == "thread.message.delta")
            server.send(signal.SIGTERM)
            until(lambda: not accepts(server))
        (answer,) = stream.get_final_messages()
    assert _text_of(answer) == "You said: Hello"
    assert server.wait() == 0
