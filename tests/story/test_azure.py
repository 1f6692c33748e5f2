"""Run the story with Azure's client, which uses other paths and another header for the same exchanges."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import threadledger
from threadledger import Ledger

THREADS = {"assistants": "assistants", "responses": "conversations", "chat": "conversations"}

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")


@pytest.fixture(params=THREADS)
def settings(request: Any, simulator: Any, db_url: str) -> dict[str, Any]:
    return {
        "url": db_url,
        "azure_openai_endpoint": simulator.base_url.removesuffix("/v1"),
        "azure_openai_api_key": "azure-key",
        "openai_api_version": "2025-04-01-preview",
        "openai_model": "our-deployment",
        "backends": (request.param,),
        "threads": THREADS[request.param],
    }


@pytest.fixture
def ledger(settings: dict[str, Any]) -> Iterator[Ledger]:
    with threadledger.open(**settings) as opened:
        yield opened


def test_a_question_is_answered_and_its_thread_kept_whole(ledger: Ledger, simulator: Any) -> None:
    chat = ledger.conversation("k")
    assert chat.ask("hello").text == "You said: hello"
    *_, answer = chat.stream("and again")
    assert answer.text == "You said: and again"
    assert [each.found.state.value for each in ledger.replay.verify(["k"])] == ["same"]
    assert all(request.path.startswith("/openai/") for request in simulator.requests)


def test_the_same_awaited(settings: dict[str, Any]) -> None:
    async def talk() -> list[str]:
        async with threadledger.open_async(**settings) as ledger:
            chat = ledger.conversation("k")
            answers = [(await chat.ask("hello")).text]
            async for part in chat.stream("and again"):
                last = part
            return [*answers, last.text, *[each.found.state.value for each in await ledger.replay.verify(["k"])]]

    assert asyncio.run(talk()) == ["You said: hello", "You said: and again", "same"]


def test_a_refusal_has_its_cause(ledger: Ledger, simulator: Any) -> None:
    backend = ledger.services.policy.candidates[0].backend
    routes = {"assistants": "POST /threads/{thread_id}/runs", "responses": "POST /responses"}
    simulator.add_fault(
        routes.get(backend, "POST /chat/completions"),
        refuse={"status": 401, "code": "401", "message": "Access denied due to invalid subscription key."},
        times=None,
    )
    with pytest.raises(threadledger.AllBackendsFailed) as nobody:
        ledger.conversation("k").ask("hello")
    assert [failure.cause.value for failure in nobody.value.failures] == ["authentication"]
