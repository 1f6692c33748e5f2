"""Export a recorded exchange as a simulator script and a test."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .export import ExportedRun, export_run

__all__ = [
    "ExportedRun",
    "export_run",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "export": "ExportedRun export_run",
        },
    )
