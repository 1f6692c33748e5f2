"""Load, decide and store: the journal of conversations and the ports of its storage."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .cursor import LogCursor, ReadTrail
    from .earlier_rows import noted_row
    from .facilities import (
        Finding,
        JobClaims,
        MemoryFile,
        NotedThread,
        TakenItems,
        UnansweredRun,
    )
    from .fingerprints import fingerprint_in, fingerprint_of
    from .journal import Journal
    from .observers import ExchangeEnd, Observer, RunEnd, RunLog, SeenRun
    from .ports import Also, Appending, DecideAppend, StreamHead, UpkeepProgress, quietly
    from .rows import LoggedRow, OnChange, Place, Row, StoredRow, refuse_changed, restore

__all__ = [
    "Also",
    "Appending",
    "DecideAppend",
    "ExchangeEnd",
    "Finding",
    "JobClaims",
    "Journal",
    "LogCursor",
    "LoggedRow",
    "MemoryFile",
    "NotedThread",
    "Observer",
    "OnChange",
    "Place",
    "ReadTrail",
    "Row",
    "RunEnd",
    "RunLog",
    "SeenRun",
    "StoredRow",
    "StreamHead",
    "TakenItems",
    "UnansweredRun",
    "UpkeepProgress",
    "fingerprint_in",
    "fingerprint_of",
    "noted_row",
    "quietly",
    "refuse_changed",
    "restore",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "cursor": "LogCursor ReadTrail",
            "earlier_rows": "noted_row",
            "facilities": "Finding JobClaims MemoryFile NotedThread TakenItems UnansweredRun",
            "fingerprints": "fingerprint_in fingerprint_of",
            "journal": "Journal",
            "observers": "ExchangeEnd Observer RunEnd RunLog SeenRun",
            "ports": "Also Appending DecideAppend StreamHead UpkeepProgress quietly",
            "rows": "LoggedRow OnChange Place Row StoredRow refuse_changed restore",
        },
    )
