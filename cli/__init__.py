"""The commands. Each stands in a module of its own that is loaded when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from threadledger import __version__

from .invocation import common
from .lazy import LazyGroup

__all__ = ["main", "replay_main"]

COMMANDS = {
    "init": (".init", "init", "Write .env from the example and create the database."),
    "demo": (".demo", "demo", "Tell the whole story on a scratch database and a simulator."),
    "doctor": (".doctor", "doctor", "What is wrong, why, and what mends it."),
    "ask": (".ask", "ask", "Ask one question; the answer is on stdout."),
    "chat": (".chat", "chat", "Talk in the terminal."),
    "append": (".append", "append", "Journal a message; no model is called."),
    "list": (".list_", "list_", "Conversations, newest first."),
    "show": (".show", "show", "One conversation."),
    "diff": (".diff", "diff", "A memory then and now, or against its thread."),
    "fork": (".fork", "fork", "A new conversation that begins as another one was."),
    "events": (".events", "events", "The log."),
    "audit": (".audit", "audit", "Every run failure: why, and what was done about it."),
    "replay": (".replay", "replay", "Rebuild threads, rerun failed exchanges, verify."),
    "import": (".import_", "import_", "Conversations from a JSON-lines file."),
    "export": (".export", "export", "Conversations to JSON lines."),
    "db": (".db", "db", "The database."),
    "config": (".config", "config", "Settings as they stand."),
    "simulate": (".simulate", "simulate", "Serve a provider to rehearse with."),
}


@click.group(cls=LazyGroup, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="threadledger")
@common
def root() -> None:
    """Your conversations outlive any provider's threads.

    An event-sourced conversation store: every message and every run is journaled, failures are explained, threads are
    rebuilt. Start with: threadledger demo
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """The `threadledger` command; returns its exit code (CONTRACT: exit codes)."""
    from .exits import run

    return run(root, "threadledger", list(sys.argv[1:] if arguments is None else arguments))


def replay_main(arguments: Sequence[str] | None = None) -> int:
    """The `replay` command, short for `threadledger replay`."""
    from .exits import run
    from .replay import replay

    return run(replay, "replay", list(sys.argv[1:] if arguments is None else arguments))
