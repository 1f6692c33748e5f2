"""Record the calls that an app makes through the SDK as runs. See `docs/recording.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from threadledger.domain.conversation import stream_of
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ledger import Ledger

from .alignment import Aligned, Alignment, committed
from .requests import ModelRequest
from .runs import CallRecorder, RunRecording, in_conversation
from .session_turns import (
    RunAnswer,
    SessionTurn,
    begin_turn,
    forget_answers,
    left_answers,
    not_given,
    turn_of,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    ClientT = TypeVar("ClientT", bound=OpenAI | AsyncOpenAI)

__all__ = [
    "Aligned",
    "Alignment",
    "CallRecorder",
    "ModelRequest",
    "RunAnswer",
    "RunRecording",
    "SessionTurn",
    "begin_turn",
    "committed",
    "forget_answers",
    "in_conversation",
    "left_answers",
    "not_given",
    "record",
    "turn_of",
]


def record(client: ClientT, ledger: Ledger | None = None, key: str | None = None) -> ClientT:
    """Return a client of the same type whose model calls are recorded as runs; the given client is not changed.

    Both share one HTTP client: closing one closes the other, as with the SDK's own `with_options`. If the given client is
    already recorded, the new recording replaces the old one, so calls are recorded once.

    Args:
        client: an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`.
        ledger: the ledger that records the calls; by default the one from the settings, which is closed with the client.
        key: the conversation of the calls, unless a `recording` block names another one.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
        InvalidInput: the client is not one of the SDK's clients, or its HTTP client is not an httpx2 client.
        InvalidSettings, InvalidProfile, StoreError: the ledger from the settings cannot be opened.
    """
    import openai

    from .http import recording_client

    if key is not None:
        stream_of(key)
    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise InvalidInput(f"a {type(client).__name__} cannot be recorded: pass an OpenAI or AsyncOpenAI client")
    own = ledger is None
    ledger = _ledger_of_the_settings() if ledger is None else ledger
    recorder = CallRecorder(ledger, key, client.max_retries, close=ledger.close if own else _stays_open)
    try:
        # The SDK has no public attribute for its HTTP client. `copy` accepts it because its kind matches the client's.
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
    """Leave a ledger open that the caller passed in."""
