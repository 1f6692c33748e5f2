"""Queue a conversation for workers in the transaction that changes it (PostgreSQL)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from threadledger.domain.conversation.tenants import tenant_of

from ..sql import Deferral, deferred
from .engine import LANES

if TYPE_CHECKING:
    from threadledger.domain.journal import Also

    from ..sql import Database


def mirror_deferral(database: Database) -> Callable[[str, str], Also]:
    """Return a function of the key of a conversation and the actor of the commit, which returns what defers the work."""
    deferral = Deferral(database)

    def defer(key: str, actor: str) -> Also:
        tenant = tenant_of(key)
        share = f"tenant:{tenant}" if tenant else actor if actor.startswith("key:") else ""
        return deferral.also(deferred(LANES["mirror"], "mirror", key, share))

    return defer
