"""Keep the notes of the served API in two tables: claims on exchanges, and requests whose response was not fully sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import Any

from threadledger.domain.conversation import key_of
from threadledger.domain.conversation.tenants import tenant_of
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import Also
from threadledger.domain.journal.served_notes import (
    EXCHANGE_CLAIM_SECONDS_MAX,
    UNSENT_SECONDS_MAX,
    ClaimedExchange,
)

from .claims import Claim, ClaimTable, holder_of, is_held, lease, renewal_of
from .connections import Transaction
from .database import Database

EXCHANGES = ClaimTable("exchange_claims", "stream, exchange", ("holder",))
"""All claims of a process are extended as one: an append that was rolled back leaves none to extend."""

GIVEN_UP = ""
"""End of a claim that was given up: it is before that of every other, whatever the clock of the process that reads it."""

_CLAIM = (
    "INSERT INTO exchange_claims (stream, exchange, holder, held_until) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (stream, exchange) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until"
)
_FOUND = "SELECT holder, held_until FROM exchange_claims WHERE stream = ? AND exchange = ?"
_TAKE_NEW = (
    "INSERT INTO exchange_claims (stream, exchange, holder, held_until) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (stream, exchange) DO NOTHING"
)
_TAKE_OVER = (
    "UPDATE exchange_claims SET holder = ?, held_until = ? "
    "WHERE stream = ? AND exchange = ? AND coalesce(holder, '') = ? AND held_until = ?"
)
"""Statement that takes a claim that is still as it was read."""

_OVER = (
    "SELECT stream, exchange FROM exchange_claims WHERE held_until <= ? ORDER BY held_until, stream, exchange LIMIT ?"
)
_OVER_LAST = _OVER.replace("ORDER BY held_until,", "ORDER BY held_until DESC,")

FAIR_WINDOW = 500
"""Number of the oldest and of the newest abandoned exchanges among which those of all tenants take turns."""

_HOLDERS = "SELECT DISTINCT holder FROM exchange_claims WHERE held_until > ? AND holder IS NOT NULL"
_HELD_BY = (
    "SELECT stream, exchange FROM exchange_claims WHERE held_until > ? AND holder IN ({places}) "
    "ORDER BY held_until, stream, exchange LIMIT ?"
)


class SqlServedNotes:
    """Implement `ServedNotes` in the ledger's database. Threads share an instance, and hold its claims together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unique = new_id()

    @property
    def _holder(self) -> str:
        return holder_of(self._unique)  # that of a forked child differs

    def claim(self, stream: str, exchange_id: str) -> Also:
        statement = self._database.sql(_CLAIM)

        def note(cursor: Any) -> None:
            cursor.execute(statement, (stream, exchange_id, self._holder, self._renewed()))

        return note

    def wait(self, stream: str, exchange_id: str, until: str) -> Also:
        statement = self._database.sql(
            "UPDATE exchange_claims SET holder = NULL, held_until = ? WHERE stream = ? AND exchange = ? AND holder = ?"
        )

        def note(cursor: Any) -> None:
            cursor.execute(statement, (until, stream, exchange_id, self._holder))

        return note

    def note(self, request: str, fingerprint: str) -> Also:
        statement = self._database.sql(
            "INSERT INTO unsent_responses (request, fingerprint, at) VALUES (?, ?, ?) ON CONFLICT (request) DO NOTHING"
        )

        def note(cursor: Any) -> None:
            cursor.execute(statement, (request, fingerprint, to_iso(now())))

        return note

    def unsent(self, fingerprint: str) -> str | None:
        query = (
            "SELECT request FROM unsent_responses WHERE fingerprint = ? AND at >= ? "
            "ORDER BY at DESC, request DESC LIMIT 1"
        )
        found = self._database.query(query, (fingerprint, _oldest_unsent()))
        return str(found[0][0]) if found else None

    def fingerprint_of(self, request: str) -> str | None:
        found = self._database.query("SELECT fingerprint FROM unsent_responses WHERE request = ?", (request,))
        return str(found[0][0]) if found else None

    def settle(self, *, sent: Sequence[str] = (), ended: Sequence[ClaimedExchange] = ()) -> None:
        if not sent and not ended:
            return

        def work(transaction: Transaction) -> None:
            transaction.execute_many(
                "DELETE FROM unsent_responses WHERE request = ?", [(request,) for request in sorted(sent)]
            )
            if sent:
                transaction.execute("DELETE FROM unsent_responses WHERE at < ?", (_oldest_unsent(),))
            transaction.execute_many("DELETE FROM exchange_claims WHERE stream = ? AND exchange = ?", sorted(ended))

        self._database.write(work)

    def hold(self, stream: str, exchange_id: str) -> bool:
        holder, place = self._holder, (stream, exchange_id)

        def work(transaction: Transaction) -> bool:
            found = transaction.execute(_FOUND, place).fetchone()
            if found is not None and found[0] != holder and is_held(found[0], found[1], to_iso(now())):
                return False
            until = self._renewed()
            if found is None:
                taken = transaction.execute(_TAKE_NEW, (*place, holder, until))
            else:
                taken = transaction.execute(_TAKE_OVER, (holder, until, *place, found[0] or "", found[1]))
            return bool(taken.rowcount == 1)

        return self._database.write(work)

    def abandoned(self, limit: int) -> list[ClaimedExchange]:
        moment = to_iso(now())
        if limit < 1:
            return []
        found = self._database.query(_OVER, (moment, limit))
        if len(found) == limit:
            windows = (self._database.query(query, (moment, max(limit, FAIR_WINDOW))) for query in (_OVER, _OVER_LAST))
            found = _in_turns(row for window in windows for row in window)[:limit]
        else:
            holders = [holder for (holder,) in self._database.query(_HOLDERS, (moment,))]
            if ended := [holder for holder in holders if not is_held(holder, _FOREVER, moment)]:
                query = _HELD_BY.format(places=", ".join("?" * len(ended)))
                found += self._database.query(query, (moment, *ended, limit - len(found)))
        return [(str(stream), str(exchange)) for stream, exchange in found]

    def release_all(self) -> None:
        holder = self._holder
        renewal_of(self._database).drop(Claim(EXCHANGES, (holder,)))
        statement = "UPDATE exchange_claims SET holder = NULL, held_until = ? WHERE holder = ?"
        self._database.execute(statement, (GIVEN_UP, holder))

    def _renewed(self) -> str:
        """Have the claims of this process extended from now on, and return until when a new one lasts without that."""
        until = now() + timedelta(seconds=EXCHANGE_CLAIM_SECONDS_MAX)
        renewal_of(self._database).keep(Claim(EXCHANGES, (self._holder,)), until)
        return lease(self._database, until)


def _in_turns(rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """Return exchanges without duplicates, one of each tenant in turns, so that one with many does not keep others waiting."""
    by_tenant: dict[str, list[Sequence[Any]]] = {}
    for row in dict.fromkeys(map(tuple, rows)):
        by_tenant.setdefault(tenant_of(key_of(row[0])), []).append(row)
    rounds = zip_longest(*by_tenant.values())
    return [row for each in rounds for row in each if row is not None]


_FOREVER = "9999"


def _oldest_unsent() -> str:
    return to_iso(now() - timedelta(seconds=UNSENT_SECONDS_MAX))
