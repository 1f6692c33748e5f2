"""A progress bar on stderr: rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

BAR_ITEMS_MIN = 20
"""What is done before a bar could be read needs none."""


def tracked(things: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """The same things, with a bar that moves as they come."""
    progress = _bar()
    worth_a_bar = total is None or total >= BAR_ITEMS_MIN
    if not (worth_a_bar and progress.console.is_terminal):  # a log file is not filled with bars
        yield from things
        return
    with progress:
        yield from progress.track(things, total=total, description=what)


@contextmanager
def reported(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that reports how many of how many are done."""
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
        """How many a second."""

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
