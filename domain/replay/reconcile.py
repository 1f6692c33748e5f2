"""Reconcile threads that have drifted from the journal.

Missing entries are sent. Foreign entries are journaled on request. A thread that is out of order is rewritten. This
never calls a model: nothing here can reach a backend.

Each step decides again what to do, from the current state of the thread. After a crash, or in a second process, a step
finds less to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from ..conversation import Conversation, ConversationState, ThreadLink
from ..conversation import events as e
from ..conversation.messages import Source
from ..effects import Effects, Wait, perform, work
from ..errors import Conflict, ConversationBusy, ConversationChanged, ProviderRefused, ThreadledgerError
from ..failures import Cause, diagnose
from ..ids import now
from ..journal import Journal
from ..journal.outcomes import note_outcome
from ..threads import (
    ADOPTED,
    Comparison,
    Drift,
    ThreadItem,
    ThreadOutbox,
    ThreadState,
    Verification,
    Verifier,
    adoptable,
    compare,
    drift_of,
    ours_of,
    retried,
)
from .jobs import Jobs
from .plan import CHANGED, Plan, has_changed
from .rebuild import EQUAL, Rebuilder, RebuildItem


@dataclass(frozen=True, slots=True)
class ReconcileItem:
    """Describe one thread of a reconcile, as planned and with its outcome."""

    key: str
    backend: str
    version: int = 0
    thread_id: str | None = None
    new_thread_id: str | None = None
    action: str = "none"
    """`none`, `answer`, `send`, `adopt`, `rebuild`, or several of them in the order of execution, joined by a plus sign.
    `answer` journals an answer that the thread may hold to an unanswered question."""
    missing: int = 0
    extra: int = 0
    different: int = 0
    foreign: int = 0
    """Number of foreign entries in the thread; they are also counted in `extra` or `different`."""
    sent: int = 0
    adopted: int = 0
    """Number of messages that were journaled as adopted."""
    deleted: int = 0
    """Number of our late copies that were deleted from the thread."""
    answered: int = 0
    """Number of unanswered questions whose answer the thread held; it was journaled."""
    state: str = "planned"
    reason: str = ""
    in_the_way: bool = False
    """Whether it is skipped because another process uses the conversation, or has changed it since the plan."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields except those that only a plan needs."""
        left_out = {"version", "in_the_way"}
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}


class ReconcilePlan(Plan[ReconcileItem]):
    """Plan to repair threads.

    Each thread is read when the plan's items are read (`planned`), and again when it is repaired.
    """

    kind = "reconcile"

    def __init__(
        self,
        jobs: Jobs,
        wait: Wait,
        reconciler: Reconciler,
        places: Sequence[tuple[str, str]],
        adopt: bool = False,
    ) -> None:
        """Create a plan. `places` holds keys, each with a kind of thread."""
        super().__init__(jobs, wait)
        self.adopt = adopt
        self._reconciler = reconciler
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def planned(self) -> Iterator[ReconcileItem]:
        """Yield the planned items, one thread at a time; after the last one, the plan keeps them as its `items`."""
        found = []
        for planning in self._plannings():
            found.append(perform(planning, self._wait))
            yield found[-1]
        self._items = found

    def read(self) -> Effects[None]:
        """Read the threads and keep the planned items as the plan's `items`."""
        found = []
        for planning in self._plannings():
            found.append((yield from planning))
        self._items = found

    def _plannings(self) -> Iterator[Effects[ReconcileItem]]:
        return (self._reconciler.planning(key, to, self.adopt) for key, to in self._places)

    def options(self) -> dict[str, Any]:
        return {"adopt": self.adopt}

    def pins(self) -> Iterator[Mapping[str, Any]]:
        return (
            {"key": item.key, "version": item.version, "backend": item.backend}
            | ({"answer": True} if "answer" in item.action else {})
            for item in self.items
            if item.state == "planned"
        )

    def step(self, pin: Mapping[str, Any]) -> Effects[ReconcileItem]:
        return self._reconciler.step(pin, self.adopt)

    def _listed(self, found: Mapping[int, ReconcileItem]) -> list[ReconcileItem]:
        """Return all threads that were read, in the plan's order, with the outcomes of those that needed a repair."""
        if self._items is None:
            return super()._listed(found)
        ended = {(item.key, item.backend): item for item in found.values()}
        self._items = [ended.get((item.key, item.backend), item) for item in self._items]
        return self._items


LOOKS_MAX = 5
"""Maximum number of comparisons of a thread while other writers change its conversation."""


@dataclass(frozen=True)
class _ReconcileLook:
    """Hold a thread that was read, together with the journal at a version."""

    journal: Sequence[ThreadItem]
    thread: Sequence[ThreadItem]
    drift: Drift
    version: int

    def decided(self, item: ReconcileItem, *, adopt: bool) -> ReconcileItem:
        found = compare(self.journal, self.thread)
        return decided(item, found, self.drift, self.journal, self.thread, adopt=adopt)


class Reconciler:
    """Compare the threads of a ledger with the journal and repair them."""

    def __init__(self, journal: Journal, outbox: ThreadOutbox | None, verifier: Verifier, rebuilder: Rebuilder) -> None:
        self._journal = journal
        self._outbox = outbox
        self._verifier = verifier
        self._rebuilder = rebuilder

    def planning(self, key: str, to: str, adopt: bool) -> Effects[ReconcileItem]:
        """Read one thread and return its planned repair. Nothing is written.

        Provider failures are reported in the item, never raised.

        Raises:
            ConversationNotFound, InvalidInput: no such conversation or kind of thread.
        """
        self._verifier.reach(to)
        state = (yield from work(lambda: self._journal.require(key))).state
        item = ReconcileItem(key, to, state.version)
        try:
            _refuse_while_running(state)
            found = yield from retried(lambda: self._verifier.reading(key, to))
            thread_id = found.verification.thread_id
            if found.thread is None:
                return without_thread(item, found.verification)
            look = yield from work(partial(self._look, key, to, thread_id, found.thread))
            decided_item = look.decided(replace(item, thread_id=thread_id), adopt=adopt)
            return with_answer(decided_item, look.drift) if _unanswered(state) else decided_item
        except (ProviderRefused, Conflict) as error:
            return stopped(item, error)

    def step(self, pin: Mapping[str, Any], adopt: bool) -> Effects[ReconcileItem]:
        """Repair one thread of a plan. Provider failures and conflicts are reported in the item, never raised."""
        repair = _Repair(self._journal, ReconcileItem(pin["key"], pin["backend"], pin["version"]), adopt)
        try:
            if pin.get("answer"):
                yield from self._recover_answers(repair)
            yield from self._repair_thread(repair)
        except ThreadledgerError as error:
            return stopped(repair.item, error)
        return repair.item

    def _repair_thread(self, repair: _Repair) -> Effects[None]:
        key, to = repair.item.key, repair.item.backend
        if (yield from work(partial(self._usable_thread, repair))) is None or not (yield from self._in_place(repair)):
            found = yield from retried(lambda: self._verifier.reading(key, to))
            if found.thread is not None:
                raise ConversationChanged("another thread was linked in the meantime: plan again")
            repair.item = without_thread(repair.item, found.verification)
        if "rebuild" in repair.item.action and repair.item.state == "planned":
            yield from self._rewrite_thread(repair)
        repair.end()
        item = repair.item
        if self._outbox is not None and (item.adopted or item.new_thread_id):
            yield from self._outbox.send_missing(self._journal, key)  # new messages, and the other threads

    def _recover_answers(self, repair: _Repair) -> Effects[None]:
        """Journal answers that threads hold to unanswered questions, because a process stopped before it could."""
        item, outbox = repair.item, self._outbox
        state = (yield from work(lambda: self._journal.require(item.key))).state
        unanswered = _unanswered(state)
        if outbox is None or not unanswered or has_changed(self._journal, item.key, item.version, _is_adoption):
            return
        _refuse_while_running(state)
        for exchange_id in unanswered:
            answered = yield from outbox.recover_answer(self._journal, item.key, exchange_id)
            item = replace(item, answered=item.answered + answered)
        version = (yield from work(lambda: self._journal.require(item.key))).version
        repair.item = replace(item, version=version)

    def _usable_thread(self, repair: _Repair) -> str | None:
        """Return the id of the linked thread, or None if there is no thread that can be repaired.

        Raises:
            ConversationChanged: the conversation has changed since the plan.
            ConversationBusy: a run is open, or an exchange is being answered.
        """
        item = repair.item
        state = self._journal.require(item.key).state
        if has_changed(self._journal, item.key, item.version, _is_adoption):
            raise ConversationChanged(CHANGED)
        _refuse_while_running(state)
        link = state.links.get(item.backend)
        if link is None or link.lost or link.endpoint != self._verifier.reach(item.backend).endpoint:
            return None
        repair.item = replace(item, thread_id=link.thread_id)
        return link.thread_id

    def _in_place(self, repair: _Repair) -> Effects[bool]:
        """Repair the linked thread as far as possible, and return whether it exists."""
        outbox, item = self._outbox, repair.item
        if outbox is None:
            raise Conflict("this ledger does not write to threads: open it with an outbox")
        decide = partial(self._shown, repair)
        try:
            delivered = yield from outbox.catch_up(self._journal, item.key, item.backend, decide)
        except ProviderRefused as refused:
            if diagnose(refused.failure) is not Cause.THREAD_MISSING:
                raise
            return False
        repair.item = replace(repair.item, sent=delivered.sent, deleted=len(delivered.deleted))
        if delivered.sent:
            yield from work(partial(repair.record, sent=delivered.sent))
            seen = yield from retried(lambda: self._verifier.reading(item.key, item.backend))
            if drift_of(
                seen.journal, seen.thread or ()
            ).moved:  # the thread's order had been taken for that of the list
                repair.item = replace(repair.item, action=f"{repair.item.action}+rebuild", state="planned")
        return True

    def _shown(self, repair: _Repair, thread: Sequence[ThreadItem]) -> Effects[bool]:
        """Decide how to repair a thread, and journal its foreign entries if they are adopted.

        Returns whether missing entries can be sent to the thread. No other process of this ledger writes to the thread
        at this moment.
        """
        item = repair.item
        for _ in range(LOOKS_MAX):
            look = yield from work(partial(self._look, item.key, item.backend, item.thread_id, thread))
            yield from work(partial(self._note, item, look))
            repair.update(look)
            if not (repair.adopt and look.drift.foreign) or repair.item.state != "planned":
                return "rebuild" not in repair.item.action and not repair.item.in_the_way
            yield from work(partial(repair.adopt_foreign, look))
        raise ConversationChanged("other writers constantly change the conversation: try again")

    def _look(self, key: str, to: str, thread_id: str | None, thread: Sequence[ThreadItem]) -> _ReconcileLook:
        """Compare a thread with the journal.

        The thread is read first, so that every entry of this ledger in it is already journaled, unless a run is open.

        Raises:
            ConversationBusy: a run is open, or an exchange is being answered.
        """
        state = self._journal.require(key).state
        _refuse_while_running(state)
        view = self._verifier.render(key, to, None, thread_id)
        journal = view.held_by(thread)
        drift = drift_of(journal, thread)
        if drift.strangers:
            history = self._journal.history(key)
            ours, lost, memory = ours_of(history, state.links[to].version, adopted_from(to, str(thread_id)))
            withdrawn = self._verifier.reach(to).render(replace(memory, messages=tuple(lost)), thread_id)
            waiting = ours.waiting | {item.call_id for item in view.waiting if item.call_id}
            drift = drift_of(journal, thread, replace(ours, withdrawn=withdrawn.items, waiting=waiting))
        self._journal.wait_until_durable()
        return _ReconcileLook(journal, thread, drift, state.version)

    def _note(self, item: ReconcileItem, look: _ReconcileLook) -> None:
        """Note how the thread compares with the journal, for lists of threads."""
        link = ThreadLink(thread_id=item.thread_id or "", endpoint=self._verifier.reach(item.backend).endpoint)
        found = compare(look.journal, look.thread).state
        note_outcome(self._journal, item.key, item.backend, link, found.value, look.version)

    def _rewrite_thread(self, repair: _Repair) -> Effects[None]:
        item = repair.item
        rebuilt = RebuildItem(item.key, item.backend, state="skipped", reason=CHANGED, kind="changed")
        for _ in range(LOOKS_MAX):
            version = (yield from work(lambda: self._journal.require(item.key))).version
            rebuilt = yield from self._rebuilder.rebuilding(item.key, item.backend, version, fresh=True)
            if rebuilt.kind != "changed":
                break
        if rebuilt.state == "done":
            sent = repair.item.sent + rebuilt.sent
            repair.item = replace(repair.item, new_thread_id=rebuilt.thread_id, sent=sent, state="done")
        else:
            in_the_way = rebuilt.state == "skipped" and rebuilt.kind != "empty"
            repair.item = replace(item, state=rebuilt.state, reason=rebuilt.reason, in_the_way=in_the_way)


class _Repair:
    """Hold one thread while it is being repaired."""

    def __init__(self, journal: Journal, item: ReconcileItem, adopt: bool) -> None:
        self.item = item
        self.adopt = adopt
        self._journal = journal

    def update(self, look: _ReconcileLook) -> None:
        """Update the item after a comparison: the first one decides the repair, a later one its remaining steps."""
        if self.item.adopted:
            self.item = decided_again(self.item, look.drift)
        else:
            self.item = look.decided(replace(self.item, state="planned"), adopt=self.adopt)

    def adopt_foreign(self, look: _ReconcileLook) -> None:
        """Journal the foreign entries, all of them or none.

        Does nothing if another writer has changed the conversation: the foreign entries must then be determined again.
        """
        item = self.item
        messages = [(self._journal.keep(message), item_id) for message, item_id in adoptable(look.drift.foreign)]
        place = adopted_from(item.backend, str(item.thread_id))

        def decide(conversation: Conversation) -> int:
            if conversation.version != look.version:
                return 0
            for message, item_id in messages:
                conversation.journal(message, source=Source.ADOPTED, idempotency_key=place + item_id)
            self._record(conversation, adopted=len(messages))
            return len(messages)

        self.item = replace(item, adopted=item.adopted + self._journal.commit(item.key, decide))

    def record(self, sent: int) -> None:
        """Record how many entries were sent."""
        self._journal.commit(self.item.key, lambda conversation: self._record(conversation, sent=sent))

    def end(self) -> None:
        """Set the outcome, after everything possible was done."""
        item = self.item
        if item.state == "planned" or item.deleted or item.answered:
            done = item.sent or item.adopted or item.deleted or item.new_thread_id or item.answered
            if item.answered and "answer" not in item.action:
                item = replace(item, action="+".join(["answer", *(each for each in [item.action] if each != "none")]))
            self.item = replace(item, state="done") if done else replace(item, state="skipped", reason=EQUAL)

    def _record(self, conversation: Conversation, sent: int = 0, adopted: int = 0) -> None:
        place = (self.item.backend, str(self.item.thread_id), conversation.version)
        conversation.reconcile_thread(*place, sent=sent, adopted=adopted, reason=f"reconciled: {self.item.reason}")


def adopted_from(to: str, thread_id: str) -> str:
    """Return the prefix of the idempotency keys of entries adopted from a thread.

    The provider's id of the entry follows it.
    """
    return f"{ADOPTED}:{to}:{thread_id}:"


def _is_adoption(event: e.Event) -> bool:
    return isinstance(event, e.MessageJournaled) and event.source == Source.ADOPTED


def _refuse_while_running(state: ConversationState) -> None:
    """Raise ConversationBusy while a run is open or an exchange is between two runs.

    What they leave in the thread is not journaled yet.
    """
    for run_id, run in state.open_runs.items():
        raise ConversationBusy(f"run {run_id} on {run.backend} is open: try again when it has ended")
    for exchange_id, exchange in state.open_exchanges.items():
        if exchange.undecided is None and exchange.is_active(now()):
            raise ConversationBusy(f"exchange {exchange_id} is being answered: try again when it has ended")


def _unanswered(state: ConversationState) -> list[str]:
    """Return the exchanges whose answer a thread may hold: those left open, and the newest one if it was abandoned."""
    return [*state.open_exchanges, *(each for each in state.abandoned if each == state.last_exchange_id)]


LEFT = "kept in the thread: --adopt journals it, replay rebuild --fresh writes a thread without it"


def decided(
    item: ReconcileItem,
    found: Comparison,
    drift: Drift,
    journal: Sequence[ThreadItem],
    thread: Sequence[ThreadItem],
    *,
    adopt: bool,
) -> ReconcileItem:
    """Return the item with the repair that a thread needs.

    This sets the counts of differences, the action and the reason.
    """
    item = replace(item, missing=found.missing, extra=found.extra, different=found.different, foreign=drift.strangers)
    if drift.waiting:
        return replace(item, state="skipped", reason="a tool call waits for its result: try again", in_the_way=True)
    broken = bool(drift.moved or drift.stale or (adopt and drift.unfit))
    if adopt and drift.foreign and not broken:
        broken = drift_of([*journal, *drift.foreign], thread).moved > 0
    actions = [
        *(["adopt"] if adopt and drift.foreign else []),
        *(["rebuild"] if broken else ["send"] if drift.lacking else []),
    ]
    reason = "; ".join(_reasons(drift, adopt=adopt, broken=broken)) or EQUAL
    return replace(item, action="+".join(actions) or "none", state="planned" if actions else "skipped", reason=reason)


def with_answer(item: ReconcileItem, drift: Drift) -> ReconcileItem:
    """Return the item with the step that journals an answer, if the thread has model output that the journal lacks."""
    if item.in_the_way or not drift.foreign or any(each.name != "assistant" for each in drift.foreign):
        return item
    actions = ["answer", *(each for each in item.action.split("+") if each != "none")]
    reason = f"the thread may hold the answer to an unanswered question; {item.reason}"
    return replace(item, action="+".join(actions), state="planned", reason=reason)


def decided_again(item: ReconcileItem, drift: Drift) -> ReconcileItem:
    """Return the item with the remaining steps after foreign entries were journaled."""
    broken = bool(drift.moved or drift.stale or drift.unfit)
    left = ["rebuild"] if broken else ["send"] if drift.lacking else []
    return replace(item, action="+".join(["adopt", *left]))


def without_thread(item: ReconcileItem, verification: Verification) -> ReconcileItem:
    """Return the item with the repair if no thread can be read."""
    found = verification.found
    item = replace(item, thread_id=verification.thread_id, missing=found.missing)
    if not found.journal:
        return replace(item, state="skipped", reason="nothing to write")
    state = "the thread is gone" if found.state is ThreadState.GONE else "no thread is linked here"
    reason = f"{state} ({verification.reason})" if verification.reason else state
    return replace(item, action="rebuild", state="planned", reason=reason)


def stopped(item: ReconcileItem, error: ThreadledgerError) -> ReconcileItem:
    """Return an item that could not be continued: skipped after a conflict, else failed."""
    if isinstance(error, Conflict):
        return replace(item, state="skipped", reason=str(error), in_the_way=True)
    cause = f"{diagnose(error.failure).value}: " if isinstance(error, ProviderRefused) else ""
    return replace(item, state="failed", reason=f"{cause}{error}")


def _reasons(drift: Drift, *, adopt: bool, broken: bool) -> list[str]:
    reasons = []
    if drift.moved:
        reasons.append(f"{_entries(drift.moved)} out of place")
    if drift.stale:
        reasons.append(
            f"{_entries(drift.stale)} from this ledger that the journal no longer contains, or contains differently"
        )
    if drift.lacking:
        reasons.append(f"{_entries(drift.lacking)} missing")
    if adopt and drift.foreign:
        amid = " between those of the journal" if broken and not (drift.moved or drift.stale or drift.unfit) else ""
        reasons.append(f"{_entries(len(drift.foreign), 'foreign ')}{amid}")
    if adopt and drift.unfit:
        reasons.append(f"{_entries(drift.unfit, 'foreign ')} that cannot be journaled, kept in the old thread")
    if not adopt and drift.strangers:
        left = "kept in the old thread: --adopt journals it" if broken else LEFT
        reasons.append(f"{_entries(drift.strangers, 'foreign ')}, {left}")
    return reasons


def _entries(number: int, what: str = "") -> str:
    return f"{number} {what}{'entry' if number == 1 else 'entries'}"
