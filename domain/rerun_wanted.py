"""What a rerun is asked to do: which exchanges, by whom, with what, and where the answers go."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .errors import InvalidInput
from .exchange import Candidate, Policy
from .failures import Cause
from .ids import from_iso, to_iso
from .outside import Outside
from .profiles import Profile

INTO = ("tail", "fork", "shadow")
"""Where an answer goes: to the user who still waits, into a copy of the conversation, or nowhere: it is only shown."""

INCLUDE = ("answered", "overtaken", "tools", "interrupted")
"""What is skipped unless it is asked for."""

TOOLS = ("recorded", "live")


@dataclass(frozen=True)
class Wanted:
    """The options of a rerun."""

    runs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    failed: bool = False
    since: datetime | None = None
    until: datetime | None = None
    cause: Cause | None = None
    backend: str | None = None
    """Of the failures: only those on this backend."""
    model: str | None = None
    tools: str = "recorded"
    on: str | None = None
    """The backend to ask; by default those of the policy."""
    profile: Profile | None = None
    into: str = "tail"
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """
        Raises:
            InvalidInput: an option has a value that means nothing.
        """
        _one_of("tools", self.tools, TOOLS)
        _one_of("into", self.into, INTO)
        for each in self.include:
            _one_of("include", each, INCLUDE)

    @property
    def live(self) -> bool:
        """Whether tool calls are made anew that are on record."""
        return self.tools == "live"

    def includes(self, what: str) -> bool:
        """Whether what would be skipped is done all the same. A fork and a shadow take no answer's place and come behind no
        newer message: nobody need ask for that."""
        return what in self.include or (self.into != "tail" and what in {"answered", "overtaken"})

    def as_json(self) -> dict[str, Any]:
        """Enough to make the same plan again."""
        given = vars(self) | {
            "runs": list(self.runs),
            "keys": list(self.keys),
            "include": list(self.include),
            "since": to_iso(self.since) if self.since is not None else None,
            "until": to_iso(self.until) if self.until is not None else None,
            "cause": self.cause.value if self.cause is not None else None,
            "profile": _profile_as_json(self.profile),
        }
        return {name: value for name, value in given.items() if value not in (None, [], False)}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Wanted:
        """The options again. Those that a newer version knows are passed over."""
        given = {name: value for name, value in options.items() if name in cls.__dataclass_fields__}
        given |= {name: tuple(given[name]) for name in ("runs", "keys", "include") if name in given}
        given |= {name: from_iso(given[name]) for name in ("since", "until") if name in given}
        given |= {"cause": Cause(given["cause"])} if "cause" in given else {}
        if "profile" in given:
            profile: dict[str, Any] = dict(given["profile"])
            profile["read_only"] = tuple(profile.get("read_only", ()))
            given["profile"] = Profile(**profile)
        return cls(**given)

    def outside_of(self, outside: Outside) -> Outside:
        """The outside with the profile of this rerun."""
        return outside if self.profile is None else replace(outside, profile=self.profile)

    def policy_of(self, outside: Outside) -> Policy:
        """Who is asked, with which model.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        model = self.model or (self.profile.model if self.profile is not None else None)
        candidates = outside.policy.candidates
        if self.on is not None:
            if self.on not in outside.backends:
                there_are = ", ".join(outside.backends) or "none"
                raise InvalidInput(f"there is no backend {self.on!r} to ask: there are {there_are}")
            usual = sorted(candidates, key=lambda each: each.backend != self.on)  # its own model, else the first one's
            known = model or next((each.model for each in usual), outside.profile.model)
            if known is None:
                raise InvalidInput(f"no model is known for the backend {self.on!r}: name one with model")
            candidates = (Candidate(self.on, known),)
        if model is not None:
            candidates = tuple(Candidate(each.backend, model) for each in candidates)
        return replace(outside.policy, candidates=candidates)


def _one_of(name: str, given: object, known: Collection[str]) -> None:
    if given not in known:
        raise InvalidInput(f"{name}={given!r} means nothing: give one of {', '.join(map(repr, known))}")


def _profile_as_json(profile: Profile | None) -> dict[str, Any] | None:
    return vars(profile) | {"read_only": list(profile.read_only)} if profile is not None else None
