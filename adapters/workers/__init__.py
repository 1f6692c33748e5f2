"""Do what nobody waits for: mirror threads, answer exchanges of stopped processes, work on jobs, keep views caught up."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .deferrals import mirror_deferral
    from .engine import Engine, LocalEngine, WorkItem
    from .reruns import RERUN_DUTY
    from .scheduled_runs import ENDED_IN_ORDER, ScheduledRun, ScheduledRuns
    from .schedules import Schedule, parse_schedules
    from .tenant_pool import TenantPool
    from .worker import Worker, WorkerOptions, open_worker

__all__ = [
    "ENDED_IN_ORDER",
    "RERUN_DUTY",
    "Engine",
    "LocalEngine",
    "Schedule",
    "ScheduledRun",
    "ScheduledRuns",
    "TenantPool",
    "WorkItem",
    "Worker",
    "WorkerOptions",
    "mirror_deferral",
    "open_worker",
    "parse_schedules",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "engine": "Engine LocalEngine WorkItem",
            "deferrals": "mirror_deferral",
            "reruns": "RERUN_DUTY",
            "scheduled_runs": "ENDED_IN_ORDER ScheduledRun ScheduledRuns",
            "schedules": "Schedule parse_schedules",
            "tenant_pool": "TenantPool",
            "worker": "Worker WorkerOptions open_worker",
        },
    )
