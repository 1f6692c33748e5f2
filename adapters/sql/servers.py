"""Read the address of a PostgreSQL server: one host or several, and whether PgBouncer is in front of it.

SQLAlchemy reads the hosts of a pair only as repeated `host` parameters. libpq's own form puts them in front of the
database: `postgresql+psycopg://user@h1:5432,[::1]:5433/database?target_session_attrs=read-write`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy.engine import URL, make_url

from threadledger.domain.errors import InvalidSettings

_SERVER = re.compile(r"(?P<begin>[\w+]+://(?:[^:/?]*(?::[^@]*)?@)?)(?P<hosts>[^/?]*)(?P<rest>.*)", re.DOTALL)

_HOST = re.compile(r"\[(?P<ipv6>[^\]]+)\](?::(?P<port6>\d*))?|(?P<host>[^:\[\]]*)(?::(?P<port>\d*))?")


def parse(text: str) -> URL:
    """Return the URL of a server. It keeps several hosts as they were written, in `URL.host`.

    Raises:
        InvalidSettings: a password contains an unescaped `@`.
        sqlalchemy.exc.ArgumentError, ValueError: the text cannot be read.
    """
    found = _SERVER.match(text)
    if found is None:
        return make_url(text)
    if "@" in found["hosts"]:
        raise InvalidSettings(
            "the database URL cannot be read: its password contains @; write it as %40 in THREADLEDGER_DB or --db"
        )
    if "," not in found["hosts"]:
        return make_url(text)
    return make_url(f"{found['begin']}pair{found['rest']}").set(host=found["hosts"])


def hosts(url: URL) -> tuple[URL, dict[str, str]]:
    """Return the URL without its hosts, and the connection parameters that name them; unchanged if there is only one.

    Raises:
        InvalidSettings: a host or port cannot be read, or there are not as many ports as hosts.
    """
    given = (
        (url.host or "").split(",") if url.host else [each for part in _listed(url, "host") for each in part.split(",")]
    )
    if len(given) < 2:
        return url, {}
    pairs = [_host(each) for each in given]
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
    return URL.create(url.drivername, url.username, url.password, database=url.database, query=query), parameters


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
