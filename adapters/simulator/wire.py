"""Define requests and answers in transit: received, admitted, recorded and sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from .call import Call, Json
from .errors import ApiError, wrong_type
from .faults import Fault
from .routes import Route
from .streams import EventStream

BAD_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)


@dataclass(frozen=True)
class Incoming:
    """Represent a request as received: the path is still encoded, header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


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


@dataclass
class Admitted:
    """Represent a request in progress: its route, its fault, and its refusal if it is refused."""

    incoming: Incoming
    request_id: str
    started: float
    route: Route | None = None
    call: Call = field(default_factory=Call)
    fault: Fault | None = None
    refusal: ApiError | None = None


@dataclass(frozen=True)
class Reply:
    """Represent an answer for the wire: a body, or a stream of events that are created as they are read."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: EventStream | None = None


def parsed(incoming: Incoming) -> Json:
    """Return the JSON object in a request's body, {} if the body is empty, or raise the provider's 400."""
    if not incoming.body.strip():
        return {}
    try:
        body = json.loads(incoming.body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, BAD_JSON) from error
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    return body
