"""Replay, two verbs that are never confused: `rebuild` writes memory and cannot call a model; `rerun` calls one.

Both make a plan first; nothing is done before `plan.apply()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from .audit import FailureFilter
from .driving import perform
from .errors import InvalidInput
from .failures import Cause
from .jobs import Jobs, JobState
from .journal import Journal
from .outside import Outside
from .plans import Plan, Progress
from .profiles import Profile
from .rebuild import RebuildItem, RebuildPlan, Threads, at_in
from .rebuild_file import FileRebuildPlan
from .reconcile import ReconcilePlan
from .reconciler import Reconciler
from .rerun import RerunPlan
from .rerun_wanted import Wanted
from .verification import Verification, Verifier

__all__ = ["RebuildItem", "RebuildPlan", "Replay", "RerunPlan", "Verification"]


class Replay:
    """Plans over the conversations of one ledger."""

    def __init__(self, journal: Journal, outside: Outside) -> None:
        self._journal = journal
        self._outside = outside
        self.verifier = Verifier(journal, outside.mirrors)
        self.threads = Threads(journal, outside.mirrors, outside.outbox, self.verifier)
        self.reconciler = Reconciler(journal, outside, self.verifier, self.threads)
        self._jobs = Jobs(journal)

    def plan_rebuild(
        self,
        keys: Sequence[str] | None = None,
        to: str | None = None,
        at: int | datetime | None = None,
        fresh: bool = False,
        limit: int | None = None,
        search: str | None = None,
    ) -> RebuildPlan:
        """Threads to be written anew from the journal: of these keys, of those that `search` finds, or of all conversations.

        `to` is the kind of thread, by default the one that memory is mirrored to. `at` takes the memory as of a version or
        a time. `fresh` writes a new thread even where the linked one is sound.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: no threads of this kind can be reached.
        """
        target = to or self._outside.mirrored_to
        self.verifier.reach(target)
        pinned = self._pinned(keys, search)[:limit]
        return RebuildPlan(self._jobs, self._outside.wait, self.threads, pinned, target, at, fresh)

    def plan_rebuild_file(
        self,
        path: str | Path,
        keys: Sequence[str] | None = None,
        at: int | datetime | None = None,
        limit: int | None = None,
        search: str | None = None,
    ) -> FileRebuildPlan:
        """Memories to be written into a file, one line of JSON a conversation; what is meant as in `plan_rebuild`.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: this ledger writes no files.
        """
        if self._outside.memory_file is None:
            raise InvalidInput("this ledger was put together without a MemoryFile: give one to Outside")
        pinned = self._pinned(keys, search)[:limit]
        return FileRebuildPlan(self._journal, self._outside.memory_file, Path(path), pinned, at)

    def plan_rerun(
        self,
        runs: Sequence[str] = (),
        keys: Sequence[str] = (),
        failed: bool = False,
        since: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        backend: str | None = None,
        model: str | None = None,
        tools: str = "recorded",
        on: str | None = None,
        profile: Profile | None = None,
        into: str = "tail",
        include: Sequence[str] = (),
        until: datetime | timedelta | None = None,
    ) -> RerunPlan:
        """Exchanges to be run again, each shown the memory that its run was shown: of these runs, of these conversations, or
        (`failed`) all that nobody answered; of the last two, those whose failures match `since`, `until`, `cause` and
        `backend`. A fork or a shadow may be made of answered ones, too.

        Args:
            on: the backend to ask, instead of those of the policy.
            model: replaces the policy's models.
            profile: replaces the ledger's own.
            tools: calls that are on record are answered from there (`recorded`), or made anew (`live`).
            into: the answer is journaled where the user still waits (`tail`), in a copy of the conversation (`fork`), or not
                at all, only shown (`shadow`).
            include: what is skipped otherwise: exchanges that have an answer (`answered`: the new one takes its place), that
                newer messages overtook (`overtaken`), that last stopped at a tool which may have done its work (`tools`),
                that may have been answered unseen (`interrupted`).

        Raises:
            InvalidInput: an option means nothing; there is no such backend or cause.
            RunNotFound, ConversationNotFound: no such run or conversation.
        """
        for key in keys:
            self._journal.require(key)
        matching = FailureFilter.of(since, until, cause, None, backend, unanswered=False)
        wanted = Wanted(
            tuple(self._journal.run(run_id)[0].run_id for run_id in runs),
            tuple(keys),
            failed,
            matching.since,
            matching.until,
            matching.cause,
            backend,
            model,
            tools,
            on,
            profile,
            into,
            tuple(dict.fromkeys(include)),
        )
        plan = RerunPlan(self._jobs, self._journal, self._outside, wanted)
        self._journal.close_overdue_runs()
        _ = plan.items  # looked at now: what is planned is pinned to what is there at this moment
        return plan

    def plan_reconcile(
        self,
        keys: Sequence[str] | None = None,
        to: str | None = None,
        adopt: bool = False,
        limit: int | None = None,
    ) -> ReconcilePlan:
        """Threads to be mended: those of these keys, or of all conversations, `limit` conversations at most.

        What a thread lacks is sent; one whose order is broken, that is gone or is not linked here, is written anew. What
        somebody else wrote there is left and told, or with `adopt` journaled. `to` is the kind of thread, by default those
        that are linked. The threads are read when the plan is looked at.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: no threads of this kind can be reached.
        """
        self._journal.close_overdue_runs()
        chosen = self.keys(keys)[:limit]
        places = list(self.places(chosen, to))
        for kind in {kind for _, kind in places}:
            self.verifier.reach(kind)
        return ReconcilePlan(self._jobs, self._outside.wait, self.reconciler, places, adopt)

    def jobs(self) -> list[JobState]:
        """Every job of the ledger, the newest first."""
        return self._jobs.all()

    def job(self, job_id: str) -> JobState:
        """One job, by its id or an ending of it that is its own.

        Raises:
            JobNotFound: none, or more than one, has this id or ending.
        """
        return self._jobs.get(job_id)

    def results(self, job_id: str) -> list[dict[str, Any]]:
        """What became of each item of a job so far, in the order of the plan.

        Raises:
            JobNotFound: no such job.
        """
        found = {item["item"]: item for item in self._jobs.results(self._jobs.get(job_id).job_id)}
        return [found[number] for number in sorted(found)]

    def resume(self, job_id: str, progress: Progress | None = None, **how: Any) -> Plan[Any]:
        """Go on with a job where it stopped, and try once more what failed; returns its plan, with the job as it stands then.
        Takes what the `apply` of such a plan takes.

        Raises:
            JobNotFound: no such job.
            Conflict: it was cancelled.
        """
        plan = self.plan_of(job_id)
        plan.apply(progress, **how)
        return plan

    def plan_of(self, job_id: str) -> Plan[Any]:
        """The plan of a job, to be gone on with: `each` and `apply` do what is left.

        Raises:
            JobNotFound: no such job.
        """
        job = self._jobs.get(job_id)
        plan = self._plan_again(job)
        plan.job = job
        return plan

    def cancel(self, job_id: str) -> JobState:
        """See to it that nobody goes on with a job; what was done stays done.

        Raises:
            JobNotFound: no such job.
            Conflict: there is nothing left to cancel.
        """
        return self._jobs.cancel(job_id)

    def _plan_again(self, job: JobState) -> Plan[Any]:
        options = job.options
        match job.kind:
            case "rebuild":
                self.verifier.reach(options["to"])
                at, fresh = at_in(options), bool(options.get("fresh"))
                return RebuildPlan(self._jobs, self._outside.wait, self.threads, (), options["to"], at, fresh)
            case "rerun":
                return RerunPlan(self._jobs, self._journal, self._outside, Wanted.from_json(options))
            case "reconcile":
                adopt = bool(options.get("adopt"))
                return ReconcilePlan(self._jobs, self._outside.wait, self.reconciler, (), adopt)
        raise InvalidInput(f"a newer threadledger began job {job.job_id} ({job.kind}): resume it with that version")

    def verify(self, keys: Sequence[str] | None = None, to: str | None = None) -> list[Verification]:
        """The journal against the threads: of these keys, or of all conversations; nothing is written.

        Raises:
            ConversationNotFound: no such conversation.
            ProviderRefused: the provider cannot be asked.
        """
        return [perform(self.verifier.verifying(key, kind), self._outside.wait) for key, kind in self.places(keys, to)]

    def places(self, keys: Sequence[str] | None, to: str | None) -> Iterator[tuple[str, str]]:
        """(key, kind of thread) of the threads to be verified."""
        return ((key, kind) for key in self.keys(keys) for kind in self._kinds(key, to))

    def _kinds(self, key: str, to: str | None) -> Sequence[str]:
        if to is not None:
            return (to,)
        return [kind for kind in self.verifier.links(key) if kind in self._outside.mirrors] or [
            self._outside.mirrored_to
        ]

    def _pinned(self, keys: Sequence[str] | None, search: str | None = None) -> Sequence[tuple[str, int]]:
        """Keys with the versions of their conversations at this moment."""
        if keys is not None:
            return [(key, self._journal.require(key).version) for key in dict.fromkeys(keys)]
        if search is not None:
            found = self._journal.views.conversations(search=search)
            return [(each.key, self._journal.require(each.key).version) for each in found]
        return self._journal.versions()

    def keys(self, keys: Sequence[str] | None) -> Sequence[str]:
        """These keys, each once; or those of all conversations."""
        if keys is not None:
            return list(dict.fromkeys(keys))
        return self._journal.keys()
