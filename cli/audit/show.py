"""Implement `threadledger audit show`: one run and its exchange, whose runs are drawn as bars on one time scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..main import Exit, common, opened
from ..output import WIDE_TERMINAL, clock, emit_one, print_text, prose, short, span
from ..terminal import printable

if TYPE_CHECKING:
    from rich.console import Console


FACTS = (
    *(
        "key",
        "backend",
        "model",
        "endpoint",
        "dropped",
        "losses",
        "attempt",
        "actor",
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
    from threadledger.adapters.documents import memory_document, run_document
    from threadledger.domain.conversation import recorded_failure
    from threadledger.domain.ledger import memory_shown

    with opened(reads=True) as ledger:
        ledger.close_overdue_runs()
        record, folded = ledger.run(run)
        thing = run_document(ledger, record, folded)
        shown = memory_shown(ledger.journal, record) if with_memory else None
    if shown is not None:
        thing["memory"] = memory_document(shown)
    advice = recorded_failure(record, folded.exchange_of(record)).advice_here()
    emit_one(thing, lambda console: _draw(console, thing, advice))
    return Exit.DONE


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
        prose(console, f"advice  {advice}")
        console.print()
    draw_timeline(console, thing)
    answered = "not answered yet" if thing["unanswered"] else "no question waits for it"
    if thing["answered_by"]:
        answered = f"answered by {short(thing['answered_by'])}"
    console.print(Text(f"  {answered}", style="red" if thing["unanswered"] else "green"))
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

STYLES = {"completed": "green", "failed": "red", "open": "yellow"}


def draw_timeline(console: Console, thing: dict[str, Any]) -> None:
    """Draw the exchange of `audit show`; an arrow marks the run that was requested."""
    from rich.text import Text

    from threadledger.adapters.documents import timeline_document

    runs = timeline_document(thing)
    whole = max(each["begin_seconds"] + each["lasted_seconds"] for each in runs)
    narrow = console.width < WIDE_TERMINAL
    unit = whole / (NARROW_BAR_CHARS_MAX if narrow else BAR_CHARS_MAX)
    head = Text("the exchange", style="bold")
    if unit:
        head.append(f"  from {clock(thing['exchange'][0]['started_at'])}, █ is {_unit(unit)}", style="not bold dim")
    console.print(head)
    backends = max(len(each["backend"]) for each in runs)
    labels = [_label(each, thing["run_id"], backends) for each in runs]
    width = max(len(f"{who}  {ending}") for who, ending in labels)
    for each, label in zip(runs, labels, strict=True):
        if each["pause_seconds"]:
            console.print(Text(f"  … {span(each['pause_seconds'])} later", style="dim"))
        for line in _lines(each, label, unit, width, narrow):
            console.print(line, soft_wrap=True)


def _lines(each: dict[str, Any], label: tuple[str, str], unit: float, width: int, narrow: bool) -> Iterator[Any]:
    from rich.text import Text

    who, ending = label
    before = round(each["begin_seconds"] / unit) if unit else 0
    length = max(round(each["lasted_seconds"] / unit), 1) if unit else 1
    drawn = (
        Text(" " * before).append("█" * length, style=STYLES[each["state"]]).append(f" {span(each['lasted_seconds'])}")
    )
    if narrow:
        yield Text(who.rstrip())
        yield Text(f"    {ending}")
        yield Text(" " * 4).append_text(drawn)
    else:
        yield Text(f"{who}  {ending}".ljust(width + 2)).append_text(drawn)


def _label(run: dict[str, Any], run_id: str, width: int) -> tuple[str, str]:
    """Return the label of a run (id, backend, attempt) and its outcome."""
    ending = run["state"] + (f" ({run['cause']}), {run['next']}" if run["state"] == "failed" else "")
    kind = "shadow  " if run["shadow"] else "rerun  " if run["rerun_of"] else ""
    mark = "→" if run["run_id"] == run_id else " "
    backend = printable(run["backend"], lines=False).ljust(width)
    return f"{mark} {short(run['run_id'])}  {backend}  attempt {run['attempt']}", f"{kind}{ending}"


def _unit(seconds: float) -> str:
    return f"{seconds * 1_000:.3g} ms" if seconds < 1 else span(seconds)
