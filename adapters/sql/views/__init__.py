"""Read models: made from the events, brought up to them whenever they are read, built anew at will."""

from .sql_views import SqlViews

__all__ = ["SqlViews"]
