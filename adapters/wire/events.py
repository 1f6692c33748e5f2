"""Produce the events of streams: chunks of chat completions, events of responses, and events of runs."""

from __future__ import annotations

from collections.abc import Iterator

from .item_events import item_events
from .objects import UNFINISHED
from .sse import pieces
from .validation import Json

Event = tuple[str, Json]
"""Name and object of an event of a run."""

TERMINAL = ("response.completed", "response.failed", "response.incomplete")
"""Events with which a response ends."""


def completion_chunks(completion: Json, *, usage: bool = False) -> Iterator[Json]:
    """Yield the chunks of a chat completion.

    The chunks of each choice contain the role, then the text in parts or the tool calls by index, then the end. With
    `usage`, one more chunk without choices contains the usage.
    """
    base = _chunk_base(completion)
    if usage:
        base["usage"] = None
    for choice in completion["choices"]:
        logprobs = choice["logprobs"]
        for delta in message_deltas(choice["message"]):
            # The first piece of text has the probabilities of all tokens.
            shown = logprobs if delta.get("content") else None
            logprobs = logprobs if shown is None else None
            yield {**base, "choices": [_chunk_choice(choice["index"], delta, logprobs=shown)]}
        yield {**base, "choices": [_chunk_choice(choice["index"], {}, choice["finish_reason"])]}
    if usage:
        yield usage_chunk(completion)


def first_chunk(completion: Json) -> Json:
    """Return the chunk with the role alone, of a completion of which only `id`, `created` and `model` are known."""
    return {**_chunk_base(completion), "choices": [_chunk_choice(0, {"role": "assistant", "content": ""})]}


def chunk(completion: Json, delta: Json, reason: str | None = None) -> Json:
    """Return a chunk of the first choice of a completion, of which only `id`, `created` and `model` are needed."""
    return {**_chunk_base(completion), "choices": [_chunk_choice(0, delta, reason)]}


def usage_chunk(completion: Json) -> Json:
    """Return the chunk with the usage of a completion, which comes last."""
    return {**_chunk_base(completion), "choices": [], "usage": completion["usage"]}


def message_deltas(message: Json) -> Iterator[Json]:
    """Yield the parts of a message: the role, then texts, sound and annotations, and the calls."""
    calls = message.get("tool_calls")
    if not calls:
        yield {"role": "assistant", "content": "", "refusal": None}
    else:
        yield {"role": "assistant", "content": None}
    yield from ({"content": piece} for piece in pieces(message["content"] or ""))
    yield from ({"refusal": piece} for piece in pieces(message.get("refusal") or ""))
    yield from _audio_deltas(message.get("audio") or {})
    if message.get("annotations"):
        yield {"annotations": message["annotations"]}
    for index, call in enumerate(calls or []):
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [begun]}
        for piece in pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _audio_deltas(audio: Json) -> Iterator[Json]:
    """Yield a sound in parts: its id, the transcript, the data, and when it expires."""
    if audio:
        yield {"audio": {"id": audio["id"], "transcript": ""}}
        yield from ({"audio": {"transcript": piece}} for piece in pieces(audio["transcript"]))
        yield from ({"audio": {"data": piece}} for piece in pieces(audio["data"]))
        yield {"audio": {"expires_at": audio["expires_at"]}}


def _chunk_base(completion: Json) -> Json:
    same = {name: completion[name] for name in ("id", "created", "model")}
    return {**same, "object": "chat.completion.chunk", "service_tier": "default", "system_fingerprint": None}


def _chunk_choice(index: int, delta: Json, reason: str | None = None, logprobs: Json | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def response_events(final: Json) -> Iterator[Json]:
    """Yield the events of a response from `response.created` to the end, without sequence numbers.

    `final` is the response as it ends. The events follow from it, so they can be produced again for another reader. A
    cancelled response has no final event.
    """
    begun = final | UNFINISHED | {"output": []}
    if final["background"]:
        yield {"type": "response.created", "response": begun | {"status": "queued"}}
        yield {"type": "response.queued", "response": begun | {"status": "queued"}}
    else:
        yield {"type": "response.created", "response": begun | {"status": "in_progress"}}
    yield {"type": "response.in_progress", "response": begun | {"status": "in_progress"}}
    partial_images = sum(int(tool.get("partial_images") or 0) for tool in final["tools"])
    for index, item in enumerate(final["output"]):
        yield from item_events(item, index, partial_images)
    if f"response.{final['status']}" in TERMINAL:
        yield {"type": f"response.{final['status']}", "response": final}


def message_delta(message_id: str, piece: str) -> Event:
    """Return the event that adds a piece of text to a thread's message."""
    delta = {"content": [{"index": 0, "type": "text", "text": {"value": piece, "annotations": []}}]}
    return "thread.message.delta", {"id": message_id, "object": "thread.message.delta", "delta": delta}


def tool_step_events(step: Json) -> Iterator[Event]:
    """Yield the events of a new step with tool calls: the empty step, then each call and its arguments in parts."""
    empty = step | {"step_details": {"type": "tool_calls", "tool_calls": []}}
    yield "thread.run.step.created", empty
    yield "thread.run.step.in_progress", empty
    for index, call in enumerate(step["step_details"]["tool_calls"]):
        if "function" not in call:  # the server has carried it out
            yield _step_delta(step["id"], {**call, "index": index})
            continue
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield _step_delta(step["id"], begun)
        for piece in pieces(call["function"]["arguments"]):
            yield _step_delta(step["id"], {"index": index, "type": "function", "function": {"arguments": piece}})


def _step_delta(step_id: str, call: Json) -> Event:
    delta = {"step_details": {"type": "tool_calls", "tool_calls": [call]}}
    return "thread.run.step.delta", {"id": step_id, "object": "thread.run.step.delta", "delta": delta}
