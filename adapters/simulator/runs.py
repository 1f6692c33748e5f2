"""Handle /v1/threads/{thread_id}/runs: create, retrieve and cancel runs, and submit tool outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .answers import Answer, End, Failure, Incomplete, Outcome, called, echo, first_half, text_of, token_count
from .assistants import checked_tools
from .call import Call, Json
from .errors import INSTRUCTIONS_MAX_CHARS, RUN_EXPIRES_AFTER_SECONDS, RUN_TOOLS_MAX, bad_request, no_such
from .pages import page
from .store import RunRecord, Store, ThreadRecord
from .streams import DONE, EventStream, frame, pieces
from .threads import ENDS, active_run, add_message, new_message, new_thread, text_part
from .validation import an_object, array, flag, metadata_of, only_known, optional_string, required_string

FIELDS = (
    "assistant_id", "model", "reasoning_effort", "instructions", "additional_instructions", "additional_messages",
    "tools", "metadata", "temperature", "top_p", "stream", "max_prompt_tokens", "max_completion_tokens",
    "truncation_strategy", "tool_choice", "parallel_tool_calls", "response_format",
)  # fmt: skip
WITH_THREAD_FIELDS = (
    "assistant_id", "thread", "instructions", "model", "tools", "tool_resources", "metadata", "temperature", "top_p",
    "stream", "max_prompt_tokens", "max_completion_tokens", "truncation_strategy", "tool_choice",
    "parallel_tool_calls", "response_format",
)  # fmt: skip
OPTIONAL_TIMES = ("started_at", "cancelled_at", "failed_at", "completed_at")


def create(store: Store, call: Call) -> Json | EventStream:
    """Create a queued run, unless the thread has an active one (POST /threads/{thread_id}/runs)."""
    thread, body = store.thread(call.ids["thread_id"]), call.body
    only_known(body, FIELDS)
    flag(body, "stream")
    assistant = store.assistant(required_string(body, "assistant_id"))
    active = active_run(thread)
    if active is not None:
        raise bad_request(f"Thread {thread.object['id']} already has an active run {active}.")
    run = _new(store, thread, assistant, body)
    for index, message in enumerate(array(body.get("additional_messages") or [], "additional_messages")):
        where = f"additional_messages[{index}]"
        add_message(store, thread, an_object(message, where), f"{where}.")
    return _begun(store, call, thread, run)


def create_with_thread(store: Store, call: Call) -> Json | EventStream:
    """Create a thread and a run in it, or neither (POST /threads/runs)."""
    body = call.body
    only_known(body, WITH_THREAD_FIELDS)
    flag(body, "stream")
    assistant = store.assistant(required_string(body, "assistant_id"))
    wanted = dict(an_object(body.get("thread") or {}, "thread"))
    if body.get("tool_resources") is not None:
        wanted.setdefault("tool_resources", body["tool_resources"])
    thread = new_thread(store, wanted)
    run = _new(store, thread, assistant, body)
    store.threads[thread.object["id"]] = thread
    return _begun(store, call, thread, run, ("thread.created", thread.object))


def retrieve(store: Store, call: Call) -> Json:
    """Advance a run by one state and return it (GET …/runs/{run_id})."""
    thread, record = _find(store, call)
    advance(store, thread, record)
    return _shown(store, call, record.object)


def list_(store: Store, call: Call) -> Json:
    """Return a page of runs without advancing them (GET …/runs)."""
    thread = store.thread(call.ids["thread_id"])
    return page((record.object for record in thread.runs.values()), call.query)


def modify(store: Store, call: Call) -> Json:
    """Replace the metadata of a run (POST …/runs/{run_id})."""
    _, record = _find(store, call)
    only_known(call.body, ("metadata",))
    record.object["metadata"] = metadata_of(call.body)
    return record.object


def cancel(store: Store, call: Call) -> Json:
    """Set a run to `cancelling`; it is `cancelled` when it is next retrieved (POST …/cancel)."""
    _, record = _find(store, call)
    run = record.object
    if run["status"] in ENDS or run["status"] == "cancelling":
        raise bad_request(f"Cannot cancel run with status '{run['status']}'.")
    run |= {"status": "cancelling", "required_action": None}
    return _shown(store, call, run)


def submit_tool_outputs(store: Store, call: Call) -> Json | EventStream:
    """Submit the outputs of all tool calls of a run in one request (POST …/submit_tool_outputs)."""
    thread, record = _find(store, call)
    run = record.object
    only_known(call.body, ("tool_outputs", "stream"))
    if run["status"] != "requires_action":
        raise bad_request(f'Runs in status "{run["status"]}" do not accept tool outputs.')
    flag(call.body, "stream")
    outputs = _outputs(call.body.get("tool_outputs"))
    expected = [wanted["id"] for wanted in run["required_action"]["submit_tool_outputs"]["tool_calls"]]
    if sorted(outputs) != sorted(expected):
        raise bad_request(f"Expected tool outputs for call_ids {expected}, got {list(outputs)}")
    step = resume(store, record, outputs)
    record.outcome = call.outcome
    _shown(store, call, run)
    return streamed(store, thread, record, ("thread.run.step.completed", step)) if call.wants_stream else run


def list_steps(store: Store, call: Call) -> Json:
    """Return a page of the run's steps (GET …/steps)."""
    return page(_find(store, call)[1].steps.values(), call.query)


def retrieve_step(store: Store, call: Call) -> Json:
    """Return a step of the run (GET …/steps/{step_id})."""
    found = _find(store, call)[1].steps.get(call.ids["step_id"])
    if found is None:
        raise no_such("run step", call.ids["step_id"])
    return found


def _begun(store: Store, call: Call, thread: ThreadRecord, run: Json, *first: Event) -> Json | EventStream:
    record = thread.runs[run["id"]] = RunRecord(run, call.outcome)
    _shown(store, call, run)
    if not call.wants_stream:
        return run
    # The event `thread.run.created` comes before the one for `queued`, but shows the same, already queued object.
    return streamed(store, thread, record, *first, ("thread.run.created", run))


def _new(store: Store, thread: ThreadRecord, assistant: Json, body: Json) -> Json:
    own = optional_string(body, "instructions", INSTRUCTIONS_MAX_CHARS)
    added = optional_string(body, "additional_instructions", INSTRUCTIONS_MAX_CHARS)
    instructions = [assistant["instructions"] if own is None else own, added]
    tools = checked_tools(body["tools"], RUN_TOOLS_MAX) if body.get("tools") else assistant["tools"]
    now = store.now()
    run: Json = {"id": store.seeded.short("run_"), "object": "thread.run", "created_at": now, "status": "queued"}
    run |= {"thread_id": thread.object["id"], "assistant_id": assistant["id"], "tools": tools}
    run |= {"model": store.accept_model(body.get("model") or assistant["model"])}
    run |= {"instructions": "\n".join(filter(None, instructions)), "metadata": metadata_of(body)}
    run |= {"required_action": None, "last_error": None, "incomplete_details": None, "usage": None}
    run |= {"expires_at": now + RUN_EXPIRES_AFTER_SECONDS, **dict.fromkeys(OPTIONAL_TIMES)}
    run |= {name: body.get(name) for name in ("max_prompt_tokens", "max_completion_tokens")}
    run |= {name: body.get(name, assistant[name]) for name in ("temperature", "top_p", "response_format")}
    run["parallel_tool_calls"] = body.get("parallel_tool_calls", True)
    run["tool_choice"] = body.get("tool_choice") or "auto"
    run["truncation_strategy"] = body.get("truncation_strategy") or {"type": "auto", "last_messages": None}
    return run


def _outputs(value: Any) -> dict[str, str]:
    outputs: dict[str, str] = {}
    for index, given in enumerate(array(value, "tool_outputs")):
        where = f"tool_outputs[{index}]"
        call_id = required_string(an_object(given, where), "tool_call_id", f"{where}.tool_call_id")
        outputs[call_id] = required_string(given, "output", f"{where}.output")
    return outputs


def _find(store: Store, call: Call) -> tuple[ThreadRecord, RunRecord]:
    thread = store.thread(call.ids["thread_id"])
    record = thread.runs.get(call.ids["run_id"])
    if record is None:
        raise no_such("run", call.ids["run_id"])
    return thread, record


def _shown(store: Store, call: Call, run: Json) -> Json:
    call.headers["openai-poll-after-ms"] = str(store.poll_after_ms)
    return run


def streamed(store: Store, thread: ThreadRecord, record: RunRecord, *first: Event) -> EventStream:
    """Return a stream of the run from its current state until it ends or waits for tool outputs.

    `first` is sent before. If the client leaves the stream, the run keeps its state and continues when it is retrieved.
    """
    record.streaming = True

    def abandon(status: str) -> None:
        record.streaming = False
        if status == "failed" and record.object["status"] not in ENDS:
            record.outcome = record.outcome or Failure()
            while record.object["status"] not in (*ENDS, "requires_action"):
                advance(store, thread, record)

    return EventStream("assistants", _frames(store, thread, record, first), abandon)


def _frames(store: Store, thread: ThreadRecord, record: RunRecord, first: tuple[Event, ...]) -> Iterator[bytes]:
    run = record.object
    for name, value in (*first, (f"thread.run.{run['status']}", run)):
        yield frame(value, name)
    while run["status"] not in (*ENDS, "requires_action"):
        before = run["status"]
        for name, value in move_on(store, thread, record):
            _touch(store, thread, record)
            yield frame(value, name)
        _touch(store, thread, record)
        if run["status"] != before:
            yield frame(run, f"thread.run.{run['status']}")
    record.streaming = False
    yield frame(DONE, "done")


def _touch(store: Store, thread: ThreadRecord, record: RunRecord) -> None:
    # The stream changes objects that it already holds, so the collections do not notice the change.
    store.threads.touch(thread.object["id"])
    thread.runs.touch(record.object["id"])
    if record.message_id is not None:
        thread.messages.touch(record.message_id)


# Reason of an incomplete message, by the reason of its run (openai-python types/beta/threads/message.py).
MESSAGE_REASONS = {"max_completion_tokens": "max_tokens", "max_prompt_tokens": "max_tokens"}


def advance(store: Store, thread: ThreadRecord, record: RunRecord) -> None:
    """Advance a run by one state, unless its stream is being read.

    A run that has ended or waits for tool outputs does not change.
    """
    if not record.streaming or record.object["status"] == "cancelling":
        for _event in move_on(store, thread, record):
            pass


def move_on(store: Store, thread: ThreadRecord, record: RunRecord) -> Iterator[Event]:
    """Advance a run by one state and yield the events of its steps and messages.

    The caller sends the events of the run itself.
    """
    run = record.object
    if run["status"] in ENDS:
        return
    if run["status"] == "cancelling":
        yield from _end(store, thread, record, "cancelled")
    elif store.clock() >= run["expires_at"]:
        yield from _end(store, thread, record, "expired")
    elif run["status"] == "queued":
        run |= {"status": "in_progress", "started_at": run["started_at"] or store.now()}
    elif run["status"] == "in_progress":
        yield from _finish(store, thread, record)


def resume(store: Store, record: RunRecord, outputs: dict[str, str]) -> Json:
    """Queue a run again after the app has answered every tool call, and return the completed step."""
    step = next(reversed(record.steps.values()))
    for call in step["step_details"]["tool_calls"]:
        call["function"]["output"] = outputs[call["id"]]
    step |= {"status": "completed", "completed_at": store.now(), "usage": _usage(0, 0)}
    record.object |= {"status": "queued", "required_action": None}
    return step


def _finish(store: Store, thread: ThreadRecord, record: RunRecord) -> Iterator[Event]:
    run, outcome = record.object, record.outcome
    if not thread.messages and outcome is None:
        # Observed on the real service: a run on an empty thread fails without a reason.
        outcome = Failure()
    prompt = token_count(run["instructions"]) if thread.messages else 0
    # A message that this run has already started is not part of its prompt.
    prompt += sum(token_count(text_of(m["content"])) for m in thread.messages.values() if m["run_id"] != run["id"])
    if outcome is not None:
        yield from _end_badly(store, thread, record, outcome, prompt)
        return
    answer = record.answer = record.answer or store.answers.next(_asked(thread))
    if answer.tool_calls:
        calls = [called(store.seeded, wanted) for wanted in answer.tool_calls]
        action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
        record.answer = None
        run |= {"status": "requires_action", "required_action": action}
        yield from ask_for_tools(store, record, calls)
        return
    yield from say(store, thread, record, answer.text)
    if run["status"] == "in_progress":
        usage = _usage(prompt, token_count(answer.text))
        run |= {"status": "completed", "completed_at": store.now(), "expires_at": None, "usage": usage}


def _asked(thread: ThreadRecord) -> str:
    said = (m for m in reversed(thread.messages.values()) if m["role"] == "user")
    return next((text_of(message["content"]) for message in said), "")


def _end_badly(store: Store, thread: ThreadRecord, record: RunRecord, outcome: Outcome, prompt: int) -> Iterator[Event]:
    run = record.object
    match outcome:
        case Failure(code, message):
            run |= {"last_error": {"code": code, "message": message}, "usage": _usage(prompt, 0)}
            yield from _end(store, thread, record, "failed")
        case Incomplete(reason):
            partial = first_half(echo(_asked(thread)).text)
            record.answer = Answer(partial)
            yield from say(store, thread, record, partial, MESSAGE_REASONS.get(reason, reason))
            if run["status"] == "in_progress":
                run |= {"incomplete_details": {"reason": reason}, "usage": _usage(prompt, token_count(partial))}
                yield from _end(store, thread, record, "incomplete")
        case End(status):
            run |= {"usage": _usage(prompt, 0)}
            yield from _end(store, thread, record, status)


def _end(store: Store, thread: ThreadRecord, record: RunRecord, status: str) -> Iterator[Event]:
    run = record.object
    stamps = {"cancelled": "cancelled_at", "failed": "failed_at", "incomplete": "completed_at"}
    run |= {"status": status, "required_action": None}
    run["usage"] = run["usage"] or _usage(0, 0)
    if status in stamps:
        run[stamps[status]] = store.now()
    if status != "expired":
        run["expires_at"] = None
    yield from break_off(store, thread, record, status)


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


Event = tuple[str, Json]


def say(
    store: Store, thread: ThreadRecord, record: RunRecord, text: str, incomplete: str | None = None
) -> Iterator[Event]:
    """Add an answer to the thread and yield its events.

    `incomplete` is the reason why the answer is cut short. The function stops if another request ends the run.
    """
    if record.message_id is None or record.step_id is None:
        yield from _begin(store, thread, record)
    message, step = thread.messages[record.message_id or ""], record.steps[record.step_id or ""]
    for piece in pieces(text):
        delta = {"content": [{"index": 0, "type": "text", "text": {"value": piece, "annotations": []}}]}
        yield "thread.message.delta", {"id": message["id"], "object": "thread.message.delta", "delta": delta}
        if record.object["status"] != "in_progress":
            return
    now, whole = store.now(), incomplete is None
    message |= {"status": "completed" if whole else "incomplete", "content": [text_part(text)]}
    message |= {"completed_at" if whole else "incomplete_at": now}
    message["incomplete_details"] = None if whole else {"reason": incomplete}
    yield f"thread.message.{message['status']}", message
    spent = token_count(text)
    usage = {"prompt_tokens": 0, "completion_tokens": spent, "total_tokens": spent}
    step |= {"status": "completed", "completed_at": now, "usage": usage}
    yield "thread.run.step.completed", step


def ask_for_tools(store: Store, record: RunRecord, calls: list[Json]) -> Iterator[Event]:
    """Add a step with tool calls that waits for their outputs, and yield its events."""
    # Copy the calls: the step gets the outputs later, and the run's own list does not.
    copies = [{**call, "function": {**call["function"], "output": None}} for call in calls]
    step = _add_step(store, record, {"type": "tool_calls", "tool_calls": copies})
    empty = step | {"step_details": {"type": "tool_calls", "tool_calls": []}}
    yield "thread.run.step.created", empty
    yield "thread.run.step.in_progress", empty
    for index, call in enumerate(copies):
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield _step_delta(step, begun)
        for piece in pieces(call["function"]["arguments"]):
            yield _step_delta(step, {"index": index, "type": "function", "function": {"arguments": piece}})


def break_off(store: Store, thread: ThreadRecord, record: RunRecord, status: str) -> Iterator[Event]:
    """End the unfinished steps and message of a run that ends in `status`, and yield their events."""
    now = store.now()
    for step in record.steps.values():
        if step["status"] == "in_progress":
            usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            step |= {"status": status, f"{status}_at": now, "usage": usage}
            yield f"thread.run.step.{status}", step
    message = thread.messages.get(record.message_id or "")
    if message is not None and message["status"] == "in_progress":
        message |= {"status": "incomplete", "incomplete_at": now, "incomplete_details": {"reason": f"run_{status}"}}
        yield "thread.message.incomplete", message


def _begin(store: Store, thread: ThreadRecord, record: RunRecord) -> Iterator[Event]:
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


def _add_step(store: Store, record: RunRecord, details: Json) -> Json:
    run = record.object
    step: Json = {"id": store.seeded.short("step_"), "object": "thread.run.step", "created_at": store.now()}
    step |= {"status": "in_progress", "type": details["type"], "step_details": details, "last_error": None}
    step |= {"metadata": {}, "run_id": run["id"], "usage": None}
    step |= {name: run[name] for name in ("assistant_id", "thread_id")}
    step |= dict.fromkeys(("completed_at", "expired_at", "cancelled_at", "failed_at"))
    record.steps[step["id"]] = step
    return step


def _step_delta(step: Json, call: Json) -> Event:
    details = {"type": "tool_calls", "tool_calls": [call]}
    return "thread.run.step.delta", {
        "id": step["id"],
        "object": "thread.run.step.delta",
        "delta": {"step_details": details},
    }
