"""Find, cancel and clean up the runs of Assistants threads, which accept no messages and no runs while a run is active.

Also: find the answer of an earlier run that is in the thread already.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import FOUND_IN_THREAD, Message, Role
from threadledger.domain.effects import Effects, Emit, Pause
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, Delta
from threadledger.domain.failures import Failure, whole_text
from threadledger.domain.threads import LEFT_IN_THREAD

from .bodies import RUN_ENDED
from .client import Client
from .limits import PAGE_ITEMS
from .objects import deleted, every, fetched, one_page
from .run_bodies import rises, written_by

# A run that was created by this ledger and is no longer followed (its process crashed, or the response to its
# creation was lost) is found by its metadata and cancelled. Other runs are waited for.
RUN = "GET /threads/{thread_id}/runs/{run_id}"
RUNS = "GET /threads/{thread_id}/runs"
MESSAGES = "GET /threads/{thread_id}/messages"
RUNS_SEARCHED_MAX = 20
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


class ThreadRuns:
    """Manage the runs of Assistants threads."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ours(self, thread_id: str, run_ids: Collection[str]) -> Effects[list[dict[str, Any]]]:
        """Return the newest runs of a thread that were created for the given run ids of the ledger."""
        runs = yield from self._newest(thread_id)
        return [run for run in runs if _ledger_run_id(run) in run_ids]

    def cancelled(self, remote_run_id: str, thread_id: str) -> Effects[None]:
        """Cancel a run and poll it until it has ended; ignore refusals by the provider."""
        runs = attrgetter("beta.threads.runs.with_raw_response")
        with suppress(ProviderRefused):  # it may have ended; its state is read next
            yield from fetched(
                self._client,
                "POST /threads/{thread_id}/runs/{run_id}/cancel",
                lambda sdk: runs(sdk).cancel(remote_run_id, thread_id=thread_id),
                thread_id,
                remote_run_id,
            )
        with suppress(ProviderRefused):  # it is gone, or cannot be read: nothing more can be done
            for _ in range(CANCEL_LOOKS_MAX):
                seen = yield from fetched(
                    self._client,
                    RUN,
                    lambda sdk: runs(sdk).retrieve(remote_run_id, thread_id=thread_id),
                    thread_id,
                    remote_run_id,
                    needs=("status",),
                )
                if seen["status"] in RUN_ENDED:
                    return
                yield Pause(CANCEL_POLL_SECONDS)

    def freed(self, thread_id: str, deadline: float) -> Effects[bool]:
        """Cancel our active runs and wait until the thread is free, at most until `deadline` (monotonic).

        Returns:
            Whether the thread has no active run.
        """
        for look in range(1, FREE_LOOKS_MAX + 1):
            active = [run for run in (yield from self._newest(thread_id)) if run["status"] not in RUN_ENDED]
            if not active:
                return True
            for run in active:
                if _ledger_run_id(run):
                    yield from self.cancelled(run["id"], thread_id)
            foreign = any(not _ledger_run_id(run) for run in active)
            pause = FOREIGN_POLL_SECONDS if foreign else CANCEL_POLL_SECONDS
            if time.monotonic() + pause > deadline or (look >= OWN_CANCELS_MAX and not foreign):
                break
            yield Pause(pause)
        return False

    def removed(self, thread_id: str, remote_run_id: str) -> Effects[list[dict[str, Any]]]:
        """Delete the messages that a run wrote to the thread, and return them."""
        left = [each for each in (yield from self.written(thread_id, remote_run_id)) if each.get("run_id")]
        yield from self.deleted(thread_id, [message["id"] for message in left])
        return left

    def written(self, thread_id: str, remote_run_id: str) -> Effects[list[dict[str, Any]]]:
        """Return the messages that a run wrote to the thread, oldest first.

        The newest messages are read page by page, until one was not written by the run: a server that ignores the filter
        is not read to the beginning of the thread.
        """
        found: dict[str, dict[str, Any]] = {}
        options: dict[str, Any] = {"run_id": remote_run_id, "order": "desc", "limit": PAGE_ITEMS}
        while True:
            read = partial(_messages_page, thread_id, dict(options))
            messages, may_go_on = yield from one_page(self._client, MESSAGES, read, thread_id, remote_run_id)
            new = {each["id"]: each for each in messages if each["id"] not in found}
            found |= new
            if not new or not may_go_on or messages[-1].get("run_id") != remote_run_id:
                return written_by(remote_run_id, thread_id, list(found.values()))
            options["after"] = messages[-1]["id"]

    def deleted(self, thread_id: str, message_ids: Sequence[str]) -> Effects[None]:
        """Delete messages; ignore those that are already deleted."""
        endpoint = "DELETE /threads/{thread_id}/messages/{message_id}"
        for message_id in message_ids:
            delete = partial(_delete, thread_id=thread_id, message_id=message_id)
            yield from deleted(self._client, endpoint, thread_id, delete)

    def _newest(self, thread_id: str) -> Effects[list[dict[str, Any]]]:
        """Return the newest runs of a thread; a server that ignores the order is read to the end of its list."""
        read = attrgetter("beta.threads.runs.with_raw_response.list")
        runs, may_go_on = yield from one_page(
            self._client, RUNS, lambda sdk: read(sdk)(thread_id, order="desc", limit=RUNS_SEARCHED_MAX), thread_id
        )
        if may_go_on and rises(runs):
            runs = yield from every(
                self._client, RUNS, lambda sdk, **options: read(sdk)(thread_id, **options), thread_id
            )
        return [run for run in runs if isinstance(run.get("status"), str)]


def _ledger_run_id(run: Mapping[str, Any]) -> str | None:
    """Return the ledger's id of the run that a provider's run was created for; None if another app created it."""
    metadata = run.get("metadata")
    return metadata.get(RUN_ID) if isinstance(metadata, dict) else None


def _messages_page(thread_id: str, options: dict[str, Any], sdk: Any) -> Any:
    return sdk.beta.threads.messages.with_raw_response.list(thread_id, **options)


def _delete(sdk: Any, thread_id: str, message_id: str) -> Any:
    return sdk.beta.threads.messages.with_raw_response.delete(message_id, thread_id=thread_id)


# An answer that is already in the thread comes from an earlier run of the exchange, whose response was lost.
def found_answer(request: BackendRequest) -> Effects[Completion | None]:
    """Return the answer found in the thread and stream its text if requested.

    Returns:
        The answer, or None if no text was found, or if the items found include tool calls or results.
    """
    if not request.found or any(item.kind != "message" for item in request.found):
        return None
    texts = [whole_text(item.content) for item in request.found if item.content]
    if not texts:
        return None
    for index, text in enumerate(texts if request.stream else ()):
        yield Emit(Delta(text, message=index))
    messages = tuple(Message(Role.ASSISTANT, text) for text in texts)
    return Completion(messages, finish_reason=FOUND_IN_THREAD, thread_id=request.thread_id)


def left_there(failure: Failure) -> Failure:
    """Return the failure with a mark that its run wrote, or may have written, to the thread; the next use of the thread
    checks it."""
    return replace(failure, details=dict(failure.details) | {LEFT_IN_THREAD: True})
