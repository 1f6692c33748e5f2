"""The store: events, notebooks and their schema on SQLAlchemy Core."""

from .engine import Database
from .factory import Factory
from .notebooks import RememberedAssistants, SqlMirrorHeads
from .recorder import Recorder
from .schema import SCHEMA_VERSION

__all__ = ["SCHEMA_VERSION", "Database", "Factory", "Recorder", "RememberedAssistants", "SqlMirrorHeads"]
