"""Handle /v1/responses: each request continues a conversation of the ledger, and is answered at once, as a stream or in the
background."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from threadledger.domain.conversation import CONVERSATION, Conversation, Profile, fold_exchanges, key_of, stream_of
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.decisions import cancel as cancel_exchange
from threadledger.domain.conversation.decisions import delete_response
from threadledger.domain.conversation.messages import JournaledMessage, Parent, restore_message
from threadledger.domain.errors import AllBackendsFailed, ConversationBusy, ConversationNotFound
from threadledger.domain.exchange.served_responses import ResponseRequest, end_response, request_response
from threadledger.domain.ids import new_id as new_request_key
from threadledger.domain.journal import Journal
from threadledger.domain.journal.served_notes import together
from threadledger.domain.memory import ALL, Memory

from ..wire import ApiError, EventStream, Json, bodies, errors, objects, sse, validation
from ..wire.errors import bad_request
from . import tenants
from .calls import Handler, Served, ServedCall, deleted_once
from .chat_objects import refusal_of_failure
from .file_search import search_name
from .ids import new_id
from .items import items_among, messages_in, shows_results
from .live_runs import LISTEN_SECONDS, LiveRun
from .pages import PageQuery, page_in
from .refusals import AGAIN, SERVER_ERROR
from .request_keys import key_given
from .response_events import ResponseWriter, framed, numbered
from .response_objects import ServedResponse, folded_response, response_object
from .response_requests import RESPONSE, WantedResponse, input_messages, wanted_response

if TYPE_CHECKING:
    from .threads import FoundThread

CANCELLED = "cancelled by the client of the served API"
CLIENT_LEFT = "the client did not wait for the answer"
RESULTS_LOOKED_BACK = 64
"""Number of messages in which the calls of results are searched for."""

NOT_STORED = "not stored"
"""What is added to the key of a request for the name of its conversation, if the response is not stored."""

ENDED_BADLY = frozenset({"failed", "cancelled"})
_AFTER = re.compile(r"-?[0-9]{1,12}")


@dataclass(frozen=True)
class FoundResponse:
    """Hold a response of the caller, and its conversation."""

    key: str
    journal: Journal
    response: ServedResponse
    profile: Profile | None

    @property
    def exchange_id(self) -> str:
        """Return the id of its exchange."""
        return self.response.request.exchange_id

    def object(self, with_results: bool = False) -> Json:
        """Return the API's object of it, `with_results` of searches also if its request did not ask for them."""
        return response_object(self.response, self.profile, self.journal.read_blob, with_results=with_results)


@dataclass(frozen=True)
class Target:
    """Describe the conversation that a request continues."""

    key: str
    behind: Parent | None = None
    """The last message of the response that it continues; None is the end of memory."""
    is_new: bool = False
    calls: frozenset[str] = frozenset()
    """Ids of the calls with which that response ended."""


def create(served: Served, call: ServedCall) -> Json | EventStream:
    """Create a response (POST /responses)."""
    wanted = wanted_response(served, call)
    target = _target(served, call, wanted)
    journal = served.journal_of(call.caller)
    earlier = journal.keyed(target.key, call.idempotency_key) if call.repeated else None
    if isinstance(earlier, e.ExchangeRequested):
        found = _found(journal, target.key, earlier)
        if found.response.ended in ENDED_BADLY and key_given(call) is None:
            _start_over(served, call)  # an SDK that sends its request again wants an answer
            return create(served, call)
        return _repeated(served, call, found)
    if call.stored and target.is_new:  # its conversation was deleted since
        raise errors.not_found("Response", wanted.response_id)
    _check_results(journal, target, wanted)
    return _begun(served, call, wanted, target)


def _start_over(served: Served, call: ServedCall) -> None:
    """Make a request that is sent again another one."""
    call.request_key, call.repeated, call.stored = new_request_key(), False, False
    call.also = served.runner.notes.note(call.request_key, call.fingerprint)


def _target(served: Served, call: ServedCall, wanted: WantedResponse) -> Target:
    if wanted.conversation is not None:
        return Target(_conversation(served, call, wanted.conversation).key)
    if wanted.previous is None:
        # Who knows the id of a response that is not stored cannot name its conversation.
        name = wanted.response_id if wanted.is_stored else new_id(RESPONSE, f"{call.request_key}\n{NOT_STORED}")
        return Target(tenants.key_of(call.caller, name), is_new=True)
    found = _previous(served, call, wanted.previous)
    calls = (call.id for each in found.response.said for call in restore_message(each).calls())
    return Target(found.key, found.response.last, calls=frozenset(calls))


def _conversation(served: Served, call: ServedCall, name: str) -> FoundThread:
    from .conversations import find_conversation

    return find_conversation(served, call, name)


def _previous(served: Served, call: ServedCall, name: str) -> FoundResponse:
    found = _find(served, call, name)
    if found is None:
        raise bad_request(
            f"Previous response with id '{name}' not found.", "previous_response_id", "previous_response_not_found"
        )
    if not found.response.is_answered:
        raise bad_request(
            f"Previous response with id '{name}' has the status '{found.response.status}', so it cannot be continued: wait until "
            "it is completed, or continue another one.",
            "previous_response_id",
            "previous_response_not_completed",
        )
    return found


def _check_results(journal: Journal, target: Target, wanted: WantedResponse) -> None:
    """Raise a 400 for the result of a call that the model did not make."""
    unknown = [each for each in wanted.unknown_results if each not in target.calls]
    if unknown and not target.is_new:
        leaf = target.behind[1] if target.behind is not None else None
        memory = journal.memory(target.key, last=RESULTS_LOOKED_BACK, leaf=leaf)
        known = {call.id for each in memory.messages for call in each.message.calls()}
        unknown = [each for each in unknown if each not in known]
    if unknown:
        raise bad_request(f"No tool call found for function call output with call_id {unknown[0]}.", "input")


def _begun(served: Served, call: ServedCall, wanted: WantedResponse, target: Target) -> Json | EventStream:
    """Store a request and run it; nothing is stored if the key runs as many exchanges as it may."""
    runner, journal, share = served.runner, served.journal_of(call.caller), call.caller.actor or ""
    stream = stream_of(target.key)
    sent = ResponseRequest(
        wanted.profile,
        wanted.model,
        wanted.seconds,
        call.idempotency_key,
        [journal.keep(each) for each in wanted.messages],
        target.behind,
        wanted.metadata,
        wanted.request,
        is_repeated=call.repeated,
    )
    if not wanted.is_background:
        runner.reserve(share)
    try:
        event, is_new = request_response(
            journal, target.key, sent, lambda name: together(runner.notes.claim(stream, name), call.also)
        )
    except BaseException as error:
        if not wanted.is_background:
            runner.give_back(share)
        if isinstance(error, ConversationBusy):
            raise bad_request(errors.LOCKED, "conversation", "conversation_locked") from error
        raise
    if not is_new:  # by another process, at the same time
        if not wanted.is_background:
            runner.give_back(share)
        return _repeated(served, call, _found(journal, target.key, event))
    live = runner.run(
        target.key,
        event.exchange_id,
        call.caller.actor,
        stream=wanted.is_streamed,
        resumed=True,
        reserved=not wanted.is_background,
        listens=not wanted.is_background,
        new=(event, wanted.profile),
    )
    found = FoundResponse(target.key, journal, ServedResponse(event), wanted.profile)
    return ResponseDelivery(served, call, found, live).answered()


def _repeated(served: Served, call: ServedCall, found: FoundResponse) -> Json | EventStream:
    """Answer a request that is sent again; what no process runs is run here."""
    live, response = None, found.response
    if not response.ended:
        live = served.runner.resume(
            found.key,
            found.exchange_id,
            call.caller.actor,
            stream=response.is_streamed,
            listens=not response.is_background,
        )
    return ResponseDelivery(served, call, found, live).answered()


class ResponseDelivery:
    """Show a response to the client that created it."""

    def __init__(self, served: Served, call: ServedCall, found: FoundResponse, live: LiveRun | None) -> None:
        self._served, self._call, self._found, self._live = served, call, found, live
        self._listens = live is not None and not found.response.is_background

    def answered(self) -> Json | EventStream:
        """Return the response when it has ended, its stream, or at once if it is answered in the background."""
        if self._found.response.is_streamed:
            frames = _frames(self._call, self._found, self._live, self._leave)
            return EventStream("responses", frames, lambda _status: self._leave())
        if self._found.response.is_background:
            return self._found.object()
        return self._whole()

    def _whole(self) -> Json:
        followed = FollowedResponse(self._call, self._found, self._live)
        try:
            deque(followed.parts(), maxlen=0)
        finally:
            self._leave()
        if self._call.gone.is_set():
            raise ApiError(503, "The client has disconnected, or the server stops.", kind=SERVER_ERROR, headers=AGAIN)
        found = followed.found
        if found.response.ended == "failed":
            raise _refusal(found)
        if found.response.ended == "cancelled":
            raise ApiError(
                409, "The response was cancelled before it had an answer.", kind=SERVER_ERROR, code="cancelled"
            )
        return found.object()

    def _leave(self) -> None:
        """Cancel a response that nobody waits for any more."""
        if not self._listens or self._live is None:
            return
        self._listens = False
        if self._served.runner.has_left(self._live):
            _cancelled(self._served, self._found, CLIENT_LEFT)


def _refusal(found: FoundResponse) -> ApiError:
    """Return the refusal of a request whose response has failed."""
    response = found.response
    own = found.journal.history(found.key, response.request.originator_version, response.ended_version or None)
    recorded = fold_exchanges(own).by_id.get(found.exchange_id)
    failures = recorded.failures() if recorded is not None else ()
    return refusal_of_failure(AllBackendsFailed(found.key, found.exchange_id, failures))


class FollowedResponse:
    """Follow a response until it has ended, or until its client has left."""

    def __init__(self, call: ServedCall, found: FoundResponse, live: LiveRun | None) -> None:
        self.found = found
        """The response as it was read last; at the end, as it has ended."""
        self._gone, self._live = call.gone, live

    def parts(self) -> Iterator[list[object]]:
        """Yield the parts of the answer as they arrive.

        A response of another process is read again and again: its parts are not seen.
        """
        if self._live is not None:
            yield from self._live.listen(self._gone.is_set)
        while not self._gone.is_set():
            self.found = _again(self.found)
            if self.found.response.ended or self._gone.wait(LISTEN_SECONDS):
                return
            yield []


def _frames(
    call: ServedCall,
    found: FoundResponse,
    live: LiveRun | None,
    leave: Callable[[], None] = lambda: None,
    after: int = -1,
) -> Iterator[bytes]:
    """Yield the stream of a response, from the event that follows the number `after`."""
    try:
        response = found.response
        if response.ended:
            yield framed(numbered(found.object(), after)) + sse.frame(sse.DONE)
            return
        search = search_name(found.profile.tools) if found.profile is not None else ""
        writer = ResponseWriter(found.object(), after, search)
        yield framed(writer.begin())
        followed = FollowedResponse(call, found, live)
        for parts in followed.parts():
            yield framed(event for part in parts for event in writer.of_part(part))
        if call.gone.is_set():
            return
        yield framed(writer.end(followed.found.object())) + sse.frame(sse.DONE)
    finally:
        leave()


def _found(journal: Journal, key: str, event: e.ExchangeRequested) -> FoundResponse:
    return FoundResponse(key, journal, _folded(journal, key, event), journal.profile(event.profile_hash))


def _again(found: FoundResponse) -> FoundResponse:
    return replace(found, response=_folded(found.journal, found.key, found.response.request))


def _folded(journal: Journal, key: str, event: e.ExchangeRequested) -> ServedResponse:
    """Return a response as it is now; one whose conversation was deleted was cancelled with it."""
    lookups = journal.lookups(key)
    if lookups is None or event.originator_version <= lookups.floor:
        return ServedResponse(event, ended="cancelled")
    return folded_response(lookups.after(event.originator_version), event)


# Reading


def _find(served: Served, call: ServedCall, name: str) -> FoundResponse | None:
    """Return a response of the caller by its id, which an index has; None if there is none."""
    journal = served.journal_of(call.caller)
    newest: dict[str, int] = {}
    for stream, version in journal.addressed([name]).get(name, []):
        newest[stream] = max(version, newest.get(stream, 0))
    for stream, version in newest.items():
        if not stream.startswith(CONVERSATION) or not tenants.reaches(call.caller, key := key_of(stream)):
            continue
        event = next(journal.history(key, version - 1, version), None)
        if not isinstance(event, e.ExchangeRequested) or event.request.get("response_id") != name:
            continue
        if version <= journal.deleted_version(key):
            continue
        found = _found(journal, key, event)
        if found.response.is_overdue and served.runner.expire(key, event.exchange_id):
            found = _again(found)
        return found
    return None


def conversation_of_response(served: Served, call: ServedCall, name: str) -> FoundThread | None:
    """Return the conversation of a response of the caller; None if there is no such response."""
    from .threads import FoundThread

    found = _find(served, call, name)
    conversation = found.journal.load(found.key) if found is not None else None
    if found is None or conversation is None:
        return None
    return FoundThread(name, found.key, conversation.state, found.journal)


def find_response(served: Served, call: ServedCall) -> FoundResponse:
    """Return the response that a path names.

    Raises:
        ApiError: a 404.
    """
    found = _find(served, call, call.ids["response_id"])
    if found is None:
        raise errors.not_found("Response", call.ids["response_id"])
    return found


def retrieve(served: Served, call: ServedCall) -> Json | EventStream:
    """Return a response, or its stream from the event after `starting_after` (GET /responses/{response_id})."""
    found, with_results = find_response(served, call), shows_results(call)
    if not call.wants_stream:
        return found.object(with_results)
    given = call.query.get("starting_after", "-1")
    if not _AFTER.fullmatch(given):
        raise errors.wrong_type("starting_after", "an integer", given)
    live = served.runner.live(found.exchange_id) if not found.response.ended else None
    return EventStream("responses", _frames(call, found, live, after=int(given)))


def cancel(served: Served, call: ServedCall) -> Json:
    """Cancel a response in the background; one that has ended does not change (POST /responses/{response_id}/cancel)."""
    found = find_response(served, call)
    if not found.response.is_background:
        raise bad_request("Cannot cancel a synchronous response.")
    if not found.response.ended:
        _cancelled(served, found, CANCELLED, call)
    return _again(found).object()


def _cancelled(served: Served, found: FoundResponse, reason: str, call: ServedCall | None = None) -> None:
    def end(conversation: Conversation) -> None:
        cancel_exchange(conversation, found.exchange_id, reason)

    also = call.also if call is not None else None
    try:
        end_response(found.journal, found.key, found.exchange_id, end, also)
    except ConversationNotFound:
        if call is not None:
            raise errors.not_found("Response", found.response.name) from None
    served.runner.cancel(found.key, found.exchange_id)


def delete(served: Served, call: ServedCall) -> Json:
    """Delete a response, which is cancelled if it has not ended; its messages remain (DELETE /responses/{response_id})."""
    name = call.ids["response_id"]

    def delete_now() -> None:
        found = find_response(served, call)
        if not found.response.ended:
            _cancelled(served, found, CANCELLED)
        try:
            found.journal.commit(found.key, partial(delete_response, response_id=name), also=call.also)
        except ConversationNotFound:
            raise errors.not_found("Response", name) from None

    return deleted_once(served, call, delete_now, objects.deletion(name, "response.deleted"))


def list_input_items(served: Served, call: ServedCall) -> Json:
    """Return a page of the items of a response's input (GET /responses/{response_id}/input_items)."""
    found, query = find_response(served, call), PageQuery.of(call.query)
    request, first = found.response.request, found.response.first_version
    messages: list[JournaledMessage] = []
    if first is not None:
        for event in found.journal.history(found.key, first - 1, request.originator_version - 1):
            if isinstance(event, e.MessageJournaled):
                place = event.message_id, event.originator_version, event.timestamp
                messages.append(JournaledMessage(restore_message(event), *place))
    return page_in(items_among(messages, found.journal.read_blob, shows_results(call)), query)


def count_input_tokens(served: Served, call: ServedCall) -> Json:
    """Return about how many input tokens a response would have (POST /responses/input_tokens)."""
    body, journal = call.body, served.journal_of(call.caller)
    conversation = bodies.response_conversation(body)
    previous = validation.optional_string(body, "previous_response_id")
    count = 0
    if conversation is not None:
        count = journal.memory(_conversation(served, call, conversation).key).estimated_tokens()
    elif previous is not None:
        found = _previous(served, call, previous)
        count = journal.memory(found.key, leaf=found.response.last[1]).estimated_tokens()
    given = input_messages(served, call)
    instructions = validation.optional_string(body, "instructions") or ""
    if instructions:
        given = [*messages_in([{"role": "system", "content": instructions}], "instructions"), *given]
    count += Memory((), 0, ALL).with_messages(given).estimated_tokens()
    return {"object": "response.input_tokens", "input_tokens": count}


HANDLERS_OF_RESPONSES: Mapping[str, Handler] = {
    "create_response": create,
    "retrieve_response": retrieve,
    "cancel_response": cancel,
    "delete_response": delete,
    "list_input_items": list_input_items,
    "count_input_tokens": count_input_tokens,
}
