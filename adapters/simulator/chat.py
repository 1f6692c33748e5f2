"""Handle /v1/chat/completions: each request is stateless and gets one answer, whole or as a stream."""

from typing import Any

from .answers import Answer, called, echo, first_half, text_of, token_count
from .call import Call, Json
from .chat_messages import checked_messages
from .chat_stream import broken, streamed
from .errors import ApiError, bad_request, wrong_type
from .limits import CHAT_CHOICES_MAX
from .outcomes import Failure, Incomplete
from .store import CompletionRecord, Store
from .streams import EventStream
from .validation import flag, metadata_of, only_known, stream_options, string

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
