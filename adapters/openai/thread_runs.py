"""Find, cancel and clean up runs in Assistants threads.

A thread accepts no messages and no runs while a run is active. A run that was created by this ledger and is no longer
followed (its process crashed, or the response to its creation was lost) is found by its metadata and cancelled. Other
runs are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from threadledger.domain import Effects, Pause, ProviderRefused

from .calls import call, deleted, every
from .client import Client
from .failures import calling, present
from .limits import PAGE_ITEMS

RUN = "GET /threads/{thread_id}/runs/{run_id}"
RUNS_LOOKED_AT = 20
"""Number of newest runs of a thread that are searched for our runs. Only the newest can be active."""

RUN_ID = "run_id"
EXCHANGE_ID = "exchange_id"
"""Metadata keys of a provider's run that hold the ids of our run and exchange."""

CANCEL_LOOKS_MAX = 10
CANCEL_POLL_SECONDS = 0.2
"""Maximum number of polls of a cancelled run, and the pause between them in seconds."""

FOREIGN_POLL_SECONDS = 1.0
"""Pause in seconds between two checks of a thread that is busy with a run of another app."""

FREE_LOOKS_MAX = 60
"""Maximum number of checks of a busy thread: waits about a minute for a run of another app."""

OWN_CANCELS_MAX = 3
"""Maximum number of attempts to cancel our runs. A run that cannot be cancelled continues until it expires."""

ENDED = frozenset({"completed", "failed", "incomplete", "expired", "cancelled"})
"""Final statuses of a run, as defined by the SDK's types. A run with any other status, known or not, is still active."""


class ThreadRuns:
    """Manage the runs of Assistants threads."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ours(self, thread_id: str, run_ids: Collection[str]) -> Effects[list[Any]]:
        """Return those of a thread's newest runs that were created for the given run ids of the ledger."""
        runs = yield from self._newest(thread_id)
        return [run for run in runs if (run.metadata or {}).get(RUN_ID) in run_ids]

    def cancelled(self, run: Any, thread_id: str) -> Effects[None]:
        """Cancel a run and poll it until it has ended; ignore refusals by the provider."""
        with suppress(ProviderRefused), calling("POST /threads/{thread_id}/runs/{run_id}/cancel", thread_id, run.id):
            yield call(self._client, lambda sdk: sdk.beta.threads.runs.cancel(run.id, thread_id=thread_id))
        with suppress(ProviderRefused):
            for _ in range(CANCEL_LOOKS_MAX):
                with calling(RUN, thread_id, run.id):
                    seen = yield call(
                        self._client, lambda sdk: sdk.beta.threads.runs.retrieve(run.id, thread_id=thread_id)
                    )
                    present(seen.status)
                    if seen.status in ENDED:
                        return
                yield Pause(CANCEL_POLL_SECONDS)

    def freed(self, thread_id: str, deadline: float) -> Effects[bool]:
        """Cancel our active runs and wait until the thread is free, at most until `deadline` (monotonic).

        Returns:
            Whether the thread has no active run.
        """
        for look in range(1, FREE_LOOKS_MAX + 1):
            active = [run for run in (yield from self._newest(thread_id)) if run.status not in ENDED]
            if not active:
                return True
            for run in active:
                if (run.metadata or {}).get(RUN_ID):
                    yield from self.cancelled(run, thread_id)
            foreign = any(not (run.metadata or {}).get(RUN_ID) for run in active)
            pause = FOREIGN_POLL_SECONDS if foreign else CANCEL_POLL_SECONDS
            if time.monotonic() + pause > deadline or (look >= OWN_CANCELS_MAX and not foreign):
                break
            yield Pause(pause)
        return False

    def removed(self, thread_id: str, remote_run_id: str) -> Effects[list[Any]]:
        """Delete the messages that a run wrote to the thread, and return them."""
        with calling("GET /threads/{thread_id}/messages", thread_id, remote_run_id):
            left = yield from every(
                self._client,
                lambda sdk: sdk.beta.threads.messages.list(
                    thread_id, run_id=remote_run_id, order="asc", limit=PAGE_ITEMS
                ),
            )
        left = [message for message in left if message.run_id == remote_run_id]
        yield from self.deleted(thread_id, [message.id for message in left])
        return left

    def deleted(self, thread_id: str, message_ids: Sequence[str]) -> Effects[None]:
        """Delete messages; ignore those that are already deleted."""
        endpoint = "DELETE /threads/{thread_id}/messages/{message_id}"
        for message_id in message_ids:
            delete = partial(_delete, thread_id=thread_id, message_id=message_id)
            yield from deleted(self._client, endpoint, thread_id, delete)

    def _newest(self, thread_id: str) -> Effects[list[Any]]:
        with calling("GET /threads/{thread_id}/runs", thread_id):
            page = yield call(
                self._client,
                lambda sdk: sdk.beta.threads.runs.list(thread_id, order="desc", limit=RUNS_LOOKED_AT),
            )
            return list(page.data)


def _delete(sdk: Any, thread_id: str, message_id: str) -> Any:
    return sdk.beta.threads.messages.delete(message_id, thread_id=thread_id)
