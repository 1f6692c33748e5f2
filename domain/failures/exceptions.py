"""Read the facts of an exception of any SDK from its attributes, without importing the SDK.

The SDKs agree on little: openai, anthropic and litellm set `status_code`, `body`, `response` and `request_id`; google-genai
sets `code` to the HTTP status, and `status` to a name; httpx, requests and aiohttp have the response only; botocore has a
dict as `response`. Every attribute is optional here, and anything may be in it: a property that raises counts as missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..durations import duration_seconds, retry_after
from ..limits import BODY_CHARS_MAX, DETAILS_BYTES_MAX
from ..provider_errors import error_in, error_objects
from .redaction import cleaned, redact, redact_details

T = TypeVar("T")

WRAPPED_MAX = 50
"""Maximum number of exceptions that are read: the members of groups, and those along `__cause__` and `__context__`."""

HEADERS_MAX = 200
"""Maximum number of headers of a response that are read."""

ID_CHARS_MAX = 500
"""Maximum length of a code, a type, a parameter or a request id, in characters."""

_SURPLUS_CHARS = 4 * BODY_CHARS_MAX
"""Length at which a body is cut before secrets are removed from it; it is cut to its final length afterwards."""

_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "x-ms-request-id", "x-amz-request-id")
"""Names of the headers with the provider's id of the request: OpenAI, Anthropic, AWS, Azure."""


def facts_of_exception(error: BaseException) -> dict[str, Any]:
    """Return the fields of a `Failure` that an exception provides: its own facts, else those of the exceptions it wraps.

    Never raises, whatever the attributes contain.
    """
    name = type(error).__name__
    try:
        return _facts(error, name)
    except Exception:  # noqa: BLE001 - an exception with unreadable attributes is still the failure of its run
        return {"type": name, "message": _words(error)}


def _facts(error: BaseException, name: str) -> dict[str, Any]:
    read = [_Facts(each) for each in _chain(error)]
    reader = next((each for each in read if each.is_of_a_provider), read[0])
    source = reader if reader.is_of_a_provider else _connection(read)
    details: dict[str, Any] = {"body": reader.body_text()} if reader.body is not None else {}
    if source is not read[0] or source.is_of_a_provider:
        details["exception"] = type(source.error).__name__
    return {
        "code": reader.code,
        "type": reader.type or name,
        "message": _message(read[0], reader),
        "http_status": reader.http_status,
        "request_id": reader.request_id,
        "retry_after_seconds": reader.retry_after_seconds,
        "param": reader.param,
        "details": redact_details(details),
    }


def _message(outer: _Facts, reader: _Facts) -> str | None:
    """Return the provider's message; behind the words of the exception that wraps it, unless they contain it."""
    said = reader.message or _words(reader.error)
    own = _words(outer.error)
    if outer is reader or own is None or said is None or own in said:
        return said or own
    return own if said in own else redact(f"{own}: {said}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, the members of a group, and those that it was raised from or while handling, each once."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting and len(seen) < WRAPPED_MAX:
        found = waiting.pop()
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        cause = _value(found, "__cause__")
        if cause is None and not _value(found, "__suppress_context__"):
            cause = _value(found, "__context__")
        waiting.append(cause)
        if isinstance(found, BaseExceptionGroup):
            waiting += reversed(found.exceptions[:WRAPPED_MAX])


def _connection(read: list[_Facts]) -> _Facts:
    """Return the first exception of a connection, as the operating system or an HTTP client raises it, else the first."""
    return next((each for each in read if isinstance(each.error, OSError) or each.has_request), read[0])


class _Facts:
    """Read one exception. Fields are None if they are missing or not of their type."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._response = _value(error, "response")
        self._headers = _headers(self._response) or _headers(error)
        self.body = self._body()
        self._inner = next(iter(error_objects(self.body)), self.body)
        self.http_status = self._http_status()
        self.has_request = _value(error, "request") is not None
        self.is_of_a_provider = self.http_status is not None or self.body is not None or bool(self._headers)

    @property
    def code(self) -> str | None:
        own = _value(self.error, "code")
        named = [self._of_body("code", "Code"), _value(self.error, "error_code"), own, _value(self.error, "status")]
        codes = (_text(each) for each in named if each is not None and _as_status(each) is None)
        status = _of(self._inner, ("status",))  # Google: the name of the code, next to its number
        first = next((each for each in codes if each), None)
        return first or _text(status if isinstance(status, str) else None) or _text(self._of_body("code"))

    @property
    def type(self) -> str | None:
        return _text(self._of_body("type")) or _text(_value(self.error, "type"))

    @property
    def param(self) -> str | None:
        return _text(self._of_body("param")) or _text(_value(self.error, "param"))

    @property
    def message(self) -> str | None:
        said = error_in(self.body) if not isinstance(self.body, str) else None  # a text may be the page of a proxy
        return redact(said.message).strip() or None if said is not None and said.message else None

    @property
    def request_id(self) -> str | None:
        of_body = self.body.get("request_id") if isinstance(self.body, Mapping) else None
        given = [_value(self.error, "request_id"), _value(self.error, "_request_id"), _aws(self._response, "RequestId")]
        of_headers = [self._headers.get(name) for name in _REQUEST_IDS]
        return next((text for each in (*given, *of_headers, of_body) if (text := _text(each))), None)

    @property
    def retry_after_seconds(self) -> float | None:
        seconds = _attempt(lambda: retry_after(self._headers, self.http_status))
        given = _value(self.error, "retry_after")
        if seconds is None and isinstance(given, int | float) and not isinstance(given, bool):
            seconds = _attempt(lambda: float(given))
        if seconds is None and isinstance(given, str):
            seconds = _attempt(lambda: duration_seconds(given) or retry_after({"retry-after": given}))
        if seconds is None:
            seconds = self._retry_delay()
        return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None

    def body_text(self) -> str:
        """Return the body as text without secrets, so short that it fits into the details of a failure."""
        body = self.body
        if not isinstance(body, str):
            given = body
            body = _attempt(lambda: json.dumps(cleaned("body", given), ensure_ascii=False)) or ""
        text = redact(body[:_SURPLUS_CHARS], BODY_CHARS_MAX)
        while len(json.dumps(text, ensure_ascii=False).encode()) > DETAILS_BYTES_MAX * 3 // 4:
            text = text[: len(text) * 3 // 4]
        return text

    def _of_body(self, *names: str) -> Any:
        return _of(self._inner, names)

    def _http_status(self) -> int | None:
        places = [(self.error, "status_code"), (self._response, "status_code"), (self.error, "http_status")]
        places += [(self.error, "status"), (self._response, "status"), (self.error, "code")]
        given = [_value(at, name) for at, name in places]
        given += [_aws(self._response, "HTTPStatusCode"), self._of_body("code"), self._of_body("status")]
        return next((status for each in given if (status := _as_status(each)) is not None), None)

    def _body(self) -> Any:
        """Return the decoded body; None if there is none, or if it is not read yet."""
        for at, name in ((self.error, "body"), (self.error, "http_body"), (self.error, "details")):
            found = _decoded(_value(at, name))
            if found is not None:
                return found
        if isinstance(self._response, Mapping):  # botocore
            return self._response
        if _value(self._response, "_content") is False:  # requests: reading would wait for the network
            return None
        return _decoded(_value(self._response, "text"))

    def _retry_delay(self) -> float | None:
        """Return the delay in Google's error details: a list with `{"@type": "…RetryInfo", "retryDelay": "13s"}`."""
        details = _of(self._inner, ("details",))
        for each in details if isinstance(details, list) else ():
            delay = each.get("retryDelay") if isinstance(each, Mapping) else None
            if isinstance(delay, str):
                return duration_seconds(delay)
        return None


def _of(given: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(given, Mapping):
        return None
    return next((given[name] for name in names if given.get(name) is not None), None)


def _aws(response: Any, name: str) -> Any:
    metadata = response.get("ResponseMetadata") if isinstance(response, Mapping) else None
    return metadata.get(name) if isinstance(metadata, Mapping) else None


def _headers(holder: Any) -> dict[str, str]:
    """Return headers by lower-case name; empty if there are none that can be read."""
    given = _aws(holder, "HTTPHeaders") or _value(holder, "headers")
    pairs = _attempt(lambda: list(given.items() if hasattr(given, "items") else given or ())[:HEADERS_MAX]) or ()
    found: dict[str, str] = {}
    for pair in pairs:
        name, value = pair if isinstance(pair, tuple | list) and len(pair) == 2 else (None, None)
        key, text = _text(name), _text(value)
        if key and text:
            found.setdefault(key.lower(), text)
    return found


def _decoded(given: Any) -> Any:
    """Return a body as JSON if it is JSON, else as text; None if it is empty or no body."""
    if isinstance(given, bytes | bytearray):
        given = bytes(given[:_SURPLUS_CHARS]).decode("utf-8", "replace")
    if isinstance(given, str):
        text = given
        parsed = _attempt(lambda: json.loads(text)) if len(text) <= DETAILS_BYTES_MAX * 100 else None
        return parsed if isinstance(parsed, dict | list) and parsed else text.strip() or None
    return given if isinstance(given, Mapping | list) and given else None


def _as_status(given: Any) -> int | None:
    if isinstance(given, str) and len(given) == 3 and given.isdecimal():
        given = int(given)
    is_status = isinstance(given, int) and not isinstance(given, bool) and 100 <= given <= 599
    return int(given) if is_status else None


def _text(given: Any) -> str | None:
    """Return text or a number as text of bounded length; None for anything else."""
    if isinstance(given, bytes):
        given = given[:ID_CHARS_MAX].decode("utf-8", "replace")
    if isinstance(given, int | float) and not isinstance(given, bool):
        number = given
        given = _attempt(lambda: str(number))
    return redact(given, ID_CHARS_MAX) or None if isinstance(given, str) else None


def _words(error: BaseException) -> str | None:
    return redact(_attempt(lambda: str(error)) or "") or None


def _value(holder: Any, name: str) -> Any:
    return _attempt(lambda: getattr(holder, name, None)) if holder is not None else None


def _attempt(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # noqa: BLE001 - the value comes from any SDK, and a value that cannot be read is missing
        return None
