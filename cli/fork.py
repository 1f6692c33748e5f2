"""Implement `threadledger fork`, which starts a conversation as a copy of another."""

from __future__ import annotations

from datetime import datetime

import click

from .exits import Exit
from .invocation import KEY, MomentParameter, common, complete_keys, opened
from .output import counted, emit_one


@click.command()
@click.argument("key", type=KEY, shell_complete=complete_keys)
@click.argument("new_key", type=KEY, metavar="NEWKEY")
@click.option(
    "--at",
    type=MomentParameter(versions=True),
    metavar="VERSION|TIME",
    help="Copy the conversation as of this version or time.",
)
@common
def fork(key: str, new_key: str, at: datetime | int | None) -> int:
    """Start a new conversation NEWKEY as a copy of conversation KEY.

    No model is called; the fork is mirrored like any other conversation.
    """
    with opened() as ledger:
        ledger.fork(key, new_key, at)
        state, parent = ledger.state(new_key), ledger.parent(new_key)
        version = parent[1] if parent is not None else None
        thing = {
            "key": new_key,
            "version": state.version,
            "messages": state.messages,
            "parent": {"key": key, "version": version},
        }
        told = f"{new_key} is a copy of {key} as of version {version}: {counted(state.messages, 'message')}"
        emit_one(thing, lambda console: console.print(told, markup=False))
    return Exit.DONE
