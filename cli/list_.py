"""Implement `threadledger list`, which lists the conversations of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .exits import Exit
from .invocation import KEY, common, invocation, opened
from .output import clock, emit_many, short_thread

if TYPE_CHECKING:
    from threadledger.domain import ConversationState


@click.command("list")
@click.option(
    "--search",
    type=KEY,
    metavar="TEXT",
    help="Only conversations whose key or messages contain these words or word beginnings; case and accents are ignored.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N conversations.")
@common
def list_(search: str | None, limit: int | None) -> int:
    """List conversations, newest first."""
    with opened() as ledger:
        rows = [as_json(state) for state in ledger.conversations(limit, search)]
    if invocation().output == "table":
        rows = [row | {"last": clock(row["last_at"]), "threads": _thread_ids(row["threads"])} for row in rows]
    columns = ("key", "messages", "exchanges", "failed_runs", "unanswered", "threads", "last")
    nothing = (
        f"no conversation contains {search!r}"
        if search
        else "no conversations yet: start one with: threadledger ask KEY TEXT"
    )
    emit_many(rows, columns, empty=nothing, spare=("exchanges", "messages", "threads"))
    return Exit.DONE


def as_json(state: ConversationState) -> dict[str, Any]:
    """Return a conversation as the JSON object that CONTRACT.md specifies."""
    return {
        "key": state.key,
        "version": state.version,
        "messages": state.messages,
        "exchanges": state.exchanges,
        "failed_runs": state.failed_runs,
        "unanswered": state.unanswered,
        "threads": threads_as_json(state),
        "started_at": state.started_at,
        "last_at": state.last_at,
    }


def threads_as_json(state: ConversationState) -> dict[str, Any]:
    """Return the linked threads of a conversation as JSON, by kind."""
    return {
        name: {"thread_id": link["thread_id"], "endpoint": link["endpoint"], "lost": link["lost"]}
        for name, link in state.links.items()
    }


def _thread_ids(threads: dict[str, Any]) -> dict[str, str]:
    return {
        name: short_thread(link["thread_id"]) + (" (lost)" if link["lost"] else "") for name, link in threads.items()
    }
