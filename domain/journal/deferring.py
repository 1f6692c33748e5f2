"""Note for workers, in the commit that changes a conversation, that its threads are to be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..conversation import events as e
from .ports import Also

if TYPE_CHECKING:
    from ..conversation import ConversationState

CHANGES = (
    *(e.MessageJournaled, e.MessageRetracted, e.MemoryCleared, e.BranchSelected, e.RerunAccepted, e.MemoryCompacted),
    *(e.RunFailed, e.RunCompleted, e.ExchangeAbandoned, e.ExchangeCancelled, e.ThreadLost),
)
"""Events after which threads may lack something, or may be written to because an exchange has ended."""


def deferred(
    deferring: Callable[[str, str], Also],
    key: str,
    actor: str | None,
    decided: Sequence[e.Event],
    ends: Sequence[ConversationState],
    also: Also | None,
) -> Also:
    """Return what also notes that the threads of a conversation are to be written, unless an exchange is in progress.

    `decided` and `ends` hold the events and the state of the decision when this is called.
    """

    def note(cursor: Any) -> None:
        if also is not None:
            also(cursor)
        has_changed = any(isinstance(event, CHANGES) for event in decided)
        if has_changed and not any(state.open_runs or state.open_exchanges for state in ends):
            deferring(key, actor or "")(cursor)

    return note
