"""Record bulk work as jobs: each job is a stream of events, so that it can be resumed wherever it stopped.

    JobItemsPlanned …     the plan, stored before anything is done
    JobStarted            the plan is complete: from here on it is a job
    JobItemsEnded …       the outcomes of its items
    JobCancelled          it is not resumed

The current claims of workers on items are stored outside the event log (`ports.JobClaims`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ..conversation import events as e
from ..errors import Conflict, JobNotFound, LogRewound
from ..ids import new_id, now, to_iso
from ..journal import JobClaims, Journal, StreamHead
from ..limits import JOB_PINS_PER_EVENT, RUN_ENDING_CHARS_MIN

JOB = "job:"
"""Start of the name of a job's stream."""

DETACHED = "detached"
"""Option of a job that was handed over to workers: none of them needs a person to resume it."""

JOB_STATE_SCHEMA = 1
"""Schema number of a job's state as it is stored with its stream."""

NOT_RECORDED = frozenset({"answer", "original", "differences"})
"""Fields of an item's outcome that are not recorded: texts, which are in the conversation's own events."""


@dataclass(frozen=True)
class JobState:
    """Hold the state of a job.

    `done` counts done and answered items. Items left are neither done, skipped nor failed.
    """

    job_id: str = ""
    version: int = 0
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    items: int = 0
    planned: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    started_at: str | None = None
    last_at: str | None = None
    cancelled: bool = False
    holders: Sequence[str] = ()
    """The processes that are currently working on it, each with the end of its claims, for users."""

    @property
    def is_detached(self) -> bool:
        """Return whether workers do it."""
        return bool(self.options.get(DETACHED))

    @property
    def left(self) -> int:
        """Return the number of items that have not ended."""
        return self.items - self.done - self.skipped - self.failed

    @property
    def state(self) -> str:
        """Return `running`, `stopped` (it can be resumed), `done` or `cancelled`."""
        if self.cancelled:
            return "cancelled"
        if self.holders:
            return "running"
        return "stopped" if self.left else "done"

    def as_json(self) -> dict[str, Any]:
        """Return a row of `replay jobs`."""
        counts = {name: getattr(self, name) for name in ("items", "done", "skipped", "failed", "left")}
        times = {"started_at": self.started_at, "last_at": self.last_at}
        state = {"job": self.job_id, "kind": self.kind, "state": self.state}
        return state | counts | times | {"options": self.options, "held_by": list(self.holders)}


def evolve_job(state: JobState, event: e.Event) -> JobState:
    """Return the state after one more event. No event is rejected."""
    at = to_iso(event.timestamp)
    state = replace(state, version=event.originator_version, last_at=at)
    match event:
        case e.JobItemsPlanned():
            return replace(state, planned=state.planned + len(event.pins))
        case e.JobStarted():
            return replace(state, kind=event.kind, options=event.options, items=event.items, started_at=at)
        case e.JobItemsEnded():
            counts = {"done": state.done, "skipped": state.skipped, "failed": state.failed}
            for item in event.items:
                counts[_counted_as(item.get("state"))] += 1
                if item.get("before") is not None:
                    counts[_counted_as(item["before"])] -= 1
            return replace(state, done=counts["done"], skipped=counts["skipped"], failed=counts["failed"])
        case e.JobCancelled():
            return replace(state, cancelled=True)
    return state


def _counted_as(state: object) -> str:
    return state if state in {"skipped", "failed"} and isinstance(state, str) else "done"


class Jobs:
    """Manage the jobs of one ledger."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.claims: JobClaims = journal.job_claims
        self._seen: dict[str, JobState] = {}
        """Newest state of each job that was read or recorded here, so that a rewound log is noticed."""

    def start(self, kind: str, options: Mapping[str, Any], pins: Iterable[Mapping[str, Any]]) -> JobState:
        """Store a plan as a job."""
        job_id, first, waiting = new_id(), 0, iter(pins)
        while chunk := list(islice(waiting, JOB_PINS_PER_EVENT)):
            self._record(job_id, e.JobItemsPlanned, first=first, pins=[dict(pin) for pin in chunk])
            first += len(chunk)
        return self._record(job_id, e.JobStarted, kind=kind, items=first, options=dict(options))

    def all(self) -> list[JobState]:
        """Return all jobs, newest first. A plan whose storing was interrupted is not a job."""
        found = [self._state(head) for head in self._journal.heads(JOB)]
        begun = [state for state in found if state.started_at is not None]
        return sorted((self._with_holders(state) for state in begun), key=lambda state: state.job_id, reverse=True)

    def get(self, job_id: str) -> JobState:
        """Return a job by its id, or by an unambiguous ending of it.

        Raises:
            JobNotFound: no job, or more than one, has this id or ending.
            LogRewound: it was there before.
        """
        seen = self._seen.get(job_id)
        heads = self._journal.heads(JOB) if len(job_id) >= RUN_ENDING_CHARS_MIN else ()
        found = [head for head in heads if head.stream.endswith(job_id)]
        states = [state for state in map(self._state, found) if state.started_at is not None]
        states = [state for state in states if state.job_id == job_id] or states
        if not states and seen is not None:
            raise _rewound(seen)
        if len(states) != 1:
            problem = f"{len(states)} jobs end in {job_id!r}" if states else f"no job {job_id!r}"
            raise JobNotFound(f"{problem}: list the jobs with: threadledger replay jobs")
        return self._with_holders(self._noted(states[0], seen))

    def pins(self, job_id: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (number, pin) of every item, in the plan's order."""
        for event in self._events(job_id, e.JobItemsPlanned):
            yield from enumerate(event.pins, event.first)

    def ended(self, job: JobState) -> bytearray:
        """Return the outcome of each item as one byte.

        The byte is 0 if the item has not ended, else `d`, `s` or `f` for done, skipped or failed.
        """
        found = bytearray(job.items)
        for event in self._events(job.job_id, e.JobItemsEnded):
            for item in event.items:
                found[item["item"]] = ord(_counted_as(item.get("state"))[0])
        return found

    def results(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield the outcomes of items in the order in which they ended; a retried item appears again."""
        for event in self._events(job_id, e.JobItemsEnded):
            yield from event.items

    def end_items(self, job_id: str, items: Sequence[Mapping[str, Any]]) -> JobState:
        """Record the outcomes of items: their number (`item`), `state`, `reason` and facts."""
        kept = [
            {
                name: value
                for name, value in item.items()
                if name not in NOT_RECORDED and value not in (None, "", {}, [])
            }
            for item in items
        ]
        return self._record(job_id, e.JobItemsEnded, items=kept)

    def reopen(self, job: JobState) -> int:
        """Make the failed items of a job available again and return their number."""
        failed = [number for number, state in enumerate(self.ended(job)) if state == ord("f")]
        self.claims.reopen(job.job_id, failed)
        return len(failed)

    def current(self, job: JobState) -> JobState:
        """Return the newest state of a job, without its holders.

        Raises:
            LogRewound: events of the job that were read before are no longer in the log.
        """
        seen = self._seen.get(job.job_id, job)
        head = self._journal.head(JOB + job.job_id)
        return self._noted(self._state(head) if head is not None else JobState(job.job_id), seen)

    def cancel(self, job_id: str, reason: str = "") -> JobState:
        """Cancel a job: active workers end the current step, and completed items are kept.

        Raises:
            JobNotFound: no such job.
            Conflict: the job is done or already cancelled.
        """
        job = self.get(job_id)
        if job.state in {"done", "cancelled"}:
            raise Conflict(f"job {job.job_id} is {job.state} already: there is nothing to cancel")
        return self._record(job.job_id, e.JobCancelled, reason=reason)

    def _events(self, job_id: str, kind: type[Any]) -> Iterator[Any]:
        found = self._journal.stream(JOB + job_id, (kind.__name__,))
        return (event for event in found if isinstance(event, kind))

    def _record(self, job_id: str, event_class: type[e.Event], /, **carried: Any) -> JobState:
        recorded: list[JobState] = []
        seen = self._seen.get(job_id)

        def decide(head: StreamHead | None) -> tuple[e.Event, StreamHead]:
            before = _later(self._state(head) if head is not None else JobState(job_id), seen)
            event = event_class(
                originator_id=JOB + job_id,
                originator_version=before.version + 1,
                timestamp=now(),
                event_id=new_id(),
                **carried,
            )
            after = evolve_job(before, event)
            recorded[:] = [after]
            return event, StreamHead(JOB + job_id, after.version, JOB_STATE_SCHEMA, _stored(after))

        self._journal.append(JOB + job_id, decide)
        return self._noted(recorded[0], seen)

    def _noted(self, job: JobState, seen: JobState | None) -> JobState:
        """Note the stored state of a job; `seen` is what was known before it was read, as other threads record meanwhile."""
        if _later(job, seen).version >= self._seen.get(job.job_id, job).version:
            self._seen[job.job_id] = job
        return job

    def _state(self, head: StreamHead) -> JobState:
        if head.state_schema == JOB_STATE_SCHEMA:
            stored = json.loads(head.state)
            known = JobState.__dataclass_fields__
            return JobState(**{name: value for name, value in stored.items() if name in known})
        state = JobState(head.stream.removeprefix(JOB))
        for event in self._journal.stream(head.stream):
            state = evolve_job(state, event)
        return state

    def _with_holders(self, job: JobState) -> JobState:
        if not job.left and not job.failed:
            return job
        return replace(job, holders=tuple(sorted(set(self.claims.holders(job.job_id).values()))))


def _later(job: JobState, seen: JobState | None) -> JobState:
    """Return the job; raise LogRewound if it lacks what was seen before."""
    is_replaced = seen is not None and job.version == seen.version and job.last_at != seen.last_at
    if seen is not None and (job.version < seen.version or is_replaced):
        raise _rewound(seen)
    return job


def _rewound(job: JobState) -> LogRewound:
    return LogRewound(
        f"the log was rewound by a restored backup or a failover: what was recorded of job {job.job_id} is no longer in it, "
        "so nothing more is done; compare the threads with threadledger replay verify, then plan again"
    )


def _stored(state: JobState) -> str:
    kept = {name: value for name, value in vars(state).items() if name != "holders"}
    return json.dumps(kept, separators=(",", ":"))
