"""The domain API: a `Ledger` is all conversations of one database, a `Chat` is one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import events as e
from .audit import Exchanges, FailureFilter, RunRecord, moment_of
from .chat import Chat
from .driving import perform
from .errors import InvalidInput
from .failures import Cause, RecordedFailure
from .forking import forked, parent_of
from .grouping import FailureGroup, GroupState
from .groups import FailureGroups
from .health import BackendHealth, health_of
from .ids import now, to_iso
from .journal import Journal
from .limits import HEALTH_ENDS
from .memory import Memory
from .memory_diff import MemoryDiff, diff_memories
from .naming import key_of, stream_of
from .outside import Outside
from .replay import Replay
from .state import ConversationState
from .summary import SUMMARY_BY, SummaryRow
from .upkeep import Finding, Progress, quietly


@dataclass(frozen=True)
class LoggedEvent:
    """An event with its position in the whole log."""

    position: int
    event: e.Event

    @property
    def key(self) -> str:
        """The conversation's key (or the name of another stream)."""
        return key_of(self.event.originator_id)

    @property
    def type(self) -> str:
        """The name under which the event is stored."""
        return e.topic_of(self.event)

    def as_json(self) -> dict[str, Any]:
        """The keys of CONTRACT.md; `data` holds all fields, those at their default included."""
        common = e.Event.__dataclass_fields__
        data = {name: value for name, value in vars(self.event).items() if name not in common}
        return {
            "position": self.position,
            "key": self.key,
            "version": self.event.originator_version,
            "type": self.type,
            "at": to_iso(self.event.timestamp),
            "data": self.event.data if isinstance(self.event, e.UnknownEvent) else data,
        }


def in_log(logged: Iterator[tuple[int, e.Event]], key: str | None = None) -> Iterator[LoggedEvent]:
    """Events with their positions, those of one conversation where a key is given."""
    stream = stream_of(key) if key is not None else None
    return (LoggedEvent(*each) for each in logged if stream is None or each[1].originator_id == stream)


class Ledger:
    """All conversations of one database; made by `threadledger.open()`."""

    def __init__(self, journal: Journal, outside: Outside | None = None) -> None:
        self.journal = journal
        self.outside = outside or Outside()

    def close(self) -> None:
        """Let go of the database, and of connections to the provider."""
        self.journal.close()
        self.outside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def conversation(self, key: str) -> Chat:
        """The conversation of this key; it begins at its first message.

        Raises:
            InvalidKey: the key is not a string of 1 to 200 storable characters.
        """
        return Chat(self.journal, self.outside, key)

    def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        """What is known of each conversation without reading its messages, last changed first.

        With `search`, those whose key or messages have all its words (or beginnings of words); case and accents do not
        count, and words in double quotes have to stand together.
        """
        return self.journal.views.conversations(limit, search)

    def state(self, key: str) -> ConversationState:
        """What is known of one conversation without reading its messages.

        Raises:
            ConversationNotFound: it has not begun.
        """
        return self.journal.require(key).state

    def events(
        self, after: int = 0, types: Sequence[str] = (), key: str | None = None, follow: bool = False
    ) -> Iterator[LoggedEvent]:
        """The whole log in the order of its commits, from the position after `after` on; with `follow`, for ever."""
        logged: Iterator[tuple[int, e.Event]]
        if key is not None and not follow:
            logged = ((position, event) for position, event in self.journal.placed(key, types) if position > after)
        elif follow:
            logged = self.journal.followed(after, types)
        else:
            logged = self.journal.logged(after, types)
        return in_log(logged, key)

    def failures(
        self,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        code: str | None = None,
        backend: str | None = None,
        unanswered: bool = False,
        limit: int | None = None,
    ) -> list[RecordedFailure]:
        """Every failed run, in the order of failing, or the newest `limit` of them. A time span counts back from now.

        Overdue runs are closed first.

        Raises:
            InvalidInput: there is no such cause.
        """
        self.close_overdue_runs()
        wanted = FailureFilter.of(since, until, cause, code, backend, unanswered)
        return self.journal.views.failures(wanted, limit)

    def failure_groups(
        self, since: datetime | timedelta | None = None, states: Iterable[GroupState | str] | None = None
    ) -> list[FailureGroup]:
        """Failures in groups of one cause, one backend and one normalised message; all but the muted, or those in `states`.

        Overdue runs are closed first.

        Raises:
            InvalidInput: there is no such state.
        """
        self.close_overdue_runs()
        return FailureGroups(self.journal).all(since, states)

    def resolve_group(self, group: str, note: str = "") -> FailureGroup:
        """See `FailureGroups.resolve`."""
        return FailureGroups(self.journal).resolve(group, note)

    def mute_group(self, group: str, until: datetime | None = None, note: str = "") -> FailureGroup:
        """See `FailureGroups.mute`."""
        return FailureGroups(self.journal).mute(group, until, note)

    def reopen_group(self, group: str, note: str = "") -> FailureGroup:
        """See `FailureGroups.reopen`."""
        return FailureGroups(self.journal).reopen(group, note)

    def summary(
        self, by: str = "cause", since: datetime | timedelta | None = None, until: datetime | timedelta | None = None
    ) -> list[SummaryRow]:
        """Counts, rates, durations and tokens of the runs that began within these times, by one of `SUMMARY_BY`.

        Overdue runs are closed first.

        Raises:
            InvalidInput: runs are not counted by that.
        """
        if by not in SUMMARY_BY:
            raise InvalidInput(f"runs are not counted by {by!r}: give one of {', '.join(SUMMARY_BY)}")
        self.close_overdue_runs()
        return self.journal.views.summary(by, moment_of(since), moment_of(until))

    def health(self) -> list[BackendHealth]:
        """How each backend is doing, by name, as the newest ends of its runs in the log tell, whichever process made them.

        What this process itself passes over follows from what it has met: `outside.health`.
        """
        return health_of(self.journal.views.last_ends(HEALTH_ENDS), now())

    def fork(self, key: str, new_key: str, at: int | datetime | None = None) -> Chat:
        """A new conversation that begins as another one was, at a version or a time, or as it is: the messages in its memory
        then, with ids of their own. No model is called; the fork is mirrored like any conversation.

        Raises:
            ConversationNotFound: there is nothing to fork.
            InvalidKey, InvalidInput: the new key cannot be one; there is no such version, or it had not begun at that time.
            Conflict: there is a conversation of the new key.
        """
        perform(forked(self.journal, self.outside, key, new_key, at), self.outside.wait)
        return self.conversation(new_key)

    def parent(self, key: str) -> tuple[str, int] | None:
        """Key and version of the conversation that this one was forked from; None where it is no fork."""
        return parent_of(self.journal, key)

    def exchanges(self, key: str) -> Exchanges:
        """What became of every run of one conversation."""
        return self.journal.exchanges(key)

    @property
    def replay(self) -> Replay:
        """Plans that write threads anew or run failed exchanges again."""
        return Replay(self.journal, self.outside)

    def memory(self, key: str, at: int | datetime | None = None) -> Memory:
        """What a model is shown of a conversation, as of a version or a time. Empty where it has not begun."""
        return self.journal.memory(key, at)

    def diff(self, key: str, before: int | datetime | None = None, after: int | datetime | None = None) -> MemoryDiff:
        """The memory of a conversation as of one version or time against the memory as of another, message by message.

        Without `before`, from the beginning; without `after`, until now. What is asked for backwards is told backwards.

        Raises:
            ConversationNotFound: it has not begun.
        """
        self.journal.require(key)
        first, last = self.journal.memory(key, 0 if before is None else before), self.journal.memory(key, after)
        older, newer = sorted((first.version, last.version))
        return diff_memories(key, first, last, self.journal.history(key, after=older, upto=newer))

    def run(self, run_id: str) -> tuple[RunRecord, Exchanges]:
        """One run, by its id or by an ending of it that is its own, with all that happened around it.

        Raises:
            RunNotFound: no run, or more than one, has this id or ending.
        """
        return self.journal.run(run_id)

    def status(self) -> dict[str, Any]:
        """What is in the database: the keys of CONTRACT.md for `db status`."""
        return self.journal.status() | {"views": self.journal.views.status()}

    @property
    def schema_before(self) -> int | None:
        """The schema's number before this opening took it forward (0: there was none); None where nothing was to do."""
        return self.journal.upkeep.schema_before

    def check(self, progress: Progress = quietly) -> Iterator[Finding]:
        """What is not as it was stored: every event is looked at, then the views."""
        yield from self.journal.upkeep.check(progress)
        last = self.journal.recorder.max_notification_id() or 0
        for view in self.journal.views.status():
            if view["position"] > last:
                yield Finding("view", f"{view['name']} is ahead of the log: rebuild it", position=view["position"])
            if view["parked"]:
                yield Finding(
                    "view", f"{view['name']} could not take in {view['parked']} events: rebuild it to see why"
                )

    def rebuild_views(
        self, names: Sequence[str] = (), progress: Callable[[str, int, int], None] = lambda name, done, total: None
    ) -> None:
        """Build views anew from the log, beside those that are read, and switch.

        Raises:
            InvalidInput: there is no such view.
            CorruptEvent: an event cannot be taken in; the views that were read stay.
        """
        self.journal.views.rebuild(names, progress)

    def back_up(self, path: str | Path, progress: Progress = quietly) -> int:
        """Write the ledger as it is at this moment into a new SQLite file, itself a ledger; returns its number of events.

        Raises:
            Conflict: there is such a file.
            StoreUnavailable: it cannot be written.
        """
        return self.journal.upkeep.back_up(Path(path), progress)

    def copy_to(self, url: str, progress: Progress = quietly) -> int:
        """Copy the ledger into another, empty database, of the other kind too; returns its number of events.

        Raises:
            Conflict: the database is not empty.
            StoreError: it cannot be used.
        """
        return self.journal.upkeep.copy_to(url, progress)

    def close_overdue_runs(self) -> list[str]:
        """Close the runs that a crash left open and whose deadline has passed, in all conversations; returns their ids."""
        return self.journal.close_overdue_runs()
