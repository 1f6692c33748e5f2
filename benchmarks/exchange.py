"""Measure the overhead of an exchange compared to bare SDK calls, in pairs.

Each conversation on threadledger is paired with the same conversation on the bare SDK. Both use a simulator in a
separate process.

python benchmarks/exchange.py [--quick] [--only chat|growth|runs] [--synchronous FULL] [--disk DIR]

The baseline is an app that stores nothing: the same SDK requests, with messages in a list and the thread id in a
variable. The overhead is the difference within a pair: median, minimum and maximum. Times are not comparable between
machines. CPU time is that of this process, without the simulator. An exchange may add 5 ms of CPU time on SQLite with
`synchronous` NORMAL, in a conversation of any length. The rows "append and chat.run" record a model call of the app
itself (question, run, answer: three commits); their floor is a hand-written INSERT of the two messages.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
from elsewhere import simulator_elsewhere
from figures import Sample, Table, arguments, measured, once
from stores import FILL_MESSAGES, Hand, Ours, batches, texts

import threadledger
from threadledger.domain import limits
from threadledger.domain.ledger import Ledger
from threadledger.domain.ledger.awaited import AsyncLedger

CPU_ADDED_LIMIT_MS = 5.0
"""Maximum CPU time that an exchange may add to the SDK's own, in milliseconds."""

RUN_LIMIT = 8.0
"""Maximum ratio of `append` and `chat.run` to an INSERT of the two messages, in CPU time."""

FLAT_LIMIT = 1.1
"""Maximum ratio of the longest conversation to the shortest."""

MODEL = "gpt-bench"
QUESTION = "Where is my parcel? I have been waiting for it since Monday, and the tracking page says nothing. " * 2
ENDED = {"completed", "failed", "incomplete", "expired", "cancelled"}
SETTINGS: dict[str, dict[str, Any]] = {
    "chat": {"backends": ("chat",), "threads": "none"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
}


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
        self.table = Table(args.markdown)
        self.base_url = base_url
        self.place = place
        self.synchronous = args.synchronous
        self.samples = 5 if args.quick else 40
        self.exchanges = 4 if args.quick else 10
        self.at_once = 50 if args.quick else 500
        self.lengths = (10, 5_000) if args.quick else (10, 5_000, 100_000)

    def run(self, only: str | None) -> None:
        for backend in SETTINGS:
            if only in {None, backend}:
                self.compared(backend)
        for name in ("growth", "runs", "many"):
            if only in {None, name}:
                getattr(self, name)()

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

    def growth(self) -> None:
        """Measure `ask` in conversations of different lengths whose messages the provider has already."""
        with self.sdk() as sdk:
            bare = Bare(sdk, "responses", "")
            for length in self.lengths:
                path = self.place / f"length-{length}.db"
                with threadledger.open(path, **self._settings("responses")) as ledger:
                    ledger.conversation("k").ask(QUESTION)  # creates the thread
                with threadledger.open(path, threads="none", synchronous="NORMAL") as ledger:
                    for part in batches(texts(length - 2), FILL_MESSAGES):
                        ledger.conversation("k").extend([{"role": role, "content": text} for role, text in part])
                # As if the thread had them: writing 100,000 messages to a provider takes longer than the benchmark.
                with sqlite3.connect(path) as connection:
                    connection.execute(
                        "UPDATE mirror_heads SET (version, settled) = "
                        "(SELECT s.version, s.version FROM streams s WHERE s.name = mirror_heads.stream)"
                    )
                connection.close()
                with threadledger.open(path, **self._settings("responses")) as ledger:
                    chat = ledger.conversation("k")
                    taken = measured([lambda _, of=chat: of.ask(QUESTION), lambda _: bare.ask(QUESTION)], self.samples)
                self.table.added(f"ask at {length:,} messages, CPU", taken, "cpu", CPU_ADDED_LIMIT_MS)

    def runs(self) -> None:
        """Measure `append` and `chat.run` in a short and in a long conversation, against an INSERT of two messages."""
        lengths = (self.lengths[0], self.lengths[-1])
        batch, said = 10, texts(20)
        stores: list[Any] = [
            Ours(self._database("runs"), self.synchronous),
            Hand(self._database("hand"), self.synchronous),
        ]
        works: list[Callable[[int], object]] = []
        for conversation, length in enumerate(lengths):
            for store in stores:
                store.fill_messages(conversation, texts(length))

        def recorded(work: Callable[[int, Any], object], conversation: int, _: int) -> None:
            for number in range(batch):
                work(conversation, said[2 * number : 2 * number + 2])

        for conversation, length in enumerate(lengths):
            works = [partial(recorded, work, conversation) for work in (stores[0].run, stores[1].say)]
            taken = measured(works, self.samples)
            self.table.pairs(f"append and chat.run at {length:,} messages, CPU", taken, "cpu", RUN_LIMIT, batch)
        works = [partial(recorded, stores[0].run, conversation) for conversation in (1, 0)]
        name = f"append and chat.run at {lengths[1]:,} messages against {lengths[0]}, CPU"
        self.table.pairs(name, measured(works, self.samples), "cpu", FLAT_LIMIT, batch)
        for store in stores:
            store.close()

    def many(self) -> None:
        """Measure many concurrent exchanges in one event loop, each in its own conversation."""
        rates: list[list[float]] = [[], []]
        peak = 0
        for turn in range(3):
            for i, work in enumerate((lambda turn=turn: self._many_of_ours(turn), self._many_bare)):
                peaks: list[int] = []
                taken = once(lambda work=work, peaks=peaks: peaks.append(asyncio.run(work())))
                rates[i].append(self.at_once / taken.wall)
                peak = max(peak, *peaks)
        self.table.rates(f"{self.at_once} at once, exchanges", *rates)
        self.table.value(f"  threads, at the peak, with {limits.ASYNC_WORKERS} for the database", peak, "")

    def row(self, name: str, taken: Sequence[Sequence[Sample]], figure: str) -> None:
        limit = CPU_ADDED_LIMIT_MS if figure == "cpu" else None
        self.table.added(name, taken, figure, limit, self.exchanges)

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

    async def _many_bare(self) -> int:
        messages: Any = [{"role": "user", "content": QUESTION}]
        async with openai.AsyncOpenAI(base_url=self.base_url, api_key="bench", max_retries=0) as sdk:
            await asyncio.gather(
                *(sdk.chat.completions.create(model=MODEL, messages=messages) for _ in range(self.at_once))
            )
        return 0

    def _database(self, name: str) -> str:
        return f"sqlite:///{self.place / f'{name}.db'}"

    def _settings(self, backend: str) -> dict[str, Any]:
        provider = {"openai_base_url": self.base_url, "openai_api_key": "bench", "openai_model": MODEL}
        return SETTINGS[backend] | provider | {"synchronous": self.synchronous, "retries": 0}


def main() -> None:
    parser = arguments(__doc__, [*SETTINGS, "growth", "runs", "many"])
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="NORMAL", help="SQLite durability mode")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK warns at each call of the Assistants API
    with tempfile.TemporaryDirectory(dir=args.disk) as place, simulator_elsewhere() as base_url:
        Bench(args, base_url, Path(place)).run(args.only)


if __name__ == "__main__":
    main()
