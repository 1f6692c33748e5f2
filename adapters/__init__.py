"""Connect the domain to databases, providers and files. Names are imported on first use, because imports are slow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blob_files import problem_of_blobs
    from .formats import (
        FORMATS,
        Imported,
        conversation_as_line,
        export_lines,
        export_markdown,
        forgiving,
        import_found,
        import_lines,
        import_source,
        import_threads,
        inside,
        into_folder,
    )
    from .logs import JsonFormatter
    from .named_backends import problem_of_backend
    from .openai import ProviderLook, tool_problems
    from .prices import prices_from
    from .private_files import private_bytes, private_file
    from .recording import in_conversation, record
    from .report import Report, render_report
    from .setting_origins import origins
    from .settings import Settings, load_settings
    from .simulator import Fault, Script, ScriptError, Simulator, StateError
    from .sql import SCHEMA_VERSION, Database, back_up, restore, upgrade
    from .telemetry import Telemetry
    from .tenant_ledgers import tenants_of
    from .testcase import ExportedRun, export_run
    from .tool_loading import problem_of_tools
    from .trust import TRUST_DIR, FolderNotTrusted, FolderTrust, revoke, trust_file
    from .wiring import client_of, open_ledger, thread_reader

_PLACES = {
    "Database": ".sql",
    "ExportedRun": ".testcase",
    "FORMATS": ".formats",
    "Fault": ".simulator",
    "FolderNotTrusted": ".trust",
    "FolderTrust": ".trust",
    "Imported": ".formats",
    "JsonFormatter": ".logs",
    "ProviderLook": ".openai",
    "SCHEMA_VERSION": ".sql",
    "Script": ".simulator",
    "Report": ".report",
    "ScriptError": ".simulator",
    "Settings": ".settings",
    "Simulator": ".simulator",
    "StateError": ".simulator",
    "TRUST_DIR": ".trust",
    "Telemetry": ".telemetry",
    "back_up": ".sql",
    "client_of": ".wiring",
    "conversation_as_line": ".formats",
    "export_lines": ".formats",
    "export_markdown": ".formats",
    "export_run": ".testcase",
    "forgiving": ".formats",
    "import_found": ".formats",
    "import_lines": ".formats",
    "import_source": ".formats",
    "import_threads": ".formats",
    "inside": ".formats",
    "into_folder": ".formats",
    "in_conversation": ".recording",
    "load_settings": ".settings",
    "open_ledger": ".wiring",
    "origins": ".setting_origins",
    "prices_from": ".prices",
    "private_bytes": ".private_files",
    "private_file": ".private_files",
    "problem_of_blobs": ".blob_files",
    "problem_of_tools": ".tool_loading",
    "problem_of_backend": ".named_backends",
    "record": ".recording",
    "render_report": ".report",
    "restore": ".sql",
    "revoke": ".trust",
    "tenants_of": ".tenant_ledgers",
    "thread_reader": ".wiring",
    "tool_problems": ".openai",
    "trust_file": ".trust",
    "upgrade": ".sql",
}

__all__ = [
    "FORMATS",
    "SCHEMA_VERSION",
    "TRUST_DIR",
    "Database",
    "ExportedRun",
    "Fault",
    "FolderNotTrusted",
    "FolderTrust",
    "Imported",
    "JsonFormatter",
    "ProviderLook",
    "Report",
    "Script",
    "ScriptError",
    "Settings",
    "Simulator",
    "StateError",
    "Telemetry",
    "back_up",
    "client_of",
    "conversation_as_line",
    "export_lines",
    "export_markdown",
    "export_run",
    "forgiving",
    "import_found",
    "import_lines",
    "import_source",
    "import_threads",
    "in_conversation",
    "inside",
    "into_folder",
    "load_settings",
    "open_ledger",
    "origins",
    "prices_from",
    "private_bytes",
    "private_file",
    "problem_of_backend",
    "problem_of_blobs",
    "problem_of_tools",
    "record",
    "render_report",
    "restore",
    "revoke",
    "tenants_of",
    "thread_reader",
    "tool_problems",
    "trust_file",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"threadledger.adapters has no {name!r}")
    return getattr(import_module(_PLACES[name], __name__), name)
