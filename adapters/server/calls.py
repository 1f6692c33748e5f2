"""Define what a handler of the served API is given: the server's parts, the caller, and the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Event
from typing import TYPE_CHECKING

from threadledger.domain.ledger import Ledger

from ..wire import ApiError, EventStream, Json, RouteCall

if TYPE_CHECKING:
    from threadledger.domain.journal import Also, Journal

    from ..wire.multipart import Upload
    from .runner import Runner
    from .serve_settings import ServeSettings

STORED_PREFIX = "api:"
"""Beginning of the idempotency key of everything that requests store."""


@dataclass(frozen=True)
class Caller:
    """Describe who sent a request: the name of its key, and what that key reaches."""

    name: str = ""
    """Name of the key; empty on loopback without one."""
    tenant: str = ""
    """The tenant whose objects it reaches; empty for those of none."""
    read_only: bool = False

    @property
    def actor(self) -> str | None:
        """Return the actor of the events that the request causes."""
        return f"key:{self.name}" if self.name else None


@dataclass
class ServedCall(RouteCall):
    """Hold the parts of one request that a handler uses.

    `request_key` names the request: what it stores carries it as an idempotency key, and ids of new objects are made of it, so
    that the same request again finds what the first one stored.
    """

    caller: Caller = field(default_factory=Caller)
    request_key: str = ""
    request_id: str = ""
    """Id of this attempt: in the header `x-request-id` of its answer, and in the log."""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the request by their names in lower case, without its credentials."""
    upload: Upload | None = None
    """The file of an upload, which is removed after the request."""
    gone: Event = field(default_factory=Event)
    """Set when the client has disconnected, or the server stops: a handler that waits should return then."""
    also: Also | None = None
    """What the request writes in the transaction of its commit, so that a repetition of it is recognised."""
    fingerprint: str = ""
    """Hash of the key, path and body of a request that may store something."""
    repeated: bool = False
    """Whether the same request was received before, or may have been."""
    stored: bool = False
    """Whether the same request has stored something before: a change that it asks for was made, and is not made again."""

    @property
    def idempotency_key(self) -> str:
        """Return the idempotency key of what the request stores."""
        return idempotency_key_of(self.request_key)


def idempotency_key_of(request_key: str) -> str:
    """Return the idempotency key of what a request stores."""
    return f"{STORED_PREFIX}{request_key}"


@dataclass
class Served:
    """Hold what the handlers of one server share. Handlers block: each runs in a thread of its own."""

    ledger: Ledger
    settings: ServeSettings
    runner: Runner

    def ledger_of(self, caller: Caller) -> Ledger:
        """Return the ledger whose events carry the caller as their actor."""
        return Ledger(self.journal_of(caller), lambda: self.ledger.services)

    def journal_of(self, caller: Caller) -> Journal:
        """Return the journal whose events carry the caller as their actor."""
        journal = self.ledger.journal
        return journal if caller.actor is None else journal.as_actor(caller.actor, reserved=True)


def deleted_once(served: Served, call: ServedCall, delete: Callable[[], None], answer: Json) -> Json:
    """Delete what a request names, and return its answer; the same request again gets the same answer.

    `delete` writes `call.also` in the transaction of the deletion, and raises a 404 if there is nothing to delete.
    """
    try:
        if not call.stored:
            delete()
    except ApiError as error:
        notes = served.runner.notes
        is_done = call.repeated and notes.fingerprint_of(call.request_key) == call.fingerprint  # at the same time
        if error.status != HTTPStatus.NOT_FOUND or not is_done:
            raise
    return answer


@dataclass(frozen=True)
class ServedFile:
    """Represent the bytes of a file, which are sent as they are."""

    filename: str
    size: int
    """Number of bytes."""
    chunks: Iterator[bytes]


Handler = Callable[[Served, ServedCall], Json | EventStream | ServedFile]
"""Function that carries out one operation of the route table; refusals are raised as `ApiError`.

The frames of a stream are created in the thread of its handler. `abandon` is called in that thread too, never while a frame is
being created.
"""
