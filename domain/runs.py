"""Define the values of a run: its plan (`RunPlan`) and what a backend answered (`Completion`)."""

from dataclasses import dataclass, field
from enum import StrEnum

from .messages import Message, Usage


class ActiveRuns(StrEnum):
    """Name what happens to a question that arrives while a run is open."""

    REJECT = "reject"
    """The question is rejected (`ConversationBusy`); nothing is written."""
    QUEUE = "queue"
    """The question waits until the conversation is free, and is journaled then."""
    INTERRUPT = "interrupt"
    """The question replaces the run: the run is closed as interrupted, and its exchange is abandoned."""


@dataclass(frozen=True)
class RunPlan:
    """Describe one attempt of one backend before it starts.

    `memory_hash` proves later that the same memory is shown again.
    """

    backend: str
    model: str
    attempt: int = 1
    timeout_seconds: float = 60.0
    profile_hash: str | None = None
    memory_version: int = 0
    memory_rule: str = "all"
    memory_hash: str | None = None
    rerun_of: str | None = None
    supersedes_run_id: str | None = None
    """Id of the run whose answer this run's answer replaces; without it, an answered exchange is left unchanged."""
    apart: bool = False
    """Whether the run bypasses the linked thread, although the backend uses threads."""
    shadow: bool = False
    """Whether the run is for inspection only: see `RunStarted.shadow`."""
    fallback_reason: str = ""
    """Why the previous backend was given up; stored in `FallbackUsed` if there was one."""


@dataclass(frozen=True)
class Place:
    """Describe where the answer of a rerun goes in memory, by the ids of messages."""

    superseded: tuple[str, ...] = ()
    """The messages that it replaces: those that the earlier run journaled, its answer last."""
    behind: str | None = None
    """The message that it follows directly; None at the end of memory."""


SUPERSEDED_TOO = "its run's answer was superseded by a rerun's"
TOO_LATE = "used by a rerun that got no answer, where the conversation has gone on"
"""`SUPERSEDED_TOO` and `TOO_LATE`: reasons for retracting messages that a run journaled in addition to its answer."""

AT_THE_END = Place()
"""The place of every other answer."""


@dataclass(frozen=True)
class Completion:
    """Hold what a backend answered: the messages to journal in order, the answer last, and the facts of the run.

    `thread_id` names the thread that holds question and answer now, if the backend wrote them there itself.
    """

    messages: tuple[Message, ...]
    finish_reason: str | None = None
    remote_run_id: str | None = None
    thread_id: str | None = None
    request_id: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    thread_version: int | None = None
    """Version up to which that thread held the journal when the run answered in it."""
    goes_on: bool = False
    """Whether the model called tools; their results are sent to it in another run of the exchange."""
