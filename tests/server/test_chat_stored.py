"""Completions that are stored can be read, described, deleted and listed, each by its own tenant, on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

from .speaking import OTHER_KEY, OWN_KEY, READ_KEY, Keys, bearer, say

HELLO: dict[str, Any] = {"role": "user", "content": "Hello"}
PATH = "/v1/chat/completions"
POST = "POST /chat/completions"


@pytest.fixture
def any_client(any_db_url: str, simulator: Any) -> Iterator[OpenAI]:
    """Return the SDK, pointed at a server on each kind of database."""
    from threadledger.adapters import load_settings, open_ledger
    from threadledger.adapters.server import open_server

    own = {"db": any_db_url, "openai_api_key": "sk-test", "openai_base_url": simulator.base_url}
    settings = load_settings(**own, backends=("chat",), threads="none")
    with (
        open_ledger(settings) as ledger,
        open_server(ledger, settings, port=0) as server,
        OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        yield client


def store(client: OpenAI, text: str = "Hello", **options: Any) -> Any:
    messages: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]
    return client.chat.completions.create(**{"model": "gpt-5.5", "messages": messages, "store": True, **options})


def refused(call: Callable[[], Any]) -> openai.NotFoundError:
    with pytest.raises(openai.NotFoundError) as caught:
        call()
    return caught.value


def test_a_stored_completion_is_read_described_listed_and_deleted(any_client: OpenAI) -> None:
    stored = any_client.chat.completions
    made = store(any_client, metadata={"desk": "7"})
    assert stored.retrieve(made.id).to_dict() == made.to_dict()
    changed = stored.update(made.id, metadata={"desk": "8"})
    assert changed.to_dict() == made.to_dict() | {"metadata": {"desk": "8"}}
    assert stored.retrieve(made.id).metadata == {"desk": "8"}
    [listed] = stored.list()
    assert listed.to_dict() == changed.to_dict()
    shown = [(each.role, each.content) for each in stored.messages.list(made.id)]
    assert shown == [("system", "Be kind."), ("user", "Hello")]
    assert stored.delete(made.id).to_dict() == {
        "id": made.id, "object": "chat.completion.deleted", "deleted": True,
    }  # fmt: skip
    assert f"'{made.id}'" in refused(lambda: stored.retrieve(made.id)).message
    assert list(stored.list()) == []
    refused(lambda: stored.delete(made.id))


def test_pages_are_read_from_either_end_and_filtered(any_client: OpenAI) -> None:
    stored = any_client.chat.completions
    for number in range(7):
        store(any_client, f"{number}", metadata={"odd": str(number % 2), "half": str(number // 4)})

    def numbers(**query: Any) -> list[str]:
        return [each.choices[0].message.content.removeprefix("You said: ") for each in stored.list(**query)]

    assert numbers(limit=2) == ["0", "1", "2", "3", "4", "5", "6"]
    assert numbers(limit=3, order="desc") == ["6", "5", "4", "3", "2", "1", "0"]
    assert numbers(metadata={"odd": "1"}, limit=1) == ["1", "3", "5"]
    assert numbers(metadata={"odd": "1", "half": "0"}, order="desc") == ["3", "1"]
    assert numbers(metadata={"odd": "2"}) == numbers(model="gpt-4o") == []
    assert numbers(model="gpt-5.5", metadata={"half": "1"}) == ["4", "5", "6"]
    first = stored.list(limit=3)
    assert first.has_more
    before = stored.list(limit=2, extra_query={"before": first.data[2].id})
    assert [each.id for each in before.data] == [each.id for each in first.data[:2]]


def test_an_edited_pair_of_metadata_is_found_and_the_old_one_is_not(any_client: OpenAI) -> None:
    stored = any_client.chat.completions
    made = store(any_client, metadata={"a": "1", "b": "2"})
    assert [each.id for each in stored.list(metadata={"a": "1"})] == [made.id]
    stored.update(made.id, metadata={"a": "2"})
    assert [each.id for each in stored.list(metadata={"a": "2"})] == [made.id]
    assert list(stored.list(metadata={"a": "1"})) == list(stored.list(metadata={"b": "2"})) == []


def test_a_completion_is_not_stored_unless_the_client_wants_it(client: OpenAI, ledger: Ledger) -> None:
    made = store(client, store=None)
    refused(lambda: client.chat.completions.retrieve(made.id))
    assert list(client.chat.completions.list()) == []
    assert len(ledger.memory(made.id).messages) == 2


def test_a_request_without_an_answer_is_not_stored(client: OpenAI, simulator: Any) -> None:
    simulator.add_fault(POST, refuse={"status": 400, "message": "odd"})
    with pytest.raises(openai.BadRequestError):
        store(client)
    assert list(client.chat.completions.list()) == []


def test_a_stream_is_stored_too(client: OpenAI) -> None:
    chunks = list(store(client, stream=True))
    assert client.chat.completions.retrieve(chunks[0].id).choices[0].message.content == "You said: Hello"


def test_each_request_of_one_exchange_is_a_completion_of_its_own(client: OpenAI, simulator: Any) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {}}]}, "Sunny.")
    options: Any = {"model": "gpt-5.5", "store": True, "tools": [tool], "metadata": {"conversation": "k"}}
    first = client.chat.completions.create(messages=[HELLO], **options)
    said = first.choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "sunny"}
    second = client.chat.completions.create(messages=[HELLO, said, result], **options)
    stored = client.chat.completions
    assert stored.retrieve(first.id).to_dict() == first.to_dict()
    assert stored.retrieve(second.id).to_dict() == second.to_dict()
    assert [each.role for each in stored.messages.list(second.id)] == ["user", "assistant", "tool"]
    stored.delete(first.id)
    assert [each.id for each in stored.list()] == [second.id]


def test_the_messages_of_a_completion_are_those_of_its_own_branch(client: OpenAI) -> None:
    options: Any = {"model": "gpt-5.5", "store": True, "metadata": {"conversation": "k"}}
    create = client.chat.completions.create
    history: Any = [HELLO, create(messages=[HELLO], **options).choices[0].message]
    ends = [create(messages=[*history, {"role": "user", "content": text}], **options) for text in ("two", "second")]
    for made, text in zip(ends, ("two", "second"), strict=True):
        shown = [each.content for each in client.chat.completions.messages.list(made.id)]
        assert shown == ["Hello", "You said: Hello", text]


def test_messages_of_a_completion_are_read_page_by_page(client: OpenAI) -> None:
    messages: Any = [HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Well"}]
    made = store(client, messages=messages)
    listed = client.chat.completions.messages.list
    assert [each.content for each in listed(made.id, limit=2)] == ["Hello", "Hi", "Well"]
    assert [each.content for each in listed(made.id, limit=1, order="desc")] == ["Well", "Hi", "Hello"]
    with pytest.raises(openai.BadRequestError, match="no object with id 'x'"):
        listed(made.id, after="x")


def test_images_are_shown_as_they_were_sent(client: OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    made = store(client, messages=[{"role": "user", "content": [{"type": "text", "text": "Look"}, picture]}])
    [shown] = client.chat.completions.messages.list(made.id)
    assert [each.to_dict() for each in shown.content_parts or []] == [{"type": "text", "text": "Look"}, picture]


def test_a_deleted_conversation_takes_its_completions_along(client: OpenAI, ledger: Ledger) -> None:
    made = store(client, metadata={"conversation": "k"})
    kept = store(client)
    assert len(list(client.chat.completions.list())) == 2
    ledger.conversation("k").delete()
    refused(lambda: client.chat.completions.retrieve(made.id))
    refused(lambda: client.chat.completions.update(made.id, metadata={}))
    assert [each.id for each in client.chat.completions.list()] == [kept.id]
    again = store(client, metadata={"conversation": "k"})
    refused(lambda: client.chat.completions.retrieve(made.id))
    assert client.chat.completions.retrieve(again.id).id == again.id


def test_what_another_tenant_stored_does_not_exist(serving: Callable[..., Any]) -> None:
    server = serving(Keys())
    body = {"model": "gpt-5.5", "messages": [HELLO], "store": True, "metadata": {"conversation": "k"}}
    own = say(server, "POST", PATH, body, **bearer(OWN_KEY)).json
    other = say(server, "POST", PATH, body, **bearer(OTHER_KEY)).json
    ledger = server.served.ledger
    assert len(ledger.memory("tenant:acme/k").messages) == len(ledger.memory("k").messages) == 2
    for mine, theirs, key in ((own, other, OWN_KEY), (other, own, OTHER_KEY)):
        place = f"{PATH}/{theirs['id']}"
        assert say(server, "GET", f"{PATH}/{mine['id']}", **bearer(key)).status == 200
        for method, path, sent in (
            ("GET", place, None),
            ("GET", f"{place}/messages", None),
            ("POST", place, {"metadata": {}}),
            ("DELETE", place, None),
        ):
            assert say(server, method, path, sent, **bearer(key)).status == 404
        assert [each["id"] for each in say(server, "GET", PATH, **bearer(key)).json["data"]] == [mine["id"]]
        assert say(server, "GET", f"{PATH}?after={theirs['id']}", **bearer(key)).status == 400
    assert say(server, "GET", f"{PATH}/{own['id']}", **bearer(READ_KEY)).status == 200


def test_an_id_of_another_kind_is_a_404(client: OpenAI, ledger: Ledger) -> None:
    made = store(client, metadata={"conversation": "k"})
    requests = [each for each in ledger.conversation("k").events() if isinstance(each, e.ExchangeRequested)]
    for name in ("x", requests[0].exchange_id, made.id.upper(), f"{made.id}0"):
        refused(lambda name=name: client.chat.completions.retrieve(name))  # type: ignore[misc] # the default binds the name of this turn
