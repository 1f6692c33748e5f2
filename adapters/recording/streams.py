"""Parse streams of server-sent events as they pass.

A stream may end cleanly without its last event: then the run has failed, and the text received so far is kept.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.failures import Failure

from ..openai import failure_of_event
from .outcomes import Context, Seen, answer_message, answered, no_answer, seen_in, text_of, usage_of
from .requests import thread_messages, whole

ENDED_EARLY = "stream_ended"
"""Failure code for a stream that ended without its last event."""

CLOSED = "stream_closed"
"""Failure code for a stream that the app closed before its last event."""


class Events:
    """Parse bytes into complete server-sent events, each a (name, data) pair."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def take(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yield the (name, data) pairs of the events that a chunk completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", "replace")
            name, _, value = text.partition(":")
            if not text:
                if self._data:
                    yield self._name, "\n".join(self._data)
                self._name, self._data = "", []
            elif name == "event":
                self._name = value.removeprefix(" ")
            elif name == "data":
                self._data.append(value.removeprefix(" "))


class Fold(ABC):
    """Derive the state of a run from the bytes of one response. `seen` has an outcome after the last event."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.seen = Seen()

    @abstractmethod
    def take(self, chunk: bytes) -> None:
        """Read the next bytes of the body."""

    def text(self) -> str:
        """Return the text received so far."""
        return ""

    @abstractmethod
    def end(self) -> Seen:
        """Return the state of the run at the end of the body."""

    def stopped(self, failure: Failure) -> Seen:
        """Return the outcome seen before the body stopped early; if there was none, the given failure."""
        if self.seen.outcome is not None or self.seen.unread:
            return self.seen
        thread_id = failure.thread_id or self.seen.thread_id
        partial = replace(
            failure, partial_text=self.text() or None, remote_run_id=self.seen.remote_id, thread_id=thread_id
        )
        return replace(self.seen, outcome=partial)

    def closed(self) -> Seen:
        """Return the state of the run after the app closed the response."""
        message = "the app closed the stream before its end"
        return self.stopped(self.context.failure("cancelled", code=CLOSED, message=message))


class Body(Fold):
    """Read a body that is one JSON document."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._whole = bytearray()

    def take(self, chunk: bytes) -> None:
        self._whole += chunk

    def end(self) -> Seen:
        self.seen = read_body(bytes(self._whole), self.context)
        return self.seen


class EventFold(Fold):
    """Read a body that is a stream of events."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._events = Events()
        self._said: list[str] = []

    def take(self, chunk: bytes) -> None:
        for name, data in self._events.take(chunk):
            if self.seen.outcome is None and not self.seen.unread:
                self._take(name, data)

    def text(self) -> str:
        return "".join(self._said)

    def end(self) -> Seen:
        message = "the stream ended without its last event"
        details = {"exception": "APIConnectionError"}
        return self.stopped(self.context.failure("error", code=ENDED_EARLY, message=message, details=details))

    @abstractmethod
    def event(self, name: str, data: Any) -> None:
        """Apply one event with its data."""

    def done(self) -> None:
        """Handle the `[DONE]` mark after the last event."""

    def _take(self, name: str, data: str) -> None:
        if data.startswith("[DONE]"):
            self.done()
            return
        try:
            read = whole(json.loads(data))
        except (ValueError, RecursionError):
            self.seen = self.stopped(no_answer(self.context))
            return
        error = read.get("error") if isinstance(read, dict) else None
        if name == "error" or (
            isinstance(read, dict) and (read.get("type") == "error" or (error and "id" not in read))
        ):
            self.seen = self.stopped(_with_context(read, self.context))
        elif isinstance(read, dict):
            self.event(name, read)


class ChatFold(EventFold):
    """Read the chunks of Chat Completions; only the first choice is used."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._refused: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._facts: dict[str, Any] = {"id": None, "model": None, "usage": None, "finish_reason": None}

    def event(self, name: str, data: Any) -> None:
        self._facts |= {name: data[name] for name in ("id", "model", "usage") if data.get(name)}
        self.seen = replace(self.seen, remote_id=text_of(self._facts["id"]))
        for choice in data.get("choices") or ():
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            self._facts["finish_reason"] = choice.get("finish_reason") or self._facts["finish_reason"]
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else {}
            self._said.append(text_of(delta.get("content")) or "")
            self._refused.append(text_of(delta.get("refusal")) or "")
            for call in delta.get("tool_calls") or ():
                self._called(call)

    def done(self) -> None:
        if self._facts["finish_reason"] is not None and self.seen.outcome is None:
            self.seen = replace(self.seen, outcome=self._outcome())

    def end(self) -> Seen:
        """Return the answer if its finish reason was received: it is complete even without the `[DONE]` mark."""
        self.done()
        return super().end()

    def closed(self) -> Seen:
        self.done()
        return super().closed()

    def _called(self, call: Any) -> None:
        if not isinstance(call, dict):
            return
        kept = self._calls.setdefault(call.get("index", 0), {"id": "", "type": "function", "name": "", "arguments": ""})
        function = call.get("function")
        for given, names in ((call, ("id",)), (function if isinstance(function, dict) else {}, ("name", "arguments"))):
            for name in names:
                kept[name] += text_of(given.get(name)) or ""

    def _outcome(self) -> Completion | Failure:
        calls = [
            {"id": each["id"], "type": "function", "function": {"name": each["name"], "arguments": each["arguments"]}}
            for _, each in sorted(self._calls.items())
        ]
        content, refusal = self.text() or None, "".join(self._refused) or None
        message = answer_message({"content": content, "refusal": refusal, "tool_calls": calls})
        return answered(
            message,
            self.context,
            finish_reason=text_of(self._facts["finish_reason"]),
            remote_id=text_of(self._facts["id"]),
            model=text_of(self._facts["model"]),
            usage=usage_of(self._facts["usage"]),
        )


class ResponseFold(EventFold):
    """Read the events of the Responses API; events with the response contain all of it."""

    def event(self, name: str, data: Any) -> None:
        if data.get("type") == "response.output_text.delta":
            self._said.append(text_of(data.get("delta")) or "")
        response = data.get("response")
        if isinstance(response, dict):
            seen = seen_in(response, self.context)
            text = self.text()
            if isinstance(seen.outcome, Failure) and text and not seen.outcome.partial_text:
                seen = replace(seen, outcome=replace(seen.outcome, partial_text=text))
            self.seen = seen


class RunFold(EventFold):
    """Read the events of a run in an Assistants thread; its messages arrive before its end."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._messages: list[Message] = []

    def event(self, name: str, data: Any) -> None:
        if name == "thread.message.delta":
            delta = data.get("delta")
            parts = delta.get("content") if isinstance(delta, dict) else None
            for part in parts if isinstance(parts, list) else ():
                text = part.get("text") if isinstance(part, dict) else None
                self._said.append(text_of(text.get("value")) or "" if isinstance(text, dict) else "")
        elif name == "thread.message.completed":
            messages = thread_messages([data])
            self._messages += [each for each in messages if each.role is Role.ASSISTANT and each.text]
        elif name.startswith("thread.run.") and not name.startswith("thread.run.step."):
            self._run(data)

    def end(self) -> Seen:
        return self.seen if self.seen.calls else super().end()

    def closed(self) -> Seen:
        return self.seen if self.seen.calls else super().closed()

    def _run(self, data: Any) -> None:
        seen = seen_in(data, self.context)
        if seen.unread and self._messages:
            completion = Completion(
                tuple(self._messages),
                finish_reason="completed",
                remote_run_id=seen.remote_id,
                thread_id=seen.thread_id,
                request_id=self.context.request_id,
                model=seen.model,
                usage=seen.usage,
            )
            seen = replace(seen, outcome=completion, unread=False)
        elif isinstance(seen.outcome, Failure):
            seen = replace(seen, outcome=replace(seen.outcome, partial_text=self.text() or None))
        self.seen = seen


def read_body(body: bytes, context: Context) -> Seen:
    """Read the state of a run from a complete body."""
    try:
        return seen_in(whole(json.loads(body)), context)
    except (ValueError, RecursionError):
        return Seen(no_answer(context))


def fold_of(context: Context, events: bool) -> Fold:
    """Create the reader for a response: for a stream of events, or for a JSON body."""
    return _FOLDS[context.backend](context) if events else Body(context)


_FOLDS: dict[str, type[EventFold]] = {"chat": ChatFold, "responses": ResponseFold, "assistants": RunFold}


def _with_context(event: Any, context: Context) -> Failure:
    failure = failure_of_event(event if isinstance(event, dict) else {}, context.endpoint, context.thread_id)
    return replace(failure, request_id=context.request_id)
