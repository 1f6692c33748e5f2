"""Build a ledger with its store, backends, mirrors and outbox from the settings (the composition root)."""

from __future__ import annotations

import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from threadledger.domain.errors import InvalidSettings
from threadledger.domain.failures import keep_secret, redact
from threadledger.domain.journal import Journal, RunLog
from threadledger.domain.ledger import Ledger

from .sql import Database, Factory

if TYPE_CHECKING:
    from datetime import datetime

    from threadledger.domain.conversation import Profile
    from threadledger.domain.conversation.events import ExchangeRequested
    from threadledger.domain.conversation.messages import Usage
    from threadledger.domain.effects import Effects
    from threadledger.domain.exchange import Backend, BackendOptions, Candidate, Policy, Services, ToolFunction
    from threadledger.domain.exchange.served import ServerTool
    from threadledger.domain.journal import Also, Observer
    from threadledger.domain.journal.blobs import BlobFiles
    from threadledger.domain.journal.uploads import Uploads
    from threadledger.domain.threads import MirrorHeads, ThreadMirror

    from .named_backends import Endpoints
    from .openai import Client, ThreadReader
    from .settings import Settings

T = TypeVar("T")


class OnFirstUse(dict[str, T]):
    """Build each value when it is first used: a ledger loads only the backends and the kinds of threads that it needs.

    It is a dict of what was built, which looks up a value without our code, but shows all names.
    """

    def __init__(self, builders: Mapping[str, Callable[[], T]]) -> None:
        super().__init__()
        self._builders = builders

    def __missing__(self, name: str) -> T:
        return self.setdefault(name, self._builders[name]())  # if two threads are first, both use the same value

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._builders else default

    def keys(self) -> Any:
        return KeysView(self)

    def values(self) -> Any:
        return ValuesView(self)

    def items(self) -> Any:
        return ItemsView(self)


def open_ledger(
    settings: Settings,
    *,
    tools: Mapping[str, ToolFunction] | None = None,
    create: bool = True,
    upgrade: bool = True,
    read_only: bool = False,
    replica: bool = False,
    wait: Callable[[float], None] = time.sleep,
    observer: Observer | None = None,
    stays: bool = False,
) -> Ledger:
    """Open a ledger with these settings.

    Only the database is opened; providers are contacted when they are first needed. Without an API key, messages are
    journaled but not mirrored, and the threads catch up once a key is set.

    Args:
        settings: the settings.
        tools: functions that a model may call, by name.
        create, upgrade: whether to create the database if it does not exist, and to upgrade an older schema.
        read_only: whether to do neither, and to refuse appends.
        replica: whether to read from the replica of the settings, if there is one.
        wait: the function that pauses between attempts; takes seconds.
        observer: receives every run's start and end, in addition to the log.
        stays: whether the process serves for a long time: it shares the provider's limits with others on PostgreSQL.

    Raises:
        StoreError, DatabaseMissing: the database cannot be opened.
        InvalidSettings, InvalidProfile: the settings or the profile are not valid.
    """
    profile = settings.load_profile()
    functions = _tools(settings, profile, tools or {})
    settings.require_trust("database")
    _keep_secrets(settings)
    watching = _observers(settings, profile, observer)
    synchronous = settings.synchronous
    database = Database(settings.db, create=create, upgrade=upgrade, read_only=read_only, synchronous=synchronous)
    try:
        if replica and settings.replica is not None:
            database, journal = _replica(settings, database)
        else:
            journal = Journal(Factory(database=database))
    except BaseException:
        database.close()
        raise
    if settings.blobs is not None:
        database.blob_files = cache(partial(_blob_files, settings))
    journal.tenant = settings.tenant or ""
    journal.price = partial(_price_of_run, settings)
    if settings.max_cost_per_conversation is not None or settings.max_cost_per_owner_day is not None:
        from .costs import budgets_of

        journal.budgets = budgets_of(settings, database, journal.price)
    if settings.mirror_by == "worker" and settings.threads != "none" and database.kind.name == "postgresql":
        journal.deferring = _deferring(database)
    journal.watch.observers = (RunLog(settings.log_text), *watching)
    shares = settings.shared_limits
    if shares is None:
        shares = stays and database.kind.name == "postgresql"
    return Ledger(journal, partial(_services, settings, database, journal, profile, functions, wait, shares))


def _replica(settings: Settings, primary: Database) -> tuple[Database, Journal]:
    from .sql import journal_of_replica

    settings.require_trust("replica")
    return journal_of_replica(str(settings.replica), primary, read_only=primary.read_only)


def _blob_files(settings: Settings) -> BlobFiles:
    from .blob_files import files_of

    return files_of(settings)


# Called when a ledger is first asked something: a command that only reads what is stored loads none of this.
def _services(
    settings: Settings,
    database: Database,
    journal: Journal,
    profile: Profile,
    tools: Mapping[str, ToolFunction],
    wait: Callable[[float], None],
    shares: bool,
) -> Services:
    from threadledger.domain.exchange import Services
    from threadledger.domain.threads import ThreadOutbox

    from .formats import MemoryLines

    client = replace(client_of(settings), open_uploads=partial(_uploads, journal))
    shared: dict[str, Any] = {}
    if shares:
        from .shared_limits import health_of, limits_of

        client, shared = replace(client, share=limits_of(database)), {"health": health_of(database)}
    endpoints = _endpoints(settings, client)
    mirrors = _mirrors(endpoints.home if endpoints is not None else client)
    always = [settings.threads] if settings.threads in mirrors else []
    return Services(
        policy=_policy(settings, profile),
        backends=_backends(settings, client, database, endpoints),
        mirrors=mirrors,
        mirrored_to=settings.threads,
        outbox=ThreadOutbox(
            mirrors, partial(_heads, database), always, by_worker=settings.mirror_by == "worker", **shared
        ),
        price=_price,
        price_at=endpoints.prices() if endpoints is not None else {},
        routes=_routes(settings, profile),
        profile=profile,
        tools=tools,
        server_tools={"file_search": partial(_file_search, journal)},
        secret_of=partial(_secret, settings),
        load=partial(_prepare, settings, tools)
        if settings.tools or settings.named or '"secret"' in profile.tools_json
        else None,
        remove_file=partial(_remove_file, client, endpoints),
        memory_file=MemoryLines(),
        wait=wait,
        close=(endpoints or client).close,
        be_interruptible=(endpoints or client).be_interruptible,
        aclose=(endpoints or client).aclose,
        **shared,
    )


def _file_search(journal: Journal, event: ExchangeRequested, tool: Mapping[str, Any]) -> ServerTool:
    from .server import server_tool

    return server_tool(journal, event, tool)


def _uploads(journal: Journal) -> Uploads:
    from threadledger.domain.journal.uploads import Uploads

    return Uploads(journal)


def _remove_file(client: Client, endpoints: Endpoints | None, place: str, file_id: str) -> Effects[None]:
    """Delete a file that was uploaded to the endpoint of one of the backends.

    Raises:
        InvalidInput: there is no such backend.
        ProviderRefused: the file was not deleted.
    """
    from threadledger.domain.errors import InvalidInput

    clients: list[Client] = [client, *(endpoints.every() if endpoints is not None else ())]
    found = next((each for each in clients if each.files_place == place), None)
    if found is None:
        raise InvalidInput(f"no backend at {place} is configured: the file {file_id} was not deleted")
    return found.delete_file(file_id)


def _deferring(database: Database) -> Callable[[str, str], Also]:
    """Return what has the threads of a conversation written by workers, in the transaction of an append."""
    from .workers import mirror_deferral

    return mirror_deferral(database)


def _heads(database: Database) -> MirrorHeads:
    from .sql import SqlMirrorHeads

    return SqlMirrorHeads(database)


def _price_of_run(settings: Settings, backend: str, model: str, usage: Usage, at: datetime) -> float | None:
    from .costs import price_of_run

    return price_of_run(settings, backend, model, usage, at)


def _price(model: str, input_tokens: int, output_tokens: int) -> float | None:
    from .prices import price

    return price(model, input_tokens, output_tokens)


def _policy(settings: Settings, profile: Profile) -> Policy:
    from threadledger.domain.exchange import Policy

    return Policy(
        candidates=tuple(_candidate(settings, profile, name) for name in settings.order),
        others=tuple(_candidate(settings, profile, name) for name in settings.named if name not in settings.order),
        retries=settings.retries,
        timeout_seconds=settings.timeout_seconds,
        memory_last=settings.memory_last,
        memory_tokens=settings.memory_tokens,
        compact_at_tokens=settings.compact_at_tokens,
        compact_keep_last=settings.compact_keep_last,
        deadline_seconds=settings.deadline_seconds,
        while_running=settings.while_running,
        fallback=settings.fallback,
        on_loss=settings.on_loss,
        stream_fallback=settings.stream_fallback,
    )


def _candidate(settings: Settings, profile: Profile, name: str, model: str | None = None) -> Candidate:
    """Return a backend with its model, or another one."""
    from threadledger.domain.exchange import Candidate

    own = settings.named.get(name)
    made = Candidate(name, model or settings.model_for(name, profile))
    return replace(made, timeout_seconds=own.timeout_seconds, retries=own.retries) if own is not None else made


def _routes(settings: Settings, profile: Profile) -> Mapping[str, Sequence[Candidate]]:
    """Return what answers the models that served requests name."""
    if not settings.has_routes:
        return {}
    from .server import target_of

    return {
        name: tuple(_candidate(settings, profile, *target_of(target)) for target in targets)
        for name, targets in settings.serve.models.items()
    }


def _observers(settings: Settings, profile: Profile, given: Observer | None) -> list[Observer]:
    """Return the observers of runs, in addition to the log.

    Raises:
        InvalidSettings: telemetry is enabled, but OpenTelemetry is not installed.
    """
    found = [given] if given is not None else []
    if settings.telemetry:
        try:
            from .telemetry import AZURE_OPENAI, OPENAI, Telemetry
        except ImportError:
            raise InvalidSettings(
                "THREADLEDGER_TELEMETRY is true, but OpenTelemetry is not installed: pip install 'threadledger[otel]'"
            ) from None

        provider = AZURE_OPENAI if settings.azure_openai_endpoint is not None else OPENAI
        found.append(Telemetry(provider, client_of(settings).endpoint, profile.name, text=settings.log_text))
    return found


def _keep_secrets(settings: Settings) -> None:
    """Register the credentials, so that no log and no message shows them."""
    known = (settings.openai_api_key, settings.azure_openai_api_key, settings.azure_openai_ad_token)
    for secret in (*known, settings.webhook, settings.webhook_secret):
        keep_secret(secret.get_secret_value() if secret is not None else None)
    if settings.named:
        from .named_backends import key_of

        for named in settings.named.values():
            keep_secret(key_of(named.api_key_env, settings))


def client_of(settings: Settings) -> Client:
    """Create the provider's client from the settings.

    Raises:
        InvalidSettings: no request can be sent to the address.
    """
    from .openai import Client
    from .settings import is_address

    on_azure = settings.azure_openai_endpoint is not None
    name = "AZURE_OPENAI_ENDPOINT" if on_azure else "OPENAI_BASE_URL"
    address = settings.azure_openai_endpoint or settings.openai_base_url
    if address is not None and not is_address(address):
        raise InvalidSettings(
            f"{name} is not an address ({redact(address)!r}): give one like https://api.openai.com/v1"
        )
    key = settings.azure_openai_api_key if on_azure else settings.openai_api_key
    token = settings.azure_openai_ad_token
    return Client(
        api_key=key.get_secret_value() if key else None,
        base_url=settings.openai_base_url,
        organization=settings.openai_org_id,
        project=settings.openai_project_id,
        timeout_seconds=settings.timeout_seconds,
        azure_endpoint=settings.azure_openai_endpoint,
        api_version=settings.openai_api_version,
        azure_ad_token=token.get_secret_value() if token else None,
        allow=partial(settings.require_trust, "provider"),
    )


def thread_reader(settings: Settings) -> ThreadReader:
    """Create a reader for threads of the provider named by the settings.

    Raises:
        FolderNotTrusted: a command would send a key to a host that only the working folder names.
    """
    from .openai import ThreadReader

    settings.require_trust("provider")
    client = client_of(settings)
    endpoints = _endpoints(settings, client)
    return ThreadReader(endpoints.home if endpoints is not None else client)


def _endpoints(settings: Settings, client: Client) -> Endpoints | None:
    """Return the endpoints of named backends; None if the app names none."""
    if not settings.named:
        return None
    from .named_backends import Endpoints

    return Endpoints(settings, client)


def _tools(settings: Settings, profile: Profile, given: Mapping[str, ToolFunction]) -> Mapping[str, ToolFunction]:
    """Return the app's functions together with the functions of the module named by THREADLEDGER_TOOLS."""
    if not settings.tools:
        return dict(given)
    from .tool_loading import ModuleTools

    return ModuleTools(settings.tools, profile, given)


def _secret(settings: Settings, name: str) -> str | None:
    from .setting_origins import find_secret

    return find_secret(settings, name)


def _prepare(settings: Settings, tools: Mapping[str, ToolFunction]) -> None:
    """Import the functions of tools, and check that their secrets may be sent; called when a model is about to be run."""
    settings.require_trust("secrets")
    if not (settings.tools or settings.named):
        return
    from .tool_loading import ModuleTools, load_from

    sources = settings.require_trust("code")
    load_from(sources)
    if isinstance(tools, ModuleTools):
        tools.load(sources)


def _mirrors(client: Client) -> Mapping[str, ThreadMirror]:
    """Return the kinds of threads that the provider has; none without credentials."""

    def conversations() -> ThreadMirror:
        from .openai import ConversationThreads

        return ConversationThreads(client)

    def assistants() -> ThreadMirror:
        from .openai import AssistantsThreads

        return AssistantsThreads(client)

    builders = {"conversations": conversations, "assistants": assistants}
    return OnFirstUse(builders if client.has_credentials else {})


def _backends(
    settings: Settings, client: Client, database: Database, endpoints: Endpoints | None
) -> Mapping[str, Backend]:
    def place(name: str) -> tuple[Client, BackendOptions, bool]:
        """Return a backend's client, its options, and whether it answers in threads."""
        from threadledger.domain.exchange import BackendOptions

        if endpoints is None:
            return client, BackendOptions(name), True
        return endpoints.client(name), endpoints.options(name), endpoints.answers_in_threads(name)

    def assistants(name: str) -> Backend:
        from .openai import Assistants, AssistantsBackend
        from .sql import RememberedAssistants

        own, options, in_threads = place(name)
        pinned = settings.openai_assistant_id if own is client else None  # its id is unknown elsewhere
        made = Assistants(own, RememberedAssistants(database), pinned)
        return AssistantsBackend(own, made, options, in_threads=in_threads)

    def responses(name: str) -> Backend:
        from .openai import ResponsesBackend

        own, options, in_threads = place(name)
        in_conversations = in_threads and settings.threads == "conversations" and not settings.stateless
        return ResponsesBackend(own, in_conversations, settings.background, options)

    def chat(name: str) -> Backend:
        from .openai import ChatBackend

        return ChatBackend(*place(name)[:2])

    kinds = {"assistants": assistants, "responses": responses, "chat": chat}
    builders: dict[str, Callable[[], Backend]] = {name: partial(build, name) for name, build in kinds.items()}
    if endpoints is not None:
        builders |= endpoints.builders(kinds)
    return OnFirstUse(builders)
