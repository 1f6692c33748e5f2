"""Find the ids by which the source of an import knows its messages, runs and threads, for the index of addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ..conversation.events import ConversationStarted, MessageJournaled
from ..ids import are_beside, is_id_of
from .rows import IMPORTED_RUNS, indexed


def addresses_of_message(event: MessageJournaled) -> tuple[str, ...]:
    """Return the addresses of an imported message."""
    given, own = ids_of_message(event.origin), event.message_id
    return addresses_of(given if are_beside(own, event.event_id) else (own, *given), event.timestamp)


def addresses_of_thread(event: ConversationStarted) -> tuple[str, ...]:
    """Return the addresses of an imported conversation."""
    return addresses_of(_ids_of_thread(event.origin), event.timestamp)


def addresses_of(ids: Iterable[object], moment: datetime) -> tuple[str, ...]:
    """Return those ids of an imported message that do not tell when it was journaled, so that an index must."""
    others = (each for each in ids if isinstance(each, str) and not is_id_of(each, moment))
    return tuple(dict.fromkeys(map(indexed, others)))


def ids_of_message(origin: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the ids by which the source knows an imported message: its own, and those of its run and its run step.

    The ids of runs that wrote nothing, which are kept with the message before them, are among them.
    """
    if not origin:
        return ()
    found = [origin[name] for name in ("message_id", "run_id", "step_id") if name in origin]
    return (*found, *_ids_of_runs(origin)) if "runs" in origin or "run" in origin else tuple(found)


def _ids_of_thread(origin: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the ids by which the source knows a thread, if its conversation has another key, and its first runs."""
    return (origin.get("thread_id"), *_ids_of_runs(origin))


def _ids_of_runs(origin: Mapping[str, Any]) -> list[object]:
    runs = origin.get("runs")
    found = [each.get("id") for each in runs if isinstance(each, dict)] if isinstance(runs, list) else []
    return [*found, IMPORTED_RUNS] if found or "run" in origin else []
