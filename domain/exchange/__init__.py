"""Run one exchange: from a question to its answer, over all backends."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .answer import Answer, Delta, StartedOver, StreamPart, ToolUse, recorded_answer
    from .backend import Backend, BackendRequest, ToolFunction
    from .conversing import Conversing
    from .exchange import Exchange
    from .options import AskKeywords, ExchangeOptions
    from .policy import Candidate, Policy, may_be_retried, reason_of
    from .recorded_tools import FAILED, not_bound, only_harmless, tools_on_record
    from .runs import Mode
    from .services import Services, Turns

__all__ = [
    "FAILED",
    "Answer",
    "AskKeywords",
    "Backend",
    "BackendRequest",
    "Candidate",
    "Conversing",
    "Delta",
    "Exchange",
    "ExchangeOptions",
    "Mode",
    "Policy",
    "Services",
    "StartedOver",
    "StreamPart",
    "ToolFunction",
    "ToolUse",
    "Turns",
    "may_be_retried",
    "not_bound",
    "only_harmless",
    "reason_of",
    "recorded_answer",
    "tools_on_record",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "answer": "Answer Delta StartedOver StreamPart ToolUse recorded_answer",
            "backend": "Backend BackendRequest ToolFunction",
            "conversing": "Conversing",
            "exchange": "Exchange",
            "options": "AskKeywords ExchangeOptions",
            "policy": "Candidate Policy may_be_retried reason_of",
            "recorded_tools": "FAILED not_bound only_harmless tools_on_record",
            "runs": "Mode",
            "services": "Services Turns",
        },
    )
