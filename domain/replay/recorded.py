"""Read one recorded exchange with everything needed to reproduce it elsewhere.

This is the question, the memory, the backends, the number of attempts, and the result of each run. It is read-only, and
no model is called. `policy_of` infers the policy behind the runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

from ..conversation import Profile, RunRecord
from ..conversation import events as e
from ..conversation.messages import Message, Role, ToolCall, restore_message
from ..errors import InvalidInput
from ..exchange import SentOptions, may_be_retried
from ..failures import BACKEND_UNWELL, Cause, Failure, concerns_backend, diagnose, pause_before_retry
from ..journal import Journal
from ..limits import BREAKER_FAILURES, WAIT_BEFORE_FALLBACK_SECONDS
from ..memory import ALL


@dataclass(frozen=True)
class RecordedExchange:
    """Hold an exchange from its question to its end, or one rerun of it."""

    key: str
    exchange_id: str
    question: Message
    memory: tuple[Message, ...]
    """Messages before the question in the memory of the first run."""
    runs: tuple[RecordedRun, ...]
    profile: Profile
    memory_rule: str = ALL
    retries: int = 0
    """Number of retries after the first attempt of a backend, as inferred from the runs."""
    unwell: dict[str, int] = field(default_factory=dict)
    """Number of consecutive failures of each backend in earlier exchanges, as inferred from the runs."""
    linked: tuple[str, ...] = ()
    """Kinds of thread that held the memory, newest last."""
    results: tuple[tuple[str, str, str], ...] = ()
    """Tool calls as (function, arguments, result), in the order in which they were answered."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Metadata that was sent with the question."""
    left_out: tuple[str, ...] = ()
    """Descriptions of parts that could not be included, one sentence each."""

    @property
    def backends(self) -> tuple[str, ...]:
        """Return the backends that were called, in this order."""
        return tuple(dict.fromkeys(run.backend for run in self.runs))

    @property
    def answered_by(self) -> RecordedRun | None:
        """Return the run that answered, or None."""
        last = self.runs[-1]
        return last if last.failure is None else None


def recorded_exchange(journal: Journal, run_id: str, retries: int, backends: Sequence[str]) -> RecordedExchange:
    """Return the exchange of a run, by the run's id or an ending of it.

    It holds the runs up to the answer, or the runs of the rerun that the run belongs to. `retries` is the setting, used
    if the runs do not determine the number. `backends` names the backends that a question can be sent to.

    Raises:
        RunNotFound: no run, or more than one, has this id or ending.
        InvalidInput: the run is open, or cannot be reproduced because the app called the model itself.
    """
    run, folded = journal.run(run_id)
    chosen = [each for each in folded.exchange_of(run).runs if each.rerun_of == run.rerun_of]
    _refuse(run, chosen, backends)
    first, key = chosen[0], run.key
    seen = journal.memory(key, first.memory_version, leaf=first.memory_leaf_version)
    seen = seen.by_rule(_without_window(first.memory_rule))
    own = [each for each in seen.messages if each.exchange_id == run.exchange_id]
    asked = next((each.message for each in own if each.message.role is Role.USER), None)
    if asked is None:
        raise InvalidInput(
            f"the question of run {run.run_id} is no longer in memory, or was never journaled: it cannot be sent again"
        )
    before = [each.message for each in seen.messages if each.exchange_id != run.exchange_id]
    spoken = {each.run_id: _spoken(journal, key, each) for each in chosen}
    runs = tuple(_merged([_recorded(each, spoken[each.run_id]) for each in chosen]))
    found_retries, unwell = policy_of(runs, retries)
    usable = tuple(message for message in before if message.role is not Role.UNKNOWN)
    sent = SentOptions.of(journal, key, run.exchange_id, first.version)
    return RecordedExchange(
        key=key,
        exchange_id=run.exchange_id,
        question=asked,
        memory=usable,
        runs=runs,
        profile=journal.profile(first.profile_hash) or Profile(),
        memory_rule=next((each.memory_rule for each in chosen if each.memory_rule not in {ALL, "all"}), ALL),
        retries=found_retries,
        unwell=unwell,
        linked=_linked(journal, key, chosen[-1].version),
        results=tuple(_results([message for each in chosen for message in spoken[each.run_id]])),
        metadata=sent.event.metadata if sent is not None else {},
        left_out=tuple(_left_out(own, before, usable)),
    )


def _without_window(rule: str) -> str:
    """Return only the part of a rule that leaves out what others wrote after the question."""
    first = rule.partition(",")[0]
    return first if "question=" in first else ALL


def _refuse(run: RunRecord, chosen: Sequence[RunRecord], backends: Sequence[str]) -> None:
    open_run = next((each for each in chosen if each.state == "open"), None)
    if open_run is not None:
        raise InvalidInput(f"run {open_run.run_id} of this exchange is still open: wait for its end")
    foreign = next((each for each in chosen if each.backend not in backends), None)
    if foreign is not None and foreign.endpoint is not None:
        raise InvalidInput(
            f"run {foreign.run_id} was made on the named backend {foreign.backend!r}: only exchanges on "
            f"{', '.join(backends)} can be reproduced"
        )
    if foreign is not None:
        raise InvalidInput(
            f"the app called the model of run {run.run_id} itself, on {foreign.backend!r}: only questions sent through "
            f"threadledger ({', '.join(backends)}) can be reproduced"
        )


def _spoken(journal: Journal, key: str, run: RunRecord) -> list[Message]:
    """Return the journaled messages of a run and of its tools, in order."""
    journaled = (event for event in journal.history(key, after=run.version) if isinstance(event, e.MessageJournaled))
    return [restore_message(event) for event in journaled if event.run_id == run.run_id]


def _recorded(run: RunRecord, spoken: Sequence[Message]) -> RecordedRun:
    texts = [each.text for each in spoken if each.role is Role.ASSISTANT and not each.calls()]
    return RecordedRun(
        run_id=run.run_id,
        backend=run.backend,
        model=run.model,
        memory_hash=run.memory_hash,
        rounds=tuple(each.calls() for each in spoken if each.calls()),
        answer=texts[-1] if run.completed is not None and texts else None,
        finish_reason=run.completed.finish_reason if run.completed is not None else None,
        thread_id=run.completed.thread_id if run.completed is not None else None,
        failure=run.failure,
    )


def _merged(runs: Sequence[RecordedRun]) -> Iterator[RecordedRun]:
    """Merge runs that only requested tools into the run that continued with the results."""
    waiting: tuple[tuple[ToolCall, ...], ...] = ()
    for number, run in enumerate(runs, 1):
        goes_on = run.failure is None and run.answer is None and run.rounds and number < len(runs)
        if goes_on:
            waiting += run.rounds
            continue
        yield replace(run, rounds=waiting + run.rounds)
        waiting = ()


def _results(spoken: Sequence[Message]) -> Iterator[tuple[str, str, str]]:
    calls = {call.id: call for each in spoken for call in each.calls()}
    for each in spoken:
        call = calls.get(each.tool_call_id or "")
        if call is not None:
            yield call.name, call.arguments, each.text


def _linked(journal: Journal, key: str, upto: int) -> tuple[str, ...]:
    kinds = [
        event.backend
        for event in journal.history(key, upto=upto)
        if isinstance(event, e.ThreadLinked | e.ThreadRebuilt)
    ]
    return tuple(dict.fromkeys(reversed(kinds)))[::-1]


def _left_out(own: Sequence[object], before: Sequence[Message], usable: Sequence[Message]) -> Iterator[str]:
    if len(own) > 1:
        yield "messages that earlier runs of the exchange journaled after the question are not in the memory"
    if len(usable) < len(before):
        yield f"{len(before) - len(usable)} messages of a role that this version does not know"


RETRIES_TRIED_MAX = 20
"""Maximum number of retries of one backend that settings allow."""


@dataclass(frozen=True)
class RecordedRun:
    """Describe one run: the tools that its model requested in each round, and its answer or failure."""

    run_id: str
    backend: str
    model: str
    memory_hash: str | None
    rounds: tuple[tuple[ToolCall, ...], ...] = ()
    answer: str | None = None
    finish_reason: str | None = None
    thread_id: str | None = None
    failure: Failure | None = None

    @property
    def cause(self) -> Cause | None:
        """Return the cause of its failure, or None if it answered."""
        return diagnose(self.failure) if self.failure is not None else None

    @property
    def was_passed_over(self) -> bool:
        """Return whether its backend was cooling down and was not called."""
        return self.failure is not None and "failures_in_a_row" in self.failure.details


def policy_of(runs: Sequence[RecordedRun], retries: int) -> tuple[int, dict[str, int]]:
    """Return the number of retries that explains these runs, and the earlier failures of each backend.

    Earlier failures are inferred for a backend that was given up before its retries were used up, or was not called at
    all.
    """
    given_up = {tried: list(_given_up_early(runs, tried)) for tried in (retries, *range(RETRIES_TRIED_MAX + 1))}
    wrong = {tried: len(early) + _retried_too_often(runs, tried) for tried, early in given_up.items()}
    best = min(wrong, key=lambda tried: wrong[tried])
    unwell = {backend: max(BREAKER_FAILURES - met, 0) for backend, met in given_up[best]}
    return best, unwell | {run.backend: BREAKER_FAILURES for run in runs if run.was_passed_over}


def _given_up_early(runs: Sequence[RecordedRun], retries: int) -> Iterator[tuple[str, int]]:
    """Yield (backend, its consecutive failures in this exchange) for each backend given up before its last retry."""
    for backend, failures, followed in _failures(runs):
        if not followed and _would_retry(runs, backend, failures, retries):
            unwell = [diagnose(each) in BACKEND_UNWELL and concerns_backend(each) for each in failures]
            yield backend, unwell[::-1].index(False) if False in unwell else len(unwell)


def _retried_too_often(runs: Sequence[RecordedRun], retries: int) -> int:
    return sum(
        followed and not _would_retry(runs, backend, failures, retries)
        for backend, failures, followed in _failures(runs)
    )


def _failures(runs: Sequence[RecordedRun]) -> Iterator[tuple[str, list[Failure], bool]]:
    """Yield (backend, its failures up to one of them, whether it was called again after that)."""
    met: dict[str, list[Failure]] = {}
    for run, following in pairwise([*runs, None]):
        if run is not None and run.failure is not None and not run.was_passed_over:
            met[run.backend] = [*met.get(run.backend, []), run.failure]
            yield run.backend, met[run.backend], following is not None and following.backend == run.backend


def _would_retry(runs: Sequence[RecordedRun], backend: str, failures: Sequence[Failure], retries: int) -> bool:
    failed = Counter(diagnose(each) for each in failures)
    pause = pause_before_retry(len(failures), failures[-1], Random(0))  # noqa: S311 - jitter, not a secret
    is_last = backend == runs[-1].backend
    return may_be_retried(failures[-1], failed, retries) and (is_last or pause <= WAIT_BEFORE_FALLBACK_SECONDS)
