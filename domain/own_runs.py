"""An app's own model call, recorded as a run."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from .conversation import Conversation
from .errors import RunNotOpen
from .failures import Failure
from .ids import new_id
from .journal import Journal
from .outside import Outside
from .parsing import text_message
from .redaction import redact
from .runs import Completion, RunPlan


class OwnRun:
    """Open from `with chat.run(...)` on; `complete` journals the answer."""

    def __init__(self, journal: Journal, outside: Outside, key: str, plan: RunPlan) -> None:
        self._journal = journal
        self._outside = outside
        self._key = key
        self._began = time.monotonic()
        self._ended = False
        self.exchange_id, self.run_id = journal.commit(key, lambda it: _start(it, plan), create=True)

    def complete(self, text: str) -> None:
        """Journal the answer; the run is over.

        Raises:
            RunNotOpen: it was over already.
            InvalidMessage: the text cannot be stored; the run is still open.
        """
        completion = Completion((text_message("assistant", text),))
        self._journal.commit(
            self._key, lambda it: it.complete_run(self.run_id, completion, duration_seconds=self._elapsed())
        )
        self._ended = True
        self._outside.mirror(self._journal, self._key)

    def fail(self, error: BaseException) -> None:
        """Record an exception as the run's failure. Quiet where the run is over."""
        interrupted = not isinstance(error, Exception)
        self._fail(
            Failure(
                "interrupted" if interrupted else "error", type=type(error).__name__, message=redact(str(error)) or None
            )
        )

    def end(self) -> None:
        """A run that was left without an answer and without an error has failed too."""
        self._fail(Failure("error", code="no_answer", message="the block ended without run.complete(text)"))

    def _fail(self, failure: Failure) -> None:
        if self._ended:
            return
        self._ended = True

        def decide(conversation: Conversation) -> None:
            conversation.fail_run(self.run_id, failure, self._elapsed())
            conversation.abandon(self.exchange_id, "the app's own run failed")

        with suppress(RunNotOpen):  # closed as interrupted meanwhile: the app's own exception says more
            self._journal.commit(self._key, decide)

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 6)


def _start(conversation: Conversation, plan: RunPlan) -> tuple[str, str]:
    """Begin an exchange, or go on with the last one where nobody answered it and nothing was journaled since."""
    state = conversation.state
    last = state.abandoned.get(state.last_exchange_id or "")
    if last is None or state.last_exchange_id is None or last.get("messages") != state.messages:
        exchange_id = new_id()
        return exchange_id, conversation.start_run(exchange_id, plan)
    rerun_of = last["runs"][-1] if last["runs"] else None
    return state.last_exchange_id, conversation.start_run(state.last_exchange_id, replace(plan, rerun_of=rerun_of))
