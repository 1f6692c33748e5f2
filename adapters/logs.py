"""Format log records as JSON lines, for the command line and for apps:

handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())
logging.getLogger("threadledger").addHandler(handler)
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from threadledger.domain.failures import Redacting, fields_of
from threadledger.domain.ids import to_iso

RESERVED = ("time", "level", "logger", "message", "exception")


class JsonFormatter(logging.Formatter):
    """Format each record as one line with a JSON object.

    Keys: `time` (ISO 8601, UTC), `level`, `logger`, `message`, the record's extra fields under their own names, and
    `exception` (the traceback) if there is one. Secrets are redacted, also in records of other loggers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._redacting = Redacting()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break."""
        whole = logging.makeLogRecord(vars(record))  # other handlers must get the original record
        self._redacting.filter(whole)
        line = {
            "time": to_iso(datetime.fromtimestamp(whole.created, UTC)),
            "level": whole.levelname.lower(),
            "logger": whole.name,
            "message": whole.getMessage(),
        }
        line |= {name: value for name, value in fields_of(whole).items() if name not in RESERVED}
        if whole.exc_text:
            line["exception"] = whole.exc_text
        return json.dumps(line, ensure_ascii=False, default=str)
