"""`threadledger import`: conversations from elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .exits import Exit
from .invocation import common, invocation, opened
from .output import emit_many, note
from .progress import tracked


@click.command("import")
@click.argument("file")
@click.option("--format", "kind", type=click.Choice(["jsonl"]), default="jsonl", show_default=True)
@common
def import_(file: str, kind: str) -> int:
    """Import conversations from FILE, one JSON object a line; - is standard input, .gz is unpacked.

    The same file twice changes nothing. A bad line is reported with its number, the good ones are kept.
    """
    from threadledger.adapters import import_lines

    with _lines_of(file) as (lines, total), opened(create=True) as ledger:
        outcomes = list(import_lines(ledger, tracked(lines, total, "importing")))
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if invocation().output == "table":
        emit_many([outcome.as_json() for outcome in failed], ("line", "key", "reason"), empty="every line was read")
        new = sum(outcome.messages for outcome in outcomes)
        count = {
            state: sum(outcome.state == state for outcome in outcomes)
            for state in ("imported", "extended", "unchanged")
        }
        told = ", ".join(f"{number} {state}" for state, number in count.items())
        note(f"{told}, {len(failed)} failed; {new} messages journaled")
    else:
        emit_many([outcome.as_json() for outcome in outcomes], ())
    return Exit.SOME_FAILED if failed else Exit.DONE


@contextmanager
def _lines_of(file: str) -> Iterator[tuple[Iterator[bytes], int | None]]:
    import gzip
    from pathlib import Path

    from threadledger.domain import FileMissing

    if file == "-":
        yield iter(sys.stdin.buffer), None
        return
    path = Path(file)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            total = sum(1 for _ in stream)
            stream.seek(0)
            yield iter(stream), total
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileMissing(f"{file} cannot be read ({reason}): name another file") from error
