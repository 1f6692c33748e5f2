"""Diagnose problems of settings, ledger and provider, and say how to fix them: the checks of `threadledger doctor`."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .checks import doctor_document, examined
    from .settings import Checked

__all__ = [
    "Checked",
    "doctor_document",
    "examined",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "checks": "doctor_document examined",
            "settings": "Checked",
        },
    )
