"""Store conversations so that they outlive any provider's threads.

    import threadledger

    ledger = threadledger.open()
    chat = ledger.conversation("customer-42")
    answer = chat.ask("Where is my parcel?")

Libraries that are slow to import are only loaded by `open()`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeVar

from ._version import __version__

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from threadledger.domain import (
        Answer,
        AsyncChat,
        AsyncLedger,
        Cause,
        Chat,
        Delta,
        Ledger,
        Observer,
        StartedOver,
        ToolUse,
    )
    from threadledger.domain.errors import *

    ClientT = TypeVar("ClientT", bound=OpenAI | AsyncOpenAI)

__all__ = [
    "AllBackendsFailed",
    "Answer",
    "AnswerDoesNotFit",
    "AsyncChat",
    "AsyncLedger",
    "BlobMissing",
    "BlobTooLarge",
    "CallNotWaiting",
    "Cause",
    "ChangedBlob",
    "ChangedEvent",
    "Chat",
    "Conflict",
    "ConversationBusy",
    "ConversationChanged",
    "ConversationNotFound",
    "CorruptEvent",
    "DatabaseMissing",
    "DatabaseReadOnly",
    "DatabaseReplaced",
    "Delta",
    "ExchangeAnswered",
    "FileMissing",
    "ForeignDatabase",
    "GroupNotFound",
    "IdempotencyConflict",
    "InvalidInput",
    "InvalidKey",
    "InvalidMessage",
    "InvalidProfile",
    "InvalidSettings",
    "JobNotFound",
    "Ledger",
    "LogRewound",
    "MessageNotFound",
    "NewerSchema",
    "NotFound",
    "OlderSchema",
    "ProviderRefused",
    "RunNotFound",
    "RunNotOpen",
    "StartedOver",
    "StoreError",
    "StoreUnavailable",
    "ThreadledgerError",
    "ToolUse",
    "__version__",
    "open",
    "open_async",
    "record",
    "recording",
]


def open(  # noqa: A001 - the name users know from files: threadledger.open()
    url: str | PathLike[str] | None = None,
    *,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    observer: "Observer | None" = None,
    read_only: bool = False,
    **settings: Any,
) -> "Ledger":
    """Open a ledger.

    Args:
        url: the database, as the path of a SQLite file or a URL; by default the one in the settings. It is
            created or upgraded if needed.
        tools: functions that a model may call, by their names in the profile.
        observer: receives every run's start and end (`threadledger.domain.Observer`), in addition to the log.
        read_only: whether to create and upgrade nothing, and to refuse every append. Without `url`, the replica of the
            settings (`THREADLEDGER_READ_DB`) is read, if there is one.
        settings: any setting by its field name (`retries=1`, `backends=("chat",)`); wins over environment and `.env`.

    Raises:
        InvalidSettings, InvalidProfile, StoreError: the ledger cannot be opened; the message says what to do.
    """
    from threadledger.adapters import load_settings, open_ledger

    loaded = load_settings(db=fspath(url) if url is not None else None, **settings)
    return open_ledger(loaded, tools=tools, observer=observer, read_only=read_only, replica=read_only)


def record(client: "ClientT", ledger: "Ledger | None" = None, key: str | None = None) -> "ClientT":
    """Return a copy of an openai client that records its calls to models as runs, for an app with its own loop.

    Answers, streams and exceptions are the same as without recording.

    Args:
        client: an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`; it is not modified.
        ledger: the ledger that records the calls; by default the one in the settings, which is closed with the client.
        key: the conversation of the calls, unless a `recording` block names another one.

    Raises:
        InvalidKey, InvalidInput, InvalidSettings, InvalidProfile, StoreError: the message says what to do.
    """
    from threadledger.adapters import record as record_client

    return record_client(client, ledger, key)


def recording(key: str) -> AbstractContextManager[None]:
    """Assign the calls of recorded clients inside a `with` block to one conversation.

    Tasks started inside the block are included.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
    """
    from threadledger.adapters import in_conversation

    return in_conversation(key)


def open_async(
    url: str | PathLike[str] | None = None,
    *,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    observer: "Observer | None" = None,
    read_only: bool = False,
    **settings: Any,
) -> "AsyncLedger":
    """Open a ledger for use in an event loop; its methods have the same names and are awaited.

        async with threadledger.open_async() as ledger:
            answer = await ledger.conversation("customer-42").ask("Where is my parcel?")

    Arguments and errors are the same as for `open`; functions in `tools` may be asynchronous.
    """
    from threadledger.domain import AsyncLedger

    return AsyncLedger(open(url, tools=tools, observer=observer, read_only=read_only, **settings))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"threadledger has no {name!r}")
    errors = import_module("threadledger.domain.errors")
    return getattr(errors if hasattr(errors, name) else import_module("threadledger.domain"), name)


def __dir__() -> list[str]:
    return __all__
