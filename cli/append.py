"""Implement `threadledger append`, which stores one message in the journal."""

from __future__ import annotations

import click

from .exits import Exit
from .invocation import KEY, TEXT, common, complete_keys, opened
from .output import emit_one


@click.command()
@click.argument("key", type=KEY, shell_complete=complete_keys)
@click.argument("role")
@click.argument("text", type=TEXT)
@click.option("--idempotency-key", metavar="K", help="Makes retries safe: the same key again changes nothing.")
@common
def append(key: str, role: str, text: str, idempotency_key: str | None) -> int:
    """Journal a message of ROLE (user, assistant, system, developer) in conversation KEY.

    No model is called; linked threads are updated from the journal. Pass - as TEXT to read standard input.
    """
    with opened(create=True) as ledger:
        message = ledger.conversation(key).append(role, text, idempotency_key=idempotency_key)
        emit_one(
            {"key": key} | message.as_json(),
            lambda console: console.print(f"journaled as version {message.version} of {key}", markup=False),
        )
    return Exit.DONE
