"""Describe external actions as values, and perform them: at once or awaited."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .drivers import AsyncDriver, Wait, heard, perform
    from .effects import (
        Answer,
        Call,
        Delta,
        Effect,
        Effects,
        ListenerLeft,
        Pause,
        StartedOver,
        StreamPart,
        Tell,
        ToolUse,
        Use,
        Work,
        attended,
    )

__all__ = [
    "Answer",
    "AsyncDriver",
    "Call",
    "Delta",
    "Effect",
    "Effects",
    "ListenerLeft",
    "Pause",
    "StartedOver",
    "StreamPart",
    "Tell",
    "ToolUse",
    "Use",
    "Wait",
    "Work",
    "attended",
    "heard",
    "perform",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "drivers": "AsyncDriver Wait heard perform",
            "effects": (
                "Answer Call Delta Effect Effects ListenerLeft Pause StartedOver StreamPart Tell ToolUse "
                "Use Work attended"
            ),
        },
    )
