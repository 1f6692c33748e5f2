"""Test that a run costs the same however long its conversation is, apart from the messages that a model is shown.

Counted are the rows of events, the reads of heads and the appends; not time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain.canonical import EMPTY_PATH, path_of
from threadledger.domain.conversation import ConversationState, events
from threadledger.domain.ledger import Ledger

SHORT, LONG = 10, 2_000


def filled(ledger: Ledger, length: int) -> Any:
    """Return a new conversation with this number of messages."""
    chat = ledger.conversation(f"of {length}")
    chat.extend(
        {"role": ("user", "assistant")[number % 2], "content": f"text {number % 10}"} for number in range(length)
    )
    return chat


def own_run(chat: Any) -> None:
    chat.append("user", "And now?")
    with chat.run("chat", "llama") as run:
        run.complete("Now too.")


def failed_run(chat: Any) -> None:
    chat.append("user", "And now?")
    with pytest.raises(OSError), chat.run("chat", "llama"):
        raise OSError("no network")
    with chat.run("other", "llama") as run:
        run.complete("Now too.")


def after_a_retraction(chat: Any) -> None:
    own_run(chat)
    chat.append("user", "Now, and")
    secret = chat.append("user", "a secret").message_id
    chat._journal.commit(chat.key, lambda it: it.retract(secret))  # `retract` itself searches the message in memory
    own_run(chat)


@pytest.mark.parametrize("work", [own_run, failed_run, after_a_retraction])
def test_an_own_run_reads_the_same_in_a_long_conversation(
    work: Callable[[Any], None], open_ledger: Callable[..., Ledger], read: Counter[str]
) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    costs = []
    for length in (SHORT, LONG):
        chat = filled(ledger, length)
        own_run(chat)
        read.clear()
        work(chat)
        costs.append(dict(read))
    assert costs[0] == costs[1]
    if work is own_run:
        assert costs[0].keys() == {"appends", "heads"}  # no event is read
        assert costs[0]["appends"] == 3  # the question, the start, the answer


CHAINS: list[dict[str, Any]] = [
    {"backends": ("chat",), "threads": "none", "memory_last": 4},
    {"backends": ("chat",), "threads": "none", "memory_tokens": 50},
    {"backends": ("responses",), "threads": "conversations"},
    {"backends": ("assistants",), "threads": "assistants"},
]


@pytest.mark.parametrize("settings", CHAINS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_question_reads_the_same_in_a_long_conversation(
    settings: dict[str, Any], open_ledger: Callable[..., Ledger], read: Counter[str]
) -> None:
    ledger = open_ledger(**settings)
    costs = []
    for length in (SHORT, LONG):
        chat = filled(ledger, length)
        chat.ask("And now?")
        read.clear()
        chat.ask("And tomorrow?")
        costs.append(dict(read))
    assert costs[0] == costs[1]
    for length in (SHORT, LONG):
        started = [event for event in ledger.journal.history(f"of {length}") if isinstance(event, events.RunStarted)]
        for run in started:
            said = ledger.memory(run.originator_id.partition(":")[2], run.memory_version)
            assert run.path_hash == path_of(each.neutral() for each in said.messages)
            assert said.by_rule(run.memory_rule, run.memory_first_version).digest() == run.memory_hash


def test_the_whole_memory_is_read_once_for_a_question_that_shows_it(
    open_ledger: Callable[..., Ledger], read: Counter[str]
) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    chat = filled(ledger, LONG)
    chat.ask("And now?")
    read.clear()
    chat.ask("And tomorrow?")
    assert LONG <= read["rows"] <= LONG + 20


def test_a_plan_to_rerun_hashes_the_memory_of_a_run_once_and_reads_it_and_the_present_once(
    open_ledger: Callable[..., Ledger], simulator: Any, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(backends=("chat",), threads="none", retries=0)
    chat = filled(ledger, 200)
    simulator.add_fault("POST /chat/completions", refuse={"status": 500}, times=None)
    with pytest.raises(Exception, match="chat"):
        chat.ask("And now?")
    hashed: Counter[str] = Counter()
    from threadledger.domain.memory import memory

    whole = memory.path_of

    def counted(messages: Any) -> str:
        hashed["whole"] += 1
        return whole(messages)

    monkeypatch.setattr(memory, "path_of", counted)
    plan = ledger.replay.plan_rerun(failed=True)
    assert [item.state for item in plan.items] == ["planned"]
    assert hashed["whole"] <= 1


def test_a_reopened_ledger_knows_the_hash_and_one_that_an_earlier_version_wrote_learns_it(
    open_ledger: Callable[..., Ledger],
) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    chat = filled(ledger, SHORT)
    assert state_of(ledger).path_hash == path_of(each.neutral() for each in chat.memory().messages) != EMPTY_PATH
    ledger.close()
    again = open_ledger(backends=("chat",), threads="none")
    chat = again.conversation(f"of {SHORT}")
    chat.retract(chat.memory().messages[3].message_id)
    assert state_of(again).path_hash is None
    own_run(chat)
    assert (
        state_of(again).path_hash
        == chat.memory().digest()
        == path_of(each.neutral() for each in chat.memory().messages)
    )
    assert list(again.journal.upkeep.check(lambda done, total: None)) == []


def state_of(ledger: Ledger) -> ConversationState:
    return ledger.journal.require(f"of {SHORT}").state
