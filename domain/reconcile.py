"""Reconcile threads that have drifted from the journal.

Missing entries are sent. Foreign entries are journaled on request. A thread that is out of order is rewritten. This
never calls a model: nothing here can reach a backend.

Each step decides again what to do, from the current state of the thread. After a crash, or in a second process, a step
finds less to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .driving import Wait, perform
from .effects import Effects
from .jobs import Jobs
from .plans import Plan
from .reconcile_item import ReconcileItem
from .reconciler import Reconciler


class ReconcilePlan(Plan[ReconcileItem]):
    """Plan to repair threads.

    Each thread is read when the plan's items are read (`planned`), and again when it is repaired.
    """

    kind = "reconcile"

    def __init__(
        self,
        jobs: Jobs,
        wait: Wait,
        reconciler: Reconciler,
        places: Sequence[tuple[str, str]],
        adopt: bool = False,
    ) -> None:
        """Create a plan. `places` holds keys, each with a kind of thread."""
        super().__init__(jobs, wait)
        self.adopt = adopt
        self._reconciler = reconciler
        self._places = places
        self._items: list[ReconcileItem] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def items(self) -> list[ReconcileItem]:
        """Return what is planned for each thread; after the plan was applied, the outcomes."""
        if self._items is None:
            self._items = list(self.planned())
        return self._items

    def planned(self) -> Iterator[ReconcileItem]:
        """Yield what is planned, one thread at a time; after the last one, the plan keeps them as its `items`."""
        found = []
        for planning in self.plannings():
            found.append(perform(planning, self._wait))
            yield found[-1]
        self.keep(found)

    def plannings(self) -> Iterator[Effects[ReconcileItem]]:
        """Yield the same as effects, one generator for each thread."""
        return (self._reconciler.planning(key, to, self.adopt) for key, to in self._places)

    def keep(self, items: list[ReconcileItem]) -> None:
        """Set the planned items."""
        self._items = items

    def options(self) -> dict[str, Any]:
        return {"adopt": self.adopt}

    def pins(self) -> Iterator[Mapping[str, Any]]:
        return (
            {"key": item.key, "version": item.version, "backend": item.backend}
            for item in self.items
            if item.state == "planned"
        )

    def step(self, pin: Mapping[str, Any]) -> Effects[ReconcileItem]:
        return self._reconciler.step(pin, self.adopt)

    def _listed(self, found: Mapping[int, ReconcileItem]) -> list[ReconcileItem]:
        """Return all threads that were read, in the plan's order, with the outcomes of those that needed a repair."""
        if self._items is None:
            return super()._listed(found)
        ended = {(item.key, item.backend): item for item in found.values()}
        self._items = [ended.get((item.key, item.backend), item) for item in self._items]
        return self._items
