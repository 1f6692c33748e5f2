"""Provide engines and workers on every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from threadledger.adapters.sql import Database
from threadledger.adapters.workers import Engine, LocalEngine, WorkItem

from .performing import Performer


def make_engine(database: Database, perform: Callable[[WorkItem], datetime | None], concurrency: int) -> Engine:
    """Return the engine of a database, as a worker makes it."""
    if database.kind.name == "sqlite":
        return LocalEngine(perform, concurrency)
    from threadledger.adapters.workers.procrastinate_engine import ProcrastinateEngine

    return ProcrastinateEngine(database, perform, concurrency)


@pytest.fixture
def performer() -> Iterator[Performer]:
    made = Performer()
    yield made
    made.let_go()


@pytest.fixture
def open_engine(any_db_url: str, performer: Performer) -> Iterator[Callable[..., Engine]]:
    """Yield a factory of engines on one database, each as in a process of its own; they are stopped at the end."""
    opened: list[tuple[Any, Engine, Database]] = []

    def open_one(perform: Any = None, concurrency: int = 4) -> Engine:
        database = Database(any_db_url)
        engine = make_engine(database, perform or performer, concurrency)
        opened.append((perform, engine, database))
        engine.start()
        return engine

    yield open_one
    performer.let_go()
    for _, engine, _ in opened:
        engine.stop(10)
    for _, _, database in opened:
        database.close()
