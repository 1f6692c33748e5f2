"""Measure audit queries on a ledger of 100,000 runs, 10,000 of them failed, the time to rebuild the audit view, and `list`.

python benchmarks/audit.py [--quick] [--disk DIR] [--postgres URL] [--repeat N]

The ledger contains what an app would write: question, run, answer. Some failed runs are followed by a fallback, and
some exchanges are abandoned. Each query runs in this process after the view has caught up, and then as a command,
including the start of Python. The rebuild rate is given in log events per second of CPU on SQLite, of wall time on
PostgreSQL; the view reads only the events of runs, about half of the log. The first list of 100,000 conversations is
the first question to a ledger whose views do not exist yet, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from figures import MEMORY_LIMIT_MB, Table, apart, arguments, once, peak_megabytes

from threadledger.adapters.sql import Database, Factory
from threadledger.domain.conversation import RUN_TOPICS, events, stream_of
from threadledger.domain.failures import SUMMARY_BY
from threadledger.domain.ids import new_id
from threadledger.domain.journal import Journal
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.ledger import Ledger

EVENTS_LIMIT, EVENTS_LIMIT_POSTGRES = 100_000, 80_000
"""Minimum rate of a rebuild, in log events per second."""

ANSWER_LIMIT_SECONDS = 0.3
SPENDING_LIMIT_SECONDS = 1.5
"""Maximum duration of a query, in seconds."""

LIST_LIMIT_SECONDS = 1.0
"""Maximum duration of the first list of 100,000 conversations, in seconds."""

DAYS = 60

FAULTS: tuple[tuple[int, dict[str, Any]], ...] = (
    (40, {"status": "failed", "code": "server_error", "message": "Sorry, something went wrong."}),
    (
        20,
        {
            "status": "error",
            "code": "rate_limit_exceeded",
            "type": "tokens",
            "http_status": 429,
            "message": "Rate limit reached for gpt-4o in organization org-{hex} on tokens per min (TPM): Limit 30000, "
            "Used {n}, Requested {m}. Please try again in {n}ms.",
        },
    ),
    (
        10,
        {
            "status": "error",
            "type": "invalid_request_error",
            "http_status": 404,
            "message": "No thread found with id 'thread_{hex}'.",
            "thread_id": "thread_{hex}",
            "details": {"endpoint": "POST /threads/{thread_id}/runs"},
        },
    ),
    (10, {"status": "timed_out", "message": "no answer within 60 seconds"}),
    (
        8,
        {
            "status": "error",
            "http_status": 500,
            "code": "server_error",
            "message": "The server had an error while processing your request. Sorry about that! "
            "Include the request ID req_{hex} in your message.",
        },
    ),
    (
        6,
        {
            "status": "error",
            "type": "APIConnectionError",
            "message": "Connection error.",
            "details": {"exception": "ConnectError"},
        },
    ),
    (
        4,
        {
            "status": "error",
            "http_status": 401,
            "code": "invalid_api_key",
            "message": "Incorrect API key provided: [redacted].",
        },
    ),
    (2, {"status": "error", "type": "RuntimeError", "message": "worker {n} of /srv/app/{hex}.py stopped at 0x{hex}"}),
)


class Writer:
    """Write exchanges into a ledger in large batches."""

    def __init__(self, ledger: Ledger, seed: int = 7) -> None:
        self.random = Random(seed)
        self._recorder = ledger.journal.recorder
        self._mapper = EventMapper(PlainJSON())
        self.events = self.run_events = self.runs = self.failures = 0

    def write(self, conversations: int, exchanges: int) -> None:
        """Write conversations with this many exchanges each; 10% of the exchanges fall back, and 1% are abandoned."""
        now = datetime.now(UTC)
        for number in range(conversations):
            at = now - timedelta(days=DAYS * (1 - number / conversations))
            rows = list(self._conversation(f"customer-{number}", at, exchanges))
            self._recorder.insert_events([self._mapper.to_stored_event(event) for event in rows])
            self.events += len(rows)
            self.run_events += sum(type(event).__name__ in RUN_TOPICS for event in rows)

    def _conversation(self, key: str, at: datetime, exchanges: int) -> Iterator[events.Event]:
        version = 0

        def made(event_class: type[events.Event], **fields: Any) -> events.Event:
            nonlocal version, at
            version, at = version + 1, at + timedelta(seconds=2)
            common = {"originator_id": stream_of(key), "originator_version": version}
            return event_class(**fields, **common, timestamp=at, event_id=new_id())

        yield made(events.ConversationStarted, key=key)
        for _ in range(exchanges):
            yield from self._exchange(made)

    def _exchange(self, made: Callable[..., events.Event]) -> Iterator[events.Event]:
        random, exchange_id, kind = self.random, new_id(), self.random.random()
        said = {"exchange_id": exchange_id, "role": "user", "content": "Where is my parcel? " * random.randrange(1, 8)}
        yield made(events.MessageJournaled, message_id=new_id(), **said)
        run_id, backend = new_id(), "responses"
        started = {
            "exchange_id": exchange_id,
            "model": random.choice(("gpt-4o", "gpt-5-mini")),
            "memory_hash": "a" * 64,
        }
        started |= {"profile_hash": random.choice("abc") * 64, "attempt": 1}
        yield made(events.RunStarted, run_id=run_id, backend=backend, **started)
        self.runs += 1
        if kind < 0.11:
            yield made(events.RunFailed, run_id=run_id, duration_seconds=random.expovariate(0.3), **self._facts())
            self.failures += 1
            if kind >= 0.1:
                yield made(events.ExchangeAbandoned, exchange_id=exchange_id, run_ids=[run_id])
                return
            run, failed, backend = new_id(), run_id, "chat"
            fell = {"from_backend": "responses", "to_backend": "chat", "reason": "it failed"}
            yield made(events.FallbackUsed, exchange_id=exchange_id, failed_run_id=failed, **fell)
            run_id = run
            yield made(events.RunStarted, run_id=run_id, backend=backend, **started)
            self.runs += 1
        usage = {"input_tokens": random.randrange(50, 4_000), "output_tokens": random.randrange(5, 800)}
        seconds = random.lognormvariate(0.5, 0.6)
        yield made(events.RunCompleted, run_id=run_id, usage=usage, duration_seconds=seconds)
        said |= {"role": "assistant", "run_id": run_id, "source": "run"}
        yield made(events.MessageJournaled, message_id=new_id(), **said)

    def _facts(self) -> dict[str, Any]:
        (facts,) = self.random.choices([each for _, each in FAULTS], [weight for weight, _ in FAULTS])
        return {name: self._filled(value) for name, value in facts.items()} | {"request_id": f"req_{self._hex()}"}

    def _filled(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        number = str(self.random.randrange(1, 100_000))
        return value.replace("{hex}", self._hex()).replace("{n}", number).replace("{m}", number)

    def _hex(self) -> str:
        return f"{self.random.getrandbits(96):024x}"


def opened(url: str) -> Ledger:
    return Ledger(Journal(Factory(database=Database(url))))


class Bench:
    """Measure the queries on one ledger."""

    def __init__(self, url: str, repeat: int, table: Table) -> None:
        self.url = url
        self.repeat = repeat
        self.table = table

    def catch_up(self, writer: Writer) -> None:
        """Measure rebuilding the view several times."""
        on_server = self.url.startswith("postgres")
        rates = []
        for _ in range(max(self.repeat // 2, 1)):
            with opened(self.url) as ledger:
                taken = once(lambda ledger=ledger: ledger.journal.views.rebuild(["audit"]))
                rates.append(writer.events / (taken.wall if on_server else taken.cpu))
        limit = EVENTS_LIMIT_POSTGRES if on_server else EVENTS_LIMIT
        self.table.value(f"audit view from nothing, {writer.events:,} events", rates, "events/s", at_least=limit)

    def questions(self) -> None:
        """Measure queries in this process, after the view has caught up."""
        with opened(self.url) as ledger:
            ledger.failures(limit=1)
            asked: dict[str, Callable[[], object]] = {
                "failures --limit 50": lambda: ledger.failures(limit=50),
                "failures --cause rate_limited --limit 50": lambda: ledger.failures(cause="rate_limited", limit=50),
                "runs --limit 50, page 2": lambda: ledger.runs(limit=50, after=ledger.runs(limit=50).cursor),
                "exchanges --limit 50, unanswered": lambda: ledger.exchanges(unanswered=True, limit=50),
                "profiles": ledger.profiles,
                "groups": ledger.failure_groups,
                "groups --since 7d": lambda: ledger.failure_groups(timedelta(days=7)),
            }
            for by in SUMMARY_BY:
                asked[f"summary --by {by}"] = lambda by=by: ledger.summary(by)
            for name, work in asked.items():
                reads_runs = name.endswith(("--by owner", "--by conversation"))
                limit = SPENDING_LIMIT_SECONDS if reads_runs else ANSWER_LIMIT_SECONDS
                self._answered(name, work, self.repeat, limit)

    def commands(self) -> None:
        """Measure the total time of the commands."""
        program = str(Path(sys.executable).with_name("threadledger"))
        for command in (("failures", "--limit", "50"), ("groups",), ("summary",), ("summary", "--by", "hour")):
            called = [program, "--db", self.url, "-o", "json", "audit", *command]
            self._answered(
                f"threadledger audit {' '.join(command)}",
                lambda called=called: subprocess.run(called, check=True, stdout=subprocess.DEVNULL),
                max(self.repeat // 2, 1),
            )

    def _answered(self, name: str, work: Callable[[], object], repeat: int, at_most: float | None = None) -> None:
        taken = [once(work).wall * 1_000 for _ in range(repeat)]
        self.table.value(name, taken, "ms", at_most=at_most and at_most * 1_000)


def first_list(url: str) -> tuple[float, float]:
    """Return the CPU seconds of a ledger's first list, and the peak memory in megabytes. Runs in a separate process."""
    with opened(url) as ledger:
        seconds = once(lambda: ledger.conversations(limit=50)).cpu
    return seconds, peak_megabytes()


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--postgres", metavar="URL", help="use this empty PostgreSQL database instead of SQLite")
    parser.add_argument("--repeat", type=int, default=9, metavar="N", help="number of samples per query")
    args = parser.parse_args()
    table = Table(args.markdown)
    with tempfile.TemporaryDirectory(dir=args.disk) as place:
        url = args.postgres or f"sqlite:///{Path(place) / 'audit.db'}"
        with opened(url) as ledger:
            writer = Writer(ledger)
            writer.write(91 if args.quick else 4_550, 20)
        bench = Bench(url, args.repeat, table)
        bench.catch_up(writer)
        bench.questions()
        bench.commands()
        if not args.postgres:
            from ledgers import fill

            number = 2_000 if args.quick else 100_000
            fill(url := f"sqlite:///{Path(place) / 'list.db'}", number)
            seconds, megabytes = apart(first_list, url)
            table.value(f"first list of {number:,} conversations, CPU", seconds, "s", at_most=LIST_LIMIT_SECONDS)
            table.value("  peak memory", megabytes, "MB", at_most=MEMORY_LIMIT_MB)
    return 1 if table.missed and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
