"""Threads and their messages through the provider's SDK: a thread is a conversation of the ledger."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API


@pytest.fixture
def threads(client: OpenAI) -> Any:
    return client.beta.threads


PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")


def texts(messages: Any) -> list[str]:
    return [each.content[0].text.value for each in messages]


def test_a_thread_is_a_conversation_with_its_id_as_the_key(threads: Any, ledger: Ledger) -> None:
    thread = threads.create(
        messages=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
        metadata={"customer": "42"},
    )
    assert [(each.role_name, each.message.text) for each in ledger.memory(thread.id).messages] == [
        ("user", "Hello"),
        ("assistant", "Hi"),
    ]
    assert dict(ledger.state(thread.id).description.metadata) == {"customer": "42"}  # type: ignore[union-attr] # it was described
    assert (thread.metadata, threads.retrieve(thread.id)) == ({"customer": "42"}, thread)
    assert list(ledger.check()) == []


def test_a_conversation_of_the_app_is_a_thread(threads: Any, ledger: Ledger) -> None:
    ledger.conversation("customer/42 ü").extend([{"role": "user", "content": "Hello"}])
    assert texts(threads.messages.list("customer/42 ü").data) == ["Hello"]


def test_metadata_of_a_thread_and_of_a_message_is_replaced(threads: Any) -> None:
    thread = threads.create(metadata={"a": "1", "b": "2"})
    assert threads.update(thread.id, metadata={"c": "3"}).metadata == {"c": "3"}
    assert threads.update(thread.id).metadata == {"c": "3"}
    message = threads.messages.create(thread.id, role="user", content="x", metadata={"a": "1"})
    assert message.metadata == {"a": "1"}
    assert threads.messages.update(message.id, thread_id=thread.id, metadata={"b": "2"}).metadata == {"b": "2"}
    assert threads.messages.update(message.id, thread_id=thread.id, metadata={"d": "4"}).metadata == {"d": "4"}
    assert threads.messages.retrieve(message.id, thread_id=thread.id).metadata == {"d": "4"}
    assert [each.metadata for each in threads.messages.list(thread.id).data] == [{"d": "4"}]


def test_messages_are_listed_from_both_ends_in_pages_by_key(threads: Any) -> None:
    thread = threads.create(messages=[{"role": "user", "content": f"{number}"} for number in range(7)])
    ids = [each.id for each in threads.messages.list(thread.id, order="asc", limit=100).data]
    assert texts(threads.messages.list(thread.id, limit=3).data) == ["6", "5", "4"]
    assert texts(threads.messages.list(thread.id, limit=3, after=ids[4]).data) == ["3", "2", "1"]
    assert texts(threads.messages.list(thread.id, limit=3, order="asc", after=ids[1]).data) == ["2", "3", "4"]
    assert texts(threads.messages.list(thread.id, limit=2, order="asc", before=ids[5]).data) == ["3", "4"]
    assert texts(threads.messages.list(thread.id, limit=3)) == ["6", "5", "4", "3", "2", "1", "0"]
    page = threads.messages.list(thread.id, limit=7)
    assert (page.has_more, page.first_id, page.last_id) == (False, ids[6], ids[0])


def test_a_deleted_message_is_gone_and_stays_in_the_log(threads: Any, ledger: Ledger) -> None:
    thread = threads.create(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    first = threads.messages.list(thread.id, order="asc").data[0]
    assert threads.messages.delete(first.id, thread_id=thread.id).deleted
    assert texts(threads.messages.list(thread.id).data) == ["b"]
    for call in (threads.messages.retrieve, threads.messages.delete):
        with pytest.raises(openai.NotFoundError, match=f"No message found with id '{first.id}'"):
            call(first.id, thread_id=thread.id)
    assert [type(each) for each in ledger.conversation(thread.id).events()][-1] is e.MessageRetracted


def test_a_deleted_thread_is_gone(threads: Any, ledger: Ledger) -> None:
    thread = threads.create(messages=[{"role": "user", "content": "a"}])
    assert threads.delete(thread.id).deleted
    for call in (threads.retrieve, threads.delete, threads.messages.list):
        with pytest.raises(openai.NotFoundError, match=f"No thread found with id '{thread.id}'"):
            call(thread.id)
    assert ledger.conversations() == []


def test_threads_are_listed_the_last_started_first(threads: Any, client: OpenAI) -> None:
    ids = [threads.create(metadata={"n": f"{number}"}).id for number in range(5)]

    def listed(**query: Any) -> list[str]:
        page: Any = client.get("/threads", cast_to=object, options={"params": query})
        return [each["id"] for each in page["data"]]

    assert listed() == ids[::-1]
    assert listed(limit=2) == [ids[4], ids[3]]
    assert listed(limit=2, after=ids[3]) == [ids[2], ids[1]]
    assert listed(order="asc", limit=2, after=ids[0]) == [ids[1], ids[2]]
    assert listed(limit=2, before=ids[1]) == [ids[3], ids[2]]
    threads.delete(ids[4])
    assert listed() == ids[3::-1]


def test_parts_of_messages_come_back_as_they_were_given(threads: Any, client: OpenAI) -> None:
    file_id = client.files.create(file=("pixel.png", PIXEL), purpose="vision").id
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
        {"type": "image_file", "image_file": {"file_id": file_id, "detail": "low"}},
    ]
    thread = threads.create(messages=[{"role": "user", "content": parts}])
    threads.messages.create(thread.id, role="user", content=parts)
    client.files.delete(file_id)
    for message in threads.messages.list(thread.id).data:
        shown = [each.model_dump(exclude_none=True) for each in message.content]
        assert shown == [{"type": "text", "text": {"value": "What is this?", "annotations": []}}, *parts[1:]]


def test_a_model_sees_the_image_that_a_message_names_by_its_file(threads: Any, client: OpenAI, simulator: Any) -> None:
    file_id = client.files.create(file=("pixel.png", PIXEL), purpose="vision").id
    image = {"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": file_id, "detail": "low"}}]}
    assistant = client.beta.assistants.create(model="gpt-5.5")
    thread = threads.create(messages=[image])
    threads.messages.create(thread.id, **image)
    more = {"assistant_id": assistant.id, "additional_messages": [image], "poll_interval_ms": 10}
    assert threads.runs.create_and_poll(thread_id=thread.id, **more).status == "completed"
    client.files.delete(file_id)
    threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=10)
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    for request in simulator.requests:
        sent = [each["content"] for each in request.body["messages"] if each["role"] == "user"]
        assert sent == [[{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]] * 3
    assert len(simulator.requests) == 2


def test_a_message_cannot_name_an_image_that_does_not_exist_or_is_none(threads: Any, client: OpenAI) -> None:
    def said(file_id: str) -> Any:
        return {"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": file_id}}]}

    with pytest.raises(openai.NotFoundError, match="No such File object: file-none"):
        threads.create(messages=[said("file-none")])
    thread = threads.create()
    with pytest.raises(openai.NotFoundError, match="file-none"):
        threads.messages.create(thread.id, **said("file-none"))
    text = client.files.create(file=("note.txt", b"A note"), purpose="assistants").id
    with pytest.raises(openai.BadRequestError, match="is no image"):
        threads.messages.create(thread.id, **said(text))
    assert threads.messages.list(thread.id).data == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "system", "content": "x"}, "role"),
        ({"role": "user", "content": ""}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": "x", "metadata": {"k": 1}}, "metadata.k"),
        ({"role": "user", "content": "x", "metadata": {f"k{n}": "" for n in range(17)}}, "metadata"),
    ],
)
def test_a_message_that_the_provider_refuses_is_refused(threads: Any, client: OpenAI, body: Any, param: str) -> None:
    thread = threads.create()
    with pytest.raises(openai.BadRequestError) as refused:
        client.post(f"/threads/{thread.id}/messages", body=body, cast_to=object)
    assert refused.value.param == param
    assert threads.messages.list(thread.id).data == []


@pytest.mark.parametrize("thread_id", ["thread_none", "tenant:acme/thread_1", "x" * 201, "a b"])
def test_an_unknown_thread_is_a_404(threads: Any, thread_id: str) -> None:
    with pytest.raises(openai.NotFoundError, match="No thread found"):
        threads.retrieve(thread_id)
    with pytest.raises(openai.NotFoundError, match="No thread found"):
        threads.messages.create(thread_id, role="user", content="x")


def test_a_message_that_only_calls_functions_and_thinks_is_not_listed(threads: Any, ledger: Ledger) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    thinks = {"type": "reasoning", "text": "Hm."}
    ledger.conversation("thread_r").extend(
        [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": [thinks], "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "no"},
            {"role": "assistant", "content": [thinks, {"type": "text", "text": "No."}]},
        ]
    )
    assert texts(threads.messages.list("thread_r", order="asc").data) == ["Rain?", "No."]
