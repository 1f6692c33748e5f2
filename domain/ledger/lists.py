"""Return pages of conversations. A ledger that is only asked does not load this module."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..conversation.listing import ConversationFilter, MessageSearch, SearchHit
from ..errors import InvalidInput
from .pages import Page, cursor_of, place_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..conversation import ConversationState
    from ..journal import Journal

POSITION_MAX = 2**63 - 1
"""Largest position or number of a conversation that a database stores."""


def conversations_page(
    journal: Journal, wanted: ConversationFilter, limit: int | None, after: str | None
) -> Page[ConversationState]:
    """Return a page of the conversations that a filter selects; see `Ledger.conversations`.

    Raises:
        InvalidInput: the cursor cannot be read, or belongs to another list.
    """
    filters = wanted.as_json()
    place = _place(after, filters)
    if limit is not None and limit < 1:
        return Page((), after)
    states, following = journal.views.listed(wanted, limit, place)
    return Page(states, cursor_of(following, filters) if following is not None else None)


SEARCHED_AT_ONCE = 200
"""Number of hits that are read at once if all of them are wanted."""


def search_page(journal: Journal, search: MessageSearch, limit: int | None, after: str | None) -> Page[SearchHit]:
    """Return a page of the messages that match a search; see `Ledger.search`.

    Raises:
        InvalidInput: the cursor cannot be read, or belongs to another search.
    """
    filters = vars(search)
    before = _position(after, filters)
    if limit is not None and limit < 1:
        return Page((), after)
    found: list[SearchHit] = []
    while True:
        wanted = SEARCHED_AT_ONCE if limit is None else min(limit - len(found), SEARCHED_AT_ONCE)
        hits, before = journal.views.search(search, wanted, before)
        for hit in hits:
            shown, selected = journal.in_memory(hit.key, hit.version, hit.message_id)
            found.append(replace(hit, in_memory=shown, selected=selected))
        if before is None:
            return Page(found)
        if limit is not None and len(found) >= limit:
            return Page(found, cursor_of((before,), filters))


def _position(after: str | None, filters: Mapping[str, Any]) -> int | None:
    match place_in(after, filters) if after is not None else None:
        case None:
            return None
        case [int(position)] if 0 <= position <= POSITION_MAX:
            return position
        case _:
            raise InvalidInput("the cursor is of another list: pass the `cursor` of the page before")


def _place(after: str | None, filters: Mapping[str, Any]) -> tuple[int, int] | None:
    match place_in(after, filters) if after is not None else None:
        case None:
            return None
        case [int(key), int(floor)] if 0 <= key <= POSITION_MAX and 0 <= floor <= POSITION_MAX:
            return key, floor
        case _:
            raise InvalidInput("the cursor is of another list: pass the `cursor` of the page before")
