"""Test the asynchronous interface: many concurrent exchanges on few threads, all of them complete."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import threadledger
from threadledger.domain import limits
from threadledger.domain.errors import AllBackendsFailed, ConversationBusy
from threadledger.domain.exchange import Delta
from threadledger.domain.failures import Cause, Failure
from threadledger.domain.ledger import AsyncChat, AsyncLedger, Chat, Ledger
from threadledger.domain.ledger.awaited import AsyncPlan, AsyncReplay
from threadledger.domain.ledger.own_runs import AsyncOwnRun, OwnRun
from threadledger.domain.replay import Plan, Replay
from threadledger.domain.threads import ThreadState

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

CHAT = "POST /chat/completions"
PLAIN: dict[str, Any] = {"backends": ("chat",), "threads": "none", "retries": 0}
KINDS: dict[str, dict[str, Any]] = {
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "chat": PLAIN,
}
THREADS_BESIDE = min(32, (os.cpu_count() or 1) + 4)
"""Maximum number of threads of asyncio's default executor; the SDK uses it to detect the platform before its first request."""

NEVER_SECONDS = 600.0

Scenario = Callable[[AsyncLedger], Awaitable[Any]]


@pytest.fixture
def in_loop(simulator: Any, db_url: str) -> Callable[..., Any]:
    """Return a function that runs a scenario in a new event loop with a new ledger, and returns its result."""

    def run(scenario: Scenario, tools: Any = None, db: str = db_url, **settings: Any) -> Any:
        provider = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url}

        async def main() -> Any:
            async with threadledger.open_async(db, tools=tools, **(provider | PLAIN | settings)) as ledger:
                return await scenario(ledger)

        return asyncio.run(main())

    return run


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Create a profile with one function."""
    path = tmp_path / "profile.toml"
    path.write_text('name = "John"\n[[tools]]\nname = "weather"\n', encoding="utf-8")
    return path


def texts(ledger: Ledger, key: str = "k") -> list[str]:
    return [each.message.text for each in ledger.memory(key).messages]


def types(ledger: Ledger, key: str = "k") -> list[str]:
    return [logged.type for logged in ledger.events(key=key) if not logged.type.startswith(("Thread", "Conversation"))]


# Opening


def test_a_ledger_is_opened_plainly_awaited_or_for_a_block(
    simulator: Any, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    async def main() -> None:
        plain = threadledger.open_async(db_url)
        await plain.conversation("k").ask("one")
        await plain.close()
        awaited = await threadledger.open_async(db_url)
        await awaited.conversation("k").ask("two")
        await awaited.close()
        async with threadledger.open_async(db_url) as ledger:
            answer = await ledger.conversation("k").ask("three")
            assert answer.text == "You said: three"
            assert [each.message.text for each in (await ledger.memory("k")).messages][::2] == ["one", "two", "three"]

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_awaited_stores_what_the_blocking_world_stores(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], simulator: Any, tmp_path: Path, kind: str
) -> None:
    async def scenario(ledger: AsyncLedger) -> Any:
        chat = ledger.conversation("k")
        await chat.append("user", "For your information.")
        await chat.extend([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        answer = await chat.ask("Where is my parcel?")
        assert await chat.failures() == []
        assert [event.originator_version for event in await chat.events(after=3)][:1] == [4]
        return answer

    def blocking(ledger: Ledger) -> Any:
        chat = ledger.conversation("k")
        chat.append("user", "For your information.")
        chat.extend([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        answer = chat.ask("Where is my parcel?")
        return answer

    awaited = in_loop(scenario, **KINDS[kind])
    other = open_ledger(**KINDS[kind], db=f"sqlite:///{tmp_path / 'other.db'}")
    assert blocking(other).text == awaited.text
    ours = open_ledger(**KINDS[kind])
    assert [logged.type for logged in ours.events()] == [logged.type for logged in other.events()]
    answer = "You said: Where is my parcel?"
    assert texts(ours) == texts(other) == ["For your information.", "a", "b", "Where is my parcel?", answer]
    if kind != "chat":
        assert [found.found.state for found in ours.replay.verify()] == [ThreadState.SAME]


def test_everything_a_ledger_can_do_can_be_awaited() -> None:
    def public(of: type) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")}

    assert public(Ledger) - {"journal", "outside", "services", "services_in_use", "schema_before"} <= public(
        AsyncLedger
    )


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [(Ledger, AsyncLedger), (Chat, AsyncChat), (Replay, AsyncReplay), (Plan, AsyncPlan), (OwnRun, AsyncOwnRun)],
)
def test_what_is_awaited_takes_the_same_arguments(blocking: type, awaited: type) -> None:
    methods = [name for name in dir(awaited) if not name.startswith("_") and callable(getattr(blocking, name, None))]
    assert methods
    differing = {
        name: (theirs, ours)
        for name in methods
        if (theirs := inspect.signature(getattr(blocking, name)).parameters)
        != (ours := inspect.signature(getattr(awaited, name)).parameters)
    }
    assert not differing


# Many concurrent exchanges


@pytest.fixture(params=["sqlite", "postgresql"])
def many(request: pytest.FixtureRequest) -> tuple[str, int]:
    """Return the URL of a database of each kind, and the number of concurrent exchanges on it."""
    if request.param == "sqlite":
        return request.getfixturevalue("db_url"), 200
    return request.getfixturevalue("postgres_url"), 60


def test_hundreds_of_exchanges_are_under_way_at_once_on_a_few_threads(
    in_loop: Callable[..., Any],
    open_ledger: Callable[..., Ledger],
    simulator: Any,
    profile: Path,
    many: tuple[str, int],
) -> None:
    url, count = many
    call = {"tool_calls": [{"name": "weather", "arguments": {}}]}
    simulator.answer(*[call] * count)
    before = threading.active_count()

    async def scenario(ledger: AsyncLedger) -> int:
        everybody = asyncio.Barrier(count)
        peaks = []

        async def weather() -> str:
            await everybody.wait()  # all exchanges wait here until each of them has reached its tool call
            peaks.append(threading.active_count())
            return "sunny"

        bound = dict(ledger.ledger.services.tools)
        assert list(bound) == ["weather"]
        ledger.ledger.services.tools["weather"] = weather  # type: ignore[index] # as if the app had bound it

        async def one(number: int) -> None:
            chat = ledger.conversation(f"k{number}")
            await chat.append("user", f"This is number {number}.")
            await chat.ask(f"How is the weather, {number}?")

        await asyncio.gather(*(one(number) for number in range(count)))
        return max(peaks)

    peak = in_loop(scenario, {"weather": lambda: "?"}, url, profile=profile, synchronous="NORMAL")
    assert peak - before <= limits.ASYNC_WORKERS + THREADS_BESIDE

    ledger = open_ledger(**PLAIN, db=url)
    for number in range(count):
        question = f"How is the weather, {number}?"
        expected = [f"This is number {number}.", question, "", "sunny", f"You said: {question}"]
        assert texts(ledger, f"k{number}") == expected
    stored = Counter(logged.type for logged in ledger.events())
    assert stored == {
        "ProfileDefined": 1,
        "ConversationStarted": count,
        "MessageJournaled": 5 * count,
        "RunStarted": count,
        "RunCompleted": count,
    }


def test_two_questions_at_once_in_one_conversation_are_one_too_many(in_loop: Callable[..., Any]) -> None:
    async def scenario(ledger: AsyncLedger) -> list[Any]:
        chat = ledger.conversation("k")
        return await asyncio.gather(chat.ask("one"), chat.ask("two"), return_exceptions=True)

    outcomes = in_loop(scenario)
    assert [type(outcome).__name__ for outcome in sorted(outcomes, key=str)].count("ConversationBusy") == 1
    assert sum(isinstance(outcome, ConversationBusy) for outcome in outcomes) == 1


# Tools


@pytest.mark.parametrize("kind", KINDS)
def test_tools_may_be_asynchronous_or_block(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], simulator: Any, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "two.toml"
    path.write_text('[[tools]]\nname = "weather"\n[[tools]]\nname = "time"\n', encoding="utf-8")
    simulator.answer(
        {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "time", "arguments": {}}]},
        "Sunny, at noon.",
    )

    async def weather(city: str) -> str:
        await asyncio.sleep(0)
        return f"sunny in {city}"

    def time() -> str:
        assert threading.current_thread() is not threading.main_thread()  # the event loop continues meanwhile
        return "noon"

    async def scenario(ledger: AsyncLedger) -> str:
        return (await ledger.conversation("k").ask("Weather and time?")).text

    assert in_loop(scenario, {"weather": weather, "time": time}, profile=path, **KINDS[kind]) == "Sunny, at noon."
    kept = open_ledger(**PLAIN).memory("k").as_chat_messages()
    assert [message["content"] for message in kept if message["role"] == "tool"] == ["sunny in Bern", "noon"]


def test_an_asynchronous_tool_that_raises_is_a_result_for_the_model(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], simulator: Any, profile: Path
) -> None:
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {}}]}, "I cannot tell.")

    async def weather() -> str:
        raise LookupError("no such city")

    async def scenario(ledger: AsyncLedger) -> str:
        return (await ledger.conversation("k").ask("Weather?")).text

    assert in_loop(scenario, {"weather": weather}, profile=profile) == "I cannot tell."
    assert texts(open_ledger(**PLAIN))[2] == "[the tool failed: LookupError: no such city]"


# Cancellation


def failures_after_cancelling(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], under_way: Scenario, **settings: Any
) -> list[Failure]:
    """Cancel a scenario, check that the next question is answered, and return the facts of the recorded failures."""

    async def scenario(ledger: AsyncLedger) -> str:
        with pytest.raises(asyncio.CancelledError):
            await under_way(ledger)
        assert (await ledger.state("k")).open_runs == {}
        return (await ledger.conversation("k").ask("again")).text

    assert in_loop(scenario, **settings) == "You said: again"
    ledger = open_ledger(**PLAIN)
    assert texts(ledger) == ["hello", "again", "You said: again"]
    return [failure.facts for failure in ledger.failures()]


def test_a_task_that_is_cancelled_while_the_model_answers_leaves_a_run_that_is_closed(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    simulator.add_fault(CHAT, hang={"seconds": NEVER_SECONDS, "events": 2})

    async def under_way(ledger: AsyncLedger) -> None:
        heard = asyncio.Event()

        async def listen() -> None:
            async with aclosing(ledger.conversation("k").stream("hello")) as parts:
                async for _ in parts:
                    heard.set()

        task = asyncio.ensure_future(listen())
        await heard.wait()
        task.cancel()
        await task

    (failure,) = failures_after_cancelling(in_loop, open_ledger, under_way)
    assert (failure.status, failure.partial_text) == ("interrupted", "You ")
    assert types(open_ledger(**PLAIN))[:4] == ["MessageJournaled", "RunStarted", "RunFailed", "ExchangeAbandoned"]


def test_a_task_that_is_cancelled_while_a_tool_works_leaves_a_run_that_is_closed(
    in_loop: Callable[..., Any], simulator: Any, profile: Path, open_ledger: Callable[..., Ledger]
) -> None:
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {}}]})
    begun = []

    async def weather() -> None:
        begun[0].set()
        await asyncio.Event().wait()

    async def scenario(ledger: AsyncLedger) -> None:
        begun.append(asyncio.Event())
        task = asyncio.ensure_future(ledger.conversation("k").ask("hello"))
        await begun[0].wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (failure,) = await ledger.failures()
        assert (failure.cause, failure.next) == (Cause.INTERRUPTED, "abandoned")

    in_loop(scenario, {"weather": weather}, profile=profile)
    assert types(open_ledger(**PLAIN))[-2:] == ["RunFailed", "ExchangeAbandoned"]


def test_a_stream_that_a_loop_broke_off_is_ended_before_its_ledger_is_closed(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger]
) -> None:
    async def scenario(ledger: AsyncLedger) -> None:
        async for _ in ledger.conversation("dropped").stream("one two three"):
            break
        kept = ledger.conversation("kept").stream("one two three")
        await anext(kept)
        in_hand.append(kept)

    in_hand: list[Any] = []
    in_loop(scenario)
    ledger = open_ledger(**PLAIN)
    for key in ("dropped", "kept"):
        assert types(ledger, key) == ["MessageJournaled", "RunStarted", "RunFailed", "ExchangeAbandoned"]


def test_a_time_limit_of_the_app_ends_the_run_too(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    simulator.add_fault(CHAT, hang=NEVER_SECONDS)

    async def scenario(ledger: AsyncLedger) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ledger.conversation("k").ask("hello")

    in_loop(scenario)
    (failure,) = open_ledger(**PLAIN).failures()
    assert failure.cause is Cause.INTERRUPTED


# Following and replaying


def test_what_comes_is_followed_and_the_follower_may_be_stopped_while_it_waits(in_loop: Callable[..., Any]) -> None:
    async def scenario(ledger: AsyncLedger) -> list[str]:
        heard: asyncio.Queue[str] = asyncio.Queue()

        async def follow() -> None:
            async for logged in ledger.events(types=["MessageJournaled"], key="k", follow=True):
                await heard.put(logged.event.content)  # type: ignore[attr-defined] # only messages are requested

        following = asyncio.ensure_future(follow())
        await ledger.conversation("other").append("user", "not this one")
        followed = []
        for text in ("one", "two"):
            await ledger.conversation("k").append("user", text)
            followed.append(await heard.get())
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        return followed

    assert in_loop(scenario) == ["one", "two"]


def test_a_follower_that_has_enough_leaves(in_loop: Callable[..., Any]) -> None:
    async def scenario(ledger: AsyncLedger) -> str:
        await ledger.conversation("k").append("user", "one")
        async with aclosing(ledger.events(follow=True)) as events:  # type: ignore[type-var] # the AsyncIterator is a generator
            async for logged in events:
                if logged.type == "MessageJournaled":
                    return logged.type
        return "none"

    assert in_loop(scenario) == "MessageJournaled"


def test_the_log_is_read_to_its_end(in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger]) -> None:
    blocking = open_ledger(**PLAIN)
    blocking.conversation("k").extend([{"role": "user", "content": str(number)} for number in range(450)])

    async def scenario(ledger: AsyncLedger) -> list[int]:
        return [logged.position async for logged in ledger.events()]

    assert in_loop(scenario) == [logged.position for logged in blocking.events()]


def test_failed_exchanges_are_run_again_and_threads_rebuilt(in_loop: Callable[..., Any], simulator: Any) -> None:
    simulator.add_fault("POST /responses", refuse={"status": 500})

    async def scenario(ledger: AsyncLedger) -> None:
        with pytest.raises(AllBackendsFailed):
            await ledger.conversation("k").ask("hello")
        plan = await ledger.replay.plan_rerun(failed=True)
        assert [item.state for item in plan.items] == ["planned"]
        (done,) = await plan.apply(max_runs=5)
        assert (done.state, done.answer, plan.stopped_by_limit) == ("answered", "You said: hello", False)

        (thread,) = simulator.provider.items
        simulator.lose(thread)
        assert [found.found.state for found in await ledger.replay.verify()] == [ThreadState.GONE]
        rebuild = await ledger.replay.plan_rebuild()
        (built,) = await rebuild.apply()
        assert (built.state, built.sent) == ("done", 2)
        assert [found.found.state for found in await ledger.replay.verify()] == [ThreadState.SAME]

    in_loop(scenario, backends=("responses",), threads="conversations")


def test_a_stream_is_the_same_awaited(in_loop: Callable[..., Any], simulator: Any) -> None:
    simulator.answer("Good morning.")

    async def scenario(ledger: AsyncLedger) -> Any:
        return [part async for part in ledger.conversation("k").stream("hello")]

    *pieces, answer = in_loop(scenario)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == answer.text == "Good morning."


def test_closing_a_ledger_ends_the_exchanges_that_are_under_way(
    in_loop: Callable[..., Any], open_ledger: Callable[..., Ledger], simulator: Any, profile: Path
) -> None:
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {}}]})

    async def scenario(ledger: AsyncLedger) -> Any:
        begun = asyncio.Event()

        async def weather() -> str:
            begun.set()
            await asyncio.sleep(NEVER_SECONDS)
            return "never"

        ledger.ledger.services.tools["weather"] = weather  # type: ignore[index] # as if the app had bound it
        asking = asyncio.create_task(ledger.conversation("k").ask("How is the weather?"))
        await begun.wait()
        await ledger.close()
        return asking.cancelled()

    assert in_loop(scenario, {"weather": lambda: ""}, profile=profile)
    ledger = open_ledger(**PLAIN)
    assert [failure.cause for failure in ledger.failures()] == [Cause.INTERRUPTED]
    assert ledger.state("k").open_runs == {}
