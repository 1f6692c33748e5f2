"""What the tests share: a database file, a simulator, and a ledger on both. Everything is real but the provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test runs in an empty folder, and no setting of the machine reaches it."""
    for name in list(os.environ):
        if name.startswith(("THREADLEDGER_", "OPENAI_", "USE_ASSISTANTS")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def simulator() -> Iterator[Any]:
    """A provider on loopback, without faults."""
    from threadledger.adapters import Simulator

    with Simulator(seed=7) as running:
        yield running


@pytest.fixture
def db_url(tmp_path: Path) -> str:
    """A database that is not there yet."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def open_ledger(db_url: str, simulator: Any) -> Iterator[Callable[..., Any]]:
    """Opens ledgers on the same database against the simulator; `open_ledger(backends=("chat",), retries=0)`."""
    from threadledger.adapters import load_settings
    from threadledger.adapters import open_ledger as open_by_settings

    opened = []

    def open_one(tools: Any = None, **settings: Any) -> Any:
        given = {"db": db_url, "openai_api_key": "sk-test", "openai_base_url": simulator.base_url} | settings
        ledger = open_by_settings(load_settings(**given), tools=tools, wait=lambda seconds: None)
        opened.append(ledger)
        return ledger

    yield open_one
    for ledger in opened:
        ledger.close()
