"""Define the options of one exchange: what it uses instead of what is configured.

Instructions, tools and sampling make another profile; model, backend and time limit another policy. What differs is
recorded with the question (`requests.py`), so that a rerun can send the same again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from ..arguments import short
from ..conversation import Profile, parse_profile
from ..errors import InvalidInput
from ..limits import OWN_RUN_SECONDS_MAX
from .policy import Candidate, Policy

if TYPE_CHECKING:
    from .conversing import Conversing
    from .services import Services


class AskKeywords(TypedDict, total=False):
    """Declare the optional keyword arguments of `ask`, `stream` and `rerun`; `ExchangeOptions` describes them."""

    model: str | None
    instructions: str | None
    profile: Profile | None
    backend: str | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    temperature: float | None
    top_p: float | None
    max_output_tokens: int | None
    reasoning_effort: str | None
    response_format: Mapping[str, Any] | type[Any] | None
    metadata: Mapping[str, str] | None
    timeout_seconds: float | None
    actor: str | None


METADATA_PAIRS_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 16, 64, 512
"""Limits of metadata. Source: OpenAI's OpenAPI description distributed with openai-python 3.54 (`Metadata`)."""

OWN_METADATA = ("exchange_id", "run_id", "threadledger_")
"""Beginnings of the keys that threadledger itself sends."""

SETTINGS = ("temperature", "top_p", "max_output_tokens", "reasoning_effort", "tool_choice", "response_format")
"""Options that become settings of the profile."""


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
    tools: Sequence[Mapping[str, Any]] | None = None
    """Definitions that replace the tools of the profile, in the format of Chat Completions; functions must be bound."""
    tool_choice: str | Mapping[str, Any] | None = None
    """`auto`, `none`, `required`, the name of a function, or its object; it applies to the first round of tool calls."""
    temperature: float | None = None
    """Sampling temperature, from 0 to 2."""
    top_p: float | None = None
    """Probability mass of nucleus sampling, from 0 to 1."""
    max_output_tokens: int | None = None
    """Limit of the answer, in tokens, at least 16; an answer that reaches it is incomplete."""
    reasoning_effort: str | None = None
    """One of `none`, `minimal`, `low`, `medium`, `high`, `xhigh` and `max`."""
    response_format: Mapping[str, Any] | type[Any] | None = None
    """A pydantic model, or a dict in the format of Chat Completions: see `Answer.parsed`."""
    metadata: Mapping[str, str] | None = None
    """At most 16 pairs of text for providers that store them, and for the journal."""
    timeout_seconds: float | None = None
    """Limit of one attempt, in seconds."""
    keeps_model: bool = False
    """Whether the profile is a recorded one, which does not bring its model."""

    def services_of(self, services: Services) -> Services:
        """Return the services with these options.

        Raises:
            InvalidInput: an option is not valid, there is no such backend, or no model is known for it.
        """
        self._check_texts()
        if self.tools is not None and services.load is not None:
            services.load()  # the functions of a module are known once it is imported
        changed = replace(
            services,
            profile=self._profile(services),
            policy=self.policy_of(services),
            metadata=self._metadata(services),
            answer_type=self.response_format if isinstance(self.response_format, type) else services.answer_type,
        )
        if changed.profile is not services.profile and not (self.keeps_model and changed.profile is self.profile):
            changed.profile.check()  # a recorded one is stored already
        if any(each is not None for each in (self.model, self.instructions, self.profile, self.tools)):
            for candidate in changed.policy.candidates:
                pinned = getattr(services.backends[candidate.backend], "pinned_assistant", None)
                if pinned:
                    raise InvalidInput(
                        f"the assistant {pinned} has its own instructions, model and tools: no others can be used on "
                        f"{candidate.backend}; choose another backend, or unset OPENAI_ASSISTANT_ID"
                    )
        return changed

    def policy_of(self, services: Services) -> Policy:
        """Return the policy: which backends are called, with which model, for how long.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        model, seconds = self.wanted_model, self._seconds()
        policy = services.policy
        candidates = policy.candidates
        if self.backend is not None:
            if self.backend not in services.backends:
                there_are = ", ".join(services.backends) or "none"
                raise InvalidInput(f"there is no backend {self.backend!r}; available backends: {there_are}")
            usual = (*candidates, *policy.others)
            candidates = tuple(each for each in usual if each.backend == self.backend)
            if not candidates:  # its model is the first one's
                known = model or next((each.model for each in usual), services.profile.model)
                if known is None:
                    raise InvalidInput(f"no model is known for the backend {self.backend!r}: specify one with model")
                candidates = (Candidate(self.backend, known),)
        if model is not None:
            candidates = tuple(replace(each, model=model) for each in candidates)
        if seconds is not None:  # the deadline of the whole exchange allows at least one attempt of this length
            candidates = tuple(replace(each, timeout_seconds=seconds) for each in candidates)
            deadline = max(policy.deadline_seconds, seconds)
            policy = replace(policy, timeout_seconds=seconds, deadline_seconds=deadline)
        return replace(policy, candidates=candidates)

    @property
    def wanted_model(self) -> str | None:
        """Return the model that is given, or that the given profile brings; None keeps the configured ones."""
        brought = self.profile.model if self.profile is not None and not self.keeps_model else None
        return self.model or brought

    @property
    def settings(self) -> dict[str, Any]:
        """Return the options that are settings of a profile, as they were given."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}

    @property
    def changes_profile(self) -> bool:
        """Return whether the profile is another one than without these options."""
        given = (self.profile, self.instructions, self.tools)
        return bool(self.settings) or any(each is not None for each in given)

    def _profile(self, services: Services) -> Profile:
        profile = self.profile or services.profile
        if self.instructions is not None:
            profile = replace(profile, instructions=self.instructions)
        settings = self.settings
        if self.tools is None and not settings:
            return profile
        if isinstance(self.response_format, type):
            from .structured import format_of_model

            settings["response_format"] = format_of_model(self.response_format)
        tools = profile.tools if self.tools is None else self.tools
        given = {"tools": tools, "settings": profile.settings | settings}
        parsed = parse_profile(given, "", known=self.tools is None)
        if self.tools is not None:
            _check_tools(parsed.tools, services)
            profile = replace(
                profile, tools_json=parsed.tools_json, read_only=parsed.read_only, approval=parsed.approval
            )
        return replace(profile, settings_json=parsed.settings_json)

    def _check_texts(self) -> None:
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

    def _seconds(self) -> float | None:
        seconds = self.timeout_seconds
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InvalidInput(f"timeout_seconds is {type(seconds).__name__}: give a number of seconds")
        if not 0 < seconds <= OWN_RUN_SECONDS_MAX:
            raise InvalidInput(
                f"timeout_seconds={short(seconds)}: give more than 0 and at most {OWN_RUN_SECONDS_MAX:,.0f} seconds"
            )
        return seconds

    def _metadata(self, services: Services) -> Mapping[str, str]:
        given = self.metadata
        if given is None:
            return services.metadata
        if not isinstance(given, Mapping):
            raise InvalidInput(f"metadata is {type(given).__name__}: give a dict of texts")
        if len(given) > METADATA_PAIRS_MAX:
            raise InvalidInput(f"metadata has {len(given)} pairs: give at most {METADATA_PAIRS_MAX}")
        for key, value in given.items():
            _check_pair(key, value)
        return dict(given)


def _check_pair(key: object, value: object) -> None:
    if not isinstance(key, str) or not isinstance(value, str):
        raise InvalidInput(f"metadata {key!r} is {type(value).__name__}: keys and values are texts")
    if not 1 <= len(key) <= METADATA_KEY_CHARS_MAX or len(value) > METADATA_VALUE_CHARS_MAX:
        raise InvalidInput(
            f"metadata {key[:METADATA_KEY_CHARS_MAX]!r} is too long: a key has 1 to {METADATA_KEY_CHARS_MAX} characters, "
            f"a value at most {METADATA_VALUE_CHARS_MAX}"
        )
    if key.startswith(OWN_METADATA):
        raise InvalidInput(f"metadata {key!r} is a key that threadledger itself sends: choose another one")
    try:
        f"{key}{value}".encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"metadata {key!a} contains half a character (a lone surrogate): pass complete text"
        ) from None


def _check_tools(tools: Sequence[Mapping[str, Any]], services: Services) -> None:
    """Refuse tools of a call that would be lost.

    Raises:
        InvalidInput: a function is not bound.
    """
    for tool in tools:
        name = tool.get("function", {}).get("name") if tool.get("type") == "function" else None
        if name is not None and name not in services.tools:
            raise InvalidInput(
                f"no function is bound to the tool {name!r}: pass it to open(tools={{{name!r}: function}}), or name a module "
                "with THREADLEDGER_TOOLS"
            )


def _check_secrets(services: Services) -> None:
    """Refuse tools of a call whose secrets have no value. A profile that was configured or recorded fails its run instead.

    Raises:
        InvalidInput: a value is not set, or cannot be used.
    """
    if '"secret"' in services.profile.tools_json:
        from ..conversation.tool_secrets import secret_problem

        problem = secret_problem(services.profile.tools, services.secret_of)
        if problem is not None:
            raise InvalidInput(f"nothing was stored or sent, because {problem}")


def chosen_keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, without those that are None.

    Raises:
        InvalidInput: there is no such option.
    """
    known = [each.name for each in fields(ExchangeOptions) if each.name != "keeps_model"]
    unknown = sorted(options.keys() - {*known, "actor"})
    if unknown:
        raise InvalidInput(f"there is no option {unknown[0]!r}: use {', '.join(known)}, actor or idempotency_key")
    return {name: value for name, value in options.items() if value is not None}


def using(chat: Conversing, options: Mapping[str, Any], own: bool = False) -> Conversing:
    """Return a conversation's operations with the options of one exchange, or with its `own` options for all of them.

    Raises:
        InvalidInput: an option is not valid, or the secret of a tool has no value.
    """
    given = chosen_keywords(options)
    actor = given.pop("actor", None)
    changed = copy(chat if actor is None else chat.acting(actor))
    changed.own, changed.given = (given, {}) if own else (chat.own, given)
    if changed.own or given:
        changed.options = ExchangeOptions(**{**changed.own, **given})
        changed.services = changed.options.services_of(chat.base)
    if not own and not given.keys().isdisjoint(("profile", "tools")):
        _check_secrets(changed.services)
    return changed


def without_settings(profile: Profile, names: Sequence[str]) -> Profile:
    """Return a profile without some of its settings."""
    kept = {name: value for name, value in profile.settings.items() if name not in names}
    return replace(profile, settings_json=json.dumps(kept, ensure_ascii=False) if kept else "{}")
