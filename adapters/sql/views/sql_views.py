"""Implement the domain's interface to the read models of a ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import Connection, event

from threadledger.domain.errors import InvalidInput, StoreError

from .catching_up import NotBuilt, Progress, Projection, View

if TYPE_CHECKING:
    from threadledger.domain.conversation import ConversationState, FailureFilter
    from threadledger.domain.failures import BackendEnd, FailureGroup, RecordedFailure, SummaryRow

    from ..database import Database
    from ..recorder import Recorder
    from ..sqlite import SQLite
    from .audit import AuditView
    from .conversations import ConversationsView
    from .search import SearchView

T = TypeVar("T")


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

    def failures(self, wanted: FailureFilter, limit: int | None = None) -> list[RecordedFailure]:
        return self._read(lambda connection, runs: self._audit.failures(connection, runs, wanted, limit), self._audit)

    def failure_groups(self, since: datetime | None, until: datetime) -> list[FailureGroup]:
        return self._read(lambda connection, runs: self._audit.groups(connection, runs, since, until), self._audit)

    def summary(self, by: str, since: datetime | None = None, until: datetime | None = None) -> list[SummaryRow]:
        return self._read(lambda connection, runs: self._audit.summary(connection, runs, by, since, until), self._audit)

    def failure_days(self, since: datetime | None = None, until: datetime | None = None) -> list[tuple[str, str, int]]:
        return self._read(
            lambda connection, runs: self._audit.failure_days(connection, runs, since, until), self._audit
        )

    def find_runs(self, ending: str) -> list[tuple[str, str]]:
        return self._read(lambda connection, runs: self._audit.find_runs(connection, runs, ending), self._audit)

    def last_ends(self, per_backend: int) -> list[BackendEnd]:
        return self._read(lambda connection, runs: self._audit.last_ends(connection, runs, per_backend), self._audit)

    def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        if search is None:
            return self._read(
                lambda connection, states: self._conversations.conversations(connection, states, limit),
                self._conversations,
            )

        def found(connection: Connection, words: int, states: int) -> list[ConversationState]:
            among = self._search.streams(connection, words, search)
            return self._conversations.conversations(connection, states, limit, among) if among is not None else []

        return self._read(found, self._search, self._conversations)

    def hits(self, search: str) -> list[tuple[str, int]]:
        """Return (key, position) of the messages and keys that contain all words of a search, newest first."""
        return self._read(lambda connection, words: self._search.hits(connection, words, search), self._search)

    def status(self) -> list[dict[str, Any]]:
        return [self._projection(view).status() for view in self._views()]

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
        return self._audit, self._conversations, self._search

    def _projection(self, view: View[Any, Any]) -> Projection:
        return Projection(self._database, self._log, view)

    def _read(self, work: Callable[..., T], *views: View[Any, Any]) -> T:
        """Bring views up to date, then call `work` with a connection and the live generation of each."""
        projections = [self._projection(view) for view in views]

        def read(*generations: int) -> T:
            return self._database.read(lambda connection: work(connection, *generations))

        while True:
            try:
                generations = [projection.caught_up() for projection in projections]
            except NotBuilt:
                if self._database.kind.name != "sqlite":
                    raise
                return self._aside._read(work, *views)
            try:
                return read(*generations)
            except StoreError:
                # Another process may have rebuilt a view and dropped the generation that was being read.
                if generations == [projection.live() for projection in projections]:
                    raise


def _database_aside(ledger: Database) -> Database:
    """Return a temporary database with empty views and the ledger's file attached; it is removed with the ledger's closing.

    A table that the temporary database does not have is found in the attached file.
    """
    import shutil
    import tempfile

    from ..database import Database
    from ..sqlite_files import address_for_reading

    folder = Path(tempfile.mkdtemp(prefix="threadledger-views-"))
    aside = Database(f"sqlite:///{folder / 'views.db'}", synchronous="OFF")
    kind = cast("SQLite", ledger.kind)

    def attach(connection: Any, _record: Any) -> None:
        connection.execute("ATTACH ? AS ledger", (address_for_reading(kind.path),))

    def remove() -> None:
        aside.close()
        shutil.rmtree(folder, ignore_errors=True)

    ledger.on_close.append(remove)
    event.listen(aside.engine, "connect", attach)
    statements = [statement for step in kind.steps for statement in step if _POSITIONS.match(statement)]
    aside.write(lambda connection: [connection.exec_driver_sql(statement) for statement in statements])
    return aside


_POSITIONS = re.compile(r"(CREATE|ALTER) TABLE (tracking|parked)\b")
"""Beginning of the schema's statements for the positions of views."""
