"""Replay, two verbs that are never confused: `rebuild` writes memory and cannot call a model; `rerun` calls one.

Both make a plan first; nothing is done before `plan.apply()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from .audit import ExchangeRecord, Exchanges, FailureFilter, RunRecord
from .driving import perform
from .errors import InvalidInput
from .failures import Cause
from .journal import Journal
from .outside import Outside
from .rebuild import RebuildItem, RebuildPlan, Threads
from .rerun import RerunPlan, plan_exchanges, with_model
from .verification import Verification, Verifier

__all__ = ["RebuildItem", "RebuildPlan", "Replay", "RerunPlan", "Verification"]


class Replay:
    """Plans over the conversations of one ledger."""

    def __init__(self, journal: Journal, outside: Outside) -> None:
        self._journal = journal
        self._outside = outside
        self.verifier = Verifier(journal, outside.mirrors)
        self.threads = Threads(journal, outside.mirrors, outside.outbox, outside.wait)

    def plan_rebuild(
        self,
        keys: Sequence[str] | None = None,
        to: str | None = None,
        at: int | datetime | None = None,
        fresh: bool = False,
        limit: int | None = None,
    ) -> RebuildPlan:
        """Threads to be written anew from the journal: of these keys, or of all conversations.

        `to` is the kind of thread, by default the one that memory is mirrored to. `at` takes the memory as of a version or
        a time. `fresh` writes a new thread even where the linked one is sound.

        Raises:
            ConversationNotFound: no such conversation.
            InvalidInput: no threads of this kind can be reached.
        """
        target = to or self._outside.mirrored_to
        items = [self.threads.plan(key, target, at) for key in self.keys(keys)[:limit]]
        return RebuildPlan(items, self.threads, at, fresh)

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
    ) -> RerunPlan:
        """Exchanges to be run again: of these runs, of these conversations, or (`failed`) all that nobody answered;
        of the last two, those whose failures match `since`, `cause` and `backend`. `model` replaces the policy's models.
        `tools`: calls that are on record are answered from there (`recorded`), or made anew (`live`).

        Raises:
            InvalidInput: `tools` is neither.
            RunNotFound, ConversationNotFound: no such run or conversation.
        """
        if tools not in {"recorded", "live"}:
            raise InvalidInput(f"tools={tools!r} means nothing: give 'recorded' or 'live'")
        self._journal.close_overdue_runs()
        for key in keys:
            self._journal.require(key)
        wanted = FailureFilter.of(since, None, cause, None, backend, unanswered=True)
        chosen: dict[str, tuple[ExchangeRecord, RunRecord]] = {}
        for run_id in runs:
            run, folded = self._journal.run(run_id)
            chosen[run.exchange_id] = (folded.exchange_of(run), run)
        folded_by_key: dict[str, Exchanges] = {}
        for failure in self._journal.views.failures(wanted) if keys or failed else ():
            if failed or failure.key in keys:
                if failure.key not in folded_by_key:
                    folded_by_key[failure.key] = self._journal.exchanges(failure.key)
                folded = folded_by_key[failure.key]
                run = folded.runs[failure.run_id]
                chosen[run.exchange_id] = (folded.exchange_of(run), run)
        policy = with_model(self._outside.policy, model)
        return RerunPlan(
            plan_exchanges(self._journal, self._outside, list(chosen.values()), policy),
            self._journal,
            self._outside,
            policy,
            live_tools=tools == "live",
        )

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

    def keys(self, keys: Sequence[str] | None) -> Sequence[str]:
        """These keys, each once; or those of all conversations."""
        if keys is not None:
            return list(dict.fromkeys(keys))
        return self._journal.keys()
