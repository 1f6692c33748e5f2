"""Run the apps of docs/in-a-web-app.md with their frameworks' test clients against the simulator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.conversation import Conversation, RunPlan, text_message
from threadledger.domain.ledger import Ledger

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "in-a-web-app.md"
CHAT = "POST /chat/completions"
EMOJI = "Your parcel 📦 is in Zürich 🇨🇭."

Post = Callable[..., tuple[int, Any]]


def block(heading: str) -> str:
    """Return the code under a heading of the document."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(autouse=True)
def settings(simulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "THREADLEDGER_DB": str(tmp_path / "chats.db"),
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "sk-test",
        "THREADLEDGER_BACKENDS": "chat",
        "THREADLEDGER_THREADS": "none",
        "THREADLEDGER_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["FastAPI", "Flask"])
def app(request: pytest.FixtureRequest) -> Iterator[tuple[Post, Ledger]]:
    """Run an app; yield a function that posts to it, and its ledger."""
    names: dict[str, Any] = {"__name__": "app"}
    exec(block(request.param), names)
    if request.param == "FastAPI":
        from fastapi.testclient import TestClient

        with TestClient(names["app"], raise_server_exceptions=False) as client:
            yield _posting(client.post, lambda reply: reply.content), names["app"].state.ledger.ledger
        return
    try:
        yield _posting(names["app"].test_client().post, lambda reply: reply.data), names["ledger"]
    finally:
        names["atexit"].unregister(names["ledger"].close)
        names["ledger"].close()


def _posting(send: Callable[..., Any], body_of: Callable[[Any], bytes]) -> Post:
    def post(path: str, text: Any, key: str | None = None) -> tuple[int, Any]:
        reply = send(path, json={"text": text}, headers={"Idempotency-Key": key} if key else {})
        lines = [json.loads(line) for line in body_of(reply).decode("utf-8").splitlines()]
        return reply.status_code, lines if path.endswith("/stream") and reply.status_code == 200 else lines[0]

    return post


def test_a_question_is_answered_once_however_often_it_is_sent(app: tuple[Post, Ledger], simulator: Any) -> None:
    post, ledger = app
    answers = [post("/chats/k", "Where is it?", key="form-7") for _ in range(2)]
    assert answers == [(200, {"text": "You said: Where is it?", "backend": "chat", "fallback": False})] * 2
    assert [request.template for request in simulator.requests] == [CHAT]
    assert ledger.state("k").messages == 2
    assert post("/chats/k", "Something else", key="form-7")[0] == 409


def test_a_stream_is_valid_text_and_ends_with_the_answer(app: tuple[Post, Ledger], simulator: Any) -> None:
    post, _ = app
    simulator.answer(EMOJI)
    status, parts = post("/chats/k/stream", "Where is it?")
    assert status == 200
    assert "".join(part["text"] for part in parts if part["type"] == "delta") == EMOJI
    assert parts[-1] == {"type": "answer", "text": EMOJI}


def test_errors_have_their_status_and_lose_nothing(app: tuple[Post, Ledger], simulator: Any) -> None:
    post, ledger = app
    for path in ("/chats/k", "/chats/k/stream"):
        assert post(path, " ")[0] == 422
        simulator.add_fault(CHAT, refuse={"status": 500})
        status, body = post(path, "Where is it?")
        assert (status, body["causes"]) == (503, ["provider_error"])
    assert ledger.state("k").unanswered == 2
    assert [each.message.text for each in ledger.memory("k").messages] == ["Where is it?"] * 2

    def open_a_run(it: Conversation) -> None:
        it.start_run(it.ask(text_message("user", "Where is it?")), RunPlan("chat", "m"))

    ledger.journal.commit("other", open_a_run, create=True)
    for path in ("/chats/other", "/chats/other/stream"):
        assert post(path, "And now?")[0] == 409


def test_a_stream_that_fails_after_it_has_begun_says_so(app: tuple[Post, Ledger], simulator: Any) -> None:
    post, ledger = app
    simulator.add_fault(CHAT, truncate={"events": 3})
    status, parts = post("/chats/k/stream", "Where is it?")
    assert status == 200
    assert [part["type"] for part in parts] == ["delta"] * (len(parts) - 1) + ["failed"]
    assert ledger.failures()[0].facts.partial_text


def test_many_questions_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("Other asyncio servers"), {})
    assert capsys.readouterr().out == "You said: Where is my parcel?\n" * 3
