"""Implement `threadledger chat`, which runs a conversation in the terminal."""

from __future__ import annotations

import sys

import click

from .exits import Exit, told_of
from .invocation import KEY, common, complete_keys, opened
from .output import note, printable
from .streaming import streamed


@click.command()
@click.argument("key", type=KEY, shell_complete=complete_keys)
@common
def chat(key: str) -> int:
    """Chat in conversation KEY: each line is a question; Ctrl-D or an empty line ends the chat."""
    from threadledger.domain import AllBackendsFailed, InvalidInput

    with opened(create=True) as ledger:
        conversation = ledger.conversation(key)
        for each in conversation.memory(last=6).messages:
            note(f"{each.message.role.value}: {printable(each.message.text)}")
        while question := _question():
            try:
                streamed(conversation, question)
            except (AllBackendsFailed, InvalidInput) as error:
                note(told_of(error))
    return Exit.DONE


def _question() -> str:
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line and sys.stdin.isatty():
        note("")
    return line.strip()
