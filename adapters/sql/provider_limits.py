"""Keep what providers allow, and which backends cool down, in two tables that all processes of a ledger share."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from threadledger.domain.exchange.provider_limits import LimitBucket, SaidLimit
from threadledger.domain.failures import Failure
from threadledger.domain.failures.shared_health import Cooling, SharedCooling
from threadledger.domain.ids import from_iso, to_iso

from .connections import Transaction
from .database import Database

_SERVER_TIME = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
"""Time of PostgreSQL's machine, which is the same for all; processes that share a SQLite file share its machine's clock."""

_FOUND = (
    "SELECT quantity, per_minute, available, at, closed_until, {now} FROM provider_limits "
    "WHERE endpoint = ? AND model = ? ORDER BY quantity{lock}"
)
_PUT = (
    "INSERT INTO provider_limits (endpoint, model, quantity, per_minute, available, at, closed_until) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, model, quantity) DO UPDATE SET "
    "per_minute = excluded.per_minute, available = excluded.available, at = excluded.at, closed_until = excluded.closed_until"
)
_KNOWN = (
    "SELECT endpoint, model, quantity, per_minute, available, at, closed_until FROM provider_limits ORDER BY 1, 2, 3"
)

_COOLING = "SELECT backend, since, until, failures, last, probe_until FROM backend_health"
_COOL = (
    "INSERT INTO backend_health (backend, since, until, failures, last, probe_until) VALUES (?, ?, ?, ?, ?, NULL) "
    "ON CONFLICT (backend) DO UPDATE SET since = excluded.since, until = excluded.until, failures = excluded.failures, "
    "last = excluded.last, probe_until = NULL"
)
_PROBE = (
    "UPDATE backend_health SET probe_until = ? WHERE backend = ? AND until <= ? "
    "AND (probe_until IS NULL OR probe_until <= ?)"
)


class SqlProviderLimits:
    """Keep the buckets of each endpoint and model."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_server = database.kind.name == "postgresql"
        self._found = _FOUND.format(
            now=_SERVER_TIME if self._is_server else "NULL", lock=" FOR UPDATE" if self._is_server else ""
        )

    def take(
        self, endpoint: str, model: str, amounts: Mapping[str, float], patience: float
    ) -> tuple[float, Mapping[str, float]]:
        """Take these amounts, and return in how many seconds the caller may go, and what is left by quantity.

        Nothing is taken if the time is longer than `patience`, in seconds.
        """
        if not self._database.query(
            "SELECT 1 FROM provider_limits WHERE endpoint = ? AND model = ?", (endpoint, model)
        ):
            return 0.0, {}

        def work(transaction: Transaction) -> tuple[float, Mapping[str, float]]:
            known, now = self._locked(transaction, endpoint, model)
            wait = max((each.seconds_until(amounts.get(name, 0.0), now) for name, each in known.items()), default=0.0)
            if wait > patience:
                return wait, {}
            taken = {name: each.taken(amounts.get(name, 0.0), now) for name, each in known.items()}
            self._put(transaction, endpoint, model, taken)
            return wait, {name: each.available for name, each in taken.items()}

        return self._database.write(work)

    def hear(self, endpoint: str, model: str, said: Mapping[str, SaidLimit], closed_seconds: float) -> None:
        """Apply what an answer said about its limits, and for how long the provider refuses further calls."""

        def work(transaction: Transaction) -> None:
            known, now = self._locked(transaction, endpoint, model)
            heard = {name: limit.applied(known.get(name), now) for name, limit in said.items()}
            if closed_seconds:
                heard = heard or known or {"requests": LimitBucket(0.0, 0.0, now)}
                until = now + closed_seconds
                heard = {
                    name: replace(each, closed_until=max(each.closed_until, until)) for name, each in heard.items()
                }
            self._put(transaction, endpoint, model, heard)

        self._database.write(work)

    def known(self) -> list[tuple[str, str, str, LimitBucket]]:
        """Return all buckets by endpoint, model and quantity, as they were last changed."""
        rows = self._database.query(_KNOWN)
        return [(endpoint, model, quantity, LimitBucket(*numbers)) for endpoint, model, quantity, *numbers in rows]

    def _locked(self, transaction: Transaction, endpoint: str, model: str) -> tuple[dict[str, LimitBucket], float]:
        rows = transaction.execute(self._found, (endpoint, model)).fetchall()
        now = float(rows[0][5]) if rows and rows[0][5] is not None else self._now(transaction)
        return {name: LimitBucket(*numbers) for name, *numbers, _ in rows}, now

    def _now(self, transaction: Transaction) -> float:
        return float(transaction.execute(f"SELECT {_SERVER_TIME}").fetchone()[0]) if self._is_server else time.time()

    def _put(self, transaction: Transaction, endpoint: str, model: str, buckets: Mapping[str, LimitBucket]) -> None:
        for name in sorted(buckets):
            each = buckets[name]
            numbers = (each.per_minute, each.available, each.at, each.closed_until)
            transaction.execute(_PUT, (endpoint, model, name, *numbers))


class SqlBackendHealth:
    """Implement `Cooldowns` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cooling(self) -> dict[str, SharedCooling]:
        return {row[0]: _cooling(row) for row in self._database.query(_COOLING)}

    def cool(self, backend: str, cooling: Cooling) -> None:
        last = json.dumps(
            {name: value for name, value in vars(cooling.last).items() if isinstance(value, str | int | float)}
        )
        values = (backend, to_iso(cooling.since), to_iso(cooling.until), cooling.failures_in_a_row, last)
        self._database.execute(_COOL, values)

    def clear(self, backend: str) -> None:
        self._database.execute("DELETE FROM backend_health WHERE backend = ?", (backend,))

    def probe(self, backend: str, at: datetime, until: datetime) -> bool:
        values = (to_iso(until), backend, to_iso(at), to_iso(at))
        return self._database.write(lambda transaction: bool(transaction.execute(_PROBE, values).rowcount == 1))


def _cooling(row: Any) -> SharedCooling:
    _, since, until, failures, last, probe_until = row
    known = Failure.__dataclass_fields__
    failure = Failure(**{name: value for name, value in json.loads(last).items() if name in known})
    cooling = Cooling(from_iso(since), from_iso(until), int(failures), failure)
    return SharedCooling(cooling, from_iso(probe_until) if probe_until is not None else None)
