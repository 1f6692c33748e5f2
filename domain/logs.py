"""Our loggers: each has a filter that takes secrets out of every record before any handler sees it."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from .redaction import redact, redact_details

LOGGERS = ("threadledger", "threadledger.runs", "threadledger.threads")
"""Their names: what goes on, a line for each run that ended, and threads that lag behind."""

TRACEBACK_CHARS_MAX = 20_000
"""What is kept of a traceback in a log line."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""What every record has; the rest are an app's or our own fields (`extra`)."""


class Redacting(logging.Filter):
    """Takes keys, tokens and passwords out of a record: its message, arguments, fields and traceback. Lets every record through.

    For a handler of an app's own too: `handler.addFilter(Redacting())`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true; the record is changed."""
        record.msg, record.args = redact(_told(record), TRACEBACK_CHARS_MAX), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(
                traceback.format_exception(*record.exc_info)
            ).rstrip()  # as logging.Formatter would
        if record.exc_text:
            # The exception itself goes no further: handlers that send it elsewhere would read the secret in it.
            record.exc_text, record.exc_info = redact(record.exc_text, TRACEBACK_CHARS_MAX), None
        if record.stack_info:
            record.stack_info = redact(record.stack_info, TRACEBACK_CHARS_MAX)
        for name, value in redact_details(fields_of(record)).items():
            setattr(record, name, value)
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record beside those that every record has."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _told(record: logging.LogRecord) -> str:
    """The message with its arguments; one that does not take them is told with them behind it."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


for _name in LOGGERS:  # the filter of a logger does not concern those below it: each has its own
    logging.getLogger(_name).addFilter(Redacting())
