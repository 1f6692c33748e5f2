"""Explain why runs failed: `threadledger audit`."""

from __future__ import annotations

import click

from ..main import LazyGroup, common


@click.group(
    cls=LazyGroup,
    places={
        "failures": (".audit.failures", "failures", "List failed runs with cause and advice."),
        "groups": (".audit.groups", "groups", "Group failures by cause, backend and message, with trend."),
        "resolve": (".audit.groups", "resolve", "Mark a group as resolved until it fails again."),
        "mute": (".audit.groups", "mute", "Hide a group, permanently or until a time."),
        "reopen": (".audit.groups", "reopen", "Undo resolving or muting a group."),
        "show": (".audit.show", "show", "Show one run: facts, cause, advice, what happened next."),
        "summary": (".audit.summary", "summary", "Show counts, rates, durations and tokens of runs."),
        "report": (".audit.report", "report", "Write failures and statistics to one HTML file."),
        "export": (".audit.report", "export", "Export a run's exchange as a simulator script and test."),
    },
)
@common
def audit() -> None:
    """Show why runs failed and what was done about it."""
