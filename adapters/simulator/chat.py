"""Handle /v1/chat/completions: each request is stateless and gets one answer, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .answers import Answer, Failure, Incomplete, called, echo, first_half, text_of, token_count
from .call import Call, Json
from .errors import (
    CHAT_CHOICES_MAX,
    CHAT_ROLES,
    ApiError,
    bad_request,
    empty_array,
    json_kind,
    missing,
    not_found,
    wrong_type,
)
from .pages import page
from .store import CompletionRecord, Store
from .streams import DONE, EventStream, frame, pieces
from .validation import an_object, array, flag, metadata_of, one_of, only_known, required_string, stream_options, string

FIELDS = (
    "metadata", "top_logprobs", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "messages", "model", "service_tier", "modalities", "verbosity",
    "reasoning_effort", "max_completion_tokens", "frequency_penalty", "presence_penalty", "web_search_options",
    "response_format", "audio", "store", "moderation", "stream", "stop", "logit_bias", "logprobs", "max_tokens", "n",
    "prediction", "seed", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "function_call", "functions",
)  # fmt: skip


def create(store: Store, call: Call) -> Json | EventStream:
    """Create a chat completion (POST /chat/completions)."""
    body = call.body
    only_known(body, FIELDS)
    if body.get("model") is None:
        raise bad_request("you must provide a model parameter")
    model = store.accept_model(string(body["model"], "model"))
    metadata, stream = metadata_of(body), flag(body, "stream")
    options = stream_options(body, ("include_usage", "include_obfuscation"))
    messages = checked_messages(body.get("messages"))
    choices = _choice_count(body.get("n"))
    if isinstance(call.outcome, Failure):
        if stream:
            return broken(store, model, call.outcome)
        raise ApiError(500, call.outcome.message, kind="server_error", code=call.outcome.code)
    answer, reason = _answer(store, call, messages)
    completion: Json = {"id": store.seeded.short("chatcmpl-"), "object": "chat.completion", "created": store.now()}
    completion |= {"model": model, "service_tier": "default", "system_fingerprint": None, "metadata": metadata}
    completion["choices"] = [_choice(store, index, answer, reason) for index in range(choices)]
    completion["usage"] = _usage(messages, answer, choices)
    record = CompletionRecord(completion, messages, flag(body, "store"))
    if stream:
        return streamed(store, record, options)
    store.remember(record)
    return completion


def _answer(store: Store, call: Call, messages: list[Json]) -> tuple[Answer, str]:
    asked = next((text_of(m.get("content")) for m in reversed(messages) if m["role"] == "user"), "")
    if isinstance(call.outcome, Incomplete):
        finish = "content_filter" if call.outcome.reason == "content_filter" else "length"
        return Answer(first_half(echo(asked).text)), finish
    answer = store.answers.next(asked)
    return answer, "tool_calls" if answer.tool_calls else "stop"


def _choice(store: Store, index: int, answer: Answer, reason: str) -> Json:
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.tool_calls:
        message["content"] = None
        message["tool_calls"] = [called(store.seeded, wanted) for wanted in answer.tool_calls]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def _choice_count(value: Any) -> int:
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type("n", "an integer", value)
    if not 1 <= value <= CHAT_CHOICES_MAX:
        message = f"Invalid 'n': expected an integer from 1 to {CHAT_CHOICES_MAX}, but got {value} instead."
        raise bad_request(message, "n", "invalid_value")
    return value


def _usage(messages: list[Json], answer: Answer, choices: int) -> Json:
    prompt = sum(token_count(text_of(message.get("content"))) for message in messages)
    said = token_count(answer.text) + sum(token_count(f"{c.name} {c.arguments}") for c in answer.tool_calls)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said * choices,
        "total_tokens": prompt + said * choices,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def checked_messages(value: Any) -> list[Json]:
    """Return `value` if it is one or more messages in which every tool call is followed by its result."""
    if value is None:
        raise missing("messages")
    messages = array(value, "messages")
    if not messages:
        raise empty_array("messages")
    for index, message in enumerate(messages):
        _check(an_object(message, f"messages[{index}]"), index)
    _check_pairs(messages)
    return messages


def _check(message: Json, index: int) -> None:
    where = f"messages[{index}]"
    role = one_of(required_string(message, "role", f"{where}.role"), f"{where}.role", CHAT_ROLES)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        text = "Missing parameter 'tool_call_id': messages with role 'tool' must have a 'tool_call_id'."
        raise bad_request(text, f"messages.[{index}].tool_call_id")
    calls = message.get("tool_calls")
    if calls is not None:
        for position, call in enumerate(array(calls, f"{where}.tool_calls")):
            _check_call(an_object(call, f"{where}.tool_calls[{position}]"), f"{where}.tool_calls[{position}]")
    content = message.get("content")
    if content is None and role == "assistant" and (calls or message.get("function_call")):
        return
    if not isinstance(content, str | list):
        text = f"Invalid value for 'content': expected a string, got {json_kind(content).rpartition(' ')[2]}."
        raise bad_request(text, f"messages.[{index}].content")


def _check_call(call: Json, where: str) -> None:
    required_string(call, "id", f"{where}.id")
    function = an_object(call.get("function"), f"{where}.function")
    required_string(function, "name", f"{where}.function.name")
    required_string(function, "arguments", f"{where}.function.arguments")


def _check_pairs(messages: list[Json]) -> None:
    waiting: list[str] = []  # calls of the last assistant message that have no result yet
    known: set[str] = set()  # calls that a tool message may answer at this point
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in known:
                # The provider spells it "preceeding".
                text = (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'."
                )
                raise bad_request(text, f"messages.[{index}].role")
            waiting = [call_id for call_id in waiting if call_id != message["tool_call_id"]]
            continue
        _require_answered(waiting)
        waiting = [call["id"] for call in message.get("tool_calls") or []]
        known = set(waiting)
    _require_answered(waiting)


def _require_answered(waiting: list[str]) -> None:
    if waiting:
        raise bad_request(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            "messages",
        )


def list_(store: Store, call: Call) -> Json:
    """Return a page of stored completions (GET /chat/completions), oldest first unless the query sets `order`."""
    model = call.query.get("model")
    kept = (record.object for record in store.completions.values() if record.kept)
    chosen = (made for made in kept if model is None or made["model"] == model)
    return page(chosen, {"order": "asc", **call.query})


def retrieve(store: Store, call: Call) -> Json:
    """Return a stored completion (GET /chat/completions/{completion_id})."""
    return _find(store, call).object


def modify(store: Store, call: Call) -> Json:
    """Replace the metadata of a stored completion (POST /chat/completions/{completion_id})."""
    record = _find(store, call)
    only_known(call.body, ("metadata",))
    record.object["metadata"] = metadata_of(call.body)
    return record.object


def delete(store: Store, call: Call) -> Json:
    """Delete a stored completion (DELETE /chat/completions/{completion_id})."""
    completion_id = _find(store, call).object["id"]
    del store.completions[completion_id]
    return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}


def list_messages(store: Store, call: Call) -> Json:
    """Return the messages that the model was given (GET /chat/completions/{completion_id}/messages)."""
    record = _find(store, call)
    return page((_shown(record, index) for index in range(len(record.messages))), {"order": "asc", **call.query})


def _shown(record: CompletionRecord, index: int) -> Json:
    given = record.messages[index]
    content = given.get("content")
    parts = content if isinstance(content, list) else None
    text = text_of(content) if content is not None else None
    shown = {"refusal": None, **given, "content": text, "content_parts": parts}
    return {"id": f"{record.object['id']}-{index}", **shown}


def _find(store: Store, call: Call) -> CompletionRecord:
    found = store.completions.get(call.ids["completion_id"])
    if found is None or not found.kept:
        raise not_found("Chat completion", call.ids["completion_id"])
    return found


def streamed(store: Store, record: CompletionRecord, options: Json) -> EventStream:
    """Return a completion as a stream of chunks; the provider stores it after the last one."""
    return EventStream("chat", _frames(store, record, options.get("include_usage", False)))


def broken(store: Store, model: str, failure: Failure) -> EventStream:
    """Return a stream that fails after it has started: a chunk with the role, then the error."""
    chunk = _base({"id": store.seeded.short("chatcmpl-"), "created": store.now(), "model": model})
    first = {**chunk, "choices": [_chunk_choice(0, {"role": "assistant", "content": ""})]}
    error = {"message": failure.message, "type": "server_error", "param": None, "code": failure.code}
    return EventStream("chat", iter([frame(first), frame({"error": error})]))


def _frames(store: Store, record: CompletionRecord, usage: bool) -> Iterator[bytes]:
    base = _base(record.object)
    if usage:
        base["usage"] = None
    for choice in record.object["choices"]:
        for delta in _deltas(choice["message"]):
            yield frame({**base, "choices": [_chunk_choice(choice["index"], delta)]})
        yield frame({**base, "choices": [_chunk_choice(choice["index"], {}, choice["finish_reason"])]})
    if usage:
        yield frame({**base, "choices": [], "usage": record.object["usage"]})
    store.remember(record)
    yield frame(DONE)


def _deltas(message: Json) -> Iterator[Json]:
    calls = message.get("tool_calls")
    if not calls:
        yield {"role": "assistant", "content": "", "refusal": None}
        yield from ({"content": piece} for piece in pieces(message["content"]))
        return
    yield {"role": "assistant", "content": None}
    for index, call in enumerate(calls):
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [begun]}
        for piece in pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _base(completion: Json) -> Json:
    same = {name: completion[name] for name in ("id", "created", "model")}
    return {**same, "object": "chat.completion.chunk", "service_tier": "default", "system_fingerprint": None}


def _chunk_choice(index: int, delta: Json, reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
