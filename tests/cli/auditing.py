"""A ledger whose failures, ids and times are the same each time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from threadledger.adapters.sql import Database, Factory
from threadledger.domain.conversation import Profile, events, stream_of
from threadledger.domain.journal import Journal
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.ledger import Ledger
from threadledger.domain.memory import fold_memory

from .command_table import ATTACHMENT

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

JOHN = Profile(
    "John", "Be kind.", "gpt-4o", '[{"type":"function","function":{"name":"web_search"}},{"type":"file_search"}]'
)

SORRY = {
    "status": "failed",
    "code": "server_error",
    "message": "Sorry, something went wrong.",
    "remote_run_id": "run_1",
}
SLOW_DOWN = {
    "status": "error",
    "code": "rate_limit_exceeded",
    "type": "tokens",
    "http_status": 429,
    "message": "Rate limit reached for gpt-4o in organization org-AbCd1234567: Limit 30000, Used {n}.",
    "details": {"endpoint": "POST /chat/completions"},
}


class Writer:
    """Writes one conversation; ids count up, and the time goes on as it is told to."""

    def __init__(self, ledger: Ledger, key: str, at: datetime) -> None:
        self.ledger, self.key, self.at = ledger, key, at
        self.past: list[events.Event] = []

    def happen(self, event_class: type[events.Event], seconds: float = 0.5, **fields: Any) -> None:
        self.at += timedelta(seconds=seconds)
        version = len(self.past) + 1
        common = {"originator_id": stream_of(self.key), "originator_version": version, "timestamp": self.at}
        self.past.append(event_class(**fields, **common, event_id=f"event-{self.key}-{version}"))
        row = EventMapper(PlainJSON()).to_stored_event(self.past[-1])
        self.ledger.journal.recorder.insert_events([row])

    def say(self, role: str, text: str, exchange: str, run: str | None = None) -> None:
        message_id = f"message-{self.key}-{len(self.past)}"
        self.happen(
            events.MessageJournaled,
            0.1,
            message_id=message_id,
            role=role,
            content=text,
            exchange_id=exchange,
            run_id=run,
        )

    def start(self, run: str, backend: str, exchange: str, attempt: int = 1, **more: Any) -> None:
        memory = fold_memory(self.past)
        shown = {"memory_version": memory.version, "memory_hash": memory.digest("all"), "profile_hash": JOHN.hash}
        made = {"run_id": run, "exchange_id": exchange, "attempt": attempt, "backend": backend, "model": "gpt-4o"}
        self.happen(events.RunStarted, 0.1, **made, **shown, **more)

    def fail(self, run: str, seconds: float, facts: dict[str, Any]) -> None:
        self.happen(events.RunFailed, seconds, run_id=run, duration_seconds=seconds, request_id=f"req_{run}", **facts)

    def fall_back(self, run: str, exchange: str) -> None:
        fell = {"from_backend": "assistants", "to_backend": "chat", "reason": "provider_error"}
        self.happen(events.FallbackUsed, 0.1, exchange_id=exchange, failed_run_id=run, **fell)

    def answer(self, run: str, seconds: float, exchange: str) -> None:
        usage = {"input_tokens": 120, "output_tokens": 30, "total_tokens": 150}
        self.happen(events.RunCompleted, seconds, run_id=run, usage=usage, duration_seconds=seconds)
        self.say("assistant", "Tomorrow.", exchange, run)


def write_story(ledger: Ledger) -> None:
    """An exchange that fell back, one that was retried and given up, a crash, a shadow run of days later."""
    ledger.journal.define_profile(JOHN)
    first = Writer(ledger, "customer-1", NOW - timedelta(days=3))
    first.happen(events.ConversationStarted, key="customer-1")
    first.say("user", "Where is my parcel?\x1b[2J", "x1")
    first.start("run-0001-aaaa1111", "assistants", "x1")
    first.fail("run-0001-aaaa1111", 4.0, SORRY | {"partial_text": "Your par"})
    first.fall_back("run-0001-aaaa1111", "x1")
    first.start("run-0002-aaaa2222", "chat", "x1")
    first.answer("run-0002-aaaa2222", 2.0, "x1")
    first.at = NOW - timedelta(hours=2)
    again = {"rerun_of": "run-0001-aaaa1111", "shadow": True}
    first.start("run-0003-aaaa3333", "responses", "x1", 1, **again)
    first.fail("run-0003-aaaa3333", 1.0, {"status": "refused", "code": "too_many_tools", "message": "129 tools"})
    second = Writer(ledger, "customer 2 — Ünï", NOW - timedelta(hours=30))
    second.happen(events.ConversationStarted, key="customer 2 — Ünï")
    second.say("user", "Hello?", "x2")
    for number, used in enumerate((29_000, 29_999), 1):
        run = f"run-001{number}-bbbb000{number}"
        second.start(run, "chat", "x2", number)
        facts = SLOW_DOWN | {"message": str(SLOW_DOWN["message"]).format(n=used)}
        second.fail(run, 0.25 * number, facts)
    second.happen(events.ExchangeAbandoned, 0.1, exchange_id="x2", run_ids=["run-0011-bbbb0001", "run-0012-bbbb0002"])
    third = Writer(ledger, "customer-3", NOW - timedelta(hours=1))
    third.happen(events.ConversationStarted, key="customer-3")
    third.say("user", "Still there?", "x3")
    third.start("run-0021-cccc0001", "responses", "x3")
    third.fail("run-0021-cccc0001", 90.0, {"status": "interrupted", "message": "the process stopped in the middle"})


def open_story(url: str) -> Ledger:
    """The ledger of a URL, with the story in it."""
    ledger = Ledger(Journal(Factory(database=Database(url))))
    write_story(ledger)
    ledger.journal.blobs.add([ATTACHMENT])
    return ledger


def shown_lines(*texts: str) -> list[list[str]]:
    """Lines, without the spaces that fill a table up."""
    return [[line.rstrip() for line in text.splitlines()] for text in texts]
