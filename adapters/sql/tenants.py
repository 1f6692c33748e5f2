"""Find the tenants that have a ledger: files whose names fit the pattern of the database, or databases or schemas of a server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from threadledger.domain.errors import InvalidSettings, StoreUnavailable

from .database import parse_url
from .file_url import FileURL

if TYPE_CHECKING:
    from sqlalchemy import URL

PLACE = "{tenant}"
MAINTENANCE_DATABASE = "postgres"
"""Database of a server that is asked which others there are."""

_DATABASES = "SELECT datname FROM pg_catalog.pg_database WHERE NOT datistemplate"
_SCHEMAS = "SELECT nspname FROM pg_catalog.pg_namespace"
_SEARCH_PATH = re.compile(r"search_path[=\s]+([^\s,]+)")


def tenants_with_ledgers(pattern: str, name: re.Pattern[str]) -> list[str]:
    """Return the tenants for which there is a file, a database or a schema, sorted; `name` is what a tenant's name looks like.

    Raises:
        InvalidSettings: the pattern names the tenant where nothing can be listed.
        StoreUnavailable: the server cannot be asked.
    """
    url = parse_url(pattern)
    if isinstance(url, FileURL):
        return _among(str(url.database), _files(str(url.database)), name)
    if PLACE in (url.database or ""):
        return _among(str(url.database), _asked(url.set(database=MAINTENANCE_DATABASE), _DATABASES), name)
    found = _SEARCH_PATH.search(str(url.query.get("options", "")))
    if found is not None and PLACE in found[1]:
        return _among(found[1], _asked(url.difference_update_query(["options"]), _SCHEMAS), name)
    raise InvalidSettings(
        f"the tenants cannot be listed, because {PLACE} stands neither in the name of the database nor in that of its schema: "
        "choose them one by one with --tenant T"
    )


def _files(pattern: str) -> Iterable[str]:
    """Return the files that fit a path with a tenant's place in it."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if PLACE in part)
    begin = Path(*parts[:first]) if first else Path()
    wanted = "/".join(re.sub(r"([*?[])", r"[\1]", part).replace(PLACE, "*") for part in parts[first:])
    return (str(path) for path in begin.glob(wanted) if path.is_file())


def _asked(url: URL, query: str) -> list[str]:
    from sqlalchemy import create_engine, exc, text

    engine = create_engine(url.set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            return [str(name) for (name,) in connection.execute(text(query))]
    except exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StoreUnavailable(f"the server cannot be asked for the ledgers of its tenants ({reason})") from error
    finally:
        engine.dispose()


def _among(pattern: str, names: Iterable[str], tenant: re.Pattern[str]) -> list[str]:
    """Return the tenants in names that fit a pattern; every place of the tenant in it has the same name."""
    begin, *rest = (re.escape(part) for part in pattern.split(PLACE))
    repeated = begin + "(?P<tenant>" + tenant.pattern + ")" + "(?P=tenant)".join(rest)
    found = (re.fullmatch(repeated, name) for name in names)
    return sorted({each["tenant"] for each in found if each is not None})
