"""Delete a conversation: `conversing.py` calls this when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..effects import work

if TYPE_CHECKING:
    from ..conversation import Conversation, ThreadLink
    from ..effects import Effects
    from .conversing import Conversing


def delete(chat: Conversing, reason: str) -> Effects[Mapping[str, ThreadLink]]:
    """End a conversation, and return the threads that remain at the provider; see `Chat.delete`."""

    def decide(conversation: Conversation, interrupting: bool = False) -> Mapping[str, ThreadLink]:
        if conversation.pending:  # there is none, so one was just begun
            chat.journal.require(chat.key)
        links = dict(conversation.state.links)
        conversation.delete(reason, interrupting)
        return links

    yield from work(partial(chat.journal.require, chat.key))
    return (yield from chat.when_free(decide))
