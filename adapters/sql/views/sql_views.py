"""Implement the domain's interface to the read models of a ledger."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from threadledger.domain.conversation.listing import ConversationFilter, MessageSearch, SearchHit
from threadledger.domain.errors import InvalidInput, StoreError, ThreadledgerError
from threadledger.domain.journal import Finding

from ..connections import DamagedDatabase
from ..kind_upkeep import upkeep_of
from .catching_up import NotBuilt, Progress, Projection, View, logger
from .transaction import ViewTransaction, values_of

if TYPE_CHECKING:
    from threadledger.domain.conversation import (
        ConversationState,
        ExchangeRecord,
        Exchanges,
        FailureFilter,
        RunRecord,
    )
    from threadledger.domain.conversation.assistants import DefinedAssistant
    from threadledger.domain.conversation.events import CompletionStored
    from threadledger.domain.conversation.listing import ListPage, ListPlace
    from threadledger.domain.conversation.run_filters import ExchangeFilter, ProfileRuns, RunFilter
    from threadledger.domain.failures import BackendEnd, FailureGroup, RecordedFailure, SummaryRow
    from threadledger.domain.journal import UnansweredRun
    from threadledger.domain.journal.budgets import Price
    from threadledger.domain.journal.webhooks import GroupSeen

    from ..database import Database
    from ..recorder import Recorder
    from ..sqlite import SQLite
    from .assistants import AssistantsView
    from .audit import AuditView
    from .completions import CompletionsView
    from .conversations import ConversationsView
    from .file_lists import SqlFileLists
    from .run_pages import Place
    from .search import SearchView

T = TypeVar("T")

CONVERSATIONS_AT_ONCE = 1_000
"""Number of conversations read per query, if not all of them are wanted at once."""

SPENDERS = ("owner", "conversation")
"""Properties of a summary by which costs are added up."""

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Errors in reading a row whose JSON or columns are not as they were written."""


def is_damage(error: Exception) -> bool:
    """Return whether a view's tables or rows cannot be read, so that it must be rebuilt from the log."""
    caused_by_caller = isinstance(error, (ThreadledgerError, UnicodeEncodeError))  # a text that no database stores
    return isinstance(error, DamagedDatabase) or not caused_by_caller


class SqlViews:
    """Implement `Views` in the ledger's database. Each view is loaded when it is first read."""

    def __init__(self, database: Database, log: Recorder) -> None:
        self._database = database
        self._log = log

    @cached_property
    def _audit(self) -> AuditView:
        from .audit import AuditView

        return AuditView()

    @cached_property
    def _conversations(self) -> ConversationsView:
        from .conversations import ConversationsView

        return ConversationsView()

    @cached_property
    def _search(self) -> SearchView:
        from .search import SearchView

        return SearchView()

    @cached_property
    def _assistants(self) -> AssistantsView:
        from .assistants import AssistantsView

        return AssistantsView()

    @cached_property
    def _completions(self) -> CompletionsView:
        from .completions import CompletionsView

        return CompletionsView()

    @cached_property
    def files(self) -> SqlFileLists:
        """Return the lists of files and vector stores."""
        from .file_lists import SqlFileLists

        return SqlFileLists(self._read, self._log.blobs.read)

    def failures(self, wanted: FailureFilter, limit: int | None = None) -> list[RecordedFailure]:
        return self._read(lambda transaction, runs: self._audit.failures(transaction, runs, wanted, limit), self._audit)

    def failure_page(
        self, wanted: FailureFilter, limit: int | None, before: Place | None
    ) -> tuple[list[RecordedFailure], Place | None]:
        return self._read(
            lambda transaction, runs: self._audit.failure_page(transaction, runs, wanted, limit, before), self._audit
        )

    def run_page(
        self, wanted: RunFilter, limit: int | None, before: Place | None
    ) -> tuple[list[RunRecord], Place | None]:
        from .run_pages import run_page

        return self._read(
            lambda transaction, runs: run_page(transaction, self._audit.prefix(runs), wanted, limit, before),
            self._audit,
        )

    def exchange_page(
        self, wanted: ExchangeFilter, limit: int | None, before: Place | None
    ) -> tuple[list[ExchangeRecord], Place | None]:
        from .run_pages import exchange_page

        return self._read(
            lambda transaction, runs: exchange_page(transaction, self._audit.prefix(runs), wanted, limit, before),
            self._audit,
        )

    def profiles(self, beginning: str, limit: int | None, before: int | None) -> list[ProfileRuns]:
        from .profiles import profiles

        return self._read(
            lambda transaction, runs: profiles(transaction, self._audit.prefix(runs), beginning, limit, before),
            self._audit,
        )

    def assistants(
        self,
        tenant: str,
        page: ListPage,
    ) -> list[DefinedAssistant]:
        return self._read(
            lambda transaction, listed: self._assistants.page(transaction, listed, tenant, page),
            self._assistants,
        )

    def assistant_place(self, tenant: str, assistant_id: str) -> ListPlace | None:
        return self._read(
            lambda transaction, listed: self._assistants.place(transaction, listed, tenant, assistant_id),
            self._assistants,
        )

    def completions(
        self,
        tenant: str,
        page: ListPage,
        labels: Sequence[str] = (),
    ) -> list[CompletionStored]:
        return self._read(
            lambda transaction, stored: self._completions.page(transaction, stored, tenant, page, labels),
            self._completions,
        )

    def completion_place(self, tenant: str, completion_id: str) -> ListPlace | None:
        return self._read(
            lambda transaction, stored: self._completions.place(transaction, stored, tenant, completion_id),
            self._completions,
        )

    def unanswered(self, since: datetime | None = None, limit: int | None = None) -> list[UnansweredRun]:
        return self._read(
            lambda transaction, runs: self._audit.unanswered(transaction, runs, since, limit), self._audit
        )

    def failure_groups(self, since: datetime | None, until: datetime, actor: str | None = None) -> list[FailureGroup]:
        return self._read(
            lambda transaction, runs: self._audit.groups(transaction, runs, since, until, actor), self._audit
        )

    def groups_of_runs(self, run_ids: Sequence[str]) -> list[GroupSeen]:
        return self._read(lambda transaction, runs: self._audit.groups_of_runs(transaction, runs, run_ids), self._audit)

    def summary(
        self,
        by: str,
        since: datetime | None = None,
        until: datetime | None = None,
        actor: str | None = None,
        price: Price | None = None,
    ) -> list[SummaryRow]:
        if by in SPENDERS:
            from .spending import spending

            return self._read(
                lambda transaction, runs: spending(
                    transaction, self._audit.prefix(runs), by, since, until, actor, price
                ),
                self._audit,
            )
        return self._read(
            lambda transaction, runs: self._audit.summary(transaction, runs, by, since, until, actor), self._audit
        )

    def failure_days(self, since: datetime | None = None, until: datetime | None = None) -> list[tuple[str, str, int]]:
        return self._read(
            lambda transaction, runs: self._audit.failure_days(transaction, runs, since, until), self._audit
        )

    def find_runs(self, ending: str) -> list[tuple[str, str]]:
        return self._read(lambda transaction, runs: self._audit.find_runs(transaction, runs, ending), self._audit)

    def exchange(self, run_id: str) -> Exchanges:
        return self._read(lambda transaction, runs: self._audit.exchange(transaction, runs, run_id), self._audit)

    def last_ends(self, per_backend: int) -> list[BackendEnd]:
        return self._read(lambda transaction, runs: self._audit.last_ends(transaction, runs, per_backend), self._audit)

    def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        return self.listed(ConversationFilter(search=search), None if limit is None else max(limit, 0))[0]

    def listed(
        self, wanted: ConversationFilter, limit: int | None = None, place: tuple[int, int] | None = None
    ) -> tuple[list[ConversationState], tuple[int, int] | None]:
        return self._page(wanted, limit, place)

    def each_conversation(
        self, wanted: ConversationFilter | None = None, limit: int | None = None
    ) -> Iterator[ConversationState]:
        wanted = wanted or ConversationFilter()
        if limit is not None and limit <= CONVERSATIONS_AT_ONCE:
            yield from self.listed(wanted, limit)[0]
            return
        rows, _ = self._page(wanted, limit, None, columns="v.number")
        numbers = (number for (number,) in rows)
        while page := list(islice(numbers, CONVERSATIONS_AT_ONCE)):
            given = values_of(self._database.kind.name, page)
            yield from self._read(
                lambda transaction, states, page=page, given=given: self._conversations.listing(
                    transaction, states
                ).states(page, *given),
                self._conversations,
            )

    def _page(
        self, wanted: ConversationFilter, limit: int | None, place: tuple[int, int] | None, columns: str | None = None
    ) -> tuple[list[Any], tuple[int, int] | None]:
        """Return a page and the place of the next one: conversations, or rows of `columns`."""
        if wanted.search is None:
            return self._read(
                lambda transaction, states: self._conversations.listing(transaction, states).page(
                    wanted, limit, place, columns=columns
                ),
                self._conversations,
            )

        def found(transaction: ViewTransaction, words: int, states: int) -> tuple[list[Any], tuple[int, int] | None]:
            among = self._search.streams(transaction, words, str(wanted.search))
            if among is None:
                return [], None
            listing = self._conversations.listing(transaction, states)
            return listing.page(wanted, limit, place, columns=columns, among=among)

        return self._read(found, self._search, self._conversations)

    def search(
        self, search: MessageSearch, limit: int, before: int | None = None
    ) -> tuple[list[SearchHit], int | None]:
        if search.owner is None:
            return self._read(
                lambda transaction, words: self._search.page(transaction, words, search, limit, before, ""),
                self._search,
            )

        def found(transaction: ViewTransaction, words: int, states: int) -> tuple[list[SearchHit], int | None]:
            owners = self._conversations.table(states)
            return self._search.page(transaction, words, search, limit, before, owners)

        return self._read(found, self._search, self._conversations)

    def hits(self, search: str) -> list[tuple[str, int]]:
        """Return (key, position) of the messages and keys that contain all words of a search, newest first."""
        return self._read(lambda transaction, words: self._search.hits(transaction, words, search), self._search)

    def count(self) -> int:
        return self._conversations.count(self._database, self._projection(self._conversations).live())

    def status(self) -> list[dict[str, Any]]:
        return [self._projection(view).status() for view in self._views()]

    def check(self) -> Iterator[Finding]:
        last = self._log.max_notification_id() or 0
        for view, read in (
            (self._audit, self._audit.read_all),
            (self._conversations, self._conversations.read_all),
            (self._search, self._search.read_all),
            (self._assistants, self._assistants.read_all),
            (self._completions, self._completions.read_all),
            *((view, view.read_all) for view in self.files.views),
        ):
            projection = self._projection(view)
            try:
                status, generation = projection.status(), projection.live()
                if generation is not None:
                    ViewTransaction.reading(self._database, partial(read, generation=generation))
            except (StoreError, *UNREADABLE) as error:
                problem = f"{view.name} has a row that cannot be read ({type(error).__name__})"
                yield Finding("view", f"{problem}: run threadledger db rebuild-views {view.name}")
                continue
            if status["position"] > last:
                yield Finding("view", f"{view.name} is ahead of the log: rebuild it", position=status["position"])
            if status["parked"]:
                yield Finding("view", f"{view.name} could not process {status['parked']} events: rebuild it to see why")

    def catch_up(self) -> None:
        """Bring every view up to date, also those that nothing has read so far."""
        for view in self._views():
            self._projection(view).caught_up()

    def rebuild(self, names: Sequence[str] = (), progress: Progress = lambda name, position, end: None) -> None:
        views = {view.name: view for view in self._views()}
        for name in names:
            if name not in views:
                raise InvalidInput(f"there is no view {name!r}: choose from {', '.join(views)}")
        for name in names or views:
            self._projection(views[name]).rebuild(progress)

    @cached_property
    def _aside(self) -> SqlViews:
        """Views in a temporary file, for a ledger that cannot be written; they are built when they are first read."""
        return SqlViews(_database_aside(self._database), self._log)

    def _views(self) -> tuple[View[Any, Any], ...]:
        return self._audit, self._conversations, self._search, self._assistants, self._completions, *self.files.views

    def _projection(self, view: View[Any, Any]) -> Projection:
        if view.name == self._conversations.name:  # it may be that of another instance: see `_aside`
            from .conversations import HeadsProjection

            return HeadsProjection(self._database, self._log, cast("ConversationsView", view))
        return Projection(self._database, self._log, view)

    def _read(self, work: Callable[..., T], *views: View[Any, Any]) -> T:
        """Bring views up to date, then call `work` with a transaction and the live generation of each."""
        projections = [self._projection(view) for view in views]

        def read(*generations: int) -> T:
            return ViewTransaction.reading(self._database, lambda transaction: work(transaction, *generations))

        is_rebuilt = False
        while True:
            is_replica = self._database.is_replica
            try:
                generations = [projection.caught_up() for projection in projections]
            except NotBuilt:
                if self._database.kind.name != "sqlite":
                    raise
                return self._aside._read(work, *views)
            if is_replica and not self._database.is_replica:
                continue  # the primary answers now: the views that were caught up before are the replica's
            try:
                return read(*generations)
            except (StoreError, *UNREADABLE) as error:
                # Another process may have rebuilt a view and dropped the generation that was being read.
                if generations != [projection.live() for projection in projections]:
                    continue
                if is_rebuilt or not is_damage(error):
                    raise
                logger.warning("a view is built again, because a row cannot be read: %s", type(error).__name__)
                reason = upkeep_of(self._database).why_read_only()
                if reason is not None:
                    if self._database.kind.name == "sqlite":
                        return self._aside._read(work, *views)
                    raise NotBuilt(
                        f"the view {views[0].name} has a row that cannot be read, and cannot be built again here because "
                        f"{reason}: run threadledger db rebuild-views where the database can be written, then try again"
                    ) from error
            # After the error is gone: it holds a query open, which SQLite would not let drop its table.
            is_rebuilt = True
            for projection, generation in zip(projections, generations, strict=True):
                projection.discard(generation)


def _database_aside(ledger: Database) -> Database:
    """Return a temporary database with empty views and the ledger's file attached.

    It is removed when the ledger is closed, or when the program ends without closing it.

    A table that the temporary database does not have is found in the attached file.
    """
    import shutil
    import tempfile

    from ..database import Database
    from ..sqlite_files import address_for_reading

    folder = Path(tempfile.mkdtemp(prefix="threadledger-views-"))
    aside = Database(str(folder / "views.db"), synchronous="OFF")
    kind = cast("SQLite", ledger.kind)
    cast("SQLite", aside.kind).attached = address_for_reading(kind.path)
    owner = os.getpid()

    def remove() -> None:
        aside.close()
        if os.getpid() == owner:  # not a child that was forked, while its parent reads on
            shutil.rmtree(folder, ignore_errors=True)

    ledger.on_close.append(weakref.finalize(ledger, remove))
    statements = [statement for step in kind.steps for statement in step if _POSITIONS.match(statement)]
    ViewTransaction.writing(aside, lambda transaction: [transaction.execute(statement) for statement in statements])
    return aside


_POSITIONS = re.compile(r"(CREATE|ALTER) TABLE (tracking|parked)\b")
"""Beginning of the schema's statements for the positions of views."""
