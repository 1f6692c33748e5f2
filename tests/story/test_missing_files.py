"""A file or an image that the provider no longer has fails one run; the next one shows a text in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

KINDS: dict[str, dict[str, Any]] = {
    "chat": {"backends": ("chat",), "threads": "none"},
    "stateless responses": {"backends": ("responses",), "threads": "none"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
}
ROUTES = {"chat": "POST /chat/completions", "stateless responses": "POST /responses", "responses": "POST /responses"}
FILE = {"type": "file", "file": {"file_id": "file-abc123"}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://images.example/parcel.png?token=secret-of-the-image"}}
NO_FILE = {"status": 404, "message": "No such File object: file-abc123"}
NO_IMAGE = {"status": 400, "code": "invalid_image_url", "message": "Timeout while downloading the image."}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("part", "refusal", "text"),
    [(FILE, NO_FILE, "[file file-abc123 is no longer available]"), (IMAGE, NO_IMAGE, "[image is no longer available]")],
)
def test_a_missing_file_is_reported_once_and_the_question_is_answered(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str, part: Any, refusal: Any, text: str
) -> None:
    ledger = open_ledger(**KINDS[kind], retries=1)
    chat = ledger.conversation("k")
    chat.extend([{"role": "user", "content": [{"type": "text", "text": "Look at this."}, part]}])
    chat.append("assistant", "I see.")
    simulator.add_fault(ROUTES[kind], refuse=refusal)
    answer = chat.ask("What was it?")
    chat.ask("And its colour?")
    assert [failure.cause.value for failure in answer.failures] == ["file_missing"]
    assert [each.cause.value for each in ledger.failures()] == ["file_missing"]
    first, *later = [request.body for request in simulator.requests if request.template == ROUTES[kind]]
    assert text not in str(first)
    if kind == "responses":
        (found,) = ledger.replay.verify()
        assert found.found.state == ThreadState.SAME
        (thread,) = [items for items in simulator.provider.items.values() if text in str(items)]
        assert "file-abc123'" not in str(thread)
    else:
        assert all(text in str(body) for body in later)
        assert "images.example" not in str(later)
    assert "secret-of-the-image" not in str([event.event for event in ledger.events(types=["RunFailed"])])
    assert chat.memory().messages[0].message.content_as_json()[1] == part  # type: ignore[index]
    assert text in str(chat.memory(last=6).as_chat_messages())
