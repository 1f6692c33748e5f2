"""Record what an app does around a provider's run: polling, tool results, and messages added to its thread."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from threadledger.domain import Conversation, Failure, Role, new_id

from .outcomes import Context, Seen
from .requests import Look, Written
from .runs import RecordedRun, give_up_idle

if TYPE_CHECKING:
    from .recorder import Recorder

logger = logging.getLogger("threadledger")


class RecordedLook:
    """Record the result of a request about a run in progress; if the request fails, the run may still continue."""

    def __init__(self, run: RecordedRun, look: Look) -> None:
        self._run = run
        self._look = look

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Return the facts of the response that are known before its body is read."""
        return Context(self._look.backend, self._look.endpoint, request_id, http_status, self._look.thread_id)

    def begin(self) -> None:
        """Journal the tool results of the request before it is sent."""
        if self._look.results:
            self._run.journal(self._look.results, from_run=False)

    def refuse(self, failure: Failure) -> None:
        """Ignore the failed request, because the run may continue."""

    def see(self, seen: Seen) -> None:
        """Record the state of the run."""
        if seen.remote_id == self._look.remote_id:
            self._run.see(seen)

    def broke(self, seen: Seen) -> None:
        """Ignore the broken stream, because the run may continue."""


class RecordedMessages:
    """Journal messages that the app adds to a thread, after the thread has accepted them."""

    def __init__(self, recorder: Recorder, written: Written) -> None:
        self._recorder = recorder
        self._written = written
        self._key = recorder.key_for(written.thread_id)

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Return the facts of the response that are known before its body is read."""
        return Context("threads", "POST /threads", request_id, http_status, self._written.thread_id)

    def begin(self) -> None:
        """Do nothing, because the messages are journaled after the thread has accepted them."""

    def refuse(self, failure: Failure) -> None:
        """Do nothing, because neither the thread nor the journal has the messages."""

    def see(self, seen: Seen) -> None:
        """Journal the messages that the thread has accepted. Never raises."""
        if seen.thread_id is None:
            return
        self._recorder.follows(self._key, seen.thread_id)
        try:
            self._recorder.ledger.journal.commit(self._key, self._decide, create=True)
        except Exception as error:  # noqa: BLE001 - an error in recording must not cost the app its answer
            logger.warning("messages of %r are in their thread, but could not be recorded: %s", self._key, error)

    def broke(self, seen: Seen) -> None:
        """Do nothing, because it is unknown whether the thread has accepted the messages."""

    def _decide(self, conversation: Conversation) -> None:
        state = conversation.state
        last = state.last_exchange_id
        exchange = state.open_exchanges.get(last) if last is not None else None
        exchange_id = last if exchange is not None and not exchange["runs"] else None
        for message in self._written.messages:
            if message.role is Role.USER and exchange_id is None:
                give_up_idle(conversation)
                exchange_id = new_id()
            conversation.journal(message, exchange_id=exchange_id if message.role is Role.USER else None)
