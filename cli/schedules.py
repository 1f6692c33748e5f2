"""Check the commands of schedules, as the command line parses them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .main import Invocation

REFUSED = frozenset({"worker", "serve", "chat", "simulate", "demo", "init", "trust"})
"""Commands that do not end by themselves, talk to a person, or set up something."""


def check_command(where: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a scheduled command, which never prompts.

    Raises:
        InvalidSettings: there is no such command or option, or it is one that no worker can run.
    """
    from threadledger.domain.errors import InvalidSettings

    from . import root

    command: click.Command = root
    context, rest = click.Context(root, info_name="threadledger", obj=Invocation()), list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            raise InvalidSettings(f"{where}: there is no command {rest[0]!r}: see threadledger --help")
        context, command, rest = click.Context(found, info_name=rest[0], parent=context), found, rest[1:]
    if words[0] in REFUSED or (isinstance(command, click.Group) and not command.invoke_without_command):
        raise InvalidSettings(
            f"{where}: {words[0]!r} is no command that a worker can run: name one that ends by itself"
        )
    try:
        with command.make_context(context.info_name, rest, parent=context.parent) as parsed:
            given = dict(parsed.params)
            invoked = parsed.find_root().obj
    except (click.ClickException, click.exceptions.Exit) as error:
        said = error.format_message() if isinstance(error, click.ClickException) else "it only prints help"
        raise InvalidSettings(f"{where}: the command cannot be run ({said.rstrip('.')})") from None
    if given.get("follow"):
        raise InvalidSettings(f"{where}: --follow never ends: leave it out")
    if invoked.db is not None:
        raise InvalidSettings(f"{where}: --db is that of the worker: leave it out")
    has_prompt = any(parameter.name == "yes" for parameter in command.params)
    return (*words, "--yes") if has_prompt and not given.get("yes") else tuple(words)
