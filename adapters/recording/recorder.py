"""Decide which calls of a client are recorded, and in which conversation."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from threadledger.domain import Ledger, new_id

from .limits import PLACES_MAX, REMOTE_RUNS_MAX
from .place import named_key
from .requests import Look, Sent, Written, read_request
from .runs import RecordedRun
from .threads import RecordedLook, RecordedMessages

T = TypeVar("T")

_LAST: ContextVar[RecordedRun | None] = ContextVar("threadledger_last_run", default=None)
"""The last recorded run of this thread or task; the SDK retries a request in the same thread or task."""


class Recorder:
    """Record the calls of one client in a ledger."""

    def __init__(
        self, ledger: Ledger, key: str | None = None, max_retries: int = 0, close: Callable[[], None] = lambda: None
    ) -> None:
        self.ledger = ledger
        self.key = key
        self.max_retries = max_retries
        self.close = close
        self._lock = threading.Lock()
        self._remote: OrderedDict[str, RecordedRun] = OrderedDict()
        self._places: OrderedDict[str, str] = OrderedDict()

    def recorded(self, sent: Sent) -> RecordedRun | RecordedLook | RecordedMessages | None:
        """Return the record for a request; None if the request is not recorded. Call it in the thread or task of the caller."""
        request = read_request(sent)
        if isinstance(request, Look):
            run = self._remote.get(request.remote_id)
            return RecordedLook(run, request) if run is not None else None
        if isinstance(request, Written):
            return RecordedMessages(self, request) if request.messages else None
        if request is None:
            return None
        last = _LAST.get()
        again = last if last is not None and request.retries and last.is_same(self, request) else None
        run = RecordedRun(self, request, again.key if again else self.key_for(request.place), again)
        _LAST.set(run)
        return run

    def key_for(self, place: str | None) -> str:
        """Return the conversation's key: from the block, the client, or the thread or response in the request, else a new one."""
        return named_key() or self.key or (self._places.get(place, place) if place else None) or f"run-{new_id()}"

    def follows(self, key: str, *ids: str | None) -> None:
        """Record later requests that refer to one of these provider ids in the conversation `key`."""
        with self._lock:
            _remember(self._places, {each: key for each in ids if each}, PLACES_MAX)

    def watch(self, remote_id: str, run: RecordedRun | None) -> None:
        """Record the end of a provider's run when the app polls it; with None, stop doing so."""
        with self._lock:
            if run is None:
                self._remote.pop(remote_id, None)
            else:
                _remember(self._remote, {remote_id: run}, REMOTE_RUNS_MAX)


def _remember(kept: OrderedDict[str, T], new: dict[str, T], most: int) -> None:
    for name, value in new.items():
        kept[name] = value
        kept.move_to_end(name)
    while len(kept) > most:
        kept.popitem(last=False)
