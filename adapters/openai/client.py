"""The SDK's clients, made at their first use: importing openai takes about a second. Their own retries are always off."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from threadledger.domain import Failure, ProviderRefused, keep_secret

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

OPENAI_BASE_URL = "https://api.openai.com/v1"

SDK_RETRIES = 0
"""The SDK sends a POST again without an idempotency key: what timed out would be asked, written and paid for twice."""


@dataclass
class Client:
    """How the provider is reached: OpenAI or a server that speaks its protocol, or Azure where `azure_endpoint` is set.

    On Azure `api_key` is Azure's, an `azure_ad_token` goes before it, and `base_url` is not used. Without an
    `azure_deployment` the model's name is the deployment's. No secret shows in `repr`.
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout_seconds: float = 60.0
    azure_endpoint: str | None = None
    azure_deployment: str | None = None
    api_version: str | None = None
    azure_ad_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        keep_secret(self.api_key)
        keep_secret(self.azure_ad_token)

    @cached_property
    def sdk(self) -> OpenAI:
        """The SDK's client (`AzureOpenAI` is one too).

        Raises:
            ProviderRefused: there is no key, or no API version for Azure.
        """
        settings = self._settings()
        import openai

        return openai.AzureOpenAI(**settings) if self.azure_endpoint else openai.OpenAI(**settings)

    @cached_property
    def async_sdk(self) -> AsyncOpenAI:
        """The same for `await`. Its connections belong to the event loop that first used them.

        Raises:
            ProviderRefused: there is no key, or no API version for Azure.
        """
        settings = self._settings()
        import openai

        return openai.AsyncAzureOpenAI(**settings) if self.azure_endpoint else openai.AsyncOpenAI(**settings)

    @property
    def has_credentials(self) -> bool:
        """Whether there is anything to show to the provider: without it nobody is called."""
        return bool(self.api_key or (self.azure_endpoint and self.azure_ad_token))

    @property
    def endpoint(self) -> str:
        """The base URL without user, password and query: what tells one provider's threads from another's.

        Azure keeps threads by resource, not by deployment or API version, so these are no part of it.
        """
        base_url = f"{self.azure_endpoint.rstrip('/')}/openai" if self.azure_endpoint else self.base_url
        parts = urlsplit(base_url or OPENAI_BASE_URL)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))

    def close(self) -> None:
        """Close the connections of `sdk`, if there are any."""
        if "sdk" in self.__dict__:
            self.sdk.close()

    async def aclose(self) -> None:
        """Close the connections of both clients, if there are any."""
        if "async_sdk" in self.__dict__:
            await self.async_sdk.close()
        self.close()

    def _settings(self) -> dict[str, Any]:
        """What both kinds of client are made with. All that opens a door is given, so that none is taken from elsewhere."""
        if not self.has_credentials:
            name = "AZURE_OPENAI_API_KEY" if self.azure_endpoint else "OPENAI_API_KEY"
            raise _missing(name)
        _quieten()
        shared: dict[str, Any] = {
            "organization": self.organization,
            "project": self.project,
            "max_retries": SDK_RETRIES,
            "timeout": self.timeout_seconds,
        }
        if not self.azure_endpoint:
            return shared | {"api_key": self.api_key, "base_url": self.base_url or OPENAI_BASE_URL}
        if not self.api_version:
            raise _missing("OPENAI_API_VERSION")
        # The SDK takes one of the two and refuses both.
        door = {"azure_ad_token": self.azure_ad_token} if self.azure_ad_token else {"api_key": self.api_key}
        place = {"azure_endpoint": self.azure_endpoint, "azure_deployment": self.azure_deployment}
        return shared | door | place | {"api_version": self.api_version}


def _missing(name: str) -> ProviderRefused:
    return ProviderRefused(Failure("error", code="missing_credentials", message=f"{name} is not set"))


def _quieten() -> None:
    """The SDK warns at each call of the Assistants API. Whoever sets it as a backend knows; only our calls are quiet."""
    import warnings

    for module in (r"threadledger\.adapters\.openai\.", r"openai\._legacy_response", r"openai\._utils\._utils"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
