"""Create the SDK's clients at first use, because importing openai takes about a second. SDK retries are always disabled."""

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
"""Retries by the SDK: none. It repeats a POST without an idempotency key, so a timeout could cause a second paid request."""


@dataclass
class Client:
    """Hold the connection settings of a provider: OpenAI, a compatible server, or Azure if `azure_endpoint` is set.

    On Azure, `api_key` is the Azure key, `azure_ad_token` takes precedence over it, and `base_url` is ignored. Without
    `azure_deployment`, the model name is used as the deployment name. `repr` does not show secrets.
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
        """Return the blocking SDK client (`AzureOpenAI` is a subclass).

        Raises:
            ProviderRefused: the key, or the API version for Azure, is not set.
        """
        settings = self._settings()
        import openai

        return openai.AzureOpenAI(**settings) if self.azure_endpoint else openai.OpenAI(**settings)

    @cached_property
    def async_sdk(self) -> AsyncOpenAI:
        """Return the asynchronous SDK client. Its connections belong to the event loop that first used them.

        Raises:
            ProviderRefused: the key, or the API version for Azure, is not set.
        """
        settings = self._settings()
        import openai

        return openai.AsyncAzureOpenAI(**settings) if self.azure_endpoint else openai.AsyncOpenAI(**settings)

    @property
    def has_credentials(self) -> bool:
        """Return whether an API key or an Azure AD token is set; without one, no request is sent."""
        return bool(self.api_key or (self.azure_endpoint and self.azure_ad_token))

    @property
    def endpoint(self) -> str:
        """Return the base URL without user, password and query; it distinguishes the threads of different providers.

        Azure stores threads per resource, so the deployment and the API version are not included.
        """
        base_url = f"{self.azure_endpoint.rstrip('/')}/openai" if self.azure_endpoint else self.base_url
        parts = urlsplit(base_url or OPENAI_BASE_URL)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))

    def close(self) -> None:
        """Close the connections of `sdk`, if it was used."""
        if "sdk" in self.__dict__:
            self.sdk.close()

    async def aclose(self) -> None:
        """Close the connections of both clients, if they were used."""
        if "async_sdk" in self.__dict__:
            await self.async_sdk.close()
        self.close()

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of both client classes. All credentials are passed, so the SDK reads none from the
        environment."""
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
        # The SDK accepts either credential, but not both.
        door = {"azure_ad_token": self.azure_ad_token} if self.azure_ad_token else {"api_key": self.api_key}
        place = {"azure_endpoint": self.azure_endpoint, "azure_deployment": self.azure_deployment}
        return shared | door | place | {"api_version": self.api_version}


def _missing(name: str) -> ProviderRefused:
    return ProviderRefused(Failure("error", code="missing_credentials", message=f"{name} is not set"))


def _quieten() -> None:
    """Suppress the SDK's deprecation warning for each Assistants API call made here; the app's own calls still warn."""
    import warnings

    for module in (r"threadledger\.adapters\.openai\.", r"openai\._legacy_response", r"openai\._utils\._utils"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
