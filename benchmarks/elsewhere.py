"""Run a simulator in a separate process, so that its CPU time is not measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from threadledger.adapters import Simulator


def served(told: Connection) -> None:
    """Run a simulator until a stop message arrives; this is the main function of the separate process."""
    with Simulator(poll_after_ms=0) as simulator:
        told.send(simulator.base_url)
        told.recv()


@contextmanager
def simulator_elsewhere() -> Iterator[str]:
    """Start a simulator in another process, and yield its base URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=served, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()
