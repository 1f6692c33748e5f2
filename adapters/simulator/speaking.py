"""Write what a run adds to its thread: a message with its step, or a step that waits for tool outputs.

Each function yields events, (name, object), as they happen. If they were not read to the end, it can be called again.
"""

from collections.abc import Iterator

from .answers import token_count
from .call import Json
from .store import RunRecord, Store, ThreadRecord
from .streams import pieces
from .threads import new_message, text_part

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
