"""Define the messages that workers send to a webhook about failure groups, and what they are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..failures import Cause


@dataclass(frozen=True)
class GroupSeen:
    """Describe a group in which some runs have failed."""

    group: str
    cause: Cause
    backend: str
    message: str
    advice: str
    first_at: datetime
    """Time of its first failure ever."""
    last_at: datetime
    """Time of its last failure."""


@dataclass(frozen=True)
class WebhookMessage:
    """Hold a message about a failure group."""

    message: str
    """Its id, which is the same at every attempt."""
    group: str
    kind: str
    """`new` or `returned`."""
    occurrence: str
    """What there is one message for: empty for a new group, else the time of the decision after which it returned."""
    body: str
    created_at: datetime
    attempts: int = 0
    next_at: datetime | None = None
    """When it is sent; None if it was sent, or is no longer tried."""
    sent_at: datetime | None = None
    answer: str = ""
    """What came of the last attempt."""


class WebhookMessages(Protocol):
    """Keep the messages for a webhook in the ledger's database."""

    def add(self, messages: Sequence[WebhookMessage]) -> int:
        """Store messages, except those whose group, kind and occurrence have one already; return the number stored."""
        ...

    def get(self, message: str) -> WebhookMessage | None:
        """Return a message; None if there is none with this id."""
        ...

    def due(self, limit: int) -> list[WebhookMessage]:
        """Return messages whose time has come, the longest due first."""
        ...

    def attempted(self, message: str, answer: str, *, sent: bool, next_at: datetime | None = None) -> None:
        """Note an attempt to send a message, and when the next one is."""
        ...
