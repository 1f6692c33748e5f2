"""Which of the messages that an app sends are new to memory. Position decides, never the content alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threadledger.domain import Message, Role, Text


def first_new(sent: Sequence[Message], memory: Sequence[Message], held: bool = False, all_read: bool = True) -> int:
    """From where on the messages sent are new.

    Where they begin with all of memory, the rest is new. Where they do not, the app shows a window of its own: then only
    what follows the last message of the model is new. `held` says that the provider holds what came before, and the app
    sends what is new alone. In both cases, messages at the end of memory that nobody has answered yet, and with which
    that part begins, are the same ones asked again. `all_read` is false where `memory` is only the end of memory.
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
    """What makes two tellings of a message the same: apps and SDK add fields of their own to what was said."""
    content = message.content
    if content is None:
        content = message.text  # a refusal
    said = (
        [part.text if isinstance(part, Text) else part.as_json() for part in content]
        if isinstance(content, tuple)
        else [content]
    )
    calls = [(call.id, call.name, call.arguments) for call in message.calls()]
    return (message.role, [each for each in said if each], calls, message.tool_call_id)
