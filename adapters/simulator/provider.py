"""Implement the simulated provider without its network: handle requests and hold the state."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from ..wire import (
    APIS,
    Address,
    ApiError,
    EventStream,
    IncomingRequest,
    Json,
    Reply,
    Route,
    Router,
    address_of,
    errors,
    json_body,
    messages_api,
    reply_headers,
    require_beta,
    require_key,
    sse,
)
from ..wire.multipart import form_fields
from ..wire.routes import ROUTES
from .faults import Fault, Faults, Refusal
from .files import Download
from .handlers import HANDLERS
from .limits import REQUESTS_KEPT
from .rates import UNLIMITED, RateLimits, requested_tokens
from .requests import AdmittedRequest, RecordedRequest, SimulatedCall
from .store import ProviderStore
from .views import ProviderViews


class Provider(ProviderViews):
    """Handle requests and hold the provider's state.

    Every public method may be called from any thread. Properties return copies of the lists.
    """

    def __init__(self, store: ProviderStore, api_key: str | None = None) -> None:
        super().__init__(store, threading.RLock())
        self.faults = Faults(store.ids.chance)
        self.rates = RateLimits(store.seconds)
        self.keeper: Callable[[], None] | None = None
        self._api_key = api_key
        self._router = Router(route for route in ROUTES if route.operation in HANDLERS)
        self._retired: set[str] = set()
        self._requests: deque[RecordedRequest] = deque(maxlen=REQUESTS_KEPT)
        self._counts: Counter[str] = Counter()

    def admit(self, incoming: IncomingRequest) -> AdmittedRequest:
        """Find a request's route, check its key and choose its fault.

        This does not carry out the request and raises nothing: a refusal is stored in the result.
        """
        with self.lock:
            admitted = AdmittedRequest(incoming, self.store.ids.long("req_")[:36], time.perf_counter())
            try:
                self._admit(admitted)
            except ApiError as refusal:
                admitted.refusal = refusal
            return admitted

    def perform(self, admitted: AdmittedRequest) -> Reply:
        """Carry out or refuse a request and return the answer.

        A streamed request is carried out as the stream is pulled.
        """
        with self.lock:
            body: Json | EventStream | Download
            try:
                status, body = 200, self._perform(admitted)
                headers = dict(admitted.call.headers)
            except ApiError as refusal:
                status, body, headers = refusal.status, refusal.body(), refusal.headers
                if messages_api.VERSION_HEADER in admitted.incoming.headers:
                    body = messages_api.error_body(status, refusal.kind, refusal.message, admitted.request_id)
            finally:
                if admitted.call.upload is not None:
                    admitted.call.upload.discard()
            elapsed = max(1, round((time.perf_counter() - admitted.started) * 1000))
            headers |= reply_headers(admitted.request_id, elapsed) | self.rates.headers()
            if messages_api.VERSION_HEADER in admitted.incoming.headers:
                headers = {"request-id" if name == "x-request-id" else name: value for name, value in headers.items()}
            if isinstance(body, EventStream):
                headers |= sse.STREAM_HEADERS
                self.save()
                return Reply(status, headers, stream=body)
            if isinstance(body, Download):
                headers |= {"content-type": "application/octet-stream", "content-length": str(body.size)}
                return Reply(status, headers, file=body.path)
            # Encode under the lock, so that no other thread changes the object meanwhile.
            reply = Reply(status, headers, json.dumps(body).encode())
            self.save()
            return reply

    def pull(self, stream: EventStream) -> bytes | None:
        """Return the next event of a stream, or None after the last."""
        with self.lock:
            event = next(stream.frames, None)
            self.save()
            return event

    def drain(self, stream: EventStream) -> None:
        """Carry out the rest of a stream without sending it."""
        with self.lock:
            for _frame in stream.frames:
                pass
            self.save()

    def abandon(self, stream: EventStream, status: str) -> None:
        """End a stream whose rest will not be pulled.

        `status` is how an unfinished run or response ends, if it ends: `cancelled` or `failed`.
        """
        with self.lock:
            stream.abandon(status)
            self.save()

    def record(self, admitted: AdmittedRequest, status: int | None) -> None:
        """Record that a request was answered with `status`, or never (None)."""
        incoming, template = admitted.incoming, admitted.route.name if admitted.route else None
        with self.lock:
            self._counts[template or "unknown"] += 1
            request_id, body = admitted.request_id, admitted.call.body
            self._requests.append(RecordedRequest(incoming.method, incoming.path, template, status, request_id, body))

    def retire(self, api: str) -> None:
        """Shut an API down: all its routes answer 404 from now on.

        Raises `ValueError` for an unknown API.
        """
        if api not in APIS:
            raise ValueError(f"no such API {api!r}; choose one of {', '.join(APIS)}")
        with self.lock:
            self._retired.add(api)

    def reset(self) -> None:
        """Delete all objects, recorded requests, counts, scripted answers, faults, limits and retirements."""
        with self.lock:
            self.store.clear()
            self.faults.clear()
            self.rates.set(UNLIMITED)
            self._requests.clear()
            self.restore((), {})

    def restore(self, retired: Iterable[str], counts: Mapping[str, int]) -> None:
        """Set the retired APIs and the request counts by route to saved values."""
        with self.lock:
            self._retired, self._counts = set(retired), Counter(counts)

    def save(self) -> None:
        """Save what has changed, if the state is kept in a file."""
        with self.lock:
            if self.keeper is not None:
                self.keeper()

    @property
    def requests(self) -> list[RecordedRequest]:
        """Return the recorded requests, oldest first."""
        with self.lock:
            return list(self._requests)

    @property
    def request_counts(self) -> dict[str, int]:
        """Return the number of requests by route name."""
        with self.lock:
            return dict(self._counts)

    @property
    def retired_apis(self) -> tuple[str, ...]:
        """Return the names of the APIs that were shut down."""
        with self.lock:
            return tuple(sorted(self._retired))

    def _admit(self, admitted: AdmittedRequest) -> None:
        incoming = admitted.incoming
        address = address_of(incoming.path, incoming.query)
        require_key(incoming.headers, self._api_key, azure=address is not None and address.azure)
        found = self._router.find(incoming.method, address.path) if address else None
        if address is None or found is None:
            # A path of a retired API answers as gone for every method.
            raise (
                errors.gone("assistants")
                if address and self._is_retired(address)
                else errors.unknown_url(incoming.method, incoming.path)
            )
        admitted.route, ids = found
        admitted.call = SimulatedCall(admitted.route, ids, incoming.query)
        admitted.call.upload = incoming.upload
        if admitted.route.api in self._retired:
            raise errors.gone(admitted.route.api)
        require_beta(incoming.headers, admitted.route.api)
        malformed: ApiError | None = None
        try:
            admitted.call.body = _body_of(incoming)
        except ApiError as refusal:
            malformed = refusal
        if address.deployment is not None:
            admitted.call.body.setdefault("model", address.deployment)
        self._charge(admitted.route, admitted.call.body)
        admitted.fault = self.faults.take(admitted.route, admitted.call)
        if malformed is not None:
            raise malformed

    def _charge(self, route: Route, body: Json) -> None:
        model = body.get("model")
        self.rates.charge(requested_tokens(body) if route.makes else 0, model if isinstance(model, str) else "default")

    def _perform(self, admitted: AdmittedRequest) -> Json | EventStream | Download:
        route, fault, call = admitted.route, admitted.fault, admitted.call
        if fault is not None and fault.refuse is not None:
            raise _scripted(fault.refuse)
        if admitted.refusal is not None or route is None:
            self._give_back(fault)
            raise admitted.refusal or errors.unknown_url(admitted.incoming.method, admitted.incoming.path)
        if fault is not None:
            call.outcome = fault.outcome
            if fault.gone:
                self._retired.add(route.api)
                raise errors.gone(route.api)
            if fault.thread_gone and call.addressed is not None:
                with suppress(KeyError):  # it is gone already
                    self.lose(call.addressed)
        try:
            return HANDLERS[route.operation](self.store, call)
        except ApiError as refusal:
            if refusal.status < 500:
                self._give_back(fault)
            raise

    def _give_back(self, fault: Fault | None) -> None:
        # A run that never started cannot fail, so the fault is kept for the next one.
        if fault is not None and fault.outcome is not None:
            self.faults.give_back(fault)

    def _is_retired(self, address: Address) -> bool:
        return "assistants" in self._retired and address.path.split("/")[1:2] in (["assistants"], ["threads"])


def _body_of(incoming: IncomingRequest) -> Json:
    """Return the body of a request as JSON; of an upload, its fields and the name and size of its file."""
    if incoming.upload is None:
        return json_body(incoming)
    upload = incoming.upload
    body = form_fields(upload.fields)
    if upload.path is not None:
        body["file"] = {"filename": upload.filename, "bytes": upload.size}
    return body


def _scripted(refusal: Refusal) -> ApiError:
    kind = refusal.type or ("server_error" if refusal.status >= 500 else "invalid_request_error")
    return ApiError(
        refusal.status,
        refusal.message,
        kind=kind,
        code=refusal.code,
        param=refusal.param,
        headers={name.lower(): value for name, value in refusal.headers.items()},
    )
