"""Implement `threadledger search`: find messages by their words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .main import KEY, Exit, common, invocation, opened
from .output import clock
from .pages import emit_page, with_cursor

if TYPE_CHECKING:
    from threadledger.domain.conversation.listing import SearchHit


@click.command()
@click.argument("text", type=KEY)
@click.option("--owner", type=KEY, metavar="ID", help="Only in conversations of this owner.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N messages.")
@click.option("--after", type=KEY, metavar="CURSOR", help="Continue after a page of the same search.")
@with_cursor
@common
def search(text: str, owner: str | None, limit: int | None, after: str | None, cursor: bool) -> int:
    """Find messages that contain all words of TEXT, or beginnings of words, newest first.

    Case and accents are ignored; words in double quotes must be adjacent. Messages that are no longer in memory, or on a
    branch that is not selected, are found too.
    """
    with opened(reads=True) as ledger:
        page = ledger.search(text, owner, limit=limit, after=after)
    is_table = invocation().output == "table"
    rows = [_as_row(hit) if is_table else hit.as_json() for hit in page]
    columns = ("key", "version", "at", "role", "text", "in_memory")
    emit_page(rows, columns, page.cursor, cursor, empty=f"no message contains {text!r}", spare=("version", "at"))
    return Exit.DONE


def _as_row(hit: SearchHit) -> dict[str, Any]:
    return hit.as_json() | {
        "at": clock(hit.as_json()["at"]),
        "text": hit.snippet,
        "in_memory": "" if hit.in_memory else "no" if hit.selected else "on another branch",
    }
