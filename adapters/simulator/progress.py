"""How a run goes on: one state whenever it is looked at.

queued -> in_progress -> completed | failed | incomplete | expired | cancelled
                      -> requires_action -> (outputs) -> queued -> …
cancelling -> cancelled
"""

from .answers import Answer, called, echo, first_half, text_of, token_count
from .call import Json
from .outcomes import End, Failure, Incomplete, Outcome
from .store import RunRecord, Store, ThreadRecord
from .threads import ENDS, new_message, text_part

# Why a message is incomplete when its run is (openai-python types/beta/threads/message.py).
MESSAGE_REASONS = {"max_completion_tokens": "max_tokens", "max_prompt_tokens": "max_tokens"}


def advance(store: Store, thread: ThreadRecord, record: RunRecord) -> None:
    """Move a run on by one state; nothing happens to one that has ended or waits for tool outputs."""
    run = record.object
    if run["status"] in ENDS:
        return
    if run["status"] == "cancelling":
        _end(store, record, "cancelled")
    elif store.clock() >= run["expires_at"]:
        _end(store, record, "expired")
    elif run["status"] == "queued":
        run |= {"status": "in_progress", "started_at": run["started_at"] or store.now()}
    elif run["status"] == "in_progress":
        _finish(store, thread, record)


def resume(store: Store, record: RunRecord, outputs: dict[str, str]) -> None:
    """The app has answered every tool call: the run is queued again."""
    step = next(reversed(record.steps.values()))
    for call in step["step_details"]["tool_calls"]:
        call["function"]["output"] = outputs[call["id"]]
    step |= {"status": "completed", "completed_at": store.now(), "usage": _usage(0, 0)}
    record.object |= {"status": "queued", "required_action": None}


def _finish(store: Store, thread: ThreadRecord, record: RunRecord) -> None:
    run, outcome = record.object, record.outcome
    if not thread.messages and outcome is None:
        # Seen on the real service: a run on an empty thread fails and names no reason.
        outcome = Failure()
    prompt = token_count(run["instructions"]) if thread.messages else 0
    prompt += sum(token_count(text_of(message["content"])) for message in thread.messages.values())
    if outcome is not None:
        _end_badly(store, thread, record, outcome, prompt)
        return
    answer = store.answers.next(_asked(thread))
    if answer.tool_calls:
        _ask_for_tools(store, record, answer)
        return
    _say(store, thread, record, answer.text)
    spent = token_count(answer.text)
    run |= {"status": "completed", "completed_at": store.now(), "expires_at": None, "usage": _usage(prompt, spent)}


def _asked(thread: ThreadRecord) -> str:
    said = (m for m in reversed(thread.messages.values()) if m["role"] == "user")
    return next((text_of(message["content"]) for message in said), "")


def _end_badly(store: Store, thread: ThreadRecord, record: RunRecord, outcome: Outcome, prompt: int) -> None:
    run = record.object
    match outcome:
        case Failure(code, message):
            run |= {"last_error": {"code": code, "message": message}, "usage": _usage(prompt, 0)}
            _end(store, record, "failed")
        case Incomplete(reason):
            partial = first_half(echo(_asked(thread)).text)
            _say(store, thread, record, partial, MESSAGE_REASONS.get(reason, reason))
            run |= {"incomplete_details": {"reason": reason}, "usage": _usage(prompt, token_count(partial))}
            _end(store, record, "incomplete")
        case End(status):
            run |= {"usage": _usage(prompt, 0)}
            _end(store, record, status)


def _end(store: Store, record: RunRecord, status: str) -> None:
    now, run = store.now(), record.object
    stamps = {"cancelled": "cancelled_at", "failed": "failed_at", "incomplete": "completed_at"}
    run |= {"status": status, "required_action": None}
    run["usage"] = run["usage"] or _usage(0, 0)
    if status in stamps:
        run[stamps[status]] = now
    if status != "expired":
        run["expires_at"] = None
    for step in record.steps.values():
        if step["status"] == "in_progress":
            # A step waits only while its run does, and a waiting run can only be cancelled or expire.
            step |= {"status": status, f"{status}_at": now, "usage": _usage(0, 0)}


def _ask_for_tools(store: Store, record: RunRecord, answer: Answer) -> None:
    calls = [called(store.seeded, wanted) for wanted in answer.tool_calls]
    record.object |= {
        "status": "requires_action",
        "required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}},
    }
    # A copy, for the step gets the outputs later and the run's own list does not.
    copies = [{**call, "function": {**call["function"], "output": None}} for call in calls]
    _add_step(store, record, {"type": "tool_calls", "tool_calls": copies}, "in_progress")


def _say(store: Store, thread: ThreadRecord, record: RunRecord, text: str, incomplete: str | None = None) -> None:
    run = record.object
    message = new_message(store, thread, "assistant", [text_part(text)])
    message |= {"assistant_id": run["assistant_id"], "run_id": run["id"]}
    if incomplete is not None:
        message |= {"status": "incomplete", "incomplete_at": message["completed_at"], "completed_at": None}
        message["incomplete_details"] = {"reason": incomplete}
    thread.messages[message["id"]] = message
    details = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
    _add_step(store, record, details, "completed", token_count(text))


def _add_step(store: Store, record: RunRecord, details: Json, status: str, spent: int = 0) -> None:
    run, now, done = record.object, store.now(), status == "completed"
    step: Json = {"id": store.seeded.short("step_"), "object": "thread.run.step", "created_at": now, "status": status}
    step |= {"type": details["type"], "step_details": details, "last_error": None, "metadata": {}}
    step |= {name: run[name] for name in ("assistant_id", "thread_id")}
    step |= {"run_id": run["id"], "completed_at": now if done else None, "usage": _usage(0, spent) if done else None}
    step |= dict.fromkeys(("expired_at", "cancelled_at", "failed_at"))
    record.steps[step["id"]] = step


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
