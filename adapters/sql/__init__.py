"""Store events, notebooks and their schema with SQLAlchemy, in SQLite or PostgreSQL."""

from .engine import Database
from .factory import Factory
from .leaf import leaf_hash
from .notebooks import RememberedAssistants, SqlMirrorHeads
from .recorder import Processor, Recorder
from .schema import SCHEMA_VERSION
from .tracking import Tracker

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
