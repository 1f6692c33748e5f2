"""A run as values: what is about to be asked (`RunPlan`), and what a backend answered (`Completion`)."""

from dataclasses import dataclass, field
from enum import StrEnum

from .messages import Message, Usage


class ActiveRuns(StrEnum):
    """What a question does that comes while a run is open."""

    REJECT = "reject"
    """It is refused (`ConversationBusy`); nothing is written."""
    QUEUE = "queue"
    """It waits its turn, and is journaled then."""
    INTERRUPT = "interrupt"
    """It takes the run's place: the run is closed as interrupted, and its exchange given up."""


@dataclass(frozen=True)
class RunPlan:
    """One attempt of one backend, before it is made. `memory_hash` proves later that the same memory is shown again."""

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
    """The run whose answer this one's is to take the place of; without it, an exchange that has its answer is left alone."""
    apart: bool = False
    """Whether the backend is asked outside the linked thread, though it answers in one."""
    shadow: bool = False
    """Whether the run is only to be looked at: see `RunStarted.shadow`."""
    fallback_reason: str = ""
    """Why the backend before this one was given up; stored in `FallbackUsed` when there was one."""


@dataclass(frozen=True)
class Place:
    """Where the answer of a rerun goes in memory, by the ids of messages."""

    superseded: tuple[str, ...] = ()
    """The messages whose place it takes: what the run before it had journaled, its answer last."""
    behind: str | None = None
    """The message that it stands right behind; None at the end."""


SUPERSEDED_TOO = "its run's answer was superseded by a rerun's"
TOO_LATE = "used by a rerun that got no answer, where the conversation has gone on"
"""Why messages leave memory that a run has journaled beside its answer."""

AT_THE_END = Place()
"""Where every other answer goes."""


@dataclass(frozen=True)
class Completion:
    """What a backend answered: the messages to journal in order, the answer last, and how the run went.

    `thread_id` names the thread that holds question and answer now, where the backend wrote them there itself.
    """

    messages: tuple[Message, ...]
    finish_reason: str | None = None
    remote_run_id: str | None = None
    thread_id: str | None = None
    request_id: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    thread_version: int | None = None
    """Up to which version that thread held the journal when the run answered in it."""
    goes_on: bool = False
    """Whether the model asked for tools, and their results go to it in another run of the exchange."""
