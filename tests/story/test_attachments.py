"""Images, files and recordings: their bytes are stored once, sent to each backend as it takes them, and never lost silently."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadledger.adapters import Simulator
from threadledger.adapters.formats import export_lines, import_lines
from threadledger.adapters.python_backend import PythonBackend
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import NotShown, Policy, Services
from threadledger.domain.errors import (
    AllBackendsFailed,
    BlobMissing,
    FileMissing,
    IdempotencyConflict,
    InvalidInput,
    InvalidMessage,
)
from threadledger.domain.exchange import BackendOptions, Candidate
from threadledger.domain.journal import Journal
from threadledger.domain.journal.blobs import BLOB_BYTES_MAX
from threadledger.domain.ledger import AsyncLedger, Ledger, memory_shown
from threadledger.domain.limits import INLINE_BYTES_MAX, UPLOAD_BYTES_MIN
from threadledger.domain.threads import ThreadState

pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

Open = Callable[..., Ledger]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
PDF = b"%PDF-1.7\n" + bytes(range(256)) * 8
WAV = b"RIFF\0\0\0\0WAVE" + bytes(range(256)) * 8
KINDS: dict[str, dict[str, Any]] = {
    "chat": {"backends": ("chat",), "threads": "none"},
    "stateless responses": {"backends": ("responses",), "threads": "none"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
}
LOSSES = {
    "chat": {},
    "stateless responses": {"part:input_audio": 1},
    "responses": {"part:input_audio": 1},
    "assistants": {"part:input_audio": 1, "part:file": 1},
}
"""What each kind of backend is not shown of an image, a PDF and a recording."""


def base64(data: bytes) -> str:
    return b64encode(data).decode()


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64(PNG)}"}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{base64(PDF)}"}}
SOUND = {"type": "input_audio", "input_audio": {"data": base64(WAV), "format": "wav"}}
LOOK = {"type": "text", "text": "Look at this."}


def events_text(ledger: Ledger) -> str:
    return "\n".join(json.dumps(each.as_json()) for each in ledger.events())


def blobs_of(ledger: Ledger) -> dict[int, int]:
    """Return the number of references of each blob, by its size."""
    return {each.size: each.references for each in ledger.journal.blobs.listed()}


def asks(ledger: Ledger, way: str, question: Any, **options: Any) -> Any:
    """Return the answer, whichever way the question is asked."""
    if way == "ask":
        return ledger.conversation("k").ask(question, **options)
    if way == "stream":
        return list(ledger.conversation("k").stream(question, **options))[-1]

    async def asking() -> Any:
        async with AsyncLedger(ledger) as awaited:
            chat = awaited.conversation("k")
            if way == "async ask":
                return await chat.ask(question, **options)
            return [part async for part in chat.stream(question, **options)][-1]

    return asyncio.run(asking())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["ask", "stream", "async ask", "async stream"])
def test_a_question_may_have_parts_and_each_backend_is_sent_what_it_takes(
    open_ledger: Open, simulator: Simulator, kind: str, way: str
) -> None:
    answer = asks(open_ledger(**KINDS[kind]), way, [LOOK, IMAGE, FILE, SOUND])
    ledger = open_ledger(**KINDS[kind])
    sent = json.dumps([request.body for request in simulator.requests])
    assert (base64(WAV) in sent) == (kind == "chat")
    assert (base64(PDF) in sent) == (kind != "assistants")
    assert answer.losses == LOSSES[kind]
    run, _ = ledger.run(answer.run_id)
    assert run.all_losses == LOSSES[kind]
    text = events_text(ledger)
    assert not any(base64(each)[:60] in text for each in (PNG, PDF, WAV))
    assert blobs_of(ledger) == {len(PNG): 1, len(PDF): 1, len(WAV): 1}
    assert [each["type"] for each in ledger.conversation("k").memory().as_chat_messages()[0]["content"]] == [
        *("text", "image_url", "file", "input_audio")
    ]


def test_a_question_without_any_content_is_refused(open_ledger: Open) -> None:
    chat = open_ledger(**KINDS["chat"]).conversation("k")
    for question in ("", " \n", [{"type": "text", "text": " "}], []):
        with pytest.raises(InvalidMessage):
            chat.ask(question)
    assert chat.events() == []


def test_whichever_way_a_message_enters_its_bytes_are_stored_once_outside_the_events(
    open_ledger: Open, simulator: Simulator, tmp_path: Path
) -> None:
    import openai

    import threadledger

    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    said = {"role": "user", "content": [LOOK, IMAGE]}
    chat.append(**said)
    chat.extend([said, said])
    chat.ask(said["content"], idempotency_key="x")
    list(chat.stream(said["content"]))
    with chat.run("mine", "m") as run:
        run.complete({"role": "assistant", "content": [IMAGE]})
    file = tmp_path / "file.jsonl"
    file.write_text(json.dumps({"id": "imported", "messages": [said]}) + "\n", encoding="utf-8")
    from threadledger.adapters.formats import import_found, import_source

    with import_source(str(file)) as source:
        [_] = import_found(ledger, source.found)
    with openai.OpenAI(base_url=simulator.base_url, api_key="k", max_retries=0) as client:
        recorded = threadledger.record(client, ledger, key="recorded")
        recorded.chat.completions.create(model="m", messages=[said])  # type: ignore[list-item] # the SDK's own types
    assert base64(PNG)[:60] not in events_text(ledger)
    assert blobs_of(ledger) == {len(PNG): 8}


def test_forks_of_an_image_copy_no_bytes(open_ledger: Open, db_url: str) -> None:
    ledger = open_ledger(**KINDS["chat"])
    big = PNG * 400
    ledger.conversation("k").append("user", [LOOK, ledger.attach(big)])
    path = Path(db_url.removeprefix("sqlite:///"))

    def size() -> int:
        ledger.journal.status()
        return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))

    before = size()
    for number in range(3):
        ledger.fork("k", f"fork {number}")
    assert size() - before < len(big) / 2
    assert blobs_of(ledger) == {len(big): 4}
    [message] = ledger.conversation("fork 2").memory().as_chat_messages()
    assert message["content"][1]["image_url"]["url"] == f"data:image/png;base64,{base64(big)}"


def test_a_part_that_refers_to_bytes_which_are_not_stored_is_refused(open_ledger: Open) -> None:
    chat = open_ledger(**KINDS["chat"]).conversation("k")
    part = {"type": "image_url", "image_url": {"blob": f"sha256:{'0' * 64}", "media_type": "image/png"}}
    with pytest.raises(BlobMissing):
        chat.append("user", [part])
    assert chat.events() == []


ODD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a URL besides": lambda inner: inner | {"url": "https://example.com/a.png"},
    "an unknown field": lambda inner: inner | {"own": 1},
    "a size of another type": lambda inner: inner | {"size": True},
    "an address of another type": lambda inner: inner | {"blob": 7},
    "another size": lambda inner: inner | {"size": inner["size"] + 1},
    "a negative size": lambda inner: inner | {"size": -1},
    "a media type with line breaks": lambda inner: inner | {"media_type": "image/png\r\nX-Own: 1"},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("data", [PNG, PDF, WAV])
def test_a_part_whose_bytes_would_not_be_kept_or_sent_as_it_says_is_refused(
    open_ledger: Open, data: bytes, odd: str
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    part = ledger.attach(data)
    changed = part | {part["type"]: ODD[odd](part[part["type"]])}
    ways: list[Callable[[], Any]] = [
        lambda: chat.append("user", [changed]),
        lambda: chat.extend([{"role": "user", "content": [changed]}]),
        lambda: chat.ask([LOOK, changed]),
    ]
    for way in ways:
        with pytest.raises(InvalidMessage, match="nothing was written"):
            way()
    assert chat.events() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_without_its_size_is_stored_and_sent_like_one_with_it(
    open_ledger: Open, simulator: Simulator, kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    whole = [ledger.attach(LARGE), ledger.attach(b"%PDF-1.7\n" + LARGE)]
    parts = [
        {
            "type": part["type"],
            part["type"]: {name: each for name, each in part[part["type"]].items() if name != "size"},
        }
        for part in whole
    ]
    chat = ledger.conversation("k")
    chat.ask([LOOK, *parts])
    [question, _] = [each.event for each in ledger.events(types=["MessageJournaled"])]
    assert question.content[1:] == whole
    assert uploads(simulator) == len(list(ledger.uploads())) > 0


def test_a_media_type_that_none_is_stays_in_the_address_of_its_data(open_ledger: Open) -> None:
    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    part = {"type": "image_url", "image_url": {"url": f"data:image/png\r\nX-Own: 1;base64,{base64(PNG)}"}}
    answer = chat.ask([LOOK, part])
    assert answer.losses == {"part:image_url": 1}
    [question, _] = [each.event for each in ledger.events(types=["MessageJournaled"])]
    assert question.content[1] == part
    with pytest.raises(InvalidInput, match="image/png"):
        ledger.attach(PNG, media_type="image/png\r\nX-Own: 1")


def test_a_repeated_key_is_one_question_also_with_parts(open_ledger: Open) -> None:
    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    first = chat.ask([LOOK, IMAGE], idempotency_key="x")
    assert chat.ask([LOOK, ledger.attach(PNG)], idempotency_key="x").message_id == first.message_id
    with pytest.raises(IdempotencyConflict):
        chat.ask([LOOK, ledger.attach(PDF, filename="a.pdf")], idempotency_key="x")


def test_a_file_is_attached_by_its_path_its_bytes_or_an_open_file(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(**KINDS["chat"])
    path = tmp_path / "a.pdf"
    path.write_bytes(PDF)
    by_path = ledger.attach(path)
    with path.open("rb") as file:
        assert ledger.attach(file, filename="a.pdf") == by_path
    assert ledger.attach(PDF, filename="a.pdf") == by_path == ledger.attach(str(path))
    assert by_path["file"].keys() == {"blob", "media_type", "size", "filename"}
    assert ledger.attach(WAV)["input_audio"]["format"] == "wav"
    assert ledger.attach(PNG, media_type="application/x-own")["file"]["media_type"] == "application/x-own"
    assert blobs_of(ledger) == {len(PDF): 0, len(WAV): 0, len(PNG): 0}


def test_a_file_that_cannot_be_attached_is_refused_with_a_sentence(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(**KINDS["chat"])
    wrong: Any = 7
    with pytest.raises(FileMissing, match="correct the path"):
        ledger.attach(tmp_path / "missing")
    with pytest.raises(InvalidInput, match="is empty"):
        ledger.attach(b"")
    with pytest.raises(InvalidInput, match="give its path"):
        ledger.attach(wrong)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(BLOB_BYTES_MAX + 1)
    with pytest.raises(InvalidInput, match="64 MiB"):
        ledger.attach(path)
    assert blobs_of(ledger) == {}


# Losses


def test_a_stream_says_what_the_backend_is_not_shown_before_it_answers(open_ledger: Open) -> None:
    chat = open_ledger(**KINDS["stateless responses"]).conversation("k")
    first, *_ = parts = list(chat.stream([LOOK, SOUND]))
    assert isinstance(first, NotShown)
    assert (first.losses, first.backend) == ({"part:input_audio": 1}, "responses")
    assert parts[-1].losses == {"part:input_audio": 1}


def test_with_refuse_a_backend_that_cannot_be_shown_a_part_is_not_called(
    open_ledger: Open, simulator: Simulator
) -> None:
    settings = {"backends": ("responses", "chat"), "threads": "none", "on_loss": "refuse", "retries": 2}
    ledger = open_ledger(**settings)
    answer = ledger.conversation("k").ask([LOOK, SOUND])
    assert (answer.backend, answer.fallback, answer.losses) == ("chat", True, {})
    assert [request.template for request in simulator.requests] == ["POST /chat/completions"]
    [failure] = ledger.failures()
    assert (failure.cause.value, failure.facts.status) == ("content_not_supported", "refused")
    assert "1 recording, and" in str(failure.facts.message)


def test_without_refuse_the_rest_is_answered_and_the_loss_is_in_the_audit(open_ledger: Open) -> None:
    ledger = open_ledger(**KINDS["stateless responses"])
    answer = ledger.conversation("k").ask([LOOK, SOUND, SOUND])
    assert answer.losses == {"part:input_audio": 2}
    run, _ = ledger.run(answer.run_id)
    assert run.losses == {"part:input_audio": 2}


# Large attachments

LARGE = PNG * (UPLOAD_BYTES_MIN // len(PNG) + 1)
UPLOAD = "POST /files"


def uploads(simulator: Simulator) -> int:
    return sum(request.template == UPLOAD for request in simulator.requests)


@pytest.mark.parametrize("kind", ["chat", "stateless responses", "responses"])
def test_a_large_file_is_uploaded_once_for_many_questions_and_processes(
    open_ledger: Open, simulator: Simulator, kind: str
) -> None:
    first = open_ledger(**KINDS[kind])
    part = first.attach(b"%PDF-1.7\n" + LARGE, filename="large.pdf")
    first.conversation("k").ask([LOOK, part])
    first.conversation("k").ask("And now?")
    again = open_ledger(**KINDS[kind])
    again.conversation("k").ask([LOOK, part])
    again.conversation("other").ask([LOOK, part])
    assert uploads(simulator) == 1
    assert base64(LARGE)[600:700] not in json.dumps(
        [request.body for request in simulator.requests if request.template != UPLOAD]
    )
    [copy] = first.uploads()
    assert copy.blob == part["file"]["blob"]
    assert copy.file_id in events_text(first)
    assert blobs_of(first) == {part["file"]["size"]: 3}


def test_an_upload_that_the_provider_no_longer_has_is_made_again(open_ledger: Open, simulator: Simulator) -> None:
    ledger = open_ledger(**KINDS["stateless responses"], retries=1)
    chat = ledger.conversation("k")
    chat.ask([LOOK, ledger.attach(b"%PDF-1.7\n" + LARGE, filename="large.pdf")])
    [before] = ledger.uploads()
    simulator.add_fault("POST /responses", refuse={"status": 404, "message": f"No such File object: {before.file_id}"})
    answer = chat.ask("And now?")
    assert [each.cause.value for each in answer.failures] == ["file_missing"]
    [after] = ledger.uploads()
    assert after.file_id != before.file_id
    assert uploads(simulator) == 2
    types = [each.type for each in ledger.events() if each.type.startswith("Attachment")]
    assert types == ["AttachmentUploaded", "AttachmentRemoved", "AttachmentUploaded"]


def test_questions_at_the_same_time_about_a_file_upload_it_once(open_ledger: Open, simulator: Simulator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ledger = open_ledger(**KINDS["chat"])
    part = ledger.attach(b"%PDF-1.7\n" + LARGE, filename="large.pdf")
    with ThreadPoolExecutor(4) as threads:
        asked = threads.map(lambda number: ledger.conversation(f"t{number}").ask([LOOK, part]), range(4))
        assert [each.losses for each in asked] == [{}] * 4
    assert (uploads(simulator), len(list(ledger.uploads()))) == (1, 1)

    async def asking() -> None:
        async with AsyncLedger(ledger) as awaited:
            other = awaited.conversation
            await asyncio.gather(*(other(f"a{number}").ask([LOOK, large]) for number in range(4)))

    large = ledger.attach(b"%PDF-1.7\n" + LARGE + PNG, filename="large.pdf")
    asyncio.run(asking())
    assert (uploads(simulator), len(list(open_ledger(**KINDS["chat"]).uploads()))) == (2, 2)


@pytest.mark.parametrize("kind", ["responses", "assistants"])
def test_a_thread_with_the_older_of_two_copies_is_the_same(open_ledger: Open, simulator: Simulator, kind: str) -> None:
    from threadledger.domain.journal.uploads import Uploads, upload_of

    ledger = open_ledger(**KINDS[kind])
    ledger.conversation("k").ask([LOOK, ledger.attach(LARGE), ledger.attach(b"%PDF-1.7\n" + LARGE)])
    for number, each in enumerate(list(ledger.uploads())):
        again = upload_of(each.blob, each.endpoint, f"file-other{number}", filename=each.filename, size=each.size)
        Uploads(ledger.journal).note(again)
    [found] = open_ledger(**KINDS[kind]).replay.verify(["k"])
    assert found.found.state == ThreadState.SAME


def test_an_upload_is_not_in_memory(open_ledger: Open, simulator: Simulator) -> None:
    import tracemalloc

    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    chat.ask([LOOK, ledger.attach(LARGE + b"%PDF", media_type="application/pdf", filename="warm.pdf")])
    part = ledger.attach(bytes(24 * 2**20), media_type="application/pdf", filename="large.pdf")
    tracemalloc.start()
    try:
        chat.ask([LOOK, part])
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()
    assert uploads(simulator) == 2


def test_an_upload_that_fails_is_made_by_the_next_question(open_ledger: Open, simulator: Simulator) -> None:
    simulator.add_fault(UPLOAD, refuse={"status": 500, "message": "broken"})
    ledger = open_ledger(**KINDS["chat"], retries=0)
    part = ledger.attach(b"%PDF-1.7\n" + LARGE, filename="large.pdf")
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask([LOOK, part])
    assert ledger.conversation("k").ask([LOOK, part]).losses == {}
    assert len(list(ledger.uploads())) == 1


def test_no_event_loop_waits_for_the_bytes_of_an_attachment(
    open_ledger: Open, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from threadledger.adapters.sql.blobs import SqlBlobs

    ledger = open_ledger(**KINDS["responses"])
    question = [LOOK, IMAGE, ledger.attach(LARGE), ledger.attach(b"%PDF-1.7\n" + LARGE)]
    places: set[int] = set()

    def seen(own: Any) -> Any:
        def call(*given: Any) -> Any:
            places.add(threading.get_ident())
            return own(*given)

        return call

    for name in ("_chunks", "size", "add"):
        monkeypatch.setattr(SqlBlobs, name, seen(getattr(SqlBlobs, name)))
    asks(ledger, "async stream", question)
    assert places and threading.get_ident() not in places


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, "lost at the provider") for kind in KINDS),
        *((kind, "removed by the operator") for kind in ("stateless responses", "assistants")),
    ],
)
def test_when_all_uploads_are_gone_the_next_question_is_answered_after_one_retry(
    open_ledger: Open, simulator: Simulator, kind: str, how: str
) -> None:
    ledger = open_ledger(**KINDS[kind], retries=1)
    chat = ledger.conversation("k")
    documents = [ledger.attach(b"%PDF-1.7\n" + each + LARGE, filename="large.pdf") for each in (b"1", b"2")]
    chat.ask([LOOK, *documents, ledger.attach(LARGE), ledger.attach(LARGE + PNG)])
    before = list(ledger.uploads())
    for each in before:
        if how == "lost at the provider":
            simulator.lose(each.file_id)
        else:
            ledger.remove_upload(each)
    chat = open_ledger(**KINDS[kind], retries=1).conversation("k")
    answer = chat.ask("And now?")
    assert {each.cause.value for each in answer.failures} <= {"file_missing"}
    assert chat.ask("And again?").failures == []
    after = list(ledger.uploads())
    assert len(after) == len(before) >= 2
    assert not {each.file_id for each in before} & {each.file_id for each in after}


def test_a_thread_is_written_with_an_upload_that_the_provider_no_longer_had(
    open_ledger: Open, simulator: Simulator
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    ledger.conversation("k").append("user", [LOOK, ledger.attach(LARGE)])
    for number, to in enumerate(["conversations", "assistants", "conversations"], 1):
        plan = ledger.replay.plan_rebuild(keys=["k"], to=to, fresh=True)
        plan.apply()
        [item] = plan.items
        assert (item.state, item.verified) == ("done", True)
        [copy] = ledger.uploads()
        assert uploads(simulator) == number
        simulator.lose(copy.file_id)


def test_an_image_that_no_thread_can_hold_without_a_files_api_is_a_loss(
    open_ledger: Open, simulator: Simulator
) -> None:
    simulator.retire("files")
    ledger = open_ledger(**KINDS["assistants"])
    chat = ledger.conversation("k")
    for _ in range(2):
        answer = chat.ask([LOOK, IMAGE])
        run, _ = ledger.run(answer.run_id)
        assert answer.losses == run.all_losses
    assert answer.losses == {"part:image_url": 2}
    plan = ledger.replay.plan_rebuild(keys=["k"], to="assistants", fresh=True)
    plan.apply()
    assert plan.items[0].losses["images"] == 2


NO_FILES = {
    "no such address": {"status": 404, "message": "Not Found"},
    "a restricted key": {"status": 403, "message": "You have insufficient permissions for this operation."},
}


@pytest.mark.parametrize("refusal", NO_FILES.values(), ids=NO_FILES)
def test_a_provider_without_a_files_api_is_sent_the_data_inside(
    open_ledger: Open, simulator: Simulator, refusal: dict[str, Any]
) -> None:
    simulator.add_fault(UPLOAD, refuse=refusal, times=9)
    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    answer = chat.ask([LOOK, ledger.attach(b"%PDF-1.7\n" + LARGE, filename="large.pdf")])
    chat.ask("And now?")
    assert answer.losses == {}
    assert uploads(simulator) == 1
    assert list(ledger.uploads()) == []


def test_more_data_than_a_request_may_have_is_refused_before_any_call(open_ledger: Open, simulator: Simulator) -> None:
    ledger = open_ledger(**KINDS["chat"])
    image = ledger.attach(PNG * (INLINE_BYTES_MAX * 3 // 4 // len(PNG) + 1))  # no id of a file is taken for an image
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask([LOOK, image])
    [failure] = failed.value.failures
    assert failure.cause.value == "content_not_supported"
    assert "over the limit" in str(failure.facts.message)
    assert simulator.requests == []
    [started] = [each.event for each in ledger.events(types=["RunStarted"])]
    assert started.run_id == failure.run_id


@pytest.mark.parametrize("to", ["conversations", "assistants"])
def test_threads_rebuilt_from_memory_with_attachments_are_verified(
    open_ledger: Open, simulator: Simulator, to: str
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    chat = ledger.conversation("k")
    chat.append("user", [LOOK, IMAGE, FILE, SOUND])
    chat.append("assistant", "I see.")
    chat.append("user", [LOOK, ledger.attach(LARGE), ledger.attach(b"%PDF-1.7\n" + LARGE, filename="large.pdf")])
    chat.append("user", [IMAGE])
    plan = ledger.replay.plan_rebuild(keys=["k"], to=to)
    plan.apply()
    [item] = plan.items
    assert (item.state, item.verified) == ("done", True)
    for opened in (ledger, open_ledger(**KINDS["chat"])):
        [found] = opened.replay.verify(["k"], to=to)
        assert found.found.state == ThreadState.SAME
    assert uploads(simulator) == 2


def test_the_run_that_a_rerun_repeats_is_shown_the_same_attachments(open_ledger: Open, simulator: Simulator) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 500, "message": "broken"}, times=1)
    ledger = open_ledger(**KINDS["chat"], retries=0)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask([LOOK, IMAGE, FILE, SOUND])
    plan = ledger.replay.plan_rerun(failed=True)
    plan.apply()
    [item] = plan.items
    assert item.state == "answered"
    first, second = [request.body for request in simulator.requests if request.template == "POST /chat/completions"]
    assert first["messages"] == second["messages"]
    first_run, second_run = [each.event for each in ledger.events(types=["RunStarted"])]
    assert first_run.memory_hash == second_run.memory_hash


# What holds for any content

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DATA = st.binary(min_size=1, max_size=40).map(base64)
CONTENTS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
        st.builds(lambda data: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}, DATA),
        st.builds(lambda data: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}\n"}}, DATA),
        st.just({"type": "image_url", "image_url": {"url": "https://images.example/a.png", "detail": "low"}}),
        st.builds(lambda data, name: {"type": "file", "file": {"file_data": data, "filename": name}}, DATA, TEXTS),
        st.builds(lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, DATA),
        st.just({"type": "file", "file": {"url": "https://files.example/a.pdf"}}),
        st.builds(lambda text: {"type": "video_url", "video_url": {"url": text}}, TEXTS),
    ),
    min_size=1,
    max_size=4,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 2.0]),
        "instructions": st.sampled_from(["Be brief.", "Be kind."]),
        "metadata": st.sampled_from([{"ticket": "7"}]),
        "max_output_tokens": st.sampled_from([16, 300]),
        "response_format": st.just({"type": "json_object"}),
    },
)


def answer_of_the_app(request: Any) -> str:
    return f"{len(request.memory.as_chat_messages())} messages"


@settings(max_examples=25)
@given(questions=st.lists(st.tuples(CONTENTS, OPTIONS), min_size=1, max_size=4), last=st.sampled_from([None, 1, 2]))
def test_what_a_run_was_shown_is_reproducible_by_hash_and_an_export_is_an_identity(
    tmp_path_factory: pytest.TempPathFactory, questions: Any, last: int | None
) -> None:
    place = tmp_path_factory.mktemp("ledger")
    policy = Policy((Candidate("own", "m"),), memory_last=last, retries=0)
    backend = PythonBackend(answer_of_the_app, BackendOptions("own"))
    with closing(Journal(Factory(database=Database(f"sqlite:///{place}/one.db")))) as journal:
        ledger = Ledger(journal, Services(policy=policy, backends={"own": backend}))
        chat = ledger.conversation("k")
        for content, options in questions:
            with suppress(InvalidMessage):  # it says nothing
                chat.ask([LOOK, *content], **options)
        runs = [run for exchange in journal.exchanges("k").by_id.values() for run in exchange.runs]
        assert runs
        for run in runs:
            assert memory_shown(journal, run).same, run
        exported = list(export_lines(ledger))
        with closing(Journal(Factory(database=Database(f"sqlite:///{place}/two.db")))) as other:
            copy = Ledger(other)
            [imported] = import_lines(copy, [line.encode() for line in exported])
            assert imported.state == "imported"
            assert copy.memory("k").digest() == ledger.memory("k").digest()
            assert copy.memory("k").as_chat_messages() == ledger.memory("k").as_chat_messages()
            [again] = import_lines(copy, [line.encode() for line in exported])
            assert again.state == "unchanged"
