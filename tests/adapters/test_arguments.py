"""Every argument of every public call with values of another kind: refused in one sentence, and nothing is written.

A new parameter is part of the test by itself; one without a value in `VALUES` fails it.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import threadledger
from threadledger.domain.arguments import short
from threadledger.domain.errors import InvalidInput, ThreadledgerError
from threadledger.domain.exchange.options import AskKeywords
from threadledger.domain.ledger import AsyncChat, AsyncLedger, Chat, Ledger
from threadledger.domain.ledger.awaited import AsyncReplay
from threadledger.domain.replay import ApplyKeywords, Replay

HUGE, LONGEST = 10**400, 10**5_000
"""Numbers that are no floats; the second one cannot be written as text either."""
NO_TEXTS: list[Any] = [5, 1.5, True, HUGE, b"x", bytearray(b"x"), ("x",), ["x"], {"x": 1}, {"x"}, object()]
NO_NUMBERS: list[Any] = ["x", "5", True, b"5", [5], {5}, object()]
NO_WHOLE_NUMBERS: list[Any] = [*NO_NUMBERS, 1.5, float("nan"), HUGE, -HUGE, LONGEST]
NO_TIMES: list[Any] = ["2026-11-30", b"x", [1], datetime.date(2026, 11, 30), datetime.time(1), object()]
TOO_FAR: list[Any] = [datetime.timedelta.max, datetime.timedelta.min]
NO_OBJECTS: list[Any] = [5, 1.5, True, "x", b"x", ["x"], {"x": 1}, object()]
NO_LISTS: list[Any] = [5, 1.5, True, "x", b"x", object()]


UNUSUAL = ["a\0b", "half \ud800", "\U0001f600" * 300, " ", ""]


class Numbers:
    """Something that can be read, but not counted."""

    def __iter__(self) -> Iterator[int]:
        return iter([5])


ODD: dict[str, list[Any]] = {
    "str": [*NO_TEXTS, None],
    "str | None": [*NO_TEXTS],
    "int": [*NO_WHOLE_NUMBERS, None],
    "int | None": NO_WHOLE_NUMBERS,
    "int | str": [*NO_TEXTS[1:], None, LONGEST],
    "float": [*NO_NUMBERS, HUGE, -HUGE, LONGEST, float("nan"), float("inf"), None],
    "float | None": [*NO_NUMBERS, HUGE, -HUGE, LONGEST, float("nan"), float("inf")],
    "bool": ["x", "", 0, 1, 1.0, b"", [], None, object()],
    "bool | None": ["x", "", 0, 1, 1.0, b"", [], object()],
    "datetime": [*NO_TIMES, *TOO_FAR, 5, None],
    "datetime | None": [*NO_TIMES, *TOO_FAR, 5],
    "datetime | timedelta | None": [*NO_TIMES, *TOO_FAR, 5],
    "int | datetime | None": [*NO_TIMES, *TOO_FAR, *NO_WHOLE_NUMBERS],
    "Iterable[str]": [*NO_LISTS, [5], [None], [b"x"], [["x"]], Numbers(), None],
    "Iterable[str] | None": [*NO_LISTS, [5], [None], [b"x"], [["x"]], Numbers()],
    "str | Iterable[str] | None": [*NO_LISTS[:3], b"x", object(), [5], [None]],
    "Iterable[GroupState | str] | None": [*NO_LISTS, [5], ["x"], [["x"]]],
    "Cause | str | None": [*NO_TEXTS, "no cause"],
    "Mapping[str, Any] | None": [5, 1.5, True, "x", b"x", [("x", 1)], {5: 1}, {"x": b"x"}, {"x": "\ud800"}, object()],
    "str | Path": [*NO_TEXTS, "a\0b", Path("a\0b"), None],
    "str | Path | bytes | IO[bytes]": [5, 1.5, True, ["x"], {"x": 1}, object(), "a\0b", Path("a\0b"), None],
    "str | Sequence[Mapping[str, Any]]": [5, 1.5, True, b"x", object(), ["x"], {"x": 1}, "half \ud800", "", " ", None],
    "str | Sequence[Mapping[str, Any]] | None": [5, 1.5, True, b"x", object(), ["x"], {"x": 1}, "half \ud800"],
    "Iterable[Mapping[str, Any]]": [5, 1.5, True, "x", b"x", object(), ["x"], [5], {"x": 1}, None],
    "UpkeepProgress": [5, "x", object(), None],
    "Callable[[str, int, int], None]": [5, "x", object(), None],
    "Progress | None": [5, "x", object()],
    "Profile | None": NO_OBJECTS,
    "Policy | None": NO_OBJECTS,
    "AttachmentCopy": [*NO_OBJECTS, None],
    "RerunItem": [*NO_OBJECTS, None],
}
"""Values by the annotation of a parameter that it does not take."""

OPTIONS: dict[str, list[Any]] = {
    "model": [*NO_TEXTS, ""],
    "instructions": NO_TEXTS,
    "profile": ODD["Profile | None"],
    "backend": [*NO_TEXTS, "no backend"],
    "tools": [5, "x", b"x", [5], {"x": 1}, object()],
    "tool_choice": [5, b"x", ["x"], {"x": b"x"}, object()],
    "temperature": [*NO_NUMBERS, HUGE, LONGEST, float("nan")],
    "top_p": [*NO_NUMBERS, HUGE, LONGEST, float("nan")],
    "max_output_tokens": [*NO_NUMBERS, 1.5, float("nan")],
    "reasoning_effort": [*NO_TEXTS, "x"],
    "response_format": [5, "x", b"x", ["x"], {"x": b"x"}, object()],
    "metadata": [5, "x", b"x", ["x"], {"x": 5}, {5: "x"}, {"x": "\ud800"}, object()],
    "timeout_seconds": [*NO_NUMBERS, HUGE, LONGEST, float("nan")],
    "actor": [*NO_TEXTS, ""],
}
"""Values that the options of an exchange do not take."""

HOW: dict[str, list[Any]] = {
    "concurrency": [*NO_WHOLE_NUMBERS, 0, None],
    "rps": [*NO_NUMBERS, HUGE, LONGEST, 0, float("nan")],
    "stop": [5, "x", object(), None],
    "expected": [*NO_WHOLE_NUMBERS, 0, None],
    "max_runs": NO_WHOLE_NUMBERS,
    "max_cost": [*NO_NUMBERS, HUGE, LONGEST, float("nan")],
}
"""Values that the options of `apply` do not take."""

NOWHERE: dict[str, Any] = {
    "backends": ("chat",),
    "openai_api_key": "k",
    "openai_base_url": "http://127.0.0.1:9/v1",
    "retries": 0,
    "memory_last": 2,
}
"""Settings of a ledger that reaches no provider."""

CLASSES = (Ledger, Chat, Replay, AsyncLedger, AsyncChat, AsyncReplay)
NOW = datetime.datetime.now(datetime.UTC)
NO_KEYWORDS = ("fields",)
PARTS_OF_VERIFY = {"verifying", "places", "keys"}
PARTS = {"Unpack[AskKeywords]": (AskKeywords, OPTIONS), "Unpack[ApplyKeywords]": (ApplyKeywords, HOW)}


@dataclass
class Place:
    """What the calls are made on."""

    ledger: Ledger
    values: dict[str, Any]
    """A valid value of each parameter that is required."""


@pytest.fixture
def place(any_db_url: str, tmp_path: Path) -> Iterator[Place]:
    with threadledger.open(any_db_url, threads="none", **NOWHERE) as ledger:
        chat = ledger.conversation("k")
        message = chat.append("user", "hi")
        with suppress(RuntimeError), chat.run("b", "m") as run:
            raise RuntimeError("no")
        job = ledger.replay.plan_rerun(failed=True)
        job.apply()
        assert job.job is not None
        yield Place(
            ledger,
            {
                **{"key": "k", "new_key": "new", "message_id": message.message_id, "exchange_id": run.exchange_id},
                **{"run_id": run.run_id, "job_id": job.job.job_id, "group": ledger.failure_groups()[0].group},
                **{
                    "call_id": "call",
                    "role": "user",
                    "content": "x",
                    "text": "x",
                    "messages": [{"role": "user", "content": "x"}],
                    "score": 1,
                },
                **{"backend": "b", "model": "m", "name": "anna", "address": "sha256:" + "0" * 64, "source": b"x"},
                **{"before": ledger.profiles()[0].hash, "after": "1" * 64, "path": tmp_path / "copy.db"},
                **{
                    "url": f"sqlite:///{tmp_path / 'copied.db'}",
                    "upload": None,
                    "item": None,
                    "keys": ["k"],
                    "to": None,
                },
            },
        )


def stored(ledger: Ledger) -> list[str]:
    return [event.type for event in ledger.events()]


def arguments(kind: type) -> Iterator[tuple[str, str, str]]:
    """Method, parameter and annotation of every argument."""
    for name, method in [*vars(kind).items()]:
        if isinstance(method, FunctionType) and not name.startswith("_") and name not in PARTS_OF_VERIFY:
            for parameter in [*inspect.signature(method).parameters.values()][1:]:
                if parameter.name not in NO_KEYWORDS:
                    yield name, parameter.name, str(parameter.annotation)


def values_of(parameter: str, annotation: str) -> dict[str, list[Any]]:
    """The odd values by the keyword that they are given as."""
    if annotation in PARTS:
        keywords, odd = PARTS[annotation]
        assert odd.keys() == keywords.__annotations__.keys()
        return odd
    odd = ODD[annotation]
    return {parameter: [*odd, ""] if parameter.endswith("_id") else odd}


def required(method: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Valid values of all parameters without a default, except those that are keywords of their own."""
    parameters = [*inspect.signature(method).parameters.values()][1:]
    needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    return {each.name: NOW if each.annotation == "datetime" else values[each.name] for each in needed}


def call(ledger: Ledger, kind: type, name: str, given: dict[str, Any]) -> None:
    """Make a call, and use up what it returns."""
    target: Any = ledger if kind is Ledger else ledger.conversation("k") if kind is Chat else ledger.replay
    found = getattr(target, name)(**given)
    if kind is Chat and name == "run":
        with found:
            return
    if isinstance(found, Iterator):
        for _ in found:
            pass


def call_async(ledger: Ledger, kind: type, name: str, given: dict[str, Any]) -> None:
    """The same on the asynchronous side."""

    async def calling() -> None:
        face = AsyncLedger(ledger)
        target: Any = face if kind is AsyncLedger else face.conversation("k") if kind is AsyncChat else face.replay
        try:
            found = getattr(target, name)(**given)
            if hasattr(found, "__aenter__"):
                async with found:
                    return
            elif hasattr(found, "__aiter__"):
                async for _ in found:
                    pass
            elif inspect.isawaitable(found):
                await found
        finally:
            face._pool.shutdown()
            face._tools.shutdown()

    asyncio.run(calling())


def problem_of(make: Callable[[], None], value: Any) -> str:
    """What is wrong about the outcome of a call with an odd value; empty if it is refused as it should be."""
    try:
        make()
    except InvalidInput as error:
        return "several lines" if "\n" in str(error) else ""
    except ThreadledgerError as error:  # a text or a number may be one that does not exist
        return "" if type(value) in {str, int, list} else repr(error)
    except Exception as error:  # noqa: BLE001 - any of them is a problem
        return repr(error)
    return "accepted"


ON_SQLITE = pytest.mark.parametrize("any_db_url", ["sqlite"], indirect=True)
"""For what is checked before a database is asked."""


@ON_SQLITE
@pytest.mark.parametrize("kind", CLASSES)
def test_a_value_of_another_kind_is_refused_and_nothing_is_written(place: Place, kind: type) -> None:
    ledger, problems = place.ledger, list[str]()
    make = call_async if kind.__name__.startswith("Async") else call
    before = stored(ledger)
    for name, parameter, annotation in arguments(kind):
        for keyword, odd in values_of(parameter, annotation).items():
            for value in odd:
                given = {**required(getattr(kind, name), place.values), keyword: value}
                problem = problem_of(partial(make, ledger, kind, name, given), value)
                if problem == "accepted" and name == "retract" and type(value) is str and keyword == "message_id":
                    problem = ""  # what is not in memory is not removed
                if stored(ledger) != before:
                    problem, before = f"{problem} written", stored(ledger)
                if problem:
                    problems.append(f"{name}({keyword}={short(value)}): {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("any_db_url", "kind"),
    [*(("sqlite", kind) for kind in CLASSES), *(("postgresql", kind) for kind in (Ledger, Chat, Replay))],
    indirect=["any_db_url"],
)
def test_a_text_of_unusual_characters_is_no_error_of_a_library(place: Place, kind: type) -> None:
    ledger, problems = place.ledger, list[str]()
    make = call_async if kind.__name__.startswith("Async") else call
    for name, parameter, annotation in arguments(kind):
        texts = {"str": UNUSUAL, "Iterable[str]": [[each] for each in UNUSUAL]}
        keywords = dict.fromkeys(OPTIONS, UNUSUAL) if annotation == "Unpack[AskKeywords]" else {}
        for keyword, values in (keywords or {parameter: texts.get(annotation.removesuffix(" | None"), [])}).items():
            for value in values:
                ledger.conversation("k").append("user", "hi")
                problem = problem_of(
                    partial(make, ledger, kind, name, {**required(getattr(kind, name), place.values), keyword: value}),
                    value,
                )
                if problem not in {"", "accepted"}:
                    problems.append(f"{name}({keyword}={value!a}): {problem}")
    assert not problems, "\n".join(problems)
    assert [*ledger.check()] == []


@ON_SQLITE
def test_the_values_of_an_iterator_are_all_used(place: Place) -> None:
    place.ledger.conversation("other").append("user", "hi")
    given = iter(["k", "other"])
    assert [each.key for each in place.ledger.replay.plan_rebuild_file("memory.jsonl", given).items] == ["k", "other"]


def test_a_method_that_checks_its_arguments_still_says_what_they_are() -> None:
    assert list(inspect.signature(Chat.pin).parameters) == ["self", "message_id", "pinned", "actor"]
    assert list(inspect.signature(AsyncChat.pin).parameters) == ["self", "message_id", "pinned", "actor"]
    assert inspect.iscoroutinefunction(AsyncChat.edit) and inspect.iscoroutinefunction(AsyncChat.pin)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Chat.pin(None, "x", nothing=1)  # type: ignore[call-arg,arg-type] # the wrong call is the test
    with pytest.raises(TypeError, match="positional argument"):
        Chat.pin(None, "x", True, "anna", "more")  # type: ignore[call-arg,arg-type,misc] # the wrong call is the test
