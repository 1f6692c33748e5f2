"""Measure rebuild throughput against the bare SDK, planning over a whole ledger, and memory use as the ledger grows.

python benchmarks/replay.py [--quick] [--only throughput|plan|memory] [--synchronous NORMAL] [--disk DIR]

Throughput is measured in pairs. Threadledger rebuilds a batch of conversations, and the bare SDK writes the same
conversations at the same concurrency to the same simulator in a separate process. The two alternate in going first.
Threadledger reads each thread back, compares it, links it and records the job. The work of the bare SDK depends on the
row: `write` does what an app would do (create a conversation and send its items 20 at a time); `write past types` sends
the items in `extra_body`, as threadledger does, so that the SDK does not validate them; `and read` also reads each
thread back. The ratio is threadledger's time divided by the bare SDK's time in each pair: median, minimum and maximum.
Aim: at most 1.3.

Memory is the peak memory of a separate process that plans or rebuilds ledgers of different sizes. Aim: constant.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import openai
from elsewhere import simulator_elsewhere

import threadledger
from threadledger.adapters import import_lines

RATIO_AIM = 1.3
"""Maximum ratio of threadledger's time to the bare SDK's for writing the same items."""

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

    def __init__(self, args: argparse.Namespace, base_url: str, place: Path) -> None:
        self.base_url = base_url
        self.args = args
        self.batch = 20 if args.quick else 100
        self.pairs = 3 if args.quick else 9
        self.url = f"sqlite:///{place / 'throughput.db'}"
        filled(self.url, self.batch, args.synchronous)

    def run(self) -> None:
        print(f"{'rebuild into conversations':44} {'ours':>9} {'bare SDK':>9}   ratio (range)")
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
        taken: list[tuple[float, float]] = []
        for number in range(self.pairs + 1):
            first, second = (ours, bare) if number % 2 else (bare, ours)
            one, other = timed(first), timed(second)
            taken.append((one, other) if number % 2 else (other, one))
        taken = taken[1:]  # the first pair is a warm-up
        ratios = sorted(mine / theirs for mine, theirs in taken)
        middle = statistics.median(ratios)
        rates = [self.batch / statistics.median(each) for each in zip(*taken, strict=True)]
        what = f"write{' past types' if past_types else ''}{' and read' if read else ''}"
        missed = "" if middle <= RATIO_AIM or past_types else " (missed)"
        aim = "" if past_types else f"   aim: ≤ {RATIO_AIM}{missed}"
        name = f"{workers} at once, bare SDK: {what}"
        told = f"{rates[0]:7.1f}/s {rates[1]:7.1f}/s   {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}){aim}"
        print(f"{name:44} {told}", flush=True)

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


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def grown(args: argparse.Namespace, base_url: str, place: Path) -> None:
    """Measure a plan, and for smaller ledgers a rebuild, over ledgers of different sizes, each in a separate process."""
    plans = (100, 1_000) if args.quick else (1_000, 10_000, 100_000)
    rebuilds = (50, 200) if args.quick else (300, 3_000)
    print(f"\n{'as the ledger grows':44} {'seconds':>9} {'peak MiB':>9}")
    for number in plans:
        url = f"sqlite:///{place / f'plan-{number}.db'}"
        filled(url, number, "NORMAL")
        if args.only != "memory":
            _grown_row(f"plan of {number:,} conversations", "plan", url, base_url)
        if number in rebuilds or args.only == "memory":
            _grown_row(f"plan of {number:,} conversations, again", "plan", url, base_url)
    for number in rebuilds:
        url = f"sqlite:///{place / f'rebuild-{number}.db'}"
        filled(url, number, "NORMAL")
        _grown_row(f"rebuild of {number:,} conversations, 4 at once", "rebuild", url, base_url)


def _grown_row(name: str, what: str, url: str, base_url: str) -> None:
    command = [sys.executable, __file__, "--do", what, "--url", url, "--base-url", base_url]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{name:44} {told['seconds']:9.1f} {told['peak_mib']:9.0f}", flush=True)


def do(what: str, url: str, base_url: str) -> None:
    """Plan or rebuild everything, and print the duration in seconds and the peak memory in MiB."""
    settings = {"openai_base_url": base_url, "openai_api_key": "bench", "threads": "conversations"}
    with threadledger.open(url, **settings, synchronous="NORMAL") as ledger:
        began = time.perf_counter()
        plan = ledger.replay.plan_rebuild()
        for _ in plan.planned() if what == "plan" else plan.each(concurrency=4):
            pass
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use few conversations, as a smoke test")
    parser.add_argument("--only", choices=["throughput", "plan", "memory"])
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="NORMAL", help="SQLite durability mode")
    parser.add_argument("--disk", metavar="DIR", help="directory of the databases")
    parser.add_argument("--do", choices=["plan", "rebuild"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)
    if args.do:
        do(args.do, args.url, args.base_url)
        return
    with tempfile.TemporaryDirectory(dir=args.disk) as place, simulator_elsewhere() as base_url:
        if args.only in {None, "throughput"}:
            Throughput(args, base_url, Path(place)).run()
        if args.only in {None, "plan", "memory"}:
            grown(args, base_url, Path(place))


if __name__ == "__main__":
    main()
