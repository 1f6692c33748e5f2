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
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from ..limits import DETAILS_BYTES_MAX, FAILURE_TEXT_CHARS_MAX, SECRET_CHARS_MIN

MASK = "[redacted]"

RECENT_SECRETS_MAX = 50
"""Maximum number of recent secrets that are kept: tokens expire, and an app may send a key of its own for each user."""

UNSEEN_CHARS_MAX = 1_000
"""Maximum length of the part of a secret that is not recognized without what follows, in characters."""

_kept: dict[str, re.Pattern[str]] = {}
"""Secrets from this process's own settings, by value, for keys without a recognizable format, such as Azure's."""

_recent: dict[str, re.Pattern[str]] = {}
"""Secrets that the app's own requests were sent with, the newest last."""

_keeping = threading.Lock()


def keep_secret(secret: str | None, recent: bool = False, *, inside_words: bool = False) -> None:
    """Register a secret: its value is removed from all text from now on, with `inside_words` also next to letters.

    Values shorter than `SECRET_CHARS_MIN` are ignored. Of the secrets with `recent`, the newest `RECENT_SECRETS_MAX`
    are kept.
    """
    value = (secret or "").strip()
    if len(value) < SECRET_CHARS_MIN or (value in _kept and not inside_words):
        return
    with _keeping:
        kept = _recent if recent else _kept
        known = kept.pop(value, None)
        kept[value] = known if known is not None and not inside_words else _pattern(value, inside_words)
        if len(_recent) > RECENT_SECRETS_MAX:
            del _recent[next(iter(_recent))]


def _pattern(secret: str, inside_words: bool = False) -> re.Pattern[str]:
    """Return a pattern for a secret as it is, in a URL, and in JSON."""
    forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    either = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    begin, end = ("", "") if inside_words else (r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))", r"(?!\w)")
    return re.compile(f"{begin}(?:{either}){end}")


DATA_CHARS_MIN = 256
"""Minimum length of the base64 of an attachment that is removed from a text, in characters: shorter text may be a hash."""


def redact(text: str, limit: int = FAILURE_TEXT_CHARS_MAX, name: str = "") -> str:
    """Return `text` without keys, tokens, passwords and data of attachments, cut to `limit` characters and always storable.

    `name` is the field that holds the text: of a field such as `password`, nothing is shown.

    Secrets are removed before the text is cut, so that no part of one is left. Of a very long text only the beginning is
    searched, and its last part, where a secret may begin, is not shown.
    """
    if name and _is_secret(name):
        return MASK
    if len(text) > DATA_CHARS_MIN:
        from .secret_rules import without_data

        text = without_data(text, name)
    own = _kept | _recent
    margin = max([UNSEEN_CHARS_MAX, *map(len, own)])
    seen = text[: 2 * limit + margin]
    shown = whole_text(_without_secrets(seen, own))
    if len(seen) == len(text) and len(shown) <= limit:
        return shown
    shown = shown if len(seen) == len(text) else shown[:-margin]
    return shown[: limit - 1] + "…"


def _is_secret(name: str) -> bool:
    from .secret_rules import NAMED  # compiling takes long, and only a failure or a log record needs it

    return NAMED.fullmatch(name) is not None


def _without_secrets(text: str, own: Mapping[str, re.Pattern[str]]) -> str:
    from .secret_rules import RULES

    for pattern in own.values():
        text = pattern.sub(MASK, text)
    lower = text.lower()
    for rule in RULES:
        if any(word in lower for word in rule.words):
            text = rule.compiled.sub(rule.shown, text)
    return text


def redact_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return raw facts without secrets, as plain JSON of bounded size.

    If the facts exceed `DETAILS_BYTES_MAX`, only numbers, booleans and nulls are kept, and `left_out` says so.
    """
    kept = {text_of(name): cleaned(text_of(name), value) for name, value in details.items()}
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
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value  # a greater number is kept as text: it is no 64-bit integer, as readers of JSON expect
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {redact(text_of(each)): cleaned(text_of(each), inner) for each, inner in value.items()}
    if isinstance(value, (list, tuple)):
        match value:
            case [str(header), str(said)] if _is_secret(header) and any(map(str.isdigit, said)):
                return [header, MASK]
        return [cleaned(name, inner) for inner in value]
    return redact(text_of(value), DETAILS_BYTES_MAX, name)


def text_of(value: object) -> str:
    """Return the text of any value, or the name of its type if it has none, like a number of over 4,300 digits."""
    with suppress(Exception):  # an object of an app may raise anything
        return str(value)
    return type(value).__name__


LOGGERS = (
    "threadledger",
    *(f"threadledger.{each}" for each in ("runs", "threads", "views", "replica", "memory", "claims")),
    *("threadledger.server", "threadledger.worker"),
)
"""Logger names: general progress, one line for each run that ended, threads, views and replicas that lag behind, memory that
stays too long, claims, the server (one line for each request, fields that are ignored, errors), and workers: one line for each
item."""

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

    @staticmethod
    def without_known(text: str) -> str:
        """Return text of any length without the secrets that are known by their value."""
        for value, pattern in (_kept | _recent).items():
            if value in text or json.dumps(value)[1:-1] in text:
                text = pattern.sub(MASK, text)
        return text


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
