"""Parse streams of server-sent events as they pass.

A stream may end cleanly without its last event: then the run has failed, and the text received so far is kept. A server may
also send one JSON document, or an HTML page, instead of a stream: it is read as a complete body.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.failures import Failure, whole_text
from threadledger.domain.provider_errors import ERROR_EVENT, error_in

from .bodies import (
    EVENT_STREAM,
    Context,
    Seen,
    answered,
    not_json,
    read_body,
    read_document,
    seen_in,
    text_of,
    usage_of,
)
from .messages import answer_message, arguments_text, text_in, thread_messages, whole

ENDED_EARLY = "stream_ended"
"""Failure code for a stream that ended without its last event."""

TOO_EARLY = "the stream ended without its last event"

CLOSED = "stream_closed"
"""Failure code for a stream that the app closed before its last event."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
"""The end of a line. A carriage return at the end of the bytes may be half of one."""

_HIGH_SURROGATES = ("\ud800", "\udbff")


class Events:
    """Parse bytes into complete server-sent events, each a (name, data) pair."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def take(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yield the (name, data) pairs of the events that a chunk completes."""
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        for line in lines:
            text = line.decode("utf-8", "replace")
            name, _, value = text.removeprefix("\ufeff").partition(":")
            if not text:
                if self._data:
                    yield self._name, "\n".join(self._data)
                self._name, self._data = "", []
            elif name == "event":
                self._name = value.removeprefix(" ")
            elif name == "data":
                self._data.append(value.removeprefix(" "))

    def end(self) -> Iterator[tuple[str, str]]:
        """Yield the last event if the body ended without the empty line behind it."""
        yield from self.take(b"\n\n")


class Pieces:
    """Hold back half a character until its other half arrives, so that each part that is passed on is valid text."""

    def __init__(self) -> None:
        self._half = ""

    def take(self, text: str) -> str:
        """Return the text that can be passed on now."""
        text = self._half + text
        self._half = ""
        if text and _HIGH_SURROGATES[0] <= text[-1] <= _HIGH_SURROGATES[1]:
            text, self._half = text[:-1], text[-1]
        return whole_text(text)


class Fold(ABC):
    """Derive the state of a run from the bytes of one response. `seen` has an outcome after the last event."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.seen = Seen()
        self.is_over = False
        """Whether the stream sent its end mark: nothing follows."""

    @abstractmethod
    def take(self, chunk: bytes) -> list[str]:
        """Read the next bytes of the body; return the parts of the answer's text that they complete."""

    def text(self) -> str:
        """Return the text received so far."""
        return ""

    @abstractmethod
    def end(self, code: str = ENDED_EARLY, message: str = TOO_EARLY) -> Seen:
        """Return the state of the run at the end of the body.

        `code` and `message` are those of the failure if the body ended before the run did.
        """

    def stopped(self, failure: Failure) -> Seen:
        """Return the outcome seen before the body stopped early; if there was none, the given failure."""
        if self.seen.outcome is not None or self.seen.unread:
            return self.seen
        thread_id = failure.thread_id or self.seen.thread_id
        remote_id = self.seen.remote_id or failure.remote_run_id
        partial = replace(failure, partial_text=self.text() or None, remote_run_id=remote_id, thread_id=thread_id)
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

    def take(self, chunk: bytes) -> list[str]:
        self._whole += chunk
        return []

    def end(self, code: str = ENDED_EARLY, message: str = TOO_EARLY) -> Seen:
        self.seen = read_body(bytes(self._whole), self.context)
        return self.seen


class EventFold(Fold):
    """Read a body that is a stream of events."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._events = Events()
        self._said: list[str] = []
        self._pieces = Pieces()
        self._parts: list[tuple[int, str]] = []
        self._message = 0
        """Number of messages that the stream has started, if it numbers them."""
        self._before = bytearray()
        """The bytes before the first event, which may be a whole body of another kind."""
        self._has_events = False

    def take(self, chunk: bytes) -> list[str]:
        if not self._has_events:
            self._before += chunk
        return [text for _, text in self._apply(self._events.take(chunk))]

    def _apply(self, events: Iterator[tuple[str, str]]) -> list[tuple[int, str]]:
        self._parts = []
        for name, data in events:
            self._has_events = True
            self._before.clear()
            if self.seen.outcome is None and not self.seen.unread and not self.is_over:
                self._take(name, data)
        return self._parts

    def _say(self, text: str) -> None:
        """Add a piece of the answer's text."""
        self._said.append(text)
        part = self._pieces.take(text)
        if part:
            self._parts.append((self._message, part))

    def text(self) -> str:
        return whole_text("".join(self._said))

    def end(self, code: str = ENDED_EARLY, message: str = TOO_EARLY) -> Seen:
        self._apply(self._events.end())
        if not self._has_events and self._is_document():
            self.seen = read_document(bytes(self._before), self.context)
            if self.seen.remote_id is not None:
                return self.seen
        details = {"exception": "APIConnectionError"}
        return self.stopped(self.context.failure("error", code=code, message=message, details=details))

    def _is_document(self) -> bool:
        """Return whether the body is not a stream, but a JSON document or a page, whatever its content type says."""
        start = bytes(self._before.lstrip(b"\xef\xbb\xbf \t\r\n")[:1])
        return start in (b"{", b"[", b"<") or bool(start and EVENT_STREAM not in self.context.content_type)

    @abstractmethod
    def event(self, name: str, data: Any) -> None:
        """Apply one event with its data."""

    def done(self) -> None:
        """Handle the `[DONE]` mark after the last event."""

    def _error(self, event: Any) -> Failure:
        return self.context.failure_of_body(whole(event), details={"event": ERROR_EVENT})

    def _take(self, name: str, data: str) -> None:
        if data.startswith("[DONE]"):
            self.is_over = True
            self.done()
            return
        try:
            read = json.loads(data)
        except (ValueError, RecursionError):
            self.seen = self.stopped(not_json(data.encode("utf-8", "replace"), self.context))
            return
        if _is_error(name, read):
            self.seen = self.stopped(self._error(read))
        elif isinstance(read, dict):
            self.event(name, read)


class ChatFold(EventFold):
    """Read the chunks of Chat Completions; only the first choice is used."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._content: list[str] = []
        self._refused: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._places: dict[Any, int] = {}
        """Position in `_calls` of the newest call with an index."""
        self._facts: dict[str, Any] = {"id": None, "model": None, "usage": None, "finish_reason": None}

    def event(self, name: str, data: Any) -> None:
        self._facts |= {name: data[name] for name in ("id", "model", "usage") if data.get(name)}
        usage = usage_of(self._facts["usage"])
        self.seen = replace(self.seen, remote_id=text_of(whole(self._facts["id"])), usage=usage)
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index") not in (0, None):
                continue  # one choice is requested; if a server returns more, only the first is used
            if choice.get("error"):
                self.seen = self.stopped(self._error(choice))
                return
            self._facts["finish_reason"] = choice.get("finish_reason") or self._facts["finish_reason"]
            delta = choice.get("delta") or choice.get("message")
            self._take_delta(delta if isinstance(delta, dict) else {})

    def _take_delta(self, delta: dict[str, Any]) -> None:
        for name, kept in (("content", self._content), ("refusal", self._refused)):
            text = text_in(delta.get(name))
            if text:
                kept.append(text)
                self._say(text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._take_call(call)

    def done(self) -> None:
        if self._facts["finish_reason"] is not None and self.seen.outcome is None:
            outcome = self._outcome()
            self.seen = replace(self.seen, outcome=outcome, usage=usage_of(self._facts["usage"]))

    def end(self, code: str = ENDED_EARLY, message: str = TOO_EARLY) -> Seen:
        """Return the answer if its finish reason was received: it is complete even without the `[DONE]` mark."""
        self._apply(self._events.end())
        self.done()
        return super().end(code, message)

    def closed(self) -> Seen:
        self.done()
        return super().closed()

    def _take_call(self, delta: dict[str, Any]) -> None:
        """Add a part of a tool call. Some servers number all calls 0: another id begins another call."""
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        index, call_id = delta.get("index"), text_in(delta.get("id"))
        index = index if isinstance(index, int) else None
        place = self._places.get(index)
        known = self._calls[place] if place is not None else None
        if known is None or (call_id and known["id"] and call_id != known["id"]):
            self._places[index] = len(self._calls)
            known = {"id": "", "index": index, "name": "", "arguments": ""}
            self._calls.append(known)
        known["id"] = call_id or known["id"]
        known["name"] += text_in(function.get("name"))
        known["arguments"] += arguments_text(function.get("arguments"))

    def _outcome(self) -> Completion | Failure:
        in_order = sorted(self._calls, key=lambda each: each["index"] if isinstance(each["index"], int) else 0)
        calls = [{"id": each["id"], "type": "function", "function": each} for each in whole(in_order)]
        content, refusal = whole_text("".join(self._content)), whole_text("".join(self._refused))
        said = {"content": content or None, "refusal": refusal or None, "tool_calls": calls}
        facts = whole(self._facts)
        return answered(
            answer_message(said),
            self.context,
            said | facts,
            finish_reason=text_of(facts["finish_reason"]),
            remote_id=text_of(facts["id"]),
            model=text_of(facts["model"]),
            usage=usage_of(facts["usage"]),
        )


class ResponseFold(EventFold):
    """Read the events of the Responses API; events with the response contain all of it."""

    def event(self, name: str, data: Any) -> None:
        if data.get("type") in ("response.output_text.delta", "response.refusal.delta"):
            self._say(text_in(data.get("delta")))
        response = data.get("response")
        if isinstance(response, dict):
            seen = seen_in(whole(response), self.context)
            text = self.text()
            if isinstance(seen.outcome, Failure) and text and not seen.outcome.partial_text:
                seen = replace(seen, outcome=replace(seen.outcome, partial_text=text))
            self.seen = seen


class RunFold(EventFold):
    """Read the events of a run in an Assistants thread; its messages arrive before its end."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._messages: list[Message] = []

    def texts(self, chunk: bytes) -> list[tuple[int, str]]:
        """Read the next bytes; return the parts of text that they complete, each with the number of its message, from 1."""
        self.take(chunk)
        return self._parts

    def event(self, name: str, data: Any) -> None:
        if name == "thread.message.created":
            self._message += 1
        elif name == "thread.message.delta":
            delta = data.get("delta")
            self._say(text_in(delta.get("content")) if isinstance(delta, dict) else "")
        elif name == "thread.message.completed":
            messages = thread_messages([whole(data)])
            self._messages += [each for each in messages if each.role is Role.ASSISTANT and each.text]
        elif name.startswith("thread.run.") and not name.startswith("thread.run.step."):
            self._run(whole(data))

    def end(self, code: str = ENDED_EARLY, message: str = TOO_EARLY) -> Seen:
        return self.seen if self.seen.calls else super().end(code, message)

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


def fold_of(context: Context, events: bool) -> Fold:
    """Create the reader for a response: for a stream of events, or for a JSON body."""
    if not events:
        return Body(context)
    fold: Fold = (context.fold or _FOLDS[context.backend])(context)
    return fold


_FOLDS: dict[str, type[EventFold]] = {"chat": ChatFold, "responses": ResponseFold, "assistants": RunFold}


def _is_error(name: str, data: Any) -> bool:
    """Return whether an event reports an error; a response or a run that failed has its own."""
    if name == ERROR_EVENT or not isinstance(data, dict):
        return True
    if data.get("type") == ERROR_EVENT or data.get("object") == ERROR_EVENT:
        return True
    answers = any(data.get(each) is not None for each in ("choices", "id", "response", "type", "delta"))
    return (bool(data.get("error")) and not (data.get("id") and data.get("status"))) or (
        not answers and error_in(data) is not None
    )
