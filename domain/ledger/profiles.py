"""List the profiles of a ledger with the outcome of their runs, and compare two of them."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..conversation import Profile
from ..errors import InvalidInput, NotFound
from ..ids import to_iso
from .audit import tool_names
from .pages import Page, cursor_of, place_in

if TYPE_CHECKING:
    from ..conversation.run_filters import ProfileRuns
    from ..journal import Journal

FIRST_LINE_CHARS_MAX = 200
"""Maximum length of the first line of instructions in a list, in characters."""

CONTEXT_LINES = 2
"""Number of unchanged lines around each change of the instructions."""

_BEGINNING = re.compile("[0-9a-f]{1,64}")

_LIST = {"list": "profiles"}


@dataclass(frozen=True)
class ListedProfile:
    """Describe one profile and the outcome of its runs."""

    hash: str
    name: str
    model: str | None
    defined_at: datetime
    instructions: str
    """First line of the instructions, shortened."""
    tools: int
    """Number of tools."""
    runs: int
    failed: int
    """Number of runs that failed."""
    actor: str | None = None
    """Who defined it; None if that is not known."""

    @property
    def failure_rate(self) -> float:
        """Return the share of failed runs among its runs, from 0 to 1."""
        return self.failed / self.runs if self.runs else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `profile list`; docs/commands.md lists its keys."""
        return {
            "hash": self.hash,
            "name": self.name,
            "model": self.model,
            "defined_at": to_iso(self.defined_at),
            "instructions": self.instructions,
            "tools": self.tools,
            "runs": self.runs,
            "failed": self.failed,
            "failure_rate": round(self.failure_rate, 6),
            "actor": self.actor,
        }


@dataclass(frozen=True)
class ProfileDiff:
    """Describe what is different in the second of two profiles, and the outcome of the runs of each."""

    before: ListedProfile
    after: ListedProfile
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Name and model, where they differ: the value before and after."""
    instructions: str = ""
    """Unified diff of the instructions; empty if they are equal."""
    tools_added: Sequence[str] = ()
    """Tools that only the second one has, by name; hosted tools by type."""
    tools_removed: Sequence[str] = ()
    tools_changed: Sequence[str] = ()
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings that differ, by name: the value before and after; None for one that a profile does not have."""

    @property
    def same(self) -> bool:
        """Return whether both have the same content."""
        return self.before.hash == self.after.hash

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `profile diff`; docs/commands.md lists its keys."""
        return {
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "same": self.same,
            **{name: _pair(self.changes.get(name)) for name in ("name", "model")},
            "instructions": self.instructions,
            "tools_added": list(self.tools_added),
            "tools_removed": list(self.tools_removed),
            "tools_changed": list(self.tools_changed),
            "settings": {name: _pair(both) for name, both in self.settings.items()},
        }


def profile_page(journal: Journal, limit: int | None, after: str | None) -> Page[ListedProfile]:
    """Return a page of profiles; see `Ledger.profiles`.

    Raises:
        InvalidInput: the limit is no number, or the cursor belongs to another list.
    """
    if limit is not None and type(limit) is not int:
        raise InvalidInput(f"limit has type {type(limit).__name__}: nothing was read; pass a number of items, or None")
    place = place_in(after, _LIST, int)
    most = None if limit is None else max(limit, 0)
    found = journal.views.profiles("", most if most is None else most + 1, int(place[0]) if place else None)
    kept = found[:most]
    cursor = cursor_of((kept[-1].number,), _LIST) if kept and len(found) > len(kept) else None
    return Page((_listed(each) for each in kept), cursor)


def compare_profiles(journal: Journal, before: str, after: str) -> ProfileDiff:
    """Compare two profiles; see `Ledger.diff_profiles`."""
    first, second = _found(journal, before), _found(journal, after)
    old, new = _content(first), _content(second)
    changes = {name: (getattr(old, name), getattr(new, name)) for name in ("name", "model")}
    had, has = _by_name(old), _by_name(new)
    settings = {name: (old.settings.get(name), new.settings.get(name)) for name in {**old.settings, **new.settings}}
    return ProfileDiff(
        _listed(first),
        _listed(second),
        {name: both for name, both in changes.items() if both[0] != both[1]},
        _unified(old.instructions, new.instructions),
        [name for name in has if name not in had],
        [name for name in had if name not in has],
        [name for name in had if name in has and had[name] != has[name]],
        {name: both for name, both in settings.items() if both[0] != both[1]},
    )


def _found(journal: Journal, beginning: object) -> ProfileRuns:
    """Return the profile whose hash begins with a text.

    Raises:
        InvalidInput: it is no beginning of a hash.
        NotFound: no profile, or more than one, has this hash or beginning.
    """
    if not isinstance(beginning, str) or _BEGINNING.fullmatch(beginning) is None:
        raise InvalidInput(
            f"{beginning!a:.80} is not the hash of a profile: pass its first characters, 0 to 9 and a to f"
        )
    found = journal.views.profiles(beginning, 2, None)
    if len(found) != 1:
        problem = "several profiles begin" if found else "no profile begins"
        raise NotFound(f"{problem} with {beginning!r}: list the profiles with: threadledger profile list")
    return found[0]


def _listed(found: ProfileRuns) -> ListedProfile:
    defined = found.defined
    first = next(iter(defined.instructions.splitlines()), "")
    shown = first if len(first) <= FIRST_LINE_CHARS_MAX else f"{first[: FIRST_LINE_CHARS_MAX - 1]}…"
    return ListedProfile(
        defined.profile_hash,
        defined.name,
        defined.model,
        defined.timestamp,
        shown,
        len(defined.tools),
        found.runs,
        found.failed,
        defined.actor,
    )


def _content(found: ProfileRuns) -> Profile:
    defined = found.defined
    tools, settings = (json.dumps(each, ensure_ascii=False) for each in (defined.tools, defined.settings))
    return Profile(defined.name, defined.instructions, defined.model, tools, settings_json=settings)


def _by_name(profile: Profile) -> dict[str, Any]:
    """Return the tools of a profile by name; of several with one name, the second is `NAME #2`."""
    named: dict[str, Any] = {}
    times = Counter[str]()
    for name, tool in zip(tool_names(profile), profile.tools, strict=True):
        times[name] += 1
        named[name if times[name] == 1 else f"{name} #{times[name]}"] = tool
    return named


def _unified(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "before", "after", lineterm="", n=CONTEXT_LINES)
    return "\n".join(lines) if old != new else ""


def _pair(both: tuple[Any, Any] | None) -> dict[str, Any] | None:
    return {"before": both[0], "after": both[1]} if both is not None else None
