"""Define our loggers, each with a filter that removes secrets from every record before a handler receives it."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from .redaction import redact, redact_details

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
        record.msg, record.args = redact(_told(record), TRACEBACK_CHARS_MAX), ()
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


def _told(record: logging.LogRecord) -> str:
    """Return the message with its arguments; if they do not fit the format, append them."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


for _name in LOGGERS:  # a logger's filter does not apply to its children, so each needs one
    logging.getLogger(_name).addFilter(Redacting())
