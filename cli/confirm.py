"""Ask for confirmation before money is spent or a provider is written to.

The user types the number of items, or passes `--yes`.
"""

from __future__ import annotations

import sys

import click

from .exits import Declined, NeedsYes


def needs_asking(yes: bool) -> bool:
    """Return whether the user will be prompted, so that the prompt text has to be prepared."""
    return not yes and sys.stdin.isatty()


def confirm(count: int, what: str, yes: bool) -> None:
    """Prompt for the number of items.

    Raises:
        Declined: the user typed something else.
        NeedsYes: there is no terminal for the prompt.
    """
    if yes or count == 0:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"this would {what}, but there is no terminal for the confirmation: add --yes")
    typed = click.prompt(f"This will {what}. Type {count} to continue", default="", show_default=False, err=True)
    if typed.strip() != str(count):
        raise Declined("declined: nothing was done")
