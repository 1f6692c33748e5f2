"""Simulate a provider that speaks OpenAI's wire protocol over HTTP, for demos, tests and rehearsals.

Scripts define its answers and faults.
"""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .answers import Failure
    from .faults import Fault, RawReply, Refusal
    from .routes import Route, route_named
    from .script import Script, ScriptError, parse_answers, parse_fault
    from .simulator import Simulator
    from .state_file import StateError
    from .wire import RecordedRequest

__all__ = [
    "Failure",
    "Fault",
    "RawReply",
    "RecordedRequest",
    "Refusal",
    "Route",
    "Script",
    "ScriptError",
    "Simulator",
    "StateError",
    "parse_answers",
    "parse_fault",
    "route_named",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "answers": "Failure",
            "faults": "Fault RawReply Refusal",
            "routes": "Route route_named",
            "script": "Script ScriptError parse_answers parse_fault",
            "simulator": "Simulator",
            "state_file": "StateError",
            "wire": "RecordedRequest",
        },
    )
