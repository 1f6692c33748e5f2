"""Read a request: its key, its beta header and its body. Write an answer's headers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ApiError, wrong_type
from .messages_api import VERSION_HEADER
from .multipart import Upload
from .routes import Route
from .sse import EventStream
from .validation import Json, only_known

BAD_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
AZURE_WRONG_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
BETA_MISSING = (
    "You must provide the 'OpenAI-Beta' header to access the Assistants API. "
    "Please try again by setting the header 'OpenAI-Beta: assistants=v2'."
)


@dataclass(frozen=True)
class IncomingRequest:
    """Represent a request as received: the path is still encoded, header names are in lower case.

    `upload` is the form of an upload, whose body is not in `body`. `problem` is why the body was not read, or None.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    upload: Upload | None = None
    problem: ApiError | None = None
    query_pairs: Sequence[tuple[str, str]] = ()
    """Names and values of the query in their order, also of a name that is given several times."""


@dataclass
class RouteCall:
    """Hold the parts of a request that a handler reads, and the headers that it adds to the answer.

    `route` is None until the request's route is found; `ids` holds the path parameters by name.
    """

    route: Route | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    query_pairs: Sequence[tuple[str, str]] = ()

    @property
    def wants_stream(self) -> bool:
        """Return whether the client wants a stream: `stream` is true in the body or in the query."""
        return self.body.get("stream") is True or self.query.get("stream") == "true"

    @property
    def addressed(self) -> str | None:
        """Return the id of the thread or conversation that the request names, or None."""
        named = self.ids.get("thread_id") or self.ids.get("conversation_id") or self.body.get("conversation")
        found = named.get("id") if isinstance(named, dict) else named
        return found if isinstance(found, str) else None

    def refuse_unknown_fields(self) -> None:
        """Raise a 400 if the body has a field that the route does not have."""
        if self.route is not None:
            only_known(self.body, self.route.fields)


@dataclass(frozen=True)
class Reply:
    """Represent an answer for the wire: a body, a stream of events that are created as they are read, or a file."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: EventStream | None = None
    file: Path | None = None


ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


SEPARATORS = b",[{"
"""Characters of which JSON has at least one for each value, if they are outside of strings."""

COUNTED_AT_ONCE_BYTES = 1_048_576  # between two steps, other threads run


def strict_object(raw: bytes, depth_max: int, values_max: int) -> Json:
    """Return the JSON object in a body, {} if it is empty.

    Raises `ApiError` (400) for other JSON, for keys that an object has twice, for numbers that JSON does not have, for half
    of a surrogate pair, for values that are nested deeper than `depth_max`, and for more than `values_max` values. The last is
    found before the JSON is parsed, because no other thread runs while it is.
    """
    if not raw.strip():
        return {}
    if _has_more_values(raw, values_max):
        raise ApiError(
            400,
            f"The JSON body of your request has more than {values_max:,} values (objects, arrays, texts, numbers): send it in "
            "several requests, or with fewer and longer texts.",
            code="too_many_values",
        )
    try:
        body = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
        if ESCAPED_SURROGATE.search(raw):  # half of a pair is no text: it cannot be stored, or sent
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, BAD_JSON) from error
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    level: list[Any] = [body]
    for _ in range(depth_max):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return body
    raise ApiError(400, f"The JSON body of your request is nested deeper than {depth_max} levels.")


def _has_more_values(raw: bytes, most: int) -> bool:
    """Return whether JSON has more values than `most`: separators are counted, at first also those inside of strings."""
    if len(raw) <= most or sum(map(_separators, _pieces(raw))) <= most:
        return False
    count, is_inside, rest = 0, False, b""
    for piece in _pieces(raw):
        text = rest + piece
        backslashes = len(text) - len(text.rstrip(b"\\"))
        rest = b"\\" * (backslashes % 2)  # it escapes the first character of the next piece
        text = text[: len(text) - len(rest)]
        between = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        count += _separators(b"".join(between[is_inside::2]))
        if count > most:
            return True
        is_inside ^= len(between) % 2 == 0
    return False


def _pieces(raw: bytes) -> Iterator[bytes]:
    return (raw[start : start + COUNTED_AT_ONCE_BYTES] for start in range(0, len(raw), COUNTED_AT_ONCE_BYTES))


def _separators(text: bytes) -> int:
    return len(text) - len(text.translate(None, SEPARATORS))


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice in an object")
    return made


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("the number is not finite")
    return value


def json_body(incoming: IncomingRequest) -> Json:
    """Return the JSON object in a request's body, {} if the body is empty, or raise the provider's 400."""
    if incoming.problem is not None:
        raise incoming.problem
    if not incoming.body.strip():
        return {}
    try:
        body = json.loads(incoming.body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, BAD_JSON) from error
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    return body


def reply_headers(request_id: str, elapsed_ms: int) -> dict[str, str]:
    """Return the headers of every answer; `elapsed_ms` is the time that the answer took."""
    headers = {"content-type": "application/json", "x-request-id": request_id}
    return headers | {"openai-version": "2020-10-01", "openai-processing-ms": str(elapsed_ms)}


def require_key(headers: Mapping[str, str], expected: str | None, *, azure: bool = False) -> None:
    """Raise a 401 if a request has no key, or not the `expected` key if one is set.

    Azure also accepts the key in the `api-key` header, Anthropic in `x-api-key`.
    """
    if VERSION_HEADER in headers and not (azure and headers.get("api-key")):
        key = headers.get("x-api-key", "").strip() or presented_key(headers)
        if not key or (expected is not None and key != expected):
            raise ApiError(401, "invalid x-api-key", kind="authentication_error")
        return
    key = presented_key(headers, azure=azure)
    if key is None:
        raise ApiError(401, NO_KEY)
    if expected is not None and key != expected:
        where = "You can find your API key at https://platform.openai.com/account/api-keys."
        raise wrong_key(headers, where, azure=azure)


def presented_key(headers: Mapping[str, str], *, azure: bool = False) -> str | None:
    """Return the key of a request, or None if it has none; Azure also accepts it in the `api-key` header."""
    if azure and headers.get("api-key"):
        return headers["api-key"]
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return (key.strip() or None) if scheme.lower() == "bearer" else None


def wrong_key(headers: Mapping[str, str], where: str, *, azure: bool = False) -> ApiError:
    """Return the 401 for a key that is not known; `where` says where to find one."""
    if azure and headers.get("api-key"):
        return ApiError(401, AZURE_WRONG_KEY, code="401")
    shown = masked(presented_key(headers) or "")
    return ApiError(401, f"Incorrect API key provided: {shown}. {where}", code="invalid_api_key")


def require_beta(headers: Mapping[str, str], api: str) -> None:
    """Raise a 400 for an Assistants request without the `OpenAI-Beta: assistants=v2` header, which the SDK sends."""
    if api == "assistants" and "assistants=v2" not in headers.get("openai-beta", ""):
        raise ApiError(400, BETA_MISSING, code="invalid_beta")


def masked(key: str) -> str:
    """Return a key with part of it replaced by asterisks, as the provider shows it."""
    if len(key) <= 12:
        return key[:3] + "*" * max(0, len(key) - 3)
    return key[:8] + "*" * (len(key) - 12) + key[-4:]
