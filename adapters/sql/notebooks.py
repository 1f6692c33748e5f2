"""What is noted beside the log, and could be found out again from the provider: how far threads hold the journal, and
which assistant was made from which profile."""

from threadledger.domain import MirrorHead

from .engine import Database


class SqlMirrorHeads:
    """`MirrorHeads` in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, stream: str, mirror: str) -> MirrorHead | None:
        query = "SELECT thread_id, version, settled FROM mirror_heads WHERE stream = ? AND mirror = ?"
        with self._database.reading() as connection:
            row = connection.exec_driver_sql(query, (stream, mirror)).one_or_none()
            return MirrorHead(row.thread_id, row.version, bool(row.settled)) if row is not None else None

    def put(self, stream: str, mirror: str, head: MirrorHead) -> None:
        statement = (
            "INSERT INTO mirror_heads (stream, mirror, thread_id, version, settled) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (stream, mirror) DO UPDATE SET "
            "thread_id = excluded.thread_id, version = excluded.version, settled = excluded.settled"
        )
        with self._database.writing() as connection:
            connection.exec_driver_sql(statement, (stream, mirror, head.thread_id, head.version, head.settled))


class RememberedAssistants:
    """The assistants made from our profiles, by endpoint and profile hash."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, endpoint: str, profile_hash: str) -> str | None:
        query = "SELECT assistant_id FROM assistants WHERE endpoint = ? AND profile_hash = ?"
        with self._database.reading() as connection:
            found: str | None = connection.exec_driver_sql(query, (endpoint, profile_hash)).scalar()
            return found

    def put(self, endpoint: str, profile_hash: str, assistant_id: str) -> None:
        statement = (
            "INSERT INTO assistants (endpoint, profile_hash, assistant_id) VALUES (?, ?, ?) "
            "ON CONFLICT (endpoint, profile_hash) DO UPDATE SET assistant_id = excluded.assistant_id"
        )
        with self._database.writing() as connection:
            connection.exec_driver_sql(statement, (endpoint, profile_hash, assistant_id))

    def forget(self, assistant_id: str) -> None:
        """It is gone: the next run makes another."""
        with self._database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM assistants WHERE assistant_id = ?", (assistant_id,))
