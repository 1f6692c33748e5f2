"""Calls of the SDK as effects: the same call on its blocking and on its asynchronous client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from threadledger.domain import Call, Effects, ProviderRefused

from .client import Client
from .failures import calling, present

END: Any = object()
"""What is sent back for `next_event` when the stream has ended."""


def call(client: Client, do: Callable[[Any], Any]) -> Call:
    """A call: `do` is given the SDK's client, and returns the answer, or an awaitable of it."""
    return Call(lambda: do(client.sdk), lambda: do(client.async_sdk))


def next_event(stream: Any) -> Call:
    """The next event of an open stream, or `END`."""
    return Call(lambda: next(stream, END), lambda: anext(stream, END))


def closing(stream: Any) -> Call:
    """Close a stream, whether it has ended or not."""
    return Call(stream.close, stream.close)


def every(client: Client, first: Callable[[Any], Any]) -> Effects[list[Any]]:
    """All objects of a list, page after page; `first` asks for the first page."""
    page = yield call(client, first)
    found = list(page.data)  # an answer without a list is not an empty one: it fails here
    while page.has_next_page():
        page = yield Call(page.get_next_page, page.get_next_page)
        found += page.data
    return found


def deleted(client: Client, endpoint: str, thread_id: str, delete: Callable[[Any], Any]) -> Effects[None]:
    """Delete one thing in a thread; quiet where it is gone already."""
    try:
        with calling(endpoint, thread_id):
            answered = yield call(client, delete)
            present(answered.id)
    except ProviderRefused as refused:
        if refused.failure.http_status != 404:
            raise


def request_id_of(stream: Any) -> str | None:
    """The provider's id of the request that opened a stream."""
    found: str | None = stream.response.headers.get("x-request-id")
    return found
