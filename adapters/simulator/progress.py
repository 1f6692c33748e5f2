"""Advance a run: by one state each time it is retrieved, or state by state as its stream is read.

queued -> in_progress -> completed | failed | incomplete | expired | cancelled
                      -> requires_action -> (outputs) -> queued -> …
cancelling -> cancelled
"""

from collections.abc import Iterator

from .answers import Answer, called, echo, first_half, text_of, token_count
from .call import Json
from .outcomes import End, Failure, Incomplete, Outcome
from .speaking import Event, ask_for_tools, break_off, say
from .store import RunRecord, Store, ThreadRecord
from .threads import ENDS

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
