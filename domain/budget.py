"""Track what a rerun may still do: runs and US dollars, shared by all exchanges in progress."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from .errors import InvalidInput


@dataclass(frozen=True)
class Limits:
    """Hold the limits of a rerun; None sets no limit."""

    max_runs: int | None = None
    max_cost: float | None = None
    """Maximum cost, in US dollars."""

    def __post_init__(self) -> None:
        """Validate the limits.

        Raises:
            InvalidInput: a limit is not positive.
        """
        for name, limit in (("max_runs", self.max_runs), ("max_cost", self.max_cost)):
            if limit is not None and not limit > 0:
                raise InvalidInput(f"{name}={limit} allows nothing: use a number greater than 0, or omit it")


class Budget:
    """Track what is left of the limits. Threads may share it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._runs = 0
        self._spent = 0.0
        self._under_way = 0.0

    @property
    def runs(self) -> int:
        """Return the number of runs that were made."""
        return self._runs

    @property
    def spent(self) -> float:
        """Return the US dollars spent, as far as they are known."""
        return self._spent

    def begin(self, estimate: float) -> str:
        """Start an exchange with an estimated cost, or return the limit that prevents it.

        Every exchange that was started must be ended.
        """
        with self._lock:
            reached = self._no_run_left()
            if self.limits.max_cost is not None and not reached:
                would_be = self._spent + self._under_way + estimate
                reached = self._told_cost() if would_be >= self.limits.max_cost else ""
            self._under_way += 0.0 if reached else estimate
            return reached

    def end(self, estimate: float, cost: float) -> None:
        """End an exchange that was started, and add its cost."""
        with self._lock:
            self._under_way = max(self._under_way - estimate, 0.0)
            self._spent += cost

    def take_run(self) -> str:
        """Count a run that is about to be made, or return the limit if no run is left."""
        with self._lock:
            reached = self._no_run_left()
            self._runs += 0 if reached else 1
            return reached

    def give_back_run(self) -> None:
        """Remove a counted run that was not made."""
        with self._lock:
            self._runs -= 1

    def _no_run_left(self) -> str:
        most = self.limits.max_runs
        return f"stopped by the limit of {most} runs" if most is not None and self._runs >= most else ""

    def _told_cost(self) -> str:
        return f"stopped by the limit of {self.limits.max_cost:g} USD: {self._spent:.4f} USD have been spent"
