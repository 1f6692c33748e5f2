"""Processes that ask questions of one owner at the same time, within a budget.

Started by `test_budgets.py`; it imports once, opens nothing, and forks.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from threadledger.adapters import load_settings, open_ledger
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ledger import Ledger

OWNER = "anna"
LIMIT_USD = 1.0


def ledger_of(url: str, base_url: str, **settings: Any) -> Ledger:
    """Return a ledger with Chat Completions alone and a budget of one US dollar for an owner and day."""
    usual: dict[str, Any] = {
        "backends": ("chat",),
        "threads": "none",
        "retries": 0,
        "max_cost_per_owner_day": LIMIT_USD,
    }
    given = {"openai_api_key": "sk-test", "openai_model": "gpt-5.5", **usual, **settings}
    return open_ledger(load_settings(db=url, openai_base_url=base_url, **given), wait=lambda seconds: None)


def ask_at_once(url: str, base_url: str, name: str, asks: int) -> None:
    """Ask in as many conversations at once, and print what became of each question: answered or over_budget."""
    with ledger_of(url, base_url) as ledger, ThreadPoolExecutor(asks) as pool:

        def ask(number: int) -> str:
            chat = ledger.conversation(f"{name}-{number}")
            chat.describe(owner=OWNER)
            try:
                chat.ask("Where is my parcel?")
            except AllBackendsFailed as failed:
                return failed.failures[-1].cause.value
            return "answered"

        for outcome in pool.map(ask, range(asks)):
            os.write(1, f"{outcome}\n".encode())


def main(url: str, base_url: str, processes: int, asks: int) -> int:
    """Fork the processes and return 0 if all of them end well."""
    for name in ("genai_prices", "openai.resources.chat"):
        import_module(name)
    children = []
    for number in range(processes):
        child = os.fork()
        if not child:
            status = 1
            try:
                ask_at_once(url, base_url, f"p{number}", asks)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return int(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
