"""Append to PostgreSQL and wait until that is durable: two transactions in one round trip (libpq's pipeline mode).

psycopg's own pipeline takes twice the client's CPU time for the same messages.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from psycopg import Connection, DataError, OperationalError, errors, pq, waiting

from .connections import ConnectionLost

FLUSH = "threadledger_flush"
"""Name of the statement that waits until every earlier commit is durable."""

_NOT_PREPARED = b"26000"
"""SQLSTATE of a statement that is not prepared on this connection."""

_Waiting = Generator[waiting.Wait, waiting.Ready | int, list[pq.abc.PGresult]]


def append_durably(
    connection: Connection[Any], name: str, statements: Mapping[str, str], values: Sequence[str]
) -> Sequence[int]:
    """Execute the statement of this name and then `FLUSH`, each in its own transaction; return the positions from the first.

    `statements` are all that a connection ever needs, by the name under which each is prepared: they are prepared together.

    Raises:
        ConnectionLost: the events may be stored, and it is not known whether they are durable.
        psycopg.Error: nothing was stored.
    """
    if any("\0" in each for each in values):  # libpq would end the text there
        raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    encoding = connection.info.encoding
    sent = [(name.encode(), [each.encode(encoding) for each in values]), (FLUSH.encode(), [])]
    appended, flushed = _executed(connection, sent)
    if _error(appended) == _NOT_PREPARED:  # psycopg has deallocated all statements, as it does after a ROLLBACK
        for each, statement in statements.items():
            connection.execute(f"PREPARE {each} AS {statement}".encode())
        appended, flushed = _executed(connection, sent)
    if _error(appended) is not None:
        raise errors.error_from_result(appended)
    if _error(flushed) is not None:
        cause = errors.error_from_result(flushed)
        raise ConnectionLost(f"the server did not confirm that an append is durable: {cause}") from cause
    return sorted(int(appended.get_value(row, 0) or 0) for row in range(appended.ntuples))


def _executed(
    connection: Connection[Any], statements: Sequence[tuple[bytes, Sequence[bytes]]]
) -> list[pq.abc.PGresult]:
    pgconn = connection.pgconn
    try:
        pgconn.enter_pipeline_mode()
        for name, values in statements:
            pgconn.send_query_prepared(name, values)
            pgconn.pipeline_sync()
        results = connection.wait(_results(pgconn, len(statements)))
        pgconn.exit_pipeline_mode()
    except BaseException:
        connection.close()  # answers may still arrive on it
        raise
    return results


def _error(result: pq.abc.PGresult) -> bytes | None:
    """Return the SQLSTATE of a result that is an error (empty if it has none), else None."""
    if result.status == pq.ExecStatus.TUPLES_OK:
        return None
    return result.error_field(pq.DiagnosticField.SQLSTATE) or b""


def _results(pgconn: pq.abc.PGconn, count: int) -> _Waiting:
    """Send what is queued, and return one result a statement, which may be an error."""
    while pgconn.flush():
        if (yield waiting.Wait.RW) & waiting.Ready.R:
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    last: pq.abc.PGresult | None = None
    while len(results) < count:
        while pgconn.is_busy():
            if (yield waiting.Wait.R):
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is None and pgconn.status == pq.ConnStatus.BAD:
            raise OperationalError("the connection was closed by the server")
        if result is not None and result.status != pq.ExecStatus.PIPELINE_SYNC:
            last = result
        elif result is not None and last is not None:
            results.append(last)
            last = None
    return results
