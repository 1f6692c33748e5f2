"""Read objects and lists of the provider, and check that the responses are what was requested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from threadledger.domain.effects import Effects
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.provider_errors import error_in

from .bodies import Context, json_value, no_answer, not_json
from .client import Client, call, calling, context_of
from .limits import PAGE_ITEMS
from .run_bodies import oldest_first

NOT_READ: dict[str, Any] = {"type": "JSONDecodeError", "details": {"exception": "JSONDecodeError"}}
"""Facts of the failure of a response that cannot be read."""

NO_CONTENT = 204
"""HTTP status of a response that has no body."""


def fetched(
    client: Client,
    endpoint: str,
    do: Callable[[Any], Any],
    thread_id: str | None = None,
    remote_run_id: str | None = None,
    *,
    needs: Sequence[str] = ("id",),
) -> Effects[dict[str, Any]]:
    """Send one request and return the JSON object of its response.

    Args:
        client: the connection to the provider.
        endpoint: the method and the path template, for the facts of a failure.
        do: receives the SDK's client and returns a raw response (`with_raw_response`), or an awaitable of it.
        thread_id, remote_run_id: the thread and the run that the request is about, for the same facts.
        needs: fields that must be texts; a response without one of them is not the provider's.

    Raises:
        ProviderRefused: the request failed, or the response is not the object that was requested.
    """
    with calling(endpoint, thread_id, remote_run_id):
        raw = yield call(client, do)
    return checked_object(raw, endpoint, thread_id, remote_run_id, needs=needs)


def checked_object(
    raw: Any,
    endpoint: str,
    thread_id: str | None = None,
    remote_run_id: str | None = None,
    *,
    needs: Sequence[str] = ("id",),
) -> dict[str, Any]:
    """Return the JSON object of a raw response; arguments and errors are those of `fetched`."""
    context = replace(context_of(raw, Context("", endpoint, thread_id=thread_id)), remote_id=remote_run_id)
    body = json_of(raw, context)
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) and body[name] for name in needs):
        raise ProviderRefused(no_answer(body, context) if error_in(body) is None else context.failure_of_body(body))
    return body


def json_of(raw: Any, context: Context) -> Any:
    """Return the JSON value of a raw response.

    Raises:
        ProviderRefused: the body is not JSON.
    """
    content: bytes = raw.http_response.content
    if raw.status_code == NO_CONTENT:
        return {}
    try:
        return json_value(content)
    except (ValueError, RecursionError):
        raise ProviderRefused(not_json(content, context)) from None


def every(
    client: Client, endpoint: str, page: Callable[..., Any], thread_id: str | None = None, run_id: str | None = None
) -> Effects[list[dict[str, Any]]]:
    """Return all objects of a list, oldest first.

    What a server says about a list is a hint, because compatible servers ignore parameters: a page that brings nothing new
    ends the list, a full page may be followed by another one although `has_more` is false, and the times of the objects
    decide their order. Only a first page that is not full and is sent again although the list goes on is an error, because
    the rest of the list would be taken for missing.

    Args:
        client: the connection to the provider.
        endpoint: the method and the path template, for the facts of a failure.
        page: receives the SDK's client and the options `order`, `limit` and, after the first page, `after`.
        thread_id, run_id: the thread and the run that the list is about, for the same facts.

    Raises:
        ProviderRefused: a page cannot be read, or is not a list.
    """
    found: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {"order": "asc", "limit": PAGE_ITEMS}
    while True:
        objects, may_go_on = yield from one_page(
            client, endpoint, partial(_on_page, page, dict(options)), thread_id, run_id
        )
        new = {each["id"]: each for each in objects if each["id"] not in found}
        if objects and not new and len(found) == len(objects) < PAGE_ITEMS and may_go_on:
            message = (
                "the server says that the list goes on, but sends its first page again: it cannot be read to its end"
            )
            raise ProviderRefused(
                Context("", endpoint, thread_id=thread_id).failure("error", **NOT_READ, message=message)
            )
        found |= new
        if not new or not may_go_on:
            return oldest_first(list(found.values()))
        options["after"] = objects[-1]["id"]


def _on_page(page: Callable[..., Any], options: dict[str, Any], sdk: Any) -> Any:
    return page(sdk, **options)


def one_page(
    client: Client, endpoint: str, do: Callable[[Any], Any], thread_id: str | None = None, run_id: str | None = None
) -> Effects[tuple[list[dict[str, Any]], bool]]:
    """Return the objects on one page of a list, and whether more may follow; errors are those of `every`."""
    body = yield from fetched(client, endpoint, do, thread_id, run_id, needs=())
    objects = body.get("data")
    if not isinstance(objects, list) or not all(isinstance(each, dict) and each.get("id") for each in objects):
        raise ProviderRefused(no_answer(body, Context("", endpoint, thread_id=thread_id, remote_id=run_id)))
    return objects, body.get("has_more") is True or len(objects) >= PAGE_ITEMS


def deleted(client: Client, endpoint: str, thread_id: str, delete: Callable[[Any], Any]) -> Effects[None]:
    """Delete one object of a thread; do nothing if it is already deleted."""
    try:
        yield from fetched(client, endpoint, delete, thread_id, needs=())
    except ProviderRefused as refused:
        if refused.failure.http_status != 404:
            raise
