"""Describe external actions as values, and perform them: at once or awaited."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .async_driver import AsyncDriver
    from .drivers import Wait, perform, stream
    from .effects import ApprovalNeeded, Call, Effect, Effects, Emit, ListenerLeft, Pause, Use, attended, work
    from .interruption import Interrupted, Interruption, waking
    from .own_loop import OwnLoop

__all__ = [
    "ApprovalNeeded",
    "AsyncDriver",
    "Call",
    "Effect",
    "Effects",
    "Emit",
    "Interrupted",
    "Interruption",
    "ListenerLeft",
    "OwnLoop",
    "Pause",
    "Use",
    "Wait",
    "attended",
    "perform",
    "stream",
    "waking",
    "work",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "async_driver": "AsyncDriver",
            "drivers": "Wait perform stream",
            "interruption": "Interrupted Interruption waking",
            "own_loop": "OwnLoop",
            "effects": "ApprovalNeeded Call Effect Effects Emit ListenerLeft Pause Use attended work",
        },
    )
