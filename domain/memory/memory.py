"""Build memory, the messages that a model sees: a pure fold over a conversation's events, as of a version or time.

The data is never changed. Providers reject a tool call without a result, a result whose call is not in view, and a late
result: the view corrects these (`pairing.py`, `rendering.py`). A view can be limited to a budget.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from ..conversation import events as e
from ..conversation.messages import JournaledMessage, Message, Role
from ..errors import InvalidInput
from ..ids import as_utc, now
from .order import in_place


@dataclass(frozen=True)
class Memory:
    """Represent the messages in view, oldest first.

    `version` is the version of the last folded event; `rule` describes how the view was limited.
    """

    messages: tuple[JournaledMessage, ...] = ()
    version: int = 0
    rule: str = "all"
    run_threads: Mapping[str, str] = field(default_factory=dict)
    """Thread in which a run took place, by run id; the thread's run steps contain the run's tool calls."""
    run_marks: Mapping[str, int] = field(default_factory=dict)
    """Journal version that the thread contained when a run answered in it, by run id."""
    missing_files: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False)
    """References of files and images that are shown as texts, by the place (`missing_files.py`) that cannot read them."""
    opening_version: int = field(default=0, compare=False)
    """Version of the last system message before any other message; a window keeps the messages up to it."""

    def window(self, last: int | None = None, tokens: int | None = None) -> Memory:
        """Return the newest messages: at most `last` of them, within about `tokens`.

        The newest message is always in view, even if it alone exceeds the budget. A view of tool results alone is
        extended back to the message with their calls. System messages at the beginning of the conversation are kept in
        addition to `last`; they count in `tokens`. For the error of the estimate, see `windows.py`.

        Raises:
            InvalidInput: a limit is below 1.
        """
        for name, bound in (("last", last), ("tokens", tokens)):
            if bound is not None and bound < 1:
                raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
        from .windows import window_of

        return window_of(self, last, tokens)

    def by_rule(self, rule: str) -> Memory:
        """Return the view that a stored rule describes, so that a rerun sees what the failed run saw."""
        from .windows import view_by_rule

        return view_by_rule(self, rule)

    def for_place(self, place: str = "threads") -> Memory:
        """Return the memory as one place is shown it: what another place could not read may be readable there."""
        if not self.missing_files:
            return self
        from .missing_files import missing_at

        return replace(self, missing_files=missing_at(self.missing_files, place))

    def settled(self) -> Memory:
        """Return the view without tool calls at its end that still wait for results: the next append may bring them."""
        end = len(self.messages)
        answered = Counter[str]()
        for index in range(len(self.messages) - 1, -1, -1):
            message = self.messages[index].message
            if message.tool_call_id is not None:
                answered[message.tool_call_id] += 1
            elif Counter(call.id for call in message.calls()) - answered:
                end, answered = index, Counter()
            else:
                break
        return self if end == len(self.messages) else replace(self, messages=self.messages[:end])

    def paired(self) -> tuple[JournaledMessage, ...]:
        """Return the messages as providers accept them, with their places: tool calls and results are paired."""
        from .pairing import pair_tool_calls

        return pair_tool_calls([each for each in self.messages if each.message.role is not Role.UNKNOWN])

    mended = paired  # its name in earlier versions

    def in_thread(self, thread_id: str | None) -> tuple[JournaledMessage, ...]:
        """Return the messages as providers accept them (`valid_view`), in the order in which a thread holds them.

        Messages that were journaled while a run answered in the thread follow the run's own messages there. For another
        thread, or for None, the order of the journal is used.
        """
        marks = {run: mark for run, mark in self.run_marks.items() if self.run_threads.get(run) == thread_id}
        here = self.for_place()
        if thread_id is None or not marks:
            return here._valid(self.messages)
        placed: list[JournaledMessage] = []
        for each in self.messages:
            mark = marks.get(each.run_id or "")
            index = len(placed)
            while mark is not None and index and placed[index - 1].version > mark:
                if placed[index - 1].run_id == each.run_id:
                    break
                index -= 1
            placed.insert(index, each)
        return here._valid(placed)

    def ran_in(self, message: JournaledMessage, thread_id: str | None) -> bool:
        """Return whether the run that produced a message took place in this thread."""
        return thread_id is not None and self.run_threads.get(message.run_id or "") == thread_id

    def shown(self) -> tuple[Message, ...]:
        """Return the messages with their tool calls paired, as their own text."""
        return tuple(each.message for each in self.paired())

    def with_messages(self, messages: Sequence[Message]) -> Memory:
        """Return the memory with messages at its end that are not journaled yet, such as the tool calls of a run."""
        at = self.messages[-1].at if self.messages else now()
        added = [JournaledMessage(each, f"new/{index}", self.version, at) for index, each in enumerate(messages)]
        return replace(self, messages=(*self.messages, *added))

    def as_chat_messages(self) -> list[dict[str, Any]]:
        """Return the `messages` of a Chat Completions request: a valid view, without messages that say nothing."""
        plain = self._plain()
        if plain is not None and _can_be_sent(texts := [each["content"] for each in plain]):
            says_something = all(texts) and not any(map(str.isspace, texts))
            return plain if says_something else [each for each in plain if each["content"].strip()]
        from .rendering import CHAT_CALL_ID_CHARS_MAX, is_empty, valid_view

        view = valid_view(self._available(self.messages), CHAT_CALL_ID_CHARS_MAX)
        return [each.message.as_chat_message() for each in view if not is_empty(each.message)]

    def as_response_items(self) -> list[dict[str, Any]]:
        """Return the `input` of a Responses API request: a valid view, without messages that say nothing."""
        plain = self._plain()
        if plain is not None and _can_be_sent([each["content"] for each in plain]):
            return [{"type": "message"} | each for each in self.as_chat_messages()]
        from .rendering import response_items, valid_view

        view = valid_view(self._available(self.messages))
        return [item for each in view for item in response_items(each.message)]

    def estimated_tokens(self) -> int:
        """Return the approximate number of input tokens of the view."""
        from .windows import message_tokens

        return sum(message_tokens(message) for message in self.shown())

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the messages in canonical JSON: equal digests mean equal memories.

        It covers what was said, not the valid view that is sent, and never changes: stored runs are compared with it.
        """
        plain = self._plain()
        said = plain if plain is not None else [message.as_chat_message() for message in self.shown()]
        canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _valid(self, messages: Sequence[JournaledMessage]) -> tuple[JournaledMessage, ...]:
        plain = [each.as_plain_chat_message() for each in messages]
        if None not in plain and _can_be_sent(each["content"] for each in plain if each is not None):
            return tuple(messages)
        from .rendering import valid_view

        return valid_view(self._available(messages))

    def _available(self, messages: Sequence[JournaledMessage]) -> Sequence[JournaledMessage]:
        """Return the messages without the files and images that the provider no longer has."""
        if not self.missing_files:
            return messages
        from .missing_files import without_files

        return without_files(messages, frozenset().union(*self.missing_files.values()))

    def _plain(self) -> list[dict[str, Any]] | None:
        """Return the messages if all of them are plain texts, in which nothing has to be paired or made valid."""
        plain = [message.as_plain_chat_message() for message in self.messages]
        return None if None in plain else cast("list[dict[str, Any]]", plain)


def _can_be_sent(texts: Iterable[str]) -> bool:
    """Return whether texts can be encoded; those of old rows may hold half characters."""
    text = "".join(texts)
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


INSTRUCTING = frozenset({Role.SYSTEM, Role.DEVELOPER})
"""Roles of messages that a window keeps at the beginning of a conversation."""

MEMORY_TOPICS = (
    *("MessageJournaled", "MessageRetracted", "MemoryCleared", "RerunAccepted"),
    *("RunCompleted", "RunFailed"),  # the thread in which a run took place, and files that were missing
)
"""Names of the events that memory is built from."""


class MemoryFold:
    """Build memory step by step from events, oldest first."""

    def __init__(self) -> None:
        self.messages: dict[str, JournaledMessage] = {}
        self.gone: dict[str, JournaledMessage] = {}
        """Messages that left memory; their positions are still needed."""
        self.behind: dict[str, str] = {}
        """Id of the message that a message was placed behind, by message id."""
        self.run_threads: dict[str, str] = {}
        self.run_marks: dict[str, int] = {}
        self.missing_files: dict[str, frozenset[str]] = {}
        self._opening = True
        """Whether only system messages were said so far."""
        self.opening_version = 0

    def say(self, message: JournaledMessage) -> None:
        """Add a message."""
        self.messages[message.message_id] = message
        if self._opening:
            self._opening = message.role_name in INSTRUCTING
            self.opening_version = message.version if self._opening else self.opening_version

    def take(self, event: e.Event) -> None:
        """Apply one event. Never raises."""
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
            case e.RunCompleted():
                if event.thread_id is not None:
                    self.run_threads[event.run_id] = event.thread_id
                if event.thread_id is not None and event.thread_version is not None:
                    self.run_marks[event.run_id] = event.thread_version
            case e.RunFailed():
                if event.thread_id is not None:
                    self.run_threads[event.run_id] = event.thread_id
                if event.details:
                    from .missing_files import add_missing

                    add_missing(event.details, self.missing_files)
            case _:
                pass

    def memory(self, version: int) -> Memory:
        """Return the memory built so far, as of a version."""
        messages = in_place(self.messages.values(), self.gone, self.behind) if self.behind else self.messages.values()
        return Memory(
            tuple(messages),
            version,
            run_threads=self.run_threads,
            run_marks=self.run_marks,
            opening_version=self.opening_version,
            missing_files=dict(self.missing_files),
        )

    def _lose(self, message_id: str | None) -> None:
        lost = self.messages.pop(message_id or "", None)
        if lost is not None:
            self.gone[lost.message_id] = lost


def _after(messages: dict[str, JournaledMessage], version: int) -> dict[str, JournaledMessage]:
    return {id_: each for id_, each in messages.items() if each.version > version}


def fold_memory(events: Iterable[e.Event], at: int | datetime | None = None) -> Memory:
    """Fold events, oldest first, into memory as of a version or a time, both inclusive. Never raises."""
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


def journaled(event: e.MessageJournaled) -> JournaledMessage:
    """Return a stored message with its place."""
    return JournaledMessage.stored(e.payload_of(event), event.originator_version, event.timestamp)
