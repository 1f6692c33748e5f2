"""Describe where a database is, without opening it: in a file, or on a host that is sent a password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from threadledger.domain.errors import InvalidSettings

from .database import parse_url

HOSTS = frozenset({"host", "hostaddr", "service"})
"""Parameters of a URL that name a PostgreSQL server."""
CREDENTIALS = frozenset({"gssdelegation", "passfile", "service"})
"""Parameters of a URL that make PostgreSQL's client use a credential of the user."""


@dataclass(frozen=True)
class DatabasePlace:
    """Hold what is known of a database from its URL."""

    file: Path | None
    """File of a SQLite database."""
    host: str = ""
    names_host: bool = False
    """Whether the URL names a server; if not, PostgreSQL's client takes it from the environment."""
    has_password: bool = False
    uses_credentials: bool = False
    """Whether the URL makes PostgreSQL's client use a credential of the user that it does not hold itself."""


def database_place(url: str) -> DatabasePlace:
    """Return where a database is.

    Raises:
        InvalidSettings: the URL is not valid.
    """
    try:
        parsed = parse_url(url)
    except ValueError:
        raise InvalidSettings("the database URL cannot be read") from None
    if parsed.get_backend_name() == "sqlite":
        path = str(parsed.database or "")
        # An address of SQLite (file:…) may lie anywhere: it is in no folder.
        return DatabasePlace(Path("/") if path.startswith("file:") else Path(path))
    named = [str(parsed.query[name]) for name in sorted(HOSTS & parsed.query.keys())]
    return DatabasePlace(
        file=None,
        host=parsed.host or ", ".join(named),
        names_host=bool(parsed.host or named),
        has_password=bool(parsed.password or parsed.query.get("password")),
        uses_credentials=bool(CREDENTIALS & parsed.query.keys()),
    )
