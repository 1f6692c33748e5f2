"""Keep the provider's copies of a conversation: delivery, drift, late copies and verification."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .claims import PreparedThread
    from .delivery import LEFT_IN_THREAD, Delivered, bring_up, is_uncertain, retried
    from .doubts import Doubt
    from .drift import ADOPTED, Drift, adoptable, drift_of, ours_of
    from .mirror import MirrorHead, MirrorHeads, ThreadCreation, ThreadMirror
    from .outbox import REFUSED, ThreadOutbox
    from .thread import Comparison, Difference, Rendering, ThreadItem, ThreadState, compare, differences, digest
    from .verification import SideBySide, Verification, Verifier
    from .view import ThreadView

__all__ = [
    "ADOPTED",
    "LEFT_IN_THREAD",
    "REFUSED",
    "Comparison",
    "Delivered",
    "Difference",
    "Doubt",
    "Drift",
    "MirrorHead",
    "MirrorHeads",
    "PreparedThread",
    "Rendering",
    "SideBySide",
    "ThreadCreation",
    "ThreadItem",
    "ThreadMirror",
    "ThreadOutbox",
    "ThreadState",
    "ThreadView",
    "Verification",
    "Verifier",
    "adoptable",
    "bring_up",
    "compare",
    "differences",
    "digest",
    "drift_of",
    "is_uncertain",
    "ours_of",
    "retried",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "claims": "PreparedThread",
            "delivery": "LEFT_IN_THREAD Delivered bring_up is_uncertain retried",
            "drift": "ADOPTED Drift adoptable drift_of ours_of",
            "doubts": "Doubt",
            "mirror": "MirrorHead MirrorHeads ThreadCreation ThreadMirror",
            "outbox": "REFUSED ThreadOutbox",
            "thread": "Comparison Difference Rendering ThreadItem ThreadState compare differences digest",
            "verification": "SideBySide Verification Verifier",
            "view": "ThreadView",
        },
    )
