"""Record the runs of a shadow rerun: in separate events, so that the conversation and its exchange do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .records import Accepted, RunRecords

if TYPE_CHECKING:
    from ..conversation import Completion, Conversation, RunPlan
    from ..conversation.messages import Message
    from ..failures import Failure
    from ..journal import Journal
    from .records import Mode, Run


class ShadowRecords(RunRecords):
    """Record shadow runs in separate events, so that the conversation and its exchange do not change."""

    def __init__(self, journal: Journal, key: str, exchange_id: str, mode: Mode) -> None:
        super().__init__(journal, key, exchange_id, mode)
        self._used: list[Message] = []

    def plan(self, plan: RunPlan, in_thread: bool) -> RunPlan:
        """Return the plan of a shadow run, which never uses the linked thread."""
        self._used = []
        return plan.replaced(shadow=True, apart=in_thread)

    def start(self, plan: RunPlan, failed: Run | None, must_be_open: bool) -> str:
        """Record the run, and the fallback that led to it."""

        def decide(conversation: Conversation) -> str:
            if failed is not None:
                conversation.fall_back(self._exchange_id, failed.run_id, failed.candidate.backend, plan)
            return conversation.start_run(self._exchange_id, plan)

        return self._commit(decide)

    def keep_tools(self, run: Run, messages: Sequence[Message]) -> bool:
        """Keep tool messages for the answer's event."""
        self._used += messages
        return True

    def complete(self, run: Run, completion: Completion, fallback: bool) -> Accepted:
        """Record the answer in the run's own event; no message is journaled."""
        shown = replace(completion, messages=(*self._used, *completion.messages))

        def decide(conversation: Conversation) -> tuple[str, int]:
            run_id = run.run_id
            if run_id not in conversation.state.shadow_runs:  # closed as interrupted: its deadline had passed
                run_id = conversation.start_run(self._exchange_id, run.plan.replaced(rerun_of=run_id))
            conversation.complete_shadow_run(run_id, shown, run.duration_seconds)
            return run_id, conversation.version

        run_id, version = self._commit(decide)
        return Accepted(shown, run_id, "", version)

    def fail(self, run: Run, failure: Failure) -> bool:
        """Record the failure."""

        def decide(conversation: Conversation) -> None:
            if run.run_id in conversation.state.shadow_runs:
                conversation.fail_run(run.run_id, failure, run.duration_seconds)

        self._commit(decide)
        return True

    def abandon(self, reason: str) -> None:
        """Do nothing: the exchange stays as it is."""

    def give_up(self, run: Run | None, failure: Failure) -> None:
        """Close the open run."""
        if run is not None:
            self.fail(run, failure)
