"""Verify threads as a job, which several processes do: each item compares one thread with the journal, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..effects import Effects, Wait
from ..errors import ConversationNotFound, ProviderRefused
from ..failures import diagnose
from ..threads import Verification, Verifier
from .jobs import Jobs
from .plan import Plan

if TYPE_CHECKING:
    from ..threads import ThreadState


@dataclass(frozen=True)
class VerifyItem:
    """Describe the verification of one thread."""

    key: str
    backend: str
    state: str = "planned"
    """`planned`, `done`, `skipped` (the conversation was deleted) or `failed` (the thread could not be read)."""
    reason: str = ""
    found: ThreadState | None = None
    """State of the thread, once it was read."""
    verification: Verification | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the outcome, with the state of the thread as `thread_state`."""
        facts = self.verification.as_json() if self.verification is not None else {}
        facts.pop("differences", None)
        found = self.found.value if self.found is not None else None
        own = {"key": self.key, "backend": self.backend, "thread_state": found, "state": self.state}
        return facts | own | {"reason": self.reason or facts.get("reason", "")}


class VerifyPlan(Plan[VerifyItem]):
    """Plan to compare threads with the journal."""

    kind: ClassVar[str] = "verify"

    def __init__(self, jobs: Jobs, wait: Wait, verifier: Verifier, places: Iterable[tuple[str, str]]) -> None:
        super().__init__(jobs, wait)
        self._verifier = verifier
        self._places = list(places)

    def planned(self) -> Iterator[VerifyItem]:
        return (VerifyItem(key, backend) for key, backend in self._places)

    def options(self) -> dict[str, Any]:
        return {}

    def pins(self) -> Iterator[Mapping[str, Any]]:
        return ({"key": key, "backend": backend} for key, backend in self._places)

    def step(self, pin: Mapping[str, Any]) -> Effects[VerifyItem]:
        key, backend = pin["key"], pin["backend"]
        try:
            found = yield from self._verifier.verifying(key, backend)
        except ProviderRefused as refused:
            return VerifyItem(key, backend, "failed", f"{diagnose(refused.failure).value}: {refused}")
        except ConversationNotFound:
            return VerifyItem(key, backend, "skipped", "the conversation was deleted")
        return VerifyItem(key, backend, "done", found=found.found.state, verification=found)
