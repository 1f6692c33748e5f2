"""How a response goes on: at once, by one state whenever it is looked at, or event by event as it is streamed.

queued -> in_progress -> completed | failed | incomplete | cancelled
"""

from collections.abc import Iterator

from .call import Json
from .conversations import keep
from .response_events import TERMINAL, events_of
from .store import ResponseRecord, Store
from .streams import EventStream, frame


def advance(store: Store, record: ResponseRecord) -> None:
    """Move a response in the background on by one state; others are moved on by whoever reads them."""
    if record.final is None or not record.object["background"]:
        return
    if record.object["status"] == "queued":
        record.object["status"] = "in_progress"
    else:
        finish(store, record)


def finish(store: Store, record: ResponseRecord) -> None:
    """It ends as it was meant to. One that completes joins its conversation, with what it was asked."""
    final, record.final = record.final, None
    if final is None:
        return
    record.object |= final
    if final["status"] == "completed":
        record.object["completed_at"] = store.now()
    _leave(store, record, joins=final["status"] == "completed")


def end(store: Store, record: ResponseRecord, status: str) -> None:
    """It ends before its time, `cancelled` or `failed`; nothing happens to one that is over."""
    if record.final is None:
        return
    record.final = None
    record.object["status"] = status
    if status == "failed":
        record.object["error"] = {"code": "server_error", "message": "The stream broke off."}
    _leave(store, record, joins=False)


def streamed(store: Store, record: ResponseRecord, after: int = -1) -> EventStream:
    """Its events with a sequence number above `after`; what happened already is told again."""

    def abandon(status: str) -> None:
        # Without its reader a response ends; one in the background goes on when it is looked at.
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
    # One that is meant to end as cancelled has no event of its own for that.
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
