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
    fallback_reason: str = ""
    """Why the backend before this one was given up; stored in `FallbackUsed` when there was one."""


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
