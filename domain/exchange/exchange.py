"""Answer one question: try each backend until one answers. The question is journaled before.

`answered_by_a_backend` is the loop: `policy.py` decides each next step, and `runs.py` performs and records it. Three
things are decided with the events, inside the commit: a start on another backend after a failed run is a fallback
(`Conversation.start_run`); an exchange that a newer question replaced starts no more runs (`NoFurtherRuns`); an answer
that arrives after its run was closed is accepted or refused (`RunRecords.complete`).
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from ..conversation import Completion
from ..effects import Emit, Pause, work
from ..errors import AllBackendsFailed, CorruptEvent, ExchangeAnswered, ThreadledgerError
from ..failures import diagnose
from .policy import Pace
from .records import NEW_QUESTION
from .runs import NoFurtherRuns, Runs, failure_of_error, failure_of_stop

if TYPE_CHECKING:
    from ..effects import Effects
    from ..failures import Cause
    from ..journal import Journal
    from .answer import Answer
    from .policy import Policy
    from .records import Mode
    from .services import Services


def answered_by_a_backend(policy: Policy, pace: Pace, runs: Runs) -> Effects[Answer | None]:
    """Try each backend in order, with retries if its failures allow them, until one answers; return None if none did.

    Before the exchange is abandoned, threads are read once for an answer whose acknowledgement was lost.

    Raises:
        NoFurtherRuns: a newer question replaced this one, or a limit of the rerun is reached.
    """
    for number, candidate in enumerate(policy.candidates, 1):
        if pace.has_no_time():
            break
        later = policy.candidates[number:]
        refusal = pace.refusal(candidate, later)
        if refusal is not None:
            skipped = yield from runs.start(candidate, 1, pace.attempt_seconds(candidate))
            yield from runs.fail(skipped, refusal)
            pace.give_up(refusal)
            continue
        failed: Counter[Cause] = Counter()
        while True:
            run = yield from runs.start(candidate, failed.total() + 1, pace.attempt_seconds(candidate))
            outcome = yield from runs.call(run)
            if isinstance(outcome, Completion):
                pace.record_end(candidate, None)
                is_fallback = candidate.backend != policy.candidates[0].backend
                return (yield from runs.complete(run, outcome, is_fallback))
            pace.record_end(candidate, outcome)
            yield from runs.fail(run, outcome)
            failed[diagnose(outcome)] += 1
            pause = pace.pause_before_retry(candidate, later, outcome, failed)
            if pause is None:
                break
            yield Pause(pause)
            if pace.has_no_time():  # the pause took longer than planned
                break
    answer = yield from runs.lost_answer()
    if answer is None:
        yield from runs.abandon(pace.reason_to_abandon())
    return answer


class Exchange:
    """Run one exchange from its journaled question to its answer."""

    def __init__(
        self,
        journal: Journal,
        services: Services,
        key: str,
        exchange_id: str,
        *,
        mode: Mode = NEW_QUESTION,
        policy: Policy | None = None,
        after: int = 0,
        stream: bool = False,
    ) -> None:
        """Prepare an exchange.

        Args:
            mode: how its runs differ from those of a new question.
            policy: by default the policy of the services.
            after: a version before the exchange's first run; earlier events are not read.
            stream: whether a listener receives the text as it arrives.
        """
        self._journal = journal
        self._services = services
        self._key = key
        self._exchange_id = exchange_id
        self._policy = policy or services.policy
        self._after = after
        self._runs = Runs(journal, services, key, exchange_id, mode, self._policy, after=after, stream=stream)

    @property
    def made(self) -> list[str]:
        """Return the ids of the started runs."""
        return self._runs.made

    @property
    def limit(self) -> str:
        """Return the limit that prevented a run; empty if none did."""
        return self._runs.limit

    def run(self) -> Effects[Answer]:
        """Run the exchange, then send missing messages to its threads, unless the caller stopped the exchange.

        Raises:
            AllBackendsFailed: no backend answered.
            ConversationBusy: another process has a run open.
        """
        if self._services.load is not None:
            self._services.load()
        try:
            answer = yield from self._answer()
        except ExchangeAnswered:  # another caller with the same idempotency key got the answer first
            from .recorded_answers import recorded_answer

            answer = yield from work(
                lambda: recorded_answer(self._journal, self._key, self._exchange_id, self._after, self._services)
            )
            if answer is None:
                raise
        except Exception as error:
            # A damaged memory remains unreadable: no process can continue the exchange.
            if self._runs.current is not None or isinstance(error, CorruptEvent):
                failure = failure_of_error(error)
                with suppress(ThreadledgerError):  # the first error is raised; what stays open is closed as overdue
                    yield from work(lambda: self._runs.give_up(failure))
            if isinstance(error, CorruptEvent):
                error.args = (f"{error}; the question is kept, and can be rerun afterwards",)
            yield from self._mirror()
            raise
        except BaseException as stopped:
            yield from self.give_up(stopped)
            raise
        try:
            if answer is not None:
                yield Emit(answer)  # it is journaled: the caller need not wait for the threads
        finally:
            yield from self._mirror()
        if answer is None:
            raise (yield from work(self._all_failed))
        return answer

    def give_up(self, stopped: BaseException) -> Effects[None]:
        """Close the exchange, and its open run if it has one, because its process or its caller has stopped."""
        failure = failure_of_stop(stopped)
        yield from work(lambda: self._runs.give_up(failure))

    def _mirror(self) -> Effects[None]:
        """Send missing messages to the threads, if the conversation has any or gets one."""
        outbox = self._services.outbox
        if outbox is not None and (self._services.mirrored_to != "none" or self._runs.has_threads):
            yield from outbox.mirror(self._journal, self._key)

    def _answer(self) -> Effects[Answer | None]:
        pace = Pace(self._policy, self._services.random, health=self._services.health)
        try:
            return (yield from answered_by_a_backend(self._policy, pace, self._runs))
        except NoFurtherRuns:
            return None

    def _all_failed(self) -> AllBackendsFailed:
        recorded = self._journal.exchanges(self._key, self._after)
        failures = [each for each in recorded.failures() if each.run_id in self.made]
        return AllBackendsFailed(self._key, self._exchange_id, failures)
