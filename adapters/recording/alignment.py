"""Find the messages in an app's request that are new to memory. Position decides, never the content alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threadledger.domain import Message, Role, Text


def first_new(sent: Sequence[Message], memory: Sequence[Message], held: bool = False, all_read: bool = True) -> int:
    """Return the index of the first new message in `sent`.

    If the messages begin with the complete memory, the rest is new. If they do not, the app sends its own window, and only
    the messages after the model's last message are new. In the second case, and with `held`, unanswered messages at the end
    of memory that are sent again at the start of the new part are not new.

    Args:
        sent: the messages of the request.
        memory: the messages in memory, or the last of them.
        held: the provider already has the earlier messages, so the request contains only new ones.
        all_read: `memory` is complete; false if it contains only the end of memory.
    """
    if all_read and not held and len(memory) <= len(sent) and _same(sent[: len(memory)], memory):
        return len(memory)
    begin = 0 if held else _after_the_model(sent)
    waiting = memory[_after_the_model(memory) :]
    again = len(waiting) > 0 and _same(sent[begin : begin + len(waiting)], waiting)
    return begin + len(waiting) if again else begin


def _after_the_model(messages: Sequence[Message]) -> int:
    return max((place + 1 for place, each in enumerate(messages) if each.role is Role.ASSISTANT), default=0)


def _same(some: Sequence[Message], others: Sequence[Message]) -> bool:
    return len(some) == len(others) and all(
        _compared(one) == _compared(other) for one, other in zip(some, others, strict=True)
    )


def _compared(message: Message) -> tuple[Any, ...]:
    """Return the parts of a message that decide equality. Other fields are ignored, because apps and the SDK add their own."""
    content = message.content
    if content is None:
        content = message.text  # a refusal has no content
    said = (
        [part.text if isinstance(part, Text) else part.as_json() for part in content]
        if isinstance(content, tuple)
        else [content]
    )
    calls = [(call.id, call.name, call.arguments) for call in message.calls()]
    return (message.role, [each for each in said if each], calls, message.tool_call_id)
