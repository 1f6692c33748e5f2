"""Run the exchanges that requests have opened, and take over those that a stopped process left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation import key_of, stream_of
from threadledger.domain.effects import Interrupted, Interruption, ListenerLeft, perform
from threadledger.domain.errors import (
    AllBackendsFailed,
    Conflict,
    ConversationNotFound,
    StoreUnavailable,
    ThreadledgerError,
)
from threadledger.domain.exchange import Conversing, SentOptions
from threadledger.domain.exchange.served import continued, expired
from threadledger.domain.exchange.served_responses import SURFACE, outlives_its_process, stopped
from threadledger.domain.failures import Failure, redact

from ..daemon_threads import DaemonThreads
from .calls import STORED_PREFIX, idempotency_key_of
from .exchange_slots import ExchangeSlots
from .limits import ServerLimits
from .live_runs import LiveRun
from .refusals import without_text

if TYPE_CHECKING:
    from threadledger.domain.exchange import Answer, Exchange
    from threadledger.domain.exchange.served import NewRequest
    from threadledger.domain.journal import StreamHead
    from threadledger.domain.journal.served_notes import ServedNotes
    from threadledger.domain.ledger import Ledger

logger = logging.getLogger("threadledger.server")

WORKERS = 16
"""Number of running exchanges that use the database at a time."""

MIRRORS_MAX = 16
"""Number of conversations whose threads are brought up to date at a time, besides the running exchanges."""

SETTLE_SECONDS = 0.1
"""Interval at which ends of exchanges and sent responses are noted, in seconds: many in one commit."""

LOOK_SECONDS = 1.0
"""Interval at which exchanges are searched that no living process runs, in seconds."""

UPKEEP_PAUSE_SECONDS_MAX = 5.0
"""Longest pause before upkeep that failed is tried again, in seconds."""

NEWEST_EVENTS_READ = 100
"""Maximum number of events that are read to find out how an exchange ended that is still running here."""

TAKEN_AT_ONCE = 50
"""Maximum number of exchanges that are taken over at a time."""

STOP_SECONDS = 5.0
"""How long a server that stops lets running exchanges end, in seconds; then other processes continue them."""

LEAVE_SECONDS = 2.0
"""How long a server that stops waits for calls that it has broken off, in seconds: an app's function may not return."""

STOPPED = "the process that answered the client stopped before there was an answer"

End = tuple[str, str]
"""Stream and id of an exchange."""


class Runner:
    """Run exchanges in the background of a server, each in a thread. Its methods may be called from any thread."""

    def __init__(self, ledger: Ledger, limits: ServerLimits | None = None) -> None:
        limits = limits or ServerLimits()
        self._ledger = ledger
        self._changed = threading.Condition()
        """Guards what is in progress; notified when something of it has ended."""
        self._live: dict[str, LiveRun] = {}
        self._attended: dict[str, LiveRun] = {}
        self._running: set[LiveRun | Interruption] = set()
        """What runs or waits for its turn."""
        self._sent: list[str] = []
        self._ended: list[End] = []
        self._is_ready = False
        self._stopping = threading.Event()
        self._upkeep = [self._keeper(SETTLE_SECONDS, self._settle), self._keeper(LOOK_SECONDS, self._look)]
        self._threads = DaemonThreads(limits.exchanges + MIRRORS_MAX, "threadledger-run")
        self._slots = ExchangeSlots(limits.exchanges, limits.exchanges_per_key)
        self._working = threading.Semaphore(WORKERS)

    @property
    def notes(self) -> ServedNotes:
        """Return the claims on exchanges and the notes of requests."""
        return self._ledger.journal.served_notes

    def start(self) -> None:
        """Load what backends need, so that exchanges can be run."""
        services = self._ledger.services
        services.be_interruptible()
        if services.load is not None:
            services.load()
        for candidate in services.policy.candidates:  # or the first request would wait for it
            getattr(services.backends[candidate.backend], "load", lambda: None)()
        for keeper in self._upkeep:
            keeper.start()
        self._is_ready = True

    def stop(self) -> None:
        """Wait some seconds for running exchanges, then break them off and leave them to other processes."""
        if self._stopping.is_set() or not self._is_ready:
            return
        self._stopping.set()
        self._end(STOP_SECONDS)
        for keeper in self._upkeep:
            keeper.join()
        self._threads.stop()
        self._settle()
        self.notes.release_all()

    def run(
        self,
        key: str,
        exchange_id: str,
        actor: str | None,
        *,
        stream: bool = False,
        resumed: bool = False,
        share: str | None = None,
        reserved: bool = False,
        listens: bool = False,
        new: NewRequest | None = None,
    ) -> LiveRun:
        """Run an exchange that this process has claimed; return what listens to it. One that is running is not run again.

        One that is `resumed` was given the results for which it waited: what still runs of it only mirrors its calls, and it
        is run again after that. `new` is the request of one that was stored just now. It counts in the `share` of its actor,
        unless another one is given, and waits if that is full; of one that was `reserved`, the reservation is used.
        One that `listens` has to call `has_left` later.
        """
        share = actor or "" if share is None else share
        with self._changed:
            before = self._live.get(exchange_id)
            if before is not None and not before.is_over and not resumed:
                before.listeners += listens
                if reserved:
                    self.give_back(share)
                return before
            live = self._live[exchange_id] = self._new(key, exchange_id, share)
            live.listeners += listens
            live.version = new[0].originator_version if new is not None else None
            self._running.add(live)
        begin = partial(self._begin, live, before, partial(self._run, live, actor, stream, new))
        live.begin = partial(self._threads.submit, begin)
        self._slots.enter(share, live.begin, reserved=reserved)
        return live

    def resume(self, key: str, exchange_id: str, actor: str | None, **how: Any) -> LiveRun | None:
        """Run an exchange whose request is stored already, as `run` does; return None if another process runs it."""
        if self.live(exchange_id) is None and not self.holds(key, exchange_id):
            return None
        return self.run(key, exchange_id, actor, **how)

    def holds(self, key: str, exchange_id: str) -> bool:
        """Return whether this process holds an exchange, which it claims unless another one has."""
        return self.notes.hold(stream_of(key), exchange_id)

    def has_left(self, live: LiveRun) -> bool:
        """Remove a listener from a run; return whether the run goes on without any."""
        with self._changed:
            live.listeners -= 1
            return live.listeners == 0 and not live.is_over

    def live(self, exchange_id: str) -> LiveRun | None:
        """Return what listens to an exchange that this process runs; None if it does not."""
        with self._changed:
            return self._live.get(exchange_id)

    def reserve(self, share: str) -> None:
        """Make sure that an exchange of this actor can be attended; raise a 429 if its key runs as many as it may.

        `attend` uses the reservation. Without it, call `give_back`.
        """
        self._slots.reserve(share)

    def give_back(self, share: str) -> None:
        """Give back what was reserved and is not used."""
        self._slots.give_back(share)

    def attend(
        self,
        name: str,
        key: str,
        exchange: Exchange,
        request: e.ExchangeRequested,
        share: str,
        *,
        is_claimed: bool = False,
    ) -> LiveRun:
        """Run an exchange for those who listen to it, unless it runs under this name; nothing continues it when all have left.

        It was reserved for `share`, and claimed if no other process may run it meanwhile. Each listener has to `leave`.
        """
        with self._changed:
            before = self._attended.get(name)
            live = before or self._new(key, request.exchange_id, share)
            live.version = request.originator_version
            live.listeners += 1
            live.is_claimed |= is_claimed
            self._attended[name] = live
            self._running.add(live)
        if before is not None:
            self.give_back(share)
        else:
            live.begin = partial(self._threads.submit, partial(self._attend, name, live, exchange))
            self._slots.enter(share, live.begin, reserved=True)
        return live

    def join(self, name: str) -> LiveRun | None:
        """Return the exchange that runs under this name, with one more listener; None if there is none."""
        with self._changed:
            live = self._attended.get(name)
            if live is not None:
                live.listeners += 1
            return live

    def leave(self, name: str, live: LiveRun) -> None:
        """Remove a listener from a run, which is cancelled if it has no other."""
        with self._changed:
            live.listeners -= 1
            is_left = live.listeners == 0
            if is_left and self._attended.get(name) is live:
                del self._attended[name]
        if is_left and not live.is_over:
            self._interrupt(live, ListenerLeft())

    def is_attended(self, exchange_id: str) -> bool:
        """Return whether this process runs an exchange for those who listen to it."""
        with self._changed:
            return any(live.exchange_id == exchange_id for live in self._attended.values())

    def mirror(self, key: str) -> None:
        """Send what is missing to the conversation's threads at a provider, if it has any, without waiting for it."""
        services = self._ledger.services
        outbox = services.outbox
        if outbox is not None and outbox.has_mirrors and services.mirrored_to != "none":
            self._threads.submit(partial(self._mirror, Conversing(self._ledger.journal, services, key)))

    def end(self, key: str, exchange_id: str) -> None:
        """Note that an exchange has ended, so that no process takes it over."""
        self._note_end(stream_of(key), exchange_id)

    def cancel(self, key: str, exchange_id: str) -> None:
        """Note that an exchange was cancelled, and break off its call to a provider if it is made here."""
        self.end(key, exchange_id)
        with self._changed:
            attended = (each for each in self._attended.values() if each.exchange_id == exchange_id)
            live = self._live.get(exchange_id) or next(attended, None)
        if live is not None:
            self._interrupt(live, Interrupted())

    def sent(self, request_key: str) -> None:
        """Note that the response to a request was sent completely."""
        with self._changed:
            self._sent.append(request_key)

    def unsent(self, fingerprint: str) -> str | None:
        """Return the key of the newest request like this whose response was not completely sent; None if there is none."""
        found = self.notes.unsent(fingerprint)
        with self._changed:
            return None if found in self._sent else found

    def has_followers(self, key: str, request_key: str) -> bool:
        """Return whether another request was stored in a conversation after this one."""
        journal, own = self._ledger.journal, idempotency_key_of(request_key)
        stored = journal.keyed(key, own)
        if stored is None:
            return False
        later = (getattr(event, "idempotency_key", None) for event in journal.history(key, stored.originator_version))
        return any(each is not None and each != own and each.startswith(STORED_PREFIX) for each in later)

    def expire(self, key: str, exchange_id: str) -> bool:
        """End an exchange if its time is over; return whether it has ended."""
        try:
            is_over = expired(self._ledger.journal, self._ledger.services, key, exchange_id)
        except ConversationNotFound:
            is_over = True
        if is_over:
            self._note_end(stream_of(key), exchange_id)
        return bool(is_over)

    # In threads

    def _new(self, key: str, exchange_id: str, share: str) -> LiveRun:
        return LiveRun(key, exchange_id, share, interruption=Interruption(self._working))

    def _begin(self, live: LiveRun, before: LiveRun | None, run: Callable[[], None]) -> None:
        try:
            if before is not None:
                before.ended.wait()
            live.has_begun = True
            if not live.is_cancelled:
                run()
        except Interrupted:
            pass
        finally:
            with self._changed:
                if self._live.get(live.exchange_id) is live:
                    del self._live[live.exchange_id]
            self._leave(live)

    def _attend(self, name: str, live: LiveRun, exchange: Exchange) -> None:
        live.has_begun = not live.is_cancelled
        try:
            if live.has_begun:
                live.interruption.perform(exchange.run(), live.put)
            else:
                self._give_up(live, exchange)
        except Interrupted:
            if not live.is_answered:
                live.error = StoreUnavailable("the server stops, or all listeners have left: send the request again")
        except Exception as error:  # noqa: BLE001 - each listener raises it
            live.error = error
        finally:
            with self._changed:
                if self._attended.get(name) is live:
                    del self._attended[name]
            if live.is_claimed:
                self.end(live.key, live.exchange_id)
            self._leave(live)

    def _interrupt(self, what: LiveRun | Interruption, error: BaseException) -> None:
        """Break something off; what waits for a slot ends without one."""
        what.interrupt(error)
        if isinstance(what, LiveRun) and self._slots.withdraw(what.share, what.begin):
            what.has_left = True
            what.begin()

    def _leave(self, live: LiveRun) -> None:
        """End what has run, so that another one gets its slot."""
        live.end()
        if not live.has_left:
            self._slots.leave(live.share)
        with self._changed:
            self._running.discard(live)
            self._changed.notify_all()

    def _give_up(self, live: LiveRun, exchange: Exchange) -> None:
        """Close an exchange that was not begun: its request is stored, and nothing else would close it."""
        stopped = Interrupted() if live.listeners else ListenerLeft()
        try:
            perform(exchange.give_up(stopped))
        except ThreadledgerError as error:
            logger.warning("exchange %s of %r stays open: %s", live.exchange_id, live.key, redact(str(error)))
        raise Interrupted

    def _run(self, live: LiveRun, actor: str | None, stream: bool, new: NewRequest | None) -> None:
        journal = self._ledger.journal
        acting = journal if actor is None else journal.as_actor(actor, reserved=True)
        chat = Conversing(acting, self._ledger.services, live.key)
        place = stream_of(live.key), live.exchange_id
        answer: Answer | None = None

        def put(part: Any) -> None:
            nonlocal answer
            answer = part if part.type == "answer" else answer
            live.put(part)

        try:
            waits = partial(self.notes.wait, *place)
            effects = continued(chat, live.exchange_id, stream=stream, waits=waits, new=new)
            live.interruption.perform(effects, put)
        except AllBackendsFailed as error:
            live.error = error
            self._note_end(*place)
        except Conflict as error:  # it has ended, or another process runs it
            logger.info("exchange %s of %r is not run here: %s", live.exchange_id, live.key, redact(str(error)))
            self._note_end(*place)
        except ThreadledgerError as error:
            logger.warning("exchange %s of %r: %s", live.exchange_id, live.key, redact(str(error)))
        except Exception:
            logger.exception("exchange %s of %r broke off", live.exchange_id, live.key)
        else:
            if answer is None or not answer.pending:
                self._note_end(*place)

    def _mirror(self, chat: Conversing) -> None:
        interruption = Interruption(self._working)
        with self._changed:
            self._running.add(interruption)
        try:
            interruption.perform(chat.mirror(), lambda _: None)
        except Interrupted:
            pass
        except ThreadledgerError as error:
            logger.warning("the threads of %r are behind: %s", chat.key, redact(str(error)))
        finally:
            with self._changed:
                self._running.discard(interruption)
                self._changed.notify_all()

    def _end(self, grace_seconds: float) -> None:
        """Wait for what is in progress, then break it off; an app's function that does not return is left alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, grace_seconds)
            left = [*self._running]
        for each in left:
            self._interrupt(each, Interrupted())
        with self._changed:
            self._changed.wait_for(lambda: not self._running, LEAVE_SECONDS)

    def _keeper(self, seconds: float, do: Callable[[], None]) -> threading.Thread:
        name = f"threadledger-upkeep-{seconds:g}"
        return threading.Thread(target=self._every, args=(seconds, do), name=name, daemon=True)

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something again and again; while it fails, in growing intervals. The log has its first failure and its recovery."""
        failures, logged = 0, ""
        while not self._stopping.wait(pause_after(failures, seconds)):
            try:
                do()
            except Exception as error:  # noqa: BLE001 - it is tried again
                failures += 1
                if logged != type(error).__name__:
                    logged = type(error).__name__
                    _log_failure(error)
            else:
                if failures:
                    logger.warning("the server's upkeep works again, after %d failed attempts", failures)
                failures, logged = 0, ""

    # Notes

    def _note_end(self, stream: str, exchange_id: str) -> None:
        with self._changed:
            self._ended.append((stream, exchange_id))

    def _settle(self) -> None:
        with self._changed:
            sent, self._sent = self._sent, []
            ended, self._ended = self._ended, []
        try:
            self.notes.settle(sent=sent, ended=ended)
        except BaseException:
            with self._changed:
                self._sent, self._ended = [*sent, *self._sent], [*ended, *self._ended]
            raise

    def _look(self) -> None:
        self._take_over()
        self._break_off()

    def _break_off(self) -> None:
        """Cancel the exchanges that run here and were ended by another process: a silent call would not notice.

        One query finds the conversations that have changed since the last look.
        """
        with self._changed:
            live_runs = (*self._live.values(), *self._attended.values())
        running = [each for each in live_runs if each.has_begun and not each.is_cancelled]
        heads = {key_of(head.stream): head for head in self._ledger.journal.heads_of({each.key for each in running})}
        for live in running:
            head = heads.get(live.key)
            if head is not None and (head.version == live.seen_version or not self._was_ended(live, head)):
                live.seen_version = head.version
                continue
            logger.info("exchange %s of %r has ended elsewhere, and is not continued", live.exchange_id, live.key)
            self._note_end(stream_of(live.key), live.exchange_id)
            self._interrupt(live, Interrupted())

    def _was_ended(self, live: LiveRun, head: StreamHead) -> bool:
        """Return whether an exchange was cancelled, or its conversation deleted; what its own task ends has ended otherwise."""
        journal, name = self._ledger.journal, live.exchange_id
        state = journal.state_of(head)
        if name in state.open_exchanges or name in state.abandoned:
            return False
        if name not in state.answered:  # it has not begun, or was of a deleted conversation whose key is used again
            return live.version is None or live.version <= journal.deleted_version(live.key)
        newest = islice(journal.newest(live.key), NEWEST_EVENTS_READ)
        kinds = e.ExchangeCancelled, e.RunStarted, e.MessageJournaled  # what is older was of an earlier run of it
        last = next((event for event in newest if isinstance(event, kinds) and event.exchange_id == name), None)
        return isinstance(last, e.ExchangeCancelled)

    def _take_over(self) -> None:
        """Run or end exchanges that no living process runs: those of a stopped process, and those whose time is over."""
        if self._stopping.is_set():
            return
        for stream, exchange_id in self.notes.abandoned(TAKEN_AT_ONCE):
            if self.live(exchange_id) is not None:
                continue
            if self.expire(key_of(stream), exchange_id) or not self._slots.has_free:  # another process has time for it
                continue
            if self.notes.hold(stream, exchange_id):
                self._continue(key_of(stream), exchange_id)

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of exchanges that run here or wait for their turn: `exchanges`."""
        with self._changed:
            return {"exchanges": len(self._running)}

    def _continue(self, key: str, exchange_id: str) -> None:
        """Run an exchange that a stopped process has left, or end it if nobody waits for it any more."""
        journal = self._ledger.journal
        recorded = SentOptions.of(journal, key, exchange_id)
        if recorded is not None and not recorded.event.background:  # a chat completion: its client continues it
            self.end(key, exchange_id)
            return
        if recorded is not None and recorded.event.surface == SURFACE:
            state = journal.require(key).state
            exchange = state.open_exchanges.get(exchange_id)
            has_begun = exchange is not None and bool(exchange.runs)
            if not outlives_its_process(recorded.event, has_begun):
                logger.info("response %s of %r is ended: its process has stopped", exchange_id, key)
                stopped(journal, key, exchange_id, Failure("interrupted", message=STOPPED), STOPPED)
                self._note_end(stream_of(key), exchange_id)
                return
        logger.info("exchange %s of %r is continued here", exchange_id, key)
        self.run(key, exchange_id, None, share=self._share_of(key, exchange_id))

    def _share_of(self, key: str, exchange_id: str) -> str:
        """Return the actor that has requested an exchange."""
        lookups = self._ledger.journal.lookups(key)
        event = lookups.request_of(exchange_id) if lookups is not None else None
        return event.actor or "" if event is not None else ""


def pause_after(failures: int, seconds: float) -> float:
    """Return the pause before upkeep of this interval, in seconds: it doubles with each failure in a row, up to a limit."""
    return min(seconds * 2.0 ** min(failures, 32), max(seconds, UPKEEP_PAUSE_SECONDS_MAX))


def _log_failure(error: Exception) -> None:
    what = "the server's upkeep failed, and is tried again in growing intervals"
    if isinstance(error, ThreadledgerError):
        logger.warning("%s: %s", what, redact(str(error)))
    else:
        logger.warning("%s", what, exc_info=without_text(error))
