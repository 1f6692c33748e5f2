"""Run one exchange: from a question to its answer, over all backends."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .backend import Backend, BackendRequest, ToolFunction
    from .conversing import Conversing
    from .exchange import Asking, answered, recorded_answer
    from .policy import CallBackend, Candidate, CompleteRun, FailRun, Policy, StartRun, may_be_retried
    from .recorded_tools import FAILED, not_bound, only_harmless, tools_on_record
    from .services import Mend, Outbox, Outside, Turns

__all__ = [
    "FAILED",
    "Asking",
    "Backend",
    "BackendRequest",
    "CallBackend",
    "Candidate",
    "CompleteRun",
    "Conversing",
    "FailRun",
    "Mend",
    "Outbox",
    "Outside",
    "Policy",
    "StartRun",
    "ToolFunction",
    "Turns",
    "answered",
    "may_be_retried",
    "not_bound",
    "only_harmless",
    "recorded_answer",
    "tools_on_record",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "backend": "Backend BackendRequest ToolFunction",
            "conversing": "Conversing",
            "exchange": "Asking answered recorded_answer",
            "policy": "CallBackend Candidate CompleteRun FailRun Policy StartRun may_be_retried",
            "recorded_tools": "FAILED not_bound only_harmless tools_on_record",
            "services": "Mend Outbox Outside Turns",
        },
    )
