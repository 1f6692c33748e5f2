"""Handle /v1/messages, Anthropic's Messages API: each request is stateless and gets one answer, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator

from ..wire import ApiError, EventStream, Json, messages_api, sse, validation
from .answers import ScriptedAnswer, ScriptedFailure, ScriptedIncompletion, echo, first_half, token_count
from .requests import SimulatedCall
from .store import ProviderStore

STREAM = "messages"
"""The form of an error in a stream of this API."""


def create(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
    """Create a message (POST /messages)."""
    body = call.body
    messages_api.check_request(body)
    model = _accepted(store, validation.string(body["model"], "model"))
    stream = validation.flag(body, "stream")
    if isinstance(call.outcome, ScriptedFailure):
        if not stream:
            raise ApiError(500, call.outcome.message, kind="api_error")
        return EventStream(STREAM, iter(list(_failing(store, model, call.outcome))))
    answer, reason = _next_answer(store, call, body)
    content = [messages_api.text_block(answer.text)] if answer.text else []
    content += [
        messages_api.use_block(store.ids.short("toolu_"), each.name, each.arguments) for each in answer.tool_calls
    ]
    written = token_count(answer.text) + sum(token_count(f"{each.name} {each.arguments}") for each in answer.tool_calls)
    usage = {"input_tokens": token_count(_text_of(body)), "output_tokens": written}
    message = messages_api.reply(store.ids.short("msg_"), model, content, reason, usage)
    return EventStream(STREAM, messages_api.reply_frames(message)) if stream else message


def _next_answer(store: ProviderStore, call: SimulatedCall, body: Json) -> tuple[ScriptedAnswer, str]:
    question = _question(body)
    if isinstance(call.outcome, ScriptedIncompletion):
        reason = "refusal" if call.outcome.reason == "content_filter" else "max_tokens"
        return ScriptedAnswer(first_half(echo(question).text)), reason
    answer = store.answers.next(question)
    return answer, "tool_use" if answer.tool_calls else "end_turn"


def _question(body: Json) -> str:
    """Return the last text of the user."""
    for message in reversed(body["messages"]):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        if message["role"] == "user" and texts:
            return str(texts[-1])
    return ""


def _text_of(body: Json) -> str:
    """Return the texts of a request, joined."""
    texts = [body["system"]] if isinstance(body.get("system"), str) else []
    for message in body["messages"]:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [block.get("text", "") for block in content]
    return " ".join(texts)


def _accepted(store: ProviderStore, model: str) -> str:
    try:
        return store.accept_model(model)
    except ApiError as refusal:
        raise ApiError(404, f"model: {model}", kind="not_found_error") from refusal


def _failing(store: ProviderStore, model: str, failure: ScriptedFailure) -> Iterator[bytes]:
    message = messages_api.reply(
        store.ids.short("msg_"), model, [], "end_turn", {"input_tokens": 1, "output_tokens": 1}
    )
    yield next(messages_api.reply_frames(message))
    yield sse.error_frame(STREAM, failure.code, failure.message)
