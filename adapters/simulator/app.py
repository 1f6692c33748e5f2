"""Serve the provider as an ASGI application, including the faults that affect the connection."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .control import CONTROL_PREFIX, control
from .late import Late
from .provider import Provider
from .sending import Sender
from .wire import Admitted, Incoming, Reply

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
