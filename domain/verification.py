"""Verify: a thread read back and compared with the journal. Nothing is written, and no model can be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .diagnosis import diagnose
from .effects import Effects, Work
from .errors import InvalidInput, ProviderRefused
from .failures import Cause
from .journal import Journal
from .ports import ThreadMirror
from .threads import Comparison, Rendering, ThreadState, compare


@dataclass(frozen=True)
class Verification:
    """One conversation's journal against its thread."""

    key: str
    backend: str
    thread_id: str | None
    found: Comparison
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The keys of CONTRACT.md."""
        place = {"key": self.key, "backend": self.backend, "thread_id": self.thread_id}
        counts = {name: count for name, count in vars(self.found).items() if name != "state"}
        return place | counts | {"state": self.found.state.value, "reason": self.reason}


class Verifier:
    """The threads of a ledger, read back and compared with the journal."""

    def __init__(self, journal: Journal, mirrors: Mapping[str, ThreadMirror]) -> None:
        self._journal = journal
        self._mirrors = mirrors

    def verifying(self, key: str, to: str) -> Effects[Verification]:
        """Read one thread back and compare it with the journal.

        Raises:
            ProviderRefused: the provider cannot be asked (a thread that is gone is a finding, not an error).
        """
        link = (yield Work(lambda: self._journal.require(key))).state.links.get(to)
        rendering, _ = yield Work(lambda: self.render(key, to, None, link["thread_id"] if link else None))
        journal = len(rendering.items)
        if link is None:
            return Verification(key, to, None, Comparison(ThreadState.UNLINKED, journal, missing=journal))
        thread_id = link["thread_id"]
        gone = Verification(
            key, to, thread_id, Comparison(ThreadState.GONE, journal, missing=journal), link["lost"] or ""
        )
        if link["lost"]:
            return gone
        mirror = self._mirrors[to]
        if link["endpoint"] != mirror.endpoint:
            elsewhere = Comparison(ThreadState.UNLINKED, journal, missing=journal)
            reason = f"the thread is at {link['endpoint']}, the settings name {mirror.endpoint}"
            return Verification(key, to, thread_id, elsewhere, reason)
        try:
            return Verification(key, to, thread_id, compare(rendering.items, (yield from mirror.read(thread_id))))
        except ProviderRefused as refused:
            cause = diagnose(refused.failure)
            if cause not in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
                raise
            return replace(gone, reason=f"{cause.value}: {refused}")

    def links(self, key: str) -> Sequence[str]:
        """The kinds of thread that a conversation has, lost ones included."""
        return tuple(self._journal.require(key).state.links)

    def render(
        self, key: str, to: str, at: int | datetime | None, thread_id: str | None = None
    ) -> tuple[Rendering, int]:
        """What a thread of a kind can carry of a memory, and the version of that memory.

        Raises:
            InvalidInput: no threads of this kind can be reached.
        """
        mirror = self._mirrors.get(to)
        if mirror is None:
            known = ", ".join(self._mirrors) or "none: set OPENAI_API_KEY, or OPENAI_BASE_URL to a simulator"
            raise InvalidInput(f"no threads of kind {to!r} can be reached: there are {known}")
        memory = self._journal.memory(key, at)
        return mirror.render(memory.settled(), thread_id), memory.version
