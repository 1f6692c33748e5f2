"""Read the memory of a conversation with branches from its end, along the path; `memory/path.py` folds it from the front.

Rows of a left branch are skipped. What hides, moves, covers or pins messages is read by an index of its own (the marks), so
the cost depends on what is shown, however many branches there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..conversation import events as e
from ..conversation import key_of
from ..conversation.messages import JournaledMessage
from ..errors import CorruptEvent
from ..memory import INSTRUCTING, MEMORY_TOPICS, add_missing
from .generations import GenerationLog
from .message_rows import has_key, message_in_row
from .recall import MESSAGE
from .rows import Row, refuse_changed, restore

if TYPE_CHECKING:
    from .ports import EventLog

RUN_STARTED, SELECTED = e.RunStarted.__name__, e.BranchSelected.__name__

ROWS_MIN, ROWS_MAX = 16, 500
"""Numbers of rows that are read at the newest place of a line, and at most at once."""

ROWS_AFTER_QUESTION = 3
"""Number of rows after a question in which its first run is: what was sent with it, and the run's start."""

MARKS_AT_ONCE = 4
"""Number of marks that are read at once: few lie between two messages of a window."""


class VersionsMissing(Exception):
    """Raised when only a fold from the front places a message: it was moved, or named without its version."""


@dataclass(frozen=True)
class Known:
    """Hold what the head of a stream says about its branches; None is unknown."""

    end: int | None = None
    """Version of the message at the end, with 0 for the beginning."""
    newest_mark: int | None = None
    """Version of the newest mark, with 0 for none."""
    pins: Mapping[str, int] | None = None
    """Versions of the pinned messages of all branches, by id."""
    fork: int = 0
    """Version up to which all branches have the same path."""


class Segment(NamedTuple):
    """Name a part of a path by versions: a line of messages after `low` and up to `high`, or one message."""

    low: int
    high: int
    is_line: bool


class PathReader:
    """Read the path that leads to the end of a stream as of a version, newest first."""

    def __init__(
        self,
        log: EventLog,
        stream: str,
        version: int,
        known: Known = Known(),
        rows: int | None = None,
        full: bool = False,
    ) -> None:
        """Prepare to read; `rows` is about how many rows are needed, None for all. With `full`, no summary is applied."""
        self._full = full
        self._log = log
        self._stream = stream
        self._version = version
        self._known = known
        self._needed = rows
        self._rows: dict[int, Row] = {}
        """Rows of the newest page of a line that was read."""
        self._singles: dict[int, Row] = {}
        self._page = ROWS_MIN
        self._marked_from = version + 1
        """Version from which on the marks were read."""
        self._gone: set[str] = set()
        self._voided: list[tuple[str, int | None]] = []
        self._pinned: dict[str, int | None] = {}
        """Versions of the messages that were pinned, by id; None for one that no longer is."""
        self._summaries: dict[str, e.MemoryCompacted] = {}
        self._cleared = 0
        self._moved: dict[str, int] = {}
        """Version of the message that a message was placed behind, by message id."""
        self._held: dict[str, list[JournaledMessage]] = {}
        """Messages that wait for the one that they were placed behind, by its id."""
        self._summary: e.MemoryCompacted | None = None
        """The summary that covers the path from here on."""
        self.run_threads: dict[str, str] = {}
        self.run_marks: dict[str, int] = {}
        self.missing_files: dict[str, frozenset[str]] = {}
        self.checkpoint: str | None = None
        """Hash of the part of the path that was not read."""
        self._floor = log.floor if isinstance(log, GenerationLog) else 0
        """Version up to which the stream belongs to deleted conversations."""
        self._seeks_checkpoint = False
        self._run: e.RunStarted | None = None
        """The newest run on the line that recorded a hash."""
        self._concerned: list[int] = []
        """Versions of the oldest messages that the marks concern."""

    def seek_checkpoint_after(self, version: int) -> None:
        """Search the few rows after a message of this version for a run that was shown the path up to it."""
        upto = min(version + ROWS_AFTER_QUESTION, self._version)
        for row in self._log.stream_rows(self._stream, version, upto, changed=refuse_changed):
            if row[3] == MESSAGE:
                return
            self._seek(row)

    def messages(self, to_checkpoint: bool = False) -> Iterator[JournaledMessage]:
        """Yield the messages in memory, newest first; `to_checkpoint` ends at one, whose hash is then in `checkpoint`.

        A run is a checkpoint if it recorded the hash of the path as of an older version, and no event since concerns that.

        Raises:
            CorruptEvent: a row cannot be read, or was changed.
            VersionsMissing: see there.
        """
        stranded: list[JournaledMessage] = []
        self._seeks_checkpoint = to_checkpoint
        for message in self._path():
            if message.message_id in self._moved:
                stranded.append(message)
            else:
                yield from self._with_followers(message)
            if self._summary is not None and self._summary.system_versions is not None and not self._held:
                yield from self._kept_of_covered(self._summary, message.version)
                return
        if stranded:
            self._read_marks(1)
        for message in stranded:
            if self._moved[message.message_id] <= self._cleared and self._take_held(message):
                yield from self._with_followers(message)

    def pins(self) -> Mapping[str, int]:
        """Return the versions of the pinned messages of all branches, by id."""
        if self._known.pins is not None:
            return self._known.pins
        self._read_marks(1)
        return {message_id: version for message_id, version in self._pinned.items() if version is not None}

    def hides(self, message_id: str, version: int) -> bool:
        """Return whether a message of this version was removed from memory, or cleared, on any branch."""
        self._read_marks(version)
        return message_id in self._gone or version <= self._cleared

    @property
    def summary(self) -> e.MemoryCompacted | None:
        """Return the summary that was met."""
        return self._summary

    def shows(self, message_id: str, version: int) -> bool:
        """Return whether a message is in memory at its own place, covered or not.

        Raises:
            VersionsMissing: it was placed behind another one, so it may be anywhere.
        """
        if self.hides(message_id, version):
            return False
        if message_id in self._moved:
            raise VersionsMissing
        return self.holds(version)

    def covering(self) -> e.MemoryCompacted | None:
        """Return the summary with which memory begins, as far as the marks were read; None if there is none."""
        held = [each for each in self._summaries.values() if self.holds(each.covers_version)]
        return max(held, key=lambda each: each.covers_version, default=None)

    def may_have_variants(self, version: int) -> bool:
        """Return whether another message may follow the one before a message of this version."""
        return self._known.end is None or self._known.fork < version

    def holds(self, version: int) -> bool:
        """Return whether a message of this version is on the path, whether it is hidden or not."""
        if version <= self._known.fork:
            return self.message(version).parent_version is None
        for each in self._segments():
            if each.high < version:
                return False
            if each.low < version:
                return version == each.high or self.message(version).parent_version is None
        return False

    def end(self) -> tuple[str, int]:
        """Return id and version of the message at the end, whether it is hidden or not; "" and 0 without any."""
        at, wanted = self._begin()
        while at > self._floor:
            row = None if wanted else self._row(at)
            message = self.message(at) if row is None or row[3] == MESSAGE else None
            if message is not None and (wanted or message.parent_version is None):
                return message.message_id, message.version
            selected = restore(row) if row is not None and row[3] == SELECTED else None
            if isinstance(selected, e.BranchSelected):
                at, wanted = min(selected.message_version, at - 1), True
            else:
                at -= 1
        return "", 0

    def opening(self) -> list[JournaledMessage]:
        """Return the system messages that the path begins with, oldest first, whether they are hidden or not."""
        found, ended = self._instructions_in(Segment(0, self._known.fork, True))
        if ended:
            return found
        found = []
        for segment in reversed([*self._segments()]):
            more, ended = self._instructions_in(segment)
            found += more
            if ended:
                break
        return found

    def message(self, version: int) -> JournaledMessage:
        """Return a message by its version; one row is read, because the rows before it may be of a left branch.

        Raises:
            CorruptEvent: the row is missing, or no message.
        """
        row = self._rows.get(version) or self._singles.get(version)
        if row is None:
            found = [*self._log.stream_rows(self._stream, version - 1, version, page=1, changed=refuse_changed)]
            if not found or found[0][3] != MESSAGE:
                raise CorruptEvent(
                    f"version {version} of {key_of(self._stream)!r} is no message: run threadledger db check"
                )
            row = self._singles[version] = found[0]
        return message_in_row(row)

    # The path

    def _begin(self) -> tuple[int, bool]:
        """Return the version to begin with, and whether it is that of a message of the path."""
        end = self._known.end
        return (self._version, False) if end is None else (end, True)

    def _path(self) -> Iterator[JournaledMessage]:
        """Yield the messages of the path that were not cleared, newest first, after the marks that are newer."""
        at, wanted = self._begin()
        while at > self._floor:
            if wanted:
                self._read_marks(at + 1)
            if at <= self._cleared:
                return
            if self._run is not None and self._is_checkpoint(self._run, at, wanted):
                self.checkpoint = self._run.path_hash
                return
            found = self.message(at) if wanted else self._on_line(self._row(at))
            self._marked_from = min(self._marked_from, at)
            if found is None:
                at -= 1
            elif isinstance(found, int):
                at, wanted = min(found, at - 1), True
            else:
                yield found
                parent = found.parent_version
                at, wanted = (at - 1, False) if parent is None else (min(parent, at - 1), True)

    def _on_line(self, row: Row) -> JournaledMessage | int | None:
        """Return the message of a row on a line, or the version that a selection leads to; note anything else."""
        topic = row[3]
        if topic == MESSAGE:
            message = message_in_row(row) if row[7] <= e.MessageJournaled.SCHEMA else None
            return message if message is not None and message.parent_version is None else None
        if topic not in MEMORY_TOPICS:
            if self._seeks_checkpoint:
                self._seek(row)
            return None
        event = restore(row)
        if isinstance(event, e.BranchSelected):
            return event.message_version
        if isinstance(event, e.RunCompleted | e.RunFailed):
            self._note_end(event)
        elif row[2] < self._marked_from:
            self._note(event)
        return None

    def _seek(self, row: Row) -> None:
        if row[3] == RUN_STARTED and has_key(row, "path_hash"):
            started = restore(row)
            self._run = started if isinstance(started, e.RunStarted) and started.path_hash else self._run

    def _is_checkpoint(self, run: e.RunStarted, at: int, wanted: bool) -> bool:
        """Return whether the rest of the path, from a version on, is what a run recorded the hash of."""
        leaf = run.memory_leaf_version
        if leaf is None:  # the end as of its version
            is_there = at == run.memory_version and (not wanted or self.message(at).parent_version is None)
        else:
            is_there = at == leaf
        return is_there and all(version > run.memory_version for version in self._concerned)

    def _segments(self) -> Iterator[Segment]:
        """Yield the parts of the path, newest first."""
        at, wanted = self._begin()
        while at > self._floor:
            parent = self.message(at).parent_version if wanted else None
            if parent is not None:
                yield Segment(at - 1, at, is_line=False)
                at = min(parent, at - 1)
                continue
            selected = self._selection_before(at)
            yield Segment(selected.originator_version if selected is not None else 0, at, is_line=True)
            if selected is None:
                return
            at, wanted = min(selected.message_version, selected.originator_version - 1), True

    def _selection_before(self, version: int) -> e.BranchSelected | None:
        while version > 0:
            marks = list(self._log.marks(self._stream, 0, version, MARKS_AT_ONCE, refuse_changed))
            for row in marks:
                event = restore(row)
                if isinstance(event, e.BranchSelected):
                    return event
            version = marks[-1][2] - 1 if marks else 0
        return None

    def _instructions_in(self, segment: Segment) -> tuple[list[JournaledMessage], bool]:
        """Return the system messages that a part of the path begins with, and whether another message follows them."""
        found: list[JournaledMessage] = []
        place = self._stream, segment.low, segment.high
        for message in map(message_in_row, self._log.stream_rows(*place, (MESSAGE,), page=2, changed=refuse_changed)):
            if message.parent_version is not None and segment.is_line and message.version != segment.high:
                continue
            if message.role_name not in INSTRUCTING:
                return found, True
            found.append(message)
        return found, False

    # Marks

    def _read_marks(self, version: int) -> None:
        """Note the marks of this version and of newer ones that were not read yet."""
        high = self._marked_from - 1
        if self._known.newest_mark is not None:
            high = min(high, self._known.newest_mark)
        while high >= version:
            marks = list(self._log.marks(self._stream, version - 1, high, MARKS_AT_ONCE, refuse_changed))
            high = marks[-1][2] - 1 if marks else 0
            for row in marks:
                event = restore(row)
                if isinstance(event, e.BranchSelected) and event.mark_version is not None:
                    high = min(event.mark_version, row[2] - 1)
                    break
                self._note(event)
        self._marked_from = min(self._marked_from, version)

    def _note(self, event: e.Event) -> None:
        match event:
            case e.MessageRetracted():
                self._gone.add(event.message_id)
                self._voided.append((event.message_id, event.message_version))
                self._concerned.append(event.message_version or 0)
            case e.MemoryCleared():
                self._cleared = max(self._cleared, event.up_to_version)
                self._concerned.append(0)
            case e.ConversationDeleted():
                self._cleared = max(self._cleared, event.originator_version)
                self._concerned.append(0)
            case e.RerunAccepted():
                if event.superseded_message_id is not None:
                    self._gone.add(event.superseded_message_id)
                    self._voided.append((event.superseded_message_id, event.superseded_version))
                    self._concerned.append(event.superseded_version or 0)
                if event.behind_message_id is not None:
                    self._voided.append((event.behind_message_id, event.behind_version))
                    self._concerned.append(event.behind_version or 0)
                    self._hold(event, event.behind_message_id)
            case e.MemoryCompacted():
                self._concerned.append(0)
                if not self._full and not self._is_void(event):
                    self._summaries.setdefault(event.covers_message_id, event)
            case e.MessagePinned():
                self._pinned.setdefault(event.message_id, event.message_version if event.pinned else None)
                self._concerned.append(event.message_version)
            case _:
                pass

    def _note_end(self, event: e.RunCompleted | e.RunFailed) -> None:
        if event.thread_id is not None:
            self.run_threads.setdefault(event.run_id, event.thread_id)
            if isinstance(event, e.RunCompleted) and event.thread_version is not None:
                self.run_marks.setdefault(event.run_id, event.thread_version)
        if isinstance(event, e.RunFailed) and event.details:
            add_missing(event.details, self.missing_files)

    def _is_void(self, event: e.MemoryCompacted) -> bool:
        """Return whether a newer event concerns what a summary covers, or the summary itself."""
        for message_id, version in self._voided:
            if version is None:
                raise VersionsMissing
            if version <= event.upto_version or message_id == event.message_id:
                return True
        return False

    def _hold(self, event: e.RerunAccepted, anchor: str) -> None:
        if event.message_versions is None or event.behind_version is None:
            raise VersionsMissing
        for version in event.message_versions:
            message = self.message(version)
            if event.behind_version < version and message.message_id not in self._moved:
                self._moved[message.message_id] = event.behind_version
                self._held.setdefault(anchor, []).append(message)

    # What is shown

    def _with_followers(self, message: JournaledMessage) -> Iterator[JournaledMessage]:
        """Yield a message after those that were placed behind it, newest first, unless they are hidden or covered."""
        held = self._held.pop(message.message_id, None)
        for each in sorted(held, key=lambda each: each.version, reverse=True) if held else ():
            yield from self._with_followers(each)
        message_id = message.message_id
        if self._summary is None and message_id in self._summaries:
            self._summary = self._summaries[message_id]
            yield self.message(self._summary.message_version)
        if message_id in self._gone:
            return
        if self._summary is None or self._pinned.get(message_id) or message.role_name in INSTRUCTING:
            yield message

    def _kept_of_covered(self, summary: e.MemoryCompacted, before: int) -> Iterator[JournaledMessage]:
        """Yield the system messages and the pinned ones that are older than a version, newest first."""
        for version in sorted({*self.pins().values(), *(summary.system_versions or ())}, reverse=True):
            message = self.message(version) if version < before else None
            if message is not None and self.shows(message.message_id, version):
                yield message

    def _take_held(self, message: JournaledMessage) -> bool:
        """Return whether a message still waits for another one; it no longer does."""
        for anchor, held in self._held.items():
            if any(each.version == message.version for each in held):
                self._held[anchor] = [each for each in held if each.version != message.version]
                return True
        return False

    # Rows

    def _row(self, version: int) -> Row:
        """Return a row of a line, of which the rows before it are read too."""
        row = self._rows.get(version)
        if row is not None:
            return row
        continues = version + 1 in self._rows
        self._page = min(self._page * 2, ROWS_MAX) if continues else ROWS_MIN
        count = self._page if self._needed is None else min(max(self._needed, 2), ROWS_MAX)
        place = self._stream, max(version - count, 0), version
        rows = self._log.stream_rows(*place, newest_first=True, page=count, changed=refuse_changed)
        self._rows = {row[2]: row for row in rows}
        return self._rows[version]
