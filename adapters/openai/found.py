"""Use an answer that is already in the thread: one of an earlier run of the exchange, whose response was lost."""

from dataclasses import replace

from threadledger.domain import (
    LEFT_IN_THREAD,
    BackendRequest,
    Completion,
    Delta,
    Effects,
    Failure,
    Message,
    Role,
    Tell,
    whole_text,
)

FOUND = "found_in_thread"
"""Finish reason of a run that called no model because the answer was already in the thread."""


def found_answer(request: BackendRequest) -> Effects[Completion | None]:
    """Return the answer found in the thread and stream its text if requested.

    Returns:
        The answer, or None if no text was found, or if the items found include tool calls or results.
    """
    if not request.found or any(item.kind != "message" for item in request.found):
        return None
    texts = [whole_text(item.content) for item in request.found if item.content]
    if not texts:
        return None
    for index, text in enumerate(texts if request.stream else ()):
        yield Tell(Delta(text, message=index))
    messages = tuple(Message(Role.ASSISTANT, text) for text in texts)
    return Completion(messages, finish_reason=FOUND, thread_id=request.thread_id)


def left_there(failure: Failure) -> Failure:
    """Return the failure with a mark that its run wrote, or may have written, to the thread; the next use of the thread
    checks it."""
    return replace(failure, details=dict(failure.details) | {LEFT_IN_THREAD: True})
