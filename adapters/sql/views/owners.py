"""Keep the owners of conversations, so that a run belongs to the last owner of its own conversation.

A key may have belonged to other conversations before, which were deleted, and to other owners.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable

from .runs import DeletedFacts, RunRow, TakenRun, storable
from .transaction import ViewTransaction

TABLE = """CREATE TABLE {begin}owners (
    position {position} NOT NULL PRIMARY KEY,
    conversation TEXT{plain} NOT NULL,
    owner TEXT,
    deleted SMALLINT NOT NULL
)"""

COLUMNS = {"position": "bigint", "conversation": "text", "owner": "text", "deleted": "smallint"}


def given(taken: Iterable[TakenRun]) -> list[tuple[int, str, str | None, int]]:
    """Return the rows of descriptions that give or clear an owner, and of deletions."""
    rows: list[tuple[int, str, str | None, int]] = []
    for position, stream, _, fact in taken:
        if fact.__class__ is DeletedFacts:
            rows.append((position, stream, None, 1))
        elif fact.owner.__class__ is str:
            rows.append((position, stream, storable(fact.owner) or None, 0))
    return rows


class Owners:
    """Hold the last owner of every conversation, also of those that were deleted."""

    def __init__(self, transaction: ViewTransaction, begin: str) -> None:
        self._now: dict[str, str] = {}
        self._deleted: defaultdict[str, list[tuple[int, str | None]]] = defaultdict(list)
        """Positions of the deletions of a key, each with the owner until then."""
        query = f"SELECT position, conversation, owner, deleted FROM {begin}owners ORDER BY position"
        for position, conversation, owner, deleted in transaction.rows(query):
            if deleted:
                self._deleted[conversation].append((position, self._now.pop(conversation, None)))
            elif owner is not None:
                self._now[conversation] = owner
            else:
                self._now.pop(conversation, None)

    def of(self, run: RunRow) -> str | None:
        """Return the owner of the conversation to which a run belongs; None if it has none."""
        ends = self._deleted.get(run.conversation, ())
        place = bisect_right(ends, run.started, key=lambda end: end[0])
        return ends[place][1] if place < len(ends) else self._now.get(run.conversation)
