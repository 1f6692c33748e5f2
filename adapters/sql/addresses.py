"""Read the path of a SQLite file that is given instead of a URL."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import URL

from threadledger.domain.errors import InvalidSettings

_MISSPELT = re.compile(r"([A-Za-z][\w+.-]+):/|((?:sqlite|postgres|mysql|mariadb)[\w+]*):", re.IGNORECASE)
"""Beginning of a URL without `://`. A single letter before the colon is a drive of Windows, so it begins a path."""


def url_of_path(text: str) -> URL:
    """Return the URL of a SQLite file.

    Raises:
        InvalidSettings: the text is a misspelt URL, or a path in the home of an unknown user.
    """
    misspelt = _MISSPELT.match(text)
    if misspelt is not None:  # the rest may hold a password
        raise InvalidSettings(
            f"the database cannot be read: {misspelt[1] or misspelt[2]}: is not followed by ://; give a file, "
            "sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE with --db or THREADLEDGER_DB"
        )
    try:
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    except RuntimeError:
        raise InvalidSettings(f"the database {text!r} is in the home of an unknown user: give its whole path") from None
