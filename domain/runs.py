"""A run as values: what is about to be asked (`RunPlan`), and what a backend answered (`Completion`)."""

from dataclasses import dataclass, field

from .messages import Message, Usage


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
