"""Values that JSON does not have: refused in one sentence, or stored as a text that the documentation promises.

msgspec writes times, bytes, sets and objects as other values, without an error: nothing of an app may reach it unchecked.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

import threadledger
from threadledger.domain import Message, Role
from threadledger.domain.conversation.messages import ToolCall
from threadledger.domain.conversation.parts import Text
from threadledger.domain.errors import AllBackendsFailed, InvalidInput
from threadledger.domain.failures import Failure
from threadledger.domain.ledger import Chat, Ledger


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int = 1


class Pair(msgspec.Struct):
    x: int = 1


class Unreadable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


MOMENT = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
VALUES: list[Any] = [
    *(MOMENT, MOMENT.date(), MOMENT.time(), datetime.timedelta(1), b"x", bytearray(b"x"), memoryview(b"x")),
    *(Decimal("1.5"), UUID(int=1), {1}, frozenset({1}), Colour.RED, Point(), Pair(), Path("x"), object()),
    *(float("nan"), msgspec.Raw(b"1"), msgspec.UNSET, {1: "a"}, {MOMENT: "a"}, {None: "a"}),
]
values = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


def call_of(arguments: object, **more: object) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function, **more}]}


MESSAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "role": lambda value: {"role": value, "content": "x"},
    "content": lambda value: {"role": "user", "content": value},
    "a part": lambda value: {"role": "user", "content": [{"type": "text", "text": "x", "when": value}]},
    "the text of a part": lambda value: {"role": "user", "content": [{"type": "text", "text": value}]},
    "a field": lambda value: {"role": "user", "content": "x", "when": value},
    "metadata": lambda value: {"role": "user", "content": "x", "metadata": {"when": [value]}},
    "arguments": call_of,
    "an argument": lambda value: call_of({"when": value}),
    "a call's type": lambda value: call_of("{}", type=value),
    "a call's field": lambda value: call_of("{}", type="function", when=value),
    "a result": lambda value: {"role": "tool", "tool_call_id": "c", "content": value},
    "the call of a result": lambda value: {"role": "tool", "tool_call_id": value, "content": "x"},
}

READ_OF_FUNCTIONS = ("content", "the text of a part", "arguments", "a name", "an id")
"""Fields that are read of the message that a function returns: its text and its calls."""

BUILT: dict[str, Callable[[Any], Message]] = {
    "content": lambda value: Message(Role.ASSISTANT, value),
    "the text of a part": lambda value: Message(Role.ASSISTANT, (Text(value),)),
    "arguments": lambda value: Message(Role.ASSISTANT, "x", (ToolCall("c", "f", value),)),
    "a name": lambda value: Message(Role.ASSISTANT, "x", (ToolCall("c", value, "{}"),)),
    "an id": lambda value: Message(Role.ASSISTANT, "x", (ToolCall(value, "f", "{}"),)),
    "a call": lambda value: Message(Role.ASSISTANT, "x", (), value),
    "other fields": lambda value: Message(Role.ASSISTANT, "x", (), None, value),
}


@pytest.fixture
def ledger(db_url: str) -> Iterator[Ledger]:
    with threadledger.open(db_url, threads="none") as opened:
        yield opened


@pytest.fixture
def chat(ledger: Ledger) -> Chat:
    chat = ledger.conversation("k")
    chat.append("user", "hi")
    return chat


def stored(ledger: Ledger) -> list[str]:
    return [event.type for event in ledger.events()]


def last(ledger: Ledger, kind: str) -> dict[str, Any]:
    """The payload of the last event of a type."""
    return [event.as_json()["data"] for event in ledger.events() if event.type == kind][-1]


@values
def test_a_message_with_a_value_that_json_does_not_have_is_refused(ledger: Ledger, chat: Chat, value: Any) -> None:
    def appended(messages: list[dict[str, Any]]) -> None:
        chat.append(**messages[0])

    before = stored(ledger)
    for place, message in MESSAGES.items():
        given = message(value)
        for send in (chat.extend, appended):
            with pytest.raises(InvalidInput) as refused:
                send([given])
            assert "\n" not in str(refused.value), place
    assert stored(ledger) == before


@values
def test_a_message_object_with_a_value_that_json_does_not_have_completes_no_run(
    ledger: Ledger, chat: Chat, value: Any
) -> None:
    for place, message in BUILT.items():
        with pytest.raises(InvalidInput) as refused, chat.run("b", "m") as run:
            run.complete(message(value))
        assert "\n" not in str(refused.value), place
    assert {"RunCompleted"}.isdisjoint(stored(ledger))


@pytest.mark.parametrize("value", [*VALUES, {"a": 1}], ids=lambda value: type(value).__name__)
def test_a_function_that_returns_a_message_whose_texts_are_none_has_failed(
    db_url: str, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    Path("no_json_app.py").write_text("answers = []\ndef answer(request): return answers.pop()\n")
    Path("threadledger.toml").write_text(
        'chain = ["own"]\n[backends.own]\nkind = "python"\nfunction = "no_json_app:answer"\n'
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with threadledger.open(db_url, threads="none", retries=0) as ledger:
        import no_json_app  # pyright: ignore[reportMissingImports] - it is written above

        for place in READ_OF_FUNCTIONS:
            no_json_app.answers.append(BUILT[place](value))
            with pytest.raises(AllBackendsFailed):
                ledger.conversation(place).ask("hi")
        assert stored(ledger).count("MessageJournaled") == len(READ_OF_FUNCTIONS), "besides the questions"
        assert list(ledger.check()) == []


@values
def test_what_is_known_of_a_run_is_stored_as_text(ledger: Ledger, chat: Chat, value: Any) -> None:
    facts: dict[str, Any] = dict.fromkeys(("model", "finish_reason", "remote_run_id", "request_id", "usage"), value)
    with chat.run("b", "m") as run:
        run.complete("done", tool_calls=[call_of({"when": value})["tool_calls"][0]], **facts)
    completed, said = last(ledger, "RunCompleted"), last(ledger, "MessageJournaled")
    assert all(isinstance(completed[name], str | None) for name in facts if name != "usage")
    assert all(type(count) is int for count in completed["usage"].values())
    assert isinstance(json.loads(said["tool_calls"][0]["function"]["arguments"]), dict)
    assert list(ledger.check()) == []


NUMBERS = ("http_status", "retry_after_seconds")


@pytest.mark.parametrize("value", [*VALUES, 10**5_000, Unreadable()], ids=lambda value: type(value).__name__)
def test_a_failure_holds_texts_numbers_and_plain_details(value: Any) -> None:
    names = [name for name in Failure.__dataclass_fields__ if name != "details"]
    failure = Failure(**dict.fromkeys(names, value), details={"when": value, "all": [value]}).redacted()
    assert all(isinstance(getattr(failure, name), str) for name in names if name not in NUMBERS)
    assert failure.http_status is failure.retry_after_seconds is None
    assert json.loads(json.dumps(failure.details, allow_nan=False)) == failure.details
    assert failure.redacted() == failure
    if not isinstance(value, float):
        assert set(NUMBERS) <= failure.details.keys(), "what is no number is kept"


@values
def test_a_decision_about_a_group_takes_texts_and_times(ledger: Ledger, chat: Chat, value: Any) -> None:
    with suppress(RuntimeError), chat.run("b", "m"):
        raise RuntimeError("no")
    (group,) = ledger.failure_groups()
    before = stored(ledger)
    calls: list[Callable[[], Any]] = [
        lambda: ledger.resolve_group(group.group, value),
        lambda: ledger.mute_group(group.group, None, value),
        lambda: ledger.reopen_group(group.group, value),
        lambda: ledger.mute_group(group.group, value),
    ]
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    assert stored(ledger) == before


def test_values_that_json_writes_in_its_own_way_are_stored_so(ledger: Ledger, chat: Chat) -> None:
    chat.extend([{"role": "user", "content": "x", "sizes": (1, 2), "metadata": {"deep": [(3,)]}}])
    assert chat.memory().messages[-1].message.extra() == {"sizes": [1, 2], "metadata": {"deep": [[3]]}}
