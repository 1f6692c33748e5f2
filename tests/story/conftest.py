"""Provide fixtures for the story tests: ledgers configured like the app of the story, and counts of provider requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from threadledger.adapters.sql.recorder import Recorder

STORY = {"use_assistants_api": True, "backends": ("chat",), "threads": "assistants", "retries": 1}
"""Settings of the story: a run in an Assistants thread, one retry, then Chat Completions."""

MODEL_CALLS = ("POST /threads/{thread_id}/runs", "POST /responses", "POST /chat/completions")


@pytest.fixture
def story_ledger(open_ledger: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that opens the app's ledger; its arguments override the settings of the story."""
    return lambda tools=None, **settings: open_ledger(tools, **(STORY | settings))


@pytest.fixture
def asked_of(simulator: Any) -> Callable[..., Any]:
    """Return a function that counts requests to the given routes, or to all model routes if none is given."""

    def count(*templates: str) -> int:
        wanted = templates or MODEL_CALLS
        return sum(request.template in wanted for request in simulator.requests)

    return count


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return counts of what is read and written since they were cleared."""
    counts: Counter[str] = Counter()
    rows_of, usual_of, ends_of = Recorder.stream_rows, Recorder.read_usual, Recorder.read_ends
    head_of, append, marks_of = Recorder.select_head, Recorder.append, Recorder.marks

    def stream_rows(self: Recorder, *args: Any, **more: Any) -> Iterator[Any]:
        counts["reads"] += 1
        for row in rows_of(self, *args, **more):
            counts["rows"] += 1
            yield row

    def read_usual(self: Recorder, stream: str, upto: int, topics: Any, take: Any) -> bool:
        counts["reads"] += 1

        def counted(after: int, rows: Any) -> None:
            counts["rows"] += len(rows)
            take(after, rows)

        return usual_of(self, stream, upto, topics, counted)

    def read_ends(self: Recorder, *args: Any, **more: Any) -> Any:
        counts["reads"] += 1
        found = ends_of(self, *args, **more)
        counts["rows"] += len(found[1]) if found is not None else 0
        return found

    def marks(self: Recorder, *args: Any, **more: Any) -> Iterator[Any]:
        counts["reads"] += 1
        found = [*marks_of(self, *args, **more)]
        counts["rows"] += len(found)
        return iter(found)

    def select_head(self: Recorder, *args: Any, **more: Any) -> Any:
        counts["heads"] += 1
        return head_of(self, *args, **more)

    def appending(self: Recorder, *args: Any, **more: Any) -> Any:
        counts["appends"] += 1
        return append(self, *args, **more)

    monkeypatch.setattr(Recorder, "stream_rows", stream_rows)
    monkeypatch.setattr(Recorder, "read_usual", read_usual)
    monkeypatch.setattr(Recorder, "read_ends", read_ends)
    monkeypatch.setattr(Recorder, "marks", marks)
    monkeypatch.setattr(Recorder, "select_head", select_head)
    monkeypatch.setattr(Recorder, "append", appending)
    return counts
