"""The domain API: a `Ledger` is all conversations of one database, a `Chat` is one of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from . import events as e
from .audit import Exchanges, FailureFilter, RunRecord, find_run
from .chat import Chat
from .failures import Cause, RecordedFailure
from .ids import to_iso
from .journal import Journal
from .memory import Memory
from .naming import CONVERSATION, key_of, stream_of
from .outside import Outside
from .replay import Replay
from .state import ConversationState

FOLLOW_SECONDS = 0.25
"""How often a follower looks for new events."""


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

    def conversations(self, limit: int | None = None) -> list[ConversationState]:
        """What is known of each conversation without reading its messages, last changed first."""
        return [state for _, state in self.journal.heads(CONVERSATION, limit=limit)]

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
        stream = stream_of(key) if key is not None else None
        while True:
            for position, event in self.journal.logged(after, types):
                after = position
                if stream is None or event.originator_id == stream:
                    yield LoggedEvent(position, event)
            if not follow:
                return
            time.sleep(FOLLOW_SECONDS)

    def failures(
        self,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        code: str | None = None,
        backend: str | None = None,
        unanswered: bool = False,
    ) -> list[RecordedFailure]:
        """Every failed run, in the order of failing. A time span counts back from now. Overdue runs are closed first.

        Raises:
            InvalidInput: there is no such cause.
        """
        self.close_overdue_runs()
        wanted = FailureFilter.of(since, until, cause, code, backend, unanswered)
        return [failure for failure in self.journal.all_exchanges().failures() if wanted(failure)]

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

    def run(self, run_id: str) -> tuple[RunRecord, Exchanges]:
        """One run, by its id or by an ending of it that is its own, with all that happened around it.

        Raises:
            RunNotFound: no run, or more than one, has this id or ending.
        """
        return find_run(self.journal.all_exchanges(), run_id)

    def status(self) -> dict[str, Any]:
        """What is in the database: the keys of CONTRACT.md for `db status`."""
        return self.journal.status() | {"views": []}

    def close_overdue_runs(self) -> list[str]:
        """Close the runs that a crash left open and whose deadline has passed, in all conversations; returns their ids."""
        return self.journal.close_overdue_runs()
