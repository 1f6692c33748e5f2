"""`threadledger replay`: rebuild writes memory and cannot call a model; rerun calls one, and says so first."""

from __future__ import annotations

import click

from .invocation import common
from .lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    places={
        "rebuild": (".rebuild", "rebuild", "Write threads anew from the journal. Never calls a model."),
        "rerun": (".rerun", "rerun", "Run failed exchanges again. Says first what it calls and costs."),
        "verify": (".verify", "verify", "Threads against the journal."),
        "reconcile": (".reconcile", "reconcile", "Threads that have drifted from the journal, mended."),
        "jobs": (".jobs", "jobs", "Mass work, under way and done."),
        "resume": (".jobs", "resume", "Go on with a job where it stopped."),
        "cancel": (".jobs", "cancel", "Nobody goes on with a job."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@common
def replay() -> None:
    """Memory from the journal, and failed exchanges again. Prints a plan; --apply does it."""
