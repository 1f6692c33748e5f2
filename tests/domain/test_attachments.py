"""Test parts and attachments: shapes are kept, data becomes a blob and comes back byte for byte, each API gets its form."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.attachments import inlined, media_type_of, with_blobs
from threadledger.domain.conversation.messages import Message
from threadledger.domain.conversation.parts import blob_of, part_of
from threadledger.domain.errors import InvalidInput, InvalidMessage
from threadledger.domain.failures import keep_secret
from threadledger.domain.journal.blobs import Blob
from threadledger.domain.limits import MESSAGE_BYTES_MAX
from threadledger.domain.memory import Memory
from threadledger.domain.memory.sending import Attachments, resolved, takes

DIALECTS = ("chat", "responses", "anthropic", "assistants")


class Blobs:
    """Keep blobs in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def add(self, chunks: Iterable[bytes]) -> Blob:
        data = b"".join(chunks)
        address = f"sha256:{sha256(data).hexdigest()}"
        self.stored[address] = data
        return Blob(address, len(data))

    def read(self, address: str) -> list[bytes]:
        return [self.stored[address]]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.text("abcdefghijklmnop.-_ é", min_size=1, max_size=20)
bytes_ = st.binary(min_size=1, max_size=200)
base64s = bytes_.map(lambda data: b64encode(data).decode())
odd_base64s = st.one_of(
    base64s.map(lambda text: text + "\n"), base64s.map(lambda text: text.rstrip("=") + "!"), st.just(""), texts
)
media_types = st.sampled_from(["image/png", "application/pdf", "text/plain", "image/x-odd", "audio/wav"])
urls = st.one_of(
    st.builds("data:{};base64,{}".format, media_types, st.one_of(base64s, odd_base64s)),
    st.builds("https://x.test/{}".format, names),
    texts,
)
data = st.one_of(urls, base64s, odd_base64s)
parts = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("text"), "text": texts}, optional={"annotations": st.lists(st.just({"a": 1}))}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries({"url": urls}, optional={"detail": st.sampled_from(["low", "odd", ""])}),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("file"),
            "file": st.fixed_dictionaries(
                {},
                optional={
                    "file_data": st.one_of(urls, base64s, odd_base64s),
                    "filename": names,
                    "file_id": names,
                    "url": urls,
                    "odd": texts,
                },
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("input_audio"),
            "input_audio": st.fixed_dictionaries(
                {"data": st.one_of(base64s, odd_base64s)},
                optional={"format": st.sampled_from(["wav", "mp3", "ogg"]), "odd": texts},
            ),
        }
    ),
    st.fixed_dictionaries({"type": texts}, optional={"x": st.integers(), "file": texts, "image_url": texts}),
)


@given(parts)
def test_every_part_is_kept_as_it_is(part: dict[str, Any]) -> None:
    assert part_of(part, compact).as_json() == part


@given(st.lists(parts, min_size=1, max_size=4))
def test_data_becomes_a_blob_and_comes_back_equal(content: list[dict[str, Any]]) -> None:
    blobs = Blobs()
    message = parse_message({"role": "user", "content": content})
    kept = with_blobs(message, blobs.add)
    assert inlined(kept.as_chat_message(), blobs.read) == {"role": "user", "content": content}
    again = with_blobs(parse_message(kept.as_chat_message()), blobs.add)
    assert again == kept
    assert isinstance(kept.content, tuple)
    assert {blob_of(part) for part in kept.content} - {""} == set(blobs.stored)


@pytest.mark.parametrize(
    ("part", "kept"),
    [
        (
            {"type": "image_url", "image_url": {"url": data_url(b"AB"), "detail": "low"}},
            {"type": "image_url", "image_url": {"blob": "B", "media_type": "image/png", "size": 2, "detail": "low"}},
        ),
        (
            {"type": "file", "file": {"file_data": data_url(b"AB", "application/pdf"), "filename": "a.pdf"}},
            {"type": "file", "file": {"blob": "B", "media_type": "application/pdf", "size": 2, "filename": "a.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_data": "QUI=", "filename": "a.pdf"}},
            {"type": "file", "file": {"blob": "B", "size": 2, "filename": "a.pdf"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "QUI=", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"blob": "B", "format": "wav", "size": 2}},
        ),
    ],
)
def test_the_stored_shapes_are_those_of_the_format(part: dict[str, Any], kept: dict[str, Any]) -> None:
    message = with_blobs(
        parse_message({"role": "user", "content": [part]}), lambda chunks: Blob("B", len(b"".join(chunks)))
    )
    assert message.content_as_json() == [kept]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUI=\n"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJ="}},
        {"type": "image_url", "image_url": {"url": "data:image/png,AB"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        {"type": "file", "file": {"file_data": "QUI=", "filename": "a", "other": 1}},
        {"type": "input_audio", "input_audio": {"data": "QUI=", "format": "wav", "other": 1}},
    ],
)
def test_data_that_would_not_come_back_equal_stays_where_it_is(part: dict[str, Any]) -> None:
    message = parse_message({"role": "user", "content": [part]})
    assert with_blobs(message, Blobs().add) is message


def test_data_that_stays_inside_a_message_counts_in_its_size() -> None:
    odd = "A" * (MESSAGE_BYTES_MAX // 2) + "!"
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{odd}"}}
    with_blobs(parse_message({"role": "user", "content": [part]}), Blobs().add)
    with pytest.raises(InvalidMessage, match="no canonical base64"):
        with_blobs(parse_message({"role": "user", "content": [part, part]}), Blobs().add)


def test_data_does_not_count_in_the_size_of_a_message() -> None:
    large = {"type": "file", "file": {"file_data": b64encode(bytes(MESSAGE_BYTES_MAX)).decode(), "filename": "a"}}
    parse_message({"role": "user", "content": [large]})
    odd = {"type": "file", "file": {"file_data": large["file"]["file_data"], "filename": "a", "odd": 1}}  # type: ignore[index] # a dict of dicts
    with pytest.raises(InvalidMessage, match="over the limit"):
        parse_message({"role": "user", "content": [odd]})


@pytest.mark.parametrize(
    ("begin", "name", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n....", "", "image/png"),
        (b"\xff\xd8\xff\xe0....", "x.png", "image/jpeg"),
        (b"GIF89a", "", "image/gif"),
        (b"RIFF\0\0\0\0WEBP", "", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", "", "audio/wav"),
        (b"ID3\x04", "", "audio/mpeg"),
        (b"%PDF-1.7", "", "application/pdf"),
        (b"a,b\n", "table.csv", "text/csv"),
        (b"\0\1\2", "odd.unknown-ending", "application/octet-stream"),
    ],
)
def test_the_type_of_a_file_is_found_by_its_first_bytes_else_by_its_name(
    begin: bytes, name: str, media_type: str
) -> None:
    assert media_type_of(begin, name) == media_type


PNG = {"type": "image_url", "image_url": {"url": data_url(b"AB"), "detail": "low"}}
BMP = {"type": "image_url", "image_url": {"url": data_url(b"AB", "image/bmp")}}
WEB = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url(b"CD", "application/pdf")}}
ZIP = {"type": "file", "file": {"filename": "a.zip", "file_data": data_url(b"AB", "application/zip")}}
LINK = {"type": "file", "file": {"url": "https://x.test/a.pdf"}}
SAID = {"type": "input_audio", "input_audio": {"data": "QUI=", "format": "wav"}}
OGG = {"type": "input_audio", "input_audio": {"data": "QUI=", "format": "ogg"}}
TAKEN: dict[str, list[Any]] = {
    "chat": [PNG, BMP, WEB, PDF, ZIP, SAID],
    "responses": [PNG, BMP, WEB, PDF, ZIP, LINK],
    "anthropic": [PNG, WEB, PDF, LINK],
    "assistants": [PNG, BMP, WEB],
}
"""What each API takes of these parts, also as a blob."""


def view(content: list[Any], blobs: Blobs) -> Memory:
    message: Message = with_blobs(parse_message({"role": "user", "content": content}), blobs.add)
    memory = Memory().with_messages([message])
    vars(memory)["read_blob"] = blobs.read
    return memory


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("part", [PNG, BMP, WEB, PDF, ZIP, LINK, SAID, OGG])
def test_what_an_api_is_not_shown_is_counted_exactly(dialect: str, part: Any) -> None:
    memory = view([{"type": "text", "text": "Look."}, part, part], Blobs())
    lost, names = memory.lost_parts(dialect)
    expected = {} if part in TAKEN[dialect] else {f"part:{part['type']}": 2}
    assert lost == expected
    assert names == ([] if dialect == "assistants" else sorted(expected))


def test_a_chat_is_sent_data_in_the_forms_of_chat_completions() -> None:
    blobs = Blobs()
    [message] = view([PNG, PDF, SAID, LINK], blobs).as_chat_messages()
    assert message["content"] == [PNG, PDF, SAID, {"type": "text", "text": "[file not shown]"}]


def test_responses_are_sent_data_in_their_own_forms() -> None:
    [item] = view([PNG, PDF, LINK, SAID], Blobs()).as_response_items()
    assert item["content"] == [
        {"type": "input_image", "detail": "low", "image_url": PNG["image_url"]["url"]},  # type: ignore[index] # a dict of dicts
        {"type": "input_file", "filename": "a.pdf", "file_data": data_url(b"CD", "application/pdf")},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
        {"type": "input_text", "text": "[input_audio not shown]"},
    ]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (
            "responses",
            [
                {"type": "input_image", "detail": "low", "file_id": "file-1"},
                {"type": "input_file", "file_id": "file-2"},
            ],
        ),
        ("chat", [PNG, {"type": "file", "file": {"file_id": "file-2"}}]),
        (
            "assistants",
            [
                {"type": "image_file", "image_file": {"file_id": "file-1", "detail": "low"}},
                {"type": "text", "text": "[file a.pdf not shown]"},
            ],
        ),
    ],
)
def test_an_uploaded_attachment_is_sent_by_its_id_where_the_api_takes_one(dialect: str, expected: Any) -> None:
    blobs = Blobs()
    memory = view([PNG, PDF], blobs)
    entries = memory.response_entries() if dialect == "responses" else memory.chat_entries()
    image, file = blobs.stored
    ids = {file: "file-2"} if dialect == "chat" else {image: "file-1", file: "file-2"}
    [message] = resolved(entries, dialect, Attachments(blobs.read, ids))
    assert message["content"] == expected


def test_a_secret_that_the_server_of_a_tool_repeats_is_in_no_part_of_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("threadledger.domain.failures.redaction._kept", {})
    keep_secret("hunter2hunter2", inside_words=True)
    noted = [{"type": "url_citation", "url": "https://x.test/?t=hunter2hunter2"}]
    content = [
        {"type": "hosted_call", "name": "mcp", "detail": "find hunter2hunter2"},
        {"type": "unknown", "was": "zzz_hunter2hunter2_x"},
        {"type": "text", "text": "said", "annotations": noted},
    ]
    kept = with_blobs(parse_message({"role": "assistant", "content": content}), Blobs().add)
    assert "hunter2" not in repr(kept)
    assert kept.text == "said"


def test_a_memory_that_no_ledger_read_says_that_it_cannot_read_an_attachment() -> None:
    memory = view([PNG], Blobs())
    vars(memory)["read_blob"] = None
    with pytest.raises(InvalidInput, match="not read from a ledger"):
        memory.as_chat_messages()


@given(st.lists(parts, min_size=1, max_size=4), st.sampled_from(DIALECTS))
def test_any_content_is_sent_in_forms_of_the_api_alone(content: list[dict[str, Any]], dialect: str) -> None:
    blobs = Blobs()
    memory = view(content, blobs)
    entries = memory.response_entries() if dialect == "responses" else memory.chat_entries()
    for entry in resolved(entries, dialect, Attachments(blobs.read)):
        for part in entry["content"] if isinstance(entry["content"], list) else ():
            assert "blob" not in (part.get(part["type"]) or {} if isinstance(part.get(part["type"]), dict) else {})
            assert dialect == "responses" or not part["type"].startswith("input_") or part["type"] == "input_audio"


@given(parts)
def test_whether_an_api_takes_a_part_is_known_without_its_bytes(part: dict[str, Any]) -> None:
    for each in DIALECTS:
        memory = view([part], Blobs())
        content = memory.messages[0].message.content
        assert isinstance(content, tuple)
        for kept in content:
            if blob_of(kept):
                assert takes(kept, each) in {True, False}
