"""Processes that ask and append in the same conversations until they are killed (SIGKILL).

Started by `test_storm.py`; `writing.py` forks them.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from threadledger.adapters import load_settings, open_ledger
from threadledger.domain import ids
from threadledger.domain.errors import AllBackendsFailed, ConversationBusy, ConversationChanged
from threadledger.domain.ledger import Ledger

CONVERSATIONS = 6
"""Number of conversations in which all processes ask and append."""

ROUND_SECONDS = 100
"""Time by which the clock of each round is later, in seconds: what a killed run left is overdue then."""


def ledger_of(url: str, base_url: str) -> Ledger:
    """Return a ledger whose threads are Conversations, and which falls back to Chat Completions."""
    settings = load_settings(
        db=url,
        openai_api_key="sk-test",
        openai_base_url=base_url,
        backends=("responses", "chat"),
        threads="conversations",
        retries=1,
        timeout_seconds=10,
    )
    return open_ledger(settings, wait=lambda seconds: None)


def shifted(seconds: float) -> type[datetime]:
    """Return a class of times whose present is later by some seconds."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

    return Later


def ask_and_append(
    *, url: str, writer: str, commits: int | None, seed: int, base_url: str, later_by_seconds: float
) -> None:
    """Ask and append, and print what became of each as soon as it is known: OUTCOME KEY WRITER INDEX."""
    warnings.simplefilter("ignore")
    ids.datetime = shifted(later_by_seconds)  # type: ignore[misc] # the clock of this process
    rng = random.Random(f"{seed} {writer}")
    with ledger_of(url, base_url) as ledger:
        index = 0
        while commits is None or index < commits:
            key, text = f"k{rng.randrange(CONVERSATIONS)}", f"{writer} {index}"
            chat = ledger.conversation(key)
            if rng.random() < 0.5:
                chat.append("user", text, idempotency_key=text)
                outcome = "appended"
            else:
                try:
                    chat.ask(text, idempotency_key=text)
                    outcome = "answered"
                except ConversationBusy:
                    outcome = "busy"
                except (AllBackendsFailed, ConversationChanged):
                    # The second on a slow machine: another question took the place of one whose run outlasted its deadline.
                    outcome = "failed"
            os.write(1, f"{outcome} {key} {text}\n".encode())
            index += 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "adapters"))
    from writing import serve

    serve(ask_and_append)
