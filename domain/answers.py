"""Create the `Answer` of an exchange when it is journaled, or read it from the events later."""

from __future__ import annotations

from . import events as e
from .audit import ExchangeRecord, recorded_failure
from .exchange import Candidate
from .failures import RecordedFailure
from .journal import Journal
from .messages import Source, Usage
from .parsing import restore_message
from .runs import Completion
from .stream import Answer


def answered(
    exchange: ExchangeRecord,
    completion: Completion,
    candidate: Candidate,
    *,
    key: str,
    run_id: str,
    message_id: str,
    fallback: bool,
    version: int,
) -> Answer:
    """Return the answer that was just journaled."""
    return Answer(
        text=completion.messages[-1].text,
        key=key,
        exchange_id=exchange.exchange_id,
        run_id=run_id,
        message_id=message_id,
        backend=candidate.backend,
        model=completion.model or candidate.model,
        fallback=fallback,
        failures=failures_of(exchange),
        version=version,
        usage=completion.usage,
    )


def recorded_answer(journal: Journal, key: str, exchange_id: str) -> Answer | None:
    """Return the journaled answer of an exchange, or None if it has none."""
    exchange = journal.exchanges(key).by_id.get(exchange_id)
    if exchange is None or exchange.answered_by is None:
        return None
    run = next(run for run in exchange.runs if run.run_id == exchange.answered_by)
    answers = [
        event
        for event in journal.history(key, after=run.version)
        if isinstance(event, e.MessageJournaled) and event.run_id == run.run_id and event.role == "assistant"
    ]
    if not answers or run.completed is None:
        return None
    usage = run.completed.usage
    return Answer(
        text=restore_message(answers[-1]).text,
        key=key,
        exchange_id=exchange_id,
        run_id=run.run_id,
        message_id=answers[-1].message_id,
        backend=run.backend,
        model=run.completed.model or run.model,
        fallback=answers[-1].source == Source.FALLBACK,
        failures=failures_of(exchange),
        version=answers[-1].originator_version,
        usage=Usage(usage.get("input_tokens", 0), usage.get("output_tokens", 0)),
    )


def failures_of(exchange: ExchangeRecord) -> list[RecordedFailure]:
    """Return the failed runs of an exchange, except shadow runs."""
    return [recorded_failure(run, exchange) for run in exchange.runs if run.failure is not None and not run.shadow]


def why_not_rerun(journal: Journal, key: str, exchange_id: str) -> str:
    """Return why an unanswered exchange cannot be rerun, or an empty string if it can."""
    state = journal.require(key).state
    if state.last_exchange_id != exchange_id:
        known = exchange_id in state.open_exchanges or exchange_id in journal.exchanges(key).by_id
        return "overtaken by newer messages" if known else "there is no such exchange"
    newest = journal.memory(key, last=1).messages[-1:]
    if any(message.exchange_id != exchange_id for message in newest):
        return "overtaken by newer messages"
    return ""
