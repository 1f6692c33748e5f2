"""Turn the facts of a recorded failure into faults with which the simulator reproduces them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from threadledger.domain.failures import Cause, Failure, diagnose
from threadledger.domain.limits import BODY_CHARS_MAX
from threadledger.domain.threads import LEFT_IN_THREAD

from ..wire import Route, route_named

MODEL_ROUTES = {
    "assistants": "POST /threads/{thread_id}/runs",
    "responses": "POST /responses",
    "chat": "POST /chat/completions",
}
"""Route by which each backend calls its model."""

OUTPUTS = "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"
STREAMED_MODEL_ROUTES = (*MODEL_ROUTES.values(), OUTPUTS)

ERROR_STATUS_MIN = 400
"""Lowest HTTP status of an error."""

SILENT_SECONDS = 30.0
"""Seconds of silence that reproduce a timeout: longer than any attempt of a test may last."""

ENDS = ("expired", "cancelled")

GARBLED_STREAM = 'data: {"this line": is no JSON\n\n'

LATE_REQUESTS = (1, 2, 3)
"""Numbers of further requests after which an unanswered request may have been carried out."""

BROKEN_JSON, NO_ANSWER = '{"id": "x", ', "{}"
"""A body that is not JSON, and a JSON body that is not an answer."""

_IDS = re.compile(
    r"\b((?:asst|thread|conv|run|resp|msg|req|org|proj|file|vs|step|user|chatcmpl)[_-])"
    r"(?=[A-Za-z_-]*[0-9])[A-Za-z0-9][A-Za-z0-9_-]{5,}"
)
"""Pattern of the provider's ids in its messages. An id has a digit, so `file_search` and `run_expired` do not match."""


@dataclass(frozen=True)
class Met:
    """Hold the faults that may have caused a failure, the most likely first, without how often they happen.

    `note` says how the simulation differs from the recorded run.
    """

    faults: tuple[Mapping[str, Any], ...] = ()
    note: str = ""


def met_by(failure: Failure, backend: str, *, streamed: bool, landed: bool) -> Met:
    """Return the faults that may have caused a backend's failure.

    `streamed` says whether the client reads a stream. `landed` says whether the request was carried out despite the
    failure: the next run found the answer in the thread.
    """
    on = _place(failure, backend)
    match failure.status:
        case "refused":
            return Met((), f"{failure.code}: the request was never sent; the profile or settings forbid it")
        case "interrupted":
            return Met((_at(on, drop=True),), "the process stopped; the simulator drops the connection instead")
        case "cancelled" if failure.code == "listener_left":
            return Met((_at(on, drop=True),), "the listener disconnected; the simulator drops the connection instead")
        case "timed_out":
            return Met(tuple(_silence(on, failure, streamed=streamed, landed=landed)))
        case "failed" | "incomplete" | "expired" | "cancelled":
            return _ended(failure, backend)
    return _of_call(failure, backend, on, streamed=streamed, landed=landed)


def without_ids(text: str) -> str:
    """Replace the provider's ids in a text with placeholders, because they belong to a real account."""
    return _IDS.sub(lambda match: f"{match[1]}000000", text)


def is_refusal(failure: Failure) -> bool:
    """Return whether the provider answered with the status of an error; an error may also be inside a response with 200."""
    return failure.http_status is not None and failure.http_status >= ERROR_STATUS_MIN


def _ended(failure: Failure, backend: str) -> Met:
    """Return the faults for a run, response or completion that the provider ended without success."""
    on, details = MODEL_ROUTES[backend], failure.details
    reason = details.get("incomplete_reason") or details.get("finish_reason")
    if failure.code == "empty_answer" or (failure.status == "incomplete" and not reason):
        return Met()  # an empty answer needs no fault
    if failure.status == "incomplete":
        return Met((_at(on, incomplete=str(reason)),))
    if failure.status in ENDS and backend != "chat" and (failure.status, backend) != ("expired", "responses"):
        return Met((_at(on, end=failure.status),))
    said = {"code": failure.code, "message": without_ids(failure.message) if failure.message else None}
    return Met((_at(on, fail={name: value for name, value in said.items() if value} or True),))


def _of_call(failure: Failure, backend: str, on: str, *, streamed: bool, landed: bool) -> Met:
    """Return the faults for a failed call."""
    exception = failure.details.get("exception")
    if failure.code == "tool_failed":
        return Met()  # the tool failed in the app, not at the provider
    if failure.details.get("event") == "error" or (streamed and exception == "APIError"):
        return Met((_error_event(failure, on),))
    if failure.code == "stream_broken":
        cut = _at(on, truncate={"events": _events(failure, backend), "kind": "clean", "done": landed})
        empty = _at(on, reply={"text": NO_ANSWER})  # the stream had not started
        return Met((cut, empty) if failure.partial_text and backend != "assistants" else (empty, cut))
    if is_refusal(failure):
        return _refused(failure, on)
    if failure.code == "conversation_locked":
        return Met((_at(MODEL_ROUTES[backend], refuse={"status": 400, "code": failure.code}),), _ELSEWHERE)
    body = failure.details.get("body")
    if failure.http_status is not None and isinstance(body, str) and 0 < len(body) < BODY_CHARS_MAX:
        kind = failure.details.get("content_type") or "application/json"
        return Met((_at(on, reply={"text": body, "content_type": kind}),))
    cause = diagnose(failure)
    if cause is Cause.TIMED_OUT:
        return Met(tuple(_silence(on, failure, streamed=streamed, landed=landed)))
    if cause is Cause.NETWORK:
        if streamed and failure.partial_text and on in STREAMED_MODEL_ROUTES:
            return Met((_at(on, truncate={"events": _events(failure, backend), "kind": "broken", "done": landed}),))
        late = (_at(on, land_late=requests) for requests in LATE_REQUESTS)
        return Met((_at(on, lose_answer=True), *late) if landed else (_at(on, drop=True),))
    if cause is Cause.AUTHENTICATION:
        return Met((_at(on, refuse={"status": 401}),), "there were no credentials; the simulator answers 401 instead")
    if cause is Cause.PROVIDER_ERROR:
        body = _at(on, reply={"text": BROKEN_JSON if exception == "JSONDecodeError" else NO_ANSWER})
        if not streamed or on not in STREAMED_MODEL_ROUTES:
            return Met((body,))
        garbled = _at(on, garble={"events": _events(failure, backend)})
        unmade = _at(on, reply={"content_type": "text/event-stream", "text": GARBLED_STREAM})
        return Met((garbled,) if landed else (unmade, body))
    return Met((_at(on, drop=True),), f"{failure.summary()}; the simulator drops the connection instead")


_ELSEWHERE = "another process had locked the thread; the simulator refuses the request instead"


def _refused(failure: Failure, on: str) -> Met:
    cause, status = diagnose(failure), failure.http_status or 0
    route = route_named(on)
    if cause is Cause.PROVIDER_GONE and route is not None:
        return Met((_at(on, gone=True),))
    if cause is Cause.THREAD_MISSING and route is not None and _addresses_a_thread(route):
        return Met((_at(on, thread_gone=True),))
    if not 400 <= status <= 599:
        return Met((_at(on, drop=True),), f"HTTP {status}; the simulator drops the connection instead")
    refuse: dict[str, Any] = {"status": status}
    said = {"message": failure.message, "type": failure.type, "code": failure.code, "param": failure.param}
    refuse |= {name: without_ids(value) for name, value in said.items() if value}
    if failure.retry_after_seconds is not None:
        refuse["headers"] = {"retry-after": f"{failure.retry_after_seconds:g}"}
    return Met((_at(on, refuse=refuse),))


def _silence(on: str, failure: Failure, *, streamed: bool, landed: bool) -> Iterator[dict[str, Any]]:
    if streamed and failure.partial_text and on in STREAMED_MODEL_ROUTES:
        yield _at(on, hang={"seconds": SILENT_SECONDS, "events": 6})
    if not landed:
        yield _at(on, ignore=SILENT_SECONDS)
    yield _at(on, slow=SILENT_SECONDS)


def _error_event(failure: Failure, on: str) -> dict[str, Any]:
    said = {"code": failure.code, "message": without_ids(failure.message) if failure.message else None}
    form = "envelope" if failure.details.get("event") != "error" else "flat"
    place = on if on in STREAMED_MODEL_ROUTES else STREAMED_MODEL_ROUTES[0]
    event = {"events": 0 if not failure.partial_text else 6, "form": form}
    return _at(place, error_event=event | {name: value for name, value in said.items() if value})


def _events(failure: Failure, backend: str) -> int:
    """Return how many events of a stream pass: enough for some text if the failure has partial text."""
    if not failure.partial_text:
        return 0 if backend == "assistants" else 1
    return {"chat": 2, "responses": 6, "assistants": 9}[backend]


def _place(failure: Failure, backend: str) -> str:
    """Return the route of the failed request, or the route that calls the model if that is not known."""
    endpoint = str(failure.details.get("endpoint", "")).removesuffix(" {conversation_id}")
    route = route_named(endpoint)
    if route is None or (failure.details.get(LEFT_IN_THREAD) and failure.status != "error"):
        return MODEL_ROUTES[backend]
    return route.name


def _addresses_a_thread(route: Route) -> bool:
    return route.name == MODEL_ROUTES["responses"] or "{thread_id}" in route.name or "{conversation_id}" in route.name


def _at(on: str, **action: Any) -> dict[str, Any]:
    return {"on": on, **action}
