"""Serve the ledger to apps that speak OpenAI's Assistants API and Chat Completions."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .calls import Caller, Served, ServedCall
    from .file_search import server_tool
    from .limits import ServerLimits
    from .runner import Runner
    from .serve_settings import ServeSettings, parse_serve, target_of
    from .server import Server, open_server, require_path
    from .tenant_server import TenantServer

__all__ = [
    "Caller",
    "Runner",
    "ServeSettings",
    "Served",
    "ServedCall",
    "Server",
    "ServerLimits",
    "TenantServer",
    "open_server",
    "parse_serve",
    "require_path",
    "server_tool",
    "target_of",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "calls": "Caller Served ServedCall",
            "file_search": "server_tool",
            "limits": "ServerLimits",
            "runner": "Runner",
            "serve_settings": "ServeSettings parse_serve target_of",
            "server": "Server open_server require_path",
            "tenant_server": "TenantServer",
        },
    )
