"""Find the error in a provider's response body of any shape: an envelope, a list, a string, or a gateway's HTML page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from threadledger.domain.failures import redact
from threadledger.domain.limits import BODY_CHARS_MAX

ERROR_EVENT = "error"
"""Name of an event that reports an error in a stream, and type of an object that is one."""


@dataclass(frozen=True)
class ProviderError:
    """Hold what a provider says about a failure."""

    code: str | None = None
    type: str | None = None
    message: str | None = None
    param: str | None = None


def error_in(body: Any, depth: int = 4) -> ProviderError | None:
    """Return the error in a body of any shape; None if it has none.

    Providers put an error object under `error`, `errors`, `detail` or `message`, in a list, or as a plain string; a
    gateway sends HTML. `depth` limits how deeply errors inside errors are searched.
    """
    match body:
        case str():
            return ProviderError(message=plain_text(body)) if body.strip() else None
        case list() if depth:
            found = (error_in(each, depth - 1) for each in body)
            return next((each for each in found if each is not None), None)
        case dict() if depth:
            return _error_in_object(body, depth)
    return None


def _error_in_object(body: Mapping[str, Any], depth: int) -> ProviderError | None:
    for name in _ERROR_FIELDS:
        if body.get(name):
            inner = error_in(body[name], depth - 1)
            if inner is not None:
                # fields next to the error say more than none: TGI's `error_type`, Cloudflare's `code`
                outer = _facts_of(body)
                return ProviderError(
                    inner.code or outer.code, inner.type or outer.type, inner.message, inner.param or outer.param
                )
    found = _facts_of(body)
    if found == ProviderError() and len(body) == 1:  # whatever its name is, the only text is the message
        found = ProviderError(message=next((value for value in body.values() if isinstance(value, str)), None))
    return found if found != ProviderError() else None


def _facts_of(error: Mapping[str, Any]) -> ProviderError:
    """Return the facts in an error object. The names are those of OpenAI, Google, FastAPI, AWS and RFC 9457."""
    kind = _text(error, "type", "status", "error_type", "__type")
    location = error.get("param", error.get("loc"))
    # FastAPI: ["body", "messages", 0, "content"]
    param = ".".join(map(str, location)).removeprefix("body.") if isinstance(location, list) else location
    return ProviderError(
        code=_text(error, "code", "statusCode", "status_code"),
        type=None if kind == ERROR_EVENT else kind,  # the name of the event or object, not of the error
        message=_text(
            error, "message", "Message", "msg", "error_message", "error_description", "description", "title", "text"
        ),
        param=param if isinstance(param, str) else None,
    )


_ERROR_FIELDS = ("error", "errors", "detail", "details", "message", "fault", "data")
"""Fields of a body that contain an error, or lead to one; the first that does is used."""


def _text(given: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these fields that is a text or a number, as text."""
    for name in names:
        value = given.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value)
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


def body_text(body: Any) -> str:
    """Return a body as text without secrets, of at most `BODY_CHARS_MAX` characters."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return redact(text, BODY_CHARS_MAX)
