"""Explain failures: facts, cause, advice, retry rules, groups, health of backends and redaction.

Nothing here reads or writes anything outside.
"""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .advice import advise
    from .diagnosis import BACKEND_UNWELL, DIAGNOSIS_VERSION, diagnose, may_succeed_when_retried
    from .failure import Cause, Failure, RecordedFailure
    from .groups import RULE_VERSION, Decision, FailureGroup, GroupName, GroupState, trend_borders
    from .health import BackendEnd, Health, concerns_backend
    from .recorded_health import BackendHealth
    from .redaction import Redacting, fields_of, keep_secret, redact, redact_details, whole_text
    from .retry import is_worth_a_retry, pause_before_retry
    from .summary import BY_FAILURE, SUMMARY_BY, SummaryRow, percentile

__all__ = [
    "BACKEND_UNWELL",
    "BY_FAILURE",
    "DIAGNOSIS_VERSION",
    "RULE_VERSION",
    "SUMMARY_BY",
    "BackendEnd",
    "BackendHealth",
    "Cause",
    "Decision",
    "Failure",
    "FailureGroup",
    "GroupName",
    "GroupState",
    "Health",
    "RecordedFailure",
    "Redacting",
    "SummaryRow",
    "advise",
    "concerns_backend",
    "diagnose",
    "fields_of",
    "is_worth_a_retry",
    "keep_secret",
    "may_succeed_when_retried",
    "pause_before_retry",
    "percentile",
    "redact",
    "redact_details",
    "trend_borders",
    "whole_text",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "advice": "advise",
            "diagnosis": "BACKEND_UNWELL DIAGNOSIS_VERSION diagnose may_succeed_when_retried",
            "failure": "Cause Failure RecordedFailure",
            "groups": "RULE_VERSION Decision FailureGroup GroupName GroupState trend_borders",
            "health": "BackendEnd Health concerns_backend",
            "recorded_health": "BackendHealth",
            "redaction": "Redacting fields_of keep_secret redact redact_details whole_text",
            "retry": "is_worth_a_retry pause_before_retry",
            "summary": "BY_FAILURE SUMMARY_BY SummaryRow percentile",
        },
    )
