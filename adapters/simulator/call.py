"""Represent an admitted request for the handlers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .answers import Outcome

Json = dict[str, Any]


@dataclass
class Call:
    """Hold what a handler reads and writes of one request.

    `ids` holds the path parameters by name, `outcome` the outcome that a fault requires, and `headers` the headers to
    add to the answer.
    """

    ids: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    outcome: Outcome | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def wants_stream(self) -> bool:
        """Return whether the client wants a stream: `stream` is true in the body or in the query."""
        return self.body.get("stream") is True or self.query.get("stream") == "true"

    @property
    def addressed(self) -> str | None:
        """Return the id of the thread or conversation that the request names, or None."""
        named = self.ids.get("thread_id") or self.ids.get("conversation_id") or self.body.get("conversation")
        found = named.get("id") if isinstance(named, dict) else named
        return found if isinstance(found, str) else None
