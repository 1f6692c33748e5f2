"""Verify a thread: read it back and compare it with the journal. No event is written, and no model can be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..conversation import ThreadLink
from ..effects import Effects, work
from ..errors import InvalidInput, ProviderRefused
from ..failures import Cause, diagnose
from ..journal import Journal
from ..journal.outcomes import note_outcome
from .mirror import ThreadMirror
from .thread import Comparison, Difference, ThreadItem, ThreadState, compare, differences
from .view import ThreadView, may_get_results, view_of


@dataclass(frozen=True)
class Verification:
    """Hold the comparison of one conversation's journal with its thread."""

    key: str
    backend: str
    thread_id: str | None
    found: Comparison
    reason: str = ""
    differences: Sequence[Difference] = ()
    """Differences entry by entry, in the thread's order; empty if no thread could be read."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the result; docs/commands.md lists the keys under `replay verify`."""
        place = {"key": self.key, "backend": self.backend, "thread_id": self.thread_id}
        counts = {name: count for name, count in vars(self.found).items() if name != "state"}
        outcome = {"state": self.found.state.value, "reason": self.reason}
        return place | counts | outcome | {"differences": [each.as_json() for each in self.differences]}


@dataclass(frozen=True)
class SideBySide:
    """Hold a thread that was read back, together with the journal."""

    verification: Verification
    journal: Sequence[ThreadItem]
    thread: Sequence[ThreadItem] | None = None
    """Entries of the thread; None if no thread can be read: it is not linked, lost, or belongs to another endpoint."""


class Verifier:
    """Read the threads of a ledger back and compare them with the journal."""

    def __init__(self, journal: Journal, mirrors: Mapping[str, ThreadMirror]) -> None:
        self._journal = journal
        self._mirrors = mirrors

    def verifying(self, key: str, to: str) -> Effects[Verification]:
        """Read one thread back and compare it with the journal.

        Raises:
            ProviderRefused: the provider cannot be reached. (A thread that is gone is a finding, not an error.)
        """
        found = yield from self.reading(key, to)
        if found.thread is None:
            return found.verification
        return replace(found.verification, differences=tuple(differences(found.journal, found.thread)))

    def reading(self, key: str, to: str) -> Effects[SideBySide]:
        """Read one thread back together with the journal; raises the errors of `verifying`."""
        link = (yield from work(lambda: self._journal.require(key))).state.links.get(to)
        view = yield from work(lambda: self.render(key, to, None, link.thread_id if link else None))
        if link is None:
            journal = len(view.items)
            none = Comparison(ThreadState.UNLINKED, journal, missing=journal)
            return SideBySide(Verification(key, to, None, none), view.items)
        read = yield from self._read(key, to, link, view)
        state = read.verification.found.state
        yield from work(lambda: note_outcome(self._journal, key, to, link, state.value, view.memory_version))
        return read

    def _read(self, key: str, to: str, link: ThreadLink, view: ThreadView) -> Effects[SideBySide]:
        """Read a linked thread back and compare it with the items that it should hold."""
        items, journal = view.items, len(view.items)
        thread_id = link.thread_id
        gone = Verification(key, to, thread_id, Comparison(ThreadState.GONE, journal, missing=journal), link.lost or "")
        if link.lost:
            return SideBySide(gone, items)
        mirror = self._mirrors[to]
        if link.endpoint != mirror.endpoint:
            elsewhere = Comparison(ThreadState.UNLINKED, journal, missing=journal)
            reason = f"the thread belongs to {link.endpoint}, but the settings name {mirror.endpoint}"
            return SideBySide(Verification(key, to, thread_id, elsewhere, reason), items)
        try:
            thread = yield from view.read(mirror, thread_id)
            items = view.held_by(thread)
            return SideBySide(Verification(key, to, thread_id, compare(items, thread)), items, thread)
        except ProviderRefused as refused:
            cause = diagnose(refused.failure)
            if cause not in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
                raise
            return SideBySide(replace(gone, reason=f"{cause.value}: {refused}"), items)

    def reach(self, to: str) -> ThreadMirror:
        """Return the mirror for a kind of thread.

        Raises:
            InvalidInput: no threads of this kind can be reached.
        """
        mirror = self._mirrors.get(to)
        if mirror is None:
            known = ", ".join(self._mirrors) or "none; set OPENAI_API_KEY, or set OPENAI_BASE_URL to a simulator"
            raise InvalidInput(f"no threads of kind {to!r} can be reached; available kinds: {known}")
        return mirror

    def render(self, key: str, to: str, at: int | datetime | None, thread_id: str | None = None) -> ThreadView:
        """Return what a thread of a kind should hold of a memory.

        Raises:
            InvalidInput: no threads of this kind can be reached.
        """
        mirror = self.reach(to)
        memory = self._journal.memory(key, at)
        return view_of(mirror, memory, thread_id, may_get_results(self._journal, key, memory))
