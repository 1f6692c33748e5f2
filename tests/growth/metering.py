"""Count what a call costs: SQL statements, steps of SQLite's virtual machine, calls in Python; and find scans of tables."""

from __future__ import annotations

import cProfile
import gc
import re
import sqlite3
import sqlite3.dbapi2
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

STEPS_AT_ONCE = 10
"""Number of steps of SQLite's virtual machine after which it is counted."""

LARGE_TABLE_ROWS = 200
"""A table of more rows grows with the ledger. Tables like `threadledger`, `tracking` and `mirror_heads` have fewer."""


@dataclass(frozen=True)
class Cost:
    """Hold the cost of one call."""

    statements: int
    steps: int
    calls: int

    def per_row(self, metric: str, rows: int) -> float:
        """Return the cost by one measure for each result."""
        return float(getattr(self, metric)) / max(rows, 1)

    def least(self, other: Cost) -> Cost:
        """Return the smaller cost by each measure."""
        return Cost(*(min(getattr(self, each), getattr(other, each)) for each in METRICS))


METRICS = {"statements": 0.0, "steps": 30.0, "calls": 0.0}
"""Measures, with the growth for each result that is allowed besides `RATIO_MAX`: a deeper index takes more steps."""

RATIO_MAX = 1.2
"""Maximum growth of the cost of one result."""


def growth(small: Cost, small_rows: int, large: Cost, large_rows: int) -> dict[str, float]:
    """Return by what factor the cost of one result grows, by measure, where it is more than allowed."""
    found = {}
    for metric, spare in METRICS.items():
        before, after = small.per_row(metric, small_rows), large.per_row(metric, large_rows)
        if after > before * RATIO_MAX and after - before > spare:
            found[metric] = round(after / before, 1) if before else float("inf")
    return found


class Meter:
    """Count the cost of calls on the SQLite connections that are opened while the meter is installed."""

    def __init__(self) -> None:
        self._ticks: list[None] = []
        self._texts: list[tuple[str, list[str]]] = []
        """Statements as they were executed, by file, one list for each connection."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Meter the connections that are opened in the block."""
        with pytest.MonkeyPatch.context() as patch:
            for module in (sqlite3, sqlite3.dbapi2):
                patch.setattr(module, "connect", self._connect)
            yield

    def measure(self, call: Callable[[], T]) -> tuple[Cost, T]:
        """Call a function and return its cost and its result."""
        profile = cProfile.Profile()
        self._ticks.clear()
        for _, texts in self._texts:
            texts.clear()
        gc.disable()
        try:
            profile.enable()
            try:
                result = call()
            finally:
                profile.disable()
        finally:
            gc.enable()
        calls = sum(entry.callcount for entry in profile.getstats())
        # Not the settings of a connection, which depend on how many threads there are.
        statements = sum(not text.startswith("PRAGMA") for _, texts in self._texts for text in texts)
        return Cost(statements, len(self._ticks) * STEPS_AT_ONCE, calls), result

    def scans(self) -> set[tuple[str, str]]:
        """Return (table, statement) of the last call's scans of large tables without a LIMIT."""
        return {
            (table, shape)
            for path, texts in self._texts
            for shape, text in {shape_of(each): each for each in texts}.items()
            for table in _scanned(path, shape, text)
        }

    def _connect(self, *arguments: Any, **options: Any) -> Any:
        connection = _CONNECT(*arguments, **options)
        texts: list[str] = []
        self._texts.append((connection.execute("PRAGMA database_list").fetchone()[2], texts))
        # Functions in C: they add nothing to the calls in Python, and return None, with which SQLite continues.
        connection.set_progress_handler(partial(self._ticks.append, None), STEPS_AT_ONCE)
        connection.set_trace_callback(texts.append)
        return connection


def costs_of_calls(
    path: Path, fill: Callable[[Any], T], calls: Mapping[str, Callable[[T], Any]]
) -> dict[str, tuple[Cost, int]]:
    """Return the cost of each call, and its number of results. `fill` fills a new journal and returns what the calls take."""
    from threadledger.adapters.sql import Database, Factory
    from threadledger.domain.journal import Journal

    meter = Meter()
    with meter.installed(), Journal(Factory(database=Database(f"sqlite:///{path}"))) as journal:
        filled = fill(journal)
        for call in reversed(calls.values()):
            call(filled)  # the view catches up, last of all
        found = {}
        for name, call in calls.items():
            cost, result = meter.measure(partial(call, filled))
            found[name] = cost, len(result)
        return found


_CONNECT = sqlite3.connect

_VALUES = re.compile(r"[xX]?'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b")
_LISTS = re.compile(r"\?(?:, *\?)+|\(\?(?:, *\?)*\)(?:, *\(\?(?:, *\?)*\))+")


def shape_of(text: str) -> str:
    """Return a statement without its values, so that equal statements have one shape."""
    return _LISTS.sub("?…", _VALUES.sub("?", text))


_EXPLAINED = re.compile(r"\s*(SELECT|WITH|UPDATE|DELETE|INSERT|REPLACE)\b", re.IGNORECASE)
_LIMIT = re.compile(r"\bLIMIT\b", re.IGNORECASE)
_NAMED = re.compile(r'(?:\b(?:FROM|JOIN|UPDATE|INTO)|,)\s+"?(\w+)"?(?:\s+(?:AS\s+)?"?(\w+)"?)?', re.IGNORECASE)
_SCAN = re.compile(r"SCAN (?:TABLE )?(\w+)(?! VIRTUAL TABLE INDEX [^:]*:\S)")


_GENERATION = re.compile(r"_\d+_\d+_")
"""Version and generation in the name of a view's table."""
_SCANNED: dict[tuple[str, str], frozenset[str]] = {}


def _scanned(path: str, shape: str, text: str) -> frozenset[str]:
    """Return the large tables that a statement scans in a database."""
    if not _EXPLAINED.match(text) or _LIMIT.search(text) or not path or not Path(path).exists():
        return frozenset()
    key = (path, shape)
    if key not in _SCANNED:
        names = {alias or name: name for name, alias in _NAMED.findall(text)}
        with closing(_CONNECT(path)) as connection:
            try:
                plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
            except sqlite3.Error:  # its tables were dropped or belong to another database
                plan = []
        named = [names.get(found[1], found[1]) for found in map(_SCAN.match, plan) if found is not None]
        _SCANNED[key] = frozenset(_GENERATION.sub("_", each) for each in named if each in _large_tables(path))
    return _SCANNED[key]


@cache
def _large_tables(path: str) -> frozenset[str]:
    with closing(_CONNECT(path)) as connection:
        plain = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        tables = [row[0] for row in connection.execute(plain)]
        more = f"LIMIT 1 OFFSET {LARGE_TABLE_ROWS}"
        found = {each for each in tables if connection.execute(f'SELECT 1 FROM "{each}" {more}').fetchone()}
    return frozenset(found)
