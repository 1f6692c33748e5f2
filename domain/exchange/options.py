"""Define the options of one exchange: the backend, the model and the instructions that it uses instead of the configured ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from ..conversation import Profile
from ..errors import InvalidInput
from .policy import Candidate, Policy

if TYPE_CHECKING:
    from .services import Services


class AskKeywords(TypedDict, total=False):
    """Declare the optional keyword arguments of `ask` and `stream`; `ExchangeOptions` describes them."""

    model: str | None
    instructions: str | None
    profile: Profile | None
    backend: str | None


@dataclass(frozen=True)
class ExchangeOptions:
    """Hold the options of one exchange; None keeps what is configured."""

    model: str | None = None
    """Model of every backend, also of a fallback."""
    instructions: str | None = None
    """Instructions that replace those of the profile."""
    profile: Profile | None = None
    backend: str | None = None
    """Name of the only backend that is called: there is no fallback."""

    def services_of(self, services: Services) -> Services:
        """Return the services with these options.

        Raises:
            InvalidInput: an option is not valid, there is no such backend, or no model is known for it.
        """
        changed = replace(services, profile=self._profile(services), policy=self.policy_of(services))
        if any(each is not None for each in (self.model, self.instructions, self.profile)):
            for candidate in changed.policy.candidates:
                pinned = getattr(services.backends[candidate.backend], "pinned_assistant", None)
                if pinned:
                    raise InvalidInput(
                        f"the assistant {pinned} has its own instructions, model and tools: no others can be used on "
                        f"{candidate.backend}; choose another backend, or unset OPENAI_ASSISTANT_ID"
                    )
        return changed

    def policy_of(self, services: Services) -> Policy:
        """Return the policy: which backends are called, with which model.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        model = self.model or (self.profile.model if self.profile is not None else None)
        candidates = services.policy.candidates
        if self.backend is not None:
            if self.backend not in services.backends:
                there_are = ", ".join(services.backends) or "none"
                raise InvalidInput(f"there is no backend {self.backend!r}; available backends: {there_are}")
            usual = (*candidates, *services.policy.others)
            candidates = tuple(each for each in usual if each.backend == self.backend)
            if not candidates:  # its model is the first one's
                known = model or next((each.model for each in usual), services.profile.model)
                if known is None:
                    raise InvalidInput(f"no model is known for the backend {self.backend!r}: specify one with model")
                candidates = (Candidate(self.backend, known),)
        if model is not None:
            candidates = tuple(replace(each, model=model) for each in candidates)
        return replace(services.policy, candidates=candidates)

    def _profile(self, services: Services) -> Profile:
        for name, given, kind in (
            ("model", self.model, str),
            ("instructions", self.instructions, str),
            ("profile", self.profile, Profile),
            ("backend", self.backend, str),
        ):
            if given is not None and not isinstance(given, kind):
                raise InvalidInput(f"{name} is {type(given).__name__}: give a {kind.__name__}, or omit it")
        if self.model is not None and not self.model.strip():
            raise InvalidInput("the model is empty: name one, or omit it")
        profile = self.profile or services.profile
        return profile if self.instructions is None else replace(profile, instructions=self.instructions)
