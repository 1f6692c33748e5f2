"""Decide who may send a request: by its key, or on loopback without keys.

A page in the browser of someone who runs the server can send requests to it too. Without keys, such requests are recognised
by their headers: `Host` (a name that the page's owner has pointed at this machine), `Origin` and `Sec-Fetch-Site`. With
keys, a page would have to send the key, which browsers do only after a preflight, and a preflight is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

from threadledger.domain.errors import InvalidSettings

from ..wire import ApiError
from ..wire.hosts import host_name, host_port, is_cross_site, is_loopback
from ..wire.requests import NO_KEY, presented_key, wrong_key
from .calls import Caller
from .refusals import too_many

WHERE_KEYS_ARE = "Keys of this server are made with: threadledger serve keys add NAME"
HTTP_PORT = 80
"""Port that a Host header leaves out."""


class ServedKey(Protocol):
    """Define what a key's record has."""

    @property
    def name(self) -> str:
        """Return the name of the key."""
        ...

    @property
    def tenant(self) -> str:
        """Return the tenant whose objects the key reaches; empty for those of none."""
        ...

    @property
    def read_only(self) -> bool:
        """Return whether the key may only read."""
        ...


class KeyLookup(Protocol):
    """Define how the server finds keys. Both methods block, and are called for each request."""

    def find(self, key: str) -> ServedKey | None:
        """Return the record of a key, or None if there is no such key."""
        ...

    def any_exists(self) -> bool:
        """Return whether there is a key."""
        ...


class NoKeys:
    """Provide no key: only this machine reaches the server."""

    def find(self, key: str) -> ServedKey | None:
        """Return None: there is no such key."""
        return None

    def any_exists(self) -> bool:
        """Return False: there is no key."""
        return False


class Access:
    """Decide who sends a request to a server at `host` and `port`.

    `allowed` are names by which it may be addressed besides those of loopback, while there is no key.
    """

    def __init__(self, keys: KeyLookup, host: str, port: int, allowed: Collection[str] = ()) -> None:
        self._keys = keys
        self._is_local = is_loopback(host)
        self._port = port
        self._allowed = frozenset(name.lower() for name in allowed)

    def require_safe_start(self, host: str) -> None:
        """Raise `InvalidSettings` if other machines would reach a server that needs no key."""
        if not self._is_local and not self._keys.any_exists():
            raise InvalidSettings(
                f"the server would listen on {host} without a key, so any machine that reaches it could read and spend: make "
                "a key with threadledger serve keys add NAME, or use --host 127.0.0.1"
            )

    def caller_of(self, headers: Mapping[str, str], *, azure: bool = False) -> Caller:
        """Return who sends a request.

        Raises `ApiError`: 401 without a known key, 403 for a web page, 421 for a name that is not the server's.
        """
        if self._is_local and not self._keys.any_exists():
            self._require_own_name(headers.get("host", ""))
            if "origin" in headers or is_cross_site(headers):
                raise _web_page()
            return Caller()
        key = presented_key(headers, azure=azure)
        if key is None:
            raise _web_page() if "origin" in headers else ApiError(401, NO_KEY)
        found = self._keys.find(key)
        if found is None:
            raise wrong_key(headers, WHERE_KEYS_ARE, azure=azure)
        return Caller(found.name, found.tenant, found.read_only)

    def _require_own_name(self, host: str) -> None:
        name = host_name(host)
        is_own = is_loopback(name) and (host_port(host) or HTTP_PORT) == self._port
        if not name or (not is_own and self._allowed.isdisjoint((name, host.lower()))):
            raise ApiError(
                421,
                f"This server has no keys, so it answers only requests for this machine (localhost:{self._port}): use that "
                "address, or start it with --allow-host NAME.",
                code="unknown_host",
            )


def require_write(caller: Caller, method: str) -> None:
    """Raise a 403 if a key that may only read is used for another method than GET."""
    if caller.read_only and method != "GET":
        raise ApiError(
            403, f"The key '{caller.name}' may only read: {method} requests need another key.", code="read_only_key"
        )


def _web_page() -> ApiError:
    return ApiError(
        403, "A web page must not use this server without a key: send the request from a program.", code="web_page"
    )


class Slots:
    """Count what each key has in progress, and refuse what is above `most`; `what` names it in the refusal."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def taken(self, name: str) -> Iterator[None]:
        """Hold one slot of a key while the context lasts; raise a 429 if all are taken."""
        with self._lock:
            if self._taken[name] >= self._most:
                raise too_many(self._what, self._most)
            self._taken[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[name] -= 1
                if not self._taken[name]:
                    del self._taken[name]
