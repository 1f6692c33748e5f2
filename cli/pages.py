"""Print pages of a list: `--limit`, `--after` and `--cursor`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from .main import MomentParameter, invocation, print_message
from .output import emit_many, emit_one

F = TypeVar("F", bound=Callable[..., Any])


class SinceParameter(MomentParameter):
    """Parse a time, or a span back from now, which stays a span: a cursor is bound to it, and not to the current time."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the time or the span, or fail with a usage error."""
        moment = super().convert(value, param, ctx)
        units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
        text = str(value)
        if isinstance(moment, datetime) and text[:-1].isdecimal() and text[-1:] in units:
            return timedelta(**{units[text[-1]]: int(text[:-1])})
        return moment


def with_cursor(command: F) -> F:
    """Add the option `--cursor` to a command."""
    option = click.option(
        "--cursor", is_flag=True, help="With -o json: print {items, next_cursor} instead of an array of the items."
    )
    return option(command)


def emit_page(
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str],
    next_cursor: str | None,
    with_cursor: bool,
    *,
    empty: str,
    spare: Sequence[str] = (),
) -> None:
    """Print a page, and how to continue: in the object with `--cursor`, after a table as a command on stderr."""
    if with_cursor:
        emit_items(rows, next_cursor)
        return
    emit_many(rows, columns, empty=empty, spare=spare)
    note_more(next_cursor)


def emit_items(rows: Iterable[dict[str, Any]], next_cursor: str | None) -> None:
    """Print a page as one JSON object.

    Raises:
        UsageError: the output is no JSON.
    """
    if invocation().output != "json":
        raise click.UsageError("--cursor needs -o json: the other formats have no place for a cursor")
    emit_one({"items": list(rows), "next_cursor": next_cursor}, lambda console: None)


def note_more(next_cursor: str | None) -> None:
    """Print the command for the next page to stderr, if there is one, after a table."""
    if next_cursor is not None and invocation().output == "table":
        print_message(f"more: {_with_cursor(next_cursor)}")


def _with_cursor(cursor: str) -> str:
    """Return this command with another cursor."""
    arguments, remaining = [], iter(invocation().arguments)
    for argument in remaining:
        if argument == "--after":
            next(remaining, None)
        elif not argument.startswith("--after="):
            arguments.append(argument)
    return shlex.join(["threadledger", *arguments, "--after", cursor])
