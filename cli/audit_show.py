"""Implement `threadledger audit show`, which shows one run and its exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .audit_timeline import draw_timeline
from .exits import Exit
from .invocation import common, opened
from .output import clock, emit_one, printable, short

if TYPE_CHECKING:
    from rich.console import Console

    from threadledger.domain import Exchanges, Ledger, RunRecord, ShownMemory

FACTS = (
    *("key", "backend", "model", "attempt", "started_at", "duration_seconds", "status", "code", "type", "message"),
    *(
        "http_status",
        "request_id",
        "remote_run_id",
        "thread_id",
        "memory_version",
        "memory_rule",
        "rerun_of",
        "details",
    ),
)

HASH_CHARS = 12
"""Number of characters of a hash shown in tables."""


@click.command()
@click.argument("run")
@click.option("--memory", "with_memory", is_flag=True, help="Also show the exact memory that the model saw.")
@common
def show(run: str, with_memory: bool) -> int:
    """Show one run, found by its id or by the id ending shown in tables."""
    from threadledger.domain import memory_shown, recorded_failure

    with opened() as ledger:
        ledger.close_overdue_runs()
        record, folded = ledger.run(run)
        thing = _as_json(ledger, record, folded)
        shown = memory_shown(ledger.journal, record) if with_memory else None
    if shown is not None:
        thing["memory"] = _memory_as_json(shown)
    advice = recorded_failure(record, folded.exchange_of(record)).advice_here()
    emit_one(thing, lambda console: _draw(console, thing, advice))
    return Exit.DONE


def _as_json(ledger: Ledger, run: RunRecord, folded: Exchanges) -> dict[str, Any]:
    from threadledger.domain import named_group, recorded_failure, to_iso

    exchange = folded.exchange_of(run)
    told = recorded_failure(run, exchange).as_json()
    if run.failure is None:
        told |= {"status": run.state, "cause": None, "advice": None, "next": None}
    if run.completed is not None:
        told |= {"remote_run_id": run.completed.remote_run_id, "thread_id": run.completed.thread_id}
    return told | {
        "partial_text": run.failure.partial_text if run.failure is not None else None,
        "started_at": to_iso(run.started_at),
        "ended_at": to_iso(run.ended_at) if run.ended_at else None,
        "memory_version": run.memory_version,
        "memory_rule": run.memory_rule,
        "memory_hash": run.memory_hash,
        "profile_hash": run.profile_hash,
        "profile": _profile_as_json(ledger, run.profile_hash),
        "rerun_of": run.rerun_of,
        "group": named_group(run.failure, run.backend).id if run.failure is not None else None,
        "rerun": _rerun(run, exchange.answered_by),
        "exchange": [_step_as_json(each) for each in exchange.runs],
    }


def _step_as_json(run: RunRecord) -> dict[str, Any]:
    from threadledger.domain import diagnose, to_iso

    return {
        "run_id": run.run_id,
        "backend": run.backend,
        "attempt": run.attempt,
        "state": run.state,
        "next": run.next,
        "cause": diagnose(run.failure).value if run.failure is not None else None,
        "started_at": to_iso(run.started_at),
        "ended_at": to_iso(run.ended_at) if run.ended_at else None,
        "duration_seconds": run.duration_seconds,
        "rerun_of": run.rerun_of,
        "shadow": run.shadow,
    }


def _profile_as_json(ledger: Ledger, profile_hash: str | None) -> dict[str, Any] | None:
    from threadledger.domain import defined_profile, tool_names

    profile = defined_profile(ledger.journal, profile_hash)
    if profile is None:
        return None
    return {"hash": profile_hash, "name": profile.name, "model": profile.model, "tools": tool_names(profile)}


def _memory_as_json(shown: ShownMemory) -> dict[str, Any]:
    return {
        "version": shown.memory.version,
        "rule": shown.memory.rule,
        "hash": shown.hash,
        "recorded_hash": shown.recorded_hash,
        "same": shown.same,
        "messages": [each.as_json() for each in shown.memory.mended()],
    }


def _rerun(run: RunRecord, answered_by: str | None) -> str | None:
    """Return the command that reruns a run; if its exchange is answered, as a shadow run, whose answer is only shown."""
    if run.state == "open":
        return None
    how = "--into shadow" if answered_by is not None else "--apply"
    return f"threadledger replay rerun {short(run.run_id)} {how}"


def _draw(console: Console, thing: dict[str, Any], advice: str) -> None:
    from rich.text import Text

    console.print(Text(f"run {thing['run_id']}", style="bold"))
    console.print(_facts(thing))
    console.print()
    if thing["partial_text"]:
        console.print(Text("partial text", style="bold"))
        console.print(Text(printable(thing["partial_text"])))
        console.print()
    if thing["cause"]:
        console.print(Text(f"cause   {thing['cause']}", style="bold red"))
        console.print(Text(f"group   {thing['group']}"))
        console.print(Text(f"advice  {advice}"))
        console.print()
    draw_timeline(console, thing)
    answered = f"answered by {short(thing['answered_by'])}" if thing["answered_by"] else "not answered yet"
    console.print(Text(f"  {answered}", style="green" if thing["answered_by"] else "red"))
    if thing["rerun"]:
        console.print()
        console.print(Text("rerun", style="bold"), Text(f"  {thing['rerun']}"), sep="\n")
    if "memory" in thing:
        console.print()
        _draw_memory(console, thing["memory"])


def _facts(thing: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in FACTS:
        if thing[name] not in (None, {}, ""):
            facts.add_row(Text(name.replace("_", " "), style="dim"), Text(printable(str(thing[name]))))
    if thing["profile_hash"]:
        profile = thing["profile"] or {"name": "(not in this ledger)", "model": None, "tools": []}
        told = [profile["name"], profile["model"], ", ".join(profile["tools"]), thing["profile_hash"][:HASH_CHARS]]
        facts.add_row(Text("profile", style="dim"), Text(printable(" · ".join(filter(None, told)), lines=False)))
    return facts


def _draw_memory(console: Console, memory: dict[str, Any]) -> None:
    from rich.text import Text

    proof = {
        True: ("this is what the model saw: its hash equals the recorded hash", "green"),
        False: ("this is NOT what the model saw: its hash differs from the recorded hash", "bold red"),
        None: ("the run has no recorded hash: it cannot be verified that the model saw this", "yellow"),
    }
    said, style = proof[memory["same"]]
    head = Text("the memory", style="bold")
    head.append(
        f"  version {memory['version']}, rule {memory['rule']}, {memory['hash'][:HASH_CHARS]}", style="not bold dim"
    )
    console.print(head)
    console.print(Text(f"  {said}", style=style))
    for message in memory["messages"]:
        console.print()
        line = Text(f"{message['role']}", style="bold")
        line.append(f"  {clock(message['at'])}  v{message['version']}", style="not bold dim")
        console.print(line)
        content = message["content"]
        texts = (
            [content] if isinstance(content, str) else [part.get("text", f"[{part['type']}]") for part in content or ()]
        )
        texts += [f"{call['function']['name']}({call['function']['arguments']})" for call in message["tool_calls"]]
        for text in texts:
            console.print(Text(printable(text)))
