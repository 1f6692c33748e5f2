"""Send the answers to requests, from threads too, and notice when a client has left."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple
from uuid import uuid4

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from threadledger.domain.errors import StoreUnavailable

from ..wire import ApiError, IncomingRequest, reply_headers
from ..wire.multipart import FormReader, Upload, too_large
from .calls import ServedCall
from .limits import FORM_EXTRA_BYTES, SMALL_BODY_BYTES, ServerLimits

CLIENT_LEFT = 499
"""Status in the log of a request that got no answer, as in nginx's."""


class WholeAnswer(NamedTuple):
    """Hold a whole answer: its status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RequestInProgress:
    """Represent one HTTP request until its answer is sent.

    `connection` is the server's connection of the request, if it is one that shows whether bytes were accepted.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: ServerLimits) -> None:
        request = Request(scope, receive)
        raw_path: bytes = scope.get("raw_path") or request.url.path.encode()
        path = raw_path.partition(b"?")[0].decode("ascii", "replace")
        self.request_id = f"req_{uuid4().hex}"
        query = request.query_params
        self.incoming = IncomingRequest(
            request.method, path, dict(query), request.headers, query_pairs=query.multi_items()
        )
        self.call: ServedCall | None = None
        self.status = CLIENT_LEFT
        self.sent_bytes = 0
        self.gone = Event()
        self.task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._started_at = time.perf_counter()
        self._request = request
        self._send = send
        self._limits = limits
        state: Mapping[str, Any] = scope.get("state") or {}
        self._receive_until: float = state.get("receive_until", self._loop.time() + limits.receive_seconds)
        self._connection = state.get("connection")
        self._cycle = getattr(self._connection, "cycle", None)
        self._began = self._ended = False

    @property
    def is_small(self) -> bool:
        """Return whether the request has no body, or says that it is a small one: that arrives with the headers, or soon."""
        length = self.incoming.headers.get("content-length", "0")
        is_known = length.isascii() and length.isdigit() and "transfer-encoding" not in self.incoming.headers
        return self.incoming.method != "POST" or (is_known and int(length[:9]) <= SMALL_BODY_BYTES)

    @property
    def has_begun(self) -> bool:
        """Return whether a part of the answer was sent."""
        return self._began

    @property
    def elapsed_ms(self) -> int:
        """Return the time since the request arrived, in milliseconds, at least 1."""
        return max(1, round((time.perf_counter() - self._started_at) * 1000))

    async def read_body(self) -> bytes:
        """Return the body.

        Raises `ApiError` (413, 408) if it is too large or too slow, and `ClientDisconnect`.
        """
        most = self._limits.body_bytes
        announced = self.incoming.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise too_large(most, 0)
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout_at(self._receive_until):
                async for piece in self._request.stream():
                    size += len(piece)
                    if size > most:
                        raise too_large(most, size)
                    pieces.append(piece)
        except TimeoutError:
            raise too_slow(self._limits.receive_seconds) from None
        return b"".join(pieces)

    async def read_form(self, new_file: Callable[[], Path], file_bytes: int) -> Upload:
        """Return the form in the body, with its file of at most `file_bytes` bytes at a path that `new_file` returns.

        Raises `ApiError` (400, 413, 408) if it is not valid, too large or too slow, `StoreUnavailable`, and
        `ClientDisconnect`.
        """
        most = file_bytes + FORM_EXTRA_BYTES
        announced = self.incoming.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise too_large(file_bytes, 0)
        form, size = FormReader(self.incoming.headers.get("content-type", ""), new_file, file_bytes), 0
        try:
            async with asyncio.timeout_at(self._receive_until):
                async for piece in self._request.stream():
                    size += len(piece)
                    if size > most:
                        raise too_large(file_bytes, size)
                    form.feed(piece)
                    if form.problem is not None:
                        raise form.problem
        except TimeoutError:
            form.close().discard()
            raise too_slow(self._limits.receive_seconds) from None
        except OSError as error:
            form.close().discard()
            raise StoreUnavailable(
                f"an upload cannot be kept in a temporary file ({error.strerror}): nothing was stored; free space, or set TMPDIR "
                "to a folder that has some"
            ) from error
        except BaseException:
            form.close().discard()
            raise
        upload = form.close()
        if upload.problem is not None:
            upload.discard()
            raise upload.problem
        return upload

    async def watch(self) -> None:
        """Set `gone` when the client disconnects before the answer is complete."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self.gone.set()

    async def refuse(self, refusal: ApiError) -> bool:
        """Send a refusal, and return whether the client has it; nothing is sent if an answer has begun."""
        return not self._began and await self.answer(refusal.status, refusal.headers, refusal.body())

    async def answer(self, status: int, headers: Mapping[str, str], body: Any) -> bool:
        """Send a whole answer, and return whether the client has it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.begin(status, {**headers, "content-length": str(len(raw))})
        return await self.write(raw, last=True)

    async def begin(self, status: int, headers: Mapping[str, str]) -> bool:
        """Send the status and the headers of an answer, and return whether the client is connected."""
        self._began, self.status = True, status
        whole = reply_headers(self.request_id, self.elapsed_ms) | dict(headers)
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in whole.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})
        return not self.gone.is_set()

    async def write(self, piece: bytes, *, last: bool = False) -> bool:
        """Send a piece of the body, and return whether the client was connected when the system accepted it."""
        self._ended = last
        if not await self._accepted(piece, more=not last):
            self.gone.set()
            return False
        return last or not self.gone.is_set()

    async def finish(self, piece: bytes) -> bool:
        """Send the last frame of a stream and the end of the body, and return whether the client has the frame.

        A client may leave when it has the frame: the end, which it does not read then, would be taken for refused.
        """
        self._ended = True
        accepted = await self._accepted(piece, more=True)
        await self._accepted(b"", more=False)
        return accepted

    async def _accepted(self, piece: bytes, *, more: bool) -> bool:
        connection = self._connection
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                await self._send({"type": "http.response.body", "body": piece, "more_body": more})
                accepted = connection is None or bool(await connection.accepted(self._cycle))
        except TimeoutError:
            accepted = False
            if connection is not None:
                connection.transport.abort()
        self.sent_bytes += len(piece) if accepted else 0
        return accepted

    def from_thread(self, sending: Callable[[], Any]) -> bool:
        """Call one of the methods that send in the event loop, and return its result; False if the server has stopped.

        This is called in a handler's thread and blocks it.
        """
        if self.gone.is_set():
            return False
        coroutine = sending()
        try:
            return bool(asyncio.run_coroutine_threadsafe(coroutine, self._loop).result())
        except RuntimeError:  # the loop has ended
            coroutine.close()
        except (CancelledError, asyncio.CancelledError):
            pass
        self.gone.set()
        return False

    def cut(self) -> None:
        """End the request because the server stops; called in the event loop."""
        self.gone.set()
        if self.task is not None:
            self.task.cancel()


def too_slow(seconds: float) -> ApiError:
    """Return the 408 for a request that did not arrive in time."""
    message = f"The request did not arrive within {seconds:g} seconds: send it again."
    return ApiError(408, message, code="request_timeout", headers={"connection": "close"})
