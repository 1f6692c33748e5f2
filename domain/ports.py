"""Define what the domain needs from the outside world, as small protocols with the errors they raise."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from .audit import FailureFilter
from .effects import Effects
from .failures import Failure, RecordedFailure
from .grouping import FailureGroup
from .health import BackendEnd
from .late_copies import Doubt
from .memory import Memory
from .messages import Message
from .profiles import Profile
from .runs import Completion
from .state import ConversationState
from .storage import Row, StoredRow
from .summary import SummaryRow
from .threads import Rendering, ThreadItem

ToolFunction = Callable[..., Any]


@dataclass(frozen=True)
class BackendRequest:
    """Hold everything that a backend needs to answer one exchange once."""

    key: str
    exchange_id: str
    run_id: str
    model: str
    profile: Profile
    memory: Memory
    timeout_seconds: float
    thread_id: str | None = None
    thread_version: int = 0
    """Version up to which the thread holds the journal once the unsent items have been delivered."""
    unsent: Sequence[ThreadItem] = ()
    """Items that the thread does not hold yet, for a backend that sends them as input."""
    found: Sequence[ThreadItem] = ()
    """Items that an earlier run of this exchange left in the thread although its response was lost. They are used
    instead of calling the model again."""
    tools: Mapping[str, ToolFunction] = field(default_factory=dict)
    journal: Callable[[Sequence[Message]], None] = lambda _: None
    """Function that journals tool calls and results while the run is in progress."""
    doubts: Sequence[Doubt] = ()
    """Writes to the thread that may still land."""
    stream: bool = False
    """Whether there is a listener that receives the text as it arrives."""
    apart: bool = False
    """Whether it is answered outside the conversation's linked thread: the model is shown the memory and nothing
    else."""


class Backend(Protocol):
    """Answer exchanges with a model."""

    @property
    def name(self) -> str:
        """Return the name: `assistants`, `responses`, `chat`, or one chosen by the app."""
        ...

    @property
    def thread(self) -> str | None:
        """Return the mirror name of the threads it answers in, or None if it is shown the memory at each run."""
        ...

    @property
    def takes_unsent(self) -> bool:
        """Return whether unsent items are sent with the request; otherwise they are mirrored to the thread first."""
        ...

    def preflight(self, request: BackendRequest) -> Failure | None:
        """Return the failure that the provider would report, without calling it, or None if there is none."""
        ...

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        """Call the model once, never twice, as a generator of effects (`effects.py`) for both drivers.

        Raises:
            ProviderRefused: the call failed; it carries the facts of the failure.
        """
        ...


class ThreadMirror(Protocol):
    """Read and write the provider's threads of one kind.

    The calls are effects. Each raises `ProviderRefused` with the facts of the failure.
    """

    @property
    def name(self) -> str:
        """Return the name: `assistants` or `conversations`."""
        ...

    @property
    def endpoint(self) -> str:
        """Return the base URL, without secrets; a thread of another endpoint is another thread."""
        ...

    @property
    def batch(self) -> int:
        """Return the maximum number of items in one request of `add`."""
        ...

    @property
    def page(self) -> int:
        """Return the maximum number of items that one request of `read` returns."""
        ...

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        """Return what a thread can hold of a memory.

        `thread_id` names the thread that runs may have written to themselves.
        """
        ...

    def create(self, key: str) -> Effects[str]:
        """Create an empty thread and return its id."""
        ...

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        """Append items to the thread in order, at most `batch` of them."""
        ...

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        """Return all items of the thread, in order."""
        ...

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        """Delete items that were read back from the thread; items that are already gone are ignored."""
        ...

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        """Cancel what these runs of this ledger still do in the thread, and delete what they left there.

        Only the leftovers of incomplete runs are deleted, or those of all these runs if `completed` is set. Returns the
        ids of the deleted items. Does nothing if a thread holds no runs.
        """
        ...


@dataclass(frozen=True)
class MirrorHead:
    """Describe up to which version a thread is known to hold the journal; if unknown, the thread itself is read."""

    thread_id: str
    version: int
    settled: bool
    """False while a write is in progress, or after one without a response: the thread is read before the next write."""
    doubts: tuple[Doubt, ...] = ()
    """Writes to this thread that had no response and may still land, oldest first."""
    left_by: str | None = None
    """Of a claim: the holder that claimed the thread before and stopped without releasing it."""


class MirrorHeads(Protocol):
    """Keep notes on threads, outside the log.

    Losing them costs one read of each thread, and the proof that a late copy is ours.
    """

    def claim(
        self, stream: str, mirror: str, thread_id: str, holder: str, until: datetime, given_up: Collection[str] = ()
    ) -> MirrorHead | None:
        """Claim a thread for writing and return its previous head; from now on it is unsettled.

        Returns None while another holder's claim lasts, unless that holder is one of `given_up`. A thread that is not
        noted, or is noted under another id, is returned at version 0, unsettled and without doubts. A holder of the
        claim renews it.
        """
        ...

    def release(self, stream: str, mirror: str, holder: str, doubts: Sequence[Doubt] | None = None) -> None:
        """Release a thread, unsettled, with its doubts or with these. Does nothing if another holder has the claim."""
        ...

    def put(self, stream: str, mirror: str, head: MirrorHead, holder: str | None = None) -> None:
        """Store a head and release the thread.

        With a holder, does nothing if its claim has expired and another's lasts. Without one, the thread is newly
        linked, and no other thread is unfinished any longer.
        """
        ...

    def begin(self, stream: str, mirror: str, thread_id: str) -> None:
        """Note a thread that was just created and is empty.

        Does nothing if it is noted already, or if a holder has the claim.
        """
        ...

    def note_unfinished(self, stream: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Note the new thread that is being written with the memory of this digest; None removes the note.

        The linked thread is not affected.
        """
        ...

    def unfinished(self, stream: str, mirror: str, digest: str) -> str | None:
        """Return the new thread that was noted for the memory of this digest, or None."""
        ...


class MemoryFile(Protocol):
    """Write a file of memories, one conversation after another."""

    def digest(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return a digest that identifies a conversation's messages in the form of the file."""
        ...

    def writing(
        self, path: Path, memories: Iterable[tuple[str, Sequence[dict[str, Any]]]]
    ) -> AbstractContextManager[tuple[Iterator[tuple[str, Sequence[dict[str, Any]]]], Callable[[], None]]]:
        """Write all memories to a temporary file, and provide what is read back and a function that accepts it.

        The function moves the file to its place. If it is not called, no file is left.

        Raises:
            FileMissing: the file cannot be written.
        """
        ...


class JobClaims(Protocol):
    """Note which worker has which item of a job, so that no two processes do the same one.

    These notes are kept outside the log. The outcome of an item is an event; losing the notes costs nothing while no
    worker is active.
    """

    def name(self) -> str:
        """Return a new name for a worker, unique for each call."""
        ...

    def take(self, job_id: str, items: Sequence[int], holder: str, until: datetime) -> Sequence[int]:
        """Claim items and return those that no other holder has and that have not ended.

        A holder whose process is gone holds nothing.
        """
        ...

    def end(self, job_id: str, items: Sequence[int], holder: str) -> None:
        """Mark items as ended, so that they are not claimed again."""
        ...

    def renew(self, job_id: str, holder: str, until: datetime) -> None:
        """Extend the holder's claims."""
        ...

    def give_back(self, job_id: str, holder: str) -> None:
        """Release the holder's claims on items that have not ended."""
        ...

    def reopen(self, job_id: str, items: Sequence[int]) -> None:
        """Make ended items available again, because they failed."""
        ...

    def holders(self, job_id: str) -> Sequence[str]:
        """Return the workers that are currently active on a job."""
        ...


@dataclass(frozen=True, slots=True)
class StreamHead:
    """Hold the newest state of a stream: its version and the compact state that decisions need."""

    stream: str
    version: int
    state_schema: int
    state: str
    due_at: str | None = None
    """Time at which the first of its open runs is overdue (ISO 8601)."""


@dataclass(frozen=True, slots=True)
class Appending:
    """Hold the result of a decision: events as rows, and the new heads of their streams."""

    rows: Sequence[StoredRow] = ()
    heads: Sequence[StreamHead] = ()


DecideAppend = Callable[[StreamHead | None], Appending]
"""Function that decides what to append to a stream with this head. It may be called again with a newer head, so it must
have no side effects."""


class EventLog(Protocol):
    """Describe what the ledger needs from a recorder in addition to eventsourcing's `ApplicationRecorder`."""

    def append(self, stream: str, decide: DecideAppend) -> Sequence[int]:
        """Decide on a stream's current head, store the result atomically, and return the positions.

        Raises:
            IntegrityError: an event id is taken, or other writers were faster too often.
            StoreUnavailable: the database cannot be used.
        """
        ...

    def rows(self, after: int = 0, upto: int | None = None, topics: Sequence[str] = ()) -> Iterator[Row]:
        """Return the rows of the whole log, after one position and up to another (default: its current end)."""
        ...

    def stream_rows(
        self,
        stream: str,
        after: int = 0,
        upto: int | None = None,
        topics: Sequence[str] = (),
        newest_first: bool = False,
        page: int = ...,
    ) -> Iterator[Row]:
        """Return the rows of one stream, after one version and up to another, from either end.

        `page` rows are read at a time.
        """
        ...

    def version_at(self, stream: str, at: str) -> int:
        """Return the version that a stream had at a time (ISO 8601), or 0 if it did not exist yet."""
        ...

    def select_head(self, stream: str) -> StreamHead | None: ...

    def select_heads(self, prefix: str, *, overdue_at: str | None = None) -> Sequence[StreamHead]:
        """Return the heads of streams with this prefix, or only those with a run overdue at a time (ISO 8601)."""
        ...

    def select_versions(self, prefix: str) -> Sequence[tuple[str, int]]:
        """Return (stream, version) pairs of the streams with this prefix, sorted by name."""
        ...

    def select_event(self, event_id: str) -> StoredRow | None: ...

    def status(self) -> Mapping[str, Any]:
        """Return url (without secrets), dialect, schema_version, events, conversations and size_bytes."""
        ...


class Views(Protocol):
    """Query read models, each of which catches up with the log when it is read."""

    def failures(self, wanted: FailureFilter, limit: int | None = None) -> list[RecordedFailure]:
        """Return failed runs in the order of failure, or the newest `limit` of them."""
        ...

    def failure_groups(self, since: datetime | None, until: datetime) -> list[FailureGroup]:
        """Return groups of runs that failed since a time, most recent failure first; trends end at `until`.

        Decisions about a group (resolved, muted, reopened) are not included.
        """
        ...

    def summary(self, by: str, since: datetime | None = None, until: datetime | None = None) -> list[SummaryRow]:
        """Return counts and rates of the runs that started within these times, grouped by one of `SUMMARY_BY`."""
        ...

    def failure_days(self, since: datetime | None = None, until: datetime | None = None) -> list[tuple[str, str, int]]:
        """Return (day, cause, number) of the failures within these times, sorted by day."""
        ...

    def find_runs(self, ending: str) -> list[tuple[str, str]]:
        """Return (key, run id) pairs of runs whose id ends with `ending`, at most a few."""
        ...

    def last_ends(self, per_backend: int) -> list[BackendEnd]:
        """Return the newest run ends of each backend that indicate its health, oldest first."""
        ...

    def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        """Return conversations, most recently changed first.

        With `search`, only those whose key or messages contain all its words.
        """
        ...

    def status(self) -> list[dict[str, Any]]:
        """Return the status of each view.

        This is its name, version, position, lag (events not processed yet) and parked (events that could not be
        processed).
        """
        ...

    def rebuild(self, names: Sequence[str] = (), progress: Callable[[str, int, int], None] = ...) -> None:
        """Rebuild views next to those in use and switch to them; `progress` is called with name, position and end.

        Raises:
            InvalidInput: there is no such view.
            CorruptEvent: an event cannot be processed; the view in use is kept.
        """
        ...
