"""The SDK's client, made at its first use: importing openai takes about a second. Its own retries are always off."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from threadledger.domain import Failure, ProviderRefused

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI_BASE_URL = "https://api.openai.com/v1"


@dataclass
class Client:
    """How the provider is reached. The key never shows in `repr`."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout_seconds: float = 60.0

    @cached_property
    def sdk(self) -> OpenAI:
        """The SDK's client.

        Raises:
            ProviderRefused: there is no key.
        """
        import warnings

        import openai

        # The SDK warns at each call of the Assistants API. Whoever sets it as a backend knows; only our own calls are quiet.
        for module in (r"threadledger\.adapters\.openai\.", r"openai\._legacy_response", r"openai\._utils\._utils"):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
        if not self.api_key:
            raise ProviderRefused(Failure("error", code="missing_credentials", message="OPENAI_API_KEY is not set"))
        return openai.OpenAI(
            api_key=self.api_key,
            base_url=self.base_url or OPENAI_BASE_URL,
            organization=self.organization,
            project=self.project,
            max_retries=0,
            timeout=self.timeout_seconds,
        )

    @property
    def endpoint(self) -> str:
        """The base URL without user, password and query: what tells one provider's threads from another's."""
        parts = urlsplit(self.base_url or OPENAI_BASE_URL)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))

    def close(self) -> None:
        """Close connections, if there are any."""
        if "sdk" in self.__dict__:
            self.sdk.close()
