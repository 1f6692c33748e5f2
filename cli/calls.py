"""Implement `threadledger call`: decide on a tool call for which a conversation waits."""

from __future__ import annotations

import click

from .ask import print_exchange
from .main import IN_KEY, KEY, common, opened

CALL = click.argument("call_id", type=KEY, metavar="CALL")
REASON = click.option("--reason", type=KEY, default="", metavar="TEXT", help="Why; the model sees it if you reject.")


@click.group()
@common
def call() -> None:
    """Approve or reject a tool call that waits.

    `threadledger list --pending` lists the conversations that wait, and `threadledger show KEY` the calls.
    """


@call.command()
@IN_KEY
@CALL
@REASON
@common
def approve(key: str, call_id: str, reason: str) -> int:
    """Approve a tool call: the tool is used, and the model answers; the answer is printed."""
    with opened(sends=True) as ledger:
        chat = ledger.conversation(key)
        return print_exchange(lambda: chat.approve(call_id, reason), "call approve")


@call.command()
@IN_KEY
@CALL
@REASON
@common
def reject(key: str, call_id: str, reason: str) -> int:
    """Reject a tool call: the model is shown that, with the reason, and answers; the answer is printed."""
    with opened(sends=True) as ledger:
        chat = ledger.conversation(key)
        return print_exchange(lambda: chat.reject(call_id, reason), "call reject")
