"""What the domain asks of the outside world: small protocols, with the errors they promise."""

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
    """All that a backend needs to answer one exchange once."""

    key: str
    exchange_id: str
    run_id: str
    model: str
    profile: Profile
    memory: Memory
    timeout_seconds: float
    thread_id: str | None = None
    thread_version: int = 0
    """Up to which version the thread holds the journal, once it has what goes along."""
    unsent: Sequence[ThreadItem] = ()
    """What the thread lacks, for a backend that takes it along as input."""
    found: Sequence[ThreadItem] = ()
    """What an earlier run of this exchange left in the thread though its answer was lost on the way: taken, not asked
    for again."""
    tools: Mapping[str, ToolFunction] = field(default_factory=dict)
    journal: Callable[[Sequence[Message]], None] = lambda _: None
    """Writes tool calls and results down while the run goes on."""
    doubts: Sequence[Doubt] = ()
    """Writes to the thread that may still land."""
    stream: bool = False
    """Whether somebody listens: then the text is told as it comes."""
    apart: bool = False
    """Whether it is answered outside the conversation's linked thread: what a model is shown is the memory, and no more."""


class Backend(Protocol):
    """Something that can answer."""

    @property
    def name(self) -> str:
        """`assistants`, `responses`, `chat`, or an app's own."""
        ...

    @property
    def thread(self) -> str | None:
        """The kind of thread it answers in, by its mirror's name; None where it is shown the memory at each run."""
        ...

    @property
    def takes_unsent(self) -> bool:
        """Whether what the thread lacks goes along with the request; otherwise it is mirrored before."""
        ...

    def preflight(self, request: BackendRequest) -> Failure | None:
        """What the provider would refuse, without asking it; None where nothing speaks against asking."""
        ...

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        """Ask once, never twice: a generator of effects (`effects.py`), for both worlds.

        Raises:
            ProviderRefused: with the facts of the failure.
        """
        ...


class ThreadMirror(Protocol):
    """The provider's threads of one kind. What is done there are effects; each raises `ProviderRefused` with the facts
    when it fails."""

    @property
    def name(self) -> str:
        """`assistants` or `conversations`."""
        ...

    @property
    def endpoint(self) -> str:
        """The base URL, without secrets: a thread of another endpoint is another thread."""
        ...

    @property
    def batch(self) -> int:
        """How many items one request of `add` takes."""
        ...

    @property
    def page(self) -> int:
        """How many items one request of `read` brings."""
        ...

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        """What a thread can carry of a memory. `thread_id` names the thread that runs may have written to themselves."""
        ...

    def create(self, key: str) -> Effects[str]:
        """A new, empty thread; its id."""
        ...

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        """Add items at the end, in order, at most `batch` of them."""
        ...

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        """All that is in the thread, in order."""
        ...

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        """Take entries that were read back out of the thread; quiet where one is gone already."""
        ...

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        """End what these runs of ours may still be doing in the thread, and take out what those left there that did not
        complete, or (`completed`) all of them; the ids of what was deleted. Nothing to do where a thread holds no runs."""
        ...


@dataclass(frozen=True)
class MirrorHead:
    """How far a thread is known to hold the journal. Rebuilt from the thread itself wherever it is not known."""

    thread_id: str
    version: int
    settled: bool
    """False while a write is under way, or after one whose answer never came: the thread is read before the next."""
    doubts: tuple[Doubt, ...] = ()
    """Writes to this thread that were never answered and may still land, oldest first."""
    left_by: str | None = None
    """Of a claim: who had taken the thread and never gave it back; it stopped in the middle."""


class MirrorHeads(Protocol):
    """A notebook beside the log. Losing it costs one reading of each thread, and the proof that a late copy is ours."""

    def claim(
        self, stream: str, mirror: str, thread_id: str, holder: str, until: datetime, given_up: Collection[str] = ()
    ) -> MirrorHead | None:
        """Take a thread for writing: its head as it was, unsettled from now on; None while another holder's claim lasts,
        unless that is one of `given_up`.

        A thread that is not in the notebook, or stands there under another id, is at version 0, unsettled and without
        doubts. Whoever holds the claim already renews it.
        """
        ...

    def release(self, stream: str, mirror: str, holder: str, doubts: Sequence[Doubt] | None = None) -> None:
        """Give a thread back as it is: unsettled, with its doubts, or with these. Quiet where somebody else holds it."""
        ...

    def put(self, stream: str, mirror: str, head: MirrorHead, holder: str | None = None) -> None:
        """Note a head and give the thread back. With a holder: quiet where its claim has run out and another's lasts.
        Without one the thread is newly linked: none is unfinished any more."""
        ...

    def begin(self, stream: str, mirror: str, thread_id: str) -> None:
        """Note a thread that was made a moment ago, and is empty. Quiet where somebody has taken it already, or holds another."""
        ...

    def note_unfinished(self, stream: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Note which new thread is being written with the memory of this digest, beside the one that is linked; None where
        none is any more."""
        ...

    def unfinished(self, stream: str, mirror: str, digest: str) -> str | None:
        """The new thread that was noted for the memory of this digest."""
        ...


class MemoryFile(Protocol):
    """A file of memories, a conversation after the other."""

    def digest(self, messages: Sequence[dict[str, Any]]) -> str:
        """What tells one conversation's messages from others, as they stand in the file."""
        ...

    def writing(
        self, path: Path, memories: Iterable[tuple[str, Sequence[dict[str, Any]]]]
    ) -> AbstractContextManager[tuple[Iterator[tuple[str, Sequence[dict[str, Any]]]], Callable[[], None]]]:
        """Write all memories beside the place of the file: what is read back from there, and what puts it into its place.
        Left without that, nothing is there.

        Raises:
            FileMissing: it cannot be written.
        """
        ...


class JobClaims(Protocol):
    """Who is at which item of a job, so that no two processes do the same one. A notebook beside the log: what became of an
    item is an event; losing the notebook costs nothing once nobody is at work."""

    def name(self) -> str:
        """A name for whoever goes to work now, another one each time."""
        ...

    def take(self, job_id: str, items: Sequence[int], holder: str, until: datetime) -> Sequence[int]:
        """Take those of these items that nobody else holds or has ended; a holder whose process is gone holds nothing."""
        ...

    def end(self, job_id: str, items: Sequence[int], holder: str) -> None:
        """These items have ended: nobody takes them again."""
        ...

    def renew(self, job_id: str, holder: str, until: datetime) -> None:
        """Hold for longer what is held."""
        ...

    def give_back(self, job_id: str, holder: str) -> None:
        """Let go of what is held and has not ended."""
        ...

    def reopen(self, job_id: str, items: Sequence[int]) -> None:
        """Items that have ended may be taken once more: they failed."""
        ...

    def holders(self, job_id: str) -> Sequence[str]:
        """Who is at work on a job at this moment."""
        ...


@dataclass(frozen=True, slots=True)
class StreamHead:
    """The newest state of a stream: its version, and the aggregate's slim decision state."""

    stream: str
    version: int
    state_schema: int
    state: str
    due_at: str | None = None
    """When the first of its open runs is overdue (ISO 8601)."""


@dataclass(frozen=True, slots=True)
class Appending:
    """What a decision comes to: events as rows, and the heads that their streams have afterwards."""

    rows: Sequence[StoredRow] = ()
    heads: Sequence[StreamHead] = ()


DecideAppend = Callable[[StreamHead | None], Appending]
"""Decides what to append to a stream with this head. Without side effects: it may be asked again, with a newer head."""


class EventLog(Protocol):
    """What the ledger asks of a recorder beyond eventsourcing's own `ApplicationRecorder`."""

    def append(self, stream: str, decide: DecideAppend) -> Sequence[int]:
        """Decide on a stream's present head and store what was decided, at once with what others append; the positions.

        Raises:
            IntegrityError: an event id is taken, or others were first too often.
            StoreUnavailable: the database cannot be used.
        """
        ...

    def rows(self, after: int = 0, upto: int | None = None, topics: Sequence[str] = ()) -> Iterator[Row]:
        """The whole log, after a position and up to another (by default to its present end)."""
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
        """One stream, after a version and up to another, from either end; `page` rows are read at a time."""
        ...

    def version_at(self, stream: str, at: str) -> int:
        """The version that a stream had at a time (ISO 8601); 0 before it began."""
        ...

    def select_head(self, stream: str) -> StreamHead | None: ...

    def select_heads(self, prefix: str, *, overdue_at: str | None = None) -> Sequence[StreamHead]:
        """Heads of the streams with this prefix; or only those with a run overdue at a time (ISO 8601)."""
        ...

    def select_versions(self, prefix: str) -> Sequence[tuple[str, int]]:
        """(stream, version) of the streams with this prefix, by name."""
        ...

    def select_event(self, event_id: str) -> StoredRow | None: ...

    def status(self) -> Mapping[str, Any]:
        """url (without secrets), dialect, schema_version, events, conversations, size_bytes."""
        ...


class Views(Protocol):
    """Read models. Each catches up with the log when it is read."""

    def failures(self, wanted: FailureFilter, limit: int | None = None) -> list[RecordedFailure]:
        """Failed runs in the order of failing; the newest `limit` of them."""
        ...

    def failure_groups(self, since: datetime | None, until: datetime) -> list[FailureGroup]:
        """Failed runs in groups, those that failed since then, the last failed first; a trend ends at `until`. What was
        decided about a group is not in it."""
        ...

    def summary(self, by: str, since: datetime | None = None, until: datetime | None = None) -> list[SummaryRow]:
        """Counts and rates of the runs that began within these times, by one of `SUMMARY_BY`."""
        ...

    def failure_days(self, since: datetime | None = None, until: datetime | None = None) -> list[tuple[str, str, int]]:
        """(day, cause, number) of the failures within these times, by day."""
        ...

    def find_runs(self, ending: str) -> list[tuple[str, str]]:
        """(key, run id) of the runs whose id ends so; at most a few."""
        ...

    def last_ends(self, per_backend: int) -> list[BackendEnd]:
        """The newest ends of each backend's runs that tell anything about it, oldest first."""
        ...

    def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        """Conversations, last changed first; those whose key or messages have all the words of `search`."""
        ...

    def status(self) -> list[dict[str, Any]]:
        """name, version, position, lag (events not yet taken in) and parked (events that could not be) of each."""
        ...

    def rebuild(self, names: Sequence[str] = (), progress: Callable[[str, int, int], None] = ...) -> None:
        """Build views anew beside those that are read, and switch; `progress` is told name, position and end.

        Raises:
            InvalidInput: there is no such view.
            CorruptEvent: an event cannot be taken in; the view that was read stays.
        """
        ...
