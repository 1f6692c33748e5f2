"""Maintain the view of stored chat completions: by tenant, time and label, so that a page of the list reads only its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from threadledger.domain.conversation import events, key_of
from threadledger.domain.conversation.completions import labels_of_completion
from threadledger.domain.conversation.listing import ListPage, ListPlace
from threadledger.domain.conversation.tenants import tenant_of
from threadledger.domain.ids import from_iso
from threadledger.domain.journal import refuse_changed, restore

from ..connections import checked
from .catching_up import Taken, View
from .created import create_tables, paged
from .transaction import ViewTransaction

_TABLES = (
    "CREATE TABLE {begin}listed (completion {text} PRIMARY KEY, tenant {text}, "
    "created {text}, stream {text}, version BIGINT NOT NULL)",
    "CREATE INDEX {begin}by_created ON {begin}listed (tenant, created, completion)",
    "CREATE INDEX {begin}by_stream ON {begin}listed (stream)",
    "CREATE TABLE {begin}labels (label {text}, tenant {text}, created {text}, "
    "completion {text}, PRIMARY KEY (label, tenant, created, completion))",
    "CREATE INDEX {begin}of_completion ON {begin}labels (completion)",
)

_LISTED = {"completion": "text", "tenant": "text", "created": "text", "stream": "text", "version": "bigint"}
_LABELS = {"label": "text", "tenant": "text", "created": "text", "completion": "text"}

_PAGE = (
    "SELECT {columns}, e.leaf FROM {source} JOIN streams s ON s.name = v.stream "
    "JOIN events e ON e.stream = s.stream AND e.version = v.version WHERE {conditions} "
    "{ordered}"
)
_WITH_LABEL = "EXISTS (SELECT 1 FROM {begin}labels o WHERE o.label = ? AND o.completion = v.completion)"


@dataclass
class ListedCompletions:
    """Hold what changes: the completions and conversations that are gone, then the rows of the others."""

    ended: dict[str, None] = field(default_factory=dict)
    """Streams of deleted conversations."""
    removed: dict[str, None] = field(default_factory=dict)
    """Ids of completions whose rows are removed, also because they are inserted again."""
    rows: dict[str, tuple[str, str, str, str, int]] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)


class CompletionsView(View[None, ListedCompletions]):
    """Store the place of every chat completion that can be read in the list of its tenant."""

    name = "completions"
    version = 1
    topics = (
        events.CompletionStored.__name__,
        events.CompletionDeleted.__name__,
        events.ConversationDeleted.__name__,
    )

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        create_tables(transaction, _TABLES, self.prefix(generation))

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[Taken]) -> None:
        """Do nothing: an event says all that the rows have."""

    def fold(self, taken: Sequence[Taken], known: None) -> ListedCompletions:
        found = ListedCompletions()
        for _, event in taken:
            stream = event.originator_id
            match event:
                case events.CompletionStored():
                    place = event.created_at, stream, event.originator_version
                    found.rows[event.completion_id] = (event.completion_id, tenant_of(key_of(stream)), *place)
                    found.labels[event.completion_id] = labels_of_completion(event)
                    found.removed[event.completion_id] = None
                case events.CompletionDeleted():
                    found.rows.pop(event.completion_id, None)
                    found.removed[event.completion_id] = None
                case _:
                    found.ended[stream] = None
                    found.rows = {name: row for name, row in found.rows.items() if row[3] != stream}
        return found

    def apply(self, transaction: ViewTransaction, generation: int, changes: ListedCompletions) -> None:
        begin = self.prefix(generation)
        of_stream = f"SELECT completion FROM {begin}listed WHERE stream = ?"
        ended, removed = [(each,) for each in changes.ended], [(each,) for each in changes.removed]
        transaction.update(f"DELETE FROM {begin}labels WHERE completion IN ({of_stream})", ended)
        transaction.update(f"DELETE FROM {begin}listed WHERE stream = ?", ended)
        for table in ("labels", "listed"):
            transaction.update(f"DELETE FROM {begin}{table} WHERE completion = ?", removed)
        rows = [*changes.rows.values()]
        transaction.insert(f"{begin}listed", _LISTED, rows)
        labels = [(label, row[1], row[2], row[0]) for row in rows for label in changes.labels[row[0]]]
        transaction.insert(f"{begin}labels", _LABELS, labels)

    def page(
        self,
        transaction: ViewTransaction,
        generation: int,
        tenant: str,
        page: ListPage,
        labels: Sequence[str],
    ) -> list[events.CompletionStored]:
        """Return the newest events of the completions of a page; see `Views.completions`.

        With labels, the rows of the first one are read in order, and the others are looked up for each.

        Raises:
            ChangedEvent: an event was changed.
        """
        begin = self.prefix(generation)
        between, ordered, values = paged(page, "l" if labels else "v", "completion")
        source, conditions, chosen = f"{begin}listed v", "v.tenant = ?", [tenant]
        if labels:
            source = f"{begin}labels l JOIN {begin}listed v ON v.completion = l.completion"
            others = [f" AND {_WITH_LABEL.format(begin=begin)}"] * len(labels[1:])
            conditions, chosen = f"l.label = ? AND l.tenant = ?{''.join(others)}", [labels[0], tenant, *labels[1:]]
        query = _PAGE.format(
            columns=transaction.row_columns, source=source, conditions=f"{conditions}{between}", ordered=ordered
        )
        rows = transaction.rows(query, (*chosen, *values))
        found = map(restore, checked(rows, refuse_changed))
        return [each for each in found if isinstance(each, events.CompletionStored)]

    def place(self, transaction: ViewTransaction, generation: int, tenant: str, completion_id: str) -> ListPlace | None:
        """Return the place of a completion in the list of its tenant; see `Views.completion_place`."""
        query = f"SELECT created, completion FROM {self.prefix(generation)}listed WHERE completion = ? AND tenant = ?"
        found = transaction.rows(query, (completion_id, tenant))
        return (found[0][0], found[0][1]) if found else None

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find out whether all can be read."""
        begin = self.prefix(generation)
        for stream, created, version in transaction.each(f"SELECT stream, created, version FROM {begin}listed"):
            _ = key_of(stream), from_iso(created), int(version)
        for (label,) in transaction.each(f"SELECT label FROM {begin}labels"):
            _ = str(label)
