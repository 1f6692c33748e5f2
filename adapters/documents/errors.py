"""Write an error as one sentence."""

from __future__ import annotations

from threadledger.domain.errors import ProviderRefused, ThreadledgerError
from threadledger.domain.failures import advise, diagnose, redact

SENTENCE_CHARS_MAX = 4_000
"""Maximum characters of an error that is shown."""


def error_sentence(error: Exception) -> str:
    """Return an error as one sentence, with secrets redacted."""
    if isinstance(error, ProviderRefused):
        cause = diagnose(error.failure)
        said = f"the provider refused: {cause.value} ({error}). {advise(cause)}"
        return redact(said, limit=SENTENCE_CHARS_MAX)
    if isinstance(error, ThreadledgerError):
        return redact(str(error), limit=SENTENCE_CHARS_MAX)
    return (
        f"unexpected error ({type(error).__name__}: {redact(str(error))}): "
        "committed data is kept; run the command again with THREADLEDGER_DEBUG=1 to see the traceback, and report it"
    )
