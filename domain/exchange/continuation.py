"""Show the next run what a broken stream has said; its answer begins with that text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..conversation.messages import JournaledMessage, Message, Role
from ..ids import now

if TYPE_CHECKING:
    from ..conversation import Completion
    from ..memory import Memory

INSTRUCTION = (
    "Your last message was cut off. Continue it exactly where it stops, beginning with the next character; do not repeat "
    "any of it and do not comment on it."
)
"""The last message that a continuing run is shown. Providers answer a user's message; few continue an assistant's."""


def with_beginning_said(memory: Memory, said: str) -> Memory:
    """Return the memory with the text that was said so far and the instruction to continue it."""
    at = now()
    added = (Message(Role.ASSISTANT, said), Message(Role.USER, INSTRUCTION))
    return replace(
        memory, messages=(*memory.messages, *(JournaledMessage(each, "", memory.version, at) for each in added))
    )


def joined(said: str, completion: Completion) -> Completion:
    """Return the completion of a continuing run with the text that it continues."""
    first, *others = completion.messages
    return replace(completion, messages=(beginning_with(said, first), *others))


def beginning_with(said: str, message: Message) -> Message:
    """Return a message that begins with a text; its other parts stay."""
    if not isinstance(message.content, tuple):
        return message.replaced(content=said + message.text)
    from ..conversation.items import with_beginning

    return message.replaced(content=with_beginning(said, message.content))
