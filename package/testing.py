"""Check that a backend follows the protocol of `threadledger.domain.Backend`, for the tests of its authors.

    from threadledger.testing import Scenario, assert_backend_conforms

    def make(scenario: Scenario) -> MyBackend:
        return MyBackend(model=scenario.next_reply)

    def test_my_backend_conforms() -> None:
        assert_backend_conforms(make)

Every rule is checked with a new backend, with the blocking and with the asynchronous driver, with and without a listener.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from threadledger.domain import (
    Backend,
    BackendRequest,
    Completion,
    Delta,
    Failure,
    JournaledMessage,
    Memory,
    Message,
    Profile,
    ProviderRefused,
    Role,
)
from threadledger.domain.effects import AsyncDriver, Effect, Effects, Emit, attended, perform, work

__all__ = [
    "RULES",
    "Answers",
    "BrokenRule",
    "CallsTool",
    "Hangs",
    "Refuses",
    "Scenario",
    "assert_backend_conforms",
    "backend_conformance",
]

RULES = {
    "identity": "name, thread and takes_unsent are set, and preflight returns a failure or None without calling the model",
    "answer": "one call of the model gives one answer, whose text is unchanged",
    "stream": "the parts for the listener, joined, are the answer",
    "empty": "an empty or blank answer is a failure",
    "refusal": "a refusal is a failure with its HTTP status and words, and the model is not called again",
    "silence": "a call ends with a failure after its time limit",
    "tools": "tool calls are journaled before the functions run, their results afterwards, and the answer follows",
    "secrets": "a failure contains no key that the provider repeated",
}
"""Rules by name."""

PATIENCE_SECONDS = 10.0
"""Time after which a call that has not ended breaks a rule, in seconds; its own limit is much shorter."""

SILENCE_SECONDS = 0.2
CALL_SECONDS = 5.0
"""Time limits of one call, in seconds: of a model that does not answer, and of all others."""

TEXTS = (
    "It is in Bern.",
    "  Zeile eins\n\n\tZeile zwei  \U0001f469\u200d\U0001f467 \u05e9\u05dc\u05d5\u05dd \u2028"
    ' "quoted" \\ {json: 1} </s> \u00e9e\u0301',
)
"""Answers that must arrive unchanged."""

WORDS = "conformance-refusal"
SECRET = "sk-conformance0123456789abcdef"  # noqa: S105 - it opens nothing; a backend must not let it through


@dataclass(frozen=True)
class Answers:
    """Represent an answer of the model."""

    text: str


@dataclass(frozen=True)
class CallsTool:
    """Represent a call of one of the app's functions; after its result, the model is called again."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Refuses:
    """Represent a refusal by the provider: an HTTP status and the error object in its body (`message`, `type`, `code`)."""

    status: int
    error: Mapping[str, str]


@dataclass(frozen=True)
class Hangs:
    """Represent a model that never answers. A model in the same process must wait for `Scenario.ended`."""


Reply = Answers | CallsTool | Refuses | Hangs


class Scenario:
    """Hold the replies of the model behind a backend, one for each call.

    A model in the same process gets them from `next_reply`, which counts the calls. For a model behind a server, `replies` are
    given to the server, and `counted_by` sets how its calls are counted.
    """

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies = tuple(replies)
        self.ended = threading.Event()
        """Set when the call must have ended."""
        self.prepare: Callable[[BackendRequest], BackendRequest] = lambda request: request
        """Changes the request before it is made, for example to add the id of a thread that the backend needs."""
        self._taken = 0
        self._count: Callable[[], int] = lambda: self._taken
        self._closing: list[Callable[[], Any]] = []

    def next_reply(self) -> Reply:
        """Count a call of the model and return its reply; calls after the last reply get it again."""
        self._taken += 1
        return self.replies[min(self._taken, len(self.replies)) - 1]

    def counted_by(self, count: Callable[[], int]) -> None:
        """Set the function that returns the number of calls of the model so far."""
        self._count = count

    def at_end(self, close: Callable[[], Any]) -> None:
        """Add a function to call after the check, in reverse order; if its result can be awaited, it is."""
        self._closing.append(close)

    @property
    def calls(self) -> int:
        """Return the number of calls of the model so far."""
        return self._count()

    async def close(self) -> None:
        """Call the functions that were added with `at_end`."""
        while self._closing:
            result = self._closing.pop()()
            if inspect.isawaitable(result):
                await result


@dataclass(frozen=True)
class BrokenRule:
    """Describe how a backend breaks a rule: the name of the rule, how the backend was called, and what it did."""

    rule: str
    way: str
    problem: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.way}): {self.problem}; the rule: {RULES[self.rule]}"


Make = Callable[[Scenario], Backend]


def assert_backend_conforms(
    make: Make, *, skip: Collection[str] = (), patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Raise an `AssertionError` with one line for each rule that a backend breaks.

    The arguments are those of `backend_conformance`.
    """
    broken = backend_conformance(make, skip=skip, patience_seconds=patience_seconds)
    if broken:
        raise AssertionError("the backend breaks the protocol:\n" + "\n".join(map(str, broken)))


def backend_conformance(
    make: Make, *, skip: Collection[str] = (), patience_seconds: float = PATIENCE_SECONDS
) -> list[BrokenRule]:
    """Return how a backend breaks the rules of the protocol; the list is empty if it follows them all.

    Args:
        make: returns a new backend whose model behaves as the scenario says. It is called once for each check.
        skip: names of rules that are not checked, such as `tools` for a backend that offers no tools to its model.
        patience_seconds: time after which a call that has not ended breaks a rule.

    Raises:
        ValueError: `skip` names a rule that does not exist.
    """
    unknown = set(skip) - RULES.keys()
    if unknown:
        raise ValueError(f"there is no rule {min(unknown)!r}: the rules are {', '.join(RULES)}")
    broken: list[BrokenRule] = []
    for way in _WAYS:
        trial = _Trial(make, way, patience_seconds)
        for rule, check in _CHECKS.items():
            if rule not in skip:
                broken += [BrokenRule(rule, str(way), problem) for problem in check(trial)]
    return broken


@dataclass(frozen=True)
class _Way:
    """Say how a backend is called."""

    awaited: bool
    streamed: bool

    def __str__(self) -> str:
        return (
            f"{'asynchronous' if self.awaited else 'blocking'} driver, {'with a' if self.streamed else 'no'} listener"
        )


_WAYS = tuple(_Way(awaited, streamed) for awaited in (False, True) for streamed in (False, True))


@dataclass
class _Outcome:
    """Hold what happened in one call of a backend."""

    calls: int = 0
    completion: Any = None
    error: BaseException | None = None
    parts: list[Delta] = field(default_factory=list)
    steps: list[tuple[str, Any]] = field(default_factory=list)
    """What happened with tools, in order: (`journaled`, message) or (`called`, arguments)."""
    ended: bool = False

    @property
    def text(self) -> str | None:
        """Return the text of the answer; None if there is no answer."""
        if not isinstance(self.completion, Completion) or not self.completion.messages:
            return None
        return self.completion.messages[-1].text

    def failures(self) -> Iterator[str]:
        """Yield the problem if the call has no answer."""
        if not self.ended:
            yield "the call did not end"
        elif self.error is not None:
            yield f"no answer, but {type(self.error).__name__}: {self.error}"
        elif not isinstance(self.completion, Completion):
            yield f"no Completion was returned, but {type(self.completion).__name__}"
        elif not self.completion.messages or self.completion.messages[-1].role is not Role.ASSISTANT:
            yield "the last message of the Completion is not the model's"

    def answers(self, wanted: str) -> Iterator[str]:
        """Yield the problems if the call has no failure."""
        if not self.ended:
            yield f"the call did not end, although {wanted}"
        elif self.error is None:
            yield f"the answer {self.text!r} was returned, although {wanted}"

    def called(self, times: int) -> Iterator[str]:
        """Yield the problem if the model was not called this often."""
        if self.calls != times:
            yield f"the model was called {self.calls} times instead of {times}"


class _Trial:
    """Call a backend in one way, each time a new one."""

    def __init__(self, make: Make, way: _Way, patience_seconds: float) -> None:
        self._make = make
        self.way = way
        self._patience = patience_seconds

    def play(self, *replies: Reply, seconds: float = CALL_SECONDS) -> _Outcome:
        """Return what happens when a backend answers while its model gives these replies."""
        outcome = _Outcome()
        self.use(replies, lambda backend, scenario: self._answer(backend, scenario, seconds, outcome), outcome)
        return outcome

    def use(self, replies: Sequence[Reply], do: Callable[[Backend, Scenario], Effects[Any]], outcome: _Outcome) -> None:
        """Make a backend and perform effects with it, in a thread that is given up when the patience is over."""
        scenario = Scenario(replies)
        thread = threading.Thread(target=self._used, args=(scenario, do, outcome), daemon=True)
        thread.start()
        thread.join(self._patience)
        outcome.ended = not thread.is_alive()
        scenario.ended.set()
        thread.join(self._patience)

    def _used(self, scenario: Scenario, do: Callable[[Backend, Scenario], Effects[Any]], outcome: _Outcome) -> None:
        with asyncio.Runner() as loop, ThreadPoolExecutor(1) as pool:
            try:
                backend = self._make(scenario)
                load = getattr(backend, "load", None)
                if load is not None:
                    load()
                effects = do(backend, scenario)
                awaited = self.way.awaited
                outcome.completion = loop.run(AsyncDriver(pool).perform(effects)) if awaited else perform(effects)
            except BaseException as error:  # noqa: BLE001 - whatever a backend raises is what is checked
                outcome.error = error
            finally:
                outcome.calls = scenario.calls
                loop.run(scenario.close())

    def _answer(self, backend: Backend, scenario: Scenario, seconds: float, outcome: _Outcome) -> Effects[Any]:
        def keep(effect: Effect) -> Effect:
            if isinstance(effect, Emit) and isinstance(effect.part, Delta):
                outcome.parts.append(effect.part)
            return effect

        return attended(backend.answer(scenario.prepare(self.request(seconds, outcome))), _nothing, keep)

    def request(self, seconds: float, outcome: _Outcome) -> BackendRequest:
        """Return a request with one question and one tool; `outcome` keeps what happens with it."""

        def weather(city: str) -> str:
            outcome.steps.append(("called", {"city": city}))
            return f"sunny in {city}"

        question = JournaledMessage(Message(Role.USER, "How is the weather?"), "m1", 2, datetime.now(UTC))
        return BackendRequest(
            key="conformance",
            exchange_id="exchange-1",
            run_id="run-1",
            model="conformance-model",
            profile=Profile(instructions="Be brief.", tools_json=_WEATHER),
            memory=Memory((question,), 2),
            timeout_seconds=seconds,
            tools={"weather": weather},
            journal=lambda messages: outcome.steps.extend(("journaled", message) for message in messages),
            stream=self.way.streamed,
        )


_WEATHER = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Return the weather in a city.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ]
)


def _nothing(effect: Effect) -> Effects[None]:
    return
    yield effect


# The rules


def _identity(trial: _Trial) -> Iterator[str]:
    problems: list[str] = []
    outcome = _Outcome()

    def look(backend: Backend, scenario: Scenario) -> None:
        name, thread, takes_unsent = _facts_of(backend)
        if not isinstance(name, str) or not name:
            problems.append(f"name is {name!r}: give a text")
        if thread is not None and not isinstance(thread, str):
            problems.append(f"thread is {thread!r}: give the name of a mirror, or None")
        if not isinstance(takes_unsent, bool):
            problems.append(f"takes_unsent is {takes_unsent!r}: give True or False")
        found = backend.preflight(scenario.prepare(trial.request(CALL_SECONDS, outcome)))
        if found is not None:
            problems.append(f"preflight returned {found!r} for a request that the model answers")
        empty = backend.preflight(BackendRequest("k", "e", "r", "m", Profile(), Memory(), CALL_SECONDS))
        if empty is not None and not isinstance(empty, Failure):
            problems.append(f"preflight returned {type(empty).__name__}: give a Failure or None")

    trial.use([Answers("unused")], lambda backend, scenario: work(lambda: look(backend, scenario)), outcome)
    if outcome.error is not None:
        problems.append(f"{type(outcome.error).__name__}: {outcome.error}")
    yield from problems
    yield from outcome.called(0)


def _facts_of(backend: Any) -> tuple[Any, Any, Any]:
    """Return what a backend says of itself; it may be of any type, whatever the protocol says."""
    return backend.name, backend.thread, backend.takes_unsent


def _answer(trial: _Trial) -> Iterator[str]:
    for text in TEXTS:
        outcome = trial.play(Answers(text))
        yield from outcome.failures()
        yield from outcome.called(1)
        if outcome.text is not None and outcome.text != text:
            yield f"the answer is {outcome.text!r} instead of {text!r}"


def _stream(trial: _Trial) -> Iterator[str]:
    if not trial.way.streamed:
        return
    outcome = trial.play(Answers(TEXTS[-1]))
    last = max((part.message for part in outcome.parts), default=0)
    said = "".join(part.text for part in outcome.parts if part.message == last)
    if outcome.parts and outcome.text is not None and said != outcome.text:
        yield f"the parts give {said!r}, but the answer is {outcome.text!r}"
    for part in outcome.parts:
        if not part.text or part.text.encode("utf-8", "replace").decode() != part.text:
            yield f"the part {part.text!r} is empty, or not valid text"


def _empty(trial: _Trial) -> Iterator[str]:
    for text in ("", " \n"):
        yield from trial.play(Answers(text)).answers(f"the model answered {text!r}")


def _refusal(trial: _Trial) -> Iterator[str]:
    for status in (429, 500):
        outcome = trial.play(Refuses(status, {"message": WORDS, "type": "conformance_error", "code": "conformance"}))
        yield from outcome.answers(f"the provider refused with HTTP {status}")
        yield from outcome.called(1)
        if outcome.error is not None:
            yield from _facts(outcome.error, status)


def _facts(error: BaseException, status: int) -> Iterator[str]:
    """Yield what a failure does not say about a refusal. An SDK's own exception says it by its attributes."""
    if isinstance(error, ProviderRefused):
        known, said = error.failure.http_status, repr(error.failure)
    else:
        known = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
        said = f"{error} {getattr(error, 'body', '')}"
    if known != status:
        yield f"the failure has the HTTP status {known} instead of {status}"
    if WORDS not in said:
        yield f"the failure of HTTP {status} does not contain the provider's words"


def _silence(trial: _Trial) -> Iterator[str]:
    outcome = trial.play(Hangs(), seconds=SILENCE_SECONDS)
    yield from outcome.answers("the model did not answer")
    if outcome.calls > 1:
        yield from outcome.called(1)


def _tools(trial: _Trial) -> Iterator[str]:
    arguments, text = {"city": "Bern"}, "It is sunny in Bern."
    outcome = trial.play(CallsTool("weather", arguments), Answers(text))
    yield from outcome.failures()
    yield from outcome.called(2)
    if outcome.text is not None and outcome.text != text:
        yield f"the answer is {outcome.text!r} instead of {text!r}"
    steps = [name for name, _ in outcome.steps]
    if steps != ["journaled", "called", "journaled"]:
        yield f"a call must be journaled, then made, then its result journaled, but this happened: {', '.join(steps)}"
        return
    asked, made, result = (value for _, value in outcome.steps)
    if [(call.name, _json(call.arguments)) for call in asked.calls()] != [("weather", arguments)] or made != arguments:
        yield f"the call of weather with {arguments} was journaled as {asked!r} and made with {made}"
    if result.role is not Role.TOOL or [call.id for call in asked.calls()] != [result.tool_call_id]:
        yield f"the result {result!r} does not name the call that it answers"
    if "sunny in Bern" not in result.text:
        yield f"the result was journaled as {result.text!r}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _secrets(trial: _Trial) -> Iterator[str]:
    outcome = trial.play(
        Refuses(401, {"message": f"Incorrect API key provided: {SECRET}", "type": "auth", "code": "key"})
    )
    yield from outcome.answers("the provider refused the key")
    if isinstance(outcome.error, ProviderRefused) and SECRET in f"{outcome.error} {outcome.error.failure!r}":
        yield "the failure contains the key"


_CHECKS: Mapping[str, Callable[[_Trial], Iterator[str]]] = {
    "identity": _identity,
    "answer": _answer,
    "stream": _stream,
    "empty": _empty,
    "refusal": _refusal,
    "silence": _silence,
    "tools": _tools,
    "secrets": _secrets,
}
