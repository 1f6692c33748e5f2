"""Choose the assistant that answers: the one pinned by `OPENAI_ASSISTANT_ID`, or one created from the profile and cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from threadledger.domain.conversation import Profile
from threadledger.domain.effects import Effects, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose

from .client import Client, call, calling
from .limits import ASSISTANT_NAME_CHARS_MAX, PAGE_ITEMS
from .objects import fetched, one_page

PROFILE_HASH = "threadledger_profile"
"""Metadata key of an assistant that holds the hash of the profile it was created from."""

ASSISTANTS = "GET /assistants"
ASSISTANT_PAGES_MAX = 10
"""Maximum number of list pages to search for an existing assistant before a new one is created."""


T = TypeVar("T")


class Remembered(Protocol):
    """Store the ids of created assistants by endpoint and profile hash."""

    def get(self, endpoint: str, profile_hash: str) -> str | None: ...

    def put(self, endpoint: str, profile_hash: str, assistant_id: str) -> None: ...

    def forget(self, assistant_id: str) -> None: ...


class Assistants:
    """Find or create the assistant that a run needs."""

    def __init__(self, client: Client, remembered: Remembered, pinned: str | None = None) -> None:
        self._client = client
        self._remembered = remembered
        self.pinned = pinned

    def for_profile(self, profile: Profile, model: str) -> Effects[str]:
        """Return the id of the assistant for a profile and model; create the assistant if there is none.

        Raises:
            ProviderRefused: the provider refuses to list or create assistants.
        """
        if self.pinned:
            return self.pinned
        wanted = profile_of_assistant(profile, model)
        endpoint, profile_hash = self._client.endpoint, wanted.hash
        known = yield from work(lambda: self._remembered.get(endpoint, profile_hash))
        if known is None:
            made: str = (yield from self._find(profile_hash)) or (yield from self._make(wanted))
            yield from work(lambda: self._remembered.put(endpoint, profile_hash, made))
            return made
        return known

    def forget(self, profile: Profile, model: str) -> Effects[None]:
        """Remove a cached assistant id after the provider reported it missing; the next run finds or creates one."""

        def forget() -> None:
            known = self._remembered.get(self._client.endpoint, profile_of_assistant(profile, model).hash)
            if known is not None:
                self._remembered.forget(known)

        yield from work(forget)

    def _find(self, profile_hash: str) -> Effects[str | None]:
        def found(assistants: list[dict[str, Any]]) -> str | None:
            return next((each["id"] for each in assistants if profile_hash_of(each) == profile_hash), None)

        return (yield from search_assistants(self._client, found))

    def _make(self, profile: Profile) -> Effects[str]:
        tools: Any = profile.tools
        made = yield from fetched(
            self._client,
            "POST /assistants",
            lambda sdk: sdk.beta.assistants.with_raw_response.create(
                model=profile.model or "",
                name=profile.name[:ASSISTANT_NAME_CHARS_MAX],
                instructions=profile.instructions,
                tools=tools,
                metadata={PROFILE_HASH: profile.hash},
            ),
        )
        return str(made["id"])


def profile_of_assistant(profile: Profile, model: str) -> Profile:
    """Return what an assistant is made from: settings are sent with each run."""
    return replace(profile, model=model, settings_json="{}")


def search_assistants(client: Client, found: Callable[[list[dict[str, Any]]], T | None]) -> Effects[T | None]:
    """Return what `found` returns for the first page of assistants on which it returns something.

    At most `ASSISTANT_PAGES_MAX` pages are read. A page that begins like the one before ends the search.

    Raises:
        ProviderRefused: the list cannot be read.
    """
    options: dict[str, Any] = {"order": "asc", "limit": PAGE_ITEMS}
    for _ in range(ASSISTANT_PAGES_MAX):
        page = partial(_assistants_page, dict(options))
        assistants, may_go_on = yield from one_page(client, ASSISTANTS, page)
        result = found(assistants)
        if result is not None or not may_go_on or assistants[-1]["id"] == options.get("after"):
            return result
        options["after"] = assistants[-1]["id"]
    return None


def _assistants_page(options: dict[str, Any], sdk: Any) -> Any:
    return sdk.beta.assistants.with_raw_response.list(**options)


def profile_hash_of(assistant: Mapping[str, Any]) -> str | None:
    """Return the hash of the profile that an assistant was created from; None if this ledger did not create it."""
    metadata = assistant.get("metadata")
    found = metadata.get(PROFILE_HASH) if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None


def shut_down_or(refused: ProviderRefused, client: Client) -> Effects[ProviderRefused]:
    """Return the refusal; after a 404 for one object, add whether the whole Assistants API is gone.

    The provider's responses since the shutdown are not documented beyond the 404, so this lists assistants and adds the
    HTTP status of a failed list request to the details.
    """
    failure = refused.failure
    if failure.http_status != 404 or diagnose(failure) is Cause.ASSISTANT_MISSING:
        return refused
    if "{" not in str(failure.details.get("endpoint", "")) or "found with id" in (failure.message or ""):
        return refused
    try:
        with calling(ASSISTANTS):
            yield call(client, lambda sdk: sdk.beta.assistants.with_raw_response.list(limit=1))
    except ProviderRefused as probe:
        details = dict(failure.details) | {"collection_http_status": probe.failure.http_status}
        return ProviderRefused(replace(failure, details=details))
    return refused
