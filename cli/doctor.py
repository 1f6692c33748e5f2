"""`threadledger doctor`: what is wrong, why, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from .checks import SETTINGS_CHECKS, Checked
from .exits import Exit, told_of
from .invocation import common, invocation, load_settings, opened
from .output import clock, counted, emit_many, note, short

if TYPE_CHECKING:
    from threadledger.adapters import Settings
    from threadledger.domain import Ledger, Profile

COLUMNS = ("check", "state", "message", "mend")

RUNS_NAMED = 3
"""Runs that a message names; the others are counted."""


@click.command()
@common
def doctor() -> int:
    """What is wrong, why, and what mends it: settings, database, open runs, unanswered exchanges, backends, views.

    No provider is called. Runs that a crash left open past their deadline are closed as interrupted. Exit 4 on findings.
    """
    rows = [checked.as_json() for checked in examined()]
    emit_many(rows, COLUMNS)
    found = sum(row["state"] == "finding" for row in rows)
    if invocation().output == "table":
        note(f"{counted(found, 'finding')}" if found else "all is well")
    return Exit.FOUND_SOMETHING if found else Exit.DONE


def examined() -> Iterator[Checked]:
    """All checks, one after the other. Whatever is broken is a finding of its own, and stops only what builds on it."""
    try:
        settings = load_settings()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the settings is what we are asked for
        yield Checked("settings", told_of(error), _mend_of(error))
        note("everything else builds on the settings, and was not looked at")
        return
    yield Checked("settings", "they can be read")
    for check, look in SETTINGS_CHECKS.items():
        yield from _guarded(check, look, settings)
    try:
        profile = settings.load_profile()
        with opened() as ledger:
            for check, examine in LEDGER_CHECKS.items():
                yield from _guarded(check, examine, ledger)
            yield from _guarded("profile", check_profile, ledger, settings, profile)
    except Exception as error:  # noqa: BLE001 - nor may what is broken here keep the rest from being told
        yield Checked(_subject_of(error), told_of(error), _mend_of(error))
        note("what is in the ledger was not looked at: it does not open")


def check_database(ledger: Ledger) -> Iterator[Checked]:
    """That it opens, and what is in it."""
    before, thing = ledger.schema_before, ledger.status()
    upgraded = f", upgraded from {before} just now" if before else ""
    events, conversations = counted(thing["events"], "event"), counted(thing["conversations"], "conversation")
    told = f"{thing['url']}: schema {thing['schema_version']}{upgraded}, {events} of {conversations}"
    yield Checked("database", told)


def check_runs(ledger: Ledger) -> Iterator[Checked]:
    """Runs that a crash left open: past their deadline they are closed, and said to have been."""
    closed = ledger.close_overdue_runs()
    if not closed:
        yield Checked("runs", "none was left open past its deadline")
        return
    named = ", ".join(map(short, closed[:RUNS_NAMED])) + (", …" if len(closed) > RUNS_NAMED else "")
    yield Checked(
        "runs",
        f"{counted(len(closed), 'run')} left open by a crash, past the deadline: closed as interrupted now ({named})",
        "ask again, or: threadledger replay rerun --failed --cause interrupted",
    )


def check_unanswered(ledger: Ledger) -> Iterator[Checked]:
    """Exchanges that have no answer, and that nobody is at any more."""
    from threadledger.domain import limits, now

    heard_of = now().timestamp() - limits.BETWEEN_RUNS_SECONDS
    given_up = [
        failure
        for failure in ledger.failures(unanswered=True)
        if failure.next == "abandoned" or (failure.next == "open" and failure.at.timestamp() < heard_of)
    ]
    exchanges = {(failure.key, failure.exchange_id) for failure in given_up}
    newest = {key: ledger.state(key).last_exchange_id for key, _ in exchanges}
    overtaken = {(key, exchange_id) for key, exchange_id in exchanges if newest[key] != exchange_id}
    exchanges -= overtaken
    if not exchanges:
        went_on = f"; in {counted(len(overtaken), 'exchange')} the talk went on without one" if overtaken else ""
        yield Checked("unanswered", f"no exchange that failed still waits for its answer{went_on}")
        return
    conversations = counted(len({key for key, _ in exchanges}), "conversation")
    yield Checked(
        "unanswered",
        f"{counted(len(exchanges), 'exchange')} of {conversations} without an answer: every backend failed",
        "see them with: threadledger audit failures --unanswered; ask again with: threadledger replay rerun --failed",
    )


def check_backends_health(ledger: Ledger) -> Iterator[Checked]:
    """Backends that exchanges pass over after failures in a row."""
    from threadledger.domain import advise, to_iso

    cooling = [health for health in ledger.health() if health.cooling_until is not None]
    for health in cooling:
        if health.cooling_until is not None and health.last_cause is not None:
            until = clock(to_iso(health.cooling_until))
            yield Checked(
                "cooling",
                f"{health.backend} is passed over until {until} UTC while another backend is well: "
                f"{health.failures_in_a_row} failures in a row, "
                f"the last one {health.last_cause.value}",
                advise(health.last_cause).replace("rerun RUN", "rerun --failed"),
            )
    if not cooling:
        yield Checked("cooling", "no backend is cooling down")


def check_views(ledger: Ledger) -> Iterator[Checked]:
    """Events that a view could not take in."""
    views = ledger.status()["views"]
    for view in views:
        if view["parked"]:
            yield Checked(
                "views",
                f"{view['name']} could not take in {counted(view['parked'], 'event')}: what it shows lacks them",
                f"threadledger db check, then: threadledger db rebuild-views {view['name']}",
            )
    if not any(view["parked"] for view in views):
        yield Checked(
            "views", f"{', '.join(view['name'] for view in views)}: none has events that it could not take in"
        )


def check_profile(ledger: Ledger, settings: Settings, profile: Profile) -> Iterator[Checked]:
    """Whether each backend takes the profile, as its preflight says, and whether its functions can be run."""
    from threadledger.domain import BackendRequest, JournaledMessage, Memory, advise, diagnose, now, text_message

    outside = ledger.outside
    memory = Memory((JournaledMessage(text_message("user", "?"), "doctor", 1, now()),))
    found: list[Checked] = []
    for name in settings.order:
        model = settings.model_for(name, profile)
        request = BackendRequest(
            "doctor", "", "", model, profile, memory, settings.timeout_seconds, tools=outside.tools
        )
        refusal = outside.backends[name].preflight(request)
        if refusal is not None:
            found.append(Checked("profile", refusal.message or refusal.summary(), advise(diagnose(refusal))))
    functions = [tool["function"]["name"] for tool in profile.tools if tool["type"] == "function"]
    unbound = [name for name in functions if name not in outside.tools]
    if unbound:
        found.append(
            Checked(
                "profile",
                f"the profile has {', '.join(unbound)}, and no function is bound here: the command line cannot run them",
                "set THREADLEDGER_TOOLS to a module that has them, or take them out of the profile; an app binds its own: "
                "threadledger.open(tools={name: function})",
            )
        )
    yield from found
    if not found:
        yield Checked("profile", f"{profile.name}: every backend takes it")


LEDGER_CHECKS: dict[str, Callable[[Ledger], Iterable[Checked]]] = {
    "database": check_database,
    "runs": check_runs,
    "unanswered": check_unanswered,
    "cooling": check_backends_health,
    "views": check_views,
}


def _guarded(check: str, look: Callable[..., Iterable[Checked]], *given: object) -> list[Checked]:
    """What a look came to; a look that fails is a finding."""
    try:
        return list(look(*given))
    except Exception as error:  # noqa: BLE001 - a check that breaks is told like what it looks for, and stops no other
        return [Checked(check, told_of(error), _mend_of(error))]


def _subject_of(error: Exception) -> str:
    """The check that an error of opening the ledger belongs to."""
    from threadledger.domain import FileMissing, InvalidInput, InvalidProfile

    if isinstance(error, (InvalidProfile, FileMissing)):
        return "profile"
    return "settings" if isinstance(error, InvalidInput) else "database"


def _mend_of(error: Exception) -> str:
    """The command or setting that mends what an error tells."""
    from threadledger.domain import (
        CorruptEvent,
        DatabaseMissing,
        FileMissing,
        ForeignDatabase,
        InvalidProfile,
        InvalidSettings,
        NewerSchema,
        StoreError,
    )

    mends: dict[type[Exception], str] = {
        DatabaseMissing: "make one with: threadledger init; or name another with --db or THREADLEDGER_DB",
        FileMissing: "correct THREADLEDGER_PROFILE",
        InvalidProfile: "mend the profile, or name another with THREADLEDGER_PROFILE",
        InvalidSettings: "correct it in .env or in the environment, then: threadledger config --origin",
        ForeignDatabase: "name another database with --db or THREADLEDGER_DB",
        NewerSchema: "pip install --upgrade threadledger",
        CorruptEvent: "threadledger db check",
        StoreError: "see that THREADLEDGER_DB names a database that can be reached and written, then: threadledger db check",
    }
    found = next((mend for kind, mend in mends.items() if isinstance(error, kind)), None)
    return found or "run it again with THREADLEDGER_DEBUG=1 -v, and report what it tells"
