"""Define what a handler of the served API is given: the server's parts, the caller, and the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from threadledger.domain.ledger import Ledger

from ..wire import EventStream, Json, RouteCall

if TYPE_CHECKING:
    from .serve_settings import ServeSettings


@dataclass(frozen=True)
class Caller:
    """Describe who sent a request: the name of its key, and what that key reaches."""

    name: str = ""
    """Name of the key; empty on loopback without one."""
    tenant: str = ""
    """The tenant whose objects it reaches; empty for those of none."""
    read_only: bool = False

    @property
    def actor(self) -> str | None:
        """Return the actor of the events that the request causes."""
        return f"key:{self.name}" if self.name else None


@dataclass
class ServedCall(RouteCall):
    """Hold the parts of one request that a handler uses.

    `request_key` names the request: what it stores carries it as an idempotency key, and ids of new objects are made of it, so
    that the same request again finds what the first one stored.
    """

    caller: Caller = field(default_factory=Caller)
    request_key: str = ""


@dataclass
class Served:
    """Hold what the handlers of one server share. Handlers block: each runs in a thread of its own."""

    ledger: Ledger
    settings: ServeSettings

    def ledger_of(self, caller: Caller) -> Ledger:
        """Return the ledger whose events carry the caller as their actor."""
        if caller.actor is None:
            return self.ledger
        journal = self.ledger.journal.as_actor(caller.actor, reserved=True)
        return Ledger(journal, lambda: self.ledger.services)


Handler = Callable[[Served, ServedCall], Json | EventStream]
"""Function that carries out one operation of the route table; refusals are raised as `ApiError`."""
