"""Replace a thread that is too long for the model, or whose content the provider refuses.

Otherwise every later question would repeat the failing call. Instead of a refused thread, the next run writes a new one
from the journal. Instead of one that is too long, later runs answer from a window of memory; `replay rebuild` writes a
new thread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..failures import Cause, Failure, diagnose
from ..memory import MISSING_FILES, UPLOADS_GONE
from ..threads import REFUSED

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..memory import Memory

STUCK = re.compile(
    r"no tool output found for function call|no tool call found for function call output"
    r"|item '?\w+'? of type '?\w+'? was provided without its required|item with id '?\w+'? not found",
    re.IGNORECASE,
)
"""The provider's words for a Conversation whose own content it refuses: every request there fails, whatever it adds.
Another refusal may be caused by what the request adds, and a new thread would not help."""


def reason_to_leave(failure: Failure) -> str | None:
    """Return why runs can no longer answer in the failure's thread, though they can without it; None if they can."""
    if failure.thread_id is None or failure.status == "incomplete":  # a limit of one run, such as max_prompt_tokens
        return None
    if STUCK.search(failure.message or "") or failure.details.keys() & {MISSING_FILES, UPLOADS_GONE}:
        return REFUSED
    cause = diagnose(failure)
    return cause.value if cause is Cause.CONTEXT_TOO_LONG else None


def leave_threads(conversation: Conversation, failure: Failure, memory: Memory, apart: bool) -> None:
    """Record that runs no longer answer in the thread of a failure, and how much memory they are given instead.

    Args:
        conversation: the conversation of the failed run.
        failure: why it failed.
        memory: what it was given.
        apart: whether it answered outside the linked thread: then its window was still too long.
    """
    reason = reason_to_leave(failure)
    again = apart and diagnose(failure) is Cause.CONTEXT_TOO_LONG
    for mirror, link in list(conversation.state.links.items()):
        if again and link.lost == Cause.CONTEXT_TOO_LONG:
            conversation.lose_thread(mirror, link.thread_id, link.lost, _window_after(failure, memory, again))
        elif reason is not None:
            window = _window_after(failure, memory, again) if reason == Cause.CONTEXT_TOO_LONG else None
            conversation.lose_thread(mirror, failure.thread_id or "", reason, window)


def _window_after(failure: Failure, memory: Memory, again: bool) -> int:
    """Return a budget that is likely to fit: three quarters of what the provider says fits, or half of the memory."""
    fits = re.search(r"maximum context length is ([\d,]+)", failure.message or "")
    half = memory.estimated_tokens() // 2
    most = int(fits[1].replace(",", "")) * 3 // 4 if fits is not None else half
    return max(min(most, half) if again else most, 1)
