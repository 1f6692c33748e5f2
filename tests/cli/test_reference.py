"""The reference in docs/commands.md is made from `--help`.

python tests/cli/test_reference.py      writes it again
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
HEADING = "## The commands\n"


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=name)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {each}")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{name} {each}", command


def reference() -> str:
    from threadledger.cli import root

    told = []
    for name, command in commands(root, "threadledger"):
        context = click.Context(
            command, info_name=name, terminal_width=110, max_content_width=110, help_option_names=["-h", "--help"]
        )
        told.append(f"### {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(told)


def test_the_reference_is_what_help_says() -> None:
    _, _, written = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)
    assert written.strip() == reference().strip()


def test_every_command_and_option_explains_itself() -> None:
    from threadledger.cli import root

    for name, command in commands(root, "threadledger"):
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not isinstance(parameter.type, click.Choice):
                assert parameter.help or parameter.show_default, f"{name} {parameter.name}"


if __name__ == "__main__":
    before, _, _ = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)
    DOCUMENT.write_text(f"{before}{HEADING}\n{reference()}", encoding="utf-8")
