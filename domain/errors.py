"""The errors of threadledger. Each message is one sentence: what, why, what next.

ThreadledgerError
├── InvalidInput (ValueError)        what the caller gave cannot be used; nothing was written
│   ├── InvalidKey
│   ├── InvalidMessage
│   ├── InvalidProfile
│   └── InvalidSettings
├── NotFound (LookupError)           no such conversation, run, file or database
│   ├── ConversationNotFound
│   ├── RunNotFound
│   ├── JobNotFound
│   ├── GroupNotFound
│   ├── FileMissing
│   └── DatabaseMissing
├── Conflict                         somebody else was first; nothing was written
│   ├── ConversationBusy             a run is open
│   ├── ConversationChanged          it moved on since it was read
│   ├── IdempotencyConflict          the same idempotency key, but other content
│   ├── ExchangeAnswered             somebody else's run answered first
│   └── RunNotOpen                   the run has ended already
├── AllBackendsFailed                the exchange has no answer; carries every failure
├── ProviderRefused                  a call to a provider failed; carries the `Failure`
└── StoreError                       the database
    ├── ForeignDatabase              it is not ours
    ├── NewerSchema                  a newer threadledger wrote it
    ├── StoreUnavailable             cannot be opened, locked, or lost
    └── CorruptEvent                 a stored row cannot be read
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .failures import Failure, RecordedFailure


class ThreadledgerError(Exception):
    """The root of all errors that threadledger raises on purpose."""


class InvalidInput(ThreadledgerError, ValueError):
    """What the caller gave cannot be used; nothing was written."""


class InvalidKey(InvalidInput):
    """A conversation's key is not a string of 1 to 200 storable characters."""


class InvalidMessage(InvalidInput):
    """A message has an unknown role, no usable content, or text that cannot be stored."""


class InvalidProfile(InvalidInput):
    """A profile file cannot be read, or lacks what an assistant needs."""


class InvalidSettings(InvalidInput):
    """A setting has a value that means nothing."""


class NotFound(ThreadledgerError, LookupError):
    """What was asked for does not exist."""


class ConversationNotFound(NotFound):
    """No conversation has this key."""


class RunNotFound(NotFound):
    """No run has this id, or several have this ending."""


class JobNotFound(NotFound):
    """No job has this id, or several have this ending."""


class GroupNotFound(NotFound):
    """No group of failures has this id, or several begin so."""


class FileMissing(NotFound):
    """A file that was named does not exist or cannot be read."""


class DatabaseMissing(NotFound):
    """A command that only reads was pointed at a database that does not exist."""


class Conflict(ThreadledgerError):
    """Somebody else was first; nothing was written."""


class ConversationBusy(Conflict):
    """A run of this conversation is open."""


class ConversationChanged(Conflict):
    """The conversation moved on since it was read."""


class IdempotencyConflict(Conflict):
    """An idempotency key was used before, for other content."""


class ExchangeAnswered(Conflict):
    """Somebody else answered the exchange first."""


class RunNotOpen(Conflict):
    """The run has ended already, or was closed as interrupted by somebody else."""


class AllBackendsFailed(ThreadledgerError):
    """Nobody answered. The question is journaled, and so is every failure.

    Attributes:
        failures: every failed run of the exchange, first to last.
        key, exchange_id: where to find it again.
    """

    def __init__(self, key: str, exchange_id: str, failures: Sequence["RecordedFailure"]) -> None:
        self.key = key
        self.exchange_id = exchange_id
        self.failures = tuple(failures)
        told = "; ".join(
            f"{each.backend}: {each.cause.value} ({each.summary()})" for each in self._last_of_each_backend()
        )
        advice = "Set THREADLEDGER_BACKENDS to at least one backend that USE_ASSISTANTS_API does not take out."
        if self.failures:
            advice = self.failures[-1].advice_here()
        then = "" if "replay rerun" in advice else f" Then: threadledger replay rerun {key} --apply"
        super().__init__(
            f"nobody answered {key!r}: {told or 'no backend is set'}; the question is kept. {advice}{then}"
        )

    def _last_of_each_backend(self) -> Sequence["RecordedFailure"]:
        return list({each.backend: each for each in self.failures}.values())


class ProviderRefused(ThreadledgerError):
    """A call to a provider failed.

    Attributes:
        failure: the facts, as the provider gave them.
    """

    def __init__(self, failure: "Failure") -> None:
        self.failure = failure
        super().__init__(failure.summary())


class StoreError(ThreadledgerError):
    """The database cannot be used."""


class ForeignDatabase(StoreError):
    """The database is not threadledger's."""


class NewerSchema(StoreError):
    """The database was written by a newer threadledger."""


class StoreUnavailable(StoreError):
    """The database cannot be opened, is locked, or was lost."""


class CorruptEvent(StoreError):
    """A stored event cannot be read."""
