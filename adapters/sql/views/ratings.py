"""Keep the newest rating of each message by each actor, and count ratings by the model that said the message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from threadledger.domain.conversation.events import MessageJournaled
from threadledger.domain.errors import CorruptEvent
from threadledger.domain.failures import SummaryRow
from threadledger.domain.ids import to_iso
from threadledger.domain.journal import restore

from .runs import TakenRun, rows_among, storable
from .transaction import ViewTransaction

TABLE = """CREATE TABLE {begin}ratings (
    conversation TEXT{plain} NOT NULL,
    message TEXT{plain} NOT NULL,
    actor TEXT NOT NULL,
    version BIGINT NOT NULL,
    score DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (conversation, message, actor)
)"""

KEY = ("conversation", "message", "actor")
COLUMNS = {**dict.fromkeys(KEY, "text"), "version": "bigint", "score": "double precision"}


def newest(taken: Iterable[TakenRun]) -> list[tuple[Any, ...]]:
    """Return the rows of ratings, of which the newest by an actor counts, sorted by their key."""
    found: dict[tuple[str, str, str], tuple[int, float]] = {}
    for _, stream, _, fact in taken:
        key = stream, storable(fact.message_id) or "", storable(fact.actor) or ""
        found[key] = fact.message_version, float(fact.score)
    return [(*key, *rating) for key, rating in sorted(found.items())]


def with_ratings(
    transaction: ViewTransaction,
    begin: str,
    rows: Sequence[SummaryRow],
    since: datetime | None,
    until: datetime | None,
    actor: str | None,
) -> list[SummaryRow]:
    """Return the rows of a summary by model with the ratings of what their runs said."""
    scores: defaultdict[str | None, list[float]] = defaultdict(list)
    rated = _rated(transaction, begin)
    runs = {
        id_reversed: (model, started_at, by)
        for id_reversed, model, started_at, by in rows_among(
            transaction,
            f"{begin}runs",
            "id_reversed, model, started_at, actor",
            "id_reversed",
            sorted({run_id[::-1] for run_id, _ in rated}),
        )
    }
    first, last = to_iso(since) if since is not None else "", to_iso(until) if until is not None else "~"
    for run_id, score in rated:
        model, started_at, by = runs.get(run_id[::-1], (None, "", None))
        if started_at and first <= started_at <= last and actor in {None, by}:
            scores[model].append(score)
    return [_with_ratings(row, scores[row.value]) for row in rows]


def _with_ratings(row: SummaryRow, scores: Sequence[float]) -> SummaryRow:
    return replace(row, ratings=len(scores), mean_rating=round(sum(scores) / len(scores), 6) if scores else None)


def _rated(transaction: ViewTransaction, begin: str) -> list[tuple[str, float]]:
    """Return (run id, score) of each rating of a message that a run said."""
    query = (
        f"SELECT {transaction.row_columns}, r.score FROM {begin}ratings r JOIN streams s ON s.name = r.conversation "
        "JOIN events e ON e.stream = s.stream AND e.version = r.version"
    )
    found = []
    for *row, score in transaction.rows(query):
        try:
            event = restore(row)
        except CorruptEvent:  # the message cannot be read: its rating counts for no model
            continue
        if isinstance(event, MessageJournaled) and event.run_id is not None:
            found.append((event.run_id, float(score)))
    return found
