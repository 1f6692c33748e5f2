"""What an app does around a run at the provider: looks at it, answers its tools, puts messages into its thread."""

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
    """A request about a run that is under way; that it fails does not mean that the run has."""

    def __init__(self, run: RecordedRun, look: Look) -> None:
        self._run = run
        self._look = look

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """What is known of its answer before the body."""
        return Context(self._look.backend, self._look.endpoint, request_id, http_status, self._look.thread_id)

    def begin(self) -> None:
        """Journal the tool results that are about to be sent."""
        if self._look.results:
            self._run.journal(self._look.results, from_run=False)

    def refuse(self, failure: Failure) -> None:
        """The run goes on, whatever became of the look."""

    def see(self, seen: Seen) -> None:
        """What was seen of the run."""
        if seen.remote_id == self._look.remote_id:
            self._run.see(seen)

    def broke(self, seen: Seen) -> None:
        """The run goes on."""


class RecordedMessages:
    """Messages that the app puts into a thread: journaled once the thread has them."""

    def __init__(self, recorder: Recorder, written: Written) -> None:
        self._recorder = recorder
        self._written = written
        self._key = recorder.key_for(written.thread_id)

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Nothing is asked here."""
        return Context("threads", "POST /threads", request_id, http_status, self._written.thread_id)

    def begin(self) -> None:
        """Nothing is journaled before the thread has it."""

    def refuse(self, failure: Failure) -> None:
        """The thread does not have them, and nor does the journal."""

    def see(self, seen: Seen) -> None:
        """The thread has them. Never raises."""
        if seen.thread_id is None:
            return
        self._recorder.follows(self._key, seen.thread_id)
        try:
            self._recorder.ledger.journal.commit(self._key, self._decide, create=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the app its answer
            logger.warning("messages of %r are in their thread, but not in the ledger: %s", self._key, error)

    def broke(self, seen: Seen) -> None:
        """Nothing is known of the thread."""

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
