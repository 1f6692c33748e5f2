"""Read a conversation with branches: the branch that its source shows first, then what leaves it, each message once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, Self, TypeVar

from .reading import Entry

NodeT = TypeVar("NodeT", str, int)
ReadT_contra = TypeVar("ReadT_contra", str, int, contravariant=True)

BRANCHES_MAX = 1_000
"""Number of branches of a conversation that are imported besides the one that is shown; the others are counted."""


class BranchReader(Protocol[ReadT_contra]):
    """Describe what reads the nodes of one branch."""

    def read(self, node: ReadT_contra, /) -> None:
        """Read the next node."""
        ...

    def branched(self) -> Self:
        """Return a reader for a branch that leaves this one here."""
        ...

    def end(self) -> None:
        """Read what is left; called after the last node of the branch."""
        ...


def read_branches(
    line: Iterable[NodeT], following: Callable[[NodeT | None], Sequence[NodeT]], reader: BranchReader[NodeT]
) -> set[NodeT]:
    """Read the nodes of the branch that is shown, then those of all others; return the nodes that were read.

    `following` returns the nodes that follow one; those that follow none, for None.
    """
    line = list(line)
    met = set(line)
    left: deque[tuple[NodeT, BranchReader[NodeT]]] = deque()
    branches = 0

    def leave(at: NodeT | None, branch: BranchReader[NodeT]) -> None:
        nonlocal branches
        for each in following(at):
            if each not in met and branches < BRANCHES_MAX:
                branches += 1
                met.add(each)
                left.append((each, branch.branched()))

    leave(None, reader)
    for node in line:
        reader.read(node)
        leave(node, reader)
    reader.end()
    while left:
        at, branch = left.popleft()
        next_one: NodeT | None = at
        while next_one is not None:
            branch.read(next_one)
            at, next_one = next_one, next((each for each in following(next_one) if each not in met), None)
            if next_one is not None:
                met.add(next_one)
                leave(at, branch)
        branch.end()
    return met


def in_order(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries with those of other branches before what follows the last place where one leaves.

    The last message is then the last one that the source shows.
    """
    aside = [each for each in entries if each.is_aside]
    if not aside:
        return entries
    shown = [each for each in entries if not each.is_aside]
    forks = {each.after for each in aside}
    count = max((number for number, each in enumerate(shown, 1) if each.place in forks), default=0)
    return [*shown[:count], *aside, *shown[count:]]
