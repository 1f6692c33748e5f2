"""Store events, the state of threads and the claims of jobs in SQLite or PostgreSQL."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .addresses import DatabasePlace, database_place
    from .budgets import SqlBudgets
    from .database import Database
    from .deferral import TASK, Deferral, deferred
    from .factory import Factory
    from .notebooks import RememberedAssistants, SqlMirrorHeads
    from .provider_limits import SqlBackendHealth, SqlProviderLimits
    from .replica import journal_of_replica, lag_of_replica
    from .restoration import restore
    from .schema import SCHEMA_VERSION
    from .tenants import tenants_with_ledgers
    from .upgrading import upgrade
    from .upkeep import back_up
    from .webhook_messages import SqlWebhookMessages

__all__ = [
    "SCHEMA_VERSION",
    "TASK",
    "Database",
    "DatabasePlace",
    "Deferral",
    "Factory",
    "RememberedAssistants",
    "SqlBackendHealth",
    "SqlBudgets",
    "SqlMirrorHeads",
    "SqlProviderLimits",
    "SqlWebhookMessages",
    "back_up",
    "database_place",
    "deferred",
    "journal_of_replica",
    "lag_of_replica",
    "restore",
    "tenants_with_ledgers",
    "upgrade",
]

_EARLIER = {
    "connections": "leaf_hash",
    "recorder": "Recorder",
    "tracking": "Processor Tracker",
}
"""Names that earlier versions offered here."""

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "addresses": "DatabasePlace database_place",
            "budgets": "SqlBudgets",
            "database": "Database",
            "deferral": "TASK Deferral deferred",
            "factory": "Factory",
            "notebooks": "RememberedAssistants SqlMirrorHeads",
            "provider_limits": "SqlBackendHealth SqlProviderLimits",
            "replica": "journal_of_replica lag_of_replica",
            "restoration": "restore",
            "schema": "SCHEMA_VERSION",
            "tenants": "tenants_with_ledgers",
            "upgrading": "upgrade",
            "upkeep": "back_up",
            "webhook_messages": "SqlWebhookMessages",
        },
        _EARLIER,
    )
