"""Implement `threadledger doctor`, which diagnoses problems and shows how to fix them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from ..main import Exit, common, error_message, invocation, load_settings, opened
from ..output import counted, emit_many, note
from .ledger import LEDGER_CHECKS, check_profile
from .online import examined_online
from .settings import SETTINGS_CHECKS, TRUST, Checked

if TYPE_CHECKING:
    from threadledger.adapters import Settings

COLUMNS = ("check", "state", "message", "mend")


@click.command()
@click.option(
    "--online", is_flag=True, help="Also check key, models and assistant at the provider; nothing is written there."
)
@common
def doctor(online: bool) -> int:
    """Diagnose problems and show how to fix them.

    Checks settings, database, runs, unanswered exchanges, threads, jobs, backends and views. The provider is called only
    with --online, and a model never. Runs that a crash left open past their deadline are closed as interrupted. Exit 4 on
    findings.
    """
    rows = [checked.as_json() for checked in examined(online)]
    emit_many(rows, COLUMNS)
    found = sum(row["state"] == "finding" for row in rows)
    if invocation().output == "table":
        note(f"{counted(found, 'finding')}" if found else "no problems found")
    return Exit.FOUND_SOMETHING if found else Exit.DONE


def examined(online: bool = False) -> Iterator[Checked]:
    """Run all checks in order. A check that fails becomes a finding and stops only the checks that depend on it."""
    try:
        settings = load_settings()
    except Exception as error:  # noqa: BLE001 - any problem with the settings is a finding
        yield Checked("settings", error_message(error), _fix_for(error))
        note("all other checks depend on the settings and were skipped")
        return
    yield Checked("settings", "the settings were loaded")
    for check, look in SETTINGS_CHECKS.items():
        yield from (_with_origin(checked, settings) for checked in _guarded(check, look, settings))
    try:
        profile = settings.load_profile()
        with opened(reads=True) as ledger:
            for check, examine in LEDGER_CHECKS.items():
                yield from _guarded(check, examine, ledger)
            yield from _guarded("profile", check_profile, ledger, settings, profile)
    except Exception as error:  # noqa: BLE001 - a broken ledger must not hide the other findings
        yield Checked(_subject_of(error), error_message(error), _fix_for(error))
        note("the ledger cannot be opened: its checks were skipped")
    if online:
        yield from _guarded("provider", examined_online, settings)


def _with_origin(checked: Checked, settings: Settings) -> Checked:
    """Add to a finding where the settings that it names come from, unless it says so itself."""
    from threadledger.adapters import origins

    if checked.mend is None:
        return checked
    named = re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", checked.message)
    set_somewhere = {
        name: place
        for name, place in origins(settings).items()
        if place != "default" and name in named and f"({place})" not in checked.message
    }
    sources = "; ".join(
        f"{name} from {'an option' if place == 'option' else place}" for name, place in set_somewhere.items()
    )
    return replace(checked, message=f"{checked.message} ({sources})") if sources else checked


def _guarded(check: str, look: Callable[..., Iterable[Checked]], *given: object) -> Iterator[Checked]:
    """Yield the results of a check; a check that raises adds a finding after its previous results."""
    try:
        yield from look(*given)
    except Exception as error:  # noqa: BLE001 - a broken check is a finding and stops no other check
        yield Checked(check, error_message(error), _fix_for(error))


def _subject_of(error: Exception) -> str:
    """Return the check that an error from opening the ledger belongs to."""
    from threadledger.domain.errors import FileMissing, InvalidInput, InvalidProfile

    if isinstance(error, (InvalidProfile, FileMissing)):
        return "profile"
    return "settings" if isinstance(error, InvalidInput) else "database"


def _fix_for(error: Exception) -> str:
    """Return the command or setting that fixes an error."""
    from threadledger.adapters import FolderNotTrusted
    from threadledger.domain.errors import (
        CorruptEvent,
        DatabaseMissing,
        FileMissing,
        ForeignDatabase,
        InvalidProfile,
        InvalidSettings,
        NewerSchema,
        OlderSchema,
        StoreError,
    )

    fixes: dict[type[Exception], str] = {
        FolderNotTrusted: TRUST,
        DatabaseMissing: "create one with: threadledger init; or name another with --db or THREADLEDGER_DB",
        FileMissing: "set THREADLEDGER_PROFILE to an existing file",
        InvalidProfile: "fix the profile, or name another with THREADLEDGER_PROFILE",
        InvalidSettings: "fix it in .env or in the environment, then: threadledger config --origin",
        ForeignDatabase: "name another database with --db or THREADLEDGER_DB",
        NewerSchema: "pip install --upgrade threadledger",
        OlderSchema: "threadledger db upgrade",
        CorruptEvent: "threadledger db check",
        StoreError: "check that THREADLEDGER_DB names a reachable and writable database, then: threadledger db check",
    }
    found = next((fix for kind, fix in fixes.items() if isinstance(error, kind)), None)
    return found or "run the command again with THREADLEDGER_DEBUG=1 and -v, and report its output"
