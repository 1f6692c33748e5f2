"""Represent requests in progress and requests that were received."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..wire import ApiError, IncomingRequest, Json, Route, RouteCall, multipart
from .answers import ScriptedOutcome
from .faults import Fault


@dataclass
class SimulatedCall(RouteCall):
    """Hold the parts of one request that a handler uses.

    `outcome` is how a fault requires the answer to end; `upload` is the form of an upload.
    """

    outcome: ScriptedOutcome | None = None
    upload: multipart.Upload | None = None


@dataclass
class AdmittedRequest:
    """Represent a request in progress: its route, its fault, and its refusal if it is refused."""

    incoming: IncomingRequest
    request_id: str
    started: float
    route: Route | None = None
    call: SimulatedCall = field(default_factory=SimulatedCall)
    fault: Fault | None = None
    refusal: ApiError | None = None


@dataclass(frozen=True)
class RecordedRequest:
    """Represent a request that the provider received.

    `status` is None if the request was never answered; `body` is its JSON object.
    """

    method: str
    path: str
    template: str | None
    status: int | None
    request_id: str
    body: Json
