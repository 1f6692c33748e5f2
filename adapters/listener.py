"""Run an application with uvicorn on a socket, in this thread or in one of its own; the simulator and the server use it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import uvicorn

CUT_SECONDS = 0.5
"""Time for requests to end after the application was stopped, before their connections are closed."""

JOIN_SECONDS = 5.0
"""Time for a thread to end in addition to that of requests in progress."""


class StoppableApp(Protocol):
    """Define an ASGI application that can be stopped."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Answer one request."""
        ...

    def stop(self) -> None:
        """Release the waiting requests because the server is stopping; called in the event loop."""
        ...


class Listener(uvicorn.Server):
    """Run uvicorn's server without its polling: signal when it listens, and stop on request.

    `options` are those of `uvicorn.Config`. `announce` is called in the event loop once connections are accepted.
    """

    def __init__(self, app: StoppableApp, announce: Callable[[], None] = lambda: None, **options: Any) -> None:
        quiet: dict[str, Any] = {"log_config": None, "log_level": "critical", "access_log": False}
        plain: dict[str, Any] = {"lifespan": "off", "ws": "none", "proxy_headers": False}
        plain |= {"server_header": False, "date_header": False}
        super().__init__(uvicorn.Config(app, **quiet, **plain, **options))
        self.ready = threading.Event()
        self._app = app
        self._announce = announce
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()
        self._announce()

    async def main_loop(self) -> None:
        await self._stop.wait()

    async def finish(self) -> None:
        """Wait for requests in progress; without a subclass that does, they are released at once."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._accept_no_more(sockets or [])
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self.finish()
        self._app.stop()
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=CUT_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await _callbacks_called()

    async def _accept_no_more(self, sockets: list[socket.socket]) -> None:
        """Stop accepting, and let connections that were just accepted begin: asyncio drops them once the server is closed."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            with contextlib.suppress(NotImplementedError):  # of a loop without readers, as on Windows
                loop.remove_reader(listening)
        await _callbacks_called()

    def ask_to_stop(self) -> None:
        """End the server in order; this may be called from any thread, and more than once."""
        self.call_in_loop(self._stop.set)

    def call_in_loop(self, function: Callable[[], Any]) -> None:
        """Call a function in the event loop, if there is one."""
        if self._loop is not None:
            # The loop may have ended already; then there is nothing left to do.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)


async def _callbacks_called() -> None:
    """Let the event loop call what is due: it begins accepted connections in three steps and closes aborted ones in one."""
    for _ in range(3):
        await asyncio.sleep(0)


class ListenerThread:
    """Run a listener in a thread of its own; it accepts connections when the constructor returns.

    Raises `OSError` if it does not start in time; `what` names it.
    """

    def __init__(self, listener: Listener, listening: socket.socket, what: str, start_seconds: float) -> None:
        self._listener = listener
        self._socket = listening
        name = f"threadledger-{what.rpartition(' ')[2]}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        if not listener.ready.wait(start_seconds):
            raise OSError(f"{what} did not start within {start_seconds:g} seconds; try again")

    def stop(self, seconds: float = 0) -> None:
        """Close every connection and end the thread; `seconds` is the time that requests in progress may take."""
        self._listener.ask_to_stop()
        self._thread.join(seconds + JOIN_SECONDS)

    def wait(self) -> None:
        """Block until the server has ended.

        The wait is split into slices, because some platforms do not notice Ctrl-C otherwise.
        """
        while self._thread.is_alive():
            self._thread.join(0.5)

    def _run(self) -> None:
        asyncio.run(self._listener.serve([self._socket]))


def bound_socket(host: str, port: int, what: str) -> socket.socket:
    """Return a socket that listens on an address; port 0 picks a free one.

    Raises `OSError` if the address cannot be bound; `what` names the server in its message.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms per answer) only if the protocol is given.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Make the port available right after a server on it has stopped.
    # Windows uses the option differently.
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError, TypeError, ValueError) as error:  # the last two of a name that is none
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{what} cannot listen on {host} port {port}: {reason}; choose another host or port") from error
    return listening


def url_of(host: str, port: int) -> str:
    """Return the URL of a server, without a path."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
