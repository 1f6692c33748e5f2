"""Find the branch of a conversation that a request continues or begins, if its history does not continue memory.

The history has to begin with messages of the conversation, and what follows them has to be the app's own: an edited question,
a question again, or what continues another branch. Any other history is recorded as if the app sent a window. A run that
begins a branch stays aside, as its messages do: it may be a side call ("name this chat"). A request that continues a branch
selects it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from threadledger.domain.conversation import Conversation, ConversationState
from threadledger.domain.conversation.events import RunStarted
from threadledger.domain.conversation.messages import JournaledMessage, Message, Parent, Role
from threadledger.domain.journal import Journal
from threadledger.domain.memory import ALL, Memory

from .histories import NOT_SENT, HistoryPlace, continues, is_same, place_in

if TYPE_CHECKING:
    from threadledger.domain.memory.tree import TreeMessage

TREE_MESSAGES_MAX = 10_000
"""Number of messages up to which all branches of a conversation are read, also for a short history."""

HISTORIES_PER_TREE = 2
"""Number of times that a history's own length is read for a longer one."""

OPENING_VERSION = 16
"""Version up to which the first message of a long conversation is searched for."""

EVENTS_LOOKED_BACK = 200
"""Number of events in which the newest recorded run is searched for: it shows what the app sends."""

ANSWER_LOOKED_BACK = 8
"""Number of messages before a run in which an answer is searched for."""

CONTINUED = "the app continued this branch"
"""Reason of the selections that a recorded request makes."""

BEGINNING: Parent = ("", 0)


@dataclass(frozen=True)
class BranchStart:
    """Describe where the messages of a request go, if not to the end of memory."""

    parent: Parent
    """The message that the new messages follow."""
    known: int
    """Number of messages of the request that are journaled already."""
    selects: bool = False
    """Whether the branch is selected, because the request continues it; otherwise the run stays aside."""
    exchange_id: str | None = None
    """The exchange without an answer that the request continues."""
    question: JournaledMessage | None = None
    """The message that is answered again, if the request has no new one."""
    path_hash: str | None = None
    """Hash of the path that ends with the parent; None if no start of a run follows in the commit, which would store it."""


class BranchSearch:
    """Compare one history with the branches of its conversation, as it was when its memory was read."""

    def __init__(
        self,
        journal: Journal,
        key: str,
        state: ConversationState,
        memory: Memory,
        all_read: bool,
        in_progress: Callable[[ConversationState, str], bool],
    ) -> None:
        self._journal = journal
        self._key = key
        self._state = state
        self._memory = memory
        self._all_read = all_read
        self._in_progress = in_progress
        self._known = [each for each in memory.messages if each.message.role not in NOT_SENT]

    def start(self, sent: Sequence[Message], is_left_out: Callable[[JournaledMessage], bool]) -> BranchStart | None:
        """Return where the messages of a history go; None if they go to the end, or if the history cannot be placed.

        `is_left_out` says of a message in memory whether the app may leave it out, because it belongs to a failed run.
        """
        shown = [each.message for each in self._known]
        needed = [each.message for each in self._known if not is_left_out(each)]
        compared = [shown] if len(needed) == len(shown) else [shown, needed]
        if any(continues(sent, each, self._all_read) for each in compared) or not self._may_begin(sent):
            return None
        roots = self._journal.places(self._key).tree().roots()
        place = place_in(roots, sent)
        new = sent[place.known :] if place is not None else sent
        if any(each.role is Role.ASSISTANT for each in new):
            return None
        if place is None:
            return self._with_hash(_first(roots)) if self._sends_whole_histories() else None
        after = [each.message for each in _selected_after(place)]
        if place.node.selected and not any(_answers(each) and not is_left_out(each) for each in after):
            return None  # only questions without an answer follow
        if all(each.role is Role.USER for each in sent) and not self._sends_whole_histories():
            again = not new and all(each.message.role is not Role.USER for each in after)
            if not again or not place.node.selected:
                return None
        return self._with_hash(self._at(place, new))

    def _may_begin(self, sent: Sequence[Message]) -> bool:
        """Return whether the history may begin as the conversation does, or another of its branches."""
        if not sent or self._state.messages > max(TREE_MESSAGES_MAX, HISTORIES_PER_TREE * len(sent)):
            return False
        shown = self._memory if self._all_read else self._journal.memory(self._key, OPENING_VERSION)
        first = next((each for each in shown.messages if each.message.role not in NOT_SENT), None)
        fork = self._state.fork_version
        if first is not None and (is_same(first.message, sent[0]) or (fork is not None and fork < first.version)):
            return True
        return all(each.role is Role.USER for each in sent) and self._sends_whole_histories()

    def _sends_whole_histories(self) -> bool:
        """Return whether the newest run at the end of memory was sent all of it, with an answer."""
        for event in islice(self._journal.newest(self._key, self._memory.version), EVENTS_LOOKED_BACK):
            is_aside = isinstance(event, RunStarted) and (event.shadow or event.memory_leaf_version is not None)
            if isinstance(event, RunStarted) and event.memory_hash is None and not is_aside:
                if event.memory_rule != ALL:
                    return False
                shown = self._journal.memory(self._key, event.memory_version, last=ANSWER_LOOKED_BACK)
                return any(_answers(each) for each in shown.messages)
        return False

    def _at(self, place: HistoryPlace, new: Sequence[Message]) -> BranchStart:
        message = place.message
        here = BranchStart((message.message_id, message.version), place.known)
        if new and (caller := _caller(place, new)) is not None:
            return replace(here, exchange_id=self._unanswered(caller.exchange_id))
        if message.message.role is Role.ASSISTANT:
            return replace(here, selects=not place.following)
        if new:
            return here
        if self._is_answered(message.exchange_id):
            above = place.above  # the same question again, at the same time
            parent = (above.message.message_id, above.message.version) if above is not None else BEGINNING
            return replace(here, parent=parent, known=place.known - 1)
        exchange_id = self._unanswered(message.exchange_id)
        return replace(here, exchange_id=exchange_id, question=message if exchange_id is None else None)

    def _is_answered(self, exchange_id: str | None) -> bool:
        """Return whether an exchange is being answered now."""
        is_open = any(run.exchange_id == exchange_id for run in self._state.open_runs.values())
        return is_open or (exchange_id is not None and self._in_progress(self._state, exchange_id))

    def _unanswered(self, exchange_id: str | None) -> str | None:
        state = self._state
        is_one = exchange_id in state.open_exchanges or exchange_id in state.abandoned
        return exchange_id if is_one and exchange_id not in state.answered else None

    def _with_hash(self, start: BranchStart) -> BranchStart:
        version = self._memory.version
        return replace(start, path_hash=self._journal.path_hash(self._key, version, start.parent[1]))


def journal_new(
    conversation: Conversation, start: BranchStart | None, messages: Sequence[Message], exchange_id: str
) -> Parent | None:
    """Journal the new messages of a request; return the last message of its branch if that is aside.

    What the app sends before an answer of the model belongs to no exchange.
    """
    if start is not None and start.selects:
        conversation.select(*start.parent, CONTINUED)
        if start.path_hash is not None:
            conversation.know_path(start.path_hash)
    parent = start.parent if start is not None and not start.selects else None
    if start is not None and parent is not None and start.path_hash is not None:
        conversation.state.aside_path = [parent[1], start.path_hash]
    after = max((place for place, each in enumerate(messages) if each.role is Role.ASSISTANT), default=-1)
    for place, message in enumerate(messages):
        said = conversation.journal(message, exchange_id=exchange_id if place > after else None, parent=parent)
        parent = (said.message_id, said.originator_version) if parent is not None else None
    return parent


def path_hash_at(conversation: Conversation, leaf: Parent | None) -> str | None:
    """Return the hash of the path that ends with a message aside; None if it is not known, or nothing is aside."""
    known = conversation.state.aside_path
    return known[1] if leaf is not None and known is not None and known[0] == leaf[1] else None


def _first(roots: Sequence[TreeMessage]) -> BranchStart:
    """Return the start of a branch that shares only the instructions at the beginning of the selected path."""
    parent, following = BEGINNING, roots
    while at := next((each for each in following if each.selected and each.message.message.role in NOT_SENT), None):
        parent, following = (at.message.message_id, at.message.version), at.following
    return BranchStart(parent, 0)


def _selected_after(place: HistoryPlace) -> list[TreeMessage]:
    """Return the messages of the selected path that follow a place and are in memory."""
    found: list[TreeMessage] = []
    following = place.node.following
    while at := next((each for each in following if each.selected), None):
        found.append(at)
        following = at.following
    return [each for each in found if not each.hidden]


def _answers(message: JournaledMessage) -> bool:
    return message.message.role is Role.ASSISTANT


def _caller(place: HistoryPlace, new: Sequence[Message]) -> JournaledMessage | None:
    """Return the message of the model whose calls the new messages have results of."""
    results = {each.tool_call_id for each in new if each.role is Role.TOOL}
    at: HistoryPlace | None = place if results else None
    while at is not None:
        if any(call.id in results for call in at.message.message.calls()):
            return at.message
        at = at.above
    return None
