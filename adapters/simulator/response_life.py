"""Advance a response: at once, by one state each time it is retrieved, or event by event as it is streamed.

queued -> in_progress -> completed | failed | incomplete | cancelled
"""

from collections.abc import Iterator

from .call import Json
from .conversations import keep
from .response_events import TERMINAL, events_of
from .store import ResponseRecord, Store
from .streams import EventStream, frame


def advance(store: Store, record: ResponseRecord) -> None:
    """Advance a background response by one state; other responses advance as their stream is read."""
    if record.final is None or not record.object["background"]:
        return
    if record.object["status"] == "queued":
        record.object["status"] = "in_progress"
    else:
        finish(store, record)


def finish(store: Store, record: ResponseRecord) -> None:
    """End a response as planned.

    A completed response is added to its conversation, together with its input.
    """
    final, record.final = record.final, None
    if final is None:
        return
    record.object |= final
    if final["status"] == "completed":
        record.object["completed_at"] = store.now()
    _leave(store, record, joins=final["status"] == "completed")


def end(store: Store, record: ResponseRecord, status: str) -> None:
    """End a response early as `cancelled` or `failed`; a response that has ended does not change."""
    if record.final is None:
        return
    record.final = None
    record.object["status"] = status
    if status == "failed":
        record.object["error"] = {"code": "server_error", "message": "The stream was interrupted."}
    _leave(store, record, joins=False)


def streamed(store: Store, record: ResponseRecord, after: int = -1) -> EventStream:
    """Return a stream of the events with a sequence number above `after`, including events of the past."""

    def abandon(status: str) -> None:
        # A response ends without its reader; a background response continues when it is retrieved.
        if not record.object["background"] or status == "failed":
            end(store, record, status)

    return EventStream("responses", _frames(store, record, after), abandon)


def _frames(store: Store, record: ResponseRecord, after: int) -> Iterator[bytes]:
    response_id = record.object["id"]
    for number, event in enumerate(events_of(record)):
        if record.object["status"] == "cancelled":
            return
        kind = event["type"]
        if kind == "response.in_progress" and record.object["status"] == "queued":
            record.object["status"] = "in_progress"
        if kind in TERMINAL:
            finish(store, record)
            event["response"] = record.object
        if response_id in store.responses:
            store.responses.touch(response_id)
        if number > after:
            yield frame({**event, "sequence_number": number}, kind)
    # A response that is planned to end as cancelled has no final event.
    finish(store, record)


def _leave(store: Store, record: ResponseRecord, *, joins: bool) -> None:
    response: Json = record.object
    held = response["conversation"]
    conversation = store.conversations.get(held["id"]) if held else None
    if conversation is None:
        return
    if conversation.busy == response["id"]:
        conversation.busy = None
    if joins:
        keep(conversation, [*record.input, *response["output"]])
