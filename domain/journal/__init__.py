"""Load, decide and store: the journal of conversations and the ports of its storage."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .cursor import LogCursor, ReadTrail
    from .fingerprints import fingerprint_of
    from .journal import Journal
    from .observers import ExchangeEnd, Observer, RunEnd, RunLog, SeenRun
    from .ports import (
        Also,
        Appending,
        DecideAppend,
        Finding,
        JobClaims,
        MemoryFile,
        NotedThread,
        StreamHead,
        TakenItems,
        UnansweredRun,
        UpkeepProgress,
        quietly,
    )
    from .rows import LoggedRow, OnChange, Place, Row, StoredRow, noted_row, refuse_changed, restore

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
            "fingerprints": "fingerprint_of",
            "journal": "Journal",
            "observers": "ExchangeEnd Observer RunEnd RunLog SeenRun",
            "ports": (
                "Also Appending DecideAppend Finding JobClaims MemoryFile NotedThread StreamHead TakenItems UnansweredRun "
                "UpkeepProgress quietly"
            ),
            "rows": "LoggedRow OnChange Place Row StoredRow noted_row refuse_changed restore",
        },
    )
