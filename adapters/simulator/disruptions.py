"""Define the faults that happen within a stream, each after a given number of its events.

A stream with fewer events is not affected.
"""

from dataclasses import dataclass

from .streams import frame

CLEAN, BROKEN = "clean", "broken"
FLAT, ENVELOPE = "flat", "envelope"


@dataclass(frozen=True)
class Truncation:
    """Cut the stream: `clean`, as if it had ended, or `broken`, in the middle of the next event.

    The request is still carried out, unless `done` is false: then the provider stops at the same point.
    """

    events: int = 0
    kind: str = CLEAN
    done: bool = True


@dataclass(frozen=True)
class Hang:
    """Pause the stream for `seconds`, or until the client disconnects."""

    seconds: float
    events: int = 0


@dataclass(frozen=True)
class Garbling:
    """Send a line that is not JSON between two events."""

    events: int = 0


@dataclass(frozen=True)
class StreamError:
    """Send an error event instead of the rest of the stream.

    `form` is `flat`, as the API documents it, or `envelope`, as in a refusal. A run or response in progress ends
    `failed`. Chat Completions always use the envelope.
    """

    events: int = 0
    form: str = FLAT
    code: str = "server_error"
    message: str = "Sorry, something went wrong."

    def frame(self, api: str, number: int) -> bytes:
        """Return the event as bytes for the wire; `number` is its position in the stream."""
        error = {"code": self.code, "message": self.message, "param": None, "type": "server_error"}
        if api == "chat":
            return frame({"error": error})
        if self.form == ENVELOPE:
            return frame({"error": error}, "error")
        return frame(error | {"type": "error", "sequence_number": number} if api == "responses" else error, "error")
