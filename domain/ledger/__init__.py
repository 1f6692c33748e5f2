"""Provide what an app opens: a ledger with its conversations, replay and audit, blocking or awaited."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .api_keys import ApiKey, ApiKeys
    from .assistants import AssistantRecord, AssistantStore
    from .audit import (
        FailureGroups,
        LaggingThread,
        ShownMemory,
        defined_profile,
        follow_failures,
        lags_among,
        memory_shown,
        threads_behind,
        tool_names,
        unanswered_exchanges,
    )
    from .awaited import AsyncChat, AsyncLedger
    from .chat import Chat
    from .files import FileRecord, FileStore
    from .ledger import Ledger
    from .own_runs import why_failed
    from .pages import Page
    from .profiles import ListedProfile, ProfileDiff
    from .run_pages import ExchangePage
    from .threads import ListedThread
    from .vector_stores import VectorStoreRecord, VectorStores

__all__ = [
    "ApiKey",
    "ApiKeys",
    "AssistantRecord",
    "AssistantStore",
    "AsyncChat",
    "AsyncLedger",
    "Chat",
    "ExchangePage",
    "FailureGroups",
    "FileRecord",
    "FileStore",
    "LaggingThread",
    "Ledger",
    "ListedProfile",
    "ListedThread",
    "Page",
    "ProfileDiff",
    "ShownMemory",
    "VectorStoreRecord",
    "VectorStores",
    "defined_profile",
    "follow_failures",
    "lags_among",
    "memory_shown",
    "threads_behind",
    "tool_names",
    "unanswered_exchanges",
    "why_failed",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "api_keys": "ApiKey ApiKeys",
            "assistants": "AssistantRecord AssistantStore",
            "audit": (
                "FailureGroups LaggingThread ShownMemory defined_profile follow_failures lags_among memory_shown "
                "threads_behind tool_names unanswered_exchanges"
            ),
            "awaited": "AsyncChat AsyncLedger",
            "chat": "Chat",
            "files": "FileRecord FileStore",
            "ledger": "Ledger",
            "own_runs": "why_failed",
            "pages": "Page",
            "profiles": "ListedProfile ProfileDiff",
            "run_pages": "ExchangePage",
            "threads": "ListedThread",
            "vector_stores": "VectorStoreRecord VectorStores",
        },
    )
