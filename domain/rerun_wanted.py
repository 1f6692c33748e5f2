"""Define the options of a rerun: which exchanges, which backend, with what, and where the answers go."""

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
"""Where an answer goes: into the conversation itself, into a copy of it, or nowhere (it is only shown)."""

INCLUDE = ("answered", "overtaken", "tools", "interrupted")
"""Kinds of exchanges that are skipped unless they are included."""

TOOLS = ("recorded", "live")


@dataclass(frozen=True)
class Wanted:
    """Hold the options of a rerun."""

    runs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    failed: bool = False
    since: datetime | None = None
    until: datetime | None = None
    cause: Cause | None = None
    backend: str | None = None
    """Backend whose failures are selected."""
    model: str | None = None
    tools: str = "recorded"
    on: str | None = None
    """Backend to call; by default, those of the policy."""
    profile: Profile | None = None
    into: str = "tail"
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            InvalidInput: an option has an invalid value.
        """
        _one_of("tools", self.tools, TOOLS)
        _one_of("into", self.into, INTO)
        for each in self.include:
            _one_of("include", each, INCLUDE)

    @property
    def live(self) -> bool:
        """Return whether recorded tool calls are made again."""
        return self.tools == "live"

    def includes(self, what: str) -> bool:
        """Return whether exchanges of this kind run although they are skipped by default.

        A fork and a shadow neither replace an answer nor follow newer messages, so they always include those two kinds.
        """
        return what in self.include or (self.into != "tail" and what in {"answered", "overtaken"})

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON, enough to make the same plan again."""
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
        """Create the options from JSON; options of a newer version are ignored."""
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
        """Return `outside` with the profile of this rerun."""
        return outside if self.profile is None else replace(outside, profile=self.profile)

    def policy_of(self, outside: Outside) -> Policy:
        """Return the policy: which backends are called, with which model.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        model = self.model or (self.profile.model if self.profile is not None else None)
        candidates = outside.policy.candidates
        if self.on is not None:
            if self.on not in outside.backends:
                there_are = ", ".join(outside.backends) or "none"
                raise InvalidInput(f"there is no backend {self.on!r}; available backends: {there_are}")
            usual = sorted(candidates, key=lambda each: each.backend != self.on)  # its own model, else the first one's
            known = model or next((each.model for each in usual), outside.profile.model)
            if known is None:
                raise InvalidInput(f"no model is known for the backend {self.on!r}: specify one with model")
            candidates = (Candidate(self.on, known),)
        if model is not None:
            candidates = tuple(Candidate(each.backend, model) for each in candidates)
        return replace(outside.policy, candidates=candidates)


def _one_of(name: str, given: object, known: Collection[str]) -> None:
    if given not in known:
        raise InvalidInput(f"{name}={given!r} is not valid: use one of {', '.join(map(repr, known))}")


def _profile_as_json(profile: Profile | None) -> dict[str, Any] | None:
    return vars(profile) | {"read_only": list(profile.read_only)} if profile is not None else None
