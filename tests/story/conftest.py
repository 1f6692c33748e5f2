"""Provide fixtures for the story tests: ledgers configured like the app of the story, and counts of provider requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
