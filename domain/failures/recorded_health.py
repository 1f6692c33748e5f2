"""Derive the health of backends from their runs in the log, by the rule of `health.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..ids import to_iso
from .diagnosis import diagnose
from .failure import Cause
from .health import BackendEnd, Cooling, condition_after


def cooling_after(ends: Iterable[BackendEnd]) -> Cooling | None:
    """Return the cooldown of one backend after these calls, oldest first; it may be over by now."""
    return condition_after(ends).cooling


@dataclass(frozen=True)
class BackendHealth:
    """Describe the health of a backend, derived from its runs in the ledger."""

    backend: str
    failures_in_a_row: int
    last_cause: Cause | None
    """Cause of the newest outcome that reflects the backend's health; None if the backend answered."""
    last_at: datetime | None
    cooling_until: datetime | None
    """End of the cooldown; None if the backend is not cooling down."""

    @classmethod
    def of(cls, backend: str, ends: Iterable[BackendEnd], at: datetime) -> BackendHealth:
        """Return the health of a backend at a moment, from the outcomes of its calls, oldest first."""
        condition = condition_after(ends)
        last, cooling = condition.last, condition.cooling
        return cls(
            backend=backend,
            failures_in_a_row=condition.failures_in_a_row,
            last_cause=diagnose(last.failure) if last is not None and last.failure is not None else None,
            last_at=last.at if last is not None else None,
            cooling_until=cooling.until if cooling is not None and cooling.holds(at) else None,
        )

    @classmethod
    def of_each(cls, ends: Iterable[BackendEnd], at: datetime) -> list[BackendHealth]:
        """Return each backend's health at a moment, sorted by name, from the outcomes of all calls, oldest first."""
        by_backend: dict[str, list[BackendEnd]] = {}
        for end in ends:
            by_backend.setdefault(end.backend, []).append(end)
        return [cls.of(name, by_backend[name], at) for name in sorted(by_backend)]

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object, with times as ISO 8601 in UTC."""
        return {
            "backend": self.backend,
            "failures_in_a_row": self.failures_in_a_row,
            "last_cause": self.last_cause.value if self.last_cause is not None else None,
            "last_at": to_iso(self.last_at) if self.last_at is not None else None,
            "cooling_until": to_iso(self.cooling_until) if self.cooling_until is not None else None,
        }
