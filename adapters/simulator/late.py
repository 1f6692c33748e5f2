"""Carry out writes late: the client got no answer, and the write happens after further requests."""

from .provider import Provider
from .wire import Admitted


class Late:
    """Hold postponed requests, each until a number of further requests has been served."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._waiting: list[tuple[int, Admitted]] = []

    def count(self, served: Admitted) -> None:
        """Count one served request: carry out the requests that are due, and postpone this one if necessary."""
        due = [admitted for left, admitted in self._waiting if left <= 1]
        self._waiting = [(left - 1, admitted) for left, admitted in self._waiting if left > 1]
        for admitted in due:
            reply = self._provider.perform(admitted)
            if reply.stream is not None:
                self._provider.drain(reply.stream)
        if served.fault is not None and served.fault.land_late is not None:
            self._waiting.append((served.fault.land_late, served))
