"""Every command with arguments that do its work on the ledger of `auditing.open_story`, for tests that hold for all commands.

`test_command_table.py` compares the table with the commands that exist: a new command needs an entry, and is then covered by
each test over the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import click

KEY = "customer-1"
RUN = "aaaa1111"
MESSAGE = "message-customer-1-1"
"""Id of the first question of the story."""
PROFILE = "71d1e4"
"""Beginning of the hash of the profile of the story."""
ATTACHMENT = b"An attachment."
ADDRESS = f"sha256:{sha256(ATTACHMENT).hexdigest()}"


@dataclass(frozen=True)
class Entry:
    """Describe one command: arguments that do its work, and how it uses the ledger and the provider."""

    arguments: tuple[str, ...]
    """Arguments; FILE, FOLDER and URL stand for a new file, a new folder and a new SQLite database, BACKUP for a backup."""
    writes: tuple[str, ...] = ()
    """Further arguments, with which the command writes a file."""
    reads: bool = False
    """Whether these arguments open a ledger only to read it."""
    runs_a_model: bool = False
    """Whether these arguments may call a model."""
    reaches_the_provider: bool = False
    """Whether these arguments may send something to the provider, such as a message to a thread."""
    serves: bool = False
    """Whether the command runs until it is stopped."""
    without_ledger: bool = False
    """Whether the command uses no ledger, or makes its own."""


TABLE: dict[tuple[str, ...], Entry] = {
    ("init",): Entry(("init",)),
    ("demo",): Entry(("demo", "--keep", "FOLDER"), without_ledger=True),
    ("doctor",): Entry(("doctor",), reads=True),
    ("ask",): Entry(("ask", KEY, "Where is it?"), runs_a_model=True, reaches_the_provider=True),
    ("chat",): Entry(("chat", KEY), runs_a_model=True, reaches_the_provider=True),
    ("append",): Entry(("append", KEY, "user", "Where is it?"), reaches_the_provider=True),
    ("list",): Entry(("list",), reads=True),
    ("search",): Entry(("search", "word"), reads=True),
    ("describe",): Entry(("describe", KEY, "--title", "A title")),
    ("delete",): Entry(("delete", KEY), reads=True),
    ("show",): Entry(("show", KEY), reads=True),
    ("diff",): Entry(("diff", KEY, "2.."), reads=True),
    ("fork",): Entry(("fork", KEY, "another-key"), reaches_the_provider=True),
    ("message", "edit"): Entry(("message", "edit", KEY, MESSAGE, "Another."), reaches_the_provider=True),
    ("message", "regenerate"): Entry(("message", "regenerate", KEY), runs_a_model=True, reaches_the_provider=True),
    ("message", "retract"): Entry(("message", "retract", KEY, MESSAGE), reaches_the_provider=True),
    ("message", "pin"): Entry(("message", "pin", KEY, MESSAGE)),
    ("message", "rate"): Entry(("message", "rate", KEY, MESSAGE, "1")),
    ("branch", "list"): Entry(("branch", "list", KEY), reads=True),
    ("branch", "select"): Entry(("branch", "select", KEY, MESSAGE), reaches_the_provider=True),
    ("call", "approve"): Entry(("call", "approve", KEY, "call_1"), runs_a_model=True, reaches_the_provider=True),
    ("call", "reject"): Entry(("call", "reject", KEY, "call_1"), runs_a_model=True, reaches_the_provider=True),
    ("compact",): Entry(("compact", KEY, "--keep-last", "1"), runs_a_model=True, reaches_the_provider=True),
    ("events",): Entry(("events", KEY), reads=True),
    ("audit", "failures"): Entry(("audit", "failures"), reads=True),
    ("audit", "groups"): Entry(("audit", "groups"), reads=True),
    ("audit", "resolve"): Entry(("audit", "resolve", "00000000")),
    ("audit", "mute"): Entry(("audit", "mute", "00000000")),
    ("audit", "reopen"): Entry(("audit", "reopen", "00000000")),
    ("audit", "show"): Entry(("audit", "show", RUN), reads=True),
    ("audit", "summary"): Entry(("audit", "summary"), reads=True),
    ("audit", "report"): Entry(("audit", "report", "--output", "FILE"), reads=True),
    ("audit", "export"): Entry(("audit", "export", RUN, "--output", "FILE"), reads=True),
    ("profile", "list"): Entry(("profile", "list"), reads=True),
    ("profile", "diff"): Entry(("profile", "diff", PROFILE, PROFILE), reads=True),
    ("threads",): Entry(("threads",), reads=True),
    ("replay", "rebuild"): Entry(
        ("replay", "rebuild", "--all"),
        writes=("--to", "file", "--output", "FILE", "--apply", "--yes"),
        reads=True,
        reaches_the_provider=True,
    ),
    ("replay", "rerun"): Entry(("replay", "rerun", "--failed"), reads=True, reaches_the_provider=True),
    ("replay", "verify"): Entry(("replay", "verify", "--all"), reads=True, reaches_the_provider=True),
    ("replay", "reconcile"): Entry(("replay", "reconcile", "--all"), reads=True, reaches_the_provider=True),
    ("replay", "jobs"): Entry(("replay", "jobs"), reads=True),
    ("replay", "resume"): Entry(("replay", "resume", "00000000", "--yes"), reaches_the_provider=True),
    ("replay", "cancel"): Entry(("replay", "cancel", "00000000")),
    ("import",): Entry(("import", "-")),
    ("export",): Entry(("export", "--all"), writes=("--output", "FILE"), reads=True),
    ("blobs", "list"): Entry(("blobs", "list"), reads=True),
    ("blobs", "extract"): Entry(("blobs", "extract", ADDRESS, "--output", "FILE"), reads=True),
    ("blobs", "prune"): Entry(("blobs", "prune"), reads=True),
    ("db", "status"): Entry(("db", "status"), reads=True),
    ("db", "check"): Entry(("db", "check"), reads=True),
    ("db", "backup"): Entry(("db", "backup", "FILE"), reads=True),
    ("db", "restore"): Entry(("db", "restore", "BACKUP", "--yes")),
    ("db", "copy"): Entry(("db", "copy", "URL"), reads=True),
    ("db", "upgrade"): Entry(("db", "upgrade")),
    ("db", "rebuild-views"): Entry(("db", "rebuild-views")),
    ("serve", "keys", "add"): Entry(("serve", "keys", "add", "app")),
    ("serve", "keys", "list"): Entry(("serve", "keys", "list"), reads=True),
    ("serve", "keys", "revoke"): Entry(("serve", "keys", "revoke", "app")),
    ("trust",): Entry(("trust",), without_ledger=True),
    ("config",): Entry(("config", "--origin"), without_ledger=True),
    ("serve",): Entry(("serve", "--port", "0"), runs_a_model=True, reaches_the_provider=True, serves=True),
    ("worker", "status"): Entry(("worker", "status"), reads=True),
    ("worker", "retry"): Entry(("worker", "retry")),
    ("worker",): Entry(("worker", "--port", "0"), runs_a_model=True, reaches_the_provider=True, serves=True),
    ("simulate",): Entry(("simulate", "--port", "0"), serves=True, without_ledger=True),
}


def existing_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each command that does something itself."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from existing_commands(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*path, name)
