"""Handle /v1/conversations and their items: a conversation of the API is one of the ledger, and its id is the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from threadledger.domain.conversation import CONVERSATION, Conversation, key_of
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import JournaledMessage, Message, restore_message
from threadledger.domain.errors import ConversationBusy, ConversationNotFound
from threadledger.domain.exchange import SentOptions
from threadledger.domain.exchange.served_responses import BEFORE, SURFACE, journal_items
from threadledger.domain.ids import from_iso
from threadledger.domain.journal import Journal
from threadledger.domain.journal.descriptions import description_of
from threadledger.domain.journal.lookups import Lookups

from ..wire import ApiError, Json, bodies, errors, objects, validation
from ..wire.errors import bad_request
from ..wire.limits import CONVERSATION_ITEMS_PER_CALL_MAX
from ..wire.pages import not_in_list
from . import tenants
from .calls import Handler, Served, ServedCall, deleted_once
from .contents import seconds, texts_in
from .files import with_files
from .ids import new_id, uuid_in
from .items import (
    is_search_result,
    items_among,
    items_of,
    message_digits,
    messages_in,
    reference_in,
    search_of,
    shows_results,
)
from .pages import PageQuery, page_of
from .threads import FoundThread, delete_conversation, find_thread, version_of_message

CONVERSATION_ID = "conv_"
RESULT_EVENTS_READ = 100
"""Maximum number of events after a search in which its result is looked up: others may write in between."""


def find_conversation(served: Served, call: ServedCall, name: str | None = None) -> FoundThread:
    """Return a conversation of the caller, by default the one that the path names.

    Raises:
        ApiError: a 404.
    """
    name = call.ids["conversation_id"] if name is None else name
    try:
        return find_thread(served, call, name)
    except ApiError as error:
        if error.status != 404:
            raise
        raise errors.not_found("Conversation", name) from None


def with_references(served: Served, call: ServedCall, given: object, where: str) -> object:
    """Return the items of a request, with the item itself where one is only named by its id.

    Items of answers may be of any conversation of the caller, on any branch; others are found in the memory of the
    conversation that the request names, or whose response it continues.

    Raises:
        ApiError: a 404.
    """
    if not isinstance(given, list):
        return given
    found: list[object] = []
    for index, each in enumerate(given):
        name = reference_in(each)
        item = _named_item(served, call, name) if name is not None else each
        if item is None:
            raise ApiError(404, f"Item with id '{name}' not found.", param=f"{where}[{index}]")
        found.append(item)
    return found


def _named_item(served: Served, call: ServedCall, item_id: str) -> Json | None:
    """Return an item by its id, which leads to its message by the index: the ids of answers are known before they are stored."""
    digits, journal = message_digits(item_id), served.journal_of(call.caller)
    message_id = uuid_in("", digits) if digits is not None else None
    for stream, version in journal.addressed([message_id]).get(message_id, []) if message_id is not None else ():
        if not stream.startswith(CONVERSATION) or not tenants.reaches(call.caller, key := key_of(stream)):
            continue
        if version <= journal.deleted_version(key):
            continue
        places = journal.places(key)
        message = places.at(version)
        if places.is_hidden(message) or _is_unstored(journal, key, message):
            continue
        lookups = journal.lookups(key)
        items = ShownItems(journal, lookups, with_results=True).of(message) if lookups is not None else []
        return next((each for each in items if each["id"] == item_id), None)
    found = _named_conversation(served, call) if message_id is not None else None
    if found is None:
        return None
    shown = ShownItems(found.journal, found.lookups(), with_results=True)
    place = _find(found, shown, item_id)
    return shown.of(place.message)[place.index] if place is not None else None


def _named_conversation(served: Served, call: ServedCall) -> FoundThread | None:
    """Return the conversation of the path, of the body, or of the response that a request continues; None if it names none."""
    name = call.ids.get("conversation_id") or bodies.response_conversation(call.body)
    if name is not None:
        return find_conversation(served, call, name)
    previous = validation.optional_string(call.body, "previous_response_id")
    if previous is None:
        return None
    from .responses import conversation_of_response

    return conversation_of_response(served, call, previous)


def _is_unstored(journal: Journal, key: str, message: JournaledMessage) -> bool:
    """Return whether a message belongs to a response that was not to be stored, and to no conversation of the client."""
    if message.exchange_id is None:
        return False
    recorded = SentOptions.of(journal, key, message.exchange_id)
    request = recorded.event.request if recorded is not None else {}
    return request.get("store") is False and not request.get("conversation")


def _given_items(served: Served, call: ServedCall) -> list[Message]:
    """Return the messages that the items of a request say, with the data in them stored."""
    given = validation.array(call.body.get("items") or [], "items", CONVERSATION_ITEMS_PER_CALL_MAX)
    journal, items = served.journal_of(call.caller), with_references(served, call, given, "items")
    return [journal.keep(with_files(served, call.caller, each, "items")) for each in messages_in(items, "items")]


def create(served: Served, call: ServedCall) -> Json:
    """Create a conversation with its first items (POST /conversations)."""
    name = new_id(CONVERSATION_ID, call.request_key)
    key, journal = tenants.key_of(call.caller, name), served.journal_of(call.caller)
    metadata, messages = validation.metadata_of(call.body), _given_items(served, call)
    found = journal.load(key)
    if found is not None:
        return _object(FoundThread(name, key, found.state, journal))
    if call.stored:  # it was deleted since
        raise errors.not_found("Conversation", name)

    def begin(conversation: Conversation) -> str:
        if conversation.pending:  # it is new
            if metadata:
                conversation.describe({"metadata": dict(metadata)})
            for message in messages:
                conversation.journal(message)
        return conversation.state.started_at

    started_at = journal.commit(key, begin, create=True, also=call.also)
    return objects.conversation(name, seconds(from_iso(started_at)), metadata)


def _object(found: FoundThread, metadata: Mapping[str, object] | None = None) -> Json:
    start = found.journal.start_of(found.key)
    written = start.written_at if start is not None else None
    if metadata is None:
        metadata = description_of(found.journal, found.key, found.state).metadata
    created = seconds(from_iso(written or found.state.started_at))
    return objects.conversation(found.thread_id, created, texts_in(metadata))


def retrieve(served: Served, call: ServedCall) -> Json:
    """Return a conversation (GET /conversations/{conversation_id})."""
    return _object(find_conversation(served, call))


def modify(served: Served, call: ServedCall) -> Json:
    """Replace the metadata of a conversation, which must be given (POST /conversations/{conversation_id})."""
    found = find_conversation(served, call)
    if "metadata" not in call.body:
        raise errors.missing("metadata")
    metadata = validation.metadata_of(call.body)
    if not call.stored:

        def describe(conversation: Conversation) -> None:
            conversation.describe({"metadata": metadata})

        found.journal.commit(found.key, describe, also=call.also)
    return _object(found, metadata)


def delete(served: Served, call: ServedCall) -> Json:
    """Delete a conversation; its events remain for the audit (DELETE /conversations/{conversation_id})."""

    def delete_now() -> None:
        found = find_conversation(served, call)
        try:
            delete_conversation(served, call, found)
        except ConversationNotFound:
            raise errors.not_found("Conversation", found.thread_id) from None

    answer = objects.deletion(call.ids["conversation_id"], "conversation.deleted")
    return deleted_once(served, call, delete_now, answer)


# Items


def create_items(served: Served, call: ServedCall) -> Json:
    """Append items, unless a response is being generated (POST /conversations/{conversation_id}/items)."""
    found, with_results = find_conversation(served, call), shows_results(call)
    if call.body.get("items") is None:
        raise errors.missing("items")
    messages, journal = _given_items(served, call), found.journal

    def decide(conversation: Conversation) -> list[e.MessageJournaled]:
        earlier = journal.keyed(found.key, call.idempotency_key) if call.repeated else None
        if isinstance(earlier, e.MessageJournaled):
            upto = earlier.originator_version + earlier.batch - 1
            stored = journal.history(found.key, earlier.originator_version - 1, upto)
            return [each for each in stored if isinstance(each, e.MessageJournaled)]
        return journal_items(journal, found.key, conversation, messages, call.idempotency_key)

    try:
        said = journal.commit(found.key, decide, also=call.also)
    except ConversationBusy as error:
        raise bad_request(errors.LOCKED, "conversation", "conversation_locked") from error
    served.runner.mirror(found.key)
    journaled = [
        JournaledMessage(message, event.message_id, event.originator_version, event.timestamp)
        for event, message in zip(said, messages, strict=False)
    ]
    return page_of(items_among(journaled, journal.read_blob, with_results), PageQuery(), False)


@dataclass(frozen=True)
class ShownItems:
    """Return the items of the messages of a conversation, with what searches found if a request asks for that."""

    journal: Journal
    lookups: Lookups
    with_results: bool = False

    def of(self, message: JournaledMessage) -> list[Json]:
        """Return the items of a message."""
        search = search_of(message)
        results = self._results(message, search) if search and self.with_results else None
        return items_of(message, self.journal.read_blob, search, results)

    def _results(self, message: JournaledMessage, search: str) -> dict[str, str]:
        """Return what the searches of a message found, by the ids of their calls; results follow soon after calls."""
        wanted = {call.id for call in message.message.calls() if call.name == search}
        found: dict[str, str] = {}
        for event in islice(self.lookups.after(message.version), RESULT_EVENTS_READ):
            if isinstance(event, e.MessageJournaled) and event.tool_call_id in wanted:
                if event.exchange_id == message.exchange_id:
                    found.setdefault(event.tool_call_id, restore_message(event).text)
                if found.keys() == wanted:
                    break
        return found


@dataclass(frozen=True)
class ItemPlace:
    """Name an item by the message that it belongs to, and by its place among the items of that."""

    message: JournaledMessage
    index: int


def list_items(served: Served, call: ServedCall) -> Json:
    """Return a page of items (GET /conversations/{conversation_id}/items)."""
    found, query = find_conversation(served, call), PageQuery.of(call.query)
    shown = ShownItems(found.journal, found.lookups(), shows_results(call))
    begin, end = (
        _place(found, shown, name, param) if name else None
        for name, param in ((query.after, "after"), (query.before, "before"))
    )
    page = [*islice(_items_between(found, shown, query, begin, end), query.limit + 1)]
    return page_of(page, query)


def _items_between(
    found: FoundThread, shown: ShownItems, query: PageQuery, begin: ItemPlace | None, end: ItemPlace | None
) -> Iterator[Json]:
    """Yield the items as `page_of` reads them: those of whole messages, and of the two that the cursors name a part."""
    newest_first = query.reads_newest_first
    first, last = (end, begin) if query.from_end else (begin, end)
    hidden = _unfinished_from(found)
    if first is not None:
        own = shown.of(first.message)
        yield from reversed(own[: first.index]) if newest_first else own[first.index + 1 :]
    stop = last.message.version if last is not None else None
    after = first.message.version if first is not None else None
    if first is None or stop is None or first.message.version != stop:
        limit = query.limit + 1
        while True:
            low, high = (stop, after) if newest_first else (after, stop)
            messages, has_more = shown.lookups.messages(
                lambda each: each.version < hidden and not is_search_result(each),
                limit=limit,
                newest_first=newest_first,
                after=high if newest_first else low,
                before=low if newest_first else high,
            )
            for message in messages:
                own = shown.of(message)
                yield from reversed(own) if newest_first else own
            if not has_more:
                break
            after = messages[-1].version
    if last is not None and (first is None or first.message.version != last.message.version):
        own = shown.of(last.message)
        yield from reversed(own[last.index + 1 :]) if newest_first else own[: last.index]


def _unfinished_from(found: FoundThread) -> int:
    """Return the version from which messages belong to a response that is not completed: the list does not have them yet."""
    begun = found.state.version + 1
    for exchange_id in found.state.open_exchanges:
        recorded = SentOptions.of(found.journal, found.key, exchange_id)
        if recorded is None or recorded.event.surface != SURFACE or recorded.event.deadline is None:
            continue
        exchange = found.state.open_exchanges[exchange_id]
        if exchange.deadline is not None:
            begun = min(begun, int((recorded.event.request.get(BEFORE) or ("", 0))[1]) + 1)
    return begun


def _place(found: FoundThread, shown: ShownItems, item_id: str, param: str) -> ItemPlace:
    place = _find(found, shown, item_id)
    if place is None:
        raise not_in_list(item_id, param)
    return place


def _find(found: FoundThread, shown: ShownItems, item_id: str) -> ItemPlace | None:
    """Return an item of the conversation by its id; None if it has none in memory."""
    digits = message_digits(item_id)
    version = version_of_message(found, shown.lookups, digits) if digits is not None else None
    message = shown.lookups.message(version) if version is not None else None
    if message is None or message.is_summary:
        return None
    names = [each["id"] for each in shown.of(message)]
    return ItemPlace(message, names.index(item_id)) if item_id in names else None


def _found_item(served: Served, call: ServedCall) -> tuple[FoundThread, ItemPlace, ShownItems]:
    found = find_conversation(served, call)
    shown = ShownItems(found.journal, found.lookups(), shows_results(call))
    place = _find(found, shown, call.ids["item_id"])
    if place is None:
        raise errors.not_found("Item", call.ids["item_id"])
    return found, place, shown


def retrieve_item(served: Served, call: ServedCall) -> Json:
    """Return an item (GET /conversations/{conversation_id}/items/{item_id})."""
    _, place, shown = _found_item(served, call)
    return shown.of(place.message)[place.index]


def delete_item(served: Served, call: ServedCall) -> Json:
    """Remove an item from memory, with the message that it belongs to (DELETE /conversations/{conversation_id}/items/{item_id}).

    A message of the model that is several items is removed as a whole.
    """

    def delete_now() -> None:
        found, place, _ = _found_item(served, call)

        def retract(conversation: Conversation) -> None:
            conversation.retract(place.message.message_id, "deleted by the served API", place.message.version)

        found.journal.commit(found.key, retract, also=call.also)
        served.runner.mirror(found.key)

    deleted_once(served, call, delete_now, {})
    return _object(find_conversation(served, call))


HANDLERS_OF_CONVERSATIONS: Mapping[str, Handler] = {
    "create_conversation": create,
    "retrieve_conversation": retrieve,
    "modify_conversation": modify,
    "delete_conversation": delete,
    "create_items": create_items,
    "list_items": list_items,
    "retrieve_item": retrieve_item,
    "delete_item": delete_item,
}
