"""Produce the events of a response's stream for each type of output item, from the finished item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .sse import pieces
from .validation import Json


def item_events(item: Json, index: int, partial_images: int = 0) -> Iterator[Json]:
    """Yield the events of the output item at `index`, from `added` to `done`, without sequence numbers.

    `partial_images` is how many earlier forms of a generated image are shown.
    """
    kind = item["type"]
    where = {"item_id": item.get("id", ""), "output_index": index}
    beginning = {name: value for name, value in _BEGINNINGS.get(kind, {}).items() if name != "content" or name in item}
    yield _changed("added", index, item | beginning)
    if kind == "image_generation_call":
        yield from _image(item, where, partial_images)
    elif kind in _WRITERS:
        yield from _WRITERS[kind](item, where)
    yield _changed("done", index, item)


_BEGINNINGS: Mapping[str, Json] = {
    "message": {"status": "in_progress", "content": []},
    "function_call": {"status": "in_progress", "arguments": ""},
    "custom_tool_call": {"input": ""},
    "reasoning": {"summary": [], "content": []},
    "web_search_call": {"status": "in_progress"},
    "file_search_call": {"status": "in_progress", "results": None},
    "code_interpreter_call": {"status": "in_progress", "code": "", "outputs": None},
    "image_generation_call": {"status": "in_progress", "result": None},
    "mcp_call": {"status": "in_progress", "arguments": "", "output": None, "error": None},
    "mcp_list_tools": {"tools": [], "error": None},
}
"""Fields of an item that has just begun, by its type; not each item of a type has a `content`."""


def _changed(change: str, index: int, item: Json) -> Json:
    return {"type": f"response.output_item.{change}", "output_index": index, "item": item}


def _message(item: Json, where: Json) -> Iterator[Json]:
    for number, part in enumerate(item["content"]):
        here = where | {"content_index": number}
        kind = "refusal" if part["type"] == "refusal" else "text"
        empty = {"text": "", "annotations": [], "logprobs": []} if kind == "text" else {"refusal": ""}
        yield {"type": "response.content_part.added", **here, "part": part | empty}
        yield from _text(part, here) if kind == "text" else _refusal(part, here)
        yield {"type": "response.content_part.done", **here, "part": part}


def _text(part: Json, here: Json) -> Iterator[Json]:
    written, logprobs = pieces(part["text"]), part.get("logprobs") or []
    for number, piece in enumerate(written):
        # Each piece has the probability of its token, if there are as many; otherwise the last one has all.
        shown = logprobs[number : number + 1] if len(logprobs) == len(written) else []
        shown = logprobs if number == len(written) - 1 and not shown else shown
        yield {"type": "response.output_text.delta", **here, "delta": piece, "logprobs": shown}
    for number, annotation in enumerate(part.get("annotations") or []):
        added = {"annotation_index": number, "annotation": annotation}
        yield {"type": "response.output_text.annotation.added", **here, **added}
    yield {"type": "response.output_text.done", **here, "text": part["text"], "logprobs": logprobs}


def _refusal(part: Json, here: Json) -> Iterator[Json]:
    for piece in pieces(part["refusal"]):
        yield {"type": "response.refusal.delta", **here, "delta": piece}
    yield {"type": "response.refusal.done", **here, "refusal": part["refusal"]}


def _reasoning(item: Json, where: Json) -> Iterator[Json]:
    for number, part in enumerate(item["summary"]):
        here, event = where | {"summary_index": number}, "response.reasoning_summary"
        yield {"type": f"{event}_part.added", **here, "part": part | {"text": ""}}
        for piece in pieces(part["text"]):
            yield {"type": f"{event}_text.delta", **here, "delta": piece}
        yield {"type": f"{event}_text.done", **here, "text": part["text"]}
        yield {"type": f"{event}_part.done", **here, "part": part}
    for number, part in enumerate(item.get("content") or []):
        here = where | {"content_index": number}
        for piece in pieces(part["text"]):
            yield {"type": "response.reasoning_text.delta", **here, "delta": piece}
        yield {"type": "response.reasoning_text.done", **here, "text": part["text"]}


def _function_call(item: Json, where: Json) -> Iterator[Json]:
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield from _written("response.function_call_arguments", where, item["arguments"], done)


def _custom_call(item: Json, where: Json) -> Iterator[Json]:
    yield from _written("response.custom_tool_call_input", where, item["input"], {"input": item["input"]})


def _written(event: str, where: Json, text: str, done: Json) -> Iterator[Json]:
    for piece in pieces(text):
        yield {"type": f"{event}.delta", **where, "delta": piece}
    yield {"type": f"{event}.done", **where, **done}


def _steps(*names: str) -> Callable[[Json, Json], Iterator[Json]]:
    def write(item: Json, where: Json) -> Iterator[Json]:
        for name in names:
            yield {"type": f"response.{item['type']}.{name}", **where}

    return write


def _code(item: Json, where: Json) -> Iterator[Json]:
    yield {"type": "response.code_interpreter_call.in_progress", **where}
    code = item.get("code") or ""
    yield from _written("response.code_interpreter_call_code", where, code, {"code": code})
    yield {"type": "response.code_interpreter_call.interpreting", **where}
    yield {"type": "response.code_interpreter_call.completed", **where}


def _image(item: Json, where: Json, partial_images: int) -> Iterator[Json]:
    event = "response.image_generation_call"
    yield {"type": f"{event}.in_progress", **where}
    yield {"type": f"{event}.generating", **where}
    for number in range(partial_images):
        shown = {"partial_image_index": number, "partial_image_b64": item["result"] or ""}
        yield {"type": f"{event}.partial_image", **where, **shown}
    yield {"type": f"{event}.completed", **where}


def _remote_call(item: Json, where: Json) -> Iterator[Json]:
    yield {"type": "response.mcp_call.in_progress", **where}
    yield from _written("response.mcp_call_arguments", where, item["arguments"], {"arguments": item["arguments"]})
    yield {"type": f"response.mcp_call.{_end(item)}", **where}


def _remote_tools(item: Json, where: Json) -> Iterator[Json]:
    yield {"type": "response.mcp_list_tools.in_progress", **where}
    yield {"type": f"response.mcp_list_tools.{_end(item)}", **where}


def _end(item: Json) -> str:
    return "failed" if item.get("error") else "completed"


_WRITERS: Mapping[str, Callable[[Json, Json], Iterator[Any]]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "web_search_call": _steps("in_progress", "searching", "completed"),
    "file_search_call": _steps("in_progress", "searching", "completed"),
    "code_interpreter_call": _code,
    "mcp_call": _remote_call,
    "mcp_list_tools": _remote_tools,
}
