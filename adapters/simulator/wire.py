"""Requests and answers as they travel: what came, what was let in, what was recorded, what goes out."""

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
    """An answer, ready for the wire: a body, or a stream of events to be made."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: EventStream | None = None


def parsed(incoming: Incoming) -> Json:
    """The JSON object in a request's body, {} where there is none; or the provider's 400."""
    if not incoming.body.strip():
        return {}
    try:
        body = json.loads(incoming.body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, BAD_JSON) from error
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    return body
