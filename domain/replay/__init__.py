"""Rebuild threads, reconcile them, rerun failed exchanges and fork conversations: plans and jobs."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .comparison import RerunComparison
    from .fork import forked
    from .jobs import DETACHED, JOB, JobState
    from .orphans import OrphanItem, OrphanPlan
    from .plan import ApplyKeywords, ApplyOptions, Item, Plan, Progress
    from .rebuild import RebuildItem, RebuildOutline, RebuildPlan
    from .reconcile import ReconcileItem
    from .recorded import RecordedExchange, RecordedRun, recorded_exchange
    from .replay import Replay
    from .rerun import RerunPlan
    from .rerun_obstacles import viewed_memory
    from .rerun_request import RerunItem
    from .verify import VerifyItem, VerifyPlan

__all__ = [
    "DETACHED",
    "JOB",
    "ApplyKeywords",
    "ApplyOptions",
    "Item",
    "JobState",
    "OrphanItem",
    "OrphanPlan",
    "Plan",
    "Progress",
    "RebuildItem",
    "RebuildOutline",
    "RebuildPlan",
    "ReconcileItem",
    "RecordedExchange",
    "RecordedRun",
    "Replay",
    "RerunComparison",
    "RerunItem",
    "RerunPlan",
    "VerifyItem",
    "VerifyPlan",
    "forked",
    "recorded_exchange",
    "viewed_memory",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "comparison": "RerunComparison",
            "fork": "forked",
            "jobs": "DETACHED JOB JobState",
            "orphans": "OrphanItem OrphanPlan",
            "plan": "ApplyKeywords ApplyOptions Item Plan Progress",
            "rebuild": "RebuildItem RebuildOutline RebuildPlan",
            "reconcile": "ReconcileItem",
            "recorded": "RecordedExchange RecordedRun recorded_exchange",
            "replay": "Replay",
            "rerun": "RerunPlan",
            "rerun_obstacles": "viewed_memory",
            "rerun_request": "RerunItem",
            "verify": "VerifyItem VerifyPlan",
        },
    )
