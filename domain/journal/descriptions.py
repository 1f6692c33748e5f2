"""Read and change the description of a conversation: title, owner, tags, archived, metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..conversation.description import Description, described_by, versions_of
from ..errors import ConversationChanged
from ..limits import DECIDE_ATTEMPTS_MAX

if TYPE_CHECKING:
    from ..conversation import Conversation, ConversationState
    from ..conversation import events as e
    from .journal import Journal


def description_of(journal: Journal, key: str, state: ConversationState) -> Description:
    """Return the description of a conversation, by its state and at most three rows; usually by none or one.

    Raises:
        ChangedEvent: an event with a part of it was changed.
    """
    return described_by(state.described, _at(journal, key, {*versions_of(state.described).values()}))


def _at(journal: Journal, key: str, versions: set[int]) -> Iterator[e.Event]:
    for version in sorted(versions):
        yield from journal.history(key, version - 1, version)


def describe(journal: Journal, key: str, wanted: Mapping[str, Any]) -> Description:
    """Change what differs from the wanted values, in one event, and return the description.

    `wanted` are checked fields of `ConversationDescribed`. Equal values write nothing. A conversation that does not exist
    is created.

    Raises:
        ConversationChanged: other writers described it during all attempts; nothing was written.
    """
    for _ in range(DECIDE_ATTEMPTS_MAX):
        loaded = journal.load(key)
        known = loaded.state.described if loaded is not None else {}
        before = description_of(journal, key, loaded.state) if loaded is not None else Description()
        changes = before.changed_by(wanted)
        if not changes:
            return before

        def decide(conversation: Conversation, known: Any = known, changes: Mapping[str, Any] = changes) -> bool:
            if conversation.state.described != known:  # described since it was read: compare again
                return False
            conversation.describe(changes)
            return True

        if journal.commit(key, decide, create=True):
            return before.changed(changes)
    raise ConversationChanged(f"{key!r} is constantly described by other writers: nothing was written; try again")
