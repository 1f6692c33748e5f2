"""Keep the keys with which apps call the served API: who has one and what it reaches, and of the key only its hash."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from threading import Lock
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as with_fields

from ..conversation import events as e
from ..conversation.tenants import check_tenant
from ..errors import Conflict, InvalidInput, NotFound, quoted
from ..ids import from_iso, new_id, now, to_iso
from ..journal import StreamHead
from ..signatures import checked

if TYPE_CHECKING:
    from ..journal import Journal

SERVE_KEYS = "serve:keys"
"""Name of the stream of the keys."""

KEYS_SCHEMA = 1
"""Version of the format in which the keys are stored next to their stream."""

KEY_BEGIN = "tl-"
"""Beginning of a key, by which people and scanners for secrets recognise it."""

KEY_BYTES = 32
"""Number of random bytes of a key: nobody guesses it, so a hash without salt protects it."""

KEY_NAME_CHARS_MAX = 100
"""Maximum length of the name of a key, in characters."""

LOOK_SECONDS = 1.0
"""Interval at which a process looks for keys that others added or revoked, in seconds."""


@dataclass(frozen=True)
class ApiKey:
    """Describe a key of the served API, without the key."""

    name: str
    tenant: str = ""
    """The tenant whose objects it reaches; empty for those that belong to no tenant."""
    read_only: bool = False
    added_at: datetime | None = None
    revoked_at: datetime | None = None
    """When it was revoked; None for a key that is accepted."""
    actor: str | None = None
    """Who added it; None if that is not known."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `serve keys list`; docs/commands.md lists its keys."""
        return {
            "name": self.name,
            "tenant": self.tenant,
            "read_only": self.read_only,
            "added_at": to_iso(self.added_at) if self.added_at is not None else None,
            "revoked_at": to_iso(self.revoked_at) if self.revoked_at is not None else None,
            "actor": self.actor,
        }


HashedKeys = Sequence[tuple[str, ApiKey]]
"""Keys in the order in which they were added, each after its SHA-256 in hexadecimal."""


def evolve_keys(keys: HashedKeys, event: e.Event) -> HashedKeys:
    """Return the keys after an event. Never raises."""
    match event:
        case e.ApiKeyAdded():
            added = ApiKey(event.name, event.tenant, event.read_only, event.timestamp, actor=event.actor)
            return (*keys, (event.key_hash, added))
        case e.ApiKeyRevoked():
            return tuple(
                (key_hash, replace(each, revoked_at=event.timestamp) if _is_accepted(each, event.name) else each)
                for key_hash, each in keys
            )
    return keys


@checked()
class ApiKeys:
    """Add, revoke and find the keys of the served API; threads may share an instance."""

    def __init__(self, journal: Journal, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._monotonic = monotonic
        self._looking = Lock()
        self._looked_at: float | None = None
        self._seen: tuple[StreamHead | None, HashedKeys] = None, ()

    def add(self, name: str, tenant: str = "", read_only: bool = False) -> str:
        """Add a key and return it. Only its hash is stored, so it cannot be shown again.

        Args:
            name: who has it: 1 to 100 printable characters without `:`, the name of no other key that is accepted.
            tenant: the tenant whose objects it reaches; without one, it reaches those that belong to no tenant.
            read_only: whether it only reads.

        Raises:
            InvalidInput: the name or the tenant is not valid.
            Conflict: a key with this name is accepted already.
        """
        name, tenant = _checked_name(name), check_tenant(tenant) if tenant else ""
        place = (
            f"{self._journal.tenant}." if self._journal.tenant else ""
        )  # tells a server of all tenants which ledger knows it
        key = f"{KEY_BEGIN}{place}{secrets.token_bytes(KEY_BYTES).hex()}"
        added = e.ApiKeyAdded(
            originator_id=SERVE_KEYS, name=name, key_hash=_hash_of(key), tenant=tenant, read_only=read_only
        )

        def refuse(keys: HashedKeys) -> None:
            if any(_is_accepted(each, name) for _, each in keys):
                raise Conflict(
                    f"there is a key {name!r} already: choose another name, or revoke that one first with: "
                    f"threadledger serve keys revoke {quoted(name)}"
                )

        self._record(added, refuse)
        return key

    def revoke(self, name: str) -> ApiKey:
        """Revoke a key and return what is known of it: servers refuse it within a second. Its name can be used again.

        Raises:
            NotFound: no key with this name is accepted.
        """

        def refuse(keys: HashedKeys) -> None:
            if not any(_is_accepted(each, name) for _, each in keys):
                raise NotFound(f"no key {name!a:.200} is accepted: list the keys with: threadledger serve keys list")

        after = self._record(e.ApiKeyRevoked(originator_id=SERVE_KEYS, name=name), refuse)
        return next(each for _, each in reversed(after) if each.name == name)

    def all(self) -> list[ApiKey]:
        """Return every key that was ever added, in this order; revoked ones have a `revoked_at`."""
        return [each for _, each in self._keys(self._journal.head(SERVE_KEYS))]

    def find(self, key: str) -> ApiKey | None:
        """Return what is known of a key; None for one that was never added or was revoked.

        The database is looked at once a second at most. How long a comparison takes says nothing about the hashes.
        """
        given, found = _hash_of(key), None
        for key_hash, each in self._current():
            if compare_digest(key_hash.encode(), given.encode()) and each.revoked_at is None:
                found = each
        return found

    def any_exists(self) -> bool:
        """Return whether a key was ever added, also a revoked one: a server does not open when its last key is revoked.

        The database is looked at as by `find`.
        """
        return bool(self._current())

    def _current(self) -> HashedKeys:
        with self._looking:
            moment = self._monotonic()
            if self._looked_at is None or moment - self._looked_at >= LOOK_SECONDS:
                head = self._journal.head(SERVE_KEYS)
                if head != self._seen[0]:
                    self._seen = head, self._keys(head)
                self._looked_at = moment  # as of before the look
            return self._seen[1]

    def _record(self, event: e.Event, refuse: Callable[[HashedKeys], None]) -> HashedKeys:
        """Append an event and return the keys after it, unless `refuse` raises an error about those before it."""
        after: list[HashedKeys] = []

        def decide(head: StreamHead | None) -> tuple[e.Event, StreamHead]:
            keys, version = self._keys(head), head.version + 1 if head is not None else 1
            refuse(keys)
            named = {"actor": self._journal.actor, "originator_version": version}
            recorded = with_fields(event, timestamp=now(), event_id=new_id(), **named)
            after[:] = [evolve_keys(keys, recorded)]
            return recorded, StreamHead(SERVE_KEYS, version, KEYS_SCHEMA, _stored(after[0]))

        self._journal.append(SERVE_KEYS, decide)
        with self._looking:
            self._looked_at = None
        return after[0]

    def _keys(self, head: StreamHead | None) -> HashedKeys:
        """Return the keys as of the head of their stream, from its state, or from the events if that is unusable."""
        if head is None:
            return ()
        if head.state_schema == KEYS_SCHEMA:
            with suppress(ValueError, TypeError, AttributeError, LookupError):  # damaged: they follow from the events
                return _restored(head.state)
        keys: HashedKeys = ()
        for event in self._journal.stream(SERVE_KEYS):
            keys = evolve_keys(keys, event)
        return keys


def _is_accepted(key: ApiKey, name: str) -> bool:
    return key.name == name and key.revoked_at is None


def _hash_of(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _stored(keys: HashedKeys) -> str:
    return json.dumps([each.as_json() | {"hash": key_hash} for key_hash, each in keys], separators=(",", ":"))


def _restored(state: str) -> HashedKeys:
    return tuple(
        (
            each["hash"],
            ApiKey(
                each["name"],
                each["tenant"],
                each["read_only"],
                from_iso(each["added_at"]),
                from_iso(each["revoked_at"]) if each["revoked_at"] is not None else None,
                each["actor"],
            ),
        )
        for each in json.loads(state)
    )


def _checked_name(name: str) -> str:
    """Return the name of a key.

    Raises:
        InvalidInput: it is empty, too long, or has a character that it may not have.
    """
    is_clear = name.isprintable() and ":" not in name and name == name.strip()
    if not is_clear or not 1 <= len(name) <= KEY_NAME_CHARS_MAX:
        raise InvalidInput(
            f"{name!a:.200} is not the name of a key: use 1 to {KEY_NAME_CHARS_MAX} printable characters without `:`, "
            "and no space at the ends"
        )
    return name
