"""Run a simulator or a server in a separate process, so that its CPU time is not measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection

from threadledger.adapters import Simulator


def served(told: Connection) -> None:
    """Run a simulator until a stop message arrives; this is the main function of the separate process."""
    with Simulator(poll_after_ms=0) as simulator:
        told.send(simulator.base_url)
        told.recv()


@contextmanager
def elsewhere(main: Callable[..., None], *given: str) -> Iterator[str]:
    """Run `main(told, *given)` in another process, and yield the base URL that it sends; it ends at a stop message."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=main, args=(theirs, *given), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def simulator_elsewhere() -> AbstractContextManager[str]:
    """Start a simulator in another process, and yield its base URL."""
    return elsewhere(served)
