"""A progress bar on stderr: rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

BAR_ITEMS_MIN = 20
"""What is done before a bar could be read needs none."""


def tracked(things: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """The same things, with a bar that moves as they come."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    worth_a_bar = total is None or total >= BAR_ITEMS_MIN
    if not (worth_a_bar and progress.console.is_terminal):  # a log file is not filled with bars
        yield from things
        return
    with progress:
        yield from progress.track(things, total=total, description=what)
