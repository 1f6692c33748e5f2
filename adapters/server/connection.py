"""Read requests from a connection: in time, of limited size, and refused in the provider's envelope."""

from __future__ import annotations

import asyncio
import select
import sys
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..wire import ApiError
from .app import ServerApp, headers_too_large
from .limits import LINGER_SECONDS
from .replies import too_slow

NOT_HTTP = "The request is not valid HTTP."
HEADERS_TOO_LARGE = 431


class ClientConnection(H11Protocol):
    """Add to uvicorn's connection a time limit for requests, and whether the system has accepted an answer.

    The time limit of a request is measured from its first byte, and that of a connection's first one from its start.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._served: ServerApp = config.app  # type: ignore[assignment] # it is ours, not any ASGI application
        self._limits = self._served.limits
        self.app_state = {**app_state, "connection": self}
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._is_broken = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `accepted` waits until the system has everything
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_broken = exc is not None
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._timer is None:
            self._start_timer()
        super().data_received(data)
        self._stop_timer_when_received()

    def on_response_complete(self) -> None:
        self._start_timer()  # for the next request, which may be here already, and for the rest of a refused one
        super().on_response_complete()
        self._stop_timer_when_received()

    def send_400_response(self, msg: str) -> None:
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        is_large = status == HEADERS_TOO_LARGE
        self._refuse(headers_too_large(self._limits.header_bytes) if is_large else ApiError(400, NOT_HTTP))

    async def accepted(self, cycle: RequestResponseCycle) -> bool:
        """Wait until the system has accepted what was sent of an answer, and return whether the client was connected."""
        if self.flow.write_paused:
            await self.flow.drain()
        is_connected = not self._is_broken and (cycle.response_complete or not cycle.disconnected)
        return is_connected and not self._was_reset()

    def _was_reset(self) -> bool:
        """Return whether the client has refused what was sent, also if the event loop has not noticed it yet.

        A client that closes its connection without reading the answer resets it; one that has read it does not.
        """
        socket = self.transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0 or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(socket.fileno(), 0)
        return any(state & select.POLLERR for _, state in poll.poll(0))

    def _start_timer(self) -> None:
        self._stop_timer()
        self.app_state["receive_until"] = self.loop.time() + self._limits.receive_seconds
        self._timer = self.loop.call_later(self._limits.receive_seconds, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_timer_when_received(self) -> None:
        """Stop the timer unless a part of a request is missing; uvicorn's own one closes an idle connection."""
        state = self.conn.their_state
        is_idle = state is h11.IDLE and self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
        if self._is_refused or is_idle or state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_timer()

    def _expire(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY and self._unfinished() is not None:
            return  # the application refuses it at the same time
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(too_slow(self._limits.receive_seconds))
        else:
            self.transport.close()

    def _unfinished(self) -> RequestResponseCycle | None:
        """Return the request whose answer is not complete, or None."""
        cycle: Any = self.cycle  # None before the first request
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, refusal: ApiError) -> None:
        """Refuse what cannot be read, and close the connection when the client had time to read that."""
        self._is_refused = True
        unfinished = self._unfinished()
        if unfinished is not None:
            unfinished.disconnected = True
            unfinished.message_event.set()
        if unfinished is None or not unfinished.response_started:
            self.transport.write(self._served.unread(refusal))
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
