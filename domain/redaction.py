"""Secrets out of everything that is stored or shown, and a bound on how much is kept of it."""

import json
import re
from typing import Any

from .limits import DETAILS_BYTES_MAX, FAILURE_TEXT_CHARS_MAX

_MASK = "[redacted]"
_SECRETS = (
    # Keys as OpenAI, Azure, Anthropic and others write them, whole or already shortened by the provider.
    (re.compile(r"\b(?:sk|rk|pk|sess|ek)-[\w*.-]{4,}"), _MASK),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {_MASK}"),
    (
        re.compile(
            r"(?i)\b((?:api[-_ ]?key|authorization|password|passwd|secret|token)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;}&]{4,}"
        ),
        rf"\1{_MASK}",
    ),
    # user:password@ in any address.
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@", re.IGNORECASE), rf"\1:{_MASK}@"),
)


def redact(text: str, limit: int = FAILURE_TEXT_CHARS_MAX) -> str:
    """`text` without keys, tokens and passwords, cut to `limit` characters, and always storable."""
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    text = whole_text(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact_details(details: dict[str, Any]) -> dict[str, Any]:
    """Raw facts without secrets, as plain JSON of bounded size; what is too large is left out, and said to be."""
    text = redact(json.dumps(details, ensure_ascii=False, default=str), limit=10 * DETAILS_BYTES_MAX)
    if len(text.encode()) <= DETAILS_BYTES_MAX:
        try:
            cleaned: dict[str, Any] = json.loads(text)
            return cleaned
        except ValueError:
            pass
    small = {name: value for name, value in details.items() if isinstance(value, int | float | bool)}
    return small | {"left_out": "the details were too large or not JSON"}


def whole_text(text: str) -> str:
    """Text that can be encoded: half characters become U+FFFD. For what providers send; an app's own text is refused."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not _encodable(text) else text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
