"""Why a run ends before its backend has: somebody else closed it, or its process, task or listener has gone."""

from .effects import ListenerLeft
from .failures import Failure

SUPERSEDED = "a newer question took the place of this one, or its time was over"


class Superseded(BaseException):
    """Somebody else closed the run while it was under way: a newer question took its place. No `Exception`, so that no
    backend takes it for a failure of the provider."""


def failure_of_stop(by: BaseException) -> Failure:
    """The failure of a run whose process, task or listener has gone."""
    if isinstance(by, ListenerLeft):
        return Failure("cancelled", code="listener_left", message="nobody listened to the answer any more")
    return Failure("interrupted", message="the process was told to stop while the run was under way")
