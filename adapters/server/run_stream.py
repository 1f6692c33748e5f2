"""Write a run as server-sent events: its states, and between them the events of its steps and messages, in order.

`thread.message.completed` and everything after it are sent when the message is committed: the answer at the end of its run, and
what a model says with calls before the server carries these out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from threadledger.domain.ids import id_behind, now

from ..wire import Event, EventStream, Json, events, objects, sse
from .contents import MESSAGE, seconds
from .ids import wire_id
from .run_objects import STEP, message_step, steps_of

if TYPE_CHECKING:
    from .calls import Served, ServedCall
    from .live_runs import LiveRun
    from .run_objects import SaidMessage
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
    said = _Said(served, found, shown)
    if live is not None:
        for parts in live.listen(call.gone.is_set):
            yield _joined(event for part in parts for event in said.events(part))
        if call.gone.is_set():
            return
    yield _joined(said.end()) + sse.frame(sse.DONE, "done")


def _joined(several: Iterable[Event]) -> bytes:
    """Return events as one piece, because each piece is handed over to the connection's event loop."""
    return b"".join(sse.frame(value, name) for name, value in several)


@dataclass
class _OpenMessage:
    """Hold what was sent of a message that is not complete."""

    created: int
    text: list[str] = field(default_factory=list)


@dataclass
class _Said:
    """Hold what a stream has said of a run so far."""

    served: Served
    found: FoundRun
    shown: Json
    first_id: str = ""
    """The first message that the newest attempt will write; each further one has the next id."""
    open: dict[str, _OpenMessage] = field(default_factory=dict)
    """Messages whose text is being sent, by their ids in the journal."""
    begun: set[str] = field(default_factory=set)
    """Ids of the messages and of the steps with calls that have begun."""
    ended: set[str] = field(default_factory=set)
    """Ids of the steps whose end was sent."""
    attempts: set[str] = field(default_factory=set)
    """Ids of the attempts whose messages may be sent: those that have begun for this stream, and earlier ones."""
    in_progress: bool = False

    def __post_init__(self) -> None:
        """Note the steps that the client has from an earlier stream."""
        self.attempts |= {each.event.run_id or "" for each in self.found.run.said}
        steps = [*steps_of(self.found.run, self.shown)]
        self.begun |= {step["id"] for step in steps}
        self.ended |= {step["id"] for step in steps if step["status"] != "in_progress"}

    def events(self, part: Any) -> Iterator[Event]:
        """Yield the events for a part of the answer."""
        match part.type:
            case "began":
                if not self.in_progress:
                    self.in_progress = True
                    self.shown = self.shown | {"status": "in_progress", "started_at": seconds(now())}
                    yield "thread.run.in_progress", self.shown
                self.first_id = part.message_id
                self.attempts.add(part.run_id)
            case "delta":
                yield from self._text(id_behind(self.first_id, part.message), part)
            case "tool_use":  # the calls are stored, and what was said with them
                yield from self._stored_so_far()
            case "started_over" if not part.continues:
                yield from self._stored_so_far()
                yield from self._give_up()
            case _:
                pass

    def _text(self, message_id: str, part: Any) -> Iterator[Event]:
        if part.message and message_id not in self.open:
            yield from self._stored_so_far()
        if wire_id(STEP, message_id) in self.ended:
            return  # this stream is behind its run: the whole message was stored, and sent
        yield from self._begin(message_id)
        self.open[message_id].text.append(part.text)
        yield events.message_delta(wire_id(MESSAGE, message_id), part.text)

    def _begin(self, message_id: str) -> Iterator[Event]:
        if message_id in self.open:
            return
        self.open[message_id] = _OpenMessage(seconds(now()))
        self.begun.add(message_id)
        step = self._step(message_id, "in_progress")
        yield "thread.run.step.created", step
        yield "thread.run.step.in_progress", step
        message = self._message(message_id, "in_progress", [])
        yield "thread.message.created", message
        yield "thread.message.in_progress", message

    def _give_up(self, status: str = "failed", kept: Collection[str] = ()) -> Iterator[Event]:
        """Yield the ends of the messages that are not `kept`: their run has failed, was cancelled or has expired."""
        for message_id in [each for each in self.open if each not in kept]:
            said = [objects.text_part("".join(self.open[message_id].text))]
            left = {"incomplete_at": seconds(now()), "incomplete_details": {"reason": f"run_{status}"}}
            yield "thread.message.incomplete", self._message(message_id, "incomplete", said) | left
            ended: Json = {f"{status}_at": seconds(now())}
            if status == "failed":
                ended["last_error"] = {"code": "server_error", "message": "the attempt failed"}
            yield f"thread.run.step.{status}", self._step(message_id, status) | ended
            del self.open[message_id]

    def _step(self, message_id: str, status: str) -> Json:
        created = self.open[message_id].created
        return message_step(wire_id(STEP, message_id), wire_id(MESSAGE, message_id), created, self.shown, status)

    def _message(self, message_id: str, status: str, content: list[Json]) -> Json:
        thread_id, created = self.found.thread.thread_id, self.open[message_id].created
        made = objects.thread_message(wire_id(MESSAGE, message_id), created, thread_id, "assistant", content)
        own = {"assistant_id": self.shown["assistant_id"], "run_id": self.shown["id"]}
        return made | own | {"status": status, "completed_at": None}

    def end(self) -> Iterator[Event]:
        """Yield what is true of the run after its last part: the messages that are stored now, its steps and its state."""
        from .runs import found_again

        found = found_again(self.served, self.found)
        if found.run.created_at is None:  # the thread was deleted, and its runs with it
            yield from self._give_up("cancelled")
            ended = {"status": "cancelled", "cancelled_at": seconds(now()), "expires_at": None, "required_action": None}
            yield from self._ended(self.shown | ended | {"usage": objects.token_usage(0, 0)})
            return
        shown = found.object()
        status = found.run.ended if found.run.ended in {"cancelled", "expired"} else "failed"
        yield from self._give_up(status, {each.event.message_id for each in found.run.said})
        yield from self._stored(found, shown, found.run.said)
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

    def _stored_so_far(self) -> Iterator[Event]:
        from .runs import found_again

        found = found_again(self.served, self.found)
        if found.run.created_at is not None:
            said = [each for each in found.run.said if each.event.run_id in self.attempts]  # later ones have their time
            yield from self._stored(found, found.object(), said)

    def _stored(self, found: FoundRun, shown: Json, said: Sequence[SaidMessage]) -> Iterator[Event]:
        """Yield what was not sent of messages that are stored: the end of their steps, and the calls among these."""
        steps = [each for each in steps_of(found.run, shown) if each["id"] not in self.ended]
        for each in said:
            message_id = each.event.message_id
            for step in steps:
                if not step["id"].startswith(wire_id(STEP, message_id)):
                    continue
                if step["type"] == "message_creation":
                    yield from self._finished(found, message_id, step)
                else:
                    yield from self._called(step)

    def _called(self, step: Json) -> Iterator[Event]:
        """Yield the events of a step with calls, as far as it is."""
        if step["id"] not in self.begun:
            self.begun.add(step["id"])
            yield from events.tool_step_events(
                step | {"status": "in_progress", "usage": None} | dict.fromkeys(objects.TIMES_OF_STEP)
            )
        if step["status"] != "in_progress":
            self.ended.add(step["id"])
            yield f"thread.run.step.{step['status']}", step

    def _finished(self, found: FoundRun, message_id: str, step: Json) -> Iterator[Event]:
        from .threads import shown_message

        self.ended.add(step["id"])
        message = shown_message(found.thread, message_id)
        if message is None:
            return
        if message_id not in self.begun:
            yield from self._begin(message_id)
            text = objects.text_of(message["content"])
            if text:
                yield events.message_delta(message["id"], text)
        self.open.pop(message_id, None)
        yield "thread.message.completed", message
        yield "thread.run.step.completed", step
