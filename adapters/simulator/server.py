"""Run the application with uvicorn, in a separate thread with its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .control import CONTROL_PREFIX, control
from .errors import START_TIMEOUT_SECONDS, STOP_GRACE_SECONDS, STOP_TIMEOUT_SECONDS
from .faults import BROKEN, Fault, Hang
from .provider import Provider
from .streams import GARBLED, EventStream
from .wire import Admitted, Incoming, Reply


class ServerThread:
    """Run a server that accepts connections when the constructor returns.

    Raises `OSError` if the address cannot be bound, or if the server does not start in time.
    """

    def __init__(self, provider: Provider, host: str, port: int) -> None:
        self._socket = _bound(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self._server = _Server(provider)
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

    def __init__(self, provider: Provider) -> None:
        self.app = SimulatorApp(provider, self._hang_up)
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


HangUp = Callable[[Any], None]


class SimulatorApp:
    """Serve a `Provider` over HTTP.

    `hang_up(scope)` closes a request's connection at once, without an answer.
    """

    def __init__(self, provider: Provider, hang_up: HangUp) -> None:
        self._provider = provider
        self._hang_up = hang_up
        self._stopping = asyncio.Event()
        self._late = Late(provider)

    def stop(self) -> None:
        """Release the waiting requests because the server is stopping.

        Call this in the server's event loop.
        """
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        try:
            incoming = await _incoming(Request(scope, receive))
        except ClientDisconnect:
            return
        if incoming.path.startswith(CONTROL_PREFIX):
            status, body = control(self._provider, incoming)
            await Response(json.dumps(body), status, media_type="application/json")(scope, receive, send)
            return
        admitted = self._provider.admit(incoming)
        reply = await self._answer(admitted, receive)
        if reply is None:
            await self._close(scope, receive)
            return
        sender = Sender(self._provider, receive, send, self._stopping, partial(self._close, scope, receive))
        await sender.reply(reply, admitted.fault)

    async def _answer(self, admitted: Admitted, receive: Receive) -> Reply | None:
        """Return the answer, or None if the connection is to be closed without one."""
        fault = admitted.fault
        silent = fault.silent_seconds if fault is not None else None
        if silent is not None:
            await self._hang(silent, receive)
            if self._stopping.is_set():
                self._provider.record(admitted, None)
                return None
        reply = None if fault is not None and fault.undone else self._provider.perform(admitted)
        if fault is not None and fault.lose_answer:
            if reply is not None and reply.stream is not None:
                self._provider.drain(reply.stream)
            reply = None
        if fault is not None and fault.reply is not None:
            headers = {"content-type": fault.reply.content_type, "x-request-id": admitted.request_id}
            reply = Reply(fault.reply.status, headers, fault.reply.text.encode())
        self._provider.record(admitted, reply.status if reply else None)
        self._late.count(admitted)
        return reply

    async def _hang(self, seconds: float, receive: Receive) -> None:
        """Wait until the time is over, the client disconnects, or the server stops."""
        waits = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _close(self, scope: Scope, receive: Receive) -> None:
        self._hang_up(scope)
        # If this returned before the server noticed the closed connection, the server would answer with a 500.
        while (await receive())["type"] != "http.disconnect":
            pass


async def _incoming(request: Request) -> Incoming:
    raw_path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    path = raw_path.partition(b"?")[0].decode("ascii", "replace")
    return Incoming(request.method, path, dict(request.query_params), request.headers, await request.body())


class Gone(Exception):
    """Raised when the client has disconnected or the server stops, so that nothing more can be sent."""


class Sender:
    """Send one answer.

    `close` closes the connection without finishing the answer; `stopping` is set when the server stops.
    """

    def __init__(
        self,
        provider: Provider,
        receive: Receive,
        send: Send,
        stopping: asyncio.Event,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._provider = provider
        self._receive = receive
        self._send = send
        self._stopping = stopping
        self._close = close

    async def reply(self, reply: Reply, fault: Fault | None) -> None:
        """Send the whole answer, or as much of it as the fault allows."""
        length = {} if reply.stream is not None else {"content-length": str(len(reply.body))}
        headers = [(name.encode(), value.encode()) for name, value in (reply.headers | length).items()]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        ends = asyncio.ensure_future(self._end())
        try:
            if reply.stream is None:
                await self._pause(ends, fault.slow if fault is not None else None)
                await self._part(reply.body, more=False)
            else:
                await self._events(reply.stream, fault, ends)
        except Gone:
            if reply.stream is not None:
                self._provider.abandon(reply.stream, "cancelled")
            await self._close()
        finally:
            ends.cancel()

    async def _events(self, stream: EventStream, fault: Fault | None, ends: asyncio.Future[None]) -> None:
        number = 0
        while True:
            if fault is not None and await self._disrupted(stream, fault, number, ends):
                return
            event = self._provider.pull(stream)
            if event is None:
                break
            await self._part(event)
            # Yield to the event loop, for other tasks and to notice that the client has disconnected.
            await self._pause(ends, 0)
            number += 1
        await self._part(b"", more=False)

    async def _disrupted(self, stream: EventStream, fault: Fault, number: int, ends: asyncio.Future[None]) -> bool:
        """Apply the faults due before event `number`, counted from 0, and return whether they end the stream."""
        await self._pause(ends, fault.slow)
        if isinstance(fault.hang, Hang) and fault.hang.events == number:
            await self._pause(ends, fault.hang.seconds)
        if fault.garble is not None and fault.garble.events == number:
            await self._part(GARBLED)
        if fault.error_event is not None and fault.error_event.events == number:
            self._provider.abandon(stream, "failed")
            await self._part(fault.error_event.frame(stream.api, number), more=False)
            return True
        if fault.truncate is None or fault.truncate.events != number:
            return False
        await self._cut(stream, broken=fault.truncate.kind == BROKEN, done=fault.truncate.done)
        return True

    async def _cut(self, stream: EventStream, *, broken: bool, done: bool) -> None:
        following = self._provider.pull(stream) if broken else None
        if done:
            self._provider.drain(stream)
        else:
            self._provider.abandon(stream, "cancelled")
        if not broken:
            await self._part(b"", more=False)
            return
        await self._part((following or b"data: ")[: len(following or b"") // 2 or 1])
        await self._close()

    async def _part(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _pause(self, ends: asyncio.Future[None], seconds: float | None) -> None:
        """Wait for `seconds`, if given; raise `Gone` if the client has disconnected or the server stops."""
        if seconds is None:
            return
        if seconds > 0:
            await asyncio.wait([ends], timeout=seconds)
        else:
            await asyncio.sleep(0)
        if ends.done():
            raise Gone

    async def _end(self) -> None:
        """Return when the client has disconnected or the server stops."""
        waits = [asyncio.ensure_future(self._gone()), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Late:
    """Hold postponed requests, each until a number of further requests has been served."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._waiting: list[tuple[int, Admitted]] = []

    def count(self, served: Admitted) -> None:
        """Count one served request: carry out the requests that are due, and postpone this one if necessary."""
        due = [admitted for left, admitted in self._waiting if left <= 1]
        self._waiting = [(left - 1, admitted) for left, admitted in self._waiting if left > 1]
        for admitted in due:
            reply = self._provider.perform(admitted)
            if reply.stream is not None:
                self._provider.drain(reply.stream)
        if served.fault is not None and served.fault.land_late is not None:
            self._waiting.append((served.fault.land_late, served))
