"""Simulate a provider that speaks OpenAI's wire protocol over HTTP, for demos, tests and rehearsals.

Scripts define its answers and faults.
"""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .faults import Fault
    from .script import Script, ScriptError, parse_answers, parse_fault
    from .simulator import Simulator
    from .state_file import StateError

__all__ = [
    "Fault",
    "Script",
    "ScriptError",
    "Simulator",
    "StateError",
    "parse_answers",
    "parse_fault",
]

_EARLIER = {
    "answers": "Failure=ScriptedFailure",
    "faults": "RawReply Refusal",
    "requests": "RecordedRequest",
}
"""Names that earlier versions offered here."""

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "faults": "Fault",
            "script": "Script ScriptError parse_answers parse_fault",
            "simulator": "Simulator",
            "state_file": "StateError",
        },
        _EARLIER,
    )
