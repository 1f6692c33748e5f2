"""`threadledger import`: conversations from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from .exits import Exit
from .invocation import common, invocation, load_settings, opened
from .output import counted, emit_many, note
from .progress import tracked

if TYPE_CHECKING:
    from threadledger.adapters import Imported

FORMATS = ("jsonl", "threads", "chatgpt", "agents-sqlite")

ROWS_SHOWN_MAX = 50
"""Conversations that a table shows beside those that failed."""


@click.command("import")
@click.argument("file", required=False)
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    help="What FILE is. By default this is told from its content, and said.",
)
@click.option(
    "--threads",
    "ids",
    type=click.File("rb"),
    metavar="IDS",
    help="Instead of FILE: read the threads of these ids from the provider, one a line (thread_... or conv_...).",
)
@click.option("--from", "base_url", metavar="BASE_URL", help="With --threads: the provider, if not the settings' own.")
@click.option(
    "--key-from",
    metavar="NAME",
    default="threadledger_key",
    show_default=True,
    help="Of threads: the metadata that holds the conversation's key, else the thread's id is it; `id`: always the id.",
)
@common
def import_(file: str | None, kind: str | None, ids: Any, base_url: str | None, key_from: str) -> int:
    """Import conversations from FILE; - is standard input, .gz is unpacked.

    jsonl: one JSON object a line. threads: messages of Assistants threads as the API lists them. chatgpt:
    conversations.json of ChatGPT's data export, or its zip. agents-sqlite: an Agents SDK session database.

    The same file twice changes nothing; what has grown is added. A bad line or conversation is reported with its
    number, the good ones are kept (exit 3).
    """
    context = click.get_current_context()
    if (file is None) == (ids is None):
        raise click.UsageError("name a FILE, or --threads with a file of ids, but not both", context)
    if base_url is not None and ids is None:
        raise click.UsageError("--from goes together with --threads", context)
    if kind is not None and ids is not None:
        raise click.UsageError("--format is for a FILE: threads that are read live have none", context)
    tally = _Tally()
    if file is None:
        _import_live(ids, base_url, key_from, tally)
    else:
        _import_file(file, kind, key_from, tally)
    return Exit.SOME_FAILED if tally.states["failed"] else Exit.DONE


def _import_file(file: str, kind: str | None, key_from: str, tally: _Tally) -> None:
    from threadledger.adapters import import_found, import_source

    with import_source(file, kind, key_from) as source, opened(create=True) as ledger:
        if source.told:
            note(f"{'standard input' if file == '-' else file} is read as {source.format}")
        found = tracked(source.found, source.total, "importing")
        _show(tally.watched(import_found(ledger, found)), tally)


def _import_live(ids: Any, base_url: str | None, key_from: str, tally: _Tally) -> None:
    from threadledger.adapters import import_threads, thread_reader

    wanted = list(_ids(ids))
    with closing(thread_reader(load_settings(openai_base_url=base_url))) as reader, opened(create=True) as ledger:
        found = import_threads(ledger, reader, tracked(wanted, len(wanted), "reading"), key_from)
        _show(tally.watched(found), tally)


def _ids(file: Any) -> Iterator[tuple[int, str]]:
    """(number, id) of each line; empty lines and those that begin with # are passed over."""
    for number, line in enumerate(file, 1):
        try:
            thread_id = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise click.UsageError(f"line {number} of the ids is not UTF-8 text: save the file as UTF-8") from None
        if thread_id and not thread_id.startswith("#"):
            yield number, thread_id


def _show(outcomes: Iterable[Imported], tally: _Tally) -> None:
    """Each conversation as data; in a table those that failed or were not carried whole."""
    if invocation().output != "table":
        emit_many((outcome.as_json() for outcome in outcomes), ())
        return
    rows: list[dict[str, Any]] = []
    more = 0
    for outcome in outcomes:
        if outcome.state == "failed" or (len(rows) < ROWS_SHOWN_MAX and (outcome.left_out or outcome.reason)):
            rows.append(outcome.as_json())
        else:
            more += bool(outcome.left_out or outcome.reason)
    whole = "every line was read" if tally.read else "there was nothing to import"
    emit_many(rows, ("line", "key", "state", "left_out", "reason"), empty=whole)
    if more:
        note(f"{counted(more, 'more conversation')} with something left out: -o jsonl shows all")
    tally.tell()


class _Tally:
    """What the conversations of an import come to."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.messages = self.read = 0

    def watched(self, outcomes: Iterable[Imported]) -> Iterator[Imported]:
        for outcome in outcomes:
            self.read += 1
            self.states[outcome.state] += 1
            self.messages += outcome.messages
            self.left_out.update(outcome.left_out)
            yield outcome

    def tell(self) -> None:
        states = ", ".join(f"{self.states[state]} {state}" for state in ("imported", "extended", "unchanged", "failed"))
        note(f"{states}; {self.messages} messages journaled")
        if self.left_out:
            told = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in sorted(self.left_out.items()))
            note(f"left out or changed in form: {told}")
