"""Render the audit as one HTML file."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .report import Report, render_report

__all__ = [
    "Report",
    "render_report",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "report": "Report render_report",
        },
    )
