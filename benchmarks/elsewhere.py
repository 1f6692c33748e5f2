"""A simulator in a process of its own, so that what it costs is not counted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from threadledger.adapters import Simulator


def served(told: Connection) -> None:
    """A simulator until it is told to stop; runs in a process of its own."""
    with Simulator(poll_after_ms=0) as simulator:
        told.send(simulator.base_url)
        told.recv()


@contextmanager
def simulator_elsewhere() -> Iterator[str]:
    """The base URL of a simulator in another process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=served, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()
