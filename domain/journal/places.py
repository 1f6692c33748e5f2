"""Find messages of one conversation, by id or version, and where they are in its tree of branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..conversation import events as e
from ..conversation.messages import Parent
from ..errors import InvalidInput, MessageNotFound, quoted
from ..memory import MemoryFold
from ..memory.tree import MessageTree, Variant
from .generations import floor_of, is_deleted, of_generation
from .message_rows import BRANCHING, id_in, message_in_row, whole
from .path import VersionsMissing
from .path_memory import locate, path_reader
from .recall import MESSAGE
from .rows import refuse_changed, restore

if TYPE_CHECKING:
    from ..conversation import ConversationState, OpenExchange
    from ..conversation.messages import JournaledMessage
    from .journal import Journal
    from .path import PathReader
    from .ports import EventLog, StreamHead

ID_ENDING_CHARS_MIN = 6
"""Minimum length of the ending of an id that names a message, in characters."""

EVENTS_AFTER_END_MAX = 100
"""Number of events after the end of memory, such as failed runs and variants, that a reader from the end passes; after more
of them, the next message is preceded by a selection of the end, which leads a reader there."""


class Places:
    """Find messages of a conversation as it was when it was loaded; few rows are read, however long it is."""

    def __init__(self, log: EventLog, head: StreamHead, key: str) -> None:
        self._log = of_generation(log, head)
        self._head = head
        self._key = key

    def find(self, message_id: str) -> JournaledMessage:
        """Return a message by its id, or an unambiguous ending of it, whatever branch it is on.

        Raises:
            MessageNotFound: the conversation has no such message, or several.
        """
        version = locate(self._log, self._head.stream, self._head.version, message_id)
        if version is None:
            ends = self._ending(message_id) if len(message_id) >= ID_ENDING_CHARS_MIN else []
            if len(ends) == 1:
                return self.at(ends[0])
            what = f"{len(ends)} messages whose ids end in" if ends else "no message"
            raise MessageNotFound(
                f"{self._key!r} has {what} {message_id!r}: list them with: threadledger show {quoted(self._key)} --tree"
            )
        return self.at(version)

    def _ending(self, ending: str) -> list[int]:
        topics, head = (MESSAGE,), self._head
        rows = self._log.stream_rows(head.stream, 0, head.version, topics, changed=refuse_changed)
        return [row[2] for row in rows if row[3] == MESSAGE and id_in(row).endswith(ending)]

    def visible(self, message_id: str, what: str) -> JournaledMessage:
        """Return a message that is hidden on no branch; `what` it is to be, for the error.

        Raises:
            MessageNotFound: there is none.
            InvalidInput: it was retracted, superseded or cleared, or is a summary.
        """
        return self.checked(self.find(message_id), what)

    def checked(self, message: JournaledMessage, what: str) -> JournaledMessage:
        """Return a message that was found; see `visible`."""
        if self.is_hidden(message):
            raise InvalidInput(
                f"message {message.message_id} of {self._key!r} is no longer in memory, so it cannot be {what}: choose "
                "another one"
            )
        if message.is_summary:
            raise InvalidInput(
                f"message {message.message_id} of {self._key!r} is a summary, so it cannot be {what}: choose one of the messages "
                f"that it stands for, with: threadledger show {quoted(self._key)} --full"
            )
        return message

    def at(self, version: int) -> JournaledMessage:
        """Return the message of a version.

        Raises:
            CorruptEvent: there is none.
        """
        return self._reader().message(version)

    def is_hidden(self, message: JournaledMessage) -> bool:
        """Return whether a message was retracted, superseded or cleared."""
        return self._reader().hides(message.message_id, message.version)

    def is_on_path(self, message: JournaledMessage) -> bool:
        """Return whether a message is on the path to the selected end, hidden or not."""
        return self._reader().holds(message.version)

    def before(self, message: JournaledMessage) -> Parent:
        """Return the message that another one follows; "" and 0 if it is the first."""
        if message.parent_version is not None:
            return message.parent_id or "", message.parent_version
        return path_reader(self._log, self._head, message.version - 1).end()

    def end(self, version: int | None = None) -> Parent:
        """Return the message with which memory ends, as of a version or as of now; "" and 0 without any."""
        return path_reader(self._log, self._head, self._head.version if version is None else version).end()

    def variants(self, message_id: str) -> list[Variant]:
        """Return the messages that follow the same message as this one; the later ones are read to find them.

        Raises:
            MessageNotFound: there is no such message.
        """
        message = self.find(message_id)
        if message.parent_version is None and not self._reader().may_have_variants(message.version):
            return [Variant(message, selected=True, hidden=self.is_hidden(message))]
        tree = self.tree()
        return tree.variants(message_id) if message_id in tree else [Variant(message, selected=False, hidden=True)]

    def tree(self) -> MessageTree:
        """Return all messages with their branches; all of them are read."""
        fold = MemoryFold()
        topics = (MESSAGE, *BRANCHING, e.MessageRetracted.__name__, e.MemoryCleared.__name__, e.RerunAccepted.__name__)
        for row in self._log.stream_rows(self._head.stream, 0, self._head.version, topics, changed=refuse_changed):
            if row[3] == MESSAGE:
                fold.say(message_in_row(row))
            elif row[3] in topics:
                fold.take(restore(row))
        return MessageTree(fold)

    def _reader(self) -> PathReader:
        return path_reader(self._log, self._head, self._head.version)


def far_end(log: EventLog, head: StreamHead, state: ConversationState) -> str | None:
    """Return the id of the message at the end if more than `EVENTS_AFTER_END_MAX` events came after it, else None."""
    end = state.end_version
    if not end or state.version - end <= EVENTS_AFTER_END_MAX:
        return None
    return path_reader(of_generation(log, head), head, head.version).message(end).message_id


def version_to_retract(log: EventLog, stream: str, message_id: str) -> int | None:
    """Return the version of a message that is hidden on no branch; None if there is none."""
    head = log.select_head(stream, refuse_changed)
    if head is None or is_deleted(head):
        return None
    log = of_generation(log, head)
    version = locate(log, stream, head.version, message_id)
    if version is None or path_reader(log, head, head.version).hides(message_id, version):
        return None
    return version


def in_memory(log: EventLog, stream: str, version: int, message_id: str) -> tuple[bool, bool]:
    """Return whether a model is shown the message of a version, and whether it is on the selected branch."""
    head = log.select_head(stream, refuse_changed)
    if head is None or version <= floor_of(head):
        return False, False
    log = of_generation(log, head)
    reader = path_reader(log, head, head.version)
    is_hidden = reader.hides(message_id, version)
    summary = reader.covering()
    if summary is not None and summary.message_id == message_id:
        return True, True
    is_selected = reader.holds(version)
    if summary is not None and is_selected and version <= summary.covers_version:
        kept = {*(summary.system_versions or ()), *reader.pins().values()}
        return version in kept and not is_hidden, True
    try:
        return is_selected and reader.shows(message_id, version), is_selected
    except VersionsMissing:  # it was moved: it is where the message is that it was placed behind
        return not is_hidden and any(
            each.version == version for each in whole(log, stream, head.version, None).messages
        ), is_selected


def end_of_exchange(journal: Journal, key: str, exchange: OpenExchange) -> Parent:
    """Return the newest message of an exchange: its question, or what its runs journaled since."""
    version, name = exchange.tail_version, exchange.tail or exchange.question
    if version is None:  # of an earlier program
        found = journal.places(key).find(exchange.question or "")
        return found.message_id, found.version
    if version == 0:
        return "", 0
    return name or journal.places(key).at(version).message_id, version
