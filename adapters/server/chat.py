"""Handle /v1/chat/completions: each request is an exchange of a conversation, whose memory the client sends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

from threadledger.domain.conversation import Conversation, ConversationState, stream_of
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange import SentOptions
from threadledger.domain.exchange.client_memory import ClientRequest, exchange_of
from threadledger.domain.ids import now, to_iso
from threadledger.domain.journal.served_notes import together

from ..recording import Aligned, Alignment, committed
from ..wire import ApiError, EventStream, Json, sse
from .calls import Handler, Served, ServedCall
from .chat_objects import ChunkWriter, FoundAnswer, completion_object, refusal_of_failure
from .chat_requests import WantedCompletion, wanted_completion
from .completions import HANDLERS_OF_STORED
from .contents import seconds
from .live_runs import LISTEN_SECONDS, LiveRun
from .refusals import AGAIN, SERVER_ERROR
from .request_keys import key_given

if TYPE_CHECKING:
    from threadledger.domain.conversation.messages import Message
    from threadledger.domain.exchange import Services
    from threadledger.domain.journal import Journal

SURFACE = "chat"
ELSEWHERE_LOOK_SECONDS = 0.1
"""Interval at which the answer of a request is searched that another process runs, in seconds."""


def create(served: Served, call: ServedCall) -> Json | EventStream:
    """Answer messages (POST /chat/completions); a repeated request gets the answer of the first one."""
    wanted = wanted_completion(served, call)
    journal, live, event = served.journal_of(call.caller), None, None
    if key_given(call) is not None and (known := _elsewhere(served, call, wanted, journal)):
        return known
    if call.repeated:
        live = served.runner.join(wanted.completion_id)
        event = journal.keyed(wanted.key, call.idempotency_key)
        if live is None and isinstance(event, e.ExchangeRequested) and (found := _answer(journal, wanted.key, event)):
            return _whole(journal, call, wanted, event, found)
    if live is None or not isinstance(event, e.ExchangeRequested):
        if live is not None:
            served.runner.leave(wanted.completion_id, live)
        try:
            live, event = _begin(served, call, wanted, journal)
        except _GivenTwice:
            return create(served, call)
    answering = Answering(served, call, wanted, journal, live, event)
    return answering.stream() if call.wants_stream else answering.whole()


class _GivenTwice(Exception):
    """Raised when another process was given the same request at the same time."""


def _elsewhere(
    served: Served, call: ServedCall, wanted: WantedCompletion, journal: Journal
) -> Json | EventStream | None:
    """Return the answer of a request with an `Idempotency-Key` that another process was given; None if this one answers it.

    As long as that process runs it, its answer is waited for.
    """
    event = journal.keyed(wanted.key, call.idempotency_key)
    if not isinstance(event, e.ExchangeRequested) or served.runner.is_attended(event.exchange_id):
        return None
    is_held = False
    while True:
        found = _answer(journal, wanted.key, event)
        if found is not None:
            if is_held:
                served.runner.end(wanted.key, event.exchange_id)
            return _whole(journal, call, wanted, event, found)
        if is_held:
            return None
        is_held = served.runner.holds(wanted.key, event.exchange_id)
        if not is_held and call.gone.wait(ELSEWHERE_LOOK_SECONDS):
            raise _client_left()


def _begin(
    served: Served, call: ServedCall, wanted: WantedCompletion, journal: Journal
) -> tuple[LiveRun, e.ExchangeRequested]:
    """Store a request and run its exchange, unless it runs; return what listens to it, and the event of the request.

    Nothing is stored if the key runs as many exchanges as it may: the request is refused with a 429.
    """
    services, share = _services(served, wanted), call.caller.actor or ""
    served.runner.reserve(share)
    try:
        placed, event, is_new = _placed(served, call, wanted, journal)
        is_claimed = key_given(call) is not None
        if is_claimed and not is_new and not served.runner.holds(wanted.key, event.exchange_id):
            raise _GivenTwice
        exchange = exchange_of(journal, services, wanted.key, placed, stream=call.wants_stream)
    except BaseException:
        served.runner.give_back(share)
        raise
    live = served.runner.attend(wanted.completion_id, wanted.key, exchange, event, share, is_claimed=is_claimed)
    return live, event


def _services(served: Served, wanted: WantedCompletion) -> Services:
    """Return the services for a request; what is wrong with it is found before anything is stored."""
    request = wanted.recorded() | {"options": dict(wanted.options)}
    event = e.ExchangeRequested(
        exchange_id="", profile_hash=wanted.sent_profile.hash, model=wanted.model, surface=SURFACE, request=request
    )
    return SentOptions(event, wanted.sent_profile).services_of(served.ledger.services, {})


def _placed(
    served: Served, call: ServedCall, wanted: WantedCompletion, journal: Journal
) -> tuple[ClientRequest, e.ExchangeRequested, bool]:
    """Store the new messages of a request and the request in one commit; one that was stored before is not stored again.

    The last value is whether it is new. One with an `Idempotency-Key` is claimed: no other process runs it at the same time.
    """
    sent = {
        "profile_hash": journal.define_profile(wanted.profile),
        "model": wanted.model,
        "metadata": dict(wanted.metadata),
        "surface": SURFACE,
        "idempotency_key": call.idempotency_key,
    }

    def read() -> Alignment:
        is_answered = partial(_is_answered, served)
        return Alignment(journal, wanted.key, wanted.said, with_run=False, in_progress=is_answered)

    claimed: list[str] = []

    def claim(cursor: Any) -> None:
        if claimed:
            served.runner.notes.claim(stream_of(wanted.key), claimed[-1])(cursor)

    def decide(
        found: Alignment, conversation: Conversation
    ) -> tuple[e.ExchangeRequested, bool, Sequence[Message], bool]:
        earlier = journal.keyed(wanted.key, call.idempotency_key) if call.repeated else None
        if isinstance(earlier, e.ExchangeRequested):
            return earlier, False, found.messages, False
        aligned = found.journaled(conversation)
        fields = sent | {"request": wanted.recorded() | _place_of(aligned)} | _question_of(found, aligned, conversation)
        event = conversation.request(aligned.exchange_id, fields)
        if key_given(call) is not None:
            claimed.append(event.exchange_id)
        return event, conversation.state.path_hash is not None, found.messages, True

    event, path_known, kept, is_new = committed(journal, wanted.key, read, decide, together(claim, call.also))
    leaf = event.request.get("leaf")
    placed = ClientRequest(
        event.exchange_id,
        event.originator_version,
        wanted.shown(kept),
        event.request["rule"],
        (str(leaf[0]), int(leaf[1])) if leaf else None,
        path_known,
        wanted.completion_id if wanted.is_stored else "",
        to_iso(event.timestamp),
        wanted.metadata,
        wanted.losses,
    )
    return placed, event, is_new


def _is_answered(served: Served, state: ConversationState, exchange_id: str) -> bool:
    """Return whether an exchange is being answered although none of its runs is open: here, or just now elsewhere.

    One that ended with calls waits for the client, and not for a process.
    """
    if served.runner.is_attended(exchange_id):
        return True
    exchange = state.open_exchanges.get(exchange_id)
    if exchange is None or not exchange.is_active(now()):
        return False
    return bool(exchange.runs) or exchange.tail is None


def _place_of(aligned: Aligned) -> Json:
    return {"rule": aligned.rule} | ({"leaf": list(aligned.leaf)} if aligned.leaf is not None else {})


def _question_of(found: Alignment, aligned: Aligned, conversation: Conversation) -> Json:
    """Return the fields of a request that name its question, if the exchange is new and this commit journals no message."""
    question, state = aligned.question, conversation.state
    is_known = aligned.exchange_id in state.open_exchanges or aligned.exchange_id in state.abandoned
    has_new = any(isinstance(each, e.MessageJournaled) for each in conversation.pending)
    if question is None and not is_known and aligned.leaf is None and not has_new:
        question = found.last
    if question is None:
        return {}
    return {"question_message_id": question.message_id, "question_version": question.version}


def _answer(journal: Journal, key: str, request: e.ExchangeRequested) -> FoundAnswer | None:
    """Return the answer of a request, read from its event on; None if it has none yet."""
    started: dict[str, str] = {}
    completed: e.RunCompleted | None = None
    said: list[e.MessageJournaled] = []
    for event in journal.history(key, after=request.originator_version):
        if completed is not None:
            if not isinstance(event, e.MessageJournaled) or event.run_id != completed.run_id:
                break
            said.append(event)
            continue
        match event:
            case e.RunStarted(exchange_id=own) if own == request.exchange_id and not event.shadow:
                started[event.run_id] = event.model
            case e.RunCompleted(run_id=run_id) if run_id in started:
                completed = event
            case e.ExchangeRequested(exchange_id=own) if own == request.exchange_id:
                break
            case _:
                pass
    if completed is None:
        return None
    return FoundAnswer(completed.model or started[completed.run_id], completed, said)


class Answering:
    """Wait for the answer of a request, and show it."""

    def __init__(
        self,
        served: Served,
        call: ServedCall,
        wanted: WantedCompletion,
        journal: Journal,
        live: LiveRun,
        event: e.ExchangeRequested,
    ) -> None:
        self._served, self._call, self._wanted, self._journal = served, call, wanted, journal
        self._live, self._event = live, event
        self._has_left = False

    def whole(self) -> Json:
        """Return the completion when it is there; a client that leaves ends the run."""
        try:
            while not self._live.is_over:
                self._live.wait(LISTEN_SECONDS)
                if self._call.gone.is_set():
                    raise _client_left()
        finally:
            self.leave()
        return self._completion()

    def stream(self) -> EventStream:
        """Return the completion in chunks; a refusal before the first one is raised here."""
        created = seconds(self._event.timestamp)
        writer = ChunkWriter(self._wanted.completion_id, created, self._wanted.has_usage)
        chunks = self._chunks(writer)
        try:
            first = next(chunks)
        except BaseException:
            self.leave()
            raise
        pieces = (b"".join(map(sse.frame, each)) for each in chain([first], chunks))
        frames = chain(pieces, [sse.frame(sse.DONE)])
        return EventStream("chat", frames, lambda _status: self.leave())

    def leave(self) -> None:
        """Give up the place among the listeners; a run without any is cancelled."""
        if not self._has_left:
            self._has_left = True
            self._served.runner.leave(self._wanted.completion_id, self._live)

    def _chunks(self, writer: ChunkWriter) -> Iterator[list[Json]]:
        """Yield the chunks of a stream, those that are there at the same time together."""
        try:
            for parts in self._live.listen(self._call.gone.is_set):
                chunks = [chunk for part in parts for chunk in writer.of_part(part)]
                if chunks:
                    yield chunks
            if not self._live.is_over:
                raise _client_left()
            yield [*writer.end(self._completion())]
        finally:
            self.leave()

    def _completion(self) -> Json:
        if self._live.error is not None:
            _refuse(self._live.error)
        found = _answer(self._journal, self._wanted.key, self._event)
        if found is None:
            raise ApiError(503, "The answer was not stored: send the request again.", kind=SERVER_ERROR, headers=AGAIN)
        return _object(self._journal, self._wanted, self._event, found)


def _object(journal: Journal, wanted: WantedCompletion, event: e.ExchangeRequested, found: FoundAnswer) -> Json:
    return completion_object(wanted.completion_id, event.timestamp, wanted.metadata, found, journal.read_blob)


def _whole(
    journal: Journal, call: ServedCall, wanted: WantedCompletion, event: e.ExchangeRequested, found: FoundAnswer
) -> Json | EventStream:
    """Return an answer that is stored already."""
    completion = _object(journal, wanted, event, found)
    if not call.wants_stream:
        return completion
    writer = ChunkWriter(wanted.completion_id, completion["created"], wanted.has_usage)
    return EventStream("chat", chain(map(sse.frame, writer.end(completion)), [sse.frame(sse.DONE)]))


def _refuse(error: Exception) -> NoReturn:
    raise refusal_of_failure(error) if isinstance(error, AllBackendsFailed) else error


def _client_left() -> ApiError:
    return ApiError(503, "The client has disconnected, or the server stops.", kind=SERVER_ERROR, headers=AGAIN)


HANDLERS_OF_CHAT: Mapping[str, Handler] = {"create_completion": create, **HANDLERS_OF_STORED}
