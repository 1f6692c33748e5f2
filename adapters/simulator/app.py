"""Serve the provider as an ASGI application, including the faults that affect the connection.

Answers are sent whole or event by event; a fault can delay, cut or corrupt them. Writes whose client got no answer can be
carried out late, after further requests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..wire import EventStream, IncomingRequest, Reply, limits, messages_api, multipart
from .control import CONTROL_PREFIX, control
from .faults import BROKEN, GARBLED, Fault, Hang
from .limits import FILE_PIECE_BYTES
from .provider import Provider
from .requests import AdmittedRequest

HangUp = Callable[[Any], None]


class SimulatorApp:
    """Serve a `Provider` over HTTP.

    `hang_up(scope)` closes a request's connection at once, without an answer; `host` is what the server listens on.
    """

    def __init__(self, provider: Provider, hang_up: HangUp, host: str) -> None:
        self._provider = provider
        self._host = host
        self._hang_up = hang_up
        self._stopping = asyncio.Event()
        self._late = LateWrites(provider)

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
            incoming = await self._incoming(Request(scope, receive))
        except ClientDisconnect:
            return
        if incoming.path.startswith(CONTROL_PREFIX):
            status, body = control(self._provider, incoming, self._host)
            await Response(json.dumps(body), status, media_type="application/json")(scope, receive, send)
            return
        admitted = self._provider.admit(incoming)
        reply = await self._answer(admitted, receive)
        if reply is None:
            await self._close(scope, receive)
            return
        sender = Sender(self._provider, receive, send, self._stopping, partial(self._close, scope, receive))
        await sender.reply(reply, admitted.fault)

    async def _incoming(self, request: Request) -> IncomingRequest:
        raw_path: bytes = request.scope.get("raw_path") or request.url.path.encode()
        path = raw_path.partition(b"?")[0].decode("ascii", "replace")
        kind = request.headers.get("content-type", "")
        incoming = IncomingRequest(request.method, path, dict(request.query_params), request.headers)
        if kind.startswith(multipart.FORM) and path.endswith("/files"):
            form = multipart.FormReader(kind, self._provider.store.contents.new)
            async for piece in request.stream():
                form.feed(piece)
            return replace(incoming, upload=form.close())
        anthropic = messages_api.VERSION_HEADER in request.headers
        maximum = limits.MESSAGES_BODY_MAX_BYTES if anthropic else limits.BODY_MAX_BYTES
        pieces: list[bytes] = []
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size <= maximum:
                pieces.append(piece)
            else:
                pieces.clear()
        problem = multipart.too_large(maximum, size) if size > maximum else None
        return replace(incoming, body=b"".join(pieces), problem=problem)

    async def _answer(self, admitted: AdmittedRequest, receive: Receive) -> Reply | None:
        """Return the answer, or None to close the connection without an answer."""
        fault = admitted.fault
        silent = fault.silent_seconds if fault is not None else None
        if silent is not None:
            await self._hang(silent, receive)
            if self._stopping.is_set():
                self._provider.record(admitted, None)
                return None
        reply = None if fault is not None and fault.undone else self._provider.perform(admitted)
        if fault is not None and fault.undone and fault.land_late is None and admitted.call.upload is not None:
            admitted.call.upload.discard()
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


class ClientGone(Exception):
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
        whole = reply.stream is None and reply.file is None
        length = {"content-length": str(len(reply.body))} if whole else {}
        headers = [(name.encode(), value.encode()) for name, value in (reply.headers | length).items()]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        ends = asyncio.ensure_future(self._end())
        try:
            if reply.file is not None:
                await self._pause(ends, fault.slow if fault is not None else None)
                await self._file(reply.file)
            elif reply.stream is None:
                await self._pause(ends, fault.slow if fault is not None else None)
                await self._part(reply.body, more=False)
            else:
                await self._events(reply.stream, fault, ends)
        except ClientGone:
            if reply.stream is not None:
                self._provider.abandon(reply.stream, "cancelled")
            await self._close()
        finally:
            ends.cancel()

    async def _file(self, path: Path) -> None:
        with path.open("rb") as file:
            while piece := file.read(FILE_PIECE_BYTES):
                await self._part(piece)
        await self._part(b"", more=False)

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
        """Wait for `seconds`, if given; raise `ClientGone` if the client has disconnected or the server stops."""
        if seconds is None:
            return
        if seconds > 0:
            await asyncio.wait([ends], timeout=seconds)
        else:
            await asyncio.sleep(0)
        if ends.done():
            raise ClientGone

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


class LateWrites:
    """Hold writes whose client got no answer, each until a number of further requests has been served."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._waiting: list[tuple[int, AdmittedRequest]] = []

    def count(self, served: AdmittedRequest) -> None:
        """Count one served request: carry out the requests that are due, and postpone this one if necessary."""
        due = [admitted for left, admitted in self._waiting if left <= 1]
        self._waiting = [(left - 1, admitted) for left, admitted in self._waiting if left > 1]
        for admitted in due:
            reply = self._provider.perform(admitted)
            if reply.stream is not None:
                self._provider.drain(reply.stream)
        if served.fault is not None and served.fault.land_late is not None:
            self._waiting.append((served.fault.land_late, served))
