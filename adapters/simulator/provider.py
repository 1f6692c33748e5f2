"""The simulated provider without its network: takes a request in, gives an answer out, remembers everything."""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .access import require_beta, require_key
from .call import Call, Json
from .errors import ApiError, gone, unknown_url, wrong_type
from .faults import Fault, Faults, Refusal
from .limits import REQUESTS_KEPT
from .routes import APIS, Route, Router
from .store import Store
from .views import Views

API_PREFIX = "/v1"
BAD_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)


@dataclass(frozen=True)
class Incoming:
    """A request as it came: the path still encoded, header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class RecordedRequest:
    """A request the provider saw. `status` is None where it never answered; `body` is the JSON it was sent."""

    method: str
    path: str
    template: str | None
    status: int | None
    request_id: str
    body: Json


@dataclass
class Admitted:
    """A request on its way: its route, the fault that happens to it, and already the refusal if it is refused."""

    incoming: Incoming
    request_id: str
    started: float
    route: Route | None = None
    call: Call = field(default_factory=Call)
    fault: Fault | None = None
    refusal: ApiError | None = None


@dataclass(frozen=True)
class Reply:
    """An answer, ready for the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Provider(Views):
    """State and behaviour. Every public method may be called from any thread; reading gives copies of the lists."""

    def __init__(self, store: Store, api_key: str | None = None) -> None:
        super().__init__(store, threading.RLock())
        self.faults = Faults(store.seeded.chance)
        self._api_key = api_key
        self._router = Router()
        self._retired: set[str] = set()
        self._requests: deque[RecordedRequest] = deque(maxlen=REQUESTS_KEPT)
        self._counts: Counter[str] = Counter()

    def admit(self, incoming: Incoming) -> Admitted:
        """Find the route, check the key, and see whether a fault happens. Nothing is done yet and nothing is raised."""
        with self.lock:
            admitted = Admitted(incoming, self.store.seeded.long("req_")[:36], time.perf_counter())
            try:
                self._admit(admitted)
            except ApiError as refusal:
                admitted.refusal = refusal
            return admitted

    def perform(self, admitted: Admitted) -> Reply:
        """Do what was asked, or refuse it; either way the answer for the wire."""
        with self.lock:
            try:
                status, body = 200, self._perform(admitted)
                headers = dict(admitted.call.headers)
            except ApiError as refusal:
                status, body, headers = refusal.status, refusal.body(), refusal.headers
            elapsed = max(1, round((time.perf_counter() - admitted.started) * 1000))
            headers |= {"content-type": "application/json", "x-request-id": admitted.request_id}
            headers |= {"openai-version": "2020-10-01", "openai-processing-ms": str(elapsed)}
            # Encoded under the lock: another thread must not change the object meanwhile.
            return Reply(status, headers, json.dumps(body).encode())

    def record(self, admitted: Admitted, status: int | None) -> None:
        """Write down that a request was answered with `status`, or (None) not at all."""
        incoming, template = admitted.incoming, admitted.route.name if admitted.route else None
        with self.lock:
            self._counts[template or "unknown"] += 1
            request_id, body = admitted.request_id, admitted.call.body
            self._requests.append(RecordedRequest(incoming.method, incoming.path, template, status, request_id, body))

    def retire(self, api: str) -> None:
        """Shut an API down: every address of it answers 404 from now on. ValueError for a name that is none."""
        if api not in APIS:
            raise ValueError(f"no such API {api!r}; there are {', '.join(APIS)}")
        with self.lock:
            self._retired.add(api)

    @property
    def requests(self) -> list[RecordedRequest]:
        """What was asked of the provider, oldest first."""
        with self.lock:
            return list(self._requests)

    @property
    def request_counts(self) -> dict[str, int]:
        """How often each route was asked for, by its name."""
        with self.lock:
            return dict(self._counts)

    @property
    def retired_apis(self) -> tuple[str, ...]:
        """The APIs that were shut down."""
        with self.lock:
            return tuple(sorted(self._retired))

    def _admit(self, admitted: Admitted) -> None:
        incoming = admitted.incoming
        require_key(incoming.headers, self._api_key)
        inside = incoming.path.startswith(f"{API_PREFIX}/")
        found = self._router.find(incoming.method, incoming.path.removeprefix(API_PREFIX)) if inside else None
        if found is None:
            # A path of a retired API is gone whatever its method.
            raise gone() if self._is_retired_path(incoming.path) else unknown_url(incoming.method, incoming.path)
        admitted.route, ids = found
        admitted.call = Call(ids, incoming.query)
        if admitted.route.api in self._retired:
            raise gone()
        require_beta(incoming.headers, admitted.route.api)
        admitted.fault = self.faults.take(admitted.route)
        admitted.call.body = _parsed(incoming)

    def _perform(self, admitted: Admitted) -> Json:
        route, fault = admitted.route, admitted.fault
        if fault is not None and fault.refuse is not None:
            raise _scripted(fault.refuse)
        if admitted.refusal is not None or route is None:
            self._give_back(fault)
            raise admitted.refusal or unknown_url(admitted.incoming.method, admitted.incoming.path)
        if fault is not None:
            admitted.call.outcome = fault.outcome
        try:
            return route.handler(self.store, admitted.call)
        except ApiError as refusal:
            if refusal.status < 500:
                self._give_back(fault)
            raise

    def _give_back(self, fault: Fault | None) -> None:
        # A run that was never begun cannot have failed: the fault waits for the next one.
        if fault is not None and fault.outcome is not None:
            self.faults.give_back(fault)

    def _is_retired_path(self, path: str) -> bool:
        if "assistants" not in self._retired:
            return False
        return path.removeprefix(API_PREFIX).split("/")[1:2] in (["assistants"], ["threads"])


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


def _parsed(incoming: Incoming) -> Json:
    if not incoming.body.strip():
        return {}
    try:
        body = json.loads(incoming.body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, BAD_JSON) from error
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    return body
