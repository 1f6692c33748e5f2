"""Files: uploads in bounds and piece by piece, bytes that no other file shares, and deletions that really remove them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.server.app import UPLOAD_BYTES_MAX
from threadledger.adapters.server.limits import ServerLimits
from threadledger.domain.conversation.files import PREFIX_BYTES
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ids import now
from threadledger.domain.ledger import FileRecord, FileStore, Ledger

from .chat_only import ChatOnly
from .speaking import OTHER_KEY, OWN_KEY, Answered, Keys, bearer, connected, head, read, say, until

ALL_BYTES = bytes(range(256))
BOUNDARY = "the-boundary"
FORM = {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(*parts: tuple[str, str], file: bytes | None = b"text", name: str = "notes.txt", files: int = 1) -> bytes:
    """Return a form with fields and files."""
    head = 'Content-Disposition: form-data; name="'
    raw = b"".join(f'--{BOUNDARY}\r\n{head}{field}"\r\n\r\n{value}\r\n'.encode() for field, value in parts)
    for _ in range(files if file is not None else 0):
        raw += f'--{BOUNDARY}\r\n{head}file"; filename="{name}"\r\n\r\n'.encode() + (file or b"") + b"\r\n"
    return raw + f"--{BOUNDARY}--\r\n".encode()


PURPOSE = ("purpose", "assistants")


def upload(server: Any, body: bytes | None = None, **headers: str) -> Answered:
    return say(server, "POST", "/v1/files", form(PURPOSE) if body is None else body, **{**FORM, **headers})


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that lists the temporary files of uploads."""
    place = tmp_path / "uploads"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return lambda: [each.name for each in place.iterdir() if "upload" in each.name]


def blobs_of(ledger: Ledger) -> list[str]:
    return [each.address for each in ledger.journal.blobs.listed()]


def test_a_file_is_returned_byte_for_byte_and_shown_with_its_facts(
    client: OpenAI, uploads: Callable[[], list[str]]
) -> None:
    data = ALL_BYTES * 5_000 + b"\r\n--the-boundary"  # more than a chunk
    made = client.files.create(file=("für Anna.bin", data), purpose="user_data")
    assert (made.filename, made.bytes, made.purpose, made.status) == (
        "für Anna.bin",
        len(data),
        "user_data",
        "processed",
    )
    assert client.files.content(made.id).read() == data
    assert client.files.retrieve(made.id) == made
    empty = client.files.create(file=("empty", b""), purpose="assistants")
    assert client.files.content(empty.id).read() == b""
    until(lambda: uploads() == [])


@pytest.mark.parametrize(
    "name",
    [
        "a\\b.txt",
        "C:\\x\\y.txt",
        "\\\\host\\share.txt",
        "a\\",
        'a"b".txt',
        '\\"',
        "a%41.txt",
        "100%.txt",
        "a;b=c.txt",
        "日本 😀.txt",
    ],
)
def test_a_file_has_the_name_that_the_sdk_was_given(client: OpenAI, name: str) -> None:
    assert client.files.create(file=(name, b"x"), purpose="assistants").filename == name


@pytest.mark.parametrize(
    ("sent", "name"),
    [("C:\\x\\y.txt", "C:\\x\\y.txt"), ("a%22b.txt", 'a"b.txt'), ('a\\"b.txt', 'a"b.txt'), ("%7e.txt", "%7e.txt")],
)
def test_a_file_has_the_name_that_a_browser_or_an_older_client_meant(server: Any, sent: str, name: str) -> None:
    assert upload(server, form(PURPOSE, name=sent)).json["filename"] == name


def test_the_content_is_no_page_for_a_browser(server: Any) -> None:
    made = upload(server, form(PURPOSE, file=b"<script>alert(1)</script>", name="page.html")).json
    answer = say(server, "GET", f"/v1/files/{made['id']}/content")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (answer.headers["content-disposition"], answer.headers["x-content-type-options"]) == (
        "attachment",
        "nosniff",
    )
    assert answer.raw == b"<script>alert(1)</script>"


def test_files_are_listed_in_pages_by_key_and_by_purpose(client: OpenAI) -> None:
    named = [client.files.create(file=(f"{n}", b"x"), purpose="vision" if n % 2 else "assistants").id for n in range(5)]
    assert [each.id for each in client.files.list(limit=2)] == named[::-1]
    assert [each.id for each in client.files.list(limit=2, order="asc", after=named[1]).data] == named[2:4]
    assert [each.id for each in client.files.list(purpose="vision", order="asc")] == [named[1], named[3]]
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.list(after="file-of-nobody")
    assert refused.value.param == "after"


def test_a_deleted_file_is_gone_at_once_with_its_bytes(client: OpenAI, ledger: Ledger) -> None:
    other = client.files.create(file=("a.txt", ALL_BYTES), purpose="assistants")
    kept = blobs_of(ledger)
    made = client.files.create(file=("a.txt", ALL_BYTES), purpose="assistants")
    assert len(blobs_of(ledger)) == 2
    assert client.files.delete(made.id).deleted
    for look in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            look(made.id)
    assert [each.id for each in client.files.list()] == [other.id]
    assert blobs_of(ledger) == kept
    assert client.files.content(other.id).read() == ALL_BYTES
    assert [*ledger.journal.upkeep.check(lambda *_: None)] == []


def test_a_file_whose_deletion_was_cut_off_after_its_commit_leaves_bytes_that_can_be_pruned(
    client: OpenAI, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client.files.create(file=("a.txt", ALL_BYTES), purpose="assistants")
    monkeypatch.setattr(type(ledger.journal.blobs), "remove", lambda *_: False)
    assert client.files.delete(made.id).deleted
    assert [each.address for each in ledger.journal.blobs.prunable(now())] == blobs_of(ledger)


def test_equal_bytes_of_two_files_are_written_alike_and_share_nothing(serving: Callable[..., Any], keys: Keys) -> None:
    server = serving(keys=keys)
    ledger, written = server.served.ledger, list[int]()
    for key in (OWN_KEY, OWN_KEY, OTHER_KEY):
        answer = upload(server, form(PURPOSE, file=ALL_BYTES), **bearer(key))
        assert answer.status == 200
        written.append(len(blobs_of(ledger)))
    assert written == [1, 2, 3]
    stored = [*ledger.journal.blobs.listed()]
    assert {each.size for each in stored} == {len(ALL_BYTES) + PREFIX_BYTES}
    assert {each.references for each in stored} == {1}


def test_the_hash_of_stored_bytes_names_no_file(client: OpenAI, ledger: Ledger) -> None:
    client.files.create(file=("a.txt", ALL_BYTES), purpose="assistants")
    (address,) = blobs_of(ledger)
    for name in (address, address.removeprefix("sha256:"), f"file-{address.removeprefix('sha256:')[:32]}"):
        with pytest.raises(openai.NotFoundError):
            client.files.content(name)
        with pytest.raises(openai.NotFoundError):
            client.vector_stores.create(file_ids=[name])


# Refusals


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://page.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"host": "page.example"}, 421),
    ],
    ids=str,
)
def test_a_page_can_upload_nothing_without_keys(
    server: Any, uploads: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, headers: Any, status: int
) -> None:
    monkeypatch.setattr("threadledger.adapters.server.replies.FormReader", None)  # nothing of the body is read
    assert upload(server, **headers).status == status
    until(lambda: uploads() == [])
    assert blobs_of(server.served.ledger) == []


def test_a_form_is_taken_by_no_other_route_and_with_a_key_alone(serving: Callable[..., Any], keys: Keys) -> None:
    server = serving(keys=keys)
    for path in ("/v1/assistants", "/v1/vector_stores", "/v1/threads"):
        assert say(server, "POST", path, form(PURPOSE), **FORM, **bearer(OWN_KEY)).status == 415
    assert upload(server, **bearer(OWN_KEY), content_encoding="gzip").status == 415
    assert upload(server).status == 401
    assert upload(server, **bearer("tl-unknown")).status == 401


def test_a_body_of_json_has_no_file(server: Any) -> None:
    answer = say(server, "POST", "/v1/files", {"purpose": "assistants"})
    assert (answer.status, answer.error["param"]) == (400, "file")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(PURPOSE, file=None), "file"),
        (form(file=b"x"), "purpose"),
        (form(("purpose", "world peace")), "purpose"),
        (form(PURPOSE, name=""), "file"),
        (form(PURPOSE, name="a\x07b"), "file"),
        (form(PURPOSE, name="a%0Ab"), "file"),
        (form(PURPOSE, name="n" * 256), "file"),
        (form(PURPOSE, files=2), "file"),
        (
            form(PURPOSE, ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "60")),
            "expires_after.seconds",
        ),
        (form(PURPOSE, ("expires_after", "soon")), "expires_after"),
        (form(PURPOSE, ("expires_after", "soon"), ("expires_after[seconds]", "60")), None),
        (form(PURPOSE, *((f"f{n}", "x") for n in range(100))), None),
        (form(PURPOSE)[:-9], None),
        (b"no form at all", None),
        (b"", None),
    ],
)
def test_a_form_that_is_not_valid_is_a_400_and_leaves_nothing(
    server: Any, uploads: Callable[[], list[str]], body: bytes, param: str | None
) -> None:
    answer = upload(server, body)
    assert (answer.status, answer.error["param"]) == (400, param)
    until(lambda: uploads() == [])
    assert blobs_of(server.served.ledger) == []


def test_a_large_bound_is_written_as_a_whole_number(server: Any) -> None:
    body = form(PURPOSE, ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "2592001"))
    assert "Expected a value <= 2592000, but got 2592001 instead." in upload(server, body).error["message"]


def test_a_form_without_a_boundary_is_a_400(server: Any) -> None:
    assert upload(server, content_type="multipart/form-data").status == 400


@pytest.fixture
def narrow(open_api: Callable[..., Any]) -> Any:
    """Return a server that takes files of 100,000 bytes."""
    return open_api(limits=ServerLimits(body_bytes=100_000))


def test_a_file_that_is_too_large_is_a_413_in_the_envelope_and_leaves_nothing(
    narrow: Any, upstream: ChatOnly, uploads: Callable[[], list[str]]
) -> None:
    assert upload(narrow, form(PURPOSE, file=b"x" * 100_000)).status == 200
    for size in (100_001, 400_000):
        answer = upload(narrow, form(PURPOSE, file=b"x" * size))
        assert answer.status == 413
        assert "100000" in answer.error["message"]
    assert upload(narrow, form(PURPOSE, ("note", "x" * 70_000))).status == 413

    with connected(narrow) as line:  # of an unknown length
        line.sendall(
            head(narrow, "POST", "/v1/files", f"Content-Type: {FORM['content_type']}", "Transfer-Encoding: chunked")
        )
        begun = form(PURPOSE, file=b"x" * 100_000)[:-60]
        line.sendall(f"{len(begun):x}\r\n".encode() + begun + b"\r\n" + b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        assert read(line).status == 413
    with connected(narrow) as line:  # before a part begins
        line.sendall(
            head(narrow, "POST", "/v1/files", f"Content-Type: {FORM['content_type']}", "Transfer-Encoding: chunked")
        )
        line.sendall((b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 4)
        assert read(line).status == 413
    with connected(narrow) as line:  # a client that waits for that sends nothing of it
        lines = f"Content-Type: {FORM['content_type']}", "Content-Length: 100000000", "Expect: 100-continue"
        line.sendall(head(narrow, "POST", "/v1/files", *lines))
        assert read(line).status == 413
    until(lambda: uploads() == [])
    assert UPLOAD_BYTES_MAX + PREFIX_BYTES == 64 * 1024 * 1024


def test_an_upload_for_which_there_is_no_space_is_a_503(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_a, **_k: Full())
    answer = upload(server)
    assert (answer.status, answer.error["code"]) == (503, "store_unavailable")


def test_a_download_whose_bytes_were_changed_is_cut_before_its_end(server: Any, ledger: Ledger, lines: Any) -> None:
    made = upload(server, form(PURPOSE, file=ALL_BYTES * 20_000)).json
    assert made["bytes"] == 5_120_000
    database = ledger.journal._given_factory.database  # type: ignore[attr-defined] # a disk that turns bits
    database.execute("UPDATE blob_chunks SET data = zeroblob(length(data)) WHERE n = 4")
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        httpx2.stream("GET", f"{server.base_url}/files/{made['id']}/content") as answer,
    ):
        assert answer.status_code == 200
        for _ in answer.iter_bytes():
            pass
    until(lambda: lines.of("was not sent completely"))
    small = upload(server, form(PURPOSE, file=b"small")).json
    database.execute("UPDATE blob_chunks SET data = zeroblob(length(data))")
    assert say(server, "GET", f"/v1/files/{small['id']}/content").status == 500


# Expiry, and requests that are sent again


def test_a_file_that_has_expired_is_gone_and_its_bytes_go_with_the_next_upload(
    client: OpenAI, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    made = client.files.create(file=("a.txt", b"x"), purpose="assistants", expires_after=expiry)
    batch = client.files.create(file=("b.jsonl", b"{}"), purpose="batch")
    assert made.expires_at == made.created_at + 3600
    assert batch.expires_at == batch.created_at + 30 * 86_400
    store = client.vector_stores.create(file_ids=[made.id]).id
    assert len(client.vector_stores.search(store, query="x").data) == 1
    for module in ("files", "vector_stores"):
        monkeypatch.setattr(f"threadledger.domain.ledger.{module}.now", lambda: now() + timedelta(seconds=3601))
    assert client.vector_stores.search(store, query="x").data == []
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.content(made.id, vector_store_id=store)
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    assert [each.id for each in client.files.list()] == [batch.id]
    assert len(blobs_of(ledger)) == 2
    client.files.create(file=("c.txt", b"x"), purpose="assistants")
    assert len(blobs_of(ledger)) == 2  # of the batch, and the new one


def test_an_upload_with_an_idempotency_key_is_stored_once_whatever_its_boundary(server: Any) -> None:
    key = {"idempotency_key": "upload-1"}
    first = upload(server, **key).json
    other = form(PURPOSE).replace(BOUNDARY.encode(), b"another-line")
    again = upload(server, other, content_type="multipart/form-data; boundary=another-line", **key)
    assert again.json == first
    assert len(blobs_of(server.served.ledger)) == 1
    for changed in (form(PURPOSE, file=b"other"), form(PURPOSE, name="other.txt"), form(("purpose", "vision"))):
        answer = upload(server, changed, **key)
        assert (answer.status, answer.error["code"]) == (400, "idempotency_key_reused")


def test_equal_uploads_of_two_users_are_two_files(client: OpenAI) -> None:
    retry = {"x-stainless-retry-count": "1"}
    ids = {client.files.create(file=("a.txt", b"x"), purpose="assistants", extra_headers=retry).id for _ in range(3)}
    assert len(ids) == 3


# On every database


def test_files_are_kept_read_and_deleted_on_every_database(any_db_url: str) -> None:
    with open_ledger(load_settings(db=any_db_url, backends=("chat",), openai_api_key="sk-test")) as ledger:
        files, data = FileStore(ledger.journal), ALL_BYTES * 10_000
        made = files.create(FileRecord("file-1", "a.bin", "assistants", "acme"), [data], "key-1")
        assert files.create(FileRecord("file-1", "a.bin", "assistants", "acme"), [b"not read"], "key-1") == made
        assert b"".join(files.read(made)) == data
        assert files.get("", "file-1") is None
        assert files.page("acme", ListPage(10)) == ([made], False)
        assert files.delete("acme", "file-1")
        assert not files.delete("acme", "file-1")
        assert (files.page("acme", ListPage(10)), [*ledger.journal.blobs.listed()]) == (([], False), [])
        assert [*ledger.journal.upkeep.check(lambda *_: None)] == []
