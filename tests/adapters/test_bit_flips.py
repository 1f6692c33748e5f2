"""One flipped bit in a SQLite file: what is read afterwards is what was written, or is refused with an error that says so."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import export_lines
from threadledger.adapters.formats.memory_file import MemoryLines
from threadledger.adapters.sql import Database, Factory
from threadledger.domain.conversation import Completion, Conversation, ConversationState, RunPlan, text_message
from threadledger.domain.errors import ThreadledgerError
from threadledger.domain.exchange import Services
from threadledger.domain.failures import Failure
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger

from .writing import query

FLIPS = 500 if "THREADLEDGER_SOAK" in os.environ else 40
KEYS = ("order é", "plain", "failed")


def open_quickly(path: Path) -> Ledger:
    services = Services(memory_file=MemoryLines())
    return Ledger(Journal(Factory(database=Database(f"sqlite:///{path}", synchronous="OFF"))), services)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of messages, runs and failures with its views, in one file without a log of its own."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"

    def exchange(conversation: Conversation) -> None:
        exchange_id = conversation.ask(text_message("user", "Where is it?"))
        conversation.fail_run(
            conversation.start_run(exchange_id, RunPlan("responses", "m")), Failure("error", message="no")
        )
        run_id = conversation.start_run(exchange_id, RunPlan("chat", "m"))
        conversation.complete_run(run_id, Completion((text_message("assistant", "There"),)))

    with open_quickly(path) as ledger:
        for key in KEYS:
            for number in range(8):
                ledger.conversation(key).append(
                    "user", f"pay {number}000 to account {number:08} of {key}, please. " * 3
                )
            ledger.journal.commit(key, exchange)
        ledger.conversations(search="pay")
        ledger.failures()
    database = Database(f"sqlite:///{path}")
    database.query("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


class Known:
    """A stored state, equal to another if it agrees with it: what it does not know is computed when it is needed."""

    def __init__(self, stored: str) -> None:
        self.state = ConversationState.from_json(stored)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self.state.agrees_with(other.state)

    def __hash__(self) -> int:
        return hash(self.state.key)


def rows_of(path: Path) -> Any:
    """The events and conversations of a backup or copy, read without the store."""
    events = (
        "SELECT position, stream, version, id, text_id, topic, schema, at, state, leaf FROM events ORDER BY position"
    )
    heads = query(f"sqlite:///{path}", "SELECT stream, name, version, snapshot FROM streams ORDER BY stream")
    states = [(*head[:-1], Known(head[-1])) for head in heads]
    return query(f"sqlite:///{path}", events), states


def backup(ledger: Ledger, folder: Path) -> Any:
    try:
        ledger.back_up(folder / "backup.db")
    except ThreadledgerError:
        assert not list(folder.glob("backup*"))
        raise
    return rows_of(folder / "backup.db")


def copied(ledger: Ledger, folder: Path) -> Any:
    ledger.copy_to(f"sqlite:///{folder / 'copy.db'}")
    return rows_of(folder / "copy.db")


def rebuilt(ledger: Ledger, folder: Path) -> Any:
    plan = ledger.replay.plan_rebuild_file(folder / "memories.jsonl")
    items = list(plan.apply())
    return [each.state for each in items], (folder / "memories.jsonl").read_bytes()


SAME: dict[str, Callable[[Ledger, Path], Any]] = {
    "show": lambda ledger, _: [
        (ledger.state(key).key, [each.as_json() for each in ledger.conversation(key).memory(last=4).messages])
        for key in KEYS
    ],
    "memory": lambda ledger, _: [(ledger.state(key).key, ledger.memory(key).as_chat_messages()) for key in KEYS],
    "export": lambda ledger, _: list(export_lines(ledger)),
    "events": lambda ledger, _: [each.as_json() for each in ledger.events(checked=True)],
    "exchanges": lambda ledger, _: [(ledger.state(key).key, repr(ledger.exchanges(key))) for key in KEYS],
    "backup": backup,
    "copy": copied,
    "rebuild": rebuilt,
}
"""Reads that return the same as from the undamaged file, or an error of threadledger.

Like the commands, they look up the conversation first: a damaged index can make it one that is not found."""

FORESEEN: dict[str, Callable[[Ledger, Path], Any]] = {
    "list": lambda ledger, _: ledger.conversations(),
    "search": lambda ledger, _: ledger.conversations(search="pay"),
    "audit": lambda ledger, _: (ledger.failures(), ledger.failure_groups(), ledger.summary("day")),
    "check": lambda ledger, _: list(ledger.check()),
    "status": lambda ledger, _: ledger.status(),
}
"""Reads of views, which hold no leaf hashes: they end without an unforeseen error."""


def read_all(path: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield what each read returns; None for an error that threadledger raises."""
    try:
        ledger = open_quickly(path)
    except ThreadledgerError:
        yield from dict.fromkeys(SAME | FORESEEN).items()
        return
    with ledger:
        for name, read in (SAME | FORESEEN).items():
            folder.mkdir()
            try:
                yield name, read(ledger, folder)
            except ThreadledgerError:
                yield name, None
            shutil.rmtree(folder)


def test_a_flipped_bit_never_changes_what_is_read_and_never_raises_an_unforeseen_error(
    original: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "threadledger")
    damaged = tmp_path / "damaged.db"
    content = original.read_bytes()
    shutil.copy(original, damaged)
    expected = dict(read_all(damaged, tmp_path / "new"))
    assert None not in expected.values()
    assert expected["check"] == []
    used = [place for place, byte in enumerate(content) if byte]
    rng = random.Random(14)
    refused = 0
    for number in range(FLIPS):
        place, bit = rng.choice(used) if number % 2 else rng.randrange(len(content)), rng.randrange(8)
        for name in ("damaged.db-wal", "damaged.db-shm"):
            with suppress(FileNotFoundError):
                (tmp_path / name).unlink()
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        damaged.write_bytes(flipped)
        for name, found in read_all(damaged, tmp_path / "new"):
            assert found is None or name in FORESEEN or found == expected[name], (
                f"{name} after bit {bit} of byte {place}"
            )
            refused += found is None
    assert refused > FLIPS


def test_a_schema_of_which_the_driver_cannot_decode_its_own_complaint_is_damaged(
    original: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.db"
    content = original.read_bytes()
    damaged.write_bytes(
        content.replace(b"CREATE TABLE streams", b"CREATE TABL\xc5 streams")
    )  # also where it is left over
    with pytest.raises(ThreadledgerError, match="is damaged"):
        open_quickly(damaged)
