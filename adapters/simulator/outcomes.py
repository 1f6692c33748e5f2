"""How a run, a response or a chat completion is made to end other than well."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """It ends `failed`, with this error (a chat completion: HTTP 500)."""

    code: str = "server_error"
    message: str = "Sorry, something went wrong."


@dataclass(frozen=True)
class Incomplete:
    """It ends `incomplete`, for this reason (a chat completion: by its finish reason)."""

    reason: str


@dataclass(frozen=True)
class End:
    """It ends in this status: `expired` or `cancelled`."""

    status: str


Outcome = Failure | Incomplete | End
