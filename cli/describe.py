"""Implement `threadledger describe`: show or change title, owner, tags and metadata of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .main import IN_KEY, KEY, Exit, common, opened
from .output import emit_one, prose
from .terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

TEXT = KEY
"""Type of values that are given as they are; `-` has no special meaning."""


@click.command()
@IN_KEY
@click.option("--title", type=TEXT, metavar="TEXT", help="Title; an empty one clears it.")
@click.option("--owner", type=TEXT, metavar="ID", help="Id of its owner, for list --owner; an empty one clears it.")
@click.option(
    "--tag", "tags", type=TEXT, multiple=True, metavar="T", help='All its tags; can be repeated. --tag "" removes them.'
)
@click.option("--archive/--unarchive", "archived", default=None, help="Hide it from the list, or show it again.")
@click.option(
    "--metadata",
    type=TEXT,
    multiple=True,
    metavar="K=V",
    help='All its metadata, as texts; can be repeated. --metadata "" removes it.',
)
@common
def describe(
    key: str,
    title: str | None,
    owner: str | None,
    tags: tuple[str, ...],
    archived: bool | None,
    metadata: tuple[str, ...],
) -> int:
    """Describe conversation KEY for lists, or show its description if no option is given.

    What is not given stays as it is. A conversation that does not exist starts with its description.
    """
    changes: dict[str, Any] = {"title": title, "owner": owner, "archived": archived}
    if tags:
        changes["tags"] = [tag for tag in tags if tag]
    if metadata:
        changes["metadata"] = pairs_of(metadata)
    is_asked = all(value is None for value in changes.values())
    with opened(create=not is_asked, reads=is_asked) as ledger:
        chat = ledger.conversation(key)
        description = ledger.state(key).description if is_asked else chat.describe(**changes)
        if description is None:
            raise AssertionError("the state of one conversation has its description")
        thing = {"key": key, "version": ledger.state(key).version, **description.as_json()}
    emit_one(thing, lambda console: _draw(console, thing))
    return Exit.DONE


def pairs_of(given: tuple[str, ...]) -> dict[str, str]:
    """Return the pairs of options like `K=V`; an empty one is none.

    Raises:
        BadParameter: an option has no `=`.
    """
    pairs = {}
    for each in filter(None, given):
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{each!r} is not NAME=VALUE.", param_hint="--metadata")
        pairs[name] = value
    return pairs


def _draw(console: Console, thing: dict[str, Any]) -> None:
    prose(console, f"{printable(thing['key'], lines=False)}  version {thing['version']}", style="bold")
    shown = {
        "title": thing["title"],
        "owner": thing["owner"],
        "tags": ", ".join(thing["tags"]),
        "archived": "yes" if thing["archived"] else "",
        **{f"metadata {name}": value for name, value in thing["metadata"].items()},
    }
    lines = [
        f"{name}: {printable(str(value), lines=False)}" for name, value in shown.items() if value not in (None, "")
    ]
    for line in lines or ["not described yet"]:
        prose(console, line)
