"""An answer that stands in the thread already: the one of an earlier run of the exchange, whose answer was lost on the way."""

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
"""The finish reason of a run that asked nobody: the answer was there."""


def found_answer(request: BackendRequest) -> Effects[Completion | None]:
    """The answer that was found, told where somebody listens; None where nothing was, or where it ends with a call that
    still waits for its result."""
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
    """The failure of a run that wrote to its thread, or may have, where nobody could see it: whoever uses the thread next
    looks."""
    return replace(failure, details=dict(failure.details) | {LEFT_IN_THREAD: True})
