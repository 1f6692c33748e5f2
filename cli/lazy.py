"""Load commands only when they are used, so that `--version` and `--help` stay fast."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Represent a command group given as `{name: (module, attribute, short help)}`."""

    def __init__(self, *arguments: Any, places: Mapping[str, tuple[str, str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in display order."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load and return one command, or None if there is no such command."""
        if cmd_name not in self._places:
            return None
        module, attribute, _ = self._places[cmd_name]
        command: click.Command = getattr(import_module(module, __package__), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an error about an unknown name suggests the closest known one."""
        import difflib

        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self._places:
            near = difflib.get_close_matches(name, self._places, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see: {ctx.command_path} --help"
            raise click.UsageError(f"there is no command {name!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their short help, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, _, told) in self._places.items()])
