"""Find the error in a provider's response body of any shape: an envelope, a list, a string, or a gateway's HTML page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .limits import BODY_CHARS_MAX

ERROR_EVENT = "error"
"""Name of an event that reports an error in a stream, and type of an object that is one."""

ERROR_LEVELS_MAX = 4
"""Number of levels of a body at which an error is searched."""


class ProviderError(NamedTuple):
    """Hold what a provider says about a failure."""

    code: str | None = None
    type: str | None = None
    message: str | None = None
    param: str | None = None


def error_in(body: Any) -> ProviderError | None:
    """Return the error in a body of any shape; None if it has none.

    Providers put an error object under `error`, `errors`, `detail` or `message`, in a list, or as a plain string; a
    gateway sends HTML. What the innermost object does not say is taken from the objects around it: TGI's `error_type`,
    Cloudflare's `code`.
    """
    found = [_facts_of(each) for each in error_objects(body)]
    if not found:
        return None
    return ProviderError(*(next((value for value in values if value), None) for values in zip(*found, strict=True)))


def error_objects(body: Any, depth: int = ERROR_LEVELS_MAX) -> list[Any]:
    """Return the objects of a body that describe its error, or its text, innermost first; empty if it has no error."""
    match body:
        case str():
            within = error_objects(_object_in(body), depth - 1) if depth else []
            return within or ([body] if body.strip() else [])
        case list() if depth:
            return next((found for each in body if (found := error_objects(each, depth - 1))), [])
        case dict() if depth:
            message = _facts_of(body).message
            for name in _ERROR_FIELDS:
                inner = body.get(name)
                if isinstance(inner, str) and message:
                    # a text next to a message is the name of the error: {"error": "Bad Request", "message": "…"}
                    inner = _object_in(inner)
                found = error_objects(inner, depth - 1)
                if found:
                    return [*found, body]
            return [body] if any(_facts_of(body)) else []
    return []


def _facts_of(error: Any) -> ProviderError:
    """Return the facts in an error object. The names are those of OpenAI, Google, FastAPI, AWS and RFC 9457."""
    if not isinstance(error, dict):
        return ProviderError(message=plain_text(str(error)))
    kind = _text(error, "type", "status", "error_type", "__type", "error", numbers=False)
    location = error.get("param", error.get("loc"))
    # FastAPI: ["body", "messages", 0, "content"]
    param = ".".join(map(str, location)).removeprefix("body.") if isinstance(location, list) else location
    message = _text(error, *_MESSAGES)
    code = _text(error, "code", "Code", "error_code", "statusCode", "status_code") or _number(error, "status", "error")
    if message is None and len(error) == 1 and code is None:  # the only text is the message
        name, value = next(iter(error.items()))
        is_plain = name in _ERROR_FIELDS  # any other name is kept, since it may be that of a secret
        message = (value if is_plain else f"{name}: {value}") if isinstance(value, str) else None
    return ProviderError(
        code=code,
        type=None if kind in {ERROR_EVENT, message} else kind,  # the name of the event or object is not the error's
        message=message,
        param=param if isinstance(param, str) else None,
    )


_MESSAGES = (
    *("message", "Message", "msg", "error_message", "error_description"),
    *("description", "title", "text", "faultstring"),
)
_ERROR_FIELDS = ("error", "Error", "errors", "detail", "details", "message", "messages", "fault", "data")
"""Fields of a body that contain an error, or lead to one; the first that does is used."""


def _object_in(text: str) -> Any:
    """Return the JSON object that a text consists of; None if it is other text."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(given: Mapping[str, Any], *names: str, numbers: bool = True) -> str | None:
    """Return the first of these fields that is a text or, with `numbers`, a number, as text."""
    for name in names:
        value = given.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if numbers and (number := _number(given, name)):
            return number
    return None


def _number(given: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        value = given.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1 and value:
            return str(int(value)) if abs(value) < 10**9 else None
    return None


_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def plain_text(text: str) -> str:
    """Return a text as it is, and an HTML page as its title, or its words if it has no title."""
    if text.lstrip()[:1] != "<":
        return text.strip()
    page = text[: 8 * BODY_CHARS_MAX]
    title = _TITLE.search(page)
    words = " ".join(html.unescape(title[2] if title else _TAGS.sub(" ", page)).split())
    return words or page.strip()
