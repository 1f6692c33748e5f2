"""Journal conversations that were read from a source (`reading.py`).

Each conversation is imported once, completely or not at all; later imports add only its new messages. A message's
idempotency key is derived from its place in the source, and from the rule by which it was read: a conversation is compared
and continued by the rule that imported it first. Messages imported earlier are not changed. The branches of a source are
branches of the conversation (rule 3), and the one that the source shows is selected. Rules 1 and 2 have one line: a message that
has moved to another branch at the source is retracted, because the source no longer shows it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from threadledger.domain.conversation import Conversation, events, stream_of
from threadledger.domain.conversation.messages import Message, Parent, Source, restore_message
from threadledger.domain.errors import (
    BlobMissing,
    ConversationChanged,
    IdempotencyConflict,
    InvalidInput,
    ThreadledgerError,
    quoted,
)
from threadledger.domain.journal import fingerprint_of
from threadledger.domain.ledger import Ledger

from .assistants import FoundAssistant, Read, import_assistant
from .attachments import ImportedAttachments
from .reading import TREE_RULE, Entry, Found, Imported, Known, UsualEntries, rule_of
from .repairs import OpenCalls, repaired, whole

BATCH_CONVERSATIONS = 500
"""Maximum number of conversations stored in one transaction."""

BATCH_MESSAGES = 2_000
"""Number of messages after which a batch is stored. Other writers wait for some hundredths of a second meanwhile."""

BATCH_CHARS = 8 * 1024**2
"""Number of characters after which a batch is stored, so that memory use does not grow with the file."""

BATCH_SECONDS = 1.0
"""Time in seconds after which a batch is stored, so that little is lost if a slow source is interrupted."""

EXTEND_ATTEMPTS_MAX = 3
"""Maximum number of attempts to extend a conversation while other imports change it at the same time."""

_UNSTORED = (BlobMissing, InvalidInput)
"""Errors about an attachment of one conversation, which stop no other."""

BEGINNING: Parent = ("", 0)

WAS_DELETED = "a conversation with this key was deleted, and an import does not bring it back: give it another key"

LEFT_BRANCH = "another branch took its place where it was imported from"
SHOWN_BRANCH = "it is shown where it was imported from"
"""Reasons of the events that an import adds about branches."""


def import_found(
    ledger: Ledger, found: Iterable[Read], blobs: Path | None = None, tenant: str = ""
) -> Iterator[Imported]:
    """Import conversations batch by batch; a failed one stores nothing and does not stop the others.

    `blobs` is the folder with the attachments to which messages refer by their addresses. `tenant` is the tenant of the
    served API to which conversations and assistants will belong.

    A conversation that could not be read (`Imported`) is passed through, and exceptions from the source propagate.
    What was read before is stored first.
    """
    batch, reading = _Batch(ledger), iter(found)
    attachments = ImportedAttachments(ledger, blobs)
    problem: Exception | None = None
    while problem is None:
        try:
            read = next(reading, None)
        except Exception as error:  # noqa: BLE001 - raised again, after what was read before it is stored
            problem, read = error, None
        if read is None:
            break
        if isinstance(read, Imported):
            yield read
            continue
        if isinstance(read, FoundAssistant):
            yield from batch.stored()
            batch = _Batch(ledger)
            yield import_assistant(ledger, replace(read, record=replace(read.record, tenant=tenant)))
            continue
        read = read.within(tenant) if tenant else read
        if batch.is_full or read.key in batch.keys:
            yield from batch.stored()
            batch = _Batch(ledger)
        try:
            _store_attachments(attachments, read)
            batch.add(_with_stored_metadata(read))
        except ThreadledgerError as error:
            yield _failed(read, error)
    yield from batch.stored()
    if problem is not None:
        raise problem


def _store_attachments(attachments: ImportedAttachments, found: Found) -> None:
    if not isinstance(found.entries, UsualEntries):  # which are texts
        for entry in found.entries:
            attachments.store(entry.message, entry.name)


class _Batch:
    """Hold conversations that are stored together, in one transaction as far as they are new."""

    def __init__(self, ledger: Ledger) -> None:
        self.keys: set[str] = set()
        self._ledger = ledger
        self._found: list[Found] = []
        self._messages = self._chars = 0
        self._began_at = time.monotonic()

    @property
    def is_full(self) -> bool:
        return bool(self.keys) and (
            len(self.keys) >= BATCH_CONVERSATIONS
            or self._messages >= BATCH_MESSAGES
            or self._chars >= BATCH_CHARS
            or time.monotonic() - self._began_at >= BATCH_SECONDS
        )

    def add(self, found: Found) -> None:
        """Add a conversation whose key the batch does not have yet."""
        self.keys.add(found.key)
        self._found.append(found)
        self._messages += len(found.entries)
        self._chars += max(found.chars, found.source_chars)

    def stored(self) -> Sequence[Imported]:
        """Store the batch and return the results in the order of the source."""
        if not self.keys:
            return []
        journal = self._ledger.journal
        used = journal.used_heads(self.keys)
        ended = self._stored_new([each for each in self._found if each.key not in used])
        known = journal.fingerprints(used)
        for each in self._found:
            head = used.get(each.key)
            if head is not None and head.has_generations:
                ended[each.key] = Imported(each.line, each.key, "skipped", reason=WAS_DELETED)
            elif head is not None:
                branched = each.rule >= TREE_RULE and journal.state_of(head).fork_version is not None
                ended[each.key] = _extended(self._ledger, each, known.get(each.key, {}), branched)
        return [ended[each.key] for each in self._found]

    def _stored_new(self, found: Sequence[Found]) -> dict[str, Imported]:
        try:
            self._ledger.journal.store(*(_new(self._ledger, each) for each in found))
        except (ConversationChanged, *_UNSTORED):  # of one of them: store each in its own transaction
            return {each.key: _store_one(self._ledger, each) for each in found}
        return {each.key: _imported(each) for each in found}


def _failed(found: Found, error: Exception) -> Imported:
    return Imported(found.line, found.key, "failed", reason=str(error))


def _with_stored_metadata(found: Found) -> Found:
    """Return the conversation without metadata that cannot be stored.

    Raises:
        InvalidKey: the key cannot be stored.
    """
    stream_of(found.key)
    if not found.metadata:
        return found
    with suppress(InvalidInput):  # then each value is looked at below
        Conversation.start(found.key, found.metadata)
        return found
    left_out = Counter(found.left_out)
    kept: dict[str, Any] = {}
    for name, value in found.metadata.items():
        try:
            field_of_it = whole({name: value}, left_out)
            Conversation.start(found.key, {**kept, **field_of_it})
            kept |= field_of_it
        except InvalidInput:
            left_out["metadata_fields"] += 1
    return replace(found, metadata=kept, left_out=left_out)


def _store_one(ledger: Ledger, found: Found) -> Imported:
    try:
        ledger.journal.store(_new(ledger, found))
        return _imported(found)
    except ConversationChanged:
        return _extended(ledger, found, {})
    except _UNSTORED as error:
        return _failed(found, error)


def _new(ledger: Ledger, found: Found) -> Conversation:
    conversation = Conversation.start(
        found.key, found.metadata, actor=ledger.journal.actor, written_at=found.written_at, origin=found.origin
    )
    _journal(conversation, found, _kept(ledger, found.entries), {"": BEGINNING} if found.rule >= TREE_RULE else None)
    return conversation


def _kept(ledger: Ledger, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Store the data inside messages, and return the messages with the addresses of their attachments."""
    if isinstance(entries, UsualEntries):
        return entries
    return [each._replace(message=ledger.journal.keep(each.message)) for each in entries]


def _imported(found: Found) -> Imported:
    return Imported(found.line, found.key, "imported", len(found.entries), found.note, found.left_out)


def _journal(
    conversation: Conversation,
    found: Found,
    entries: Iterable[Entry],
    places: dict[str, Parent] | None = None,
    is_aside: Callable[[Entry], bool] = lambda entry: entry.is_aside,
) -> None:
    """Journal entries at the end, or aside after the message at the place that they follow; add their places to `places`."""
    begin = found.key_at("")
    for entry in entries:
        parent = places[entry.after or ""] if places is not None and is_aside(entry) else None
        said = conversation.journal(
            entry.message,
            source=Source.IMPORT,
            idempotency_key=begin + entry.place,
            message_id=entry.message_id,
            written_at=entry.written_at,
            origin=entry.origin,
            parent=parent,
        )
        if places is not None:
            places[entry.place] = (said.message_id, said.originator_version)


def _extended(ledger: Ledger, found: Found, known: Known, branched: bool = False) -> Imported:
    """Add what an existing conversation lacks; `branched` says whether it has branches."""
    by_its_rule = found.by_rule(rule_of(known) or found.rule)
    if isinstance(by_its_rule, Imported):
        return by_its_rule
    found = by_its_rule
    if isinstance(found.entries, UsualEntries) and found.entries.are_in(known, found.key_at("")):
        return Imported(found.line, found.key, "unchanged", 0, found.note, found.left_out)
    try:
        missing = None if branched and found.rule >= TREE_RULE else _known_to_be_missing(ledger, found, known)
        if missing is None:
            return _extend(ledger, found)
        if not missing:
            return Imported(found.line, found.key, "unchanged", 0, found.note, found.left_out)
        kept = _kept(ledger, missing)
        try:
            ledger.journal.commit(found.key, lambda conversation: _journal(conversation, found, kept))
        except ConversationChanged:  # another process imports the same
            return _extend(ledger, found)
        return Imported(found.line, found.key, "extended", len(missing), found.note, found.left_out)
    except ThreadledgerError as error:
        return _failed(found, error)


def _known_to_be_missing(ledger: Ledger, found: Found, known: Known) -> Sequence[Entry] | None:
    """Return the messages to append, if the fingerprints show that all others are imported as they are, else None."""
    entries = _beside(found, known)
    count = next(
        (number for number, entry in enumerate(entries) if found.key_at(entry.place) not in known), len(entries)
    )
    missing = entries[count:]
    if found.other_branches or (missing and not known) or any(each.is_aside for each in entries):
        return None
    if not all(_is_known_as(ledger, entry, known[found.key_at(entry.place)]) for entry in entries[:count]):
        return None
    if any(each.message_id or each.piece_of or each.whole or found.key_at(each.place) in known for each in missing):
        return None
    if found.thread_id is not None and ledger.journal.require(found.key).state.links:
        return None  # it may be this ledger's own thread
    return missing


def _beside(found: Found, known: Collection[str]) -> Sequence[Entry]:
    """Return the entries, each without what was imported on its own when the source ended there."""
    if isinstance(found.entries, UsualEntries) or all(each.made_of is None for each in found.entries):
        return found.entries
    left: list[Entry] = []
    instead: dict[str, str | None] = {}
    for each in found.entries:
        entry = _left_of(each, found, known)
        if entry is None:
            instead[each.place] = _stands_for(each, found, known)
        else:
            left.append(entry._replace(after=instead[entry.after]) if entry.after in instead else entry)
    return left


def _stands_for(entry: Entry, found: Found, known: Collection[str]) -> str | None:
    """Return the place of the last item of an entry that was imported on its own; None if there is none."""
    places = entry.made_of.places if entry.made_of is not None else ()
    return next((place for place in reversed(places) if found.key_at(place) in known), None)


def _left_of(entry: Entry, found: Found, known: Collection[str]) -> Entry | None:
    last = _stands_for(entry, found, known)
    if last is None or entry.made_of is None:
        return entry
    left = entry.made_of.without(list(entry.made_of.places).index(last) + 1)
    after = last if entry.after is not None else None
    return entry._replace(message=left, after=after) if left.content or left.tool_calls else None


def _is_known_as(ledger: Ledger, entry: Entry, fingerprint: bytes | None) -> bool:
    """Return whether a message has this fingerprint: with its data inside, as earlier versions stored it, or without."""
    if fingerprint == fingerprint_of(entry.message):
        return True
    kept = ledger.journal.keep(entry.message)
    return kept is not entry.message and fingerprint == fingerprint_of(kept)


def _extend(ledger: Ledger, found: Found) -> Imported:
    for attempt in range(1, EXTEND_ATTEMPTS_MAX + 1):
        try:
            return _ExistingConversation(ledger, found).extended()
        except ConversationChanged:
            if attempt == EXTEND_ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


class _ExistingConversation:
    """Compare an existing conversation with the one read from the source."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        self._ledger = ledger
        self._found = found
        self._known: dict[str, events.MessageJournaled] = {}
        self._message_ids: set[str] = set()
        self._retracted: set[str] = set()
        self._threads: set[str] = set()
        self._end = self._shown = ""
        """Ids of the message at the end, and of the last one of the branch that the source showed."""
        self._before: dict[str, str] = {}
        """Id of the message that each message follows."""
        for event in ledger.journal.history(found.key):
            self._take(event)

    def _by_its_rule(self) -> Imported | None:
        """Read the source by the rule that imported the conversation first; return the failure if that cannot be done."""
        found = self._found.by_rule(rule_of(self._known) or self._found.rule)
        if isinstance(found, Imported):
            return found
        shown = {key for key, event in self._known.items() if event.message_id not in self._retracted}
        self._found = replace(found, entries=_beside(found, shown))
        return None

    def _take(self, event: events.Event) -> None:
        match event:
            case events.MessageJournaled():
                self._message_ids.add(event.message_id)
                is_imported = event.source == Source.IMPORT and event.idempotency_key is not None
                if is_imported:
                    self._known[event.idempotency_key or ""] = event
                if event.parent_version is not None:
                    self._before[event.message_id] = event.parent_message_id or ""
                    return
                self._before[event.message_id], self._end = self._end, event.message_id
                self._shown = event.message_id if is_imported else self._shown
            case events.BranchSelected():
                self._end = event.message_id
                self._shown = event.message_id if event.reason == SHOWN_BRANCH else self._shown
            case events.MessageRetracted():
                self._retracted.add(event.message_id)
            case events.ThreadLinked():
                self._threads.add(event.thread_id)
            case events.ThreadRebuilt():
                self._threads.update((event.thread_id, event.old_thread_id or ""))
            case _:
                pass

    def extended(self) -> Imported:
        """Add the messages that the conversation does not have yet, and retract those that left its branch.

        Raises:
            IdempotencyConflict: a message differs from the one imported earlier, or would have to precede one.
            ConversationChanged: another writer changed the conversation first.
        """
        failed = self._by_its_rule()
        if failed is not None:
            return failed
        found = self._found
        if found.thread_id in self._threads:
            reason = (
                "the thread is this ledger's copy of the conversation: "
                f"to adopt messages that others added to it, run threadledger replay reconcile {quoted(found.key)} --adopt"
            )
            return Imported(found.line, found.key, "unchanged", reason=reason, left_out=found.left_out)
        missing = self._missing()
        gone = [
            event.message_id
            for place in found.other_branches
            if (event := self._known.get(found.key_at(place))) is not None and event.message_id not in self._retracted
        ]
        if not missing and not gone and not (found.rule >= TREE_RULE and self._shows_another(self._places())):
            return Imported(found.line, found.key, "unchanged", 0, found.note, found.left_out)

        kept = _kept(self._ledger, missing)

        def decide(conversation: Conversation) -> None:
            for message_id in gone:
                conversation.retract(message_id, LEFT_BRANCH)
            if found.rule >= TREE_RULE:
                self._journal_branches(conversation, kept)
            else:
                _journal(conversation, found, kept)

        self._ledger.journal.commit(found.key, decide)
        left_out = dict(found.left_out) | ({"retracted": len(gone)} if gone else {})
        return Imported(found.line, found.key, "extended", len(missing), found.note, left_out)

    def _places(self) -> dict[str, Parent]:
        """Return the messages at the places of the source that were imported."""
        begin = self._found.key_at("")
        known = ((key.removeprefix(begin), event) for key, event in self._known.items())
        places = {place: (event.message_id, event.originator_version) for place, event in known} | {"": BEGINNING}
        for entry in self._found.entries:  # what was left out stands for what it follows
            if entry.place not in places and self._is_left_out(entry):
                places[entry.place] = places[entry.after or ""]
        return places

    def _shows_another(self, places: Mapping[str, Parent]) -> str | None:
        """Return the place of the last message that the source shows, if it showed another branch when it was imported."""
        shown = next((each.place for each in reversed(self._found.entries) if not each.is_aside), "")
        return shown if shown and places[shown][0] != self._shown else None

    def _journal_branches(self, conversation: Conversation, missing: Sequence[Entry]) -> None:
        """Journal what is missing on each branch, and select the one that the source shows if it showed another."""
        places = self._places()
        first = next((each for each in missing if not each.is_aside), None)
        leaves = first is None or places[first.after or ""][0] not in self._own_messages()
        _journal(conversation, self._found, missing, places, lambda entry: entry.is_aside or leaves)
        shown = self._shows_another(places)
        if shown is not None and leaves:
            conversation.select(*places[shown], SHOWN_BRANCH)

    def _own_messages(self) -> set[str]:
        """Return the ids of the messages at the end that were not imported, and of the imported one before them."""
        imported = {event.message_id for event in self._known.values()}
        own = {self._end}
        at = self._end
        while at and at not in imported:
            at = self._before.get(at, "")
            own.add(at)
        return own

    def _is_left_out(self, entry: Entry) -> bool:
        """Return whether an entry is not imported because another message of the ledger stands for it."""
        is_known = entry.whole is not None and self._found.key_at(entry.whole) in self._known
        return is_known or (entry.message_id or entry.piece_of) in self._message_ids

    def _missing(self) -> list[Entry]:
        missing: list[Entry] = []
        places = set[str]()
        for entry in self._found.entries:
            earlier = self._known.get(self._found.key_at(entry.place))
            if earlier is None:
                if not self._is_left_out(entry):
                    missing.append(entry)
                    places.add(entry.place)
                continue
            self._compare(earlier, entry)
            if missing and (entry.after is None or entry.after in places):
                raise IdempotencyConflict(
                    f"{missing[0].name} of {self._found.key!r} precedes a message that was imported earlier, and "
                    "messages can only be appended: nothing of this conversation was imported; give it another key"
                )
        return missing

    def _compare(self, earlier: events.MessageJournaled, entry: Entry) -> None:
        before = restore_message(earlier)
        kept = self._ledger.journal.keep(entry.message) if earlier.blobs else entry.message
        is_equal = self._is_equal(before, entry.message) or self._is_equal(before, kept)
        if not is_equal and not self._was_repaired(before, entry):
            raise IdempotencyConflict(
                f"{entry.name} of {self._found.key!r} differs from the one imported earlier: nothing of this "
                "conversation was imported; give the changed conversation another id"
            )

    def _was_repaired(self, before: Message, entry: Entry) -> bool:
        """Return whether an earlier version stored as it was given, or as text, what is repaired now."""
        if isinstance(before.content, str) and before.content.startswith("[tool call ") and entry.message.calls():
            return True
        with suppress(InvalidInput):  # it cannot be repaired, so it was not
            again = repaired(before.as_chat_message(), entry.place, OpenCalls(), Counter(), {}, rule=self._found.rule)
            return any(self._is_equal(each, entry.message) for each in islice(again, 1))
        return False

    def _is_equal(self, before: Message, after: Message) -> bool:
        # With ids of the source, extra fields are not compared: they vary, e.g. a dump has file sizes and a live thread has none.
        # What the provider's items hold besides is never compared: earlier versions left it out (the first rule).
        before, after = before.replaced(native_json=""), after.replaced(native_json="")
        return (_said(before) == _said(after)) if self._found.has_ids else (before == after)


def _said(message: Message) -> Message:
    return message.replaced(extra_json="{}")
