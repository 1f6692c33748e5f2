"""Reproduce what one run was shown: its memory and its profile."""

from __future__ import annotations

import json
from dataclasses import dataclass

from . import events as e
from .audit import RunRecord
from .journal import Journal
from .memory import Memory
from .naming import PROFILE
from .profiles import Profile


@dataclass(frozen=True)
class ShownMemory:
    """Hold the memory that a run was shown, reproduced from the values that the run recorded."""

    memory: Memory
    hash: str
    """Hash of the memory as reproduced now."""
    recorded_hash: str | None
    """Hash of the memory that the run was shown."""

    @property
    def same(self) -> bool | None:
        """Return whether both hashes are equal; None if the run has no recorded hash."""
        return None if self.recorded_hash is None else self.hash == self.recorded_hash


def memory_shown(journal: Journal, run: RunRecord) -> ShownMemory:
    """Return the memory that a run's model saw; it is never stored, but computed from the conversation's events."""
    memory = journal.memory(run.key, at=run.memory_version or run.version - 1).by_rule(run.memory_rule)
    return ShownMemory(memory, memory.digest(), run.memory_hash)


def defined_profile(journal: Journal, profile_hash: str | None) -> Profile | None:
    """Return the profile with this hash; None if no such profile was defined."""
    for event in journal.stream(f"{PROFILE}{profile_hash}") if profile_hash else ():
        if isinstance(event, e.ProfileDefined):
            return Profile(event.name, event.instructions, event.model, json.dumps(event.tools, ensure_ascii=False))
    return None


def tool_names(profile: Profile) -> list[str]:
    """Return the tools of a profile by name; hosted tools by type."""
    return [str(tool.get("function", {}).get("name") or tool.get("type")) for tool in profile.tools]
