"""Implement `threadledger import` (from files and live threads) and `export` (as JSON Lines or Markdown)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .main import KEY, Exit, common, complete_keys, invocation, load_settings, opened
from .output import counted, emit_many, note, tracked
from .terminal import safe_json

if TYPE_CHECKING:
    from threadledger.adapters import Imported

FORMATS = ("jsonl", "threads", "chatgpt", "claude", "agents-sqlite")

ROWS_SHOWN_MAX = 50
"""Maximum rows in a table before conversations with omitted content are only counted; failed ones are always shown."""


@click.command("import")
@click.argument("file", required=False)
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    help="Format of FILE; by default it is detected from the content.",
)
@click.option(
    "--threads",
    "ids",
    type=click.File("rb"),
    metavar="IDS",
    help="Instead of FILE: read live threads from the provider; IDS lists one id per line (thread_... or conv_...).",
)
@click.option(
    "--from",
    "base_url",
    metavar="BASE_URL",
    help="With --threads: base URL of the provider; default: from the settings.",
)
@click.option(
    "--key-from",
    metavar="FIELD|line",
    default="threadledger_key",
    show_default=True,
    help="Field that holds the conversation's key: of a thread's metadata, else its id is used (`id`: always); of a jsonl "
    "line or its metadata, else `id` is used. `line`: the key of a jsonl line is FILE:LINE.",
)
@click.option(
    "--blobs",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder with the attachments of FILE, as export --blobs wrote it.",
)
@click.option(
    "--tenant",
    metavar="NAME",
    help="Tenant of the served API to which the conversations and assistants will belong.",
)
@common
def import_(
    file: str | None,
    kind: str | None,
    ids: Any,
    base_url: str | None,
    key_from: str,
    blobs: Path | None,
    tenant: str | None,
) -> int:
    """Import conversations from FILE, or from live threads with --threads.

    FILE may be - for standard input; gzip files are decompressed. Formats: jsonl (one conversation per line), threads
    (messages of Assistants threads, and assistants, as the API lists them), chatgpt and claude (conversations.json of
    a data export, or its zip), agents-sqlite (a session database of the OpenAI Agents SDK).

    Importing the same file again changes nothing; new messages are added. Damaged messages are repaired, or omitted and
    counted. A line or conversation of which nothing can be read is reported with its number, and the others are imported
    (exit 3).
    """
    context = click.get_current_context()
    if (file is None) == (ids is None):
        raise click.UsageError("pass either FILE, or --threads with a file of ids", context)
    if base_url is not None and ids is None:
        raise click.UsageError("--from requires --threads", context)
    if kind is not None and ids is not None:
        raise click.UsageError("--format applies only to FILE, not to --threads", context)
    if blobs is not None and ids is not None:
        raise click.UsageError("--blobs applies only to FILE, not to --threads", context)
    tally, owner = _Tally(), _checked_tenant(tenant)
    if file is None:
        _import_live(ids, base_url, key_from, owner, tally)
    else:
        _import_file(file, kind, key_from, blobs, owner, tally)
    return Exit.SOME_FAILED if tally.states["failed"] else Exit.DONE


def _checked_tenant(name: str | None) -> str:
    from threadledger.domain.conversation.tenants import check_tenant

    return check_tenant(name) if name is not None else ""


def _import_file(file: str, kind: str | None, key_from: str, blobs: Path | None, tenant: str, tally: _Tally) -> None:
    from threadledger.adapters import import_found, import_source

    with import_source(file, kind, key_from) as source, opened(create=True) as ledger:
        if source.detected:
            note(f"{'standard input' if file == '-' else file} is read as {source.format}")
        found = tracked(source.found, source.total, "importing")
        _show(tally.watched(import_found(ledger, found, blobs, tenant)), tally)


def _import_live(ids: Any, base_url: str | None, key_from: str, tenant: str, tally: _Tally) -> None:
    from threadledger.adapters import import_threads, thread_reader

    wanted = list(_ids(ids))
    with closing(thread_reader(load_settings(openai_base_url=base_url))) as reader, opened(create=True) as ledger:
        found = import_threads(ledger, reader, tracked(wanted, len(wanted), "reading"), key_from, tenant=tenant)
        _show(tally.watched(found), tally)


def _ids(file: Any) -> Iterator[tuple[int, str]]:
    """Yield the number and id of each line; empty lines and lines that start with # are skipped."""
    for number, line in enumerate(file, 1):
        try:
            thread_id = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise click.UsageError(f"line {number} of the ids is not UTF-8 text: save the file as UTF-8") from None
        if thread_id and not thread_id.startswith("#"):
            yield number, thread_id


def _show(outcomes: Iterable[Imported], tally: _Tally) -> None:
    """Print each conversation as data; a table shows only those that failed or were not imported completely."""
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
    whole = "everything was imported completely" if tally.read else "there is nothing to import"
    emit_many(rows, ("line", "key", "state", "left_out", "reason"), empty=whole)
    if more:
        note(f"{counted(more, 'more conversation')} with omitted content: -o jsonl shows all")
    tally.report()


class _Tally:
    """Count the conversations and messages of an import."""

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

    def report(self) -> None:
        known = ("imported", "extended", "unchanged", "failed", *(["skipped"] if self.states["skipped"] else []))
        states = ", ".join(f"{self.states[state]} {state}" for state in known)
        note(f"{states}; {self.messages} messages journaled")
        if self.left_out:
            omitted = ", ".join(
                f"{number:,} {kind.replace('_', ' ')}" for kind, number in sorted(self.left_out.items())
            )
            note(f"omitted or converted: {omitted}")
        if self.left_out["made_keys"]:
            note("a conversation without a usable id has the key FILE:LINE: --key-from FIELD takes it from a field")


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Export every conversation, in the order they were started.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "messages", "markdown"]),
    default="jsonl",
    show_default=True,
    help="jsonl: messages with id, time and source. messages: plain Chat Completions messages. markdown: readable text.",
)
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of stdout."
)
@click.option(
    "--unchecked", is_flag=True, help="Export damaged events too, and name them on stderr. Exit 4 if there are any."
)
@click.option(
    "--blobs",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write attachments into this folder, named by their hash; messages keep their addresses.",
)
@common
def export(
    keys: tuple[str, ...], everything: bool, kind: str, file: Path | None, unchecked: bool, blobs: Path | None
) -> int:
    """Export conversations as JSON Lines or Markdown.

    The formats jsonl and messages write one object per line: {"id": KEY, ..., "messages": [Chat Completions messages]}.
    Files in both formats can be imported again; without --blobs, they have the bytes of attachments inside. Every event is
    compared with its leaf hash and every attachment with its own; if one was changed or is missing, the export stops there
    and FILE is not written (exit 4).
    """
    from threadledger.adapters import export_lines, export_markdown, forgiving, inside, into_folder, private_file
    from threadledger.domain.errors import FileMissing

    if bool(keys) == everything:
        raise click.UsageError("name conversations or pass --all, but not both", click.get_current_context())
    result: Callable[[], int] | None = None
    with opened(reads=True) as ledger:
        attach = into_folder(ledger, blobs) if blobs is not None else inside(ledger)
        if unchecked:
            from .forensics import uncheck

            problems: list[str] = []
            result, attach = uncheck(ledger, problems), forgiving(attach, problems)
        total = sum(1 for _ in ledger.journal.keys_in_order()) if everything else len(keys)
        for key in keys:
            ledger.state(key)
        chosen = None if everything else keys
        if kind == "markdown":
            texts = export_markdown(ledger, chosen, attach if blobs is not None else None)
        else:
            lines = export_lines(ledger, chosen, plain=kind == "messages", attach=attach)
            texts = (f"{line if file else safe_json(line)}\n" for line in lines)
        target = private_file(file, overwrite=True) if file else nullcontext(sys.stdout)
        try:
            with target as stream:
                for text in tracked(texts, total, "exporting"):
                    stream.write(text)
        except OSError as error:
            if file is None:
                raise
            raise FileMissing(f"{file} cannot be written ({error.strerror}): name another file") from error
    if file:
        note(f"{counted(total, 'conversation')} written to {file}")
    return result() if result is not None else Exit.DONE
