"""A request that was let in, as the handlers see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .outcomes import Outcome

Json = dict[str, Any]


@dataclass
class Call:
    """Path parameters by name, the query, the JSON body, the outcome a fault asks for, headers for the answer."""

    ids: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    outcome: Outcome | None = None
    headers: dict[str, str] = field(default_factory=dict)
