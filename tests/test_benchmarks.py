"""The benchmarks' own tools: copied ledgers are real ledgers, and a missed limit is reported."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import threadledger

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

CONVERSATIONS = 120
"""More than there are templates, so that most of them are copied twice."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_a_ledger_filled_by_sql_is_read_checked_and_continued_like_any_other(any_db_url: str, benchmark: Any) -> None:
    ledgers = benchmark("ledgers")
    events = ledgers.fill(any_db_url, CONVERSATIONS, exchanges=2)
    with threadledger.open(any_db_url, threads="none") as ledger:
        assert list(ledger.check()) == []
        logged = list(ledger.events())
        assert len(logged) == events
        failures = ledger.failures()
        assert failures
        assert len({each.run_id for each in failures}) == len(failures)
        assert len(ledger.conversations()) == CONVERSATIONS
        chat = ledger.conversation(ledgers.key_of(CONVERSATIONS))
        chat.append("user", "and now?")
        assert chat.memory(last=1).as_chat_messages() == [{"role": "user", "content": "and now?"}]
        ledger.conversation("new").append("user", "hello")
        assert list(ledger.check()) == []


def test_a_figure_beyond_its_limit_is_marked_and_collected(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    figures = benchmark("figures")
    table = figures.Table(markdown=True)
    pair = [[figures.Sample(2.0, 3.0)], [figures.Sample(1.0, 1.0)]]
    table.pairs("wall", pair, "wall", at_most=2.0)
    table.pairs("cpu", pair, "cpu", at_most=2.0)
    table.rates("rate", [10.0], [10.0], at_least=3.0)
    assert table.missed == ["cpu", "rate"]
    *_, cpu, rate = capsys.readouterr().out.splitlines()
    assert cpu == "| cpu | 3,000.000 ms | 1,000.000 ms | 3.00 |  | ≤ 2 missed |"
    assert rate.endswith("≥ 3 missed |")
