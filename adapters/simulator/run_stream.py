"""Stream a run: its states, and between them the events of its steps and messages."""

from collections.abc import Iterator

from .outcomes import Failure
from .progress import advance, move_on
from .speaking import Event
from .store import RunRecord, Store, ThreadRecord
from .streams import DONE, EventStream, frame
from .threads import ENDS


def streamed(store: Store, thread: ThreadRecord, record: RunRecord, *first: Event) -> EventStream:
    """Return a stream of the run from its current state until it ends or waits for tool outputs.

    `first` is sent before. If the client leaves the stream, the run keeps its state and continues when it is retrieved.
    """
    record.streaming = True

    def abandon(status: str) -> None:
        record.streaming = False
        if status == "failed" and record.object["status"] not in ENDS:
            record.outcome = record.outcome or Failure()
            while record.object["status"] not in (*ENDS, "requires_action"):
                advance(store, thread, record)

    return EventStream("assistants", _frames(store, thread, record, first), abandon)


def _frames(store: Store, thread: ThreadRecord, record: RunRecord, first: tuple[Event, ...]) -> Iterator[bytes]:
    run = record.object
    for name, value in (*first, (f"thread.run.{run['status']}", run)):
        yield frame(value, name)
    while run["status"] not in (*ENDS, "requires_action"):
        before = run["status"]
        for name, value in move_on(store, thread, record):
            _touch(store, thread, record)
            yield frame(value, name)
        _touch(store, thread, record)
        if run["status"] != before:
            yield frame(run, f"thread.run.{run['status']}")
    record.streaming = False
    yield frame(DONE, "done")


def _touch(store: Store, thread: ThreadRecord, record: RunRecord) -> None:
    # The stream changes objects that it already holds, so the collections do not notice the change.
    store.threads.touch(thread.object["id"])
    thread.runs.touch(record.object["id"])
    if record.message_id is not None:
        thread.messages.touch(record.message_id)
