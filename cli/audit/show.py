"""Implement `threadledger audit show`: one run and its exchange, whose runs are drawn as bars on one time scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..main import Exit, common, opened
from ..output import WIDE_TERMINAL, clock, emit_one, print_text, short, span
from ..terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from threadledger.domain.conversation import Exchanges, RunRecord
    from threadledger.domain.ledger import Ledger, ShownMemory

FACTS = (
    *(
        "key",
        "backend",
        "model",
        "endpoint",
        "dropped",
        "losses",
        "attempt",
        "started_at",
        "duration_seconds",
        "status",
        "code",
    ),
    *("type", "message", "http_status", "request_id", "remote_run_id", "thread_id", "memory_version", "memory_rule"),
    *("rerun_of", "continues_run_id", "continued_chars", "details"),
)

HASH_CHARS = 12
"""Number of characters of a hash shown in tables."""


@click.command()
@click.argument("run")
@click.option("--memory", "with_memory", is_flag=True, help="Also show the exact memory that the model saw.")
@common
def show(run: str, with_memory: bool) -> int:
    """Show one run, found by its id or by the id ending shown in tables."""
    from threadledger.domain.conversation import recorded_failure
    from threadledger.domain.ledger import memory_shown

    with opened(reads=True) as ledger:
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
    from threadledger.domain.conversation import recorded_failure
    from threadledger.domain.failures import GroupName
    from threadledger.domain.ids import to_iso

    exchange = folded.exchange_of(run)
    facts = recorded_failure(run, exchange).as_json()
    if run.failure is None:
        facts |= {"status": run.state, "cause": None, "advice": None, "next": None}
    if run.completed is not None:
        facts |= {"remote_run_id": run.completed.remote_run_id, "thread_id": run.completed.thread_id}
    return facts | {
        "partial_text": run.failure.partial_text if run.failure is not None else None,
        "started_at": to_iso(run.started_at),
        "ended_at": to_iso(run.ended_at) if run.ended_at else None,
        "memory_version": run.memory_version,
        "memory_rule": run.memory_rule,
        "memory_hash": run.memory_hash,
        "profile_hash": run.profile_hash,
        "profile": _profile_as_json(ledger, run.profile_hash),
        "rerun_of": run.rerun_of,
        "group": GroupName.of(run.failure, run.backend).id if run.failure is not None else None,
        "rerun": _rerun(run, exchange.answered_by),
        "exchange": [_step_as_json(each) for each in exchange.runs],
        "dropped": list(run.dropped),
        "losses": run.all_losses,
        "rendering": run.rendering,
        "continues_run_id": run.continues_run_id,
        "continued_chars": run.continued_chars or None,
    }


def _step_as_json(run: RunRecord) -> dict[str, Any]:
    from threadledger.domain.failures import diagnose
    from threadledger.domain.ids import to_iso

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
        "endpoint": run.endpoint,
        "dropped": list(run.dropped),
        "losses": run.all_losses,
    }


def _profile_as_json(ledger: Ledger, profile_hash: str | None) -> dict[str, Any] | None:
    from threadledger.domain.ledger import defined_profile, tool_names

    profile = defined_profile(ledger.journal, profile_hash)
    if profile is None:
        return None
    named = {"hash": profile_hash, "name": profile.name, "model": profile.model, "tools": tool_names(profile)}
    return named | {"settings": profile.settings}


def _memory_as_json(shown: ShownMemory) -> dict[str, Any]:
    return {
        "version": shown.memory.version,
        "rule": shown.memory.rule,
        "hash": shown.hash,
        "recorded_hash": shown.recorded_hash,
        "same": shown.same,
        "messages": [each.as_json() for each in shown.memory.paired()],
        "instructions": shown.profile.instructions if shown.profile is not None else None,
        "tools": shown.profile.tools if shown.profile is not None else None,
        "options": _options_as_json(shown),
    }


def _options_as_json(shown: ShownMemory) -> dict[str, Any] | None:
    """Return what the question was asked with beyond the defaults; None if there was nothing."""
    if shown.sent is None:
        return None
    sent = shown.sent
    return {
        "model": sent.model,
        "backend": sent.backend,
        "profile_hash": sent.profile_hash,
        "metadata": sent.metadata,
        "timeout_seconds": sent.timeout_seconds,
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
        print_text(console, thing["partial_text"])
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
        if thing["continues_run_id"]:
            continued = f"{thing['continued_chars']} characters that run {short(thing['continues_run_id'])} had said"
            console.print(Text(f"\nand after it the first {continued}, with the instruction to continue them"))


def _facts(thing: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from threadledger.domain.memory.sending import losses_in_words

    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in FACTS:
        value = ", ".join(thing[name]) if name == "dropped" else thing[name]
        if name == "losses":
            value = losses_in_words(thing[name])
        if value not in (None, {}, ""):
            facts.add_row(Text(name.replace("_", " "), style="dim"), Text(printable(str(value))))
    if thing["profile_hash"]:
        profile = thing["profile"] or {"name": "(not in this ledger)", "model": None, "tools": [], "settings": {}}
        parts = [profile["name"], profile["model"], ", ".join(profile["tools"]), thing["profile_hash"][:HASH_CHARS]]
        facts.add_row(Text("profile", style="dim"), Text(printable(" · ".join(filter(None, parts)), lines=False)))
        for name, value in profile["settings"].items():
            facts.add_row(Text(name.replace("_", " "), style="dim"), Text(printable(_short_json(value), lines=False)))
    return facts


SETTING_CHARS_MAX = 200
"""Maximum characters of a setting that is shown in a table, such as the schema of an answer."""


def _short_json(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SETTING_CHARS_MAX else f"{text[:SETTING_CHARS_MAX]}…"


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
    for name, value in (memory["options"] or {}).items():
        if value:
            console.print(Text(f"  {name.replace('_', ' ')} {printable(_short_json(value), lines=False)}", style="dim"))
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
            print_text(console, text)


BAR_CHARS_MAX, NARROW_BAR_CHARS_MAX = 48, 24
"""Width of the whole exchange's bars, in characters, on a wide and on a narrow terminal."""

PAUSE_SHOWN_MAX = 3.0
"""Longest pause drawn to scale, as a multiple of the duration of all runs together. A longer pause is printed as text,
because a rerun may follow days later."""

STYLES = {"completed": "green", "failed": "red", "open": "yellow"}


@dataclass(frozen=True)
class Placed:
    """Represent a run on the time scale: its start after the first run and its duration, in seconds.

    `pause` is a long pause before the run that is not drawn to scale, in seconds.
    """

    run: dict[str, Any]
    begin: float
    seconds: float
    pause: float = 0.0


def placed(runs: Sequence[dict[str, Any]], until: str) -> list[Placed]:
    """Place the runs of `audit show` on one time scale; an open run lasts until `until`."""
    from threadledger.domain.ids import from_iso

    spans = [(from_iso(run["started_at"]), from_iso(run["ended_at"] or until)) for run in runs]
    together = sum((end - begin).total_seconds() for begin, end in spans)
    found: list[Placed] = []
    shift, last = 0.0, spans[0][0]
    for run, (begin, end) in zip(runs, spans, strict=True):
        pause = (begin - last).total_seconds()
        left_out = pause if pause > max(PAUSE_SHOWN_MAX * together, 1.0) else 0.0
        shift += left_out
        offset = (begin - spans[0][0]).total_seconds() - shift
        found.append(Placed(run, max(offset, 0.0), max((end - begin).total_seconds(), 0.0), left_out))
        last = max(last, end)
    return found


def draw_timeline(console: Console, thing: dict[str, Any]) -> None:
    """Draw the exchange of `audit show`; an arrow marks the run that was requested."""
    from rich.text import Text

    from threadledger.domain.ids import now, to_iso

    runs = placed(thing["exchange"], to_iso(now()))
    whole = max(each.begin + each.seconds for each in runs)
    narrow = console.width < WIDE_TERMINAL
    unit = whole / (NARROW_BAR_CHARS_MAX if narrow else BAR_CHARS_MAX)
    head = Text("the exchange", style="bold")
    if unit:
        head.append(f"  from {clock(thing['exchange'][0]['started_at'])}, █ is {_unit(unit)}", style="not bold dim")
    console.print(head)
    backends = max(len(each.run["backend"]) for each in runs)
    labels = [_label(each, thing["run_id"], backends) for each in runs]
    width = max(len(f"{who}  {ending}") for who, ending in labels)
    for each, label in zip(runs, labels, strict=True):
        if each.pause:
            console.print(Text(f"  … {span(each.pause)} later", style="dim"))
        for line in _lines(each, label, unit, width, narrow):
            console.print(line, soft_wrap=True)


def _lines(each: Placed, label: tuple[str, str], unit: float, width: int, narrow: bool) -> Iterator[Any]:
    from rich.text import Text

    who, ending = label
    before = round(each.begin / unit) if unit else 0
    length = max(round(each.seconds / unit), 1) if unit else 1
    drawn = Text(" " * before).append("█" * length, style=STYLES[each.run["state"]]).append(f" {span(each.seconds)}")
    if narrow:
        yield Text(who.rstrip())
        yield Text(f"    {ending}")
        yield Text(" " * 4).append_text(drawn)
    else:
        yield Text(f"{who}  {ending}".ljust(width + 2)).append_text(drawn)


def _label(each: Placed, run_id: str, width: int) -> tuple[str, str]:
    """Return the label of a run (id, backend, attempt) and its outcome."""
    run = each.run
    ending = run["state"] + (f" ({run['cause']}), {run['next']}" if run["state"] == "failed" else "")
    kind = "shadow  " if run["shadow"] else "rerun  " if run["rerun_of"] else ""
    mark = "→" if run["run_id"] == run_id else " "
    backend = printable(run["backend"], lines=False).ljust(width)
    return f"{mark} {short(run['run_id'])}  {backend}  attempt {run['attempt']}", f"{kind}{ending}"


def _unit(seconds: float) -> str:
    return f"{seconds * 1_000:.3g} ms" if seconds < 1 else span(seconds)
