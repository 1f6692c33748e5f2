"""Produce the events of a response, which can be repeated because they follow from its planned end."""

from collections.abc import Iterator

from .call import Json
from .response_objects import UNDER_WAY
from .store import ResponseRecord
from .streams import pieces

TERMINAL = ("response.completed", "response.failed", "response.incomplete")


def events_of(record: ResponseRecord) -> Iterator[Json]:
    """Yield the events from `response.created` to the end, without sequence numbers.

    A cancelled response has no final event.
    """
    final = record.final if record.final is not None else dict(record.object)
    begun = final | UNDER_WAY | {"output": []}
    if final["background"]:
        yield {"type": "response.created", "response": begun | {"status": "queued"}}
        yield {"type": "response.queued", "response": begun | {"status": "queued"}}
    else:
        yield {"type": "response.created", "response": begun | {"status": "in_progress"}}
    yield {"type": "response.in_progress", "response": begun | {"status": "in_progress"}}
    for index, item in enumerate(final["output"]):
        yield from _message(item, index) if item["type"] == "message" else _function_call(item, index)
    if f"response.{final['status']}" in TERMINAL:
        yield {"type": f"response.{final['status']}", "response": final}


def _message(item: Json, index: int) -> Iterator[Json]:
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    yield _item("added", index, item | {"status": "in_progress", "content": []})
    yield {"type": "response.content_part.added", **where, "part": part | {"text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": part}
    yield _item("done", index, item)


def _function_call(item: Json, index: int) -> Iterator[Json]:
    where = {"item_id": item["id"], "output_index": index}
    yield _item("added", index, item | {"status": "in_progress", "arguments": ""})
    for piece in pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **where, **done}
    yield _item("done", index, item)


def _item(what: str, index: int, item: Json) -> Json:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}
