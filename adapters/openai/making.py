"""One response of the Responses API, made in one of four ways: at once or streamed, with the connection held or in the
background."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Call,
    Cause,
    Delta,
    Effects,
    Failure,
    Pause,
    ProviderRefused,
    Tell,
    diagnose,
    may_succeed_when_retried,
)

from .calls import END, call, closing, next_event, opened, request_id_of
from .client import Client
from .failures import calling, failure_of_event, present
from .found import left_there

ENDPOINT = "POST /responses"
RESPONSE = "GET /responses/{response_id}"
POLL_SECONDS = 1.0
"""Between two looks at a response that is made in the background."""

LOCKED_ATTEMPTS_MAX = 20
"""How often a response is asked for in a conversation that somebody else is at: it was refused, so nothing is done twice."""

LOOKS_MAX = 4
"""How often a look at a response is tried before it counts as lost from sight."""

UNDER_WAY = frozenset({"queued", "in_progress"})
"""The states of a response that has not ended, as the SDK's own types name them."""


@dataclass(frozen=True)
class Asked:
    """What all responses of one run have in common."""

    request: BackendRequest
    conversation: str | None
    deadline: float
    """Monotonic."""
    tools: list[dict[str, Any]]
    told: dict[int, str] = field(default_factory=dict)
    """What was told of each response, by its number."""

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline - time.monotonic(), 0.001)

    @property
    def endpoint(self) -> str:
        return ENDPOINT if self.conversation is None else f"{ENDPOINT} {{conversation_id}}"


class Making:
    """Makes responses."""

    def __init__(self, client: Client, background: bool) -> None:
        self._client = client
        self._background = background

    def response(self, asked: Asked, given: list[Any], number: int) -> Effects[tuple[Any, str | None]]:
        """A response that has ended, well or not, and the provider's id of the request; `number` counts those of the run.

        Raises:
            ProviderRefused: it was not made, or was lost from sight.
        """
        for _ in range(LOCKED_ATTEMPTS_MAX - 1):
            try:
                return (yield from self._made(asked, given, number))
            except ProviderRefused as refused:
                left = asked.deadline - time.monotonic()
                made = refused.failure.remote_run_id is not None  # it was lost from sight: to ask again would ask twice
                if made or diagnose(refused.failure) is not Cause.THREAD_BUSY or left < POLL_SECONDS:
                    raise
            yield Pause(POLL_SECONDS)  # somebody else is at the conversation, and nothing was done yet
        return (yield from self._made(asked, given, number))

    def _made(self, asked: Asked, given: list[Any], number: int) -> Effects[tuple[Any, str | None]]:
        options = self._options(asked, given)
        if asked.request.stream:
            stream = opened(self._client, lambda sdk: sdk.responses.create(stream=True, **options), asked.left)
            response, request_id = yield from self._heard(asked, stream, number)
        else:
            with calling(asked.endpoint, asked.conversation):
                response = yield call(self._client, lambda sdk: sdk.responses.create(**options))
                present(response.id, response.status)
                len(response.output)
            request_id = response._request_id
        if response.status in UNDER_WAY:
            response = yield from self._awaited(asked, response)
            yield from _tell_the_rest(asked, words_of(response), number)
        return response, request_id

    def _options(self, asked: Asked, given: list[Any]) -> dict[str, Any]:
        request = asked.request
        options: dict[str, Any] = {
            "model": request.model,
            "input": given,
            "metadata": {"exchange_id": request.exchange_id, "run_id": request.run_id},
            "timeout": asked.left,
        }
        if asked.conversation is not None:
            options["conversation"] = asked.conversation
        elif not self._background:
            options["store"] = False
        if self._background:
            options["background"] = True
        if request.profile.instructions:
            options["instructions"] = request.profile.instructions
        if asked.tools:
            options["tools"] = asked.tools
        return options

    def _heard(self, asked: Asked, opening: Call, number: int) -> Effects[tuple[Any, str | None]]:
        """Follow a stream, telling its text, to the response as it was last shown.

        Raises:
            ProviderRefused: it broke, and the response is not one that can be looked at.
        """
        response: Any = None
        request_id: str | None = None
        try:
            with calling(asked.endpoint, asked.conversation):
                stream = yield opening
                request_id = request_id_of(stream)
                try:
                    while (event := (yield next_event(stream))) is not END:
                        kind = str(event.type)
                        if kind == "error":
                            raise ProviderRefused(failure_of_event(event.to_dict(), asked.endpoint, asked.conversation))
                        if kind in {"response.output_text.delta", "response.refusal.delta"} and event.delta:
                            asked.told[number] = asked.told.get(number, "") + event.delta
                            yield Tell(Delta(event.delta, message=number))
                        elif getattr(event, "response", None) is not None:
                            response = event.response
                            present(response.id, response.status)
                        if time.monotonic() > asked.deadline and (response is None or response.status in UNDER_WAY):
                            raise self._too_late(asked, response)
                finally:
                    yield closing(stream)
        except ProviderRefused:
            if not self._background or response is None:
                raise
        except BaseException:
            if self._background and response is not None:
                yield from self._cancelled(response)
            raise
        if response is None or (response.status in UNDER_WAY and not self._background):
            raise ProviderRefused(_broken(asked, response, request_id))
        return response, request_id

    def _awaited(self, asked: Asked, response: Any) -> Effects[Any]:
        """Look at a response in the background until it has ended; cancelled where its time is over or nobody waits."""
        response_id = response.id
        try:
            looks = 0
            while response.status in UNDER_WAY:
                if time.monotonic() > asked.deadline:
                    raise self._too_late(asked, response)
                yield Pause(min(POLL_SECONDS, asked.left))
                try:
                    with calling(RESPONSE, asked.conversation, response_id):
                        seen = yield call(self._client, lambda sdk: sdk.responses.retrieve(response_id))
                        present(seen.id, seen.status)
                    response, looks = seen, 0
                except ProviderRefused as refused:
                    looks += 1
                    if looks == LOOKS_MAX or not may_succeed_when_retried(diagnose(refused.failure)):
                        if asked.conversation is None:
                            raise
                        raise ProviderRefused(left_there(refused.failure)) from refused  # it may end well, unseen
            return response
        except BaseException:
            yield from self._cancelled(response)
            raise

    def _cancelled(self, response: Any) -> Effects[None]:
        try:
            with calling("POST /responses/{response_id}/cancel", None, response.id):
                yield call(self._client, lambda sdk: sdk.responses.cancel(response.id))
        except ProviderRefused:
            pass  # it ends by itself; what it leaves in the thread is found there

    @staticmethod
    def _too_late(asked: Asked, response: Any) -> ProviderRefused:
        message = f"the response had not ended after {round(asked.request.timeout_seconds, 1):g} seconds"
        remote = response.id if response is not None else None
        return ProviderRefused(
            Failure("timed_out", message=message, remote_run_id=remote, thread_id=asked.conversation)
        )


def words_of(response: Any) -> str:
    """The words of a response, those of a refusal among them."""
    words = []
    for item in response.output:
        for part in (item.content or ()) if item.type == "message" else ():
            words.append(part.refusal if part.type == "refusal" else part.text if part.type == "output_text" else "")
    return "".join(words)


def _tell_the_rest(asked: Asked, text: str, number: int) -> Effects[None]:
    """What the stream of a response did not bring of its text, because it broke."""
    told = asked.told.get(number, "")
    if asked.request.stream and text != told and text.startswith(told):
        yield Tell(Delta(text[len(told) :], message=number))


def _broken(asked: Asked, response: Any, request_id: str | None) -> Failure:
    return Failure(
        "error",
        code="stream_broken",
        message="the stream ended before the response did",
        request_id=request_id,
        remote_run_id=response.id if response is not None else None,
        thread_id=asked.conversation,
        details={"endpoint": asked.endpoint},
    )
