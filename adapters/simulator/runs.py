"""Handle /v1/threads/{thread_id}/runs: create, retrieve and cancel runs, and submit tool outputs."""

from typing import Any

from .assistants import checked_tools
from .call import Call, Json
from .errors import bad_request, no_such
from .limits import INSTRUCTIONS_MAX_CHARS, RUN_EXPIRES_AFTER_SECONDS, RUN_TOOLS_MAX
from .pages import page
from .progress import advance, resume
from .run_stream import streamed
from .speaking import Event
from .store import RunRecord, Store, ThreadRecord
from .streams import EventStream
from .threads import ENDS, active_run, add_message, new_thread
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
