"""Provide a client of the simulator."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def client(simulator: Any) -> Iterator[Any]:
    """Yield a client of the real SDK that validates every response and event against its types."""
    from openai import OpenAI

    with OpenAI(
        base_url=simulator.base_url, api_key="sk-test", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
