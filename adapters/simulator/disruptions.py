"""What goes wrong in the middle of a stream, each after so many of its events. A shorter stream passes unharmed."""

from dataclasses import dataclass

from .streams import frame

CLEAN, BROKEN = "clean", "broken"
FLAT, ENVELOPE = "flat", "envelope"


@dataclass(frozen=True)
class Truncation:
    """The stream is cut: `clean` as if it were over, `broken` in the middle of the next event.

    What was asked for is done all the same, unless `done` is false: then the provider has stopped there, too.
    """

    events: int = 0
    kind: str = CLEAN
    done: bool = True


@dataclass(frozen=True)
class Hang:
    """The stream says nothing for so many seconds, or until the client has gone."""

    seconds: float
    events: int = 0


@dataclass(frozen=True)
class Garbling:
    """A line that is no JSON comes between two events."""

    events: int = 0


@dataclass(frozen=True)
class StreamError:
    """An error instead of the rest: as the API documents it (`flat`), or in the envelope of a refusal.

    A run or response that was under way ends `failed`. Chat Completions know the envelope only.
    """

    events: int = 0
    form: str = FLAT
    code: str = "server_error"
    message: str = "Sorry, something went wrong."

    def frame(self, api: str, number: int) -> bytes:
        """The event for the wire; `number` is the place it takes in the stream."""
        error = {"code": self.code, "message": self.message, "param": None, "type": "server_error"}
        if api == "chat":
            return frame({"error": error})
        if self.form == ENVELOPE:
            return frame({"error": error}, "error")
        return frame(error | {"type": "error", "sequence_number": number} if api == "responses" else error, "error")
