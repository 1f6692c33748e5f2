"""Create the clients of Anthropic's SDK, with its retries off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, Failure

from ..openai import Client

ANTHROPIC_BASE_URL = "https://api.anthropic.com"

SDK_RETRIES = 0
"""Retries by the SDK: none. It repeats a POST after a timeout, which could cause a second paid request."""


@dataclass
class AnthropicClient(Client):
    """Hold the connection settings of the Messages API. The fields for OpenAI's organizations and Azure are ignored."""

    key_name: str = "ANTHROPIC_API_KEY"

    @cached_property
    def sdk(self) -> Any:
        """Return the blocking SDK client.

        Raises:
            ProviderRefused: the key is not set, or the SDK is not installed.
        """
        settings = self._settings()
        import anthropic

        http_client = self.wakeable(anthropic.DefaultHttpxClient(event_hooks=self.hooks(awaited=False)))
        return self.of_settings(anthropic.Anthropic(**settings, http_client=http_client))

    @cached_property
    def async_sdk(self) -> Any:
        """Return the asynchronous SDK client. Its connections belong to the event loop that first used them.

        Raises:
            ProviderRefused: the key is not set, or the SDK is not installed.
        """
        settings = self._settings()
        import anthropic

        http_client = anthropic.DefaultAsyncHttpxClient(event_hooks=self.hooks(awaited=True))
        return self.of_settings(anthropic.AsyncAnthropic(**settings, http_client=http_client))

    @property
    def has_credentials(self) -> bool:
        """Return whether an API key is set; without one, no request is sent."""
        return bool(self.api_key)

    @property
    def endpoint(self) -> str:
        """Return the base URL without user, password, query and version: the SDK adds `/v1` itself."""
        parts = urlsplit(self.base_url or ANTHROPIC_BASE_URL)
        path = parts.path.rstrip("/").removesuffix("/v1")
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of both client classes. The key is passed, so the SDK reads none from the environment."""
        self.allow()
        if not self.has_credentials:
            raise ProviderRefused(Failure("error", code="missing_credentials", message=f"{self.key_name} is not set"))
        if find_spec("anthropic") is None:
            message = "the library anthropic is not installed: pip install 'threadledger[anthropic]'"
            raise ProviderRefused(Failure("refused", code=Cause.ASSISTANT_MISCONFIGURED.value, message=message))
        base_url = (self.base_url or ANTHROPIC_BASE_URL).rstrip("/").removesuffix("/v1")
        return {
            "api_key": self.api_key,
            "base_url": base_url,
            "max_retries": SDK_RETRIES,
            "timeout": self.timeout_seconds,
        }
