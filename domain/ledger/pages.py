"""Return long lists in pages, and name the place where a page ends.

A cursor is opaque text: the sort key of the last item of a page, and a hash of what was listed. Nothing is skipped or
returned twice when items are added meanwhile, because a place is named by its sort key, not by a number of items. What
only cursors need is loaded with the first one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ..errors import InvalidInput

T = TypeVar("T")

SortKey = tuple[str | int, ...]
"""What items are sorted by, down to what tells two of them apart."""

CURSOR_CHARS_MAX = 2_000
"""Maximum length of the text of a cursor, in characters."""

FILTER_HASH_CHARS = 12
"""Number of characters (hex) of the hash of the filters in a cursor."""

NUMBER_MAX = 2**63 - 1
"""Greatest number that the databases can store."""

_VERSION = "p1."


class Page(list[T]):
    """Hold one page of a longer list: a list with the place where it ends."""

    def __init__(self, items: Iterable[T] = (), cursor: str | None = None) -> None:
        super().__init__(items)
        self.cursor = cursor
        """Cursor of the next page, for `after`; None if this is the last one."""


def cursor_of(sort_key: Sequence[str | int], filters: Mapping[str, object]) -> str:
    """Return the text of a place in the list that these filters select."""
    import base64
    import json

    content = json.dumps([_hash(filters), *sort_key], ensure_ascii=False, separators=(",", ":"))
    return _VERSION + base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def place_in(cursor: str | None, filters: Mapping[str, object], *kinds: type) -> SortKey | None:
    """Return the sort key that a cursor names; None for None, the beginning.

    Args:
        cursor: the text of `Page.cursor`.
        filters: what is listed now.
        kinds: the types of the parts of a sort key, `str` or `int`; they are not checked if none are given.

    Raises:
        InvalidInput: it is no cursor, or belongs to a list with other filters.
    """
    if cursor is None:
        return None
    content = _content(cursor)
    fits = len(content) == len(kinds) + 1 and all(map(isinstance, content[1:], kinds))
    if not content or (kinds and not fits):
        shown = repr(cursor) if len(str(cursor)) <= 80 else f"{str(cursor)[:80]!r}…"
        raise InvalidInput(
            f"{shown} is not a cursor of this list: pass the cursor of the page before, as it was returned"
        )
    if content[0] != _hash(filters):
        raise InvalidInput(
            "the cursor belongs to a list with other filters or another order: pass those of the page before, or start again "
            "without a cursor"
        )
    return content[1:]


def _content(cursor: object) -> SortKey:
    """Return what the text of a cursor contains; nothing if it is no cursor."""
    if not isinstance(cursor, str) or not cursor.startswith(_VERSION) or len(cursor) > CURSOR_CHARS_MAX:
        return ()
    import base64
    import json

    text = cursor.removeprefix(_VERSION)
    try:
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        return ()
    return tuple(content) if isinstance(content, list) and all(map(_is_storable, content)) else ()


def _is_storable(part: object) -> bool:
    """Return whether a part of a sort key can be compared in every database."""
    if isinstance(part, str):
        return "\0" not in part and not any("\ud800" <= each <= "\udfff" for each in part)
    return type(part) is int and abs(part) <= NUMBER_MAX


def _hash(filters: Mapping[str, object]) -> str:
    import hashlib
    import json

    named = json.dumps(
        {name: value for name, value in filters.items() if value is not None}, sort_keys=True, default=str
    )
    return hashlib.sha256(named.encode()).hexdigest()[:FILTER_HASH_CHARS]
