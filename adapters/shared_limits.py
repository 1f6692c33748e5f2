"""Keep the provider's limits and the health of backends for all processes of a ledger, in its database.

They are hints: if the database cannot be used for a moment, calls go as if nothing were shared.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from threadledger.domain.effects import waking
from threadledger.domain.errors import ProviderRefused, StoreError
from threadledger.domain.exchange.provider_limits import closed_seconds, limits_said
from threadledger.domain.failures import Failure, Health
from threadledger.domain.failures.shared_health import SharedHealth
from threadledger.domain.limits import TURN_SECONDS_MAX

from .sql import SqlBackendHealth, SqlProviderLimits

if TYPE_CHECKING:
    from .sql import Database

logger = logging.getLogger("threadledger")

BYTES_PER_TOKEN = 4.0
"""Rough number of bytes of a request for each token that it is charged for; what the provider says corrects it."""

ACCOUNT_CHARS = 8
"""Number of characters of a hash that tells the keys of one endpoint apart."""

TAKEN = "threadledger"
"""Key of what was taken for a request, among its extensions."""


class _Body(msgspec.Struct):
    model: str = ""


_MODEL = msgspec.json.Decoder(_Body)


@dataclass(frozen=True)
class Taken:
    """Hold what was taken for a request: its model, and what was left afterwards by quantity."""

    model: str
    left: Mapping[str, float]


class SharedLimits:
    """Hold each request to an endpoint until its turn has come, and read what its answer says about the limits."""

    def __init__(self, limits: SqlProviderLimits, endpoint: str) -> None:
        self._limits = limits
        self._endpoint = endpoint

    def hooks(self, *, awaited: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Return what an HTTP client does before a request and after its answer, blocking or asynchronous."""
        if not awaited:
            return self.wait_before, self.hear

        async def before(request: Any) -> None:
            await asyncio.sleep(await asyncio.to_thread(self.take, request))

        async def after(response: Any) -> None:
            await asyncio.to_thread(self.hear, response)

        return before, after

    def wait_before(self, request: Any) -> None:
        """Wait until a request may be sent; another thread may interrupt it.

        Raises:
            ProviderRefused: its turn is further away than `TURN_SECONDS_MAX`.
        """
        seconds = self.take(request)
        if seconds > 0:
            woken = threading.Event()
            with waking(woken.set):
                if woken.wait(seconds):
                    raise ConnectionAbortedError("interrupted while it waited for its turn")

    def take(self, request: Any) -> float:
        """Take what a request to a model needs, and return the seconds until it may be sent; other requests go at once.

        A write to a thread must not wait here, nor for the database: its claim was checked right before, and may be over when
        a process that was cut from the network comes back.

        Raises:
            ProviderRefused: they are more than `TURN_SECONDS_MAX`; nothing was taken.
        """
        model = _model_of(request)
        if not model:
            return 0.0
        amounts = {"requests": 1.0, "tokens": _size(request) / BYTES_PER_TOKEN}
        try:
            seconds, left = self._limits.take(self._endpoint, model, amounts, TURN_SECONDS_MAX)
        except StoreError as error:
            logger.debug("the shared limits cannot be used: %s", error)
            return 0.0
        if seconds > TURN_SECONDS_MAX:
            message = (
                f"nothing was sent: the limit of the provider, which all processes share, has room in {seconds:.0f} s"
            )
            raise ProviderRefused(
                Failure("refused", code="rate_limit_exceeded", message=message, retry_after_seconds=seconds)
            )
        request.extensions[TAKEN] = Taken(model, left)
        return seconds

    def hear(self, response: Any) -> None:
        """Apply what an answer says about the limits, if it says something new."""
        taken = response.request.extensions.get(TAKEN)
        if taken is None:
            return
        said, closed = limits_said(response.headers), closed_seconds(response.headers, int(response.status_code))
        is_news = any(name not in taken.left or limit.available < taken.left[name] for name, limit in said.items())
        if is_news or closed:
            with suppress(StoreError):
                self._limits.hear(self._endpoint, taken.model, said, closed)


def _model_of(request: Any) -> str:
    """Return the model that a request names; empty if it names none."""
    if "json" not in request.headers.get("content-type", ""):
        return ""
    try:
        return _MODEL.decode(request.content).model
    except Exception:  # noqa: BLE001 - a body that is streamed, or that is no object with a model
        return ""


def _size(request: Any) -> int:
    try:
        return int(request.headers.get("content-length", 0))
    except ValueError:
        return 0


def limits_of(database: Database) -> Callable[[str, str], SharedLimits]:
    """Return a function that returns the shared limits of an endpoint and a key, of which only a hash is stored."""
    limits = SqlProviderLimits(database)

    def of(endpoint: str, key: str) -> SharedLimits:
        account = hashlib.sha256(key.encode()).hexdigest()[:ACCOUNT_CHARS]
        return SharedLimits(limits, f"{endpoint}#{account}")

    return of


def health_of(database: Database) -> Health:
    """Return the health of backends that all processes of a ledger share."""
    return SharedHealth(SqlBackendHealth(database))
