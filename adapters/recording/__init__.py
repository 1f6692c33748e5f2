"""Calls that an app makes itself, by the SDK, recorded as runs: see `docs/recording.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from threadledger.domain import InvalidInput, Ledger, stream_of

from .place import in_conversation

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    ClientT = TypeVar("ClientT", bound=OpenAI | AsyncOpenAI)

__all__ = ["in_conversation", "record"]


def record(client: ClientT, ledger: Ledger | None = None, key: str | None = None) -> ClientT:
    """A client of the same type whose calls to models are recorded as runs; the given one stays as it is.

    Both share one HTTP client: closing one closes the other, as with the SDK's own `with_options`. A client that is
    recorded already is recorded anew, not twice.

    Args:
        client: an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`.
        ledger: where its calls are recorded; by default the one of the settings, which is closed with the client.
        key: the conversation that they belong to, where no `recording` block names another.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
        InvalidInput: the client is none of the SDK's, or its HTTP client is not one of httpx2's.
        InvalidSettings, InvalidProfile, StoreError: the ledger of the settings cannot be opened.
    """
    import openai

    from .clients import recording_client
    from .recorder import Recorder

    if key is not None:
        stream_of(key)
    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise InvalidInput(f"a {type(client).__name__} cannot be recorded: give an OpenAI or AsyncOpenAI client")
    own = ledger is None
    ledger = _ledger_of_the_settings() if ledger is None else ledger
    recorder = Recorder(ledger, key, client.max_retries, close=ledger.close if own else _stays_open)
    try:
        # The SDK has no public name for its HTTP client. `copy` takes either kind, each client its own.
        recording: Any = recording_client(client._client, recorder)
        return cast("ClientT", client.copy(http_client=recording))
    except BaseException:
        recorder.close()
        raise


def _ledger_of_the_settings() -> Ledger:
    from ..settings import load_settings
    from ..wiring import open_ledger

    return open_ledger(load_settings())


def _stays_open() -> None:
    """The caller's ledger is the caller's to close."""
