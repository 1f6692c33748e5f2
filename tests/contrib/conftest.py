"""Switch off the tracing of the Agents SDK, which would send what agents do to its provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agents import set_tracing_disabled

import threadledger
from threadledger.domain.ledger import Ledger

set_tracing_disabled(True)


@pytest.fixture
def ledger(db_url: str) -> Iterator[Ledger]:
    """Return a ledger that calls no model itself."""
    with threadledger.open(db_url, threads="none") as opened:
        yield opened


@pytest.fixture
def message_events(ledger: Ledger) -> Any:
    """Return a function that returns the messages of a conversation's log, whether they are in memory or not."""

    def read(key: str = "customer-42") -> list[Any]:
        events = ledger.conversation(key).events()
        return [each for each in events if type(each).__name__ == "MessageJournaled"]

    return read
