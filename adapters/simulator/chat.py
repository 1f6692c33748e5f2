"""Handle /v1/chat/completions: each request is stateless and gets one answer, whole or as a stream.

Completions that were created with `store: true` can be read, changed and deleted later.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..wire import ApiError, EventStream, Json, bodies, errors, events, objects, options, pages, sse, validation
from . import outputs
from .answers import (
    ScriptedAnswer,
    ScriptedFailure,
    ScriptedIncompletion,
    answer_usage,
    call_of,
    echo,
    first_half,
    token_count,
)
from .limits import AUDIO_SECONDS
from .requests import SimulatedCall
from .store import ProviderStore, SimulatedCompletion


def create(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
    """Create a chat completion (POST /chat/completions)."""
    body = call.body
    call.refuse_unknown_fields()
    if body.get("model") is None:
        raise errors.bad_request("you must provide a model parameter")
    model = store.accept_model(validation.string(body["model"], "model"))
    metadata, stream = validation.metadata_of(body), validation.flag(body, "stream")
    streaming = validation.stream_options(body, ("include_usage", "include_obfuscation"))
    messages, choices = bodies.chat_messages(body), bodies.chat_choices(body)
    options.check_chat_options(body, messages)
    store.require_files(messages, "messages")
    if isinstance(call.outcome, ScriptedFailure):
        if stream:
            return failing_stream(store, model, call.outcome)
        raise ApiError(500, call.outcome.message, kind="server_error", code=call.outcome.code)
    answer, reason = _next_answer(store, call, messages, options.chat_format(body))
    completion = objects.completion(store.ids.short("chatcmpl-"), store.now(), model, metadata)
    completion["choices"] = [_choice(store, index, answer, reason) for index in range(choices)]
    completion["usage"] = _usage(messages, answer, choices)
    record = SimulatedCompletion(completion, messages, validation.flag(body, "store"))
    if stream:
        return completion_stream(store, record, streaming)
    store.remember(record)
    return completion


def _next_answer(
    store: ProviderStore, call: SimulatedCall, messages: list[Json], wanted: Json
) -> tuple[ScriptedAnswer, str]:
    questions = (objects.text_of(m.get("content")) for m in reversed(messages) if m["role"] == "user")
    question = next(questions, "")
    if isinstance(call.outcome, ScriptedIncompletion):
        finish = "content_filter" if call.outcome.reason == "content_filter" else "length"
        return ScriptedAnswer(first_half(echo(question).text)), finish
    answer = store.answers.next(question, wanted)
    return answer, "tool_calls" if answer.tool_calls else "stop"


def _choice(store: ProviderStore, index: int, answer: ScriptedAnswer, reason: str) -> Json:
    calls = [call_of(store.ids, scripted) for scripted in answer.tool_calls]
    choice = objects.completion_choice(index, answer.text, calls, reason)
    if answer.output:
        choice["message"], choice["logprobs"] = outputs.chat_message(answer.output, choice["message"])
    if answer.audio is not None:
        expires = store.now() + AUDIO_SECONDS
        choice["message"] |= {
            "content": None,
            "audio": {"id": store.ids.short("audio_"), "expires_at": expires, **answer.audio},
        }
    return choice


def _usage(messages: list[Json], answer: ScriptedAnswer, choices: int) -> Json:
    prompt = sum(token_count(objects.text_of(message.get("content"))) for message in messages)
    written = token_count(answer.text) + sum(token_count(f"{c.name} {c.arguments}") for c in answer.tool_calls)
    return objects.completion_usage(*answer_usage(answer, prompt, written * choices))


def list_(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of stored completions (GET /chat/completions), oldest first unless the query sets `order`."""
    model = call.query.get("model")
    kept = (record.object for record in store.completions.values() if record.kept)
    chosen = (completion for completion in kept if model is None or completion["model"] == model)
    return pages.page(chosen, {"order": "asc", **call.query})


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a stored completion (GET /chat/completions/{completion_id})."""
    return _find(store, call).object


def modify(store: ProviderStore, call: SimulatedCall) -> Json:
    """Replace the metadata of a stored completion (POST /chat/completions/{completion_id})."""
    record = _find(store, call)
    call.refuse_unknown_fields()
    record.object["metadata"] = validation.metadata_of(call.body)
    return record.object


def delete(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete a stored completion (DELETE /chat/completions/{completion_id})."""
    completion_id = _find(store, call).object["id"]
    del store.completions[completion_id]
    return objects.deletion(completion_id, "chat.completion.deleted")


def list_messages(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return the messages that the model was given (GET /chat/completions/{completion_id}/messages)."""
    record = _find(store, call)
    completion_id = record.object["id"]
    shown = (objects.stored_message(completion_id, index, given) for index, given in enumerate(record.messages))
    return pages.page(shown, {"order": "asc", **call.query})


def _find(store: ProviderStore, call: SimulatedCall) -> SimulatedCompletion:
    found = store.completions.get(call.ids["completion_id"])
    if found is None or not found.kept:
        raise errors.not_found("Chat completion", call.ids["completion_id"])
    return found


def completion_stream(store: ProviderStore, record: SimulatedCompletion, streaming: Json) -> EventStream:
    """Return a completion as a stream of chunks; the provider stores it after the last one."""
    return EventStream("chat", _frames(store, record, usage=streaming.get("include_usage", False)))


def failing_stream(store: ProviderStore, model: str, failure: ScriptedFailure) -> EventStream:
    """Return a stream that fails after it has started: a chunk with the role, then the error."""
    first = events.first_chunk({"id": store.ids.short("chatcmpl-"), "created": store.now(), "model": model})
    error = {"message": failure.message, "type": "server_error", "param": None, "code": failure.code}
    return EventStream("chat", iter([sse.frame(first), sse.frame({"error": error})]))


def _frames(store: ProviderStore, record: SimulatedCompletion, *, usage: bool) -> Iterator[bytes]:
    for chunk in events.completion_chunks(record.object, usage=usage):
        yield sse.frame(chunk)
    store.remember(record)
    yield sse.frame(sse.DONE)
