"""Remove secrets from everything that is stored or shown, and limit the size of what is kept.

Our loggers have a filter (`Redacting`) that removes secrets from every record before a handler receives it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from ..limits import DETAILS_BYTES_MAX, FAILURE_TEXT_CHARS_MAX

MASK = "[redacted]"

_FIELDS = (
    r"(?:[\w.-]{0,40}(?:api[-_ ]?key|apikey|authorization|passw(?:or)?d|secret|[-_]token|credential)[\w.-]{0,40}|token)"
)
_NAMED = re.compile(_FIELDS, re.IGNORECASE)

_ESCAPES = r"\\{0,7}"
"""The escapes before a quotation mark in JSON that is embedded in JSON, up to three times."""

_SECRETS = (
    # Keys in the format of OpenAI, Anthropic and others, complete or already shortened by the provider.
    (re.compile(r"\b(?:sk|rk|pk|sess|ek)-[\w*.-]{4,}"), MASK),
    # Keys of Groq, Hugging Face, Replicate, xAI, Perplexity, GitHub, Google and AWS. Ordinary words have the same beginnings.
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:gsk_|hf_|r8_|xai-|pplx-|gh[opsur]_|github_pat_)(?=[a-z_]*[A-Z0-9*])[\w*]{20,}"
            r"|AIza[\w*-]{20,}|A[KS]IA[A-Z0-9*]{12,})"
        ),
        MASK,
    ),
    (re.compile(r"\b(bearer)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(basic)\s+(?=\S*[\d=])[\w+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"(authorization\W{1,6}basic)\s+[\w+/=-]{4,}", re.IGNORECASE), rf"\1 {MASK}"),
    # name=value, name: value, "name": "value", also inside JSON that is embedded in a string.
    # After a colon and a space, a secret must have a digit: plain words may follow (`invalid_api_key: Incorrect key`).
    (
        re.compile(
            rf"\b({_FIELDS}{_ESCAPES}[\"']?\s*[:=]\s*{_ESCAPES}[\"'])(?!\[redacted)[^\s\"'\\,;}}&]{{4,}}", re.IGNORECASE
        ),
        rf"\1{MASK}",
    ),
    (re.compile(rf"\b({_FIELDS}(?:=|:(?=\S))\s*)(?!\[redacted)[^\s\"'\\,;}}&]{{4,}}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"\b({_FIELDS}:\s+)(?=\S*\d)(?!\[redacted)[^\s\"'\\,;}}&]{{4,}}", re.IGNORECASE), rf"\1{MASK}"),
    # ["name", "value"], as headers are listed. The value must have a digit: `["password", "email"]` are names of fields.
    (
        re.compile(
            rf"([\[(]\s*b?{_ESCAPES}[\"']{_FIELDS}{_ESCAPES}[\"']\s*,\s*b?{_ESCAPES}[\"'])"
            rf"(?=[^\"'\\]*\d)(?!\[redacted)[^\"'\\]{{4,}}",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # user:password@ in any URL; the password may contain an @ itself.
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/]+@", re.IGNORECASE), rf"\1:{MASK}@"),
)

SECRET_CHARS_MIN = 8
"""Minimum length of a secret that is matched by its value, in characters; a shorter one would match ordinary words."""

RECENT_SECRETS_MAX = 50
"""Maximum number of recent secrets that are kept: tokens expire, and an app may send a key of its own for each user."""

_kept: dict[str, re.Pattern[str]] = {}
"""Secrets from this process's own settings, by value, for keys without a recognizable format, such as Azure's."""

_recent: dict[str, re.Pattern[str]] = {}
"""Secrets that the app's own requests were sent with, the newest last."""

_keeping = threading.Lock()


def keep_secret(secret: str | None, recent: bool = False) -> None:
    """Register a secret: its value is removed from all text from now on.

    Values shorter than `SECRET_CHARS_MIN` are ignored. Of the secrets with `recent`, the newest `RECENT_SECRETS_MAX`
    are kept.
    """
    value = (secret or "").strip()
    if len(value) < SECRET_CHARS_MIN or value in _kept:
        return
    with _keeping:
        kept = _recent if recent else _kept
        known = kept.pop(value, None)
        kept[value] = known if known is not None else re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")
        if len(_recent) > RECENT_SECRETS_MAX:
            del _recent[next(iter(_recent))]


def redact(text: str, limit: int = FAILURE_TEXT_CHARS_MAX) -> str:
    """Return `text` without keys, tokens and passwords, cut to `limit` characters and always storable."""
    text = text[: 2 * limit]  # cut before searching: the patterns are slow on long texts
    for own in (*_kept.copy().values(), *_recent.copy().values()):
        text = own.sub(MASK, text)
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    text = whole_text(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return raw facts without secrets, as plain JSON of bounded size.

    If the facts exceed `DETAILS_BYTES_MAX`, only numbers, booleans and nulls are kept, and `left_out` says so.
    """
    kept = {str(name): cleaned(str(name), value) for name, value in details.items()}
    if len(json.dumps(kept, ensure_ascii=False).encode()) <= DETAILS_BYTES_MAX:
        return kept
    small = {name: value for name, value in kept.items() if value is None or isinstance(value, (bool, int, float))}
    return small | {"left_out": "the details were too large"}


def whole_text(text: str) -> str:
    """Return text that can be encoded: lone surrogates become U+FFFD.

    This is for text from providers; an app's own text is rejected instead.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cleaned(name: str, value: Any) -> Any:
    """Return a value as plain JSON without secrets; `name` is the field that holds it."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {whole_text(str(each)): cleaned(str(each), inner) for each, inner in value.items()}
    if isinstance(value, (list, tuple)):
        match value:
            case [str(header), str(said)] if _NAMED.fullmatch(header) and any(map(str.isdigit, said)):
                return [header, MASK]
        return [cleaned(name, inner) for inner in value]
    return MASK if _NAMED.fullmatch(name) else redact(str(value), limit=DETAILS_BYTES_MAX)


LOGGERS = ("threadledger", "threadledger.runs", "threadledger.threads")
"""Logger names: general progress, one line for each run that ended, and threads that lag behind."""

TRACEBACK_CHARS_MAX = 20_000
"""Maximum length of a traceback in a log record, in characters."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""Fields that every record has; the others come from an app or from threadledger (`extra`)."""


class Redacting(logging.Filter):
    """Remove keys, tokens and passwords from a log record: its message, arguments, fields and traceback.

    No record is dropped. An app can add the filter to its own handler: `handler.addFilter(Redacting())`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record in place and return True."""
        record.msg, record.args = redact(_formatted(record), TRACEBACK_CHARS_MAX), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(
                traceback.format_exception(*record.exc_info)
            ).rstrip()  # the same as in logging.Formatter
        if record.exc_text:
            # Drop the exception itself: a handler that sends it elsewhere would expose the secret in it.
            record.exc_text, record.exc_info = redact(record.exc_text, TRACEBACK_CHARS_MAX), None
        if record.stack_info:
            record.stack_info = redact(record.stack_info, TRACEBACK_CHARS_MAX)
        for name, value in redact_details(fields_of(record)).items():
            setattr(record, name, value)
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record, except those that every record has."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _formatted(record: logging.LogRecord) -> str:
    """Return the message with its arguments; if they do not fit the format, append them."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


for _name in LOGGERS:  # a logger's filter does not apply to its children, so each needs one
    logging.getLogger(_name).addFilter(Redacting())
