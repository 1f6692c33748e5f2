"""Define the options of a rerun: which exchanges, which backend, with what, where the answers go, and the limits.

`RerunItem` is one exchange, as planned and with its outcome. `Budget` tracks the runs and US dollars that remain; all
exchanges in progress share it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from ..conversation import FailureFilter, Profile
from ..conversation.messages import Usage
from ..errors import InvalidInput
from ..exchange import ExchangeOptions, Policy, Services
from ..failures import Cause
from ..ids import from_iso, to_iso

INTO = ("tail", "fork", "shadow")
"""Where an answer goes: into the conversation itself, into a copy of it, or nowhere (it is only shown)."""

INCLUDE = ("answered", "overtaken", "tools", "interrupted")
"""Kinds of exchanges that are skipped unless they are included."""

TOOLS = ("recorded", "live")


@dataclass(frozen=True)
class Wanted:
    """Hold the options of a rerun."""

    runs: tuple[str, ...] | None = None
    """Selected runs; None selects by the other options."""
    keys: tuple[str, ...] | None = None
    failed: bool = False
    since: datetime | None = None
    until: datetime | None = None
    cause: Cause | None = None
    backend: str | None = None
    """Backend whose failures are selected."""
    model: str | None = None
    tools: str = "recorded"
    on: str | None = None
    """Backend to call; by default, the policy's backends."""
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
        """Return whether the functions of recorded tool calls are called again."""
        return self.tools == "live"

    @property
    def filters_failures(self) -> bool:
        """Return whether only failed runs are selected, because an option describes a failure."""
        return self.failed or any(each is not None for each in (self.since, self.until, self.cause, self.backend))

    def matching(self, unanswered: bool) -> FailureFilter:
        """Return the filter of the failures that the options describe."""
        return FailureFilter(self.since, self.until, self.cause, None, self.backend, unanswered)

    def includes(self, what: str) -> bool:
        """Return whether exchanges of this kind run although they are skipped by default.

        A fork and a shadow neither replace an answer nor follow newer messages, so they always include those two kinds.
        """
        return what in self.include or (self.into != "tail" and what in {"answered", "overtaken"})

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON, enough to make the same plan again."""
        given = vars(self) | {
            "runs": list(self.runs or ()),
            "keys": list(self.keys or ()),
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
            profile |= {name: tuple(profile.get(name, ())) for name in ("read_only", "approval")}
            given["profile"] = Profile(**profile)
        return cls(**given)

    def services_of(self, services: Services) -> Services:
        """Return the services with the profile of this rerun."""
        return services if self.profile is None else replace(services, profile=self.profile)

    def policy_of(self, services: Services) -> Policy:
        """Return the policy: which backends are called, with which model.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        return ExchangeOptions(model=self.model, profile=self.profile, backend=self.on).policy_of(services)


def _one_of(name: str, given: object, known: Collection[str]) -> None:
    if given not in known:
        raise InvalidInput(f"{name}={given!r} is not valid: use one of {', '.join(map(repr, known))}")


def _profile_as_json(profile: Profile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    given = {each.name: getattr(profile, each.name) for each in fields(profile)}  # `vars` may also have its hash
    return given | {"read_only": list(profile.read_only), "approval": list(profile.approval)}


_NOT_REPORTED = frozenset({"version", "kind", "runs_made"})


@dataclass(frozen=True, slots=True)
class RerunItem:
    """Describe one exchange: the run whose memory is used again, the backend to call, and the outcome."""

    key: str
    exchange_id: str
    run_id: str
    state: str = "planned"
    """One of `planned`, `answered`, `failed` and `skipped`."""
    reason: str = ""
    answer: str | None = None
    new_run_id: str | None = None
    backend: str | None = None
    model: str | None = None
    estimated_tokens: int | None = None
    estimated_cost: float | None = None
    usage: Usage | None = None
    original: str | None = None
    """Recorded answer of the exchange, or why there is none; only set for a fork or a shadow run."""
    fork: str | None = None
    """Key of the conversation in which it is answered."""
    cost: float | None = None
    """Cost of the runs of this item, in US dollars; None if a usage or a price is unknown."""
    version: int = 0
    """Version of the conversation when the item was planned."""
    kind: str = ""
    """Kinds of the obstacles, separated by commas: values of `INCLUDE`, or other words."""
    runs_made: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the keys that scripts rely on, and some more."""
        values = {name: getattr(self, name) for name in self.__slots__ if name not in _NOT_REPORTED}
        return values | {"usage": self.usage.as_json() if self.usage else None}

    def pin(self) -> dict[str, Any]:
        """Return the data that another process needs to process the item."""
        pin = {"key": self.key, "version": self.version, "exchange_id": self.exchange_id, "run_id": self.run_id}
        return pin | ({"fork": self.fork} if self.fork is not None else {})

    @classmethod
    def of(cls, pin: Mapping[str, Any]) -> RerunItem:
        """Create an item from its pin."""
        return cls(pin["key"], pin["exchange_id"], pin["run_id"], version=pin["version"], fork=pin.get("fork"))


@dataclass(frozen=True)
class Limits:
    """Hold the limits of a rerun; None sets no limit."""

    max_runs: int | None = None
    max_cost: float | None = None
    """Maximum cost, in US dollars."""

    def __post_init__(self) -> None:
        """Validate the limits.

        Raises:
            InvalidInput: a limit is not positive.
        """
        for name, limit in (("max_runs", self.max_runs), ("max_cost", self.max_cost)):
            if limit is not None and not limit > 0:
                raise InvalidInput(f"{name}={limit} allows nothing: use a number greater than 0, or omit it")


class Budget:
    """Track the runs and US dollars that remain within the limits. Threads may share it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._runs = 0
        self._spent = 0.0
        self._under_way = 0.0

    @property
    def runs(self) -> int:
        """Return the number of started runs."""
        return self._runs

    @property
    def spent(self) -> float:
        """Return the US dollars spent, as far as they are known."""
        return self._spent

    def begin(self, estimate: float) -> str:
        """Start an exchange with an estimated cost, or return the limit that prevents it.

        Every exchange that was started must be ended.
        """
        with self._lock:
            reached = self._no_run_left()
            if self.limits.max_cost is not None and not reached:
                would_be = self._spent + self._under_way + estimate
                reached = self._cost_limit_reason() if would_be >= self.limits.max_cost else ""
            self._under_way += 0.0 if reached else estimate
            return reached

    def end(self, estimate: float, cost: float) -> None:
        """End an exchange that was started, and add its cost."""
        with self._lock:
            self._under_way = max(self._under_way - estimate, 0.0)
            self._spent += cost

    def take_run(self) -> str:
        """Count a run that is about to start, or return the limit if it allows no further run."""
        with self._lock:
            reached = self._no_run_left()
            self._runs += 0 if reached else 1
            return reached

    def give_back_run(self) -> None:
        """Remove a counted run that was not started."""
        with self._lock:
            self._runs -= 1

    def _no_run_left(self) -> str:
        most = self.limits.max_runs
        return f"stopped by the limit of {most} runs" if most is not None and self._runs >= most else ""

    def _cost_limit_reason(self) -> str:
        return f"stopped by the limit of {self.limits.max_cost:g} USD: {self._spent:.4f} USD have been spent"
