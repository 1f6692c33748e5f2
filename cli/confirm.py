"""Before money is spent or a provider is written to: the number of items has to be typed, or `--yes` given."""

from __future__ import annotations

import sys

import click

from .exits import Declined, NeedsYes


def needs_asking(yes: bool) -> bool:
    """Whether somebody will be asked, and wants to read what about."""
    return not yes and sys.stdin.isatty()


def confirm(count: int, what: str, yes: bool) -> None:
    """Ask for the number of items.

    Raises:
        Declined: something else was typed.
        NeedsYes: there is no terminal to ask on.
    """
    if yes or count == 0:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"this would {what}, and there is no terminal to ask on: add --yes")
    typed = click.prompt(f"This will {what}. Type {count} to go on", default="", show_default=False, err=True)
    if typed.strip() != str(count):
        raise Declined("declined: nothing was done")
