"""Handle stored chat completions: those that were requested with `store` can be read, described, deleted and listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from threadledger.domain.conversation import CONVERSATION, Conversation, key_of
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.completions import model_label, pair_label
from threadledger.domain.conversation.decisions import delete_completion, describe_completion
from threadledger.domain.errors import ConversationNotFound
from threadledger.domain.ids import from_iso
from threadledger.domain.journal import Journal

from ..wire import Json, objects, validation
from ..wire.errors import not_found
from . import tenants
from .calls import Handler, Served, ServedCall, deleted_once
from .chat_objects import FoundAnswer, completion_object
from .pages import PageQuery, page_in, page_of

OLDEST_FIRST = {"order": "asc"}
"""The order of the provider's list, unless the query has another one."""

METADATA_QUERY = "metadata["


@dataclass(frozen=True)
class FoundCompletion:
    """Hold a stored completion of the caller: its newest event, and the conversation."""

    key: str
    stored: e.CompletionStored
    journal: Journal

    def object(self) -> Json:
        """Return the API's object of it."""
        return _object(self.journal, self.key, self.stored)


def find_completion(served: Served, call: ServedCall) -> FoundCompletion:
    """Return a completion of the caller by its id, which an index has since it was stored.

    Raises:
        ApiError: a 404.
    """
    name, journal = call.ids["completion_id"], served.journal_of(call.caller)
    newest: dict[str, int] = {}
    for stream, version in journal.addressed([name]).get(name, []):
        newest[stream] = max(version, newest.get(stream, 0))
    for stream, version in newest.items():
        if not stream.startswith(CONVERSATION) or not tenants.reaches(call.caller, key := key_of(stream)):
            continue
        event = next(journal.history(key, version - 1, version), None)
        is_own = isinstance(event, e.CompletionStored) and event.completion_id == name
        if is_own and version > journal.deleted_version(key) and isinstance(event, e.CompletionStored):
            return FoundCompletion(key, event, journal)
    raise not_found("Chat completion", name)


def _object(journal: Journal, key: str, stored: e.CompletionStored) -> Json:
    own = [*journal.history(key, stored.completed_version - 1, stored.message_version)]
    [completed] = [each for each in own if isinstance(each, e.RunCompleted)]
    said = [each for each in own if isinstance(each, e.MessageJournaled) and each.run_id == stored.run_id]
    found = FoundAnswer(stored.model, completed, said)
    return completion_object(
        stored.completion_id, from_iso(stored.created_at), stored.metadata, found, journal.read_blob
    )


def retrieve(served: Served, call: ServedCall) -> Json:
    """Return a stored completion (GET /chat/completions/{completion_id})."""
    return find_completion(served, call).object()


def modify(served: Served, call: ServedCall) -> Json:
    """Replace the metadata of a stored completion (POST /chat/completions/{completion_id})."""
    found, metadata = find_completion(served, call), validation.metadata_of(call.body)
    if call.body.get("metadata") is None or metadata == found.stored.metadata:
        return found.object()
    describe = partial(describe_completion, stored=found.stored, metadata=metadata)
    try:
        event = found.journal.commit(found.key, describe, also=call.also)
    except ConversationNotFound:
        raise not_found("Chat completion", call.ids["completion_id"]) from None
    return FoundCompletion(found.key, event, found.journal).object()


def delete(served: Served, call: ServedCall) -> Json:
    """Delete a stored completion; its messages remain in their conversation (DELETE /chat/completions/{completion_id})."""
    name = call.ids["completion_id"]

    def decide(conversation: Conversation) -> None:
        delete_completion(conversation, name)

    def delete_now() -> None:
        found = find_completion(served, call)
        try:
            found.journal.commit(found.key, decide, also=call.also)
        except ConversationNotFound:
            raise not_found("Chat completion", name) from None

    return deleted_once(served, call, delete_now, objects.deletion(name, "chat.completion.deleted"))


def list_(served: Served, call: ServedCall) -> Json:
    """Return a page of stored completions, by a model and pairs of metadata if they are given (GET /chat/completions)."""
    query = PageQuery.of({**OLDEST_FIRST, **call.query})
    journal, tenant = served.journal_of(call.caller), call.caller.tenant
    labels = [model_label(call.query["model"])] if call.query.get("model") else []
    for name, value in call.query.items():
        if name.startswith(METADATA_QUERY) and name.endswith("]"):
            labels.append(pair_label(name[len(METADATA_QUERY) : -1], value))
    page = query.page(lambda name: journal.views.completion_place(tenant, name))
    found, has_more = page.of(journal.views.completions(tenant, page, labels))
    keys = {each.completion_id: key_of(each.originator_id) for each in found}
    return page_of([_object(journal, keys[each.completion_id], each) for each in found], query, has_more)


def list_messages(served: Served, call: ServedCall) -> Json:
    """Return the messages that a stored completion was made from (GET /chat/completions/{completion_id}/messages)."""
    found, query = find_completion(served, call), PageQuery.of({**OLDEST_FIRST, **call.query})
    name = found.stored.completion_id
    return page_in((objects.stored_message(name, *each) for each in enumerate(_messages(found))), query)


def _messages(found: FoundCompletion) -> list[Json]:
    """Return the messages that the client sent, as memory has them: leading instructions first, then as many as were sent."""
    journal, key, stored = found.journal, found.key, found.stored
    request = next(journal.history(key, stored.request_version - 1, stored.request_version), None)
    if not isinstance(request, e.ExchangeRequested):
        return []
    profile, leaf = journal.profile(request.profile_hash), request.request.get("leaf")
    count = request.request.get("messages") or 0
    instructions = profile.instructions if profile is not None else ""
    first: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if not count:
        return first
    place = int(leaf[1]) if leaf else None
    memory = journal.memory(key, request.originator_version, last=count, leaf=place)
    return [*first, *memory.as_chat_messages()]


HANDLERS_OF_STORED: Mapping[str, Handler] = {
    "list_completions": list_,
    "retrieve_completion": retrieve,
    "modify_completion": modify,
    "delete_completion": delete,
    "list_completion_messages": list_messages,
}
