"""Simulate a provider that speaks OpenAI's wire protocol over HTTP, for demos, tests and rehearsals.

Scripts define its answers and faults.
"""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .faults import Fault
    from .routes import Route, route_named
    from .script import Script, ScriptError, parse_answers, parse_fault
    from .simulator import Simulator
    from .state_file import StateError

__all__ = [
    "Fault",
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
            "faults": "Fault",
            "routes": "Route route_named",
            "script": "Script ScriptError parse_answers parse_fault",
            "simulator": "Simulator",
            "state_file": "StateError",
        },
    )
