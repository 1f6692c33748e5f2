"""Measure rebuild throughput against the bare SDK, planning over a whole ledger, and memory use as the ledger grows.

python benchmarks/replay.py [--quick] [--only throughput|plan] [--synchronous NORMAL] [--disk DIR]

Throughput is measured in pairs. Threadledger rebuilds a batch of conversations, and the bare SDK writes the same
conversations at the same concurrency to the same simulator in a separate process. The two alternate in going first.
Threadledger reads each thread back, compares it, links it and records the job. The work of the bare SDK depends on the
row: `write` does what an app would do (create a conversation and send its items 20 at a time); `write past types` sends
the items in `extra_body`, as threadledger does, so that the SDK does not validate them; `and read` also reads each
thread back. The ratio is threadledger's time divided by the bare SDK's time in each pair: median, minimum and maximum.
Aim: at most 1.3.

Plans and rebuilds of ledgers of different sizes run in separate processes; the peak memory must not grow with the ledger.
Limits: a plan over 100,000 conversations in 1 second of CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import openai
from elsewhere import simulator_elsewhere
from figures import Table, apart, arguments, measured, once, peak_megabytes
from ledgers import fill

import threadledger
from threadledger.adapters import import_lines

RATIO_LIMIT = 1.3
"""Maximum ratio of threadledger's time to the bare SDK's for writing the same items."""

ROWS_SHOWN = 50
"""Number of conversations that the command renders; the sums of the others come from their heads."""

PLAN_LIMIT_SECONDS = 1.0
"""Maximum CPU time of a plan over 100,000 conversations, in seconds."""

PEAK_LIMIT = 1.1
"""Maximum ratio of the peak memory of a process to that of the process with the smaller ledger."""

PLANNED = (10_000, 100_000)
"""Numbers of conversations that are planned; already those of the first fill the page cache of the database."""

BATCH = 20
"""Maximum number of items per request to a conversation (OpenAI's OpenAPI description)."""

PAGE = 100

WORDS = [
    "parcel",
    "street",
    "number",
    "yes",
    "no",
    "thanks",
    "when",
    "will",
    "it",
    "arrive",
    "tomorrow",
    "morning",
    "please",
    "change",
    "the",
    "address",
    "of",
    "my",
    "order",
]


def talk(number: int, messages: int = 20) -> dict[str, Any]:
    """Return a conversation with this many messages; every ten contain one tool call and its result."""
    random = Random(number)
    said: list[dict[str, Any]] = []
    while len(said) < messages:
        text = " ".join(random.choices(WORDS, k=random.randrange(4, 24)))
        if len(said) % 10 == 4:
            call = {"name": "find", "arguments": json.dumps({"text": text})}
            made = {"id": f"call_{number}_{len(said)}", "type": "function", "function": call}
            said.append({"role": "assistant", "content": None, "tool_calls": [made]})
            said.append({"role": "tool", "tool_call_id": made["id"], "content": json.dumps({"found": text})})
        else:
            said.append({"role": ("user", "assistant")[len(said) % 2], "content": text})
    return {"id": f"k{number:06}", "messages": said[:messages]}


def filled(url: str, conversations: int, synchronous: str) -> None:
    """Create a ledger with this many conversations of 20 messages."""
    with threadledger.open(url, openai_api_key=None, synchronous=synchronous) as ledger:
        lines = (json.dumps(talk(number)).encode() for number in range(conversations))
        for _ in import_lines(ledger, lines):
            pass


class Throughput:
    """Measure batches of conversations, alternating threadledger and the bare SDK."""

    def __init__(self, args: argparse.Namespace, base_url: str, place: Path, table: Table) -> None:
        self.table = table
        self.base_url = base_url
        self.args = args
        self.batch = 20 if args.quick else 100
        self.pairs = 3 if args.quick else 9
        self.url = f"sqlite:///{place / 'throughput.db'}"
        filled(self.url, self.batch, args.synchronous)

    def run(self) -> None:
        with threadledger.open(self.url, **self._settings()) as ledger, self._sdk() as sdk:
            items = {
                key: [dict(item.payload) for item in ledger.replay.verifier.render(key, "conversations", None)[0].items]
                for key in ledger.replay.keys(None)
            }
            for workers in (1, 4):
                for past_types, read in ((False, False), (True, False), (True, True)):
                    bare = partial(self._bare, sdk, items, workers, past_types, read)
                    self._row(partial(self._ours, ledger, workers), bare, workers, past_types, read)

    def _row(self, ours: Any, bare: Any, workers: int, past_types: bool, read: bool) -> None:
        taken = measured([lambda _: ours(), lambda _: bare()], self.pairs)
        what = f"write{' past types' if past_types else ''}{' and read' if read else ''}"
        name = f"rebuild, {workers} at once, bare SDK: {what}"
        self.table.pairs(name, taken, "wall", None if past_types else RATIO_LIMIT, self.batch)

    def _ours(self, ledger: threadledger.Ledger, workers: int) -> None:
        plan = ledger.replay.plan_rebuild(to="conversations", fresh=True)
        done = sum(item.state == "done" for item in plan.each(concurrency=workers))
        assert done == self.batch

    def _bare(
        self, sdk: openai.OpenAI, items: dict[str, list[Any]], workers: int, past_types: bool, read: bool
    ) -> None:
        def write(key: str) -> None:
            made = sdk.conversations.create(metadata={"key": key}).id
            for start in range(0, len(items[key]), BATCH):
                some = items[key][start : start + BATCH]
                if past_types:
                    sdk.conversations.items.create(made, items=[], extra_body={"items": some})
                else:
                    sdk.conversations.items.create(made, items=some)
            if read:
                assert len(list(sdk.conversations.items.list(made, order="asc", limit=PAGE))) == len(items[key])

        if workers == 1:
            for key in items:
                write(key)
            return
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(write, items))

    @contextmanager
    def _sdk(self) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=self.base_url, api_key="bench", max_retries=0) as sdk:
            yield sdk

    def _settings(self) -> dict[str, Any]:
        provider = {"openai_base_url": self.base_url, "openai_api_key": "bench"}
        return provider | {"threads": "conversations", "synchronous": self.args.synchronous}


def grown(args: argparse.Namespace, base_url: str, place: Path, table: Table) -> None:
    """Measure plans and rebuilds over ledgers of different sizes, each in a separate process."""
    plans = (100, 1_000) if args.quick else PLANNED
    first = None
    for number in plans:
        url = f"sqlite:///{place / f'plan-{number}.db'}"
        fill(url, number)
        seconds, peak = apart(do, "plan", url, base_url)
        limit = PLAN_LIMIT_SECONDS if number == plans[-1] else None
        table.value(f"plan of {number:,} conversations, CPU", seconds, "s", at_most=limit)
        first = first or peak
        table.value("  peak memory", peak, "MB", at_most=first * PEAK_LIMIT)
    first = None
    for number in (50, 200) if args.quick else (300, 3_000):
        url = f"sqlite:///{place / f'rebuild-{number}.db'}"
        filled(url, number, "NORMAL")
        seconds, peak = apart(do, "rebuild", url, base_url)
        table.value(f"rebuild of {number:,} conversations, 4 at once, CPU", seconds, "s")
        first = first or peak
        table.value("  peak memory", peak, "MB", at_most=first * PEAK_LIMIT)


def do(what: str, url: str, base_url: str) -> tuple[float, float]:
    """Plan or rebuild everything, and return the CPU seconds and the peak memory in megabytes."""
    warnings.simplefilter("ignore", DeprecationWarning)
    settings = {"openai_base_url": base_url, "openai_api_key": "bench", "threads": "conversations"}
    with threadledger.open(url, **settings, synchronous="NORMAL") as ledger:

        def work() -> None:
            plan = ledger.replay.plan_rebuild()
            if what == "plan":
                plan.outline()
            for _ in islice(plan.planned(), ROWS_SHOWN) if what == "plan" else plan.each(concurrency=4):
                pass

        return once(work).cpu, peak_megabytes()


def main() -> None:
    parser = arguments(__doc__, ["throughput", "plan"])
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="NORMAL", help="SQLite durability mode")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    table = Table(args.markdown, floor="bare SDK")
    with tempfile.TemporaryDirectory(dir=args.disk) as place, simulator_elsewhere() as base_url:
        if args.only in {None, "throughput"}:
            Throughput(args, base_url, Path(place), table).run()
        if args.only in {None, "plan"}:
            grown(args, base_url, Path(place), table)


if __name__ == "__main__":
    main()
