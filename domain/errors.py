"""Define the errors of threadledger. Each message says in one sentence what failed, why, and what to do next.

ThreadledgerError
├── InvalidInput (ValueError)        the caller's input is invalid; nothing was written
│   ├── InvalidKey
│   ├── InvalidMessage
│   ├── InvalidProfile
│   ├── InvalidSettings
│   └── BlobTooLarge
├── NotFound (LookupError)           no such conversation, run, file or database
│   ├── ConversationNotFound
│   ├── MessageNotFound
│   ├── RunNotFound
│   ├── JobNotFound
│   ├── GroupNotFound
│   ├── FileMissing
│   ├── BlobMissing
│   └── DatabaseMissing
├── Conflict                         another process changed the data first; nothing was written
│   ├── ConversationBusy             a run is open
│   ├── ConversationChanged          it has changed since it was read
│   ├── IdempotencyConflict          the idempotency key was used for other content
│   ├── ExchangeAnswered             another run answered first
│   ├── CallNotWaiting               no exchange waits for a decision on the tool call
│   └── RunNotOpen                   the run has already ended
├── AllBackendsFailed                the exchange has no answer; carries every failure
├── AnswerDoesNotFit (ValueError)    the answer has another structure than it was asked for; it is journaled
├── ProviderRefused                  a call to a provider failed; carries the `Failure`
└── StoreError                       the database cannot be used
    ├── ForeignDatabase              it does not belong to threadledger
    ├── NewerSchema                  a newer threadledger wrote it
    ├── OlderSchema                  an older threadledger wrote it; opening for reading does not upgrade it
    ├── StoreUnavailable             cannot be opened, locked, or lost
    │   ├── DatabaseReadOnly         it can be read, but not written
    │   └── DatabaseReplaced         its file was deleted or replaced while open
    ├── CorruptEvent                 a stored row cannot be read
    │   ├── ChangedEvent             it was changed after it was stored, or is missing
    │   └── ChangedBlob              the bytes of an attachment were changed after they were stored
    └── LogRewound                   events that a follower has read are no longer in the log
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .exchange import Answer
    from .failures import Failure, RecordedFailure


def quoted(key: str) -> str:
    """Return a key as a shell needs it in a command that an error or an advice names."""
    import shlex  # few processes have an error to show

    return shlex.quote(key)


class ThreadledgerError(Exception):
    """Serve as the base class of all errors that threadledger raises on purpose."""


class InvalidInput(ThreadledgerError, ValueError):
    """Raised when the caller's input is invalid; nothing was written."""


class InvalidKey(InvalidInput):
    """Raised when a conversation's key is not a string of 1 to 200 storable characters."""


class InvalidMessage(InvalidInput):
    """Raised when a message has an unknown role, no usable content, or text that cannot be stored."""


class InvalidProfile(InvalidInput):
    """Raised when a profile file cannot be read, or has a missing or invalid field."""


class InvalidSettings(InvalidInput):
    """Raised when a setting has an invalid value."""


class BlobTooLarge(InvalidInput):
    """Raised when an attachment has too many bytes; nothing was stored."""


class NotFound(ThreadledgerError, LookupError):
    """Raised when the requested object does not exist."""


class ConversationNotFound(NotFound):
    """Raised when no conversation has this key."""


class MessageNotFound(NotFound):
    """Raised when a conversation has no message with this id."""


class RunNotFound(NotFound):
    """Raised when no run has this id, or several ids end this way."""


class JobNotFound(NotFound):
    """Raised when no job has this id, or several ids end this way."""


class GroupNotFound(NotFound):
    """Raised when no group of failures has this id, or several ids start this way."""


class FileMissing(NotFound):
    """Raised when a given file does not exist or cannot be read."""


class BlobMissing(NotFound):
    """Raised when the bytes of an attachment are not stored, or not completely."""


class DatabaseMissing(NotFound):
    """Raised when a read-only command is used with a database that does not exist."""


class Conflict(ThreadledgerError):
    """Raised when another process or writer changed the data first; nothing was written."""


class ConversationBusy(Conflict):
    """Raised when a run of this conversation is open."""


class ConversationChanged(Conflict):
    """Raised when the conversation has changed since it was read."""


class IdempotencyConflict(Conflict):
    """Raised when an idempotency key was already used for other content."""


class ExchangeAnswered(Conflict):
    """Raised when another run has already answered the exchange.

    Attributes:
        answer: the answer, if it was read.
    """

    answer: Answer | None = None


class CallNotWaiting(Conflict):
    """Raised when no exchange waits for a decision on a tool call, or it was decided otherwise."""


class RunNotOpen(Conflict):
    """Raised when the run has already ended, or another process closed it as interrupted."""


class AllBackendsFailed(ThreadledgerError):
    """Raised when no backend answered. The question and every failure are journaled.

    Attributes:
        failures: every failed run of the exchange, first to last.
        key, exchange_id: the conversation and the exchange.
    """

    def __init__(
        self, key: str, exchange_id: str, failures: Sequence[RecordedFailure], *, of_summary: bool = False
    ) -> None:
        self.key = key
        self.exchange_id = exchange_id
        self.failures = tuple(failures)
        reasons = "; ".join(
            f"{each.backend}: {each.cause.value} ({each.summary()})" for each in self._last_of_each_backend()
        )
        if of_summary:
            super().__init__(
                f"no summary of {key!r} was written: {reasons or 'no backend is configured'}; memory is unchanged. Try again "
                f"with: threadledger compact {key}"
            )
            return
        advice = "Set THREADLEDGER_BACKENDS to at least one backend that USE_ASSISTANTS_API does not disable."
        if self.failures:
            advice = self.failures[-1].advice_here()
        then = "" if "replay rerun" in advice else f" Then run: threadledger replay rerun {quoted(key)} --apply"
        super().__init__(
            f"no backend answered {key!r}: {reasons or 'no backend is configured'}; the question is kept. {advice}{then}"
        )

    def _last_of_each_backend(self) -> Sequence[RecordedFailure]:
        return list({each.backend: each for each in self.failures}.values())


class AnswerDoesNotFit(ThreadledgerError, ValueError):
    """Raised when an answer does not have the structure that it was asked for.

    Attributes:
        answer: the answer, which is journaled.
    """

    def __init__(self, answer: Answer, where: str) -> None:
        self.answer = answer
        super().__init__(f"the answer of run {answer.run_id} does not fit ({where}): it is journaled; read answer.text")


class ProviderRefused(ThreadledgerError):
    """Raised when a call to a provider failed.

    Attributes:
        failure: the facts that the provider reported.
    """

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.summary())


class StoreError(ThreadledgerError):
    """Raised when the database cannot be used."""


class ForeignDatabase(StoreError):
    """Raised when the database does not belong to threadledger."""


class NewerSchema(StoreError):
    """Raised when the database was written by a newer threadledger."""


class OlderSchema(StoreError):
    """Raised when the database was written by an older threadledger and opened only for reading."""


class StoreUnavailable(StoreError):
    """Raised when the database cannot be opened, is locked, or was lost."""


class DatabaseReadOnly(StoreUnavailable):
    """Raised when something must be written to a database that can only be read."""


class DatabaseReplaced(StoreUnavailable):
    """Raised when the file of the database was deleted or replaced while it was open."""


class CorruptEvent(StoreError):
    """Raised when a stored event cannot be read."""


class ChangedEvent(CorruptEvent):
    """Raised when a stored event does not match its leaf hash, or is missing.

    Attributes:
        key, version, position: which event it is, as far as that is known.
    """

    def __init__(
        self, message: str, key: str | None = None, version: int | None = None, position: int | None = None
    ) -> None:
        super().__init__(message)
        self.key, self.version, self.position = key, version, position


class ChangedBlob(CorruptEvent):
    """Raised when the stored bytes of an attachment do not match their hash."""


class LogRewound(StoreError):
    """Raised when events that a follower or worker has read are no longer in the log.

    A backup was restored, or a failover lost them.
    """

    position: int | None = None
    """Position that the follower had reached; None for a worker whose job was lost."""
    common: int | None = None
    """Last position up to which the log is known to be unchanged; None if that is unknown."""
