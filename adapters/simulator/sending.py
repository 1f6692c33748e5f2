"""Send an answer, whole or event by event, with the faults that happen on the way."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Send

from .disruptions import BROKEN, Hang
from .faults import Fault
from .provider import Provider
from .streams import GARBLED, EventStream
from .wire import Reply


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

    async def _events(self, stream: EventStream, fault: Fault | None, ends: "asyncio.Future[None]") -> None:
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

    async def _disrupted(self, stream: EventStream, fault: Fault, number: int, ends: "asyncio.Future[None]") -> bool:
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

    async def _pause(self, ends: "asyncio.Future[None]", seconds: float | None) -> None:
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
