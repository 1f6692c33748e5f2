"""Build a ledger with its store, backends, mirrors and outbox from the settings (the composition root)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from threadledger.domain.conversation import Profile
from threadledger.domain.errors import InvalidSettings
from threadledger.domain.exchange import Backend, Candidate, Policy, Services, ToolFunction
from threadledger.domain.journal import Journal, Observer, RunLog
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadMirror

from .formats import MemoryLines
from .mirroring import ThreadOutbox
from .openai import (
    Assistants,
    AssistantsBackend,
    AssistantsThreads,
    ChatBackend,
    Client,
    ConversationThreads,
    ResponsesBackend,
    ThreadReader,
)
from .prices import price
from .settings import Settings
from .sql import Database, Factory, RememberedAssistants, SqlMirrorHeads
from .telemetry import AZURE_OPENAI, OPENAI
from .tool_loading import load_tools


def open_ledger(
    settings: Settings,
    *,
    tools: Mapping[str, ToolFunction] | None = None,
    create: bool = True,
    wait: Callable[[float], None] = time.sleep,
    observer: Observer | None = None,
) -> Ledger:
    """Open a ledger with these settings.

    Only the database is opened; providers are contacted when they are first needed. Without an API key, messages are
    journaled but not mirrored, and the threads catch up once a key is set.

    Args:
        settings: the settings.
        tools: functions that a model may call, by name.
        create: whether to create the database if it does not exist.
        wait: the function that pauses between attempts; takes seconds.
        observer: receives every run's start and end, in addition to the log.

    Raises:
        StoreError, DatabaseMissing: the database cannot be opened.
        InvalidSettings, InvalidProfile: the settings or the profile are not valid.
    """
    profile = settings.load_profile()
    functions = _tools(settings, profile, tools or {})
    client = client_of(settings)
    watching = _observers(settings, client, profile, observer)
    database = Database(settings.db, create=create, synchronous=settings.synchronous)
    try:
        journal = Journal(Factory(database=database))
    except BaseException:
        database.close()
        raise
    journal.watch.observers = (RunLog(settings.log_text), *watching)
    mirrors: dict[str, ThreadMirror] = {}
    if client.has_credentials:
        mirrors = {mirror.name: mirror for mirror in (ConversationThreads(client), AssistantsThreads(client))}
    always = [settings.threads] if settings.threads in mirrors else []
    services = Services(
        policy=Policy(
            candidates=tuple(Candidate(name, settings.model_for(name, profile)) for name in settings.order),
            retries=settings.retries,
            timeout_seconds=settings.timeout_seconds,
            memory_last=settings.memory_last,
            memory_tokens=settings.memory_tokens,
            deadline_seconds=settings.deadline_seconds,
            while_running=settings.while_running,
        ),
        backends=_backends(settings, client, database),
        mirrors=mirrors,
        mirrored_to=settings.threads,
        outbox=ThreadOutbox(mirrors, SqlMirrorHeads(database), always),
        price=price,
        profile=profile,
        tools=functions,
        memory_file=MemoryLines(),
        wait=wait,
        close=client.close,
        aclose=client.aclose,
    )
    return Ledger(journal, services)


def _observers(settings: Settings, client: Client, profile: Profile, given: Observer | None) -> list[Observer]:
    """Return the observers of runs, in addition to the log.

    Raises:
        InvalidSettings: telemetry is enabled, but OpenTelemetry is not installed.
    """
    found = [given] if given is not None else []
    if settings.telemetry:
        try:
            from .telemetry import Telemetry
        except ImportError:
            raise InvalidSettings(
                "THREADLEDGER_TELEMETRY is true, but OpenTelemetry is not installed: pip install 'threadledger[otel]'"
            ) from None

        provider = AZURE_OPENAI if settings.azure_openai_endpoint is not None else OPENAI
        found.append(Telemetry(provider, client.endpoint, profile.name, text=settings.log_text))
    return found


def client_of(settings: Settings) -> Client:
    """Create the provider's client from the settings."""
    on_azure = settings.azure_openai_endpoint is not None
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
    )


def thread_reader(settings: Settings) -> ThreadReader:
    """Create a reader for threads of the provider named by the settings."""
    return ThreadReader(client_of(settings))


def _tools(settings: Settings, profile: Profile, given: Mapping[str, ToolFunction]) -> dict[str, ToolFunction]:
    """Return the app's functions together with those of the module named by THREADLEDGER_TOOLS."""
    named = load_tools(settings.tools, profile, bound=given) if settings.tools else {}
    return {**named, **given}


def _backends(settings: Settings, client: Client, database: Database) -> dict[str, Backend]:
    in_conversations = settings.threads == "conversations" and not settings.stateless
    assistants = Assistants(client, RememberedAssistants(database), settings.openai_assistant_id)
    every: dict[str, Backend] = {
        "assistants": AssistantsBackend(client, assistants),
        "responses": ResponsesBackend(client, in_conversations, settings.background),
        "chat": ChatBackend(client),
    }
    return every
