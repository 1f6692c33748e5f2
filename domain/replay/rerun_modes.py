"""The driver of an exchange that is run again: shown the memory that the failed run saw, within the limits of the rerun, its
answer put where it belongs. `ShadowAsking` only shows what would be answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ..conversation import AT_THE_END, TOO_LATE, Conversation, Place, RunPlan, recorded_failure
from ..conversation.messages import Message
from ..effects import Answer, Effects, Work
from ..errors import AllBackendsFailed
from ..exchange import (
    Asking,
    CallBackend,
    Candidate,
    CompleteRun,
    FailRun,
    Outside,
    Policy,
    StartRun,
    ToolFunction,
    answered,
)
from ..failures import Failure
from ..journal import Journal
from ..memory import Memory
from .rerun_request import Budget

Tools = Callable[[], Mapping[str, ToolFunction]]


class RerunAsking(Asking):
    """One exchange under way again."""

    def __init__(
        self,
        journal: Journal,
        outside: Outside,
        key: str,
        exchange_id: str,
        *,
        memory: Memory,
        rerun_of: str,
        policy: Policy,
        budget: Budget,
        tools: Tools,
        supersedes: str | None = None,
        place: Callable[[], Place] = lambda: AT_THE_END,
    ) -> None:
        """`memory` is shown to whoever is asked; `tools` are made anew for each run: what one has called, the next finds on
        record. `supersedes` is the run whose answer is to be replaced, `place` tells where the answer goes."""
        super().__init__(journal, outside, key, exchange_id, rerun_of=rerun_of, again=True, policy=policy)
        self._shown = memory
        self._budget = budget
        self._tools_on_record = tools
        self._supersedes = supersedes
        self._where = place
        self.limit = ""
        """The limit that kept a run from being made."""
        self.made: list[str] = []
        """The ids of the runs that were made."""

    def _start(self, step: StartRun) -> Effects[str]:
        self.limit = self._budget.take_run()
        if self.limit:
            yield Work(partial(self._abandon, self.limit))
            self._overtaken = True
            return ""
        try:
            run_id = yield from super()._start(step)
        except BaseException:
            self._budget.give_back_run()
            raise
        if run_id:
            self.made.append(run_id)
        else:
            self._budget.give_back_run()
        return run_id

    def _begin(self, step: StartRun) -> str:
        self._tools = self._tools_on_record()
        return super()._begin(step)

    def _view(self, candidate: Candidate) -> Memory:
        return self._shown

    def _noted(self, plan: RunPlan) -> RunPlan:
        """In the linked thread only where it shows what the failed run saw."""
        in_thread = self._outside.backends[plan.backend].thread is not None
        apart = in_thread and self._journal.memory(self._key).digest() != plan.memory_hash
        return replace(plan, apart=apart, supersedes_run_id=self._supersedes)

    def _place(self) -> Place:
        return self._where()

    def _fail(self, step: FailRun) -> Effects[None]:
        yield from super()._fail(step)
        yield Work(partial(self._take_out_tools, step.run_id))

    def _take_out_tools(self, run_id: str) -> None:
        """What a failed run asked of tools does not belong at the end of a memory that has gone on; it stays on record."""
        if self._where() == AT_THE_END:
            return
        used = [each.message_id for each in self._journal.memory(self._key).messages if each.run_id == run_id]

        def decide(conversation: Conversation) -> None:
            for message_id in used:
                conversation.retract(message_id, TOO_LATE)

        self._journal.commit(self._key, decide)

    def _nobody(self) -> AllBackendsFailed:
        exchange = self._journal.exchanges(self._key).by_id.get(self._exchange_id)
        failed = [run for run in exchange.runs if run.failure and run.run_id in self.made] if exchange else []
        failures = [recorded_failure(run, exchange) for run in failed] if exchange else []
        return AllBackendsFailed(self._key, self._exchange_id, failures)


class ShadowAsking(RerunAsking):
    """A rerun that is only to be looked at: its runs are recorded, and nothing else changes. `outside` is without an outbox."""

    def _noted(self, plan: RunPlan) -> RunPlan:
        self._used: list[Message] = []
        return replace(plan, shadow=True, apart=self._outside.backends[plan.backend].thread is not None)

    def _open(self, conversation: Conversation, plan: RunPlan) -> str:
        if self._failed is not None:
            failed = self._failed
            conversation.fall_back(self._exchange_id, failed.run_id, failed.candidate.backend, plan)
        return conversation.start_run(self._exchange_id, plan)

    def _journal_tools(self, run_id: str, messages: Sequence[Message]) -> None:
        self._used += messages

    def _accept(self, step: CompleteRun) -> Answer:
        completion = replace(step.completion, messages=(*self._used, *step.completion.messages))

        def decide(conversation: Conversation) -> tuple[str, int]:
            run_id = step.run_id
            if run_id not in conversation.state.shadow_runs:  # closed as interrupted: its deadline had passed
                run_id = conversation.start_run(self._exchange_id, replace(self._plan, rerun_of=run_id))
            conversation.complete_shadow_run(run_id, completion, round(time.monotonic() - self._began, 6))
            return run_id, conversation.version

        run_id, version = self._journal.commit(self._key, decide)
        recorded = self._journal.exchanges(self._key).by_id[self._exchange_id]
        about = {"key": self._key, "run_id": run_id, "message_id": ""}
        return answered(recorded, completion, step.candidate, **about, fallback=step.fallback, version=version)

    def _fail(self, step: FailRun) -> Effects[None]:
        yield Work(partial(self._end, step, step.failure))
        self._failed = step

    def _give_up(self, failure: Failure) -> None:
        if self._run is not None:
            self._end(self._run, failure)

    def _end(self, step: FailRun | CallBackend, failure: Failure) -> None:
        def decide(conversation: Conversation) -> None:
            if step.run_id in conversation.state.shadow_runs:
                conversation.fail_run(step.run_id, failure, round(time.monotonic() - self._began, 6))

        self._journal.commit(self._key, decide)

    def _abandon(self, reason: str) -> None:
        """Its exchange is as it was."""
