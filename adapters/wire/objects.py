"""Build the provider's objects as JSON: assistants, threads, messages, runs, steps, conversations, responses, completions.

The caller passes ids, times (Unix seconds) and values that it has checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .limits import RUN_EXPIRES_AFTER_SECONDS
from .validation import Json

RUN_ENDS = ("completed", "failed", "incomplete", "expired", "cancelled")
"""States in which a run, its steps and a thread's message no longer change."""

UNFINISHED: Json = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
"""Fields of a response that has not ended."""

TIMES_OF_RUN = ("started_at", "cancelled_at", "failed_at", "completed_at")
TIMES_OF_STEP = ("completed_at", "expired_at", "cancelled_at", "failed_at")


def assistant(assistant_id: str, now: int, model: str) -> Json:
    """Return an assistant with the default value of every field."""
    created: Json = {"id": assistant_id, "object": "assistant", "created_at": now}
    created |= {"name": None, "description": None, "model": model, "instructions": None, "tools": [], "metadata": {}}
    return created | {"tool_resources": {}, "temperature": 1.0, "top_p": 1.0, "response_format": "auto"}


def thread(thread_id: str, now: int, metadata: dict[str, str], tool_resources: Json) -> Json:
    """Return a thread."""
    created: Json = {"id": thread_id, "object": "thread", "created_at": now}
    return created | {"metadata": metadata, "tool_resources": tool_resources}


def thread_message(message_id: str, now: int, thread_id: str, role: str, content: list[Json]) -> Json:
    """Return a completed message of a thread."""
    return {
        "id": message_id,
        "object": "thread.message",
        "created_at": now,
        "thread_id": thread_id,
        "status": "completed",
        "completed_at": now,
        "incomplete_at": None,
        "incomplete_details": None,
        "role": role,
        "content": content,
        "assistant_id": None,
        "run_id": None,
        "attachments": [],
        "metadata": {},
    }


def text_part(text: str) -> Json:
    """Return text as a content part of a thread's message."""
    return {"type": "text", "text": {"value": text, "annotations": []}}


def text_of(content: Any) -> str:
    """Return the text of a message's content.

    `content` is a string, or a list of parts of any API (text, input_text, output_text, refusal).
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return " ".join(filter(None, (_part_text(part) for part in content)))


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        return ""
    text = part.get("text", part.get("refusal", ""))
    value = text.get("value", "") if isinstance(text, Mapping) else text
    return value if isinstance(value, str) else ""


def run(
    run_id: str, now: int, thread_id: str, assistant: Json, body: Json, *, instructions: str, tools: list[Json]
) -> Json:
    """Return a queued run.

    `body` is the request; it holds the model and the metadata as the caller has checked them.
    """
    created: Json = {"id": run_id, "object": "thread.run", "created_at": now, "status": "queued"}
    created |= {"thread_id": thread_id, "assistant_id": assistant["id"], "tools": tools}
    created |= {"model": body["model"], "instructions": instructions, "metadata": body["metadata"]}
    created |= {"required_action": None, "last_error": None, "incomplete_details": None, "usage": None}
    created |= {"expires_at": now + RUN_EXPIRES_AFTER_SECONDS, **dict.fromkeys(TIMES_OF_RUN)}
    created |= {name: body.get(name) for name in ("max_prompt_tokens", "max_completion_tokens")}
    created |= {name: body.get(name, assistant[name]) for name in ("temperature", "top_p", "response_format")}
    created["parallel_tool_calls"] = body.get("parallel_tool_calls", True)
    created["tool_choice"] = body.get("tool_choice") or "auto"
    created["truncation_strategy"] = body.get("truncation_strategy") or {"type": "auto", "last_messages": None}
    return created


def run_step(step_id: str, now: int, run: Json, details: Json) -> Json:
    """Return a step in progress; `details` is its `step_details`."""
    step: Json = {"id": step_id, "object": "thread.run.step", "created_at": now}
    step |= {"status": "in_progress", "type": details["type"], "step_details": details, "last_error": None}
    step |= {"metadata": {}, "run_id": run["id"], "usage": None}
    step |= {name: run[name] for name in ("assistant_id", "thread_id")}
    return step | dict.fromkeys(TIMES_OF_STEP)


def required_action(calls: list[Json]) -> Json:
    """Return the `required_action` of a run that waits for the outputs of tool calls."""
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    """Return a call of a function, in the form of runs and chat completions; `arguments` is JSON text."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def search_call(call_id: str, results: list[Json]) -> Json:
    """Return a search of files in a step of a run."""
    ranking = {"ranker": "auto", "score_threshold": 0.0}
    return {"id": call_id, "type": "file_search", "file_search": {"ranking_options": ranking, "results": results}}


def token_usage(prompt: int, completion: int) -> Json:
    """Return the usage of a run or a step."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def conversation(conversation_id: str, now: int, metadata: dict[str, str]) -> Json:
    """Return a conversation."""
    return {"id": conversation_id, "object": "conversation", "created_at": now, "metadata": metadata}


def response(
    response_id: str, now: int, body: Json, *, tools: list[Json], metadata: dict[str, str], conversation_id: str | None
) -> Json:
    """Return a completed response without output; a null in the request means the default."""
    defaults: Json = {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "parallel_tool_calls": True}
    defaults |= {"truncation": "disabled", "service_tier": "default", "text": {"format": {"type": "text"}}}
    defaults |= {"reasoning": {"effort": None, "summary": None}, "store": True, "max_output_tokens": None}
    defaults |= {"max_tool_calls": None, "user": None, "safety_identifier": None, "prompt_cache_key": None}
    created: Json = {"id": response_id, "object": "response", "created_at": now, "status": "completed"}
    created |= {"completed_at": None, "background": bool(body.get("background")), "error": None}
    created |= {"incomplete_details": None, "output": [], "usage": None, "model": body["model"], "tools": tools}
    created |= {"instructions": body.get("instructions"), "metadata": metadata}
    created |= {"previous_response_id": body.get("previous_response_id")}
    created |= {"conversation": {"id": conversation_id} if conversation_id is not None else None}
    return created | {name: default if body.get(name) is None else body[name] for name, default in defaults.items()}


def response_usage(input_tokens: int, output_tokens: int, cached: int = 0, reasoning: int = 0) -> Json:
    """Return the usage of a response; `cached` input and `reasoning` output tokens are part of the totals."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def completion(completion_id: str, now: int, model: str, metadata: dict[str, str]) -> Json:
    """Return a chat completion without its choices and its usage, which are added in this order."""
    created: Json = {"id": completion_id, "object": "chat.completion", "created": now}
    return created | {"model": model, "service_tier": "default", "system_fingerprint": None, "metadata": metadata}


def completion_choice(index: int, text: str, calls: list[Json], reason: str) -> Json:
    """Return a choice of a chat completion: a text, or tool calls without a text."""
    message: Json = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if calls:
        message |= {"content": None, "tool_calls": calls}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def completion_usage(prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> Json:
    """Return the usage of a chat completion; `cached` prompt and `reasoning` tokens are part of the totals."""
    return {
        **token_usage(prompt, completion),
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def stored_message(completion_id: str, index: int, message: Json) -> Json:
    """Return a message that a stored completion was made from."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = text_of(content) if content is not None else None
    shown = {"refusal": None, **message, "content": text, "content_parts": parts}
    return {"id": f"{completion_id}-{index}", **shown}


def model(name: str, created: int, shutdown_date: str | None) -> Json:
    """Return a model; `shutdown_date` is an ISO 8601 date."""
    return {"id": name, "object": "model", "created": created, "owned_by": "system", "shutdown_date": shutdown_date}


def file(file_id: str, now: int, filename: str, size: int, purpose: str, expires_at: int | None) -> Json:
    """Return an uploaded file of `size` bytes."""
    created: Json = {"id": file_id, "object": "file", "bytes": size, "created_at": now, "expires_at": expires_at}
    return created | {"filename": filename, "purpose": purpose, "status": "processed", "status_details": None}


def vector_store(
    store_id: str, now: int, name: str, metadata: dict[str, str], counts: tuple[int, int], size: int, used: int
) -> Json:
    """Return a vector store that does not expire; `counts` are its searchable and its failed files, `size` is in bytes."""
    created: Json = {"id": store_id, "object": "vector_store", "created_at": now, "name": name, "description": None}
    created |= {"usage_bytes": size, "file_counts": file_counts(*counts), "status": "completed"}
    return created | {"expires_after": None, "expires_at": None, "last_active_at": used, "metadata": metadata}


def file_counts(completed: int, failed: int, cancelled: int = 0) -> Json:
    """Return how many files of a vector store are in which state."""
    counts = {"in_progress": 0, "completed": completed, "failed": failed, "cancelled": cancelled}
    return counts | {"total": completed + failed + cancelled}


def store_file(file_id: str, now: int, store_id: str, size: int, attributes: Json, chunking: tuple[int, int]) -> Json:
    """Return a searchable file of a vector store; `size` is that of its text in bytes, `chunking` is in tokens."""
    created: Json = {"id": file_id, "object": "vector_store.file", "created_at": now, "usage_bytes": size}
    created |= {"vector_store_id": store_id, "status": "completed", "last_error": None, "attributes": attributes}
    static = {"max_chunk_size_tokens": chunking[0], "chunk_overlap_tokens": chunking[1]}
    return created | {"chunking_strategy": {"type": "static", "static": static}}


def file_batch(batch_id: str, now: int, store_id: str, counts: tuple[int, int]) -> Json:
    """Return a batch of files of a vector store, all of which are in their last state."""
    created: Json = {"id": batch_id, "object": "vector_store.files_batch", "created_at": now}
    return created | {"vector_store_id": store_id, "status": "completed", "file_counts": file_counts(*counts)}


def search_page(queries: list[str], data: list[Json]) -> Json:
    """Return the results of a search in a vector store: one page has all."""
    found: Json = {"object": "vector_store.search_results.page", "search_query": queries, "data": data}
    return found | {"has_more": False, "next_page": None}


def deletion(identifier: str, kind: str) -> Json:
    """Return the confirmation that an object was deleted; `kind` is such as `thread.deleted`."""
    return {"id": identifier, "object": kind, "deleted": True}
