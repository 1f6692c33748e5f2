"""Parse streams of server-sent events as they pass.

A stream may end cleanly without its last event: then the run has failed, and the text received so far is kept. A server may
also send one JSON document, or an HTML page, instead of a stream: it is read as a complete body.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.items import OTHER_PARTS, arguments_text, chat_answer, objects, text_in
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.exchange import Pieces
from threadledger.domain.failures import Failure, redact, whole_text
from threadledger.domain.provider_errors import ERROR_EVENT, error_in, plain_text

from .bodies import (
    EVENT_STREAM,
    Context,
    Seen,
    answered,
    read_body,
    read_document,
    says_error,
    seen_in,
    text_of,
    usage_of,
)
from .messages import thread_messages, whole

ENDED_EARLY = "stream_ended"
"""Failure code for a stream that ended without its last event."""

TOO_EARLY = "the stream ended without its last event"

STRAY_LINES_MAX = 100
"""Maximum number of lines outside events that are kept."""

CLOSED = "stream_closed"
"""Failure code for a stream that the app closed before its last event."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
"""The end of a line. A carriage return at the end of the bytes may be half of one."""


class Events:
    """Parse bytes into complete server-sent events, each a (name, data) pair."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self.stray: list[str] = []
        """Lines that belong to no event, such as the error of a gateway in the middle of a stream."""

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
            elif name not in {"", "id", "retry"} and len(self.stray) < STRAY_LINES_MAX:
                self.stray.append(text)

    def end(self) -> Iterator[tuple[str, str]]:
        """Yield the last event if the body ended without the empty line behind it."""
        yield from self.take(b"\n\n")


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

    def texts(self, chunk: bytes) -> list[tuple[int, str]]:
        """Read the next bytes; return the parts of text that they complete, each with the number of its message."""
        return [(0, text) for text in self.take(chunk)]

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
        return [text for _, text in self.texts(chunk)]

    def texts(self, chunk: bytes) -> list[tuple[int, str]]:
        if not self._has_events:
            self._before += chunk
        return self._apply(self._events.take(chunk))

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
        self._finish()
        if not self._has_events and self._is_document():
            self.seen = self._read_document()
            if self.seen.remote_id is not None:
                return self.seen
        details = {"exception": "APIConnectionError"}
        early = self.context.failure("error", code=code, message=message, details=details)
        return self.stopped(self._stray_error() or early)

    def _finish(self) -> None:
        """Apply the last event, if it is whole: a body may end without the empty line behind it."""
        for name, data in self._events.end():
            if data.startswith("[DONE]") or _is_json(data):
                self._apply(iter([(name, data)]))

    def _read_document(self) -> Seen:
        """Read a body that is one document, or a JSON document on each line."""
        body = bytes(self._before)
        lines = [line.decode("utf-8", "replace") for line in body.splitlines() if line.strip()]
        if len(lines) > 1 and all(map(_is_json, lines)):
            self._apply(iter([("", line) for line in lines]))
            self.done()
            if self.seen.outcome is not None:
                return self.seen
        return read_document(body, self.context)

    def _stray_error(self) -> Failure | None:
        """Return the error that lines outside the events contain; None if they contain none."""
        text = "\n".join(self._events.stray)
        if text.lstrip()[:1] not in {"{", "[", "<"}:
            return None
        outcome = read_document(text.encode("utf-8", "replace"), self.context).outcome
        return outcome if isinstance(outcome, Failure) else None

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
            self.seen = self.stopped(self._error(data) if name == ERROR_EVENT else self._not_json(data))
            return
        if _is_error(name, read):
            self.seen = self.stopped(self._error(read))
        elif isinstance(read, dict):
            self.event(name, read)

    def _not_json(self, data: str) -> Failure:
        shown = plain_text(data)
        message = redact(f"an event of the stream is not JSON: {shown}")
        details = {"exception": "JSONDecodeError", "event": ERROR_EVENT}
        return self.context.failure_of_body(whole(data), type="JSONDecodeError", message=message, details=details)


class ChatFold(EventFold):
    """Read the chunks of Chat Completions; only the first choice is used."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._content: list[str] = []
        self._refused: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._others: dict[str, Any] = {}
        """Other fields of the message, of which texts arrive in pieces and lists grow."""
        self._choice: Any = None
        """Index of the choice that is read: the first one that is sent."""
        self._facts: dict[str, Any] = {"id": None, "model": None, "usage": None, "finish_reason": None}

    def event(self, name: str, data: Any) -> None:
        self._facts |= {name: data[name] for name in ("id", "model", "usage") if data.get(name)}
        usage = usage_of(self._facts["usage"])
        self.seen = replace(self.seen, remote_id=text_of(whole(self._facts["id"])), usage=usage)
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            self._choice = choice.get("index") if self._choice is None else self._choice
            if choice.get("index") != self._choice:
                continue  # one choice is requested; if a server returns more, only the first is used
            if choice.get("error") and says_error(choice["error"]):
                self.seen = self.stopped(self._error(choice))
                return
            self._facts["finish_reason"] = choice.get("finish_reason") or self._facts["finish_reason"]
            delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            self._take_delta(delta if isinstance(delta, dict) else {})

    def _take_delta(self, delta: dict[str, Any]) -> None:
        for name, kept in (("content", self._content), ("refusal", self._refused)):
            text = text_in(delta.get(name))
            if text:
                kept.append(text)
                self._say(text)
        audio = delta.get("audio")
        if isinstance(audio, dict) and text_in(audio.get("transcript")):
            self._say(text_in(audio["transcript"]))
        others = {name: value for name, value in delta.items() if name not in _READ_OF_DELTA and value}
        parts = [each for each in objects(delta.get("content")) if not text_in(each)]
        self._others = _joined(self._others, others | ({OTHER_PARTS: parts} if parts else {}))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._take_call(call)

    def done(self) -> None:
        ended = self._facts["finish_reason"] is not None or (self.is_over and (self._content or self._calls))
        if ended and self.seen.outcome is None:
            outcome = self._outcome()
            self.seen = replace(self.seen, outcome=outcome, usage=usage_of(self._facts["usage"]))

    def end(self, code: str = ENDED_EARLY, message: str = TOO_EARLY) -> Seen:
        """Return the answer if its finish reason was received: it is complete even without the `[DONE]` mark."""
        self._finish()
        self.done()
        return super().end(code, message)

    def closed(self) -> Seen:
        self.done()
        return super().closed()

    def _take_call(self, delta: dict[str, Any]) -> None:
        """Add a part of a tool call to the call that it belongs to (`_call_of`)."""
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = text_in(function.get("name")), arguments_text(function.get("arguments"))
        known = self._call_of(text_in(delta.get("id")), _index(delta.get("index")), name)
        if name != known["name"]:  # a server that repeats the name in each part sends it whole
            known["name"] += name
        known["arguments"] += arguments

    def _call_of(self, call_id: str, index: int | None, name: str) -> dict[str, Any]:
        """Return the call that a part belongs to, or a new one.

        An id decides if there is one; then the index, which some servers leave out or set to 0 for every call: a name after
        complete arguments begins another call.
        """
        named = [each for each in self._calls if call_id and each["id"] == call_id]
        here = [each for each in named if each["index"] == index]
        is_another = bool(named and not here and name) and index is not None and _is_object(named[-1]["arguments"])
        if named and not is_another:  # some servers give several calls one id, and each its own index
            return (here or named)[-1]
        known = next((each for each in reversed(self._calls) if each["index"] == index), None)
        begins_another = known is not None and (
            bool(call_id and known["id"]) or bool(name and not call_id and _is_object(known["arguments"]))
        )
        if known is None or begins_another:
            known = {"id": "", "index": index, "name": "", "arguments": ""}
            self._calls.append(known)
        known["id"] = call_id or known["id"]
        return known

    def _outcome(self) -> Completion | Failure:
        in_order = sorted(self._calls, key=lambda each: each["index"] if isinstance(each["index"], int) else 0)
        calls = [{"id": each["id"], "type": "function", "function": each} for each in whole(in_order)]
        content, refusal = whole_text("".join(self._content)), whole_text("".join(self._refused))
        said = {"content": content or None, "refusal": refusal or None, "tool_calls": calls} | whole(self._others)
        facts, lost = whole(self._facts), Counter[str]()
        return answered(
            chat_answer(said, lost),
            self.context,
            said | facts,
            finish_reason=text_of(facts["finish_reason"]),
            remote_id=text_of(facts["id"]),
            model=text_of(facts["model"]),
            usage=usage_of(facts["usage"]),
            losses=lost,
        )


_READ_OF_DELTA = frozenset({"role", "content", "refusal", "tool_calls"})


def _joined(some: Any, more: Any) -> Any:
    """Return what two pieces of a value give: texts and lists are joined, objects by their fields."""
    if isinstance(some, dict) and isinstance(more, dict):
        return {**some, **{name: _joined(some.get(name), value) for name, value in more.items()}}
    if isinstance(some, str) and isinstance(more, str):
        return some + more
    if isinstance(some, list) and isinstance(more, list):
        return [*some, *more]
    return some if more is None else more


class ResponseFold(EventFold):
    """Read the events of the Responses API; events with the response contain all of it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._messages = 0
        self._items: list[Any] = []
        """The items that are complete, for a server whose last event has none of them."""

    def event(self, name: str, data: Any) -> None:
        kind, item = data.get("type"), data.get("item")
        if kind == "response.output_item.added" and isinstance(item, dict) and item.get("type") == "message":
            self._messages += 1
            self._message = self._messages - 1
        elif kind == "response.output_item.done" and isinstance(item, dict):
            self._items.append(item)
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            self._say(text_in(data.get("delta")))
        response = data.get("response")
        if isinstance(response, dict):
            self._see(whole(response))
        elif data.get("type") == "response.completed":
            self._see({"id": self.seen.remote_id, "status": "completed", "output": []})

    def _see(self, response: dict[str, Any]) -> None:
        if self._items and not response.get("output") and response.get("status") == "completed":
            response = response | {"output": whole(self._items)}
        seen, text = seen_in(response, self.context), self.text()
        if isinstance(seen.outcome, Failure) and seen.outcome.code == "empty_answer" and text.strip():
            seen = seen_in(response | {"output_text": text}, self.context)  # its events had the answer
        if isinstance(seen.outcome, Failure) and text and not seen.outcome.partial_text:
            seen = replace(seen, outcome=replace(seen.outcome, partial_text=text))
        self.seen = seen


class RunFold(EventFold):
    """Read the events of a run in an Assistants thread; its messages arrive before its end."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._messages: list[Message] = []

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
    kind = context.fold or _FOLDS.get(context.backend)
    return kind(context) if events and kind is not None else Body(context)


_FOLDS: dict[str, type[EventFold]] = {"chat": ChatFold, "responses": ResponseFold, "assistants": RunFold}


def _is_error(name: str, data: Any) -> bool:
    """Return whether an event reports an error; a response or a run that failed has its own.

    Servers also send events that mean nothing, such as `null`, `"ping"` or `{"status": "ok"}`.
    """
    if name == ERROR_EVENT:
        return True
    if not isinstance(data, dict):
        return isinstance(data, list) and error_in(data) is not None
    if data.get("type") == ERROR_EVENT or data.get("object") == ERROR_EVENT:
        return True
    if data.get("error") and says_error(data["error"]):
        return not (data.get("id") and data.get("status"))
    answers = any(data.get(each) is not None for each in ("choices", "id", "response", "type", "delta"))
    found = error_in(data) if not answers else None
    return found is not None and bool(found.code or data.get("detail") or data.get("errors"))


def _index(value: Any) -> int | None:
    """Return the index of a part; some servers send it as text."""
    if isinstance(value, str) and value.isdecimal():
        return int(value[:9])
    return value if isinstance(value, int) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
