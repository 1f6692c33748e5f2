"""Queue the work of workers: what is to be done, in which order, and never twice at the same time.

An engine only wakes and schedules. What an item does is decided when it runs, from the log, and its claims keep it exact. So
an engine may lose an item, or run one twice: the log shows what is left.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from threadledger.domain.ids import now

logger = logging.getLogger("threadledger.worker")

CONVERSATIONS, JOBS = "conversations", "jobs"
"""Lanes: work on one conversation, and long work. Each has its own workers, so that neither waits for the other."""

LANES: Mapping[str, str] = {
    "mirror": CONVERSATIONS,
    "compact": CONVERSATIONS,
    "rerun": CONVERSATIONS,
    "job": JOBS,
    "schedule": JOBS,
    "sweep": JOBS,
    "webhook": JOBS,
}
"""Lane of each kind of work."""

WAITING_MAX = 10_000
"""Maximum number of waiting items for which an engine still takes new ones from the log: the rest stays there."""


@dataclass(frozen=True)
class WorkItem:
    """Describe what is to be done: a kind of work, and its subject, such as the key of a conversation."""

    kind: str
    subject: str
    share: str = ""
    """Whose work it is: a tenant, a key of the served API, an owner. Those with less waiting work come first."""
    due_at: datetime | None = None
    """When it is to be done; None for now."""
    once: bool = False
    """Whether it is not to be done again after it was deferred while it was in progress."""

    @property
    def name(self) -> str:
        """Return the name under which it waits at most once and runs at most once at a time."""
        return f"{self.kind}:{self.subject}"


Perform = Callable[[WorkItem], "datetime | None"]
"""Function that does an item and returns when it is to be done again; None if it need not. It raises nothing."""


class Engine(Protocol):
    """Run items, each in a thread of its lane; its methods may be called from any thread."""

    remembers: bool
    """Whether what waits outlives the process; if not, the next one looks through all conversations."""

    def start(self) -> None:
        """Start to run items."""
        ...

    def stop(self, seconds: float) -> None:
        """Start no further item, and wait some seconds for those in progress."""
        ...

    def defer(self, items: Iterable[WorkItem]) -> None:
        """Queue items. One that waits already waits once, until the earlier of both times."""
        ...

    def room(self) -> int:
        """Return how many more items may wait before the log should not be read on."""
        ...

    def reap(self) -> int:
        """Queue the items of ended workers again; return their number."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Return the number of items that wait and that are in progress, over all workers: `waiting` and `running`."""
        ...


class LocalEngine:
    """Run items in the threads of this process alone; what waits is lost with it, and found again from the log."""

    remembers = False

    def __init__(self, perform: Perform, concurrency: int) -> None:
        self._perform = perform
        self._concurrency = concurrency
        self._changed = threading.Condition()
        self._waiting: dict[str, OrderedDict[str, OrderedDict[str, WorkItem]]] = {}
        """Items by lane, share and name; the share that is next comes first."""
        self._later: list[tuple[datetime, str]] = []
        """Heap of the times of items that are not due."""
        self._due: dict[str, WorkItem] = {}
        """The items of the heap by name, with their newest time."""
        self._running: set[str] = set()
        self._again: dict[str, WorkItem] = {}
        """Items that were deferred while they ran."""
        self._is_stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for lane in sorted(set(LANES.values())):
            for number in range(self._concurrency):
                name = f"threadledger-{lane}-{number}"
                self._threads.append(threading.Thread(target=self._run, args=(lane,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running, seconds)

    def defer(self, items: Iterable[WorkItem]) -> None:
        with self._changed:
            for item in items:
                self._enqueue(item)
            self._changed.notify_all()

    def room(self) -> int:
        with self._changed:
            return max(WAITING_MAX - self._number_waiting(), 0)

    def reap(self) -> int:
        return 0  # there are no other workers

    def counts(self) -> Mapping[str, int]:
        with self._changed:
            return {"waiting": self._number_waiting(), "running": len(self._running)}

    def _number_waiting(self) -> int:
        return len(self._due) + sum(len(each) for shares in self._waiting.values() for each in shares.values())

    def _enqueue(self, item: WorkItem) -> None:
        if item.name in self._running:
            if item.once:
                return
            earlier = self._again.get(item.name)
            self._again[item.name] = item if earlier is None else _earlier(earlier, item)
            return
        lane = self._waiting.setdefault(LANES[item.kind], OrderedDict())
        if any(item.name in share for share in lane.values()):
            return
        delayed = self._due.get(item.name)
        wanted = item if delayed is None else _earlier(delayed, item)
        if wanted.due_at is not None and wanted.due_at > now():
            if wanted is not delayed:
                self._due[item.name] = wanted
                heapq.heappush(self._later, (wanted.due_at, item.name))
            return
        self._due.pop(item.name, None)
        lane.setdefault(item.share, OrderedDict())[item.name] = wanted

    def _run(self, lane: str) -> None:
        while (item := self._next(lane)) is not None:
            again = performed(self._perform, item)
            with self._changed:
                self._running.discard(item.name)
                repeated = self._again.pop(item.name, None)
                wanted = [each for each in (repeated, again) if each is not None]
                for each in wanted:
                    self._enqueue(each)
                self._changed.notify_all()

    def _next(self, lane: str) -> WorkItem | None:
        """Wait for an item of a lane, and take it; None when the engine stops."""
        with self._changed:
            while not self._is_stopping:
                seconds = self._release_due()
                shares = self._waiting.get(lane)
                if shares:
                    share, items = next(iter(shares.items()))
                    _, item = items.popitem(last=False)
                    del shares[share]
                    if items:
                        shares[share] = items  # it is the last one now
                    self._running.add(item.name)
                    return item
                self._changed.wait(seconds)
            return None

    def _release_due(self) -> float | None:
        """Let the items wait for a thread whose time has come; return the seconds until the next one."""
        moment = now()
        while self._later:
            due_at, name = self._later[0]
            item = self._due.get(name)
            if item is None or item.due_at != due_at:  # it was taken earlier, or has an earlier time
                heapq.heappop(self._later)
            elif due_at > moment:
                return (due_at - moment).total_seconds()
            else:
                heapq.heappop(self._later)
                self._enqueue(replace(item, due_at=None))
        return None


def _earlier(one: WorkItem, other: WorkItem) -> WorkItem:
    """Return the item that is due first."""
    if one.due_at is None or (other.due_at is not None and one.due_at <= other.due_at):
        return one
    return other


def performed(perform: Perform, item: WorkItem) -> WorkItem | None:
    """Do an item, and return it with its next time; None if it is done."""
    try:
        due_at = perform(item)
    except Exception:
        logger.exception("%s of %r broke off", item.kind, item.subject)
        return None
    return None if due_at is None else replace(item, due_at=due_at)
