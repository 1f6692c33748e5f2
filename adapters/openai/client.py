"""Create the SDK's clients and send requests. SDK retries are always disabled.

Each SDK call is an effect (`call`) that runs on the blocking or on the asynchronous client. Requests are made with the
SDK's `with_raw_response`, because the SDK creates an object from any body: the JSON on the wire is read by `bodies.py`,
`objects.py` and `folds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

from threadledger.domain.conversation.messages import Usage
from threadledger.domain.effects import ApprovalNeeded, Call, Effects
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Failure, keep_secret

from .bodies import Context, Seen, read_body

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from threadledger.domain.exchange import BackendOptions
    from threadledger.domain.journal.uploads import Uploads
    from threadledger.domain.memory import Memory

    from ..shared_limits import SharedLimits

SDK = TypeVar("SDK")

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
    key_name: str = "OPENAI_API_KEY"
    """Name of the setting or variable that has the key."""

    is_home: bool = True
    """Whether this is the provider that the SDK's environment variables are about (`OPENAI_CUSTOM_HEADERS`)."""

    allow: Callable[[], object] = field(default=lambda: None, repr=False, compare=False)
    """Called before the SDK is used; raises if nothing may be sent there."""

    open_uploads: Callable[[], Uploads | None] = field(default=lambda: None, repr=False, compare=False)
    """Returns the record of uploaded attachments; None: nothing is uploaded."""

    share: Callable[[str, str], SharedLimits] | None = field(default=None, repr=False, compare=False)
    """Returns what all processes may send to an endpoint together with a key; None if each process is on its own."""

    has_no_files: bool = field(default=False, repr=False, compare=False)
    """Whether the provider was found to have no Files API."""

    is_interruptible: bool = field(default=False, repr=False, compare=False)
    """Whether another thread can end what the blocking client waits for."""

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

        settings["http_client"] = self.wakeable(openai.DefaultHttpxClient(event_hooks=self.hooks(awaited=False)))
        return self.of_settings(openai.AzureOpenAI(**settings) if self.azure_endpoint else openai.OpenAI(**settings))

    @cached_property
    def async_sdk(self) -> AsyncOpenAI:
        """Return the asynchronous SDK client. Its connections belong to the event loop that first used them.

        Raises:
            ProviderRefused: the key, or the API version for Azure, is not set.
        """
        settings = self._settings()
        import openai

        settings["http_client"] = openai.DefaultAsyncHttpxClient(event_hooks=self.hooks(awaited=True))
        kind = openai.AsyncAzureOpenAI if self.azure_endpoint else openai.AsyncOpenAI
        return self.of_settings(kind(**settings))

    def of_settings(self, sdk: SDK) -> SDK:
        """Return the SDK's client without what it took from the environment for another provider: account and headers."""
        made: Any = sdk
        if hasattr(made, "organization"):
            made.organization, made.project = self.organization, self.project
        if not self.is_home:
            made._custom_headers = {}  # the SDK has no public way to ignore the headers of the environment
        return sdk

    def hooks(self, *, awaited: bool) -> dict[str, list[Callable[..., Any]]]:
        """Return the hooks of an HTTP client, blocking or asynchronous: no redirect to another origin is followed, and shared
        limits are kept."""

        async def refuse(response: Any) -> None:
            refuse_other_origins(response)

        hooks: dict[str, list[Callable[..., Any]]] = {"response": [refuse if awaited else refuse_other_origins]}
        if self.share is not None:
            before, after = self.share(self.endpoint, self.azure_ad_token or self.api_key or "").hooks(awaited=awaited)
            hooks["request"] = [before]
            hooks["response"].append(after)
        return hooks

    def load(self, resource: str) -> None:
        """Import the SDK and create the blocking client, so that the time for it is not part of a run.

        Args:
            resource: the client's attribute that will be called, such as `chat.completions`; the SDK imports it on access.
        """
        if self.has_credentials:
            with suppress(ProviderRefused):  # the run reports what is not set
                attrgetter(f"{resource}.with_raw_response")(self.sdk)

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

    @cached_property
    def uploads(self) -> Uploads | None:
        """Return the record of uploaded attachments; None: nothing is uploaded."""
        return self.open_uploads()

    @property
    def files_place(self) -> str:
        """Return where uploaded files are: another key at the same endpoint may be another account."""
        return self.endpoint if self.is_home else f"{self.endpoint} ({self.key_name})"

    def be_interruptible(self) -> None:
        """Allow another thread to end what the blocking client waits for; call this before the client is used."""
        self.is_interruptible = True
        self.close()

    def wakeable(self, http_client: Any) -> Any:
        """Return the HTTP client of the blocking SDK, whose connections another thread can end if that is wanted."""
        if not self.is_interruptible:
            return http_client
        from ..wakeable_http import make_wakeable

        return make_wakeable(http_client)

    def delete_file(self, file_id: str) -> Effects[None]:
        """Delete an uploaded file; see `uploads.py`."""
        from .uploads import delete_file

        return delete_file(self, file_id)

    def close(self) -> None:
        """Close the connections of `sdk`, if it was used; the next call opens new ones."""
        if "sdk" in self.__dict__:
            self.__dict__.pop("sdk").close()

    async def aclose(self) -> None:
        """Close the connections of both clients, if they were used."""
        if "async_sdk" in self.__dict__:
            await self.__dict__.pop("async_sdk").close()
        self.close()

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of both client classes. All credentials are passed, so the SDK reads none from the
        environment."""
        self.allow()
        if not self.has_credentials:
            raise _missing("AZURE_OPENAI_API_KEY" if self.azure_endpoint else self.key_name)
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


def extra_body(options: BackendOptions) -> dict[str, Any]:
    """Return the argument of an SDK call that adds the parameters of a named backend."""
    return {"extra_body": dict(options.extra)} if options.extra else {}


def as_written(extra: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an SDK call that send `body` as it is, besides the `extra` ones.

    Its other arguments are converted by their types, which takes time for each message (0.5 ms in all for the shortest question
    with the asynchronous client of openai-python 3.54); these are JSON already.
    """
    return {**extra, "extra_body": {**(extra.get("extra_body") or {}), **body}}


class RedirectRefused(Exception):
    """Raised when a server redirects a request to another origin: question and key are not sent there."""


def refuse_other_origins(response: Any) -> None:
    """Prevent a redirect to another origin: the question would be sent there, to a host that no setting names.

    Raises:
        RedirectRefused: the response redirects to another scheme, host or port.
    """
    if not response.has_redirect_location:
        return
    target = urlsplit(urljoin(str(response.url), response.headers["location"]))
    origin = urlsplit(str(response.url))
    if (target.scheme, target.netloc) != (origin.scheme, origin.netloc):
        place = f"{target.scheme}://{target.netloc.rpartition('@')[2]}"
        raise RedirectRefused(
            f"the server redirects to {place}, and nothing was sent there: if that is the right server, set its address "
            "as the base URL"
        )


def _missing(name: str) -> ProviderRefused:
    return ProviderRefused(Failure("error", code="missing_credentials", message=f"{name} is not set"))


def _quieten() -> None:
    """Suppress the SDK's deprecation warning for each Assistants API call made here; the app's own calls still warn."""
    import warnings

    for module in (r"threadledger\.adapters\.openai\.", r"openai\._legacy_response", r"openai\._utils\._utils"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)


def call(client: Client, do: Callable[[Any], Any]) -> Call:
    """Return the effect of one SDK call: `do` receives the SDK's client and returns the response, or an awaitable of it."""
    return Call(lambda: do(client.sdk), lambda: do(client.async_sdk))


def with_attachments(
    client: Client,
    entries: list[Any],
    dialect: str,
    memory: Memory,
    seconds: float,
    send: Callable[[list[Any]], Effects[SDK]],
) -> Effects[SDK]:
    """Send messages or items with their attachments, as data or by the ids of files that are uploaded first.

    Raises:
        ProviderRefused: an upload or the request failed, or the data is too large for a request.
    """
    if not memory.has_parts:
        return (yield from send(entries))
    from .uploads import on_wire, without_gone_uploads

    given, sent = yield from on_wire(client, entries, dialect, memory.read_blob, seconds)
    try:
        return (yield from send(given))
    except ProviderRefused as refused:
        raise (yield from without_gone_uploads(client, refused, sent.file_ids, memory, dialect)) from refused


@contextmanager
def calling(endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None) -> Iterator[None]:
    """Convert exceptions of one call to `ProviderRefused`; `endpoint` is its method and path template.

    Raises:
        ProviderRefused: the call failed; `failure` has the facts.
    """
    try:
        yield
    except ProviderRefused:
        raise
    except Exception as error:
        from .failures import failure_of

        raise ProviderRefused(failure_of(error, endpoint, thread_id, remote_run_id)) from error


def context_of(raw: Any, context: Context) -> Context:
    """Return the context with the facts of a raw response, or of the response of a stream."""
    headers = raw.headers
    return replace(
        context,
        request_id=request_id_in(headers),
        http_status=raw.status_code,
        content_type=headers.get("content-type", ""),
        headers=headers,
    )


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of a request: OpenAI's header, or the one of Anthropic, AWS or a gateway."""
    return next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)


_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "apim-request-id", "cf-ray")


def read_reply(raw: Any, context: Context) -> Seen:
    """Read the state of a run from a raw response."""
    return read_body(raw.http_response.content, context_of(raw, context))


USAGE = "usage"
"""Key in a failure's details for the tokens of its run, if the provider reported them."""


class Spent:
    """Count the tokens of one run."""

    def __init__(self) -> None:
        self.usage = Usage()

    def add(self, usage: Usage) -> None:
        """Add the tokens of one response."""
        names = Usage.__dataclass_fields__
        self.usage = Usage(**{name: getattr(self.usage, name) + getattr(usage, name) for name in names})

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Add the tokens used so far to a failure raised in this block."""
        try:
            yield
        except ApprovalNeeded as needed:  # the run ends here, and its tokens are known
            needed.usage = self.usage
            raise
        except ProviderRefused as refused:
            if self.usage == Usage():
                raise
            raise ProviderRefused(self._with_usage(refused.failure)) from refused

    def _with_usage(self, failure: Failure) -> Failure:
        counts = {"input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens}
        return replace(failure, details=dict(failure.details) | {USAGE: counts})
