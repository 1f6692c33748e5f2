"""Read complete threads from a provider in the dump format that `adapters/formats/threads.py` imports.

Nothing is written at the provider. The run steps are read for the runs that wrote the thread's messages, because only they
contain the tool calls.
"""

from __future__ import annotations

from typing import Any

from threadledger.domain.effects import Effects
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose
from threadledger.domain.threads import retried

from .assistant_setup import shut_down_or
from .client import Client
from .objects import every, fetched
from .run_bodies import rises

CONVERSATION_PREFIX = "conv_"
"""Prefix of the ids of Conversations; all other ids are treated as Assistants threads."""


class ThreadReader:
    """Read Assistants threads and Conversations by their ids."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._gone: ProviderRefused | None = None

    def read(self, thread_id: str) -> Effects[dict[str, Any]]:
        """Read a complete thread: its metadata and messages with the steps of its runs, or its metadata and items.

        Raises:
            ProviderRefused: the thread does not exist or cannot be read.
        """
        if thread_id.startswith(CONVERSATION_PREFIX):
            return (yield from self._conversation(thread_id))
        if self._gone is not None:
            raise self._gone
        try:
            return (yield from self._thread(thread_id))
        except ProviderRefused as refused:
            explained = yield from shut_down_or(refused, self._client)
            if diagnose(explained.failure) is Cause.PROVIDER_GONE:
                self._gone = explained  # no other thread is requested
            raise explained from refused

    def close(self) -> None:
        """Close the connections, if any were opened."""
        self._client.close()

    def is_fatal(self, refused: ProviderRefused) -> bool:
        """Return whether all further requests would fail too, because the credentials were refused."""
        return diagnose(refused.failure) is Cause.AUTHENTICATION

    def _thread(self, thread_id: str) -> Effects[dict[str, Any]]:
        thread = yield from retried(lambda: self._retrieved(thread_id))
        messages = yield from retried(lambda: self._messages(thread_id))
        steps: list[dict[str, Any]] = []
        for run_id in dict.fromkeys(str(message["run_id"]) for message in messages if message.get("run_id")):
            steps += yield from self._steps(thread_id, run_id)
        return {**thread, "id": thread_id, "messages": messages, "order": "asc", "run_steps": steps}

    def _retrieved(self, thread_id: str) -> Effects[dict[str, Any]]:
        return (
            yield from fetched(
                self._client,
                "GET /threads/{thread_id}",
                lambda sdk: sdk.beta.threads.with_raw_response.retrieve(thread_id),
                thread_id,
            )
        )

    def _messages(self, thread_id: str) -> Effects[list[dict[str, Any]]]:
        found = yield from every(
            self._client,
            "GET /threads/{thread_id}/messages",
            lambda sdk, **options: sdk.beta.threads.messages.with_raw_response.list(thread_id, **options),
            thread_id,
        )
        own = [message for message in found if message.get("thread_id") in (None, thread_id)]
        return own if rises(own) else in_order_of_speech(own)

    def _steps(self, thread_id: str, run_id: str) -> Effects[list[dict[str, Any]]]:
        """Return the steps of a run; none if the provider no longer has the run."""
        try:
            return (yield from retried(lambda: self._listed_steps(thread_id, run_id)))
        except ProviderRefused as refused:
            if refused.failure.http_status != 404:
                raise
            return []

    def _listed_steps(self, thread_id: str, run_id: str) -> Effects[list[dict[str, Any]]]:
        found = yield from every(
            self._client,
            "GET /threads/{thread_id}/runs/{run_id}/steps",
            lambda sdk, **options: sdk.beta.threads.runs.steps.with_raw_response.list(
                run_id, thread_id=thread_id, **options
            ),
            thread_id,
            run_id,
        )
        return [step for step in found if step.get("run_id") in (None, run_id)]

    def _conversation(self, thread_id: str) -> Effects[dict[str, Any]]:
        conversation = yield from retried(lambda: self._retrieved_conversation(thread_id))
        items = yield from retried(lambda: self._items(thread_id))
        return {**conversation, "id": thread_id, "items": in_order_of_speech(items), "order": "asc"}

    def _retrieved_conversation(self, thread_id: str) -> Effects[dict[str, Any]]:
        return (
            yield from fetched(
                self._client,
                "GET /conversations/{conversation_id}",
                lambda sdk: sdk.conversations.with_raw_response.retrieve(thread_id),
                thread_id,
            )
        )

    def _items(self, thread_id: str) -> Effects[list[dict[str, Any]]]:
        return (
            yield from every(
                self._client,
                "GET /conversations/{conversation_id}/items",
                lambda sdk, **options: sdk.conversations.items.with_raw_response.list(thread_id, **options),
                thread_id,
            )
        )


def in_order_of_speech(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of a Conversation, or messages of one second, oldest first.

    They have no time that would show it, and a server may ignore the requested order. The newest are first if results come
    before their calls, or if the first message is the model's and the last one the user's.
    """
    places = {(each.get("type"), each.get("call_id")): place for place, each in enumerate(items)}
    answered = [
        (places[kind, call_id], places["function_call_output", call_id])
        for kind, call_id in places
        if kind == "function_call" and ("function_call_output", call_id) in places
    ]
    roles = [each.get("role") for each in items if each.get("type", "message") == "message"]
    falls = answered[0][0] > answered[0][1] if answered else roles[:1] + roles[-1:] == ["assistant", "user"]
    return items[::-1] if falls else items
