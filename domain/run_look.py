"""What one run was shown and made of: its memory, told again, and its profile."""

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
    """The memory that a run was shown, told again from what the run refers to."""

    memory: Memory
    hash: str
    """Of the memory as it is told now."""
    recorded_hash: str | None
    """Of the memory as the run was shown it."""

    @property
    def same(self) -> bool | None:
        """Whether the one is the other; None where the run has no hash recorded."""
        return None if self.recorded_hash is None else self.hash == self.recorded_hash


def memory_shown(journal: Journal, run: RunRecord) -> ShownMemory:
    """What the model of a run saw: never stored, told from the conversation's events each time."""
    memory = journal.memory(run.key, at=run.memory_version or run.version - 1).by_rule(run.memory_rule)
    return ShownMemory(memory, memory.digest(), run.memory_hash)


def defined_profile(journal: Journal, profile_hash: str | None) -> Profile | None:
    """The profile of this hash, as it was defined; None where there is none."""
    for event in journal.stream(f"{PROFILE}{profile_hash}") if profile_hash else ():
        if isinstance(event, e.ProfileDefined):
            return Profile(event.name, event.instructions, event.model, json.dumps(event.tools, ensure_ascii=False))
    return None


def tool_names(profile: Profile) -> list[str]:
    """The tools of a profile by their names; hosted ones by their kind."""
    return [str(tool.get("function", {}).get("name") or tool.get("type")) for tool in profile.tools]
