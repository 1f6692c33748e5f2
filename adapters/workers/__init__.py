"""Do what nobody waits for: mirror threads, answer exchanges of stopped processes, work on jobs, keep views caught up."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .deferrals import mirror_deferral
    from .engine import Engine, LocalEngine, WorkItem
    from .worker import Worker, WorkerOptions, open_worker

__all__ = [
    "Engine",
    "LocalEngine",
    "WorkItem",
    "Worker",
    "WorkerOptions",
    "mirror_deferral",
    "open_worker",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "engine": "Engine LocalEngine WorkItem",
            "deferrals": "mirror_deferral",
            "worker": "Worker WorkerOptions open_worker",
        },
    )
