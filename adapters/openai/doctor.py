"""Read models and assistants from the provider for `doctor --online`. Nothing is written there, and no model is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.effects import perform
from threadledger.domain.errors import ProviderRefused

from .assistant_setup import ASSISTANTS, profile_hash_of, profile_of_assistant, search_assistants
from .client import Client
from .limits import ASSISTANT_NAME_CHARS_MAX, ASSISTANT_TOOLS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX
from .objects import fetched, one_page
from .tool_definitions import tool_problems

LOOK_TIMEOUT_SECONDS = 10.0
"""Maximum duration of one request, in seconds."""

NOT_THERE = 404


@dataclass(frozen=True)
class SeenAssistant:
    """Represent an assistant as stored by the provider."""

    assistant_id: str
    name: str
    instructions: str
    model: str
    tools: Sequence[dict[str, Any]]
    profile_hash: str | None
    """Hash of the profile that the assistant was created from; None if it was not created by this ledger."""

    def problems(self) -> Iterator[str]:
        """Return the properties that the provider or a run would refuse, one sentence each."""
        length, taken = len(self.instructions), HOSTED_TOOLS["assistants"] | {"function"}
        if length > INSTRUCTIONS_CHARS_MAX:
            yield f"its instructions have {length:,} characters, but assistants accept at most {INSTRUCTIONS_CHARS_MAX:,}"
        if len(self.tools) > ASSISTANT_TOOLS_MAX:
            yield f"it has {len(self.tools)} tools, but assistants accept at most {ASSISTANT_TOOLS_MAX}"
        for kind in sorted({str(tool.get("type")) for tool in self.tools} - taken):
            yield f"it has a tool of type {kind!r}, but assistants accept only {', '.join(sorted(taken))}"
        yield from tool_problems(self.tools)

    def differences(self, profile: Profile, model: str) -> list[str]:
        """Return the names of the fields that differ from an assistant created from this profile and model."""
        wanted = {
            "name": profile.name[:ASSISTANT_NAME_CHARS_MAX],
            "instructions": profile.instructions,
            "model": model,
            "tools": _plain(profile.tools),
        }
        found = {"name": self.name, "instructions": self.instructions, "model": self.model, "tools": _plain(self.tools)}
        return [name for name in wanted if wanted[name] != found[name]]


class ProviderLook:
    """Read models and assistants of a client's provider, with a short timeout and without the SDK's retries."""

    def __init__(self, client: Client) -> None:
        seconds = min(client.timeout_seconds, LOOK_TIMEOUT_SECONDS)
        self._client = replace(client, timeout_seconds=seconds)

    def close(self) -> None:
        """Close the connections to the provider."""
        self._client.close()

    def models(self) -> dict[str, date | None]:
        """Return the models that this key may use, each with its announced shutdown date or None.

        Raises:
            ProviderRefused: the key is refused, the provider cannot be reached, or the response is not from a provider.
        """
        listed, _ = perform(one_page(self._client, "GET /models", lambda sdk: sdk.models.with_raw_response.list()))
        return {model["id"]: _shutdown(model) for model in listed}

    def model(self, name: str) -> tuple[bool, date | None]:
        """Return whether a model exists, and its announced shutdown date. A list may omit models that exist.

        Raises:
            ProviderRefused: the request failed for a reason other than a missing model.
        """
        try:
            found = perform(
                fetched(self._client, "GET /models/{model}", lambda sdk: sdk.models.with_raw_response.retrieve(name))
            )
            return True, _shutdown(found)
        except ProviderRefused as refused:
            if refused.failure.http_status == NOT_THERE:
                return False, None
            raise

    def assistants_api(self) -> None:
        """Check that the Assistants API is available.

        Raises:
            ProviderRefused: the API does not exist or cannot be reached.
        """
        perform(one_page(self._client, ASSISTANTS, lambda sdk: sdk.beta.assistants.with_raw_response.list(limit=1)))

    def assistant(self, assistant_id: str) -> SeenAssistant:
        """Return an assistant by its id.

        Raises:
            ProviderRefused: the assistant does not exist or cannot be read.
        """
        return _seen(
            perform(
                fetched(
                    self._client,
                    "GET /assistants/{assistant_id}",
                    lambda sdk: sdk.beta.assistants.with_raw_response.retrieve(assistant_id),
                )
            )
        )

    def assistant_made_from(self, profile: Profile, model: str) -> SeenAssistant | None:
        """Return the assistant whose metadata has the hash of this profile; None if there is none.

        Raises:
            ProviderRefused: the list of assistants cannot be read.
        """
        wanted = profile_of_assistant(profile, model).hash

        def found(assistants: list[dict[str, Any]]) -> SeenAssistant | None:
            return next((_seen(each) for each in assistants if profile_hash_of(each) == wanted), None)

        return perform(search_assistants(self._client, found))


def _seen(assistant: Mapping[str, Any]) -> SeenAssistant:
    tools = assistant.get("tools")
    return SeenAssistant(
        assistant_id=assistant["id"],
        name=str(assistant.get("name") or ""),
        instructions=str(assistant.get("instructions") or ""),
        model=str(assistant.get("model") or ""),
        tools=[_without_nulls(tool) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else [],
        profile_hash=profile_hash_of(assistant),
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _shutdown(model: Mapping[str, Any]) -> date | None:
    """Return a model's shutdown date. OpenAI gives a date; Azure gives a Unix timestamp as `deprecation.inference`."""
    shutdown, deprecation = model.get("shutdown_date"), model.get("deprecation")
    if shutdown is None and isinstance(deprecation, dict):
        shutdown = deprecation.get("inference")
    try:
        if isinstance(shutdown, (int, float)):
            return datetime.fromtimestamp(shutdown, UTC).date()
        return date.fromisoformat(str(shutdown)[:10]) if shutdown else None
    except (ValueError, OverflowError, OSError):
        return None


def _plain(tools: Sequence[dict[str, Any]]) -> list[Any]:
    """Return tools in a form that can be compared.

    Fields without a value are removed, because the provider omits or adds them. Hosted tools are reduced to their type,
    because the provider fills in their other fields.
    """
    return [_without_nothing(tool) if tool.get("type") == "function" else {"type": tool.get("type")} for tool in tools]


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _without_nothing(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each not in (None, False, "")}
    return [_without_nothing(each) for each in value] if isinstance(value, list) else value
