"""Implement `threadledger replay`: rebuild never calls a model; rerun calls one and shows the cost first."""

from __future__ import annotations

import click

from .invocation import common
from .lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    places={
        "rebuild": (".rebuild", "rebuild", "Rewrite threads from the journal. Never calls a model."),
        "rerun": (".rerun", "rerun", "Rerun failed exchanges. Shows calls and cost first."),
        "verify": (".verify", "verify", "Compare threads with the journal."),
        "reconcile": (".reconcile", "reconcile", "Repair threads that have drifted from the journal."),
        "jobs": (".jobs", "jobs", "List bulk jobs and their progress."),
        "resume": (".jobs", "resume", "Resume a job where it stopped."),
        "cancel": (".jobs", "cancel", "Cancel a job; completed items are kept."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@common
def replay() -> None:
    """Rebuild threads from the journal and rerun failed exchanges. Prints a plan; --apply executes it."""
