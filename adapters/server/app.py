"""Serve the handlers as an ASGI application: access, routes, limits, bodies, answers, streams and the log.

A handler runs in a thread, which also sends its answer: the frames of a stream are created where the handler was called. Every
refusal has the provider's envelope.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from threadledger.domain.conversation.files import PREFIX_BYTES
from threadledger.domain.errors import ThreadledgerError
from threadledger.domain.failures import redact
from threadledger.domain.journal.blobs import BLOB_BYTES_MAX

from ..daemon_threads import DaemonThreads
from ..wire import (
    Address,
    ApiError,
    EventStream,
    IncomingRequest,
    Route,
    Router,
    address_of,
    errors,
    reply_headers,
    sse,
)
from ..wire.multipart import FORM, form_fields
from ..wire.requests import strict_object
from ..wire.routes import ROUTES
from ..wire.validation import unknown_fields_noted
from .access import Access, Slots, require_write
from .calls import Handler, Served, ServedCall, ServedFile
from .limits import (
    JSON_DEPTH_MAX,
    JSON_VALUES_MAX,
    UNKNOWN_FIELD_MAX_CHARS,
    UNKNOWN_FIELDS_NOTED_MAX,
    ServerLimits,
)
from .refusals import AGAIN, SERVER_ERROR, refusal_of, without_text
from .replies import RequestInProgress, WholeAnswer
from .request_keys import key_given
from .response_events import FAILED_NUMBER

HEALTH_PATH = "/health"
OWN_ROUTES = (Route("list_threads", "GET", "/threads", "assistants"),)
"""Routes that the provider does not have."""

TAKING_FORMS = frozenset({"create_file"})
"""Operations whose body is a form with a file, which a page could send too: its `Origin` is refused before the body is read."""

UPLOAD_BYTES_MAX = BLOB_BYTES_MAX - PREFIX_BYTES
"""Maximum size of an uploaded file, in bytes."""

WAITING_OPERATIONS = frozenset({"create_completion", "create_response", "retrieve_file_content"})
"""Operations whose whole answer waits for a model, or for the client that receives a file, too."""

EVERY_KEY = ""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
CREDENTIALS = ("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie")
"""Headers that a handler does not see."""

FILE_HEADERS = {
    "content-type": "application/octet-stream",
    "content-disposition": "attachment",
    "x-content-type-options": "nosniff",
}
"""Headers of the content of a file, which no browser shows as a page."""

JSON_TYPE = re.compile(r"application/json\s*(;\s*charset\s*=\s*\"?utf-?8\"?\s*)?", re.IGNORECASE)
LAST_FRAME = f"data: {sse.DONE}\n\n".encode()
"""End of a stream's last frame: a client may leave as soon as it has that, before the end of the body."""

STREAM_HEADERS = sse.STREAM_HEADERS | {"x-accel-buffering": "no"}
"""Headers of a stream; the last one keeps nginx from collecting it."""

logger = logging.getLogger("threadledger.server")


def name_request(call: ServedCall, _incoming: IncomingRequest) -> None:
    """Name a request after its tenant and its header `Idempotency-Key`; one without the header gets a random name."""
    call.request_key = key_given(call) or uuid4().hex


def ignore_call(_call: ServedCall) -> None:
    """Do nothing after an answer."""


@dataclass(frozen=True)
class Hooks:
    """Hold functions that are called around each request that may write.

    `begin` names the request (`ServedCall.request_key`) before its handler is called, in the thread of the handler. Of each
    request that it named, either `sent` is called, when the client was still connected after the system had accepted the whole
    answer, or `unsent`. Neither may block: they are called in the event loop too.
    An answer of status 500 or above counts as unsent, because the client does not know what was stored.
    """

    begin: Callable[[ServedCall, IncomingRequest], None] = name_request
    sent: Callable[[ServedCall], None] = ignore_call
    unsent: Callable[[ServedCall], None] = ignore_call


class ServerApp:
    """Serve the operations that have a handler, for callers that `access` knows."""

    def __init__(
        self,
        served: Served,
        handlers: Mapping[str, Handler],
        access: Access,
        *,
        root_path: str = "",
        limits: ServerLimits | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        self._served = served
        self._handlers = handlers
        self._access = access
        self._root = root_path.rstrip("/")
        self._hooks = hooks or Hooks()
        self._router = Router(route for route in (*ROUTES, *OWN_ROUTES) if route.operation in handlers)
        self._requests = Slots(self.limits.requests_per_key, "requests")
        self._streams = Slots(self.limits.streams_per_key, "streams")
        self._waiting = Slots(self.limits.waiting_requests, "chat completions, streams and downloads of all keys")
        self._unknown = UnknownFields()
        self._threads = DaemonThreads(self.limits.threads, "threadledger-handler")
        self._in_progress: set[RequestInProgress] = set()
        self._is_stopped = False

    def stop(self) -> None:
        """End the requests in progress because the server stops; called in its event loop."""
        self._is_stopped = True
        for request in self._in_progress:
            request.cut()
        self._threads.stop()

    def unread(self, refusal: ApiError) -> bytes:
        """Return the answer to a request that could not be read, for the connection, and log it."""
        request_id, body = f"req_{uuid4().hex}", json.dumps(refusal.body()).encode()
        _log("-", "-", refusal.status, "", 1, request_id, len(body))
        headers = reply_headers(request_id, 1) | refusal.headers
        headers |= {"content-length": str(len(body)), "connection": "close"}
        first = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"
        lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        request = RequestInProgress(scope, receive, send, self.limits)
        self._in_progress.add(request)
        try:
            await self._answer(request, scope)
        except ApiError as refusal:
            await request.refuse(refusal)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
            await request.refuse(ApiError(503, "The server stops: try again.", kind=SERVER_ERROR, headers=AGAIN))
        except Exception as error:  # noqa: BLE001 - every error becomes a refusal
            await request.refuse(_refused(error, request.request_id))
        finally:
            self._in_progress.discard(request)
            call, incoming = request.call or ServedCall(), request.incoming
            method = incoming.method if incoming.method in METHODS else "?"
            path = call.route.template if call.route is not None else HEALTH_PATH if request.call is None else "-"
            ended = (request.status, call.caller.name, request.elapsed_ms, request.request_id, request.sent_bytes)
            _log(method, path, *ended)

    async def _answer(self, request: RequestInProgress, scope: Scope) -> None:
        incoming = request.incoming
        path = self._own_path(incoming.path)
        if path == HEALTH_PATH:
            if incoming.method != "GET":
                raise _not_allowed(incoming, ["GET"])
            await request.answer(200, {}, {"status": "ok"})
            return
        call = request.call = ServedCall(
            request_id=request.request_id, gone=request.gone, query=incoming.query, query_pairs=incoming.query_pairs
        )
        has_form = incoming.method == "POST" and is_form(incoming)
        _require_small(scope, self.limits.header_bytes)
        address = address_of(path, incoming.query)
        with ExitStack() as held:
            own: ExitStack | None = held
            if has_form or not request.is_small:  # then the caller must be known before the body is read
                await self._threads.call(partial(self._admit, call, incoming, address, held))
                own = None
            if has_form:  # of a route that takes one, or the request was refused
                call.upload = await request.read_form(new_upload, min(self.limits.body_bytes, UPLOAD_BYTES_MAX))
                held.callback(call.upload.discard)
                incoming = replace(incoming, upload=call.upload)
            elif incoming.method == "POST":
                incoming = replace(incoming, body=await request.read_body())
            watch = asyncio.ensure_future(request.watch())
            try:
                carry_out = partial(self._carried_out, request, call, incoming, address, own)
                reply = await self._threads.call(partial(self._perform, request, call, carry_out))
                if reply is not None:
                    await self._reply(request, call, reply)
            finally:
                watch.cancel()

    async def _reply(self, request: RequestInProgress, call: ServedCall, reply: WholeAnswer) -> None:
        delivered = False
        try:
            if not (request.gone.is_set() or request.has_begun):
                delivered = await request.answer(*reply)
        finally:
            self._note_end(call, request.request_id, delivered and reply.status < HTTPStatus.INTERNAL_SERVER_ERROR)

    def _own_path(self, path: str) -> str:
        """Return a path without the root path, which a proxy in front may have removed already."""
        return path.removeprefix(self._root) if self._root and path.startswith(f"{self._root}/") else path

    def _route(self, incoming: IncomingRequest, address: Address | None) -> tuple[Route, dict[str, str]]:
        found = self._router.find(incoming.method, address.path) if address is not None else None
        if found is not None and not any(map(_has_control_character, found[1].values())):
            return found
        methods = self._router.methods(address.path) if address is not None and found is None else []
        raise _not_allowed(incoming, methods) if methods else errors.unknown_url(incoming.method, redact(incoming.path))

    # What follows runs in the thread of the handler.

    def _admit(self, call: ServedCall, incoming: IncomingRequest, address: Address | None, held: ExitStack) -> None:
        """Find out who sends a request and what it asks for; its slot is taken until `held` is closed.

        Raises:
            ApiError: the request is refused.
        """
        call.caller = self._access.caller_of(incoming.headers, azure=address is not None and address.azure)
        call.route, call.ids = self._route(incoming, address)
        if any(_has_control_character(value) for _, value in incoming.query_pairs):
            raise errors.bad_request("Invalid query: a value has a control character.")
        require_write(call.caller, incoming.method)
        call.request_headers = {name: value for name, value in incoming.headers.items() if name not in CREDENTIALS}
        held.enter_context(self._requests.taken(call.caller.name))
        takes_form = call.route.operation in TAKING_FORMS and is_form(incoming)
        if incoming.method == "POST" and not takes_form:
            _require_json(incoming)

    def _perform(
        self, request: RequestInProgress, call: ServedCall, carry_out: Callable[[], WholeAnswer | None]
    ) -> WholeAnswer | None:
        """Carry out a request and return its whole answer; None without a client, and after a stream."""
        reply = carry_out()
        if reply is not None and request.gone.is_set():  # the event loop may not wait for it any more
            self._note_end(call, request.request_id, False)
            return None
        return reply

    def _carried_out(
        self,
        request: RequestInProgress,
        call: ServedCall,
        incoming: IncomingRequest,
        address: Address | None,
        held: ExitStack | None,
    ) -> WholeAnswer | None:
        """Return the whole answer to a request, also a refusal; a stream is sent here, and None returned.

        The request is admitted first, unless `held` is None because it is already.
        """
        try:
            if held is not None:
                self._admit(call, incoming, address, held)
            with unknown_fields_noted(partial(self._unknown.note, call.route)):
                self._read(call, incoming, address)
                with ExitStack() as waiting:
                    self._take_slots(call, waiting)
                    return self._carry_out(request, call, incoming)
        except Exception as error:  # noqa: BLE001 - every error becomes a refusal
            refusal = _refused(error, request.request_id)
            return WholeAnswer(refusal.status, refusal.headers, json.dumps(refusal.body()).encode())

    def _take_slots(self, call: ServedCall, held: ExitStack) -> None:
        """Take the slots of a request that waits for a model or its client, until `held` is closed: it occupies its thread."""
        is_stream = call.wants_stream and call.route is not None and call.route.streams
        if is_stream:
            held.enter_context(self._streams.taken(call.caller.name))
        if is_stream or (call.route is not None and call.route.operation in WAITING_OPERATIONS):
            held.enter_context(self._waiting.taken(EVERY_KEY))

    def _note_end(self, call: ServedCall, request_id: str, delivered: bool) -> None:
        if call.request_key:
            try:
                (self._hooks.sent if delivered else self._hooks.unsent)(call)
            except Exception as error:
                logger.error("the end of %s was not noted", request_id, exc_info=without_text(error))

    def _read(self, call: ServedCall, incoming: IncomingRequest, address: Address | None) -> None:
        body = strict_object(incoming.body, JSON_DEPTH_MAX, JSON_VALUES_MAX)
        if call.upload is not None:
            body = form_fields(call.upload.fields)
        if address is not None and address.deployment is not None:
            body.setdefault("model", address.deployment)
        known = frozenset(call.route.fields if call.route is not None else ())
        for name in body.keys() - known:
            self._unknown.note(call.route, name)
        call.body = {name: value for name, value in body.items() if name in known}

    def _carry_out(self, request: RequestInProgress, call: ServedCall, incoming: IncomingRequest) -> WholeAnswer | None:
        if incoming.method != "GET":
            self._hooks.begin(call, incoming)
        operation = call.route.operation if call.route is not None else ""
        result = self._handlers[operation](self._served, call)
        if isinstance(result, ServedFile):
            self._send_file(request, call, result)
            return None
        if not isinstance(result, EventStream):
            return WholeAnswer(200, call.headers, json.dumps(result).encode())
        delivered = False
        try:
            delivered = self._stream(request, call, result)
        finally:
            self._note_end(call, request.request_id, delivered)
        return None

    @staticmethod
    def _send_file(request: RequestInProgress, call: ServedCall, file: ServedFile) -> None:
        """Send a file chunk by chunk. If a later chunk cannot be read, the connection is closed without it."""
        chunk = next(file.chunks, b"")
        headers = FILE_HEADERS | {"content-length": str(file.size)} | call.headers
        sent, connected = 0, request.from_thread(partial(request.begin, 200, headers))
        try:
            while connected:
                sent += len(chunk)
                connected = request.from_thread(partial(request.write, chunk, last=sent == file.size))
                if sent == file.size:
                    return
                chunk = next(file.chunks)
        except Exception as error:
            logger.error("%s: the file was not sent completely", request.request_id, exc_info=without_text(error))

    def _stream(self, request: RequestInProgress, call: ServedCall, stream: EventStream) -> bool:
        """Send a stream frame by frame, and return whether the client has all of it; without a client, abandon it."""
        connected = request.from_thread(partial(request.begin, 200, STREAM_HEADERS | call.headers))
        try:
            while connected:
                piece = next(stream.frames, None)
                if piece is None:
                    return request.from_thread(partial(request.write, b"", last=True))
                if piece.endswith(LAST_FRAME):
                    delivered = request.from_thread(partial(request.finish, piece))
                    deque(stream.frames, maxlen=0)  # what the handler does after the last one
                    return delivered
                connected = request.from_thread(partial(request.write, piece)) if piece else not request.gone.is_set()
        except Exception as error:  # noqa: BLE001 - it is sent within the stream
            refusal = _refused(error, request.request_id)
            _abandon(stream, "failed", request.request_id)
            code, number = refusal.code or SERVER_ERROR, FAILED_NUMBER
            last = sse.error_frame(stream.api, code, refusal.message, number=number, enveloped=True)
            request.from_thread(partial(request.write, last, last=True))
            return False
        _abandon(stream, "cancelled", request.request_id)
        return False


class UnknownFields:
    """Log each field that a route does not have once, with the name of the route."""

    def __init__(self) -> None:
        self._noted: set[tuple[str, str]] = set()
        self._lock = Lock()

    def note(self, route: Route | None, name: str) -> None:
        """Log a field unless it was logged before; indices in its name do not matter."""
        found = (route.name if route is not None else "", re.sub(r"\[\d+\]", "[]", name)[:UNKNOWN_FIELD_MAX_CHARS])
        with self._lock:
            if found in self._noted or len(self._noted) >= UNKNOWN_FIELDS_NOTED_MAX:
                return
            self._noted.add(found)
        logger.warning("%s: the field %a is not known and is ignored", *found)


def _refused(error: Exception, request_id: str) -> ApiError:
    """Return the refusal for an error, which is logged if the server is at fault."""
    refusal = refusal_of(error, request_id)
    if refusal.status == HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, ApiError):
        logger.error("%s failed", request_id, exc_info=without_text(error))
    elif refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        reason = redact(str(error)) if isinstance(error, ThreadledgerError) else refusal.message
        logger.warning("%s failed: %s", request_id, reason)
    return refusal


def _abandon(stream: EventStream, status: str, request_id: str) -> None:
    try:
        stream.abandon(status)
    except Exception as error:
        logger.error("the stream of %s was not abandoned", request_id, exc_info=without_text(error))


def _log(method: str, path: str, status: int, key_name: str, elapsed_ms: int, request_id: str, sent_bytes: int) -> None:
    facts: dict[str, Any] = {"method": method, "path": path, "status": status, "key_name": key_name or None}
    facts |= {"elapsed_ms": elapsed_ms, "request_id": request_id, "bytes": sent_bytes}
    values = (method, path, status, key_name or "-", elapsed_ms, request_id, sent_bytes)
    logger.info("%s %s %d, key %s, %d ms, %s, %d bytes", *values, extra=facts)


def _require_small(scope: Scope, most: int) -> None:
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    if size + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > most:
        raise headers_too_large(most)


def headers_too_large(most: int) -> ApiError:
    """Return the 431 for headers of more than `most` bytes."""
    return ApiError(
        431, f"The headers of the request are larger than {most:,} bytes: send less.", code="headers_too_large"
    )


def _require_json(incoming: IncomingRequest) -> None:
    """Raise a 415 for a body that is not announced as JSON; a request without a body needs no type."""
    given = incoming.headers.get("content-type")
    has_body = incoming.headers.get("content-length", "0") != "0" or "transfer-encoding" in incoming.headers
    is_json = JSON_TYPE.fullmatch(given.strip()) is not None if given is not None else not has_body
    if not is_json or incoming.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(
            415,
            "Unsupported content type: this server takes bodies of the type 'application/json', in UTF-8 and not compressed.",
            code="unsupported_content_type",
        )


def is_form(incoming: IncomingRequest) -> bool:
    """Return whether a request has a form with files that is not compressed."""
    kind = incoming.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == FORM and incoming.headers.get("content-encoding", "identity").lower() == "identity"


def new_upload() -> Path:
    """Return the path of a new temporary file for an upload.

    Raises:
        OSError: there is no place for it.
    """
    number, path = tempfile.mkstemp(prefix="threadledger-upload-")
    os.close(number)
    return Path(path)


def _not_allowed(incoming: IncomingRequest, methods: list[str]) -> ApiError:
    message = f"Not allowed to {incoming.method} on {redact(incoming.path)}: use {' or '.join(methods)}."
    return ApiError(405, message, code="method_not_supported", headers={"allow": ", ".join(methods)})


def _has_control_character(text: str) -> bool:
    return any(character < " " or character == "\x7f" for character in text)
