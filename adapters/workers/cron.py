"""Read times in the form of cron with croniter, which the extra `workers` installs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from threadledger.domain.errors import InvalidSettings

FIELDS = 5


def problem_of(text: str) -> str:
    """Return why a text is no time of cron; empty if it is one.

    Raises:
        InvalidSettings: croniter is not installed.
    """
    croniter = _croniter()
    if len(text.split()) != FIELDS:
        return f"it has {len(text.split())} fields"
    return "" if croniter.is_valid(text) else "a field cannot be read"


def next_after(text: str, moment: datetime) -> datetime:
    """Return the first time after a moment, in UTC."""
    found: datetime = _croniter()(text, moment.astimezone(UTC)).get_next(datetime)
    return found


def _croniter() -> Any:
    try:
        from croniter import croniter  # type: ignore[import-untyped]
    except ImportError:
        raise InvalidSettings(
            "times in the form of cron need croniter, which is not installed: run pip install 'threadledger[workers]', or use "
            'one of the names hourly, daily, nightly, weekly and monthly, or every = "15m"'
        ) from None
    return croniter
