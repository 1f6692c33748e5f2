"""Measure what a conversation costs that was edited, or regenerated, many times.

python benchmarks/branches.py [--quick] [--times 10000] [--postgres URL]

One conversation is edited or regenerated ten times, then many times. Printed are the times of an append, a question, a read of
the last 20 messages, and another edit or regeneration, after few and after many, and the size of the state that is stored with
the conversation. The model is a function in the same process, so that nothing else is measured.

Aim: after many it costs what it costs after few.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

from figures import Table, arguments, once
from stores import Places

from threadledger.adapters.sql import Database, Factory
from threadledger.domain import BackendRequest, Candidate, Completion, Message, Policy, Role
from threadledger.domain.effects import Call, Effects
from threadledger.domain.exchange import Services
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Chat, Ledger

FILL = 40
"""Questions before the first measurement, so that a window is full."""

FEW = 10
WINDOW = 20
SAMPLES = 31
AT_MOST, AGAIN_AT_MOST = 1.2, 1.5
"""Maximum ratio of what is measured after many branches to the same after few. What is done once more may cost more: an old
message is found by halving."""


class Echo:
    """Answer at once."""

    name = "echo"
    thread = None
    takes_unsent = False

    def preflight(self, request: BackendRequest) -> None:
        return None

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        async def awaited() -> str:
            return "It is on its way."

        text = yield Call(lambda: "It is on its way.", awaited)
        return Completion((Message(Role.ASSISTANT, text),), finish_reason="stop")


def opened(url: str) -> Ledger:
    policy = Policy((Candidate("echo", "some-model"),), memory_last=WINDOW)
    services = Services(policy=policy, backends={"echo": Echo()}, mirrored_to="none")
    return Ledger(Journal(Factory(database=Database(url))), services)


def costs_of(chat: Chat, again: Callable[[], object], samples: int) -> dict[str, list[float]]:
    """Return the CPU times of each kind of work, in milliseconds."""
    works: dict[str, Callable[[], object]] = {
        "append": lambda: chat.append("user", "Where is my parcel?"),
        "ask": lambda: chat.ask("Where is my parcel?"),
        f"last {WINDOW}": lambda: chat.memory(last=WINDOW),
        "once more": again,
    }
    return {name: [once(work).cpu * 1000 for _ in range(samples)] for name, work in works.items()}


def main() -> int:
    """Print the table, and return 1 if an aim is missed."""
    parser = arguments(__doc__)
    parser.add_argument("--times", type=int, default=10_000, help="how often the conversation is edited or regenerated")
    parser.add_argument("--postgres", metavar="URL", help="server on which databases are created, and dropped again")
    options = parser.parse_args()
    times, samples = (200, 5) if options.quick else (options.times, SAMPLES)
    places, table = Places(options.disk, options.postgres), Table(options.markdown, floor=f"after {FEW}")
    try:
        for what in ("edits", "regenerations"):
            with opened(places.new(in_memory=True)) as ledger:
                _measure(ledger, what, times, samples, table)
    finally:
        places.close()
    return int(bool(table.missed))


def _measure(ledger: Ledger, what: str, times: int, samples: int, table: Table) -> None:
    chat: Any = ledger.conversation("k")
    for _ in range(FILL):
        chat.ask("Where is my parcel?")
    question = chat.memory().messages[-2].message_id

    def again() -> object:
        return chat.edit(question, "And my box?") if what == "edits" else chat.regenerate()

    found = []
    for number in (FEW, times):
        for _ in range(number):
            again()
        size = len(ledger.state("k").as_json())
        found.append((costs_of(chat, again, samples), size))
    (few, few_bytes), (many, many_bytes) = found
    for name, each in few.items():
        ours, floor = statistics.median(many[name]), statistics.median(each)
        limit = AGAIN_AT_MOST if name == "once more" else AT_MOST
        table.compared(f"{times:,} {what}: {name}", ours, floor, "ms", at_most=limit)
    table.compared(f"{times:,} {what}: state", many_bytes, few_bytes, "bytes", at_most=AT_MOST)


if __name__ == "__main__":
    sys.exit(main())
