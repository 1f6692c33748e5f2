"""On PostgreSQL too, no call costs more as a ledger grows: SQL statements and calls in Python are counted."""

from __future__ import annotations

import cProfile
import gc
import itertools
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import make_url

import threadledger
from threadledger.adapters.sql.views.transaction import ViewTransaction

from ..conftest import administer
from .calls import CALLS, CONVERSATIONS, Place
from .conftest import SETTINGS, USED
from .known import KNOWN
from .ledgers import fill_conversations
from .metering import Cost, growth
from .test_growth import results_of

SMALL, LARGE = 1_000, 5_000
"""Numbers of conversations. What grows with a hundred thousand grows with five thousand, and these are soon loaded."""

FLAT = [
    name
    for name, call in CALLS.items()
    if CONVERSATIONS in call.axes - call.whole_on and not call.threads and not call.searches
]
"""Calls that are not about all conversations. Those of the table of known growth may grow here too."""


@pytest.fixture(scope="module")
def ledgers(postgres_server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Place]]:
    """Provide a small and a large ledger, each in a schema of its own."""
    from threadledger.adapters import Simulator

    places, schemas = {}, []
    folder = tmp_path_factory.mktemp("growth")
    with Simulator(seed=7) as provider:
        for size in (SMALL, LARGE):
            schemas.append(f"growth_{uuid4().hex}")
            administer(postgres_server_url, f"CREATE SCHEMA {schemas[-1]}")
            own = make_url(postgres_server_url).update_query_dict({"options": f"-csearch_path={schemas[-1]}"})
            url = own.render_as_string(hide_password=False)
            events = fill_conversations(url, size)
            ledger = threadledger.open(url, openai_base_url=provider.base_url, threads="none", **SETTINGS)
            ledger.failures(limit=1), ledger.conversations(limit=1)
            places[size] = Place(ledger, url, *USED[CONVERSATIONS], folder, events, itertools.count(1), provider)
        yield places
        for place in places.values():
            place.ledger.close()
    administer(postgres_server_url, *(f"DROP SCHEMA {schema} CASCADE" for schema in schemas))


def measure(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Cost, int]:
    """Measure the second and the third call, and return the smaller cost by each measure."""
    call = CALLS[name]
    call.do(call.given(place))
    costs = []
    for _ in range(2):
        given, statements, profile = call.given(place), list[Any](), cProfile.Profile()
        with monkeypatch.context() as patch:
            for method in ("execute", "executemany"):
                patch.setattr(psycopg.Cursor, method, _counting(getattr(psycopg.Cursor, method), statements))
            gc.disable()
            profile.enable()
            try:
                results = results_of(call.do(given))
            finally:
                profile.disable()
                gc.enable()
        costs.append(Cost(len(statements), 0, sum(entry.callcount for entry in profile.getstats())))
    return costs[0].least(costs[1]), results if call.per is None else 1


def _counting(method: Any, statements: list[Any]) -> Any:
    def execute(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(query)
        return method(cursor, query, *arguments, **options)

    return execute


@pytest.mark.parametrize("name", FLAT)
def test_it_costs_no_more_in_a_larger_ledger(
    name: str, ledgers: dict[int, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (measure(ledgers[size], name, monkeypatch) for size in (SMALL, LARGE))
    grown = growth(*small, *large)
    is_known = (name, CONVERSATIONS) in KNOWN
    assert is_known or grown == {}, f"{name} grows by {grown}: {small}, then {large}"


IN_PAGES = [name for name in FLAT if name.startswith(("Ledger.runs(", "Ledger.exchanges(", "Ledger.failures("))]


@pytest.mark.parametrize("name", IN_PAGES)
def test_a_page_is_read_in_the_order_of_an_index(
    name: str, ledgers: dict[int, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without statistics, the server would read and sort everything that matches, however small the page is."""
    place, call, plans = ledgers[LARGE], CALLS[name], list[str]()
    rows = ViewTransaction.rows

    def explained(transaction: ViewTransaction, query: str, values: Any = ()) -> Any:
        if "ORDER BY" in query and "LIMIT" in query:
            plans.append("\n".join(line for (line,) in rows(transaction, f"EXPLAIN {query}", values)))
        return rows(transaction, query, values)

    given = call.given(place)
    monkeypatch.setattr(ViewTransaction, "rows", explained)
    call.do(given)
    assert plans
    assert [plan for plan in plans if "Sort" in plan or "Seq Scan" in plan] == []
