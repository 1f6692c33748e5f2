"""Fold the events of a request into the API's object of a response, with its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import JournaledMessage, Parent, Source, restore_message
from threadledger.domain.exchange.served_responses import BEFORE, FIRST
from threadledger.domain.ids import now, to_iso

from ..wire import Json, objects
from .contents import seconds, texts_in
from .file_search import search_name
from .items import SEARCH, SEARCH_RESULTS, ReadBlob, items_of, output_text
from .response_requests import response_tool, settings_shown
from .run_objects import error_object, is_cut_off

if TYPE_CHECKING:
    from threadledger.domain.conversation import Profile

UNNAMED_MODEL = "default"
"""Model of a response that names none, before a backend has answered it."""

CUT_OFF: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons for which an answer ended early, and those of a response that is incomplete."""


@dataclass
class ServedResponse:
    """Hold what the events of a conversation say about one request for a response."""

    request: e.ExchangeRequested
    started: list[e.RunStarted] = field(default_factory=list)
    completed: list[e.RunCompleted] = field(default_factory=list)
    said: list[e.MessageJournaled] = field(default_factory=list)
    """What its runs said, with the results of tools that the server used."""
    failed: e.RunFailed | None = None
    """The newest failure."""
    ended: str = ""
    """How it ended: a status of the API, or empty."""
    ended_at: datetime | None = None
    ended_version: int = 0
    """Version of the event with which it ended; 0 if it has not."""
    open_runs: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return the id of the response."""
        return str(self.request.request.get("response_id") or "")

    @property
    def is_background(self) -> bool:
        """Return whether it was created in the background."""
        return bool(self.request.request.get("background"))

    @property
    def is_streamed(self) -> bool:
        """Return whether its creation was answered by a stream."""
        return bool(self.request.request.get("stream"))

    @property
    def status(self) -> str:
        """Return the status that the API shows."""
        return self.ended or ("in_progress" if self.started or not self.is_background else "queued")

    @property
    def is_answered(self) -> bool:
        """Return whether another response can continue it."""
        return self.ended in {"completed", "incomplete"} and bool(self.said)

    @property
    def last(self) -> Parent:
        """Return its last message, which the next response follows."""
        newest = self.said[-1]
        return newest.message_id, newest.originator_version

    @property
    def before(self) -> Parent:
        """Return the end of memory before its input."""
        given = self.request.request.get(BEFORE) or ("", 0)
        return str(given[0]), int(given[1])

    @property
    def first_version(self) -> int | None:
        """Return the version of the first message of its input; None if it has none."""
        given = self.request.request.get(FIRST)
        return given if isinstance(given, int) else None

    @property
    def is_overdue(self) -> bool:
        """Return whether it has not ended although its time is over."""
        deadline = self.request.deadline
        return not self.ended and deadline is not None and to_iso(now()) >= deadline


def folded_response(events: Iterable[e.Event], request: e.ExchangeRequested) -> ServedResponse:
    """Return a response from the events after its request, oldest first, among others; those after its end are not read."""
    found = ServedResponse(request)
    for event in events:
        if found.ended and not _is_of_answer(found, event):
            break
        if not _take(found, event):
            break
    return found


def _is_of_answer(found: ServedResponse, event: e.Event) -> bool:
    """Return whether an event belongs to the commit of the answer."""
    is_said = isinstance(event, e.MessageJournaled) and bool(found.completed)
    return is_said and getattr(event, "run_id", None) == found.completed[-1].run_id


def _take(found: ServedResponse, event: e.Event) -> bool:
    """Apply an event; return whether more can follow."""
    own = getattr(event, "exchange_id", None) == found.request.exchange_id
    match event:
        case e.MessageJournaled() if own and event.run_id is not None:
            found.said.append(event)
        case e.ExchangeRequested() if own:
            return False
        case e.RunStarted() if own and not event.shadow:
            found.started.append(event)
            found.open_runs.add(event.run_id)
        case e.RunCompleted() if event.run_id in found.open_runs:
            found.open_runs.discard(event.run_id)
            found.completed.append(event)
            cut_off = event.finish_reason in CUT_OFF and not event.goes_on
            _end(found, "incomplete" if cut_off else "completed", event)
        case e.RunFailed() if event.run_id in found.open_runs:
            found.open_runs.discard(event.run_id)
            found.failed = event
        case e.ExchangeAbandoned() if own:
            _end(found, _how_it_failed(found), event)
        case e.ExchangeCancelled() if own:
            _end(found, "cancelled", event)
        case e.ConversationDeleted():
            _end(found, "cancelled", event)
    return True


def _how_it_failed(found: ServedResponse) -> str:
    if found.failed is None:
        return "failed"
    if found.failed.status == "cancelled":
        return "cancelled"
    return "incomplete" if is_cut_off(found.failed) else "failed"


def _end(found: ServedResponse, status: str, event: e.Event) -> None:
    found.ended, found.ended_at, found.ended_version = status, event.timestamp, event.originator_version


def response_object(
    found: ServedResponse, profile: Profile | None, read_blob: ReadBlob, *, with_results: bool = False
) -> Json:
    """Return the API's object of a response, `with_results` of searches also if its request did not ask for them."""
    event, request = found.request, found.request.request
    shown: Json = dict(request.get("shown") or {})
    if profile is not None:
        shown |= settings_shown(profile, shown)
    answered = next((each.model for each in reversed(found.completed) if each.model), None)
    model = answered or (found.started[-1].model if found.started else event.model) or UNNAMED_MODEL
    given = {
        **shown,
        "model": model,
        "background": found.is_background,
        "instructions": (profile.instructions or None) if profile is not None else None,
        "previous_response_id": request.get("previous"),
        "store": request.get("store", True),
    }
    tools = [response_tool(tool) for tool in profile.tools] if profile is not None else []
    made = objects.response(
        found.name,
        seconds(event.timestamp),
        given,
        tools=tools,
        metadata=texts_in(event.metadata),
        conversation_id=request.get("conversation"),
    )
    made |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": shown.get("top_logprobs") or 0}
    made["reasoning"] = {"effort": None, "summary": None} | (shown.get("reasoning") or {})
    if not found.ended:
        return made | objects.UNFINISHED | {"status": found.status}
    return made | _end_of(found, read_blob, search_name(profile.tools) if profile is not None else "", with_results)


def _end_of(found: ServedResponse, read_blob: ReadBlob, search: str, with_results: bool) -> Json:
    state: Json = {"status": found.ended, "usage": usage_of(found) if found.completed else None}
    if found.ended == "completed" and found.ended_at is not None:
        state["completed_at"] = seconds(found.ended_at)
    if found.ended == "incomplete":
        reason = CUT_OFF.get((found.completed[-1].finish_reason if found.completed else "") or "", "max_output_tokens")
        state["incomplete_details"] = {"reason": reason}
    if found.ended == "failed":
        state["error"] = error_object(found.failed)
    if found.completed:
        state["output"] = output_of(found, read_blob, search, with_results)
    return state


def output_of(found: ServedResponse, read_blob: ReadBlob, search: str, with_results: bool) -> list[Json]:
    """Return the items that a response produced.

    In a streamed one, what is sent while it is written comes first: a client was told their places.
    """
    texts = {each.tool_call_id: restore_message(each).text for each in found.said if each.tool_call_id is not None}
    is_asked = with_results or SEARCH_RESULTS in (found.request.request.get("include") or ())
    results = texts if is_asked else None
    items: list[Json] = []
    for event in found.said:
        if event.tool_call_id is not None:
            continue
        own = items_of(_placed(event), read_blob, search, results)
        items += map(_as_heard, own) if found.is_streamed else own
    return sorted(items, key=lambda each: each["type"] not in WHILE_WRITTEN) if found.is_streamed else items


def _as_heard(item: Json) -> Json:
    """Return an item of a streamed response: a refusal is a part of its text, as it was sent while it was written."""
    parts = item["content"] if item["type"] == "message" else []
    if not any(each["type"] == "refusal" for each in parts):
        return item
    notes = [note for each in parts for note in each.get("annotations") or ()]
    return item | {"content": [output_text("".join(each.get("text") or each["refusal"] for each in parts), notes)]}


WHILE_WRITTEN = frozenset({"message", SEARCH})
"""Types of items that are sent while the answer is written."""


def _placed(event: e.MessageJournaled) -> JournaledMessage:
    message, at = restore_message(event), event.timestamp
    source = Source(event.source)
    return JournaledMessage(
        message, event.message_id, event.originator_version, at, event.exchange_id, event.run_id, source
    )


def usage_of(found: ServedResponse) -> Json:
    """Return the tokens of all attempts that were answered."""
    counts = [each.usage for each in found.completed]
    names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    return objects.response_usage(*(sum(int(each.get(name) or 0) for each in counts) for name in names))
