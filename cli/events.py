"""Implement `threadledger events`, which prints the event log."""

from __future__ import annotations

import json

import click

from .exits import Exit
from .invocation import KEY, common, complete_keys, invocation, opened
from .output import clock, emit_many


@click.command()
@click.argument("key", type=KEY, required=False, shell_complete=complete_keys)
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="POSITION", help="Only events after this position."
)
@click.option("--type", "types", multiple=True, metavar="T", help="Only events of this type; can be repeated.")
@click.option("--follow", is_flag=True, help="Keep printing new events; Ctrl-C stops.")
@common
def events(key: str | None, after: int, types: tuple[str, ...], follow: bool) -> int:
    """Print the event log in commit order, of conversation KEY or of all conversations."""
    from threadledger.domain import events as known

    for name in types:
        if name not in known.EVENTS:
            raise click.BadParameter(
                f"there is no event type {name!r}: give one of {', '.join(known.EVENTS)}.", param_hint="--type"
            )
    with opened() as ledger:
        if key is not None:
            ledger.state(key)
        logged = (each.as_json() for each in ledger.events(after=after, types=types, key=key, follow=follow))
        if follow:
            for each in logged:
                click.echo(json.dumps(each, ensure_ascii=False))
        elif invocation().output == "table":
            rows = [each | {"at": clock(each["at"]), "data": _brief(each["data"])} for each in logged]
            emit_many(rows, ("position", "key", "version", "at", "type", "data"), empty="no events")
        else:
            emit_many(logged, ())
    return Exit.DONE


def _brief(data: dict[str, object]) -> str:
    told = json.dumps(
        {name: value for name, value in data.items() if value not in (None, [], {}, "")}, ensure_ascii=False
    )
    return told if len(told) <= 120 else told[:119] + "…"
