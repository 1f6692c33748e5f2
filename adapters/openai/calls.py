"""Wrap SDK calls as effects that run on the blocking or on the asynchronous client."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from threadledger.domain import Call, Effects, ProviderRefused

from .client import Client
from .failures import calling, present

END: Any = object()
"""Result of `next_event` when the stream has ended."""

TOO_LONG = "the stream did not end before its deadline"


def call(client: Client, do: Callable[[Any], Any]) -> Call:
    """Return the effect of one SDK call: `do` receives the SDK's client and returns the response, or an awaitable of it."""
    return Call(lambda: do(client.sdk), lambda: do(client.async_sdk))


class Stream:
    """Wrap an open stream of either client and close it at its deadline.

    A read timeout does not limit a stream: every byte received restarts it, including bytes that are not part of an event.
    """

    def __init__(self, stream: Any, seconds: float, *, watched: bool) -> None:
        self.response = stream.response
        self._stream = stream
        self._until = time.monotonic() + seconds
        self._cut: threading.Timer | None = None
        if watched:  # asynchronous reads have a timeout of their own; a blocked thread is woken by closing the response
            self._cut = threading.Timer(seconds, self.response.close)
            self._cut.daemon = True
            self._cut.start()

    def __next__(self) -> Any:
        try:
            event = next(self._stream, END)
        except Exception as error:
            raise self._why(error) from error
        if event is END and time.monotonic() >= self._until:
            raise TimeoutError(TOO_LONG)
        return event

    async def __anext__(self) -> Any:
        async with asyncio.timeout(max(self._until - time.monotonic(), 0)):
            return await anext(self._stream, END)

    def close(self) -> Any:
        """Close the stream; for the asynchronous client, return an awaitable."""
        if self._cut is not None:
            self._cut.cancel()
        return self._stream.close()

    def _why(self, error: Exception) -> Exception:
        return TimeoutError(TOO_LONG) if time.monotonic() >= self._until else error


def opened(client: Client, open_stream: Callable[[Any], Any], seconds: float) -> Call:
    """Open a stream that is closed after the given number of seconds."""

    async def awaited() -> Stream:
        return Stream(await open_stream(client.async_sdk), seconds, watched=False)

    return Call(lambda: Stream(open_stream(client.sdk), seconds, watched=True), awaited)


def next_event(stream: Stream) -> Call:
    """Read the next event of an open stream, or `END`."""
    return Call(lambda: next(stream), lambda: anext(stream))


def closing(stream: Stream) -> Call:
    """Close a stream, whether it has ended or not."""
    return Call(stream.close, stream.close)


def every(client: Client, first: Callable[[Any], Any]) -> Effects[list[Any]]:
    """Return all objects of a list, page by page; `first` requests the first page."""
    page = yield call(client, first)
    found = list(page.data)  # fails if the response has no list, instead of treating it as empty
    while page.has_next_page():
        page = yield Call(page.get_next_page, page.get_next_page)
        found += page.data
    return found


def deleted(client: Client, endpoint: str, thread_id: str, delete: Callable[[Any], Any]) -> Effects[None]:
    """Delete one object of a thread; do nothing if it is already deleted."""
    try:
        with calling(endpoint, thread_id):
            answered = yield call(client, delete)
            present(answered.id)
    except ProviderRefused as refused:
        if refused.failure.http_status != 404:
            raise


def request_id_of(stream: Stream) -> str | None:
    """Return the provider's id of the request that opened a stream."""
    found: str | None = stream.response.headers.get("x-request-id")
    return found
