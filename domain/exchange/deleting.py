"""Delete a conversation: `conversing.py` calls this when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..effects import work
from .served import end_left_to_clients

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..effects import Effects
    from .conversing import Conversing


def delete(chat: Conversing, reason: str) -> Effects[Mapping[str, Sequence[str]]]:
    """End a conversation, and return the threads that remain at the provider; see `Chat.delete`."""

    def decide(conversation: Conversation, interrupting: bool = False) -> tuple[int, bool]:
        if conversation.pending:  # there is none, so one was just begun
            chat.journal.require(chat.key)
        has_threads = bool(conversation.state.links)
        end_left_to_clients(chat.journal, chat.key, conversation)
        conversation.delete(reason, interrupting)
        return conversation.version, has_threads

    yield from work(partial(chat.journal.require, chat.key))
    version, has_threads = yield from chat.when_free(decide)
    if not has_threads:
        return {}
    return (yield from work(partial(chat.journal.threads_ever_linked, chat.key, version)))
