"""`threadledger replay`: rebuild writes memory and cannot call a model; rerun calls one, and says so first."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .confirm import confirm
from .exits import Exit
from .invocation import KEY, MomentParameter, common, complete_keys, invocation, opened
from .lazy import LazyGroup
from .output import counted, emit_many, note, short, short_thread
from .progress import tracked

if TYPE_CHECKING:
    from threadledger.domain import Ledger, RebuildItem, RerunItem

NOTHING_TO_RERUN = "nothing to rerun: no exchange has failed and waits for an answer"

KINDS = click.Choice(["conversations", "assistants"])


@click.group(
    cls=LazyGroup,
    places={
        "rebuild": (".replay", "rebuild", "Write threads anew from the journal. Never calls a model."),
        "rerun": (".replay", "rerun", "Run failed exchanges again. Says first what it calls and costs."),
        "verify": (".replay", "verify", "Threads against the journal."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@common
def replay() -> None:
    """Memory from the journal, and failed exchanges again. Prints a plan; --apply does it."""


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="The kind of thread; by default THREADLEDGER_THREADS.")
@click.option("--at", type=MomentParameter(versions=True), metavar="VERSION|TIME", help="The memory as it was then.")
@click.option("--fresh", is_flag=True, help="A new thread even where the old one is sound.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N conversations.")
@click.option("--apply", is_flag=True, help="Do it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def rebuild(
    keys: tuple[str, ...],
    everything: bool,
    to: str | None,
    at: datetime | int | None,
    fresh: bool,
    limit: int | None,
    apply: bool,
    yes: bool,
) -> int:
    """Write threads anew from the journal, read them back, and link those that are equal. Never calls a model."""
    _one_choice(bool(keys), everything)
    with opened() as ledger:
        plan = ledger.replay.plan_rebuild(None if everything else list(keys), to, at, fresh, limit)
        if apply:
            messages = sum(item.messages for item in plan.items)
            confirm(
                len(plan.items), f"write {counted(len(plan.items), 'thread')} with {counted(messages, 'message')}", yes
            )
            for _ in tracked(plan.each(), len(plan.items), "rebuilding"):
                pass
        _show_rebuild(plan.items, applied=apply)
    return Exit.SOME_FAILED if any(item.state == "failed" for item in plan.items) else Exit.DONE


@click.command()
@click.argument("targets", nargs=-1, metavar="[RUN|KEY]...")
@click.option("--failed", is_flag=True, help="Every exchange that nobody answered.")
@click.option("--since", type=MomentParameter(), metavar="T", help="Failed then or later.")
@click.option("--cause", metavar="C", help="Failed for this cause.")
@click.option("--backend", metavar="B", help="Failed on this backend.")
@click.option("--model", metavar="M", help="Use this model instead of the settings'.")
@click.option(
    "--tools",
    type=click.Choice(["recorded", "live"]),
    default="recorded",
    show_default=True,
    help="Calls of functions that are on record: answered from there, or made anew.",
)
@click.option("--max-runs", type=click.IntRange(min=1), metavar="N", help="Stop after N runs; the rest stays planned.")
@click.option("--apply", is_flag=True, help="Do it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def rerun(
    targets: tuple[str, ...],
    failed: bool,
    since: datetime | None,
    cause: str | None,
    backend: str | None,
    model: str | None,
    tools: str,
    max_runs: int | None,
    apply: bool,
    yes: bool,
) -> int:
    """Run failed exchanges again: those of a RUN, of a conversation KEY, or all (--failed)."""
    _one_choice(bool(targets), failed)
    with opened() as ledger:
        runs, keys = _runs_and_keys(ledger, targets)
        plan = ledger.replay.plan_rerun(runs, keys, failed, since, cause, backend, model, tools)
        planned = [item for item in plan.items if item.state == "planned"]
        if apply:
            confirm(len(planned), f"ask {counted(len(planned), 'question')} again ({_told_cost(planned)})", yes)
            for _ in tracked(plan.each(max_runs), len(planned), "rerunning"):
                pass
        _show_rerun(plan.items, applied=apply)
    if any(item.state == "failed" for item in plan.items):
        return Exit.SOME_FAILED
    return Exit.LIMIT_REACHED if plan.stopped_by_limit else Exit.DONE


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="The kind of thread; by default those that are linked.")
@common
def verify(keys: tuple[str, ...], everything: bool, to: str | None) -> int:
    """Compare threads with the journal, message by message. Nothing is written. Exit 4 on drift."""
    from threadledger.domain import ProviderRefused

    _one_choice(bool(keys), everything)
    with opened() as ledger:
        chosen = ledger.replay.keys(None if everything else list(keys))
        found, refused = [], 0
        for key in tracked(chosen, len(chosen), "verifying"):
            try:
                found += ledger.replay.verify([key], to)
            except ProviderRefused as error:
                if len(chosen) == 1:
                    raise
                refused += 1
                note(f"{key}: the provider cannot be asked ({error})")
    rows = [each.as_json() for each in found]
    emit_many(
        _for_people(rows),
        ("key", "backend", "thread_id", "journal", "thread", "missing", "extra", "different", "state"),
    )
    drifted = [row for row in rows if row["state"] in {"behind", "drifted", "gone"}]
    if drifted and invocation().output == "table":
        told = f"{len(drifted)} of {counted(len(rows), 'thread')} not as the journal says"
        note(f"{told}; write anew with: threadledger replay rebuild KEY --apply")
    if refused:
        return Exit.SOME_FAILED
    return Exit.FOUND_SOMETHING if drifted else Exit.DONE


def _one_choice(named: bool, everything: bool) -> None:
    if named == everything:
        raise click.UsageError(
            "name conversations, or say --all (rerun: --failed), but not both", click.get_current_context()
        )


def _runs_and_keys(ledger: Ledger, targets: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What is not a conversation's key is taken for a run."""
    known = {state.key for state in ledger.conversations()}
    return [each for each in targets if each not in known], [each for each in targets if each in known]


def _show_rebuild(items: list[RebuildItem], *, applied: bool) -> None:
    rows: list[dict[str, Any]] = [item.as_json() for item in items]
    written = (
        ("thread_id", "messages", "sent", "losses", "verified") if applied else ("old_thread_id", "messages", "losses")
    )
    emit_many(_for_people(rows), ("key", "backend", *written, "state", "reason"))
    if invocation().output == "table":
        count = {state: sum(item.state == state for item in items) for state in ("done", "failed", "skipped")}
        note(
            f"{count['done']} written and verified, {count['skipped']} skipped, {count['failed']} failed"
            if applied
            else f"plan: {counted(len(items), 'thread')}, {counted(sum(item.messages for item in items), 'message')}; "
            "nothing was done, --apply does it"
        )


def _show_rerun(items: list[RerunItem], *, applied: bool) -> None:
    rows: list[dict[str, Any]] = [item.as_json() for item in items]
    columns = ("run", "key", "backend", "model", "tokens", "USD", "state", "reason", "answer")
    emit_many(
        _for_people(rows),
        columns if applied else columns[:-1],
        empty=NOTHING_TO_RERUN,
    )
    if invocation().output == "table" and not applied and items:
        planned = [item for item in items if item.state == "planned"]
        told = (
            f"{counted(len(planned), 'question')} asked again ({_told_cost(planned)})" if planned else "nothing to ask"
        )
        note(f"plan: {told}; nothing was done, --apply does it")


def _for_people(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In a table, ids by their ending; elsewhere the rows as they are."""
    if invocation().output != "table":
        return rows
    short_ids = {"thread_id": short_thread, "old_thread_id": short_thread}
    return [
        {name: short_ids[name](value) if name in short_ids else value for name, value in row.items()}
        | {"run": short(row.get("run_id")), "tokens": row.get("estimated_tokens"), "USD": row.get("estimated_cost")}
        for row in rows
    ]


def _told_cost(items: list[RerunItem]) -> str:
    from threadledger.adapters import prices_from

    tokens = sum(item.estimated_tokens or 0 for item in items)
    costs = [item.estimated_cost for item in items if item.estimated_cost is not None]
    if len(costs) < len(items) or not costs:
        return f"about {tokens} tokens of input, cost unknown: pip install 'threadledger[prices]' brings prices"
    return f"about {tokens} tokens of input, {sum(costs):.4f} USD by {prices_from()}"
