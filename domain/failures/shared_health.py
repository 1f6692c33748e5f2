"""Track the health of backends over all processes: a backend that cools down for one cools for all, and one of them probes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from ..errors import StoreError
from ..ids import now
from ..limits import BACKEND_TIMEOUT_SECONDS, SHARED_HEALTH_SECONDS
from .failure import Failure
from .health import BackendEnd, Condition, Cooling, Health

__all__ = ["Cooldowns", "Cooling", "SharedCooling", "SharedHealth"]


class SharedCooling(NamedTuple):
    """Hold the last cooldown of a backend, and until when a process probes it."""

    cooling: Cooling
    probe_until: datetime | None = None

    def holds(self, at: datetime) -> Cooling | None:
        """Return the cooldown, or the probe of another process, at this moment; None if the backend may be called."""
        if self.cooling.holds(at):
            return self.cooling
        if self.probe_until is None or at >= self.probe_until:
            return None
        return Cooling(self.cooling.until, self.probe_until, self.cooling.failures_in_a_row, self.cooling.last)


class Cooldowns(Protocol):
    """Keep the cooldowns of backends where all processes see them; each method may raise `StoreError`."""

    def cooling(self) -> Mapping[str, SharedCooling]:
        """Return the last cooldown of each backend that has not answered since."""
        ...

    def cool(self, backend: str, cooling: Cooling) -> None:
        """Store that a backend cools down, so that all processes skip it."""
        ...

    def clear(self, backend: str) -> None:
        """Allow all processes to call a backend again: it has answered."""
        ...

    def probe(self, backend: str, at: datetime, until: datetime) -> bool:
        """Return whether this caller is the one that probes a backend whose cooldown is over."""
        ...


class SharedHealth(Health):
    """Track the health of backends in this process, and share their cooldowns with all others.

    What is shared is a hint: while it cannot be read or written, this process goes by its own calls.
    """

    def __init__(
        self, shared: Cooldowns, now: Callable[[], datetime] = now, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(now)
        self._shared = shared
        self._clock = clock
        self._known: dict[str, SharedCooling] = {}
        self._looked_at = float("-inf")

    def saw(self, backend: str, failure: Failure | None, at: datetime) -> None:
        super().saw(backend, failure, at)
        known = self._known.get(backend)
        if known is None:
            cooling = super().cooling(backend, at)
            if failure is not None and cooling is not None:
                self._cool(backend, cooling)
            return
        last = BackendEnd(backend, known.cooling.since, known.cooling.last)
        condition = Condition(known.cooling.failures_in_a_row, last).after(BackendEnd(backend, at, failure))
        if not condition.failures_in_a_row:
            self._known.pop(backend, None)
            with suppress(StoreError):
                self._shared.clear(backend)
        elif condition.last is not last and condition.cooling is not None:
            self._cool(backend, condition.cooling)

    def cooling(self, backend: str, at: datetime) -> Cooling | None:
        found = self._others().get(backend)
        return super().cooling(backend, at) or (found.holds(at) if found is not None else None)

    def enter(self, backend: str, at: datetime, seconds: float = BACKEND_TIMEOUT_SECONDS) -> Cooling | None:
        cooling = self.cooling(backend, at)
        if cooling is not None or backend not in self._known:
            return cooling or super().enter(backend, at, seconds)
        try:
            if self._shared.probe(backend, at, at + timedelta(seconds=seconds)):
                return super().enter(backend, at, seconds)
        except StoreError:
            return super().enter(backend, at, seconds)
        self._looked_at = float("-inf")  # another process probes, or has found out how the backend is
        return self.cooling(backend, at)

    def _cool(self, backend: str, cooling: Cooling) -> None:
        self._known[backend] = SharedCooling(cooling)
        with suppress(StoreError):
            self._shared.cool(backend, cooling)

    def _others(self) -> Mapping[str, SharedCooling]:
        if self._clock() - self._looked_at >= SHARED_HEALTH_SECONDS:
            with suppress(StoreError):
                self._known = dict(self._shared.cooling())
            self._looked_at = self._clock()
        return self._known
