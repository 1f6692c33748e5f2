"""What the tests of the story share: ledgers as the app of the story would have them, and what the provider was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

STORY = {"use_assistants_api": True, "backends": ("chat",), "threads": "assistants", "retries": 1}
"""A run in an Assistants thread, once again if it fails, then Chat Completions."""

MODEL_CALLS = ("POST /threads/{thread_id}/runs", "POST /responses", "POST /chat/completions")


@pytest.fixture
def story_ledger(open_ledger: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the app's ledger; settings given win."""
    return lambda tools=None, **settings: open_ledger(tools, **(STORY | settings))


@pytest.fixture
def asked_of(simulator: Any) -> Callable[..., Any]:
    """How often the provider was asked at one route, or (without a route) for any model's answer."""

    def count(*templates: str) -> int:
        wanted = templates or MODEL_CALLS
        return sum(request.template in wanted for request in simulator.requests)

    return count
