"""Provide the domain API: a `Ledger` holds all conversations of one database, and a `Chat` is one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, cast

from ..errors import InvalidInput
from ..ids import moment_of, now
from ..journal import quietly, restore
from ..limits import HEALTH_ENDS
from ..signatures import checked

if TYPE_CHECKING:
    from ..conversation import ConversationState, Exchanges, Profile, RunRecord
    from ..conversation.listing import SearchHit
    from ..exchange import Services
    from ..failures import BackendHealth, Cause, FailureGroup, GroupState, RecordedFailure, SummaryRow
    from ..journal import Finding, Journal, UpkeepProgress
    from ..journal.uploads import AttachmentCopy
    from ..memory import Memory, MemoryDiff
    from ..replay import Replay
    from .api_keys import ApiKeys
    from .audit import FailureGroups
    from .chat import Chat
    from .logged_events import LoggedEvent
    from .pages import Page
    from .profiles import ListedProfile, ProfileDiff
    from .run_pages import ExchangePage
    from .threads import ListedThread

# Modules that only some methods need (asking, replay, groups, differences) are imported inside them, so that a command
# that lists conversations or failures does not load them.


@checked("conversation")
class Ledger:
    """Provide all conversations of one database; created by `threadledger.open()`."""

    def __init__(self, journal: Journal, services: Services | Callable[[], Services] | None = None) -> None:
        self.journal = journal
        self._services = None if callable(services) else services
        self._build_services = services if callable(services) else _no_services
        self._building = Lock()

    @property
    def outside(self) -> Services:
        """Return `services`, by the name of earlier versions, which exported tests use."""
        return self.services

    @property
    def services(self) -> Services:
        """Return the services of exchanges, which are built on first use and shared by all conversations."""
        with self._building:
            if self._services is None:
                self._services = self._build_services()
            return self._services

    @property
    def services_in_use(self) -> Services | None:
        """Return the services if they were built; None if nothing has needed them so far."""
        return self._services

    def close(self) -> None:
        """Close the database and the connections to the provider."""
        self.journal.close()
        if self._services is not None and self.journal.copied is None:
            self._services.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def conversation(self, key: str, *, profile: Profile | None = None) -> Chat:
        """Return the conversation of this key; it starts with its first message.

        With `profile`, its questions use that profile instead of the ledger's, and its model.

        Raises:
            InvalidKey: the key is not a string of 1 to 200 storable characters.
            InvalidInput: the profile cannot be used.
        """
        from .chat import Chat

        return Chat(self.journal, self.services, key, profile)

    def as_actor(self, name: str) -> Ledger:
        """Return the same ledger for an actor, whose name all events carry that it stores; closing it has no effect.

        Raises:
            InvalidInput: the name is not valid, or reserved.
        """
        return Ledger(self.journal.as_actor(name), lambda: self.services)

    def attach(
        self, source: str | Path | bytes | IO[bytes], *, filename: str | None = None, media_type: str | None = None
    ) -> dict[str, Any]:
        """Store a file and return the content part that refers to it, for `append`, `ask` and `stream`.

        The bytes are stored once, however often they are attached, and are read piece by piece. An image becomes an
        `image_url`, a recording that a model can hear an `input_audio`, anything else a `file`.

        Args:
            source: the path of the file, its bytes, or a file that is open as binary.
            filename: the name that a model is told; by default that of the path.
            media_type: the type of the content; by default found by its first bytes, or by the name.

        Raises:
            FileMissing: the file cannot be read.
            InvalidInput, BlobTooLarge: it is empty, or larger than 64 MiB.
        """
        from .attachments import attach

        return attach(self.journal, source, filename, media_type)

    def removable_uploads(self, before: datetime, also: datetime | None = None) -> list[AttachmentCopy]:
        """Return the copies at providers, made before a time, of attachments that no event refers to.

        With `also`, return every copy that was made before that time: one that is needed again is uploaded again.
        """
        from .attachments import removable_uploads

        return removable_uploads(self.journal, before, also)

    def read_blob(self, address: str) -> Iterator[bytes]:
        """Return the bytes of an attachment by its address (`blob` in a content part), chunk by chunk.

        Raises:
            BlobMissing: there is no such attachment, or it is incomplete.
            ChangedBlob: its bytes are not those of its address; raised before the last chunk is returned.
        """
        return self.journal.read_blob(address)

    def remove_upload(self, upload: AttachmentCopy) -> None:
        """Delete the copy of an attachment at its provider, and record it.

        Raises:
            ProviderRefused: it was not deleted.
            InvalidInput: no backend at its endpoint is configured.
        """
        from ..effects import perform
        from .attachments import remove_upload

        perform(remove_upload(self.journal, self.services, upload), self.services.wait)

    def uploads(self) -> list[AttachmentCopy]:
        """Return the copies of attachments that providers have, by endpoint and attachment."""
        from ..journal.uploads import Uploads

        return list(Uploads(self.journal).listed())

    def conversations(
        self,
        limit: int | None = None,
        search: str | None = None,
        *,
        owner: str | None = None,
        tag: str | Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        unanswered: bool | None = None,
        pending: bool | None = None,
        archived: bool | None = None,
        since: datetime | timedelta | None = None,
        order: str = "newest",
        after: str | None = None,
    ) -> Page[ConversationState]:
        """Return facts about conversations and their descriptions, most recently changed first: all, or a page of `limit`.

        The `cursor` of a page is passed as `after`, with the same filters, to read the next one; it is None at the end. A
        conversation that changes meanwhile moves to the front; nothing that stays is skipped or repeated.

        Args:
            search: only those whose key or messages contain all its words (or beginnings of words). Case and accents are
                ignored, and words in double quotes must be adjacent.
            owner: only those of this owner. None is no filter.
            tag: only those with this tag, or with all of these.
            metadata: only those whose metadata has all these pairs; values are texts, numbers, true, false or null.
            unanswered: only those with an unanswered exchange, or only those without.
            pending: only those with a tool call that waits for a person's decision, or only those without.
            archived: only those that are archived, or only those that are not.
            since: only those that have changed since. A time span counts back from now.
            order: `newest`, `oldest` (changed), or `started` (last started first).

        Raises:
            InvalidInput: a filter is not valid; the cursor cannot be read, or is of other filters.
        """
        from ..conversation.listing import ConversationFilter
        from .lists import conversations_page

        wanted = ConversationFilter.of(owner, tag, metadata, unanswered, archived, since, search, order, pending)
        return conversations_page(self.journal, wanted, limit, after)

    def search(
        self, text: str, owner: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> Page[SearchHit]:
        """Return the messages that contain all words of a text (or beginnings of words), newest first: all, or a page.

        With `owner`, only messages of conversations of this owner are found. Words in double quotes must be adjacent. Messages
        that are in memory no more are found too; see `SearchHit.in_memory`. `limit` and `after` are those of `conversations`.

        Raises:
            InvalidInput: the search or the cursor is not valid.
            ChangedEvent: a message was changed behind the ledger's back.
        """
        from ..conversation.listing import MessageSearch
        from .lists import search_page

        return search_page(self.journal, MessageSearch.of(text, owner), limit, after)

    def state(self, key: str) -> ConversationState:
        """Return facts about one conversation, and its description, without reading its messages.

        Raises:
            ConversationNotFound: no conversation has this key.
        """
        from ..journal.descriptions import description_of

        state = self.journal.require(key).state
        state.description = description_of(self.journal, key, state)
        return state

    def events(
        self,
        after: int | str = 0,
        types: Iterable[str] = (),
        key: str | None = None,
        follow: bool = False,
        *,
        checked: bool = False,
    ) -> Iterator[LoggedEvent]:
        """Return the events of the whole log after a cursor or position, in commit order.

        With `follow`, wait for new ones forever. With `checked`, compare each event with its leaf hash, as `follow`
        always does; pass it when texts leave the ledger. A fold of the log is faster without.

        Raises:
            ChangedEvent: an event is missing, or was changed (noticed with `checked` only).
            InvalidInput: the cursor cannot be read, or belongs to another ledger.
            LogRewound: events before the cursor, or that were read here, are no longer in the log.
        """
        from .logged_events import LoggedEvent, in_log

        topics = tuple(types)
        if follow:
            return in_log(self.journal.followed(after, topics), key, self.journal)
        pages = self.journal.pages_after(after, topics, key, leaves=checked)
        return (
            LoggedEvent(row[0], restore(row), (ledger_id, row[8]))  # written out: each layer of a fold costs a tenth
            for ledger_id, rows in pages
            for row in rows
        )

    def failures(
        self,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        code: str | None = None,
        backend: str | None = None,
        unanswered: bool = False,
        limit: int | None = None,
        *,
        actor: str | None = None,
        after: str | None = None,
    ) -> Page[RecordedFailure]:
        """Return failed runs in the order of failure, or the newest `limit` of them. A time span counts back from now.

        With `actor`, return only runs that it caused. The result is a list whose `cursor` leads to the failures before
        it, by `after`, with the same filters; it is None at the end. Overdue runs are closed first.

        Raises:
            InvalidInput: there is no such cause, or the cursor belongs to another list.
        """
        from ..conversation import FailureFilter
        from .run_pages import failure_page

        self.close_overdue_runs()
        wanted = FailureFilter.of(since, until, cause, code, backend, unanswered, actor)
        return failure_page(self.journal, wanted, limit, after)

    def runs(
        self,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        *,
        key: str | None = None,
        backend: str | None = None,
        model: str | None = None,
        state: str | None = None,
        actor: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[RunRecord]:
        """Return the runs that started within these times, in the order of their start; pages are as in `failures`.

        `state` is `open`, `completed` or `failed`. Overdue runs are closed first.

        Raises:
            InvalidInput: there is no such state, or the cursor belongs to another list.
        """
        from ..conversation.run_filters import RunFilter
        from .run_pages import run_page

        self.close_overdue_runs()
        wanted = RunFilter(moment_of(since), moment_of(until), key, backend, model, state, actor)
        return run_page(self.journal, wanted, limit, after)

    def failure_groups(
        self,
        since: datetime | timedelta | None = None,
        states: Iterable[GroupState | str] | None = None,
        *,
        actor: str | None = None,
    ) -> list[FailureGroup]:
        """Return failures in groups of one cause, one backend and one normalised message, or those of one actor's runs.

        Muted groups are left out, unless `states` selects them. Overdue runs are closed first.

        Raises:
            InvalidInput: there is no such state.
        """
        self.close_overdue_runs()
        return self._groups.all(since, states, actor)

    def resolve_group(self, group: str, note: str = "") -> FailureGroup:
        """See `FailureGroups.resolve`."""
        return self._groups.resolve(group, note)

    def mute_group(self, group: str, until: datetime | None = None, note: str = "") -> FailureGroup:
        """See `FailureGroups.mute`."""
        return self._groups.mute(group, until, note)

    def reopen_group(self, group: str, note: str = "") -> FailureGroup:
        """See `FailureGroups.reopen`."""
        return self._groups.reopen(group, note)

    def summary(
        self,
        by: str = "cause",
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        *,
        actor: str | None = None,
    ) -> list[SummaryRow]:
        """Return counts, rates, durations and tokens of the runs started within these times, or of one actor's runs.

        `by` is one of `SUMMARY_BY`. By `owner` (as of now) and `conversation`, the rows have costs and are sorted by them, if the
        extra `prices` is installed; by `model` they have the ratings of the answers. Overdue runs are closed first.

        Raises:
            InvalidInput: `by` is not one of `SUMMARY_BY`.
        """
        from ..failures import SUMMARY_BY
        from .audit import wanted_actor

        if by not in SUMMARY_BY:
            raise InvalidInput(f"runs cannot be counted by {by!r}: use one of {', '.join(SUMMARY_BY)}")
        self.close_overdue_runs()
        times = moment_of(since), moment_of(until)
        return self.journal.views.summary(by, *times, wanted_actor(actor), self.journal.price)

    def profiles(self, limit: int | None = None, after: str | None = None) -> Page[ListedProfile]:
        """Return all profiles that were ever defined, newest first, with the outcome of their runs; pages are as in `failures`.

        Raises:
            InvalidInput: the cursor belongs to another list.
        """
        from .profiles import profile_page

        return profile_page(self.journal, limit, after)

    def diff_profiles(self, before: str, after: str) -> ProfileDiff:
        """Compare two profiles by their hashes, or by unambiguous beginnings of them: content and failure rates.

        Raises:
            NotFound: no profile, or more than one, has this hash or beginning.
            InvalidInput: it is no beginning of a hash.
        """
        from .profiles import compare_profiles

        return compare_profiles(self.journal, before, after)

    def threads(
        self,
        *,
        backend: str | None = None,
        state: str | None = None,
        key: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[ListedThread]:
        """Return the linked threads of all conversations, or of one, with the outcome of their last verification.

        The newest conversation is first; pages are as in `conversations`. `state` is `same`, `behind`, `drifted`, `gone` or
        `unlinked` as of `verified_at`, where what was journaled since and not sent makes a thread `behind`. The
        provider is not called: `replay.verify` and everything else that reads whole threads notes what it finds.

        Raises:
            ConversationNotFound: no conversation has this key.
            InvalidInput: there is no such state, or the cursor belongs to another list.
        """
        from .threads import thread_page

        return thread_page(self.journal, backend, state, key, limit, after)

    def health(self) -> list[BackendHealth]:
        """Return the health of each backend, by name, from the newest outcomes of its runs in the log.

        The runs of all processes count. Which backends this process itself skips depends on the failures it has met:
        see `Services.health`.
        """
        from ..failures import BackendHealth

        return BackendHealth.of_each(self.journal.views.last_ends(HEALTH_ENDS), now())

    def fork(self, key: str, new_key: str, at: int | datetime | None = None) -> Chat:
        """Fork a conversation: start a new one from the memory of another, at a version or time, or as of now.

        The messages get new ids, and the fork keeps owner, tags and metadata, but no title. No model is called; the fork is
        mirrored like any conversation.

        Raises:
            ConversationNotFound: there is no conversation to fork.
            InvalidKey, InvalidInput: the new key is not valid; there is no such version, or it did not exist at that
                time.
            Conflict: a conversation with the new key already exists.
        """
        from ..effects import perform
        from ..replay import forked

        perform(forked(self.journal, self.services, key, new_key, at), self.services.wait)
        return self.conversation(new_key)

    def parent(self, key: str) -> tuple[str, int] | None:
        """Return the key and version of the conversation that this one was forked from, or None if it is not a fork."""
        return self.journal.parent(key)

    def exchanges(
        self,
        key: str | None = None,
        *,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        unanswered: bool | None = None,
        actor: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> ExchangePage:
        """Return exchanges with the outcome of every run, of one conversation or of all, in the order of their start.

        The result is both a list of exchanges, whose pages are as in `failures`, and `Exchanges` (`by_id`, `runs`). Times
        and actor are those of the first run of an exchange; one without a run is not listed.

        Raises:
            InvalidInput: the cursor belongs to another list.
        """
        from ..conversation.run_filters import ExchangeFilter
        from .run_pages import ExchangePage, exchange_page

        if key is not None and (since, until, unanswered, actor, limit, after) == (None,) * 6:
            return ExchangePage(self.journal.exchanges(key).by_id.values())
        wanted = ExchangeFilter(moment_of(since), moment_of(until), key, unanswered, actor)
        return exchange_page(self.journal, wanted, limit, after)

    @property
    def replay(self) -> Replay:
        """Return the API that plans and runs rebuilds, reconciles and reruns."""
        from ..replay import Replay

        return Replay(self.journal, self.services)

    @property
    def api_keys(self) -> ApiKeys:
        """Return the keys with which apps call the served API; always the same object, which remembers them for a second."""
        from .api_keys import ApiKeys

        return cast("ApiKeys", vars(self).setdefault("_api_keys", ApiKeys(self.journal)))

    def memory(self, key: str, at: int | datetime | None = None) -> Memory:
        """Return a conversation's memory (what a model sees), as of a version or time; empty if the key is unknown."""
        return self.journal.memory(key, at)

    def diff(self, key: str, before: int | datetime | None = None, after: int | datetime | None = None) -> MemoryDiff:
        """Compare the memory of a conversation as of two versions or times, message by message.

        Without `before`, the comparison starts at the beginning; without `after`, it ends now. If `before` is the later
        one, the changes are reported in reverse.

        Raises:
            ConversationNotFound: no conversation has this key.
        """
        from ..memory import diff_memories

        self.journal.require(key)
        first, last = self.journal.memory(key, 0 if before is None else before), self.journal.memory(key, after)
        older, newer = sorted((first.version, last.version))
        return diff_memories(key, first, last, self.journal.history(key, after=older, upto=newer))

    def run(self, run_id: str) -> tuple[RunRecord, Exchanges]:
        """Return a run, by its id or an unambiguous ending of it, and its exchange.

        `exchanges` returns all exchanges of a conversation.

        Raises:
            RunNotFound: no run, or more than one, has this id or ending.
        """
        return self.journal.run(run_id)

    def status(self) -> dict[str, Any]:
        """Return facts about the database; docs/commands.md lists the keys under `db status`."""
        return self.journal.status() | {"views": self.journal.views.status()}

    @property
    def schema_before(self) -> int | None:
        """Return the schema's number before this opening upgraded it, or None if there was no upgrade.

        The number is 0 if there was no schema.
        """
        return self.journal.upkeep.schema_before

    def check(self, progress: UpkeepProgress = quietly) -> Iterator[Finding]:
        """Yield everything that differs from what was stored: every event is checked, then the views."""
        yield from self.journal.upkeep.check(progress)
        yield from self.journal.views.check()

    def rebuild_views(
        self, names: Iterable[str] = (), progress: Callable[[str, int, int], None] = lambda name, done, total: None
    ) -> None:
        """Rebuild views from the log next to those in use, then switch to them; without names all, and the costs in budgets.

        Raises:
            InvalidInput: there is no such view.
            CorruptEvent: an event cannot be processed; the views in use are kept.
        """
        names = tuple(names)
        self.journal.views.rebuild(names, progress)
        if self.journal.budgets is not None and not names:
            self.journal.budgets.rebuild()

    def back_up(self, path: str | Path, progress: UpkeepProgress = quietly) -> int:
        """Write a snapshot of the ledger to a new SQLite file and return its number of events.

        The file is itself a ledger.

        Raises:
            Conflict: the file already exists.
            StoreUnavailable: the file cannot be written.
        """
        return self.journal.upkeep.back_up(Path(path), progress)

    def copy_to(self, url: str, progress: UpkeepProgress = quietly) -> int:
        """Copy the ledger to another, empty database, also of the other kind, and return its number of events.

        Raises:
            Conflict: the database is not empty.
            StoreError: one of the databases cannot be used.
        """
        return self.journal.upkeep.copy_to(url, progress)

    def close_overdue_runs(self) -> list[str]:
        """Close runs past their deadline that a crash left open, in all conversations, and return their ids."""
        return self.journal.close_overdue_runs()

    @property
    def _groups(self) -> FailureGroups:
        from .audit import FailureGroups

        return FailureGroups(self.journal)


def _no_services() -> Services:
    from ..exchange import Services

    return Services()
