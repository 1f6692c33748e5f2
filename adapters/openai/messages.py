"""Convert messages on the wire, in the formats of the three APIs, to our messages in the format of Chat Completions.

Instructions (roles `system` and `developer`) belong to the app and are not part of memory: they are omitted. What a model
said is read by `domain/conversation/items.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.items import (
    app_message,
    is_of_the_model,
    objects,
    output_messages,
    text_in,
    thread_message,
)
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.conversation.parts import Text
from threadledger.domain.errors import InvalidMessage
from threadledger.domain.failures import whole_text

INSTRUCTIONS = frozenset({"system", "developer"})


def whole(value: Any) -> Any:
    """Return a JSON value with storable text: unpaired surrogates become U+FFFD."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [whole(each) for each in value]
    return {whole_text(str(name)): whole(each) for name, each in value.items()} if isinstance(value, dict) else value


def chat_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of a Chat Completions request."""
    return tuple(kept(each) for each in objects(given) if str(each.get("role")) not in INSTRUCTIONS)


def thread_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of an Assistants thread, as they are in requests and responses."""
    return tuple(kept(thread_message(each)) for each in objects(given))


def response_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages in the input of the Responses API; what the model said is read like an output."""
    if isinstance(given, str):
        return (kept({"role": "user", "content": given}),)
    found: list[Message] = []
    of_the_model: list[dict[str, Any]] = []
    for item in [*objects(given), {"type": "end"}]:
        kind = text_in(item.get("type")) or "message"
        if is_of_the_model(item, kind):
            of_the_model.append(item)
            continue
        if of_the_model:
            found += output_messages(of_the_model, Counter())
            of_the_model = []
        found += _others(item, kind)
    return tuple(found)


def _others(item: Mapping[str, Any], kind: str) -> Iterator[Message]:
    """Yield what an app said by an item: its question, or the result of a call. Instructions are omitted."""
    said = app_message(item, kind)
    if said is None:
        yield from () if kind in {"end", "item_reference"} else output_messages([item], Counter())
    elif str(said["role"]) not in INSTRUCTIONS:
        yield kept(said)


def text_of_parts(message: Message) -> str:
    """Return the text of an answer that is not one string: its parts joined, its refusal, or its transcript."""
    if isinstance(message.content, tuple) and message.content:
        return "".join(part.text for part in message.content if isinstance(part, Text))
    audio = message.extra().get("audio") if not message.text else None
    return message.text or (text_in(audio.get("transcript")) if isinstance(audio, dict) else "")


def _without_nothing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name == "content" or value not in (None, [])}


def kept(given: Mapping[str, Any]) -> Message:
    """Return the message, or a placeholder with the reason if the message cannot be stored. Never raises `InvalidMessage`."""
    try:
        return parse_message(_without_nothing(given))
    except InvalidMessage as refusal:
        role = Role.ASSISTANT if given.get("role") == Role.ASSISTANT.value else Role.USER
        return Message(role, f"[a message was not kept: {whole_text(str(refusal))}]")
