"""Read the table `[serve]` of `threadledger.toml`: routes of models, and what happens to hosted tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServeSettings:
    """Hold the settings of the served API."""

    hosted_tools: str = "refuse"
    """What happens to tools that a provider would run (`code_interpreter`, …): `refuse` the request, or `drop` them."""
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What answers a model's name: backends in their order, each `BACKEND` or `BACKEND:MODEL`."""
