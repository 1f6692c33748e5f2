"""Run all checks of `doctor` in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..documents import error_sentence
from .settings import SETTINGS_CHECKS, TRUST, Checked

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger

    from ..settings import Settings


def doctor_document(checked: Iterable[Checked]) -> list[dict[str, Any]]:
    """Return the JSON array of `doctor`; docs/commands.md lists the keys of its objects."""
    return [each.as_json() for each in checked]


def examined(
    load: Callable[[], Settings],
    opened: Callable[[], AbstractContextManager[Ledger]],
    skipped: Callable[[str], object],
    *,
    online: bool = False,
) -> Iterator[Checked]:
    """Run all checks in order. A check that fails becomes a finding and stops only the checks that depend on it.

    Args:
        load: loads the settings.
        opened: opens the ledger of the settings for reading.
        skipped: receives one sentence about checks that were skipped.
        online: whether the provider is also asked about key, models and assistant; nothing is written there.
    """
    try:
        settings = load()
    except Exception as error:  # noqa: BLE001 - any problem with the settings is a finding
        yield Checked("settings", error_sentence(error), _fix_for(error))
        skipped("all other checks depend on the settings and were skipped")
        return
    yield Checked("settings", "the settings were loaded")
    for check, look in SETTINGS_CHECKS.items():
        yield from (_with_origin(checked, settings) for checked in _guarded(check, look, settings))
    try:
        from .ledger import LEDGER_CHECKS, check_profile, check_replica

        profile = settings.load_profile()
        with opened() as ledger:
            for check, examine in LEDGER_CHECKS.items():
                yield from _guarded(check, examine, ledger)
            yield from _guarded("replica", check_replica, ledger, settings)
            yield from _guarded("profile", check_profile, ledger, settings, profile)
    except Exception as error:  # noqa: BLE001 - a broken ledger must not hide the other findings
        yield Checked(_subject_of(error), error_sentence(error), _fix_for(error))
        skipped("the ledger cannot be opened: its checks were skipped")
    if online:
        from .online import examined_online

        yield from _guarded("provider", examined_online, settings)


def _with_origin(checked: Checked, settings: Settings) -> Checked:
    """Add to a finding where the settings that it names come from, unless it says so itself."""
    from ..setting_origins import origins

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
        yield Checked(check, error_sentence(error), _fix_for(error))


def _subject_of(error: Exception) -> str:
    """Return the check that an error from opening the ledger belongs to."""
    from threadledger.domain.errors import FileMissing, InvalidInput, InvalidProfile

    if isinstance(error, (InvalidProfile, FileMissing)):
        return "profile"
    return "settings" if isinstance(error, InvalidInput) else "database"


def _fix_for(error: Exception) -> str:
    """Return the command or setting that fixes an error."""
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

    from ..trust import FolderNotTrusted

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
