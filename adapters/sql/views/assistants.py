"""Maintain the view of assistants: when each was created, by tenant, so that a page of the list reads only its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain.conversation import PROFILE, events
from threadledger.domain.conversation.assistants import (
    ASSISTANT,
    DefinedAssistant,
    assistant_stream,
    created_at,
)
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ids import to_iso
from threadledger.domain.journal import refuse_changed, restore

from ..connections import checked
from .catching_up import Taken
from .created import CreatedView, paged
from .transaction import ViewTransaction, values_of

_TABLES = (
    "CREATE TABLE {begin}listed (name {text} PRIMARY KEY, tenant {text}, created {text}, number BIGINT NOT NULL)",
    "CREATE INDEX {begin}by_created ON {begin}listed (tenant, created, number)",
)
_COLUMNS = {"name": "text", "tenant": "text", "created": "text", "number": "bigint"}

_NEWEST = (
    "SELECT {columns}, e.leaf FROM {begin}listed v JOIN streams s ON s.name = v.name "
    "JOIN events e ON e.stream = s.stream AND e.version = s.version WHERE v.tenant = ?{between} AND e.topic = 'AssistantDefined' "
    "{ordered}"
)
_PROFILES = (
    "SELECT {columns}, e.leaf FROM {source} JOIN streams s ON s.name = wanted.value "
    "JOIN events e ON e.stream = s.stream AND e.version = 1"
)


@dataclass
class ListedAssistants:
    """Hold the rows to write: first the names of assistants that were deleted go, then the others are inserted."""

    removed: dict[str, None] = field(default_factory=dict)
    rows: dict[str, tuple[str, str, str, int]] = field(default_factory=dict)


class AssistantsView(CreatedView[ListedAssistants]):
    """Store the place of every assistant in the list of its tenant."""

    name = "assistants"
    version = 1
    topics = (events.AssistantDefined.__name__, events.AssistantDeleted.__name__)
    stream_prefix = ASSISTANT
    tables = _TABLES
    stream = staticmethod(assistant_stream)

    def fold(self, taken: Sequence[Taken], known: None) -> ListedAssistants:
        found = ListedAssistants()
        for position, event in taken:
            name = event.originator_id
            if isinstance(event, events.AssistantDefined):
                number = found.rows[name][3] if name in found.rows else position
                found.rows[name] = (name, event.tenant, to_iso(created_at(event)), number)
            else:
                found.rows.pop(name, None)
                found.removed[name] = None
        return found

    def apply(self, transaction: ViewTransaction, generation: int, changes: ListedAssistants) -> None:
        table = f"{self.prefix(generation)}listed"
        transaction.update(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in changes.removed])
        transaction.merge(table, ("name",), _COLUMNS, [*changes.rows.values()], "created = excluded.created")

    def page(
        self, transaction: ViewTransaction, generation: int, tenant: str, page: ListPage
    ) -> list[DefinedAssistant]:
        """Return the newest definitions of the assistants of a page; see `Views.assistants`.

        Raises:
            ChangedEvent: a definition was changed.
        """
        between, ordered, values = paged(page, "v")
        columns, begin = transaction.row_columns, self.prefix(generation)
        rows = transaction.rows(
            _NEWEST.format(columns=columns, begin=begin, between=between, ordered=ordered), (tenant, *values)
        )
        found = map(restore, checked(rows, refuse_changed))
        defined = [each for each in found if isinstance(each, events.AssistantDefined)]
        profiles = _profiles(transaction, [each.profile_hash for each in defined])
        return [DefinedAssistant(each, profiles.get(each.profile_hash)) for each in defined]


def _profiles(transaction: ViewTransaction, hashes: Sequence[str]) -> dict[str, events.ProfileDefined]:
    """Return the definitions of profiles by their hash."""
    if not hashes:
        return {}
    source, wanted = values_of(transaction.kind, [PROFILE + each for each in dict.fromkeys(hashes)])
    rows: list[Any] = transaction.rows(_PROFILES.format(columns=transaction.row_columns, source=source), (wanted,))
    found = map(restore, checked(rows, refuse_changed))
    return {each.profile_hash: each for each in found if isinstance(each, events.ProfileDefined)}
