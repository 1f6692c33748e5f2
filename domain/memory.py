"""Memory: what a model is shown. A pure fold over a conversation's events, as of a version or a time, within a budget.

Nothing is mended in the data. A tool call that never got its result, a result whose call is not in view, a result that
came late: providers refuse all of them, so the view mends them (`mend.py`) and says how many.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from . import events as e
from .errors import InvalidInput
from .ids import as_utc
from .journaled import JournaledMessage
from .mend import mend_tool_calls
from .messages import Message, Role
from .placing import in_place
from .tokens import MESSAGE_OVERHEAD_TOKENS, estimate_tokens


@dataclass(frozen=True)
class Memory:
    """The messages in view, oldest first; `version` is that of the last event folded, `rule` how the view was cut."""

    messages: tuple[JournaledMessage, ...] = ()
    version: int = 0
    rule: str = "all"
    run_threads: Mapping[str, str] = field(default_factory=dict)
    """run id → the thread in which the run took place; its tool calls stand there in its steps"""
    run_marks: Mapping[str, int] = field(default_factory=dict)
    """run id → up to which version that thread held the journal when the run answered in it"""

    def window(self, last: int | None = None, tokens: int | None = None) -> "Memory":
        """The newest messages: at most `last` of them, within about `tokens` (see `tokens.py` for the estimate's error).

        The newest message is always in view, even where it alone is over the budget; a tool result comes with its call.

        Raises:
            InvalidInput: a bound below 1.
        """
        for name, bound in (("last", last), ("tokens", tokens)):
            if bound is not None and bound < 1:
                raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
        first = max(len(self.messages) - last, 0) if last is not None else 0
        if tokens is not None:
            first += _first_within(self.messages[first:], tokens)
        kept = self.messages[_with_its_call(self.messages, first) :]
        bounds = [f"{name}={bound}" for name, bound in (("last", last), ("tokens", tokens)) if bound is not None]
        rule = ",".join([*([] if self.rule == "all" else [self.rule]), *bounds])
        return replace(self, messages=kept, rule=rule or "all")

    def by_rule(self, rule: str) -> "Memory":
        """The view that a stored rule describes, so that a rerun sees what the failed run saw."""
        view, bounds = self, dict[str, int]()
        for name, number in re.findall(r"(last|tokens)=(\d+)", rule):
            if name in bounds:  # a window of a window
                view, bounds = view.window(**bounds), {}
            bounds[name] = int(number)
        return view.window(**bounds) if bounds else view

    def settled(self) -> "Memory":
        """The view without a tool call at its end that still waits for its results: they may come with the next append."""
        end = len(self.messages)
        answered: set[str] = set()
        for index in range(len(self.messages) - 1, -1, -1):
            message = self.messages[index].message
            if message.tool_call_id is not None:
                answered.add(message.tool_call_id)
            elif any(call.id not in answered for call in message.calls()):
                end, answered = index, set()
            else:
                break
        return self if end == len(self.messages) else replace(self, messages=self.messages[:end])

    def mended(self) -> tuple[JournaledMessage, ...]:
        """The messages as providers accept them, with their places: orphan tool calls and results mended."""
        return mend_tool_calls([each for each in self.messages if each.message.role is not Role.UNKNOWN])

    def in_thread(self, thread_id: str | None) -> tuple[JournaledMessage, ...]:
        """`mended`, in the order in which a thread holds them: what was journaled while a run answered there came into the
        thread behind the run's own messages. For another thread, or none, the order of the journal."""
        marks = {run: mark for run, mark in self.run_marks.items() if self.run_threads.get(run) == thread_id}
        if thread_id is None or not marks:
            return self.mended()
        placed: list[JournaledMessage] = []
        for each in self.messages:
            mark = marks.get(each.run_id or "")
            index = len(placed)
            while mark is not None and index and placed[index - 1].version > mark:
                if placed[index - 1].run_id == each.run_id:
                    break
                index -= 1
            placed.insert(index, each)
        return replace(self, messages=tuple(placed)).mended()

    def ran_in(self, message: JournaledMessage, thread_id: str | None) -> bool:
        """Whether the run that produced a message took place in this thread."""
        return thread_id is not None and self.run_threads.get(message.run_id or "") == thread_id

    def shown(self) -> tuple[Message, ...]:
        """The messages as a provider accepts them."""
        return tuple(each.message for each in self.mended())

    def as_chat_messages(self) -> list[dict[str, Any]]:
        """For Chat Completions: `messages`."""
        plain = [message.as_plain_chat_message() for message in self.messages]
        if None not in plain:  # nothing but texts: there is nothing to mend
            return cast("list[dict[str, Any]]", plain)
        return [message.as_chat_message() for message in self.shown()]

    def as_response_items(self) -> list[dict[str, Any]]:
        """For the Responses API: `input`."""
        return [item for message in self.shown() for item in response_items(message)]

    def estimated_tokens(self) -> int:
        """About how many tokens the view costs as input."""
        return sum(message_tokens(message) for message in self.shown())

    def digest(self) -> str:
        """SHA-256 (hex) over the shown messages in canonical JSON: equal digests, equal views."""
        canonical = json.dumps(self.as_chat_messages(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


MEMORY_TOPICS = (
    *("MessageJournaled", "MessageRetracted", "MemoryCleared", "RerunAccepted"),
    *("RunCompleted", "RunFailed"),  # the thread in which a run took place
)
"""The events that memory is made of."""


class MemoryFold:
    """Memory under way: events are taken in one by one, oldest first."""

    def __init__(self) -> None:
        self.messages: dict[str, JournaledMessage] = {}
        self.gone: dict[str, JournaledMessage] = {}
        """What has left memory: its place is still known."""
        self.behind: dict[str, str] = {}
        """message id → the message that it was put behind"""
        self.run_threads: dict[str, str] = {}
        self.run_marks: dict[str, int] = {}

    def say(self, message: JournaledMessage) -> None:
        """A message comes in."""
        self.messages[message.message_id] = message

    def take(self, event: e.Event) -> None:
        """Take one event in. Never refuses."""
        match event:
            case e.MessageJournaled():
                self.say(journaled(event))
            case e.MessageRetracted():
                self._lose(event.message_id)
            case e.MemoryCleared():
                self.messages = _after(self.messages, event.up_to_version)
                self.gone = _after(self.gone, event.up_to_version)
            case e.RerunAccepted():
                self._lose(event.superseded_message_id)
                if event.behind_message_id is not None:
                    every = (*self.messages.values(), *self.gone.values())
                    ours = [each.message_id for each in every if each.run_id == event.run_id]
                    self.behind |= dict.fromkeys(ours, event.behind_message_id)
            case e.RunCompleted(thread_id=str(thread_id)) | e.RunFailed(thread_id=str(thread_id)):
                self.run_threads[event.run_id] = thread_id
                if isinstance(event, e.RunCompleted) and event.thread_version is not None:
                    self.run_marks[event.run_id] = event.thread_version
            case _:
                pass

    def memory(self, version: int) -> "Memory":
        """What came of it, as of a version."""
        messages = in_place(self.messages.values(), self.gone, self.behind) if self.behind else self.messages.values()
        return Memory(tuple(messages), version, run_threads=self.run_threads, run_marks=self.run_marks)

    def _lose(self, message_id: str | None) -> None:
        lost = self.messages.pop(message_id or "", None)
        if lost is not None:
            self.gone[lost.message_id] = lost


def _after(messages: dict[str, JournaledMessage], version: int) -> dict[str, JournaledMessage]:
    return {id_: each for id_, each in messages.items() if each.version > version}


def fold_memory(events: Iterable[e.Event], at: int | datetime | None = None) -> Memory:
    """Fold events, oldest first, into memory; as of a version or a time, both inclusive. Never refuses."""
    fold, version = MemoryFold(), 0
    at = as_utc(at) if isinstance(at, datetime) else at
    for event in events:
        if (isinstance(at, int) and event.originator_version > at) or (
            isinstance(at, datetime) and event.timestamp > at
        ):
            break
        version = event.originator_version
        fold.take(event)
    return fold.memory(version)


def response_items(message: Message) -> Sequence[dict[str, Any]]:
    """One message as items of the Responses API and of Conversations.

    Assistant text goes as a plain string, the only form that is valid without the provider's own ids.
    """
    if message.role is Role.TOOL:
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}]
    items: list[dict[str, Any]] = []
    if message.content:
        content = message.text if message.role is Role.ASSISTANT else _input_content(message)
        if content:
            items.append({"type": "message", "role": message.role.value, "content": content})
    items.extend(
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.calls()
    )
    return items


def message_tokens(message: Message) -> int:
    """About how many tokens one message costs."""
    calls = sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in message.calls())
    return MESSAGE_OVERHEAD_TOKENS + estimate_tokens(message.text) + calls


def journaled(event: e.MessageJournaled) -> JournaledMessage:
    """A stored message with its place."""
    return JournaledMessage.stored(e.payload_of(event), event.originator_version, event.timestamp)


def _input_content(message: Message) -> str | list[dict[str, Any]]:
    content = message.content_as_json()
    return content if isinstance(content, str) else [_input_part(part) for part in content or ()]


def _input_part(part: dict[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **rest}}:
            return {"type": "input_image", "image_url": url, "detail": rest.get("detail") or "auto"}
        case {"type": "file", "file": {"file_id": file_id}}:
            return {"type": "input_file", "file_id": file_id}
    return {"type": "input_text", "text": f"[{part.get('type', 'content')} not shown]"}


def _with_its_call(messages: Sequence[JournaledMessage], first: int) -> int:
    """Where a view has to begin that would hold nothing but tool results: at the message that made the calls."""
    if first >= len(messages) or any(not each.is_tool_result for each in messages[first:]):
        return first
    while first > 0 and messages[first].is_tool_result:
        first -= 1
    return first


def _first_within(messages: Sequence[JournaledMessage], tokens: int) -> int:
    """Where the longest tail within `tokens` begins; at least the last message is in it."""
    spent = 0
    for index in range(len(messages) - 1, -1, -1):
        spent += message_tokens(messages[index].message)
        if spent > tokens:
            return min(index + 1, len(messages) - 1)
    return 0
