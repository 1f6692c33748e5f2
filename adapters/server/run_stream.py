"""Write a run as server-sent events: its states, and between them the events of its steps and messages, in order.

`thread.message.completed` and everything after it are sent when the answer is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from threadledger.domain.ids import now

from ..wire import Event, EventStream, Json, events, objects, sse
from .contents import MESSAGE, seconds
from .ids import wire_id
from .run_objects import STEP, message_step, steps_of

if TYPE_CHECKING:
    from .calls import Served, ServedCall
    from .live_runs import LiveRun
    from .runs import FoundRun


def run_stream(
    call: ServedCall, served: Served, found: FoundRun, live: LiveRun | None, first: Sequence[Event]
) -> EventStream:
    """Return the stream of a run, which begins with the events `first` and its current state.

    A client that leaves the stream does not stop the run. `live` is None if this process does not run it.
    """
    return EventStream("assistants", _frames(call, served, found, live, first))


def _frames(
    call: ServedCall, served: Served, found: FoundRun, live: LiveRun | None, first: Sequence[Event]
) -> Iterator[bytes]:
    shown = found.object()
    yield _joined([*first, (f"thread.run.{shown['status']}", shown)])
    said = _Said(found, shown)
    if live is not None:
        for parts in live.listen(call.gone.is_set):
            yield _joined(event for part in parts for event in said.events(part))
        if call.gone.is_set():
            return
    yield _joined(said.end(served)) + sse.frame(sse.DONE, "done")


def _joined(several: Iterable[Event]) -> bytes:
    """Return events as one piece, because each piece is handed over to the connection's event loop."""
    return b"".join(sse.frame(value, name) for name, value in several)


@dataclass
class _Said:
    """Hold what a stream has said of a run so far."""

    found: FoundRun
    shown: Json
    message_id: str | None = None
    """The message whose text is being sent; None before its first piece."""
    answer_id: str = ""
    """The message that the newest attempt will write."""
    begun: set[str] = field(default_factory=set)
    in_progress: bool = False
    text: list[str] = field(default_factory=list)
    created: int = 0

    def events(self, part: Any) -> Iterator[Event]:
        """Yield the events for a part of the answer."""
        match part.type:
            case "began":
                if not self.in_progress:
                    self.in_progress = True
                    self.shown = self.shown | {"status": "in_progress", "started_at": seconds(now())}
                    yield "thread.run.in_progress", self.shown
                self.answer_id = part.message_id
            case "delta":
                yield from self._open(self.answer_id)
                self.text.append(part.text)
                yield events.message_delta(wire_id(MESSAGE, self.answer_id), part.text)
            case "started_over" if not part.continues:
                yield from self._give_up()
            case _:
                pass

    def _open(self, message_id: str) -> Iterator[Event]:
        if self.message_id is not None:
            return
        self.message_id, self.created = message_id, seconds(now())
        self.begun.add(message_id)
        step = self._step("in_progress")
        yield "thread.run.step.created", step
        yield "thread.run.step.in_progress", step
        message = self._message("in_progress", [])
        yield "thread.message.created", message
        yield "thread.message.in_progress", message

    def _give_up(self, status: str = "failed") -> Iterator[Event]:
        """Yield the end of a message whose run has failed, so that another one begins, or was cancelled or has expired."""
        if self.message_id is None:
            return
        said = [objects.text_part("".join(self.text))]
        left = {"incomplete_at": seconds(now()), "incomplete_details": {"reason": f"run_{status}"}}
        yield "thread.message.incomplete", self._message("incomplete", said) | left
        ended: Json = {f"{status}_at": seconds(now())}
        if status == "failed":
            ended["last_error"] = {"code": "server_error", "message": "the attempt failed"}
        yield f"thread.run.step.{status}", self._step(status) | ended
        self.message_id, self.text = None, []

    def _step(self, status: str) -> Json:
        name = self.message_id or ""
        return message_step(wire_id(STEP, name), wire_id(MESSAGE, name), self.created, self.shown, status)

    def _message(self, status: str, content: list[Json]) -> Json:
        thread_id, name = self.found.thread.thread_id, wire_id(MESSAGE, self.message_id or "")
        made = objects.thread_message(name, self.created, thread_id, "assistant", content)
        own = {"assistant_id": self.shown["assistant_id"], "run_id": self.shown["id"]}
        return made | own | {"status": status, "completed_at": None}

    def end(self, served: Served) -> Iterator[Event]:
        """Yield what is true of the run after its last part: the message that is stored now, its steps and its state."""
        from .runs import found_again

        found = found_again(served, self.found)
        if found.run.created_at is None:  # the thread was deleted, and its runs with it
            yield from self._give_up("cancelled")
            ended = {"status": "cancelled", "cancelled_at": seconds(now()), "expires_at": None, "required_action": None}
            yield from self._ended(self.shown | ended | {"usage": objects.token_usage(0, 0)})
            return
        shown = found.object()
        steps = list(steps_of(found.run, shown))
        written = {each.event.message_id for each in found.run.said}
        if self.message_id is not None and self.message_id not in written:
            yield from self._give_up(found.run.ended if found.run.ended in {"cancelled", "expired"} else "failed")
        for each in found.run.said:
            if each.event.originator_version <= self.found.run.newest_version:
                continue  # the client has it from an earlier stream
            message_id = each.event.message_id
            own = [step for step in steps if step["id"].startswith(wire_id(STEP, message_id))]
            for step in own:
                if step["type"] == "message_creation":
                    yield from self._finished(found, message_id, step)
                else:
                    yield from events.tool_step_events(step | {"status": "in_progress", "completed_at": None})
                    if step["status"] == "completed":
                        yield "thread.run.step.completed", step
        yield from self._ended(shown)

    def _ended(self, shown: Json) -> Iterator[Event]:
        """Yield the last states of the run."""
        status = shown["status"]
        if status != "queued":
            if not self.in_progress and status != "in_progress":
                yield "thread.run.in_progress", shown | {"status": "in_progress"}
            if status == "cancelled":
                yield "thread.run.cancelling", shown | {"status": "cancelling"}
            yield f"thread.run.{status}", shown

    def _finished(self, found: FoundRun, message_id: str, step: Json) -> Iterator[Event]:
        from .threads import shown_message

        message = shown_message(found.thread, message_id)
        if message is None:
            return
        if message_id not in self.begun:
            self.message_id = None
            yield from self._open(message_id)
            text = objects.text_of(message["content"])
            if text:
                yield events.message_delta(message["id"], text)
        yield "thread.message.completed", message
        yield "thread.run.step.completed", step
