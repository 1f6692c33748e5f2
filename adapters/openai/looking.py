"""What `doctor --online` asks the provider: its models, and assistants. Nothing is written there, and no model is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from threadledger.domain import Profile, ProviderRefused

from .assistant import ASSISTANT_PAGES_MAX, PROFILE_HASH
from .client import Client
from .definitions import tool_problems
from .failures import calling, present
from .limits import ASSISTANT_NAME_CHARS_MAX, ASSISTANT_TOOLS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX, PAGE_ITEMS

LOOK_TIMEOUT_SECONDS = 10.0
"""How long one question of a look may take."""

NOT_THERE = 404


@dataclass(frozen=True)
class SeenAssistant:
    """An assistant as the provider has it."""

    assistant_id: str
    name: str
    instructions: str
    model: str
    tools: Sequence[dict[str, Any]]
    profile_hash: str | None
    """Of the profile that it was made from, if it was made by us."""

    def problems(self) -> Iterator[str]:
        """What the provider, or a run, would refuse of it, a sentence each."""
        length, taken = len(self.instructions), HOSTED_TOOLS["assistants"] | {"function"}
        if length > INSTRUCTIONS_CHARS_MAX:
            yield f"its instructions have {length:,} characters, assistants take {INSTRUCTIONS_CHARS_MAX:,}"
        if len(self.tools) > ASSISTANT_TOOLS_MAX:
            yield f"it has {len(self.tools)} tools, assistants take {ASSISTANT_TOOLS_MAX}"
        for kind in sorted({str(tool.get("type")) for tool in self.tools} - taken):
            yield f"it has a tool of type {kind!r}, assistants take {', '.join(sorted(taken))}"
        yield from tool_problems(self.tools)

    def differences(self, profile: Profile, model: str) -> list[str]:
        """In what it is not as the profile, and the model that it is to use, would make it."""
        wanted = {
            "name": profile.name[:ASSISTANT_NAME_CHARS_MAX],
            "instructions": profile.instructions,
            "model": model,
            "tools": _plain(profile.tools),
        }
        found = {"name": self.name, "instructions": self.instructions, "model": self.model, "tools": _plain(self.tools)}
        return [name for name in wanted if wanted[name] != found[name]]


class ProviderLook:
    """Looks at the provider of a client, briefly. Each question is one request; the SDK's retries are off as ever."""

    def __init__(self, client: Client) -> None:
        seconds = min(client.timeout_seconds, LOOK_TIMEOUT_SECONDS)
        self._client = replace(client, timeout_seconds=seconds)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def models(self) -> dict[str, date | None]:
        """The models that this key may use, with the day each shuts down, where that is announced.

        Raises:
            ProviderRefused: the key is not taken, the provider is not reached, or is none.
        """
        with calling("GET /models"):
            listed = list(self._client.sdk.models.list().data)
            present(*(model.id for model in listed))
            return {model.id: _shutdown(model) for model in listed}

    def model(self, name: str) -> tuple[bool, date | None]:
        """Whether there is a model of this name, which a list need not hold, and the day it shuts down.

        Raises:
            ProviderRefused: for another reason than that there is none.
        """
        try:
            with calling("GET /models/{model}"):
                found = self._client.sdk.models.retrieve(name)
                present(found.id)
                return True, _shutdown(found)
        except ProviderRefused as refused:
            if refused.failure.http_status == NOT_THERE:
                return False, None
            raise

    def assistants_api(self) -> None:
        """Ask whether the Assistants API is there.

        Raises:
            ProviderRefused: it is not, or cannot be reached.
        """
        with calling("GET /assistants"):
            present(*(assistant.id for assistant in self._client.sdk.beta.assistants.list(limit=1).data))

    def assistant(self, assistant_id: str) -> SeenAssistant:
        """One assistant by its id.

        Raises:
            ProviderRefused: there is none, or it cannot be asked for.
        """
        with calling("GET /assistants/{assistant_id}"):
            return _seen(self._client.sdk.beta.assistants.retrieve(assistant_id))

    def assistant_made_from(self, profile: Profile, model: str) -> SeenAssistant | None:
        """The assistant that was made from this profile, by its metadata; None where there is none yet.

        Raises:
            ProviderRefused: the list cannot be read.
        """
        wanted = replace(profile, model=model).hash
        with calling("GET /assistants"):
            page = self._client.sdk.beta.assistants.list(order="asc", limit=PAGE_ITEMS)
            for _ in range(ASSISTANT_PAGES_MAX):
                for assistant in page.data:
                    if (assistant.metadata or {}).get(PROFILE_HASH) == wanted:
                        return _seen(assistant)
                if not page.has_next_page():
                    break
                page = page.get_next_page()
        return None


def _seen(assistant: Any) -> SeenAssistant:
    present(assistant.id)
    return SeenAssistant(
        assistant_id=assistant.id,
        name=assistant.name or "",
        instructions=assistant.instructions or "",
        model=assistant.model or "",
        tools=[tool.model_dump(exclude_none=True) for tool in assistant.tools or []],
        profile_hash=(assistant.metadata or {}).get(PROFILE_HASH),
    )


def _shutdown(model: Any) -> date | None:
    """The day a model shuts down. OpenAI tells it as a date; Azure as Unix seconds, under `deprecation.inference`."""
    told = model.shutdown_date
    if told is None:
        told = ((model.model_extra or {}).get("deprecation") or {}).get("inference")
    try:
        if isinstance(told, (int, float)):
            return datetime.fromtimestamp(told, UTC).date()
        return date.fromisoformat(str(told)[:10]) if told else None
    except (ValueError, OverflowError, OSError):
        return None


def _plain(tools: Sequence[dict[str, Any]]) -> list[Any]:
    """Tools without what is not said: the provider leaves out, or adds, what has no value. Of hosted tools the kind counts:
    what else they have, the provider fills in."""
    return [_without_nothing(tool) if tool["type"] == "function" else {"type": tool["type"]} for tool in tools]


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _without_nothing(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each not in (None, False, "")}
    return [_without_nothing(each) for each in value] if isinstance(value, list) else value
