"""Runs in Assistants threads beside the one at hand: found by our metadata, ended, and what they left taken out.

A run that is still going keeps its thread from taking messages and runs. One of ours that nobody follows any more (its
process crashed, or the answer to its creation was lost) is cancelled; somebody else's is waited for.
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
"""Newest runs of a thread among which one of ours is looked for. Only the newest can be active."""

RUN_ID = "run_id"
EXCHANGE_ID = "exchange_id"
"""The metadata keys under which a run at the provider says which run of ours it is."""

CANCEL_LOOKS_MAX = 10
CANCEL_POLL_SECONDS = 0.2
"""How long a cancelled run is watched until it has ended."""

FOREIGN_POLL_SECONDS = 1.0
"""Between two looks at a run that is not ours and keeps the thread busy."""

FREE_LOOKS_MAX = 60
"""How often a busy thread is looked at: a minute of somebody else's run."""

OWN_CANCELS_MAX = 3
"""How often a run of ours is cancelled. One that cannot be goes on until it expires, and is not waited for."""

ENDED = frozenset({"completed", "failed", "incomplete", "expired", "cancelled"})
"""The ends of a run, as the SDK's own types name them; any other status, known or not, is one to wait in."""


class ThreadRuns:
    """The runs of Assistants threads."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ours(self, thread_id: str, run_ids: Collection[str]) -> Effects[list[Any]]:
        """Those among the newest runs of a thread that were made for these runs of ours."""
        runs = yield from self._newest(thread_id)
        return [run for run in runs if (run.metadata or {}).get(RUN_ID) in run_ids]

    def cancelled(self, run: Any, thread_id: str) -> Effects[None]:
        """Cancel a run, and see it through. Quiet where the provider does not listen."""
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
        """Wait until no run keeps the thread busy, ours cancelled, at most until `deadline` (monotonic); whether it is so."""
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
        """Take out of the thread what a run wrote there that did not complete; the messages that were there."""
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
        """Delete messages; quiet where one is gone already."""
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
