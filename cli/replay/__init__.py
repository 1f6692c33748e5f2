"""Implement `threadledger replay`: rebuild never calls a model; rerun calls one and shows the cost first."""

from __future__ import annotations

import click

from ..main import LazyGroup, common


@click.group(
    cls=LazyGroup,
    places={
        "rebuild": (".replay.rebuild", "rebuild", "Rewrite threads from the journal. Never calls a model."),
        "rerun": (".replay.rerun", "rerun", "Rerun failed exchanges. Shows calls and cost first."),
        "verify": (".replay.reconcile", "verify", "Compare threads with the journal."),
        "reconcile": (".replay.reconcile", "reconcile", "Repair threads that have drifted from the journal."),
        "jobs": (".replay.jobs", "jobs", "List bulk jobs and their progress."),
        "resume": (".replay.jobs", "resume", "Resume a job where it stopped."),
        "cancel": (".replay.jobs", "cancel", "Cancel a job; completed items are kept."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@common
def replay() -> None:
    """Rebuild threads from the journal and rerun failed exchanges. Prints a plan; --apply executes it."""
