"""Secrets out of everything that is stored or shown, and a bound on how much is kept of it."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from .limits import DETAILS_BYTES_MAX, FAILURE_TEXT_CHARS_MAX

MASK = "[redacted]"

_FIELDS = (
    r"(?:[\w.-]{0,40}(?:api[-_ ]?key|apikey|authorization|passw(?:or)?d|secret|[-_]token|credential)[\w.-]{0,40}|token)"
)
_NAMED = re.compile(_FIELDS, re.IGNORECASE)

_SECRETS = (
    # Keys as OpenAI, Anthropic and others write them, whole or already shortened by the provider.
    (re.compile(r"\b(?:sk|rk|pk|sess|ek)-[\w*.-]{4,}"), MASK),
    (re.compile(r"\b(bearer)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(basic)\s+(?=\S*[\d=])[\w+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"(authorization\W{1,6}basic)\s+[\w+/=-]{4,}", re.IGNORECASE), rf"\1 {MASK}"),
    # name=value, name: value, "name": "value", also inside JSON that stands in a string.
    # After a colon and a space may follow plain words (`invalid_api_key: Incorrect key`): a secret has a digit.
    (
        re.compile(rf"\b({_FIELDS}\\?[\"']?\s*[:=]\s*\\?[\"'])(?!\[redacted)[^\s\"'\\,;}}&]{{4,}}", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (re.compile(rf"\b({_FIELDS}(?:=|:(?=\S))\s*)(?!\[redacted)[^\s\"'\\,;}}&]{{4,}}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"\b({_FIELDS}:\s+)(?=\S*\d)(?!\[redacted)[^\s\"'\\,;}}&]{{4,}}", re.IGNORECASE), rf"\1{MASK}"),
    # user:password@ in any address; a password may hold an @ itself.
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/]+@", re.IGNORECASE), rf"\1:{MASK}@"),
)

SECRET_CHARS_MIN = 8
"""The shortest secret that is looked for by its value: a shorter one would be found in words that are none."""

_kept: dict[str, re.Pattern[str]] = {}
"""The secrets of this process's own settings, by their value: keys that have no form of their own, as Azure's."""


def keep_secret(secret: str | None) -> None:
    """From now on take this value out of everything, whatever stands around it."""
    if secret is not None and len(secret.strip()) >= SECRET_CHARS_MIN and secret not in _kept:
        _kept[secret] = re.compile(rf"(?<!\w){re.escape(secret.strip())}(?!\w)")


def redact(text: str, limit: int = FAILURE_TEXT_CHARS_MAX) -> str:
    """`text` without keys, tokens and passwords, cut to `limit` characters, and always storable."""
    text = text[: 2 * limit]  # what is cut off below anyway need not be searched: patterns cost more than their length
    for own in tuple(_kept.values()):
        text = own.sub(MASK, text)
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    text = whole_text(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Raw facts without secrets, as plain JSON of bounded size; what is too large is left out, and said to be."""
    cleaned = {str(name): _clean(str(name), value) for name, value in details.items()}
    if len(json.dumps(cleaned, ensure_ascii=False).encode()) <= DETAILS_BYTES_MAX:
        return cleaned
    small = {name: value for name, value in cleaned.items() if value is None or isinstance(value, (bool, int, float))}
    return small | {"left_out": "the details were too large"}


def whole_text(text: str) -> str:
    """Text that can be encoded: half characters become U+FFFD. For what providers send; an app's own text is refused."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _clean(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {whole_text(str(each)): _clean(str(each), inner) for each, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(name, inner) for inner in value]
    return MASK if _NAMED.fullmatch(name) else redact(str(value), limit=DETAILS_BYTES_MAX)
