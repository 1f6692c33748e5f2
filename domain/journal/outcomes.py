"""Define what is noted of a thread that was read back and compared with the journal, and the rows that list threads by it.

The notes are outside the event log, and can be lost: a thread is then listed as one that was never verified.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ..conversation import stream_of
from ..errors import StoreError
from ..ids import now
from .ports import StreamHead

if TYPE_CHECKING:
    from ..conversation import ThreadLink
    from .facilities import NotedThread
    from .journal import Journal

logger = logging.getLogger("threadledger")

OUTCOMES = ("same", "behind", "drifted", "gone", "unlinked")
"""States of a thread that was compared with the journal, as `ThreadState` has them."""


@dataclass(frozen=True)
class ThreadOutcome:
    """Describe how a thread compared with the journal when it was last read back."""

    thread_id: str
    endpoint: str
    state: str
    """One of `OUTCOMES`, or what a newer version noted."""
    version: int
    """Journal version with which it was compared."""
    at: datetime

    def is_of(self, link: ThreadLink, version: int) -> bool:
        """Return whether it is about the linked thread of a conversation that is at a version now.

        It is not if the log was rewound to before the comparison.
        """
        return (self.thread_id, self.endpoint) == (link.thread_id, link.endpoint) and self.version <= version


class NotedStream(NamedTuple):
    """Hold the head of a conversation, with the notes about its threads by mirror name."""

    number: int
    """Number of the conversation, which grows with each new one."""
    head: StreamHead
    outcomes: Mapping[str, ThreadOutcome]
    noted: Mapping[str, NotedThread]


def note_outcome(journal: Journal, key: str, mirror: str, link: ThreadLink, state: str, version: int) -> None:
    """Note how a linked thread compared with the journal at a version, unless the database cannot be written."""
    outcome = ThreadOutcome(link.thread_id, link.endpoint, state, version, now())
    try:
        journal.upkeep.note_outcome(stream_of(key), mirror, outcome)
    except StoreError as error:  # the comparison is valid without
        logger.info("the outcome for the %s thread of %r was not noted: %s", mirror, key, error)
