"""Read the URL of a SQLite file, in the form that SQLAlchemy defines.

SQLAlchemy itself is not loaded: its import takes longer than a whole command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from threadledger.domain.errors import InvalidSettings


class FileURL:
    """Represent the URL of a SQLite file, in the form that SQLAlchemy defines: `sqlite:///PATH?OPTION=VALUE`.

    Its text is the URL as it is shown: without a password.
    """

    def __init__(self, database: str, query: dict[str, str] | None = None, name: str = "sqlite") -> None:
        self.database = database
        """Path of the file, or SQLite's own address (`file:PATH?mode=ro`)."""
        self.query = query or {}
        self._name = name

    @classmethod
    def parse(cls, text: str) -> FileURL | None:
        """Return the parts of a URL; None if it is the URL of something else.

        Raises:
            InvalidSettings: it names a host.
        """
        found = _FILE_URL.match(text)
        if found is None:
            return None
        if found["host"]:
            raise InvalidSettings(
                "the database URL cannot be read: a SQLite file has no host; write three slashes before its path, like "
                "sqlite:///threadledger.db, in THREADLEDGER_DB or --db"
            )
        return cls(unquote(found["database"] or ""), dict(parse_qsl(found["query"] or "")), found["name"])

    @property
    def is_address(self) -> bool:
        """Return whether it holds SQLite's own address, which has options of its own."""
        return self.database.startswith("file:")

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """Return the place of the file and the options for the driver.

        Raises:
            ValueError: the driver is not supported, or an option has no valid value or no effect.
        """
        if "plugin" in self.query:
            raise ValueError("plugins of SQLAlchemy are not supported")
        if self._name not in {"sqlite", "sqlite+pysqlite"}:
            raise ValueError(f"the driver {self._name.partition('+')[2]} is not supported")
        query = dict(self.query)
        options: dict[str, Any] = {
            name: read(query.pop(name)) for name, read in _DRIVER_OPTIONS.items() if name in self.query
        }
        options.pop("uri", None)
        options = {"check_same_thread": False} | options
        if not self.is_address:
            if without_effect := sorted(_ADDRESS_OPTIONS & query.keys()):
                raise ValueError(
                    f"{without_effect[0]} is an option of SQLite's own address: write sqlite:///file:PATH?…"
                )
            return os.path.abspath(self.database), options  # noqa: PTH100 - as SQLAlchemy: `resolve` follows links
        own = "&".join(f"{name}={query[name]}" for name in sorted(query))
        place = self.database.removeprefix("file:")
        if not place.startswith("/"):  # the working folder may change
            place = f"{quote(os.getcwd())}/{place}"  # noqa: PTH109 - pathlib need not be loaded
        return f"file:{place}?{own}" if own else f"file:{place}", options

    def __str__(self) -> str:
        shown = self.query | dict.fromkeys({"password", "sslpassword"} & self.query.keys(), "***")
        query = "&".join(f"{quote_plus(name)}={quote_plus(shown[name])}" for name in sorted(shown))
        return f"{self._name}:///{quote(self.database, safe=' +/')}{'?' if query else ''}{query}"


_FILE_URL = re.compile(r"(?P<name>sqlite(?:\+\w+)?)://(?P<host>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?")


def _boolean(text: str) -> bool:
    """Return the value of a text, with the words that SQLAlchemy accepts.

    Raises:
        ValueError: it is another text.
    """
    word = text.strip().lower()
    if word in {"true", "yes", "on", "y", "t", "1"}:
        return True
    if word in {"false", "no", "off", "n", "f", "0"}:
        return False
    raise ValueError(f"{text!r} is not true or false")


_ADDRESS_OPTIONS = frozenset({"cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"})
"""Options that SQLite itself reads, from its own address only: a file with `?mode=ro` would be written all the same."""

_DRIVER_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "uri": _boolean,
    "timeout": float,
    "isolation_level": str,
    "detect_types": int,
    "check_same_thread": _boolean,
    "cached_statements": int,
}
"""Options in a URL that are for Python's driver, with what reads their text. The others are for SQLite, in its own address."""
