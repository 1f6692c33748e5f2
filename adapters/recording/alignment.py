"""Align the messages of a request with its conversation: what they continue, which of them are new, and where they go.

An app sends its whole history, or a window of it, with each request. Recorded clients and the served API use this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from threadledger.domain import limits
from threadledger.domain.canonical import EMPTY_PATH
from threadledger.domain.conversation.messages import JournaledMessage, Message, Parent, Role
from threadledger.domain.conversation.parts import Part, Text, blob_of
from threadledger.domain.errors import ConversationChanged, CorruptEvent, InvalidInput
from threadledger.domain.failures import whole_text
from threadledger.domain.ids import new_id, now
from threadledger.domain.memory import ALL, RULE_2

from .branches import BEGINNING, BranchSearch, BranchStart, journal_new
from .histories import NOT_SENT, after_the_model, first_new

if TYPE_CHECKING:
    from threadledger.domain.conversation import Conversation, ConversationState, OpenExchange
    from threadledger.domain.journal import Also, Journal
    from threadledger.domain.memory import Memory

T = TypeVar("T")

WINDOW = f"{RULE_2}app"
"""Memory rule for a window that the app selected itself."""

UNANSWERED_MESSAGES_READ = 100
"""Number of messages that are read of memory besides as many as a request has: tool calls and results of failed runs."""

InProgress = Callable[["ConversationState", str], bool]
"""Function that returns whether an exchange is being answered although none of its runs is open."""


@dataclass(frozen=True)
class RetriedRun:
    """Name the exchange of a request that the SDK sends again, and the last message of its branch if that is aside."""

    exchange_id: str
    leaf: Parent | None = None


@dataclass(frozen=True)
class Continuation:
    """Hold the exchange and the new messages of a request, derived from one version of its conversation."""

    exchange_id: str | None
    """None for a new exchange."""
    new: Sequence[Message]
    rule: str
    """Rule of the view that the app sends: all of memory or a branch, or a window."""


@dataclass(frozen=True)
class Aligned:
    """Describe where the new messages of a request were journaled, and what they continue."""

    exchange_id: str
    rule: str
    leaf: Parent | None
    """The last message of the request's branch, if it is aside."""
    earlier: OpenExchange | None
    """The exchange without an answer: as it was left, if the request continues it, or as its question opened it."""
    question: JournaledMessage | None
    """The message that is answered again, if the request has no new one."""


class Alignment:
    """Compare the messages of a request with their conversation, as it is when this is created."""

    def __init__(
        self,
        journal: Journal,
        key: str,
        messages: Sequence[Message],
        *,
        held: bool = False,
        again: RetriedRun | None = None,
        with_run: bool = True,
        in_progress: InProgress = lambda _state, _exchange_id: False,
    ) -> None:
        """Read what the comparison needs; data inside the messages is stored.

        Args:
            journal: the journal of the conversation.
            key: the conversation's key.
            messages: the messages of the request, without instructions.
            held: the provider already has the messages before these.
            again: the request that the SDK sends again.
            with_run: whether the start of a run follows in the same commit, which stores the hash of memory.
            in_progress: see `InProgress`.
        """
        self.conversation = earlier = journal.load(key)
        newest = earlier.state.last_exchange_id if earlier is not None else None
        self.unanswered = earlier is not None and newest not in earlier.state.answered
        """Whether the conversation's newest exchange has no answer."""
        self._key, self._held, self._again, self._in_progress = key, held, again, in_progress
        self._read_max = len(messages) + (UNANSWERED_MESSAGES_READ if self.unanswered else 1)
        self._memory = memory = journal.memory(key, last=self._read_max)
        self.messages = kept_messages(journal, messages, memory)
        self._start = self._branch(journal, earlier.state) if earlier is not None else None
        self._path = (memory.path_hash or journal.path_hash(key, memory.version)) if with_run else None

    @property
    def last(self) -> JournaledMessage | None:
        """Return the message at the end of memory; None if memory is empty."""
        return self._memory.messages[-1] if self._memory.messages else None

    def continuation(self, conversation: Conversation) -> Continuation:
        """Return what the request continues, and its new messages."""
        start = self._start
        if start is not None:
            return Continuation(start.exchange_id, self.messages[start.known :], ALL)
        earlier, place, shown = self._continued(conversation.state)
        rule = ALL if self._held or self._again is not None or place == shown else WINDOW
        return Continuation(earlier, self.messages[place:], rule)

    def journaled(self, conversation: Conversation) -> Aligned:
        """Journal the new messages in a commit.

        Raises:
            ConversationChanged: the conversation has changed since it was read.
        """
        self._require_unchanged(conversation)
        if self._path is not None:
            conversation.know_path(self._path)
        conversation.close_overdue_runs()
        found = self.continuation(conversation)
        exchange_id = found.exchange_id
        if exchange_id is None:
            give_up_idle(conversation)
            exchange_id = new_id()
        start = self._start
        if start is not None and self._path is None:
            start = replace(start, path_hash=None)
        leaf = journal_new(conversation, start, found.new, exchange_id)
        state = conversation.state
        earlier = state.open_exchanges.get(exchange_id) or state.abandoned.get(exchange_id)
        return Aligned(exchange_id, found.rule, leaf, earlier, start.question if start is not None else None)

    def _require_unchanged(self, conversation: Conversation) -> None:
        if not conversation.pending and conversation.version != self._memory.version:
            raise ConversationChanged(f"the conversation {self._key!r} has changed since its memory was read")

    def beside(self, conversation: Conversation, messages: Sequence[Message], is_aside: bool) -> Aligned:
        """Journal messages of a request aside, after the end of memory; with `is_aside`, the run goes there too.

        Otherwise the run continues the end of memory, which has what it answers.

        Raises:
            ConversationChanged: the conversation has changed since it was read.
        """
        if not is_aside:
            aligned = self.journaled(conversation)
            self._journal_aside(conversation, messages, aligned.exchange_id)
            return aligned
        self._require_unchanged(conversation)
        conversation.close_overdue_runs()
        earlier = self._again.exchange_id if self._again is not None else None
        state = conversation.state
        exchange = state.open_exchanges.get(earlier or "") or state.abandoned.get(earlier or "")
        exchange_id = earlier if earlier is not None and exchange is not None else new_id()
        leaf = self._journal_aside(conversation, messages, exchange_id)
        return Aligned(exchange_id, WINDOW, leaf, exchange, None)

    def _journal_aside(self, conversation: Conversation, messages: Sequence[Message], exchange_id: str) -> Parent:
        """Return the last of the messages, or the one that they would follow."""
        end = (self.last.message_id, self.last.version) if self.last is not None else BEGINNING
        leaf = self._again.leaf if self._again is not None and self._again.leaf is not None else end
        for message in messages:
            said = conversation.journal(message, exchange_id=exchange_id, parent=leaf)
            leaf = (said.message_id, said.originator_version)
        return leaf

    def _branch(self, journal: Journal, state: ConversationState) -> BranchStart | None:
        """Return the branch that the request continues or begins; None if it continues the end of memory."""
        if self._again is not None:
            leaf, again = self._again.leaf, self._again.exchange_id
            return BranchStart(leaf, len(self.messages), exchange_id=again) if leaf is not None else None
        if self._held:
            return None
        if not self.messages:  # instructions alone: a side call
            known = any(each.message.role not in NOT_SENT for each in self._memory.messages)
            return BranchStart(BEGINNING, 0, path_hash=EMPTY_PATH) if known else None
        all_read = len(self._memory.messages) < self._read_max
        search = BranchSearch(journal, self._key, state, self._memory, all_read, self._in_progress)
        with suppress(CorruptEvent):  # of a message that is not in memory: the call is made, and recorded as a window
            return search.start(self.messages, partial(_is_of_a_failed_run, state=state))
        return None

    def _continued(self, state: ConversationState) -> tuple[str | None, int, int]:
        """Return the unanswered exchange that the request continues, the place of its first new message, and the number
        of messages in memory that are compared with it."""
        sent, again, memory = self.messages, self._again, self._memory
        known = [each for each in memory.messages if each.message.role not in NOT_SENT]
        shown = [each.message for each in known]
        place = len(sent)
        read = {"held": self._held, "all_read": len(memory.messages) < self._read_max}
        if again is None:
            place = first_new(sent, shown, **read)
            asked = [each.message for each in known if not _is_of_a_failed_run(each, state)]
            if len(asked) < len(shown):  # without what a failed run did on the way, which another API is not sent
                place = max(place, first_new(sent, asked, **read))
        earlier, caller = (again.exchange_id, None) if again is not None else _exchange_of(sent[place:], known)
        if again is None and self._is_answered(state, earlier, caller):  # the same question again, at the same time
            end = after_the_model(shown)
            rest = (each for each in known[end:] if not self._is_answered(state, each.exchange_id))
            others = [
                each.message for each in (*known[:end], *rest)
            ]  # without those that open runs are about to answer
            earlier, place = None, first_new(sent, others, **read)
        if earlier in state.answered or (earlier not in state.open_exchanges and earlier not in state.abandoned):
            earlier = None
        return earlier, place, len(shown)

    def _is_answered(self, state: ConversationState, exchange_id: str | None, caller: str | None = None) -> bool:
        """Return whether an exchange is being answered by a run other than the one that called the tools."""
        if exchange_id is None:
            return False
        runs = state.open_runs.items()
        is_open = any(run.exchange_id == exchange_id and run_id != caller for run_id, run in runs)
        return is_open or self._in_progress(state, exchange_id)


def committed(
    journal: Journal,
    key: str,
    read: Callable[[], Alignment],
    decide: Callable[[Alignment, Conversation], T],
    also: Also | None = None,
) -> T:
    """Read, decide and store in one commit, again if another writer came first; the conversation is created if need be.

    `also` writes notes in the same transaction.

    Raises:
        StoreError: the events cannot be written.
        ConversationChanged: other writers changed the conversation during every attempt.
    """
    refused: ConversationChanged | None = None
    for _ in range(limits.DECIDE_ATTEMPTS_MAX):
        aligned = read()
        try:
            return journal.commit(key, partial(decide, aligned), create=True, also=also)
        except ConversationChanged as error:
            refused = error
    raise refused or AssertionError("at least one attempt was made")


def give_up_idle(conversation: Conversation) -> None:
    """Abandon open exchanges without recent activity, because the app has a newer question; one may wait for a person."""
    moment = now()
    for exchange_id, exchange in list(conversation.state.open_exchanges.items()):
        if not exchange.is_active(moment) and not exchange.waits:
            conversation.abandon(exchange_id, "the app went on without an answer")


def _exchange_of(new: Sequence[Message], known: Sequence[JournaledMessage]) -> tuple[str | None, str | None]:
    """Return the exchange that continues: the one whose tool results are sent, or whose question is sent again.

    The second value is the run that called the tools.
    """
    if not new:
        return (known[-1].exchange_id, None) if known else (None, None)
    results = {each.tool_call_id for each in new if each.role is Role.TOOL}
    for each in reversed(known):
        if any(call.id in results for call in each.message.calls()):
            return each.exchange_id, each.run_id
    return None, None


def _is_of_a_failed_run(each: JournaledMessage, state: ConversationState) -> bool:
    """Return whether a message is a tool call, or the result of one, of an exchange whose run has failed."""
    exchange = state.open_exchanges.get(each.exchange_id or "") or state.abandoned.get(each.exchange_id or "")
    uses_tools = each.message.role is Role.TOOL or bool(each.message.calls())
    return uses_tools and exchange is not None and exchange.failed_run is not None


# What is stored of messages


def kept_messages(journal: Journal, messages: Sequence[Message], memory: Memory | None = None) -> tuple[Message, ...]:
    """Store the data inside messages, and return them with the addresses of their attachments.

    What the memory refers to is not stored again: an app sends its whole history with each request. One that cannot be
    stored is replaced by a text, because the app's call must not fail for it.
    """
    if all(not isinstance(each.content, tuple) and not each.native_json for each in messages):
        return tuple(messages)
    known = (
        {blob_of(part) for each in memory.messages for part in _parts_of(each.message)} if memory is not None else set()
    )
    return tuple(_kept(journal, each, known) for each in messages)


def _parts_of(message: Message) -> tuple[Part, ...]:
    return message.content if isinstance(message.content, tuple) else ()


def _kept(journal: Journal, message: Message, known: Collection[str]) -> Message:
    try:
        return journal.keep(message, known)
    except InvalidInput:
        parts = _parts_of(message)
    try:
        kept = tuple(_kept_part(journal, part, known) for part in parts)
        return journal.keep(message.replaced(content=kept) if kept else message, known)
    except InvalidInput as refusal:
        return Message(message.role, f"[a message was not kept: {whole_text(str(refusal))}]")


def _kept_part(journal: Journal, part: Part, known: Collection[str]) -> Part:
    try:
        [kept] = _parts_of(journal.keep(Message(Role.USER, (part,)), known))
        return kept
    except InvalidInput as refusal:
        return Text(f"[an attachment was not kept: {whole_text(str(refusal))}]")
