"""Wrap the app's HTTP client and record the requests that pass through it.

The app's client sends all requests, so its timeouts, proxies, headers, transports, hooks and redirects still apply. Verified
with openai 3.54: the SDK uses only `build_request`, `send`, `close` or `aclose`, `is_closed`, `timeout` and `event_hooks` of
its HTTP client, all of which are public.

The bytes of a response are read as they pass to the app (`Passing`): the state they show is recorded before the app
receives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import httpx2

from threadledger.domain.errors import InvalidInput
from threadledger.domain.failures import Failure

from ..openai import (
    Context,
    Fold,
    Seen,
    failure_of,
    failure_of_response,
    fold_of,
    read_body,
    request_id_in,
    with_messages,
)
from ..worker_threads import to_its_end
from .requests import THREAD_MESSAGES_MAX, Sent
from .runs import CallRecorder

T = TypeVar("T")


class Recorded(Protocol):
    """Receive the events of a recorded request (see `runs.py`). `begin` may raise; the other methods never do."""

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context: ...

    def begin(self) -> None: ...

    def refuse(self, failure: Any) -> None: ...

    def see(self, seen: Seen) -> None: ...

    def broke(self, seen: Seen) -> None: ...


C = TypeVar("C", bound="httpx2.Client | httpx2.AsyncClient")


class _InFront(Generic[C]):
    """Delegate the attributes that the SDK reads and sets to the wrapped client."""

    inner: C

    def build_request(self, *args: Any, **options: Any) -> httpx2.Request:
        return self.inner.build_request(*args, **options)

    @property
    def timeout(self) -> httpx2.Timeout:
        return self.inner.timeout

    @timeout.setter
    def timeout(self, timeout: Any) -> None:
        self.inner.timeout = timeout

    @property
    def event_hooks(self) -> dict[str, list[Callable[..., Any]]]:
        return self.inner.event_hooks

    @event_hooks.setter
    def event_hooks(self, event_hooks: dict[str, list[Callable[..., Any]]]) -> None:
        self.inner.event_hooks = event_hooks

    @property
    def is_closed(self) -> bool:
        return self.inner.is_closed


class RecordingClient(_InFront[httpx2.Client], httpx2.Client):
    """Wrap an `httpx2.Client` and record its requests."""

    def __init__(self, inner: httpx2.Client, recorder: CallRecorder) -> None:
        super().__init__(transport=httpx2.BaseTransport(), trust_env=False)  # never used: `inner` sends everything
        self.inner = inner
        self._recorder = recorder

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        recorded = self._recorder.recorded(sent(request))
        if recorded is None:
            return self.inner.send(request, stream=stream, **options)
        try:
            recorded.begin()
            response = self.inner.send(request, stream=stream, **options)
        except BaseException as error:
            recorded.refuse(trouble(error, recorded.context()))
            raise
        context = context_of(recorded, response)
        if response.is_error:
            with suppress(httpx2.HTTPError):  # the SDK gets the same error and raises it to the app
                response.read()
            recorded.refuse(refusal(response, context))
        elif stream:
            read = partial(self._whole, request=request, context=context, options=options)
            response.stream = _RecordedStream(response, passing(recorded, response, context), read)
        else:
            recorded.see(
                self._whole(
                    read_safely(lambda: read_body(response.content, context), context), request, context, options
                )
            )
        return response

    def _whole(self, seen: Seen, request: httpx2.Request, context: Context, options: dict[str, Any]) -> Seen:
        """Add the messages of a completed run, which only its thread contains."""
        if not seen.unread:
            return seen
        try:
            asked = self.inner.send(messages_request(request, seen), **options)
            page = asked.json() if asked.is_success else None
        except (httpx2.HTTPError, ValueError):
            page = None
        return with_messages(seen, page, context)

    def close(self) -> None:
        self.inner.close()
        self._recorder.close()


class AsyncRecordingClient(_InFront[httpx2.AsyncClient], httpx2.AsyncClient):
    """Wrap an `httpx2.AsyncClient` and record its requests; the ledger is written in a worker thread."""

    def __init__(self, inner: httpx2.AsyncClient, recorder: CallRecorder) -> None:
        super().__init__(transport=httpx2.AsyncBaseTransport(), trust_env=False)  # never used: `inner` sends everything
        self.inner = inner
        self._recorder = recorder

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        recorded = self._recorder.recorded(sent(request))
        if recorded is None:
            return await self.inner.send(request, stream=stream, **options)
        try:
            await to_its_end(recorded.begin)
            response = await self.inner.send(request, stream=stream, **options)
        except BaseException as error:
            failure = trouble(error, recorded.context())
            await to_its_end(lambda: recorded.refuse(failure))
            raise
        context = context_of(recorded, response)
        if response.is_error:
            with suppress(httpx2.HTTPError):  # the SDK gets the same error and raises it to the app
                await response.aread()
            refused = refusal(response, context)
            await to_its_end(lambda: recorded.refuse(refused))
        elif stream:
            read = partial(self._whole, request=request, context=context, options=options)
            response.stream = _AsyncStream(response, passing(recorded, response, context), read)
        else:
            seen = await self._whole(
                read_safely(lambda: read_body(response.content, context), context), request, context, options
            )
            await to_its_end(lambda: recorded.see(seen))
        return response

    async def _whole(self, seen: Seen, request: httpx2.Request, context: Context, options: dict[str, Any]) -> Seen:
        """Add the messages of a completed run, which only its thread contains."""
        if not seen.unread:
            return seen
        try:
            asked = await self.inner.send(messages_request(request, seen), **options)
            page = asked.json() if asked.is_success else None
        except (httpx2.HTTPError, ValueError):
            page = None
        return with_messages(seen, page, context)

    async def aclose(self) -> None:
        await self.inner.aclose()
        await asyncio.to_thread(self._recorder.close)


class _RecordedStream(httpx2.SyncByteStream):
    """Pass on the bytes of a response and record the run state that they show."""

    def __init__(self, response: httpx2.Response, passing: Passing, whole: Callable[[Seen], Seen]) -> None:
        self._bytes = response.stream
        self._passing = passing
        self._whole = whole

    def __iter__(self) -> Iterator[bytes]:
        if not isinstance(self._bytes, httpx2.SyncByteStream):
            raise TypeError("the app's HTTP client returned a response body that cannot be read synchronously")
        try:
            for chunk in self._bytes:
                self._record(self._passing.take(chunk))
                yield chunk
        except GeneratorExit:
            raise  # the reader stopped; `close` records it
        except BaseException as error:
            self._record(self._passing.broke(error))
            raise
        self._record(self._passing.end())

    def close(self) -> None:
        try:
            if isinstance(self._bytes, httpx2.SyncByteStream):
                self._bytes.close()
        finally:
            self._record(self._passing.closed())

    def _record(self, record: Record | None) -> None:
        if record is not None:
            record.to(self._whole(record.seen))


class _AsyncStream(httpx2.AsyncByteStream):
    """Pass on the bytes of an asynchronous response and record the run state that they show."""

    def __init__(self, response: httpx2.Response, passing: Passing, whole: Callable[[Seen], Awaitable[Seen]]) -> None:
        self._bytes = response.stream
        self._passing = passing
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not isinstance(self._bytes, httpx2.AsyncByteStream):
            raise TypeError("the app's HTTP client returned a response body that cannot be read asynchronously")
        try:
            async for chunk in self._bytes:
                await self._record(self._passing.take(chunk))
                yield chunk
        except GeneratorExit:
            raise  # the reader stopped; `aclose` records it
        except BaseException as error:
            await self._record(self._passing.broke(error))
            raise
        await self._record(self._passing.end())

    async def aclose(self) -> None:
        try:
            if isinstance(self._bytes, httpx2.AsyncByteStream):
                await self._bytes.aclose()
        finally:
            await self._record(self._passing.closed())

    async def _record(self, record: Record | None) -> None:
        if record is not None:
            seen = await self._whole(record.seen)
            await to_its_end(lambda: record.to(seen))


def recording_client(inner: object, recorder: CallRecorder) -> RecordingClient | AsyncRecordingClient:
    """Wrap the app's HTTP client; if it is already a recording client, wrap the client inside it instead.

    Raises:
        InvalidInput: the client is not an httpx2 client.
    """
    if isinstance(inner, RecordingClient | AsyncRecordingClient):
        inner = inner.inner
    if isinstance(inner, httpx2.Client):
        return RecordingClient(inner, recorder)
    if isinstance(inner, httpx2.AsyncClient):
        return AsyncRecordingClient(inner, recorder)
    raise InvalidInput(
        f"an HTTP client of {type(inner).__module__} cannot be recorded: pass the OpenAI client an httpx2 client, or none"
    )


def sent(request: httpx2.Request) -> Sent:
    """Convert an HTTP request; one with a streamed body becomes an empty request, which is not recorded."""
    try:
        body = request.content
    except httpx2.RequestNotRead:
        return Sent("", "", b"", {})
    timeouts = request.extensions.get("timeout")
    limits = [each for each in timeouts.values() if each] if isinstance(timeouts, dict) else []
    return Sent(request.method, request.url.path, body, request.headers, sum(limits) or None)


def context_of(recorded: Recorded, response: httpx2.Response) -> Context:
    """Return the facts of a response that are known before its body is read."""
    context = recorded.context(request_id_in(response.headers), response.status_code)
    return replace(context, content_type=response.headers.get("content-type", ""), headers=response.headers)


def passing(recorded: Recorded, response: httpx2.Response, context: Context) -> Passing:
    """Create the object that records the bytes of a response."""
    encoding = response.headers.get("content-encoding", "identity")
    events = "application/json" not in response.headers.get("content-type", "")

    def decode(raw: bytes) -> bytes:
        return httpx2.Response(200, headers={"content-encoding": encoding}, content=raw).content

    return Passing(recorded.see, recorded.broke, context, events, None if encoding == "identity" else decode)


def refusal(response: httpx2.Response, context: Context) -> Failure:
    """Return the facts of a response with an HTTP status of 400 or above; its body was read if possible."""
    return failure_of_response(response, context, {"exception": "APIStatusError"})


def trouble(error: BaseException, context: Context) -> Failure:
    """Return the facts of an exception raised by the HTTP client."""
    if isinstance(error, Exception):
        return failure_of(error, context.endpoint, context.thread_id)
    stopped = isinstance(error, asyncio.CancelledError)
    status = "cancelled" if stopped else "interrupted"
    message = "the app cancelled the call" if stopped else None
    return replace(context.failure(status, message=message), type=type(error).__name__)


def read_safely(look: Callable[[], Seen], context: Context) -> Seen:
    """Read a body; an error of ours becomes a failure of the run, because the app must get its answer."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - an error of ours must not cost the app its answer
        return unreadable(error, context)


def unreadable(error: Exception, context: Context) -> Seen:
    """Return the failure for a body that raised an unexpected error when it was read."""
    message = f"the response could not be recorded: {error}"
    details = {"exception": "JSONDecodeError"}
    return Seen(context.failure("error", type=type(error).__name__, message=message, details=details))


def messages_request(request: httpx2.Request, seen: Seen) -> httpx2.Request:
    """Create the request for the messages of a completed run, with the headers and query of the request that showed its end."""
    before, _, _ = request.url.path.partition("/threads/")
    url = request.url.copy_with(path=f"{before}/threads/{seen.thread_id}/messages").copy_merge_params(
        {"run_id": seen.remote_id or "", "order": "desc", "limit": str(THREAD_MESSAGES_MAX)}
    )
    headers = [
        (name, value)
        for name, value in request.headers.multi_items()
        if not name.startswith(("content-", "x-stainless-raw", "transfer-")) and name != "host"
    ]
    return httpx2.Request("GET", url, headers=headers, extensions=request.extensions)


@dataclass(frozen=True)
class Record:
    """Hold a state of a run and the function that records it."""

    seen: Seen
    to: Callable[[Seen], None]


class Passing:
    """Follow one response body; each method returns the state to record, or None."""

    def __init__(
        self,
        see: Callable[[Seen], None],
        broke: Callable[[Seen], None],
        context: Context,
        events: bool,
        decode: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Create the reader. `decode` decodes a complete body with a content encoding; such a body is read at its end."""
        self._see = see
        self._broke = broke
        self._context = context
        self._fold: Fold = fold_of(context, events)
        self._decode = decode
        self._raw = bytearray()
        self._reported: Seen | None = None
        self._unread: Seen | None = None
        """The failure of a body that this recorder could not read."""
        self._over = False

    def take(self, chunk: bytes) -> Record | None:
        """Read the next bytes of the body."""
        if self._decode is not None:
            self._raw += chunk
            return None
        if self._unread is None:
            try:
                self._fold.take(chunk)
            except Exception as error:  # noqa: BLE001 - an error of ours must not cost the app its answer
                self._unread = unreadable(error, self._context)
        return self._news()

    def end(self) -> Record | None:
        """Handle the end of the body."""
        return self._last(self._fold.end, self._see)

    def broke(self, error: BaseException) -> Record | None:
        """Handle a broken connection or a cancelled task."""
        return self._last(lambda: self._fold.stopped(trouble(error, self._context)), self._broke)

    def closed(self) -> Record | None:
        """Handle a response that the app closed before its end."""
        return self._last(self._fold.closed, self._broke)

    def _news(self) -> Record | None:
        seen = self._fold.seen
        ended = seen.outcome is not None or seen.unread
        if self._over or seen == self._reported or (not ended and seen.remote_id is None):
            return None
        self._reported, self._over = seen, ended
        return Record(seen, self._see)

    def _last(self, look: Callable[[], Seen], to: Callable[[Seen], None]) -> Record | None:
        if self._over:
            return None
        if self._decode is not None:
            try:
                self._fold.take(self._decode(bytes(self._raw)))
            except Exception:  # noqa: BLE001 - a body that cannot be decoded contains no state; the app gets the same error
                self._raw.clear()
        self._over = True
        return Record(self._unread or read_safely(look, self._context), to)
