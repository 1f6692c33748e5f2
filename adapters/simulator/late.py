"""Writes that land late: the client has long been told nothing, and then the write happens all the same."""

from .provider import Provider
from .wire import Admitted


class Late:
    """Requests that were put off, each until so many further requests have been served."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._waiting: list[tuple[int, Admitted]] = []

    def count(self, served: Admitted) -> None:
        """One more request was served: do what is due, and put this one off if its fault says so."""
        due = [admitted for left, admitted in self._waiting if left <= 1]
        self._waiting = [(left - 1, admitted) for left, admitted in self._waiting if left > 1]
        for admitted in due:
            reply = self._provider.perform(admitted)
            if reply.stream is not None:
                self._provider.drain(reply.stream)
        if served.fault is not None and served.fault.land_late is not None:
            self._waiting.append((served.fault.land_late, served))
