"""Handle /v1/threads and their messages: a thread is a conversation, whose key is the thread's id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import Conversation, ConversationState, key_of, stream_of
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.decisions import describe_message, describe_resources
from threadledger.domain.conversation.listing import ConversationFilter, ListOrder
from threadledger.domain.conversation.messages import JournaledMessage, Message, restore_message
from threadledger.domain.errors import ConversationNotFound, IdempotencyConflict
from threadledger.domain.exchange.served import left_to_clients
from threadledger.domain.ids import from_iso, now
from threadledger.domain.journal import Journal
from threadledger.domain.journal.descriptions import description_of
from threadledger.domain.journal.lookups import Lookups

from ..wire import Json, fields, objects, validation
from ..wire.errors import bad_request, no_such
from ..wire.pages import not_in_list
from . import tenants
from .calls import Handler, Served, ServedCall, deleted_once
from .contents import MESSAGE, is_shown, message_id_of, message_object, run_id_of, said, seconds, texts_in
from .files import with_files
from .ids import new_id, uuid_in, wire_id
from .later_runs import names_of_runs
from .pages import PageQuery, page_of
from .refusals import KEY_REUSED
from .tool_resources import attached, resources_in, resources_of

if TYPE_CHECKING:
    from datetime import datetime

THREAD = "thread_"


@dataclass(frozen=True)
class FoundThread:
    """Hold a thread of the caller: its id, the conversation, and the journal of the caller."""

    thread_id: str
    key: str
    state: ConversationState
    journal: Journal

    @property
    def stream(self) -> str:
        """Return the stream of its conversation."""
        return stream_of(self.key)

    def lookups(self) -> Lookups:
        """Return what finds its events and messages.

        Raises:
            ApiError: a 404, because it was deleted meanwhile.
        """
        found = self.journal.lookups(self.key)
        if found is None:
            raise no_such("thread", self.thread_id)
        return found


def find_thread(served: Served, call: ServedCall, thread_id: str | None = None) -> FoundThread:
    """Return a thread of the caller, by default the one that the path names: by its key, or by its id in an import.

    Raises:
        ApiError: a 404.
    """
    thread_id = call.ids["thread_id"] if thread_id is None else thread_id
    journal = served.journal_of(call.caller)
    key = tenants.key_of(call.caller, thread_id)
    conversation = journal.load(key) or _imported(journal, call, thread_id)
    if conversation is None:
        raise no_such("thread", thread_id)
    return FoundThread(thread_id, key_of(conversation.id), conversation.state, journal)


def _imported(journal: Journal, call: ServedCall, thread_id: str) -> Conversation | None:
    """Return the conversation of the caller that was imported from a thread; None if there is none."""
    places = journal.addressed([thread_id]).get(thread_id, [])
    for key in dict.fromkeys(key_of(stream) for stream, _ in places):
        if tenants.reaches(call.caller, key) and _was(journal, key, thread_id) and (found := journal.load(key)):
            return found
    return None


def _was(journal: Journal, key: str, thread_id: str) -> bool:
    """Return whether a conversation was imported from the thread with this id: messages and runs have addresses too."""
    start = journal.start_of(key)
    return start is not None and start.origin.get("thread_id") == thread_id


def thread_object(
    thread_id: str, started: datetime, metadata: Mapping[str, Any], tool_resources: Json | None = None
) -> Json:
    """Return the API's object of a thread."""
    return objects.thread(thread_id, seconds(started), texts_in(metadata), tool_resources or {})


def _begun(journal: Journal, state: ConversationState, described: Json | None = None) -> tuple[datetime, Json]:
    """Return when a thread was created, and what its runs search: what it had at its source, if it was imported.

    `described` is what was said of that since.
    """
    start = journal.start_of(state.key)
    if start is None:
        return from_iso(state.started_at), described or {}
    resources = start.origin.get("tool_resources") if described is None else described
    written = start.written_at or state.started_at
    return from_iso(written), resources if isinstance(resources, dict) else {}


def create(served: Served, call: ServedCall) -> Json:
    """Create a thread (POST /threads)."""
    thread_id = new_id(THREAD, call.request_key)
    key, begin = tenants.key_of(call.caller, thread_id), new_thread(served, call, call.body, thread_id)
    journal = served.journal_of(call.caller)
    if (conversation := journal.load(key)) is None:
        if call.stored:  # it was deleted since
            raise no_such("thread", thread_id)
        state = journal.commit(key, partial(_started, begin), create=True, also=call.also)
        metadata = validation.metadata_of(call.body)
        return thread_object(thread_id, from_iso(state.started_at), metadata, begin.resources)
    return _object(FoundThread(thread_id, key, conversation.state, journal))


def new_thread(served: Served, call: ServedCall, body: Json, thread_id: str, where: str = "") -> Begin:
    """Return what a new thread begins with, checked; `where` is put before field names in error messages."""
    validation.only_known(body, fields.THREAD_FIELDS, where)
    resources, _ = resources_of(served, call, body.get("tool_resources"), f"{where}tool_resources")
    given = validation.array(body.get("messages") or [], f"{where}messages")
    messages = messages_in(served, call, given, f"{where}messages")
    resources = attached(served, call, thread_id, resources, (message for message, _ in messages))
    return Begin(validation.metadata_of(body), messages, resources)


@dataclass(frozen=True)
class Begin:
    """Hold the metadata, the first messages and the vector stores of a new thread, or what a request adds to one."""

    metadata: Mapping[str, str]
    messages: Sequence[tuple[Message, Mapping[str, str]]]
    resources: Json = field(default_factory=dict)

    def journal(self, conversation: Conversation) -> None:
        """Journal them in a commit, unless the conversation has begun."""
        if self.metadata:
            conversation.describe({"metadata": dict(self.metadata)})
        if self.resources:
            describe_resources(conversation, self.resources)
        for message, metadata in self.messages:
            conversation.journal(message, metadata=metadata)


def messages_in(
    served: Served, call: ServedCall, given: Sequence[Any], where: str
) -> list[tuple[Message, Mapping[str, str]]]:
    """Return the messages in a request with their metadata; the data in them is stored."""
    found: list[tuple[Message, Mapping[str, str]]] = []
    for index, each in enumerate(given):
        place = f"{where}[{index}]"
        message, metadata = said(validation.an_object(each, place), served.settings, f"{place}.")
        message = with_files(served, call.caller, message, f"{place}.content")
        found.append((served.ledger.journal.keep(message), metadata))
    return found


def _started(begin: Begin, conversation: Conversation) -> ConversationState:
    if conversation.pending:  # it is new
        begin.journal(conversation)
    return conversation.state


def _object(thread: FoundThread) -> Json:
    description = description_of(thread.journal, thread.key, thread.state)
    created, resources = _begun(thread.journal, thread.state, described_resources(thread))
    return thread_object(thread.thread_id, created, description.metadata, resources)


def described_resources(thread: FoundThread) -> Json | None:
    """Return what was said of the vector stores of a thread; None if nothing was."""
    return resources_in(thread.journal, [thread.stream]).get(thread.stream)


def retrieve(served: Served, call: ServedCall) -> Json:
    """Return a thread (GET /threads/{thread_id})."""
    return _object(find_thread(served, call))


def modify(served: Served, call: ServedCall) -> Json:
    """Replace the metadata and the vector stores of a thread, if they are given (POST /threads/{thread_id})."""
    thread = find_thread(served, call)
    resources, _ = resources_of(served, call, call.body.get("tool_resources"))
    has_resources = call.body.get("tool_resources") is not None
    if (call.body.get("metadata") is None and not has_resources) or call.stored:
        return _object(thread)
    metadata = validation.metadata_of(call.body)

    def describe(conversation: Conversation) -> None:
        if call.body.get("metadata") is not None:
            conversation.describe({"metadata": metadata})
        if has_resources:
            describe_resources(conversation, resources)

    thread.journal.commit(thread.key, describe, also=call.also)
    return _object(find_thread(served, call))


def delete(served: Served, call: ServedCall) -> Json:
    """Delete a thread: its conversation ends, and its events remain for the audit (DELETE /threads/{thread_id})."""

    def delete_now() -> None:
        thread = find_thread(served, call)
        try:
            delete_conversation(served, call, thread)
        except ConversationNotFound:
            raise no_such("thread", thread.thread_id) from None

    return deleted_once(served, call, delete_now, objects.deletion(call.ids["thread_id"], "thread.deleted"))


def delete_conversation(served: Served, call: ServedCall, found: FoundThread) -> None:
    """End the conversation of a thread, and break off what answers it.

    Raises:
        ConversationNotFound: it was deleted meanwhile.
    """

    def end(conversation: Conversation) -> None:
        conversation.delete("deleted by the served API", interrupting=True)

    found.journal.commit(found.key, end, also=call.also)
    for exchange_id in found.state.open_exchanges:
        served.runner.cancel(found.key, exchange_id)


def list_(served: Served, call: ServedCall) -> Json:
    """Return a page of threads, the last started first (GET /threads): the provider never had this."""
    query, journal = PageQuery.of(call.query), served.journal_of(call.caller)
    order = ListOrder.STARTED if query.reads_newest_first else ListOrder.FIRST
    wanted = ConversationFilter(order=order, tenant=call.caller.tenant)
    begin, end = (query.before, None) if query.from_end else (query.after, query.before)
    place = (_number_of(served, call, begin), 0) if begin else None
    states, _ = journal.views.listed(wanted, query.limit + 1, place)
    if end is not None:
        last = _number_of(served, call, end)
        states = [each for each in states if _precedes(journal.number_of(each.key) or 0, last, query)]
    described = resources_in(journal, [stream_of(each.key) for each in states])
    return page_of([_listed(journal, call, each, described.get(stream_of(each.key))) for each in states], query)


def _number_of(served: Served, call: ServedCall, thread_id: str) -> int:
    return served.ledger.journal.number_of(find_thread(served, call, thread_id).key) or 0


def _precedes(number: int, last: int, query: PageQuery) -> bool:
    return number > last if query.reads_newest_first else number < last


def _listed(journal: Journal, call: ServedCall, state: ConversationState, described: Json | None) -> Json:
    metadata = state.description.metadata if state.description is not None else {}
    created, resources = _begun(journal, state, described)
    return thread_object(tenants.thread_id_of(call.caller, state.key), created, metadata, resources)


# Messages


def create_message(served: Served, call: ServedCall) -> Json:
    """Append a message, unless a run is active (POST /threads/{thread_id}/messages)."""
    thread = find_thread(served, call)
    given, metadata = said(call.body, served.settings)
    message = thread.journal.keep(with_files(served, call.caller, given, "content"))
    resources = attached_to(served, call, thread, [message])

    def decide(conversation: Conversation) -> e.MessageJournaled:
        earlier = thread.journal.keyed(thread.key, call.idempotency_key) if call.repeated else None
        if isinstance(earlier, e.MessageJournaled):
            if restore_message(earlier) != message:
                raise IdempotencyConflict(KEY_REUSED)
            return earlier
        active = active_run(thread, conversation.state)
        if active is not None:
            named = f"Can't add messages to {thread.thread_id} while a run {active} is active."
            raise bad_request(named)
        event = conversation.journal(message, idempotency_key=call.idempotency_key, metadata=metadata)
        if resources:
            describe_resources(conversation, resources)
        return event

    event = thread.journal.commit(thread.key, decide, also=call.also)
    served.runner.mirror(thread.key)
    journaled = JournaledMessage(message, event.message_id, event.originator_version, event.timestamp)
    return message_object(journaled, thread.thread_id, thread.journal.read_blob, metadata=event.metadata)


def attached_to(served: Served, call: ServedCall, thread: FoundThread, messages: Sequence[Message]) -> Json:
    """Take the files that messages attach for a search into the vector store of a thread; return its resources if they change."""
    if not any("attachments" in message.extra() for message in messages):
        return {}
    known = described_resources(thread) or {}
    found = attached(served, call, thread.thread_id, known, messages)
    return found if found != known else {}


def active_run(thread: FoundThread, state: ConversationState) -> str | None:
    """Return the id of the run that is active in a thread, or None: an exchange without an answer whose time is not over.

    One that waits for the client of a chat completion is not active: that client may never come back.
    """
    moment = now()
    for exchange_id, exchange in state.open_exchanges.items():
        runs = (run for run in state.open_runs.values() if run.exchange_id == exchange_id)
        has_run = any(not run.is_overdue(moment) for run in runs)
        is_active = has_run or exchange.is_active(moment) or (exchange.deadline is None and exchange.waits)
        if is_active and exchange_id not in left_to_clients(thread.journal, thread.key, state):
            return wire_id("run_", exchange_id)
    return None


def list_messages(served: Served, call: ServedCall) -> Json:
    """Return a page of messages, of the thread or of one run (GET /threads/{thread_id}/messages)."""
    thread, query = find_thread(served, call), PageQuery.of(call.query)
    lookups, run_id = thread.lookups(), call.query.get("run_id")
    after, before = (
        _find(thread, lookups, each, name).version if each else None
        for name, each in (("after", query.after), ("before", query.before))
    )
    if run_id:
        first, last = (before, after) if query.newest_first else (after, before)
        page = islice(_messages_of_run(thread, lookups, run_id, query, first, last), query.limit + 1)
        return page_of(_objects(thread, [*page]), query)
    found, has_more = lookups.messages(
        is_shown, limit=query.limit, newest_first=query.newest_first, after=after, before=before
    )
    return page_of(_objects(thread, found), query, has_more)


def _messages_of_run(
    thread: FoundThread, lookups: Lookups, run_id: str, query: PageQuery, first: int | None, last: int | None
) -> Iterator[JournaledMessage]:
    """Yield the messages that a run wrote until it ended, between two versions; the thread is not read for them."""
    from .runs import versions_of_run

    found, are_own = versions_of_run(thread, run_id)
    versions = sorted(found, reverse=query.reads_newest_first)
    between = (each for each in versions if (first is None or each > first) and (last is None or each < last))
    said = lookups.messages_at(between)
    return (each for each in said if is_shown(each) and (are_own or run_id_of(each) == run_id))


def _objects(thread: FoundThread, messages: Sequence[JournaledMessage]) -> list[Json]:
    described = described_since(thread, [each.message_id for each in messages])
    assistants = _assistants(thread, messages)
    names = names_of_runs(thread.journal, thread.key, thread.lookups(), messages)
    return [
        message_object(
            each,
            thread.thread_id,
            thread.journal.read_blob,
            assistant_id=assistants.get(each.exchange_id or "") if each.run_id is not None else None,
            metadata=described.get(each.message_id),
        )
        | ({"run_id": names[each.run_id]} if each.run_id in names else {})
        for each in messages
    ]


def described_since(thread: FoundThread, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return what was said of messages or exchanges after they were stored, by their ids."""
    found = thread.journal.addressed([f"described:{each}" for each in ids])
    described: dict[str, Mapping[str, Any]] = {}
    for address, places in found.items():
        version = max((version for stream, version in places if stream == thread.stream), default=0)
        event = next(thread.journal.history(thread.key, version - 1, version), None) if version else None
        if isinstance(event, e.MessageDescribed | e.ExchangeDescribed):
            described[address.removeprefix("described:")] = event.metadata
    return described


def _assistants(thread: FoundThread, messages: Sequence[JournaledMessage]) -> dict[str, str]:
    """Return the assistants of the runs that said these messages, by the ids of their exchanges."""
    wanted = {each.exchange_id for each in messages if each.run_id is not None and each.exchange_id}
    if not wanted:
        return {}
    versions = [each.version for each in messages]
    lookups = thread.lookups()
    found = {each.exchange_id: each for each in lookups.requests_between(min(versions), max(versions))}
    for exchange_id in wanted - found.keys():
        event = lookups.request_of(exchange_id)
        found |= {exchange_id: event} if event is not None else {}
    names = ((name, event.request.get("assistant_id")) for name, event in found.items())
    return {name: given for name, given in names if isinstance(given, str)}


def _find(thread: FoundThread, lookups: Lookups, message_id: str, param: str = "") -> JournaledMessage:
    """Return a message that the thread shows, by its id or its id in an import.

    Raises:
        ApiError: a 404, or a 400 if `param` of a list's query names it.
    """
    version = _version_of(thread, lookups, message_id)
    found = lookups.message(version) if version is not None else None
    if found is None or not is_shown(found) or not _is_named(found, message_id):
        if param:
            raise not_in_list(message_id, param)
        raise no_such("message", message_id)
    return found


def _is_named(message: JournaledMessage, message_id: str) -> bool:
    """Return whether a message has this id: the ids of runs and steps lead to messages too."""
    return message_id in (message_id_of(message), wire_id(MESSAGE, message.message_id), message.message_id)


def version_of_message(thread: FoundThread, lookups: Lookups, digits: str) -> int | None:
    """Return the version of the message whose id has these digits; None if there is none."""
    return _version_of(thread, lookups, f"{MESSAGE}{digits}")


def _version_of(thread: FoundThread, lookups: Lookups, message_id: str) -> int | None:
    own = uuid_in(MESSAGE, message_id)
    if own is not None:
        near = (event for event in lookups.near(own) if isinstance(event, e.MessageJournaled))
        version = next((event.originator_version for event in near if event.message_id == own), None)
        if version is not None:
            return version
    names = [message_id, *([own] if own is not None else [])]
    places = (place for found in thread.journal.addressed(names).values() for place in found)
    return next((version for stream, version in places if stream == thread.stream), None)


def shown_message(thread: FoundThread, message_id: str) -> Json | None:
    """Return the API's object of a message by its id in the journal; None if the thread no longer shows it."""
    lookups = thread.lookups()
    version = _version_of(thread, lookups, wire_id(MESSAGE, message_id))
    found = lookups.message(version) if version is not None else None
    return _objects(thread, [found])[0] if found is not None else None


def retrieve_message(served: Served, call: ServedCall) -> Json:
    """Return a message (GET /threads/{thread_id}/messages/{message_id})."""
    thread = find_thread(served, call)
    return _objects(thread, [_find(thread, thread.lookups(), call.ids["message_id"])])[0]


def modify_message(served: Served, call: ServedCall) -> Json:
    """Replace the metadata of a message, if it is given (POST /threads/{thread_id}/messages/{message_id})."""
    thread = find_thread(served, call)
    message = _find(thread, thread.lookups(), call.ids["message_id"])
    if call.body.get("metadata") is not None and not call.stored:
        metadata = validation.metadata_of(call.body)

        def describe(conversation: Conversation) -> None:
            describe_message(conversation, message.message_id, message.version, metadata)

        thread.journal.commit(thread.key, describe, also=call.also)
    return _objects(thread, [message])[0]


def delete_message(served: Served, call: ServedCall) -> Json:
    """Remove a message from memory; it remains in the log (DELETE /threads/{thread_id}/messages/{message_id})."""

    def delete_now() -> None:
        thread = find_thread(served, call)
        message = _find(thread, thread.lookups(), call.ids["message_id"])

        def retract(conversation: Conversation) -> None:
            conversation.retract(message.message_id, "deleted by the served API", message.version)

        thread.journal.commit(thread.key, retract, also=call.also)
        served.runner.mirror(thread.key)

    return deleted_once(served, call, delete_now, objects.deletion(call.ids["message_id"], "thread.message.deleted"))


HANDLERS_OF_THREADS: Mapping[str, Handler] = {
    "create_thread": create,
    "retrieve_thread": retrieve,
    "modify_thread": modify,
    "delete_thread": delete,
    "list_threads": list_,
    "create_message": create_message,
    "list_messages": list_messages,
    "retrieve_message": retrieve_message,
    "modify_message": modify_message,
    "delete_message": delete_message,
}
