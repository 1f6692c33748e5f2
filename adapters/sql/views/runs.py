"""Fold the events of runs into rows of a table, and restore failures from the rows and their events.

The fold follows the rules of `fold_exchanges` of the domain, but decodes only the fields that a row needs and continues
from rows alone. The tests compare it with the domain's fold after any prefix of random logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from typing import Any

import msgspec

from threadledger.domain.conversation import Exchanges, events, fold_exchanges
from threadledger.domain.errors import CorruptEvent
from threadledger.domain.failures import (
    BackendEnd,
    Cause,
    Failure,
    GroupName,
    advise,
    concerns_backend,
    diagnose,
    whole_text,
)
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import OnChange, Row, restore

from ..connections import checked
from .transaction import ViewTransaction, values_of

TOKENS_MAX = 2**53
"""Maximum number of tokens accepted for a run; larger values are stored as 0."""


Flag = int
"""0 or 1, in a column of its own type."""


class RunRow(msgspec.Struct):
    """Represent one run: a row of the table, with the columns in this order."""

    started: int
    """Position of its first event; `completed` and `failed` are those of the last event of each kind of end."""
    id_reversed: str
    """Id of the run, reversed, so that an index finds ids by their ending."""
    exchange_id: str
    conversation: str
    started_at: str
    backend: str | None
    model: str | None
    profile: str | None
    actor: str | None
    rerun_of: str | None
    shadow: Flag
    completed: int | None = None
    failed: int | None = None
    fallback: int | None = None
    """Position of the newest fallback after it."""
    ended_at: str | None = None
    code: str | None = None
    cause: str | None = None
    """Derived from the facts, as the group: the view's version includes the version numbers of the rules."""
    failure_group: str | None = None
    seconds: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    next: str = "open"
    tells: Flag = 0
    """Whether its end reflects the health of its backend."""
    abandoned: Flag = 0
    """Whether its exchange was abandoned; this and the next fields are the same in all runs of an exchange."""
    answered_by: str | None = None
    """Run that answered its exchange; empty if it has no answer and no question waits for one: see `ExchangeRecord`."""
    spread: Flag = 0
    """Whether the runs of its exchange started in different hours, so that counters by hour do not include them."""
    cached_tokens: int = 0
    """Input tokens that the provider read from its cache."""


_TYPES = {"int": "bigint", "Flag": "smallint", "str": "text", "float": "double precision"}
COLUMNS = {name: _TYPES[kind.split(" ")[0]] for name, kind in RunRow.__annotations__.items()}
"""Columns of the table, in the order of the values of a row, with their types in PostgreSQL."""

TABLE = """CREATE TABLE {runs} (
    started {position} NOT NULL PRIMARY KEY,
    id_reversed TEXT{plain} NOT NULL,
    exchange_id TEXT{plain} NOT NULL,
    conversation TEXT{plain} NOT NULL,
    started_at TEXT{plain} NOT NULL,
    backend TEXT,
    model TEXT,
    profile TEXT,
    actor TEXT,
    rerun_of TEXT,
    shadow SMALLINT NOT NULL,
    completed BIGINT,
    failed BIGINT,
    fallback BIGINT,
    ended_at TEXT{plain},
    code TEXT,
    cause TEXT,
    failure_group TEXT{plain},
    seconds DOUBLE PRECISION,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    next TEXT NOT NULL,
    tells SMALLINT NOT NULL,
    abandoned SMALLINT NOT NULL,
    answered_by TEXT,
    spread SMALLINT NOT NULL,
    cached_tokens BIGINT NOT NULL
)"""

INDEXES = (
    "CREATE INDEX {begin}by_id ON {runs} (id_reversed)",
    "CREATE INDEX {begin}by_exchange ON {runs} (exchange_id)",
    "CREATE INDEX {begin}by_start ON {runs} (started_at{then_started})",
    "CREATE INDEX {begin}by_conversation ON {runs} (conversation{then_started})",
    "CREATE INDEX {begin}by_actor ON {runs} (actor, started_at{then_started}) WHERE actor IS NOT NULL",
    "CREATE INDEX {begin}by_actors_end ON {runs} (actor, ended_at, started) WHERE actor IS NOT NULL AND failed IS NOT NULL",
    "CREATE INDEX {begin}by_open ON {runs} (started_at{then_started}) WHERE completed IS NULL AND failed IS NULL",
    "CREATE INDEX {begin}by_failed ON {runs} (started_at{then_started}) WHERE failed IS NOT NULL",
    "CREATE INDEX {begin}by_pending ON {runs} (started_at{then_started}) WHERE answered_by IS NULL",
    "CREATE INDEX {begin}by_spread ON {runs} (started_at) WHERE spread = 1",
    "CREATE INDEX {begin}by_backend ON {runs} (backend, ended_at, started) WHERE tells = 1",
    "CREATE INDEX {begin}by_end ON {runs} (ended_at, started) WHERE failed IS NOT NULL",
    "CREATE INDEX {begin}by_unanswered ON {runs} (ended_at, started) WHERE failed IS NOT NULL AND answered_by IS NULL",
    "CREATE INDEX {begin}by_group ON {runs} (failure_group, ended_at, started) WHERE failed IS NOT NULL",
    "CREATE INDEX {begin}by_place ON {runs} (conversation, failure_group, ended_at) WHERE failed IS NOT NULL",
)


class StartedFacts(msgspec.Struct):
    """Hold the fields of `RunStarted` that a row needs. Values are checked where they are used."""

    run_id: Any
    exchange_id: Any
    attempt: Any
    backend: Any
    model: Any
    profile_hash: Any = None
    rerun_of: Any = None
    shadow: Any = False
    actor: Any = None
    question_answered: Any = False


class CompletedFacts(msgspec.Struct):
    """Hold the fields of `RunCompleted` that a row needs."""

    run_id: Any
    usage: Any = msgspec.field(default_factory=dict)
    duration_seconds: Any = None
    goes_on: Any = False


class FallbackFacts(msgspec.Struct):
    """Hold the required fields of `FallbackUsed`; a row needs one of them."""

    exchange_id: Any
    failed_run_id: Any
    from_backend: Any
    to_backend: Any
    reason: Any


class AbandonedFacts(msgspec.Struct):
    """Hold the field of `ExchangeAbandoned` that a row needs."""

    exchange_id: Any


class CancelledFacts(msgspec.Struct):
    """Hold the field of `ExchangeCancelled` that a row needs."""

    exchange_id: Any


class RatedFacts(msgspec.Struct):
    """Hold the fields of `MessageRated` that a row of ratings needs."""

    message_id: Any
    message_version: Any
    score: Any
    actor: Any = None


class OwnedFacts(msgspec.Struct):
    """Hold the field of `ConversationDescribed` that a row of owners needs."""

    owner: Any = None


class DeletedFacts(msgspec.Struct):
    """Represent `ConversationDeleted`, of which a row of owners needs only the place."""


TakenRun = tuple[int, str, str, Any]
"""Event of a run: position, stream, time (ISO 8601), and one of the classes above, or `RunFailed`."""

ASIDE: frozenset[type[Any]] = frozenset({RatedFacts, OwnedFacts, DeletedFacts})
"""Classes of events that belong to no run."""

ENDED: frozenset[type[Any]] = frozenset({AbandonedFacts, CancelledFacts})
"""Classes of events that end an exchange without an answer."""

_KINDS: dict[str, type[msgspec.Struct]] = {
    "RunStarted": StartedFacts,
    "RunCompleted": CompletedFacts,
    "FallbackUsed": FallbackFacts,
    "ExchangeAbandoned": AbandonedFacts,
    "ExchangeCancelled": CancelledFacts,
    "MessageRated": RatedFacts,
    "ConversationDescribed": OwnedFacts,
    "ConversationDeleted": DeletedFacts,
}
_DECODERS = {
    topic: (msgspec.json.Decoder(kind).decode, kind, events.EVENTS[topic].SCHEMA) for topic, kind in _KINDS.items()
}


def taken_run(row: Row) -> TakenRun | None:
    """Return the event of a row; None if it is one of a newer schema, which has no effect.

    Raises:
        CorruptEvent: the row cannot be read, or an id in it cannot be stored by every database.
    """
    position, stream, _, topic, payload, _, at, schema = row
    known = _DECODERS.get(topic)
    fact: Any = None
    if known is not None and schema <= known[2]:
        try:
            fact = known[0](payload)
            _parsed(at)
            if len(at) != TIME_CHARS or at[10] != "T" or at[-1] != "Z":
                at = to_iso(from_iso(at))
        except (msgspec.MsgspecError, ValueError, TypeError):  # such as lone surrogates
            fact = None
    if fact is None:  # the domain reads it, or says why not
        event = restore(row)
        at = to_iso(event.timestamp)
        if isinstance(event, events.RunFailed):
            fact = event
        elif known is None or isinstance(event, events.UnknownEvent):
            return None
        else:
            fact = known[1](**{name: getattr(event, name) for name in known[1].__struct_fields__})
    kind = fact.__class__
    if kind is StartedFacts:
        is_usable = _is_id(fact.run_id) and _is_id(fact.exchange_id)
    elif kind is RatedFacts:
        is_usable = fact.message_id.__class__ is str and is_rating(fact.message_version, fact.score)
    elif kind in ASIDE:  # whatever owner it gives
        is_usable = True
    else:
        is_usable = _is_id(
            fact.exchange_id if kind in ENDED else fact.failed_run_id if kind is FallbackFacts else fact.run_id
        )
    if not is_usable:
        unusable = TypeError("an id is not text that every database can store")
        raise CorruptEvent(f"event {row[2]} of {stream!r} has an unusable id") from unusable
    return position, stream, at, fact


def is_rating(version: Any, score: Any) -> bool:
    """Return whether the version and the score of a rating can be stored."""
    return version.__class__ is int and 0 < version <= TOKENS_MAX and _seconds(score) is not None


def _is_id(given: Any) -> bool:
    is_plain = given.__class__ is str and len(given) <= VALUE_CHARS_MAX and given.isascii() and "\0" not in given
    return is_plain or (given.__class__ is str and storable(given) == given)


TIME_CHARS = 27
"""Length of a time as it is stored."""

_parsed = datetime.fromisoformat


Causes = dict[Any, tuple[str, GroupName, int]]
"""Cause, group and effect on the backend's health, by the facts from which they are derived."""


class FoldedRuns:
    """Hold runs by id, and by exchange in order of their start. Contains all runs of an exchange, or no run of it."""

    def __init__(self, runs: Iterable[RunRow] = ()) -> None:
        self.runs: dict[str, RunRow] = {}
        self.exchanges: dict[str, list[RunRow]] = {}
        for run in runs:
            self.runs[run.id_reversed[::-1]] = run
            self.exchanges.setdefault(run.exchange_id, []).append(run)

    def take(self, taken: Iterable[TakenRun], groups: dict[str, GroupName], causes: Causes) -> None:
        """Apply events in log order, and add the groups of failed runs to `groups`. An end without a start is ignored.

        Raises:
            Exception: an event cannot be processed.
        """
        runs = self.runs
        for position, stream, at, fact in taken:
            kind: Any = fact.__class__  # compared directly: a match statement takes twice as long
            if kind is StartedFacts:
                self._start(position, stream, at, fact)
            elif kind is CompletedFacts:
                if (run := runs.get(fact.run_id)) is not None:
                    self._complete(run, position, at, fact)
            elif kind is events.RunFailed:
                if (run := runs.get(fact.run_id)) is not None:
                    _fail(run, position, at, fact, groups, causes)
            elif kind is FallbackFacts:
                if (run := runs.get(fact.failed_run_id)) is not None:
                    run.next, run.fallback = "fallback", position
            else:
                self._abandon(fact.exchange_id)
                if kind is CancelledFacts:  # nobody waits for the answer
                    for run in self.exchanges.get(fact.exchange_id, ()):
                        run.answered_by = run.answered_by or ""

    def _start(self, position: int, stream: str, at: str, fact: StartedFacts) -> None:
        exchange_id, shadow = fact.exchange_id, 1 if fact.shadow else 0
        run = RunRow(
            position,
            fact.run_id[::-1],
            exchange_id,
            stream,
            at,
            _whole(fact.backend) if fact.backend.__class__ is str else None,
            _whole(fact.model) if fact.model.__class__ is str else None,
            _whole(fact.profile_hash) if fact.profile_hash.__class__ is str else None,
            _whole(fact.actor) if fact.actor.__class__ is str else None,
            _whole(fact.rerun_of) if fact.rerun_of.__class__ is str else None,
            shadow,
        )
        earlier = self.exchanges.get(exchange_id)
        if earlier is None:
            self.exchanges[exchange_id] = [run]
            run.answered_by = "" if shadow or fact.question_answered else None
        else:
            run.abandoned = earlier[0].abandoned and shadow
            run.answered_by = earlier[0].answered_by
            previous = next((each for each in reversed(earlier) if each.shadow == shadow), None)
            if previous is not None and previous.failed is not None:
                place = (previous.conversation, previous.rerun_of)
                taken_up = previous.next == "abandoned" and place == (stream, run.rerun_of)
                previous.next = "retried" if previous.next == "open" or taken_up else previous.next
            earlier.append(run)
            for each in earlier:
                each.abandoned = run.abandoned
        self.runs[fact.run_id] = run

    def _complete(self, run: RunRow, position: int, at: str, fact: CompletedFacts) -> None:
        run.completed, run.ended_at, run.tells = position, at, 1
        run.seconds = _seconds(fact.duration_seconds)
        run.input_tokens, run.output_tokens = _tokens(fact.usage, "input_tokens"), _tokens(fact.usage, "output_tokens")
        if "cached_tokens" in fact.usage:
            run.cached_tokens = _tokens(fact.usage, "cached_tokens")
        if not run.shadow:
            answered_by = run.answered_by if fact.goes_on else fact.run_id
            for each in self.exchanges[run.exchange_id]:
                each.answered_by, each.abandoned = answered_by, 0

    def _abandon(self, exchange_id: str) -> None:
        runs = self.exchanges.get(exchange_id, ())
        last = next((each for each in reversed(runs) if not each.shadow), None)
        for each in runs:
            each.abandoned = 1
        if last is not None and last.failed is not None:
            last.next = "abandoned"

    def rows(self, new_from: int) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Return the rows of runs that started at this position or after it, and the rows of the others."""
        new: list[tuple[Any, ...]] = []
        known: list[tuple[Any, ...]] = []
        for runs in self.exchanges.values():
            if len(runs) > 1:
                hour = runs[0].started_at[:13]
                spread = int(any(run.started_at[:13] != hour for run in runs))
                for run in runs:
                    run.spread = spread
            for run in runs:
                (new if run.started >= new_from else known).append(msgspec.structs.astuple(run))
        return new, known


def _fail(
    run: RunRow, position: int, at: str, fact: events.RunFailed, groups: dict[str, GroupName], causes: Causes
) -> None:
    failure = Failure.of(fact)
    said = (failure.status, failure.code, failure.type, failure.message, failure.http_status, failure.param)
    key = (run.backend, *said, failure.thread_id, repr(failure.details))
    if key not in causes:  # an outage repeats one failure many times
        cause = diagnose(failure)
        advise(cause, failure.code, run.backend or "")  # raises if the run could not be read back later
        name = GroupName.of(failure, run.backend, cause)  # type: ignore[arg-type]  # None raises: it is no text
        causes[key] = (cause.value, name, int(concerns_backend(failure)))
    run.cause, name, concerns = causes[key]
    run.failed, run.ended_at, run.seconds = position, at, _seconds(fact.duration_seconds)
    run.code, run.failure_group = storable(failure.code), name.id
    run.tells = 1 if run.completed is not None else concerns
    groups[run.failure_group] = name


def touched(taken: Iterable[TakenRun]) -> tuple[set[str], set[str]]:
    """Return the ids of exchanges that events refer to, and of runs whose exchanges they refer to.

    Runs that start in these events are omitted, because their exchanges are already included.
    """
    exchange_ids: set[str] = set()
    run_ids: set[str] = set()
    begun: set[str] = set()
    for _, _, _, fact in taken:
        kind: Any = fact.__class__
        if kind is StartedFacts:
            exchange_ids.add(fact.exchange_id)
            begun.add(fact.run_id)
        elif kind in ENDED:
            exchange_ids.add(fact.exchange_id)
        elif kind is FallbackFacts:
            run_ids.add(fact.failed_run_id)
        elif kind not in ASIDE:
            run_ids.add(fact.run_id)
    return exchange_ids, run_ids - begun


def _seconds(given: object) -> float | None:
    return float(given) if isinstance(given, (int, float)) and isfinite(given) else None


def _tokens(usage: Any, name: str) -> int:
    """Return the provider's token count, or 0 if it is missing, invalid or too large for a database."""
    given = usage.get(name)
    return given if isinstance(given, int) and 0 <= given <= TOKENS_MAX else 0


VALUE_CHARS_MAX = 500
"""Maximum length of a value in a row, in characters: some are in an index, whose entries PostgreSQL limits to 2,704 bytes."""


@lru_cache(maxsize=1_024)
def _whole(given: str) -> str:
    text = whole_text(given).replace("\0", "\ufffd")
    if len(text) <= VALUE_CHARS_MAX:
        return text
    end = f"… ({sha256(text.encode()).hexdigest()[:16]})"
    return text[: VALUE_CHARS_MAX - len(end)] + end


def storable(given: object) -> str | None:
    """Return the search key for a value; collisions are possible, so callers must compare the matches."""
    return _whole(given) if isinstance(given, str) else None


def restored(
    transaction: ViewTransaction, rows: Sequence[RunRow], changed: OnChange | None = None, *, whole: bool = False
) -> Exchanges:
    """Restore the folded runs from their rows and events. What runs were not given is only known of a `whole` exchange.

    `changed` is called for each event that does not match its leaf hash.

    Raises:
        CorruptEvent: an event has changed since it was processed.
    """
    fallbacks = [row.fallback for row in rows if whole]
    ends = [*(at for row in rows for at in (row.started, row.completed, row.failed)), *fallbacks]
    found = events_at(transaction, [at for at in ends if at is not None], changed)
    folded = fold_exchanges(found.values())
    for row in rows:
        run = folded.runs.get(row.id_reversed[::-1])
        if run is None:
            raise _event_changed(row.started, row)
        run.next = row.next
        exchange = folded.exchange_of(run)
        exchange.abandoned, exchange.unanswered = bool(row.abandoned), row.answered_by is None
        exchange.answered_by = row.answered_by or None
    return folded


_AMONG = {
    "sqlite": "SELECT {columns} FROM {source} CROSS JOIN {runs} WHERE {column} = wanted.value",
    # OFFSET: without statistics of the table, the server would read all of it.
    "postgresql": "SELECT found.* FROM {source} CROSS JOIN LATERAL "
    "(SELECT {columns} FROM {runs} WHERE {column} = wanted.value OFFSET 0) AS found",
}


def rows_among(transaction: ViewTransaction, runs: str, columns: str, column: str, given: Sequence[str]) -> list[Any]:
    """Return the rows whose column has one of these values, found by the index of the column."""
    source, wanted = values_of(transaction.kind, given)
    query = _AMONG[transaction.kind].format(columns=columns, source=source, runs=runs, column=column)
    return transaction.rows(query, (wanted,))


def ends_of(transaction: ViewTransaction, rows: Sequence[RunRow]) -> list[BackendEnd]:
    """Return the outcomes of ended runs, in the order of the rows.

    Raises:
        CorruptEvent: an event has changed since it was processed.
    """
    failed = [row.failed for row in rows if row.completed is None and row.failed is not None]
    by_position = events_at(transaction, failed)
    found = []
    for row in rows:
        event = by_position.get(row.failed or 0) if row.completed is None else None
        if row.completed is None and not isinstance(event, events.RunFailed):
            raise _event_changed(row.failed or 0, row)
        failure = Failure.of(event) if isinstance(event, events.RunFailed) else None
        found.append(BackendEnd(row.backend or "", from_iso(row.ended_at or ""), failure))
    return found


def because_of(cause: Cause, transaction: ViewTransaction, rows: Sequence[RunRow]) -> list[RunRow]:
    """Return the failed runs with this cause; takes half the time of restoring them completely."""
    by_position = events_at(transaction, [row.failed for row in rows if row.failed is not None])
    failed = ((row, by_position.get(row.failed or 0)) for row in rows)
    return [
        row for row, event in failed if isinstance(event, events.RunFailed) and diagnose(Failure.of(event)) is cause
    ]


def _event_changed(position: int, row: RunRow) -> CorruptEvent:
    return CorruptEvent(
        f"event {position} of the log no longer belongs to the run {row.id_reversed[::-1]}: "
        "find the changed events with: threadledger db check"
    )


_EVENTS_AT = (
    "SELECT {columns} FROM {} CROSS JOIN events e JOIN streams s ON s.stream = e.stream "
    "WHERE e.position = wanted.value ORDER BY e.position"
)


def events_at(
    transaction: ViewTransaction, positions: Sequence[int], changed: OnChange | None = None
) -> dict[int, events.Event]:
    """Return the events at these positions, in log order; `changed` is called for each that does not match its leaf hash."""
    source, wanted = values_of(transaction.kind, positions)
    columns = transaction.row_columns if changed is None else f"{transaction.row_columns}, e.leaf"
    found = transaction.rows(_EVENTS_AT.format(source, columns=columns), (wanted,)) if positions else []
    return {row[0]: restore(row) for row in (found if changed is None else checked(found, changed))}
