"""Define what commands need from a database besides its log, as small protocols with the errors they raise.

These are the views of the log, memory files, the claims of jobs, and the operator's tasks: check it, copy it, and list the
stored state of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..conversation import ConversationState, ExchangeRecord, Exchanges, FailureFilter, RunRecord
    from ..conversation.assistants import DefinedAssistant
    from ..conversation.events import CompletionStored
    from ..conversation.listing import ConversationFilter, ListPage, ListPlace, MessageSearch, SearchHit
    from ..conversation.run_filters import ExchangeFilter, ProfileRuns, RunFilter
    from ..failures import BackendEnd, FailureGroup, RecordedFailure, SummaryRow
    from .budgets import Price
    from .file_lists import FileLists
    from .outcomes import NotedStream, ThreadOutcome
    from .ports import UpkeepProgress
    from .webhooks import GroupSeen


class UnansweredRun(NamedTuple):
    """Name a failed run whose exchange has no answer."""

    key: str
    exchange_id: str
    at: datetime
    """Time of the failure."""
    next: str
    """What followed: see `RecordedFailure.next`."""


class Views(Protocol):
    """Query read models, each of which catches up with the log when it is read."""

    @property
    def files(self) -> FileLists:
        """Return the lists of uploaded files and of vector stores."""
        ...

    def failures(self, wanted: FailureFilter, limit: int | None = None) -> list[RecordedFailure]:
        """Return failed runs in the order of failure, or the newest `limit` of them."""
        ...

    def failure_page(
        self, wanted: FailureFilter, limit: int | None, before: tuple[str, int] | None
    ) -> tuple[list[RecordedFailure], tuple[str, int] | None]:
        """Return the newest `limit` failed runs before a place, in the order of failure, and the place of the first.

        A place is a time (ISO 8601) and the position of a run's first event. It is None if there are no older ones.
        """
        ...

    def run_page(
        self, wanted: RunFilter, limit: int | None, before: tuple[str, int] | None
    ) -> tuple[list[RunRecord], tuple[str, int] | None]:
        """Return the newest `limit` runs before a place, in the order of their start, and the place of the first."""
        ...

    def exchange_page(
        self, wanted: ExchangeFilter, limit: int | None, before: tuple[str, int] | None
    ) -> tuple[list[ExchangeRecord], tuple[str, int] | None]:
        """Return the newest `limit` exchanges before a place, in the order of their start, and the place of the first."""
        ...

    def profiles(self, beginning: str, limit: int | None, before: int | None) -> list[ProfileRuns]:
        """Return the newest `limit` profiles before a number whose hash begins with a text, newest first.

        Raises:
            ChangedEvent: a definition was changed.
        """
        ...

    def assistants(
        self,
        tenant: str,
        page: ListPage,
    ) -> list[DefinedAssistant]:
        """Return the assistants of a tenant on a page, as `ListPage.of` takes them."""
        ...

    def assistant_place(self, tenant: str, assistant_id: str) -> ListPlace | None:
        """Return the place of an assistant in the list of its tenant; None if the tenant has no such assistant."""
        ...

    def completions(
        self,
        tenant: str,
        page: ListPage,
        labels: Sequence[str] = (),
    ) -> list[CompletionStored]:
        """Return the chat completions of a tenant on a page, as `ListPage.of` takes them.

        Only those with all of the `labels` (see `completions.py`) are returned.
        """
        ...

    def completion_place(self, tenant: str, completion_id: str) -> ListPlace | None:
        """Return the place of a chat completion in the list of its tenant; None if the tenant has no such completion."""
        ...

    def unanswered(self, since: datetime | None = None, limit: int | None = None) -> list[UnansweredRun]:
        """Return failed runs without an answer since a time, or the newest `limit` of them, newest first."""
        ...

    def failure_groups(self, since: datetime | None, until: datetime, actor: str | None = None) -> list[FailureGroup]:
        """Return groups of runs that failed since a time, most recent failure first; trends end at `until`.

        With an actor, only the runs that it caused count. Decisions about a group (resolved, muted, reopened) are not
        included.
        """
        ...

    def groups_of_runs(self, run_ids: Sequence[str]) -> list[GroupSeen]:
        """Return the groups in which these runs have failed, in time that grows with the number of runs."""
        ...

    def summary(
        self,
        by: str,
        since: datetime | None = None,
        until: datetime | None = None,
        actor: str | None = None,
        price: Price | None = None,
    ) -> list[SummaryRow]:
        """Return counts and rates of the runs that started within these times, grouped by one of `SUMMARY_BY`.

        With an actor, only the runs that it caused count. By owner and conversation, `price` computes the costs.
        """
        ...

    def failure_days(self, since: datetime | None = None, until: datetime | None = None) -> list[tuple[str, str, int]]:
        """Return (day, cause, number) of the failures within these times, sorted by day."""
        ...

    def find_runs(self, ending: str) -> list[tuple[str, str]]:
        """Return (key, run id) pairs of runs whose id ends with `ending`, at most a few."""
        ...

    def exchange(self, run_id: str) -> Exchanges:
        """Return all runs of the exchange of this run, read by their positions, however long the conversation is.

        There are none if no run has this id.

        Raises:
            ChangedEvent: one of their events was changed.
        """
        ...

    def last_ends(self, per_backend: int) -> list[BackendEnd]:
        """Return the newest outcomes of each backend's runs that reflect its health, oldest first."""
        ...

    def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        """Return conversations, most recently changed first.

        With `search`, return only those whose key or messages contain all its words.
        """
        ...

    def listed(
        self, wanted: ConversationFilter, limit: int | None = None, place: tuple[int, int] | None = None
    ) -> tuple[list[ConversationState], tuple[int, int] | None]:
        """Return a page of conversations with their descriptions, and the place of the next page; None if it is the last.

        A place is a sort key, and what `since` was when the first page was read.
        """
        ...

    def each_conversation(
        self, wanted: ConversationFilter | None = None, limit: int | None = None
    ) -> Iterator[ConversationState]:
        """Yield the same, each as it is when it is read; only their numbers are kept in memory."""
        ...

    def search(
        self, search: MessageSearch, limit: int, before: int | None = None
    ) -> tuple[list[SearchHit], int | None]:
        """Return the newest messages that match a search, before a position, and that of the last if there are more.

        Whether they are in memory is not known here.

        Raises:
            ChangedEvent: a message was changed behind the ledger's back.
        """
        ...

    def count(self) -> int:
        """Return the number of conversations. No view is built or changed for it."""
        ...

    def status(self) -> list[dict[str, Any]]:
        """Return the status of each view.

        This is its name, version, position, lag (events not processed yet) and parked (events that could not be
        processed).
        """
        ...

    def check(self) -> Iterator[Finding]:
        """Yield what is wrong with the views; nothing is changed."""
        ...

    def catch_up(self) -> None:
        """Bring every view up to date; reading one does the same for that one."""
        ...

    def rebuild(self, names: Sequence[str] = (), progress: Callable[[str, int, int], None] = ...) -> None:
        """Rebuild views next to those in use and switch to them; `progress` is called with name, position and end.

        Raises:
            InvalidInput: there is no such view.
            CorruptEvent: an event cannot be processed; the view in use is kept.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """Describe data that differs from what was stored, and its location."""

    subject: str
    """One of `database`, `position`, `stream`, `version`, `order`, `time`, `leaf`, `payload`, `state`, `thread`, `view` and
    `blob`."""
    problem: str
    key: str | None = None
    position: int | None = None
    version: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that `db check` prints."""
        return dict(vars(self))


@dataclass(frozen=True)
class NotedThread:
    """Describe the stored state of one thread; the provider is not called."""

    stream: str
    mirror: str
    thread_id: str
    version: int
    """Journal version that the thread is known to contain."""
    settled: bool
    doubts: int
    """Number of unconfirmed writes to the thread, which may still arrive."""
    held: bool
    """Whether a process is currently writing to it."""
    held_by: str = ""
    """That process and the end of its claim, for users."""


class Upkeep(Protocol):
    """Check and copy the database on behalf of its operator."""

    @property
    def schema_before(self) -> int | None:
        """Return the schema's number before this opening upgraded it, or None if there was no upgrade.

        The number is 0 if there was no schema.
        """
        ...

    def check(self, progress: UpkeepProgress) -> Iterator[Finding]:
        """Check every event (contiguity, leaf hash, payload, state), and run the database's own integrity check."""
        ...

    def back_up(self, path: Path, progress: UpkeepProgress) -> int:
        """Write a snapshot of the ledger to a new SQLite file and return its number of events.

        Raises:
            Conflict: the file already exists.
            StoreUnavailable: the file cannot be written.
        """
        ...

    def copy_to(self, url: str, progress: UpkeepProgress) -> int:
        """Copy the ledger to another, empty database and return its number of events.

        Raises:
            Conflict: the database is not empty.
            StoreError: one of the databases cannot be used.
        """
        ...

    def noted_threads(self, streams: Sequence[str]) -> Sequence[NotedThread]:
        """Return the stored state of the threads of these conversations."""
        ...

    def unsettled_threads(self, limit: int) -> Sequence[NotedThread]:
        """Return at most `limit` threads that must be read before anything is written to them."""
        ...

    def note_outcome(self, stream: str, mirror: str, outcome: ThreadOutcome) -> None:
        """Note how a thread of a conversation compared with the journal; do nothing if the database is read-only."""
        ...

    def noted_streams(
        self,
        number_max: int,
        limit: int,
        *,
        state: str | None = None,
        mirror: str | None = None,
        stream: str | None = None,
    ) -> Sequence[NotedStream]:
        """Return up to `limit` conversations that may have threads, with a number up to `number_max`, newest first.

        With `state` or `mirror`, return those of which a thread may be in this state, or of this kind; with `stream`, at most
        this one.
        """
        ...


class MemoryFile(Protocol):
    """Write a file of memories, one conversation after another."""

    def digest(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return a digest that identifies a conversation's messages in the form of the file."""
        ...

    def writing(
        self, path: Path, memories: Iterable[tuple[str, Sequence[dict[str, Any]]]]
    ) -> AbstractContextManager[tuple[Iterator[tuple[str, Sequence[dict[str, Any]]]], Callable[[], None]]]:
        """Write all memories to a temporary file; provide the memories read back and a function that accepts the file.

        The function moves the file to its place. If it is not called, no file is left.

        Raises:
            FileMissing: the file cannot be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class TakenItems:
    """Hold the result of claiming items of a job. Items in none of these have ended."""

    taken: Sequence[int] = ()
    left: Collection[int] = ()
    """Those taken from another worker that did not release them: it ended in the middle, or its time is over."""
    held: Mapping[int, str] = field(default_factory=dict)
    """Those that another worker holds, with its name."""


class JobClaims(Protocol):
    """Record which worker has which item of a job, so that two processes never process the same item.

    The claims are stored outside the event log. The outcome of an item is an event; losing the claims has no effect
    while no worker is active.
    """

    def name(self) -> str:
        """Return a new name for a worker, unique for each call."""
        ...

    def take(self, job_id: str, items: Sequence[int], holder: str, until: datetime) -> TakenItems:
        """Claim those items that no other holder has and that have not ended, until `until` at the latest.

        A claim ends at once if its holder's process has ended on this machine; elsewhere, when its time is over, which
        a working process extends by itself.
        """
        ...

    def end(self, job_id: str, items: Sequence[int], holder: str) -> None:
        """Mark items as ended, so that they are not claimed again."""
        ...

    def renew(self, job_id: str, holder: str, until: datetime) -> None:
        """Extend the holder's claims until `until` at the latest."""
        ...

    def give_back(self, job_id: str, holder: str) -> None:
        """Release the holder's claims on items that have not ended."""
        ...

    def reopen(self, job_id: str, items: Sequence[int]) -> None:
        """Make ended items available again, because they failed."""
        ...

    def holders(self, job_id: str, first: int = 0) -> Mapping[str, str]:
        """Return the workers that hold items from this number on, each with a description of its process for users."""
        ...
