"""Simulate a provider that speaks OpenAI's wire protocol over HTTP, for demos, tests and rehearsals.

Scripts define its answers and faults.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faults import Fault, RawReply, Refusal
    from .outcomes import Failure
    from .reading import ScriptError
    from .script import Script
    from .simulator import Simulator
    from .state_file import StateError
    from .wire import RecordedRequest

__all__ = [
    "Failure",
    "Fault",
    "RawReply",
    "RecordedRequest",
    "Refusal",
    "Script",
    "ScriptError",
    "Simulator",
    "StateError",
]

_HOMES = {
    "Failure": "outcomes",
    "Fault": "faults",
    "RawReply": "faults",
    "RecordedRequest": "wire",
    "Refusal": "faults",
    "Script": "script",
    "ScriptError": "reading",
    "Simulator": "simulator",
    "StateError": "state_file",
}


def __getattr__(name: str) -> Any:
    # Import on first access: reading a script needs no web server.
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
