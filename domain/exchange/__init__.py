"""Run one exchange: from a question to its answer, over all backends."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .answer import Answer, Delta, StartedOver, StreamPart, ToolUse
    from .backend import Backend, BackendOptions, BackendRequest, ToolFunction
    from .conversing import Conversing
    from .exchange import Exchange
    from .omissions import names_stored_file, number_of_stored_files
    from .options import AskKeywords, ExchangeOptions
    from .pieces import Pieces
    from .policy import Candidate, Policy, may_be_retried, reason_of
    from .recorded_answers import recorded_answer
    from .recorded_tools import FAILED, not_bound, only_harmless, tools_on_record
    from .records import Mode
    from .requests import SentOptions
    from .runs import failure_of_error
    from .services import Services, Turns

__all__ = [
    "FAILED",
    "Answer",
    "AskKeywords",
    "Backend",
    "BackendOptions",
    "BackendRequest",
    "Candidate",
    "Conversing",
    "Delta",
    "Exchange",
    "ExchangeOptions",
    "Mode",
    "Pieces",
    "Policy",
    "SentOptions",
    "Services",
    "StartedOver",
    "StreamPart",
    "ToolFunction",
    "ToolUse",
    "Turns",
    "failure_of_error",
    "may_be_retried",
    "names_stored_file",
    "not_bound",
    "number_of_stored_files",
    "only_harmless",
    "reason_of",
    "recorded_answer",
    "tools_on_record",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "answer": "Answer Delta StartedOver StreamPart ToolUse",
            "backend": "Backend BackendOptions BackendRequest ToolFunction",
            "conversing": "Conversing",
            "exchange": "Exchange",
            "omissions": "names_stored_file number_of_stored_files",
            "options": "AskKeywords ExchangeOptions",
            "pieces": "Pieces",
            "policy": "Candidate Policy may_be_retried reason_of",
            "recorded_answers": "recorded_answer",
            "recorded_tools": "FAILED not_bound only_harmless tools_on_record",
            "requests": "SentOptions",
            "records": "Mode",
            "runs": "failure_of_error",
            "services": "Services Turns",
        },
    )
