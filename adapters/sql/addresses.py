"""Read the address of a database: a SQLite file given by its path or as
SQLite's own address (`file:PATH?mode=ro`), or PostgreSQL servers and whether PgBouncer is in front.

SQLAlchemy reads the hosts of a pair only as repeated `host` parameters. libpq's own form puts them in front of the
database: `postgresql+psycopg://user@h1:5432,[::1]:5433/database?target_session_attrs=read-write`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from threadledger.domain.errors import InvalidSettings

from .database import parse_url
from .file_url import FileURL

if TYPE_CHECKING:
    from sqlalchemy import URL

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
    if isinstance(parsed, FileURL):
        # An address of SQLite (file:…) may lie anywhere: it is in no folder.
        return DatabasePlace(Path("/") if parsed.is_address else Path(parsed.database))
    named = [str(parsed.query[name]) for name in sorted(HOSTS & parsed.query.keys())]
    return DatabasePlace(
        file=None,
        host=parsed.host or ", ".join(named),
        names_host=bool(parsed.host or named),
        has_password=bool(parsed.password or parsed.query.get("password")),
        uses_credentials=bool(CREDENTIALS & parsed.query.keys()),
    )


_MISSPELT = re.compile(r"([A-Za-z][\w+.-]+):/|((?:sqlite|postgres|mysql|mariadb)[\w+]*):", re.IGNORECASE)
"""Beginning of a URL without `://`. A single letter before the colon is a drive of Windows, so it begins a path."""


def path_in_address(address: str) -> Path:
    """Return the file that an address of SQLite names; it may contain percent-encoded characters."""
    return Path(unquote(urlsplit(address).path))


def url_of_path(text: str) -> FileURL:
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
    if text.startswith("file:"):
        address, _, options = text.partition("?")
        return FileURL(address, dict(parse_qsl(options)))
    try:
        return FileURL(str(Path(text).expanduser()))
    except RuntimeError:
        raise InvalidSettings(f"the database {text!r} is in the home of an unknown user: give its whole path") from None


_SERVER = re.compile(r"(?P<begin>[\w+]+://(?:[^:/?]*(?::[^@]*)?@)?)(?P<hosts>[^/?]*)(?P<rest>.*)", re.DOTALL)

_HOST = re.compile(r"\[(?P<ipv6>[^\]]+)\](?::(?P<port6>\d*))?|(?P<host>[^:\[\]]*)(?::(?P<port>\d*))?")


def url_of_server(text: str) -> URL:
    """Return the URL of a server. It keeps several hosts as they were written, in `URL.host`.

    Raises:
        InvalidSettings: the text cannot be read, a password contains an unescaped `@`, or the URL names a plugin.
    """
    from sqlalchemy import exc

    try:
        url = _url_of_server(text)
    except (exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise InvalidSettings(
            "the database URL cannot be read: set a file, or a URL like sqlite:///threadledger.db, with --db or THREADLEDGER_DB"
        ) from None
    if "plugin" in url.query:
        raise InvalidSettings(f"{shown(url)} names a plugin of SQLAlchemy, which would run its code: leave it out")
    return url


def _url_of_server(text: str) -> URL:
    from sqlalchemy import make_url

    found = _SERVER.match(text) if text.startswith("postgres") else None
    if found is None:
        return make_url(text)
    if "@" in found["hosts"]:
        raise InvalidSettings(
            "the database URL cannot be read: its password contains @; write it as %40 in THREADLEDGER_DB or --db"
        )
    for each in re.split("[],:[]", found["hosts"]):
        (each if "%" not in each else "").encode("idna")  # raises for a name that cannot be; a path is percent-encoded
    if "," not in found["hosts"]:
        return make_url(text)
    return make_url(f"{found['begin']}pair{found['rest']}").set(host=found["hosts"])


def shown(url: URL) -> str:
    """Return the URL of a server for display, without its passwords."""
    hidden = dict.fromkeys({"password", "sslpassword"} & url.query.keys(), "***")
    text = url.update_query_dict(hidden).render_as_string(hide_password=True)
    several = url.host is not None and "," in url.host  # SQLAlchemy takes the list for one IPv6 address
    return text.replace(f"[{url.host}]", str(url.host)) if several else text


def hosts(url: URL) -> tuple[URL, dict[str, str]]:
    """Return the URL without its hosts, and the connection parameters that name them; unchanged if there is only one.

    Raises:
        InvalidSettings: a host or port cannot be read, a host is empty, or there are not as many ports as hosts.
    """
    given = (
        (url.host or "").split(",") if url.host else [each for part in _listed(url, "host") for each in part.split(",")]
    )
    if len(given) < 2:
        return url, {}
    pairs = [_host(each) for each in given]
    if not all(host for host, _ in pairs):  # libpq would take it for the server of this machine
        raise InvalidSettings("the database URL names an empty host: write its hosts as h1:5432,h2:5432")
    ports = [port for _, port in pairs]
    common = [each for part in _listed(url, "port") for each in part.split(",")]
    if common:
        ports = common * len(pairs) if len(common) == 1 else common
        if len(ports) != len(pairs):
            raise InvalidSettings(
                f"the database URL names {len(pairs)} hosts and {len(ports)} ports: give one port for all, or one for each"
            )
    parameters = {"host": ",".join(host for host, _ in pairs)}
    if any(ports):
        parameters["port"] = ",".join(ports)
    query = url.difference_update_query(["host", "port"]).query
    alone = type(url).create(url.drivername, url.username, url.password, database=url.database, query=query)
    return alone, parameters


def pooled(url: URL) -> bool | None:
    """Return whether the URL says that a pooler is in front of the server; None if it does not say.

    Raises:
        InvalidSettings: the value is neither `true` nor `false`.
    """
    match url.query.get("pgbouncer"):
        case None:
            return None
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise InvalidSettings("pgbouncer in the database URL must be true or false; without it, PgBouncer is detected")


def _listed(url: URL, name: str) -> Sequence[str]:
    value = url.query.get(name, ())
    return (value,) if isinstance(value, str) else value


def _host(text: str) -> tuple[str, str]:
    """Return host and port; a path names a folder of sockets, and IPv6 addresses with a port are in brackets."""
    if text.startswith(("/", "@")) or (text.count(":") > 1 and "[" not in text):
        return text, ""
    found = _HOST.fullmatch(text)
    if found is None:
        raise InvalidSettings(
            "the database URL cannot be read: write its hosts as h1:5432,h2:5432, and IPv6 addresses in brackets"
        )
    return found["ipv6"] or found["host"], found["port6"] or found["port"] or ""
