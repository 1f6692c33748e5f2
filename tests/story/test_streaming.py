"""Test streaming from every backend, blocking and async: partial answers are delivered as such and never as complete ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange import Answer, Delta, StartedOver, StreamPart, ToolUse
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

RUNS, RESPONSES, CHAT = "POST /threads/{thread_id}/runs", "POST /responses", "POST /chat/completions"
TEXT = "Your parcel — the heavy one —\n\nis  on its way to Zürich, and will be there on Monday."
KINDS: dict[str, dict[str, Any]] = {
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "stateless responses": {"backends": ("responses",), "threads": "conversations", "stateless": True},
    "background responses": {"backends": ("responses",), "threads": "conversations", "background": True},
    "chat": {"backends": ("chat",), "threads": "none"},
}
ASKING = {kind: RUNS if kind == "assistants" else CHAT if kind == "chat" else RESPONSES for kind in KINDS}
EVERY = pytest.mark.parametrize("kind", KINDS)
WORDS_BEGUN = {"assistants": 10, "responses": 7, "stateless responses": 7, "background responses": 8, "chat": 4}
"""Number of stream events after which a backend has sent some of its text, but not all."""

NEVER_SECONDS = 600.0
"""Duration of a hanging stream, in seconds; no test waits that long."""

Enough = Callable[[list[StreamPart]], bool]


def at_once(ledger: Ledger, text: str, enough: Enough, **options: Any) -> list[StreamPart]:
    heard: list[StreamPart] = []
    with closing(ledger.conversation("k").stream(text, **options)) as parts:
        for part in parts:
            heard.append(part)
            if enough(heard):
                break
    return heard


def awaited(ledger: Ledger, text: str, enough: Enough, **options: Any) -> list[StreamPart]:
    async def main() -> list[StreamPart]:
        heard: list[StreamPart] = []
        async with aclosing(AsyncLedger(ledger).conversation("k").stream(text, **options)) as parts:
            async for part in parts:
                heard.append(part)
                if enough(heard):
                    break
        return heard

    async def closed() -> list[StreamPart]:
        try:
            return await main()
        finally:
            assert ledger.services.aclose is not None
            await ledger.services.aclose()

    return asyncio.run(closed())


@pytest.fixture(params=[at_once, awaited], ids=["at once", "awaited"])
def listen(request: pytest.FixtureRequest) -> Callable[..., list[StreamPart]]:
    """Return a function that collects the stream of a question, sync or async; `enough` decides when to stop."""

    def heard(ledger: Ledger, text: str, enough: Enough = lambda heard: False, **options: Any) -> list[StreamPart]:
        parts: list[StreamPart] = request.param(ledger, text, enough, **options)
        return parts

    return heard


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Create a profile with one function."""
    path = tmp_path / "profile.toml"
    path.write_text('name = "John"\n[[tools]]\nname = "weather"\n', encoding="utf-8")
    return path


def joined(parts: list[StreamPart], run_id: str) -> str:
    """Return the streamed text of one run, from all of its messages."""
    return "".join(part.text for part in parts if isinstance(part, Delta) and part.run_id == run_id)


def types(ledger: Ledger) -> list[str]:
    return [logged.type for logged in ledger.events(key="k") if not logged.type.startswith(("Thread", "Conversation"))]


def a_delta(heard: list[StreamPart]) -> bool:
    return isinstance(heard[-1], Delta)


# Stream parts


@EVERY
def test_the_text_comes_in_pieces_and_the_answer_last(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    simulator.answer(TEXT)
    ledger = open_ledger(**KINDS[kind])
    *pieces, answer = listen(ledger, "Where is my parcel?")
    assert isinstance(answer, Answer)
    assert answer.text == TEXT
    assert len(pieces) > 3
    assert {(type(piece), piece.run_id, piece.message) for piece in pieces} == {(Delta, answer.run_id, 0)}
    assert joined(pieces, answer.run_id) == TEXT
    assert types(ledger) == ["MessageJournaled", "RunStarted", "RunCompleted", "MessageJournaled"]
    (asked,) = [request for request in simulator.requests if request.template == ASKING[kind]]
    assert asked.body["stream"] is True


@EVERY
def test_the_answer_is_journaled_before_it_is_handed_over(
    open_ledger: Callable[..., Ledger], listen: Callable[..., Any], kind: str
) -> None:
    ledger, journaled = open_ledger(**KINDS[kind]), []

    def look(heard: list[StreamPart]) -> bool:
        journaled.append((heard[-1].type, ledger.memory("k").messages[-1].message.text))
        return False

    listen(ledger, "hello", look)
    assert journaled[-1] == ("answer", "You said: hello")
    assert set(journaled[:-1]) == {("delta", "hello")}


@EVERY
def test_the_first_piece_is_handed_over_before_the_provider_has_said_the_last(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    simulator.answer(TEXT)
    simulator.add_fault(ASKING[kind], hang={"seconds": NEVER_SECONDS, "events": WORDS_BEGUN[kind]})
    ledger = open_ledger(**KINDS[kind], timeout_seconds=20, retries=0)
    heard = listen(ledger, "Where is my parcel?", a_delta)
    assert [part.type for part in heard] == ["delta"]
    assert TEXT.startswith(heard[0].text)
    assert heard[0].text != TEXT


@EVERY
def test_a_second_listener_of_the_same_request_hears_the_answer_and_nobody_is_asked(
    open_ledger: Callable[..., Ledger], listen: Callable[..., Any], asked_of: Callable[..., int], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    first = ledger.conversation("k").ask("hello", idempotency_key="1")
    assert listen(ledger, "hello", idempotency_key="1") == [first]
    assert asked_of() == 1


@EVERY
def test_a_stream_that_nobody_began_to_read_asks_nobody(
    open_ledger: Callable[..., Ledger], asked_of: Callable[..., int], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    ledger.conversation("k").stream("hello").close()
    assert (asked_of(), list(ledger.events())) == (0, [])


# Tools


@EVERY
def test_a_tool_is_announced_before_it_is_called_and_the_text_after_it_is_another_message(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], profile: Path, kind: str
) -> None:
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}, "Sunny in Bern.")
    used: list[str] = []

    def weather(city: str) -> str:
        used.append(city)
        return "sunny"

    announced: list[int] = []

    def look(heard: list[StreamPart]) -> bool:
        if isinstance(heard[-1], ToolUse):
            announced.append(len(used))
        return False

    ledger = open_ledger({"weather": weather}, **KINDS[kind], profile=profile)
    use, *pieces, answer = listen(ledger, "Is it raining?", look)
    assert (use.type, use.name, use.arguments, use.run_id) == ("tool_use", "weather", '{"city": "Bern"}', answer.run_id)
    assert (announced, used) == ([0], ["Bern"])
    assert joined(pieces, answer.run_id) == answer.text == "Sunny in Bern."
    assert len({piece.message for piece in pieces}) == 1
    kept = ledger.memory("k").as_chat_messages()
    assert [message["role"] for message in kept] == ["user", "assistant", "tool", "assistant"]


# Failing streams

BREAKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "cut off": lambda events: {"truncate": {"events": events, "kind": "broken", "done": False}},
    "over too soon": lambda events: {"truncate": {"events": events, "done": False}},
    "an error in the middle": lambda events: {"error_event": {"events": events, "form": "envelope"}},
}
BREAKABLE = pytest.mark.parametrize("kind", ["responses", "stateless responses", "chat"])


@BREAKABLE
@pytest.mark.parametrize("how", BREAKS)
def test_a_stream_that_breaks_keeps_its_text_and_what_follows_is_announced(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str, how: str
) -> None:
    simulator.answer(TEXT, TEXT)
    simulator.add_fault(ASKING[kind], **BREAKS[how](WORDS_BEGUN[kind]))
    ledger = open_ledger(**KINDS[kind], retries=1)
    parts = listen(ledger, "Where is my parcel?")
    (over,) = [part for part in parts if isinstance(part, StartedOver)]
    (failure,) = ledger.failures()
    answer = parts[-1]
    assert (over.failed_run_id, over.run_id, over.fallback) == (failure.run_id, answer.run_id, False)
    assert over.from_backend == over.backend == failure.backend
    assert over.reason.startswith(failure.cause.value)
    told = joined(parts, failure.run_id)
    assert failure.facts.partial_text == told
    assert told
    assert TEXT.startswith(told)
    assert joined(parts[parts.index(over) :], answer.run_id) == answer.text == TEXT
    assert {part.run_id for part in parts[: parts.index(over)]} == {failure.run_id}


@BREAKABLE
def test_a_fallback_in_the_middle_of_a_stream_is_announced_and_its_text_is_the_answer(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    others = "responses" if kind == "chat" else "chat"
    simulator.add_fault(ASKING[kind], **BREAKS["an error in the middle"](WORDS_BEGUN[kind]))
    settings = KINDS[kind] | {"backends": (*KINDS[kind]["backends"], others), "retries": 0}
    ledger = open_ledger(**settings)
    parts = listen(ledger, "Where is my heavy parcel from Bern?")
    (over,) = [part for part in parts if isinstance(part, StartedOver)]
    (used,) = [logged.event for logged in ledger.events(types=["FallbackUsed"])]
    assert over.fallback
    assert (over.from_backend, over.backend) == (used.from_backend, used.to_backend) == (settings["backends"])
    assert over.reason == used.reason
    answer = parts[-1]
    assert answer.fallback
    assert joined(parts[parts.index(over) :], answer.run_id) == answer.text
    assert ledger.memory("k").messages[-1].message.text == answer.text


@pytest.mark.parametrize("kind", ["assistants", "background responses"])
@pytest.mark.parametrize("how", ["cut off", "over too soon"])
def test_a_run_whose_stream_breaks_is_followed_to_its_answer(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str, how: str
) -> None:
    kept_on = {"truncate": BREAKS[how](WORDS_BEGUN[kind])["truncate"] | {"done": True}}
    simulator.answer(TEXT)
    simulator.add_fault(ASKING[kind], **kept_on)
    ledger = open_ledger(**KINDS[kind], retries=0)
    *pieces, answer = listen(ledger, "Where is my parcel?")
    assert ledger.failures() == []
    assert answer.text == TEXT
    told = joined(pieces, answer.run_id)
    assert told
    assert TEXT.startswith(told)


@pytest.mark.parametrize("how", ["cut off", "over too soon"])
def test_the_rest_of_a_text_whose_stream_broke_is_told_once_it_is_there(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], how: str
) -> None:
    simulator.answer(TEXT)
    simulator.add_fault(RUNS, truncate=BREAKS[how](WORDS_BEGUN["assistants"])["truncate"] | {"done": True})
    *pieces, answer = listen(open_ledger(**KINDS["assistants"]), "Where is my parcel?")
    assert joined(pieces, answer.run_id) == answer.text == TEXT


@EVERY
def test_nobody_answers_a_stream_and_the_listener_is_told_by_the_error(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    simulator.add_fault(ASKING[kind], fail=True, times=2)
    ledger, heard = open_ledger(**KINDS[kind], retries=1), []
    with pytest.raises(AllBackendsFailed) as nobody:
        listen(ledger, "hello", lambda parts: bool(heard.append(parts[-1].type)))
    assert heard == ["started_over"]
    assert [failure.cause for failure in nobody.value.failures] == [Cause.PROVIDER_ERROR] * 2
    assert types(ledger)[-1] == "ExchangeAbandoned"


# The listener stops


@EVERY
def test_whoever_leaves_ends_the_run_which_keeps_what_was_told(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    simulator.answer(TEXT)
    ledger = open_ledger(**KINDS[kind])
    heard = listen(ledger, "Where is my parcel?", lambda parts: len(parts) == 3)
    (failure,) = ledger.failures()
    assert (failure.facts.status, failure.facts.code, failure.cause) == ("cancelled", "listener_left", Cause.CANCELLED)
    assert failure.facts.partial_text == joined(heard, failure.run_id)
    assert TEXT.startswith(failure.facts.partial_text)
    assert types(ledger) == ["MessageJournaled", "RunStarted", "RunFailed", "ExchangeAbandoned"]


@EVERY
def test_whoever_leaves_has_the_run_cancelled_at_the_provider(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    simulator.answer(TEXT)
    simulator.add_fault(ASKING[kind], hang={"seconds": NEVER_SECONDS, "events": WORDS_BEGUN[kind]})
    listen(open_ledger(**KINDS[kind]), "Where is my parcel?", a_delta)
    cancels = [request.template for request in simulator.requests if request.template.endswith("/cancel")]
    if kind == "assistants":
        assert cancels == ["POST /threads/{thread_id}/runs/{run_id}/cancel"]
        assert [run["status"] for run in simulator.provider.runs.values()] == ["cancelled"]
    elif kind == "background responses":
        assert cancels == ["POST /responses/{response_id}/cancel"]
        assert [each["status"] for each in simulator.provider.responses.values()] == ["cancelled"]
    else:
        assert cancels == []  # these end when the connection is closed


@EVERY
def test_the_next_question_need_not_wait_after_somebody_left(
    open_ledger: Callable[..., Ledger], simulator: Any, listen: Callable[..., Any], kind: str
) -> None:
    simulator.answer(TEXT)
    ledger = open_ledger(**KINDS[kind])
    listen(ledger, "Where is my parcel?", a_delta)
    answer = ledger.conversation("k").ask("And the other one?")
    assert answer.text == "You said: And the other one?"
    assert [each.message.text for each in ledger.memory("k").messages] == [
        "Where is my parcel?",
        "And the other one?",
        answer.text,
    ]


@pytest.mark.parametrize("kind", ["stateless responses", "chat"])
def test_whoever_leaves_at_the_news_of_a_retry_ends_the_run_that_had_begun(
    open_ledger: Callable[..., Ledger],
    simulator: Any,
    listen: Callable[..., Any],
    asked_of: Callable[..., int],
    kind: str,
) -> None:
    simulator.answer(TEXT)
    simulator.add_fault(ASKING[kind], **BREAKS["over too soon"](WORDS_BEGUN[kind]))
    ledger = open_ledger(**KINDS[kind], retries=1)
    *_, over = listen(ledger, "hello", lambda heard: isinstance(heard[-1], StartedOver))
    assert asked_of() == 1
    assert ledger.state("k").open_runs == {}
    failed, left = ledger.failures()
    assert (failed.run_id, left.run_id) == (over.failed_run_id, over.run_id)
    assert failed.facts.partial_text
    assert (left.facts.code, left.facts.partial_text) == ("listener_left", None)
    assert ledger.conversation("k").ask("again").text == "You said: again"


@EVERY
def test_what_somebody_left_is_answered_by_asking_with_the_same_key_again(
    open_ledger: Callable[..., Ledger], listen: Callable[..., Any], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    listen(ledger, "hello there", a_delta, idempotency_key="1")
    answer = ledger.conversation("k").ask("hello there", idempotency_key="1")
    assert answer.text == "You said: hello there"
    assert [each.message.text for each in ledger.memory("k").messages] == ["hello there", answer.text]


@EVERY
@pytest.mark.parametrize("awaiting", [False, True], ids=["at once", "awaited"])
def test_the_connection_of_a_stream_is_used_again(
    open_ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch, kind: str, awaiting: bool
) -> None:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    opened: list[Any] = []
    made = H11Protocol.connection_made
    monkeypatch.setattr(H11Protocol, "connection_made", lambda self, to: [opened.append(to), made(self, to)][1])
    ledger = open_ledger(**KINDS[kind])

    async def main() -> None:
        chat = AsyncLedger(ledger).conversation("k")
        for text in ("one", "two", "three"):
            async with aclosing(chat.stream(text)) as parts:
                assert [part async for part in parts]
        assert ledger.services.aclose is not None
        await ledger.services.aclose()

    if awaiting:
        asyncio.run(main())
    else:
        for text in ("one", "two", "three"):
            assert list(ledger.conversation("k").stream(text))
    assert len(opened) == 1
