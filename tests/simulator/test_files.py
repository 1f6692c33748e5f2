"""Test the simulated Files API: uploads, downloads, deletion, and ids of files in requests."""

import asyncio
import hashlib
import io
import json
import tracemalloc
import urllib.request

import pytest

from threadledger.adapters.simulator import Simulator
from threadledger.adapters.simulator.app import SimulatorApp
from threadledger.adapters.wire import limits, multipart

from .helpers import refused

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
PDF = b"%PDF-1.7 \r\n--not a boundary\r\n\r\n" + bytes(range(256)) * 40
MODEL = {"model": "any-model"}


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def upload(client, content=PDF, name="a.pdf", **more):
    return client.files.create(file=(name, content), **({"purpose": "user_data"} | more))


def by_file(file_id):
    """Return every way to name a file in a request: the method of the client, its arguments, and the field."""
    part = {"type": "input_file", "file_id": file_id}
    asked = {"role": "user", "content": [part]}
    image = {"role": "user", "content": [{"type": "input_image", "file_id": file_id}]}
    output = {"type": "function_call_output", "call_id": "c", "output": [part]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    told = {"role": "user", "content": [{"type": "file", "file": {"file_id": file_id}}]}
    shown = {"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": file_id}}]}
    attached = {
        "role": "user", "content": "x", "attachments": [{"file_id": file_id, "tools": [{"type": "file_search"}]}]
    }  # fmt: skip
    return {
        "responses": ({**MODEL, "input": [asked]}, "input[0].content[0].file_id"),
        "responses, an image": ({**MODEL, "input": [image]}, "input[0].content[0].file_id"),
        "responses, a result": ({**MODEL, "input": [call, output]}, "input[1].output[0].file_id"),
        "conversations": ({"items": [asked]}, "items[0].content[0].file_id"),
        "chat.completions": ({**MODEL, "messages": [told]}, "messages[0].content[0].file.file_id"),
        "beta.threads": ({"messages": [shown]}, "messages[0].content[0].image_file.file_id"),
        "beta.threads, attached": ({"messages": [attached]}, "messages[0].attachments[0].file_id"),
    }


def create(client, name):
    for part in name.partition(",")[0].split("."):
        client = getattr(client, part)
    return client.create


def test_a_file_is_uploaded_read_downloaded_and_deleted(client, simulator):
    made = upload(client)
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(PDF), "a.pdf", "user_data")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == PDF
    assert client.files.delete(made.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        error = refused(call, made.id)
        assert (error.status_code, error.type, error.param) == (404, "invalid_request_error", "id")
        assert error.body["message"] == f"No such File object: {made.id}"
    assert simulator.provider.store.contents.path(made.id) is None


def test_files_are_listed_by_purpose_and_page(client):
    first, second = upload(client), upload(client, name="b.png", purpose="vision")
    assert [each.id for each in client.files.list()] == [second.id, first.id]
    assert [each.id for each in client.files.list(purpose="vision")] == [second.id]
    assert [each.id for each in client.files.list(limit=1, order="asc")] == [first.id, second.id]
    client.files.delete(second.id)
    assert [each.id for each in client.files.list()] == [first.id]


def test_a_file_expires(simulator, client):
    made = upload(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.expires_at == made.created_at + 3600
    error = refused(upload, client, expires_after={"anchor": "created_at", "seconds": 60})
    assert (error.status_code, error.param, error.code) == (400, "expires_after.seconds", "integer_below_min_value")
    simulator.provider.store.clock = lambda: made.expires_at
    assert refused(client.files.retrieve, made.id).status_code == 404
    assert client.files.list().data == []


@pytest.mark.parametrize(
    ("body", "param"),
    [({"purpose": "user_data"}, "file"), ({"purpose": "fun"}, "purpose"), ({}, "purpose"), ({"size": 1}, "size")],
)
def test_a_request_that_is_no_upload_is_refused(client, simulator, body, param):
    error = refused(client.post, "/files", body=body, cast_to=object)
    assert (error.status_code, error.param) == (400, param)
    assert simulator.provider.files == {}


@pytest.mark.parametrize("name", by_file(""))
def test_a_file_that_is_there_is_accepted_and_one_that_was_deleted_is_refused(client, name):
    made = upload(client)
    body, param = by_file(made.id)[name]
    create(client, name)(**body)
    client.files.delete(made.id)
    error = refused(create(client, name), **body)
    assert (error.status_code, error.type, error.param) == (404, "invalid_request_error", param)
    assert error.body["message"] == f"No such File object: {made.id}"


def test_an_earlier_message_that_names_a_deleted_file_fails_what_follows(client):
    made = upload(client)
    body, _ = by_file(made.id)["responses"]
    conversation = client.conversations.create(**by_file(made.id)["conversations"][0])
    first = client.responses.create(**body)
    client.files.delete(made.id)
    error = refused(client.responses.create, **MODEL, input="x", previous_response_id=first.id)
    assert (error.status_code, error.param.partition("[")[0]) == (404, "previous_response_id")
    error = refused(client.responses.create, **MODEL, input="x", conversation=conversation.id)
    assert (error.status_code, error.param.partition("[")[0]) == (404, "conversation")


def test_a_run_on_a_message_that_names_a_deleted_file_fails(client):
    made = upload(client, purpose="vision")
    thread = client.beta.threads.create(**by_file(made.id)["beta.threads"][0])
    assistant = client.beta.assistants.create(**MODEL)
    client.files.delete(made.id)
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert (run.status, run.last_error.message) == ("failed", f"No such File object: {made.id}")


def test_uploads_can_be_counted_after_their_deletion(client, simulator):
    made = upload(client)
    client.files.delete(made.id)
    upload(client)
    kept = list(simulator.provider.files.values())
    assert [(each["deleted"], each["sha256"]) for each in kept] == [
        (True, hashlib.sha256(PDF).hexdigest()),
        (False, hashlib.sha256(PDF).hexdigest()),
    ]
    with urllib.request.urlopen(f"{simulator.control_url}/files") as answer:
        assert json.load(answer)["files"] == kept
    [sent, *_] = simulator.requests
    assert sent.body == {"purpose": "user_data", "file": {"filename": "a.pdf", "bytes": len(PDF)}}
    assert simulator.provider.request_counts["POST /files"] == 2


def test_a_file_can_be_added_and_lost_without_a_request(client, simulator):
    assert simulator.add_file(b"x", "x.txt", file_id="file-mine") == "file-mine"
    assert client.files.content("file-mine").read() == b"x"
    simulator.lose("file-mine")
    assert refused(client.files.retrieve, "file-mine").status_code == 404


def test_a_provider_without_files_answers_404(client, simulator):
    simulator.retire("files")
    assert refused(upload, client).status_code == 404
    assert Simulator(script={"retired_apis": ["files"]}).provider.retired_apis == ("files",)


def test_an_upload_can_fail_and_leaves_nothing(client, simulator):
    import openai

    simulator.add_fault("POST /files", refuse={"status": 503})
    assert refused(upload, client).status_code == 503
    simulator.add_fault("POST /files", drop=True)
    with pytest.raises(openai.APIConnectionError):
        upload(client)
    assert simulator.provider.files == {}
    [folder] = {path.parent for path in [simulator.provider.store.contents.new()]}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("fault", [{"lose_answer": True}, {"land_late": 1}])
def test_an_upload_whose_answer_is_lost_is_kept(client, simulator, fault):
    import openai

    simulator.add_fault("POST /files", **fault)
    with pytest.raises(openai.APIConnectionError):
        upload(client)
    client.models.list()
    [made] = client.files.list()
    assert client.files.content(made.id).read() == PDF


def test_the_next_simulator_on_a_state_file_knows_the_files_but_not_their_contents(tmp_path):
    from openai import OpenAI

    with (
        Simulator(seed=7, state=tmp_path / "state.db") as first,
        OpenAI(base_url=first.base_url, api_key="k") as client,
    ):
        made, gone = upload(client), upload(client)
        client.files.delete(gone.id)
    with Simulator(state=tmp_path / "state.db") as second, OpenAI(base_url=second.base_url, api_key="k") as client:
        assert [each.id for each in client.files.list()] == [made.id]
        assert client.responses.create(**by_file(made.id)["responses"][0]).status == "completed"
        assert "earlier simulator" in refused(client.files.content, made.id).body["message"]
        assert len(second.provider.files) == 2


def test_a_file_above_the_limit_is_refused(client, simulator, monkeypatch):
    monkeypatch.setattr(limits, "FILE_MAX_BYTES", 100)
    upload(client, b"x" * 100)
    error = refused(upload, client, b"x" * 101)
    assert (error.status_code, error.body["message"]) == (
        413,
        "Maximum content size limit (100) exceeded (101 bytes read)",
    )
    assert len(simulator.provider.files) == 1


def test_a_body_above_the_limit_is_refused(client, simulator, monkeypatch):
    monkeypatch.setattr(limits, "BODY_MAX_BYTES", 1000)
    error = refused(client.responses.create, **MODEL, input="x" * 1000)
    assert (error.status_code, error.type) == (413, "invalid_request_error")
    assert simulator.provider.responses == {}


def test_a_body_above_the_limit_of_the_messages_api_is_refused(simulator, monkeypatch):
    import anthropic

    monkeypatch.setattr(limits, "MESSAGES_BODY_MAX_BYTES", 1000)
    with (
        anthropic.Anthropic(base_url=simulator.azure_endpoint, api_key="k", max_retries=0) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x" * 1000}])
    assert (caught.value.status_code, caught.value.body["error"]["type"]) == (413, "request_too_large")


FORM = (
    b'preamble\r\n--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--B\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n'
    b'--B\r\ncontent-disposition: form-data; name="file"; filename="a b.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"one\r\n--\r\n-B\r\n--C two\r\n--B--\r\nepilogue"
)


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(FORM)])
def test_a_form_is_read_in_pieces_of_any_size(tmp_path, size):
    reader = multipart.FormReader("multipart/form-data; boundary=B", lambda: tmp_path / "new")
    for start in range(0, len(FORM), size):
        reader.feed(FORM[start : start + size])
    read = reader.close()
    assert read.problem is None
    assert (read.fields, read.filename) == ({"purpose": "user_data", "empty": ""}, "a b.txt")
    assert (tmp_path / "new").read_bytes() == b"one\r\n--\r\n-B\r\n--C two"
    assert (read.size, read.sha256) == (20, hashlib.sha256(b"one\r\n--\r\n-B\r\n--C two").hexdigest())


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("multipart/form-data", FORM),
        ("multipart/form-data; boundary=B", FORM[:-20]),
        ("multipart/form-data; boundary=B", b""),
        ("multipart/form-data; boundary=B", b"--Bx"),
        ("multipart/form-data; boundary=B", b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--"),
        ("multipart/form-data; boundary=B", b"--B\r\n" + b"x" * 20_000),
        ("multipart/form-data; boundary=B", FORM.replace(b'name="empty"', b'name="empty"; filename="b"')),
    ],
)
def test_a_broken_form_is_refused(tmp_path, kind, form):
    names = iter("ab")
    reader = multipart.FormReader(kind, lambda: tmp_path / next(names))
    reader.feed(form)
    assert reader.close().problem.status == 400


def test_an_upload_is_not_held_in_memory():
    """An upload of 24 MiB takes no more than a few of its pieces, from the socket to the disk and back."""
    simulator = Simulator(seed=7)
    piece = bytes(65_536)
    head = FORM.partition(b"one\r\n")[0]
    answered = io.BytesIO()

    async def serve(method, path, pieces):
        bodies = iter([*pieces, None])
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"",
            "headers": [(b"authorization", b"Bearer k"), (b"content-type", b"multipart/form-data; boundary=B")],
        }  # fmt: skip

        async def receive():
            body = next(bodies, None)
            if body is None:
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.request", "body": body, "more_body": True}

        async def send(message):
            answered.write(message.get("body", b"")[:200])

        app = SimulatorApp(simulator.provider, lambda _: None, "127.0.0.1")
        await app(scope, receive, send)

    head = head.replace(b'--B\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n', b"")
    tracemalloc.start()
    try:
        asyncio.run(serve("POST", "/v1/files", [head, *[piece] * 384, b"\r\n--B--\r\n"]))
        [made] = simulator.provider.files.values()
        assert made["bytes"] == 384 * 65_536
        asyncio.run(serve("GET", f"/v1/files/{made['id']}/content", []))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
