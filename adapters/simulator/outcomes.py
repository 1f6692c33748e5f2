"""Define how a run, a response or a chat completion can end without success."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """End as `failed` with this error; a chat completion answers HTTP 500."""

    code: str = "server_error"
    message: str = "Sorry, something went wrong."


@dataclass(frozen=True)
class Incomplete:
    """End as `incomplete` for this reason; a chat completion shows it as its finish reason."""

    reason: str


@dataclass(frozen=True)
class End:
    """End in this status: `expired` or `cancelled`."""

    status: str


Outcome = Failure | Incomplete | End
