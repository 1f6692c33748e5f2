"""How the outside world is reached. Loaded by name at first use: each part brings a library that takes time to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .formats import conversation_as_line, export_lines, import_lines
    from .prices import prices_from
    from .recording import in_conversation, record
    from .settings import Settings, load_settings, origins
    from .simulator import Fault, Script, ScriptError, Simulator, StateError
    from .sql import SCHEMA_VERSION, Database
    from .wiring import client_of, open_ledger

_PLACES = {
    "Database": ".sql",
    "SCHEMA_VERSION": ".sql",
    "Fault": ".simulator",
    "Script": ".simulator",
    "ScriptError": ".simulator",
    "Settings": ".settings",
    "Simulator": ".simulator",
    "StateError": ".simulator",
    "client_of": ".wiring",
    "conversation_as_line": ".formats",
    "export_lines": ".formats",
    "import_lines": ".formats",
    "in_conversation": ".recording",
    "load_settings": ".settings",
    "open_ledger": ".wiring",
    "origins": ".settings",
    "prices_from": ".prices",
    "record": ".recording",
}

__all__ = [
    "SCHEMA_VERSION",
    "Database",
    "Fault",
    "Script",
    "ScriptError",
    "Settings",
    "Simulator",
    "StateError",
    "client_of",
    "conversation_as_line",
    "export_lines",
    "import_lines",
    "in_conversation",
    "load_settings",
    "open_ledger",
    "origins",
    "prices_from",
    "record",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"threadledger.adapters has no {name!r}")
    return getattr(import_module(_PLACES[name], __name__), name)
