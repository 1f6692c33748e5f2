"""Files in responses: searched by the server with citations, or named by their id in the input."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.sql.connections import Transaction
from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

from .chat_only import ChatOnly

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
HANDBOOK = b"# Returns\nReturns take five days after the parcel has arrived.\n"


class Searching(ChatOnly):
    """Call every function that is offered, and cite the first passage that was found, unless there is a `script`.

    That has texts, and lists of the names of functions that are called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: list[str | list[str]] = []

    def answer_to(self, body: Any) -> tuple[Any, str]:
        if self.script:
            said = self.script.pop(0)
            if isinstance(said, str):
                return {"role": "assistant", "content": said}, "stop"
            return {"role": "assistant", "content": None, "tool_calls": self.calls(said)}, "tool_calls"
        last = body["messages"][-1]
        names = [tool["function"]["name"] for tool in body.get("tools") or []]
        if last["role"] == "tool":
            found = json.loads(last["content"]).get("results") if last["content"].startswith("{") else None
            marker = found[0]["marker"] if found else ""
            return {"role": "assistant", "content": f"It takes five days{marker}."}, "stop"
        if not names:
            return super().answer_to(body)
        return {"role": "assistant", "content": "Let me look.", "tool_calls": self.calls(names)}, "tool_calls"

    def calls(self, names: list[str]) -> list[Any]:
        """Return calls of functions with these names."""
        arguments = '{"query": "days returns"}'
        return [
            {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name in names
        ]


@pytest.fixture
def upstream() -> Iterator[ChatOnly]:
    with Searching() as running:
        yield running


@pytest.fixture
def server(open_api: Callable[..., Any]) -> Any:
    return open_api(retries=0)


@pytest.fixture
def api(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0, _strict_response_validation=True) as sdk:
        yield sdk


@pytest.fixture
def search(api: OpenAI) -> Any:
    """Return the tool that searches a handbook."""
    file = api.files.create(file=("handbook.md", HANDBOOK), purpose="assistants")
    return {"type": "file_search", "vector_store_ids": [api.vector_stores.create(file_ids=[file.id]).id]}


def ask(api: OpenAI, said: Any = "How long do returns take?", **options: Any) -> Any:
    return api.responses.create(model="m", input=said, **options)


def test_a_search_is_an_item_and_what_it_found_is_cited(api: OpenAI, search: Any) -> None:
    answer = ask(api, tools=[search], include=["file_search_call.results"])
    before, found, message = answer.output
    assert (before.content[0].text, found.type, found.queries) == ("Let me look.", "file_search_call", ["days returns"])
    assert [each.filename for each in found.results] == ["handbook.md"]
    [citation] = message.content[0].annotations
    assert (citation.type, citation.filename, citation.file_id) == (
        "file_citation",
        "handbook.md",
        found.results[0].file_id,
    )
    assert message.content[0].text[citation.index :].startswith("【1†handbook.md】")
    assert ask(api, tools=[search]).output[1].results is None


MARKED = "Five days【1†handbook.md】."


@pytest.mark.parametrize(
    "calls", [[["file_search", "weather"]], [["weather", "file_search"]], [["file_search"], ["weather"]]]
)
@pytest.mark.parametrize("in_conversation", [True, False])
def test_an_answer_cites_what_an_earlier_response_of_its_exchange_has_found(
    api: OpenAI, search: Any, upstream: Searching, calls: list[Any], in_conversation: bool
) -> None:
    place: Any = {"conversation": api.conversations.create().id} if in_conversation else {}
    upstream.script = [*calls, MARKED]
    called = ask(api, tools=[search, WEATHER], **place)
    [own] = [each for each in called.output if each.type == "function_call"]
    place = place or {"previous_response_id": called.id}
    result: Any = {"type": "function_call_output", "call_id": own.call_id, "output": "Sunny"}
    assert cited(ask(api, [result], tools=[search, WEATHER], **place)) == ["handbook.md"]


def test_a_later_answer_cites_what_memory_shows_and_markers_are_counted_together(
    api: OpenAI, search: Any, upstream: Searching
) -> None:
    first = ask(api, tools=[search])
    upstream.script = [f"As I said: {MARKED}"]
    second = ask(api, "Again, please.", tools=[search], previous_response_id=first.id)
    assert cited(second) == ["handbook.md"]
    upstream.script = [["file_search"], "【1†handbook.md】【2†handbook.md】【3†handbook.md】"]
    third = ask(api, "Search again.", tools=[search], previous_response_id=second.id)
    assert cited(third) == ["handbook.md"] * 2
    assert [each["marker"] for each in shown_results(upstream)] == ["【1†handbook.md】", "【2†handbook.md】"]


def cited(answer: Any) -> list[str]:
    """Return the names of the files that an answer cites."""
    parts = [part for each in answer.output if each.type == "message" for part in each.content]
    return [note.filename for part in parts for note in part.annotations]


def shown_results(upstream: Searching) -> list[Any]:
    """Return the passages that the model was shown in the newest request."""
    said = [each["content"] for each in upstream.requests[-1]["messages"] if each["role"] == "tool"]
    return [found for text in said if text.startswith("{") for found in json.loads(text)["results"]]


def test_what_a_search_found_is_shown_to_every_request_that_includes_it(api: OpenAI, search: Any) -> None:
    include: Any = ["file_search_call.results"]
    conversation = api.conversations.create().id
    answer = ask(api, tools=[search], conversation=conversation)
    [found] = [
        each for each in api.responses.retrieve(answer.id, include=include).output if each.type == "file_search_call"
    ]
    assert [each.filename for each in found.results or []] == ["handbook.md"]
    items = api.conversations.items

    def listed(**query: Any) -> Any:
        [one] = [each for each in items.list(conversation, **query) if each.type == "file_search_call"]
        return one

    for limit in (1, 20):
        assert listed(include=include, limit=limit) == found
    assert listed(include=["reasoning.encrypted_content", *include]).results == found.results
    assert items.retrieve(found.id, conversation_id=conversation, include=include) == found
    without: Any = items.retrieve(found.id, conversation_id=conversation)
    for each in (listed(), listed(include=["reasoning.encrypted_content"]), without):
        assert each.results is None
    sent_back = ask(api, [found.to_dict(), {"role": "user", "content": "And?"}])
    [first, _] = api.responses.input_items.list(sent_back.id, include=include, order="asc").data
    assert first.to_dict() | {"id": found.id} == found.to_dict()
    [made, _] = items.create(
        conversation, items=[found.to_dict(), {"role": "user", "content": "And?"}], include=include
    ).data
    assert made.to_dict() | {"id": found.id} == found.to_dict()


def test_what_no_request_can_include_is_refused(api: OpenAI) -> None:
    conversation, answer = api.conversations.create(items=[{"role": "user", "content": "Hello"}]).id, ask(api)
    [item] = api.conversations.items.list(conversation).data
    unknown: Any = {"include": ["all"]}
    for request in (
        lambda: ask(api, **unknown),
        lambda: api.responses.retrieve(answer.id, **unknown),
        lambda: api.responses.input_items.list(answer.id, **unknown),
        lambda: api.conversations.items.list(conversation, **unknown),
        lambda: api.conversations.items.retrieve(str(item.id), conversation_id=conversation, **unknown),
        lambda: api.conversations.items.create(conversation, items=[{"role": "user", "content": "No"}], **unknown),
    ):
        with pytest.raises(openai.BadRequestError, match="Invalid value: 'all'") as refused:
            request()
        assert refused.value.param == "include[0]"
    assert len(api.conversations.items.list(conversation).data) == 1


@pytest.mark.parametrize("calls", [["file_search"], ["file_search", "weather"], ["weather", "file_search"]])
def test_a_search_that_a_client_sends_back_is_shown_as_the_server_shows_its_own(
    api: OpenAI, search: Any, upstream: Searching, calls: list[str]
) -> None:
    question = {"role": "user", "content": "How long do returns take?"}
    upstream.script = [calls, *([MARKED] if calls == ["file_search"] else [])]
    answer = ask(api, [question], tools=[search, WEATHER], include=["file_search_call.results"])
    output = [each.to_dict() for each in answer.output]
    results = [
        {"type": "function_call_output", "call_id": each["call_id"], "output": "Sunny"}
        for each in output
        if each["type"] == "function_call"
    ]
    more = [*results, {"role": "user", "content": "Sure?"}]
    shown: list[Any] = []
    for how in ({"input": more, "previous_response_id": answer.id}, {"input": [question, *output, *more]}):
        upstream.script = [MARKED]
        again = api.responses.create(model="m", tools=[search, WEATHER], **how)  # type: ignore[call-overload] # two forms
        assert cited(again) == ["handbook.md"]
        shown.append([(each["role"], each["content"]) for each in upstream.requests[-1]["messages"]])
    assert shown[0] == shown[1]
    listed = api.responses.input_items.list(again.id, order="asc", include=["file_search_call.results"]).data
    given = [question, *output, *more]
    assert [each.type for each in listed] == [each.get("type", "message") for each in given]
    sent = [each.to_dict() | {"id": ""} for each in listed if each.type == "file_search_call"]
    assert sent == [each | {"id": ""} for each in output if each["type"] == "file_search_call"]


def test_a_search_that_is_named_by_its_id_is_shown_with_what_it_found(
    api: OpenAI, search: Any, upstream: Searching
) -> None:
    [_, found, _] = ask(api, tools=[search]).output
    ask(api, [{"type": "item_reference", "id": found.id}, {"role": "user", "content": "And?"}])
    assert [each["filename"] for each in shown_results(upstream)] == ["handbook.md"]


def test_a_search_without_results_is_kept_as_it_was_sent(api: OpenAI, upstream: Searching) -> None:
    searched = {"id": "fs_1", "type": "file_search_call", "queries": ["days"], "status": "completed", "results": None}
    answer = ask(api, [searched, {"role": "user", "content": "And?"}])
    assert [each["role"] for each in upstream.requests[-1]["messages"]] == ["user"]
    [first, _] = api.responses.input_items.list(answer.id, order="asc").data
    assert first.to_dict() | {"id": ""} == searched | {"id": ""}


@pytest.mark.parametrize("found", [["text"], [{"text": "Five days", "score": "high"}]])
def test_results_of_a_search_that_cannot_be_read_are_refused(api: OpenAI, found: Any) -> None:
    searched = {"id": "fs_1", "type": "file_search_call", "queries": ["days"], "status": "completed", "results": found}
    with pytest.raises(openai.BadRequestError, match=r"input\[0\].results\[0\]"):
        ask(api, [searched, {"role": "user", "content": "And?"}])


@pytest.mark.parametrize("streams", [False, True])
def test_a_result_of_a_search_has_the_attributes_of_its_file(api: OpenAI, search: Any, streams: bool) -> None:
    (store,) = search["vector_store_ids"]
    (file,) = api.vector_stores.files.list(store)
    given: Any = {"year": 2020.5, "draft": True, "kind": "handbook"}
    api.vector_stores.files.update(file.id, vector_store_id=store, attributes=given)
    asked = ask(api, tools=[search], include=["file_search_call.results"], stream=streams)
    answer = [*asked][-1].response if streams else asked
    again = api.responses.retrieve(answer.id, include=["file_search_call.results"])
    for each in (answer, again):
        (found,) = [item for item in each.output if item.type == "file_search_call"]
        assert [hit.attributes for hit in found.results] == [given]
    (shown,) = api.vector_stores.search(store, query="days returns").data
    assert shown.attributes == given


def test_a_stream_shows_the_search_where_the_finished_response_has_it(api: OpenAI, search: Any) -> None:
    events = [*ask(api, tools=[search], stream=True)]
    done = [each.item for each in events if each.type == "response.output_item.done"]
    assert [each.id for each in done] == [each.id for each in events[-1].response.output]
    again = [*api.responses.retrieve(events[-1].response.id, stream=True)]

    def without_text(all_of_them: list[Any]) -> list[Any]:
        shown = (each.model_dump() for each in all_of_them if not each.type.endswith(".delta"))
        return [{name: value for name, value in each.items() if name != "response"} for each in shown]

    assert without_text(events) == without_text(again)


@pytest.mark.parametrize("streams", [False, True])
def test_a_search_before_a_failed_attempt_remains_in_the_answer(
    open_api: Callable[..., Any], upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    arrive = upstream.arrive

    def fail_second(body: Any) -> int | None:
        status = arrive(body)
        return 500 if len(upstream.requests) == 2 else status

    monkeypatch.setattr(upstream, "arrive", fail_second)
    with OpenAI(base_url=open_api(retries=1).base_url, api_key="any", max_retries=0) as api:
        file = api.files.create(file=("handbook.md", HANDBOOK), purpose="assistants")
        store = api.vector_stores.create(file_ids=[file.id])
        asked = ask(api, tools=[{"type": "file_search", "vector_store_ids": [store.id]}], stream=streams)
        events = [*asked] if streams else []
        answer = events[-1].response if streams else asked
        assert (answer.status, len(upstream.requests)) == ("completed", 3)
        found = [each for each in answer.output if each.type == "file_search_call"]
        assert len(found) == 1
        assert answer.output == api.responses.retrieve(answer.id).output
        if streams:
            assert [each.item for each in events if each.type == "response.output_item.done"] == answer.output


def test_a_text_that_breaks_off_behind_a_search_fails_for_the_stream_and_for_the_ledger(
    open_api: Callable[..., Any], upstream: ChatOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive = upstream.arrive

    def break_off_second(body: Any) -> int | None:
        status = arrive(body)
        upstream.breaks_off = len(upstream.requests) == 2
        return status

    monkeypatch.setattr(upstream, "arrive", break_off_second)
    with OpenAI(base_url=open_api(retries=1).base_url, api_key="any", max_retries=0) as api:
        file = api.files.create(file=("handbook.md", HANDBOOK), purpose="assistants")
        store = api.vector_stores.create(file_ids=[file.id])
        events = [*ask(api, tools=[{"type": "file_search", "vector_store_ids": [store.id]}], stream=True)]
        assert (events[-1].type, len(upstream.requests)) == ("response.failed", 2)
        assert api.responses.retrieve(events[-1].response.id).status == "failed"
    numbers = [each.sequence_number for each in events]
    assert numbers == sorted({*numbers})


def test_what_the_model_searched_is_in_the_conversation_as_one_item(api: OpenAI, search: Any) -> None:
    conversation = api.conversations.create()
    ask(api, tools=[search], conversation=conversation.id)
    listed: list[Any] = [*api.conversations.items.list(conversation.id, order="asc", limit=1)]
    assert [each.type for each in listed] == ["message", "message", "file_search_call", "message"]
    one: Any = api.conversations.items.retrieve(listed[2].id, conversation_id=conversation.id)
    assert one.queries == ["days returns"]


def test_the_calls_of_a_message_are_divided_between_the_server_and_the_client(
    api: OpenAI, search: Any, ledger: Ledger
) -> None:
    called = ask(api, tools=[search, WEATHER])
    assert [each.type for each in called.output] == ["message", "file_search_call", "function_call"]
    result: Any = {"type": "function_call_output", "call_id": called.output[2].call_id, "output": "Sunny"}
    answer = ask(api, [result], tools=[search, WEATHER], previous_response_id=called.id)
    assert answer.output_text == "It takes five days."
    said = [each.event for each in ledger.events() if isinstance(each.event, e.MessageJournaled)]
    calls = [call["id"] for each in said for call in each.tool_calls]
    assert sorted(calls) == sorted(each.tool_call_id for each in said if each.role == "tool")


def test_a_store_that_is_not_the_callers_is_refused(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="vs_none"):
        ask(api, tools=[{"type": "file_search", "vector_store_ids": ["vs_none"]}])
    with pytest.raises(openai.BadRequestError, match="vector_store_ids"):
        ask(api, tools=[{"type": "file_search"}])


@pytest.mark.parametrize("part", ["input_image", "input_file"])
def test_a_file_is_named_by_its_id_in_the_input(api: OpenAI, upstream: ChatOnly, part: str) -> None:
    file = api.files.create(file=("pixel.png", PIXEL), purpose="vision")
    said = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, {"type": part, "file_id": file.id}]}
    ]
    ask(api, said)
    sent = upstream.requests[-1]["messages"][0]["content"][1]
    assert sent["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    api.files.delete(file.id)
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        ask(api, said)


def test_a_file_in_the_input_is_shown_as_it_was_named_also_after_it_is_deleted(api: OpenAI, upstream: ChatOnly) -> None:
    kinds = {"pixel.png": PIXEL, "note.txt": b"A note", "tone.wav": b"RIFF\x24\x00\x00\x00WAVEfmt "}
    pixel, note, tone = (api.files.create(file=each, purpose="user_data").id for each in kinds.items())
    content = [
        {"type": "input_image", "file_id": pixel, "detail": "low"},
        {"type": "input_file", "file_id": note, "filename": "note.txt"},
        {"type": "input_file", "file_id": tone},
    ]
    conversation = api.conversations.create(items=[{"role": "user", "content": content}]).id  # type: ignore[typeddict-item] # JSON
    answer = ask(api, [{"role": "user", "content": content}])
    sent = upstream.requests[-1]["messages"][0]["content"]
    assert sent[0]["image_url"] == {"url": f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}", "detail": "low"}
    assert [each["type"] for each in sent] == ["image_url", "file", "input_audio"]
    assert "file_id" not in json.dumps(sent)
    for each in (pixel, note, tone):
        api.files.delete(each)
    for page in (api.responses.input_items.list(answer.id), api.conversations.items.list(conversation)):
        [message] = page.data
        assert message.to_dict()["content"] == content
    ask(api, "And now?", previous_response_id=answer.id)
    assert upstream.requests[-1]["messages"][0]["content"] == sent


def test_a_chat_completion_names_files_of_the_server_too(api: OpenAI, upstream: ChatOnly) -> None:
    file = api.files.create(file=("pixel.png", PIXEL), purpose="vision")
    content: Any = [{"type": "text", "text": "What is it?"}, {"type": "file", "file": {"file_id": file.id}}]
    api.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    assert upstream.requests[-1]["messages"][0]["content"][1]["type"] == "image_url"


def test_bytes_that_another_tenant_has_stored_are_written_by_the_same_statements(
    api: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[str] = []
    execute = Transaction.execute

    def counted(self: Any, statement: str, values: Any = ()) -> Any:
        executed.append(statement)
        return execute(self, statement, values)

    monkeypatch.setattr(Transaction, "execute", counted)
    url = f"data:image/png;base64,{base64.b64encode(PIXEL + b'x' * 2_000_000).decode()}"
    said = [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}]
    written: list[list[str]] = []
    for _ in range(2):
        executed.clear()
        ask(api, said)
        written.append([each for each in executed if "INTO blob" in each])
    assert written[0] == written[1]
    assert len(written[0]) == 3  # the blob and its two chunks
