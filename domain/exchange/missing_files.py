"""Note which files and images a provider could not read, so that the next run shows a text in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..failures import Cause, Failure, diagnose
from ..memory import MISSING_FILES, missing_files_in

if TYPE_CHECKING:
    from ..memory import Memory


def with_missing_files(failure: Failure, memory: Memory) -> Failure:
    """Return the failure with references to the files and images that it is about, if it is about any.

    Args:
        failure: the failure.
        memory: what the failed run was given.
    """
    if diagnose(failure) is not Cause.FILE_MISSING:
        return failure
    said = f"{failure.message} {failure.param} {failure.details.get('body')}"
    shown = [each for each in memory.messages if each.message.role.value != "unknown"]
    missing = [each for each in missing_files_in(shown, said) if each not in memory.missing_files]
    return replace(failure, details=dict(failure.details) | {MISSING_FILES: missing}) if missing else failure
