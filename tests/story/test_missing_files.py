"""A file or an image that a provider cannot read fails one run there; the next one shows a text in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from threadledger.adapters import Simulator
from threadledger.domain.conversation import parse_message
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ledger import Ledger
from threadledger.domain.memory import Memory, missing_files_in, unusable_files_in
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
    kept = chat.memory().messages[0].message.content_as_json()
    assert isinstance(kept, list) and kept[1] == part
    assert text in str(chat.memory(last=6).as_chat_messages())


INLINE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}


def looking(chat: Any, *parts: Any) -> Any:
    """Add a message with parts, and an answer, so that a later question is about older parts."""
    chat.extend([{"role": "user", "content": [{"type": "text", "text": "Look at this."}, *parts]}])
    chat.append("assistant", "I see.")
    return chat


def sent(simulator: Any, route: str = "POST /chat/completions") -> list[str]:
    return [str(request.body) for request in simulator.requests if request.template == route]


def test_a_dead_address_takes_no_image_away_that_is_inside_a_message(
    open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    chat = looking(open_ledger(backends=("chat",), threads="none", retries=1).conversation("k"), IMAGE, INLINE)
    simulator.add_fault(ROUTES["chat"], refuse=NO_IMAGE)
    chat.ask("What was it?")
    assert "images.example" not in sent(simulator)[-1]
    assert "base64,AAAA" in sent(simulator)[-1]


def test_what_one_backend_could_not_read_is_given_to_the_next_one(
    open_ledger: Callable[..., Ledger], simulator: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    with Simulator() as other:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "threadledger.toml").write_text(f'[backends.other]\nkind = "chat"\nbase_url = "{other.base_url}"\n')
        chat = looking(open_ledger(backends=("chat", "other"), threads="none", retries=0).conversation("k"), IMAGE)
        simulator.add_fault(ROUTES["chat"], refuse=NO_IMAGE)
        assert chat.ask("What was it?").backend == "other"
        assert chat.ask("And its colour?").backend == "chat"
        assert "images.example" in sent(other)[0]
    assert ["images.example" in body for body in sent(simulator)] == [True, False]


def test_a_thread_has_what_only_a_backend_without_threads_could_not_read(
    open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = open_ledger(backends=("chat", "responses"), threads="conversations", retries=0)
    chat = looking(ledger.conversation("k"), IMAGE)
    simulator.add_fault(ROUTES["chat"], refuse=NO_IMAGE)
    assert chat.ask("What was it?").backend == "responses"
    looking(chat, IMAGE)
    assert str(simulator.provider.items).count("images.example") >= 2
    assert "no longer available" not in str(simulator.provider.items)


REFUSED = (
    (INLINE, {"code": "image_parse_error", "message": "You uploaded an unsupported image."}),
    (INLINE, {"code": "invalid_image_format", "message": "Bad image."}),
    (INLINE, {"code": "invalid_image", "message": "The image data you provided does not represent a valid image."}),
    (INLINE, {"message": "Could not process image"}),
    (INLINE, {"message": "messages.0.content.1.image.source.base64: image exceeds 5 MB maximum: 6 bytes > 5 bytes"}),
    (INLINE, {"message": "messages.0.content.1.image.source: image dimensions exceed max allowed size: 8000 pixels"}),
    (INLINE, {"param": "messages", "message": "Invalid content type. image_url is only supported by certain models."}),
    (INLINE, {"status": 404, "message": "No endpoints found that support image input"}),
    (INLINE, {"message": "Image does not match the provided media type image/png"}),
    (PDF, {"code": "missing_required_parameter", "param": "messages[0].content[1].file", "message": "Missing required file."}),
    (PDF, {"param": "messages[0]", "message": "Invalid file data: 'file_data'. Expected a base64-encoded data URL."}),
    (AUDIO, {"param": "messages", "message": "The data provided for 'input_audio' is not of valid wav format."}),
)  # fmt: skip


@pytest.mark.parametrize(("part", "refusal"), REFUSED, ids=[refusal["message"] for _, refusal in REFUSED])
def test_a_part_that_cannot_be_read_is_refused_once(
    open_ledger: Callable[..., Ledger], simulator: Any, part: Any, refusal: Any
) -> None:
    others = [each for each in (INLINE, AUDIO, PDF) if each != part]
    chat = looking(open_ledger(backends=("chat",), threads="none", retries=1).conversation("k"), part, *others)
    simulator.add_fault(ROUTES["chat"], refuse={"status": 400, "type": "invalid_request_error"} | refusal)
    answer = chat.ask("What was it?")
    assert [each.cause.value for each in answer.failures] == ["content_filtered" if part is INLINE else "file_missing"]
    first, second = sent(simulator)
    assert second.count("not shown: it could not be read]") == 1
    assert "could not be read" not in first
    chat.ask("And now?")
    assert sent(simulator)[-1].count("not shown: it could not be read]") == 1


def test_without_a_retry_the_next_question_is_answered(open_ledger: Callable[..., Ledger], simulator: Any) -> None:
    chat = looking(open_ledger(backends=("chat",), threads="none", retries=0).conversation("k"), INLINE)
    simulator.add_fault(ROUTES["chat"], refuse={"status": 400, "message": "Could not process image"})
    with pytest.raises(AllBackendsFailed):
        chat.ask("What was it?")
    chat.ask("And now?")
    assert "base64,AAAA" not in sent(simulator)[-1]


def test_parts_of_the_newest_question_are_blamed_if_there_are_no_earlier_ones() -> None:
    def messages(*contents: Any) -> Any:
        return Memory().with_messages([parse_message({"role": "user", "content": each}) for each in contents]).messages

    [reference] = unusable_files_in(messages("Hello.", [INLINE, AUDIO]), "", "image")
    other = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BBBB"}}
    assert unusable_files_in(messages([INLINE], [other]), "", "image") == [reference]
    assert unusable_files_in(messages([INLINE], [other]), "", "image", {reference}) not in ([], [reference])
    assert missing_files_in(messages([INLINE, AUDIO, PDF]), "") == []


def test_a_thread_is_written_with_what_another_place_could_not_read() -> None:
    memory = Memory().with_messages([parse_message({"role": "user", "content": [IMAGE]})])
    missing = frozenset(missing_files_in(memory.messages, ""))
    seen = {
        place: "images.example" in str(replace(memory, missing_files={place: missing}).in_thread(None))
        for place in ("chat", "threads", "")
    }
    assert seen == {"chat": True, "threads": False, "": False}


def test_a_run_that_does_not_say_where_counts_everywhere(open_ledger: Callable[..., Ledger]) -> None:
    memory = Memory(missing_files={"": frozenset("a"), "chat": frozenset("b"), "threads": frozenset("c")})
    assert memory.for_place("chat").missing_files == {"": {"a"}, "chat": {"b"}}
