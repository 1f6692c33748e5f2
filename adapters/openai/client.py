"""Create the SDK's clients at first use, because importing openai takes about a second. SDK retries are always disabled.

Each SDK call is an effect (`call`) that runs on the blocking or on the asynchronous client; the same is true of streams
and of lists.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from threadledger.domain.effects import Call, Effects
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Failure, keep_secret

from .failures import calling, present

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


END: Any = object()
"""Result of `next_event` when the stream has ended."""

TOO_LONG = "the stream did not end before its deadline"


def call(client: Client, do: Callable[[Any], Any]) -> Call:
    """Return the effect of one SDK call: `do` receives the SDK's client and returns the response, or an awaitable of it."""
    return Call(lambda: do(client.sdk), lambda: do(client.async_sdk))


class Stream:
    """Wrap an open stream of either client and close it at its deadline.

    A read timeout does not limit a stream: every byte received restarts it, including bytes that are not part of an event.
    """

    def __init__(self, stream: Any, seconds: float, *, watched: bool) -> None:
        self.response = stream.response
        self._stream = stream
        self._until = time.monotonic() + seconds
        self._cut: threading.Timer | None = None
        if watched:  # asynchronous reads have a separate timeout; a blocked thread is woken by closing the response
            self._cut = threading.Timer(seconds, self.response.close)
            self._cut.daemon = True
            self._cut.start()

    def __next__(self) -> Any:
        try:
            event = next(self._stream, END)
        except Exception as error:
            raise self._why(error) from error
        if event is END and time.monotonic() >= self._until:
            raise TimeoutError(TOO_LONG)
        return event

    async def __anext__(self) -> Any:
        async with asyncio.timeout(max(self._until - time.monotonic(), 0)):
            return await anext(self._stream, END)

    def close(self) -> Any:
        """Close the stream; for the asynchronous client, return an awaitable."""
        if self._cut is not None:
            self._cut.cancel()
        return self._stream.close()

    def _why(self, error: Exception) -> Exception:
        return TimeoutError(TOO_LONG) if time.monotonic() >= self._until else error


def opened(client: Client, open_stream: Callable[[Any], Any], seconds: float) -> Call:
    """Open a stream that is closed after the given number of seconds."""

    async def awaited() -> Stream:
        return Stream(await open_stream(client.async_sdk), seconds, watched=False)

    return Call(lambda: Stream(open_stream(client.sdk), seconds, watched=True), awaited)


def next_event(stream: Stream) -> Call:
    """Read the next event of an open stream, or `END`."""
    return Call(lambda: next(stream), lambda: anext(stream))


def closing(stream: Stream) -> Call:
    """Close a stream, whether it has ended or not."""
    return Call(stream.close, stream.close)


def every(client: Client, first: Callable[[Any], Any]) -> Effects[list[Any]]:
    """Return all objects of a list, page by page; `first` requests the first page."""
    page = yield call(client, first)
    found = list(page.data)  # fails if the response has no list, instead of treating it as empty
    while page.has_next_page():
        page = yield Call(page.get_next_page, page.get_next_page)
        found += page.data
    return found


def deleted(client: Client, endpoint: str, thread_id: str, delete: Callable[[Any], Any]) -> Effects[None]:
    """Delete one object of a thread; do nothing if it is already deleted."""
    try:
        with calling(endpoint, thread_id):
            answered = yield call(client, delete)
            present(answered.id)
    except ProviderRefused as refused:
        if refused.failure.http_status != 404:
            raise


def request_id_of(stream: Stream) -> str | None:
    """Return the provider's id of the request that opened a stream."""
    found: str | None = stream.response.headers.get("x-request-id")
    return found
