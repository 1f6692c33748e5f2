"""Make the documents of runs: the run and the memory that `audit show` prints, and the time scale of an exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import recorded_failure
from threadledger.domain.failures import GroupName, diagnose
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.ledger import defined_profile, tool_names

from .words import short

if TYPE_CHECKING:
    from threadledger.domain.conversation import ExchangeRecord, Exchanges, RunRecord
    from threadledger.domain.ledger import Ledger, ShownMemory


def run_document(ledger: Ledger, run: RunRecord, folded: Exchanges) -> dict[str, Any]:
    """Return the JSON object of a run and its exchange; docs/commands.md lists the keys under `audit show`."""
    exchange = folded.exchange_of(run)
    facts = recorded_failure(run, exchange).as_json()
    if run.failure is None:
        facts |= {"status": run.state, "cause": None, "advice": None, "next": None}
    if run.completed is not None:
        facts |= {"remote_run_id": run.completed.remote_run_id, "thread_id": run.completed.thread_id}
    return facts | {
        "partial_text": run.failure.partial_text if run.failure is not None else None,
        "started_at": to_iso(run.started_at),
        "ended_at": to_iso(run.ended_at) if run.ended_at else None,
        "memory_version": run.memory_version,
        "memory_rule": run.memory_rule,
        "memory_hash": run.memory_hash,
        "profile_hash": run.profile_hash,
        "profile": _profile(ledger, run.profile_hash),
        "rerun_of": run.rerun_of,
        "group": GroupName.of(run.failure, run.backend).id if run.failure is not None else None,
        "rerun": _rerun(run, exchange),
        "exchange": [_step(each) for each in exchange.runs],
        "dropped": list(run.dropped),
        "losses": run.all_losses,
        "rendering": run.rendering,
        "continues_run_id": run.continues_run_id,
        "continued_chars": run.continued_chars or None,
        "unanswered": exchange.unanswered,
    }


def _step(run: RunRecord) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "backend": run.backend,
        "attempt": run.attempt,
        "state": run.state,
        "next": run.next,
        "cause": diagnose(run.failure).value if run.failure is not None else None,
        "started_at": to_iso(run.started_at),
        "ended_at": to_iso(run.ended_at) if run.ended_at else None,
        "duration_seconds": run.duration_seconds,
        "rerun_of": run.rerun_of,
        "shadow": run.shadow,
        "endpoint": run.endpoint,
        "dropped": list(run.dropped),
        "losses": run.all_losses,
    }


def _profile(ledger: Ledger, profile_hash: str | None) -> dict[str, Any] | None:
    profile = defined_profile(ledger.journal, profile_hash)
    if profile is None:
        return None
    named = {"hash": profile_hash, "name": profile.name, "model": profile.model, "tools": tool_names(profile)}
    return named | {"settings": profile.settings}


def memory_document(shown: ShownMemory) -> dict[str, Any]:
    """Return the JSON object of the memory that a run's model saw, as `audit show --memory` prints it."""
    return {
        "version": shown.memory.version,
        "rule": shown.memory.rule,
        "hash": shown.hash,
        "recorded_hash": shown.recorded_hash,
        "same": shown.same,
        "messages": [each.as_json() for each in shown.memory.paired()],
        "instructions": shown.profile.instructions if shown.profile is not None else None,
        "tools": shown.profile.tools if shown.profile is not None else None,
        "options": _options(shown),
    }


def _options(shown: ShownMemory) -> dict[str, Any] | None:
    """Return what the question was asked with beyond the defaults; None if there was nothing."""
    if shown.sent is None:
        return None
    sent = shown.sent
    return {
        "model": sent.model,
        "backend": sent.backend,
        "profile_hash": sent.profile_hash,
        "metadata": sent.metadata,
        "timeout_seconds": sent.timeout_seconds,
    }


def _rerun(run: RunRecord, exchange: ExchangeRecord) -> str | None:
    """Return the command that reruns a run; if its exchange is answered, as a shadow run, whose answer is only shown.

    None for an open run, and for one that wrote a summary.
    """
    if run.state == "open" or exchange.runs[0].shadow:
        return None
    how = "--into shadow" if exchange.answered_by is not None else "--apply"
    return f"threadledger replay rerun {short(run.run_id)} {how}"


PAUSE_SHOWN_MAX = 3.0
"""Longest pause drawn to scale, as a multiple of the duration of all runs together. A longer pause is printed as text,
because a rerun may follow days later."""


def timeline_document(document: dict[str, Any], until: str | None = None) -> list[dict[str, Any]]:
    """Place the runs of an exchange, from the document of one of them, on one time scale, from the start of the first.

    Each run is its step of the document with `begin_seconds` and `lasted_seconds`, and `pause_seconds`: a long pause
    before it that is not drawn to scale, 0 if there is none. An open run lasts until `until` (ISO 8601; by default now).
    """
    until = until or to_iso(now())
    steps = document["exchange"]
    spans = [(from_iso(step["started_at"]), from_iso(step["ended_at"] or until)) for step in steps]
    together = sum((end - begin).total_seconds() for begin, end in spans)
    found: list[dict[str, Any]] = []
    shift, last = 0.0, spans[0][0]
    for step, (begin, end) in zip(steps, spans, strict=True):
        pause = (begin - last).total_seconds()
        left_out = pause if pause > max(PAUSE_SHOWN_MAX * together, 1.0) else 0.0
        shift += left_out
        offset = (begin - spans[0][0]).total_seconds() - shift
        place = {"begin_seconds": max(offset, 0.0), "lasted_seconds": max((end - begin).total_seconds(), 0.0)}
        found.append(step | place | {"pause_seconds": left_out})
        last = max(last, end)
    return found
