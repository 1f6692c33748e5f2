"""Keep the provider's copies of a conversation: delivery, drift, late copies and verification."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .delivery import (
        CATCH_UP_ATTEMPTS_MAX,
        LEFT_IN_THREAD,
        Delivered,
        bring_up,
        is_uncertain,
        lacking,
        retried,
        sent_again,
        taken_out,
    )
    from .drift import ADOPTED, Drift, adoptable, drift_of, ours_of
    from .late_copies import Doubt, open_doubts, surplus
    from .mirror import MirrorHead, MirrorHeads, ThreadMirror
    from .thread import Comparison, Difference, Rendering, ThreadItem, ThreadState, compare, differences, digest
    from .verification import SideBySide, Verification, Verifier

__all__ = [
    "ADOPTED",
    "CATCH_UP_ATTEMPTS_MAX",
    "LEFT_IN_THREAD",
    "Comparison",
    "Delivered",
    "Difference",
    "Doubt",
    "Drift",
    "MirrorHead",
    "MirrorHeads",
    "Rendering",
    "SideBySide",
    "ThreadItem",
    "ThreadMirror",
    "ThreadState",
    "Verification",
    "Verifier",
    "adoptable",
    "bring_up",
    "compare",
    "differences",
    "digest",
    "drift_of",
    "is_uncertain",
    "lacking",
    "open_doubts",
    "ours_of",
    "retried",
    "sent_again",
    "surplus",
    "taken_out",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "delivery": (
                "CATCH_UP_ATTEMPTS_MAX LEFT_IN_THREAD Delivered bring_up is_uncertain lacking retried "
                "sent_again taken_out"
            ),
            "drift": "ADOPTED Drift adoptable drift_of ours_of",
            "late_copies": "Doubt open_doubts surplus",
            "mirror": "MirrorHead MirrorHeads ThreadMirror",
            "thread": "Comparison Difference Rendering ThreadItem ThreadState compare differences digest",
            "verification": "SideBySide Verification Verifier",
        },
    )
