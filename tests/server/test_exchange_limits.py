"""One key never keeps the exchanges of another one from running, and upkeep that fails does not flood the log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.server import open_server
from threadledger.adapters.server.calls import Caller
from threadledger.adapters.server.exchange_slots import ExchangeSlots
from threadledger.adapters.server.limits import ServerLimits
from threadledger.adapters.server.runner import UPKEEP_PAUSE_SECONDS_MAX, pause_after
from threadledger.adapters.sql.served_notes import SqlServedNotes
from threadledger.adapters.wire import ApiError
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation import key_of
from threadledger.domain.errors import StoreUnavailable

from .chat_only import ChatOnly
from .speaking import OTHER_KEY, OWN_KEY, Keys, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

PER_KEY = 2


@pytest.fixture
def limited(upstream: ChatOnly, db_url: str) -> Iterator[Any]:
    """Run a server on which a key may run two exchanges at a time, and all keys three."""
    given = {"db": db_url, "openai_api_key": "sk-test", "openai_base_url": upstream.base_url, "threads": "none"}
    loaded = load_settings(**given, backends=("chat",), retries=0)
    limits = ServerLimits(exchanges=PER_KEY + 1, exchanges_per_key=PER_KEY)
    with (
        open_ledger(loaded, wait=lambda seconds: None) as ledger,
        open_server(ledger, loaded, Keys(), port=0, limits=limits) as server,
    ):
        yield server


@pytest.fixture
def connect(limited: Any) -> Iterator[Callable[[str], OpenAI]]:
    opened: list[OpenAI] = []

    def connected(key: str) -> OpenAI:
        opened.append(OpenAI(base_url=limited.base_url, api_key=key, max_retries=0))
        return opened[-1]

    yield connected
    for each in opened:
        each.close()


class Runs:
    """Threads of one key, each with a run."""

    def __init__(self, client: OpenAI) -> None:
        self._client, self._threads = client, client.beta.threads
        self._assistant = client.beta.assistants.create(model="gpt-4o").id

    def begin(self, text: str) -> Any:
        said: Any = {"messages": [{"role": "user", "content": text}]}
        return self._threads.create_and_run(assistant_id=self._assistant, thread=said)

    def status(self, run: Any) -> str:
        return str(self._threads.runs.retrieve(run.id, thread_id=run.thread_id).status)


def asked(upstream: ChatOnly) -> list[str]:
    return sorted(each["messages"][-1]["content"] for each in upstream.requests)


def test_a_key_that_runs_all_it_may_keeps_no_other_key_waiting(
    connect: Callable[[str], OpenAI], upstream: ChatOnly
) -> None:
    one, other = Runs(connect(OWN_KEY)), Runs(connect(OTHER_KEY))
    with upstream.held():
        runs = [one.begin(f"one {number}") for number in range(5)]
        upstream.wait_for(PER_KEY)
        runs_of_other = [other.begin("other")]
        upstream.wait_for(PER_KEY + 1)
        assert asked(upstream)[-1] == "other"
        assert [one.status(each) for each in runs].count("queued") == 3
    until(lambda: {one.status(each) for each in runs} == {"completed"})
    until(lambda: other.status(runs_of_other[0]) == "completed")
    assert asked(upstream) == [*(f"one {number}" for number in range(5)), "other"]


def test_a_chat_completion_above_the_share_of_its_key_is_refused_and_stores_nothing(
    connect: Callable[[str], OpenAI], limited: Any, upstream: ChatOnly
) -> None:
    one, other, hello = connect(OWN_KEY), connect(OTHER_KEY), {"role": "user", "content": "Hello"}

    def ask(client: OpenAI) -> Any:
        return client.chat.completions.create(model="gpt-4o", messages=[hello])  # type: ignore[list-item] # the SDK's own types

    with ThreadPoolExecutor(PER_KEY + 1) as pool:
        with upstream.held():
            answers = [pool.submit(ask, one) for _ in range(PER_KEY)]
            upstream.wait_for(PER_KEY)
            with pytest.raises(openai.RateLimitError) as refused:
                ask(one)
            answers.append(pool.submit(ask, other))
            upstream.wait_for(PER_KEY + 1)
        said = [each.result().choices[0].message.content for each in answers]
    assert said == ["You said: Hello"] * 3
    assert refused.value.response.headers["retry-after"] == "1"
    assert refused.value.code == "rate_limit_exceeded"
    assert "Rate limit reached for exchanges in progress: limit 2." in refused.value.message
    requests = [each for each in limited.served.ledger.events() if isinstance(each.event, e.ExchangeRequested)]
    assert len(requests) == 3
    assert ask(one).choices[0].message.content == "You said: Hello"


def test_runs_that_are_cancelled_while_they_wait_take_nothing_of_the_share(
    connect: Callable[[str], OpenAI], upstream: ChatOnly
) -> None:
    client = connect(OWN_KEY)
    one = Runs(client)
    with upstream.held():
        first = [one.begin("first") for _ in range(PER_KEY)]
        upstream.wait_for(PER_KEY)
        for waiting in [one.begin("waits") for _ in range(PER_KEY)]:
            client.beta.threads.runs.cancel(waiting.id, thread_id=waiting.thread_id)
    until(lambda: {one.status(each) for each in first} == {"completed"})
    again = [one.begin("again") for _ in range(PER_KEY + 1)]
    until(lambda: {one.status(each) for each in again} == {"completed"})
    assert asked(upstream).count("waits") == 0


def test_free_slots_go_to_the_keys_in_turns() -> None:
    begun: list[str] = []
    slots = ExchangeSlots(1, 3)
    for name in ("a0", "a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        slots.enter(name[0], partial(begun.append, name))
    assert begun == ["a0"]
    above, within = partial(begun.append, "a5"), partial(begun.append, "b3")
    for begin in (above, within):
        slots.enter(begin.args[0][0], begin)
        assert slots.withdraw(begin.args[0][0], begin)
        assert not slots.withdraw(begin.args[0][0], begin)
    for number in range(8):
        slots.leave(begun[number][0])
    assert begun == ["a0", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    for _ in range(3):
        slots.reserve("a")
    with pytest.raises(ApiError):
        slots.reserve("a")
    slots.enter("b", partial(begun.append, "at once"))
    assert begun[-1] == "at once"


def test_requests_that_wait_leave_threads_to_others(open_api: Callable[..., Any], upstream: ChatOnly) -> None:
    server = open_api(limits=ServerLimits(waiting_requests=1))
    said: Any = {"model": "gpt-5.5", "messages": [{"role": "user", "content": "Hello"}]}
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        file = client.files.create(file=("a.txt", b"text"), purpose="assistants")
        with upstream.held():
            first = pool.submit(client.chat.completions.create, **said)
            upstream.wait_for(1)
            with pytest.raises(openai.RateLimitError, match="of all keys in progress: limit 1"):
                client.files.content(file.id)
            with pytest.raises(openai.RateLimitError, match="of all keys in progress: limit 1") as refused:
                client.chat.completions.create(**said, stream=True)
            assert refused.value.response.headers["retry-after"] == "1"
            assert client.models.list().data
        assert first.result().choices
        assert client.chat.completions.create(**said).choices
        assert client.files.content(file.id).read() == b"text"


def test_upkeep_that_fails_is_logged_once_and_once_when_it_works_again(
    connect: Callable[[str], OpenAI], lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Semaphore(0)

    def full(*_: Any, **__: Any) -> None:
        failed.release()
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(SqlServedNotes, "settle", full)
        for _ in range(3):
            assert failed.acquire(timeout=30)
        until(lambda: lines.of("upkeep failed"))
    until(lambda: lines.of("upkeep works again"))
    [record] = lines.of("upkeep failed")
    assert record.getMessage().endswith("and is tried again in growing intervals: the disk is full")
    assert record.exc_info is None
    assert len(lines.of("upkeep works again")) == 1


def test_upkeep_that_fails_is_tried_again_in_growing_intervals() -> None:
    assert [pause_after(failures, 0.5) for failures in (0, 1, 2, 3)] == [0.5, 1.0, 2.0, 4.0]
    assert pause_after(4, 0.5) == pause_after(10**6, 0.5) == UPKEEP_PAUSE_SECONDS_MAX


def test_a_run_that_is_taken_over_counts_in_the_share_of_its_key(
    connect: Callable[[str], OpenAI], limited: Any
) -> None:
    one = Runs(connect(OWN_KEY))
    run = one.begin("Hello")
    until(lambda: one.status(run) == "completed")
    events = (each.event for each in limited.served.ledger.events())
    [request] = [each for each in events if isinstance(each, e.ExchangeRequested)]
    runner = limited.served.runner
    assert runner._share_of(key_of(request.originator_id), request.exchange_id) == Caller("own").actor == "key:own"
