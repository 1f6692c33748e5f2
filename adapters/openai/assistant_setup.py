"""Choose the assistant that answers: the one pinned by `OPENAI_ASSISTANT_ID`, or one created from the profile and cached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from threadledger.domain.conversation import Profile
from threadledger.domain.effects import Call, Effects, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose

from .client import Client, call
from .failures import calling
from .limits import ASSISTANT_NAME_CHARS_MAX, PAGE_ITEMS

PROFILE_HASH = "threadledger_profile"
"""Metadata key of an assistant that holds the hash of the profile it was created from."""

ASSISTANT_PAGES_MAX = 10
"""Maximum number of list pages to search for an existing assistant before a new one is created."""


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
        wanted = replace(profile, model=model)
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
            known = self._remembered.get(self._client.endpoint, replace(profile, model=model).hash)
            if known is not None:
                self._remembered.forget(known)

        yield from work(forget)

    def _find(self, profile_hash: str) -> Effects[str | None]:
        with calling("GET /assistants"):
            page = yield call(self._client, lambda sdk: sdk.beta.assistants.list(order="asc", limit=PAGE_ITEMS))
            for _ in range(ASSISTANT_PAGES_MAX):
                for assistant in page.data:
                    if (assistant.metadata or {}).get(PROFILE_HASH) == profile_hash:
                        found: str = assistant.id
                        return found
                if not page.has_next_page():
                    break
                page = yield Call(page.get_next_page, page.get_next_page)
        return None

    def _make(self, profile: Profile) -> Effects[str]:
        tools: Any = profile.tools
        with calling("POST /assistants"):
            made = yield call(
                self._client,
                lambda sdk: sdk.beta.assistants.create(
                    model=profile.model or "",
                    name=profile.name[:ASSISTANT_NAME_CHARS_MAX],
                    instructions=profile.instructions,
                    tools=tools,
                    metadata={PROFILE_HASH: profile.hash},
                ),
            )
            return str(made.id.strip())


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
        with calling("GET /assistants"):
            yield call(client, lambda sdk: sdk.beta.assistants.list(limit=1))
    except ProviderRefused as probe:
        details = dict(failure.details) | {"collection_http_status": probe.failure.http_status}
        return ProviderRefused(replace(failure, details=details))
    return refused
