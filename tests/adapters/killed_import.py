"""Imports in small batches, until they are killed. Started by `test_killed_import.py`; `writing.py` forks them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

from threadledger.adapters import import_found, import_source
from threadledger.adapters.formats import importing
from threadledger.adapters.sql import Database, Factory
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger

BATCH_CONVERSATIONS = 10


def import_file(*, url: str, writer: str, commits: int | None, seed: int) -> None:
    """Import a file, print each conversation when it is read and when it is stored, and wait to be killed."""
    importing.BATCH_CONVERSATIONS = BATCH_CONVERSATIONS

    def read(found: Any) -> Iterator[Any]:
        for each in found:
            os.write(1, f"read {each.key}\n".encode())
            yield each

    with Ledger(Journal(Factory(database=Database(url)))) as ledger, import_source(writer) as source:
        for outcome in import_found(ledger, read(source.found)):
            os.write(1, f"{outcome.state} {outcome.key}\n".encode())
        signal.pause()


if __name__ == "__main__":
    from writing import serve

    serve(import_file)
