"""Read the definitions of profiles from their own streams, with the numbers of runs that the audit view has counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threadledger.domain.conversation import PROFILE, events
from threadledger.domain.conversation.run_filters import ProfileRuns
from threadledger.domain.journal import refuse_changed, restore

from ..connections import checked
from .runs import storable
from .transaction import ViewTransaction, values_of

# The number of a stream grows with each new one, so it is the order in which profiles were defined.
_DEFINED = (
    "SELECT {columns}, e.leaf, s.stream FROM streams s JOIN events e ON e.stream = s.stream AND e.version = 1 "
    "WHERE s.name >= ? AND s.name < ?{before} ORDER BY s.stream DESC{limit}"
)

_COUNTED = (
    "SELECT value, runs, failed FROM {begin}hours WHERE property = 'profile' "
    "UNION ALL SELECT '=' || profile, 1, CASE WHEN failed IS NULL THEN 0 ELSE 1 END FROM {begin}runs "
    "WHERE spread = 1 AND profile IS NOT NULL"
)


def profiles(
    transaction: ViewTransaction, begin: str, beginning: str, limit: int | None, before: int | None
) -> list[ProfileRuns]:
    """Return the newest profiles whose hash begins with a text, newest first; see `Views.profiles`.

    Raises:
        ChangedEvent: a definition was changed.
    """
    first = PROFILE + beginning
    values: list[Any] = [first, first[:-1] + chr(ord(first[-1]) + 1)]
    values += [] if before is None else [before]
    values += [] if limit is None else [limit]
    query = _DEFINED.format(
        columns=transaction.row_columns,
        before="" if before is None else " AND s.stream < ?",
        limit="" if limit is None else " LIMIT ?",
    )
    rows = transaction.rows(query, values)
    defined = [restore(row) for row in checked([row[:-1] for row in rows], refuse_changed)]
    numbers = {row[1]: row[-1] for row in rows}
    found = [each for each in defined if isinstance(each, events.ProfileDefined)]
    counts = _counts(transaction, begin, [each.profile_hash for each in found])
    return [
        ProfileRuns(each, numbers[each.originator_id], *counts.get(storable(each.profile_hash), (0, 0)))
        for each in found
    ]


def _counts(transaction: ViewTransaction, begin: str, hashes: Sequence[str]) -> dict[str | None, tuple[int, int]]:
    """Return the number of runs, and of those that failed, of each of these profiles that has any."""
    if not hashes:
        return {}
    source, wanted = values_of(transaction.kind, [f"={storable(each)}" for each in hashes])
    query = (
        f"SELECT c.value, sum(c.runs), sum(c.failed) FROM ({_COUNTED.format(begin=begin)}) AS c "
        f"WHERE c.value IN (SELECT wanted.value FROM {source}) GROUP BY c.value"
    )
    return {value[1:]: (int(runs), int(failed)) for value, runs, failed in transaction.rows(query, (wanted,))}
