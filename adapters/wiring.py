"""The composition root: settings to a ledger with its store, backends, mirrors and outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from threadledger.domain import Backend, Candidate, Journal, Ledger, Outside, Policy, ThreadMirror, ToolFunction

from .mirroring import ThreadOutbox
from .openai import (
    Assistants,
    AssistantsBackend,
    AssistantsThreads,
    ChatBackend,
    Client,
    ConversationThreads,
    ResponsesBackend,
)
from .prices import price
from .settings import Settings
from .sql import Database, Factory, RememberedAssistants, SqlMirrorHeads


def open_ledger(
    settings: Settings,
    *,
    tools: Mapping[str, ToolFunction] | None = None,
    create: bool = True,
    wait: Callable[[float], None] = time.sleep,
) -> Ledger:
    """A ledger as the settings say. Nothing outside the database is touched before it is needed.

    Without a key there is nobody to mirror to: messages are journaled, and the threads catch up once there is one.

    Raises:
        StoreError, DatabaseMissing, InvalidSettings, InvalidProfile: it cannot be opened.
    """
    profile = settings.load_profile()
    database = Database(settings.db, create=create, synchronous=settings.synchronous)
    try:
        journal = Journal(Factory(database=database))
    except BaseException:
        database.close()
        raise
    client = client_of(settings)
    mirrors: dict[str, ThreadMirror] = {}
    if client.api_key:
        mirrors = {mirror.name: mirror for mirror in (ConversationThreads(client), AssistantsThreads(client))}
    always = [settings.threads] if settings.threads in mirrors else []
    outside = Outside(
        policy=Policy(
            candidates=tuple(Candidate(name, settings.model_for(name, profile)) for name in settings.order),
            retries=settings.retries,
            timeout_seconds=settings.timeout_seconds,
            memory_last=settings.memory_last,
            memory_tokens=settings.memory_tokens,
        ),
        backends=_backends(settings, client, database, wait),
        mirrors=mirrors,
        mirrored_to=settings.threads,
        outbox=ThreadOutbox(mirrors, SqlMirrorHeads(database), always, wait),
        price=price,
        profile=profile,
        tools=dict(tools or {}),
        wait=wait,
        close=client.close,
    )
    return Ledger(journal, outside)


def client_of(settings: Settings) -> Client:
    """How the settings say that the provider is reached."""
    return Client(
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        organization=settings.openai_org_id,
        project=settings.openai_project_id,
        timeout_seconds=settings.timeout_seconds,
    )


def _backends(
    settings: Settings, client: Client, database: Database, wait: Callable[[float], None]
) -> dict[str, Backend]:
    assistants = Assistants(client, RememberedAssistants(database), settings.openai_assistant_id)
    every: dict[str, Backend] = {
        "assistants": AssistantsBackend(client, assistants, wait),
        "responses": ResponsesBackend(client, in_conversations=settings.threads == "conversations"),
        "chat": ChatBackend(client),
    }
    return every
