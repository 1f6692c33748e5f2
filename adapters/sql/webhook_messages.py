"""Keep the messages for the webhook in a table: what was sent, what came back, and when the next attempt is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from threadledger.domain.failures import redact
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal.webhooks import WebhookMessage
from threadledger.domain.limits import REASON_CHARS_MAX

from .connections import Transaction
from .database import Database

_COLUMNS = "message, failure_group, kind, occurrence, body, created_at, attempts, next_at, sent_at, answer"
_ADD = (
    f"INSERT INTO webhook_messages ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (failure_group, kind, occurrence) DO NOTHING"
)
_ATTEMPTED = (
    "UPDATE webhook_messages SET attempts = attempts + 1, next_at = ?, sent_at = ?, answer = ? "
    "WHERE message = ? AND sent_at IS NULL"
)


class SqlWebhookMessages:
    """Implement `WebhookMessages` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, messages: Sequence[WebhookMessage]) -> int:
        if not messages:
            return 0

        def work(transaction: Transaction) -> int:
            return sum(transaction.execute(_ADD, _values(each)).rowcount for each in messages)

        return int(self._database.write(work))

    def get(self, message: str) -> WebhookMessage | None:
        query = f"SELECT {_COLUMNS} FROM webhook_messages WHERE message = ?"
        return next((_message(row) for row in self._database.query(query, (message,))), None)

    def due(self, limit: int) -> list[WebhookMessage]:
        query = f"SELECT {_COLUMNS} FROM webhook_messages WHERE next_at <= ? ORDER BY next_at, message LIMIT ?"
        return [_message(row) for row in self._database.query(query, (to_iso(now()), limit))]

    def attempted(self, message: str, answer: str, *, sent: bool, next_at: datetime | None = None) -> None:
        values = (_text(next_at), _text(now()) if sent else None, redact(answer)[:REASON_CHARS_MAX], message)
        self._database.execute(_ATTEMPTED, values)


def _values(each: WebhookMessage) -> tuple[Any, ...]:
    begin = (each.message, each.group, each.kind, each.occurrence, each.body, to_iso(each.created_at))
    return (*begin, each.attempts, _text(each.next_at), _text(each.sent_at), each.answer)


def _message(row: Sequence[Any]) -> WebhookMessage:
    message, group, kind, occurrence, body, created_at, attempts, next_at, sent_at, answer = row
    next_time, sent_time = (from_iso(each) if each is not None else None for each in (next_at, sent_at))
    times = int(attempts), next_time, sent_time
    return WebhookMessage(message, group, kind, occurrence, body, from_iso(created_at), *times, answer)


def _text(at: datetime | None) -> str | None:
    return to_iso(at) if at is not None else None
