"""Print data to stdout as a table, JSON, JSON Lines or CSV, and everything else to stderr.

Bars and sparklines are drawn with characters. A progress bar with rate and remaining time is shown on stderr, only on a
terminal.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .main import invocation, print_message, wrapped
from .terminal import printable, safe_json, safe_output, styled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

Row = Mapping[str, Any]

LONG_COLUMNS = frozenset(
    {
        *("answer", "data", "key", "losses", "mend", "message", "problem", "reason", "threads", "value", "what"),
        "what_was_said",
    }
)
"""Columns that wrap on a narrow terminal; the others stay on one line."""

ALWAYS_COUNTED = frozenset({"messages", "journal", "thread"})
"""Number columns that are shown even if all values are 0."""

LONG_COLUMN_WIDTHS_MIN = (12, 8)
"""Minimum widths of a wrapping column, in characters: the second is used if the table does not fit with the first."""

STATE_STYLES = {
    **dict.fromkeys(("same", "done", "ok", "answered", "retried", "fallback"), "green"),
    **dict.fromkeys(("gone", "failed", "drifted", "abandoned", "finding"), "red"),
    **dict.fromkeys(("behind", "open", "planned", "skipped", "unlinked"), "yellow"),
}
"""Terminal style of each state."""

THREAD_ID_ENDING_CHARS = 8
"""Last characters of a thread id that a table shows; JSON has the whole id."""

WIDE_TERMINAL = 100
"""Terminal width, in columns, from which on wide layouts are used."""

ROWS_PER_TABLE = 1_000
"""Maximum number of rows of a table: rich needs several kilobytes for each."""

PIPE_WIDTH = 200
"""Width, in columns, of a table that is not printed to a terminal."""


def emit_one(thing: Row, as_table: Callable[[Console], None]) -> None:
    """Print one thing, as a JSON object or as drawn by `as_table`."""
    if invocation().output == "table":
        as_table(console())
    else:
        _emit_data([thing], one=True)


def emit_line(thing: Row, line: str) -> None:
    """Print one thing, as a JSON object or as a line of text, for which rich need not be loaded."""
    if invocation().output == "table":
        click.echo(wrapped(printable(line), sys.stdout))
    else:
        _emit_data([thing], one=True)


def emit_many(
    rows: Iterable[Row], columns: Sequence[str], *, empty: str = "nothing to show", spare: Sequence[str] = ()
) -> None:
    """Print several things: an array in JSON, or one object per line in JSON Lines.

    A table shows the chosen columns. If the terminal is too narrow, columns of `spare` are dropped, in their order. Many
    rows are printed as several tables, because a table is in memory as a whole.
    """
    if invocation().output != "table":
        _emit_data(rows, one=False)
        return
    remaining = iter(rows)
    found = list(islice(remaining, ROWS_PER_TABLE))
    if not found:
        note(empty)
    while found:
        console().print(table(found, _that_fit(found, columns, spare)))
        found = list(islice(remaining, ROWS_PER_TABLE))


def table(rows: Sequence[Row], columns: Sequence[str]) -> Any:
    """Return a table of the given columns, without empty ones; numbers are aligned right.

    On a terminal that is too narrow for it, each row is a block of lines with a name and a value, so that none is lost.
    """
    filled = [column for column in columns if any(_says_something(row.get(column), column) for row in rows)]
    for long_column in LONG_COLUMN_WIDTHS_MIN:
        if _fits(rows, filled, long_column):
            return _grid(rows, filled, long_column)
    return _blocks(rows, filled)


def _grid(rows: Sequence[Row], columns: Sequence[str], long_column: int) -> Any:
    from rich.table import Table

    gap = 2 if console().width >= WIDE_TERMINAL and _fits(rows, columns, long_column, gap=2) else 1
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for column, width in _widths(rows, columns, long_column, gap).items():
        numeric = all(isinstance(row.get(column), (int, float)) for row in rows)
        drawn.add_column(
            column.replace("_", " "),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=column not in LONG_COLUMNS,
            width=width,
        )
    for row in rows:
        drawn.add_row(*(_cell(row.get(column)) for column in columns))
    return drawn


def _blocks(rows: Sequence[Row], columns: Sequence[str]) -> Any:
    from rich.console import Group
    from rich.table import Table

    blocks: list[Any] = []
    for row in rows:
        block = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
        block.add_column(style="bold", overflow="fold")
        block.add_column(overflow="fold")
        for column in columns:
            if _says_something(row.get(column), column):
                block.add_row(column.replace("_", " "), _cell(row[column]))
        blocks += ["", block] if blocks else [block]
    return Group(*blocks)


def _that_fit(rows: Sequence[Row], columns: Sequence[str], spare: Sequence[str]) -> Sequence[str]:
    """Return the columns that fit on the terminal, without those of `spare` that do not; all if the others do not fit."""
    left = list(columns)
    for each in spare:
        if _fits(rows, left, LONG_COLUMN_WIDTHS_MIN[0]):
            break
        left = [column for column in left if column != each]
    return left if _fits(rows, left, LONG_COLUMN_WIDTHS_MIN[-1]) else columns


def _fits(rows: Sequence[Row], columns: Sequence[str], long_column: int, gap: int = 1) -> bool:
    """Return whether columns with a gap between them fit on the terminal, each long one at least so wide."""
    widths = [_width_min(rows, column, long_column) for column in columns]
    return sum(widths) + gap * (sum(width > 0 for width in widths) - 1) <= console().width


def _widths(rows: Sequence[Row], columns: Sequence[str], long_column: int, gap: int) -> dict[str, int]:
    """Return the widths of columns that fit on the terminal: the widest wrapping ones give way, and every value is whole.

    Left to itself, rich may draw a table that is wider than the terminal, and cut its lines off.
    """
    most = console().width
    widths = {column: min(_width_min(rows, column, most), most) for column in columns}
    least = {column: _width_min(rows, column, long_column) for column in columns}
    while sum(widths.values()) + gap * (len(widths) - 1) > most:
        wide = [column for column in widths if widths[column] > least[column]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _width_min(rows: Sequence[Row], column: str, long_column: int) -> int:
    """Return the minimum width of a column, or 0 if it is empty."""
    filled = [row.get(column) for row in rows if _says_something(row.get(column), column)]
    if not filled:
        return 0
    widest = max(len(column), *map(_width, filled))
    return min(widest, long_column) if column in LONG_COLUMNS else widest


def _width(value: Any) -> int:
    width: int = _cell(value).cell_len
    return width


def _says_something(value: Any, column: str) -> bool:
    """Return whether a value makes its column worth showing; empty values and most zeros do not."""
    return value is False or value not in (None, "", {}, [], 0) or (value == 0 and column in ALWAYS_COUNTED)


def console() -> Console:
    """Return a console for stdout, as wide as the terminal; `PIPE_WIDTH` wide if stdout is not a terminal."""
    return _console_class()(
        file=styled(sys.stdout),
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


@cache
def _console_class() -> type[Console]:
    """Return rich's console, extended: every text is made printable where rich still knows its styles apart from it."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """Print only printable text; styles and cursor movements are rich's own."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return SafeConsole


def note(text: str) -> None:
    """Print a message to stderr."""
    print_message(text)


def prose(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print prose to stdout; on a terminal, lines break between words, and elsewhere it is one line."""
    from rich.padding import Padding
    from rich.text import Text

    said = Text(printable(text, lines=False), style=style)
    if console.is_terminal:
        console.print(Padding(said, (0, 0, 0, indent), expand=False))
    else:  # rich cuts what it pads to the width of the console
        console.print(Text(" " * indent).append_text(said), soft_wrap=True)


def print_line(console: Console, line: Text) -> None:
    """Print one line to stdout; a terminal that is too narrow shows its beginning, and elsewhere it is whole."""
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        console.print(line, soft_wrap=True)


WRAPPED_CHARS_MAX = 100_000
"""Maximum characters of a message that rich wraps between words; it takes more than a minute for 8 MB."""


def print_text(console: Console, text: str) -> None:
    """Print a message or an answer to stdout, with its line breaks; on a terminal, lines also break between words."""
    from rich.text import Text

    if len(text) > WRAPPED_CHARS_MAX or not console.is_terminal:
        click.echo(printable(text))
    else:
        console.print(Text(printable(text)))


def short(run_id: str | None) -> str:
    """See `short` of the documents."""
    from threadledger.adapters.documents import short as short_

    return short_(run_id)


def short_thread(thread_id: str | None) -> str:
    """Return a thread id shortened to its kind and its ending."""
    kind, _, rest = (thread_id or "").partition("_")
    return f"{kind}_…{rest[-THREAD_ID_ENDING_CHARS:]}" if len(rest) > THREAD_ID_ENDING_CHARS else thread_id or ""


def counted(number: int, word: str) -> str:
    """See `counted` of the documents."""
    from threadledger.adapters.documents import counted as counted_

    return counted_(number, word)


def clock(at: str) -> str:
    """See `clock` of the documents."""
    from threadledger.adapters.documents import clock as clock_

    return clock_(at)


def _emit_data(rows: Iterable[Row], *, one: bool) -> None:
    chosen = invocation().output
    if chosen == "csv":
        write = csv_writer()
        for row in rows:
            write(row)
    elif chosen == "jsonl":
        for row in rows:
            print_json(row)
    elif one:
        print_json(next(iter(rows)), indent=2)
    else:
        _emit_array(rows)


def _emit_array(rows: Iterable[Row]) -> None:
    """Print a JSON array, each element as soon as it arrives."""
    between = "[\n"
    for row in rows:
        text = json_text(row, indent=2).replace("\n", "\n  ")
        click.echo(f"{between}  {text}", nl=False)
        between = ",\n"
    click.echo("[]" if between == "[\n" else "\n]")


def print_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON value to stdout."""
    click.echo(json_text(value, indent))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON; control, bidirectional and invisible characters are escaped."""
    return safe_json(json.dumps(value, ensure_ascii=False, indent=indent))


FORMULA = re.compile(r"[\s\"']*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""Beginning of a cell that a spreadsheet may execute: the list of OWASP's page "CSV Injection" (August 2025), also after
spaces and quotes, and in the fullwidth form of East Asian input."""

SPLIT_FORMULA = re.compile(r"([;\t\r\n][\s\"']*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""The same within a cell: a spreadsheet whose separator is not the comma splits a cell there, whatever its quotes."""

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def csv_writer() -> Callable[[Row], None]:
    """Return a function that prints one CSV row to stdout; the names of the first row are the header."""
    writers: list[csv.DictWriter[str]] = []

    def write(row: Row) -> None:
        if not writers:
            writers.append(csv.DictWriter(sys.stdout, list(row), lineterminator="\n"))
            writers[0].writeheader()
        writers[0].writerow({name: csv_cell(value, raw=invocation().csv_raw) for name, value in row.items()})

    return write


def csv_cell(value: Any, *, raw: bool = False) -> Any:
    """Return a value as a CSV cell; without `raw`, text that a spreadsheet would execute gets a ' in front."""
    cell = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, bool)) else value
    if raw or not isinstance(cell, str) or NUMBER.fullmatch(cell):
        return cell
    cell = SPLIT_FORMULA.sub(r"\1'", cell)
    return f"'{cell}" if FORMULA.match(cell) else cell


def _cell(value: Any) -> Any:
    from rich.text import Text

    if isinstance(value, Text):
        return value
    if isinstance(value, dict):
        return Text(printable(", ".join(f"{name}: {each}" for name, each in value.items()), lines=False))
    if isinstance(value, float):
        return Text(f"{value:.4f}".rstrip("0").rstrip("."))
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    text = "" if value is None else printable(str(value), lines=False)
    return Text(text, style=STATE_STYLES.get(text, ""))


SPARKS = "▁▂▃▄▅▆▇█"
NOTHING = "·"
"""Character for a count of 0 in a sparkline; the lowest bar is for small counts."""

EIGHTHS = " ▏▎▍▌▋▊▉█"


def sparkline(counts: Sequence[int]) -> str:
    """Return one character per count, its height relative to the largest count."""
    top = max(counts, default=0)
    return "".join(SPARKS[(count * len(SPARKS) - 1) // top] if count else NOTHING for count in counts)


def bar(value: float, top: float, width: int) -> str:
    """Return a bar of at most `width` characters, its length relative to `top`; values above 0 are always visible."""
    if value <= 0 or top <= 0:
        return ""
    whole, rest = divmod(max(round(min(value / top, 1.0) * width * 8), 1), 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "")


def span(seconds: float | None) -> str:
    """Return a duration in readable form: `0.31 s`, `4.2 s`, `12 min`, `3.5 h`, `2.0 d`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds:.2f} s"
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} d"


T = TypeVar("T")

BAR_ITEMS_MIN = 20
"""Minimum number of items for a bar; fewer are done before it could be read."""


def tracked(things: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """Yield the same things while a progress bar advances."""
    progress = _bar()
    worth_a_bar = total is None or total >= BAR_ITEMS_MIN
    if not (worth_a_bar and progress.console.is_terminal):  # log files get no bars
        yield from things
        return
    with progress, safe_output():  # rich has replaced both streams
        yield from progress.track(things, total=total, description=what)
        progress.refresh()  # the last state is drawn even if the work was quick


@contextmanager
def reported(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that updates a progress bar with the numbers done and in total."""
    progress = _bar()
    if not progress.console.is_terminal:
        yield lambda done, total: None
        return
    with progress, safe_output():
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
        progress.refresh()  # the last state is drawn even if the work was quick


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Show the number of items per second."""

        def render(self, task: Any) -> Text:
            average = task.completed / task.elapsed if task.elapsed else None  # quick work ends before a second sample
            speed = task.finished_speed or task.speed or average
            return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console_class()(file=styled(sys.stderr)),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # data goes to its file or pipe
    )
