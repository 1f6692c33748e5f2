"""Measure work on a whole ledger: importing a file, importing it again, checking every event, and aligning long threads.

python benchmarks/bulk.py [--quick] [--only import|check|alignment] [--disk DIR]

The file is JSON Lines with 20 messages a conversation. Rates are log events per second of CPU time; each run is a
process of its own, and its peak memory is printed. An import reads, parses, checks and stores every message; the same
file again stores nothing. A check computes the leaf hash of every event. Alignment compares two lists of 5,000 entries
with 50 edits; its floor is `difflib.SequenceMatcher`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from random import Random

from figures import MEMORY_LIMIT_MB, Table, apart, arguments, measured, once, peak_megabytes
from ledgers import fill
from replay import talk

import threadledger
from threadledger.adapters import import_found, import_source
from threadledger.domain.alignment import differing
from threadledger.domain.journal import Finding

IMPORT_LIMIT, CHECK_LIMIT = 40_000, 100_000
"""Minimum rates, in log events per second of CPU time."""

AGAIN_LIMIT_SECONDS = 1.0
"""Maximum CPU time of importing the same file again, in seconds."""

PARTS = ("import", "check", "alignment")
MESSAGES = 20


def imported(url: str, path: str) -> tuple[float, float]:
    """Import a file; return the CPU seconds and the peak memory in megabytes. Runs in a separate process."""
    with threadledger.open(url, threads="none") as ledger:

        def work() -> None:
            with import_source(path) as source:
                for _ in import_found(ledger, source.found):
                    pass

        return once(work).cpu, peak_megabytes()


def checked(url: str) -> tuple[float, float]:
    """Check every event; return the CPU seconds and the peak memory in megabytes. Runs in a separate process."""
    with threadledger.open(url, threads="none") as ledger:
        found: list[Finding] = []
        seconds = once(lambda: found.extend(ledger.check())).cpu
        assert not found, found[0]
        return seconds, peak_megabytes()


def edited(entries: Sequence[Hashable], edits: int) -> list[Hashable]:
    """Return a copy in which some entries were replaced, spread over the whole list."""
    random, copy = Random(5), list(entries)
    for place in random.sample(range(len(copy)), edits):
        copy[place] = f"edited {place}"
    return copy


class Bench:
    """Measure the rows of the table."""

    def __init__(self, table: Table, place: Path, quick: bool) -> None:
        self.table, self.place, self.quick = table, place, quick

    def measure_import(self) -> None:
        """Import a file twice."""
        conversations = 300 if self.quick else 10_000
        path, url = self.place / "talk.jsonl", f"sqlite:///{self.place / 'import.db'}"
        with path.open("w") as file:
            for number in range(conversations):
                file.write(json.dumps(talk(number, MESSAGES)) + "\n")
        events = conversations * (MESSAGES + 1)  # each conversation begins with an event of its own
        seconds, peak = apart(imported, url, str(path))
        self.table.value(f"import of {events:,} events, CPU", events / seconds, "events/s", at_least=IMPORT_LIMIT)
        self.table.value("  peak memory", peak, "MB", at_most=MEMORY_LIMIT_MB)
        seconds, peak = apart(imported, url, str(path))
        self.table.value("import of the same file again, CPU", seconds, "s", at_most=AGAIN_LIMIT_SECONDS)
        self.table.value("  peak memory", peak, "MB", at_most=MEMORY_LIMIT_MB)

    def measure_check(self) -> None:
        """Check a ledger whose every event is as it was written."""
        url = f"sqlite:///{self.place / 'check.db'}"
        events = fill(url, 1_000 if self.quick else 20_000)
        seconds, peak = apart(checked, url)
        self.table.value(f"db check of {events:,} events, CPU", events / seconds, "events/s", at_least=CHECK_LIMIT)
        self.table.value("  peak memory", peak, "MB", at_most=MEMORY_LIMIT_MB)

    def measure_alignment(self) -> None:
        """Align two long lists that differ in few places."""
        length, edits = (500, 5) if self.quick else (5_000, 50)
        before = [f"entry {number}" for number in range(length)]
        after = edited(before, edits)
        works = (
            lambda _: list(differing(before, after)),
            lambda _: SequenceMatcher(None, before, after, autojunk=False).get_opcodes(),
        )
        taken = measured(works, 3 if self.quick else 9)
        self.table.pairs(f"alignment of {length:,} entries with {edits} edits, CPU", taken, "cpu")


def main() -> None:
    parser = arguments(__doc__, PARTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.disk) as place:
        bench = Bench(Table(args.markdown), Path(place), args.quick)
        for part in PARTS:
            if args.only in {None, part}:
                getattr(bench, f"measure_{part}")()


if __name__ == "__main__":
    main()
