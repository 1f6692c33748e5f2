"""Define one exchange of a rerun, as planned and with its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .messages import Usage

_NOT_TOLD = frozenset({"version", "kind", "runs_made"})


@dataclass(frozen=True, slots=True)
class RerunItem:
    """Describe one exchange: the run whose memory is shown again, the backend to call, and the outcome."""

    key: str
    exchange_id: str
    run_id: str
    state: str = "planned"
    """One of `planned`, `answered`, `failed` and `skipped`."""
    reason: str = ""
    answer: str | None = None
    new_run_id: str | None = None
    backend: str | None = None
    model: str | None = None
    estimated_tokens: int | None = None
    estimated_cost: float | None = None
    usage: Usage | None = None
    original: str | None = None
    """In a fork or a shadow: the recorded answer, or why there is none."""
    fork: str | None = None
    """Key of the conversation in which it is answered."""
    cost: float | None = None
    """US dollars for all runs that were made; None if a usage or a price is unknown."""
    version: int = 0
    """Version of the conversation when the item was planned."""
    kind: str = ""
    """Kinds of what prevented it, separated by commas: values of `INCLUDE`, or other words."""
    runs_made: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the keys that scripts rely on, and some more."""
        told = {name: getattr(self, name) for name in self.__slots__ if name not in _NOT_TOLD}
        return told | {"usage": self.usage.as_json() if self.usage else None}

    def pin(self) -> dict[str, Any]:
        """Return what another process needs to do the item."""
        pin = {"key": self.key, "version": self.version, "exchange_id": self.exchange_id, "run_id": self.run_id}
        return pin | ({"fork": self.fork} if self.fork is not None else {})

    @classmethod
    def of(cls, pin: Mapping[str, Any]) -> RerunItem:
        """Create an item from its pin."""
        return cls(pin["key"], pin["exchange_id"], pin["run_id"], version=pin["version"], fork=pin.get("fork"))
