"""threadledger: your conversations outlive any provider's threads.

    import threadledger

    ledger = threadledger.open()
    chat = ledger.conversation("customer-42")
    answer = chat.ask("Where is my parcel?")

Nothing heavy is loaded before `open()`.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from threadledger.domain import (
        AllBackendsFailed,
        Answer,
        Cause,
        Chat,
        ConversationBusy,
        ConversationNotFound,
        Ledger,
        ThreadledgerError,
    )

__all__ = [
    "AllBackendsFailed",
    "Answer",
    "Cause",
    "Chat",
    "ConversationBusy",
    "ConversationNotFound",
    "Ledger",
    "ThreadledgerError",
    "__version__",
    "open",
]


def open(  # noqa: A001 - the name users know from files: threadledger.open()
    url: str | None = None, *, tools: Mapping[str, Callable[..., Any]] | None = None, **settings: Any
) -> "Ledger":
    """Open a ledger.

    Args:
        url: the database, as a SQLAlchemy URL; by default what the settings say. Created or upgraded where needed.
        tools: functions that a model may call, by the name that the profile gives them.
        settings: any setting by its field name (`retries=1`, `backends=("chat",)`); wins over environment and `.env`.

    Raises:
        InvalidSettings, InvalidProfile, StoreError: each says what is wrong and what to do.
    """
    from threadledger.adapters import load_settings, open_ledger

    return open_ledger(load_settings(db=url, **settings), tools=tools)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("threadledger.domain"), name)
    raise AttributeError(f"threadledger has no {name!r}")
