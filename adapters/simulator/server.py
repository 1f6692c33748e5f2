"""Run the application with uvicorn, in a separate thread with its own event loop."""

from __future__ import annotations

from typing import Any

from ..listener import Listener, ListenerThread, bound_socket
from .app import SimulatorApp
from .limits import START_TIMEOUT_SECONDS
from .provider import Provider

WHAT = "the simulator"


class ServerThread(ListenerThread):
    """Run a server that accepts connections when the constructor returns.

    Raises `OSError` if the address cannot be bound, or if the server does not start in time.
    """

    def __init__(self, provider: Provider, host: str, port: int) -> None:
        listening = bound_socket(host, port, WHAT)
        self.host, self.port = host, int(listening.getsockname()[1])
        app = SimulatorApp(provider, self._hang_up, host)
        self._server = Listener(app)
        super().__init__(self._server, listening, WHAT, START_TIMEOUT_SECONDS)

    def _hang_up(self, scope: Any) -> None:
        """Close the connection of a request at its transport, because ASGI cannot express it."""
        client = tuple(scope["client"])
        for connection in list(self._server.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()
