"""One exchange of a rerun, as planned and as it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .messages import Usage

_NOT_TOLD = frozenset({"version", "kind", "runs_made"})


@dataclass(frozen=True, slots=True)
class RerunItem:
    """One exchange: the run whose memory is shown again, who is to be asked, and what came of it."""

    key: str
    exchange_id: str
    run_id: str
    state: str = "planned"
    """`planned`, `answered`, `failed` or `skipped`."""
    reason: str = ""
    answer: str | None = None
    new_run_id: str | None = None
    backend: str | None = None
    model: str | None = None
    estimated_tokens: int | None = None
    estimated_cost: float | None = None
    usage: Usage | None = None
    original: str | None = None
    """Of a fork and a shadow: the answer that is on record, or why there is none."""
    fork: str | None = None
    """The key of the conversation in which it is answered."""
    cost: float | None = None
    """US dollars for all runs that were made, as far as the provider says what they used."""
    version: int = 0
    """The conversation's, when it was planned."""
    kind: str = ""
    """What kept it from being done: a word of `INCLUDE`, or another one."""
    runs_made: int = 0

    def as_json(self) -> dict[str, Any]:
        """The keys that scripts rely on, and some more."""
        told = {name: getattr(self, name) for name in self.__slots__ if name not in _NOT_TOLD}
        return told | {"usage": self.usage.as_json() if self.usage else None}

    def pin(self) -> dict[str, Any]:
        """What it is done by, in this process or another one."""
        pin = {"key": self.key, "version": self.version, "exchange_id": self.exchange_id, "run_id": self.run_id}
        return pin | ({"fork": self.fork} if self.fork is not None else {})

    @classmethod
    def of(cls, pin: Mapping[str, Any]) -> RerunItem:
        """The item of a pin."""
        return cls(pin["key"], pin["exchange_id"], pin["run_id"], version=pin["version"], fork=pin.get("fork"))
