"""Turn errors of a database driver into sentences: what failed, why, and what to do. Loaded when something fails.

`Kind.explain` returns a category:

| category | meaning | retried |
|---|---|---|
| `foreign` | the file or database belongs to something else | no |
| `damaged` | a table, a column or stored data is missing or cannot be read | no |
| `read-only` | the database can be read, but not written | no |
| `unusable` | the database refused; nothing was written | no |
| `lost` | the connection broke, or the server is starting or stopping | yes |
| `absent` | no server was found at the address | yes; briefly if none has ever answered |
| `full` | the server has no free connection | yes |
| `repeat` | the server rolled the transaction back because of others | yes |
"""

from __future__ import annotations

from contextlib import suppress

from threadledger.domain.errors import DatabaseReadOnly, ForeignDatabase, NewerSchema, StoreError, StoreUnavailable

from .connections import AllInUse, ConnectionLost, Connections, DamagedDatabase, RolledBack, Transaction


def named(connections: Connections, error: BaseException) -> StoreError:
    """Return the error that describes a driver's error."""
    url = connections.shown_url
    if isinstance(error, AllInUse):
        return StoreUnavailable(
            f"{url}: all connections of this program are in use; use fewer threads at once, or try again"
        )
    trouble, advice = connections.kind.explain(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    match trouble:
        case "foreign":
            return ForeignDatabase(f"{url} is not a database ({reason}): nothing was changed; {advice}")
        case "lost" | "absent":
            lost = ConnectionLost(f"{url} cannot be reached ({reason}); {advice}")
            lost.answered = trouble == "lost"
            return lost
        case "full":
            return ConnectionLost(f"{url} accepts no more connections ({reason}); {advice}")
        case "damaged":
            upgraded = _upgraded_meanwhile(connections)
            if upgraded is not None:
                return upgraded
            reason = reason.partition(" with text ")[0]  # SQLite quotes a text that it cannot decode
            return DamagedDatabase(f"{url} is damaged ({reason}): nothing was written; {advice}")
        case "read-only":
            return DatabaseReadOnly(f"{url} cannot be written ({reason}): nothing was written; {advice}")
        case "repeat":
            return RolledBack(f"{url} rolled the transaction back ({reason}): nothing was written; {advice}")
        case _:
            return StoreUnavailable(f"{url} cannot be used ({reason}): nothing was written; {advice}")


def _upgraded_meanwhile(connections: Connections) -> NewerSchema | None:
    """Return the error for a database that a newer version has upgraded while this program was running."""
    from .schema import schema_version

    with suppress(StoreError, AllInUse, connections.driver.Error, UnicodeDecodeError):  # it is really damaged
        connection = connections.pool.check_out()
        try:
            schema_version(Transaction(connections, connection.driver_connection), connections.shown_url)
        except NewerSchema as newer:
            return NewerSchema(f"{newer}, then start this program again")
        finally:
            connection.invalidate()
            connection.close()
    return None


def not_open(connections: Connections) -> StoreUnavailable:
    """Return the error for a database that was closed, or that was in use during a fork."""
    if connections.closed:
        return StoreUnavailable(f"{connections.shown_url} was closed by this program: open it again")
    return StoreUnavailable(
        f"{connections.shown_url} was in use by another thread when this process was forked, and SQLite's locks "
        "are not inherited: fork first, then open the database"
    )


def with_doubt(error: Exception) -> Exception:
    """Return the error for the caller of an append; if a commit was not acknowledged, the message says so."""
    if not isinstance(error, ConnectionLost):
        return error
    return StoreUnavailable(
        f"{error}; it is unknown whether the last append was stored: retry it with the same idempotency key, "
        "or check with: threadledger events"
    )
