"""Show a progress bar with rate and remaining time on stderr, only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

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
    with progress:
        yield from progress.track(things, total=total, description=what)


@contextmanager
def reported(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that updates a progress bar with the numbers done and in total."""
    progress = _bar()
    if not progress.console.is_terminal:
        yield lambda done, total: None
        return
    with progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _bar() -> Progress:
    from rich.console import Console
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
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
