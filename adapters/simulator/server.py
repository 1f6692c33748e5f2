"""Run the application with uvicorn, in a separate thread with its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import Any

import uvicorn

from .app import SimulatorApp
from .limits import START_TIMEOUT_SECONDS, STOP_GRACE_SECONDS, STOP_TIMEOUT_SECONDS
from .provider import Provider


class ServerThread:
    """Run a server that accepts connections when the constructor returns.

    Raises `OSError` if the address cannot be bound, or if the server does not start in time.
    """

    def __init__(self, provider: Provider, host: str, port: int) -> None:
        self._socket = _bound(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self._server = _Server(provider, host)
        self._thread = threading.Thread(target=self._run, name="threadledger-simulator", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(START_TIMEOUT_SECONDS):
            raise OSError(f"the simulator did not start within {START_TIMEOUT_SECONDS:g} seconds; try again")

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._server.ask_to_stop()
        self._thread.join(STOP_TIMEOUT_SECONDS)

    def wait(self) -> None:
        """Block until the server has ended.

        The wait is split into slices, because some platforms do not notice Ctrl-C otherwise.
        """
        while self._thread.is_alive():
            self._thread.join(0.5)

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._socket]))


class _Server(uvicorn.Server):
    """Run uvicorn's server without its polling: signal when it listens, and stop on request."""

    def __init__(self, provider: Provider, host: str) -> None:
        self.app = SimulatorApp(provider, self._hang_up, host)
        super().__init__(_config(self.app))
        self.ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.stop()
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=STOP_GRACE_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # Run the loop once, so that closed transports are notified before it ends.
        await asyncio.sleep(0)

    def ask_to_stop(self) -> None:
        """Stop the server; this may be called from any thread, and more than once."""
        if self._loop is not None:
            # The loop may have ended already; then there is nothing left to stop.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)

    def _hang_up(self, scope: Any) -> None:
        """Close the connection of a request at its transport, because ASGI cannot express it."""
        client = tuple(scope["client"])
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()


def _config(app: SimulatorApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms per answer) only if the protocol is given.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Make the port available right after a simulator on it has stopped.
    # Windows uses the option differently.
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"the simulator cannot listen on {host} port {port}: {reason}; choose another host or port"
        ) from error
    return listening
