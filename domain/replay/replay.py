"""Plan and run replays: `rebuild` writes memory and cannot call a model; `rerun` calls one.

Both make a plan first. Nothing is done before `plan.apply()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..conversation import ConversationState, FailureFilter, Profile
from ..effects import Effects, perform, work
from ..errors import InvalidInput
from ..exchange import Services
from ..failures import Cause
from ..journal import Journal
from ..signatures import checked
from ..threads import Verification, Verifier
from .jobs import Jobs, JobState
from .pinned import Pinned
from .plan import ApplyKeywords, Plan, Progress
from .rebuild import FileRebuildPlan, Rebuilder, RebuildPlan, at_in
from .reconcile import ReconcilePlan, Reconciler
from .rerun import RerunPlan
from .rerun_request import RerunItem, Wanted
from .verify import VerifyPlan

if TYPE_CHECKING:
    from .comparison import RerunComparison
    from .orphans import OrphanPlan


@checked()
class Replay:
    """Create plans over the conversations of one ledger, and manage its jobs."""

    def __init__(self, journal: Journal, services: Services) -> None:
        self._journal = journal
        self._services = services
        self.verifier = Verifier(journal, services.mirrors)
        self.rebuilder = Rebuilder(journal, services.outbox, self.verifier)
        self.reconciler = Reconciler(journal, services.outbox, self.verifier, self.rebuilder)
        self._jobs = Jobs(journal)

    def plan_rebuild(
        self,
        keys: Iterable[str] | None = None,
        to: str | None = None,
        at: int | datetime | None = None,
        fresh: bool = False,
        limit: int | None = None,
        search: str | None = None,
    ) -> RebuildPlan:
        """Plan to rewrite threads from the journal: of these keys, of those found by `search`, or of all.

        `to` is the kind of thread; by default, the kind that memory is mirrored to. `at` uses the memory as of a
        version or time. `fresh` writes a new thread even if the linked one equals the journal.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: no threads of this kind can be reached.
        """
        target = to or self._services.mirrored_to
        self.verifier.reach(target)
        pinned = self._pinned(keys, search, limit)
        return RebuildPlan(self._jobs, self._services.wait, self.rebuilder, pinned, target, at, fresh)

    def plan_orphans(self) -> OrphanPlan:
        """Plan to delete threads that a process created and that a crash kept from being linked."""
        from .orphans import plan_orphans

        return plan_orphans(self._journal, self._services)

    def plan_rebuild_file(
        self,
        path: str | Path,
        keys: Iterable[str] | None = None,
        at: int | datetime | None = None,
        limit: int | None = None,
        search: str | None = None,
    ) -> FileRebuildPlan:
        """Plan to write memories to a file, one line of JSON per conversation.

        The arguments have the same meaning as in `plan_rebuild`.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: this ledger cannot write files.
        """
        if self._services.memory_file is None:
            raise InvalidInput("this ledger was created without a MemoryFile: pass one to Services")
        pinned = self._pinned(keys, search, limit)
        return FileRebuildPlan(self._journal, self._services.memory_file, Path(path), pinned, at)

    def plan_rerun(
        self,
        runs: Iterable[str] | None = None,
        keys: Iterable[str] | None = None,
        failed: bool = False,
        since: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        backend: str | None = None,
        model: str | None = None,
        tools: str = "recorded",
        on: str | None = None,
        profile: Profile | None = None,
        into: str = "tail",
        include: Iterable[str] = (),
        until: datetime | timedelta | None = None,
    ) -> RerunPlan:
        """Plan to rerun exchanges, each with the memory that its run used.

        Exchanges are selected by runs, by conversations, or (`failed`) all that are unanswered. Every argument that is
        given narrows the selection: `failed` with `keys` selects the unanswered exchanges of these conversations, and
        an empty list selects none. `since`, `until`, `cause` and `backend` limit it to matching failures. Forks and
        shadows may rerun answered exchanges, too.

        Args:
            on: the backend to call, instead of the policy's backends.
            model: replaces the policy's models.
            profile: replaces the ledger's own profile.
            tools: reuse the results of recorded tool calls (`recorded`), or call the functions again (`live`).
            into: journal the answer where the user still waits (`tail`), in a copy of the conversation (`fork`), or not
                at all, and only show it (`shadow`).
            include: exchanges to run that are skipped otherwise: those with an answer (`answered`: the new one replaces
                it), those followed by newer messages (`overtaken`), those that last stopped at a tool which may have
                done its work (`tools`), and those that may have been answered unnoticed (`interrupted`).

        Raises:
            InvalidInput: an option is invalid, a tool of the profile holds a secret, or there is no such backend or cause.
            RunNotFound, ConversationNotFound: no such run or conversation.
        """
        chosen = None if keys is None else tuple(keys)
        for key in chosen or ():
            self._journal.require(key)
        if profile is not None:
            profile.check()
        matching = FailureFilter.of(since, until, cause, None, backend, unanswered=False)
        wanted = Wanted(
            None if runs is None else tuple(self._journal.run(run_id)[0].run_id for run_id in runs),
            chosen,
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
        plan = RerunPlan(self._jobs, self._journal, self._services, wanted)
        self._journal.close_overdue_runs()
        _ = plan.items  # evaluated now, so that the plan is pinned to the present state
        return plan

    def compare(self, item: RerunItem) -> RerunComparison | None:
        """Compare a rerun that has answered with what it repeats: text, model, tokens and duration.

        The original is the answer that the exchange had, or its failed run. None if the item has not answered.
        """
        from .comparison import compare_rerun

        return compare_rerun(self._journal, item)

    def plan_reconcile(
        self,
        keys: Iterable[str] | None = None,
        to: str | None = None,
        adopt: bool = False,
        limit: int | None = None,
    ) -> ReconcilePlan:
        """Plan to repair the threads of these keys, or of all conversations, at most `limit` conversations.

        Missing entries are sent. A thread that is out of order, gone, or not linked here is rewritten. Foreign entries
        are left and reported, or journaled with `adopt`. `to` is the kind of thread; by default, the kinds that are
        linked. The threads are read when the plan's items are read.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: no threads of this kind can be reached.
        """
        self._journal.close_overdue_runs()
        chosen = self.keys(keys)[:limit]
        places = list(self.places(chosen, to))
        for kind in {kind for _, kind in places}:
            self.verifier.reach(kind)
        return ReconcilePlan(self._jobs, self._services.wait, self.reconciler, places, adopt)

    def plan_verify(self, keys: Iterable[str] | None = None, to: str | None = None) -> VerifyPlan:
        """Plan to compare the threads of these keys, or of all conversations, with the journal, as a job.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: no threads of this kind can be reached.
        """
        places = list(self.places(keys, to))
        for kind in {kind for _, kind in places}:
            self.verifier.reach(kind)
        return VerifyPlan(self._jobs, self._services.wait, self.verifier, places)

    def jobs(self) -> list[JobState]:
        """Return all jobs of the ledger, newest first."""
        return self._jobs.all()

    def job(self, job_id: str) -> JobState:
        """Return a job by its id, or by an unambiguous ending of it.

        Raises:
            JobNotFound: no job, or more than one, has this id or ending.
        """
        return self._jobs.get(job_id)

    def results(self, job_id: str) -> list[dict[str, Any]]:
        """Return the results of a job so far, one for each ended item, in the order of the plan.

        Raises:
            JobNotFound: no such job.
        """
        found = {item["item"]: item for item in self._jobs.results(self._jobs.get(job_id).job_id)}
        return [found[number] for number in sorted(found)]

    def resume(self, job_id: str, progress: Progress | None = None, **how: Unpack[ApplyKeywords]) -> Plan[Any]:
        """Resume a job where it stopped, retry its failed items, and return its plan.

        Accepts the same arguments as the `apply` of that plan.

        Raises:
            JobNotFound: no such job.
            Conflict: the job was cancelled.
        """
        plan = self.plan_of(job_id)
        plan.apply(progress, **how)
        return plan

    def plan_of(self, job_id: str) -> Plan[Any]:
        """Return the plan of a job, in order to resume it: `each` and `apply` do the remaining items.

        Raises:
            JobNotFound: no such job.
        """
        job = self._jobs.get(job_id)
        plan = self._plan_again(job)
        plan.job = job
        return plan

    def reopen(self, job_id: str) -> int:
        """Reopen the failed items of a job for those who work on it; return their number.

        Raises:
            JobNotFound: no such job.
        """
        return self._jobs.reopen(self._jobs.get(job_id))

    def cancel(self, job_id: str) -> JobState:
        """Cancel a job; completed items are kept.

        Raises:
            JobNotFound: no such job.
            Conflict: the job is done or already cancelled.
        """
        return self._jobs.cancel(job_id)

    def _plan_again(self, job: JobState) -> Plan[Any]:
        options = job.options
        match job.kind:
            case "rebuild":
                self.verifier.reach(options["to"])
                at, fresh = at_in(options), bool(options.get("fresh"))
                return RebuildPlan(self._jobs, self._services.wait, self.rebuilder, Pinned(), options["to"], at, fresh)
            case "rerun":
                return RerunPlan(self._jobs, self._journal, self._services, Wanted.from_json(options))
            case "verify":
                return VerifyPlan(self._jobs, self._services.wait, self.verifier, ())
            case "reconcile":
                adopt = bool(options.get("adopt"))
                return ReconcilePlan(self._jobs, self._services.wait, self.reconciler, (), adopt)
        raise InvalidInput(f"a newer threadledger started job {job.job_id} ({job.kind}): resume it with that version")

    def verify(self, keys: Iterable[str] | None = None, to: str | None = None) -> list[Verification]:
        """Compare the threads of these keys, or of all conversations, with the journal, and note the outcome.

        Neither journal nor threads are changed.

        Raises:
            ConversationNotFound: no such conversation.
            ProviderRefused: the provider cannot be reached.
        """
        return perform(self.verifying(keys, to), self._services.wait)

    def verifying(self, keys: Iterable[str] | None = None, to: str | None = None) -> Effects[list[Verification]]:
        """Verify threads as effects; see `verify`."""
        found = []
        for key, kind in (yield from work(lambda: list(self.places(keys, to)))):
            found.append((yield from self.verifier.verifying(key, kind)))
        return found

    def places(self, keys: Iterable[str] | None, to: str | None) -> Iterator[tuple[str, str]]:
        """Return (key, kind of thread) of the threads to verify."""
        if to is not None:
            yield from ((key, to) for key in self.keys(keys))
            return
        if keys is None:
            every = self._journal.states_of(self.keys(None))
            yield from ((key, kind) for key, state in every for kind in self._kinds(state))
            return
        yield from ((key, kind) for key in self.keys(keys) for kind in self._kinds(self._journal.require(key).state))

    def _kinds(self, state: ConversationState) -> Sequence[str]:
        """Return the kinds of thread that a conversation has, including lost ones, else the kind that is mirrored to."""
        return [kind for kind in state.links if kind in self._services.mirrors] or [self._services.mirrored_to]

    def _pinned(self, keys: Iterable[str] | None, search: str | None, limit: int | None) -> Pinned:
        """Return keys with the current versions of their conversations; of all conversations, only the first `limit`."""
        if keys is not None:
            pairs = [(key, self._journal.require(key).version) for key in dict.fromkeys(keys)]
        elif search is not None:
            found = (each.key for each in self._journal.views.conversations(search=search))
            pairs = [(key, state.version) for key, state in self._journal.states_of(found)]
        elif limit is None:
            return Pinned.in_order(self._journal.versions())
        else:
            pairs = [*self._journal.versions(max(limit, 0))]
        return Pinned(pairs[:limit])

    def keys(self, keys: Iterable[str] | None) -> Sequence[str]:
        """Return these keys without duplicates, or the keys of all conversations."""
        if keys is not None:
            return list(dict.fromkeys(keys))
        return self._journal.keys()
