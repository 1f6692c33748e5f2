"""Fork a conversation: start a new one from the memory of another, at a version or time. No model is called."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING

from ..conversation import Conversation, stream_of
from ..conversation import events as e
from ..conversation.decisions import pin
from ..conversation.description import Description
from ..conversation.messages import Role
from ..effects import work
from ..errors import Conflict, ConversationChanged, InvalidInput
from ..exchange import SentOptions
from ..ids import new_id
from ..journal.descriptions import description_of
from ..limits import KEY_CHARS_MAX
from ..memory import INSTRUCTING

if TYPE_CHECKING:
    from ..conversation import ConversationState
    from ..conversation.messages import JournaledMessage
    from ..effects import Effects
    from ..exchange import Services
    from ..journal import Journal
    from ..memory import Memory


def forked(
    journal: Journal, services: Services, key: str, new_key: str, at: int | datetime | None
) -> Effects[ConversationState]:
    """Fork a conversation, then mirror the fork to its threads, as after any append; see `Ledger.fork`."""
    state = yield from work(lambda: fork(journal, key, new_key, at).state)
    if services.outbox is not None:
        yield from services.outbox.mirror(journal, new_key)
    return state


def fork(
    journal: Journal,
    key: str,
    new_key: str,
    at: int | datetime | None = None,
    asked_in: str | None = None,
    leaf: int | None = None,
) -> Conversation:
    """Start a conversation from the memory of another, at a version or time, in one commit.

    The fork has owner, tags and metadata of the other as of now, no title, and is not archived. The messages keep role,
    content, tool calls, other fields, source and the time at which they were written; their ids are new. With `asked_in`,
    the question of that exchange belongs to an open exchange of the fork, with its options. The path of memory ends with the
    message of version `leaf`, by default with the selected one; pins and the summary are copied too.

    Raises:
        ConversationNotFound: there is no conversation to fork.
        InvalidKey: `new_key` is not a valid key.
        InvalidInput: the conversation does not have this version, or did not exist at this time.
        Conflict: a conversation `new_key` already exists.
    """
    parent = journal.require(key)
    memory = journal.memory(key, at, leaf=leaf)
    if isinstance(at, int) and not 1 <= at <= parent.version:
        raise InvalidInput(f"{key!r} has versions 1 to {parent.version}: there is no version {at} to fork")
    if memory.version == 0:
        raise InvalidInput(f"{key!r} did not exist yet at that time: pass a later time")
    taken = f"the conversation {new_key!r} already exists: choose another key for the fork"
    if new_key == key or journal.load(new_key) is not None:
        raise Conflict(taken)
    inherited = description_of(journal, key, parent.state)
    deleted = journal.deleted_state(new_key)
    conversation = Conversation.start(new_key, inherited.metadata, key, memory.version, journal.actor, deleted)
    full = journal.memory(key, memory.version, leaf=leaf, full=True) if memory.summary_id is not None else memory
    own = _journal(conversation, full, memory, asked_in)
    kept = Description().changed_by({"owner": inherited.owner, "tags": list(inherited.tags)})
    if kept:
        conversation.describe(kept)
    sent = SentOptions.of(journal, key, asked_in, memory.version) if asked_in is not None else None
    if sent is not None:
        conversation.request(own, sent.copied())
    try:
        journal.store(conversation)
    except ConversationChanged as error:
        raise Conflict(taken) from error
    return conversation


def fork_key(journal: Journal, key: str, run_id: str, at: int) -> str:
    """Return the key of the fork in which a run's exchange is rerun.

    The key is unused, or belongs to a fork at the same version that has not been answered yet.
    """
    for number in count(1):
        ending = f" ~ {run_id[-8:]}" + (f" {number}" if number > 1 else "")
        wanted = key[: KEY_CHARS_MAX - len(ending)] + ending
        there = journal.load(wanted)
        if there is None and journal.has(stream_of(wanted)):  # it was deleted
            continue
        if there is None or (is_fork(journal, wanted, key, at) and there.state.open_exchanges):
            return wanted
    raise AssertionError("there is always another number")


def is_fork(journal: Journal, key: str, parent_key: str, parent_version: int) -> bool:
    """Return whether a conversation is a fork of another one at a version."""
    return journal.parent(key) == (parent_key, parent_version)


def exchange_in_fork(journal: Journal, key: str) -> str | None:
    """Return the exchange that was open when a fork started."""
    journaled = (event for event in journal.history(key) if isinstance(event, e.MessageJournaled))
    return next((event.exchange_id for event in journaled if event.exchange_id is not None), None)


def events_of_copy(memory: Memory, full: Memory) -> int:
    """Return the version of a copy with the messages of a full memory, its summary and its pins."""
    ids = {each.message_id for each in full.messages}
    return 1 + len(full.messages) + (2 if memory.summary_id is not None else 0) + len(memory.pinned & ids)


def _journal(conversation: Conversation, full: Memory, memory: Memory, asked_in: str | None) -> str:
    """Journal the messages of a full memory, then its summary and pins; return the id of the exchange that is answered again."""
    question = _question(full, asked_in) if asked_in is not None else None
    own = new_id()
    pinned: list[e.MessageJournaled] = []
    copies: dict[int, e.MessageJournaled] = {}
    for each in full.messages:
        # Exchanges and runs remain the parent's; the exchange that is answered again here gets a new id.
        is_open_here = question is not None and (each is question or each.exchange_id == asked_in)
        copied = conversation.journal(
            each.message,
            source=each.source,
            exchange_id=own if is_open_here else None,
            written_at=each.written_at,
        )
        copies[each.version] = copied
        if each.message_id in memory.pinned:
            pinned.append(copied)
    covers = copies.get(memory.covered_version or 0)
    if covers is not None:
        _copy_summary(conversation, memory, covers, copies)
    for copied in pinned:
        pin(conversation, copied.message_id, copied.originator_version)
    return own


def _copy_summary(
    conversation: Conversation, memory: Memory, covers: e.MessageJournaled, copies: Mapping[int, e.MessageJournaled]
) -> None:
    summary = next(each for each in memory.messages if each.message_id == memory.summary_id)
    parent = (covers.message_id, covers.originator_version)
    said = conversation.journal(summary.message, source=summary.source, parent=parent)
    upto = covers.originator_version
    system = [
        each.originator_version
        for each in copies.values()
        if each.role in INSTRUCTING and each.originator_version <= upto
    ]
    conversation.compact(said, parent, upto, system)


def _question(memory: Memory, exchange_id: str | None) -> JournaledMessage | None:
    """Return the question of an exchange, or the newest message of the user if the exchange has none."""
    asked = [each for each in memory.messages if each.message.role is Role.USER]
    ours = [each for each in asked if each.exchange_id == exchange_id]
    return (ours or asked)[-1] if asked else None
