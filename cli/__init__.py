"""Define the command line. Each command has its own module, which is loaded only when the command is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from threadledger import __version__

from .main import LazyGroup, common, invocation

__all__ = ["main", "replay_main"]

COMMANDS = {
    "init": (".setup", "init", "Write .env from the example and create the database."),
    "demo": (".demo", "demo", "Run a guided demo on a scratch database and a simulator."),
    "doctor": (".doctor", "doctor", "Diagnose problems and show how to fix them."),
    "ask": (".ask", "ask", "Ask one question and print the answer."),
    "chat": (".ask", "chat", "Chat in the terminal."),
    "append": (".ask", "append", "Journal a message; no model is called."),
    "list": (".conversations", "list_", "List conversations, newest first."),
    "search": (".search", "search", "Find messages by their words."),
    "describe": (".describe", "describe", "Give a conversation title, owner, tags and metadata, or show them."),
    "delete": (".delete", "delete", "Delete conversations; their keys can be used again."),
    "show": (".conversations", "show", "Show one conversation."),
    "message": (".branches", "message", "Edit, regenerate, retract, pin or rate a message."),
    "branch": (".branches", "branch", "List the branches of a conversation, or select one."),
    "call": (".calls", "call", "Approve or reject a tool call that waits."),
    "compact": (".branches", "compact", "Put a summary in place of older messages."),
    "diff": (".diff", "diff", "Compare a memory at two times, or with its thread."),
    "fork": (".conversations", "fork", "Start a new conversation as a copy of another."),
    "events": (".conversations", "events", "Print the event log."),
    "audit": (".audit", "audit", "Show why runs failed and what was done about it."),
    "profile": (".profile", "profile", "List and compare profiles."),
    "threads": (".threads", "threads", "List linked threads and their last verification."),
    "replay": (".replay", "replay", "Rebuild, verify and reconcile threads; rerun exchanges."),
    "import": (".exchange_files", "import_", "Import conversations from files or live threads."),
    "export": (".exchange_files", "export", "Export conversations as JSON Lines or Markdown."),
    "blobs": (".blobs", "blobs", "List, extract and prune attachments."),
    "db": (".db", "db", "Inspect, check, back up and upgrade the database."),
    "trust": (".trust", "trust", "Trust a folder's code and the hosts that it names."),
    "serve": (".serve", "serve", "Serve OpenAI's state APIs from the journal."),
    "worker": (".worker", "worker", "Mirror threads, answer exchanges and work on jobs."),
    "config": (".setup", "config", "Show the effective settings."),
    "simulate": (".setup", "simulate", "Serve a simulator of OpenAI's API."),
}


@click.group(cls=LazyGroup, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="threadledger")
@click.option("--tenant", metavar="T", help="Tenant whose ledger is used, if the database is one for each.")
@common
def root(tenant: str | None) -> None:
    """Keep conversations that outlive any provider's threads.

    threadledger is an event-sourced conversation store: every message and every run is journaled, failures are
    explained, and threads can be rebuilt. Start with: threadledger demo
    """
    invocation().tenant = tenant


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `threadledger` command and return its exit code (docs/commands.md lists the exit codes)."""
    from .main import run

    return run(root, "threadledger", list(sys.argv[1:] if arguments is None else arguments))


def replay_main(arguments: Sequence[str] | None = None) -> int:
    """Run the `replay` command, which is short for `threadledger replay`."""
    from .main import run
    from .replay import replay

    return run(replay, "replay", list(sys.argv[1:] if arguments is None else arguments))
