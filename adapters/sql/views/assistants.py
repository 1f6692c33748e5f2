"""Maintain the view of assistants: when each was created, by tenant, so that a page of the list reads only its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain.conversation import PROFILE, events, key_of
from threadledger.domain.conversation.assistants import (
    ASSISTANT,
    CreatedPlace,
    DefinedAssistant,
    assistant_stream,
    created_at,
)
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import refuse_changed, restore

from ..connections import checked
from .catching_up import Taken, View
from .transaction import ViewTransaction, values_of

_TABLE = (
    "CREATE TABLE {begin}listed (name TEXT{plain} NOT NULL PRIMARY KEY, tenant TEXT{plain} NOT NULL, "
    "created TEXT{plain} NOT NULL, number BIGINT NOT NULL)"
)
_INDEX = "CREATE INDEX {begin}by_created ON {begin}listed (tenant, created, number)"

_COLUMNS = {"name": "text", "tenant": "text", "created": "text", "number": "bigint"}

_NEWEST = (
    "SELECT {columns}, e.leaf FROM {begin}listed v JOIN streams s ON s.name = v.name "
    "JOIN events e ON e.stream = s.stream AND e.version = s.version WHERE v.tenant = ?{between} AND e.topic = 'AssistantDefined' "
    "ORDER BY v.created {order}, v.number {order} LIMIT ?"
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


class AssistantsView(View[None, ListedAssistants]):
    """Store the place of every assistant in the list of its tenant."""

    name = "assistants"
    version = 1
    topics = (events.AssistantDefined.__name__, events.AssistantDeleted.__name__)
    stream_prefix = ASSISTANT

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        plain = "" if transaction.kind == "sqlite" else ' COLLATE "C"'
        for statement in (_TABLE, _INDEX):
            transaction.execute(statement.format(begin=self.prefix(generation), plain=plain))

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Taken]) -> None:
        """Do nothing: an event says all that a row has, but its number, which an existing row keeps."""

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
        self,
        transaction: ViewTransaction,
        generation: int,
        tenant: str,
        limit: int,
        newest_first: bool,
        after: CreatedPlace | None,
        until: CreatedPlace | None,
    ) -> list[DefinedAssistant]:
        """Return the newest definitions of the assistants between two places; see `Views.assistants`.

        Raises:
            ChangedEvent: a definition was changed.
        """
        beyond, within = ("<", ">") if newest_first else (">", "<")
        bounds = [(place, sign) for place, sign in ((after, beyond), (until, within)) if place is not None]
        query = _NEWEST.format(
            columns=transaction.row_columns,
            begin=self.prefix(generation),
            between="".join(f" AND (v.created, v.number) {sign} (?, ?)" for _, sign in bounds),
            order="DESC" if newest_first else "ASC",
        )
        rows = transaction.rows(query, (tenant, *(value for place, _ in bounds for value in place), limit))
        found = map(restore, checked(rows, refuse_changed))
        defined = [each for each in found if isinstance(each, events.AssistantDefined)]
        profiles = _profiles(transaction, [each.profile_hash for each in defined])
        return [DefinedAssistant(each, profiles.get(each.profile_hash)) for each in defined]

    def place(
        self, transaction: ViewTransaction, generation: int, tenant: str, assistant_id: str
    ) -> CreatedPlace | None:
        """Return the place of an assistant in the list of its tenant; see `Views.assistant_place`."""
        try:
            name = assistant_stream(tenant, assistant_id)
        except InvalidInput:
            return None
        query = f"SELECT created, number FROM {self.prefix(generation)}listed WHERE name = ?"
        found = transaction.rows(query, (name,))
        return (found[0][0], found[0][1]) if found else None

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""
        for name, created, number in transaction.each(
            f"SELECT name, created, number FROM {self.prefix(generation)}listed"
        ):
            _ = key_of(name), from_iso(created), int(number)


def _profiles(transaction: ViewTransaction, hashes: Sequence[str]) -> dict[str, events.ProfileDefined]:
    """Return the definitions of profiles by their hash."""
    if not hashes:
        return {}
    source, wanted = values_of(transaction.kind, [PROFILE + each for each in dict.fromkeys(hashes)])
    rows: list[Any] = transaction.rows(_PROFILES.format(columns=transaction.row_columns, source=source), (wanted,))
    found = map(restore, checked(rows, refuse_changed))
    return {each.profile_hash: each for each in found if isinstance(each, events.ProfileDefined)}
