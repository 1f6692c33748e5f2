"""Read open streams with either client, up to a deadline, and pass their text on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import Any

from threadledger.domain.effects import Call, Effects, Emit
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import Delta
from threadledger.domain.failures import Failure

from .client import Client
from .folds import Fold

END: Any = object()
"""Result of `next_bytes` when the stream has ended."""

REST_SECONDS = 0.05
"""How long a stream that is over is read on, in seconds. Its connection, which took several round trips to open, is used again
only if the answer was read to its end, and that often arrives a moment after the last event."""

TOO_LONG = "the stream did not end before its deadline"


class Deadlines:
    """Call functions after their time, all in one thread: a thread for each stream took a millisecond of it."""

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=self._begin)  # the thread is not copied

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._times: list[tuple[float, int]] = []
        """Times of the monotonic clock with the numbers of the calls, as a heap; those of cancelled calls too."""
        self._calls: dict[int, Callable[[], object]] = {}
        self._numbers = count()
        self._thread: threading.Thread | None = None

    def call_after(self, seconds: float, call: Callable[[], object]) -> int:
        """Call a function after so many seconds, unless it is cancelled by the number that is returned. It must not block."""
        with self._changed:
            number = next(self._numbers)
            self._calls[number] = call
            heappush(self._times, (time.monotonic() + seconds, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="threadledger-deadlines", daemon=True)
                self._thread.start()
            elif self._times[0][1] == number:
                self._changed.notify()
        return number

    def cancel(self, number: int) -> None:
        """Cancel a call that was not made yet."""
        with self._changed:
            self._calls.pop(number, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._times or self._times[0][0] > time.monotonic():
                    self._changed.wait(self._times[0][0] - time.monotonic() if self._times else None)
                call = self._calls.pop(heappop(self._times)[1], None)
            if call is not None:
                with suppress(Exception):  # the stream may be closed already
                    call()


DEADLINES = Deadlines()


class Stream:
    """Read the bytes of an open stream of either client and close it at its deadline.

    A read timeout does not limit a stream: every byte received restarts it, including bytes that are not part of an event.
    """

    def __init__(self, stream: Any, seconds: float, *, watched: bool) -> None:
        self.response = stream.response
        self._stream = stream
        self._bytes: Any = None
        self.is_over = False
        self._until = time.monotonic() + seconds
        self._cut: int | None = None
        if watched:  # asynchronous reads have a separate timeout; a blocked thread is woken by closing the response
            self._cut = DEADLINES.call_after(seconds, self.response.close)

    def __next__(self) -> Any:
        try:
            self._bytes = self._bytes or self.response.iter_bytes()
            chunk = next(self._bytes, END)
        except Exception as error:
            raise self._why(error) from error
        if chunk is END and time.monotonic() >= self._until:
            raise TimeoutError(TOO_LONG)
        return chunk

    async def __anext__(self) -> Any:
        async with asyncio.timeout(max(self._until - time.monotonic(), 0)):
            self._bytes = self._bytes or self.response.aiter_bytes()
            return await anext(self._bytes, END)

    def close(self) -> None:
        """Close the stream; if it is over, read the rest first, so that its connection can be used again."""
        if self._cut is not None:
            DEADLINES.cancel(self._cut)
        if self.is_over:
            cut = DEADLINES.call_after(REST_SECONDS, self.response.close)
            with suppress(Exception):  # the answer is whole without it
                while next(self._bytes, END) is not END:
                    pass
            DEADLINES.cancel(cut)
        self._stream.close()

    async def aclose(self) -> None:
        """Close the stream of the asynchronous client, as `close` does."""
        if self.is_over:
            with suppress(Exception):  # the answer is whole without it
                async with asyncio.timeout(REST_SECONDS):
                    while await anext(self._bytes, END) is not END:
                        pass
        await self._stream.close()

    def _why(self, error: Exception) -> Exception:
        return TimeoutError(TOO_LONG) if time.monotonic() >= self._until else error


def opened(client: Client, open_stream: Callable[[Any], Any], seconds: float) -> Call:
    """Open a stream that is closed after the given number of seconds."""

    async def awaited() -> Stream:
        return Stream(await open_stream(client.async_sdk), seconds, watched=False)

    return Call(lambda: Stream(open_stream(client.sdk), seconds, watched=True), awaited)


def followed(
    stream: Stream,
    fold: Fold,
    number: int,
    deadline: float,
    too_late: Callable[[], Failure],
    emitted: list[tuple[int, str]],
) -> Effects[None]:
    """Read an open stream to its end and pass its text on; `fold` has the state of the run afterwards.

    Args:
        stream: the stream; it is not closed.
        fold: reads the bytes.
        number: index of the first message of this stream in the run, for the listener.
        deadline: monotonic time after which the stream is given up.
        too_late: returns the failure of a stream that is still open at the deadline.
        emitted: receives the parts that were passed on, each with the number of its message in this stream.

    Raises:
        ProviderRefused: the deadline has passed.
    """
    while (chunk := (yield next_bytes(stream))) is not END:
        for message, text in fold.texts(chunk):
            emitted.append((message, text))
            yield Emit(Delta(text, message=number + message))
        stream.is_over = fold.is_over
        if fold.is_over or isinstance(fold.seen.outcome, Failure):
            break
        if time.monotonic() > deadline:
            raise ProviderRefused(too_late())


def emit_rests(texts: Sequence[str], emitted: Sequence[tuple[int, str]], number: int) -> Effects[None]:
    """Give the listener what a stream did not deliver of its messages."""
    for index, text in enumerate(texts):
        yield from emit_rest(text, "".join(each for message, each in emitted if message == index), number + index)


def emit_rest(text: str, emitted: str, number: int) -> Effects[None]:
    """Give the listener the part of a message's text that its stream did not deliver, because it broke or was none."""
    if text != emitted and text.startswith(emitted):
        yield Emit(Delta(text[len(emitted) :], message=number))


def next_bytes(stream: Stream) -> Call:
    """Read the next bytes of an open stream, or `END`."""
    return Call(lambda: next(stream), lambda: anext(stream))


def closing(stream: Stream) -> Call:
    """Close a stream, whether it has ended or not."""
    return Call(stream.close, stream.aclose)
