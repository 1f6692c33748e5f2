"""Conversations that were found elsewhere, journaled: each once, whole or not at all, and what has grown is added.

A message's idempotency key is made from its place in the source. What was imported before stays as it is; a message that
left the conversation's branch at the source is retracted, as the source itself does not show it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from threadledger.domain import (
    IMPORTED,
    Conversation,
    ConversationChanged,
    IdempotencyConflict,
    Ledger,
    Message,
    Source,
    ThreadledgerError,
    events,
    restore_message,
)

from .found import Entry, Found, Imported

BATCH_CONVERSATIONS = 50
"""New conversations stored in one transaction."""

BATCH_MESSAGES = 2_000
"""Messages that wait to be stored with others: memory does not grow with the file."""

EXTEND_ATTEMPTS_MAX = 3
"""How often what is missing is told again after another import of the same conversation was first."""

LEFT_BRANCH = "another branch took its place where it was imported from"


def import_found(ledger: Ledger, found: Iterable[Found | Imported]) -> Iterator[Imported]:
    """Import one conversation after the other; one that failed keeps nothing, the others are kept.

    A failure while the source is read goes through as it came.
    """
    waiting: list[Found] = []
    for each in found:
        if isinstance(each, Imported):
            yield each
            continue
        try:
            Conversation.start(each.key, each.metadata)  # refuses a key or metadata that cannot be kept
            if ledger.journal.load(each.key) is None and all(new.key != each.key for new in waiting):
                waiting.append(each)
            else:
                yield from _store(ledger, waiting)
                waiting = []
                yield _extend(ledger, each)
        except ThreadledgerError as error:
            yield Imported(each.line, each.key, "failed", reason=str(error))
        if len(waiting) >= BATCH_CONVERSATIONS or sum(len(new.entries) for new in waiting) >= BATCH_MESSAGES:
            yield from _store(ledger, waiting)
            waiting = []
    yield from _store(ledger, waiting)


def _store(ledger: Ledger, waiting: Sequence[Found]) -> Iterator[Imported]:
    try:
        ledger.journal.store(*(_new(found) for found in waiting))
    except ConversationChanged:  # somebody else began one of them meanwhile: one by one, each in its own transaction
        yield from (_store_one(ledger, found) for found in waiting)
        return
    yield from (_imported(found) for found in waiting)


def _store_one(ledger: Ledger, found: Found) -> Imported:
    try:
        ledger.journal.store(_new(found))
        return _imported(found)
    except ConversationChanged:
        try:
            return _extend(ledger, found)
        except ThreadledgerError as error:
            return Imported(found.line, found.key, "failed", reason=str(error))


def _new(found: Found) -> Conversation:
    conversation = Conversation.start(found.key, found.metadata)
    _journal(conversation, found.entries)
    return conversation


def _imported(found: Found) -> Imported:
    return Imported(found.line, found.key, "imported", len(found.entries), left_out=found.left_out)


def _journal(conversation: Conversation, entries: Iterable[Entry]) -> None:
    for entry in entries:
        conversation.journal(
            entry.message,
            source=Source.IMPORT,
            idempotency_key=IMPORTED + entry.place,
            message_id=entry.message_id,
            written_at=entry.written_at,
        )


def _extend(ledger: Ledger, found: Found) -> Imported:
    for attempt in range(1, EXTEND_ATTEMPTS_MAX + 1):
        try:
            return _Begun(ledger, found).extended()
        except ConversationChanged:
            if attempt == EXTEND_ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


class _Begun:
    """A conversation that has begun, beside what was found of it."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        self._ledger = ledger
        self._found = found
        self._known: dict[str, events.MessageJournaled] = {}
        self._message_ids: set[str] = set()
        self._retracted: set[str] = set()
        self._threads: set[str] = set()
        for event in ledger.journal.history(found.key):
            self._take(event)

    def _take(self, event: events.Event) -> None:
        match event:
            case events.MessageJournaled():
                self._message_ids.add(event.message_id)
                if event.source == Source.IMPORT and event.idempotency_key is not None:
                    self._known[event.idempotency_key] = event
            case events.MessageRetracted():
                self._retracted.add(event.message_id)
            case events.ThreadLinked():
                self._threads.add(event.thread_id)
            case events.ThreadRebuilt():
                self._threads.update((event.thread_id, event.old_thread_id or ""))
            case _:
                pass

    def extended(self) -> Imported:
        """Add what it does not have yet.

        Raises:
            IdempotencyConflict: a message differs from the one imported before, or its place is behind it.
            ConversationChanged: others were first.
        """
        found = self._found
        if found.thread_id in self._threads:
            reason = (
                "the thread is a copy of this conversation that the ledger wrote: "
                f"what others wrote into it is taken in by replay reconcile {found.key} --adopt"
            )
            return Imported(found.line, found.key, "unchanged", reason=reason, left_out=found.left_out)
        missing = self._missing()
        gone = [
            event.message_id
            for place in found.other_branches
            if (event := self._known.get(IMPORTED + place)) is not None and event.message_id not in self._retracted
        ]
        if not missing and not gone:
            return Imported(found.line, found.key, "unchanged", left_out=found.left_out)

        def decide(conversation: Conversation) -> None:
            for message_id in gone:
                conversation.retract(message_id, LEFT_BRANCH)
            _journal(conversation, missing)

        self._ledger.journal.commit(found.key, decide)
        left_out = dict(found.left_out) | ({"retracted": len(gone)} if gone else {})
        return Imported(found.line, found.key, "extended", len(missing), left_out=left_out)

    def _missing(self) -> list[Entry]:
        missing: list[Entry] = []
        for entry in self._found.entries:
            earlier = self._known.get(IMPORTED + entry.place)
            if earlier is None:
                if (entry.message_id or entry.piece_of) not in self._message_ids:
                    missing.append(entry)
                continue
            self._compare(earlier, entry)
            if missing:
                raise IdempotencyConflict(
                    f"{missing[0].name} of {self._found.key!r} stands before one that was imported earlier, and "
                    "its place is taken: nothing of this conversation was imported; give it another key"
                )
        return missing

    def _compare(self, earlier: events.MessageJournaled, entry: Entry) -> None:
        # What else a foreign message carries may be told more or less fully: a dump knows sizes that a live thread does not.
        before, after = restore_message(earlier), entry.message
        if (_said(before) != _said(after)) if self._found.has_ids else (before != after):
            raise IdempotencyConflict(
                f"{entry.name} of {self._found.key!r} differs from the one imported before: nothing of this "
                "conversation was imported; give the changed conversation another id"
            )


def _said(message: Message) -> Message:
    return replace(message, extra_json="{}")
