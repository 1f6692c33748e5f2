"""Keep what others write after a question out of its exchange: the model does not see it, and the answer comes before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..conversation import Place
from ..conversation.events import MessageJournaled, RunStarted
from ..conversation.messages import restore_message
from ..errors import LogRewound
from ..memory import ALL, ending_with_question, message_tokens

if TYPE_CHECKING:
    from ..journal import Journal
    from ..memory import Memory


def until_question(
    journal: Journal,
    key: str,
    memory: Memory,
    asked_at: int,
    exchange_id: str,
    last: int | None,
    tokens: int | None,
) -> Memory:
    """Return a memory, which was read with these limits, without what others wrote after the question."""
    if all(each.exchange_id == exchange_id or each.version <= asked_at for each in memory.messages):
        return memory
    if last is None and tokens is None:
        return ending_with_question(memory, asked_at)
    events = journal.history(key, after=asked_at - 1)
    since = [restore_message(event) for event in events if isinstance(event, MessageJournaled)]  # with the question
    wider = journal.memory(
        key,
        memory.version,
        last=None if last is None else last + len(since),
        tokens=None if tokens is None else tokens + sum(map(message_tokens, since)),
    )
    return ending_with_question(replace(wider, rule=ALL), asked_at).window(last, tokens)


def place_behind_question(
    journal: Journal, key: str, exchange_id: str, run_id: str, asked_at: int, in_thread: int
) -> Place:
    """Return the place of a run's messages: behind the question and what earlier runs of its exchange journaled.

    Messages of others up to the version `in_thread` are in the thread in which the run answered, before the answer.
    """
    behind, versions, others = None, dict[str, int](), False
    for event in journal.history(key, after=asked_at - 1):
        if isinstance(event, MessageJournaled):
            if event.exchange_id == exchange_id:
                if event.run_id != run_id:
                    behind, versions = event.message_id, {event.message_id: event.originator_version}
            elif event.originator_version > in_thread:
                others = True
    return Place(behind=behind, versions=versions) if others else Place()


def require_start(journal: Journal, key: str, run_id: str, before: int) -> None:
    """Check that the log still has the start of a run, which is after the version `before`.

    Raises:
        LogRewound: it has not, so the question may be lost too, and nothing may be recorded of the run.
    """
    starts = (event for event in journal.history(key, after=before) if isinstance(event, RunStarted))
    if all(event.run_id != run_id for event in starts):
        raise LogRewound(
            f"the log was rewound by a restored backup or a failover: run {run_id} of {key!r} is no longer in it, so its "
            "result was not recorded; look at the conversation with threadledger show, then ask again"
        )
