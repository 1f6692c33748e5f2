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

    @property
    def wants_stream(self) -> bool:
        """Whether the answer is to come as a stream: by the body, or (of a response that is looked at) by the query."""
        return self.body.get("stream") is True or self.query.get("stream") == "true"

    @property
    def addressed(self) -> str | None:
        """The id of the thread or conversation that the request is about, if it names one."""
        named = self.ids.get("thread_id") or self.ids.get("conversation_id") or self.body.get("conversation")
        found = named.get("id") if isinstance(named, dict) else named
        return found if isinstance(found, str) else None
