"""The table of commands, over which other tests go, has every command."""

from __future__ import annotations

from threadledger.cli import root

from .command_table import TABLE, existing_commands


def test_the_table_has_every_command_and_no_other() -> None:
    assert set(TABLE) == set(existing_commands(root))
    assert {path: entry.arguments[: len(path)] for path, entry in TABLE.items()} == {path: path for path in TABLE}
