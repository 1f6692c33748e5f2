"""Stream a chat completion as chunks.

The chunks contain the role, then the text in parts or the tool calls by index, then the end.
"""

from collections.abc import Iterator
from typing import Any

from .call import Json
from .outcomes import Failure
from .store import CompletionRecord, Store
from .streams import DONE, EventStream, frame, pieces


def streamed(store: Store, record: CompletionRecord, options: Json) -> EventStream:
    """Return a completion as a stream of chunks; the provider stores it after the last one."""
    return EventStream("chat", _frames(store, record, options.get("include_usage", False)))


def broken(store: Store, model: str, failure: Failure) -> EventStream:
    """Return a stream that fails after it has started: a chunk with the role, then the error."""
    chunk = _base({"id": store.seeded.short("chatcmpl-"), "created": store.now(), "model": model})
    first = {**chunk, "choices": [_choice(0, {"role": "assistant", "content": ""})]}
    error = {"message": failure.message, "type": "server_error", "param": None, "code": failure.code}
    return EventStream("chat", iter([frame(first), frame({"error": error})]))


def _frames(store: Store, record: CompletionRecord, usage: bool) -> Iterator[bytes]:
    base = _base(record.object)
    if usage:
        base["usage"] = None
    for choice in record.object["choices"]:
        for delta in _deltas(choice["message"]):
            yield frame({**base, "choices": [_choice(choice["index"], delta)]})
        yield frame({**base, "choices": [_choice(choice["index"], {}, choice["finish_reason"])]})
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


def _choice(index: int, delta: Json, reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
