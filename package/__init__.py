"""threadledger: your conversations outlive any provider's threads.

    import threadledger

    ledger = threadledger.open()
    chat = ledger.conversation("customer-42")
    answer = chat.ask("Where is my parcel?")

Nothing heavy is loaded before `open()`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ._version import __version__

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from threadledger.domain import (
        AllBackendsFailed,
        Answer,
        AsyncChat,
        AsyncLedger,
        Cause,
        Chat,
        ConversationBusy,
        ConversationNotFound,
        Delta,
        Ledger,
        Observer,
        StartedOver,
        ThreadledgerError,
        ToolUse,
    )

    ClientT = TypeVar("ClientT", bound=OpenAI | AsyncOpenAI)

__all__ = [
    "AllBackendsFailed",
    "Answer",
    "AsyncChat",
    "AsyncLedger",
    "Cause",
    "Chat",
    "ConversationBusy",
    "ConversationNotFound",
    "Delta",
    "Ledger",
    "StartedOver",
    "ThreadledgerError",
    "ToolUse",
    "__version__",
    "open",
    "open_async",
    "record",
    "recording",
]


def open(  # noqa: A001 - the name users know from files: threadledger.open()
    url: str | None = None,
    *,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    observer: "Observer | None" = None,
    **settings: Any,
) -> "Ledger":
    """Open a ledger.

    Args:
        url: the database, as a SQLAlchemy URL; by default what the settings say. Created or upgraded where needed.
        tools: functions that a model may call, by the name that the profile gives them.
        observer: whoever wants to be told of every run's start and end (`threadledger.domain.Observer`), beside the log.
        settings: any setting by its field name (`retries=1`, `backends=("chat",)`); wins over environment and `.env`.

    Raises:
        InvalidSettings, InvalidProfile, StoreError: each says what is wrong and what to do.
    """
    from threadledger.adapters import load_settings, open_ledger

    return open_ledger(load_settings(db=url, **settings), tools=tools, observer=observer)


def record(client: "ClientT", ledger: "Ledger | None" = None, key: str | None = None) -> "ClientT":
    """A client of the openai SDK whose calls to models are recorded as runs, for an app that keeps its own loop.

    The app gets what the SDK would have given it: answers, streams and exceptions are unchanged.

    Args:
        client: an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`; it stays as it is.
        ledger: where its calls are recorded; by default the one of the settings, which is closed with the client.
        key: the conversation that they belong to, where no `recording` block names another.

    Raises:
        InvalidKey, InvalidInput, InvalidSettings, InvalidProfile, StoreError: each says what is wrong and what to do.
    """
    from threadledger.adapters import record as record_client

    return record_client(client, ledger, key)


def recording(key: str) -> AbstractContextManager[None]:
    """A block whose calls, on recorded clients, belong to the conversation of this key. Holds in tasks begun in it.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
    """
    from threadledger.adapters import in_conversation

    return in_conversation(key)


def open_async(
    url: str | None = None,
    *,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    observer: "Observer | None" = None,
    **settings: Any,
) -> "AsyncLedger":
    """Open a ledger for an event loop: the same names, awaited.

        async with threadledger.open_async() as ledger:
            answer = await ledger.conversation("customer-42").ask("Where is my parcel?")

    Arguments and errors are those of `open`; `tools` may be asynchronous too.
    """
    from threadledger.domain import AsyncLedger

    return AsyncLedger(open(url, tools=tools, observer=observer, **settings))


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("threadledger.domain"), name)
    raise AttributeError(f"threadledger has no {name!r}")
