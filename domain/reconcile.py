"""Reconcile: a thread that has drifted from the journal is mended. What it lacks is sent; what somebody else wrote there is
journaled where that is asked for; where order is broken, the thread is written anew. Never calls a model: nothing here can
reach a backend.

What is to be done is decided anew at each step, on the thread as it is then: whoever was killed in the middle, or comes
second, finds less to do.
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
    """Threads that would be mended. Each is read when the plan is looked at (`planned`), and again when it is mended."""

    kind = "reconcile"

    def __init__(
        self,
        jobs: Jobs,
        wait: Wait,
        reconciler: Reconciler,
        places: Sequence[tuple[str, str]],
        adopt: bool = False,
    ) -> None:
        """`places`: keys, each with a kind of thread."""
        super().__init__(jobs, wait)
        self.adopt = adopt
        self._reconciler = reconciler
        self._places = places
        self._items: list[ReconcileItem] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def items(self) -> list[ReconcileItem]:
        """What is planned of each thread; once it was applied, what became of it."""
        if self._items is None:
            self._items = list(self.planned())
        return self._items

    def planned(self) -> Iterator[ReconcileItem]:
        """What is planned, one thread after the other; whoever goes through to the end has the plan's `items`."""
        found = []
        for planning in self.plannings():
            found.append(perform(planning, self._wait))
            yield found[-1]
        self.keep(found)

    def plannings(self) -> Iterator[Effects[ReconcileItem]]:
        """The same, as effects."""
        return (self._reconciler.planning(key, to, self.adopt) for key, to in self._places)

    def keep(self, items: list[ReconcileItem]) -> None:
        """These are what is planned."""
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
        """What became of all that were looked at: those that needed nothing stand between those that did."""
        if self._items is None:
            return super()._listed(found)
        ended = {(item.key, item.backend): item for item in found.values()}
        self._items = [ended.get((item.key, item.backend), item) for item in self._items]
        return self._items
