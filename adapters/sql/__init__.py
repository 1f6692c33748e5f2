"""Store events, notebooks and their schema with SQLAlchemy, in SQLite or PostgreSQL."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .connections import leaf_hash
    from .database import Database
    from .factory import Factory
    from .notebooks import RememberedAssistants, SqlMirrorHeads
    from .recorder import Processor, Recorder, Tracker
    from .schema import SCHEMA_VERSION

__all__ = [
    "SCHEMA_VERSION",
    "Database",
    "Factory",
    "Processor",
    "Recorder",
    "RememberedAssistants",
    "SqlMirrorHeads",
    "Tracker",
    "leaf_hash",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "connections": "leaf_hash",
            "database": "Database",
            "factory": "Factory",
            "notebooks": "RememberedAssistants SqlMirrorHeads",
            "recorder": "Processor Recorder Tracker",
            "schema": "SCHEMA_VERSION",
        },
    )
