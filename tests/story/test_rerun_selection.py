"""Test which exchanges a rerun selects: every filter that is given narrows the selection, in every combination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters.formats import export_lines
from threadledger.domain.conversation import Completion, Conversation, RunPlan, text_message
from threadledger.domain.failures import Cause, Failure
from threadledger.domain.ids import from_iso
from threadledger.domain.ledger import Ledger

NOON = from_iso("2026-11-01T12:00:00Z")
FAULTS = {
    Cause.PROVIDER_ERROR: Failure("failed", code="server_error", message="Sorry, something went wrong."),
    Cause.RATE_LIMITED: Failure("failed", code="rate_limit_exceeded"),
}


@dataclass(frozen=True)
class Failed:
    """Describe one exchange with one failed run."""

    key: str
    cause: Cause
    backend: str
    at: datetime
    answered: bool
    run_id: str


@pytest.fixture
def all_failed(open_ledger: Callable[..., Ledger]) -> tuple[Ledger, list[Failed]]:
    """Return a ledger with 16 failed exchanges that differ in every property by which one may select."""
    ledger = open_ledger(backends=("chat",), threads="none", retries=0)
    found = []
    for number in range(16):
        cause = Cause.RATE_LIMITED if number & 1 else Cause.PROVIDER_ERROR
        backend, answered = ("responses" if number & 2 else "chat"), number % 5 == 4
        at, key = NOON + timedelta(hours=number), f"customer-{number % 3}"

        def fail(it: Conversation, backend: str = backend, cause: Cause = cause, answered: bool = answered) -> str:
            exchange_id = it.ask(text_message("user", "Where is it?"))
            run_id = it.start_run(exchange_id, RunPlan(backend, "gpt-4o"))
            it.fail_run(run_id, FAULTS[cause])
            if answered:
                again = it.start_run(exchange_id, RunPlan(backend, "gpt-4o", attempt=2))
                it.complete_run(again, Completion((text_message("assistant", "In Bern."),)))
            else:
                it.abandon(exchange_id, "no backend answered")
            return run_id

        with freeze_time(at):
            run_id = ledger.journal.commit(key, fail, create=True)
        found.append(Failed(key, cause, backend, at, answered, run_id))
    return ledger, found


def test_every_pair_of_filters_selects_what_both_match(all_failed: tuple[Ledger, list[Failed]]) -> None:
    ledger, found = all_failed
    some_runs = [each.run_id for each in found if int(each.at.hour) % 4 != 1]
    filters: dict[str, tuple[Any, Callable[[Failed], bool]]] = {
        "failed": (True, lambda each: not each.answered),
        "runs": (some_runs, lambda each: each.run_id in some_runs),
        "keys": (["customer-0", "customer-2"], lambda each: each.key != "customer-1" and not each.answered),
        "since": (NOON + timedelta(hours=5), lambda each: each.at >= NOON + timedelta(hours=5)),
        "until": (NOON + timedelta(hours=11), lambda each: each.at <= NOON + timedelta(hours=11)),
        "cause": ("rate_limited", lambda each: each.cause is Cause.RATE_LIMITED),
        "backend": ("chat", lambda each: each.backend == "chat"),
    }
    selecting = {"failed", "runs", "keys"}
    wrong = {}
    for size in (1, 2):
        for names in combinations(filters, size):
            given = {name: filters[name][0] for name in names}
            keeps = [filters[name][1] for name in names if not (name == "keys" and "runs" in names)]
            if "keys" in names and "runs" in names:  # a named run may have an answer: it is reported as skipped
                keeps.append(lambda each: each.key != "customer-1")
            expected = [each for each in found if all(keep(each) for keep in keeps)] if selecting & set(names) else []
            planned = ledger.replay.plan_rerun(**given).items
            if sorted(item.run_id for item in planned) != sorted(each.run_id for each in expected):
                wrong[names] = (len(planned), len(expected))
    assert wrong == {}


@pytest.mark.parametrize("nothing", [{"keys": []}, {"runs": []}])
def test_an_empty_selection_reruns_nothing(all_failed: tuple[Ledger, list[Failed]], nothing: dict[str, Any]) -> None:
    ledger, _ = all_failed
    assert ledger.replay.plan_rerun(failed=True, **nothing).items == []
    assert len(ledger.replay.plan_rerun(failed=True).items) == 13


def test_keys_runs_and_types_may_come_from_any_iterable(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger(backends=("chat",), threads="none")
    keys, types = ["customer-1", "customer-2"], ["RunFailed"]
    for key in keys:
        with pytest.raises(TimeoutError), ledger.conversation(key).run("chat", "gpt-4o"):
            raise TimeoutError
    planned = ledger.replay.plan_rerun(failed=True, keys=keys).items
    run_ids = [each.run_id for each in ledger.failures()]
    assert len(planned) == 2
    assert ledger.replay.plan_rerun(failed=True, keys=iter(keys)).items == planned
    assert ledger.replay.plan_rerun(iter(run_ids), include=iter(["answered"])).items == planned
    assert [each.type for each in ledger.events(types=iter(types))] == types * 2
    assert [each.type for each in ledger.events(types=iter(types), key=keys[0])] == types
    assert [key for key, _ in ledger.replay.places(iter(keys), None)] == keys
    assert list(export_lines(ledger, iter(keys))) == list(export_lines(ledger, keys))
    ledger.rebuild_views(iter(["search"]))
