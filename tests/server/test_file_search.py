"""A run searches files: the server calls the function, journals it, cites what the model relies on, and shows it in the steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.server import ServeSettings
from threadledger.adapters.server import file_search as search
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.files import FoundChunk
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.exchange import SentOptions
from threadledger.domain.ledger import Ledger

from .assistant_app import WEATHER

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

HANDBOOK = "Employees have 25 vacation days a year."
QUESTION: Any = {"role": "user", "content": "How many vacation days do I have?"}
SEARCH: Any = {"type": "file_search"}
CALL = {"tool_calls": [{"name": "file_search", "arguments": {"query": "vacation days"}}]}
CONTENT: Any = ["step_details.tool_calls[*].file_search.results[*].content"]


class Desk:
    """An assistant that searches a vector store with one file."""

    def __init__(self, client: OpenAI, simulator: Any) -> None:
        self.client, self.simulator, self.beta = client, simulator, client.beta
        self.file_id = self.put("handbook.md", HANDBOOK)
        self.store_id = client.vector_stores.create(file_ids=[self.file_id]).id
        self.assistant_id = self.assistant()

    def put(self, name: str, text: str) -> str:
        return self.client.files.create(file=(name, text.encode()), purpose="assistants").id

    def assistant(self, **options: Any) -> str:
        resources: Any = {"file_search": {"vector_store_ids": [self.store_id]}}
        given: Any = {"tools": [SEARCH], "tool_resources": resources} | options
        return self.beta.assistants.create(model="gpt-5.5", **given).id

    def thread(self, **options: Any) -> str:
        return self.beta.threads.create(**{"messages": [QUESTION], **options}).id

    def run(self, thread_id: str, *answers: Any, **options: Any) -> Any:
        for each in answers:
            self.simulator.answer(each)
        given: Any = {"assistant_id": self.assistant_id, "poll_interval_ms": 10, **options}
        return self.beta.threads.runs.create_and_poll(thread_id=thread_id, **given)

    def said(self, thread_id: str) -> Any:
        """Return the newest text of a thread."""
        return self.beta.threads.messages.list(thread_id).data[0].content[0].text  # type: ignore[union-attr] # it is a text

    def steps(self, run: Any, **options: Any) -> list[Any]:
        return self.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc", **options).data

    def shown(self) -> Any:
        """Return what the model was shown as the result of its newest search."""
        results = [each for each in self.simulator.requests[-1].body["messages"] if each["role"] == "tool"]
        return json.loads(results[-1]["content"])


@pytest.fixture
def desk(client: OpenAI, simulator: Any) -> Desk:
    return Desk(client, simulator)


def test_a_run_searches_and_its_answer_cites_the_file(desk: Desk) -> None:
    thread_id = desk.thread()
    run = desk.run(thread_id, CALL, "You have 25.【1†handbook.md】 See 【2†handbook.md】 and 【1†other.md】.")
    assert (run.status, run.required_action) == ("completed", None)
    assert [each.type for each in run.tools] == ["file_search"]
    said = desk.said(thread_id)
    assert said.value == "You have 25.【1†handbook.md】 See 【2†handbook.md】 and 【1†other.md】."
    (cited,) = said.annotations
    assert (cited.type, cited.text, cited.file_citation.file_id) == ("file_citation", "【1†handbook.md】", desk.file_id)
    assert said.value[cited.start_index : cited.end_index] == cited.text
    (hit,) = desk.shown()["results"]
    assert (hit["text"], hit["filename"], hit["marker"]) == (HANDBOOK, "handbook.md", "【1†handbook.md】")
    (offered,) = desk.simulator.requests[-1].body["tools"]
    assert offered["function"]["name"] == "file_search"
    assert list(offered["function"]["parameters"]["properties"]) == ["query"]


def test_a_search_is_a_step_whose_passages_are_shown_on_demand(desk: Desk) -> None:
    run = desk.run(desk.thread(), CALL, "25.")
    searched, spoken = desk.steps(run)
    assert (searched.status, searched.type, spoken.type) == ("completed", "tool_calls", "message_creation")
    (call,) = searched.step_details.tool_calls
    assert call.type == "file_search"
    (result,) = call.file_search.results
    assert (result.file_id, result.file_name, result.content) == (desk.file_id, "handbook.md", None)
    assert 0 < result.score <= 1
    (again, _) = desk.steps(run, include=CONTENT)
    assert again.step_details.tool_calls[0].file_search.results[0].content[0].text == HANDBOOK
    retrieve = desk.beta.threads.runs.steps.retrieve
    alone: Any = retrieve(searched.id, thread_id=run.thread_id, run_id=run.id, include=CONTENT)
    assert alone == again


def test_a_search_is_journaled_and_its_result_survives_the_file(desk: Desk, ledger: Ledger) -> None:
    thread_id = desk.thread()
    run = desk.run(thread_id, CALL, "25.【1†handbook.md】")
    events = [*ledger.journal.history(thread_id)]
    said = [each for each in events if isinstance(each, e.MessageJournaled)]
    assert [each.role for each in said] == ["user", "assistant", "tool", "assistant"]
    desk.client.files.delete(desk.file_id)
    assert desk.steps(run)[0].step_details.tool_calls[0].file_search.results[0].file_id == desk.file_id
    assert desk.said(thread_id).annotations[0].file_citation.file_id == desk.file_id


def test_a_process_that_continues_an_exchange_knows_what_was_found_before(desk: Desk, ledger: Ledger) -> None:
    thread_id = desk.thread()
    desk.run(thread_id, CALL, "25.")
    requested = next(each for each in ledger.journal.history(thread_id) if isinstance(each, e.ExchangeRequested))
    again = search.server_tool(ledger.journal, requested, SEARCH)
    finished = again.finish(Message(Role.ASSISTANT, "25.【1†handbook.md】"))
    assert "file_citation" in json.dumps(finished.content_as_json())
    (hit,) = json.loads(again.function(query="vacation"))["results"]
    assert hit["marker"] == "【2†handbook.md】"


def test_the_function_needs_no_approval_and_may_be_called_again_after_a_crash(desk: Desk, ledger: Ledger) -> None:
    run = desk.run(desk.thread(), "25.", tools=[SEARCH, WEATHER])
    requested = next(each for each in ledger.journal.history(run.thread_id) if isinstance(each, e.ExchangeRequested))
    sent = SentOptions(requested, ledger.journal.profile(requested.profile_hash))
    profile = sent.services_of(ledger.services, {}).profile
    assert (profile.approval, profile.read_only) == (("weather",), ("file_search",))


def test_markers_of_several_searches_are_counted_together(desk: Desk) -> None:
    thread_id = desk.thread()
    two = {"tool_calls": [CALL["tool_calls"][0], {"name": "file_search", "arguments": {"query": "days a year"}}]}
    desk.run(thread_id, two, "25【2†handbook.md】【1†handbook.md】【3†handbook.md】")
    assert [each.text for each in desk.said(thread_id).annotations] == ["【2†handbook.md】", "【1†handbook.md】"]


def test_a_stream_has_the_search_and_the_citations(desk: Desk) -> None:
    thread_id = desk.thread()
    desk.simulator.answer(CALL)
    desk.simulator.answer("25.【1†handbook.md】")
    names: list[str] = []
    with desk.beta.threads.runs.stream(thread_id=thread_id, assistant_id=desk.assistant_id) as stream:
        events: list[Any] = [*stream]
        names = [each.event for each in events]
    place = names.index("thread.run.step.completed")
    calls = [
        each.data for each in events if each.event == "thread.run.step.completed" and each.data.type == "tool_calls"
    ]
    assert calls[0].step_details.tool_calls[0].type == "file_search"
    assert names.index("thread.run.step.created") < place < names.index("thread.run.completed")
    (message,) = [each.data for each in events if each.event == "thread.message.completed"]
    assert message.content[0].text.annotations[0].file_citation.file_id == desk.file_id


def test_a_search_next_to_a_function_of_the_app_waits_for_the_function_alone(desk: Desk) -> None:
    thread_id = desk.thread()
    both = {"tool_calls": [CALL["tool_calls"][0], {"name": "weather", "arguments": {}}]}
    run = desk.run(thread_id, both, assistant_id=desk.assistant(tools=[SEARCH, WEATHER]))
    assert run.status == "requires_action"
    (waiting,) = run.required_action.submit_tool_outputs.tool_calls
    assert waiting.function.name == "weather"
    desk.simulator.answer("Sunny, and 25 days.【1†handbook.md】")
    ended = desk.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=thread_id,
        tool_outputs=[{"tool_call_id": waiting.id, "output": "sunny"}],
        poll_interval_ms=10,
    )
    assert ended.status == "completed"
    assert desk.said(thread_id).annotations[0].file_citation.file_id == desk.file_id
    (first, _) = desk.steps(run)
    assert [each.type for each in first.step_details.tool_calls] == ["file_search", "function"]


def test_a_function_of_the_app_keeps_its_name(desk: Desk) -> None:
    own: Any = {
        "type": "function",
        "function": {"name": "file_search", "parameters": {"type": "object", "properties": {}}},
    }
    assistant_id = desk.assistant(tools=[own, SEARCH])
    run = desk.run(desk.thread(), CALL, assistant_id=assistant_id)
    assert run.status == "requires_action"
    call = {"tool_calls": [{"name": "file_search_", "arguments": {"query": "vacation"}}]}
    run = desk.run(desk.thread(), call, "25.【1†handbook.md】", assistant_id=assistant_id)
    assert desk.said(run.thread_id).annotations != []
    assert desk.steps(run)[0].step_details.tool_calls[0].type == "file_search"


def test_the_choice_of_the_tool_and_its_options_hold(desk: Desk) -> None:
    for number in range(8):
        added = desk.put(f"{number}.txt", f"vacation number {number}")
        desk.client.vector_stores.files.create(desk.store_id, file_id=added)
    run = desk.run(desk.thread(), CALL, "25.", tool_choice=SEARCH)
    assert run.tool_choice.type == "file_search"
    first = next(each.body for each in desk.simulator.requests if each.body.get("tool_choice"))
    assert first["tool_choice"] == {"type": "function", "function": {"name": "file_search"}}
    assert len(desk.shown()["results"]) == search.RESULTS_OF_TOOL
    desk.run(desk.thread(), CALL, "25.", tools=[{"type": "file_search", "file_search": {"max_num_results": 2}}])
    assert len(desk.shown()["results"]) == 2
    ranked = {"max_num_results": 9, "ranking_options": {"score_threshold": 0.99}}
    desk.run(desk.thread(), CALL, "25.", tools=[{"type": "file_search", "file_search": ranked}])
    assert desk.shown()["results"] == []


@pytest.mark.parametrize(
    "arguments", ["{}", '{"query": ""}', '{"query": 7}', '{"queries": ["vacation", 3]}', '{"q": "x"}', "[]"]
)
def test_a_model_that_calls_the_function_wrongly_gets_a_result(desk: Desk, arguments: str) -> None:
    run = desk.run(desk.thread(), {"tool_calls": [{"name": "file_search", "arguments": arguments}]}, "Sorry.")
    assert run.status == "completed"


# Where stores and files come from


def test_a_thread_has_a_store_of_its_own(desk: Desk) -> None:
    other = desk.client.vector_stores.create(file_ids=[desk.put("menu.txt", "vacation menu")]).id
    resources: Any = {"file_search": {"vector_store_ids": [other]}}
    thread_id = desk.thread(tool_resources=resources)
    thread = desk.beta.threads.retrieve(thread_id)
    assert thread.tool_resources is not None
    assert thread.tool_resources.file_search is not None
    assert thread.tool_resources.file_search.vector_store_ids == [other]
    desk.run(thread_id, CALL, "25.")
    assert {each["filename"] for each in desk.shown()["results"]} == {"handbook.md", "menu.txt"}
    changed = desk.beta.threads.update(thread_id, tool_resources={"file_search": {"vector_store_ids": []}})
    assert changed.tool_resources is None or changed.tool_resources.file_search is None
    desk.run(thread_id, CALL, "25.")
    assert {each["filename"] for each in desk.shown()["results"]} == {"handbook.md"}


def test_files_that_a_message_attaches_are_searched_in_its_thread_alone(desk: Desk) -> None:
    file_id = desk.put("note.txt", "vacation note")
    attached: Any = [{"file_id": file_id, "tools": [SEARCH]}]
    thread_id = desk.thread(messages=[{**QUESTION, "attachments": attached}])
    (message,) = desk.beta.threads.messages.list(thread_id).data
    assert message.attachments is not None
    assert [each.model_dump(exclude_none=True) for each in message.attachments] == attached
    desk.run(thread_id, CALL, "25.")
    assert {each["filename"] for each in desk.shown()["results"]} == {"handbook.md", "note.txt"}
    second = desk.put("second.txt", "vacation again")
    given: Any = [{"file_id": second, "tools": [SEARCH]}]
    desk.beta.threads.messages.create(thread_id, role="user", content="And now?", attachments=given)
    third: Any = [{"file_id": desk.put("third.txt", "vacation thrice"), "tools": [SEARCH]}]
    more: Any = [{"role": "user", "content": "Look!", "attachments": third}]
    desk.run(thread_id, CALL, "25.", additional_messages=more)
    shown = {each["filename"] for each in desk.shown()["results"]}
    assert shown == {"handbook.md", "note.txt", "second.txt", "third.txt"}
    resources: Any = desk.beta.threads.retrieve(thread_id).tool_resources
    (own,) = resources.file_search.vector_store_ids
    made = desk.client.vector_stores.retrieve(own)
    assert (made.file_counts.total, made.expires_after.days if made.expires_after else 0) == (3, 7)
    (listed,) = desk.client.get("/threads", cast_to=object, options={"params": {"limit": 1}})["data"]  # type: ignore[index] # plain JSON
    assert listed["tool_resources"]["file_search"]["vector_store_ids"] == [own]
    desk.run(desk.thread(), CALL, "25.")
    assert {each["filename"] for each in desk.shown()["results"]} == {"handbook.md"}
    desk.client.vector_stores.delete(own)
    desk.beta.threads.messages.create(thread_id, role="user", content="And now?", attachments=given)
    desk.run(thread_id, CALL, "25.")
    assert {each["filename"] for each in desk.shown()["results"]} == {"handbook.md", "second.txt"}


def test_a_request_can_describe_the_store_that_it_needs(desk: Desk) -> None:
    described: Any = {"file_search": {"vector_stores": [{"file_ids": [desk.file_id], "metadata": {"a": "1"}}]}}
    made: Any = desk.beta.assistants.create(model="gpt-5.5", tools=[SEARCH], tool_resources=described)
    (store_id,) = made.tool_resources.file_search.vector_store_ids
    assert desk.client.vector_stores.retrieve(store_id).metadata == {"a": "1"}
    run = desk.beta.threads.create_and_run_poll(
        assistant_id=made.id, thread={"messages": [QUESTION], "tool_resources": described}, poll_interval_ms=10
    )
    assert run.status == "completed"
    assert len(desk.client.vector_stores.list().data) == 3


@pytest.mark.parametrize(
    ("resources", "status", "param"),
    [
        ({"file_search": {"vector_store_ids": ["vs_of_nobody"]}}, 404, None),
        ({"file_search": {"vector_store_ids": ["vs_1", "vs_2"]}}, 400, "tool_resources.file_search.vector_store_ids"),
        (
            {"file_search": {"vector_stores": [{"file_ids": ["file-of-nobody"]}]}},
            404,
            "tool_resources.file_search.vector_stores[0].file_ids",
        ),
        ({"file_search": {"vector_store_ids": [7]}}, 400, "tool_resources.file_search.vector_store_ids[0]"),
        ({"code_interpreter": {"file_ids": ["file-1"]}}, 400, "tool_resources.code_interpreter"),
    ],
)
def test_resources_that_do_not_exist_are_refused(desk: Desk, resources: Any, status: int, param: str | None) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        desk.assistant(tool_resources=resources)
    assert (refused.value.status_code, refused.value.param) == (status, param)
    with pytest.raises(openai.APIStatusError) as refused:
        desk.thread(tool_resources=resources)
    assert refused.value.status_code == status


def test_an_attached_file_that_does_not_exist_is_a_404(desk: Desk) -> None:
    attached: Any = [{"file_id": "file-of-nobody", "tools": [SEARCH]}]
    with pytest.raises(openai.NotFoundError):
        desk.thread(messages=[{**QUESTION, "attachments": attached}])


@pytest.mark.parametrize(
    "options", [{"max_num_results": 0}, {"max_num_results": 51}, {"ranking_options": {"score_threshold": 7}}]
)
def test_options_that_are_not_valid_are_a_400(desk: Desk, options: Any) -> None:
    tool = {"type": "file_search", "file_search": options}
    with pytest.raises(openai.BadRequestError):
        desk.assistant(tools=[tool])
    with pytest.raises(openai.BadRequestError):
        desk.run(desk.thread(), tools=[tool])


def test_chat_completions_have_no_search(client: OpenAI, serving: Callable[..., Any]) -> None:
    tools: Any = [SEARCH]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-5.5", messages=[QUESTION], tools=tools)
    assert refused.value.code == "unsupported_tool"


def test_a_search_is_not_dropped_with_the_tools_that_are_not_run(serving: Callable[..., Any], simulator: Any) -> None:
    server = serving(serve=ServeSettings(hosted_tools="drop"))
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        desk = Desk(client, simulator)
        assistant_id = desk.assistant(tools=[SEARCH, {"type": "code_interpreter"}])
        run = desk.run(desk.thread(), CALL, "25.【1†handbook.md】", assistant_id=assistant_id)
        assert desk.said(run.thread_id).annotations != []
        (started, *_) = [
            each for each in server.served.ledger.journal.history(run.thread_id) if isinstance(each, e.RunStarted)
        ]
        assert started.losses == {"tool:code_interpreter": 1}


# The parts, without an API


def chunk(name: str, text: str = "text", **attributes: Any) -> FoundChunk:
    return FoundChunk(f"file-{name}", name, 0.5, text, attributes, 0)


def test_a_result_is_read_back_as_it_was_written_and_nothing_else_is() -> None:
    hits = search.marked([chunk("a【b】†c\n.md", '】"}'), chunk("x" * 100, year=2020), chunk(" ")], 7)
    assert [each.marker for each in hits] == ["【7†a b c .md】", f"【8†{'x' * 60}】", "【9†file】"]
    assert search.hits_in(search.result_text(hits)) == hits
    assert [("attributes" in each) for each in json.loads(search.result_text(hits))["results"]] == [False, True, False]
    for text in (
        "",
        "[]",
        "{}",
        '{"results": 7}',
        '{"results": [7]}',
        '{"results": [{"marker": "x"}]}',
        "【1†a】",
        "[" * 100_000,
    ):
        assert search.hits_in(text) == []
    assert json.loads(search.result_text([]))["results"] == []


MARKED: list[tuple[str, list[tuple[int, str]]]] = [
    ("no marker", []),
    ("one【1†a】.", [(3, "file-a")]),
    ("【1†a】【2†b】", [(0, "file-a"), (5, "file-b")]),
    ("【1†b】【3†a】【†a】【1】【x†a】", []),
    ("【1†a 【1†a】", [(5, "file-a")]),
    ("【" * 10_000 + "1†a】", [(9_999, "file-a")]),
]


@pytest.mark.parametrize(("text", "places"), MARKED, ids=lambda value: str(value)[:20])
def test_known_markers_are_citations_and_others_are_text(text: str, places: list[tuple[int, str]]) -> None:
    hits = search.marked([chunk("a"), chunk("b")])
    said, annotations = search.cited(text, hits)
    assert said == text
    assert [(each["index"], each["file_id"]) for each in annotations] == places
    assert {each["type"] for each in annotations} <= {"file_citation"}
    _, in_thread = search.cited(text, hits, in_thread=True)
    assert [text[each["start_index"] : each["end_index"]] for each in in_thread] == [each["text"] for each in in_thread]
