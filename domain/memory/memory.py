"""Build memory, the messages that a model sees: a pure fold over a conversation's events, as of a version or time.

The data is never changed. Providers reject a tool call without a result, a result whose call is not in view, and a late
result: the view corrects these (`rule_1.py`, `rendering.py`). A view can be limited to a budget.

Messages are read, and built, when they are used first: a run that answers in a thread needs none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..canonical import EMPTY_PATH, neutral_json, path_of
from ..conversation.messages import JournaledMessage, Message, Role
from ..errors import InvalidInput
from ..faces import on_first_use
from ..ids import now

if TYPE_CHECKING:
    from ..conversation.attachments import Read

RULE_2 = "2;"
"""Beginning of the rules by which views are described and hashed now; rules without it are of rule 1 (`rule_1.py`)."""

ALL = f"{RULE_2}all"
"""Rule of a view that is the whole memory."""

_window_of: Callable[[], Callable[..., Memory]] = on_first_use(__name__, "windows", "window_of")


class MemorySource(Protocol):
    """Build the messages of a memory from stored rows."""

    def messages(self) -> tuple[JournaledMessage, ...]:
        """Return the messages.

        Raises:
            CorruptEvent: a row cannot be read.
        """
        ...

    def plain(self, blank: bool) -> list[dict[str, Any]] | None:
        """Return role and content of each message (also of `blank` ones), newly created; None if not all are plain texts."""
        ...

    def newest_version(self) -> int:
        """Return the version of the last message; 0 without messages."""
        ...


@dataclass(frozen=True)
class Memory:
    """Represent the messages in view, oldest first.

    `version` is the version of the last folded event; `rule` describes how the view was limited.
    """

    # Fields with a factory have no value in the class: `__getattr__` provides them if they were not read yet.
    messages: tuple[JournaledMessage, ...] = field(default_factory=tuple)
    version: int = 0
    rule: str = ALL
    run_threads: Mapping[str, str] = field(default_factory=dict)
    """Thread in which a run took place, by run id; the thread's run steps contain the run's tool calls."""
    run_marks: Mapping[str, int] = field(default_factory=dict)
    """Journal version that the thread contained when a run answered in it, by run id."""
    missing_files: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False)
    """References of files and images that are shown as texts, by the place (`missing_files.py`) that cannot read them."""
    opening_version: int = field(default_factory=int, compare=False)
    """Version of the last system message before any other message; a window keeps the messages up to it."""
    pinned: frozenset[str] = field(default_factory=frozenset, compare=False)
    """Ids of the pinned messages, which stay in every window."""
    summary_id: str | None = field(default=None, compare=False)
    """Id of the summary that stands in place of older messages; None if there is none."""
    covered_version: int | None = field(default=None, compare=False)
    """Version of the last message that the summary covers."""
    first_version: int | None = field(default=None, compare=False)
    """Version of the first message that a window did not leave out, not counting those up to `opening_version`; None if
    it left out none."""
    path_hash: str | None = field(default=None, compare=False)
    """Hash of the whole memory as of `version`, whatever of it is in view; None if it was not computed."""
    read_blob: Read | None = field(default=None, compare=False, repr=False)
    """Function that returns the bytes of an attachment; None if the memory was not read from a ledger."""

    @classmethod
    def of_source(cls, source: MemorySource, version: int, path_hash: str | None, **more: Any) -> Self:
        """Create a memory whose messages are built when they are used; `more` are its other fields."""
        memory = object.__new__(cls)  # its `__init__` sets each field by a call
        values = vars(memory)
        values["_source"], values["_hash_2"] = source, path_hash if more.get("rule", ALL) == ALL else None
        values.update(
            run_threads={}, run_marks={}, missing_files={}, opening_version=0, version=version, path_hash=path_hash
        )
        values["pinned"] = _NO_PINS
        values.update(more)
        return memory

    def knowing(self, has_parts: bool | None) -> Self:
        """Return this memory, for which it is known whether a message has content of parts, if that is not None."""
        vars(self)["_has_parts"] = has_parts
        return self

    def with_hash(self, path_hash: str | None) -> Self:
        """Return this memory with the hash of the whole memory, if that is known."""
        if path_hash is None:
            return self
        memory = replace(self, path_hash=path_hash)
        vars(memory)["_hash_2"] = path_hash if self.rule == ALL else None
        return memory

    @classmethod
    def read_later(cls, read: Callable[[], Memory], version: int, path_hash: str | None) -> Self:
        """Create a whole memory that is read when its messages, or what is known of its runs and files, are used."""
        memory = cls(version=version, path_hash=path_hash)
        values = vars(memory)
        for name in _READ:
            del values[name]
        values["_read"], values["_hash_2"] = read, path_hash
        return memory

    if not TYPE_CHECKING:  # for a type checker, only the fields exist

        def __getattr__(self, name: str) -> Any:
            values = vars(self)
            if name in _READ and "_read" in values:
                found = vars(values["_read"]())
                values.update({each: found[each] for each in (*_READ, "_source") if each in found})
                values.pop("_read", None)
            if name == "messages" and "_source" in values:
                values.setdefault(name, values["_source"].messages())
            if name in _READ and name in values:
                return values[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def was_read(self) -> bool:
        """Return whether the messages were read from the ledger."""
        return "_read" not in vars(self)

    @property
    def is_empty(self) -> bool:
        """Return whether no message is in view; a memory whose hash is known is not read for it."""
        values = vars(self)
        if values.get("_hash_2") is not None:
            return bool(values["_hash_2"] == EMPTY_PATH)
        return not self.newest_version

    @property
    def newest_version(self) -> int:
        """Return the version of the last message in view; 0 without messages."""
        values = vars(self)
        if "messages" not in values and "_source" in values:
            return int(values["_source"].newest_version())
        return self.messages[-1].version if self.messages else 0

    @property
    def has_parts(self) -> bool:
        """Return whether a message in view has content of parts, such as images; often known without reading them."""
        if vars(self).get("_has_parts") is False or self._plain() is not None:
            return False
        return any(isinstance(each.message.content, tuple) for each in self.messages)

    def window(self, last: int | None = None, tokens: int | None = None) -> Memory:
        """Return the newest messages: at most `last` of them, within about `tokens`.

        The newest message is always in view, even if it alone exceeds the budget. A view of tool results alone is
        extended back to the message with their calls. System messages at the beginning of the conversation, and pinned
        ones, are kept in addition to `last`; they count in `tokens`. For the error of the estimate, see `windows.py`.

        Raises:
            InvalidInput: a limit is below 1.
        """
        for name, bound in (("last", last), ("tokens", tokens)):
            if bound is not None and bound < 1:
                raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
        return _window_of()(self, last, tokens)

    def by_rule(self, rule: str, first_version: int | None = None) -> Memory:
        """Return the view that a stored rule describes, so that a rerun sees what the failed run saw.

        `first_version` is the version that was stored with the rule (`RunStarted.memory_first_version`).
        """
        from .windows import view_by_rule

        return view_by_rule(self, rule, first_version)

    def for_place(self, place: str = "threads") -> Memory:
        """Return the memory as one place is shown it: what another place could not read may be readable there."""
        if not self.was_read:
            later = Memory.read_later(lambda: self._all_read().for_place(place), self.version, self.path_hash)
            vars(later)["read_blob"] = self.read_blob
            return later.knowing(vars(self).get("_has_parts"))
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
        from .rule_1 import pair_tool_calls

        return pair_tool_calls([each for each in self._whole_calls() if each.message.role is not Role.UNKNOWN])

    mended = paired  # its name in earlier versions

    def in_thread(self, thread_id: str | None, *, results_have_parts: bool = False) -> tuple[JournaledMessage, ...]:
        """Return the messages as providers accept them (`valid_view`), in the order in which a thread holds them.

        Messages that were journaled while a run answered in the thread follow the run's own messages there. For another
        thread, or for None, the order of the journal is used.
        """
        from .thread_order import in_order_of_thread

        here = self.for_place()
        return here._valid(in_order_of_thread(self, thread_id), results_have_parts)

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
        """Return the `messages` of a Chat Completions request: a valid view, without messages that say nothing.

        Attachments are inside, as data.

        Raises:
            BlobMissing, ChangedBlob: an attachment cannot be read.
        """
        return self._with_data(self.chat_entries(), "chat")

    def chat_entries(self, dialect: str = "chat", place: str = "") -> list[dict[str, Any]]:
        """Return the same messages with attachments in the stored shapes, for `resolved`.

        For a provider at a `place` that speaks another dialect, they have its own items as `native`, where it needs them.
        """
        plain = self._plain_to_send(blank=False)
        if plain is not None:
            return plain
        from .rendering import CHAT_CALL_ID_CHARS_MAX, chat_entry, is_empty, since_question, valid_view

        view = valid_view(
            self._whole_calls(self.available()), CHAT_CALL_ID_CHARS_MAX, results_have_parts=dialect == "anthropic"
        )
        said = since_question(view, dialect, place, self.read_blob)
        return [chat_entry(message, items) for message, items in said if not is_empty(message)]

    def as_response_items(self) -> list[dict[str, Any]]:
        """Return the `input` of a Responses API request: a valid view, without messages that say nothing.

        Attachments and errors are those of `as_chat_messages`.
        """
        return self._with_data(self.response_entries(), "responses")

    def response_entries(self, place: str = "") -> list[dict[str, Any]]:
        """Return the same items with attachments in the stored shapes, for `resolved`, and reasoning that came from a place."""
        plain = self._plain_to_send(blank=False)
        if plain is not None:
            return [{"type": "message"} | each for each in plain]
        from .rendering import response_items, since_question, valid_view

        view = valid_view(self._whole_calls(self.available()), results_have_parts=True)
        said = since_question(view, "responses", place, self.read_blob)
        return [item for message, items in said for item in response_items(message, items)]

    def _with_data(self, entries: list[dict[str, Any]], dialect: str) -> list[dict[str, Any]]:
        if not self.has_parts:
            return entries
        from .sending import Attachments, resolved

        return resolved(entries, dialect, Attachments(self.read_blob))

    def lost_parts(
        self, dialect: str, unknown: Callable[[dict[str, Any]], bool] | None = None
    ) -> tuple[Mapping[str, int], list[str]]:
        """Return how many parts an API is not shown, and the names of those of which it is shown none; see `sending.py`."""
        if not self.has_parts:
            return {}, []
        from .sending import lost_parts

        return lost_parts(self, dialect, unknown)

    def estimated_tokens(self) -> int:
        """Return the approximate number of input tokens of the view."""
        from .rule_1 import message_tokens

        return sum(message_tokens(message) for message in self.shown())

    def digest(self, rule: str | None = None) -> str:
        """Return the SHA-256 (hex) of the messages: equal digests by one rule mean equal memories.

        It covers what was said, not the valid view that is sent, and never changes: stored runs are compared with it. How it
        is computed depends on `rule`, by default the rule of the view: with `2;` it is the hash of a path of these messages
        (`domain/canonical.py`), else that of rule 1.
        """
        is_rule_2 = (self.rule if rule is None else rule).startswith(RULE_2)
        known, name = vars(self), "_hash_2" if is_rule_2 else "_hash_1"
        if known.get(name) is None:
            known[name] = self._path() if is_rule_2 else self._digest_by_rule_1()
        found: str = known[name]
        return found

    def _path(self) -> str:
        plain = self._plain() if "messages" not in vars(self) else None
        if plain is not None:
            return path_of(neutral_json(each["role"], each["content"]) for each in plain)
        return path_of(each.neutral() for each in self.messages)

    def _digest_by_rule_1(self) -> str:
        from . import rule_1

        return rule_1.digest(self.messages)

    def _all_read(self) -> Memory:
        """Return the memory, read."""
        _ = self.run_threads
        return self

    def _valid(self, messages: Sequence[JournaledMessage], results_have_parts: bool) -> tuple[JournaledMessage, ...]:
        plain = [each.as_plain_chat_message() for each in messages]
        if None not in plain and _can_be_sent(each["content"] for each in plain if each is not None):
            return tuple(messages)
        from .rendering import valid_view

        return valid_view(self._whole_calls(self.available(messages)), results_have_parts=results_have_parts)

    def available(self, messages: Sequence[JournaledMessage] | None = None) -> Sequence[JournaledMessage]:
        """Return the messages (by default all in view) with a text in place of each file that the provider cannot read."""
        messages = self.messages if messages is None else messages
        if not self.missing_files:
            return messages
        from .missing_files import without_files

        return without_files(messages, frozenset().union(*self.missing_files.values()))

    def _whole_calls(self, messages: Sequence[JournaledMessage] | None = None) -> Sequence[JournaledMessage]:
        """Return the messages (by default all in view) without pinned tool calls whose results are out of view.

        The model would otherwise be told that the tool has not run, and could use it again.
        """
        messages = self.messages if messages is None else messages
        if not self.pinned or (self.first_version is None and self.summary_id is None):
            return messages
        from .windows import without_lone_calls

        return without_lone_calls(self, messages)

    def _plain(self, blank: bool = True) -> list[dict[str, Any]] | None:
        """Return the messages if all of them are plain texts, in which nothing has to be paired; see `MemorySource.plain`."""
        if "messages" not in vars(self):
            _ = self.run_threads  # reads the rows, if that was left for later
            source: MemorySource | None = vars(self).get("_source")
            if source is not None:
                return source.plain(blank)
        plain = [message.as_plain_chat_message() for message in self.messages]
        return None if None in plain else [each for each in plain if each and (blank or each["content"].strip())]

    def _plain_to_send(self, blank: bool) -> list[dict[str, Any]] | None:
        """Return the same if all texts can be encoded."""
        plain = self._plain(blank)
        if plain is None or ("messages" not in vars(self) and "_source" in vars(self)):
            return plain  # what a source decodes has no half characters
        return plain if _can_be_sent([each["content"] for each in plain]) else None


_READ = frozenset({"messages", "run_threads", "run_marks", "missing_files", "opening_version", "pinned"})
"""Fields that a memory gets when it is read."""

_NO_PINS = frozenset[str]()


def _can_be_sent(texts: Iterable[str]) -> bool:
    """Return whether texts can be encoded; those of old rows may hold half characters."""
    text = "".join(texts)
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


INSTRUCTING = frozenset({Role.SYSTEM, Role.DEVELOPER})
"""Roles of messages that a window keeps at the beginning of a conversation."""

MEMORY_TOPICS: tuple[str, ...] = (
    *("MessageJournaled", "MessageRetracted", "MemoryCleared", "RerunAccepted"),
    *("BranchSelected", "MemoryCompacted", "MessagePinned", "ConversationDeleted"),
    *("RunCompleted", "RunFailed"),  # the thread in which a run took place, and files that were missing
)
"""Names of the events that memory is built from."""
