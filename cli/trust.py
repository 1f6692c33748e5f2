"""Implement `threadledger trust`, which lets the commands use the code and the hosts that a folder names."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path
from typing import Any

import click

from .main import Exit, common, load_settings
from .output import emit_one, note, prose


@click.command()
@click.argument(
    "folder",
    metavar="[DIR]",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
)
@click.option("--revoke", is_flag=True, help="Stop trusting the folder.")
@common
def trust(folder: Path, revoke: bool) -> int:
    """Allow the commands to run code of DIR (by default the working folder) and to send keys and text to hosts that it names.

    Read its .env, threadledger.toml and tools first. The content of these files is recorded: after a change, the folder needs
    trust again. Nothing else needs trust: not a folder whose .env brings the key of the host that it names, and not an app
    that calls threadledger.open().
    """
    from threadledger.adapters import TRUST_DIR, FolderTrust
    from threadledger.adapters import revoke as revoke_trust

    with chdir(folder):
        if revoke:
            return _revoked(revoke_trust(Path.cwd()), TRUST_DIR)
        found = FolderTrust(load_settings())
        found.grant()
        files, reasons = found.shown_files(), [need.reason for need in found.needs()]
        thing = {"folder": str(found.folder), "trusted": True, "files": files, "reasons": reasons}
    emit_one(thing, lambda console: prose(console, f"trusted {found.folder} ({', '.join(files) or 'no files'})"))
    for reason in reasons:
        note(reason)
    if not reasons:
        note("nothing in it needs trust")
    return Exit.DONE


def _revoked(was_trusted: bool, variable: str) -> int:
    folder = Path.cwd()
    thing: dict[str, Any] = {"folder": str(folder), "trusted": False, "files": [], "reasons": []}
    said = "is no longer trusted" if was_trusted else "was not trusted"
    emit_one(thing, lambda console: prose(console, f"{folder} {said}"))
    if os.environ.get(variable):
        note(f"{variable} trusts the folders that it names, whatever was recorded")
    return Exit.DONE
