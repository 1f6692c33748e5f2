"""Read the answer of an exchange from the journal."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from ..conversation import events as e
from ..conversation.messages import Source, Usage, restore_message
from .answer import Answer

if TYPE_CHECKING:
    from ..journal import Journal
    from .services import Services


def recorded_answer(
    journal: Journal, key: str, exchange_id: str, after: int = 0, services: Services | None = None
) -> Answer | None:
    """Return the answer that the journal holds for an exchange; None if it has none.

    `after` is a version before the exchange's first run: earlier events are not read. The services know what the answer
    was to fit, unless its run had another profile.
    """
    exchange = journal.exchanges(key, after).by_id.get(exchange_id)
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
    answer = answers[-1]
    after_it = next(journal.history(key, after=answer.originator_version, upto=answer.originator_version + 1), None)
    selected = answer.parent_version is None or isinstance(after_it, e.BranchSelected)
    usage = run.completed.usage
    wanted = None
    if services is not None:
        same = run.profile_hash in (None, services.profile.hash)
        profile = services.profile if same else journal.profile(run.profile_hash)
        wanted = services.answer_type or (profile.settings.get("response_format") if profile is not None else None)
    return Answer(
        text=restore_message(answer).text,
        key=key,
        exchange_id=exchange_id,
        run_id=run.run_id,
        message_id=answer.message_id,
        backend=run.backend,
        model=run.completed.model or run.model,
        fallback=answer.source == Source.FALLBACK,
        failures=exchange.failures(),
        version=answer.originator_version,
        usage=Usage(*(usage.get(each.name, 0) for each in fields(Usage))),
        selected=selected,
        dropped=tuple(run.dropped),
        losses=run.all_losses,
        response_format=wanted,
    )
