"""Three drivers, one meaning: whatever effects ask for is performed in the same order, awaited or at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain.effects import (
    AsyncDriver,
    Call,
    Effects,
    Emit,
    Interrupted,
    Interruption,
    ListenerLeft,
    Pause,
    Use,
    attended,
    perform,
    stream,
    waking,
    work,
)
from threadledger.domain.effects.effects import Work
from threadledger.domain.exchange import Delta


class Broken(Exception):
    """What is raised in these tests."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as workers:
        yield workers


def said(text: str) -> Emit:
    return Emit(Delta(text))


def called(do: Callable[[], Any]) -> Call:
    """A call that comes to the same in both worlds."""

    async def awaited() -> Any:
        return do()

    return Call(do, awaited)


def raising(error: BaseException) -> Any:
    raise error


class World:
    """One of the drivers, with the same face: `all_of` performs, `heard` stops listening after so many parts."""

    def __init__(self, name: str, pool: ThreadPoolExecutor) -> None:
        self.waits, self.can_be_interrupted = name == "awaited", name == "interruptible"
        self.pool = pool

    def all_of(self, effects: Effects[Any]) -> Any:
        if self.waits:
            return asyncio.run(AsyncDriver(self.pool).perform(effects))
        if self.can_be_interrupted:
            return self.pool.submit(Interruption().perform, effects).result()
        return perform(effects, lambda _: None)

    def stream(self, effects: Effects[Any], parts: int | None = None) -> list[str]:
        return asyncio.run(self._heard(effects, parts)) if self.waits else self._heard_at_once(effects, parts)

    def _heard_at_once(self, effects: Effects[Any], parts: int | None) -> list[str]:
        listened, texts = stream(effects, lambda _: None), []
        for part in listened:
            texts.append(part.text)
            if len(texts) == parts:
                break
        listened.close()
        return texts

    async def _heard(self, effects: Effects[Any], parts: int | None) -> list[str]:
        texts = []
        async with aclosing(AsyncDriver(self.pool).stream(effects)) as listened:
            async for part in listened:
                texts.append(part.text)
                if len(texts) == parts:
                    break
        return texts


@pytest.fixture(params=["at once", "awaited", "interruptible"])
def world(request: pytest.FixtureRequest, pool: ThreadPoolExecutor) -> World:
    return World(request.param, pool)


@pytest.fixture(params=["at once", "awaited"])
def left_world(request: pytest.FixtureRequest, pool: ThreadPoolExecutor) -> World:
    """A driver whose listener may stop listening."""
    return World(request.param, pool)


# What comes back


def test_what_an_effect_comes_to_is_sent_back_in_order(world: World) -> None:
    def effects() -> Effects[list[Any]]:
        found = [(yield called(lambda: "call")), (yield from work(lambda: "work"))]
        found += [(yield Use(lambda a, b: a + b, {"a": 1, "b": 2})), (yield Pause(0.0)), (yield said("told"))]
        return found

    assert world.all_of(effects()) == ["call", "work", 3, None, None]


@pytest.mark.parametrize("make", [called, Work, Use])
def test_what_an_effect_raises_is_raised_at_its_yield(world: World, make: Callable[..., Any]) -> None:
    def effects() -> Effects[str]:
        try:
            yield make(lambda: raising(Broken("no")))
        except Broken as error:
            told = f"caught {error}"
            return (yield from work(lambda: told))
        return "not raised"

    assert world.all_of(effects()) == "caught no"


@pytest.mark.parametrize("make", [called, Work, Use])
def test_what_the_effects_do_not_catch_goes_on_up(world: World, make: Callable[..., Any]) -> None:
    cleaned: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield make(lambda: raising(Broken("no")))
        finally:
            yield from work(lambda: cleaned.append("cleaned"))

    with pytest.raises(Broken, match="no"):
        world.all_of(effects())
    assert cleaned == ["cleaned"]


def test_what_is_told_is_handed_over_before_the_next_effect_is_performed(left_world: World) -> None:
    done: list[str] = []

    def effects() -> Effects[None]:
        yield said("one")
        yield from work(lambda: done.append("after one"))
        yield said("two")
        yield from work(lambda: done.append("after two"))

    assert left_world.stream(effects(), parts=2) == ["one", "two"]
    assert done == ["after one"]


def test_nothing_is_handed_over_where_nobody_listens(world: World) -> None:
    def effects() -> Effects[str]:
        yield said("one")
        return "the value"

    assert world.all_of(effects()) == "the value"


def test_a_pause_is_waited_for_by_the_clock_that_was_given() -> None:
    waited: list[float] = []

    def effects() -> Effects[None]:
        yield Pause(2.5)

    perform(effects(), waited.append)
    assert waited == [2.5]


def test_an_awaited_exchange_leaves_no_task_behind(pool: ThreadPoolExecutor) -> None:
    def effects() -> Effects[None]:
        yield said("one")
        yield from work(lambda: None)

    async def main() -> int:
        await AsyncDriver(pool).perform(effects())
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


# Functions of the app


def test_an_asynchronous_function_is_awaited_and_a_blocking_one_gets_a_thread(pool: ThreadPoolExecutor) -> None:
    async def asynchronous(name: str) -> tuple[str, int]:
        await asyncio.sleep(0)
        return name, threading.get_ident()

    def blocking(name: str) -> tuple[str, int]:
        return name, threading.get_ident()

    def effects() -> Effects[Any]:
        return [(yield Use(asynchronous, {"name": "a"})), (yield Use(blocking, {"name": "b"}))]

    async def main() -> Any:
        return await AsyncDriver(pool).perform(effects()), threading.get_ident()

    ((first, first_thread), (second, second_thread)), loop_thread = asyncio.run(main())
    assert (first, second) == ("a", "b")
    assert first_thread == loop_thread != second_thread


def test_what_a_blocking_function_returns_is_awaited_where_it_can_be(pool: ThreadPoolExecutor) -> None:
    async def later() -> str:
        return "later"

    def blocking() -> Any:
        return later()

    def effects() -> Effects[str]:
        return (yield Use(blocking))

    assert asyncio.run(AsyncDriver(pool).perform(effects())) == "later"


def test_an_asynchronous_function_is_awaited_in_the_blocking_world_too() -> None:
    async def asynchronous(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    def effects() -> Effects[int]:
        return (yield Use(asynchronous, {"number": 1}))

    assert perform(effects()) == 2


def test_a_function_that_raises_stop_iteration_ends_nothing(world: World) -> None:
    def effects() -> Effects[str]:
        try:
            yield Use(lambda: next(iter([])))
        except RuntimeError as error:
            return str(error)
        return "not raised"

    assert world.all_of(effects()) == "the function raised StopIteration"


def test_what_is_no_effect_is_refused(world: World) -> None:
    def effects() -> Any:
        yield "no effect"

    with pytest.raises(TypeError, match="'no effect' is not an effect"):
        world.all_of(effects())


# The listener goes


def nested(effects: Effects[Any]) -> Effects[Any]:
    """Effects within effects, as an exchange's are."""
    return (yield from effects)


def test_effects_whose_listener_goes_clean_up_and_tell_nobody_any_more(left_world: World) -> None:
    done: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield said("one")
            yield said("two")
        finally:
            yield called(lambda: done.append("called"))
            yield said("nobody hears this")
            yield Pause(0.0)
            yield from work(lambda: done.append("worked"))

    assert left_world.stream(nested(nested(effects())), parts=1) == ["one"]
    assert done == ["called", "worked"]


def test_effects_may_go_on_to_their_end_after_the_listener_has_gone(left_world: World) -> None:
    done: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield said("one")
        except BaseException:  # noqa: BLE001 - this one goes on whatever comes
            yield from work(lambda: done.append("went on"))

    assert left_world.stream(nested(effects()), parts=1) == ["one"]
    assert done == ["went on"]


def test_an_error_while_cleaning_up_is_not_swallowed(left_world: World) -> None:
    def effects() -> Effects[None]:
        try:
            yield said("one")
        finally:
            yield from work(lambda: raising(Broken("while cleaning up")))

    with pytest.raises(Broken, match="while cleaning up"):
        left_world.stream(nested(effects()), parts=1)


def test_a_loop_that_breaks_off_has_its_stream_cleaned_up(pool: ThreadPoolExecutor) -> None:
    done: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield said("one")
        finally:
            yield from work(lambda: done.append("cleaned"))

    async def main() -> None:
        async for _ in AsyncDriver(pool).stream(nested(effects())):
            break

    asyncio.run(main())
    for _ in stream(nested(effects())):
        break
    assert done == ["cleaned", "cleaned"]


# Somebody stops it


@pytest.mark.parametrize("make", [called, Work, Use, said])
def test_ctrl_c_reaches_the_effects_which_clean_up_before_it_goes_on_up(make: Callable[..., Any]) -> None:
    done: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield Use(lambda: raising(KeyboardInterrupt()))
        finally:
            yield make("told") if make is said else make(lambda: done.append("performed"))
            yield from work(lambda: done.append("cleaned"))

    with pytest.raises(KeyboardInterrupt):
        perform(nested(effects()))
    assert done[-1] == "cleaned"


class Held:
    """Work of the database that goes on until it is let go."""

    def __init__(self, raises: Exception | None = None) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.ended = False
        self._raises = raises

    def do(self) -> str:
        self.begun.set()
        assert self.may_end.wait(10)
        self.ended = True
        if self._raises is not None:
            raise self._raises
        return "stored"


async def cancelled_in(held: Held, effects: Effects[Any], driver: AsyncDriver, times: int = 1) -> Any:
    """What becomes of effects whose task is cancelled while this work is done."""
    task = asyncio.ensure_future(driver.perform(effects))
    await asyncio.get_running_loop().run_in_executor(None, held.begun.wait, 10)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    held.may_end.set()
    return await task


@pytest.mark.parametrize("times", [1, 3])
def test_work_is_not_broken_off_and_the_cancellation_is_delivered_after_it(
    pool: ThreadPoolExecutor, times: int
) -> None:
    held, seen = Held(), []

    def effects() -> Effects[None]:
        seen.append((yield from work(held.do)))
        seen.append((yield from work(lambda: "stored too")))
        try:
            yield called(lambda: seen.append("called"))
        except asyncio.CancelledError:
            seen.append((yield from work(lambda: "recorded")))
            raise

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_in(held, nested(effects()), AsyncDriver(pool), times))
    assert seen == ["stored", "stored too", "recorded"]


def test_a_cancellation_is_not_lost_where_the_work_it_came_in_is_the_last(pool: ThreadPoolExecutor) -> None:
    held = Held()

    def effects() -> Effects[str]:
        return (yield from work(held.do))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_in(held, effects(), AsyncDriver(pool)))
    assert held.ended


def test_a_cancellation_is_not_lost_where_the_work_it_came_in_fails(pool: ThreadPoolExecutor) -> None:
    held, seen = Held(Broken("refused")), []

    def effects() -> Effects[str]:
        try:
            return (yield from work(held.do))
        except Broken:
            seen.append("refused")
        yield Pause(0.0)
        return "went on"

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_in(held, effects(), AsyncDriver(pool)))
    assert seen == ["refused"]

    held = Held(Broken("refused"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_in(held, nested(storing(held)), AsyncDriver(pool)))


def storing(held: Held) -> Effects[Any]:
    """The work alone, its error uncaught."""
    return (yield from work(held.do))


def test_a_call_is_cancelled_at_once(pool: ThreadPoolExecutor) -> None:
    seen: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield Call(lambda: None, asyncio.Event().wait)
        except asyncio.CancelledError:
            seen.append((yield from work(lambda: "recorded")))
            raise

    async def main() -> None:
        task = asyncio.ensure_future(AsyncDriver(pool).perform(nested(effects())))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert seen == ["recorded"]


# Attended


def test_attended_effects_come_to_the_same_and_each_is_looked_at_after_it(world: World) -> None:
    seen: list[type] = []

    def effects() -> Effects[str]:
        first = yield from work(lambda: "work")
        yield said("told")
        return first

    def after(effect: Any) -> Effects[None]:
        seen.append((yield from work(lambda: type(effect))))

    assert world.all_of(attended(effects(), after)) == "work"
    assert seen == [Work, Emit]


def test_attended_effects_hear_what_is_raised_after_one_of_them_and_clean_up(world: World) -> None:
    done: list[str] = []

    def effects() -> Effects[None]:
        try:
            yield said("one")
            yield said("two")
        finally:
            yield from work(lambda: done.append("cleaned"))

    def after(effect: Any) -> Effects[None]:
        if isinstance(effect, Emit):
            yield from work(lambda: raising(Broken("closed by others")))

    with pytest.raises(Broken, match="closed by others"):
        world.all_of(nested(attended(nested(effects()), after)))
    assert done == ["cleaned"]


def test_an_attended_effect_may_be_changed_before_it_is_performed(left_world: World) -> None:
    def effects() -> Effects[None]:
        yield said("one")

    def nothing(effect: Any) -> Effects[None]:
        yield from ()

    assert left_world.stream(attended(effects(), nothing, lambda effect: said(effect.part.text.upper()))) == ["ONE"]


# Any script

EFFECT = st.tuples(st.sampled_from(["call", "work", "use", "tell", "pause"]), st.integers(0, 9), st.booleans())
SCRIPT = st.recursive(
    st.lists(EFFECT, max_size=4),
    lambda inner: st.lists(
        EFFECT | st.tuples(st.sampled_from(["nested", "caught", "cleaned"]), inner, inner), max_size=4
    ),
    max_leaves=20,
)


def played(script: list[Any], done: list[Any]) -> Effects[int]:
    """A script as effects: some of them raise, some of what they raise is caught, some of them are cleaned up after."""
    for kind, first, second in script:
        match kind:
            case "nested":
                done.append(("sent back", (yield from played(first, done))))
            case "caught":
                try:
                    yield from played(first, done)
                except Broken as error:
                    done.append(("caught", str(error)))
                    yield from played(second, done)
            case "cleaned":
                try:
                    yield from played(first, done)
                finally:
                    done.append("cleaning up")
                    yield from played(second, done)
            case _:
                done.append(("sent back", (yield effect_of(kind, first, second, done))))
    return len(done)


def effect_of(kind: str, number: int, raises: bool, done: list[Any]) -> Any:
    def do() -> int:
        done.append((kind, number))
        return raising(Broken(f"{kind} {number}")) if raises else number

    match kind:
        case "call":
            return called(do)
        case "work":
            return Work(do)
        case "use":
            return Use(do)
        case "tell":
            return said(str(number))
        case _:
            return Pause(0.0)


def outcome(listen: Callable[[Effects[Any]], Any], script: list[Any]) -> tuple[Any, list[Any]]:
    done: list[Any] = []
    try:
        return listen(played(script, done)), done
    except Broken as error:
        return f"raised {error}", done


@given(script=SCRIPT, parts=st.none() | st.integers(1, 3))
def test_both_drivers_perform_the_same_in_the_same_order(
    pool: ThreadPoolExecutor, script: list[Any], parts: int | None
) -> None:
    at_once, awaited = World("at once", pool), World("awaited", pool)
    assert outcome(at_once.all_of, script) == outcome(awaited.all_of, script)
    assert outcome(lambda effects: at_once.stream(effects, parts), script) == outcome(
        lambda effects: awaited.stream(effects, parts), script
    )


# Interrupted by another thread


class Interrupting:
    """Effects that another thread interrupts at a moment, and what happened to them."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.interruption = Interruption()
        self.pool = pool
        self.seen: list[str] = []

    def interrupt(self, error: BaseException | None = None) -> None:
        self.pool.submit(self.interruption.interrupt, error or Interrupted()).result()

    def of(self, *effects: Any) -> list[str]:
        """Perform effects one after the other; return what happened to each, and to the clean-up at their end."""

        def all_of() -> Effects[None]:
            try:
                for number, effect in enumerate(effects):
                    yield effect
                    self.seen.append(f"{number} done")
            except BaseException as error:
                self.seen.append(type(error).__name__)
                yield Pause(0.0)  # what it does to end is not interrupted again
                yield from work(lambda: self.seen.append("cleaned"))
                raise

        with pytest.raises(BaseException):  # noqa: B017 - what is raised is in `seen`
            self.interruption.perform(all_of())
        return self.seen


@pytest.fixture
def interrupting(pool: ThreadPoolExecutor) -> Interrupting:
    return Interrupting(pool)


def test_effects_that_were_interrupted_before_they_begin_wait_for_nothing(interrupting: Interrupting) -> None:
    interrupting.interrupt()
    assert interrupting.of(called(lambda: interrupting.seen.append("called"))) == ["Interrupted", "cleaned"]


def test_a_pause_is_interrupted(interrupting: Interrupting) -> None:
    interrupting.pool.submit(interrupting.interrupt)
    assert interrupting.of(Pause(600.0)) == ["Interrupted", "cleaned"]


def test_work_on_the_ledger_is_not_interrupted(interrupting: Interrupting) -> None:
    assert interrupting.of(Work(interrupting.interrupt), Work(lambda: None), said("a"), Pause(0.0)) == [
        *("0 done", "1 done", "2 done"),
        *("Interrupted", "cleaned"),
    ]


def test_a_call_that_has_ended_meanwhile_keeps_its_result(interrupting: Interrupting) -> None:
    assert interrupting.of(called(interrupting.interrupt), Work(lambda: None), Pause(0.0)) == [
        *("0 done", "1 done"),
        *("Interrupted", "cleaned"),
    ]


def test_a_call_that_was_woken_raises_what_has_interrupted_it(interrupting: Interrupting) -> None:
    woken = threading.Event()

    def call() -> None:
        with waking(woken.set):
            interrupting.pool.submit(interrupting.interrupt, ListenerLeft())
            assert woken.wait(60.0)
            raise ConnectionError("the connection was closed")

    assert interrupting.of(called(call)) == ["ListenerLeft", "cleaned"]


def test_a_call_that_was_woken_has_no_result(interrupting: Interrupting) -> None:
    """The end of a connection may look like the end of an answer."""
    woken = threading.Event()

    def call() -> str:
        with waking(woken.set):
            interrupting.pool.submit(interrupting.interrupt)
            assert woken.wait(60.0)
        return "half an answer"

    assert interrupting.of(called(call)) == ["Interrupted", "cleaned"]


def test_a_call_that_begins_to_wait_after_the_interruption_does_not_wait(interrupting: Interrupting) -> None:
    def call() -> None:
        interrupting.interrupt()
        with waking(lambda: None):
            interrupting.seen.append("waited")

    assert interrupting.of(called(call)) == ["Interrupted", "cleaned"]


def test_what_no_one_can_interrupt_waits_as_always() -> None:
    with waking(lambda: None):
        pass


def test_database_work_of_many_threads_is_done_by_a_few_at_a_time() -> None:
    working, most = threading.Semaphore(2), 4
    at_once, lock, met = [0], threading.Lock(), threading.Barrier(2)

    def do() -> int:
        with lock:
            at_once[0] += 1
            seen = at_once[0]
        met.wait(60.0)
        with lock:
            at_once[0] -= 1
        return seen

    with ThreadPoolExecutor(most) as threads:
        found = [threads.submit(Interruption(working).perform, work(do)) for _ in range(most)]
        assert max(each.result() for each in found) == 2
