"""Measure the overhead of an exchange compared to bare SDK calls, in pairs.

Each conversation on threadledger is paired with the same conversation on the bare SDK. Both use a simulator in a
separate process.

python benchmarks/exchange.py [--quick] [--only chat] [--synchronous FULL] [--disk DIR]

The baseline is an app that stores nothing: the same SDK requests, with messages in a list and the thread id in a
variable. The overhead is the difference within a pair: median, minimum and maximum. Times are not comparable between
machines. CPU time is that of this process, without the simulator. Aim: an exchange adds less than 5 ms of CPU time on
SQLite with `synchronous` NORMAL.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import openai
from elsewhere import simulator_elsewhere

import threadledger
from threadledger.domain import limits
from threadledger.domain.ledger import Ledger
from threadledger.domain.ledger.awaited import AsyncLedger

CPU_ADDED_AIM_MS = 5.0
"""Maximum CPU time that an exchange may add to the SDK's own, in milliseconds."""

MODEL = "gpt-bench"
QUESTION = "Where is my parcel? I have been waiting for it since Monday, and the tracking page says nothing. " * 2
ENDED = {"completed", "failed", "incomplete", "expired", "cancelled"}
SETTINGS: dict[str, dict[str, Any]] = {
    "chat": {"backends": ("chat",), "threads": "none"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
}


class Sample(NamedTuple):
    wall: float
    cpu: float


class Bare:
    """Represent one conversation on the bare SDK."""

    def __init__(self, sdk: openai.OpenAI, backend: str, assistant_id: str) -> None:
        self._sdk = sdk
        self._assistant_id = assistant_id
        self._messages: list[Any] = []
        self._thread_id = ""
        self.ask: Callable[[str], str] = getattr(self, f"_ask_{backend}")
        self.stream: Callable[[str], str] = getattr(self, f"_stream_{backend}")

    def _ask_chat(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        answer = self._sdk.chat.completions.create(model=MODEL, messages=self._messages).choices[0].message.content
        self._messages.append({"role": "assistant", "content": answer})
        return answer or ""

    def _stream_chat(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        with self._sdk.chat.completions.create(model=MODEL, messages=self._messages, stream=True) as chunks:
            answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self._messages.append({"role": "assistant", "content": answer})
        return answer

    def _conversation(self) -> str:
        self._thread_id = self._thread_id or self._sdk.conversations.create().id
        return self._thread_id

    def _ask_responses(self, text: str) -> str:
        given: Any = [{"role": "user", "content": text}]
        return self._sdk.responses.create(model=MODEL, input=given, conversation=self._conversation()).output_text

    def _stream_responses(self, text: str) -> str:
        given: Any = [{"role": "user", "content": text}]
        told = []
        made = self._sdk.responses.create(model=MODEL, input=given, conversation=self._conversation(), stream=True)
        with made as events:
            told = [event.delta for event in events if event.type == "response.output_text.delta"]
        return "".join(told)

    def _thread(self, text: str) -> str:
        self._thread_id = self._thread_id or self._sdk.beta.threads.create().id
        self._sdk.beta.threads.messages.create(self._thread_id, role="user", content=text)
        return self._thread_id

    def _ask_assistants(self, text: str) -> str:
        threads, thread_id = self._sdk.beta.threads, self._thread(text)
        run = threads.runs.create(thread_id, assistant_id=self._assistant_id)
        while run.status not in ENDED:
            run = threads.runs.retrieve(run.id, thread_id=thread_id)
        part: Any = threads.messages.list(thread_id, run_id=run.id).data[0].content[0]
        return str(part.text.value)

    def _stream_assistants(self, text: str) -> str:
        threads, thread_id, told = self._sdk.beta.threads, self._thread(text), []
        with threads.runs.create(thread_id, assistant_id=self._assistant_id, stream=True) as events:
            for event in events:
                if event.event == "thread.message.delta":
                    told += [part.text.value for part in event.data.delta.content or [] if part.type == "text"]
        return "".join(told)


class Bench:
    """Measure and print the rows of the table."""

    def __init__(self, args: argparse.Namespace, base_url: str, place: Path) -> None:
        self.base_url = base_url
        self.place = place
        self.synchronous = args.synchronous
        self.samples = 5 if args.quick else 40
        self.exchanges = 4 if args.quick else 10
        self.at_once = 50 if args.quick else 500

    def run(self, only: str | None) -> None:
        print(f"{'an exchange':34} {'ours':>11} {'bare SDK':>11}   added (range)")
        for backend in SETTINGS:
            if only in {None, backend}:
                self.compared(backend)
        if only in {None, "many"}:
            self.many()

    def compared(self, backend: str) -> None:
        """Measure conversations of a few exchanges, alternating threadledger and the bare SDK."""
        with self.ledger(backend) as ledger, self.sdk() as sdk:
            assistant_id = sdk.beta.assistants.create(model=MODEL).id if backend == "assistants" else ""
            for streams in (False, True):
                ours = partial(self._ours, ledger, streams)
                bare = partial(self._bare, sdk, backend, assistant_id, streams)
                taken = measured([ours, bare], self.samples)
                for figure in ("cpu", "wall"):
                    self.row(f"{backend}{', streamed' if streams else ''}, {figure}", taken, figure)

    def many(self) -> None:
        """Measure many concurrent exchanges in one event loop, each in its own conversation."""
        rates: list[list[float]] = [[], []]
        peak = 0
        for turn in range(3):
            began = time.perf_counter()
            peak = max(peak, asyncio.run(self._many_of_ours(turn)))
            rates[0].append(self.at_once / (time.perf_counter() - began))
            began = time.perf_counter()
            asyncio.run(self._many_bare())
            rates[1].append(self.at_once / (time.perf_counter() - began))
        ours, bare = (statistics.median(each) for each in rates)
        print(
            f"{f'{self.at_once} at once, exchanges per second':34} {ours:11,.0f} {bare:11,.0f}   {ours / bare:.2f} times"
        )
        print(f"{'  threads, at the peak':34} {peak:11}   of which {limits.ASYNC_WORKERS} do database work")

    def row(self, name: str, taken: list[list[Sample]], figure: str) -> None:
        ours, bare = ([getattr(sample, figure) / self.exchanges * 1000 for sample in each] for each in taken)
        added = sorted(mine - theirs for mine, theirs in zip(ours, bare, strict=True))
        middle = statistics.median(added)
        met = "" if middle <= CPU_ADDED_AIM_MS else " (missed)"
        aim = f"   aim: ≤ {CPU_ADDED_AIM_MS:g} ms{met}" if figure == "cpu" else ""
        print(
            f"{name:34} {statistics.median(ours):8.3f} ms {statistics.median(bare):8.3f} ms   "
            f"{middle:6.3f} ms ({added[0]:.3f} to {added[-1]:.3f}){aim}",
            flush=True,
        )

    @contextmanager
    def ledger(self, backend: str) -> Iterator[Ledger]:
        with threadledger.open(self._database(backend), **self._settings(backend)) as ledger:
            yield ledger

    @contextmanager
    def sdk(self) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=self.base_url, api_key="bench", max_retries=0) as sdk:
            yield sdk

    def _ours(self, ledger: Ledger, streams: bool, number: int) -> None:
        chat = ledger.conversation(f"{'streamed' if streams else 'asked'}-{number}")
        for _ in range(self.exchanges):
            if streams:
                for _ in chat.stream(QUESTION):
                    pass
            else:
                chat.ask(QUESTION)

    def _bare(self, sdk: openai.OpenAI, backend: str, assistant_id: str, streams: bool, number: int) -> None:
        bare = Bare(sdk, backend, assistant_id)
        for _ in range(self.exchanges):
            (bare.stream if streams else bare.ask)(QUESTION)

    async def _many_of_ours(self, turn: int) -> int:
        """Run the concurrent exchanges, and return the maximum number of threads observed."""
        seen = [0]

        async def one(ledger: AsyncLedger, number: int) -> None:
            await ledger.conversation(f"{turn}-{number}").ask(QUESTION)
            seen.append(threading.active_count())

        async with threadledger.open_async(self._database("many"), **self._settings("chat")) as ledger:
            await asyncio.gather(*(one(ledger, number) for number in range(self.at_once)))
        return max(seen)

    async def _many_bare(self) -> None:
        messages: Any = [{"role": "user", "content": QUESTION}]
        async with openai.AsyncOpenAI(base_url=self.base_url, api_key="bench", max_retries=0) as sdk:
            await asyncio.gather(
                *(sdk.chat.completions.create(model=MODEL, messages=messages) for _ in range(self.at_once))
            )

    def _database(self, name: str) -> str:
        return f"sqlite:///{self.place / f'{name}.db'}"

    def _settings(self, backend: str) -> dict[str, Any]:
        provider = {"openai_base_url": self.base_url, "openai_api_key": "bench", "openai_model": MODEL}
        return SETTINGS[backend] | provider | {"synchronous": self.synchronous, "retries": 0}


def measured(works: Sequence[Callable[[int], object]], samples: int) -> list[list[Sample]]:
    """Run each function `samples` times, alternating; a first warm-up round is not counted."""
    taken: list[list[Sample]] = [[] for _ in works]
    for number in range(samples + 1):
        # Alternate which one runs first, so that neither always benefits from caches filled by the other.
        order = range(len(works)) if number % 2 else reversed(range(len(works)))
        for index in order:
            wall, cpu = time.perf_counter(), time.process_time()
            works[index](number)
            taken[index].append(Sample(time.perf_counter() - wall, time.process_time() - cpu))
    return [each[1:] for each in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use few and short conversations, as a smoke test")
    parser.add_argument("--only", choices=[*SETTINGS, "many"])
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="NORMAL", help="SQLite durability mode")
    parser.add_argument("--disk", metavar="DIR", help="directory of the databases")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK warns at each call of the Assistants API
    with tempfile.TemporaryDirectory(dir=args.disk) as place, simulator_elsewhere() as base_url:
        Bench(args, base_url, Path(place)).run(args.only)


if __name__ == "__main__":
    main()
