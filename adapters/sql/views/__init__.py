"""Provide read models built from the events; they catch up with the log on each read and can be rebuilt at any time."""

from .sql_views import SqlViews

__all__ = ["SqlViews"]
