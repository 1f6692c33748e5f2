"""Kill processes that add and remove attachments (SIGKILL) again and again: no event ever refers to bytes that are not there.

`make soak` kills them 40 times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from threadledger.domain.ids import now

from .storing import ATTACHMENTS, attachment, files_at, open_blobs, references
from .writing import Writers, assert_sound, writers

pytestmark = pytest.mark.crash

ROUNDS = 40 if "THREADLEDGER_SOAK" in os.environ else 3
SEED = 20_261_130
LINES_BEFORE_THE_KILL_MAX = 12


@pytest.fixture(scope="module")
def working() -> Iterator[Writers]:
    with writers(str(Path(__file__).with_name("killed_blobs.py"))) as started:
        yield started


@pytest.mark.parametrize("place", ["sqlite", "postgresql", "sqlite and a folder"])
def test_no_event_refers_to_bytes_that_are_not_there_whenever_its_writers_are_killed(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, working: Writers
) -> None:
    url = request.getfixturevalue("db_url" if place.startswith("sqlite") else "postgres_url")
    rng = random.Random(SEED)
    everything = [attachment(number) for number in range(ATTACHMENTS)]
    acknowledged: set[tuple[str, str]] = set()
    for number in range(ROUNDS):
        names = [f"a{number}", f"b{number}"]
        working.start(url, names, seed=SEED, place=place, folder=str(tmp_path))
        lines = working.acknowledged(rng.randint(0, LINES_BEFORE_THE_KILL_MAX)) + working.kill()
        for line in lines:
            kind, *said = line.split()
            if kind == "referred":
                acknowledged.add((f"{said[0]} {said[1]}", said[2]))
        with closing(open_blobs(url, files_at(place, tmp_path))) as ledger:
            assert_sound(url)
            assert list(ledger.check()) == []
            referred = {(key, address) for key, address, _ in references(ledger)}
            assert acknowledged <= referred
            for address in {address for _, address in referred}:
                assert b"".join(ledger.journal.blobs.read(address)) in everything
    assert acknowledged
    with closing(open_blobs(url, files_at(place, tmp_path))) as ledger:  # what the killed ones left can be added again
        for data in everything[-5:]:
            assert b"".join(ledger.journal.blobs.read(ledger.journal.blobs.add([data]).address)) == data
        later = now() + timedelta(days=1)
        for each in ledger.journal.blobs.prunable(later):
            assert ledger.journal.blobs.remove(each.address, later)
        kept = {address for _, address, _ in references(ledger)}
        assert {each.address for each in ledger.journal.blobs.listed()} == kept
        assert list(ledger.check()) == []
