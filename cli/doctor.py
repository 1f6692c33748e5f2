"""`threadledger doctor`: what is wrong, why, and what mends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from .checks import SETTINGS_CHECKS, Checked
from .exits import Exit, told_of
from .invocation import common, invocation, load_settings, opened
from .ledger_checks import LEDGER_CHECKS, check_profile
from .online_checks import examined_online
from .output import counted, emit_many, note

if TYPE_CHECKING:
    from threadledger.adapters import Settings

COLUMNS = ("check", "state", "message", "mend")


@click.command()
@click.option("--online", is_flag=True, help="Ask the provider too: key, models, assistant. Nothing is written there.")
@common
def doctor(online: bool) -> int:
    """What is wrong, why, and what mends it: settings, database, runs, unanswered exchanges, threads, jobs, backends, views.

    No provider is called, unless --online asks for it; no model is asked even then. Runs that a crash left open past their
    deadline are closed as interrupted. Exit 4 on findings.
    """
    rows = [checked.as_json() for checked in examined(online)]
    emit_many(rows, COLUMNS)
    found = sum(row["state"] == "finding" for row in rows)
    if invocation().output == "table":
        note(f"{counted(found, 'finding')}" if found else "all is well")
    return Exit.FOUND_SOMETHING if found else Exit.DONE


def examined(online: bool = False) -> Iterator[Checked]:
    """All checks, one after the other. Whatever is broken is a finding of its own, and stops only what builds on it."""
    try:
        settings = load_settings()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the settings is what we are asked for
        yield Checked("settings", told_of(error), _mend_of(error))
        note("everything else builds on the settings, and was not looked at")
        return
    yield Checked("settings", "they can be read")
    for check, look in SETTINGS_CHECKS.items():
        yield from (_with_origin(checked, settings) for checked in _guarded(check, look, settings))
    try:
        profile = settings.load_profile()
        with opened() as ledger:
            for check, examine in LEDGER_CHECKS.items():
                yield from _guarded(check, examine, ledger)
            yield from _guarded("profile", check_profile, ledger, settings, profile)
    except Exception as error:  # noqa: BLE001 - nor may what is broken here keep the rest from being told
        yield Checked(_subject_of(error), told_of(error), _mend_of(error))
        note("what is in the ledger was not looked at: it does not open")
    if online:
        yield from _guarded("provider", examined_online, settings)


def _with_origin(checked: Checked, settings: Settings) -> Checked:
    """A finding with the places where the settings that it names come from."""
    from threadledger.adapters import origins

    if checked.mend is None:
        return checked
    named = re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", checked.message)
    set_somewhere = {name: place for name, place in origins(settings).items() if place != "default" and name in named}
    told = "; ".join(
        f"{name} from {'an option' if place == 'option' else place}" for name, place in set_somewhere.items()
    )
    return replace(checked, message=f"{checked.message} ({told})") if told else checked


def _guarded(check: str, look: Callable[..., Iterable[Checked]], *given: object) -> Iterator[Checked]:
    """What a look came to; a look that fails is a finding, behind what it had found."""
    try:
        yield from look(*given)
    except Exception as error:  # noqa: BLE001 - a check that breaks is told like what it looks for, and stops no other
        yield Checked(check, told_of(error), _mend_of(error))


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
