"""Implement `threadledger export`, which writes conversations as JSON Lines or Markdown."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from .exits import Exit
from .invocation import KEY, common, complete_keys, opened
from .output import counted, note
from .progress import tracked


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Export every conversation, in the order they were started.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "messages", "markdown"]),
    default="jsonl",
    show_default=True,
    help="jsonl: messages with id, time and source. messages: plain Chat Completions messages. markdown: readable text.",
)
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of stdout."
)
@common
def export(keys: tuple[str, ...], everything: bool, kind: str, file: Path | None) -> int:
    """Export conversations as JSON Lines or Markdown.

    The formats jsonl and messages write one object per line: {"id": KEY, ..., "messages": [Chat Completions messages]}.
    Files in both formats can be imported again.
    """
    from threadledger.adapters import export_lines, export_markdown
    from threadledger.domain import FileMissing

    if bool(keys) == everything:
        raise click.UsageError("name conversations or pass --all, but not both", click.get_current_context())
    with opened() as ledger:
        total = len(ledger.conversations()) if everything else len(keys)
        for key in keys:
            ledger.state(key)
        chosen = None if everything else keys
        if kind == "markdown":
            texts = export_markdown(ledger, chosen)
        else:
            texts = (line + "\n" for line in export_lines(ledger, chosen, plain=kind == "messages"))
        unfinished = file.with_name(f"{file.name}.part") if file else None
        try:
            target: Any = (
                unfinished.open("w", encoding="utf-8", newline="\n") if unfinished else nullcontext(sys.stdout)
            )
        except OSError as error:
            raise FileMissing(f"{file} cannot be written ({error.strerror}): name another file") from error
        with target as stream:
            for text in tracked(texts, total, "exporting"):
                stream.write(text)
        if file and unfinished:
            unfinished.replace(file)  # the old file is kept until the new one is complete
    if file:
        note(f"{counted(total, 'conversation')} written to {file}")
    return Exit.DONE
