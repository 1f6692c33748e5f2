"""Handle /v1/threads/{thread_id}/runs: create, retrieve and cancel runs, and submit tool outputs.

A run advances by one state each time it is retrieved, or state by state as its stream is read:

    queued -> in_progress -> completed | failed | incomplete | expired | cancelled
                          -> requires_action -> (outputs) -> queued -> …
    cancelling -> cancelled

What a run adds to its thread is a message with its step, or a step that waits for tool outputs. The functions that write
it yield events, (name, object), as they happen. If the events were not read to the end, the function can be called again.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..wire import Event, EventStream, Json, bodies, errors, events, fields, objects, options, pages, sse, validation
from . import outputs
from .answers import (
    ScriptedAnswer,
    ScriptedEnd,
    ScriptedFailure,
    ScriptedIncompletion,
    ScriptedOutcome,
    answer_usage,
    call_of,
    echo,
    first_half,
    token_count,
)
from .requests import SimulatedCall
from .store import ProviderStore, SimulatedRun, SimulatedThread
from .threads import active_run, add_message, new_message, new_thread

# Reason of an incomplete message, by the reason of its run (openai-python types/beta/threads/message.py).
MESSAGE_REASONS = {"max_completion_tokens": "max_tokens", "max_prompt_tokens": "max_tokens"}


def create(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
    """Create a queued run, unless the thread has an active one (POST /threads/{thread_id}/runs)."""
    thread, body = store.thread(call.ids["thread_id"]), call.body
    call.refuse_unknown_fields()
    validation.flag(body, "stream")
    assistant = store.assistant(validation.required_string(body, "assistant_id"))
    active = active_run(thread)
    if active is not None:
        raise errors.bad_request(f"Thread {thread.object['id']} already has an active run {active}.")
    run = _new_run(store, thread, assistant, body)
    more = validation.array(body.get("additional_messages") or [], "additional_messages")
    for index, message in enumerate(more):
        where = f"additional_messages[{index}]"
        add_message(store, thread, validation.an_object(message, where), f"{where}.")
    return _begin_run(store, call, thread, run)


def create_with_thread(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
    """Create a thread and a run in it, or neither (POST /threads/runs)."""
    body = call.body
    call.refuse_unknown_fields()
    validation.flag(body, "stream")
    assistant = store.assistant(validation.required_string(body, "assistant_id"))
    wanted = dict(validation.an_object(body.get("thread") or {}, "thread"))
    if body.get("tool_resources") is not None:
        wanted.setdefault("tool_resources", body["tool_resources"])
    validation.only_known(wanted, fields.THREAD_FIELDS, "thread.")
    thread = new_thread(store, wanted, "thread.")
    run = _new_run(store, thread, assistant, body)
    store.threads[thread.object["id"]] = thread
    return _begin_run(store, call, thread, run, ("thread.created", thread.object))


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Advance a run by one state and return it (GET …/runs/{run_id})."""
    thread, record = _find(store, call)
    advance(store, thread, record)
    _suggest_polling(store, call)
    return record.object


def list_(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of runs without advancing them (GET …/runs)."""
    thread = store.thread(call.ids["thread_id"])
    return pages.page((record.object for record in thread.runs.values()), call.query)


def modify(store: ProviderStore, call: SimulatedCall) -> Json:
    """Replace the metadata of a run (POST …/runs/{run_id})."""
    _, record = _find(store, call)
    call.refuse_unknown_fields()
    record.object["metadata"] = validation.metadata_of(call.body)
    return record.object


def cancel(store: ProviderStore, call: SimulatedCall) -> Json:
    """Set a run to `cancelling`; it is `cancelled` when it is next retrieved (POST …/cancel)."""
    _, record = _find(store, call)
    run = record.object
    if run["status"] in objects.RUN_ENDS or run["status"] == "cancelling":
        raise errors.bad_request(f"Cannot cancel run with status '{run['status']}'.")
    run |= {"status": "cancelling", "required_action": None}
    _suggest_polling(store, call)
    return run


def submit_tool_outputs(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
    """Submit the outputs of all tool calls of a run in one request (POST …/submit_tool_outputs)."""
    thread, record = _find(store, call)
    run = record.object
    call.refuse_unknown_fields()
    if run["status"] != "requires_action":
        raise errors.bad_request(f'Runs in status "{run["status"]}" do not accept tool outputs.')
    validation.flag(call.body, "stream")
    outputs = bodies.tool_outputs(call.body)
    expected = [wanted["id"] for wanted in run["required_action"]["submit_tool_outputs"]["tool_calls"]]
    if sorted(outputs) != sorted(expected):
        raise errors.bad_request(f"Expected tool outputs for call_ids {expected}, got {list(outputs)}")
    step = resume(store, record, outputs)
    record.outcome = call.outcome
    _suggest_polling(store, call)
    return run_stream(store, thread, record, ("thread.run.step.completed", step)) if call.wants_stream else run


def list_steps(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of the run's steps (GET …/steps)."""
    return pages.page(_find(store, call)[1].steps.values(), call.query)


def retrieve_step(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a step of the run (GET …/steps/{step_id})."""
    found = _find(store, call)[1].steps.get(call.ids["step_id"])
    if found is None:
        raise errors.no_such("run step", call.ids["step_id"])
    return found


def _begin_run(
    store: ProviderStore, call: SimulatedCall, thread: SimulatedThread, run: Json, *first: Event
) -> Json | EventStream:
    record = thread.runs[run["id"]] = SimulatedRun(run, call.outcome)
    _suggest_polling(store, call)
    if not call.wants_stream:
        return run
    # The event `thread.run.created` comes before the one for `queued`, but shows the same, already queued object.
    return run_stream(store, thread, record, *first, ("thread.run.created", run))


def _new_run(store: ProviderStore, thread: SimulatedThread, assistant: Json, body: Json) -> Json:
    instructions, tools = bodies.run_instructions(body, assistant), bodies.run_tools(body, assistant)
    now, run_id = store.now(), store.ids.short("run_")
    model = store.accept_model(body.get("model") or assistant["model"])
    checked = body | {"model": model, "metadata": validation.metadata_of(body)}
    return objects.run(run_id, now, thread.object["id"], assistant, checked, instructions=instructions, tools=tools)


def _find(store: ProviderStore, call: SimulatedCall) -> tuple[SimulatedThread, SimulatedRun]:
    thread = store.thread(call.ids["thread_id"])
    record = thread.runs.get(call.ids["run_id"])
    if record is None:
        raise errors.no_such("run", call.ids["run_id"])
    return thread, record


def _suggest_polling(store: ProviderStore, call: SimulatedCall) -> None:
    """Add the header that says after how many milliseconds the SDK's helpers poll again."""
    call.headers["openai-poll-after-ms"] = str(store.poll_after_ms)


def run_stream(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun, *first: Event) -> EventStream:
    """Return a stream of the run: its states, and between them the events of its steps and messages.

    The stream starts at the current state and goes on until the run ends or waits for tool outputs.
    `first` is sent before. If the client leaves the stream, the run keeps its state and continues when it is retrieved.
    """
    record.streaming = True

    def abandon(status: str) -> None:
        record.streaming = False
        if status == "failed" and record.object["status"] not in objects.RUN_ENDS:
            record.outcome = record.outcome or ScriptedFailure()
            while record.object["status"] not in (*objects.RUN_ENDS, "requires_action"):
                advance(store, thread, record)

    return EventStream("assistants", _frames(store, thread, record, first), abandon)


def _frames(
    store: ProviderStore, thread: SimulatedThread, record: SimulatedRun, first: tuple[Event, ...]
) -> Iterator[bytes]:
    run = record.object
    for name, value in (*first, (f"thread.run.{run['status']}", run)):
        yield sse.frame(value, name)
    while run["status"] not in (*objects.RUN_ENDS, "requires_action"):
        before = run["status"]
        for name, value in advance_events(store, thread, record):
            _touch(store, thread, record)
            yield sse.frame(value, name)
        _touch(store, thread, record)
        if run["status"] != before:
            yield sse.frame(run, f"thread.run.{run['status']}")
    record.streaming = False
    yield sse.frame(sse.DONE, "done")


def _touch(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun) -> None:
    # The stream changes objects that it already holds, so the collections do not notice the change.
    store.threads.touch(thread.object["id"])
    thread.runs.touch(record.object["id"])
    if record.message_id is not None:
        thread.messages.touch(record.message_id)


def advance(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun) -> None:
    """Advance a run by one state, unless its stream is being read.

    A run that has ended or waits for tool outputs does not change.
    """
    if not record.streaming or record.object["status"] == "cancelling":
        for _event in advance_events(store, thread, record):
            pass


def advance_events(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun) -> Iterator[Event]:
    """Advance a run by one state and yield the events of its steps and messages.

    The caller sends the events of the run itself.
    """
    run = record.object
    if run["status"] in objects.RUN_ENDS:
        return
    if run["status"] == "cancelling":
        yield from _end_run(store, thread, record, "cancelled")
    elif store.clock() >= run["expires_at"]:
        yield from _end_run(store, thread, record, "expired")
    elif run["status"] == "queued":
        run |= {"status": "in_progress", "started_at": run["started_at"] or store.now()}
    elif run["status"] == "in_progress":
        yield from _finish(store, thread, record)


def resume(store: ProviderStore, record: SimulatedRun, outputs: dict[str, str]) -> Json:
    """Queue a run again after the app has answered every tool call, and return the completed step."""
    step = next(reversed(record.steps.values()))
    for call in step["step_details"]["tool_calls"]:
        call["function"]["output"] = outputs[call["id"]]
    step |= {"status": "completed", "completed_at": store.now(), "usage": objects.token_usage(0, 0)}
    record.object |= {"status": "queued", "required_action": None}
    return step


def _finish(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun) -> Iterator[Event]:
    run, outcome = record.object, record.outcome
    if not thread.messages and outcome is None:
        # Observed on the real service: a run on an empty thread fails without a reason.
        outcome = ScriptedFailure()
    for file_id, _ in store.missing_files(list(thread.messages.values())):
        outcome = outcome or ScriptedFailure("server_error", errors.no_such_file(file_id).message)
    prompt = token_count(run["instructions"]) if thread.messages else 0
    # A message that this run has already started is not part of its prompt.
    prompt += sum(
        token_count(objects.text_of(m["content"])) for m in thread.messages.values() if m["run_id"] != run["id"]
    )
    if outcome is not None:
        yield from _end_badly(store, thread, record, outcome, prompt)
        return
    answer = record.answer = record.answer or store.answers.next(_question(thread), _format_of(run))
    if answer.tool_calls:
        calls = [call_of(store.ids, scripted) for scripted in answer.tool_calls]
        record.answer = None
        run |= {"status": "requires_action", "required_action": objects.required_action(calls)}
        yield from request_outputs(store, record, calls)
        return
    yield from write_message(store, thread, record, answer.text, content=outputs.thread_parts(answer.output))
    if run["status"] == "in_progress":
        usage = objects.token_usage(*answer_usage(answer, prompt, token_count(answer.text))[:2])
        run |= {"status": "completed", "completed_at": store.now(), "expires_at": None, "usage": usage}


def _format_of(run: Json) -> Json | None:
    """Return the format of a run's answer, in the form of `text.format` of a response."""
    wanted = run["response_format"]
    return options.chat_format({"response_format": wanted}) if isinstance(wanted, dict) else None


def _question(thread: SimulatedThread) -> str:
    messages = (m for m in reversed(thread.messages.values()) if m["role"] == "user")
    return next((objects.text_of(message["content"]) for message in messages), "")


def _end_badly(
    store: ProviderStore, thread: SimulatedThread, record: SimulatedRun, outcome: ScriptedOutcome, prompt: int
) -> Iterator[Event]:
    run = record.object
    match outcome:
        case ScriptedFailure(code, message):
            run |= {"last_error": {"code": code, "message": message}, "usage": objects.token_usage(prompt, 0)}
            yield from _end_run(store, thread, record, "failed")
        case ScriptedIncompletion(reason):
            partial = first_half(echo(_question(thread)).text)
            record.answer = ScriptedAnswer(partial)
            yield from write_message(store, thread, record, partial, MESSAGE_REASONS.get(reason, reason))
            if run["status"] == "in_progress":
                run |= {
                    "incomplete_details": {"reason": reason},
                    "usage": objects.token_usage(prompt, token_count(partial)),
                }
                yield from _end_run(store, thread, record, "incomplete")
        case ScriptedEnd(status):
            run |= {"usage": objects.token_usage(prompt, 0)}
            yield from _end_run(store, thread, record, status)


def _end_run(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun, status: str) -> Iterator[Event]:
    run = record.object
    stamps = {"cancelled": "cancelled_at", "failed": "failed_at", "incomplete": "completed_at"}
    run |= {"status": status, "required_action": None}
    run["usage"] = run["usage"] or objects.token_usage(0, 0)
    if status in stamps:
        run[stamps[status]] = store.now()
    if status != "expired":
        run["expires_at"] = None
    yield from end_parts(store, thread, record, status)


def write_message(
    store: ProviderStore,
    thread: SimulatedThread,
    record: SimulatedRun,
    text: str,
    incomplete: str | None = None,
    content: list[Json] | None = None,
) -> Iterator[Event]:
    """Add an answer to the thread and yield its events.

    `incomplete` is the reason why the answer is cut short. `content` are its parts, if it is more than its text. The
    function stops if another request ends the run.
    """
    if record.message_id is None or record.step_id is None:
        yield from _begin_message(store, thread, record)
    message, step = thread.messages[record.message_id or ""], record.steps[record.step_id or ""]
    for piece in sse.pieces(text):
        yield events.message_delta(message["id"], piece)
        if record.object["status"] != "in_progress":
            return
    now, whole = store.now(), incomplete is None
    message |= {"status": "completed" if whole else "incomplete", "content": content or [objects.text_part(text)]}
    message |= {"completed_at" if whole else "incomplete_at": now}
    message["incomplete_details"] = None if whole else {"reason": incomplete}
    yield f"thread.message.{message['status']}", message
    step |= {"status": "completed", "completed_at": now, "usage": objects.token_usage(0, token_count(text))}
    yield "thread.run.step.completed", step


def request_outputs(store: ProviderStore, record: SimulatedRun, calls: list[Json]) -> Iterator[Event]:
    """Add a step with tool calls that waits for their outputs, and yield its events."""
    # Copy the calls: the step gets the outputs later, and the run's own list does not.
    copies = [{**call, "function": {**call["function"], "output": None}} for call in calls]
    step = _add_step(store, record, {"type": "tool_calls", "tool_calls": copies})
    yield from events.tool_step_events(step)


def end_parts(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun, status: str) -> Iterator[Event]:
    """End the unfinished steps and message of a run that ends in `status`, and yield their events."""
    now = store.now()
    for step in record.steps.values():
        if step["status"] == "in_progress":
            step |= {"status": status, f"{status}_at": now, "usage": objects.token_usage(0, 0)}
            yield f"thread.run.step.{status}", step
    message = thread.messages.get(record.message_id or "")
    if message is not None and message["status"] == "in_progress":
        message |= {"status": "incomplete", "incomplete_at": now, "incomplete_details": {"reason": f"run_{status}"}}
        yield "thread.message.incomplete", message


def _begin_message(store: ProviderStore, thread: SimulatedThread, record: SimulatedRun) -> Iterator[Event]:
    run = record.object
    message = new_message(store, thread, "assistant", [])
    message |= {"assistant_id": run["assistant_id"], "run_id": run["id"], "status": "in_progress", "completed_at": None}
    thread.messages[message["id"]] = message
    details = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
    step = _add_step(store, record, details)
    record.message_id, record.step_id = message["id"], step["id"]
    yield "thread.run.step.created", step
    yield "thread.run.step.in_progress", step
    yield "thread.message.created", message
    yield "thread.message.in_progress", message


def _add_step(store: ProviderStore, record: SimulatedRun, details: Json) -> Json:
    step = objects.run_step(store.ids.short("step_"), store.now(), record.object, details)
    record.steps[step["id"]] = step
    return step
