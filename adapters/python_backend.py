"""Implement the kind `python`: a function of the app that answers, blocking or asynchronous, whole or in pieces.

    def answer(request: BackendRequest) -> str | Message | Iterator[str]

It may also be `async def`, or an asynchronous generator. It gets the memory, the profile and the time limit
(`request.timeout_seconds`), which a blocking function must respect itself: it cannot be stopped from outside.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

from threadledger.domain import limits
from threadledger.domain.conversation import Completion, parse_message
from threadledger.domain.conversation.messages import JournaledMessage, Message, Role
from threadledger.domain.effects import Call, Effects, Emit, OwnLoop, Use
from threadledger.domain.errors import InvalidSettings, ProviderRefused
from threadledger.domain.exchange import (
    BackendOptions,
    BackendRequest,
    Delta,
    Pieces,
    failure_of_error,
    number_of_stored_files,
)
from threadledger.domain.failures import Cause, Failure, whole_text
from threadledger.domain.ids import now

from .openai import answer_calls
from .tool_loading import load_function

TOO_MANY_ROUNDS = f"no answer after {limits.TOOL_ROUNDS_MAX} rounds of tool calls"
END: Any = object()
"""Returned for the piece after the last one."""


class PythonBackend:
    """Answer an exchange by a function of the app."""

    dialect = None
    thread = None
    takes_unsent = False

    def __init__(self, function: Callable[[BackendRequest], Any] | str, options: BackendOptions) -> None:
        """Create the backend; a `function` given as `module:function` is imported when its first run starts."""
        self._function = function
        self.name, self.endpoint = options.name, options.endpoint

    def load(self) -> None:
        """Load nothing: importing the function runs code of the app, and a failed import is the failure of its run."""

    def lacks(self, request: BackendRequest) -> list[str]:
        hosted = [f"tool:{kind}" for kind in _hosted_tools(request)]
        return [*hosted, "part:file"] if number_of_stored_files(request.memory) else hosted

    def losses(self, request: BackendRequest) -> dict[str, int]:
        count = number_of_stored_files(request.memory)
        return {"part:file": count} if count else {}

    def preflight(self, request: BackendRequest) -> Failure | None:
        if request.memory.is_empty:
            return Failure("refused", code=Cause.EMPTY_MEMORY.value, message="there is no message to answer")
        if not (hosted := _hosted_tools(request)):
            return None
        message = (
            f"{self.name} is a function and does not have tools of type {', '.join(map(repr, hosted))}: use functions"
        )
        return Failure("refused", code=Cause.TOOL_NOT_SUPPORTED.value, message=message)

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        function = yield from self._imported()
        deadline = time.monotonic() + request.timeout_seconds
        for number in range(limits.TOOL_ROUNDS_MAX + 1):
            message, in_pieces = yield from self._message(function, request, deadline, number)
            text, calls = whole_text(message.text), message.calls()
            if not calls and not text.strip():
                raise _failed(
                    "incomplete", code="empty_answer", message=f"the function of {self.name} returned no text"
                )
            if request.stream and text and not in_pieces:
                yield Emit(Delta(text, message=number))
            said = message if isinstance(message.content, tuple) else Message(Role.ASSISTANT, text or None, calls)
            if not calls:
                return Completion((said,))
            if number == limits.TOOL_ROUNDS_MAX:
                break
            results = yield from answer_calls(calls, request, said)
            request = _continued(request, said, *results)
        raise _failed("error", code="tool_failed", message=TOO_MANY_ROUNDS)

    def _imported(self) -> Effects[Callable[[BackendRequest], Any]]:
        """Return the function, imported where the app's functions run."""
        if isinstance(self._function, str):
            try:
                self._function = yield Use(
                    partial(load_function, self._function, f"[backends.{self.name}] function"),
                )
            except InvalidSettings as error:
                raise _failed("refused", code=Cause.ASSISTANT_MISCONFIGURED.value, message=str(error)) from error
        return cast("Callable[[BackendRequest], Any]", self._function)

    def _message(
        self, function: Callable[[BackendRequest], Any], request: BackendRequest, deadline: float, number: int
    ) -> Effects[tuple[Message, bool]]:
        """Call the function once and return what it answered, and whether it came in pieces, which were passed on."""
        in_pieces = True
        try:
            given = yield Use(_limited(function, request, deadline))
            if isinstance(given, Iterator):
                given = yield from _joined(_Pieces(given), request, deadline, number)
            elif isinstance(given, AsyncIterator):
                given = yield from _joined(_AsyncPieces(given, deadline), request, deadline, number)
            else:
                in_pieces = False
        except ProviderRefused:
            raise
        except TimeoutError as error:
            raise _failed("timed_out", message=str(error) or None) from error
        except Exception as error:
            raise ProviderRefused(failure_of_error(error)) from error
        if isinstance(given, str):
            return Message(Role.ASSISTANT, given), in_pieces
        if isinstance(given, Message) and given.role is Role.ASSISTANT:
            return _checked(given, self.name), in_pieces
        what = f"a message of role {given.role.value}" if isinstance(given, Message) else f"{type(given).__name__}"
        expected = "return text, an assistant Message, or an iterator of texts"
        raise _failed("error", type="TypeError", message=f"the function of {self.name} returned {what}: {expected}")


def _checked(message: Message, name: str) -> Message:
    """Return what a function answered, with half characters replaced. Its fields may hold anything: only parsing checks them.

    Raises:
        ProviderRefused: a field holds a value that JSON does not have, or another type than it should.
    """
    if message.content in (None, "", ()) and not message.tool_calls:
        return message  # empty, which is a failure of its own
    try:
        given = message.as_chat_message()
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
        whole = whole_text(text)
        parsed = parse_message(given if whole == text else json.loads(whole))
        if len(parsed.tool_calls) != len(message.tool_calls):
            raise TypeError("id, name and arguments of a tool call are texts")
        return parsed
    except (AttributeError, TypeError, ValueError) as error:
        said = f"the function of {name} returned a message that cannot be stored: {error}"
        raise _failed("error", type=type(error).__name__, message=said) from error


def _limited(function: Callable[[BackendRequest], Any], request: BackendRequest, deadline: float) -> Callable[[], Any]:
    """Return a call of the function; what it returns to be awaited is cancelled at the deadline.

    Only the result shows whether a function is asynchronous: it may be decorated, or an object.
    """

    async def awaited(result: Awaitable[Any]) -> Any:
        async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
            return await result

    def call() -> Any:
        result = function(request)
        return awaited(result) if inspect.isawaitable(result) else result

    async def call_at_once() -> Any:
        return await awaited(function(request))

    return call_at_once if inspect.iscoroutinefunction(function) else call


def _hosted_tools(request: BackendRequest) -> list[str]:
    return sorted({str(tool["type"]) for tool in request.profile.tools} - {"function"})


class _Pieces:
    """Read the pieces of a generator, or of another iterator."""

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces

    def next(self) -> Use:
        return Use(partial(next, self._pieces, END))

    def close(self) -> Use:
        return Use(getattr(self._pieces, "close", _nothing))


class _AsyncPieces:
    """Read the pieces of an asynchronous generator. A driver that blocks reads all of them in one event loop."""

    def __init__(self, pieces: AsyncIterator[Any], deadline: float) -> None:
        self._pieces = pieces
        self._deadline = deadline
        self._loop: OwnLoop | None = None

    def next(self) -> Call:
        return Call(lambda: self._run(self._next), self._next)

    def close(self) -> Call:
        return Call(self._end, self._close)

    async def _next(self) -> Any:
        async with asyncio.timeout(max(self._deadline - time.monotonic(), 0)):
            return await anext(self._pieces, END)

    async def _close(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()

    def _run(self, do: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        self._loop = self._loop or OwnLoop()
        return self._loop.run(do())

    def _end(self) -> None:
        try:
            self._run(self._close)
        finally:
            if self._loop is not None:
                self._loop.close()


def _joined(pieces: _Pieces | _AsyncPieces, request: BackendRequest, deadline: float, number: int) -> Effects[str]:
    """Pass the pieces on as they come, up to the deadline, and return their text."""
    said: list[str] = []
    whole = Pieces()
    try:
        while (piece := (yield pieces.next())) is not END:
            if not isinstance(piece, str):
                raise TypeError(f"a piece is {type(piece).__name__}: yield texts")
            said.append(piece)
            if request.stream and (shown := whole.take(piece)):
                yield Emit(Delta(shown, message=number))
            if time.monotonic() > deadline:
                raise TimeoutError(f"the function had not ended after {round(request.timeout_seconds, 1):g} seconds")
    finally:
        yield pieces.close()
    return "".join(said)


def _continued(request: BackendRequest, *messages: Message) -> BackendRequest:
    """Return the request with messages that the run has journaled since it began."""
    memory, at = request.memory, now()
    added = [JournaledMessage(each, "", memory.version, at, request.exchange_id, request.run_id) for each in messages]
    return replace(request, memory=replace(memory, messages=(*memory.messages, *added)))


def _failed(status: str, **facts: Any) -> ProviderRefused:
    return ProviderRefused(Failure(status, **facts))


def _nothing() -> None:
    """Do nothing, for an iterator that cannot be closed."""
