"""Append to PostgreSQL and wait until that is durable, in one round trip: libpq's pipeline mode.

psycopg's own pipeline takes twice the client's CPU time for the same messages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from psycopg import ClientCursor, Connection, DataError, OperationalError, errors, pq, waiting

from threadledger.domain.journal import StoredRow

from .connections import ConnectionLost, Move, leaf_prefix

SHORT_ROWS_MAX = 4
"""Maximum number of events in a short append; an exchange has four. Each number is a statement of its own."""

TOGETHER_MAX = 200
"""Maximum number of statements in one message."""

_NOT_PREPARED = b"26000"
"""SQLSTATE of a statement that is not prepared on this connection."""

Values = Sequence[bytes | None]
"""Values of a statement, as they are sent."""

_Waiting = Generator[waiting.Wait, waiting.Ready | int, list[pq.abc.PGresult]]


class Statement(NamedTuple):
    """Represent a statement that each connection prepares at its first use."""

    name: bytes
    text: bytes
    formats: Sequence[int] | None = None
    """Form of each value: 0 is text, 1 is PostgreSQL's own bytes. All are text if there are none."""


_SHORT = """
WITH moved AS (
    UPDATE streams SET version = $2::bigint + {count}, state_schema = $3::int, snapshot = convert_from($4, 'UTF8'),
        due_at = convert_from($5, 'UTF8')
    WHERE stream = $1::bigint AND version = $2::bigint RETURNING stream
), head AS (
    UPDATE log_head SET position = position + {count} FROM moved RETURNING position - {count} AS before, stream,
        CASE WHEN $6::bool THEN set_config('synchronous_commit', 'off', true) END
)
INSERT INTO events (position, stream, version, topic, schema, at, id, leaf, state)
SELECT before + o, stream, $2::bigint + o, convert_from(topic, 'UTF8'), schema, convert_from(at, 'UTF8'), id,
    sha256(prefix || convert_to((before + o)::text, 'UTF8') || middle || state), convert_from(state, 'UTF8')
FROM head, (VALUES {rows}) AS given (o, topic, schema, at, id, prefix, middle, state)
RETURNING position
"""
"""Append a few events to one stream that exists: values of their own instead of arrays, which take longer to build and to
read than all the rest. The statement is refused by storing nothing if the stream has another version."""

_SHORT_BEGIN_FORMATS = (0, 0, 0, 1, 1, 0)
_SHORT_ROW = ("bytea", "int", "bytea", "uuid", "bytea", "bytea", "bytea")
_SHORT_ROW_FORMATS = (1, 0, 1, 1, 1, 1, 1)


@cache
def _short(count: int) -> Statement:
    """Return the statement that appends this number of events to one stream."""
    rows = []
    for number in range(count):
        first = len(_SHORT_BEGIN_FORMATS) + len(_SHORT_ROW) * number + 1
        rows.append(f"({number + 1}, {', '.join(f'${first + i}::{each}' for i, each in enumerate(_SHORT_ROW))})")
    text = _SHORT.format(count=count, rows=", ".join(rows))
    return Statement(
        b"threadledger_append_%d" % count, text.encode(), _SHORT_BEGIN_FORMATS + _SHORT_ROW_FORMATS * count
    )


def short_append(moves: Sequence[Move], rows: Sequence[StoredRow], alone: bool) -> tuple[Statement, Values] | None:
    """Return the statement that appends a few events to one existing stream, and its values; None for any other append."""
    (name, found, head), count = moves[0], len(rows)
    if len(moves) > 1 or found is None or count > SHORT_ROWS_MAX or head.version != found.head.version + count:
        return None
    values: list[bytes | None] = [
        b"%d" % found.number,
        b"%d" % found.head.version,
        b"%d" % head.state_schema,
        head.state.encode(),
        head.due_at.encode() if head.due_at is not None else None,
        b"f" if alone else b"t",
    ]
    for version, row in enumerate(rows, found.head.version + 1):
        event_id = row.event_id
        if row.idempotency_key is not None or row.addresses or row.blobs or type(event_id) is not bytes:
            return None
        if row.originator_version != version:
            return None
        at, prefix = row.at.encode(), leaf_prefix(name, row.topic, row.schema, event_id)
        middle = b"\n%d\n%b\n%b" % (version, at, event_id)
        values += (row.topic.encode(), b"%d" % row.schema, at, event_id, prefix, middle, row.state)
    return _short(count), values


def long_append(connection: Connection[Any], name: bytes, text: str, values: Sequence[str]) -> tuple[Statement, Values]:
    """Return a statement with the values of any append as texts in the connection's encoding.

    Raises:
        psycopg.DataError: a text contains a NUL, where libpq would end it.
    """
    if any("\0" in each for each in values):
        raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return Statement(name, text.encode()), [each.encode(connection.info.encoding) for each in values]


class Pipeline:
    """Append through connections of one database."""

    def __init__(self, flush: str) -> None:
        self._flush = Statement(b"threadledger_flush", flush.encode())
        self._prepared: WeakKeyDictionary[Connection[Any], set[bytes]] = WeakKeyDictionary()
        """Names of the statements that are prepared on each connection."""

    def append(self, connection: Connection[Any], statement: Statement, values: Values, flush: bool) -> Sequence[int]:
        """Execute a statement that appends in its own transaction; return the positions from it, in order.

        With `flush`, a second transaction in the same round trip waits until the first is durable.

        Raises:
            ConnectionLost: the events may be stored, and it is not known whether they are durable.
            psycopg.Error: nothing was stored.
        """
        sent = [(statement, values), (self._flush, ())] if flush else [(statement, values)]
        results = self._executed(connection, sent)
        if _NOT_PREPARED in map(_error, results):  # psycopg has deallocated all statements, as it does after a ROLLBACK
            self._prepared.pop(connection, None)
            done = 0 if _error(results[0]) is not None else 1
            results[done:] = self._executed(connection, sent[done:])
        if _error(results[0]) is not None:
            raise errors.error_from_result(results[0])
        if _error(results[-1]) is not None:
            cause = errors.error_from_result(results[-1])
            raise ConnectionLost(f"the server did not confirm that an append is durable: {cause}") from cause
        appended = results[0]
        return sorted(int(appended.get_value(row, 0) or 0) for row in range(appended.ntuples))

    def _executed(
        self, connection: Connection[Any], statements: Sequence[tuple[Statement, Values]]
    ) -> list[pq.abc.PGresult]:
        pgconn, prepared = connection.pgconn, self._prepared.setdefault(connection, set())
        try:
            pgconn.enter_pipeline_mode()
            for (name, text, formats), values in statements:
                if name not in prepared:
                    prepared.add(name)
                    pgconn.send_prepare(name, text)
                pgconn.send_query_prepared(name, values, formats)
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
        if result is None:
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            if last is not None:
                results.append(last)
            last = None
        elif last is None or last.status == pq.ExecStatus.COMMAND_OK:  # prepared; an error there is what counts
            last = result
    return results


def execute_together(cursor: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Execute a statement for each of the rows, many of them in one message.

    The driver's own way is a pipeline, which ends with a message that asks the server to send what it has. The server takes that
    as a sign of life, and no longer limits how long the transaction may be idle (PostgreSQL 18): a process that is cut from the
    network would keep its locks.
    """
    client: Any = ClientCursor(cursor.connection)
    for start in range(0, len(rows), TOGETHER_MAX):
        texts = [client.mogrify(statement, row) for row in rows[start : start + TOGETHER_MAX]]
        cursor.execute("; ".join(texts), prepare=False)
