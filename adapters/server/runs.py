"""Handle /v1/threads/{thread_id}/runs: a run is an exchange, and what the API shows of it is folded from its events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from threadledger.domain.conversation import Conversation, Profile, parse_profile, stream_of
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.decisions import cancel as cancel_exchange
from threadledger.domain.conversation.decisions import describe_exchange, give_results
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.errors import CallNotWaiting, ConversationBusy, ConversationNotFound, InvalidProfile
from threadledger.domain.exchange.served import ServedRequest, requested
from threadledger.domain.exchange.served_responses import leave_memory_of
from threadledger.domain.journal.served_notes import together
from threadledger.domain.ledger import AssistantRecord

from ..wire import EventStream, Json, bodies, options, validation
from ..wire.errors import bad_request, no_such
from ..wire.limits import RUN_EXPIRES_AFTER_SECONDS, RUN_TOOLS_MAX
from . import tenants
from .assistants import assistant_of
from .calls import Handler, Served, ServedCall
from .contents import RUN
from .file_search import search_name
from .hosted_tools import SERVER_RUN, checked_choice, checked_tools
from .ids import new_id, uuid_in
from .imported_runs import ImportedRun, Place, imported_run, versions_named
from .later_runs import first_run, later_run
from .pages import PageQuery, page_in
from .run_objects import ServedRun, folded_rerun, folded_run, run_object, steps_of
from .run_stream import run_stream
from .threads import (
    THREAD,
    Begin,
    FoundThread,
    active_run,
    attached_to,
    described_resources,
    described_since,
    find_thread,
    messages_in,
    new_thread,
    thread_object,
)
from .tool_resources import check_search_tools, resources_of, stores_in

if TYPE_CHECKING:
    from .live_runs import LiveRun

SURFACE = "assistants"
SEARCH_CONTENT = "step_details.tool_calls[*].file_search.results[*].content"
"""Value of `include[]` for which steps have the passages that were found."""

POLL_HEADER, POLL_HELPER = "openai-poll-after-ms", "x-stainless-poll-helper"
POLL_AFTER_MS = 500
"""Milliseconds after which a client should ask for a run again."""

POLL_WAIT_SECONDS = 1.0
"""How long a request of the SDK's poll helper waits for an active run to end, in seconds; it asks again at once."""

KEPT = ("max_prompt_tokens", "max_completion_tokens", "truncation_strategy", "parallel_tool_calls")
"""Fields of a request for a run that its profile does not hold."""


@dataclass(frozen=True)
class FoundRun:
    """Hold a run of a thread with the profile that it used."""

    thread: FoundThread
    run: ServedRun
    profile: Profile | None

    @property
    def ended(self) -> str:
        """Return how it ended; empty if it has not."""
        return self.run.ended

    def object(self) -> Json:
        """Return the API's object of the run."""
        return run_object(self.run, self.thread.thread_id, self.profile)

    def steps(self, with_content: bool = False) -> Iterator[Json]:
        """Yield its steps, oldest first; those that have searched files have the passages only `with_content`."""
        return steps_of(self.run, self.object(), with_content)


def create(served: Served, call: ServedCall) -> Json | EventStream:
    """Create a run, unless the thread has an active one (POST /threads/{thread_id}/runs)."""
    thread = find_thread(served, call)
    validation.flag(call.body, "stream")
    given = validation.array(call.body.get("additional_messages") or [], "additional_messages")
    messages = messages_in(served, call, given, "additional_messages")
    added = Begin({}, messages, attached_to(served, call, thread, [message for message, _ in messages]))
    wanted = _wanted(served, call, added, thread)
    return _begin(served, call, thread, wanted)


def create_with_thread(served: Served, call: ServedCall) -> Json | EventStream:
    """Create a thread and a run in it in one commit (POST /threads/runs)."""
    validation.flag(call.body, "stream")
    body = validation.an_object(call.body.get("thread") or {}, "thread")
    thread_id = new_id(THREAD, call.request_key)
    begin = new_thread(served, call, body, thread_id, "thread.")
    wanted = _wanted(served, call, begin)
    key, journal = tenants.key_of(call.caller, thread_id), served.journal_of(call.caller)
    if call.stored and journal.load(key) is None:  # it was deleted since
        raise no_such("thread", thread_id)
    event = _open(served, call, key, wanted)
    state = journal.require(key).state
    return _answered(served, call, FoundThread(thread_id, key, state, journal), wanted, event, begin)


def _wanted(served: Served, call: ServedCall, begin: Begin, thread: FoundThread | None = None) -> ServedRequest:
    """Return what a request for a run asks for, checked; the thread is None if it is new.

    Raises:
        ApiError: a 400, or a 404 if there is no such assistant.
    """
    body = call.body
    assistant = assistant_of(served, call, validation.required_string(body, "assistant_id"))
    metadata = validation.metadata_of(body)
    profile, dropped = _profile(served, body, assistant)
    resources, left_out = resources_of(served, call, body.get("tool_resources"))
    dropped += [each for each in left_out if each not in dropped]
    request: Json = {name: body[name] for name in KEPT if body.get(name) is not None}
    request["assistant_id"] = assistant.assistant_id
    if dropped:
        request["dropped"] = dropped
    if search_name(profile.tools):
        of_thread = begin.resources or (described_resources(thread) if thread is not None else None)
        own = resources if body.get("tool_resources") is not None else assistant.tool_resources
        request["vector_store_ids"] = list(dict.fromkeys([*stores_in(own), *stores_in(of_thread)]))
    model = validation.optional_string(body, "model") or assistant.model
    return ServedRequest(
        SURFACE,
        profile,
        model,
        RUN_EXPIRES_AFTER_SECONDS,
        call.idempotency_key,
        metadata,
        request,
        begin.journal,
    )


def _profile(served: Served, body: Json, assistant: AssistantRecord) -> tuple[Profile, list[str]]:
    """Return the profile of a run: the assistant's, with what the request says in its place; and the tools left out."""
    options.check_options({**body, "tool_choice": None, "truncation_strategy": None}, options.RUN_OPTIONS)
    _check_truncation(body)
    own = assistant.profile
    dropped = [*assistant.dropped]
    tools = own.tools
    if body.get("tools") is not None:
        tools, dropped = checked_tools(body["tools"], served.settings, maximum=RUN_TOOLS_MAX, own=SERVER_RUN)
        check_search_tools(tools)
        bodies.assistant_tools(tools, RUN_TOOLS_MAX)
    choice, left_out = checked_choice(body.get("tool_choice"), tools, served.settings)
    options.check_options({"tool_choice": choice}, options.RUN_OPTIONS)
    base = {"instructions": own.instructions}
    settings = {**own.settings}
    chosen = {name: body[name] for name in ("temperature", "top_p", "reasoning_effort") if body.get(name) is not None}
    if isinstance(body.get("response_format"), dict):
        chosen["response_format"] = body["response_format"]
    if body.get("max_completion_tokens") is not None:
        chosen["max_output_tokens"] = body["max_completion_tokens"]
    if choice is not None:
        chosen["tool_choice"] = choice
    try:
        parsed = parse_profile({"tools": tools, "settings": settings | chosen}, "")
    except InvalidProfile as error:
        raise bad_request(str(error)) from error
    profile = replace(
        own,
        model=None,
        instructions=bodies.run_instructions(body, base),
        tools_json=json.dumps(tools, ensure_ascii=False) if tools else "[]",
        settings_json=parsed.settings_json,
        read_only=(),
        approval=(),
    )
    return profile, list(dict.fromkeys([*dropped, *left_out]))


def _check_truncation(body: Json) -> None:
    strategy = body.get("truncation_strategy")
    if strategy is None:
        return
    kind = validation.an_object(strategy, "truncation_strategy").get("type")
    validation.only_known(strategy, ("type", "last_messages"), "truncation_strategy.")
    validation.one_of(kind, "truncation_strategy.type", ("auto", "last_messages"))
    last = strategy.get("last_messages")
    if kind == "last_messages" and (type(last) is not int or last < 1):
        raise bad_request(
            f"Invalid 'truncation_strategy.last_messages': expected an integer of at least 1, but got {last!r}.",
            "truncation_strategy.last_messages",
            "invalid_value",
        )


def _open(served: Served, call: ServedCall, key: str, wanted: ServedRequest) -> e.ExchangeRequested:
    notes, stream = served.runner.notes, stream_of(key)
    return requested(
        served.journal_of(call.caller),
        key,
        wanted,
        lambda exchange_id: together(notes.claim(stream, exchange_id), call.also),
    )


def _begin(served: Served, call: ServedCall, thread: FoundThread, wanted: ServedRequest) -> Json | EventStream:
    _end_overdue(served, thread)
    try:
        event = _open(served, call, thread.key, wanted)
    except ConversationBusy as error:
        conversation = thread.journal.load(thread.key)
        active = active_run(thread, conversation.state) if conversation is not None else None
        if active is None:
            raise
        raise bad_request(f"Thread {thread.thread_id} already has an active run {active}.") from error
    return _answered(served, call, thread, wanted, event)


def _end_overdue(served: Served, thread: FoundThread) -> None:
    for exchange_id, exchange in thread.state.open_exchanges.items():
        if exchange.deadline is not None:
            served.runner.expire(thread.key, exchange_id)


def _answered(
    served: Served,
    call: ServedCall,
    thread: FoundThread,
    wanted: ServedRequest,
    event: e.ExchangeRequested,
    begin: Begin | None = None,
) -> Json | EventStream:
    """Run the exchange that a request has opened, and return the object of its run, or its stream."""
    since = thread.journal.history(thread.key, event.originator_version - 1) if call.repeated else [event]
    run = folded_run(since, event.exchange_id, thread.key)
    found = FoundRun(thread, run, wanted.profile)
    shown = found.object()
    live = None
    if not run.ended:
        new = None if call.repeated else (event, wanted.profile)
        actor, stream = call.caller.actor, call.wants_stream
        runs = served.runner.resume if call.repeated else served.runner.run
        live = runs(thread.key, run.exchange_id, actor, stream=stream, new=new)
    call.headers[POLL_HEADER] = str(POLL_AFTER_MS)
    if not call.wants_stream:
        return shown
    first = []
    if begin is not None:
        first = [("thread.created", thread_object(thread.thread_id, event.timestamp, begin.metadata))]
    return run_stream(call, served, found, live, [*first, ("thread.run.created", shown)])


# Reading


def find_run(served: Served, call: ServedCall) -> FoundRun | ImportedRun:
    """Return a run of a thread of the caller; one whose time is over has ended before it is returned.

    Raises:
        ApiError: a 404.
    """
    return _run_of(served, call, find_thread(served, call))


def _run_of(
    served: Served, call: ServedCall, thread: FoundThread, version: int | None = None
) -> FoundRun | ImportedRun:
    """Return a run of a thread; `version` is that of its first event, if it is known."""
    run_id = call.ids["run_id"]
    found = _own_run(thread, run_id, version)
    if found is None:
        imported = imported_run(thread, run_id)
        if imported is None:
            raise no_such("run", run_id)
        return imported
    if found.run.is_overdue and served.runner.expire(thread.key, found.run.exchange_id):
        return found_again(served, found)
    return found


def _own_run(thread: FoundThread, run_id: str, version: int | None = None) -> FoundRun | None:
    """Return a run of this ledger by its id; None if the thread has none with this id."""
    name = uuid_in(RUN, run_id)
    return (found_run(thread, name, version) or _found_rerun(thread, name)) if name is not None else None


def versions_of_run(thread: FoundThread, run_id: str) -> tuple[list[int], bool]:
    """Return the versions of the messages that a run wrote, and whether all are its own; none if there is no such run."""
    found = _own_run(thread, run_id)
    if found is not None:
        return [each.event.originator_version for each in found.run.said], True
    lookups = thread.lookups()
    named = ((version, lookups.event(version)) for version in versions_named(thread, run_id))
    return [version for version, event in named if isinstance(event, e.MessageJournaled)], False


def found_run(thread: FoundThread, exchange_id: str, version: int | None = None) -> FoundRun | None:
    """Return the first run of an exchange; None if the conversation has none with this id.

    `version` is that of its first event, if it is known.
    """
    version = version or thread.lookups().first_of_exchange(exchange_id)
    run = first_run(thread.journal, thread.key, exchange_id, version)
    return _found(thread, run) if run is not None else None


def _found_rerun(thread: FoundThread, run_id: str) -> FoundRun | None:
    """Return a run with which an exchange was run again; None if the conversation has none with this id."""
    starts = (event for event in thread.lookups().near(run_id) if isinstance(event, e.RunStarted))
    started = next((event for event in starts if event.run_id == run_id and not event.shadow), None)
    if started is None:
        return None
    first = None if started.rerun_of is not None else found_run(thread, started.exchange_id)
    return run_again(thread, started, first.run if first is not None else None)


def run_again(thread: FoundThread, started: e.RunStarted, first: ServedRun | None) -> FoundRun | None:
    """Return the run of its own that has this attempt; None if it belongs to the first run of its exchange.

    Without an operator's rerun, `first` is that run.
    """
    if started.rerun_of is not None:
        events = thread.journal.history(thread.key, started.originator_version - 1)
        run: ServedRun | None = folded_rerun(events, started, thread.key)
    else:
        run = (
            later_run(thread.journal, first, started.run_id, started.originator_version) if first is not None else None
        )
    if run is None:
        return None
    run.requested = run.requested or thread.lookups().request_of(started.exchange_id)
    return _found(thread, run)


def place_of(thread: FoundThread, run_id: str) -> Place | None:
    """Return where a run is in the list of the thread's runs; None if the list has no such run."""
    found = _own_run(thread, run_id)
    if found is not None:
        return (found.run.begun_version, 0) if found.run.begun_version is not None else None
    imported = imported_run(thread, run_id)
    return imported.place if imported is not None else None


def _found(thread: FoundThread, run: ServedRun) -> FoundRun:
    said = described_since(thread, [run.exchange_id])
    run.metadata = said.get(run.exchange_id)
    profile_hash = run.requested.profile_hash if run.requested is not None else None
    profile_hash = profile_hash or (run.started[-1].profile_hash if run.started else None)
    return FoundRun(thread, run, thread.journal.profile(profile_hash))


def retrieve(served: Served, call: ServedCall) -> Json:
    """Return a run (GET …/runs/{run_id}); the SDK's poll helper gets it when it has ended, or after a second."""
    thread = find_thread(served, call)
    live = _live(served, call, thread) if call.request_headers.get(POLL_HELPER) == "true" else None
    if live is not None:
        live.wait(POLL_WAIT_SECONDS)
    call.headers[POLL_HEADER] = "0" if live is not None else str(POLL_AFTER_MS)
    return _run_of(served, call, thread, live.version if live is not None else None).object()


def _live(served: Served, call: ServedCall, thread: FoundThread) -> LiveRun | None:
    """Return the run that a request names if it runs in this process, before anything of it is read."""
    exchange_id = uuid_in(RUN, call.ids["run_id"])
    live = served.runner.live(exchange_id) if exchange_id is not None else None
    return live if live is not None and live.key == thread.key else None


def list_(served: Served, call: ServedCall) -> Json:
    """Return a page of runs (GET …/runs)."""
    from .run_list import run_page

    return run_page(served, call)


def modify(served: Served, call: ServedCall) -> Json:
    """Replace the metadata of a run, if it is given (POST …/runs/{run_id})."""
    found = find_run(served, call)
    if call.body.get("metadata") is not None and not call.stored:
        metadata = validation.metadata_of(call.body)
        thread = found.thread
        name = found.name if isinstance(found, ImportedRun) else found.run.exchange_id
        thread.journal.commit(
            thread.key, partial(describe_exchange, exchange_id=name, metadata=metadata), also=call.also
        )
        if isinstance(found, FoundRun):
            found.run.metadata = metadata
    return found.object()


def cancel(served: Served, call: ServedCall) -> Json:
    """End a run that has not ended (POST …/cancel)."""
    found = find_run(served, call)
    if isinstance(found, ImportedRun) or found.ended:
        if found.ended == "cancelled" and call.repeated:
            return found.object()
        raise bad_request(f"Cannot cancel run with status '{found.ended}'.")
    thread, exchange_id = found.thread, found.run.exchange_id

    def decide(conversation: Conversation) -> None:
        leave_memory_of(thread.journal, thread.key, conversation, exchange_id)
        cancel_exchange(conversation, exchange_id, "cancelled by the client of the served API")

    try:
        thread.journal.commit(thread.key, decide, also=call.also)
    except ConversationNotFound:
        raise no_such("thread", thread.thread_id) from None
    served.runner.cancel(thread.key, exchange_id)
    return find_run(served, call).object()


def submit_tool_outputs(served: Served, call: ServedCall) -> Json | EventStream:
    """Journal the results of all calls of a run in one commit, and continue it (POST …/submit_tool_outputs)."""
    found = find_run(served, call)
    validation.flag(call.body, "stream")
    if isinstance(found, ImportedRun):
        raise bad_request(f'Runs in status "{found.ended}" do not accept tool outputs.')
    thread, run = found.thread, found.run
    earlier = thread.journal.keyed(thread.key, call.idempotency_key) if call.repeated else None
    if earlier is None:
        _require_own_calls(run)
        outputs = outputs_in(call.body, run.pending)
        if run.status != "requires_action":
            raise bad_request(f'Runs in status "{run.status}" do not accept tool outputs.')
        expected = run.pending
        if sorted(outputs) != sorted(expected):
            raise bad_request(f"Expected tool outputs for call_ids {expected}, got {list(outputs)}")
        results = [thread.journal.keep(Message(Role.TOOL, text, tool_call_id=name)) for name, text in outputs.items()]
        _store_results(served, call, found, results)
    found = found_again(served, found)
    call.headers[POLL_HEADER] = str(POLL_AFTER_MS)
    shown, live = found.object(), None
    if not found.run.ended and not found.run.pending:
        resumed, actor = earlier is None, call.caller.actor
        live = served.runner.run(thread.key, run.exchange_id, actor, stream=call.wants_stream, resumed=resumed)
    if not call.wants_stream:
        return shown
    steps = [each for each in steps_of(found.run, shown) if each["type"] == "tool_calls"][-1:]
    done = [("thread.run.step.completed", each) for each in steps if each["status"] == "completed"]
    return run_stream(call, served, found, live, done)


def _require_own_calls(run: ServedRun) -> None:
    """Raise a 400 if results of the calls for which a run waits do not come from this API."""
    if run.pending and run.is_of_client:
        raise bad_request(
            "This run is a chat completion: send the results of its calls to /chat/completions with the messages before them, "
            "or cancel the run."
        )
    if run.pending and run.requested is None:
        raise bad_request(
            "This run was not created by this API, and waits for a person: decide on its calls with threadledger call, or "
            "cancel the run."
        )


def outputs_in(body: Json, pending: Sequence[str]) -> dict[str, str]:
    """Return the submitted outputs by the ids of their calls.

    Neither field of an output is required. Without an id it answers the only call in `pending`; without a text it is empty.
    """
    given: list[Json] = []
    for index, each in enumerate(validation.array(body.get("tool_outputs"), "tool_outputs")):
        output = {
            name: value
            for name, value in validation.an_object(each, f"tool_outputs[{index}]").items()
            if value is not None
        }
        given.append({"output": ""} | output)
    if len(given) == len(pending) == 1:
        given[0].setdefault("tool_call_id", pending[0])
    return bodies.tool_outputs({"tool_outputs": given})


def found_again(served: Served, found: FoundRun) -> FoundRun:
    """Return a run as it is now."""
    thread, run = found.thread, found.run
    if run.rerun_id:
        return _found_rerun(thread, run.rerun_id) or found
    again = folded_run(thread.journal.history(thread.key, run.version - 1), run.exchange_id, thread.key)
    return _found(thread, again)


def _store_results(served: Served, call: ServedCall, found: FoundRun, results: Sequence[Message]) -> None:
    thread, exchange_id = found.thread, found.run.exchange_id

    def decide(conversation: Conversation) -> None:
        left = conversation.left_exchange(exchange_id)
        parent = thread.journal.end_of_exchange(thread.key, left) if left is not None else None
        give_results(conversation, exchange_id, results, call.idempotency_key, parent)

    also = together(served.runner.notes.claim(thread.stream, exchange_id), call.also)
    try:
        thread.journal.commit(thread.key, decide, also=also)
    except CallNotWaiting as error:
        raise bad_request(f"The run does not wait for these tool outputs any more: {error}") from error


# Steps


def list_steps(served: Served, call: ServedCall) -> Json:
    """Return a page of the run's steps (GET …/steps)."""
    found = find_run(served, call)
    return page_in(_steps(found, call), PageQuery.of(call.query))


def _steps(found: FoundRun | ImportedRun, call: ServedCall) -> Iterator[Json]:
    if isinstance(found, ImportedRun):
        return iter(found.steps())
    return found.steps(call.query.get("include[]") == SEARCH_CONTENT)


def retrieve_step(served: Served, call: ServedCall) -> Json:
    """Return a step of the run (GET …/steps/{step_id})."""
    found = find_run(served, call)
    step = next((each for each in _steps(found, call) if each["id"] == call.ids["step_id"]), None)
    if step is None:
        raise no_such("run step", call.ids["step_id"])
    return step


HANDLERS_OF_RUNS: Mapping[str, Handler] = {
    "create_run": create,
    "create_thread_and_run": create_with_thread,
    "list_runs": list_,
    "retrieve_run": retrieve,
    "modify_run": modify,
    "cancel_run": cancel,
    "submit_tool_outputs": submit_tool_outputs,
    "list_run_steps": list_steps,
    "retrieve_run_step": retrieve_step,
}
